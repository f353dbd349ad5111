//! Pipeline options as they travel in the Job API: a `Struct` of `beam:option:NAME:v1` keys.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

/// The options of one job. A value may be a JSON string where a number is meant: the Python client
/// sends its integers so.
#[derive(Clone, Debug, Default)]
pub struct PipelineOptions {
    all: Struct,
}

impl PipelineOptions {
    pub fn new(all: Struct) -> Self {
        Self { all }
    }

    /// All options, to be handed on to workers unchanged.
    pub fn as_struct(&self) -> &Struct {
        &self.all
    }

    /// The option `name`, be it spelled as a URN or bare.
    pub fn get(&self, name: &str) -> Option<&Kind> {
        let urn = format!("beam:option:{name}:v1");
        let value = self.all.fields.get(&urn).or_else(|| self.all.fields.get(name))?;
        value.kind.as_ref().filter(|kind| !matches!(kind, Kind::NullValue(_)))
    }

    pub fn string(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Kind::StringValue(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The option as a whole number; an error says what was given instead.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Kind::NumberValue(number)) if number.fract() == 0.0 => Ok(Some(*number as i64)),
            Some(Kind::StringValue(text)) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| format!("pipeline option --{name} wants a whole number, not {text:?}")),
            Some(other) => Err(format!("pipeline option --{name} wants a whole number, not {other:?}")),
        }
    }

    /// The options with one more of the experiments, which are a list of names.
    #[must_use]
    pub fn with_experiment(&self, name: &str) -> Self {
        const NAME: &str = "experiments";
        let string = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let mut values = match self.get(NAME) {
            Some(Kind::ListValue(list)) => list.values.clone(),
            Some(Kind::StringValue(one)) => vec![string(one)],
            _ => Vec::new(),
        };
        let new = string(name);
        if !values.contains(&new) {
            values.push(new);
        }
        let mut all = self.all.clone();
        all.fields.remove(NAME);
        let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        all.fields.insert(format!("beam:option:{NAME}:v1"), list);
        Self { all }
    }

    pub fn boolean(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Kind::BoolValue(value)) => *value,
            Some(Kind::StringValue(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(value: &Value) -> &str {
        match &value.kind {
            Some(Kind::StringValue(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    fn experiments(options: &PipelineOptions) -> Vec<&str> {
        let Some(Kind::ListValue(list)) = options.get("experiments") else { panic!("{options:?}") };
        list.values.iter().map(name_of).collect()
    }

    #[test]
    fn an_experiment_comes_after_those_that_are_there() {
        let none = PipelineOptions::default().with_experiment("a");
        assert_eq!(experiments(&none), ["a"]);
        assert_eq!(experiments(&none.with_experiment("b").with_experiment("a")), ["a", "b"]);
        let mut bare = Struct::default();
        let one = Value { kind: Some(Kind::StringValue("a".to_owned())) };
        bare.fields.insert("experiments".to_owned(), one);
        let both = PipelineOptions::new(bare).with_experiment("b");
        assert_eq!(experiments(&both), ["a", "b"]);
        assert_eq!(both.as_struct().fields.len(), 1);
    }
}

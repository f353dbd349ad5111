//! Pipeline options as they travel in the Job API: a `Struct` of `beam:option:NAME:v1` keys.

use prost_types::{Struct, value::Kind};

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

    pub fn boolean(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Kind::BoolValue(value)) => *value,
            Some(Kind::StringValue(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }
}

//! Coders as elements travel with them: what the runner does not know is length-prefixed, so that it
//! can find the end of every element without the SDK's help.

use std::collections::{BTreeMap, HashMap};

use beam_model::coders::Coder;
use beam_model::pipeline::{self, FunctionSpec};
use beam_model::urns::standard_coders as urns;

use crate::fault::Fault;

/// A pipeline's coders, and those added for the wire.
pub struct WireCoders {
    coders: BTreeMap<String, pipeline::Coder>,
    wire: HashMap<String, String>,
}

impl WireCoders {
    pub fn new(coders: &BTreeMap<String, pipeline::Coder>) -> Self {
        Self { coders: coders.clone(), wire: HashMap::new() }
    }

    pub fn all(&self) -> &BTreeMap<String, pipeline::Coder> {
        &self.coders
    }

    /// The id of the coder with which elements of coder `id` travel.
    pub fn wire(&mut self, id: &str) -> Result<String, Fault> {
        if let Some(known) = self.wire.get(id) {
            return Ok(known.clone());
        }
        let coder = self
            .coders
            .get(id)
            .cloned()
            .ok_or_else(|| Fault::runner(format!("coder {id:?} is not in the pipeline")))?;
        let wire = match coder.spec.as_ref().map_or("", |spec| spec.urn.as_str()) {
            // What follows the prefix is the SDK's own affair.
            urns::LENGTH_PREFIX => id.to_owned(),
            urns::WINDOWED_VALUE | urns::PARAM_WINDOWED_VALUE => self.prefixed(id),
            urns::KV
            | urns::ITERABLE
            | urns::STATE_BACKED_ITERABLE
            | urns::TIMER
            | urns::CUSTOM_WINDOW
            | urns::SHARDED_KEY
            | urns::NULLABLE => self.with_wire_components(id, &coder)?,
            urns::BYTES
            | urns::STRING_UTF8
            | urns::BOOL
            | urns::VARINT
            | urns::DOUBLE
            | urns::INTERVAL_WINDOW
            | urns::GLOBAL_WINDOW
            | urns::ROW => id.to_owned(),
            _ => self.prefixed(id),
        };
        let knows = Coder::from_proto(&wire, &self.coders).is_ok_and(|coder| coder.is_skippable());
        let wire = if knows { wire } else { self.prefixed(id) };
        self.wire.insert(id.to_owned(), wire.clone());
        Ok(wire)
    }

    fn with_wire_components(&mut self, id: &str, coder: &pipeline::Coder) -> Result<String, Fault> {
        let mut components = Vec::new();
        for component in &coder.component_coder_ids {
            components.push(self.wire(component)?);
        }
        if components == coder.component_coder_ids {
            return Ok(id.to_owned());
        }
        Ok(self
            .add(&format!("{id}_wire"), pipeline::Coder { component_coder_ids: components, ..coder.clone() }))
    }

    fn prefixed(&mut self, id: &str) -> String {
        self.add_standard(&format!("{id}_prefixed"), urns::LENGTH_PREFIX, &[id])
    }

    /// The coder that a worker is told of for elements that stay with it. Java's take a coder of windowed values for that
    /// of the values alone, as if it were a port's, unless something is around it.
    pub fn within_worker(&mut self, id: &str) -> String {
        let windowed = [urns::WINDOWED_VALUE, urns::PARAM_WINDOWED_VALUE];
        match windowed.iter().any(|urn| self.components(id, urn).is_some()) {
            true => self.prefixed(id),
            false => id.to_owned(),
        }
    }

    /// For a coder of groups whose values may be tokens, that of groups with all of their values; else the same.
    pub fn without_tokens(&mut self, id: &str) -> String {
        let Some([key, values]) = self.components(id, urns::KV) else { return id.to_owned() };
        let Some([value]) = self.components(values, urns::STATE_BACKED_ITERABLE) else {
            return id.to_owned();
        };
        let (key, values, value) = (key.clone(), format!("{values}_whole"), value.clone());
        let values = self.add_standard(&values, urns::ITERABLE, &[&value]);
        self.add_standard(&format!("{id}_whole"), urns::KV, &[&key, &values])
    }

    /// Of a coder with this URN.
    fn components(&self, id: &str, urn: &str) -> Option<&[String]> {
        let coder = self.coders.get(id)?;
        coder.spec.as_ref().is_some_and(|spec| spec.urn == urn).then_some(&coder.component_coder_ids)
    }

    /// The id of the coder of windowed values of wire coder `element` in windows of wire coder `window`.
    pub fn windowed(&mut self, element: &str, window: &str) -> String {
        self.add_standard(&format!("{element}_windowed_{window}"), urns::WINDOWED_VALUE, &[element, window])
    }

    pub fn add_standard(&mut self, hint: &str, urn: &str, components: &[&str]) -> String {
        let coder = pipeline::Coder {
            spec: Some(FunctionSpec { urn: urn.to_owned(), payload: Default::default() }),
            component_coder_ids: components.iter().map(|id| (*id).to_owned()).collect(),
        };
        self.add(hint, coder)
    }

    fn add(&mut self, hint: &str, coder: pipeline::Coder) -> String {
        let mut id = hint.to_owned();
        while self.coders.get(&id).is_some_and(|taken| *taken != coder) {
            id.push('_');
        }
        self.coders.insert(id.clone(), coder);
        id
    }

    /// The runner's own view of a coder.
    pub fn resolve(&self, id: &str) -> Result<Coder, Fault> {
        Coder::from_proto(id, &self.coders).map_err(|error| Fault::runner(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_coders() -> WireCoders {
        let mut wire = WireCoders::new(&BTreeMap::new());
        wire.add_standard("string", urns::STRING_UTF8, &[]);
        wire.add_standard("global", urns::GLOBAL_WINDOW, &[]);
        wire.add_standard("windowed", urns::WINDOWED_VALUE, &["string", "global"]);
        wire.add_standard("java", "beam:coders:javasdk:0.1", &[]);
        wire.add_standard("kv", urns::KV, &["java", "string"]);
        wire
    }

    /// The Java SDK leaves it to the runner to prefix what is its own, keys too.
    #[test]
    fn what_only_the_sdk_knows_is_prefixed_wherever_it_is() {
        let mut wire = wire_coders();
        let kv = wire.wire("kv").unwrap();
        let Coder::Kv(key, value) = wire.resolve(&kv).unwrap() else { panic!("{kv} is no KV") };
        assert!(matches!(*key, Coder::LengthPrefix(_)), "{key:?}");
        assert_eq!(*value, Coder::StringUtf8);
        assert_eq!(wire.within_worker("kv"), "kv");
    }

    /// Elements that are windowed values, as `Create.windowedValues` makes them.
    #[test]
    fn windowed_values_as_elements_are_prefixed_on_the_wire_and_within_workers() {
        let mut wire = wire_coders();
        let on_the_wire = wire.wire("windowed").unwrap();
        assert!(matches!(wire.resolve(&on_the_wire).unwrap(), Coder::LengthPrefix(_)));
        assert_eq!(wire.within_worker("windowed"), on_the_wire);
        assert_eq!(wire.within_worker("string"), "string");
        assert_eq!(wire.without_tokens("kv"), "kv");
    }
}

//! From the coder table of a pipeline to a tree of coders.

use std::collections::BTreeMap;

use prost::Message;

use super::windowed_value::read_header;
use super::{Coder, CoderError, RowSchema};
use crate::pipeline;
use crate::urns::standard_coders as urns;

/// Components nested deeper than this are refused: the table has a cycle, or reading would exhaust
/// the stack.
const MAX_DEPTH: usize = 64;

/// A coder that, with all its components, has more parts than this is refused: a short table in which
/// coders share components can stand for an exponentially big tree.
const MAX_PARTS: usize = 10_000;

impl Coder {
    /// Resolves the coder `id` in `coders`, the `Components.coders` of a pipeline.
    ///
    /// A coder with a URN that is not standard becomes [`Coder::Opaque`], and its components are
    /// not looked at. So does `beam:coder:schema:v1`, which names functions of the SDK.
    ///
    /// # Errors
    /// If the coder or a component of it is not in the table, contains itself, has the wrong number
    /// of components, or has a payload that is malformed. The error names the coder's id and URN.
    pub fn from_proto(id: &str, coders: &BTreeMap<String, pipeline::Coder>) -> Result<Self, CoderError> {
        Resolver { coders, parts: 0 }.resolve(id, 0)
    }
}

struct Resolver<'a> {
    coders: &'a BTreeMap<String, pipeline::Coder>,
    /// Coders made so far.
    parts: usize,
}

/// The coder that is being resolved.
#[derive(Clone, Copy)]
struct Site<'a> {
    id: &'a str,
    urn: &'a str,
    payload: &'a bytes::Bytes,
    components: &'a [String],
    depth: usize,
}

impl<'a> Resolver<'a> {
    fn resolve(&mut self, id: &str, depth: usize) -> Result<Coder, CoderError> {
        let (id, proto) =
            self.coders.get_key_value(id).ok_or_else(|| CoderError::Missing { id: id.into() })?;
        let spec = proto.spec.as_ref().ok_or_else(|| CoderError::NoSpec { id: id.as_str().into() })?;
        let site = Site {
            id,
            urn: &spec.urn,
            payload: &spec.payload,
            components: &proto.component_coder_ids,
            depth,
        };
        if depth > MAX_DEPTH {
            return Err(CoderError::TooDeep { id: site.id.into(), urn: site.urn.into(), limit: MAX_DEPTH });
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(CoderError::TooBig { id: site.id.into(), urn: site.urn.into(), limit: MAX_PARTS });
        }
        self.standard(site)
    }

    fn standard(&mut self, site: Site<'a>) -> Result<Coder, CoderError> {
        match site.urn {
            urns::BYTES => site.leaf(Coder::Bytes),
            urns::STRING_UTF8 => site.leaf(Coder::StringUtf8),
            urns::BOOL => site.leaf(Coder::Bool),
            urns::VARINT => site.leaf(Coder::VarInt),
            urns::DOUBLE => site.leaf(Coder::Double),
            urns::INTERVAL_WINDOW => site.leaf(Coder::IntervalWindow),
            urns::GLOBAL_WINDOW => site.leaf(Coder::GlobalWindow),
            urns::ROW => site.leaf(site.row()?),
            urns::ITERABLE => self.one(site).map(Coder::Iterable),
            urns::STATE_BACKED_ITERABLE => self.one(site).map(Coder::StateBackedIterable),
            urns::CUSTOM_WINDOW => self.one(site).map(Coder::CustomWindow),
            urns::LENGTH_PREFIX => self.one(site).map(Coder::LengthPrefix),
            urns::SHARDED_KEY => self.one(site).map(Coder::ShardedKey),
            urns::NULLABLE => self.one(site).map(Coder::Nullable),
            urns::KV => self.two(site).map(|(key, value)| Coder::Kv(key, value)),
            urns::TIMER => self.two(site).map(|(key, window)| Coder::Timer { key, window }),
            urns::WINDOWED_VALUE => {
                self.two(site).map(|(value, window)| Coder::WindowedValue { value, window })
            }
            urns::PARAM_WINDOWED_VALUE => self.param_windowed_value(site),
            urn => Ok(Coder::Opaque { urn: urn.into() }),
        }
    }

    fn one(&mut self, site: Site<'a>) -> Result<Box<Coder>, CoderError> {
        match site.components {
            [id] => self.resolve(id, site.depth + 1).map(Box::new),
            _ => Err(site.wrong_count(1)),
        }
    }

    fn two(&mut self, site: Site<'a>) -> Result<(Box<Coder>, Box<Coder>), CoderError> {
        match site.components {
            [first, second] => Ok((
                Box::new(self.resolve(first, site.depth + 1)?),
                Box::new(self.resolve(second, site.depth + 1)?),
            )),
            _ => Err(site.wrong_count(2)),
        }
    }

    fn param_windowed_value(&mut self, site: Site<'a>) -> Result<Coder, CoderError> {
        let (value, window) = self.two(site)?;
        // Every element takes its header from here, so that it has to be one.
        read_header(&window, site.payload).map_err(|error| site.bad_payload(&error.to_string()))?;
        Ok(Coder::ParamWindowedValue { value, window, payload: site.payload.clone() })
    }
}

impl Site<'_> {
    fn leaf(self, coder: Coder) -> Result<Coder, CoderError> {
        if self.components.is_empty() { Ok(coder) } else { Err(self.wrong_count(0)) }
    }

    fn row(self) -> Result<Coder, CoderError> {
        let schema = pipeline::Schema::decode(self.payload.clone())
            .map_err(|error| self.bad_payload(&format!("it is not a Schema: {error}")))?;
        let schema = RowSchema::from_proto(&schema).map_err(|reason| self.bad_payload(&reason))?;
        Ok(Coder::Row(Box::new(schema)))
    }

    fn wrong_count(self, expected: usize) -> CoderError {
        let found = self.components.len();
        CoderError::ComponentCount { id: self.id.into(), urn: self.urn.into(), expected, found }
    }

    fn bad_payload(self, reason: &str) -> CoderError {
        CoderError::BadPayload { id: self.id.into(), urn: self.urn.into(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests;

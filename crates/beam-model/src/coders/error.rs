//! What can be wrong with a coder or with the bytes it is to read.

use thiserror::Error;

/// Why a coder could not be resolved, or an element not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CoderError {
    /// The bytes end before the element does. The SDK sent too little, or uses another coder than
    /// the pipeline says.
    #[error("encoded {what} is truncated: needs {needed} bytes more, {available} are left")]
    Truncated {
        /// The part of the element that is not complete.
        what: &'static str,
        /// Bytes that part needs.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The bytes cannot be what the coder says they are.
    #[error("encoded {what} is malformed: {reason}")]
    Malformed {
        /// The part of the element that is wrong.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The element has a coder that only the SDK knows, and nothing gives its length.
    #[error("elements of coder {urn:?} cannot be read by a runner unless they are length-prefixed")]
    Opaque {
        /// URN of the coder.
        urn: Box<str>,
    },
    /// A value was to be encoded with a coder that is not for such values.
    #[error("the {coder} coder cannot encode {value}")]
    Mismatch {
        /// The coder.
        coder: &'static str,
        /// What it was given.
        value: &'static str,
    },
    /// The pipeline names a coder and does not define it.
    #[error("coder {id:?} is not among the coders of the pipeline components")]
    Missing {
        /// Id of the coder.
        id: Box<str>,
    },
    /// The pipeline defines a coder without saying which.
    #[error("coder {id:?} has no spec")]
    NoSpec {
        /// Id of the coder.
        id: Box<str>,
    },
    /// A coder's components nest too deeply; most likely the coder contains itself.
    #[error("coder {id:?} ({urn}) nests deeper than {limit} levels; does it contain itself?")]
    TooDeep {
        /// Id of the coder at which the limit was met.
        id: Box<str>,
        /// URN of that coder.
        urn: Box<str>,
        /// The limit.
        limit: usize,
    },
    /// A coder with all its components, counted as often as they are used, is too big.
    #[error("coder {id:?} ({urn}) has more than {limit} components")]
    TooBig {
        /// Id of the coder at which the limit was met.
        id: Box<str>,
        /// URN of that coder.
        urn: Box<str>,
        /// The limit.
        limit: usize,
    },
    /// A coder has not as many components as its URN says.
    #[error("coder {id:?} ({urn}) has {found} component coders where {expected} are expected")]
    ComponentCount {
        /// Id of the coder.
        id: Box<str>,
        /// URN of the coder.
        urn: Box<str>,
        /// Components the URN asks for.
        expected: usize,
        /// Components the pipeline gives.
        found: usize,
    },
    /// The payload of a coder cannot be used.
    #[error("coder {id:?} ({urn}) has a bad payload: {reason}")]
    BadPayload {
        /// Id of the coder.
        id: Box<str>,
        /// URN of the coder.
        urn: Box<str>,
        /// What is wrong with it.
        reason: Box<str>,
    },
}

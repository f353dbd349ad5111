//! Decoded elements.

use super::{IntervalWindow, PaneInfo};
use crate::time::EventTime;

/// An element of any standard coder, decoded. For tests and for people to look at.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, of `beam:coder:nullable:v1` or a nullable type of a schema. Where nullable coders nest
    /// directly, it stands for the absence of the outer one.
    Null,
    /// `beam:coder:bool:v1`
    Bool(bool),
    /// `beam:coder:varint:v1`, and the integers of a schema: a byte from 0 to 255, others signed.
    Int(i64),
    /// A float of a schema.
    Float(f32),
    /// `beam:coder:double:v1`
    Double(f64),
    /// `beam:coder:bytes:v1`
    Bytes(Vec<u8>),
    /// `beam:coder:string_utf8:v1`
    String(String),
    /// `beam:coder:kv:v1`: key and value.
    Kv(Box<(Value, Value)>),
    /// `beam:coder:iterable:v1`, and an array or iterable of a schema.
    Iterable(Vec<Value>),
    /// `beam:coder:state_backed_iterable:v1` of which a part is not here.
    StateBackedIterable {
        /// The elements that are here.
        prefix: Vec<Value>,
        /// What to ask the state API with for the others.
        token: Vec<u8>,
    },
    /// A map of a schema, in the order in which it was written.
    Map(Vec<(Value, Value)>),
    /// `beam:coder:row:v1`: the fields in the order of the schema.
    Row(Vec<Value>),
    /// `beam:logical_type:millis_instant:v1` in a schema.
    Instant(EventTime),
    /// `beam:logical_type:decimal:v1` in a schema: `unscaled` times ten to the power of `-scale`.
    Decimal {
        /// Digits after the decimal point.
        scale: i64,
        /// The digits: an integer in big-endian two's complement.
        unscaled: Vec<u8>,
    },
    /// `beam:coder:sharded_key:v1`
    ShardedKey {
        /// Id of the shard.
        shard_id: Vec<u8>,
        /// The key.
        key: Box<Value>,
    },
    /// `beam:coder:global_window:v1`
    GlobalWindow,
    /// `beam:coder:interval_window:v1`
    IntervalWindow(IntervalWindow),
    /// `beam:coder:custom_window:v1`
    CustomWindow {
        /// The last event time in the window.
        max_timestamp: EventTime,
        /// The window.
        window: Box<Value>,
    },
    /// `beam:coder:windowed_value:v1` and `beam:coder:param_windowed_value:v1`
    WindowedValue {
        /// Event time of the element.
        timestamp: EventTime,
        /// Windows the element is in.
        windows: Vec<Value>,
        /// Pane the element is in.
        pane: PaneInfo,
        /// The element itself.
        value: Box<Value>,
    },
    /// `beam:coder:timer:v1`
    Timer {
        /// The user key.
        key: Box<Value>,
        /// Tells timers of one family apart.
        dynamic_tag: String,
        /// Windows the timer is in.
        windows: Vec<Value>,
        /// When it fires; nothing where the timer is cleared.
        firing: Option<TimerFiring>,
    },
}

/// When a timer fires that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerFiring {
    /// When the timer fires, in its time domain.
    pub fire_timestamp: EventTime,
    /// Where the timer holds the output watermark until then.
    pub hold_timestamp: EventTime,
    /// Pane of the element that set the timer.
    pub pane: PaneInfo,
}

impl Value {
    /// What an error calls this value. Never what is in it: elements do not belong in logs.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "this int",
            Self::Float(_) => "a float",
            Self::Double(_) => "a double",
            Self::Bytes(_) => "bytes",
            Self::String(_) => "a string",
            Self::Kv(_) => "a kv",
            Self::Iterable(_) => "an iterable",
            Self::StateBackedIterable { .. } => "a state-backed iterable",
            Self::Map(_) => "a map",
            Self::Row(_) => "this row",
            Self::Instant(_) => "an instant",
            Self::Decimal { .. } => "a decimal",
            Self::ShardedKey { .. } => "a sharded key",
            Self::GlobalWindow => "the global window",
            Self::IntervalWindow(_) => "an interval window",
            Self::CustomWindow { .. } => "a custom window",
            Self::WindowedValue { .. } => "a windowed value",
            Self::Timer { .. } => "a timer",
        }
    }
}

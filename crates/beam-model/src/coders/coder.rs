//! The tree of a resolved coder.

use bytes::Bytes;

use super::{FieldTypeInfo, RowSchema};
use crate::urns::standard_coders;

/// Where an element stands, which decides how some coders mark its end.
///
/// The data plane writes elements in the nested context; the value of a length-prefixed element and
/// the contents of a `FunctionSpec` payload or a state cell are in the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// Other data may follow: the encoding tells its own length.
    Nested,
    /// The element is all there is: bytes and strings reach to the end of the input.
    Outer,
}

/// A coder with its components, as [`Coder::from_proto`] resolves it from `Components.coders`.
///
/// Variants are the `StandardCoders` of `beam_runner_api.proto`.
#[derive(Clone, Debug, PartialEq)]
pub enum Coder {
    /// `beam:coder:bytes:v1`
    Bytes,
    /// `beam:coder:string_utf8:v1`
    StringUtf8,
    /// `beam:coder:bool:v1`
    Bool,
    /// `beam:coder:varint:v1`
    VarInt,
    /// `beam:coder:double:v1`
    Double,
    /// `beam:coder:kv:v1`: key and value.
    Kv(Box<Coder>, Box<Coder>),
    /// `beam:coder:iterable:v1`
    Iterable(Box<Coder>),
    /// `beam:coder:state_backed_iterable:v1`: an iterable of which the runner may keep the tail back
    /// for the SDK to fetch with the state API.
    StateBackedIterable(Box<Coder>),
    /// `beam:coder:timer:v1`
    Timer {
        /// Coder of the user key.
        key: Box<Coder>,
        /// Coder of the windows.
        window: Box<Coder>,
    },
    /// `beam:coder:interval_window:v1`
    IntervalWindow,
    /// `beam:coder:global_window:v1`: takes no bytes at all.
    GlobalWindow,
    /// `beam:coder:custom_window:v1`: the window's maximum timestamp, then the window.
    CustomWindow(Box<Coder>),
    /// `beam:coder:length_prefix:v1`
    LengthPrefix(Box<Coder>),
    /// `beam:coder:windowed_value:v1`
    WindowedValue {
        /// Coder of the value.
        value: Box<Coder>,
        /// Coder of the windows.
        window: Box<Coder>,
    },
    /// `beam:coder:param_windowed_value:v1`: a value whose timestamp, windows and pane are in the
    /// coder and not in the element.
    ParamWindowedValue {
        /// Coder of the value.
        value: Box<Coder>,
        /// Coder of the windows.
        window: Box<Coder>,
        /// Timestamp, windows and pane, laid out as in a windowed value.
        payload: Bytes,
    },
    /// `beam:coder:row:v1`
    Row(Box<RowSchema>),
    /// `beam:coder:sharded_key:v1`: a shard id of bytes, then the key.
    ShardedKey(Box<Coder>),
    /// `beam:coder:nullable:v1`
    Nullable(Box<Coder>),
    /// A coder that is not standard: only the SDK knows what its elements are. They can be carried
    /// as they are within [`Coder::LengthPrefix`].
    Opaque {
        /// URN of the coder.
        urn: Box<str>,
    },
}

impl Coder {
    /// The URN of this coder.
    pub fn urn(&self) -> &str {
        match self {
            Self::Bytes => standard_coders::BYTES,
            Self::StringUtf8 => standard_coders::STRING_UTF8,
            Self::Bool => standard_coders::BOOL,
            Self::VarInt => standard_coders::VARINT,
            Self::Double => standard_coders::DOUBLE,
            Self::Kv(..) => standard_coders::KV,
            Self::Iterable(_) => standard_coders::ITERABLE,
            Self::StateBackedIterable(_) => standard_coders::STATE_BACKED_ITERABLE,
            Self::Timer { .. } => standard_coders::TIMER,
            Self::IntervalWindow => standard_coders::INTERVAL_WINDOW,
            Self::GlobalWindow => standard_coders::GLOBAL_WINDOW,
            Self::CustomWindow(_) => standard_coders::CUSTOM_WINDOW,
            Self::LengthPrefix(_) => standard_coders::LENGTH_PREFIX,
            Self::WindowedValue { .. } => standard_coders::WINDOWED_VALUE,
            Self::ParamWindowedValue { .. } => standard_coders::PARAM_WINDOWED_VALUE,
            Self::Row(_) => standard_coders::ROW,
            Self::ShardedKey(_) => standard_coders::SHARDED_KEY,
            Self::Nullable(_) => standard_coders::NULLABLE,
            Self::Opaque { urn } => urn,
        }
    }

    /// What an error calls elements of this coder.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::StringUtf8 => "string_utf8",
            Self::Bool => "bool",
            Self::VarInt => "varint",
            Self::Double => "double",
            Self::Kv(..) => "kv",
            Self::Iterable(_) => "iterable",
            Self::StateBackedIterable(_) => "state_backed_iterable",
            Self::Timer { .. } => "timer",
            Self::IntervalWindow => "interval_window",
            Self::GlobalWindow => "global_window",
            Self::CustomWindow(_) => "custom_window",
            Self::LengthPrefix(_) => "length_prefix",
            Self::WindowedValue { .. } => "windowed_value",
            Self::ParamWindowedValue { .. } => "param_windowed_value",
            Self::Row(_) => "row",
            Self::ShardedKey(_) => "sharded_key",
            Self::Nullable(_) => "nullable",
            Self::Opaque { .. } => "opaque",
        }
    }

    /// Bytes every element takes in the nested context, where they all take the same.
    ///
    /// Elements of a coder that tells no fixed width take at least one byte.
    pub fn fixed_width(&self) -> Option<usize> {
        match self {
            Self::GlobalWindow => Some(0),
            Self::Bool => Some(1),
            Self::Double => Some(8),
            // Saturation cannot be met by a tree that fits in memory and is bounded in size.
            Self::Kv(key, value) => Some(key.fixed_width()?.saturating_add(value.fixed_width()?)),
            Self::CustomWindow(window) => Some(window.fixed_width()?.saturating_add(8)),
            Self::ParamWindowedValue { value, .. } => value.fixed_width(),
            Self::Bytes
            | Self::StringUtf8
            | Self::VarInt
            | Self::Iterable(_)
            | Self::StateBackedIterable(_)
            | Self::Timer { .. }
            | Self::IntervalWindow
            | Self::LengthPrefix(_)
            | Self::WindowedValue { .. }
            | Self::Row(_)
            | Self::ShardedKey(_)
            | Self::Nullable(_)
            | Self::Opaque { .. } => None,
        }
    }

    /// Whether the nested encoding of an element tells its own length to a reader who knows only
    /// this coder, so that [`Coder::skip`] can succeed.
    pub fn is_skippable(&self) -> bool {
        match self {
            Self::Bytes
            | Self::StringUtf8
            | Self::Bool
            | Self::VarInt
            | Self::Double
            | Self::IntervalWindow
            | Self::GlobalWindow
            | Self::LengthPrefix(_) => true,
            Self::Kv(first, second)
            | Self::Timer { key: first, window: second }
            | Self::WindowedValue { value: first, window: second } => {
                first.is_skippable() && second.is_skippable()
            }
            Self::Iterable(inner)
            | Self::StateBackedIterable(inner)
            | Self::CustomWindow(inner)
            | Self::ShardedKey(inner)
            | Self::ParamWindowedValue { value: inner, .. }
            | Self::Nullable(inner) => inner.is_skippable(),
            Self::Row(schema) => is_schema_skippable(schema),
            Self::Opaque { .. } => false,
        }
    }
}

fn is_schema_skippable(schema: &RowSchema) -> bool {
    schema.fields().iter().all(|field| is_field_skippable(&field.field_type.info))
}

fn is_field_skippable(info: &FieldTypeInfo) -> bool {
    match info {
        FieldTypeInfo::Array(element) | FieldTypeInfo::Iterable(element) => is_field_skippable(&element.info),
        FieldTypeInfo::Map(key, value) => is_field_skippable(&key.info) && is_field_skippable(&value.info),
        FieldTypeInfo::NullableRepresentation(inner) => is_field_skippable(inner),
        FieldTypeInfo::Row(schema) => is_schema_skippable(schema),
        FieldTypeInfo::Opaque { .. } => false,
        FieldTypeInfo::Byte
        | FieldTypeInfo::Int16
        | FieldTypeInfo::Int32
        | FieldTypeInfo::Int64
        | FieldTypeInfo::Float
        | FieldTypeInfo::Double
        | FieldTypeInfo::String
        | FieldTypeInfo::Boolean
        | FieldTypeInfo::Bytes
        | FieldTypeInfo::MillisInstant
        | FieldTypeInfo::Decimal => true,
    }
}

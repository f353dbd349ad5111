//! Reading elements whole.

use super::pane::PaneInfo;
use super::reader::Reader;
use super::skip::{Chunk, Count, RowHeader, read_chunk, read_count, read_map_count, unexpected_token};
use super::value::TimerFiring;
use super::windowed_value::read_header;
use super::{Coder, CoderError, Context, FieldType, FieldTypeInfo, IntervalWindow, RowSchema, Value};

/// Most elements without any bytes that are decoded in one iterable: the input does not bound them.
const MAX_EMPTY_ELEMENTS: u64 = 4_096;

impl Coder {
    /// Decodes one element that takes all of `input`.
    ///
    /// # Errors
    /// If the input does not hold exactly one element, an element is malformed, or a coder is
    /// [`Coder::Opaque`].
    pub fn decode(&self, context: Context, input: &[u8]) -> Result<Value, CoderError> {
        let mut reader = Reader::new(input);
        let value = self.decode_from(context, &mut reader)?;
        if reader.rest().is_empty() {
            Ok(value)
        } else {
            Err(CoderError::Malformed { what: self.name(), reason: "there are bytes after its end" })
        }
    }

    /// Decodes one element off the front of `input`, in the nested context: the element, and the
    /// bytes it took.
    ///
    /// # Errors
    /// As [`Coder::decode`], except that bytes may follow.
    pub fn decode_prefix(&self, input: &[u8]) -> Result<(Value, usize), CoderError> {
        let mut reader = Reader::new(input);
        let value = self.decode_from(Context::Nested, &mut reader)?;
        Ok((value, reader.consumed()))
    }

    fn decode_from(&self, context: Context, reader: &mut Reader<'_>) -> Result<Value, CoderError> {
        Ok(match self {
            Self::Bytes => Value::Bytes(decode_bytes(context, self.name(), reader)?.to_vec()),
            Self::StringUtf8 => Value::String(utf8(decode_bytes(context, self.name(), reader)?)?),
            Self::Bool => Value::Bool(reader.flag("bool")?),
            Self::VarInt => Value::Int(reader.varint("varint")? as i64),
            Self::Double => Value::Double(f64::from_be_bytes(reader.array("double")?)),
            Self::Kv(key, value) => {
                let key = key.decode_from(Context::Nested, reader)?;
                Value::Kv(Box::new((key, value.decode_from(context, reader)?)))
            }
            Self::Iterable(element) => Value::Iterable(decode_elements(element, reader)?),
            Self::StateBackedIterable(element) => decode_state_backed(element, reader)?,
            Self::Timer { key, window } => decode_timer(key, window, reader)?,
            Self::IntervalWindow => Value::IntervalWindow(IntervalWindow::read_from(reader)?),
            Self::GlobalWindow => Value::GlobalWindow,
            Self::CustomWindow(window) => Value::CustomWindow {
                max_timestamp: reader.event_time("custom window")?,
                window: Box::new(window.decode_from(context, reader)?),
            },
            Self::LengthPrefix(inner) => {
                inner.decode(Context::Outer, reader.prefixed("length-prefixed element")?)?
            }
            Self::WindowedValue { value, window } => {
                let header = read_header(window, reader.rest())?;
                let encoded = reader.take("windowed value", header.header_len)?;
                decode_windowed(window, encoded, value.decode_from(context, reader)?)?
            }
            Self::ParamWindowedValue { value, window, payload } => {
                decode_windowed(window, payload, value.decode_from(context, reader)?)?
            }
            Self::Row(schema) => decode_row(schema, reader)?,
            Self::ShardedKey(key) => Value::ShardedKey {
                shard_id: reader.prefixed("shard id")?.to_vec(),
                key: Box::new(key.decode_from(Context::Nested, reader)?),
            },
            Self::Nullable(inner) => {
                if reader.flag("nullable")? {
                    inner.decode_from(context, reader)?
                } else {
                    Value::Null
                }
            }
            Self::Opaque { urn } => return Err(CoderError::Opaque { urn: urn.clone() }),
        })
    }
}

fn decode_bytes<'a>(
    context: Context,
    what: &'static str,
    reader: &mut Reader<'a>,
) -> Result<&'a [u8], CoderError> {
    match context {
        Context::Nested => reader.prefixed(what),
        Context::Outer => Ok(reader.take_all()),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, CoderError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| CoderError::Malformed { what: "string", reason: "it is not UTF-8" })
}

/// Decodes `count` elements onto `values`, which grow only as the input has elements to fill them.
fn decode_many(
    element: &Coder,
    count: u64,
    values: &mut Vec<Value>,
    reader: &mut Reader<'_>,
) -> Result<(), CoderError> {
    let total = count.saturating_add(values.len() as u64);
    if element.fixed_width() == Some(0) && total > MAX_EMPTY_ELEMENTS {
        return Err(CoderError::Malformed {
            what: "iterable",
            reason: "it has more elements of no bytes than can be decoded",
        });
    }
    for _ in 0..count {
        values.push(element.decode_from(Context::Nested, reader)?);
    }
    Ok(())
}

fn decode_elements(element: &Coder, reader: &mut Reader<'_>) -> Result<Vec<Value>, CoderError> {
    match decode_up_to_token(element, reader)? {
        (values, Chunk::Elements(_) | Chunk::End) => Ok(values),
        (_, Chunk::StateToken) => Err(unexpected_token()),
    }
}

fn decode_state_backed(element: &Coder, reader: &mut Reader<'_>) -> Result<Value, CoderError> {
    match decode_up_to_token(element, reader)? {
        (values, Chunk::Elements(_) | Chunk::End) => Ok(Value::Iterable(values)),
        (prefix, Chunk::StateToken) => {
            Ok(Value::StateBackedIterable { prefix, token: reader.prefixed("state token")?.to_vec() })
        }
    }
}

fn decode_up_to_token(element: &Coder, reader: &mut Reader<'_>) -> Result<(Vec<Value>, Chunk), CoderError> {
    let mut values = Vec::new();
    if let Count::Known(count) = read_count(reader)? {
        decode_many(element, u64::from(count), &mut values, reader)?;
        return Ok((values, Chunk::End));
    }
    loop {
        match read_chunk(reader)? {
            Chunk::Elements(count) => decode_many(element, count, &mut values, reader)?,
            end @ (Chunk::End | Chunk::StateToken) => return Ok((values, end)),
        }
    }
}

fn decode_timer(key: &Coder, window: &Coder, reader: &mut Reader<'_>) -> Result<Value, CoderError> {
    let key = Box::new(key.decode_from(Context::Nested, reader)?);
    let dynamic_tag = utf8(reader.prefixed("dynamic timer tag")?)?;
    let windows = decode_elements(window, reader)?;
    let cleared = reader.flag("clear bit of a timer")?;
    let firing = if cleared {
        None
    } else {
        Some(TimerFiring {
            fire_timestamp: reader.event_time("fire timestamp")?,
            hold_timestamp: reader.event_time("hold timestamp")?,
            pane: PaneInfo::read_from(reader)?,
        })
    };
    Ok(Value::Timer { key, dynamic_tag, windows, firing })
}

/// Puts a value together with the header that `encoded` begins with.
fn decode_windowed(window: &Coder, encoded: &[u8], value: Value) -> Result<Value, CoderError> {
    let mut reader = Reader::new(encoded);
    Ok(Value::WindowedValue {
        timestamp: reader.event_time("windowed value")?,
        windows: decode_elements(window, &mut reader)?,
        pane: PaneInfo::read_from(&mut reader)?,
        value: Box::new(value),
    })
}

fn decode_row(schema: &RowSchema, reader: &mut Reader<'_>) -> Result<Value, CoderError> {
    let header = RowHeader::read(schema, reader)?;
    // Fields that the schema gained after the row was written are null.
    let mut values = vec![Value::Null; schema.fields().len()];
    for (index, field) in schema.in_encoding_order().take(header.field_count) {
        if header.is_null(index) {
            continue;
        }
        let value = field.field_type.info.decode_from(reader)?;
        if let Some(slot) = values.get_mut(index) {
            *slot = value;
        }
    }
    Ok(Value::Row(values))
}

impl FieldType {
    fn decode_from(&self, reader: &mut Reader<'_>) -> Result<Value, CoderError> {
        if self.nullable && !reader.flag("nullable")? {
            return Ok(Value::Null);
        }
        self.info.decode_from(reader)
    }
}

impl FieldTypeInfo {
    fn decode_from(&self, reader: &mut Reader<'_>) -> Result<Value, CoderError> {
        Ok(match self {
            Self::Byte => Value::Int(i64::from(reader.byte("byte")?)),
            Self::Int16 => Value::Int(i64::from(i16::from_be_bytes(reader.array("int16")?))),
            Self::Int32 => Value::Int(i64::from(decode_i32(reader)?)),
            Self::Int64 => Value::Int(reader.varint("int64")? as i64),
            Self::Float => Value::Float(f32::from_be_bytes(reader.array("float")?)),
            Self::Double => Value::Double(f64::from_be_bytes(reader.array("double")?)),
            Self::String => Value::String(utf8(reader.prefixed("string")?)?),
            Self::Boolean => Value::Bool(reader.flag("boolean")?),
            Self::Bytes => Value::Bytes(reader.prefixed("bytes")?.to_vec()),
            Self::MillisInstant => Value::Instant(reader.event_time("millis_instant")?),
            Self::Decimal => Value::Decimal {
                scale: reader.varint("decimal")? as i64,
                unscaled: reader.prefixed("decimal")?.to_vec(),
            },
            Self::Array(element) | Self::Iterable(element) => {
                Value::Iterable(decode_field_elements(element, reader)?)
            }
            Self::Map(key, value) => {
                let mut entries = Vec::new();
                for _ in 0..read_map_count(reader)? {
                    entries.push((key.decode_from(reader)?, value.decode_from(reader)?));
                }
                Value::Map(entries)
            }
            Self::Row(schema) => decode_row(schema, reader)?,
            Self::NullableRepresentation(inner) => {
                if reader.flag("nullable")? {
                    inner.decode_from(reader)?
                } else {
                    Value::Null
                }
            }
            Self::Opaque { urn } => return Err(CoderError::Opaque { urn: urn.clone() }),
        })
    }
}

/// A varint of 32 bits. A negative one is sent as 32 bits by some SDKs, and as 64 by others.
fn decode_i32(reader: &mut Reader<'_>) -> Result<i32, CoderError> {
    let bits = reader.varint("int32")?;
    u32::try_from(bits)
        .map(|bits| bits as i32)
        .or_else(|_| i32::try_from(bits as i64))
        .map_err(|_| CoderError::Malformed { what: "int32", reason: "it does not fit in 32 bits" })
}

fn decode_field_elements(element: &FieldType, reader: &mut Reader<'_>) -> Result<Vec<Value>, CoderError> {
    let mut values = Vec::new();
    if let Count::Known(count) = read_count(reader)? {
        for _ in 0..count {
            values.push(element.decode_from(reader)?);
        }
        return Ok(values);
    }
    loop {
        match read_chunk(reader)? {
            Chunk::Elements(count) => {
                for _ in 0..count {
                    values.push(element.decode_from(reader)?);
                }
            }
            Chunk::End => return Ok(values),
            Chunk::StateToken => return Err(unexpected_token()),
        }
    }
}

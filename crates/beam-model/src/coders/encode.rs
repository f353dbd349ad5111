//! Writing decoded elements.

use super::skip::null_bitmap_len;
use super::{Coder, CoderError, Context, FieldType, FieldTypeInfo, RowSchema, Value, varint};

impl Coder {
    /// The encoding of `value` in the given context.
    ///
    /// # Errors
    /// If the value, or a value in it, is not one for this coder, or a coder is [`Coder::Opaque`].
    pub fn encode(&self, context: Context, value: &Value) -> Result<Vec<u8>, CoderError> {
        let mut out = Vec::new();
        self.encode_to(context, value, &mut out)?;
        Ok(out)
    }

    fn encode_to(&self, context: Context, value: &Value, out: &mut Vec<u8>) -> Result<(), CoderError> {
        match (self, value) {
            (Self::Bytes, Value::Bytes(bytes)) => encode_bytes(context, bytes, out),
            (Self::StringUtf8, Value::String(string)) => encode_bytes(context, string.as_bytes(), out),
            (Self::Bool, Value::Bool(value)) => out.push(u8::from(*value)),
            (Self::VarInt, Value::Int(value)) => varint::write_signed(out, *value),
            (Self::Double, Value::Double(value)) => out.extend_from_slice(&value.to_be_bytes()),
            (Self::Kv(key_coder, value_coder), Value::Kv(pair)) => {
                key_coder.encode_to(Context::Nested, &pair.0, out)?;
                value_coder.encode_to(context, &pair.1, out)?;
            }
            (Self::Iterable(element) | Self::StateBackedIterable(element), Value::Iterable(values)) => {
                encode_elements(element, values, out)?;
            }
            (Self::StateBackedIterable(element), Value::StateBackedIterable { prefix, token }) => {
                encode_state_backed(element, prefix, token, out)?;
            }
            (Self::Timer { key, window }, Value::Timer { .. }) => encode_timer(key, window, value, out)?,
            (Self::IntervalWindow, Value::IntervalWindow(window)) => window.write(out),
            (Self::GlobalWindow, Value::GlobalWindow) => {}
            (Self::CustomWindow(coder), Value::CustomWindow { max_timestamp, window }) => {
                max_timestamp.write(out);
                coder.encode_to(context, window, out)?;
            }
            (Self::LengthPrefix(inner), value) => {
                varint::write_prefixed(out, &inner.encode(Context::Outer, value)?);
            }
            (
                Self::WindowedValue { value: value_coder, window },
                Value::WindowedValue { timestamp, windows, pane, value },
            ) => {
                timestamp.write(out);
                encode_elements(window, windows, out)?;
                pane.write(out);
                value_coder.encode_to(context, value, out)?;
            }
            (Self::ParamWindowedValue { value: value_coder, .. }, Value::WindowedValue { value, .. }) => {
                value_coder.encode_to(context, value, out)?;
            }
            (Self::Row(schema), Value::Row(values)) => encode_row(schema, values, out)?,
            (Self::ShardedKey(coder), Value::ShardedKey { shard_id, key }) => {
                varint::write_prefixed(out, shard_id);
                coder.encode_to(Context::Nested, key, out)?;
            }
            (Self::Nullable(_), Value::Null) => out.push(0),
            (Self::Nullable(inner), value) => {
                out.push(1);
                inner.encode_to(context, value, out)?;
            }
            (Self::Opaque { urn }, _) => return Err(CoderError::Opaque { urn: urn.clone() }),
            (coder, value) => return Err(mismatch(coder.name(), value)),
        }
        Ok(())
    }
}

fn mismatch(coder: &'static str, value: &Value) -> CoderError {
    CoderError::Mismatch { coder, value: value.kind() }
}

fn encode_bytes(context: Context, bytes: &[u8], out: &mut Vec<u8>) {
    match context {
        Context::Nested => varint::write_prefixed(out, bytes),
        Context::Outer => out.extend_from_slice(bytes),
    }
}

/// The four bytes that say how many elements follow.
fn encode_count(count: usize, out: &mut Vec<u8>) -> Result<(), CoderError> {
    let count = i32::try_from(count).map_err(|_| CoderError::Malformed {
        what: "iterable",
        reason: "it has more than 2^31 - 1 elements",
    })?;
    out.extend_from_slice(&count.to_be_bytes());
    Ok(())
}

fn encode_elements(element: &Coder, values: &[Value], out: &mut Vec<u8>) -> Result<(), CoderError> {
    encode_count(values.len(), out)?;
    values.iter().try_for_each(|value| element.encode_to(Context::Nested, value, out))
}

fn encode_state_backed(
    element: &Coder,
    prefix: &[Value],
    token: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), CoderError> {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    // A chunk of no elements would mean the end.
    if !prefix.is_empty() {
        varint::write(out, prefix.len() as u64);
        prefix.iter().try_for_each(|value| element.encode_to(Context::Nested, value, out))?;
    }
    varint::write_signed(out, -1);
    varint::write_prefixed(out, token);
    Ok(())
}

fn encode_timer(key: &Coder, window: &Coder, timer: &Value, out: &mut Vec<u8>) -> Result<(), CoderError> {
    let Value::Timer { key: key_value, dynamic_tag, windows, firing } = timer else {
        return Err(mismatch("timer", timer));
    };
    key.encode_to(Context::Nested, key_value, out)?;
    varint::write_prefixed(out, dynamic_tag.as_bytes());
    encode_elements(window, windows, out)?;
    out.push(u8::from(firing.is_none()));
    if let Some(firing) = firing {
        firing.fire_timestamp.write(out);
        firing.hold_timestamp.write(out);
        firing.pane.write(out);
    }
    Ok(())
}

fn encode_row(schema: &RowSchema, values: &[Value], out: &mut Vec<u8>) -> Result<(), CoderError> {
    if values.len() != schema.fields().len() {
        return Err(CoderError::Malformed { what: "row", reason: "it has not as many values as fields" });
    }
    varint::write(out, values.len() as u64);
    varint::write_prefixed(out, &null_bitmap(schema, values));
    for (index, field) in schema.in_encoding_order() {
        match values.get(index) {
            Some(value) if !is_null(&field.field_type, value) => {
                field.field_type.info.encode_to(value, out)?
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// Whether the row says of the value that it is null, rather than the value itself.
fn is_null(field_type: &FieldType, value: &Value) -> bool {
    field_type.nullable && *value == Value::Null
}

/// A bit for each field that is null, or no bytes where none is.
fn null_bitmap(schema: &RowSchema, values: &[Value]) -> Vec<u8> {
    let mut bitmap = vec![0_u8; null_bitmap_len(values.len())];
    for (byte, (fields, values)) in bitmap.iter_mut().zip(schema.fields().chunks(8).zip(values.chunks(8))) {
        for (bit, (field, value)) in fields.iter().zip(values).enumerate() {
            *byte |= u8::from(is_null(&field.field_type, value)) << bit;
        }
    }
    if bitmap.iter().all(|&byte| byte == 0) { Vec::new() } else { bitmap }
}

impl FieldType {
    fn encode_to(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), CoderError> {
        if self.nullable {
            out.push(u8::from(*value != Value::Null));
            if *value == Value::Null {
                return Ok(());
            }
        }
        self.info.encode_to(value, out)
    }
}

impl FieldTypeInfo {
    fn encode_to(&self, value: &Value, out: &mut Vec<u8>) -> Result<(), CoderError> {
        match (self, value) {
            (Self::Byte, Value::Int(int)) => out.push(self.narrow(*int)?),
            (Self::Int16, Value::Int(int)) => {
                out.extend_from_slice(&self.narrow::<i16>(*int)?.to_be_bytes());
            }
            // Two's complement of 32 bits and not of 64, so that a negative one takes five bytes.
            (Self::Int32, Value::Int(int)) => {
                varint::write(out, u64::from(self.narrow::<i32>(*int)? as u32));
            }
            (Self::Int64, Value::Int(int)) => varint::write_signed(out, *int),
            (Self::Float, Value::Float(float)) => out.extend_from_slice(&float.to_be_bytes()),
            (Self::Double, Value::Double(double)) => out.extend_from_slice(&double.to_be_bytes()),
            (Self::String, Value::String(string)) => varint::write_prefixed(out, string.as_bytes()),
            (Self::Boolean, Value::Bool(value)) => out.push(u8::from(*value)),
            (Self::Bytes, Value::Bytes(bytes)) => varint::write_prefixed(out, bytes),
            (Self::MillisInstant, Value::Instant(instant)) => instant.write(out),
            (Self::Decimal, Value::Decimal { scale, unscaled }) => {
                varint::write_signed(out, *scale);
                varint::write_prefixed(out, unscaled);
            }
            (Self::Array(element) | Self::Iterable(element), Value::Iterable(values)) => {
                encode_count(values.len(), out)?;
                values.iter().try_for_each(|value| element.encode_to(value, out))?;
            }
            (Self::Map(key_type, value_type), Value::Map(entries)) => {
                encode_count(entries.len(), out)?;
                for (key, value) in entries {
                    key_type.encode_to(key, out)?;
                    value_type.encode_to(value, out)?;
                }
            }
            (Self::Row(schema), Value::Row(values)) => encode_row(schema, values, out)?,
            (Self::NullableRepresentation(_), Value::Null) => out.push(0),
            (Self::NullableRepresentation(inner), value) => {
                out.push(1);
                inner.encode_to(value, out)?;
            }
            (Self::Opaque { urn }, _) => return Err(CoderError::Opaque { urn: urn.clone() }),
            (info, value) => return Err(mismatch(info.name(), value)),
        }
        Ok(())
    }

    /// The integer as one of fewer bits.
    fn narrow<T: TryFrom<i64>>(&self, int: i64) -> Result<T, CoderError> {
        T::try_from(int).map_err(|_| mismatch(self.name(), &Value::Int(int)))
    }
}

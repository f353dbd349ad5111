//! Finding the end of an element without looking at what is in it.

use super::pane::PaneInfo;
use super::reader::Reader;
use super::{Coder, CoderError, Context, FieldType, FieldTypeInfo, RowSchema};

/// Bits of a byte in the null bitmap of a row.
const BITS: usize = 8;

impl Coder {
    /// Bytes that the nested encoding of one element takes at the front of `input`.
    ///
    /// Allocates nothing and does not validate what need not be looked at: UTF-8, windows, booleans.
    ///
    /// # Errors
    /// If the input ends before the element does, a count or marker is malformed, or there is an
    /// [opaque](Coder::Opaque) coder outside a length prefix.
    pub fn skip(&self, input: &[u8]) -> Result<usize, CoderError> {
        self.skip_in(Context::Nested, input)
    }

    /// Bytes that an element in the given context takes at the front of `input`.
    ///
    /// # Errors
    /// As [`Coder::skip`].
    pub fn skip_in(&self, context: Context, input: &[u8]) -> Result<usize, CoderError> {
        let mut reader = Reader::new(input);
        self.skip_from(context, &mut reader)?;
        Ok(reader.consumed())
    }

    pub(super) fn skip_from(&self, context: Context, reader: &mut Reader<'_>) -> Result<(), CoderError> {
        match self {
            Self::Bytes | Self::StringUtf8 => match context {
                Context::Nested => reader.prefixed(self.name()).map(drop),
                Context::Outer => {
                    reader.take_all();
                    Ok(())
                }
            },
            Self::Bool => reader.byte("bool").map(drop),
            Self::VarInt => reader.varint("varint").map(drop),
            Self::Double => reader.array::<8>("double").map(drop),
            Self::Kv(key, value) => {
                key.skip_from(Context::Nested, reader)?;
                value.skip_from(context, reader)
            }
            Self::Iterable(element) => skip_elements(element, reader),
            Self::StateBackedIterable(element) => skip_state_backed(element, reader),
            Self::Timer { key, window } => skip_timer(key, window, reader),
            Self::IntervalWindow => {
                reader.event_time("interval window")?;
                reader.varint("interval window").map(drop)
            }
            Self::GlobalWindow => Ok(()),
            Self::CustomWindow(window) => {
                reader.event_time("custom window")?;
                window.skip_from(context, reader)
            }
            Self::LengthPrefix(_) => reader.prefixed("length-prefixed element").map(drop),
            Self::WindowedValue { value, window } => {
                reader.event_time("windowed value")?;
                skip_elements(window, reader)?;
                PaneInfo::skip(reader)?;
                value.skip_from(context, reader)
            }
            Self::ParamWindowedValue { value, .. } => value.skip_from(context, reader),
            Self::Row(schema) => skip_row(schema, reader),
            Self::ShardedKey(key) => {
                reader.prefixed("shard id")?;
                key.skip_from(Context::Nested, reader)
            }
            Self::Nullable(inner) => {
                if reader.flag("nullable")? {
                    inner.skip_from(context, reader)?;
                }
                Ok(())
            }
            Self::Opaque { urn } => Err(CoderError::Opaque { urn: urn.clone() }),
        }
    }

    /// Skips `count` elements. A hostile count costs no time: elements that take no bytes are not
    /// visited one by one, and others run out of input.
    pub(super) fn skip_many(&self, count: u64, reader: &mut Reader<'_>) -> Result<(), CoderError> {
        if let Some(width) = self.fixed_width() {
            let len = (width as u64).saturating_mul(count);
            return reader.take("iterable", usize::try_from(len).unwrap_or(usize::MAX)).map(drop);
        }
        for _ in 0..count {
            self.skip_from(Context::Nested, reader)?;
        }
        Ok(())
    }
}

/// How many elements follow in an iterable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// As many as said, and then the iterable ends.
    Known(u32),
    /// Chunks follow, each with its count.
    Chunked,
}

/// What a chunk of an iterable of unknown length begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// This many elements, and then another chunk.
    Elements(u64),
    /// Nothing: the iterable has ended.
    End,
    /// A token with which the SDK asks for the rest.
    StateToken,
}

/// Reads what an iterable begins with.
pub(super) fn read_count(reader: &mut Reader<'_>) -> Result<Count, CoderError> {
    match reader.i32("iterable")? {
        -1 => Ok(Count::Chunked),
        count => u32::try_from(count)
            .map(Count::Known)
            .map_err(|_| CoderError::Malformed { what: "iterable", reason: "its count is less than -1" }),
    }
}

/// Reads what a chunk of an iterable begins with.
pub(super) fn read_chunk(reader: &mut Reader<'_>) -> Result<Chunk, CoderError> {
    match reader.varint("iterable")? as i64 {
        0 => Ok(Chunk::End),
        -1 => Ok(Chunk::StateToken),
        count => u64::try_from(count).map(Chunk::Elements).map_err(|_| CoderError::Malformed {
            what: "iterable",
            reason: "a chunk's count is less than -1",
        }),
    }
}

/// The error for a state token where the coder knows of none.
pub(super) fn unexpected_token() -> CoderError {
    CoderError::Malformed { what: "iterable", reason: "it has a state token, and is not state-backed" }
}

/// Skips an iterable, of which all elements are there.
pub(super) fn skip_elements(element: &Coder, reader: &mut Reader<'_>) -> Result<(), CoderError> {
    match skip_up_to_token(element, reader)? {
        Chunk::StateToken => Err(unexpected_token()),
        Chunk::Elements(_) | Chunk::End => Ok(()),
    }
}

fn skip_state_backed(element: &Coder, reader: &mut Reader<'_>) -> Result<(), CoderError> {
    match skip_up_to_token(element, reader)? {
        Chunk::StateToken => reader.prefixed("state token").map(drop),
        Chunk::Elements(_) | Chunk::End => Ok(()),
    }
}

/// Skips the elements of an iterable, and returns what ended it: the end or a state token.
fn skip_up_to_token(element: &Coder, reader: &mut Reader<'_>) -> Result<Chunk, CoderError> {
    if let Count::Known(count) = read_count(reader)? {
        element.skip_many(u64::from(count), reader)?;
        return Ok(Chunk::End);
    }
    loop {
        match read_chunk(reader)? {
            Chunk::Elements(count) => element.skip_many(count, reader)?,
            end @ (Chunk::End | Chunk::StateToken) => return Ok(end),
        }
    }
}

fn skip_timer(key: &Coder, window: &Coder, reader: &mut Reader<'_>) -> Result<(), CoderError> {
    key.skip_from(Context::Nested, reader)?;
    reader.prefixed("dynamic timer tag")?;
    skip_elements(window, reader)?;
    if !reader.flag("clear bit of a timer")? {
        reader.event_time("fire timestamp")?;
        reader.event_time("hold timestamp")?;
        PaneInfo::skip(reader)?;
    }
    Ok(())
}

/// Bytes of the null bitmap of a row of `fields` fields, where any is null.
pub(super) fn null_bitmap_len(fields: usize) -> usize {
    fields.div_ceil(BITS)
}

/// What a row begins with.
pub(super) struct RowHeader<'a> {
    /// Fields that were written; a schema may have gained more since.
    pub(super) field_count: usize,
    nulls: &'a [u8],
}

impl<'a> RowHeader<'a> {
    pub(super) fn read(schema: &RowSchema, reader: &mut Reader<'a>) -> Result<Self, CoderError> {
        let field_count = reader.varint("row")?;
        let field_count = usize::try_from(field_count).ok().filter(|&count| count <= schema.fields().len());
        // Nobody can tell where a field ends of which the schema has no type.
        let field_count = field_count
            .ok_or(CoderError::Malformed { what: "row", reason: "it has more fields than its schema" })?;
        Ok(Self { field_count, nulls: reader.prefixed("null bitmap of a row")? })
    }

    /// Whether the field at this index of the schema is null. Writers leave off trailing zeros.
    pub(super) fn is_null(&self, field: usize) -> bool {
        self.nulls.get(field / BITS).is_some_and(|byte| byte >> (field % BITS) & 1 != 0)
    }
}

pub(super) fn skip_row(schema: &RowSchema, reader: &mut Reader<'_>) -> Result<(), CoderError> {
    let header = RowHeader::read(schema, reader)?;
    for (index, field) in schema.in_encoding_order().take(header.field_count) {
        if !header.is_null(index) {
            field.field_type.info.skip_from(reader)?;
        }
    }
    Ok(())
}

impl FieldType {
    /// Skips an element, key or value. These say in a byte of their own whether they are there.
    fn skip_from(&self, reader: &mut Reader<'_>) -> Result<(), CoderError> {
        if self.nullable && !reader.flag("nullable")? {
            return Ok(());
        }
        self.info.skip_from(reader)
    }
}

impl FieldTypeInfo {
    fn skip_from(&self, reader: &mut Reader<'_>) -> Result<(), CoderError> {
        match self {
            Self::Byte => reader.byte("byte").map(drop),
            Self::Int16 => reader.array::<2>("int16").map(drop),
            Self::Int32 => reader.varint("int32").map(drop),
            Self::Int64 => reader.varint("int64").map(drop),
            Self::Float => reader.array::<4>("float").map(drop),
            Self::Double => reader.array::<8>("double").map(drop),
            Self::String => reader.prefixed("string").map(drop),
            Self::Boolean => reader.byte("boolean").map(drop),
            Self::Bytes => reader.prefixed("bytes").map(drop),
            Self::MillisInstant => reader.event_time("millis_instant").map(drop),
            Self::Decimal => {
                reader.varint("decimal")?;
                reader.prefixed("decimal").map(drop)
            }
            Self::Array(element) | Self::Iterable(element) => skip_field_elements(element, reader),
            Self::Map(key, value) => {
                for _ in 0..read_map_count(reader)? {
                    key.skip_from(reader)?;
                    value.skip_from(reader)?;
                }
                Ok(())
            }
            Self::Row(schema) => skip_row(schema, reader),
            Self::NullableRepresentation(inner) => {
                if reader.flag("nullable")? {
                    inner.skip_from(reader)?;
                }
                Ok(())
            }
            Self::Opaque { urn } => Err(CoderError::Opaque { urn: urn.clone() }),
        }
    }
}

/// Every value of a schema type takes at least one byte, so a hostile count runs out of input.
fn skip_field_elements(element: &FieldType, reader: &mut Reader<'_>) -> Result<(), CoderError> {
    let many = |count: u64, reader: &mut Reader<'_>| (0..count).try_for_each(|_| element.skip_from(reader));
    if let Count::Known(count) = read_count(reader)? {
        return many(u64::from(count), reader);
    }
    loop {
        match read_chunk(reader)? {
            Chunk::Elements(count) => many(count, reader)?,
            Chunk::End => return Ok(()),
            Chunk::StateToken => return Err(unexpected_token()),
        }
    }
}

/// Reads how many entries a map has.
pub(super) fn read_map_count(reader: &mut Reader<'_>) -> Result<u32, CoderError> {
    u32::try_from(reader.i32("map")?)
        .map_err(|_| CoderError::Malformed { what: "map", reason: "its count is negative" })
}

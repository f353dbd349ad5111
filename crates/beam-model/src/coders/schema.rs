//! Schemas of rows, reduced to what their encoding depends on.

use crate::pipeline::field_type::TypeInfo;
use crate::pipeline::{self, AtomicType};
use crate::urns::logical_types;

/// Types nested deeper than this are refused, so that reading a row cannot exhaust the stack.
const MAX_DEPTH: usize = 64;

/// Values of this logical type are written with the Python SDK's own coder for any object.
const PYTHON_ANY: &str = "beam:logical:pythonsdk_any:v1";

/// The fields of a row, from the `Schema` of `schema.proto`.
#[derive(Clone, Debug, PartialEq)]
pub struct RowSchema {
    fields: Vec<SchemaField>,
    /// Indices into `fields`, in the order in which fields are written.
    order: Vec<usize>,
}

/// One field of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemaField {
    /// Name of the field.
    pub name: Box<str>,
    /// Type of the field.
    pub field_type: FieldType,
}

/// The type of a field, element, key or value.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldType {
    /// Whether there may be no value.
    pub nullable: bool,
    /// What the value is, where there is one.
    pub info: FieldTypeInfo,
}

/// What values of a type are, as far as their encoding shows it.
///
/// A logical type stands here as its representation, except those with an encoding of their own.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldTypeInfo {
    /// One byte.
    Byte,
    /// Two bytes, big-endian.
    Int16,
    /// A varint of 32 bits.
    Int32,
    /// A varint of 64 bits.
    Int64,
    /// Four bytes, big-endian.
    Float,
    /// Eight bytes, big-endian.
    Double,
    /// UTF-8, length-prefixed.
    String,
    /// One byte, 0 or 1.
    Boolean,
    /// Bytes, length-prefixed.
    Bytes,
    /// `beam:logical_type:millis_instant:v1`: an [event time](crate::time::EventTime).
    MillisInstant,
    /// `beam:logical_type:decimal:v1`: a varint scale and a length-prefixed big-endian integer.
    Decimal,
    /// Elements, laid out as in `beam:coder:iterable:v1`.
    Array(Box<FieldType>),
    /// Elements, laid out as in `beam:coder:iterable:v1`.
    Iterable(Box<FieldType>),
    /// A four-byte count, then that many keys and values.
    Map(Box<FieldType>, Box<FieldType>),
    /// A row in the row.
    Row(Box<RowSchema>),
    /// A logical type whose representation is nullable in itself: one byte says whether it is there.
    NullableRepresentation(Box<FieldTypeInfo>),
    /// A logical type whose values only one SDK can read.
    Opaque {
        /// URN of the logical type.
        urn: Box<str>,
    },
}

impl RowSchema {
    /// The fields, in the order of the schema.
    pub fn fields(&self) -> &[SchemaField] {
        &self.fields
    }

    /// The fields in the order in which they are written, each with its index in the schema.
    pub fn in_encoding_order(&self) -> impl Iterator<Item = (usize, &SchemaField)> {
        self.order.iter().filter_map(|&index| self.fields.get(index).map(|field| (index, field)))
    }

    /// Reads a schema. The error says what is wrong with it.
    ///
    /// # Errors
    /// If a type is missing or unknown, types nest too deeply, or encoding positions are not a
    /// permutation of the fields.
    pub fn from_proto(schema: &pipeline::Schema) -> Result<Self, String> {
        Self::at_depth(schema, 0)
    }

    /// A schema of the given fields, written in the order they are in.
    pub fn of(fields: Vec<SchemaField>) -> Self {
        Self { order: (0..fields.len()).collect(), fields }
    }

    fn at_depth(schema: &pipeline::Schema, depth: usize) -> Result<Self, String> {
        let mut fields = Vec::with_capacity(schema.fields.len());
        for field in &schema.fields {
            let field_type = FieldType::at_depth(field.r#type.as_ref(), depth + 1)
                .map_err(|error| format!("field {:?}: {error}", field.name))?;
            fields.push(SchemaField { name: field.name.as_str().into(), field_type });
        }
        let order = if schema.encoding_positions_set {
            encoding_order(&schema.fields)?
        } else {
            (0..fields.len()).collect()
        };
        Ok(Self { fields, order })
    }
}

/// Sorts fields by encoding position.
fn encoding_order(fields: &[pipeline::Field]) -> Result<Vec<usize>, String> {
    let mut order = vec![None; fields.len()];
    for (index, field) in fields.iter().enumerate() {
        let slot = usize::try_from(field.encoding_position).ok().and_then(|at| order.get_mut(at));
        match slot {
            Some(slot @ None) => *slot = Some(index),
            Some(Some(_)) => {
                return Err(format!(
                    "field {:?}: encoding position {} is taken",
                    field.name, field.encoding_position
                ));
            }
            None => {
                return Err(format!(
                    "field {:?}: encoding position {} in a schema of {} fields",
                    field.name,
                    field.encoding_position,
                    fields.len()
                ));
            }
        }
    }
    // As many fields as slots and no slot twice, so none is empty.
    Ok(order.into_iter().flatten().collect())
}

impl FieldType {
    fn at_depth(proto: Option<&pipeline::FieldType>, depth: usize) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err(format!("its type nests deeper than {MAX_DEPTH} levels"));
        }
        let proto = proto.ok_or("it has no type")?;
        let info = match proto.type_info.as_ref().ok_or("its type says nothing")? {
            TypeInfo::AtomicType(number) => FieldTypeInfo::atomic(*number)?,
            TypeInfo::ArrayType(array) => {
                FieldTypeInfo::Array(Self::boxed(array.element_type.as_deref(), depth)?)
            }
            TypeInfo::IterableType(iterable) => {
                FieldTypeInfo::Iterable(Self::boxed(iterable.element_type.as_deref(), depth)?)
            }
            TypeInfo::MapType(map) => FieldTypeInfo::Map(
                Self::boxed(map.key_type.as_deref(), depth)?,
                Self::boxed(map.value_type.as_deref(), depth)?,
            ),
            TypeInfo::RowType(row) => {
                let schema = row.schema.as_ref().ok_or("its row type has no schema")?;
                FieldTypeInfo::Row(Box::new(RowSchema::at_depth(schema, depth)?))
            }
            TypeInfo::LogicalType(logical) => FieldTypeInfo::logical(logical, depth)?,
        };
        Ok(Self { nullable: proto.nullable, info })
    }

    fn boxed(proto: Option<&pipeline::FieldType>, depth: usize) -> Result<Box<Self>, String> {
        Self::at_depth(proto, depth + 1).map(Box::new)
    }
}

impl FieldTypeInfo {
    /// What an error calls values of this type.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Byte => "byte",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float => "float",
            Self::Double => "double",
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Bytes => "bytes",
            Self::MillisInstant => "millis_instant",
            Self::Decimal => "decimal",
            Self::Array(_) => "array",
            Self::Iterable(_) => "iterable",
            Self::Map(..) => "map",
            Self::Row(_) => "row",
            Self::NullableRepresentation(_) => "nullable logical type",
            Self::Opaque { .. } => "opaque logical type",
        }
    }

    fn atomic(number: i32) -> Result<Self, String> {
        match AtomicType::try_from(number) {
            Ok(AtomicType::Byte) => Ok(Self::Byte),
            Ok(AtomicType::Int16) => Ok(Self::Int16),
            Ok(AtomicType::Int32) => Ok(Self::Int32),
            Ok(AtomicType::Int64) => Ok(Self::Int64),
            Ok(AtomicType::Float) => Ok(Self::Float),
            Ok(AtomicType::Double) => Ok(Self::Double),
            Ok(AtomicType::String) => Ok(Self::String),
            Ok(AtomicType::Boolean) => Ok(Self::Boolean),
            Ok(AtomicType::Bytes) => Ok(Self::Bytes),
            Ok(AtomicType::Unspecified) | Err(_) => Err(format!("atomic type {number} is not known")),
        }
    }

    fn logical(logical: &pipeline::LogicalType, depth: usize) -> Result<Self, String> {
        // These are written as the SDKs do, not as their representation would be.
        match logical.urn.as_str() {
            logical_types::MILLIS_INSTANT => return Ok(Self::MillisInstant),
            logical_types::DECIMAL => return Ok(Self::Decimal),
            PYTHON_ANY => return Ok(Self::Opaque { urn: PYTHON_ANY.into() }),
            _ => {}
        }
        let representation = FieldType::at_depth(logical.representation.as_deref(), depth + 1)
            .map_err(|error| format!("representation of logical type {:?}: {error}", logical.urn))?;
        if representation.nullable {
            Ok(Self::NullableRepresentation(Box::new(representation.info)))
        } else {
            Ok(representation.info)
        }
    }
}

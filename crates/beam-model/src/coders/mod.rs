//! The standard coders: how the elements of a PCollection are laid out in bytes.
//!
//! A runner seldom wants to know an element, only where it ends. So [`Coder::skip`] is the main
//! road: it walks encoded bytes by the shape of a coder and allocates nothing.
//! [`windowed_value::read_header`] takes the timestamp, windows and pane off the front of an element,
//! and [`Timer`] takes a timer apart, both leaving user data encoded. [`Value`] with
//! [`Coder::encode`] and [`Coder::decode`] is for tests and for people: it understands every
//! element of every coder here, at the price of allocation.
//!
//! [`Coder::from_proto`] turns the coder table of a pipeline into a [`Coder`]. A coder with a URN
//! that is not standard becomes [`Coder::Opaque`]; only the SDK that wrote it can read its elements.
//!
//! All input is taken to be hostile: it is refused with a [`CoderError`], never with a panic.

mod coder;
mod decode;
mod encode;
mod error;
mod pane;
mod reader;
mod resolve;
mod schema;
mod skip;
mod timer;
mod value;
pub mod varint;
mod window;
pub mod windowed_value;

pub use coder::{Coder, Context};
pub use error::CoderError;
pub use pane::{PaneInfo, Timing};
pub use schema::{FieldType, FieldTypeInfo, RowSchema, SchemaField};
pub use timer::{Timer, TimerAction};
pub use value::{TimerFiring, Value};
pub use window::IntervalWindow;

//! Answers in pages: a page is about [`PAGE_BYTES`] of whole elements, and a token says where the next begins.

use bytes::Bytes;

use crate::fault::Fault;
use crate::ports::StatePage;

/// A page ends when it holds so many bytes. Small in tests, so that they see many pages.
pub(super) const PAGE_BYTES: usize = if cfg!(test) { 32 } else { 1 << 20 };

/// Whole encoded elements.
pub(super) enum Part<'a> {
    Page(&'a Bytes),
    Slice(&'a [u8]),
    Made(Vec<u8>),
}

impl<'a> Part<'a> {
    /// What of a part that begins at `place` is at `from` or after it, and where that begins; nothing if it ends
    /// before.
    pub(super) fn after(self, from: u64, place: u64) -> Option<(u64, Self)> {
        let Some(before) = from.checked_sub(place).filter(|before| *before > 0) else {
            return Some((place, self));
        };
        let rest = self.as_slice().get(usize::try_from(before).ok()?..).filter(|rest| !rest.is_empty())?;
        Some((from, Self::Made(rest.to_vec())))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Page(page) => page,
            Self::Slice(slice) => slice,
            Self::Made(made) => made,
        }
    }
}

/// The page that begins with the first of `parts`. Each comes with its place, which `token` writes down.
///
/// Errors: those of the parts.
pub(super) fn page<'a, P>(
    parts: impl Iterator<Item = Result<(P, Part<'a>), Fault>>,
    token: impl FnOnce(P) -> Bytes,
) -> Result<StatePage, Fault> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for part in parts {
        let (place, part) = part?;
        if bytes >= PAGE_BYTES {
            return Ok(StatePage { data: join(taken, bytes), continuation: token(place) });
        }
        bytes += part.as_slice().len();
        taken.push(part);
    }
    Ok(StatePage { data: join(taken, bytes), continuation: Bytes::new() })
}

/// A single part is not copied if that can be helped.
fn join(mut parts: Vec<Part<'_>>, bytes: usize) -> Bytes {
    if parts.len() == 1
        && let Some(part) = parts.pop()
    {
        return match part {
            Part::Page(page) => page.clone(),
            Part::Slice(slice) => Bytes::copy_from_slice(slice),
            Part::Made(made) => made.into(),
        };
    }
    let mut joined = Vec::with_capacity(bytes);
    parts.iter().for_each(|part| joined.extend_from_slice(part.as_slice()));
    joined.into()
}

/// A token that was never given out, or for a value that was cleared since.
pub(super) fn bad_token() -> Fault {
    Fault::environment("a worker asked for a page of its state that there is not")
}

//! Answers in pages: a page is about [`PAGE_BYTES`] of whole elements, and a token says where the next begins.

use std::borrow::Cow;

use bytes::Bytes;

use crate::fault::Fault;
use crate::ports::{StatePage, StoredBlock};

/// A page ends when it holds so many bytes. Small in tests, so that they see many pages.
pub(super) const PAGE_BYTES: usize = if cfg!(test) { 32 } else { 1 << 20 };

/// Whole encoded elements.
pub(super) enum Part<'a> {
    Page(&'a StoredBlock),
    Slice(&'a [u8]),
    Made(Vec<u8>),
}

impl<'a> Part<'a> {
    /// What of a part that begins at `place` is at `from` or after it, and where that begins; nothing if it ends
    /// before.
    ///
    /// Errors: it cannot be read back.
    pub(super) fn after(self, from: u64, place: u64) -> Result<Option<(u64, Self)>, Fault> {
        let Some(before) = from.checked_sub(place).filter(|before| *before > 0) else {
            return Ok(Some((place, self)));
        };
        if before >= self.len() {
            return Ok(None);
        }
        let data = self.read()?;
        let rest = usize::try_from(before).ok().and_then(|before| data.get(before..));
        Ok(rest.map(|rest| (from, Self::Made(rest.to_vec()))))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Page(page) => page.len(),
            Self::Slice(slice) => slice.len() as u64,
            Self::Made(made) => made.len() as u64,
        }
    }

    /// Errors: it cannot be read back.
    pub(super) fn read(&self) -> Result<Cow<'_, [u8]>, Fault> {
        Ok(match self {
            Self::Page(page) => Cow::Owned(page.read()?.into()),
            Self::Slice(slice) => Cow::Borrowed(slice),
            Self::Made(made) => Cow::Borrowed(made),
        })
    }

    /// Errors: it cannot be read back.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) -> Result<(), Fault> {
        match self {
            Self::Page(page) => out.extend_from_slice(&page.read()?),
            Self::Slice(slice) => out.extend_from_slice(slice),
            Self::Made(made) => out.extend_from_slice(made),
        }
        Ok(())
    }
}

/// The page that begins with the first of `parts`. Each comes with its place, which `token` writes down.
///
/// Errors: those of the parts, or one cannot be read back.
pub(super) fn page<'a, P>(
    parts: impl Iterator<Item = Result<(P, Part<'a>), Fault>>,
    token: impl FnOnce(P) -> Bytes,
) -> Result<StatePage, Fault> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for part in parts {
        let (place, part) = part?;
        if bytes >= PAGE_BYTES as u64 {
            return Ok(StatePage { data: join(taken, bytes)?, continuation: token(place) });
        }
        bytes += part.len();
        taken.push(part);
    }
    Ok(StatePage { data: join(taken, bytes)?, continuation: Bytes::new() })
}

/// A single part is not copied if that can be helped.
fn join(mut parts: Vec<Part<'_>>, bytes: u64) -> Result<Bytes, Fault> {
    if parts.len() == 1
        && let Some(part) = parts.pop()
    {
        return match part {
            Part::Page(page) => page.read(),
            Part::Slice(slice) => Ok(Bytes::copy_from_slice(slice)),
            Part::Made(made) => Ok(made.into()),
        };
    }
    let mut joined = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    parts.iter().try_for_each(|part| part.append_to(&mut joined))?;
    Ok(joined.into())
}

/// A token that was never given out, or for a value that was cleared since.
pub(super) fn bad_token() -> Fault {
    Fault::environment("a worker asked for a page of its state that there is not")
}

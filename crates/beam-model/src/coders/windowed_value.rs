//! The front of a windowed value: timestamp, windows and pane, taken off and put on without
//! touching the value behind it.
//!
//! `beam:coder:windowed_value:v1`: eight bytes of timestamp, the windows as an iterable, the pane,
//! then the value.

use bytes::BufMut;

use super::pane::PaneInfo;
use super::reader::Reader;
use super::skip::{Chunk, Count, read_chunk, read_count, skip_elements};
use super::{Coder, CoderError, Context};
use crate::time::EventTime;

/// Timestamp, windows and pane of an element, as slices of its encoding.
#[derive(Clone, Debug)]
pub struct WindowedHeader<'a> {
    /// Event time of the element.
    pub timestamp: EventTime,
    /// The windows the element is in, encoded.
    pub windows: Windows<'a>,
    /// The pane, encoded. [`WindowedHeader::pane_info`] reads it.
    pub pane: &'a [u8],
    /// Bytes the header takes: the value begins there.
    pub header_len: usize,
}

impl WindowedHeader<'_> {
    /// The pane, decoded.
    ///
    /// # Errors
    /// Not for a header that [`read_header`] returned, since that has read the pane once.
    pub fn pane_info(&self) -> Result<PaneInfo, CoderError> {
        PaneInfo::read(self.pane).map(|(pane, _)| pane)
    }
}

/// Encoded windows, side by side.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    len: usize,
    layout: Layout<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Layout<'a> {
    /// One window, of which no more need be known.
    Single(&'a [u8]),
    /// Any number of windows without anything between them.
    Adjacent { coder: &'a Coder, encoded: &'a [u8] },
    /// Windows in chunks, each after its count.
    Chunked { coder: &'a Coder, encoded: &'a [u8] },
}

impl<'a> Windows<'a> {
    /// A single window, encoded.
    pub fn single(encoded: &'a [u8]) -> Self {
        Self { len: 1, layout: Layout::Single(encoded) }
    }

    /// How many windows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, and the element thus is in no window at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The window, where there is exactly one.
    pub fn as_single(&self) -> Option<&'a [u8]> {
        if self.len == 1 { self.iter().next() } else { None }
    }

    /// Each window's encoding.
    pub fn iter(&self) -> WindowIter<'a> {
        let (coder, rest, in_chunk) = match self.layout {
            Layout::Single(encoded) => (None, encoded, self.len),
            Layout::Adjacent { coder, encoded } => (Some(coder), encoded, self.len),
            Layout::Chunked { coder, encoded } => (Some(coder), encoded, 0),
        };
        WindowIter { coder, reader: Reader::new(rest), in_chunk: in_chunk as u64, left: self.len }
    }

    /// Appends the windows to `out`, their count before them.
    ///
    /// # Errors
    /// If there are more than `i32::MAX` windows, for which there is no encoding.
    pub fn write(&self, out: &mut impl BufMut) -> Result<(), CoderError> {
        write_windows(out, self.iter())
    }

    /// Reads an iterable of windows.
    pub(super) fn read_from(coder: &'a Coder, reader: &mut Reader<'a>) -> Result<Self, CoderError> {
        let mut ahead = reader.clone();
        let count = read_count(&mut ahead)?;
        let (len, start) = match count {
            Count::Known(count) => (count as usize, ahead.rest()),
            Count::Chunked => (count_chunked(coder, ahead.clone())?, ahead.rest()),
        };
        skip_elements(coder, reader)?;
        // A coder of no bytes has one window only. Thirteen bytes must not stand for 2^31 elements.
        if len > 1 && coder.fixed_width() == Some(0) {
            return Err(CoderError::Malformed { what: "windows", reason: "there are many of the same" });
        }
        let encoded_len = start.len() - reader.rest().len();
        let encoded = start.get(..encoded_len).unwrap_or_default();
        let layout = match count {
            Count::Known(1) => Layout::Single(encoded),
            Count::Known(_) => Layout::Adjacent { coder, encoded },
            Count::Chunked => Layout::Chunked { coder, encoded },
        };
        Ok(Self { len, layout })
    }
}

impl<'a> IntoIterator for &Windows<'a> {
    type IntoIter = WindowIter<'a>;
    type Item = &'a [u8];

    fn into_iter(self) -> WindowIter<'a> {
        self.iter()
    }
}

/// Adds up the counts of the chunks at the front of `reader`.
fn count_chunked(coder: &Coder, mut reader: Reader<'_>) -> Result<usize, CoderError> {
    let mut total = 0_u64;
    loop {
        match read_chunk(&mut reader)? {
            Chunk::Elements(count) => {
                coder.skip_many(count, &mut reader)?;
                total = total.saturating_add(count);
            }
            Chunk::End | Chunk::StateToken => return Ok(usize::try_from(total).unwrap_or(usize::MAX)),
        }
    }
}

/// The encoding of one window after the other.
#[derive(Clone, Debug)]
pub struct WindowIter<'a> {
    /// Tells where a window ends; none where the window is all there is.
    coder: Option<&'a Coder>,
    reader: Reader<'a>,
    in_chunk: u64,
    left: usize,
}

impl<'a> WindowIter<'a> {
    /// The windows have been skipped over once, so that nothing fails here.
    fn read_next(&mut self) -> Result<&'a [u8], CoderError> {
        let Some(coder) = self.coder else { return Ok(self.reader.take_all()) };
        while self.in_chunk == 0 {
            match read_chunk(&mut self.reader)? {
                Chunk::Elements(count) => self.in_chunk = count,
                Chunk::End | Chunk::StateToken => return Err(super::skip::unexpected_token()),
            }
        }
        self.in_chunk -= 1;
        let rest = self.reader.rest();
        coder.skip_from(Context::Nested, &mut self.reader)?;
        Ok(rest.get(..rest.len() - self.reader.rest().len()).unwrap_or_default())
    }
}

impl<'a> Iterator for WindowIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        self.read_next().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for WindowIter<'_> {}

/// Reads the header of a windowed value off the front of `input`; the value begins at its
/// `header_len`. `window` is the coder of the windows.
///
/// # Errors
/// If the input ends within the header, a window does not fit its coder, or the window coder is one
/// that only the SDK knows.
pub fn read_header<'a>(window: &'a Coder, input: &'a [u8]) -> Result<WindowedHeader<'a>, CoderError> {
    let mut reader = Reader::new(input);
    let timestamp = reader.event_time("windowed value")?;
    let windows = Windows::read_from(window, &mut reader)?;
    let before_pane = reader.rest();
    PaneInfo::skip(&mut reader)?;
    let pane = before_pane.get(..before_pane.len() - reader.rest().len()).unwrap_or_default();
    Ok(WindowedHeader { timestamp, windows, pane, header_len: reader.consumed() })
}

/// Appends the header of a windowed value to `out`: the value may follow. `windows` and `pane` are
/// encoded.
///
/// # Errors
/// If there are more than `i32::MAX` windows, for which there is no encoding.
pub fn write_header<'w, I>(
    out: &mut impl BufMut,
    timestamp: EventTime,
    windows: I,
    pane: &[u8],
) -> Result<(), CoderError>
where
    I: IntoIterator<Item = &'w [u8], IntoIter: ExactSizeIterator>,
{
    timestamp.write(out);
    write_windows(out, windows)?;
    out.put_slice(pane);
    Ok(())
}

/// Appends encoded windows to `out`, their count before them.
pub(super) fn write_windows<'w, I>(out: &mut impl BufMut, windows: I) -> Result<(), CoderError>
where
    I: IntoIterator<Item = &'w [u8], IntoIter: ExactSizeIterator>,
{
    let windows = windows.into_iter();
    let count = i32::try_from(windows.len())
        .map_err(|_| CoderError::Malformed { what: "windows", reason: "there are more than 2^31 - 1" })?;
    out.put_i32(count);
    for window in windows {
        out.put_slice(window);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coders::IntervalWindow;

    fn interval(start: i64, end: i64) -> Vec<u8> {
        let mut out = Vec::new();
        IntervalWindow { start: EventTime(start), end: EventTime(end) }.write(&mut out);
        out
    }

    #[test]
    fn a_header_is_read_as_written() {
        let all = [interval(0, 10), interval(5, 1000), interval(-7, 0)];
        for count in 0..=all.len() {
            let windows: Vec<&[u8]> = all[..count].iter().map(Vec::as_slice).collect();
            let mut out = Vec::new();
            let pane = PaneInfo::NO_FIRING_ENCODED;
            write_header(&mut out, EventTime(42), windows.iter().copied(), pane).unwrap();
            let header_len = out.len();
            out.extend_from_slice(b"value");

            let header = read_header(&Coder::IntervalWindow, &out).unwrap();
            assert_eq!(header.timestamp, EventTime(42));
            assert_eq!(header.windows.len(), count);
            assert_eq!(header.windows.iter().collect::<Vec<_>>(), windows);
            assert_eq!(header.windows.as_single(), (count == 1).then(|| windows[0]));
            assert_eq!(header.pane_info(), Ok(PaneInfo::NO_FIRING));
            assert_eq!(header.header_len, header_len);

            for end in 0..header_len {
                assert!(read_header(&Coder::IntervalWindow, &out[..end]).is_err());
            }
        }
    }

    #[test]
    fn windows_may_come_in_chunks() {
        let (a, b, c) = (interval(0, 10), interval(10, 20), interval(20, 30));
        let mut out = EventTime(1).to_bytes().to_vec();
        out.extend_from_slice(&[0xFF; 4]);
        out.push(2);
        out.extend_from_slice(&a);
        out.extend_from_slice(&b);
        out.push(1);
        out.extend_from_slice(&c);
        out.push(0);
        out.push(0x0F);
        let header = read_header(&Coder::IntervalWindow, &out).unwrap();
        assert_eq!(header.windows.len(), 3);
        assert_eq!(header.windows.iter().collect::<Vec<_>>(), [&a[..], &b, &c]);
        assert_eq!(header.header_len, out.len());

        let mut again = Vec::new();
        header.windows.write(&mut again).unwrap();
        assert_eq!(again, [&[0, 0, 0, 3], &a[..], &b, &c].concat());
    }

    #[test]
    fn the_global_window_takes_no_bytes() {
        let mut out = Vec::new();
        write_header(&mut out, EventTime(3), [&[][..]], PaneInfo::NO_FIRING_ENCODED).unwrap();
        assert_eq!(out.len(), 13);
        let header = read_header(&Coder::GlobalWindow, &out).unwrap();
        assert_eq!(header.windows.as_single(), Some(&[][..]));
    }

    #[test]
    fn a_hostile_count_of_global_windows_is_refused() {
        let mut out = EventTime(3).to_bytes().to_vec();
        out.extend_from_slice(&i32::MAX.to_be_bytes());
        out.push(0x0F);
        let error = read_header(&Coder::GlobalWindow, &out).unwrap_err();
        assert!(matches!(error, CoderError::Malformed { what: "windows", .. }), "{error}");
        let iterable = Coder::Iterable(Box::new(Coder::GlobalWindow));
        assert_eq!(iterable.skip(&out[8..]), Ok(4));
        assert!(iterable.decode_prefix(&out[8..]).is_err());
    }

    #[test]
    fn windows_only_the_sdk_knows_are_refused() {
        let coder = Coder::Opaque { urn: "my:coder".into() };
        let mut out = EventTime(3).to_bytes().to_vec();
        out.extend_from_slice(&[0, 0, 0, 1, 9, 0x0F]);
        assert_eq!(read_header(&coder, &out).unwrap_err(), CoderError::Opaque { urn: "my:coder".into() });
    }
}

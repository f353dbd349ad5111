//! Grouping of an unbounded input: panes fire as triggers say.
//!
//! Triggers are asked after each element, or when all of a bundle is in, by [`Asked`]; then when the watermark passes the
//! end of the window or its expiry, and when the processing time that they wait for has come. Of a key whose windows the
//! SDK merges they are asked when it has.
//!
//! Values go to disk when memory is short, those of the keys and windows that have most in memory first, and come back when a
//! pane that has them is taken. All else that is known of a key and window stays in memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use beam_model::coders::CoderError;
use beam_model::coders::windowed_value::read_header;
use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;

use super::buffers::{Buffers, Tally};
use super::cell::{Arrival, Cell, Expiry, Rules, WindowEnd};
use super::fired::{Fired, FiredBlocks, Of};
use super::index::{Entry, Index};
use super::keys::{KeyId, Keys};
use super::pane::Watermarks;
use super::room::Room;
use super::trigger::When;
use super::{Merged, Window, malformed, sessions};
use crate::fault::Fault;
use crate::metrics::Dropped;
use crate::plan::{Asked, Grain, Grouping, Merging};

pub(super) struct Unbounded {
    grouping: Arc<Grouping>,
    rules: Rules,
    keys: Keys,
    index: Index,
    watermarks: Watermarks,
    now: ProcessingTime,
    /// A bundle is being added.
    adding: bool,
    /// What the block that is being added has changed.
    touched: Vec<(KeyId, Window)>,
    /// Keys with windows that only the SDK can merge and has not been asked to. They do not fire.
    unmerged: BTreeSet<KeyId>,
    fired: Fired,
    /// What the cells of `keys` take.
    tally: Tally,
    room: Room,
    of: Of,
    pub(super) dropped: Dropped,
}

impl Unbounded {
    pub(super) fn new(grouping: Grouping, room: Room, of: Of) -> Self {
        Self {
            rules: Rules::new(&grouping.firing),
            grouping: Arc::new(grouping),
            keys: Keys::default(),
            index: Index::default(),
            watermarks: Watermarks { input: EventTime::MIN, output: EventTime::MIN },
            now: ProcessingTime::MIN,
            adding: false,
            touched: Vec::new(),
            unmerged: BTreeSet::new(),
            fired: Fired::default(),
            tally: Tally::default(),
            room,
            of,
            dropped: Dropped::default(),
        }
    }

    /// `blocks`: all of one bundle.
    pub(super) fn add(
        &mut self,
        blocks: impl Iterator<Item = Result<Bytes, Fault>>,
        now: ProcessingTime,
    ) -> Result<(), Fault> {
        self.now = self.now.max(now);
        self.adding = true;
        for block in blocks {
            self.add_block(&block?)?;
        }
        self.adding = false;
        for (key, window) in std::mem::take(&mut self.touched) {
            let cell = self.keys.get(key).and_then(|keyed| keyed.windows.get(&window));
            // It is not there if another element of the block has merged it away.
            if cell.is_some_and(|cell| cell.touched) {
                self.evaluate(key, &window)?;
            }
        }
        self.settle();
        Ok(())
    }

    fn add_block(&mut self, block: &Bytes) -> Result<(), Fault> {
        let grouping = self.grouping.clone();
        let mut rest: &[u8] = block;
        let mut unsettled = 0;
        while !rest.is_empty() {
            let fired = self.fired.in_memory();
            let len = self.add_element(&grouping, rest).map_err(|error| malformed(&self.of.name, error))?;
            rest = &rest[len..];
            // Panes that accumulate may have copies of much more than has come.
            unsettled += len + self.fired.in_memory().saturating_sub(fired);
            if unsettled >= self.room.sizes.chunk {
                self.make_room()?;
                unsettled = 0;
            }
        }
        self.make_room()
    }

    /// Keeps within the memory that there is.
    fn make_room(&mut self) -> Result<(), Fault> {
        let Self { keys, fired, tally, room, .. } = self;
        room.settle(&mut Buffers::new(keys, fired, tally))
    }

    fn add_element(&mut self, grouping: &Grouping, element: &[u8]) -> Result<usize, CoderError> {
        let header = read_header(&grouping.window_coder, element)?;
        let key_start = header.header_len;
        let value_start = key_start + grouping.key_coder.skip(&element[key_start..])?;
        let end = value_start + grouping.value_coder.skip(&element[value_start..])?;
        let key = &element[key_start..value_start];
        let arrival = Arrival { value: &element[value_start..end], timestamp: header.timestamp };
        for window in header.windows.iter() {
            if self.window_end(window).expiry(&self.rules.firing) < self.watermarks.input {
                self.dropped.late += 1;
                continue;
            }
            let id = self.keys.id(key);
            if !self.add_to_known(id, window, arrival)? {
                let window = self.open(id, window)?;
                self.add_to_known(id, &window, arrival)?;
            }
        }
        Ok(end)
    }

    /// Adds to a window if the key has it, and fires the pane that the element completes.
    fn add_to_known(&mut self, id: KeyId, window: &[u8], arrival: Arrival<'_>) -> Result<bool, CoderError> {
        let end = self.window_end(window);
        let when = self.when(end);
        let Some(keyed) = self.keys.get_mut(id) else { return Ok(false) };
        let Some(cell) = keyed.windows.get_mut(window) else { return Ok(false) };
        if cell.is_closed() {
            self.dropped.closed += 1;
            return Ok(true);
        }
        self.tally.remove(cell);
        cell.add(arrival, self.watermarks.output, end, self.grouping.output_time);
        self.tally.add(cell);
        if !std::mem::replace(&mut cell.touched, true) {
            self.touched.push((id, window.into()));
        }
        let each = self.grouping.asked == Asked::AfterEachElement;
        if each && !self.unmerged.contains(&id) && cell.is_ready(&self.rules, &when) {
            self.fire(id, &window.into())?;
        }
        Ok(true)
    }

    /// Makes room for the first element of a window, and returns the window that it then is in.
    fn open(&mut self, id: KeyId, window: &[u8]) -> Result<Window, CoderError> {
        let Some(keyed) = self.keys.get_mut(id) else { return Ok(window.into()) };
        let mut open = || {
            let cell = Cell::default();
            self.tally.add(&cell);
            cell
        };
        match self.grouping.merging {
            Merging::Never => {
                keyed.windows.insert(window.into(), open());
                Ok(window.into())
            }
            Merging::BySdk(_) => {
                keyed.windows.insert(window.into(), open());
                if keyed.windows.len() > 1 {
                    self.unmerged.insert(id);
                }
                Ok(window.into())
            }
            Merging::Sessions => {
                let sessions::Merge { result, parts } = sessions::merge(&keyed.windows, window)?;
                if parts.is_empty() {
                    keyed.windows.entry(result.clone()).or_insert_with(open);
                } else if parts.as_slice() != std::slice::from_ref(&result) {
                    self.merge(id, &parts, &result);
                }
                Ok(result)
            }
        }
    }

    /// Replaces windows of a key by one.
    fn merge(&mut self, id: KeyId, parts: &[Window], result: &Window) {
        let end = self.window_end(result);
        let when = self.when(end);
        let Some(keyed) = self.keys.get_mut(id) else { return };
        let kept = keyed.windows.remove(result);
        let mut merged: Option<Cell> = None;
        if let Some(mut cell) = kept {
            self.tally.remove(&cell);
            self.index.set(id, result, &mut cell.entry, Entry::default());
            merged = Some(cell);
        }
        for part in parts {
            let Some(mut cell) = keyed.windows.remove(part) else { continue };
            self.tally.remove(&cell);
            self.index.set(id, part, &mut cell.entry, Entry::default());
            match &mut merged {
                Some(merged) => merged.absorb(cell, self.grouping.output_time),
                None => {
                    // Those before it were panes of another window.
                    cell.forget_panes();
                    merged = Some(cell);
                }
            }
        }
        let Some(mut cell) = merged else { return };
        self.dropped.closed += u64::from(cell.window_changed(&when));
        // Also if nothing is added to it, because it is closed: it is in the index no more.
        cell.touched = true;
        self.touched.push((id, result.clone()));
        self.tally.add(&cell);
        keyed.windows.insert(result.clone(), cell);
    }

    /// Fires a window's next pane if it is due, and sees to when it is to be looked at again.
    fn evaluate(&mut self, id: KeyId, window: &Window) -> Result<(), Fault> {
        self.fire(id, window).map_err(|error| malformed(&self.of.name, error))?;
        self.make_room()
    }

    fn fire(&mut self, id: KeyId, window: &Window) -> Result<(), CoderError> {
        let end = self.window_end(window);
        let when = self.when(end);
        let Some(keyed) = self.keys.get_mut(id) else { return Ok(()) };
        let Some(cell) = keyed.windows.get_mut(window) else { return Ok(()) };
        let (firing, combine) = (&self.rules.firing, self.grouping.output_time);
        let expiry = end.expiry(firing);
        let expires = if expiry < self.watermarks.input { Expiry::Now } else { Expiry::Later };
        let unmerged = self.unmerged.contains(&id);
        self.tally.remove(cell);
        cell.touched = false;
        if !unmerged {
            if let Some(pane) = cell.fire(&self.rules, &when, self.watermarks, expires) {
                let time = cell.time(end, combine);
                let values = cell.fired(pane, firing.accumulation_mode);
                self.fired.push(time, window, &pane, &keyed.key, values)?;
            }
            if expires == Expiry::Now {
                self.index.set(id, window, &mut cell.entry, Entry::default());
                keyed.windows.remove(window);
                self.keys.remove_if_empty(id);
                return Ok(());
            }
        }
        let next = if when.is_past_end_of_window() || cell.is_closed() { expiry } else { end.time() };
        let entry = Entry {
            // A key that waits for the SDK is looked at when it has been merged.
            watermark: (!unmerged).then_some(next),
            clock: if unmerged { None } else { cell.wake(&when) },
            hold: cell.hold(&self.rules, &when, end, combine),
        };
        self.tally.add(cell);
        self.index.set(id, window, &mut cell.entry, entry);
        Ok(())
    }

    pub(super) fn advance_watermark(&mut self, watermark: EventTime) -> Result<(), Fault> {
        self.watermarks.input = self.watermarks.input.max(watermark);
        while let Some((key, window)) = self.index.pop_before(self.watermarks.input) {
            self.popped(key, &window, |entry| entry.watermark = None)?;
        }
        self.settle();
        Ok(())
    }

    pub(super) fn advance_processing_time(&mut self, now: ProcessingTime) -> Result<(), Fault> {
        self.now = self.now.max(now);
        while let Some((key, window)) = self.index.pop_due(self.now) {
            self.popped(key, &window, |entry| entry.clock = None)?;
        }
        self.settle();
        Ok(())
    }

    /// Looks at a window that the index no longer has where it had it.
    fn popped(&mut self, key: KeyId, window: &Window, forget: impl FnOnce(&mut Entry)) -> Result<(), Fault> {
        let cell = self.keys.get_mut(key).and_then(|keyed| keyed.windows.get_mut(window));
        if let Some(cell) = cell {
            forget(&mut cell.entry);
        }
        self.evaluate(key, window)
    }

    /// What has changed may let the output watermark go on.
    fn settle(&mut self) {
        let Watermarks { input, output } = self.watermarks;
        self.watermarks.output = output.max(input.min(self.index.hold()));
    }

    pub(super) fn hold(&self) -> EventTime {
        self.index.hold()
    }

    pub(super) fn next_wake(&self) -> Option<ProcessingTime> {
        self.index.next_wake()
    }

    pub(super) fn windows_to_merge(&self) -> Vec<Vec<Window>> {
        let keys = self.unmerged.iter().filter_map(|id| self.keys.get(*id));
        let mut sets: Vec<Vec<Window>> = keys.map(|keyed| keyed.windows.keys().cloned().collect()).collect();
        sets.sort();
        sets.dedup();
        sets
    }

    pub(super) fn merge_windows(&mut self, answers: &HashMap<Vec<Window>, Merged>) -> Result<(), Fault> {
        for id in self.unmerged.clone() {
            let Some(keyed) = self.keys.get(id) else { continue };
            let set: Vec<Window> = keyed.windows.keys().cloned().collect();
            // A set that nobody has asked about has come since.
            let Some(merged) = answers.get(&set) else { continue };
            self.unmerged.remove(&id);
            let mut results: Vec<&Window> = merged.values().collect();
            results.sort();
            results.dedup();
            for result in results {
                let parts = set.iter().filter(|part| merged.get(*part) == Some(result));
                let parts: Vec<Window> = parts.filter(|part| *part != result).cloned().collect();
                if !parts.is_empty() {
                    self.merge(id, &parts, result);
                }
            }
            let windows = self.keys.get(id).map(|keyed| keyed.windows.keys().cloned().collect::<Vec<_>>());
            for window in windows.unwrap_or_default() {
                self.evaluate(id, &window)?;
            }
        }
        self.touched.clear();
        self.settle();
        Ok(())
    }

    fn window_end(&self, window: &[u8]) -> WindowEnd {
        let end = self.grouping.window_coder.max_timestamp_of_window(window);
        end.map_or(WindowEnd::Unknown, WindowEnd::Known)
    }

    fn when(&self, end: WindowEnd) -> When {
        When {
            watermark: self.watermarks.input,
            end_of_window: end.time(),
            now: self.now,
            more_to_come: self.adding,
        }
    }

    /// Bytes of the panes that have fired.
    pub(super) fn fired_len(&self) -> u64 {
        self.fired.len()
    }

    pub(super) fn take_panes(&mut self, grain: Grain) -> FiredBlocks {
        let blocks = self.fired.take(grain, Room::new(self.room.storage.clone()), self.of.clone());
        let Self { keys, fired, tally, room, .. } = self;
        room.count(&Buffers::new(keys, fired, tally));
        blocks
    }

    /// How many keys have anything buffered. Looks whether what all of them take has been kept count of.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        let mut tally = Tally::default();
        self.keys.windows().for_each(|(_, cell)| tally.add(cell));
        assert!(tally.is_same(&self.tally), "{tally:?} is not {:?}", self.tally);
        self.keys.len()
    }
}

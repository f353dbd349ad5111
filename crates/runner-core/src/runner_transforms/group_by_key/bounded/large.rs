//! Groups that are too large to be in memory together with anything else.

use beam_model::time::EventTime;
use bytes::Bytes;
use indexmap::IndexMap;

use super::super::{Merged, Pane, Window, malformed};
use super::blocks::{Blocks, Head};
use super::log::{AllLogs, Log};
use super::merge::{MergedWindow, merge};
use super::record::Records;
use super::split::{self, damaged};
use crate::fault::Fault;
use crate::plan::Merging;
use crate::ports::StoredBlock;

/// What is found in a log without keeping any of it.
struct Found {
    key: Bytes,
    windows: IndexMap<Window, InWindow>,
    /// There are others.
    other_keys: bool,
}

/// What a key has in one of its windows.
#[derive(Clone, Copy)]
struct InWindow {
    count: u64,
    /// Bytes of the values.
    len: u64,
    /// Bytes of the records.
    bytes: u64,
    time: EventTime,
}

impl Blocks {
    /// Makes groups of a log that cannot be divided by hashes: most likely it has one key, and one group unless windows merge.
    pub(super) fn process_large(&mut self, log: Log) -> Result<(), Fault> {
        let found = self.survey(&log)?;
        if found.other_keys {
            // Keys whose hashes are the same in all bits: there are none but by ill will.
            return self.group(log);
        }
        let windows: Vec<&[u8]> = found.windows.keys().map(|window| &**window).collect();
        let merged = merge(&self.how.grouping.merging, &self.how.merged, &windows);
        let merged = merged.map_err(|error| malformed(&self.how.name, error))?;
        match merged.as_slice() {
            [] => Ok(()),
            [one] => self.one_group(log, &found, one),
            several => self.divide(log, &found, several),
        }
    }

    fn survey(&self, log: &Log) -> Result<Found, Fault> {
        let mut found = Found { key: Bytes::new(), windows: IndexMap::new(), other_keys: false };
        let mut any = false;
        for chunk in log.read() {
            let chunk = chunk?;
            for record in Records::of(&chunk, self.how.kept.times) {
                let (_, record) = record.map_err(damaged)?;
                if !std::mem::replace(&mut any, true) {
                    found.key = Bytes::copy_from_slice(record.key);
                }
                found.other_keys |= found.key != record.key;
                let len = record.value.len() as u64;
                let known = match found.windows.get_mut(record.window) {
                    Some(known) => known,
                    None => {
                        let empty = InWindow { count: 0, len: 0, bytes: 0, time: record.time };
                        found.windows.entry(record.window.into()).or_insert(empty)
                    }
                };
                known.count += 1;
                known.len += len;
                known.bytes += record.most() as u64;
                known.time = self.how.grouping.output_time.of(known.time, record.time);
            }
        }
        Ok(found)
    }

    /// Divides the groups of one key: as many together as can be read into memory.
    fn divide(&mut self, log: Log, found: &Found, merged: &[MergedWindow]) -> Result<(), Fault> {
        let (mut part, mut filled) = (0, 0);
        let mut part_of_window = vec![0; found.windows.len()];
        for group in merged {
            let bytes: u64 = parts(found, group).map(|in_window| in_window.bytes).sum();
            if filled > 0 && filled + bytes > self.how.room.sizes.load {
                (part, filled) = (part + 1, 0);
            }
            filled += bytes;
            for index in &group.parts {
                if let Some(of_window) = part_of_window.get_mut(*index) {
                    *of_window = part;
                }
            }
        }
        let level = log.level;
        let part_of = |window: &[u8]| {
            let index = found.windows.get_index_of(window);
            index.and_then(|index| part_of_window.get(index).copied()).unwrap_or_default()
        };
        if part == 0 {
            return self.group(log);
        }
        self.answer_parts(found, merged, &part_of_window, part + 1);
        let logs = split::into(
            log,
            part + 1,
            level,
            self.how.kept,
            &mut self.how.room,
            &mut self.work,
            |record, _| part_of(record.window),
        )?;
        self.work.extend(logs.into_iter().filter(|log| log.bytes() > 0));
        Ok(())
    }

    /// What the SDK has said of all windows of a key, said of those that are in one part of it.
    fn answer_parts(
        &mut self,
        found: &Found,
        merged: &[MergedWindow],
        part_of_window: &[usize],
        parts: usize,
    ) {
        if !matches!(self.how.grouping.merging, Merging::BySdk(_)) {
            return;
        }
        let mut answers: Vec<Merged> = (0..parts).map(|_| Merged::new()).collect();
        for group in merged {
            for index in &group.parts {
                let window = found.windows.get_index(*index).map(|(window, _)| window.clone());
                let answer = part_of_window.get(*index).and_then(|part| answers.get_mut(*part));
                if let (Some(window), Some(answer)) = (window, answer) {
                    answer.insert(window, group.window.clone());
                }
            }
        }
        for answer in answers {
            let mut set: Vec<Window> = answer.keys().cloned().collect();
            set.sort();
            self.how.merged.insert(set, answer);
        }
    }

    /// Hands a group on: as it is, or with a token for its values, if those who read it know what to do with one.
    fn one_group(&mut self, log: Log, found: &Found, group: &MergedWindow) -> Result<(), Fault> {
        let count = parts(found, group).map(|in_window| in_window.count).sum();
        let len: u64 = parts(found, group).map(|in_window| in_window.len).sum();
        let times = parts(found, group).map(|in_window| in_window.time);
        let time = times.reduce(|a, b| self.how.grouping.output_time.of(a, b)).unwrap_or(EventTime::MIN);
        let head = Head { key: &found.key, window: &group.window, time };
        if let Some(iterables) = self.how.iterables.clone().filter(|_| len >= self.how.room.sizes.large_group)
        {
            let mut data = self.head_without_count(&head)?;
            let iterable = iterables.keep(self.pages(log)?);
            iterable.write(&mut data);
            self.push(Pane { data: data.into(), iterable: Some(iterable) });
            return Ok(());
        }
        let mut data = self.head(&head, count)?;
        let _reserved = self.how.room.reserve(len);
        self.how.room.settle(&mut AllLogs([&mut self.work]))?;
        data.reserve_exact(usize::try_from(len).unwrap_or_default());
        for chunk in log.take() {
            let chunk = chunk?;
            for record in Records::of(&chunk, self.how.kept.times) {
                data.extend_from_slice(record.map_err(damaged)?.1.value);
            }
        }
        self.push(Pane { data: data.into(), iterable: None });
        Ok(())
    }

    /// The values of a log, as they are read by workers.
    fn pages(&mut self, log: Log) -> Result<Vec<StoredBlock>, Fault> {
        let (mut pages, mut page) = (Vec::new(), Vec::new());
        for chunk in log.take() {
            let chunk = chunk?;
            for record in Records::of(&chunk, self.how.kept.times) {
                let (_, record) = record.map_err(damaged)?;
                if !page.is_empty() && page.len() + record.value.len() > self.how.room.sizes.block {
                    pages.push(self.how.room.storage.put(std::mem::take(&mut page).into())?);
                }
                page.extend_from_slice(record.value);
            }
            self.how.room.settle(&mut AllLogs([&mut self.work]))?;
        }
        if !page.is_empty() {
            pages.push(self.how.room.storage.put(page.into())?);
        }
        Ok(pages)
    }
}

fn parts<'a>(found: &'a Found, group: &'a MergedWindow) -> impl Iterator<Item = &'a InWindow> {
    group.parts.iter().filter_map(|index| found.windows.get_index(*index).map(|(_, in_window)| in_window))
}

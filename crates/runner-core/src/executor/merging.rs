//! Merging the windows of a bundle's elements with those that their keys have, before the bundle is run.
//!
//! All that comes of it is the bundle's own and is committed with it: state moves within its [`BundleState`],
//! timers by a [`TimerChange`], elements are handed to the worker in the windows that they are in then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::late::has_expired;
use super::timers::window_of;
use crate::engine::TimerChange;
use crate::fault::Fault;
use crate::plan::{Collection, CombineStage, KeyedStage, Merging};
use crate::ports::{StageBundleFactory, StateHandler, StateKey, Storage, StoredBlock};
use crate::runner_transforms::elements::{Elements, put_instead};
use crate::runner_transforms::group_by_key::{Merged, Window, merge_sessions};
use crate::runner_transforms::{malformed, merge_accumulators, merge_windows};
use crate::state::{BundleState, WindowMerge};

/// Merges the windows of one attempt of a bundle.
pub(super) struct Merger<'a> {
    pub(super) stage: &'a KeyedStage,
    pub(super) input: &'a Collection,
    pub(super) state: &'a BundleState,
    /// Windows that were over before this merge with nothing any more.
    pub(super) watermark: EventTime,
    /// Runs [`Merging::BySdk`].
    pub(super) workers: Option<&'a dyn StageBundleFactory>,
    pub(super) storage: &'a dyn Storage,
}

/// What a bundle is to be run with.
#[derive(Default)]
pub(super) struct MergedInput {
    pub(super) blocks: Vec<StoredBlock>,
    pub(super) timers: Vec<TimerChange>,
    /// Keys, and windows that some of theirs have become.
    pub(super) results: Vec<(Bytes, Bytes)>,
}

/// A key with windows that it did not have.
struct Grown {
    key: Bytes,
    active: HashSet<Bytes>,
    /// Those and the new ones, sorted.
    all: Vec<Window>,
}

/// By which windows those of a key are replaced.
type Replaced = HashMap<Bytes, HashMap<Bytes, Bytes>>;

impl Merger<'_> {
    /// Merges the windows of these elements' keys and hands the elements back in the merged ones. No element is
    /// in a window that has expired.
    pub(super) async fn merge(self, blocks: Vec<StoredBlock>) -> Result<MergedInput, Fault> {
        let grown = match self.stage.merging {
            Merging::Never => Vec::new(),
            Merging::Sessions | Merging::BySdk(_) => self.grown(&blocks)?,
        };
        let answers = self.answers(&grown).await?;
        let mut merged = MergedInput::default();
        let mut replaced = Replaced::new();
        for key in &grown {
            if let Some(answer) = answers.get(&key.all) {
                let windows = self.merge_key(key, answer, &mut merged)?;
                if !windows.is_empty() {
                    replaced.insert(key.key.clone(), windows);
                }
            }
        }
        merged.blocks = if replaced.is_empty() { blocks } else { self.replace(blocks, &replaced)? };
        Ok(merged)
    }

    fn grown(&self, blocks: &[StoredBlock]) -> Result<Vec<Grown>, Fault> {
        let mut of_elements: BTreeMap<Bytes, BTreeSet<Bytes>> = BTreeMap::new();
        for block in blocks {
            for element in Elements::new(self.input, block.read()?) {
                let element = element?;
                let key = Bytes::copy_from_slice(element.key()?);
                of_elements.entry(key).or_default().extend(element.windows()?);
            }
        }
        let grown = of_elements.into_iter().filter_map(|(key, windows)| {
            let mut active = self.state.active_windows(&key);
            active.retain(|window| !has_expired(self.stage, window, self.watermark));
            let active: HashSet<_> = active.into_iter().collect();
            // What a key has is merged already.
            if windows.iter().all(|window| active.contains(window)) {
                return None;
            }
            let mut all: Vec<Window> = active.union(&windows.into_iter().collect()).map(boxed).collect();
            all.sort();
            Some(Grown { key, active, all })
        });
        Ok(grown.collect())
    }

    /// What becomes of each set of windows.
    async fn answers(&self, grown: &[Grown]) -> Result<HashMap<Vec<Window>, Merged>, Fault> {
        let sets: BTreeSet<_> = grown.iter().map(|key| key.all.clone()).collect();
        // One window alone has nothing to merge with.
        let (alone, several): (Vec<_>, Vec<_>) = sets.into_iter().partition(|set| set.len() == 1);
        let mut answers: HashMap<_, _> = alone.into_iter().map(|set| (set, Merged::new())).collect();
        match &self.stage.merging {
            Merging::Never => {}
            Merging::Sessions => {
                for set in several {
                    let merged = merge_sessions(&set).map_err(|error| malformed(&self.input.id, error))?;
                    answers.insert(set, merged);
                }
            }
            Merging::BySdk(stage) => {
                let workers = self.workers.ok_or_else(|| {
                    Fault::runner(format!("no worker can merge the windows of {}", self.stage.transform))
                })?;
                let coder = &self.stage.window_coder;
                answers.extend(merge_windows::merge(stage, workers, coder, several).await?);
            }
        }
        Ok(answers)
    }

    /// Merges the state and timers of a key's windows. Returns the windows that are replaced, and by which.
    ///
    /// Errors: their state cannot be read back.
    fn merge_key(
        &self,
        key: &Grown,
        answer: &Merged,
        merged: &mut MergedInput,
    ) -> Result<HashMap<Bytes, Bytes>, Fault> {
        let mut in_order: Vec<Bytes> = key.all.iter().map(|it| Bytes::copy_from_slice(it)).collect();
        let end = |window: &Bytes| self.stage.window_coder.max_timestamp_of_window(window).ok();
        in_order.sort_by_cached_key(|window| (end(window), window.clone()));
        let target = |window: &Bytes| answer.get(&**window).map(|result| Bytes::copy_from_slice(result));
        let mut parts: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
        let mut replaced = HashMap::new();
        for window in in_order {
            let result = target(&window).unwrap_or_else(|| window.clone());
            if key.active.contains(&window) {
                parts.entry(result.clone()).or_default().push(window.clone());
            } else {
                parts.entry(result.clone()).or_default();
            }
            if result != window {
                replaced.insert(window, result);
            }
        }
        let mut merges = Vec::new();
        for (result, parts) in parts {
            if parts.is_empty() {
                self.state.open_window(&key.key, &result);
            } else if parts.as_slice() != std::slice::from_ref(&result) {
                merged.results.push((key.key.clone(), result.clone()));
                merged.timers.push(TimerChange::MergeWindows {
                    key: key.key.clone(),
                    parts: parts.iter().map(|part| window_of(self.stage, part)).collect(),
                    result: window_of(self.stage, &result),
                });
                merges.push(WindowMerge { parts, result });
            }
        }
        self.state.merge_windows(&key.key, &merges)?;
        Ok(replaced)
    }

    /// The elements in the windows that theirs have become.
    fn replace(&self, blocks: Vec<StoredBlock>, replaced: &Replaced) -> Result<Vec<StoredBlock>, Fault> {
        let replace =
            |block: StoredBlock| put_instead(&block, self.replace_in(block.read()?, replaced)?, self.storage);
        blocks.into_iter().map(replace).collect()
    }

    fn replace_in(&self, block: Bytes, replaced: &Replaced) -> Result<Bytes, Fault> {
        let mut out = Vec::with_capacity(block.len());
        for element in Elements::new(self.input, block) {
            let element = element?;
            let Some(replaced) = replaced.get(element.key()?) else {
                out.extend_from_slice(&element.data);
                continue;
            };
            let written = read_header(&self.input.window_coder, &element.data).and_then(|header| {
                let windows: Vec<&[u8]> =
                    header.windows.iter().map(|it| replaced.get(it).map_or(it, |result| result)).collect();
                write_header(&mut out, header.timestamp, windows, header.pane)?;
                out.extend_from_slice(&element.data[header.header_len..]);
                Ok(())
            });
            written.map_err(|error| malformed(&self.input.id, error))?;
        }
        Ok(out.into())
    }
}

/// Makes one accumulator of those that merging windows has left in a combining state, for SDKs that expect no more.
/// `merged`: keys, and windows that some of theirs have become.
pub(super) async fn combine_states<'a>(
    combines: impl Iterator<Item = (&'a CombineStage, &'a Arc<dyn StageBundleFactory>)>,
    state: &BundleState,
    merged: &[(Bytes, Bytes)],
) -> Result<(), Fault> {
    for (combine, workers) in combines {
        for (key, window) in merged {
            let of = StateKey::BagUserState {
                transform_id: combine.transform.clone(),
                state_id: combine.state_id.clone(),
                window: window.clone(),
                key: key.clone(),
            };
            let Some((count, accumulators)) = state.put_together(&of)? else { continue };
            let one = merge_accumulators::merge(combine, workers.as_ref(), count, &accumulators).await?;
            state.clear(&of)?;
            state.append(&of, one)?;
        }
    }
    Ok(())
}

fn boxed(window: &Bytes) -> Window {
    window.as_ref().into()
}

//! Answers the state requests of a stage's bundles.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::may_wait;
use crate::fault::Fault;
use crate::plan::{CollectionId, Stage};
use crate::ports::{CacheToken, StateHandler, StateKey, StatePage, Storage};
use crate::runner_transforms::iterables::Iterables;
use crate::runner_transforms::side_input::{Question, SideInputView};
use crate::state::{BundleState, CacheUse};

/// Everything that a bundle of a stage may ask for.
pub(super) struct StageState {
    pub(super) side_inputs: SideInputs,
    /// There if the stage has user state.
    pub(super) user: Option<Arc<BundleState>>,
    /// There if a worker may keep of that what it knows.
    pub(super) cache: Option<Arc<CacheUse>>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) iterables: Arc<Iterables>,
}

impl StageState {
    fn handler(&self, key: &StateKey) -> &dyn StateHandler {
        match (key, &self.user) {
            (
                StateKey::BagUserState { .. }
                | StateKey::MultimapUserState { .. }
                | StateKey::MultimapKeysUserState { .. }
                | StateKey::MultimapEntriesUserState { .. }
                | StateKey::OrderedListUserState { .. },
                Some(user),
            ) => user.as_ref(),
            _ => &self.side_inputs,
        }
    }
}

impl StateHandler for StageState {
    fn get(&self, key: &StateKey, continuation: &Bytes) -> Result<StatePage, Fault> {
        if let StateKey::Runner { key } = key {
            return self.iterables.get(key, continuation);
        }
        self.handler(key).get(key, continuation)
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), Fault> {
        self.handler(key).append(key, data)
    }

    fn clear(&self, key: &StateKey) -> Result<(), Fault> {
        self.handler(key).clear(key)
    }

    fn may_wait(&self) -> bool {
        may_wait(self.storage.as_ref(), 0, 0)
    }

    fn cache_tokens(&self, worker: &str) -> Vec<CacheToken> {
        let user = self.cache.iter().map(|cache| CacheToken::UserState { token: cache.token(worker) });
        self.side_inputs.cache_tokens().chain(user).collect()
    }
}

/// Side inputs that can be asked, as they are now.
#[derive(Default)]
pub(super) struct Views {
    views: HashMap<CollectionId, View>,
    published: u64,
}

/// What a side input has, and which of all that were ever published this is: it does not change any more, so that
/// workers may keep what they know of it.
#[derive(Clone)]
struct View {
    content: Arc<dyn SideInputView>,
    number: u64,
}

impl Views {
    /// From now on this is what the collection has.
    pub(super) fn publish(&mut self, collection: CollectionId, content: Arc<dyn SideInputView>) {
        self.published += 1;
        self.views.insert(collection, View { content, number: self.published });
    }
}

/// The side inputs of a stage, by transform and tag.
pub(super) struct SideInputs {
    by_tag: HashMap<String, HashMap<String, View>>,
    stage: String,
}

impl SideInputs {
    pub(super) fn new(stage: &Stage, ready: &Views) -> Self {
        let mut by_tag: HashMap<String, HashMap<String, View>> = HashMap::new();
        for side in &stage.side_inputs {
            if let Some(view) = ready.views.get(&side.collection) {
                by_tag.entry(side.transform.clone()).or_default().insert(side.tag.clone(), view.clone());
            }
        }
        Self { by_tag, stage: stage.spec.name.clone() }
    }

    fn view(&self, transform: &str, tag: &str) -> Result<&dyn SideInputView, Fault> {
        let view = self.by_tag.get(transform).and_then(|tags| tags.get(tag));
        view.map(|view| view.content.as_ref()).ok_or_else(|| {
            Fault::environment(format!(
                "{}: a worker asked for side input {tag:?} of {transform:?}, which it does not have",
                self.stage
            ))
        })
    }

    fn cache_tokens(&self) -> impl Iterator<Item = CacheToken> {
        self.by_tag.iter().flat_map(|(transform_id, tags)| {
            tags.iter().map(|(tag, view)| CacheToken::SideInput {
                transform_id: transform_id.clone(),
                side_input_id: tag.clone(),
                token: format!("side-input-{}", view.number).into(),
            })
        })
    }

    fn refuse<T>(&self, key: &StateKey) -> Result<T, Fault> {
        Err(Fault::environment(format!(
            "{}: a worker asked for state that its stage does not have: {key:?}",
            self.stage
        )))
    }
}

impl StateHandler for SideInputs {
    fn get(&self, key: &StateKey, continuation: &Bytes) -> Result<StatePage, Fault> {
        let (transform, tag, window, question) = match key {
            StateKey::IterableSideInput { transform_id, side_input_id, window } => {
                (transform_id, side_input_id, window, Question::Iterable)
            }
            StateKey::MultimapSideInput { transform_id, side_input_id, window, key } => {
                (transform_id, side_input_id, window, Question::ValuesOf(key))
            }
            StateKey::MultimapKeysSideInput { transform_id, side_input_id, window } => {
                (transform_id, side_input_id, window, Question::Keys)
            }
            StateKey::MultimapKeysValuesSideInput { transform_id, side_input_id, window } => {
                (transform_id, side_input_id, window, Question::KeysAndValues)
            }
            StateKey::Runner { .. }
            | StateKey::BagUserState { .. }
            | StateKey::MultimapUserState { .. }
            | StateKey::MultimapKeysUserState { .. }
            | StateKey::MultimapEntriesUserState { .. }
            | StateKey::OrderedListUserState { .. } => return self.refuse(key),
        };
        self.view(transform, tag)?.get(window, question, continuation)
    }

    fn append(&self, key: &StateKey, _data: Bytes) -> Result<(), Fault> {
        self.refuse(key)
    }

    fn clear(&self, key: &StateKey) -> Result<(), Fault> {
        self.refuse(key)
    }
}

//! Answers the state requests of a stage's bundles.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::fault::Fault;
use crate::plan::{CollectionId, Stage};
use crate::ports::{StateHandler, StateKey, StatePage};
use crate::runner_transforms::side_input::{Question, SideInputView};
use crate::state::BundleState;

/// Everything that a bundle of a stage may ask for.
pub(super) struct StageState {
    pub(super) side_inputs: SideInputs,
    /// There if the stage has user state.
    pub(super) user: Option<Arc<BundleState>>,
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
        self.handler(key).get(key, continuation)
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), Fault> {
        self.handler(key).append(key, data)
    }

    fn clear(&self, key: &StateKey) -> Result<(), Fault> {
        self.handler(key).clear(key)
    }
}

/// The side inputs of a stage, by transform and tag.
pub(super) struct SideInputs {
    by_tag: HashMap<String, HashMap<String, Arc<dyn SideInputView>>>,
    stage: String,
}

impl SideInputs {
    pub(super) fn new(stage: &Stage, ready: &HashMap<CollectionId, Arc<dyn SideInputView>>) -> Self {
        let mut by_tag: HashMap<String, HashMap<String, Arc<dyn SideInputView>>> = HashMap::new();
        for side in &stage.side_inputs {
            if let Some(view) = ready.get(&side.collection) {
                by_tag.entry(side.transform.clone()).or_default().insert(side.tag.clone(), view.clone());
            }
        }
        Self { by_tag, stage: stage.spec.name.clone() }
    }

    fn view(&self, transform: &str, tag: &str) -> Result<&dyn SideInputView, Fault> {
        let view = self.by_tag.get(transform).and_then(|tags| tags.get(tag));
        view.map(Arc::as_ref).ok_or_else(|| {
            Fault::environment(format!(
                "{}: a worker asked for side input {tag:?} of {transform:?}, which it does not have",
                self.stage
            ))
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

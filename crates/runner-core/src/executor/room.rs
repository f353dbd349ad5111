//! User state of keys that nobody asks for makes room for others, while bundles run.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::collectors;
use crate::fault::Fault;
use crate::state::StateStore;

/// How often it is looked whether user state has to make room. Whoever asks for some makes room anyway.
const ROOM_EVERY: Duration = Duration::from_millis(100);

/// Has state of keys that nobody asks for make room for others.
pub(super) async fn keep_room(store: Arc<StateStore>) -> Result<(), Fault> {
    if !store.is_limited() {
        return Ok(());
    }
    let mut watch = tokio::time::interval(ROOM_EVERY);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        watch.tick().await;
        if store.has_to_make_room() {
            let (storage, store) = (store.storage().clone(), store.clone());
            collectors::compute(storage.as_ref(), 0, move || store.make_room()).await?;
        }
    }
}

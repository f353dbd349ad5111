//! The protocol's `StateKey` in the executor's words.

use beam_model::fn_execution as wire;
use beam_model::fn_execution::state_key::Type;
use runner_core::ports::StateKey;

/// Errors: the request has no key, or one that came with a later version of the protocol.
pub(super) fn read(key: Option<wire::StateKey>) -> Result<StateKey, String> {
    let key = key.and_then(|key| key.r#type).ok_or("the state request has no key that is known here")?;
    Ok(match key {
        Type::Runner(key) => StateKey::Runner { key: key.key },
        Type::IterableSideInput(key) => StateKey::IterableSideInput {
            transform_id: key.transform_id,
            side_input_id: key.side_input_id,
            window: key.window,
        },
        Type::MultimapSideInput(key) => StateKey::MultimapSideInput {
            transform_id: key.transform_id,
            side_input_id: key.side_input_id,
            window: key.window,
            key: key.key,
        },
        Type::MultimapKeysSideInput(key) => StateKey::MultimapKeysSideInput {
            transform_id: key.transform_id,
            side_input_id: key.side_input_id,
            window: key.window,
        },
        Type::MultimapKeysValuesSideInput(key) => StateKey::MultimapKeysValuesSideInput {
            transform_id: key.transform_id,
            side_input_id: key.side_input_id,
            window: key.window,
        },
        Type::BagUserState(key) => StateKey::BagUserState {
            transform_id: key.transform_id,
            state_id: key.user_state_id,
            window: key.window,
            key: key.key,
        },
        Type::MultimapUserState(key) => StateKey::MultimapUserState {
            transform_id: key.transform_id,
            state_id: key.user_state_id,
            window: key.window,
            key: key.key,
            map_key: key.map_key,
        },
        Type::MultimapKeysUserState(key) => StateKey::MultimapKeysUserState {
            transform_id: key.transform_id,
            state_id: key.user_state_id,
            window: key.window,
            key: key.key,
        },
        Type::MultimapEntriesUserState(key) => StateKey::MultimapEntriesUserState {
            transform_id: key.transform_id,
            state_id: key.user_state_id,
            window: key.window,
            key: key.key,
        },
        Type::OrderedListUserState(key) => {
            // Without a range the whole list is meant.
            let (start, end) = key.range.map_or((i64::MIN, i64::MAX), |range| (range.start, range.end));
            StateKey::OrderedListUserState {
                transform_id: key.transform_id,
                state_id: key.user_state_id,
                window: key.window,
                key: key.key,
                start,
                end,
            }
        }
    })
}

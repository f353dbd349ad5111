//! Triggers that remember nothing.

use beam_model::time::ProcessingTime;

use super::{State, When};

/// `Default`: ready from the end of the window on, for ever.
#[derive(Clone, Debug)]
pub(in super::super) struct Default;

/// `Always`: ready whenever it is asked, for ever.
#[derive(Clone, Debug)]
pub(in super::super) struct Always;

/// `Never`: not ready; what has come is handed on as the window expires.
#[derive(Clone, Debug)]
pub(in super::super) struct Never;

macro_rules! without_state {
    ($trigger:ty, $is_ready:expr) => {
        impl State for $trigger {
            fn add(&mut self, _: u32, _: &When) {}
            fn should_fire(&self, when: &When) -> bool {
                let is_ready: fn(&When) -> bool = $is_ready;
                is_ready(when)
            }
            fn fire(&mut self, _: &When) {}
            fn is_finished(&self) -> bool {
                false
            }
            fn clear(&mut self) {}
            fn reset(&mut self) {}
            fn window_changed(&mut self, _: &When) {}
            fn wake(&self, _: ProcessingTime) -> Option<ProcessingTime> {
                None
            }
        }
    };
}

without_state!(Default, When::is_past_end_of_window);
without_state!(Always, |_| true);
without_state!(Never, |_| false);

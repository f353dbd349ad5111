//! When a GroupByKey hands on what it has: what a `WindowingStrategy` says besides its windows.

use beam_model::pipeline::trigger::Trigger as Proto;
use beam_model::pipeline::{
    self, WindowingStrategy, accumulation_mode, closing_behavior, on_time_behavior, timestamp_transform,
};

/// When panes fire, and what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Firing {
    pub trigger: Trigger,
    pub accumulation_mode: AccumulationMode,
    /// For how many milliseconds of event time after its end a window takes elements in.
    pub allowed_lateness: i64,
    pub closing_behavior: ClosingBehavior,
    pub on_time_behavior: OnTimeBehavior,
}

impl Default for Firing {
    fn default() -> Self {
        Self {
            trigger: Trigger::Default,
            accumulation_mode: AccumulationMode::Discarding,
            allowed_lateness: 0,
            closing_behavior: ClosingBehavior::EmitIfNonempty,
            on_time_behavior: OnTimeBehavior::FireAlways,
        }
    }
}

/// `AccumulationMode`: whether a pane has the elements of earlier ones too. There is no retracting: the
/// protocol has nothing that tells an SDK of a retraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccumulationMode {
    Discarding,
    Accumulating,
}

/// `ClosingBehavior`: whether a window that expires has a last pane even if it would be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosingBehavior {
    EmitAlways,
    EmitIfNonempty,
}

/// `OnTimeBehavior`: whether a trigger that waits for the end of the window fires there with an empty pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeBehavior {
    FireAlways,
    FireIfNonempty,
}

/// `Trigger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// At the end of the window, and whenever late elements come.
    Default,
    /// Not before the window expires.
    Never,
    /// With every bundle of elements.
    Always,
    /// At the end of the window; before it as often as `early` is ready, after it as often as `late` is.
    AfterEndOfWindow {
        early: Option<Box<Trigger>>,
        late: Option<Box<Trigger>>,
    },
    /// Once so many elements have come.
    ElementCount(u32),
    /// So long after the first element of a pane.
    AfterProcessingTime(Vec<TimestampTransform>),
    /// Once the producers' processing time has reached that of the arrival of a pane's first element. Elements come
    /// here when their bundle is done, so that it has as soon as all of them are in.
    AfterSynchronizedProcessingTime,
    AfterAll(Vec<Trigger>),
    AfterAny(Vec<Trigger>),
    AfterEach(Vec<Trigger>),
    Repeat(Box<Trigger>),
    OrFinally {
        main: Box<Trigger>,
        finally: Box<Trigger>,
    },
}

/// `TimestampTransform`, in milliseconds of processing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampTransform {
    Delay(i64),
    /// To the next whole period since `offset`.
    AlignTo {
        period: i64,
        offset: i64,
    },
}

/// Why a windowing strategy cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It breaks a rule of the model.
    #[error("{0}")]
    Invalid(String),
    /// It is good Beam that this runner cannot execute.
    #[error("{0}")]
    Unsupported(String),
}

impl Unfit {
    fn invalid<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self::Invalid(reason.into()))
    }
}

impl Firing {
    /// What a strategy asks for.
    ///
    /// Errors: a trigger that makes no sense, or something that this runner has not got.
    pub fn of(strategy: &WindowingStrategy) -> Result<Self, Unfit> {
        let accumulation_mode = match strategy.accumulation_mode() {
            accumulation_mode::Enum::Accumulating => AccumulationMode::Accumulating,
            accumulation_mode::Enum::Discarding | accumulation_mode::Enum::Unspecified => {
                AccumulationMode::Discarding
            }
            accumulation_mode::Enum::Retracting => {
                let reason = "groups with the accumulation mode RETRACTING, which Beam's protocol has no way \
                              to tell a worker of; use ACCUMULATING or DISCARDING";
                return Err(Unfit::Unsupported(reason.to_owned()));
            }
        };
        let closing_behavior = match strategy.closing_behavior() {
            closing_behavior::Enum::EmitAlways => ClosingBehavior::EmitAlways,
            closing_behavior::Enum::EmitIfNonempty | closing_behavior::Enum::Unspecified => {
                ClosingBehavior::EmitIfNonempty
            }
        };
        let on_time_behavior = match strategy.on_time_behavior() {
            on_time_behavior::Enum::FireIfNonempty => OnTimeBehavior::FireIfNonempty,
            on_time_behavior::Enum::FireAlways | on_time_behavior::Enum::Unspecified => {
                OnTimeBehavior::FireAlways
            }
        };
        let allowed_lateness = strategy.allowed_lateness;
        if allowed_lateness < 0 {
            return Unfit::invalid(format!("groups with an allowed lateness of {allowed_lateness} ms"));
        }
        let trigger = match &strategy.trigger {
            None => Trigger::Default,
            Some(trigger) => Trigger::of(trigger)?,
        };
        Ok(Self { trigger, accumulation_mode, allowed_lateness, closing_behavior, on_time_behavior })
    }
}

impl Trigger {
    fn of(trigger: &pipeline::Trigger) -> Result<Self, Unfit> {
        Ok(match &trigger.trigger {
            None => return Unfit::invalid("groups with a trigger that says nothing, or that is not known"),
            Some(Proto::Default(_)) => Self::Default,
            Some(Proto::Never(_)) => Self::Never,
            Some(Proto::Always(_)) => Self::Always,
            Some(Proto::AfterEndOfWindow(ends)) => Self::AfterEndOfWindow {
                early: ends.early_firings.as_deref().map(Self::boxed).transpose()?,
                late: ends.late_firings.as_deref().map(Self::boxed).transpose()?,
            },
            Some(Proto::ElementCount(count)) => match u32::try_from(count.element_count) {
                Ok(count) if count > 0 => Self::ElementCount(count),
                Ok(_) | Err(_) => {
                    return Unfit::invalid(format!("groups after {} elements", count.element_count));
                }
            },
            Some(Proto::AfterProcessingTime(after)) => {
                let transforms = after.timestamp_transforms.iter().map(TimestampTransform::of);
                Self::AfterProcessingTime(transforms.collect::<Result<_, _>>()?)
            }
            Some(Proto::AfterSynchronizedProcessingTime(_)) => Self::AfterSynchronizedProcessingTime,
            Some(Proto::AfterAll(all)) => Self::AfterAll(Self::several("AfterAll", &all.subtriggers)?),
            Some(Proto::AfterAny(any)) => Self::AfterAny(Self::several("AfterAny", &any.subtriggers)?),
            Some(Proto::AfterEach(each)) => Self::AfterEach(Self::several("AfterEach", &each.subtriggers)?),
            Some(Proto::Repeat(repeat)) => Self::Repeat(Self::part("Repeat", repeat.subtrigger.as_deref())?),
            Some(Proto::OrFinally(or)) => Self::OrFinally {
                main: Self::part("OrFinally", or.main.as_deref())?,
                finally: Self::part("OrFinally", or.finally.as_deref())?,
            },
        })
    }

    fn boxed(trigger: &pipeline::Trigger) -> Result<Box<Self>, Unfit> {
        Self::of(trigger).map(Box::new)
    }

    fn part(of: &str, part: Option<&pipeline::Trigger>) -> Result<Box<Self>, Unfit> {
        match part {
            Some(trigger) => Self::boxed(trigger),
            None => Unfit::invalid(format!("groups with a trigger {of} that lacks a part")),
        }
    }

    fn several(of: &str, parts: &[pipeline::Trigger]) -> Result<Vec<Self>, Unfit> {
        if parts.is_empty() {
            return Unfit::invalid(format!("groups with a trigger {of} of nothing"));
        }
        parts.iter().map(Self::of).collect()
    }

    /// The same trigger as the Python SDK has it: what waits for synchronized processing time is ready whenever it is
    /// asked, and never finished.
    pub(crate) fn as_python_has_it(&self) -> Self {
        let boxed = |part: &Self| Box::new(part.as_python_has_it());
        let all = |parts: &[Self]| parts.iter().map(Self::as_python_has_it).collect();
        match self {
            Self::AfterSynchronizedProcessingTime => Self::Always,
            Self::Default
            | Self::Never
            | Self::Always
            | Self::ElementCount(_)
            | Self::AfterProcessingTime(_) => self.clone(),
            Self::AfterEndOfWindow { early, late } => Self::AfterEndOfWindow {
                early: early.as_deref().map(boxed),
                late: late.as_deref().map(boxed),
            },
            Self::AfterAll(parts) => Self::AfterAll(all(parts)),
            Self::AfterAny(parts) => Self::AfterAny(all(parts)),
            Self::AfterEach(parts) => Self::AfterEach(all(parts)),
            Self::Repeat(part) => Self::Repeat(boxed(part)),
            Self::OrFinally { main, finally } => {
                Self::OrFinally { main: boxed(main), finally: boxed(finally) }
            }
        }
    }

    /// Whether it may fire before the window's end.
    pub fn may_fire_early(&self) -> bool {
        match self {
            Self::Default | Self::Never => false,
            Self::Always
            | Self::ElementCount(_)
            | Self::AfterProcessingTime(_)
            | Self::AfterSynchronizedProcessingTime => true,
            Self::AfterEndOfWindow { early, .. } => early.is_some(),
            Self::AfterAll(parts) => parts.iter().all(Self::may_fire_early),
            Self::AfterAny(parts) => parts.iter().any(Self::may_fire_early),
            Self::AfterEach(parts) => parts.first().is_some_and(Self::may_fire_early),
            Self::Repeat(part) => part.may_fire_early(),
            Self::OrFinally { main, finally } => main.may_fire_early() || finally.may_fire_early(),
        }
    }

    /// Whether this trigger waits for the end of the window, and so has a pane to make there even if
    /// nothing new is in it.
    pub fn has_on_time_pane(&self) -> bool {
        match self {
            Self::Default | Self::AfterEndOfWindow { .. } => true,
            Self::Never
            | Self::Always
            | Self::ElementCount(_)
            | Self::AfterProcessingTime(_)
            | Self::AfterSynchronizedProcessingTime => false,
            Self::AfterAll(parts) | Self::AfterAny(parts) | Self::AfterEach(parts) => {
                parts.iter().any(Self::has_on_time_pane)
            }
            Self::Repeat(part) => part.has_on_time_pane(),
            Self::OrFinally { main, finally } => main.has_on_time_pane() || finally.has_on_time_pane(),
        }
    }
}

impl TimestampTransform {
    fn of(transform: &pipeline::TimestampTransform) -> Result<Self, Unfit> {
        use timestamp_transform::TimestampTransform as Proto;
        match &transform.timestamp_transform {
            Some(Proto::Delay(delay)) if delay.delay_millis >= 0 => Ok(Self::Delay(delay.delay_millis)),
            Some(Proto::AlignTo(align)) if align.period > 0 => {
                Ok(Self::AlignTo { period: align.period, offset: align.offset })
            }
            Some(Proto::Delay(delay)) => {
                Unfit::invalid(format!("groups after a delay of {} ms", delay.delay_millis))
            }
            Some(Proto::AlignTo(align)) => {
                Unfit::invalid(format!("groups at multiples of {} ms", align.period))
            }
            None => Unfit::invalid("groups after a processing time that is not said, or not known how"),
        }
    }
}

#[cfg(test)]
mod tests;

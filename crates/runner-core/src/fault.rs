//! Whose fault a failure is, and whether trying again can help.

use std::fmt;

/// Who has to act on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The pipeline: its own code raised, or what it asks for makes no sense.
    User,
    /// A worker or what it runs in: it did not start, did not connect, or died.
    Environment,
    /// Beamline itself, or the machine it runs on.
    Runner,
}

/// What to try again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing: the same will happen again.
    Never,
    /// The bundle, on any worker.
    Bundle,
    /// The bundle, on a worker started anew: the one it ran on is gone.
    Worker,
}

/// A failure as the user is to see it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub blame: Blame,
    pub retry: Retry,
    /// What happened, where, and what to do, in the words that the client is shown. For an exception
    /// of the user's it is the exception with its own stack.
    pub message: String,
}

impl Fault {
    pub fn user(message: impl Into<String>) -> Self {
        Self { blame: Blame::User, retry: Retry::Bundle, message: message.into() }
    }

    pub fn environment(message: impl Into<String>) -> Self {
        Self { blame: Blame::Environment, retry: Retry::Worker, message: message.into() }
    }

    pub fn runner(message: impl Into<String>) -> Self {
        Self { blame: Blame::Runner, retry: Retry::Never, message: message.into() }
    }

    /// The same failure, not to be tried again.
    pub fn fatal(self) -> Self {
        Self { retry: Retry::Never, ..self }
    }

    /// The same failure with where it happened put before the message.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }
}

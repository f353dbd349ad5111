//! Signals: the first ends the server in order, the second at once.

use tokio::sync::oneshot;

use crate::error::Error;

/// What shells report for a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

pub(crate) struct Stop {
    first: oneshot::Receiver<&'static str>,
}

impl Stop {
    /// Waits for the first signal and tells its name.
    pub(crate) async fn first(self) -> &'static str {
        match self.first.await {
            Ok(name) => name,
            // The task that listens is gone with the runtime only.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Listens from now on, so that no signal that comes during the start is lost.
pub(crate) fn listen() -> Result<Stop, Error> {
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    let (sender, first) = oneshot::channel();
    tokio::spawn(async move {
        let name = signals.next().await;
        // Nobody waits any more if the server is ending already.
        let _ = sender.send(name);
        let name = signals.next().await;
        eprintln!("beamline: {name} again: ending at once");
        std::process::exit(INTERRUPTED);
    });
    Ok(Stop { first })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}

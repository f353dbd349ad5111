//! Where log lines go: to standard error, as text or as JSON.

use std::io::{IsTerminal, Stderr, Write};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Libraries below us, of whose doings only warnings matter unless they are asked for by name.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn";

/// Standard error at the beginning of a line: on a terminal, the progress line gives way.
fn standard_error() -> Stderr {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A terminal that cannot be written to will not show the log line either.
        stderr.write_all(b"\r\x1b[2K").ok();
    }
    stderr
}

/// `level` is a level (`info`), or a filter as tracing-subscriber reads it (`info,runner_core=debug`).
pub(crate) fn start(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_new(format!("{QUIET},{level}"));
    let bad = filter.as_ref().err().map(|error| error.to_string());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info"))))
        .with_writer(standard_error);
    // It fails only if logging has been started already, which is as good.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    if let Some(bad) = bad {
        tracing::warn!("--log-level {level:?} is not understood ({bad}); info is used");
    }
}

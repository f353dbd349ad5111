//! Why a job failed, out of Flink's stack traces.

use runner_core::fault::Fault;

use super::rest::JobExceptions;

/// How the runner in the cluster begins what an SDK worker told it.
const FROM_WORKER: &str = "Error received from SDK harness for instruction ";
const CAUSED_BY: &str = "Caused by: ";
/// How Flink says that nobody has room for the job.
const NO_SLOTS: [&str; 2] =
    ["NoResourceAvailableException", "Could not acquire the minimum required resources"];

/// The failure that ended the job, or the newest that it survived.
pub(super) fn newest(exceptions: &JobExceptions) -> Option<Fault> {
    let newest = exceptions.history.entries.first();
    let trace = match (newest, &exceptions.root) {
        (Some(entry), _) if !entry.stacktrace.is_empty() => entry.stacktrace.as_str(),
        (_, Some(root)) => root.as_str(),
        _ => return None,
    };
    let fault = cause(trace);
    Some(match newest.and_then(|entry| entry.task_name.as_deref()).filter(|name| !name.is_empty()) {
        // The exception is the last thing that a person reads, and the first that they look for.
        Some(task) => fault.at(format_args!("Flink task {task}")),
        None => fault,
    })
}

/// What a Java stack trace tells the user.
fn cause(trace: &str) -> Fault {
    if let Some(error) = of_worker(trace) {
        return Fault::user(error).fatal();
    }
    let root = root(trace);
    if NO_SLOTS.iter().any(|sign| trace.contains(sign)) {
        let text = format!("no slots: Flink found no TaskManager with room for the job in time ({root})");
        return Fault::environment(text).fatal();
    }
    let rest = trace.trim_end();
    let text = if rest.contains('\n') { format!("{root}\n\nThe whole of it:\n{rest}") } else { root };
    Fault::environment(text).fatal()
}

/// The error of an SDK worker with its own stack, if there is one.
fn of_worker(trace: &str) -> Option<String> {
    let (_, told) = trace.rsplit_once(FROM_WORKER)?;
    // The number of the instruction, then the worker's words, then the frames of Java.
    let (_, told) = told.split_once(": ")?;
    let words = told.lines().take_while(|line| !is_frame(line)).collect::<Vec<_>>().join("\n");
    let words = words.trim();
    (!words.is_empty()).then(|| words.to_owned())
}

/// The message of the innermost cause.
pub(super) fn root(trace: &str) -> String {
    let innermost = trace
        .rfind(&format!("\n{CAUSED_BY}"))
        .and_then(|at| trace.get(at + 1 + CAUSED_BY.len()..))
        .unwrap_or(trace);
    let message = innermost.lines().take_while(|line| !is_frame(line)).collect::<Vec<_>>().join("\n");
    message.trim().to_owned()
}

/// Whether a line of a Java stack trace is no part of a message.
fn is_frame(line: &str) -> bool {
    line.starts_with("\tat ") || line.starts_with("\t... ") || line.starts_with(CAUSED_BY)
}

#[cfg(test)]
mod tests {
    use runner_core::fault::Blame;

    use super::*;
    use crate::flink::rest::JobExceptions;

    const PYTHON: &str = "org.apache.flink.runtime.JobException: Recovery is suppressed by NoRestartBackoffTimeStrategy\n\
        \tat org.apache.flink.X.fail(X.java:1)\n\
        Caused by: java.lang.RuntimeException: Error received from SDK harness for instruction 2: Traceback (most recent call last):\n  \
        File \"a.py\", line 3, in process\n    raise ValueError('it: is so')\n\
        ValueError: it: is so [while running 'Raise']\n\n\
        \tat org.apache.beam.Y.get(Y.java:2)\n\t... 7 more\n\
        Suppressed: java.lang.IllegalStateException: closed\n";

    #[test]
    fn the_users_error_is_what_the_worker_said() {
        let fault = cause(PYTHON);
        assert_eq!(fault.blame, Blame::User);
        assert_eq!(
            fault.message,
            "Traceback (most recent call last):\n  File \"a.py\", line 3, in process\n    \
             raise ValueError('it: is so')\nValueError: it: is so [while running 'Raise']"
        );
    }

    #[test]
    fn other_errors_are_told_by_their_innermost_cause() {
        let trace = "a.A: outer\n\tat a.A(A.java:1)\nCaused by: b.B: middle\n\tat x\nCaused by: c.C: inner\nsecond line\n\tat y\n";
        let fault = cause(trace);
        assert_eq!(fault.blame, Blame::Environment);
        assert!(
            fault.message.starts_with("c.C: inner\nsecond line\n\nThe whole of it:\na.A: outer"),
            "{fault}"
        );
        assert_eq!(cause("d.D: alone").message, "d.D: alone");
        assert_eq!(cause("").message, "");
    }

    #[test]
    fn a_full_cluster_is_called_so() {
        let trace = "x.JobException: Recovery is suppressed\n\tat x\nCaused by: \
                     org.apache.flink.runtime.jobmanager.scheduler.NoResourceAvailableException: Could not acquire\n\tat y\n";
        assert!(cause(trace).message.starts_with("no slots: "));
    }

    #[test]
    fn the_newest_failure_names_its_task() {
        let answer = r#"{"root-exception":"old","exceptionHistory":{"entries":[
            {"exceptionName":"x","stacktrace":"b.B: newest","timestamp":2,"taskName":"Map (1/1)"},
            {"exceptionName":"x","stacktrace":"a.A: older","timestamp":1,"taskName":null}],"truncated":false}}"#;
        let exceptions: JobExceptions = serde_json::from_str(answer).unwrap();
        assert_eq!(newest(&exceptions).unwrap().message, "Flink task Map (1/1): b.B: newest");
        let old: JobExceptions = serde_json::from_str(r#"{"root-exception":"a.A: only"}"#).unwrap();
        assert_eq!(newest(&old).unwrap().message, "a.A: only");
        assert!(newest(&serde_json::from_str(r#"{"root-exception":null}"#).unwrap()).is_none());
    }
}

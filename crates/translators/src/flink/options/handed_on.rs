//! The options of Beam's Flink runner that Beamline only describes, so that clients do not drop them, and hands on.

use runner_core::backend::{OptionKind, PipelineOption};

use OptionKind::{Boolean, Integer, String};

/// Those that are whole numbers.
pub(super) fn whole_numbers() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter(|(_, kind, ..)| *kind == Integer).map(|(name, ..)| *name)
}

pub(super) fn describe() -> impl Iterator<Item = PipelineOption> {
    ALL.iter().map(|&(name, kind, description, default)| PipelineOption { name, kind, description, default })
}

pub(super) const CHECKPOINTING_INTERVAL: &str = "checkpointing_interval";

/// Name, kind, description, and default of Beam's runner; none where the cluster has it. Only what is off by default is
/// a flag: the Python client has one that is on by default turn it off.
const ALL: [(&str, OptionKind, &str, &str); 27] = [
    (
        "parallelism",
        Integer,
        "Into how many parts Flink divides each step; -1 leaves it to the cluster.",
        "-1",
    ),
    (
        "max_parallelism",
        Integer,
        "Up to how many parts a job can be resumed with; -1 leaves it to the cluster.",
        "-1",
    ),
    (
        CHECKPOINTING_INTERVAL,
        Integer,
        "Milliseconds between checkpoints of a streaming job; -1 for none.",
        "-1",
    ),
    ("checkpointing_mode", String, "EXACTLY_ONCE or AT_LEAST_ONCE.", "EXACTLY_ONCE"),
    ("checkpoint_timeout_millis", Integer, "After so many milliseconds a checkpoint is given up.", "-1"),
    (
        "min_pause_between_checkpoints",
        Integer,
        "Milliseconds from the end of one checkpoint to the next at least.",
        "-1",
    ),
    ("num_concurrent_checkpoints", Integer, "How many checkpoints may be under way at once.", "1"),
    (
        "fail_on_checkpointing_errors",
        String,
        "true or false: whether a checkpoint that fails fails the job.",
        "true",
    ),
    (
        "unaligned_checkpoint_enabled",
        Boolean,
        "Checkpoints overtake what waits between tasks, and keep it.",
        "false",
    ),
    (
        "force_unaligned_checkpoint_enabled",
        Boolean,
        "Unaligned checkpoints for jobs with iterations too.",
        "false",
    ),
    (
        "externalized_checkpoints_enabled",
        Boolean,
        "Keep checkpoints where a job can be resumed from them.",
        "false",
    ),
    (
        "retain_externalized_checkpoints_on_cancellation",
        Boolean,
        "Keep those checkpoints when the job is cancelled.",
        "false",
    ),
    ("state_backend", String, "Where state lives: rocksdb or filesystem. Not given: the cluster's own.", ""),
    ("state_backend_storage_path", String, "The URL under which that state backend keeps checkpoints.", ""),
    (
        "number_of_execution_retries",
        Integer,
        "How often Flink restarts a failed job; -1 leaves it to the cluster.",
        "-1",
    ),
    (
        "execution_retry_delay",
        Integer,
        "Milliseconds from a failure to the restart; -1 leaves it to the cluster.",
        "-1",
    ),
    (
        "max_bundle_size",
        Integer,
        "Elements of a bundle at most. Not given: 1,000 in streams, 1,000,000 in bounded jobs.",
        "",
    ),
    (
        "max_bundle_time_mills",
        Integer,
        "Milliseconds of a bundle at most. Not given: 1,000 in streams, 10,000 in bounded jobs.",
        "",
    ),
    (
        "shutdown_sources_after_idle_ms",
        Integer,
        "Milliseconds after which sources that have nothing more end; -1: never in jobs with checkpoints, else at once.",
        "-1",
    ),
    ("auto_watermark_interval", Integer, "Milliseconds between watermarks.", ""),
    ("latency_tracking_interval", Integer, "Milliseconds between Flink's latency markers; 0 for none.", "0"),
    (
        "execution_mode_for_batch",
        String,
        "How tasks of bounded jobs exchange data: PIPELINED or BATCH_FORCED.",
        "PIPELINED",
    ),
    (
        "operator_chaining",
        String,
        "true or false: whether steps run together in one task where they can.",
        "true",
    ),
    ("object_reuse", Boolean, "Hand elements on within Flink without copying them.", "false"),
    ("faster_copy", Boolean, "Copy elements within Flink only where it must be.", "false"),
    (
        "disable_metrics",
        Boolean,
        "Count no metrics of the pipeline: they are not shown here either.",
        "false",
    ),
    (
        "enable_stable_input_drain",
        Boolean,
        "Let jobs with @RequiresStableInput be drained, at the risk of repeating what fails then.",
        "false",
    ),
];

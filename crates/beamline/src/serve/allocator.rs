//! How the system's allocator keeps memory that is not in use.
//!
//! glibc keeps what was freed for the thread that had it, and gives large blocks back only as long as few have been freed. A
//! server that has `--memory-limit` of data may then have twice that in memory. The only way to tell glibc otherwise, from
//! safe code, is the environment that a program starts with. So the server starts itself once more in its own place: the
//! process id, its arguments and what it has open stay.

/// At most two threads' worth of memory that is not in use, and none of large blocks, which logs and blocks are. Frames of
/// messages are smaller and come one after another: they are to find 8 MiB that nobody has to clear first.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SETTINGS: &[(&str, &str)] =
    &[("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "262144"), ("MALLOC_TRIM_THRESHOLD_", "8388608")];
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
const SETTINGS: &[(&str, &str)] = &[];

/// Says that it was the server itself that started the server so.
const BY_ITSELF: &str = "BEAMLINE_ALLOCATOR_SET";

/// The variables that are the server's own affair. A worker that got them would be slower: interpreters take and
/// free large blocks all the time.
pub(crate) fn not_for_workers() -> Vec<&'static str> {
    if std::env::var_os(BY_ITSELF).is_none() {
        return Vec::new();
    }
    SETTINGS.iter().map(|(name, _)| *name).chain([BY_ITSELF]).collect()
}

/// Has the allocator give back what is not in use. Does nothing if the user has told it something else.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn set_up() {
    use std::os::unix::process::CommandExt;
    if SETTINGS.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // It returns only if it fails; the server then runs as it is, and takes more memory.
    let error = again.args(arguments).envs(SETTINGS.iter().copied()).env(BY_ITSELF, "1").exec();
    tracing::debug!("the allocator cannot be told to give memory back: {error}");
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn set_up() {}

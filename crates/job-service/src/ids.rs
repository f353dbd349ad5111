//! Ids that nobody can guess and no other server gives out.

use std::hash::{BuildHasher, RandomState};

/// Characters of a job's name that its id keeps.
const NAME_LENGTH: usize = 40;

/// An id for a job: its name as far as it can stand in a path, then what makes it unique.
pub(crate) fn job_id(job_name: &str) -> String {
    let mut id: String = job_name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(NAME_LENGTH)
        .collect();
    if id.is_empty() {
        id.push_str("job");
    }
    format!("{id}-{}", unique())
}

/// 128 bits in hexadecimal, from the keys with which the standard library seeds its hash maps.
pub(crate) fn unique() -> String {
    let half = || RandomState::new().hash_one(std::time::SystemTime::now());
    format!("{:016x}{:016x}", half(), half())
}

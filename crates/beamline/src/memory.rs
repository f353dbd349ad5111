//! How much memory there is, and how people write amounts of it.

use std::fs;
use std::path::Path;

/// What is taken for the machine's memory if it does not say: 2 GiB.
const UNKNOWN: u64 = 2 << 30;
const UNITS: [(&str, u64); 4] = [("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30), ("tib", 1 << 40)];

/// Half of what the machine has, or of what its control group may have if that is less.
pub(crate) fn half_of_all() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of_meminfo(&text));
    machine.into_iter().chain(limits_of_control_group()).min().unwrap_or(UNKNOWN) / 2
}

/// `512MiB`, `4GiB`, `100KiB`; a bare number is bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no amount of memory; give one like 512MiB or 4GiB");
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find(|(unit, _)| lower.ends_with(unit));
    let (number, scale) = match unit {
        Some((unit, scale)) => (lower.trim_end_matches(unit).trim_end(), *scale),
        None => (lower.as_str(), 1),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(scale).filter(|bytes| *bytes > 0).ok_or_else(bad)
}

/// `MemTotal` of /proc/meminfo.
fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1 << 10)
}

/// The limits of this process's control group and of those around it, of either version.
fn limits_of_control_group() -> Vec<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A container may see its own group as the root, and the path of it from outside.
        let paths = Path::new(path.trim_start_matches('/')).ancestors();
        let texts = paths.filter_map(|path| fs::read_to_string(Path::new(root).join(path).join(file)).ok());
        // No limit is "max", or a number that no machine has.
        limits.extend(texts.filter_map(|text| text.trim().parse::<u64>().ok()));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        assert_eq!(parse_size("4 gib"), Ok(4 << 30));
        assert_eq!(parse_size("64KiB"), Ok(64 << 10));
        assert_eq!(parse_size("1TiB"), Ok(1 << 40));
        assert_eq!(parse_size("123456"), Ok(123_456));
        for bad in ["", "MiB", "0", "0GiB", "-1", "1.5GiB", "5 bananas", "99999999999TiB"] {
            assert!(parse_size(bad).unwrap_err().contains("4GiB"), "{bad}");
        }
    }

    #[test]
    fn the_machines_memory() {
        assert_eq!(total_of_meminfo("MemFree: 3 kB\nMemTotal:       24683520 kB\n"), Some(24_683_520 << 10));
        assert_eq!(total_of_meminfo("nothing"), None);
        assert!(half_of_all() >= 64 << 20);
    }
}

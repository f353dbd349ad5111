//! Which runner jars Beam has released.

use super::DownloadError;

/// For each version of Flink, the newest Beam that is known here to have a job server jar for it. Beam 2.72 was the last
/// one for Flink before 1.19.
const NEWEST: [(&str, &str); 7] = [
    ("1.17", "2.72.0"),
    ("1.18", "2.72.0"),
    ("1.19", "2.77.0"),
    ("1.20", "2.77.0"),
    ("2.0", "2.77.0"),
    ("2.1", "2.77.0"),
    ("2.2", "2.77.0"),
];

pub(super) fn newest_beam(flink: &str) -> Option<&'static str> {
    NEWEST.iter().find(|(known, _)| *known == flink).map(|(_, beam)| *beam)
}

/// For people.
pub(super) fn list() -> String {
    NEWEST.iter().map(|(flink, _)| *flink).collect::<Vec<_>>().join(", ")
}

/// `1.19` of `1.19.3`, of characters that can stand in a URL.
pub(super) fn minor(version: &str) -> String {
    let parts: Vec<_> = version.split(['.', '-']).take(2).collect();
    parts.join(".").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect()
}

/// Beam's name of the jar in Maven.
pub(super) fn artifact(flink: &str) -> String {
    format!("beam-runners-flink-{flink}-job-server")
}

/// What is no version cannot become a part of a path.
pub(super) fn check_version(version: &str) -> Result<(), DownloadError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    match version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(good) {
        true => Ok(()),
        false => Err(DownloadError::Version { given: version.to_owned() }),
    }
}

/// Numbers, so that 2.9 comes before 2.62.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    numbers: Vec<u64>,
    text: String,
}

impl Version {
    pub(super) fn read(text: &str) -> Self {
        let numbers = text.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
        Self { numbers, text: text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!((minor("1.19.3").as_str(), minor("2.0-SNAPSHOT").as_str()), ("1.19", "2.0"));
        assert_eq!(minor("../x/1"), ".");
        assert_eq!(newest_beam("1.19"), Some("2.77.0"));
        assert_eq!(newest_beam("1.14"), None);
        assert!(Version::read("2.9.0") < Version::read("2.62.0"));
        assert!(Version::read("2.62.0") < Version::read("2.62.1"));
        assert!(check_version("2.62.0").is_ok() && check_version("2.78.0-SNAPSHOT").is_ok());
        for bad in ["", "../2.62.0", "latest", "2.62/0"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}

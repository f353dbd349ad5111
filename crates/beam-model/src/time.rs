//! Event time and processing time: signed milliseconds since the Unix epoch.

use std::fmt;
use std::time::Duration;

use bytes::BufMut;

/// A point in event time, in milliseconds since the Unix epoch.
///
/// Values are ordered as time is. Arithmetic saturates at [`EventTime::MIN`] and
/// [`EventTime::MAX`], the ends of time that `BeamConstants` of `beam_runner_api.proto` sets. A
/// value read from the wire is kept as it was sent, also outside that range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Width of the encoding, in bytes.
    pub const ENCODED_LEN: usize = 8;
    /// The end of the global window, one day before [`EventTime::MAX`].
    pub const GLOBAL_WINDOW_MAX: Self = Self(9_223_371_950_454_775);
    /// The last event time there is; as a watermark: everything has arrived.
    pub const MAX: Self = Self(9_223_372_036_854_775);
    /// The first event time there is.
    pub const MIN: Self = Self(-9_223_372_036_854_775);

    /// The milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This time plus `millis` milliseconds, kept between [`EventTime::MIN`] and [`EventTime::MAX`].
    #[must_use]
    pub fn saturating_add(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis)).clamped()
    }

    /// This time less `millis` milliseconds, kept between [`EventTime::MIN`] and [`EventTime::MAX`].
    #[must_use]
    pub fn saturating_sub(self, millis: i64) -> Self {
        Self(self.0.saturating_sub(millis)).clamped()
    }

    /// This time, or the end of time that is nearest to it.
    #[must_use]
    pub fn clamped(self) -> Self {
        self.clamp(Self::MIN, Self::MAX)
    }

    /// The wire's form: big-endian with the sign bit flipped, so that bytes order as times do.
    pub const fn to_bytes(self) -> [u8; 8] {
        (self.0 ^ i64::MIN).to_be_bytes()
    }

    /// Reads the wire's form. All bit patterns are times.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(i64::from_be_bytes(bytes) ^ i64::MIN)
    }

    /// Appends the wire's form to `out`.
    pub fn write(self, out: &mut impl BufMut) {
        out.put_slice(&self.to_bytes());
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("MIN"),
            Self::MAX => f.write_str("MAX"),
            Self::GLOBAL_WINDOW_MAX => f.write_str("GLOBAL_WINDOW_MAX"),
            Self(millis) => write!(f, "{millis}ms"),
        }
    }
}

/// A point in processing time, the time on the clock of whoever runs the pipeline. Timers and triggers are set in
/// milliseconds since the Unix epoch; it is kept in microseconds, so that what is to be done in 9.8 ms is not done in 10.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessingTime {
    micros: i64,
}

impl ProcessingTime {
    /// The last time that can be written.
    pub const MAX: Self = Self { micros: i64::MAX };
    /// The first time that can be written.
    pub const MIN: Self = Self { micros: i64::MIN };

    /// So many milliseconds after the Unix epoch, or the end of time that is nearest to that.
    pub const fn from_millis(millis: i64) -> Self {
        Self { micros: millis.saturating_mul(1000) }
    }

    /// So long after the Unix epoch, or the end of time; rounded down to microseconds.
    pub fn since_epoch(since: Duration) -> Self {
        Self { micros: i64::try_from(since.as_micros()).unwrap_or(i64::MAX) }
    }

    /// The milliseconds since the Unix epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.micros.div_euclid(1000)
    }

    /// This time plus `millis` milliseconds, or the end of time that is nearest to it.
    #[must_use]
    pub const fn saturating_add(self, millis: i64) -> Self {
        Self { micros: self.micros.saturating_add(millis.saturating_mul(1000)) }
    }

    /// The first time that is at least so long after this one, or the end of time.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let micros = i64::try_from(wait.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX);
        Self { micros: self.micros.saturating_add(micros) }
    }

    /// How long after `earlier` this is; nothing if it is before that.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.micros.saturating_sub(earlier.micros)).unwrap_or(0))
    }
}

impl fmt::Display for ProcessingTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.millis())
    }
}

#[cfg(test)]
mod tests {
    use super::EventTime;
    use crate::urns::beam_constants::constants;

    #[test]
    fn the_ends_of_time_are_those_of_the_protocol() {
        assert_eq!(EventTime::MIN.0.to_string(), constants::MIN_TIMESTAMP_MILLIS);
        assert_eq!(EventTime::MAX.0.to_string(), constants::MAX_TIMESTAMP_MILLIS);
        assert_eq!(EventTime::GLOBAL_WINDOW_MAX.0.to_string(), constants::GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS);
    }

    #[test]
    fn arithmetic_stops_at_the_ends_of_time() {
        assert_eq!(EventTime(5).saturating_add(7), EventTime(12));
        assert_eq!(EventTime(5).saturating_sub(7), EventTime(-2));
        assert_eq!(EventTime::MAX.saturating_add(1), EventTime::MAX);
        assert_eq!(EventTime(0).saturating_add(i64::MAX), EventTime::MAX);
        assert_eq!(EventTime::MIN.saturating_sub(i64::MAX), EventTime::MIN);
        assert_eq!(EventTime(0).saturating_sub(i64::MIN), EventTime::MAX);
    }

    #[test]
    fn bytes_order_as_times_do() {
        let times = [i64::MIN, EventTime::MIN.0, -1, 0, 1, EventTime::MAX.0, i64::MAX].map(EventTime);
        assert!(times.map(EventTime::to_bytes).is_sorted());
        for time in times {
            assert_eq!(EventTime::from_bytes(time.to_bytes()), time);
        }
    }
}

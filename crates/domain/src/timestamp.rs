//! RFC 3339 timestamps as the platform reads and writes them.

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};

/// The one type for points in time: UTC.
pub type Timestamp = DateTime<Utc>;

/// Writes a timestamp of our own making: RFC 3339, UTC, milliseconds, `Z`
/// (`2024-01-15T10:30:00.000Z`).
pub fn format(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The longest timestamp: RFC 3339 bounds no fraction, but it leaves as a header, and receivers bound those.
const MAX_TIMESTAMP_BYTES: usize = 64;

/// The years that RFC 3339 can write (§1).
const YEARS: RangeInclusive<i32> = 0..=9999;

/// A publisher's timestamp: the text that goes out in the payload and in `X-Lok-Timestamp`, and the
/// instant it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTimestamp {
    text: String,
    instant: Timestamp,
}

/// The text is not an RFC 3339 date-time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 date-time such as 2024-01-15T10:30:00Z")]
pub struct InvalidTimestamp;

impl PublishedTimestamp {
    /// Reads an RFC 3339 date-time. What is UTC and written with `T` and `Z` leaves as it was
    /// written; anything else is converted to that form, keeping the fraction to the nanosecond.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        if text.len() > MAX_TIMESTAMP_BYTES {
            return Err(InvalidTimestamp);
        }
        let instant = DateTime::parse_from_rfc3339(text).map_err(|_| InvalidTimestamp)?.to_utc();
        // An offset may lead out of the years that have four digits.
        if !YEARS.contains(&instant.year()) {
            return Err(InvalidTimestamp);
        }
        let text = if is_utc_as_written(text) {
            text.to_owned()
        } else {
            instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
        };
        Ok(Self { text, instant })
    }

    /// The timestamp of an event that was published without one.
    pub fn at(instant: Timestamp) -> Self {
        Self { text: format(instant), instant }
    }

    /// The text as it leaves, character for character.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The instant the text means.
    pub fn instant(&self) -> Timestamp {
        self.instant
    }
}

/// Whether a valid RFC 3339 text already is in the form that leaves: upper-case `T` and `Z`.
fn is_utc_as_written(text: &str) -> bool {
    text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves_as(text: &str) -> String {
        PublishedTimestamp::parse(text).unwrap().as_str().to_owned()
    }

    #[test]
    fn utc_with_z_leaves_as_written() {
        for text in [
            "2024-01-15T10:30:00Z",
            "2024-01-15T10:30:00.5Z",
            "2024-01-15T10:30:00.123456789Z",
            "2016-12-31T23:59:60Z",
        ] {
            assert_eq!(leaves_as(text), text);
        }
    }

    #[test]
    fn other_offsets_and_spellings_are_converted_to_utc_with_z() {
        assert_eq!(leaves_as("2024-01-15T11:30:00+01:00"), "2024-01-15T10:30:00Z");
        assert_eq!(leaves_as("2024-01-15T11:30:00.250+01:00"), "2024-01-15T10:30:00.250Z");
        assert_eq!(leaves_as("2024-01-15t10:30:00z"), "2024-01-15T10:30:00Z");
        assert_eq!(leaves_as("2024-01-15 10:30:00Z"), "2024-01-15T10:30:00Z");
        assert_eq!(leaves_as("2024-01-15T10:30:00-00:00"), "2024-01-15T10:30:00Z");
    }

    #[test]
    fn what_is_not_a_date_time_is_refused() {
        let endless = format!("2024-01-15T10:30:00.{}Z", "0".repeat(1000));
        assert_eq!(PublishedTimestamp::parse(&endless), Err(InvalidTimestamp));
        for text in ["", "now", "2024-01-15", "2024-01-15T10:30:00", "2024-13-15T10:30:00Z", "1705314600"] {
            assert_eq!(PublishedTimestamp::parse(text), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn what_is_in_another_year_than_rfc_3339_can_write_in_utc_is_refused() {
        for text in ["9999-12-31T23:30:00-01:00", "0000-01-01T00:00:00+01:00"] {
            assert_eq!(PublishedTimestamp::parse(text), Err(InvalidTimestamp), "{text}");
        }
        assert_eq!(leaves_as("9999-12-31T23:30:00+01:00"), "9999-12-31T22:30:00Z");
        assert_eq!(leaves_as("0000-01-01T00:00:00-01:00"), "0000-01-01T01:00:00Z");
    }

    #[test]
    fn ours_have_milliseconds() {
        let at = DateTime::from_timestamp_millis(1_705_314_600_000).unwrap();
        assert_eq!(format(at), "2024-01-15T10:30:00.000Z");
        assert_eq!(PublishedTimestamp::at(at).as_str(), "2024-01-15T10:30:00.000Z");
    }
}

//! How conflicts, entries and acts are named: alike in the API, on the command line, in
//! the console, in sentences and in the docs. Each name is written and read here alone;
//! spellings of earlier releases are read, and never written.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::domain::StreamId;

/// Names a conflict: `7/3` came from partition 7 with sequence 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConflictName {
    pub partition: u16,
    pub sequence: i64,
}

impl fmt::Display for ConflictName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.sequence)
    }
}

impl FromStr for ConflictName {
    type Err = &'static str;

    /// `7-3`, as the console wrote it once, and `7 3`, as the command line took it, are
    /// the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, sequence) = text.split_once(['/', '-', ' ']).unwrap_or_default();
        let read = partition.parse().ok().zip(sequence.parse().ok());
        let (partition, sequence) =
            read.ok_or("must be a partition and a sequence, such as 7/3")?;
        Ok(Self { partition, sequence })
    }
}

/// Names an entry of a stream, `7/1762523656123-0`; or, as the cursor of a page, the
/// beginning of a partition, `7`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryName {
    pub partition: u16,
    pub stream_id: Option<StreamId>,
}

impl EntryName {
    /// An entry of which the id is kept as text.
    #[must_use]
    pub fn of(partition: u16, stream_id: &str) -> Self {
        Self { partition, stream_id: stream_id.parse().ok() }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stream_id {
            Some(stream_id) => write!(f, "{}/{stream_id}", self.partition),
            None => write!(f, "{}", self.partition),
        }
    }
}

impl FromStr for EntryName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (partition, stream_id) = match text.split_once('/') {
            Some((partition, stream_id)) => (partition, Some(stream_id.parse())),
            None => (text, None),
        };
        let read = partition.parse().ok().zip(stream_id.transpose().ok());
        let (partition, stream_id) =
            read.ok_or("is not a valid page cursor: use `next` of the page before")?;
        Ok(Self { partition, stream_id })
    }
}

macro_rules! read_and_written_as_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    )*};
}

read_and_written_as_text!(ConflictName EntryName);

/// Codes of acts and of their ends as an earlier release wrote them, and as they are
/// written now.
const OLDER_CODES: [(&str, &str); 6] = [
    ("refund", "refund_mark"),
    ("mark_for_refund", "refund_mark"),
    ("refund-mark", "refund_mark"),
    ("release", "release_partition"),
    ("discard-untold", "discard_untold"),
    ("assign-conflict", "assign_conflict"),
];

/// The code of an act or of its end, as it is written now.
pub(super) fn current_code(code: &str) -> &str {
    OLDER_CODES.iter().find(|(older, _)| *older == code).map_or(code, |(_, now)| now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{Act, notice};

    #[test]
    fn names_are_written_one_way_and_older_spellings_are_read() {
        for text in ["7/3", "7-3", "7 3"] {
            assert_eq!(text.parse::<ConflictName>().unwrap().to_string(), "7/3");
        }
        for text in ["", "7", "7/", "/3", "70000/3", "7/3/1"] {
            assert!(text.parse::<ConflictName>().is_err(), "{text}");
        }
        for (text, now) in [
            ("7/1762523656123-0", "7/1762523656123-0"),
            ("7/1762523656123", "7/1762523656123-0"),
            ("7", "7"),
        ] {
            assert_eq!(text.parse::<EntryName>().unwrap().to_string(), now);
        }
        for text in ["", "nowhere", "7/", "/1-0", "70000", "7/1-0/2", "7-1762523656123-0"] {
            assert!(text.parse::<EntryName>().is_err(), "{text}");
        }
    }

    #[test]
    fn older_codes_are_read_and_never_written() {
        for (older, now) in OLDER_CODES {
            assert_eq!(notice(older), notice(now));
            assert!(notice(now).is_some(), "{now}");
            let act = Act::named(older, "7", false).map(|act| act.unwrap().question().code);
            assert_eq!(act, Act::named(now, "7", false).map(|_| now));
        }
    }
}

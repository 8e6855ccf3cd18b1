//! Partitions, fences and entry ids. Never knows who owns a partition.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use xxhash_rust::xxh3::xxh3_64;

use super::CustomerId;

/// Names [`partition_of`]'s rule. Stored with the topology: another rule would
/// re-order customers.
pub const HASH_VERSION: i16 = 1;

/// The partition of `customer`: xxh3-64 with seed 0, modulo `partitions`.
pub fn partition_of(customer: &CustomerId, partitions: u16) -> u16 {
    let slot = xxh3_64(customer.as_str().as_bytes()) % u64::from(partitions);
    u16::try_from(slot).unwrap_or_else(|_| unreachable!("a remainder is below its u16 divisor"))
}

/// A partition and the epoch under which its owner may take from it and write for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    pub partition: u16,
    /// Rises with every acquisition: the fencing token.
    pub epoch: i64,
}

/// A Redis Stream entry id: milliseconds and a number within them. Ordered as
/// the pair that it is, not as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// When Redis says that the entry was appended; not a clock to measure by.
    pub milliseconds: u64,
    pub number: u64,
}

impl StreamId {
    /// Whole seconds since the entry was appended, as far as the clocks agree.
    pub fn age_seconds(&self, now: DateTime<Utc>) -> u64 {
        let now = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        now.saturating_sub(self.milliseconds) / 1000
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.number)
    }
}

impl FromStr for StreamId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (milliseconds, number) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { milliseconds: milliseconds.parse()?, number: number.parse()? })
    }
}

impl TryFrom<String> for StreamId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

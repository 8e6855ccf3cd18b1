//! How values are written wherever operators read them as data. Never rounds.

use std::{collections::BTreeMap, time::Duration};

pub use crate::ledger::Money;

/// Workers that one sentence names.
const WORKERS_NAMED_MAX: usize = 10;
/// Partitions that one sentence names.
const NAMED_MAX: usize = 5;

/// The owners that Redis was told of last, for while PostgreSQL, which knows, does
/// not answer: `last owners known to Redis: a 4, b 4`.
#[must_use]
pub fn last_owners<'a>(owners: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for owner in owners {
        *counts.entry(owner).or_default() += 1;
    }
    let named = counts.iter().take(WORKERS_NAMED_MAX);
    let named: Vec<String> = named.map(|(owner, count)| format!("{owner} {count}")).collect();
    match (named.as_slice(), counts.len().saturating_sub(WORKERS_NAMED_MAX)) {
        ([], _) => "Redis knows of no owner".to_owned(),
        (_, 0) => format!("last owners known to Redis: {}", named.join(", ")),
        (_, more) => format!("last owners known to Redis: {} and {more} more", named.join(", ")),
    }
}

/// `partition 7`, `partitions 1, 2 and 5`, `partitions 0, 1, 2, 3, 4 and 27
/// more`.
pub(super) fn numbered(partitions: &[u16]) -> String {
    let named: Vec<String> = partitions.iter().take(NAMED_MAX).map(u16::to_string).collect();
    match (named.as_slice(), partitions.len().saturating_sub(NAMED_MAX)) {
        ([one], _) => format!("partition {one}"),
        ([before @ .., last], 0) => format!("partitions {} and {last}", before.join(", ")),
        (all, more) => format!("partitions {} and {more} more", all.join(", ")),
    }
}

/// `1 payment`, `2 payments`.
#[must_use]
pub fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A time span in words, to the second, or to the millisecond below one: `1m
/// 15s`, `200ms`.
#[must_use]
pub fn span(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(u64::from(duration.subsec_millis())),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_far_as_one_reads_them() {
        assert_eq!(numbered(&[7]), "partition 7");
        assert_eq!(numbered(&[1, 5]), "partitions 1 and 5");
        assert_eq!(numbered(&[0, 1, 2, 3, 4]), "partitions 0, 1, 2, 3 and 4");
        assert_eq!(numbered(&[0, 1, 2, 3, 4, 9]), "partitions 0, 1, 2, 3, 4 and 1 more");
    }
}

//! Judges what lies below the stores: clocks and disks, as far as they can be
//! seen from here.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};

use super::words::{bytes, percent};
use crate::operations::{
    Severity::{Critical, Warning},
    finding::{self as kind, Finding},
};

/// Clocks that are further apart make ages and retention wrong.
const APART: TimeDelta = TimeDelta::seconds(2);
/// Free space on a disk, in percent.
const DISK_WARNING: u64 = 10;
const DISK_CRITICAL: u64 = 3;

/// The time somewhere, and when it was here as that was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReading {
    pub(super) there: DateTime<Utc>,
    pub(super) before: DateTime<Utc>,
    pub(super) after: DateTime<Utc>,
}

impl ClockReading {
    /// By how much the other clock is ahead, as far as the way there allows to
    /// say: nothing while it lies between asking and hearing.
    fn ahead(self) -> TimeDelta {
        if self.there < self.before {
            self.there - self.before
        } else {
            (self.there - self.after).max(TimeDelta::zero())
        }
    }
}

/// The clocks of a store and of this machine.
pub(super) fn clock(subject: &str, reading: ClockReading) -> Finding {
    let ahead = reading.ahead();
    let seconds = ahead.abs().num_seconds();
    let side = if ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
    let sentence = format!("the clock of {subject} is {seconds} s {side} this machine's");
    let apart = ahead.abs() > APART;
    kind::CLOCKS.judge(apart.then_some((Warning, sentence))).about(subject)
}

/// Free and total bytes of the disk below a directory; nothing when it cannot be
/// seen from here.
pub(super) fn space(directory: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(directory).ok()?;
    Some((
        space.f_bavail.saturating_mul(space.f_frsize),
        space.f_blocks.saturating_mul(space.f_frsize),
    ))
}

/// The disk of a store, which has this much free of that.
pub(super) fn disk(subject: &str, space: Option<(u64, u64)>) -> Finding {
    let Some((free, total)) = space else { return kind::DISK.good().about(subject) };
    let share = percent(free, total);
    let sentence = format!("its disk has {} of {} free", bytes(free), bytes(total));
    let severity = match share {
        DISK_WARNING.. => None,
        DISK_CRITICAL..DISK_WARNING => Some(Warning),
        _ => Some(Critical),
    };
    let found = severity.map(|severity| (severity, format!("{sentence}, {share} %")));
    kind::DISK.judge(found).or(sentence).about(subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Severity::{self, Good};

    fn reading(ahead: TimeDelta, took: TimeDelta) -> ClockReading {
        let before = DateTime::UNIX_EPOCH;
        ClockReading { there: before + ahead, before, after: before + took }
    }

    #[test]
    fn clocks_may_be_two_seconds_apart() {
        let severity = |ahead, took| -> Severity {
            let milliseconds = TimeDelta::milliseconds;
            clock("redis", reading(milliseconds(ahead), milliseconds(took))).severity
        };
        assert_eq!(severity(2_000, 0), Good);
        assert_eq!(severity(2_001, 0), Warning);
        assert_eq!(severity(-2_000, 0), Good);
        assert_eq!(severity(-2_001, 0), Warning);
        // What took long to hear may be right.
        assert_eq!(severity(5_000, 5_000), Good);
        assert_eq!(severity(5_000, 2_000), Warning);
    }

    #[test]
    fn a_disk_is_low_below_a_tenth() {
        let severity = |free| disk("redis", Some((free, 100))).severity;
        assert_eq!((severity(10), severity(9)), (Good, Warning));
        assert_eq!((severity(3), severity(2)), (Warning, Critical));
        assert_eq!(disk("redis", None).severity, Good);
    }

    #[test]
    fn the_disk_below_this_directory_is_seen_and_one_below_none_is_not() {
        let (free, total) = space(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(free <= total && total > 0);
        assert_eq!(space(Path::new("/nowhere/at/all")), None);
    }
}

//! What a control group (version 2) allows, from the words of its files. Pure:
//! reads no file.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

/// Processor time for each period of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    time: u64,
    period: u64,
}

impl Quota {
    /// So many processors, all of their time.
    pub(super) fn of(processors: u64) -> Self {
        Self { time: processors, period: 1 }
    }

    /// How much processor time it allows in so much time.
    pub(super) fn within(self, elapsed: Duration) -> Duration {
        let micros = elapsed.as_micros() * u128::from(self.time) / u128::from(self.period);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The lesser of two.
    pub(super) fn min(self, other: Self) -> Self {
        let (ours, theirs) = (
            u128::from(self.time) * u128::from(other.period),
            u128::from(other.time) * u128::from(self.period),
        );
        if theirs < ours { other } else { self }
    }
}

/// Reads `cpu.max`: `max 100000`, or `50000 100000`.
pub(super) fn quota(text: &str) -> Option<Quota> {
    let (time, period) = text.trim().split_once(' ')?;
    let period: u64 = period.parse().ok()?;
    let time = time.parse().ok()?;
    (period > 0).then_some(Quota { time, period })
}

/// Reads `memory.max`: `max`, or bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The folders of a process's group and of all above it, from what
/// `/proc/self/cgroup` says; the lowest first.
pub(super) fn folders(root: &Path, text: &str) -> Vec<PathBuf> {
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    let path = Path::new(path);
    // Outside of what can be seen from here.
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    let path = if is_below { path } else { Path::new("") };
    path.ancestors().map(|above| root.join(above)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_and_compared() {
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota("150000 100000\n"), Some(Quota { time: 150_000, period: 100_000 }));
        for wrong in ["", "1", "1 0", "a b", "-1 100000"] {
            assert_eq!(quota(wrong), None, "{wrong}");
        }
        let half = quota("50000 100000").unwrap();
        assert_eq!(half.within(Duration::from_secs(10)), Duration::from_secs(5));
        assert_eq!(Quota::of(2).within(Duration::from_secs(10)), Duration::from_secs(20));
        assert_eq!(Quota::of(2).min(half), half);
        assert_eq!(half.min(Quota::of(2)), half);
    }

    #[test]
    fn limits_of_memory_are_read() {
        assert_eq!(bytes("max\n"), None);
        assert_eq!(bytes("536870912\n"), Some(536_870_912));
        assert_eq!(bytes(""), None);
    }

    #[test]
    fn a_group_and_those_above_it_are_found() {
        let root = Path::new("/sys/fs/cgroup");
        let of = |text| folders(root, text);
        assert_eq!(of("0::/\n"), [root]);
        let service = of("0::/system.slice/paystream.service\n");
        let wanted = ["system.slice/paystream.service", "system.slice", ""];
        assert_eq!(service, wanted.map(|path| root.join(path)));
        assert_eq!(of("0::/../other\n"), [root]);
        assert_eq!(of("4:memory:/a\n0::/\n"), [root], "both versions");
        assert!(of("4:memory:/a\n").is_empty(), "version 1 only");
    }
}

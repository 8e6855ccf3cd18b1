//! What this process uses and may use, as Linux says. Elsewhere nothing is
//! known.

use std::time::{Duration, Instant};

use super::cgroup::Quota;

/// What was read at one moment; nothing where it could not be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    at: Instant,
    /// Processor time it ever used,
    cpu: Option<Duration>,
    /// and may use.
    quota: Option<Quota>,
    /// Memory it uses, in bytes,
    pub(super) memory: Option<u64>,
    /// and may use.
    pub(super) memory_limit: Option<u64>,
    /// Files it has open.
    pub(super) files: Option<u64>,
}

impl Reading {
    /// Processor time used since an earlier reading, and how much might have
    /// been.
    pub(super) fn cpu_since(&self, before: &Self) -> Option<(Duration, Duration)> {
        let used = self.cpu?.checked_sub(before.cpu?)?;
        Some((used, self.quota?.within(self.at.saturating_duration_since(before.at))))
    }
}

/// Reads what there is, of a process that works on so many threads; touches files.
pub(super) fn read(threads: usize) -> Reading {
    let nothing = Reading {
        at: Instant::now(),
        cpu: None,
        quota: None,
        memory: None,
        memory_limit: None,
        files: None,
    };
    #[cfg(target_os = "linux")]
    let nothing = linux::read(nothing, threads);
    nothing
}

#[cfg(target_os = "linux")]
mod linux {
    //! The files that say it.

    use std::{
        fs,
        path::{Path, PathBuf},
        thread,
        time::Duration,
    };

    use procfs::{Current, Meminfo, process::Process};

    use super::{
        super::cgroup::{self, Quota},
        Reading,
    };

    /// Where control groups are, in the newer version.
    const GROUPS: &str = "/sys/fs/cgroup";

    pub(super) fn read(nothing: Reading, threads: usize) -> Reading {
        let process = Process::myself().ok();
        let process = process.as_ref();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let groups = cgroup::folders(Path::new(GROUPS), &groups);
        let machine = Meminfo::current().ok().map(|memory| memory.mem_total);
        Reading {
            cpu: process.and_then(cpu),
            quota: quotas(&groups).chain(processors(threads)).reduce(Quota::min),
            memory: process
                .and_then(|it| it.status().ok()?.vmrss)
                .map(|kilobytes| kilobytes * 1024),
            memory_limit: limits(&groups).chain(machine).min(),
            files: process.and_then(|it| u64::try_from(it.fd_count().ok()?).ok()),
            ..nothing
        }
    }

    fn cpu(process: &Process) -> Option<Duration> {
        let stat = process.stat().ok()?;
        let milliseconds = (stat.utime + stat.stime) * 1000 / procfs::ticks_per_second();
        Some(Duration::from_millis(milliseconds))
    }

    fn processors(threads: usize) -> Option<Quota> {
        let processors = thread::available_parallelism().ok()?.get().min(threads);
        u64::try_from(processors).ok().map(Quota::of)
    }

    fn quotas(groups: &[PathBuf]) -> impl Iterator<Item = Quota> {
        words(groups, "cpu.max").filter_map(|text| cgroup::quota(&text))
    }

    fn limits(groups: &[PathBuf]) -> impl Iterator<Item = u64> {
        words(groups, "memory.max").filter_map(|text| cgroup::bytes(&text))
    }

    fn words(groups: &[PathBuf], file: &str) -> impl Iterator<Item = String> {
        groups.iter().filter_map(move |folder| fs::read_to_string(folder.join(file)).ok())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::monitor) fn reading(at: Instant, cpu: u64) -> Reading {
        Reading {
            at,
            cpu: Some(Duration::from_secs(cpu)),
            quota: Some(Quota::of(2)),
            memory: Some(5),
            memory_limit: Some(6),
            files: Some(7),
        }
    }

    #[test]
    fn processor_time_is_compared_with_what_was_allowed() {
        let start = Instant::now();
        let (before, after) = (reading(start, 1), reading(start + Duration::from_secs(5), 4));
        let share = Some((Duration::from_secs(3), Duration::from_secs(10)));
        assert_eq!(after.cpu_since(&before), share);
        assert_eq!(after.cpu_since(&Reading { cpu: None, ..before }), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_read() {
        let reading = read(1);
        let second = Duration::from_secs(1);
        assert!(reading.quota.is_some_and(|quota| quota.within(second) <= second), "one thread");
        assert!(reading.cpu.is_some());
        assert!(reading.memory.is_some_and(|bytes| bytes > 1 << 20), "{reading:?}");
        assert!(reading.memory_limit > reading.memory, "{reading:?}");
        assert!(reading.files.is_some_and(|files| files >= 3), "{reading:?}");
    }
}

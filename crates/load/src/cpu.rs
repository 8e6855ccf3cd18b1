//! CPU time of the service's processes, from `/proc` (Linux). Counts what ended children of a
//! process used, unless that process is also the parent of something else. Never signals or
//! changes a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// `/proc` counts in hundredths of a second on every architecture we run on.
const TICK: Duration = Duration::from_millis(10);

/// Whose CPU time is asked for.
#[derive(Debug, Clone)]
pub(super) enum Watched {
    /// These, and all below them.
    Pids(Vec<u32>),
    Names(Vec<String>),
}

impl Watched {
    /// The pids meant, at the moment of `snapshot`.
    fn pids(&self, snapshot: &Snapshot) -> BTreeSet<u32> {
        let Self::Pids(pids) = self else {
            let named = snapshot.0.iter().filter(|process| self.names(process));
            return named.map(|process| process.pid).collect();
        };
        let mut meant: BTreeSet<u32> = pids.iter().copied().collect();
        loop {
            let below = snapshot.0.iter().filter(|process| meant.contains(&process.parent));
            let below: Vec<u32> = below.map(|process| process.pid).collect();
            let known = meant.len();
            meant.extend(below);
            if meant.len() == known {
                return meant;
            }
        }
    }

    fn names(&self, process: &Process) -> bool {
        match self {
            Self::Pids(_) => false,
            Self::Names(names) => names.contains(&process.name),
        }
    }
}

/// One process at one moment, times in ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) name: String,
    pub(super) own: u64,
    /// That of its children that ended and were waited for.
    pub(super) children: u64,
    /// Tells two processes of the same pid apart.
    pub(super) started: u64,
}

impl Process {
    /// Reads a line of `/proc/<pid>/stat`; the name stands in brackets and may contain any.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (pid, rest) = line.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            name: name.to_owned(),
            own: number(11)? + number(12)?,
            children: number(13)? + number(14)?,
            started: number(19)?,
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }
}

/// All processes at one moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot(pub(super) Vec<Process>);

impl Snapshot {
    pub(super) fn take() -> anyhow::Result<Self> {
        ensure!(Path::new("/proc/self/stat").exists(), "CPU times need /proc, which is Linux's");
        let entries = fs::read_dir("/proc").context("could not read /proc")?;
        let processes = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let is_pid = entry.file_name().to_str()?.bytes().all(|byte| byte.is_ascii_digit());
                // A process may end while it is read: then it is not there.
                let line = is_pid.then(|| fs::read_to_string(entry.path().join("stat")).ok())??;
                Process::parse(&line)
            })
            .collect();
        Ok(Self(processes))
    }

    fn find(&self, process: &Process) -> Option<&Process> {
        self.0.iter().find(|other| other.is_same(process))
    }

    /// The parents of processes of another name than their own. What their ended children
    /// used may be another program's time.
    fn mixed_parents(&self) -> BTreeSet<u32> {
        let names: BTreeMap<u32, &str> =
            self.0.iter().map(|process| (process.pid, process.name.as_str())).collect();
        let mixed = self.0.iter().filter(|process| {
            names.get(&process.parent).is_some_and(|parent| *parent != process.name)
        });
        mixed.map(|process| process.parent).collect()
    }
}

/// The CPU time between two moments, by name of process; this process's own apart.
pub(super) fn used(
    watched: &Watched,
    (before, after): (&Snapshot, &Snapshot),
    own_pid: u32,
) -> BTreeMap<String, Duration> {
    let mut mixed = before.mixed_parents();
    mixed.extend(after.mixed_parents());
    let total = |process: &Process| {
        let children = if mixed.contains(&process.pid) { 0 } else { process.children };
        process.own + children
    };
    let (meant_before, meant_after) = (watched.pids(before), watched.pids(after));
    let was_watched =
        |process: &&Process| process.pid != own_pid && meant_before.contains(&process.pid);
    let is_watched =
        |process: &&Process| process.pid != own_pid && meant_after.contains(&process.pid);

    let mut ticks: BTreeMap<String, i64> = BTreeMap::new();
    let mut add = |process: &Process, amount: u64, sign: i64| {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        *ticks.entry(process.name.clone()).or_default() += sign * amount;
    };
    for process in after.0.iter().filter(is_watched) {
        add(process, total(process), 1);
    }
    for process in before.0.iter().filter(was_watched) {
        let parent = after.0.iter().find(|parent| parent.pid == process.parent);
        let is_in_parent = parent.is_some_and(|parent| {
            is_watched(&parent) && parent.name == process.name && !mixed.contains(&parent.pid)
        });
        // What a process used before, it used not now; unless it ended and took its time
        // along, when there is nothing to subtract from.
        if after.find(process).is_some() || is_in_parent {
            add(process, total(process), -1);
        }
    }
    let as_time = |ticks: i64| TICK * u32::try_from(ticks).unwrap_or_default();
    ticks.into_iter().map(|(name, ticks)| (name, as_time(ticks))).collect()
}

/// This process's own CPU time between two moments.
pub(super) fn used_here((before, after): (&Snapshot, &Snapshot), own_pid: u32) -> Duration {
    let own = |snapshot: &Snapshot| {
        let process = snapshot.0.iter().find(|process| process.pid == own_pid);
        process.map_or(0, |process| process.own)
    };
    TICK * u32::try_from(own(after) - own(before)).unwrap_or_default()
}

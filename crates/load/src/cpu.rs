//! CPU time of the service's processes, from `/proc` (Linux). Counts what ended children of a
//! process used, unless that process is also the parent of something else. Never signals or
//! changes a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    process,
    time::Duration,
};

#[cfg(target_os = "linux")]
use anyhow::Context as _;
use serde::Serialize;

use super::{args::LoadArgs, drain::millis};

/// `/proc` counts in hundredths of a second on every architecture we run on.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of all processes that were asked for.
#[derive(Debug, Serialize)]
pub(super) struct Cpu {
    pub(super) processes: Vec<CpuOf>,
    pub(super) total: CpuOf,
    pub(super) load_generator: CpuOf,
}

/// CPU time of the processes of one name.
#[derive(Debug, Serialize)]
pub(super) struct CpuOf {
    pub(super) name: String,
    /// Until all answers were there.
    pub(super) sending_ms: u64,
    /// Until all was applied.
    pub(super) drained_ms: Option<u64>,
    /// Of the longer of the two, per accepted payment.
    pub(super) us_per_payment: Option<u64>,
}

/// The processes whose CPU time is asked for, and snapshots before the run, after the sending,
/// and after the drain.
#[derive(Debug)]
pub(super) struct Meter {
    watched: Watched,
    snapshots: Vec<ProcessTimes>,
}

impl Meter {
    /// `None` when no process is asked for.
    pub(super) fn of(args: &LoadArgs) -> Option<Self> {
        let watched = match (args.cpu_of.as_slice(), args.cpu_of_names.as_slice()) {
            ([], []) => return None,
            ([], names) => Watched::Names(names.to_vec()),
            (pids, _) => Watched::Pids(pids.to_vec()),
        };
        Some(Self { watched, snapshots: Vec::new() })
    }

    pub(super) fn look(&mut self) -> anyhow::Result<()> {
        self.snapshots.push(ProcessTimes::take()?);
        Ok(())
    }

    pub(super) fn report(&self, payments: u64) -> Option<Cpu> {
        let [before, sent, rest @ ..] = self.snapshots.as_slice() else { return None };
        let until = |end| used(&self.watched, (before, end), process::id());
        let (sending, drained) = (until(sent), rest.first().map(until));
        let of = |name: &str, time: &dyn Fn(&Used) -> Duration| {
            let drained = drained.as_ref().map(time);
            let micros = drained.unwrap_or_else(|| time(&sending)).as_micros();
            CpuOf {
                name: name.to_owned(),
                sending_ms: millis(time(&sending)),
                drained_ms: drained.map(millis),
                us_per_payment: u64::try_from(micros).unwrap_or(u64::MAX).checked_div(payments),
            }
        };
        let names = drained.as_ref().unwrap_or(&sending).by_name.keys();
        let named =
            |name: &String| of(name, &|used| used.by_name.get(name).copied().unwrap_or_default());
        Some(Cpu {
            processes: names.map(named).collect(),
            total: of("total", &|used| used.by_name.values().sum()),
            load_generator: of("load generator", &|used| used.here),
        })
    }
}

/// Whose CPU time is asked for.
#[derive(Debug, Clone)]
pub(super) enum Watched {
    /// These, and all below them.
    Pids(Vec<u32>),
    Names(Vec<String>),
}

impl Watched {
    /// The pids meant, at the moment of `snapshot`.
    fn pids(&self, snapshot: &ProcessTimes) -> BTreeSet<u32> {
        let pids_of = |is_meant: &dyn Fn(&Process) -> bool| -> BTreeSet<u32> {
            snapshot.0.iter().filter(|one| is_meant(one)).map(|one| one.pid).collect()
        };
        let mut meant: BTreeSet<u32> = match self {
            Self::Names(names) => return pids_of(&|one| names.contains(&one.name)),
            Self::Pids(pids) => pids.iter().copied().collect(),
        };
        loop {
            let known = meant.len();
            meant.extend(pids_of(&|one| meant.contains(&one.parent)));
            if meant.len() == known {
                return meant;
            }
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

/// All processes at one moment.
#[derive(Debug, Clone)]
pub struct ProcessTimes(pub(super) Vec<Process>);

impl ProcessTimes {
    /// # Errors
    /// Where there is no `/proc`.
    #[cfg(target_os = "linux")]
    pub fn take() -> anyhow::Result<Self> {
        let all = procfs::process::all_processes().context("could not read /proc")?;
        // One that ends meanwhile is not there.
        let stats = all.filter_map(|one| one.ok()?.stat().ok());
        let read = |stat: procfs::process::Stat| {
            Some(Process {
                pid: stat.pid.try_into().ok()?,
                parent: stat.ppid.try_into().ok()?,
                name: stat.comm,
                own: stat.utime + stat.stime,
                children: u64::try_from(stat.cutime + stat.cstime).ok()?,
                started: stat.starttime,
            })
        };
        Ok(Self(stats.filter_map(read).collect()))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn take() -> anyhow::Result<Self> {
        anyhow::bail!("CPU times need /proc, which is Linux's")
    }

    /// What this process, and all below it, have used since.
    #[must_use]
    pub fn used_by(&self, pid: u32, since: &Self) -> Duration {
        let used = used(&Watched::Pids(vec![pid]), (since, self), process::id());
        used.by_name.values().sum()
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

/// CPU time between two moments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) by_name: BTreeMap<String, Duration>,
    /// That of this process, which `by_name` leaves out.
    pub(super) here: Duration,
}

pub(super) fn used(
    watched: &Watched,
    (before, after): (&ProcessTimes, &ProcessTimes),
    own_pid: u32,
) -> Used {
    let mut mixed = before.mixed_parents();
    mixed.extend(after.mixed_parents());
    let total = |process: &Process| {
        let children = if mixed.contains(&process.pid) { 0 } else { process.children };
        i64::try_from(process.own + children).unwrap_or(i64::MAX)
    };
    let (meant_before, meant_after) = (watched.pids(before), watched.pids(after));
    let is_watched = |process: &Process, meant: &BTreeSet<u32>| {
        process.pid != own_pid && meant.contains(&process.pid)
    };
    let mut ticks: BTreeMap<&str, i64> = BTreeMap::new();
    for process in after.0.iter().filter(|one| is_watched(one, &meant_after)) {
        *ticks.entry(&process.name).or_default() += total(process);
    }
    for process in before.0.iter().filter(|one| is_watched(one, &meant_before)) {
        // What a process used before, it used not now; unless it ended and took its time
        // along, when there is nothing to subtract from.
        let counts = after.0.iter().any(|other| {
            let lives = (other.pid, other.started) == (process.pid, process.started);
            let is_parent = other.pid == process.parent
                && other.name == process.name
                && is_watched(other, &meant_after)
                && !mixed.contains(&other.pid);
            lives || is_parent
        });
        if counts {
            *ticks.entry(&process.name).or_default() -= total(process);
        }
    }
    let own = |snapshot: &ProcessTimes| {
        snapshot.0.iter().find(|one| one.pid == own_pid).map_or(0, |process| process.own)
    };
    let as_time = |ticks: i64| TICK * u32::try_from(ticks).unwrap_or_default();
    Used {
        by_name: ticks.into_iter().map(|(name, ticks)| (name.to_owned(), as_time(ticks))).collect(),
        here: TICK * u32::try_from(own(after).saturating_sub(own(before))).unwrap_or_default(),
    }
}

//! What was seen at one look, as plain data. Knows neither who looked nor how
//! it is exported. What could not be seen is missing; nothing stands for it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What Redis says of the streams and of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamsSeen {
    /// Every partition of the topology.
    pub partitions: Vec<StreamSeen>,
    /// How old the oldest entry is that the streams keep; nothing when they are
    /// empty.
    pub oldest_kept: Option<Duration>,
    /// Memory that Redis uses, in bytes,
    pub memory_used: u64,
    /// and may use; 0 is no limit.
    pub memory_limit: u64,
}

/// One partition's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSeen {
    pub partition: u16,
    /// Entries in it, settled ones included.
    pub length: i64,
    /// Entries that no worker has taken; nothing when that is not known.
    pub lag: Option<i64>,
    /// Entries taken and not acknowledged.
    pub pending: i64,
    /// How long the first entry that is not settled has waited; zero when none
    /// waits, nothing when that is not known.
    pub waiting: Option<Duration>,
}

impl StreamSeen {
    /// Payments accepted and not settled.
    pub(super) fn depth(&self) -> Option<i64> {
        self.lag.map(|lag| lag.saturating_add(self.pending))
    }
}

/// What PostgreSQL says of owners and of what waits for a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerSeen {
    /// The epoch of each partition of the topology.
    pub epochs: Vec<(u16, i64)>,
    /// Workers whose lease runs.
    pub workers: usize,
    /// Partitions of the topology,
    pub partitions: usize,
    /// and those without a living owner.
    pub ownerless: usize,
    /// Dead letters that wait for a decision,
    pub dead_letters: i64,
    /// payments of unknown customers,
    pub suspense: i64,
    /// payments under a used reference,
    pub conflicts: i64,
    /// customers whose payments are parked,
    pub parked: i64,
    /// and losses of Redis.
    pub losses: i64,
}

/// How many customers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CustomersSeen {
    /// All of them,
    pub all: i64,
    /// and those who have paid everything.
    pub completed: i64,
}

/// How far the running audit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditSeen {
    /// Accounts that differed when they were last looked at.
    pub drift: usize,
    /// When it last came around, or began.
    pub since: Instant,
}

/// What this process itself is and has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSeen {
    /// Processor time it used since the look before, and how much it might have
    /// used.
    pub cpu: Option<(Duration, Duration)>,
    /// Memory it uses, in bytes,
    pub memory: Option<u64>,
    /// and may use.
    pub memory_limit: Option<u64>,
    /// Files it has open.
    pub files: Option<u64>,
    /// Tasks of its runtime.
    pub tasks: usize,
    /// Each dependency, and whether its circuit is open.
    pub circuits: Vec<(&'static str, bool)>,
    /// Its pools of connections to PostgreSQL.
    pub pools: Vec<PoolSeen>,
    /// Its worker, if it has one.
    pub worker: Option<WorkerSeen>,
}

/// A pool of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSeen {
    pub name: &'static str,
    /// Connections in use,
    pub used: u32,
    /// idle ones,
    pub idle: u32,
    /// and how many there may be.
    pub max: u32,
    /// Queries that wait for one.
    pub waiting: u32,
}

/// The worker of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerSeen {
    pub name: String,
    /// Partitions it serves, and those it has given up since it started.
    pub partitions: BTreeMap<u16, bool>,
    /// For how long its slowest lane has not moved.
    pub progress_age: Duration,
}

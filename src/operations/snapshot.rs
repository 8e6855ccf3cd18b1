//! The snapshot of the system: taken here and nowhere else, and read by the console, the
//! gauges, the statistics and `paystream partitions`. Goes on when a store is away: what
//! it would have said is missing then. Never changes anything.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::timeout;
use tracing::{debug, warn};
use utoipa::ToSchema;

use super::{
    Error, Operations,
    finding::{self as kind, FindingKind},
    shapes::numbered,
};
use crate::{
    ledger::{CursorRow, CustomerCount, OpenCases, WorkerRow},
    stream::{self, Contents, Depth, RedisInfo},
};

/// How long a store has to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// The system at one moment. What could not be asked is missing.
#[derive(Clone, Debug)]
pub struct SystemSnapshot {
    /// When it was complete.
    pub at: Instant,
    pub began: Instant,
    pub as_of: DateTime<Utc>,
    /// Whether Redis answered, or at least one of its servers,
    pub redis_available: bool,
    /// and PostgreSQL.
    pub ledger_available: bool,
    /// What Redis has lost, if it has, or which of its servers do not answer.
    pub redis_trouble: Option<String>,
    /// Why PostgreSQL, which answers, cannot be read.
    pub ledger_trouble: Option<String>,
    pub figures: KeyFigures,
    /// Every worker in the registry, alive or not.
    pub workers: Vec<WorkerRow>,
    /// Every partition, as far as it is known.
    pub partitions: Vec<PartitionLook>,
}

/// What can be said in one number each; nothing where it is not known.
#[derive(Clone, Debug, Default)]
pub struct KeyFigures {
    /// Entries ever appended to the streams as they are.
    pub appended: Option<i64>,
    /// Payments ever settled.
    pub settled: Option<i64>,
    /// Entries that no worker has taken yet.
    pub lag: Option<i64>,
    /// Entries that were taken and are not acknowledged.
    pub pending: Option<i64>,
    /// How long the first entry that is not settled has waited.
    pub oldest_waiting_seconds: Option<u64>,
    /// Dead letters that wait for a decision,
    pub dead_letters: Option<i64>,
    /// payments of unknown customers,
    pub suspense: Option<i64>,
    /// payments under a used reference,
    pub conflicts: Option<i64>,
    /// and how long the first of them has waited,
    pub conflicts_oldest_seconds: Option<i64>,
    /// customers whose payments are parked,
    pub parked: Option<i64>,
    /// and how long the first of them has waited,
    pub parked_oldest_seconds: Option<i64>,
    /// and losses of Redis.
    pub losses: Option<i64>,
    /// Workers whose lease runs.
    pub workers_alive: Option<usize>,
    /// Partitions without a living owner.
    pub partitions_unserved: Option<usize>,
    /// How old the oldest entry is that the streams keep, settled or not.
    pub oldest_kept_seconds: Option<u64>,
    /// Memory that Redis uses, in bytes,
    pub redis_memory_used: Option<u64>,
    /// and may use; 0 is no limit.
    pub redis_memory_limit: Option<u64>,
    /// Whether its last write to its append-only file failed.
    pub redis_aof_failed: Option<bool>,
}

/// A partition at a glance.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct PartitionLook {
    pub partition: u16,
    /// Who owns it, if anybody; nothing while the ledger cannot be asked.
    pub owner: Option<String>,
    /// Whom Redis was last told to own it, while the ledger cannot be asked.
    #[serde(rename = "last_owner_in_redis")]
    pub owner_told: Option<String>,
    /// Whether the owner's lease runs; nothing while the ledger cannot be asked.
    pub owner_alive: Option<bool>,
    /// How long the owner has been silent; it beats five times within its lease.
    pub owner_silent_seconds: Option<i64>,
    pub epoch: Option<i64>,
    /// The worker that has asked the owner to hand it over.
    pub draining_to: Option<String>,
    /// When it last changed hands, and how many seconds ago.
    pub moved_at: Option<DateTime<Utc>>,
    pub moved_seconds: Option<i64>,
    /// The highest sequence the ledger has.
    pub last_sequence: Option<i64>,
    /// Entries in the stream, settled ones included until they are trimmed.
    pub depth: Option<i64>,
    /// Entries no worker has taken yet.
    pub lag: Option<i64>,
    /// Entries taken and not acknowledged.
    pub pending: Option<i64>,
    /// How long the first entry that is not settled has waited.
    pub oldest_waiting_seconds: Option<u64>,
    /// The server that has its stream, in a Redis Cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

impl SystemSnapshot {
    /// One of which nothing is known.
    pub(crate) fn unknown(began: Instant, as_of: DateTime<Utc>) -> Self {
        Self {
            at: Instant::now(),
            began,
            as_of,
            redis_available: false,
            ledger_available: false,
            redis_trouble: None,
            ledger_trouble: None,
            figures: KeyFigures::default(),
            workers: Vec::new(),
            partitions: Vec::new(),
        }
    }
}

impl Operations {
    /// The last snapshot of this process, if it is no older than `age_max`, or else a new
    /// one. Whoever asked before a snapshot was begun shares it, so that nobody waits for
    /// more than two, of two seconds each at most.
    ///
    /// Taken in a task of its own: an asker that gives up costs those behind it nothing.
    pub async fn snapshot(self: &Arc<Self>, age_max: Duration) -> Arc<SystemSnapshot> {
        let (asked, operations) = (Instant::now(), Arc::clone(self));
        let taking = self.snapshots.spawn(async move {
            let mut latest = operations.latest.lock().await;
            let is_new = |it: &&Arc<SystemSnapshot>| it.began >= asked || it.at.elapsed() < age_max;
            if let Some(snapshot) = latest.as_ref().filter(is_new) {
                return Arc::clone(snapshot);
            }
            Arc::clone(latest.insert(Arc::new(operations.take_snapshot().await)))
        });
        let unknown = |_| Arc::new(SystemSnapshot::unknown(asked, (self.clock)()));
        taking.await.unwrap_or_else(unknown)
    }

    async fn take_snapshot(&self) -> SystemSnapshot {
        let began = Instant::now();
        let (streams, ledger, cases) = tokio::join!(
            answered(self.streams_now()),
            answered(self.ledger_now()),
            answered(self.cases_now())
        );
        let as_of = (self.clock)();
        let redis_trouble = match &streams {
            Ok(streams) => streams.trouble.clone(),
            Err(_) => trouble(&streams),
        };
        let ledger_trouble = trouble(&ledger);
        let (streams, ledger, cases) = (streams.ok(), ledger.ok(), cases.ok());
        let partitions =
            partitions(self.topology.partitions, streams.as_ref(), ledger.as_ref(), as_of);
        SystemSnapshot {
            redis_available: streams.is_some(),
            ledger_available: ledger.is_some(),
            redis_trouble,
            ledger_trouble,
            figures: figures(streams.as_ref(), ledger.as_ref(), cases, &partitions, as_of),
            workers: ledger.map_or_else(Vec::new, |ledger| ledger.workers),
            partitions,
            ..SystemSnapshot::unknown(began, as_of)
        }
    }

    /// Counts all customers, which costs more than a look.
    pub async fn customer_count(&self) -> Result<CustomerCount, Error> {
        Ok(self.reader.customers().await?)
    }

    /// As far as the servers of Redis answer: an error where none does.
    async fn streams_now(&self) -> Result<StreamsNow, Error> {
        let upkeep = &self.looks().await?.upkeep;
        let (found, contents, redis, owners) = tokio::join!(
            upkeep.depths(),
            upkeep.contents(),
            upkeep.redis_info(),
            upkeep.owners_told()
        );
        let (mut depths, mut silent, mut failed) = (Vec::new(), Silence::default(), None);
        for (partition, depth) in (0..).zip(found?) {
            match depth {
                Ok(depth) => depths.push(depth),
                Err(error) if error.is_outage() => {
                    silent.note(partition, self.streams.server_of(partition), &error);
                    failed = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(error) = failed.filter(|_| depths.is_empty()) {
            return Err(error.into());
        }
        let partitions = 0..self.topology.partitions;
        let servers = partitions.map(|partition| self.streams.server_of(partition)).collect();
        let trouble = silent.sentence();
        let (contents, redis) = (known(contents)?, known(redis)?);
        let owners = known(owners)?.unwrap_or_default();
        Ok(StreamsNow { depths, contents, redis, owners, servers, trouble })
    }

    async fn ledger_now(&self) -> Result<LedgerNow, Error> {
        let (cursors, workers) = tokio::try_join!(self.reader.cursors(), self.admin.workers())?;
        Ok(LedgerNow { cursors, workers })
    }

    async fn cases_now(&self) -> Result<CasesNow, Error> {
        let (settled, open) = tokio::try_join!(self.reader.settled(), self.admin.open_cases())?;
        Ok(CasesNow { settled, open })
    }
}

/// What Redis says.
struct StreamsNow {
    /// Of the partitions whose server answers.
    depths: Vec<Depth>,
    /// Nothing unless every server answers; so with the others.
    contents: Option<Contents>,
    redis: Option<RedisInfo>,
    /// Whom Redis was last told to own each partition.
    owners: Vec<Option<String>>,
    /// Which server has each partition, in a cluster.
    servers: Vec<Option<String>>,
    /// Which servers do not answer, while others do.
    trouble: Option<String>,
}

/// Partitions that nothing is known of, by what keeps it from being known.
#[derive(Default)]
struct Silence(BTreeMap<String, Vec<u16>>);

impl Silence {
    fn note(&mut self, partition: u16, server: Option<String>, error: &stream::Error) {
        let server = server.unwrap_or_else(|| "redis".to_owned());
        self.0.entry(format!("{server}: {error}")).or_default().push(partition);
    }

    fn sentence(&self) -> Option<String> {
        let told = self.0.iter().map(|(why, partitions)| {
            format!("{why}, so nothing is known of {}", numbered(partitions))
        });
        Some(told.collect::<Vec<_>>().join("; ")).filter(|told| !told.is_empty())
    }
}

/// What was answered; nothing where a server is away.
fn known<T>(answer: Result<T, stream::Error>) -> Result<Option<T>, Error> {
    match answer {
        Err(error) if error.is_outage() => Ok(None),
        answer => Ok(Some(answer?)),
    }
}

/// Who owns what, in PostgreSQL.
struct LedgerNow {
    cursors: Vec<CursorRow>,
    workers: Vec<WorkerRow>,
}

/// What PostgreSQL counts. Apart from the owners: a count may wait for a locked table.
struct CasesNow {
    settled: i64,
    /// By the code of the doctor's check.
    open: BTreeMap<&'static str, OpenCases>,
}

/// What a store answered in time; no error when it did not answer at all.
async fn answered<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Option<Error>> {
    let answer = timeout(ANSWER, asking).await.map_err(|_| None)?;
    answer.map_err(|error| {
        // Outages are told by the page; anything else must not hide in one.
        match error.is_outage() {
            true => debug!(%error, "a store could not be asked for the snapshot"),
            false => warn!(error = error.sentence(), "the snapshot could not be read"),
        }
        Some(error)
    })
}

/// What is wrong with a store that answered, and not as it should.
fn trouble<T>(answer: &Result<T, Option<Error>>) -> Option<String> {
    let error = answer.as_ref().err()?.as_ref()?;
    (!error.is_outage()).then(|| error.sentence())
}

fn figures(
    streams: Option<&StreamsNow>,
    ledger: Option<&LedgerNow>,
    cases: Option<CasesNow>,
    partitions: &[PartitionLook],
    now: DateTime<Utc>,
) -> KeyFigures {
    let contents = streams.and_then(|streams| streams.contents);
    let kept = contents.and_then(|contents| contents.oldest);
    let redis = streams.and_then(|streams| streams.redis);
    // What is not known of one partition is not known of all.
    let all = streams.filter(|streams| streams.trouble.is_none());
    let workers = ledger.map(|ledger| &ledger.workers);
    let open = |kind: FindingKind| cases.as_ref()?.open.get(kind.code);
    let count = |kind: FindingKind| open(kind).map(|open| open.count);
    let oldest = |kind: FindingKind| open(kind).map(|open| open.oldest_seconds);
    let unserved = |one: &&PartitionLook| one.owner_alive != Some(true);
    KeyFigures {
        appended: contents.map(|contents| contents.appended),
        settled: cases.as_ref().map(|cases| cases.settled),
        lag: all.map(|streams| streams.depths.iter().map(|depth| depth.lag).sum()),
        pending: all.map(|streams| streams.depths.iter().map(|depth| depth.pending).sum()),
        oldest_waiting_seconds: partitions
            .iter()
            .filter_map(|one| one.oldest_waiting_seconds)
            .max(),
        dead_letters: count(kind::DEAD),
        suspense: count(kind::SUSPENSE),
        conflicts: count(kind::CONFLICTS),
        conflicts_oldest_seconds: oldest(kind::CONFLICTS),
        parked: count(kind::PARKED),
        parked_oldest_seconds: oldest(kind::PARKED),
        losses: count(kind::LOSSES),
        workers_alive: workers.map(|all| all.iter().filter(|worker| worker.is_alive()).count()),
        partitions_unserved: ledger.map(|_| partitions.iter().filter(unserved).count()),
        oldest_kept_seconds: kept.map(|id| id.age_seconds(now)),
        redis_memory_used: redis.map(|redis| redis.used),
        redis_memory_limit: redis.map(|redis| redis.limit),
        redis_aof_failed: redis.map(|redis| redis.aof_failed),
    }
}

fn partitions(
    count: u16,
    streams: Option<&StreamsNow>,
    ledger: Option<&LedgerNow>,
    now: DateTime<Utc>,
) -> Vec<PartitionLook> {
    let depths = streams.iter().flat_map(|streams| &streams.depths);
    let depths: BTreeMap<u16, &Depth> = depths.map(|depth| (depth.partition, depth)).collect();
    let cursors = ledger.iter().flat_map(|ledger| &ledger.cursors);
    let cursors: BTreeMap<i32, &CursorRow> = cursors.map(|row| (row.partition, row)).collect();
    let alive = |owner: Option<&str>| {
        let workers = &ledger?.workers;
        Some(workers.iter().any(|w| Some(w.worker_id.as_str()) == owner && w.is_alive()))
    };
    let look = |partition: u16| {
        let depth = depths.get(&partition);
        let cursor = cursors.get(&i32::from(partition));
        let owner = cursor.and_then(|cursor| cursor.owner.as_deref());
        let oldest = depth.and_then(|depth| depth.oldest_waiting);
        let told = streams.and_then(|streams| streams.owners.get(usize::from(partition)));
        PartitionLook {
            partition,
            owner: owner.map(str::to_owned),
            owner_told: told.filter(|_| ledger.is_none()).cloned().flatten(),
            owner_alive: alive(owner),
            owner_silent_seconds: cursor
                .and_then(|cursor| cursor.owner_silence())
                .map(|silence| silence.num_seconds()),
            epoch: cursor.map(|cursor| cursor.epoch),
            draining_to: cursor.and_then(|cursor| cursor.draining_to.clone()),
            moved_at: cursor.map(|cursor| cursor.moved_at),
            moved_seconds: cursor.map(|cursor| cursor.moved_seconds()),
            last_sequence: cursor.map(|cursor| cursor.last_sequence),
            depth: depth.map(|depth| depth.length),
            lag: depth.map(|depth| depth.lag),
            pending: depth.map(|depth| depth.pending),
            oldest_waiting_seconds: oldest.map(|id| id.age_seconds(now)),
            server: streams.and_then(|s| s.servers.get(usize::from(partition))?.clone()),
        }
    };
    (0..count).map(look).collect()
}

//! Operations: what operators see of the running system and change in it. Stuck
//! work with a verdict and what is safe to do, the life of one payment, dead
//! letters, suspense, conflicts, owners, and what is wrong and why.
//!
//! The command line, the operators' API and the console all show what is here,
//! in one shape. Never settles by itself what a worker will settle, never
//! decides about money (that is the domain's), never trims.

mod act;
mod background;
mod changes;
mod conflicts;
mod dead_letters;
mod doctor;
mod error;
mod finding;
mod groups;
mod left_behind;
mod life;
mod names;
mod page;
mod pending;
mod perform;
mod question;
mod redrive;
mod release;
mod resize;
mod shapes;
mod snapshot;
mod stores;
mod suspense;
mod verdict;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::OnceCell, time::timeout};
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use act::{Act, Action, group_name};
pub use changes::{AuditEntry, AuditFilter, ParkedCustomer};
pub use conflicts::{Conflict, ConflictFilter};
pub use dead_letters::{DeadLetter, LetterFilter, LetterState, moment};
pub use doctor::{Checkup, examine};
pub use error::{Error, chain};
pub use finding::{Finding, FindingKind, KINDS, Severity};
pub use groups::Group;
pub use life::{Life, LifeEvent, NOTHING_KNOWN};
pub use names::{ConflictName, EntryName};
pub use page::{PAGE_MAX, Page};
pub use pending::{PendingEntry, PendingFilter, PendingPage, PendingSummary};
pub use perform::{Answer, Foretold, notice};
pub use redrive::{BULK_MAX, LetterReport, Mend, MendSummary};
pub use resize::{DrainProgress, under_way};
pub use shapes::{Money, counted, last_owners, span};
pub use snapshot::{KeyFigures, PartitionLook, SystemSnapshot};
pub use stores::{open_ledger, open_standby, open_streams, open_topology, refuse_left};
pub use suspense::{AssignReport, SuspenseFilter, SuspensePayment};
pub use verdict::Verdict;

pub use crate::ledger::{Acted, COUNT_MAX as CASES_COUNTED_MAX, CustomerCount, Refusal, Signature};
use crate::{
    clock::Clock,
    domain::CustomerId,
    ledger::{AdminStore, Groups, Ledger, Parking, Pool, Reader, Topology},
    stream::{self, Balances, Finder, Inspector, Streams, Upkeep},
    telemetry::Signals,
};

/// Connections to PostgreSQL that operators share, so that they never take
/// those of payments.
const CONNECTIONS: u32 = 4;

/// How long to wait for Redis to forget a balance or a reference.
const FORGET_PATIENCE: Duration = Duration::from_secs(2);
/// How long a server of Redis may take to answer whoever only looks: less than they wait in all, so
/// that one that is away keeps nobody from what the others say.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How long gateways remember a reference unless they are told otherwise.
const DEDUPE_WINDOW: Duration = Duration::from_secs(15 * 60);

pub struct Operations {
    admin: AdminStore,
    /// Reads what operators look at; changes nothing.
    pool: Pool,
    parking: Parking,
    groups: Groups,
    reader: Reader,
    ledger: Ledger,
    topology: Topology,
    streams: Streams,
    looks: OnceCell<Looks>,
    clock: Clock,
    /// How long gateways remember a reference in the stream.
    dedupe_window: Duration,
    signals: Signals,
    /// Where a change of the topology takes the streams.
    moving_to: Option<Streams>,
    /// Hears how far a change of the number of partitions is.
    on_drain: Box<dyn Fn(DrainProgress) + Send + Sync>,
    /// When somebody who only looked last asked whether the ledger is there, and
    /// whether it was.
    ledger_there: Mutex<Option<(Instant, bool)>>,
    /// The last snapshot; held while one is taken.
    latest: tokio::sync::Mutex<Option<Arc<SystemSnapshot>>>,
    snapshots: TaskTracker,
}

/// What looks at Redis; connected when it is first needed, so that what only
/// asks the ledger works without it.
struct Looks {
    inspector: Inspector,
    finder: Finder,
    upkeep: Upkeep,
    balances: Balances,
}

impl Operations {
    /// Over these stores; does not connect yet.
    #[must_use]
    pub fn new(streams: &Streams, ledger: &Ledger, topology: &Topology, clock: Clock) -> Self {
        let (admin, pool) = ledger.admin(topology, CONNECTIONS);
        Self {
            admin,
            pool,
            parking: ledger.parking(topology),
            groups: ledger.groups(),
            reader: ledger.reader(2),
            ledger: ledger.clone(),
            topology: topology.clone(),
            streams: streams.clone(),
            looks: OnceCell::new(),
            clock,
            dedupe_window: DEDUPE_WINDOW,
            signals: Signals::off(),
            moving_to: None,
            on_drain: Box::new(|_| ()),
            ledger_there: Mutex::new(None),
            latest: tokio::sync::Mutex::default(),
            snapshots: TaskTracker::new(),
        }
    }

    /// The same, speaking of what it does.
    #[must_use]
    pub fn with_signals(self, signals: Signals) -> Self {
        Self { signals, ..self }
    }

    /// The same, which tells how far a change of the number of partitions is.
    #[must_use]
    pub fn with_on_drain(self, on_drain: impl Fn(DrainProgress) + Send + Sync + 'static) -> Self {
        Self { on_drain: Box::new(on_drain), ..self }
    }

    /// The same, where a change of the topology takes the streams to this Redis.
    #[must_use]
    pub fn moving_to(self, streams: Streams) -> Self {
        Self { moving_to: Some(streams), ..self }
    }

    /// The same, where gateways remember a reference for this long.
    #[must_use]
    pub fn with_dedupe_window(self, dedupe_window: Duration) -> Self {
        Self { dedupe_window, ..self }
    }

    async fn looks(&self) -> Result<&Looks, Error> {
        let connect = async || {
            let streams = self.streams.clone().answering_within(LOOK_TIMEOUT);
            Ok(Looks {
                inspector: streams.inspector().await?,
                finder: streams.finder(self.dedupe_window).await?,
                upkeep: streams.upkeep().await?,
                balances: streams.balances(Duration::ZERO).await?,
            })
        };
        self.looks.get_or_try_init(connect).await
    }

    /// What is cached of a customer's balance is not true any more. While Redis
    /// cannot be told, a balance may be shown for as long as it is cached.
    async fn forget_balance(&self, customer: &CustomerId) {
        self.tell_redis(
            async |looks: &Looks| looks.balances.forget(customer).await,
            "a cached balance could not be removed from Redis; it may be shown",
        )
        .await;
    }

    /// Tells Redis something, within a bound; says whether it was told, and logs if not.
    async fn tell_redis<T>(
        &self,
        telling: impl AsyncFnOnce(&Looks) -> Result<T, stream::Error>,
        failed: &'static str,
    ) -> bool {
        let telling = async { Ok(telling(self.looks().await?).await?) };
        let told: Result<T, Error> = match timeout(FORGET_PATIENCE, telling).await {
            Ok(told) => told,
            Err(_) => Err(stream::Error::Deadline(FORGET_PATIENCE).into()),
        };
        if let Err(error) = &told {
            warn!(error = error.sentence(), "{failed}");
        }
        told.is_ok()
    }
}

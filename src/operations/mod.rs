//! Operations: what operators see of the running system and change in it. Stuck
//! work with a verdict and what is safe to do, the life of one payment, dead
//! letters, suspense, conflicts, owners, and what is wrong and why.
//!
//! The command line, the operators' API and the console all show what is here,
//! in one shape. Never settles by itself what a worker will settle, never
//! decides about money (that is the domain's), never trims.

mod act;
mod background;
mod bulk;
mod changes;
mod conflicts;
mod dead_letters;
mod doctor;
mod error;
mod finding;
mod groups;
mod left_behind;
mod life;
mod overview;
mod pending;
mod perform;
mod release;
mod shapes;
mod suspense;
mod verdict;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::{sync::OnceCell, time::timeout};
use tracing::warn;

pub use act::{Act, Action, Words, group_name};
pub use bulk::{BULK_MAX, Mend, MendSummary};
pub use changes::{AuditEntry, ParkedCustomer};
pub use conflicts::{Conflict, ConflictName};
pub use dead_letters::{DeadLetter, LetterReport};
pub use doctor::{Checkup, examine};
pub use error::{Error, chain};
pub use finding::{Finding, KINDS, Kind, Severity};
pub use groups::Group;
pub use life::{Life, Moment, NOTHING_KNOWN};
pub use overview::{Figures, Overview, PartitionLook, Snapshot, WorkerLook};
pub use pending::{
    ENTRIES_MAX as PENDING_MAX, PendingEntry, PendingFilter, PendingPage, PendingSummary,
};
pub use perform::{Answer, Foretold, notice};
pub use shapes::{Money, last_owners};
pub use suspense::{AssignReport, SuspensePayment};
pub use verdict::Verdict;

pub use crate::ledger::{
    Acted, COUNT_MAX as CASES_COUNTED_MAX, CustomerCount, DeadLetterFilter, Refusal, Signature,
};
use crate::{
    clock::Clock,
    domain::CustomerId,
    ledger::{AdminStore, Groups, Ledger, Parking, Reader, Topology},
    stream::{Balances, Finder, Inspector, Streams, Upkeep},
    telemetry::Signals,
};

/// Connections to PostgreSQL that operators share, so that they never take
/// those of payments.
const CONNECTIONS: u32 = 4;

/// How long to wait for Redis to forget a balance or a reference.
const FORGET_PATIENCE: Duration = Duration::from_secs(2);

/// How long gateways remember a reference unless they are told otherwise.
const DEDUPE_WINDOW: Duration = Duration::from_secs(15 * 60);

/// What operators can see and do.
pub struct Operations {
    admin: AdminStore,
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
    /// When somebody who only looked last asked whether the ledger is there, and
    /// whether it was.
    ledger_there: Mutex<Option<(Instant, bool)>>,
    /// What was seen last, by whoever looked.
    latest: tokio::sync::Mutex<Option<Snapshot>>,
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
        Self {
            admin: ledger.admin(topology, CONNECTIONS),
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
            ledger_there: Mutex::new(None),
            latest: tokio::sync::Mutex::default(),
        }
    }

    /// The same, speaking of what it does.
    #[must_use]
    pub fn with_signals(self, signals: Signals) -> Self {
        Self { signals, ..self }
    }

    /// The same, where gateways remember a reference for this long.
    #[must_use]
    pub fn with_dedupe_window(self, dedupe_window: Duration) -> Self {
        Self { dedupe_window, ..self }
    }

    async fn looks(&self) -> Result<&Looks, Error> {
        let connect = async || {
            Ok(Looks {
                inspector: self.streams.inspector().await?,
                finder: self.streams.finder(self.dedupe_window).await?,
                upkeep: self.streams.upkeep().await?,
                balances: self.streams.balances(Duration::ZERO).await?,
            })
        };
        self.looks.get_or_try_init(connect).await
    }

    /// What is cached of a customer's balance is not true any more. While Redis
    /// cannot be told, a balance may be shown for as long as it is cached.
    async fn forget_balance(&self, customer: &CustomerId) {
        let forgetting = async { Ok(self.looks().await?.balances.forget(customer).await?) };
        let forgotten: Result<(), Error> = match timeout(FORGET_PATIENCE, forgetting).await {
            Ok(forgotten) => forgotten,
            Err(_) => Err(crate::stream::Error::Deadline(FORGET_PATIENCE).into()),
        };
        if let Err(error) = forgotten {
            warn!(
                error = error.sentence(),
                "a cached balance could not be forgotten; it may be shown"
            );
        }
    }
}

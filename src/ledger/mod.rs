//! The ledger: post and read. The only room that writes to PostgreSQL.
//!
//! PostgreSQL is the judge: who owns a partition, how far it has come, which
//! references are used, and every balance. A batch is one transaction that
//! locks the fence rows of its partitions first; whoever else changes an
//! account locks the same rows, so accounts need no locks of their own. Each
//! account carries a version all the same, and an update that does not find
//! the version it read rolls everything back.
//!
//! Never decides what becomes of a payment (that is the domain's book, which
//! `settling.rs` alone asks), waits for no outage, and never knows the stream or HTTP.

mod address;
mod error;
mod export;
mod schema;
mod rights;
mod resize;
mod ownership;
mod lookups;
mod rows;
mod shapes;
mod settling;
mod lane;
mod writer;
mod attempts;
mod losses;
mod jumps;
mod cursors;
mod parking;
mod pool;
mod commit;
mod session;
mod replica;
mod reader;
mod registrar;
mod groups;
mod sessions;
mod admin;
mod archive;
mod audit;
mod keeping;

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgSslMode;
use tokio::time::timeout;

use address::Address;
pub use admin::{
    Acted, AdminStore, AttemptRow, COUNT_MAX, EvidenceRow, LockHolder, MoveRow, OpenCases, Refusal,
    SettledCase, Signature, StoredPayment, Symptom, Symptoms, Vitals, WorkerRow,
};
pub use archive::{Archive, MonthRow};
pub use attempts::Attempt;
pub use audit::{
    AuditProgress, AuditReport, CheckCount, Checkpoint, Drift, FullAudit, LogPlace, Rounds, Slice,
    Stage,
};
pub use cursors::Cursor;
pub use error::{Cause, Error};
pub use groups::{GroupRegistrar, GroupRow, Groups};
pub use keeping::{Keeping, LogKeeping};
pub use lane::{LaneWriter, Writer};
pub use losses::{LossRow, Losses, Resumption, Rewound, Takeovers};
pub use ownership::{Grant, LiveWorker, Ownership, PartitionOwner, RegistrySnapshot};
pub use parking::Parking;
pub use pool::{Pool, PoolUse};
pub use reader::{
    AccountRow, ConflictRow, CursorRow, CustomerCount, LedgerTotals, PaymentRow, Reader,
};
pub use registrar::{NewAccount, Opening, Registrar};
use replica::Replica;
pub use resize::Resize;
pub use rights::{RIGHTS as TABLE_RIGHTS, ROLES as DATABASE_ROLES};
pub use schema::{PastTopology, Schema, Topology};
use session::Terms;
pub use sessions::{EndedSessions, ListedSession, SessionRow, SessionStore};
pub use settling::Races;
pub use shapes::{Money, StateCounts};
pub use writer::{Batch, Burial};

/// How long to wait for a free connection, or for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a check of reachability may take.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// A lock is waited for at most this part of a statement's timeout, so that a lock can be told
/// from a slow PostgreSQL.
const LOCK_WAIT: u32 = 3;

/// How long a slice of the running audit may take.
const SLICE_TIMEOUT: Duration = Duration::from_secs(10);

/// All but the audit read by key. For a table that is still small, the planner would choose and
/// cache a sequential scan.
fn read_by_key() -> [(&'static str, String); 2] {
    [("enable_seqscan", "off".to_owned()), ("jit", "off".to_owned())]
}

/// The address of the ledger; hands out its capabilities.
#[derive(Clone, Debug)]
pub struct Ledger {
    address: Address,
}

impl Ledger {
    /// Reads the URL, which may name a primary and its standbys; does not connect.
    pub fn new(url: &str) -> Result<Self, Cause> {
        Self::on(url, Terms::Session)
    }

    /// The same, through a connection pooler in transaction mode.
    pub fn pooled(url: &str) -> Result<Self, Cause> {
        Self::on(url, Terms::Transaction(Arc::from("")))
    }

    fn on(url: &str, terms: Terms) -> Result<Self, Cause> {
        let address = Address::parse(url, terms)?;
        let address = address.with(|options| options.application_name("paystream")).set([
            // What was acknowledged must be on disk, whatever the server's default is.
            ("synchronous_commit", "on".to_owned()),
            // A migration or a right that is there already is nothing to tell.
            ("client_min_messages", "warning".to_owned()),
        ]);
        Ok(Self { address })
    }

    /// The first host that is reached without TLS, or without insisting on it; a socket is none.
    pub fn plaintext_host(&self) -> Option<&str> {
        let options = self.address.options();
        let is_encrypted = matches!(
            options.get_ssl_mode(),
            PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull
        );
        let host = self.address.hosts().find(|host| !host.starts_with('/'));
        host.filter(|_| !is_encrypted && options.get_socket().is_none())
    }

    /// Whether several servers are named, of which the primary is used.
    pub fn is_several(&self) -> bool {
        self.address.hosts().count() > 1
    }

    /// Host and port, where one server is named and it is no socket.
    pub fn only_server(&self) -> Option<(String, u16)> {
        let options = self.address.options();
        let is_remote = options.get_socket().is_none() && !options.get_host().starts_with('/');
        let is_only = is_remote && !self.is_several();
        is_only.then(|| (options.get_host().to_owned(), options.get_port()))
    }

    pub fn database(&self) -> Option<&str> {
        self.address.options().get_database()
    }

    /// Whether PostgreSQL accepts a new connection within two seconds, as a primary where
    /// several servers are named.
    pub async fn reach(&self) -> Result<(), Error> {
        reach(&self.address).await
    }

    /// Follows a promotion, until it is dropped.
    pub async fn keep_following(&self) {
        self.address.keep_following().await;
    }

    pub fn schema(&self) -> Schema {
        let pool = self.pool(2, Duration::from_secs(600));
        Schema { pool, address: self.address.clone() }
    }

    pub fn reader(&self, connections: u32) -> Reader {
        Reader { pool: self.pool(connections, QUERY_TIMEOUT), replica: None }
    }

    /// The same, whose balances and statements are read from this standby while it is at most
    /// `lag_max` behind.
    pub fn reader_beside(&self, standby: &Self, connections: u32, lag_max: Duration) -> Reader {
        let Reader { pool, .. } = self.reader(connections);
        let reads = standby.by_key(QUERY_TIMEOUT);
        let reads = reads.with(|options| options.application_name("paystream reads"));
        let reads = reads.pool(connections, replica::CONNECT_TIMEOUT);
        Reader { replica: Some(Replica::new(&pool, reads, lag_max)), pool }
    }

    /// None while another process changes the number of partitions.
    pub async fn resize(&self) -> Result<Option<Resize>, Error> {
        Resize::connect(&self.address).await
    }

    pub fn registrar(&self, topology: &Topology) -> Registrar {
        Registrar { pool: self.pool(2, Duration::from_secs(60)), topology: topology.clone() }
    }

    pub fn losses(&self) -> Losses {
        Losses { pool: self.pool(2, QUERY_TIMEOUT) }
    }

    pub fn parking(&self, topology: &Topology) -> Parking {
        Parking { pool: self.pool(2, Duration::from_secs(60)), topology: topology.clone() }
    }

    /// The operators' part of the ledger, and the pool with which operations read.
    pub fn admin(&self, topology: &Topology, connections: u32) -> (AdminStore, Pool) {
        let address = self.by_key(QUERY_TIMEOUT).set([lock_wait(QUERY_TIMEOUT)]);
        let pool = address.pool(connections, ACQUIRE_TIMEOUT);
        (AdminStore::new(pool.clone(), topology.clone()), pool)
    }

    pub fn writer(&self, worker: &str, batch_deadline: Duration) -> Writer {
        Writer::new(&self.address, worker, batch_deadline)
    }

    /// With connections of its own: operators sign in however busy queries are.
    pub fn sessions(&self) -> SessionStore {
        SessionStore { pool: self.pool(2, QUERY_TIMEOUT) }
    }

    pub fn groups(&self) -> Groups {
        Groups { pool: self.pool(1, QUERY_TIMEOUT) }
    }

    pub fn group_registrar(&self) -> GroupRegistrar {
        GroupRegistrar { pool: self.pool(1, QUERY_TIMEOUT) }
    }

    pub fn audit(&self) -> FullAudit {
        FullAudit::new(&self.address)
    }

    pub fn rounds(&self) -> Rounds {
        Rounds::new(&self.by_key(SLICE_TIMEOUT))
    }

    fn pool(&self, connections: u32, statement_timeout: Duration) -> Pool {
        self.by_key(statement_timeout).pool(connections, ACQUIRE_TIMEOUT)
    }

    fn by_key(&self, statement_timeout: Duration) -> Address {
        let timeout = statement_timeout.as_millis().to_string();
        self.address.set([("statement_timeout", timeout)]).set(read_by_key())
    }
}

/// The lock timeout that goes with a statement timeout.
fn lock_wait(statement_timeout: Duration) -> (&'static str, String) {
    ("lock_timeout", (statement_timeout / LOCK_WAIT).as_millis().to_string())
}

/// Connects once; a pool would only say that it had no connection in time.
async fn reach(address: &Address) -> Result<(), Error> {
    let connection = in_time(REACH_TIMEOUT, address.connect()).await?;
    // An error on closing does not matter.
    drop(connection.close().await);
    Ok(())
}

/// Bounds a question to PostgreSQL, which may be gone without closing its connections.
async fn in_time<T, E>(
    limit: Duration,
    asking: impl Future<Output = Result<T, E>>,
) -> Result<T, Error>
where
    E: From<sqlx::Error>,
    Error: From<E>,
{
    let answer = timeout(limit, asking).await;
    Ok(answer.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into()))?)
}

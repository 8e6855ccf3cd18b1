//! The running audit's part in the ledger: recomputes one slice of accounts
//! after the other, round after round, with the statements and the checks of
//! the whole audit.
//!
//! One process at a time does it, the one that holds an advisory lock; behind a pooler, which
//! keeps no lock of a session, the first of the live workers. Each
//! slice is one read-only transaction that sees one moment, so that accounts
//! which are being changed do not seem to differ. Never remembers what it found:
//! whoever asks for slices does.

use std::collections::BTreeSet;

use sqlx::ConnectOptions;
use tokio::time::timeout;

use super::{AuditReport, BEYOND_ALL, Error, statements};
use crate::ledger::{ACQUIRE_TIMEOUT, SLICE_TIMEOUT, address::Address, session::Session};

const LOCK: i64 = 0x7061_7973_6175_6469;
/// Whether this worker is the first of those that live.
const FIRST: &str = "select coalesce($1 = (select worker_id from workers
     where beat_at between clock_timestamp() - lease_ms * interval '1 millisecond'
         and clock_timestamp() + lease_ms * interval '1 millisecond'
     order by worker_id limit 1), false)";
/// Rows of statements in one slice, as far as the accounts count them right; of
/// one account, all.
const SLICE_ROWS_MAX: i64 = 20_000;
/// Customers that a slice names as differing.
const DIFFERING_KEPT: usize = 1_000;

/// Audits slice after slice, over a connection of its own.
pub struct Rounds {
    address: Address,
    /// The process's own, if it is one.
    worker: Option<String>,
    connection: Option<Session>,
    from: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first customer id.
    pub from: String,
    /// The customer id behind the slice; none at the end of a round.
    pub before: Option<String>,
    pub accounts: u64,
    /// Customers whose account or statement is not as it must be; the first 1,000.
    pub differing: Vec<String>,
    /// It took too long and was left out: `paystream audit` has more time.
    pub left_out: bool,
}

impl Slice {
    pub fn covers(&self, customer: &str) -> bool {
        *customer >= *self.from && self.before.as_deref().is_none_or(|before| customer < before)
    }
}

impl Rounds {
    pub(in crate::ledger) fn new(address: &Address) -> Self {
        let address = address.with(|options| {
            options.application_name("paystream running audit").disable_statement_logging()
        });
        Self { address, worker: None, connection: None, from: String::new() }
    }

    /// The same, in the process of this worker.
    #[must_use]
    pub fn of(self, worker: Option<String>) -> Self {
        Self { worker, ..self }
    }

    /// The next slice of at most so many accounts; nothing while another
    /// process audits. After an error, and when this process has just become
    /// the one that audits, the round begins anew.
    pub async fn next(&mut self, accounts_max: u32) -> Result<Option<Slice>, Error> {
        // Put back only when all went well: otherwise it is closed, and with it
        // goes the lock.
        let Some(mut connection) = self.turn().await? else { return Ok(None) };
        let looking = slice(&mut connection, &self.from, accounts_max);
        // Accounts and rows have their time each; PostgreSQL may be gone without a word.
        let looked = timeout(3 * SLICE_TIMEOUT, looking).await;
        let slice = looked.unwrap_or(Err(sqlx::Error::PoolTimedOut.into()))?;
        self.from = slice.before.clone().unwrap_or_default();
        self.connection = Some(connection);
        Ok(Some(slice))
    }

    /// A connection, if it is this process's turn.
    async fn turn(&mut self) -> Result<Option<Session>, Error> {
        let kept = self.connection.take();
        if self.address.is_pooled() {
            let Some(worker) = self.worker.clone() else { return Ok(None) };
            let first = sqlx::query_scalar(FIRST).bind(worker);
            let asking = async |session: &mut Session| first.fetch_one(session).await;
            return self.taken(kept, async |session| session.ask(asking).await).await;
        }
        if kept.is_some() {
            return Ok(kept);
        }
        self.taken(None, async |session| session.lock(LOCK).await).await
    }

    /// The connection that was kept, or a new one, if `take` says so. With a new one, the round
    /// begins anew.
    async fn taken(
        &mut self,
        kept: Option<Session>,
        take: impl AsyncFnOnce(&mut Session) -> Result<bool, Error>,
    ) -> Result<Option<Session>, Error> {
        if kept.is_none() {
            self.from.clear();
        }
        let taking = async {
            let mut session = match kept {
                Some(session) => session,
                None => self.address.connect().await?,
            };
            if take(&mut session).await? {
                return Ok(Some(session));
            }
            session.close().await?;
            Ok(None)
        };
        timeout(ACQUIRE_TIMEOUT, taking).await.unwrap_or(Err(sqlx::Error::PoolTimedOut.into()))
    }
}

async fn slice(connection: &mut Session, from: &str, accounts_max: u32) -> Result<Slice, Error> {
    let mut transaction = connection.snapshot().await?;
    let before = end(&mut transaction, from, accounts_max).await?;
    let range = (from, before.as_deref().unwrap_or(BEYOND_ALL));
    let (mut report, mut differing) = (AuditReport::empty(), BTreeSet::new());
    let on_row = |customer: &str, at_fault: bool| {
        if at_fault && differing.len() < DIFFERING_KEPT {
            differing.insert(customer.to_owned());
        }
    };
    let left_out = match statements(&mut transaction, range, &mut report, on_row).await {
        // An account alone may have more than can be read in time.
        Err(Error::Slow(_)) => true,
        looked => looked.map(|()| false)?,
    };
    transaction.rollback().await?;
    let (accounts, from) = (report.accounts, from.to_owned());
    Ok(Slice { from, before, accounts, differing: differing.into_iter().collect(), left_out })
}

/// The customer before whom a slice ends, by what it may have of accounts and
/// of rows; nothing when it comes to the last.
async fn end(
    connection: &mut Session,
    from: &str,
    accounts_max: u32,
) -> Result<Option<String>, Error> {
    let end = sqlx::query_scalar(
        "select customer_id from (
             select customer_id, row_number() over ahead as number,
                 sum(greatest(version, 0)) over ahead as rows
             from (select * from customer_accounts where customer_id >= $1
                 order by customer_id limit $2 + 1) a
             window ahead as (order by customer_id)) s
         where number > 1 and (number > $2 or rows > $3) order by customer_id limit 1",
    );
    let end = end.bind(from).bind(i64::from(accounts_max.max(1))).bind(SLICE_ROWS_MAX);
    Ok(end.fetch_optional(connection).await?)
}

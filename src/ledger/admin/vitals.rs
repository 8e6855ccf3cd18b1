//! How the database itself is: settings, clock, sessions, size; and how much
//! lies in it that an operator should deal with. Never changes a setting, and
//! counts no further than it has to.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{Connection, FromRow, PgConnection, Row};
use tokio::time::timeout;

use super::{AdminStore, COUNT_MAX, LockHolder, locks};
use crate::ledger::{ACQUIRE_TIMEOUT, Error, Ledger, QUERY_TIMEOUT};

/// How often the way there is measured; the quickest counts.
const QUESTIONS: usize = 3;
/// Sessions and rows that are listed at once.
const LIST_MAX: i64 = 20;

/// What `paystream doctor` wants to know of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Vitals {
    /// The quickest of a few questions and answers.
    #[sqlx(skip)]
    pub latency: Duration,
    pub now: DateTime<Utc>,
    /// `15.4`, for instance.
    pub version: String,
    /// 150004, for instance.
    pub version_number: i32,
    /// It copies another one, and takes no writes.
    pub recovering: bool,
    /// Transactions may not write unless they ask to.
    pub read_only: bool,
    /// Whether it waits for its disk before it says that something is written.
    pub fsync: bool,
    /// Whether a torn page can be mended after a crash.
    pub full_page_writes: bool,
    /// When a commit is answered: `off` is before it is on disk.
    pub synchronous_commit: String,
    pub connections: i64,
    /// Without those kept for superusers.
    pub connections_max: i64,
    /// Size of this database, in bytes.
    pub size: i64,
    /// Where it keeps its data; nothing when this user may not ask.
    pub directory: Option<String>,
    /// Sessions of ours that have waited for a lock, the longest first.
    #[sqlx(skip)]
    pub blocked: Vec<BlockedSession>,
    /// Foreign sessions with locks on what a batch writes, the oldest first.
    #[sqlx(skip)]
    pub holders: Vec<LockHolder>,
    /// Sessions in this database with an old transaction, the oldest first.
    #[sqlx(skip)]
    pub transactions: Vec<OpenTransaction>,
}

/// A session of ours that waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct BlockedSession {
    pub pid: i32,
    pub application: String,
    /// Age of its statement.
    pub waited_ms: i64,
    /// Who holds what it waits for: `12345 (psql, idle in transaction)`.
    pub blockers: Vec<String>,
}

/// A session with an open transaction.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct OpenTransaction {
    pub pid: i32,
    pub application: String,
    /// `active`, `idle in transaction`, and so on.
    pub state: String,
    pub open_ms: i64,
}

/// A pile that an operator should work off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pile {
    /// How many; [`Pile::is_capped`] tells whether there may be more.
    pub count: i64,
    /// Since when the oldest lies there.
    pub oldest: Option<DateTime<Utc>>,
}

impl Pile {
    /// Whether it was not counted to its end.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.count >= COUNT_MAX
    }
}

/// An entry that failed, or that its worker died of.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct RetriedEntry {
    pub partition: i32,
    pub first_stream_id: String,
    pub last_stream_id: String,
    pub attempts: i32,
    pub attempts_max: i32,
    /// What the last one ended with; nothing while one is under way.
    pub error: Option<String>,
}

/// An account that does not stand where its statement does, so that its payments
/// become dead letters.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct DamagedAccount {
    pub customer_id: String,
    pub version: i64,
    /// Version of the last row of the account's statement.
    pub last: i64,
    pub dead_letters: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// New number of partitions while a resize is under way.
    pub resizing_to: Option<i32>,
    pub resizing_since: Option<DateTime<Utc>>,
    /// Earlier topologies whose streams are still there.
    pub old_generations: i64,
    /// Partitions whose owner was asked to hand them over, and when.
    pub releases: Vec<(i32, DateTime<Utc>)>,
    pub dead_letters: Pile,
    /// Whether any of those could be read.
    pub redrivable: bool,
    pub suspense: Pile,
    /// Sum of the counted payments in suspense.
    pub suspense_amount: Decimal,
    pub conflicts: Pile,
    /// Parked customers.
    pub parked: Pile,
    pub losses: Pile,
    /// Accounts with open dead letters that are damaged.
    pub damaged: Vec<DamagedAccount>,
    /// Entries that failed before, or that their worker died of.
    pub retried: Vec<RetriedEntry>,
}

impl Ledger {
    /// Asks PostgreSQL how it is, whatever the schema, over a connection of its
    /// own.
    pub async fn vitals(&self) -> Result<Vitals, Error> {
        // Not a pool: that would only say that it had no connection in time.
        let options = self.by_key(QUERY_TIMEOUT);
        let connecting = PgConnection::connect_with(&options);
        let connected = timeout(ACQUIRE_TIMEOUT, connecting).await;
        let mut connection = connected.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let vitals = read(&mut connection).await?;
        connection.close().await?;
        Ok(vitals)
    }

    /// Whether PostgreSQL is on this machine, as far as its address tells.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let host = self.options.get_host();
        matches!(host, "localhost" | "127.0.0.1" | "::1") || host.starts_with('/')
    }
}

impl AdminStore {
    pub async fn work(&self) -> Result<Work, Error> {
        let piles = sqlx::query(
            "with dead as (
                 select dead_at as at, code from dead_letters where state = 'dead' order by id limit $1),
             held as (
                 select held_at as at, amount from suspense where state = 'held'
                 order by held_at, transaction_reference limit $1),
             disputed as (
                 select detected_at as at from conflicts where state = 'open'
                 order by detected_at, partition, sequence limit $1),
             waiting as (
                 select parked_at as at from customer_accounts where parked_at is not null limit $1),
             lost as (
                 select detected_at as at from sequence_jumps where state = 'open' limit $1)
             select (select count(*) from dead) as dead, (select min(at) from dead) as dead_at,
                 exists (select from dead where code <> 'entry_unreadable') as redrivable,
                 (select count(*) from held) as held, (select min(at) from held) as held_at,
                 (select coalesce(sum(amount), 0) from held) as held_amount,
                 (select count(*) from disputed) as disputed,
                 (select min(at) from disputed) as disputed_at,
                 (select count(*) from waiting) as waiting,
                 (select min(at) from waiting) as waiting_at,
                 (select count(*) from lost) as lost, (select min(at) from lost) as lost_at,
                 (select count(*) from past_topologies where removed_at is null) as past,
                 resizing_to, resize_started_at
             from topology",
        );
        let row = in_time(piles.bind(COUNT_MAX).fetch_one(&self.pool)).await?;
        let pile = |name: &str| -> Result<Pile, Error> {
            let oldest = row.try_get(format!("{name}_at").as_str())?;
            Ok(Pile { count: row.try_get(name)?, oldest })
        };
        let releases = sqlx::query_as(
            "select partition, release_asked_at from partition_owners
             where release_asked_at is not null and generation = $1 order by partition",
        );
        Ok(Work {
            resizing_to: row.try_get("resizing_to")?,
            resizing_since: row.try_get("resize_started_at")?,
            old_generations: row.try_get("past")?,
            dead_letters: pile("dead")?,
            redrivable: row.try_get("redrivable")?,
            suspense: pile("held")?,
            suspense_amount: row.try_get("held_amount")?,
            conflicts: pile("disputed")?,
            parked: pile("waiting")?,
            losses: pile("lost")?,
            releases: in_time(releases.bind(self.topology.generation).fetch_all(&self.pool))
                .await?,
            damaged: self.damaged().await?,
            retried: self.retried().await?,
        })
    }

    async fn damaged(&self) -> Result<Vec<DamagedAccount>, Error> {
        let rows = sqlx::query_as(
            "with dead as (
                 select customer_id, count(*) as dead_letters from (
                     select customer_id from dead_letters
                     where state = 'dead' and customer_id is not null order by id limit $1) s
                 group by customer_id)
             select customer_id, version, last, dead_letters from dead
             join customer_accounts using (customer_id)
             cross join lateral (select coalesce(max(account_version), 0) as last
                 from processed_transactions p where p.customer_id = dead.customer_id) s
             where version < last order by customer_id limit $2",
        );
        in_time(rows.bind(COUNT_MAX).bind(LIST_MAX).fetch_all(&self.pool)).await
    }

    async fn retried(&self) -> Result<Vec<RetriedEntry>, Error> {
        // The first attempt of a page that came back is nothing out of the
        // ordinary.
        let rows = sqlx::query_as(
            "select t.partition, t.first_stream_id, t.last_stream_id, t.attempts,
                 coalesce(w.attempts_max, 5) as attempts_max, t.error
             from partition_trials t join partition_owners p on p.partition = t.partition
             left join workers w on w.worker_id = p.owner
             where t.error is not null or t.attempts > 1 order by t.partition limit $1",
        );
        in_time(rows.bind(LIST_MAX).fetch_all(&self.pool)).await
    }
}

async fn read(connection: &mut PgConnection) -> Result<Vitals, Error> {
    let mut latency = Duration::MAX;
    for _ in 0..QUESTIONS {
        let asked = Instant::now();
        in_time(sqlx::query("select 1").execute(&mut *connection)).await?;
        latency = latency.min(asked.elapsed());
    }
    let settings = sqlx::query_as(
        "select current_setting('server_version') as version,
             current_setting('server_version_num')::int as version_number,
             pg_is_in_recovery() as recovering,
             current_setting('default_transaction_read_only') = 'on' as read_only,
             current_setting('fsync') = 'on' as fsync,
             current_setting('full_page_writes') = 'on' as full_page_writes,
             current_setting('synchronous_commit') as synchronous_commit,
             (select count(*) from pg_stat_activity where backend_type = 'client backend')
                 as connections,
             (current_setting('max_connections')::int
                 - current_setting('superuser_reserved_connections')::int)::bigint
                 as connections_max,
             pg_database_size(current_database()) as size,
             (select setting from pg_settings where name = 'data_directory') as directory,
             clock_timestamp() as now",
    );
    let vitals: Vitals = in_time(settings.fetch_one(&mut *connection)).await?;
    let blocked = sqlx::query_as(
        "select pid, application_name as application,
             (extract(epoch from clock_timestamp() - query_start) * 1000)::bigint as waited_ms,
             (select coalesce(array_agg(format('%s (%s, %s)', b.pid,
                 coalesce(nullif(b.application_name, ''), 'unnamed'), coalesce(b.state, 'hidden'))),
                 '{}') from pg_stat_activity b where b.pid = any(pg_blocking_pids(a.pid)))
                 as blockers
         from pg_stat_activity a
         where datname = current_database() and application_name like 'paystream%'
             and wait_event_type = 'Lock'
         order by query_start limit $1",
    );
    let transactions = sqlx::query_as(
        "select pid, application_name as application, coalesce(state, 'hidden') as state,
             (extract(epoch from clock_timestamp() - xact_start) * 1000)::bigint as open_ms
         from pg_stat_activity
         where datname = current_database() and backend_type = 'client backend'
             and xact_start is not null and pid <> pg_backend_pid()
         order by xact_start limit $1",
    );
    Ok(Vitals {
        latency,
        blocked: in_time(blocked.bind(LIST_MAX).fetch_all(&mut *connection)).await?,
        holders: in_time(locks::holders(&mut *connection)).await?,
        transactions: in_time(transactions.bind(LIST_MAX).fetch_all(connection)).await?,
        ..vitals
    })
}

/// PostgreSQL may be gone without a word.
async fn in_time<T>(asking: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    let answer = timeout(QUERY_TIMEOUT, asking).await;
    Ok(answer.unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
}

//! Foreign sessions that keep payments from being settled: they hold an account, a
//! partition, or a whole table of the ledger. Takes no lock and waits for none; never
//! names a session of paystream.

use sqlx::{AssertSqlSafe, FromRow};

use super::AdminStore;
use crate::ledger::Error;

/// Sessions that are listed.
const HOLDERS_MAX: i64 = 20;
/// Sessions with locks on tables that a batch writes; readers and vacuum do not block a batch.
pub(super) const HOLDERS: &str = "
    with holders as (
        select s.pid, s.application_name, s.state, s.xact_start,
            bool_or(l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                'AccessExclusiveLock')) as has_table
        from pg_locks l join pg_stat_activity s on s.pid = l.pid
        where s.datname = current_database() and s.backend_type = 'client backend'
            and s.application_name not like 'paystream%' and l.granted
            and l.locktype = 'relation'
            and l.mode not in ('AccessShareLock', 'ShareUpdateExclusiveLock')
            and l.relation in (select oid from pg_class where relname in
                ('customer_accounts', 'partition_owners', 'processed_transactions'))
        group by s.pid, s.application_name, s.state, s.xact_start)";
const HOLDER: &str = "
    select pid, coalesce(nullif(application_name, ''), 'unnamed') as application,
        coalesce(state, 'hidden') as state, has_table,
        (extract(epoch from clock_timestamp() - xact_start) * 1000)::bigint as open_ms,";

/// A foreign session with locks on what a batch writes.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct LockHolder {
    pub pid: i32,
    pub application: String,
    pub state: String,
    /// Age of its transaction, in milliseconds; nothing when this user may not see it.
    pub open_ms: Option<i64>,
    /// It holds a whole table: nothing is settled meanwhile.
    pub has_table: bool,
    /// Those of the accounts asked for that it has locked.
    pub accounts: Vec<String>,
    /// Partitions whose fence row it has locked.
    pub partitions: Vec<i32>,
}

impl AdminStore {
    /// Who holds locks that a batch needs, and which of these accounts.
    pub async fn lock_holders(&self, customers: &[&str]) -> Result<Vec<LockHolder>, Error> {
        // A row names the transaction that has locked it, whether anybody waits or not.
        const LOCKED: &str = "xmax in (select transactionid from pg_locks l where l.granted
            and l.pid = holders.pid and l.locktype = 'transactionid' and l.mode = 'ExclusiveLock')";
        let rows = format!(
            "{HOLDERS} {HOLDER}
                 array(select customer_id from customer_accounts
                     where customer_id = any($2) and {LOCKED} order by 1) as accounts,
                 array(select partition from partition_owners where {LOCKED} order by 1)
                     as partitions
             from holders order by xact_start limit $1"
        );
        let sessions = format!(
            "{HOLDERS} {HOLDER} '{{}}'::text[] as accounts, '{{}}'::int[] as partitions
             from holders order by xact_start limit $1"
        );
        let sessions = sqlx::query_as(AssertSqlSafe(sessions)).bind(HOLDERS_MAX);
        let held: Vec<LockHolder> = self.pool.all(sessions).await?;
        // A lock on a whole table explains all, and rows of that table cannot be read.
        if held.is_empty() || held.iter().any(|one| one.has_table) {
            return Ok(held);
        }
        let rows = sqlx::query_as(AssertSqlSafe(rows)).bind(HOLDERS_MAX).bind(customers);
        self.pool.all(rows).await
    }
}

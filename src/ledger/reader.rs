//! Queries of the gateway. Never changes anything.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::{
    FromRow, Postgres,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};
use utoipa::ToSchema;

use super::{
    Error,
    cursors::{CURSORS, PartitionCursor},
    pool::{Pool, PoolUse},
    replica::Replica,
    shapes::{Money, NameView, StateCounts, StatusView, named, state},
};
use crate::domain::{CustomerId, PaymentState, Reference, Source, StreamId};
use crate::telemetry::Signals;

/// A payment, from stream to ledger, as the ledger has it and as clients see it. Parts of
/// an entry that could not be read are missing.
#[derive(Clone, Debug, Default, FromRow, Serialize, ToSchema)]
#[schema(as = PaymentView)]
pub struct PaymentRow {
    /// The whole name.
    #[serde(flatten, serialize_with = "named")]
    #[schema(value_type = NameView)]
    pub transaction_reference: String,
    #[sqlx(try_from = "String")]
    #[serde(rename = "status", serialize_with = "state")]
    #[schema(value_type = StatusView)]
    pub state: PaymentState,
    /// The bank's status: COMPLETE, PENDING or FAILED.
    pub payment_status: Option<String>,
    /// Why it was rejected or could not be settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub customer_id: Option<String>,
    #[serde(rename = "transaction_amount")]
    pub amount: Option<Money>,
    /// Paid of what was outstanding.
    pub applied_amount: Option<Money>,
    /// Paid beyond it, to the credit.
    pub excess_amount: Option<Money>,
    /// Left to pay afterwards.
    pub balance_after: Option<Money>,
    /// Place in the customer's statement.
    pub account_version: Option<i64>,
    #[schema(value_type = Option<u16>)]
    pub partition: Option<i32>,
    pub sequence: Option<i64>,
    pub stream_id: Option<String>,
    pub transaction_date: Option<DateTime<Utc>>,
    pub received_at: Option<DateTime<Utc>>,
    pub processed_at: Option<DateTime<Utc>>,
    /// Seconds since its receipt, while it is accepted.
    #[sqlx(default)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
}

impl PaymentRow {
    pub fn unknown(reference: &Reference) -> Self {
        Self { transaction_reference: reference.as_str().to_owned(), ..Self::default() }
    }

    /// Without what only the balance's readers may know.
    #[must_use]
    pub fn without_balance(self) -> Self {
        Self { balance_after: None, account_version: None, ..self }
    }

    /// Whether it could not be settled, and so does not use its reference.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, PaymentState::DeadLettered | PaymentState::Discarded)
    }
}

/// A payment that came under a used reference with other content.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
#[schema(as = ConflictView)]
pub struct ConflictRow {
    pub customer_id: String,
    pub payment_status: String,
    #[serde(rename = "transaction_amount")]
    pub amount: Money,
    pub stream_id: String,
    pub received_at: DateTime<Utc>,
    /// `open` or `resolved`.
    pub state: String,
}

#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
#[schema(as = AccountView)]
pub struct AccountRow {
    #[schema(example = "GIG00001")]
    pub customer_id: String,
    /// ISO 4217.
    #[schema(example = "NGN")]
    pub currency: String,
    pub asset_value: Money,
    pub term_weeks: i32,
    pub total_paid: Money,
    /// Paid beyond the asset's value.
    pub credit: Money,
    pub outstanding_balance: Money,
    pub payment_count: i64,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// When the ledger answered.
    pub as_of: DateTime<Utc>,
}

/// How far the ledger has come with a partition, and under whom.
#[derive(Clone, Debug, FromRow)]
pub struct CursorRow {
    pub partition: i32,
    pub owner: Option<String>,
    pub epoch: i64,
    pub last_sequence: i64,
    pub head_sequence: i64,
    /// The worker that has requested it.
    pub draining_to: Option<String>,
    pub moved_at: DateTime<Utc>,
    /// The owner's last heartbeat; none once it has left.
    pub owner_beat_at: Option<DateTime<Utc>>,
    /// The owner's lease, in milliseconds.
    pub owner_lease_ms: Option<i64>,
    /// When this was read, by the same clock.
    pub as_of: DateTime<Utc>,
}

impl CursorRow {
    pub fn moved_seconds(&self) -> i64 {
        (self.as_of - self.moved_at).num_seconds()
    }

    pub fn owner_silence(&self) -> Option<TimeDelta> {
        Some((self.as_of - self.owner_beat_at?).abs())
    }

    /// Whether its owner has a current lease.
    pub fn is_owner_alive(&self) -> bool {
        let lease = self.owner_lease_ms.map(TimeDelta::milliseconds);
        self.owner_silence().zip(lease).is_some_and(|(silence, lease)| silence <= lease)
    }
}

#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
#[schema(as = TotalsView)]
pub struct LedgerTotals {
    /// All that the ledger took: applied, recorded, rejected and suspense.
    pub payments: i64,
    #[serde(flatten)]
    pub counts: StateCounts,
    /// The whole amount of applied payments.
    pub amount: Money,
    pub average_amount: Money,
    #[serde(skip)]
    pub customers: i64,
    #[serde(skip)]
    pub customers_completed: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct CustomerCount {
    pub all: i64,
    pub completed: i64,
}

/// The half of the ledger that the gateway is handed.
#[derive(Clone)]
pub struct Reader {
    pub(super) pool: Pool,
    /// Balances and statements are read from it while it is as new as the primary.
    pub(super) replica: Option<Replica>,
}

/// How long counting all customers may take, in milliseconds.
const COUNTING_MS_MAX: &str = "5000";

/// Counts payments out of the totals of all partitions.
const PAYMENTS: &str = "coalesce(sum(applied + recorded + rejected + suspense), 0)::bigint";

const ACCOUNT: &str = "select customer_id, currency, asset_value, term_weeks, total_paid, credit, \
     outstanding_balance, payment_count, version, created_at, updated_at, \
     clock_timestamp() as as_of from customer_accounts";

/// The reason that clients see for a payment that could not be settled. Operators and the log
/// have PostgreSQL's own.
const FAILED: &str = "the ledger refused it; an operator must redrive or discard it";

/// Selects [`PaymentRow`]s that reached an account.
const PAYMENT: &str = "select transaction_reference, payment_status, outcome as state, reason, \
     customer_id, amount, applied_amount, excess_amount, balance_after, account_version, \
     partition, sequence, stream_id, transaction_date, received_at, processed_at \
     from processed_transactions";

impl Reader {
    /// The same, which reports under this name how long queries wait for a connection.
    pub fn telling(self, pool: &'static str, signals: Signals) -> Self {
        Self { pool: self.pool.telling(pool, signals), ..self }
    }

    pub fn usage(&self) -> PoolUse {
        self.pool.usage()
    }

    /// All payments under these references: one for each status that a reference was sent with.
    pub async fn payments(&self, references: &[Reference]) -> Result<Vec<PaymentRow>, Error> {
        let references: Vec<&str> = references.iter().map(Reference::as_str).collect();
        let rows = sqlx::query_as(
            "select transaction_reference, payment_status, found_as as state,
                 case code when 'settle_failed' then $2 else reason end as reason, customer_id,
                 amount, applied_amount, excess_amount, balance_after, account_version, partition,
                 sequence, stream_id, transaction_date, received_at, at as processed_at
             from found_payments
             where transaction_reference = any($1) and found_as is not null order by at",
        );
        self.pool.all(rows.bind(references).bind(FAILED)).await
    }

    /// What came under `reference` with other content.
    pub async fn conflicts(&self, reference: &Reference) -> Result<Vec<ConflictRow>, Error> {
        let rows = sqlx::query_as(
            "select customer_id, payment_status, amount, stream_id, received_at, state
             from conflicts where transaction_reference = $1 order by detected_at limit 100",
        );
        self.pool.all(rows.bind(reference.as_str())).await
    }

    /// Whether this entry was a repetition of a payment the ledger had.
    pub async fn is_duplicate(
        &self,
        partition: i32,
        sequence: i64,
        stream_id: &str,
    ) -> Result<bool, Error> {
        let found = sqlx::query_as(
            "select exists (select 1 from duplicates
             where partition = $1 and sequence = $2 and stream_id = $3)",
        );
        let (found,) = self.pool.one(found.bind(partition).bind(sequence).bind(stream_id)).await?;
        Ok(found)
    }

    pub async fn account(&self, customer: &CustomerId) -> Result<Option<AccountRow>, Error> {
        let row = || select(ACCOUNT, "where customer_id = $1").bind(customer.as_str());
        Ok(self.nearest(row).await?.pop())
    }

    /// A page of accounts by customer id, and how many there are.
    pub async fn accounts(&self, limit: i64, offset: i64) -> Result<(Vec<AccountRow>, i64), Error> {
        let rows = || {
            let rows = select(ACCOUNT, "order by customer_id limit $1 offset $2");
            rows.bind(limit).bind(offset)
        };
        let rows = self.nearest(rows).await?;
        Ok((rows, self.count("select count(*) from customer_accounts".to_owned()).await?))
    }

    /// A page of a customer's statement, newest first, below version `before`; of all sources,
    /// or of one.
    pub async fn statement(
        &self,
        customer: &CustomerId,
        source: Option<&Source>,
        before: i64,
        limit: i64,
    ) -> Result<Vec<PaymentRow>, Error> {
        let rows = || {
            let rows = select(
                PAYMENT,
                "where customer_id = $1 and account_version < $2 and case when $4 = $5
                     then position(' ' in transaction_reference) = 0
                     else $4 is null or starts_with(transaction_reference, $4 || ' ') end
                 order by account_version desc limit $3",
            );
            let rows = rows.bind(customer.as_str()).bind(before).bind(limit);
            rows.bind(source.map(Source::as_str)).bind(Source::DEFAULT)
        };
        self.nearest(rows).await
    }

    /// The last version of a customer's statement that has left the ledger with its month.
    pub async fn archived_up_to(&self, customer: &CustomerId) -> Result<Option<i64>, Error> {
        let version = sqlx::query_as("select version from opening_balances where customer_id = $1");
        let row: Option<(i64,)> = self.pool.maybe(version.bind(customer.as_str())).await?;
        Ok(row.map(|(version,)| version))
    }

    /// All rows of a query, from the standby where it has all that the primary has shown.
    async fn nearest<'q, T>(
        &self,
        query: impl Fn() -> QueryAs<'q, Postgres, T, PgArguments>,
    ) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        if let Some(replica) = &self.replica
            && let Some(rows) = replica.all(query()).await
        {
            return Ok(rows);
        }
        self.pool.all(query()).await
    }

    /// Up to which sequence and entry all is settled, for each partition of this
    /// generation of the topology.
    pub async fn settled_up_to(
        &self,
        generation: i32,
    ) -> Result<BTreeMap<u16, (i64, StreamId)>, Error> {
        let rows = select(
            CURSORS,
            "where generation = $1 and generation = (select generation from topology)",
        );
        let rows: Vec<PartitionCursor> = self.pool.all(rows.bind(generation)).await?;
        if rows.is_empty() {
            return Err(Error::Resized);
        }
        let settled = |PartitionCursor { partition, cursor }| {
            (partition, (cursor.sequence, cursor.stream_id.max(cursor.reached)))
        };
        Ok(rows.into_iter().map(settled).collect())
    }

    pub async fn cursors(&self) -> Result<Vec<CursorRow>, Error> {
        let rows = sqlx::query_as(
            "select partition, owner, epoch, last_sequence,
                 greatest(last_sequence, head_sequence) as head_sequence, draining_to, moved_at,
                 beat_at as owner_beat_at, lease_ms as owner_lease_ms,
                 clock_timestamp() as as_of
             from partition_owners left join workers on worker_id = owner
             where generation = (select generation from topology) order by partition",
        );
        self.pool.all(rows).await
    }

    pub async fn totals(&self) -> Result<LedgerTotals, Error> {
        let sums: Vec<_> =
            PaymentState::counted().map(|(_, total)| format!("sum({total})")).collect();
        let sql = format!(
            "select {PAYMENTS} as payments, array[{}]::bigint[] as counts, sum(amount) as amount,
                 round(coalesce(sum(amount) / nullif(sum(applied), 0), 0), 2) as average_amount,
                 (select count(*) from customer_accounts) as customers,
                 (select count(*) from customer_accounts
                  where outstanding_balance = 0) as customers_completed
             from partition_totals",
            sums.join(", ")
        );
        self.pool.one(sqlx::query_as(sqlx::AssertSqlSafe(sql))).await
    }

    pub async fn open_losses(&self) -> Result<i64, Error> {
        self.count("select count(*) from sequence_jumps where state = 'open'".to_owned()).await
    }

    /// How many payments the ledger has settled; cheap enough to ask often.
    pub async fn settled(&self) -> Result<i64, Error> {
        self.count(format!("select {PAYMENTS} from partition_totals")).await
    }

    async fn count(&self, sql: String) -> Result<i64, Error> {
        let (count,) = self.pool.one(sqlx::query_as(sqlx::AssertSqlSafe(sql))).await?;
        Ok(count)
    }

    /// Counts all customers, for five seconds at most. Reads every account: not
    /// to be asked often.
    pub async fn customers(&self) -> Result<CustomerCount, Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "select set_config('statement_timeout', $1, true),
                 set_config('enable_seqscan', 'on', true)",
        )
        .bind(COUNTING_MS_MAX)
        .execute(&mut *transaction)
        .await?;
        let count = sqlx::query_as(
            "select count(*) as \"all\", count(*) filter (where outstanding_balance = 0) as completed
             from customer_accounts",
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        Ok(count)
    }
}

fn select<T: for<'r> FromRow<'r, PgRow>>(
    head: &str,
    tail: &str,
) -> QueryAs<'static, Postgres, T, PgArguments> {
    sqlx::query_as(sqlx::AssertSqlSafe(format!("{head} {tail}")))
}

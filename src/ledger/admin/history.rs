//! What the ledger remembers of one payment and of one partition: rows, owners,
//! attempts. Never changes anything.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use sqlx::{AssertSqlSafe, FromRow, Row, postgres::PgRow};

use super::{AdminStore, PAGE_MAX, READ_LETTER};
use crate::{
    domain::{Delivery, Reference, StreamId},
    ledger::{Error, lookups},
};

/// A partition's acquisition.
#[derive(Clone, Debug, FromRow)]
pub struct MoveRow {
    pub partition: i32,
    /// Under which epoch.
    pub epoch: i64,
    pub owner: String,
    /// From whom, if that owner had not released it.
    pub previous: Option<String>,
    pub acquired_at: DateTime<Utc>,
}

/// An attempt beside the ordinary.
#[derive(Clone, Debug, FromRow)]
pub struct AttemptRow {
    first_stream_id: String,
    last_stream_id: String,
    pub attempt: i32,
    /// What it ended with; nothing where it began.
    pub error: Option<String>,
    /// By whom,
    pub worker: String,
    /// under which epoch
    pub epoch: i64,
    /// and when.
    pub at: DateTime<Utc>,
}

impl AttemptRow {
    fn covers(&self, id: StreamId) -> bool {
        let bounds = (self.first_stream_id.parse(), self.last_stream_id.parse());
        matches!(bounds, (Ok(first), Ok(last)) if (first..=last).contains(&id))
    }
}

/// What is being tried on a partition now.
#[derive(Clone, Debug)]
pub struct TrialRow {
    pub partition: u16,
    /// From this entry
    pub first: StreamId,
    /// to this one.
    pub last: StreamId,
    /// Attempts so far, the one under way included.
    pub attempts: u32,
    /// What the last one ended with; nothing while one is under way.
    pub error: Option<String>,
}

/// A row of the ledger, whatever table it is in.
#[derive(Clone, Debug, FromRow)]
pub struct StoredPayment {
    /// Where it is: `applied`, `recorded`, `rejected`, `suspense`,
    /// `parked`, `was_suspense` and `was_parked` beside where it went on to,
    /// `refund_marked`, `dead_lettered`, `redriven`, `discarded`,
    /// `conflict`, `duplicate`.
    pub state: String,
    /// What the bank said of it.
    pub payment_status: Option<String>,
    /// Whose it is.
    pub customer_id: Option<String>,
    pub amount: Option<Decimal>,
    /// Why it was rejected or could not be settled.
    pub reason: Option<String>,
    /// Paid of what was outstanding.
    pub applied_amount: Option<Decimal>,
    /// Paid beyond it.
    pub excess_amount: Option<Decimal>,
    /// What was left to pay afterwards.
    pub balance_after: Option<Decimal>,
    /// Its place in the statement.
    pub account_version: Option<i64>,
    /// Where it came from.
    pub partition: i32,
    /// Its sequence there.
    pub sequence: Option<i64>,
    /// Its entry id.
    pub stream_id: String,
    /// Under which epoch it was written.
    pub epoch: i64,
    /// When the bank says it happened.
    pub transaction_date: Option<DateTime<Utc>>,
    /// When the gateway took it.
    pub received_at: Option<DateTime<Utc>>,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The trace that brought it.
    pub trace_id: Option<Vec<u8>>,
}

impl AdminStore {
    /// Every row that the ledger has of a reference, the oldest first.
    pub async fn stored(&self, reference: &Reference) -> Result<Vec<StoredPayment>, Error> {
        let sql = STORED.replace("{LETTER}", READ_LETTER);
        let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(reference.as_str());
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Attempts at one entry beside the ordinary, the oldest first, out of the
    /// last 500 of its partition.
    pub async fn attempts(&self, partition: i32, id: StreamId) -> Result<Vec<AttemptRow>, Error> {
        let rows: Vec<AttemptRow> = sqlx::query_as(
            "select first_stream_id, last_stream_id, attempt, error, worker, epoch, at
             from attempts where partition = $1 order by id desc limit $2",
        )
        .bind(partition)
        .bind(PAGE_MAX)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().rev().filter(|row| row.covers(id)).collect())
    }

    /// What is being tried now, on all partitions.
    pub async fn trials(&self) -> Result<Vec<TrialRow>, Error> {
        let rows = sqlx::query(
            "select partition, first_stream_id, last_stream_id, attempts, error
             from partition_trials order by partition",
        )
        .fetch_all(&self.pool)
        .await?;
        let trial = |row: &PgRow| {
            let id = |name: &str| -> Result<StreamId, Error> {
                row.try_get::<&str, _>(name)?.parse().map_err(|_| Error::Corrupt("stream id"))
            };
            Ok(TrialRow {
                partition: lookups::partition(row.try_get("partition")?)?,
                first: id("first_stream_id")?,
                last: id("last_stream_id")?,
                attempts: u32::try_from(row.try_get::<i32, _>("attempts")?).unwrap_or(u32::MAX),
                error: row.try_get("error")?,
            })
        };
        rows.iter().map(trial).collect()
    }

    /// Who owned a partition under an epoch.
    pub async fn owner_under(&self, partition: i32, epoch: i64) -> Result<Option<MoveRow>, Error> {
        let row = sqlx::query_as(
            "select partition, epoch, owner, previous, acquired_at from partition_moves
             where partition = $1 and epoch = $2",
        );
        Ok(row.bind(partition).bind(epoch).fetch_optional(&self.pool).await?)
    }

    /// Which of these entries the ledger has settled, and what came of each.
    pub async fn settled_among(
        &self,
        entries: &[Delivery],
    ) -> Result<HashMap<(u16, StreamId), String>, Error> {
        let column = |pick: fn(&Delivery) -> String| entries.iter().map(pick).collect::<Vec<_>>();
        let rows = sqlx::query(SETTLED)
            .bind(entries.iter().map(|d| i32::from(d.partition)).collect::<Vec<_>>())
            .bind(entries.iter().map(|d| d.sequence).collect::<Vec<_>>())
            .bind(column(|d| d.stream_id.to_string()))
            .bind(column(|d| d.payment.reference.as_str().to_owned()))
            .fetch_all(&self.pool)
            .await?;
        let settled = |row: &PgRow| {
            let id = row.try_get::<&str, _>(1)?.parse().map_err(|_| Error::Corrupt("stream id"))?;
            Ok(((lookups::partition(row.try_get(0)?)?, id), row.try_get(2)?))
        };
        rows.iter().map(settled).collect()
    }
}

/// What came of entries, whatever table it is in.
const SETTLED: &str = "with entries (partition, sequence, stream_id, reference) as (
         select * from unnest($1::int[], $2::bigint[], $3::text[], $4::text[]))
     select e.partition, e.stream_id, p.outcome from entries e
         join processed_transactions p on p.transaction_reference = e.reference
         and (p.partition, p.sequence) = (e.partition, e.sequence)
     union all
     select e.partition, e.stream_id, 'suspense' from entries e
         join suspense s on s.transaction_reference = e.reference
         and (s.partition, s.sequence) = (e.partition, e.sequence)
         and s.state in ('held', 'refund_marked')
     union all
     select e.partition, e.stream_id, 'conflict' from entries e
         join conflicts c
         on (c.partition, c.sequence, c.stream_id) = (e.partition, e.sequence, e.stream_id)
     union all
     select e.partition, e.stream_id, 'duplicate' from entries e
         join duplicates d
         on (d.partition, d.sequence, d.stream_id) = (e.partition, e.sequence, e.stream_id)
     union all
     select e.partition, e.stream_id, 'parked' from entries e
         join parked k
         on (k.partition, k.sequence, k.stream_id) = (e.partition, e.sequence, e.stream_id)
         and k.state = 'held'
     union all
     select e.partition, e.stream_id, 'dead_lettered' from entries e
         join dead_letters l on (l.partition, l.stream_id) = (e.partition, e.stream_id)
         and l.state <> 'redriven'";

/// Every row of one reference, whatever table it is in.
const STORED: &str = "select outcome as state, payment_status, customer_id, amount, reason,
         applied_amount, excess_amount, balance_after, account_version, partition, sequence,
         stream_id, epoch, transaction_date, received_at, processed_at as at, trace_id
     from processed_transactions where transaction_reference = $1
     union all
     select case state when 'held' then 'suspense' else 'was_suspense' end, 'COMPLETE',
         customer_id, amount, null, null, null, null, null, partition, sequence, stream_id, epoch,
         transaction_date, received_at, held_at, trace_id
     from suspense where transaction_reference = $1
     union all
     select state, 'COMPLETE', customer_id, amount, null, null, null, null, null, partition,
         sequence, stream_id, epoch, transaction_date, received_at, resolved_at, trace_id
     from suspense where transaction_reference = $1 and state = 'refund_marked'
     union all
     select case state when 'held' then 'parked' else 'was_parked' end, payment_status, customer_id, amount, null, null, null, null, null, partition,
         sequence, stream_id, epoch, transaction_date, received_at, parked_at, trace_id
     from parked where transaction_reference = $1
     union all
     select case state when 'dead' then 'dead_lettered' else state end,
         read.payment ->> 'payment_status', customer_id, amount, reason, null, null, null, null,
         partition, sequence, stream_id, epoch, (read.payment ->> 'transaction_date')::timestamptz,
         read.received_at, dead_at, trace_id
     from dead_letters {LETTER} where transaction_reference = $1
     union all
     select 'conflict', payment_status, customer_id, amount, null, null, null, null, null,
         partition, sequence, stream_id, epoch, transaction_date, received_at, detected_at, trace_id
     from conflicts where transaction_reference = $1
     union all
     select 'duplicate', payment_status, null, null, null, null, null, null, null, partition,
         sequence, stream_id, epoch, null, received_at, detected_at, null
     from duplicates where transaction_reference = $1
     order by at limit 200";

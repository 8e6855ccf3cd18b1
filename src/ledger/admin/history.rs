//! The history of a payment and of a partition: rows, owners, attempts. Never changes anything.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{FromRow, Row, postgres::PgRow};
use utoipa::ToSchema;

use super::AdminStore;
use crate::{
    domain::{Delivery, Reference, StreamId},
    ledger::{Attempt, Error, lookups},
};

/// Attempts that are looked through for one entry.
const ATTEMPTS_MAX: i64 = 500;

/// A partition's acquisition.
#[derive(Clone, Debug, FromRow)]
pub struct MoveRow {
    pub partition: i32,
    pub epoch: i64,
    pub owner: String,
    /// The former owner, if it had not released the partition.
    pub previous: Option<String>,
    pub acquired_at: DateTime<Utc>,
}

/// An attempt at a redelivered entry.
#[derive(Clone, Debug, FromRow)]
pub struct AttemptRow {
    #[sqlx(try_from = "String")]
    first_stream_id: StreamId,
    #[sqlx(try_from = "String")]
    last_stream_id: StreamId,
    pub attempt: i32,
    /// Its failure; none in the row of its begin.
    pub error: Option<String>,
    pub worker: String,
    pub epoch: i64,
    pub at: DateTime<Utc>,
}

/// The attempt under way on a partition.
#[derive(FromRow)]
struct PartitionAttempt {
    #[sqlx(try_from = "i32")]
    partition: u16,
    #[sqlx(flatten)]
    attempt: Attempt,
}

/// A row of the ledger, whatever table it is in.
#[derive(Clone, Debug, FromRow)]
pub struct StoredPayment {
    /// Where it is: `applied`, `recorded`, `rejected`, `suspense`,
    /// `parked`, `was_suspense` and `was_parked` beside where it went on to,
    /// `refund_marked`, `dead_lettered`, `redriven`, `discarded`,
    /// `conflict`, `duplicate`.
    pub state: String,
    pub payment_status: Option<String>,
    pub customer_id: Option<String>,
    pub amount: Option<Decimal>,
    /// Why it was rejected or could not be settled.
    pub reason: Option<String>,
    /// Paid of what was outstanding.
    pub applied_amount: Option<Decimal>,
    /// Paid beyond it.
    pub excess_amount: Option<Decimal>,
    pub balance_after: Option<Decimal>,
    /// Its place in the statement.
    pub account_version: Option<i64>,
    pub partition: i32,
    pub sequence: Option<i64>,
    pub stream_id: String,
    pub epoch: i64,
    /// When the bank says it happened.
    pub transaction_date: Option<DateTime<Utc>>,
    pub received_at: Option<DateTime<Utc>>,
    pub at: DateTime<Utc>,
    /// The trace that brought it.
    pub trace_id: Option<Vec<u8>>,
}

/// What a sender signed.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
#[schema(as = Evidence)]
pub struct EvidenceRow {
    /// `standard-webhooks`, for instance.
    pub scheme: String,
    /// The key's id, or the fingerprint of a shared secret.
    pub key_id: String,
    pub signature: String,
    /// What the signature covers; in a webhook the body follows.
    pub signature_base: String,
    /// As it came.
    pub body: String,
    pub received_at: DateTime<Utc>,
}

impl AdminStore {
    /// What was signed of the payments of a reference, the oldest first.
    pub async fn evidence(&self, reference: &Reference) -> Result<Vec<EvidenceRow>, Error> {
        let rows = sqlx::query_as(
            "select scheme, key_id, signature, signature_base, body, received_at
             from payment_evidence where transaction_reference = $1 order by received_at limit 200",
        );
        self.pool.all(rows.bind(reference.as_str())).await
    }

    /// Every row that the ledger has of a reference, the oldest first.
    pub async fn stored(&self, reference: &Reference) -> Result<Vec<StoredPayment>, Error> {
        let rows = sqlx::query_as(
            "select * from payment_outcomes where transaction_reference = $1 order by at limit 200",
        );
        self.pool.all(rows.bind(reference.as_str())).await
    }

    /// Attempts at one entry beside the ordinary, the oldest first, out of the
    /// last 500 of its partition.
    pub async fn attempts(&self, partition: i32, id: StreamId) -> Result<Vec<AttemptRow>, Error> {
        let rows = sqlx::query_as(
            "select first_stream_id, last_stream_id, attempt, error, worker, epoch, at
             from attempts where partition = $1 order by id desc limit $2",
        );
        let rows: Vec<AttemptRow> = self.pool.all(rows.bind(partition).bind(ATTEMPTS_MAX)).await?;
        let covers = |row: &AttemptRow| (row.first_stream_id..=row.last_stream_id).contains(&id);
        Ok(rows.into_iter().rev().filter(covers).collect())
    }

    /// Attempts under way, by partition.
    pub async fn attempts_now(&self) -> Result<BTreeMap<u16, Attempt>, Error> {
        let rows = sqlx::query_as(
            "select partition, first_stream_id, last_stream_id, attempts, error
             from partition_trials",
        );
        let rows: Vec<PartitionAttempt> = self.pool.all(rows).await?;
        Ok(rows.into_iter().map(|row| (row.partition, row.attempt)).collect())
    }

    /// Who owned a partition under an epoch.
    pub async fn owner_under(&self, partition: i32, epoch: i64) -> Result<Option<MoveRow>, Error> {
        let row = sqlx::query_as(
            "select partition, epoch, owner, previous, acquired_at from partition_moves
             where partition = $1 and epoch = $2",
        );
        self.pool.maybe(row.bind(partition).bind(epoch)).await
    }

    /// Which of these entries the ledger has settled, and what came of each.
    pub async fn settled_among(
        &self,
        entries: &[Delivery],
    ) -> Result<HashMap<(u16, StreamId), String>, Error> {
        let column = |pick: fn(&Delivery) -> String| entries.iter().map(pick).collect::<Vec<_>>();
        let rows = sqlx::query(
            "select e.partition, e.stream_id, o.counted_as
             from unnest($1::int[], $2::bigint[], $3::text[], $4::text[])
                 as e (partition, sequence, stream_id, reference)
             join payment_outcomes o on o.transaction_reference = e.reference
                 and o.partition = e.partition
                 and (o.stream_id = e.stream_id or o.takes_reference and o.sequence = e.sequence)
             where o.counted_as is not null and o.state <> 'redriven'",
        );
        let rows = rows
            .bind(entries.iter().map(|d| i32::from(d.partition)).collect::<Vec<_>>())
            .bind(entries.iter().map(|d| d.sequence).collect::<Vec<_>>())
            .bind(column(|d| d.stream_id.to_string()))
            .bind(column(|d| d.payment.reference.as_str().to_owned()));
        let rows = self.pool.ask(async |session| rows.fetch_all(session).await).await?;
        let settled = |row: &PgRow| {
            let id = row.try_get::<&str, _>(1)?.parse().map_err(|_| Error::Corrupt("stream id"))?;
            Ok(((lookups::partition(row.try_get(0)?)?, id), row.try_get(2)?))
        };
        rows.iter().map(settled).collect()
    }
}

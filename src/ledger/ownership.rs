//! Workers, their heartbeats, and who owns which partition under which epoch.
//! Every time here is PostgreSQL's.

use std::time::Duration;

use sqlx::{PgPool, Row, postgres::PgRow};

use super::Error;
use crate::domain::StreamId;

/// A partition that was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub partition: u16,
    /// Under which epoch; higher than any before.
    pub epoch: i64,
    /// The ledger's cursor: the highest sequence it has,
    pub last_sequence: i64,
    /// and the entry that had it.
    pub last_stream_id: StreamId,
}

/// One worker's dealings with the registry of owners.
#[derive(Clone)]
pub struct Ownership {
    pool: PgPool,
    worker: String,
    lease_milliseconds: i64,
}

impl Ownership {
    pub(super) fn new(pool: PgPool, worker: &str, lease: Duration) -> Self {
        let lease_milliseconds = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        Self { pool, worker: worker.to_owned(), lease_milliseconds }
    }

    /// Registers the worker under a new incarnation. An older process of the
    /// same name finds out at its next beat.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn join(&self, incarnation: &str) -> Result<(), Error> {
        sqlx::query(
            "insert into workers (worker_id, incarnation) values ($1, $2::uuid)
             on conflict (worker_id) do update set incarnation = excluded.incarnation,
                 started_at = clock_timestamp(), beat_at = clock_timestamp()",
        )
        .bind(&self.worker)
        .bind(incarnation)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Says that the worker lives. False: another process has taken its name.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn beat(&self, incarnation: &str) -> Result<bool, Error> {
        let beaten = sqlx::query(
            "update workers set beat_at = clock_timestamp()
             where worker_id = $1 and incarnation = $2::uuid",
        )
        .bind(&self.worker)
        .bind(incarnation)
        .execute(&self.pool)
        .await?;
        Ok(beaten.rows_affected() == 1)
    }

    /// Acquires every partition that nobody owns, whose owner is silent beyond
    /// its lease, or that is listed as ours under another epoch than in `held`.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn acquire(&self, held: &[(u16, i64)]) -> Result<Vec<Grant>, Error> {
        let partitions: Vec<i32> =
            held.iter().map(|(partition, _)| i32::from(*partition)).collect();
        let epochs: Vec<i64> = held.iter().map(|(_, epoch)| *epoch).collect();
        let rows = sqlx::query(
            "update partition_owners p
             set owner = $1, epoch = epoch + 1, draining_to = null, moved_at = clock_timestamp()
             where (p.partition, p.epoch) not in
                   (select * from unnest($2::int[], $3::bigint[]))
               and (p.owner is null or p.owner = $1 or not exists (
                   select 1 from workers w where w.worker_id = p.owner
                   and w.beat_at > clock_timestamp() - $4 * interval '1 millisecond'))
             returning partition, epoch, last_sequence, last_stream_id",
        )
        .bind(&self.worker)
        .bind(partitions)
        .bind(epochs)
        .bind(self.lease_milliseconds)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(grant).collect()
    }

    /// Gives all partitions back and leaves the registry.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; the lease then runs out by itself.
    pub async fn leave(&self, incarnation: &str) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        let left =
            sqlx::query("delete from workers where worker_id = $1 and incarnation = $2::uuid")
                .bind(&self.worker)
                .bind(incarnation)
                .execute(&mut *transaction)
                .await?;
        if left.rows_affected() == 1 {
            sqlx::query(
                "update partition_owners set owner = null, moved_at = clock_timestamp()
                 where owner = $1",
            )
            .bind(&self.worker)
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }
}

fn grant(row: &PgRow) -> Result<Grant, Error> {
    let partition: i32 = row.try_get("partition")?;
    let id: String = row.try_get("last_stream_id")?;
    Ok(Grant {
        partition: u16::try_from(partition).map_err(|_| Error::Corrupt("partition"))?,
        epoch: row.try_get("epoch")?,
        last_sequence: row.try_get("last_sequence")?,
        last_stream_id: id.parse().map_err(|_| Error::Corrupt("stream id"))?,
    })
}

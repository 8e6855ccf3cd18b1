//! Workers as the registry knows them, and asking an owner to hand a partition
//! over. Never decides who should own it.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::FromRow;

use super::{Acted, Desk, Signature};
use crate::ledger::Error;

/// A worker in the registry, alive or not.
#[derive(Clone, Debug, FromRow)]
pub struct WorkerRow {
    /// Its name.
    pub worker_id: String,
    /// When it joined.
    pub started_at: DateTime<Utc>,
    /// When it last said that it lives.
    pub beat_at: DateTime<Utc>,
    /// It serves on until others have asked for what it owns.
    pub leaving: bool,
    /// How long it keeps its partitions when it is silent, in milliseconds.
    pub lease_ms: i64,
    /// Attempts it gives an entry.
    pub attempts_max: i32,
    /// Partitions it owns.
    pub partitions: i64,
    /// When this was read, by the same clock.
    pub as_of: DateTime<Utc>,
}

impl WorkerRow {
    /// How long it has been silent.
    #[must_use]
    pub fn silence(&self) -> TimeDelta {
        self.as_of - self.beat_at
    }

    /// Whether its lease still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.silence() <= TimeDelta::milliseconds(self.lease_ms)
    }
}

impl Desk {
    /// Every worker that has not left, by name.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, Error> {
        let rows = sqlx::query_as(
            "select worker_id, started_at, beat_at, leaving, lease_ms, attempts_max,
                 (select count(*) from partition_owners where owner = worker_id) as partitions,
                 clock_timestamp() as as_of
             from workers order by worker_id",
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Asks the owner of a partition to hand it over at its next batch edge; who
    /// should have it acquires it again, under a new epoch. With `force`, does
    /// not wait for the owner: its epoch is over at once, and what it has under
    /// way is refused. Says whose it was.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn release(
        &self,
        partition: u16,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<String>, Error> {
        let _ = (partition, force, signature);
        todo!()
    }
}

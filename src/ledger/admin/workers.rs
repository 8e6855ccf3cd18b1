//! Registered workers, and the release of a partition by its owner. Never decides who should own
//! it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sqlx::{FromRow, Row};

use super::{
    Acted, AdminStore, Refusal, Signature,
    audit_log::{Change, note},
};
use crate::ledger::{
    Error,
    session::{Session, commit},
};

/// How long a release waits for the owner's batch: longer than one may take.
const LOCK_TIMEOUT: &str = "6s";

/// A worker in the registry, alive or not.
#[derive(Clone, Debug, FromRow)]
pub struct WorkerRow {
    pub worker_id: String,
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    pub beat_at: DateTime<Utc>,
    /// It serves on until others have asked for what it owns.
    pub leaving: bool,
    /// Its lease, in milliseconds.
    pub lease_ms: i64,
    /// Attempts it gives an entry.
    pub attempts_max: i32,
    pub partitions: i64,
    /// When this was read, by the same clock.
    pub as_of: DateTime<Utc>,
}

impl WorkerRow {
    /// Time since its last heartbeat, or until it if the clock went back.
    pub fn silence(&self) -> TimeDelta {
        (self.as_of - self.beat_at).abs()
    }

    /// Whether its lease still runs.
    pub fn is_alive(&self) -> bool {
        self.silence() <= TimeDelta::milliseconds(self.lease_ms)
    }
}

impl AdminStore {
    /// Every worker that has not left, by name.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, Error> {
        let rows = sqlx::query_as(
            "select worker_id, started_at, beat_at, leaving, lease_ms, attempts_max,
                 (select count(*) from partition_owners where owner = worker_id) as partitions,
                 clock_timestamp() as as_of
             from workers order by worker_id",
        );
        self.pool.all(rows).await
    }

    /// Asks the owner of a partition to hand it over at its next batch edge; who
    /// should have it acquires it again, under a new epoch. With `force`, does
    /// not wait for the owner: its epoch is over at once, and what it has under
    /// way is refused. Says whose it was.
    pub async fn release(
        &self,
        partition: u16,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<String>, Error> {
        let mut transaction = self.pool.begin().await?;
        let connection = &mut *transaction;
        let owned = match self.owner_of(connection, partition).await? {
            Ok(owned) => owned,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(refusal) = owned.refusal(partition, force) {
            return Ok(Err(refusal));
        }
        let after = if force {
            end_epoch(connection, partition).await?;
            set_aside(connection, &owned.owner).await?;
            json!({ "owner": null, "epoch": owned.epoch + 1 })
        } else {
            sqlx::query(
                "update partition_owners set release_asked_at = clock_timestamp()
                 where partition = $1",
            )
            .bind(i32::from(partition))
            .execute(&mut *connection)
            .await?;
            json!({ "owner": owned.owner, "epoch": owned.epoch, "release_asked": true })
        };
        let change = Change {
            action: if force { "partition_taken_away" } else { "partition_release_asked" },
            subject: &format!("partition {partition}"),
            before: json!({ "owner": owned.owner, "epoch": owned.epoch }),
            after,
        };
        note(connection, signature, &change).await?;
        commit(transaction).await?;
        Ok(Ok(owned.owner))
    }

    /// The partition's row, locked, if it is part of the topology and owned. A
    /// batch of its owner that is under way is waited for.
    async fn owner_of(
        &self,
        connection: &mut Session,
        partition: u16,
    ) -> Result<Acted<Owned>, Error> {
        let row = sqlx::query(
            "select owner, epoch, t.resizing_to,
                 (extract(epoch from clock_timestamp() - release_asked_at) * 1000)::bigint as asked,
                 (abs(extract(epoch from clock_timestamp() - beat_at)) * 1000)::bigint as silent, lease_ms
             from topology t
             left join partition_owners p on p.partition = $1 and p.generation = t.generation
             left join workers w on w.worker_id = p.owner
             where t.generation = $2",
        );
        if !lock(connection, partition).await? {
            return Ok(Err(Refusal::Impossible(format!(
                "a batch holds partition {partition} for longer than it may: PostgreSQL ends it by \
                 itself when PAYSTREAM_BATCH_DEADLINE has passed; run this again then"
            ))));
        }
        let row = row.bind(i32::from(partition)).bind(self.topology.generation);
        let row = row.fetch_optional(connection).await?.ok_or(Error::Resized)?;
        let Some(epoch) = row.try_get::<Option<i64>, _>("epoch")? else {
            return Ok(Err(Refusal::Missing(self.topology.no_partition(partition.into()))));
        };
        if let Some(to) = row.try_get::<Option<i32>, _>("resizing_to")? {
            return Ok(Err(Refusal::Impossible(format!(
                "the number of partitions is being changed to {to}, which needs every owner where \
                 it is: wait until `paystream topology show` says that it has ended"
            ))));
        }
        let Some(owner) = row.try_get("owner")? else {
            return Ok(Err(Refusal::Impossible(format!(
                "nobody owns partition {partition}: a worker that lives takes it within a second, \
                 so start one if there is none"
            ))));
        };
        Ok(Ok(Owned {
            owner,
            epoch,
            asked_ms: row.try_get("asked")?,
            silent_ms: row.try_get("silent")?,
            lease_ms: row.try_get("lease_ms")?,
        }))
    }
}

/// Locks the partition's fence row, unless a batch holds it for too long.
async fn lock(connection: &mut Session, partition: u16) -> Result<bool, Error> {
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(LOCK_TIMEOUT)
        .execute(&mut *connection)
        .await?;
    let lock = sqlx::query("select 1 from partition_owners where partition = $1 for update");
    match lock.bind(i32::from(partition)).execute(connection).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => Ok(false),
        locked => Ok(locked.map(|_| true)?),
    }
}

/// A partition that somebody owns.
struct Owned {
    owner: String,
    epoch: i64,
    /// How long ago its owner was asked to hand it over.
    asked_ms: Option<i64>,
    /// How long its owner has been silent; nothing when it has left.
    silent_ms: Option<i64>,
    lease_ms: Option<i64>,
}

impl Owned {
    /// Why it should not be released so. By force, it always may be.
    fn refusal(&self, partition: u16, force: bool) -> Option<Refusal> {
        if force {
            return None;
        }
        let owner = &self.owner;
        if let Some(asked) = self.asked_ms {
            return Some(Refusal::Settled(format!(
                "{owner} was asked for partition {partition} {} s ago and has not come to the end \
                 of its batch: wait, or take it away with --force",
                asked / 1000
            )));
        }
        let (silent, lease) = (self.silent_ms.unwrap_or(i64::MAX), self.lease_ms.unwrap_or(0));
        (silent > lease).then(|| {
            let since = if self.silent_ms.is_some() {
                format!("has been silent for {} s, longer than its lease", silent / 1000)
            } else {
                "has left".to_owned()
            };
            Refusal::Impossible(format!(
                "{owner}, which owns partition {partition}, {since}, so it would not hear it: any \
                 worker that lives takes the partition over by itself"
            ))
        })
    }
}

/// Nobody owns the partition any more, and no batch begun before commits.
async fn end_epoch(connection: &mut Session, partition: u16) -> Result<(), Error> {
    sqlx::query(
        "update partition_owners set owner = null, epoch = epoch + 1, draining_to = null,
             release_asked_at = null, moved_at = clock_timestamp()
         where partition = $1",
    )
    .bind(i32::from(partition))
    .execute(connection)
    .await?;
    Ok(())
}

/// A worker that has missed two beats is not given what was just taken from it:
/// it counts as leaving until it beats again.
async fn set_aside(connection: &mut Session, worker: &str) -> Result<(), Error> {
    sqlx::query(
        "update workers set leaving = true where worker_id = $1
         and beat_at not between clock_timestamp() - lease_ms * interval '0.4 milliseconds'
             and clock_timestamp() + lease_ms * interval '0.4 milliseconds'",
    )
    .bind(worker)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Owned, Refusal};

    fn owned() -> Owned {
        Owned {
            owner: "a".to_owned(),
            epoch: 3,
            asked_ms: None,
            silent_ms: Some(10_000),
            lease_ms: Some(10_000),
        }
    }

    #[test]
    fn an_owner_is_asked_once_and_while_it_can_hear_it() {
        assert_eq!(owned().refusal(7, false), None);
        let asked = Owned { asked_ms: Some(4_200), ..owned() };
        let refused = asked.refusal(7, false);
        assert!(matches!(&refused, Some(Refusal::Settled(why)) if why.contains("4 s ago")));
        for silent_ms in [Some(10_001), None] {
            let refused = Owned { silent_ms, ..owned() }.refusal(7, false);
            assert!(matches!(refused, Some(Refusal::Impossible(_))), "{refused:?}");
            assert_eq!(Owned { silent_ms, ..owned() }.refusal(7, true), None);
        }
    }
}

//! The registry of workers, heartbeats, and partition owners with their epochs. All times are
//! PostgreSQL's. A heartbeat counts within a lease of now, past or future: one further in the
//! future was written before the clock went back. Never decides who should own a partition.

use std::time::Duration;

use sqlx::{
    Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    Error, Ledger, address::Address, cursors::columns, in_time, lookups, session::Session,
};
use crate::domain::Fence;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// With a higher epoch than any before.
    pub fence: Fence,
    pub sequence: i64,
    /// The former owner, if it had not released the partition.
    pub previous: Option<String>,
    /// Time since the last move or release.
    pub since_moved: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveWorker {
    pub worker: String,
    pub incarnation: String,
    /// It serves until others have requested its partitions.
    pub leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionOwner {
    pub fence: Fence,
    pub owner: Option<String>,
    /// The worker that has requested it.
    pub draining_to: Option<String>,
    /// An operator has asked the owner to release it.
    pub release_asked: bool,
}

#[derive(Clone, Debug)]
pub struct RegistrySnapshot {
    /// Live workers, by name.
    pub workers: Vec<LiveWorker>,
    pub partitions: Vec<PartitionOwner>,
}

/// One worker's access to the registry. No call takes longer than [`Ownership::patience`].
pub struct Ownership {
    address: Address,
    /// Dropped after any failure. A pool would keep a silent connection and wait for it.
    connection: Option<Session>,
    worker: String,
    incarnation: String,
    lease_milliseconds: i64,
    /// Published in the registry.
    attempts_max: i32,
    patience: Duration,
    /// Partitions of another generation are ignored.
    generation: i32,
}

impl Ledger {
    /// The registry of this generation, for the worker of this name.
    pub fn ownership(
        &self,
        worker: &str,
        incarnation: &str,
        lease: Duration,
        attempts_max: u32,
        generation: i32,
    ) -> Ownership {
        let patience = Ownership::patience(lease);
        Ownership {
            address: self.by_key(patience),
            connection: None,
            worker: worker.to_owned(),
            incarnation: incarnation.to_owned(),
            lease_milliseconds: i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
            attempts_max: i32::try_from(attempts_max).unwrap_or(i32::MAX),
            patience,
            generation,
        }
    }
}

impl Ownership {
    /// Timeout of one call, so that the next heartbeat is in time.
    pub fn patience(lease: Duration) -> Duration {
        lease / 4
    }

    /// Registers the worker under a new incarnation. An older process of the same name stops at
    /// its next heartbeat.
    pub async fn join(&mut self) -> Result<(), Error> {
        let join = sqlx::query(
            "insert into workers (worker_id, incarnation, lease_ms, attempts_max)
             values ($1, $2::uuid, $3, $4)
             on conflict (worker_id) do update set incarnation = excluded.incarnation,
                 leaving = false, started_at = clock_timestamp(), beat_at = clock_timestamp(),
                 lease_ms = excluded.lease_ms, attempts_max = excluded.attempts_max",
        );
        let join = join.bind(self.worker.clone()).bind(self.incarnation.clone());
        let join = join.bind(self.lease_milliseconds).bind(self.attempts_max);
        self.execute(join).await?;
        Ok(())
    }

    /// Sends a heartbeat. False: a later process has the same name. A ledger that has gone back
    /// knows an earlier incarnation, or none.
    pub async fn beat(&mut self, leaving: bool) -> Result<bool, Error> {
        let beat = sqlx::query(
            "insert into workers as known (worker_id, incarnation, lease_ms, attempts_max, leaving)
             values ($1, $2::uuid, $3, $4, $5)
             on conflict (worker_id) do update set incarnation = excluded.incarnation,
                 beat_at = clock_timestamp(), leaving = excluded.leaving
             where known.incarnation <= excluded.incarnation",
        );
        let beat = beat.bind(self.worker.clone()).bind(self.incarnation.clone());
        let beat = beat.bind(self.lease_milliseconds).bind(self.attempts_max).bind(leaving);
        Ok(self.execute(beat).await? == 1)
    }

    /// Live workers and partition owners, in one snapshot.
    pub async fn look(&mut self) -> Result<RegistrySnapshot, Error> {
        // One statement is one snapshot.
        let look = sqlx::query(
            "select null::int as partition, worker_id as name, null::bigint as epoch,
                 incarnation::text as other, leaving, null::boolean as release_asked
             from workers where beat_at between clock_timestamp() - $1 * interval '1 millisecond'
                 and clock_timestamp() + $1 * interval '1 millisecond'
             union all
             select partition, owner, epoch, draining_to, null, release_asked_at is not null
             from partition_owners
             where generation = $2
             order by partition, name",
        );
        let look = look.bind(self.lease_milliseconds).bind(self.generation);
        let asking = async |session: &mut Session| look.fetch_all(session).await;
        let rows = self.in_time(async |session| session.ask(asking).await).await?;
        let mut snapshot = RegistrySnapshot { workers: Vec::new(), partitions: Vec::new() };
        for row in rows {
            match row.try_get::<Option<i32>, _>("partition")? {
                Some(_) => snapshot.partitions.push(partition_owner(&row)?),
                None => snapshot.workers.push(LiveWorker {
                    worker: row.try_get("name")?,
                    incarnation: row.try_get("other")?,
                    leaving: row.try_get("leaving")?,
                }),
            }
        }
        Ok(snapshot)
    }

    /// Ends the lease of a worker whose process has died; returns its name. It counts as silent
    /// for as long as its lease was, and beats again if it lives.
    pub async fn end_lease(&mut self, incarnation: &str) -> Result<Option<String>, Error> {
        let end = sqlx::query(
            "update workers set beat_at = clock_timestamp()
                 - (greatest(lease_ms, $2) + 1000) * interval '1 millisecond'
             where incarnation = $1::uuid
                 and beat_at between clock_timestamp() - $2 * interval '1 millisecond'
                     and clock_timestamp() + $2 * interval '1 millisecond'
             returning worker_id",
        );
        let rows =
            self.fetch(end.bind(incarnation.to_owned()).bind(self.lease_milliseconds)).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Asks the owners of these partitions to hand them over.
    pub async fn request(&mut self, partitions: &[u16]) -> Result<(), Error> {
        // A row that is busy with a batch or a move is asked for next time.
        let request = sqlx::query(
            "update partition_owners set draining_to = $1 where partition in (
                 select partition from partition_owners
                 where partition = any($2) and owner <> $1 and draining_to is distinct from $1
                 order by partition for update skip locked)",
        );
        self.execute(request.bind(self.worker.clone()).bind(numbers(partitions))).await?;
        Ok(())
    }

    /// Acquires those of these partitions that have no owner, whose owner's lease has expired,
    /// or that are registered as ours. Locked rows are skipped until the next time.
    pub async fn acquire(&mut self, partitions: &[u16]) -> Result<Vec<Grant>, Error> {
        let acquire = sqlx::query(
            "with free as (
                 select partition, owner, moved_at from partition_owners p
                 where partition = any($2) and generation = $4 and (owner is null or owner = $1 or not exists (
                     select 1 from workers w where w.worker_id = p.owner
                     and w.beat_at between clock_timestamp() - $3 * interval '1 millisecond'
                         and clock_timestamp() + $3 * interval '1 millisecond'))
                 order by partition for update skip locked),
             moved as (
                 update partition_owners p
                 set owner = $1, epoch = epoch + 1, draining_to = null, release_asked_at = null,
                     moved_at = clock_timestamp()
                 from free where p.partition = free.partition
                 returning p.partition, p.epoch, free.owner as previous,
                     (extract(epoch from clock_timestamp() - free.moved_at) * 1000)::bigint as moved,
                     greatest(p.last_sequence, p.head_sequence) as sequence),
             noted as (
                 insert into partition_moves (partition, epoch, owner, previous)
                 select partition, epoch, $1, previous from moved)
             select * from moved",
        );
        let acquire = acquire.bind(self.worker.clone()).bind(numbers(partitions));
        let acquire = acquire.bind(self.lease_milliseconds).bind(self.generation);
        let rows = self.fetch(acquire).await?;
        rows.iter().map(grant).collect()
    }

    /// Releases partitions that we own under these epochs.
    pub async fn release(&mut self, held: &[Fence]) -> Result<(), Error> {
        let (partitions, epochs) = columns(held);
        let release = sqlx::query(
            "update partition_owners
             set owner = null, release_asked_at = null, moved_at = clock_timestamp()
             where owner = $1 and (partition, epoch) in
                 (select * from unnest($2::int[], $3::bigint[]))",
        );
        let release = release.bind(self.worker.clone()).bind(partitions).bind(epochs);
        self.execute(release).await?;
        Ok(())
    }

    /// Releases all partitions and leaves the registry. After an error the lease expires.
    pub async fn leave(&mut self) -> Result<(), Error> {
        let leave = sqlx::query(
            "with gone as (
                 delete from workers where worker_id = $1 and incarnation = $2::uuid
                 returning worker_id)
             update partition_owners
             set owner = null, release_asked_at = null, moved_at = clock_timestamp()
             where owner in (select worker_id from gone)",
        );
        self.execute(leave.bind(self.worker.clone()).bind(self.incarnation.clone())).await?;
        Ok(())
    }

    async fn execute(&mut self, query: Question) -> Result<u64, Error> {
        self.in_time(async |session| {
            session.change(async |session| query.execute(session).await).await
        })
        .await
        .map(|done| done.rows_affected())
    }

    async fn fetch(&mut self, query: Question) -> Result<Vec<PgRow>, Error> {
        self.in_time(async |session| {
            session.change(async |session| query.fetch_all(session).await).await
        })
        .await
    }

    async fn in_time<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Session) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Only a connection whose last answer came is used again.
        let kept = self.connection.take();
        let asking = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.address.connect().await?,
            };
            let answer = ask(&mut connection).await?;
            Ok::<_, Error>((answer, connection))
        };
        let (answer, connection) = in_time(self.patience, asking).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

type Question = Query<'static, Postgres, PgArguments>;

fn numbers(partitions: &[u16]) -> Vec<i32> {
    partitions.iter().map(|partition| i32::from(*partition)).collect()
}

fn partition_owner(row: &PgRow) -> Result<PartitionOwner, Error> {
    Ok(PartitionOwner {
        fence: fence(row)?,
        owner: row.try_get("name")?,
        draining_to: row.try_get("other")?,
        release_asked: row.try_get("release_asked")?,
    })
}

fn grant(row: &PgRow) -> Result<Grant, Error> {
    let moved: i64 = row.try_get("moved")?;
    Ok(Grant {
        fence: fence(row)?,
        sequence: row.try_get("sequence")?,
        previous: row.try_get("previous")?,
        since_moved: Duration::from_millis(u64::try_from(moved).unwrap_or(0)),
    })
}

fn fence(row: &PgRow) -> Result<Fence, Error> {
    Ok(Fence {
        partition: lookups::partition(row.try_get("partition")?)?,
        epoch: row.try_get("epoch")?,
    })
}

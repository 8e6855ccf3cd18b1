//! Attempts at redelivered entries, noted before they begin so that an attempt which ends its
//! worker counts, too. One row for each partition, because no later entry is touched before
//! them; and a history of all attempts, for operators. Never decides when an entry is given
//! up.

use std::collections::HashSet;

use sqlx::{FromRow, Row};

use super::{Error, LaneWriter, in_time, lookups, session::Session};
use crate::domain::{Fence, StreamId};

/// Latest attempts of a partition among which an equal note is searched.
const RECENT: i64 = 50;

/// Attempts at one entry, or at a page of entries that came back.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Attempt {
    #[sqlx(try_from = "String", rename = "first_stream_id")]
    pub first: StreamId,
    #[sqlx(try_from = "String", rename = "last_stream_id")]
    pub last: StreamId,
    /// Attempts so far, at least 1; the one under way is counted.
    #[sqlx(try_from = "i32")]
    pub attempts: u32,
    /// The failure of the last one; none while it is under way, or when its worker died of it.
    pub error: Option<String>,
}

impl Attempt {
    pub fn covers(&self, id: StreamId) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

impl LaneWriter {
    /// The attempt under way on a partition when its last owner left it.
    pub async fn attempt(&mut self, partition: u16) -> Result<Option<Attempt>, Error> {
        let attempt = sqlx::query_as(
            "select first_stream_id, last_stream_id, attempts, error from partition_trials
             where partition = $1",
        );
        let attempt = attempt.bind(i32::from(partition));
        let attempt = self.connection.ask(async |session| attempt.fetch_optional(session).await);
        in_time(self.patience, attempt).await
    }

    /// Notes an attempt that begins, or its failure.
    pub async fn note_attempt(&mut self, fence: Fence, attempt: &Attempt) -> Result<(), Error> {
        let noting = sqlx::query_scalar(
            // An attempt that an outage ended does not count, and is noted again
            // afterwards; the history already has it.
            "with noted as (
                 insert into partition_trials (partition, first_stream_id, last_stream_id, attempts,
                     error, worker, epoch)
                 select partition, $4, $5, $6, $7, owner, epoch from partition_owners
                 where partition = $1 and owner = $2 and epoch = $3
                 on conflict (partition) do update set first_stream_id = excluded.first_stream_id,
                     last_stream_id = excluded.last_stream_id, attempts = excluded.attempts,
                     error = excluded.error, worker = excluded.worker, epoch = excluded.epoch,
                     tried_at = excluded.tried_at
                 returning *),
             last as (
                 select attempt, error, epoch from (
                     select * from attempts where partition = $1 order by id desc limit $8) recent
                 where first_stream_id = $4 and last_stream_id = $5),
             told as (
                 insert into attempts (partition, first_stream_id, last_stream_id, attempt, error,
                     worker, epoch)
                 select partition, first_stream_id, last_stream_id, attempts, error, worker, epoch
                 from noted where not exists (
                     select 1 from last where last.attempt = noted.attempts
                     and last.epoch = noted.epoch and last.error is not distinct from noted.error))
             select count(*) from noted",
        )
        .bind(i32::from(fence.partition))
        .bind(&self.worker)
        .bind(fence.epoch)
        .bind(attempt.first.to_string())
        .bind(attempt.last.to_string())
        .bind(i32::try_from(attempt.attempts).unwrap_or(i32::MAX))
        .bind(attempt.error.as_deref())
        .bind(RECENT);
        let noting = self.connection.change(async |session| noting.fetch_one(session).await);
        let noted: i64 = in_time(self.patience, noting).await?;
        if noted == 1 { Ok(()) } else { Err(Error::Fenced) }
    }

    /// Removes the note.
    pub async fn end_attempt(&mut self, fence: Fence) -> Result<(), Error> {
        // A newer owner's attempt is not ours to end.
        let ending =
            sqlx::query("delete from partition_trials where partition = $1 and epoch <= $2")
                .bind(i32::from(fence.partition))
                .bind(fence.epoch);
        let ending = self.connection.change(async |session| ending.execute(session).await);
        in_time(self.patience, ending).await.map(drop)
    }
}

/// Which of these entries are dead letters already.
pub(super) async fn read_buried(
    connection: &mut Session,
    entries: &[(u16, StreamId)],
) -> Result<HashSet<(u16, StreamId)>, Error> {
    let rows = sqlx::query(
        "select partition, stream_id from dead_letters where state <> 'redriven'
             and (partition, stream_id) in (select * from unnest($1::int[], $2::text[]))",
    )
    .bind(entries.iter().map(|(partition, _)| i32::from(*partition)).collect::<Vec<_>>())
    .bind(entries.iter().map(|(_, id)| id.to_string()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let entry = |row: sqlx::postgres::PgRow| {
        let partition = lookups::partition(row.try_get(0)?)?;
        let id = row.try_get::<&str, _>(1)?.parse().map_err(|_| Error::Corrupt("stream id"))?;
        Ok((partition, id))
    };
    rows.into_iter().map(entry).collect()
}

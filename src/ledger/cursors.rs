//! How far the ledger has come with each partition, and the lock on the fence rows that
//! say so. Decides nothing.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection};

use super::{
    Error, LaneWriter, lookups,
    rows::{Cursor, Cursors, columns},
};
use crate::domain::Fence;

/// A cursor as a fence row has it.
#[derive(FromRow)]
pub(super) struct CursorColumns {
    partition: i32,
    last_sequence: i64,
    last_stream_id: String,
    reached_stream_id: String,
    head_sequence: i64,
}

impl CursorColumns {
    pub(super) fn read(self) -> Result<(u16, Cursor), Error> {
        let id = |text: &str| text.parse().map_err(|_| Error::Corrupt("stream id"));
        let cursor = Cursor {
            sequence: self.last_sequence,
            stream_id: id(&self.last_stream_id)?,
            reached: id(&self.reached_stream_id)?,
            head: self.head_sequence,
        };
        Ok((lookups::partition(self.partition)?, cursor))
    }
}

/// Locks the fence rows of a batch; says how far each partition has come.
pub(super) async fn lock(
    connection: &mut PgConnection,
    worker: &str,
    fences: &[Fence],
) -> Result<Cursors, Error> {
    let (partitions, epochs) = columns(fences);
    let locked: Vec<CursorColumns> = sqlx::query_as(
        "select partition, last_sequence, last_stream_id, reached_stream_id, head_sequence
         from partition_owners where owner = $1
             and (partition, epoch) in (select * from unnest($2::int[], $3::bigint[]))
         order by partition for update",
    )
    .bind(worker)
    .bind(partitions)
    .bind(epochs)
    .fetch_all(connection)
    .await?;
    if locked.len() != fences.len() {
        return Err(Error::Fenced);
    }
    locked.into_iter().map(CursorColumns::read).collect()
}

impl LaneWriter {
    /// How far the ledger has come with those of these partitions that are ours
    /// still.
    pub async fn cursors(&mut self, fences: &[Fence]) -> Result<BTreeMap<u16, Cursor>, Error> {
        let (partitions, epochs) = columns(fences);
        let rows: Vec<CursorColumns> = sqlx::query_as(
            "select partition, last_sequence, last_stream_id, reached_stream_id, head_sequence
             from partition_owners where owner = $1
                 and (partition, epoch) in (select * from unnest($2::int[], $3::bigint[]))",
        )
        .bind(&self.worker)
        .bind(partitions)
        .bind(epochs)
        .fetch_all(&mut self.connection)
        .await?;
        rows.into_iter().map(CursorColumns::read).collect()
    }

    /// Notes how far streams are known to have come.
    pub async fn note_heads(&mut self, heads: &[(Fence, i64)]) -> Result<(), Error> {
        self.raise(
            "update partition_owners o set head_sequence = u.number
             from unnest($2::int[], $3::bigint[], $4::bigint[]) as u (partition, epoch, number)
             where o.partition = u.partition and o.owner = $1 and o.epoch = u.epoch
                 and o.head_sequence < u.number",
            heads,
        )
        .await?;
        Ok(())
    }

    /// Raises epochs to those that Redis was told of, where we are the owner: the
    /// ledger has gone back, and the next acquisition must be above them. Says
    /// whether it raised any.
    pub async fn raise_epochs(&mut self, known: &[(Fence, i64)]) -> Result<bool, Error> {
        self.raise(
            "update partition_owners o set epoch = u.number
             from unnest($2::int[], $3::bigint[], $4::bigint[]) as u (partition, epoch, number)
             where o.partition = u.partition and o.owner = $1 and o.epoch = u.epoch
                 and o.epoch < u.number",
            known,
        )
        .await
    }

    async fn raise(
        &mut self,
        statement: &'static str,
        numbers: &[(Fence, i64)],
    ) -> Result<bool, Error> {
        let (fences, numbers): (Vec<Fence>, Vec<i64>) = numbers.iter().copied().unzip();
        let (partitions, epochs) = columns(&fences);
        let raised = sqlx::query(statement).bind(&self.worker).bind(partitions).bind(epochs);
        let raised = raised.bind(numbers).execute(&mut self.connection).await?;
        Ok(raised.rows_affected() > 0)
    }
}

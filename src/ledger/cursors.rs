//! How far the ledger has come with each partition, and the lock on the fence rows that hold
//! it. Decides nothing.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, FromRow};

use super::{Error, LaneWriter, in_time, session::Session};
use crate::domain::{Fence, StreamId};

/// How far the ledger has come with a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Cursor {
    /// The highest settled sequence, and its entry.
    #[sqlx(rename = "last_sequence")]
    pub sequence: i64,
    #[sqlx(rename = "last_stream_id", try_from = "String")]
    pub stream_id: StreamId,
    /// The highest entry whose fate is known; it may have no sequence.
    #[sqlx(rename = "reached_stream_id", try_from = "String")]
    pub reached: StreamId,
    /// The highest sequence that is known to have been given out.
    #[sqlx(rename = "head_sequence")]
    pub head: i64,
}

/// Cursors by partition.
pub(super) type Cursors = BTreeMap<u16, Cursor>;

#[derive(FromRow)]
pub(super) struct PartitionCursor {
    #[sqlx(try_from = "i32")]
    pub(super) partition: u16,
    #[sqlx(flatten)]
    pub(super) cursor: Cursor,
}

/// Selects [`PartitionCursor`]s.
pub(super) const CURSORS: &str = "select partition, last_sequence, last_stream_id, \
     reached_stream_id, head_sequence from partition_owners";

/// Partitions and epochs, each as one parameter of a statement.
pub(super) fn columns(fences: &[Fence]) -> (Vec<i32>, Vec<i64>) {
    fences.iter().map(|fence| (i32::from(fence.partition), fence.epoch)).unzip()
}

/// A condition that is met: makes the months of payments that are missing, before any is written. The
/// function looks, too; calling it costs more than looking.
pub(super) const MONTHS: &str = "(select case when 2 = (
             select count(*) from (values (now()), (now() + interval '31 days')) needed (instant)
             where exists (select from payment_months
                 where detached_at is null and starts_at <= instant and ends_at > instant))
         then true else need_payment_months() end)";

/// Locks the fence rows of a batch, in partition order.
pub(super) async fn lock(
    connection: &mut Session,
    worker: &str,
    fences: &[Fence],
) -> Result<Cursors, Error> {
    let lock = format!("and {MONTHS} order by partition for update");
    let locked = read(connection, worker, fences, &lock).await?;
    if locked.len() == fences.len() { Ok(locked) } else { Err(Error::Fenced) }
}

/// Cursors of those of these partitions that still have this owner and epoch.
async fn read(
    connection: &mut Session,
    worker: &str,
    fences: &[Fence],
    lock: &str,
) -> Result<Cursors, Error> {
    let (partitions, epochs) = columns(fences);
    let sql = format!(
        "{CURSORS} where owner = $1
             and (partition, epoch) in (select * from unnest($2::int[], $3::bigint[])) {lock}"
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(worker).bind(partitions).bind(epochs);
    let rows: Vec<PartitionCursor> = rows.fetch_all(connection).await?;
    Ok(rows.into_iter().map(|row| (row.partition, row.cursor)).collect())
}

impl LaneWriter {
    /// Cursors of those of these partitions that are still ours.
    pub async fn cursors(&mut self, fences: &[Fence]) -> Result<Cursors, Error> {
        let Self { connection, worker, patience } = self;
        let reading = async |session: &mut Session| read(session, worker, fences, "").await;
        in_time(*patience, connection.ask(reading)).await
    }

    /// Notes the highest sequence that each stream is known to have given out.
    pub async fn note_heads(&mut self, heads: &[(Fence, i64)]) -> Result<(), Error> {
        self.raise("head_sequence", heads).await.map(drop)
    }

    /// Raises epochs to those in Redis, where we are the owner: the ledger has gone back, and
    /// the next acquisition must be above them. Returns whether any was raised.
    pub async fn raise_epochs(&mut self, known: &[(Fence, i64)]) -> Result<bool, Error> {
        self.raise("epoch", known).await
    }

    async fn raise(
        &mut self,
        column: &'static str,
        numbers: &[(Fence, i64)],
    ) -> Result<bool, Error> {
        let (fences, numbers): (Vec<Fence>, Vec<i64>) = numbers.iter().copied().unzip();
        let (partitions, epochs) = columns(&fences);
        let sql = format!(
            "update partition_owners o set {column} = u.number
             from unnest($2::int[], $3::bigint[], $4::bigint[]) as u (partition, epoch, number)
             where o.partition = u.partition and o.owner = $1 and o.epoch = u.epoch
                 and o.{column} < u.number"
        );
        let raised = sqlx::query(AssertSqlSafe(sql)).bind(&self.worker);
        let raised = raised.bind(partitions).bind(epochs).bind(numbers);
        let raising = self.connection.change(async |session| raised.execute(session).await);
        Ok(in_time(self.patience, raising).await?.rows_affected() > 0)
    }
}

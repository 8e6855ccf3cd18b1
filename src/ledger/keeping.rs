//! What is kept for a while only: attempts, former owners of partitions, and the beginning of the
//! audit log. Deletes in batches that hold no lock for long, and never a row that a decision reads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::{
    Acted, Error, Ledger, QUERY_TIMEOUT, Refusal, Signature,
    address::Address,
    admin::{Change, note},
    pool::Pool,
    session::{Session, commit},
};

/// Rows that one statement deletes.
const BATCH_MAX: i64 = 5_000;

/// The oldest come first by their ids; attempts under way are in `partition_trials`.
const ATTEMPTS: &str = "delete from attempts where id in (
         select id from (select id, at from attempts order by id limit $2) oldest
         where at < clock_timestamp() - $1 * interval '1 second')";
/// The owner that a partition has now stays known.
const MOVES: &str = "delete from partition_moves m using (
         select partition, p.epoch from partition_moves p join partition_owners o using (partition)
         where acquired_at < clock_timestamp() - $1 * interval '1 second' and p.epoch < o.epoch
         order by acquired_at limit $2) old
     where (m.partition, m.epoch) = (old.partition, old.epoch)";
const LOG: &str = "delete from audit_log where position in (
         select position from audit_log
         where position <= (select position from audit_log_anchor) order by position limit $1)";

/// Deletes what is older than its retention.
pub struct Keeping {
    pool: Pool,
}

impl Ledger {
    pub fn keeping(&self) -> Keeping {
        Keeping { pool: self.pool(1, QUERY_TIMEOUT) }
    }

    /// Over a connection of the owner of the tables.
    pub fn log_keeping(&self) -> LogKeeping {
        LogKeeping { address: self.by_key(QUERY_TIMEOUT) }
    }
}

impl Keeping {
    /// Deletes one batch of each; says whether more may be left.
    pub async fn round(&self, attempts: Duration, moves: Duration) -> Result<bool, Error> {
        let mut more = false;
        for (delete, retention) in [(ATTEMPTS, attempts), (MOVES, moves)] {
            let deleted = sqlx::query(delete).bind(retention.as_secs_f64()).bind(BATCH_MAX);
            let deleted = self.pool.change(async |session| deleted.execute(session).await).await?;
            more |= deleted.rows_affected() >= BATCH_MAX.unsigned_abs();
        }
        Ok(more)
    }
}

/// The beginning of the audit log, for its owner.
pub struct LogKeeping {
    address: Address,
}

impl LogKeeping {
    /// Takes the rows from before `before` out of the log; says how many, and up to which position.
    /// The chain goes on from the last of them. Its digests must have been checked.
    pub async fn prune(
        &self,
        before: DateTime<Utc>,
        by: &Signature,
    ) -> Result<Acted<(u64, i64)>, Error> {
        let mut connection = self.address.connect().await?;
        let Some(position) = anchor(&mut connection, before, by).await? else {
            let text = format!("the audit log has no rows from before {}", before.to_rfc3339());
            return Ok(Err(Refusal::Missing(text)));
        };
        let mut count = 0;
        loop {
            let delete = sqlx::query(LOG).bind(BATCH_MAX);
            let deleted = connection.change(async |session| delete.execute(session).await).await?;
            count += deleted.rows_affected();
            if deleted.rows_affected() == 0 {
                break;
            }
        }
        connection.close().await?;
        Ok(Ok((count, position)))
    }
}

/// Moves the anchor to the last row from before `before`, and notes it; none when no row is left there.
async fn anchor(
    connection: &mut Session,
    before: DateTime<Utc>,
    by: &Signature,
) -> Result<Option<i64>, Error> {
    let mut transaction = connection.begin().await?;
    let last: Option<(i64, Vec<u8>, String)> = sqlx::query_as(
        "select position, digest, encode(digest, 'hex') from audit_log
         where position < (select min(position) from audit_log where at >= $1)
             or not exists (select from audit_log where at >= $1)
         order by position desc limit 1",
    )
    .bind(before)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((position, digest, hexadecimal)) = last else { return Ok(None) };
    let moved = sqlx::query(
        "insert into audit_log_anchor as a (position, digest) values ($1, $2)
         on conflict (singleton) do update set position = excluded.position, digest = excluded.digest
             where a.position < excluded.position",
    );
    let moved = moved.bind(position).bind(&digest).execute(&mut *transaction).await?;
    if moved.rows_affected() == 0 {
        // It was noted, and interrupted.
        return Ok(Some(position));
    }
    let change = Change {
        action: "audit_log_pruned",
        subject: "audit log",
        before: json!({ "before": before }),
        after: json!({ "position": position, "digest": hexadecimal }),
    };
    note(&mut transaction, by, &change).await?;
    commit(transaction).await?;
    Ok(Some(position))
}

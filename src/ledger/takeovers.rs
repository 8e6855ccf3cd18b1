//! What a Redis that took over from another lacks: where sequences jump behind
//! a takeover, and what was given out and is in no stream. Written by the
//! partition's owner. Never decides whether there was a takeover.

use sqlx::{Connection, PgConnection};

use super::{
    Error, LaneWriter,
    losses::Gap,
    rows::{Cursor, Cursors},
    writer::lock_fences,
};
use crate::domain::{Decision, Delivery, Fence, Outcome, StreamId};

/// Losses that Redis is told of again.
const RECENT_MAX: i64 = 1_000;

/// What is said of a loss without a jump.
const LACKING: &str =
    "another Redis took over that lacked these, and may have given their numbers out again";

/// What is said of numbers that were given out twice.
pub(super) const TWICE: &str = "another Redis answered that had gone back, and numbers from here on \
     were given out twice: what the ledger does not have under them is lost";

/// What Redis notes about a partition's past.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// Where sequences jump: the last before, the first behind.
    pub jumps: &'a [(i64, i64)],
    /// First and last sequences that were given out and lost.
    pub lost: &'a [(i64, i64)],
    /// The last entry that our group was handed, if it is there.
    pub handed: Option<StreamId>,
}

impl LaneWriter {
    /// Notes takeovers and what they lost; says which losses are new. What the
    /// ledger had settled before a takeover is not lost. Noting all of it again
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the partition has another owner or epoch.
    pub async fn note_history(
        &mut self,
        fence: Fence,
        past: Past<'_>,
    ) -> Result<Vec<(i64, i64)>, Error> {
        let mut transaction = self.connection.begin().await?;
        let stands = lock_fences(&mut transaction, &self.worker, &[fence]).await?;
        let Cursor { sequence: settled, reached, .. } =
            stands.get(&fence.partition).copied().ok_or(Error::Fenced)?;
        // Behind the ledger, the group has handed out nothing that the ledger has
        // settled since. Otherwise numbers may have been given out again.
        let is_behind = past.handed.is_none_or(|handed| handed < reached);
        let settled_before = if is_behind { settled } else { 0 };
        let mut found = Vec::new();
        for jump in past.jumps {
            let within = |(first, last): &&(i64, i64)| jump.0 < *first && *last < jump.1;
            let lost_to = past.lost.iter().filter(within).map(|(_, last)| *last).max();
            found.extend(
                note_jump(&mut transaction, fence.partition, settled, *jump, lost_to).await?,
            );
        }
        for range in past.lost {
            let within = |jump: &(i64, i64)| jump.0 < range.0 && range.1 < jump.1;
            if !past.jumps.iter().any(within) {
                let noted = note_range(&mut transaction, fence.partition, settled_before, *range);
                found.extend(noted.await?);
            }
        }
        transaction.commit().await?;
        Ok(found)
    }

    /// Notes that Redis has gone back unseen and has given out numbers again, from
    /// `first` on, which is settled already. Of what the other had given out, up to
    /// `known`, what is not settled is lost. Says whether that is new.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the partition has another owner or epoch.
    pub async fn note_twice(
        &mut self,
        fence: Fence,
        first: i64,
        known: i64,
    ) -> Result<bool, Error> {
        let mut transaction = self.connection.begin().await?;
        let stands = lock_fences(&mut transaction, &self.worker, &[fence]).await?;
        let settled = stands.get(&fence.partition).ok_or(Error::Fenced)?.sequence;
        let lost = (known > settled).then_some((settled + 1, known));
        let range = (first, known.max(settled));
        let noted = note_twice(&mut transaction, fence.partition, range, lost).await?;
        transaction.commit().await?;
        Ok(noted)
    }

    /// Whether an entry is a copy of one that is settled.
    pub async fn is_copy(&mut self, delivery: &Delivery) -> Result<bool, Error> {
        is_copy(&mut self.connection, delivery).await
    }

    /// Sequences of these partitions that were found lost within a day, the
    /// latest first.
    pub async fn recent_losses(&mut self, partitions: &[u16]) -> Result<Vec<Gap>, Error> {
        let partitions: Vec<i32> = partitions.iter().map(|number| i32::from(*number)).collect();
        let rows: Vec<(i32, i64, i64)> = sqlx::query_as(
            "select partition, lost_first, lost_last from sequence_jumps
             where partition = any($1) and lost_first is not null
                 and detected_at > clock_timestamp() - interval '1 day'
             order by detected_at desc limit $2",
        )
        .bind(partitions)
        .bind(RECENT_MAX)
        .fetch_all(&mut self.connection)
        .await?;
        let gap = |(partition, first, last): (i32, i64, i64)| {
            Ok((u16::try_from(partition).map_err(|_| Error::Corrupt("partition"))?, first, last))
        };
        rows.into_iter().map(gap).collect()
    }
}

/// Notes numbers that decisions show to have been given out twice: they are
/// settled already, under entries that came before.
pub(super) async fn note_reuse(
    connection: &mut PgConnection,
    stands: &Cursors,
    decisions: &[Decision<'_>],
) -> Result<(), Error> {
    for Decision { delivery, outcome } in decisions {
        let Some(stand) = stands.get(&delivery.partition) else { continue };
        let is_new = delivery.stream_id > stand.reached && *outcome != Outcome::Redelivered;
        if is_new && delivery.sequence <= stand.sequence {
            let range = (delivery.sequence, stand.sequence);
            note_twice(connection, delivery.partition, range, None).await?;
        }
    }
    Ok(())
}

/// Decisions without those about copies of settled entries under numbers that are
/// settled: a copy has no outcome of its own.
pub(super) async fn without_copies<'a>(
    connection: &mut PgConnection,
    stands: &Cursors,
    decisions: &[Decision<'a>],
) -> Result<Vec<Decision<'a>>, Error> {
    let mut kept = Vec::with_capacity(decisions.len());
    for decision in decisions {
        let Decision { delivery, outcome } = *decision;
        let stand = stands.get(&delivery.partition);
        let is_settled = stand.is_some_and(|stand| delivery.sequence <= stand.sequence);
        let may_be = is_settled && outcome == Outcome::Duplicate;
        if !may_be || !is_copy(connection, delivery).await? {
            kept.push(*decision);
        }
    }
    Ok(kept)
}

/// Whether another entry of this partition that is settled says the same of its
/// payment and of its arrival: then somebody has copied it. What a client sends again
/// arrives again.
async fn is_copy(connection: &mut PgConnection, delivery: &Delivery) -> Result<bool, Error> {
    let is_copy = sqlx::query_scalar(
        "with settled as (
             select partition, stream_id, payload_digest, received_at from processed_transactions
                 where transaction_reference = $1
             union all select partition, stream_id, payload_digest, received_at from suspense
                 where transaction_reference = $1)
         select exists (select 1 from settled where partition = $2 and stream_id <> $3
             and payload_digest = $4 and received_at = $5)",
    )
    .bind(delivery.payment.reference.as_str())
    .bind(i32::from(delivery.partition))
    .bind(delivery.stream_id.to_string())
    .bind(delivery.digest.0.as_slice())
    .bind(delivery.received_at);
    Ok(is_copy.fetch_one(connection).await?)
}

/// Notes that these numbers were given out twice, and what is lost of them; says
/// whether that is new.
async fn note_twice(
    connection: &mut PgConnection,
    partition: u16,
    (first, last): (i64, i64),
    lost: Option<(i64, i64)>,
) -> Result<bool, Error> {
    let noted = sqlx::query(
        "insert into sequence_jumps (partition, after_sequence, resumes_at, reason, lost_first,
             lost_last, detail)
         select $1, $2 - 1, $3 + 1, 'takeover', $4, $5, $6
         where not exists (select 1 from sequence_jumps where partition = $1
             and after_sequence < $2 and resumes_at > $2 and detail like '%' || $6 || '%')
         on conflict (partition, after_sequence) do update
         set resumes_at = greatest(sequence_jumps.resumes_at, excluded.resumes_at), state = 'open',
             lost_first = coalesce(sequence_jumps.lost_first, excluded.lost_first),
             lost_last = coalesce(excluded.lost_last, sequence_jumps.lost_last),
             reason = case when sequence_jumps.reason = 'resize' then excluded.reason
                 else sequence_jumps.reason end,
             detail = sequence_jumps.detail || '; then ' || excluded.detail",
    )
    .bind(i32::from(partition))
    .bind(first)
    .bind(last)
    .bind(lost.map(|(first, _)| first))
    .bind(lost.map(|(_, last)| last))
    .bind(TWICE)
    .execute(connection)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// Notes one jump, with what is known to be lost in it; says so if that is new.
async fn note_jump(
    connection: &mut PgConnection,
    partition: u16,
    settled: i64,
    (after, resumes_at): (i64, i64),
    lost_to: Option<i64>,
) -> Result<Option<(i64, i64)>, Error> {
    let noted: Option<(i64, Option<i64>)> = sqlx::query_as(
        "select after_sequence, lost_last from sequence_jumps
         where partition = $1 and resumes_at = $2",
    )
    .bind(i32::from(partition))
    .bind(resumes_at)
    .fetch_optional(&mut *connection)
    .await?;
    // What was settled before the takeover is in the ledger, whatever Redis lacks.
    let settled_before = if settled < resumes_at { settled } else { 0 };
    let after = noted.map_or(after.max(settled_before), |(after, _)| after);
    let known_to = noted.and_then(|(_, lost_last)| lost_last).unwrap_or(after);
    let lost = lost_to.filter(|last| *last > known_to).map(|last| (after + 1, last));
    if noted.is_some() && lost.is_none() {
        return Ok(None);
    }
    sqlx::query(
        "insert into sequence_jumps (partition, after_sequence, resumes_at, reason, lost_first,
             lost_last, detail, state)
         values ($1, $2, $3, 'takeover', $4, $5,
             'another Redis took over; sequences go on behind all that may have been given out',
             case when $4::bigint is null then 'accepted' else 'open' end)
         on conflict (partition, after_sequence) do update
         set resumes_at = greatest(sequence_jumps.resumes_at, excluded.resumes_at),
             lost_first = coalesce(excluded.lost_first, sequence_jumps.lost_first),
             lost_last = coalesce(excluded.lost_last, sequence_jumps.lost_last),
             reason = case when sequence_jumps.reason = 'resize' and excluded.lost_first is not null
                 then excluded.reason else sequence_jumps.reason end,
             detail = case when excluded.lost_first is null
                     or sequence_jumps.reason = excluded.reason then sequence_jumps.detail
                 else sequence_jumps.detail || '; then ' || excluded.detail end,
             state = case when excluded.lost_first is null then sequence_jumps.state
                 else 'open' end",
    )
    .bind(i32::from(partition))
    .bind(after)
    .bind(resumes_at)
    .bind(lost.map(|(first, _)| first))
    .bind(lost.map(|(_, last)| last))
    .execute(connection)
    .await?;
    Ok(lost)
}

/// Notes a loss behind which sequences went on without a jump, unless it is on
/// record: a copy was put back, and some numbers were given out twice. What was
/// settled before that is not lost; with nothing lost, that is on record.
async fn note_range(
    connection: &mut PgConnection,
    partition: u16,
    settled_before: i64,
    (first, last): (i64, i64),
) -> Result<Option<(i64, i64)>, Error> {
    // On record as settled before it was taken for lost.
    let spared: Option<i64> = sqlx::query_scalar(
        "select max(coalesce(lost_first, resumes_at)) from sequence_jumps
         where partition = $1 and after_sequence < $2 and detail like '%' || $3 || '%'",
    )
    .bind(i32::from(partition))
    .bind(first)
    .bind(LACKING)
    .fetch_one(&mut *connection)
    .await?;
    let spared = spared.unwrap_or(0);
    if spared > last {
        return Ok(None);
    }
    let lost_first = first.max(spared).max(settled_before.saturating_add(1));
    let lost = (lost_first <= last).then_some((lost_first, last));
    let noted = sqlx::query(
        "insert into sequence_jumps (partition, after_sequence, resumes_at, reason, lost_first,
             lost_last, detail, state)
         select $1, $2 - 1, greatest($3, $4) + 1, 'takeover', $5, $6, $7,
             case when $5::bigint is null then 'accepted' else 'open' end
         where not exists (select 1 from sequence_jumps
             where partition = $1 and lost_first <= coalesce($5, $2) and lost_last >= $3)
         on conflict (partition, after_sequence) do update
         set lost_first = coalesce(excluded.lost_first, sequence_jumps.lost_first),
             lost_last = coalesce(excluded.lost_last, sequence_jumps.lost_last),
             resumes_at = greatest(sequence_jumps.resumes_at, excluded.resumes_at),
             reason = case when sequence_jumps.reason = 'resize' and excluded.lost_first is not null
                 then excluded.reason else sequence_jumps.reason end,
             detail = case when strpos(sequence_jumps.detail, $7) > 0 then sequence_jumps.detail
                 else sequence_jumps.detail || '; then ' || excluded.detail end,
             state = case when excluded.lost_first is null then sequence_jumps.state
                 else 'open' end",
    )
    .bind(i32::from(partition))
    .bind(first)
    .bind(last)
    .bind(settled_before)
    .bind(lost.map(|(first, _)| first))
    .bind(lost.map(|(_, last)| last))
    .bind(LACKING)
    .execute(connection)
    .await?;
    Ok(lost.filter(|_| noted.rows_affected() == 1))
}

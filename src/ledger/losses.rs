//! Sequences that belong to no settled entry, and why: what Redis has lost, and
//! what was taken out of a stream. Written by the partition's owner, reviewed
//! by an operator. Never removes a finding.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Connection, FromRow, PgConnection, PgPool, Row};

use super::{Error, Fence, LaneWriter, rewind::between, rows::Cursors};
use crate::domain::StreamId;

/// How far sequences jump after a loss, so that none is given out twice even
/// if more was given out than anybody knows.
const JUMP: i64 = 1_000_000;
/// Losses listed at once.
const LIST_MAX: i64 = 1_000;

/// Where a partition goes on after its state was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// The first sequence to give out.
    pub resumes_at: i64,
    /// Sequences that were given out and never settled, first and last, as far
    /// as is known.
    pub lost: Option<(i64, i64)>,
    /// The entry that the ledger's cursor stands at.
    pub cursor: StreamId,
}

impl Resumption {
    /// The last sequence that is settled or still in the stream.
    #[must_use]
    pub fn kept(&self) -> i64 {
        self.lost.map_or(self.resumes_at - JUMP, |(first, _)| first - 1)
    }
}

/// A finding: sequences that were not settled.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct LossRow {
    /// In which partition.
    pub partition: i32,
    /// The last sequence before the jump.
    pub after_sequence: i64,
    /// The first one behind it.
    pub resumes_at: i64,
    /// `state_lost`, `entries_missing` or `ledger_lost`.
    pub reason: String,
    /// Sequences that are known to have been given out: from here
    pub lost_first: Option<i64>,
    /// to here.
    pub lost_last: Option<i64>,
    /// What happened, as a sentence.
    pub detail: String,
    /// `open`, or `accepted` when somebody has dealt with it.
    pub state: String,
    /// When it was found.
    pub detected_at: DateTime<Utc>,
}

impl LaneWriter {
    /// Notes that a partition's state in Redis is lost, and decides where its
    /// sequences go on. Noting it again, before anything was given out since,
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the partition has another owner or epoch.
    pub async fn note_loss(
        &mut self,
        fence: Fence,
        counted: i64,
        last_in_stream: i64,
        detail: &str,
    ) -> Result<Resumption, Error> {
        let mut transaction = self.connection.begin().await?;
        let row = sqlx::query(
            "select o.last_sequence, o.reached_stream_id, o.head_sequence, j.resumes_at, j.lost_first,
                 j.lost_last
             from partition_owners o left join sequence_jumps j on j.partition = o.partition
                 and j.reason = 'state_lost' and j.resumes_at = o.head_sequence + 1
             where o.partition = $1 and o.owner = $2 and o.epoch = $3 for update of o",
        )
        .bind(i32::from(fence.partition))
        .bind(&self.worker)
        .bind(fence.epoch)
        .fetch_optional(&mut *transaction)
        .await?;
        let row = row.ok_or(Error::Fenced)?;
        let (settled, head): (i64, i64) = (row.try_get(0)?, row.try_get(2)?);
        let cursor = row.try_get::<&str, _>(1)?.parse().map_err(|_| Error::Corrupt("stream id"))?;
        let noted: Option<i64> = row.try_get(3)?;
        if let Some(resumes_at) = noted.filter(|resumes_at| counted < *resumes_at) {
            let lost = Option::zip(row.try_get(4)?, row.try_get(5)?);
            return Ok(Resumption { resumes_at, lost, cursor });
        }
        let after = settled.max(last_in_stream);
        let top = after.max(head).max(counted);
        let resumes_at = top.saturating_add(JUMP);
        // What jumps left out was never given out, or is listed: a takeover that
        // lacked it may have been noted.
        let jumps: Vec<(i64, i64)> = sqlx::query_as(
            "select after_sequence, resumes_at from sequence_jumps
             where partition = $1 and resumes_at > $2 order by after_sequence",
        )
        .bind(i32::from(fence.partition))
        .bind(after)
        .fetch_all(&mut *transaction)
        .await?;
        let unlisted = between(after + 1, top, &jumps);
        let lost = unlisted.first().zip(unlisted.last()).map(|(from, to)| (from.0, to.1));
        let after = lost.map_or(after, |(first, _)| first - 1);
        sqlx::query(
            "with headed as (
                 update partition_owners set head_sequence = $3 - 1 where partition = $1)
             insert into sequence_jumps (partition, after_sequence, resumes_at, reason, lost_first,
                 lost_last, detail) values ($1, $2, $3, 'state_lost', $4, $5, $6)
             on conflict (partition, after_sequence) do update
             set resumes_at = excluded.resumes_at, state = 'open', reason = excluded.reason,
                 lost_first = coalesce(sequence_jumps.lost_first, excluded.lost_first),
                 lost_last = coalesce(excluded.lost_last, sequence_jumps.lost_last),
                 detail = sequence_jumps.detail || '; then ' || excluded.detail",
        )
        .bind(i32::from(fence.partition))
        .bind(after)
        .bind(resumes_at)
        .bind(lost.map(|(first, _)| first))
        .bind(lost.map(|(_, last)| last))
        .bind(detail)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Resumption { resumes_at, lost, cursor })
    }

    /// Notes what is missing at the end of a stream, from which nothing waits
    /// although sequences up to `given` were given out.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the partition has another owner or epoch.
    pub async fn note_missing(&mut self, fence: Fence, given: i64) -> Result<Option<Gap>, Error> {
        let mut transaction = self.connection.begin().await?;
        let row: Option<(i64, String, Option<i64>)> = sqlx::query_as(
            "select o.last_sequence, o.last_stream_id, (select max(j.resumes_at) - 1
                 from sequence_jumps j where j.partition = o.partition)
             from partition_owners o
             where o.partition = $1 and o.owner = $2 and o.epoch = $3 for update of o",
        )
        .bind(i32::from(fence.partition))
        .bind(&self.worker)
        .bind(fence.epoch)
        .fetch_optional(&mut *transaction)
        .await?;
        let (settled, last_id, jumped_to) = row.ok_or(Error::Fenced)?;
        let after = jumped_to.map_or(settled, |jumped_to| jumped_to.max(settled));
        if after >= given {
            return Ok(None);
        }
        let last_id = last_id.parse::<StreamId>().map_err(|_| Error::Corrupt("stream id"))?;
        let end = StreamId { milliseconds: u64::MAX, number: u64::MAX };
        let missing = (after + 1, given);
        let gap = note_gap(&mut transaction, fence.partition, missing, (last_id, end)).await?;
        transaction.commit().await?;
        Ok(gap)
    }

    /// Notes how far streams are known to have come.
    pub async fn note_heads(&mut self, heads: &[(Fence, i64)]) -> Result<(), Error> {
        sqlx::query(
            "update partition_owners o set head_sequence = u.head
             from unnest($2::int[], $3::bigint[], $4::bigint[]) as u (partition, epoch, head)
             where o.partition = u.partition and o.owner = $1 and o.epoch = u.epoch
                 and o.head_sequence < u.head",
        )
        .bind(&self.worker)
        .bind(heads.iter().map(|(fence, _)| i32::from(fence.partition)).collect::<Vec<_>>())
        .bind(heads.iter().map(|(fence, _)| fence.epoch).collect::<Vec<_>>())
        .bind(heads.iter().map(|(_, head)| *head).collect::<Vec<_>>())
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}

/// An entry of a batch that has a sequence: partition, id, sequence.
pub(super) type Settled = (u16, StreamId, i64);

/// Sequences that no entry had: partition, first, last.
pub(super) type Gap = (u16, i64, i64);

/// Notes sequences that are missing between what the ledger has and a batch,
/// or within the batch, which is in stream order.
pub(super) async fn note_gaps(
    connection: &mut PgConnection,
    stands: &Cursors,
    settled: &[Settled],
) -> Result<Vec<Gap>, Error> {
    let (mut stands, mut gaps) = (stands.clone(), Vec::new());
    for (partition, id, sequence) in settled {
        let Some(stand) = stands.get_mut(partition) else { continue };
        let (last, last_id) = (stand.sequence, stand.stream_id);
        if *sequence <= last {
            continue;
        }
        (stand.sequence, stand.stream_id) = (*sequence, *id);
        if *sequence > last.saturating_add(1) {
            let missing = (last + 1, sequence - 1);
            gaps.extend(note_gap(connection, *partition, missing, (last_id, *id)).await?);
        }
    }
    Ok(gaps)
}

async fn note_gap(
    connection: &mut PgConnection,
    partition: u16,
    (first, last): (i64, i64),
    (after, before): (StreamId, StreamId),
) -> Result<Option<Gap>, Error> {
    // Nothing was given out where sequences are known to jump.
    let jumps_after: Option<i64> = sqlx::query_scalar(
        "select after_sequence from sequence_jumps
         where partition = $1 and resumes_at = $2 + 1 and after_sequence >= $3 - 1
         order by after_sequence limit 1",
    )
    .bind(i32::from(partition))
    .bind(last)
    .bind(first)
    .fetch_optional(&mut *connection)
    .await?;
    let last = jumps_after.unwrap_or(last);
    if last < first {
        return Ok(None);
    }
    // Entries whose sequence could not be read have taken one each.
    let unread: Vec<String> = sqlx::query_scalar(
        "select stream_id from dead_letters where partition = $1 and sequence is null",
    )
    .bind(i32::from(partition))
    .fetch_all(&mut *connection)
    .await?;
    let stood = unread.iter().filter_map(|id| id.parse::<StreamId>().ok());
    let stood = stood.filter(|id| after < *id && *id < before).count();
    if i64::try_from(stood).is_ok_and(|stood| stood > last - first) {
        return Ok(None);
    }
    let noted = sqlx::query(
        "insert into sequence_jumps (partition, after_sequence, resumes_at, reason, lost_first,
             lost_last, detail)
         values ($1, $2 - 1, $3 + 1, 'entries_missing', $2, $3,
             'the stream had no entries with these sequences')
         on conflict do nothing",
    )
    .bind(i32::from(partition))
    .bind(first)
    .bind(last)
    .execute(connection)
    .await?;
    Ok((noted.rows_affected() == 1).then_some((partition, first, last)))
}

/// The part of the ledger that tells what was lost.
#[derive(Clone)]
pub struct Losses {
    pool: PgPool,
}

impl Losses {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Losses, the latest first; at most 1,000. `open`: only those nobody has
    /// dealt with.
    pub async fn list(&self, open: bool) -> Result<Vec<LossRow>, Error> {
        let rows = sqlx::query_as(
            "select partition, after_sequence, resumes_at, reason, lost_first, lost_last, detail,
                 state, detected_at
             from sequence_jumps where reason <> 'resize' and (state = 'open' or not $1)
             order by detected_at desc, partition limit $2",
        )
        .bind(open)
        .bind(LIST_MAX)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Notes that somebody has dealt with all open losses of a partition, or of
    /// every one. Says how many there were.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached; nothing has changed then.
    pub async fn accept(
        &self,
        partition: Option<u16>,
        actor: &str,
        reason: &str,
    ) -> Result<u64, Error> {
        let accepted = sqlx::query(
            "with accepted as (
                 update sequence_jumps set state = 'accepted'
                 where state = 'open' and partition = coalesce($1, partition) returning *)
             insert into audit_log (actor, action, subject, reason, before, after)
             select $2, 'loss_accepted', format('partition %s', partition), $3,
                 to_jsonb(accepted) || '{\"state\": \"open\"}', to_jsonb(accepted)
             from accepted",
        )
        .bind(partition.map(i32::from))
        .bind(actor)
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(accepted.rows_affected())
    }
}

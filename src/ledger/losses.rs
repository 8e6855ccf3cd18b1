//! Sequences without a settled entry, and why: lost by Redis or PostgreSQL, deleted from a
//! stream, or jumped over after a failover. Written by the partition's owner, reviewed by an
//! operator. Never removes a finding, and never decides whether there was a failover.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::FromRow;

use super::{
    Error, LaneWriter,
    cursors::{self, Cursor, Cursors},
    in_time,
    jumps::{
        JUMP, Jump, JumpFinding, JumpKind, given_out, jumps, of_jump, of_range, of_takeover,
        record, unlisted,
    },
    lookups,
    pool::Pool,
    session::{Session, commit},
};
use crate::domain::{Decision, Fence, Outcome, StreamId};

/// Losses listed, or told to Redis again, at once.
const LIST_MAX: i64 = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumption {
    pub resumes_at: i64,
    /// Sequences that were given out and never settled, first and last of each range, as far
    /// as is known.
    pub lost: Vec<(i64, i64)>,
    /// The entry that the ledger's cursor stands at.
    pub cursor: StreamId,
}

impl Resumption {
    pub fn kept(&self) -> i64 {
        self.lost.first().map_or(self.resumes_at - JUMP, |(first, _)| first - 1)
    }
}

/// Failovers of Redis, as noted in its history.
#[derive(Clone, Copy, Debug)]
pub struct Takeovers<'a> {
    /// Where sequences jump: the last before, the first behind.
    pub jumps: &'a [(i64, i64)],
    /// First and last sequences that were given out and lost.
    pub lost: &'a [(i64, i64)],
    /// The last entry that our group was handed, if it is there.
    pub handed: Option<StreamId>,
}

/// A finding of lost commits.
#[derive(Clone, Copy, Debug)]
pub struct Rewound<'a> {
    pub settled: i64,
    /// The sequence before the first entry that the stream still has; without
    /// one, the last that was given out.
    pub gone_to: i64,
    /// The last entry that was handed out, when the stream has none left to
    /// settle: the ledger passes it.
    pub passed: Option<StreamId>,
    /// What was found, as a sentence.
    pub detail: &'a str,
}

/// Sequences that no entry had: partition, first, last.
pub(super) type Gap = (u16, i64, i64);
/// An entry of a batch that has a sequence: partition, id, sequence.
pub(super) type Settled = (u16, StreamId, i64);

/// Each function fails with [`Error::Fenced`] when the partition has another owner or epoch.
/// Noting the same again changes nothing.
impl LaneWriter {
    /// Notes something in a transaction that holds the partition's cursor.
    async fn review<T>(
        &mut self,
        fence: Fence,
        note: impl AsyncFnOnce(&mut Session, Cursor) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let noting = async {
            let mut transaction = self.connection.begin().await?;
            let stands = cursors::lock(&mut transaction, &self.worker, &[fence]).await?;
            let stand = stands.get(&fence.partition).copied().ok_or(Error::Fenced)?;
            let noted = note(&mut transaction, stand).await?;
            commit(transaction).await?;
            Ok::<_, Error>(noted)
        };
        in_time(self.patience, noting).await
    }

    /// Notes that a partition's state in Redis is lost, and decides where its
    /// sequences go on: each time further on, for nobody but a gateway may know what was given
    /// out since the last time.
    pub async fn note_loss(
        &mut self,
        fence: Fence,
        counted: i64,
        last_in_stream: i64,
        detail: &str,
    ) -> Result<Resumption, Error> {
        self.review(fence, async |connection, stand| {
            let (head, cursor) = (stand.head, stand.reached);
            let jumps = jumps(connection, fence.partition).await?;
            let after = stand.sequence.max(last_in_stream);
            let top = after.max(head).max(counted);
            let resumes_at = top.saturating_add(JUMP);
            let lost = unlisted(after + 1, top, jumps.iter().map(Jump::ends));
            sqlx::query("update partition_owners set head_sequence = $2 - 1 where partition = $1")
                .bind(i32::from(fence.partition))
                .bind(resumes_at)
                .execute(&mut *connection)
                .await?;
            let kind = JumpKind::StateLost;
            for range in &lost {
                // Where an earlier jump leads from one range to the next, none of what it left
                // out is lost.
                let (after, lost) = (range.0 - 1, Some(*range));
                let finding = JumpFinding { kind, after, resumes_at, lost, open: true };
                record(connection, fence.partition, &finding, detail).await?;
            }
            if lost.is_empty() {
                let finding = JumpFinding { kind, after, resumes_at, lost: None, open: true };
                record(connection, fence.partition, &finding, detail).await?;
            }
            Ok(Resumption { resumes_at, lost, cursor })
        })
        .await
    }

    /// Notes what is missing at the end of a stream, from which nothing waits
    /// although sequences up to `given` were given out.
    pub async fn note_missing(&mut self, fence: Fence, given: i64) -> Result<Vec<Gap>, Error> {
        self.review(fence, async |connection, stand| {
            let jumps = jumps(connection, fence.partition).await?;
            let jumped_to = jumps.iter().map(|jump| jump.resumes_at - 1).max().unwrap_or(0);
            let first = jumped_to.max(stand.sequence) + 1;
            let end = StreamId { milliseconds: u64::MAX, number: u64::MAX };
            let ids = (stand.stream_id, end);
            let gaps = note_gap(connection, fence.partition, (first, given), ids).await?;
            Ok(gaps)
        })
        .await
    }

    /// Notes failovers and their losses; returns the new losses. Sequences settled before a
    /// failover are not lost.
    pub async fn note_takeovers(
        &mut self,
        fence: Fence,
        takeovers: Takeovers<'_>,
    ) -> Result<Vec<(i64, i64)>, Error> {
        self.review(fence, async |connection, stand| {
            // Behind the ledger, the group has handed out nothing that the ledger has
            // settled since. Otherwise numbers may have been given out again.
            let is_behind = takeovers.handed.is_none_or(|handed| handed < stand.reached);
            let settled_before = if is_behind { stand.sequence } else { 0 };
            let is_in = |jump: &(i64, i64), lost: &(i64, i64)| jump.0 < lost.0 && lost.1 < jump.1;
            let mut found = Vec::new();
            let known = jumps(connection, fence.partition).await?;
            let given_out = |lost: &(i64, i64)| given_out(&known, takeovers.jumps, *lost);
            let told: Vec<_> = takeovers.lost.iter().flat_map(given_out).collect();
            for lost in &told {
                let known = jumps(connection, fence.partition).await?;
                let Some(finding) = of_jump(&known, stand.sequence, *lost) else { continue };
                record(connection, fence.partition, &finding, finding.kind.sentence()).await?;
                found.extend(finding.lost);
            }
            for jump in takeovers.jumps {
                let lost = told.iter().filter(|lost| is_in(jump, lost)).copied().map(Some);
                for lost in [None].into_iter().chain(lost) {
                    let known = jumps(connection, fence.partition).await?;
                    let Some(finding) = of_takeover(&known, stand.sequence, *jump, lost) else {
                        continue;
                    };
                    record(connection, fence.partition, &finding, finding.kind.sentence()).await?;
                    found.extend(finding.lost);
                }
            }
            for lost in &told {
                if takeovers.jumps.iter().any(|jump| is_in(jump, lost)) {
                    continue;
                }
                let known = jumps(connection, fence.partition).await?;
                let Some(finding) = of_range(&known, settled_before, *lost) else { continue };
                record(connection, fence.partition, &finding, finding.kind.sentence()).await?;
                found.extend(finding.lost);
            }
            Ok(found)
        })
        .await
    }

    /// Notes that Redis has gone back unseen and has given out numbers again, from
    /// `first` on, which is settled already. Of what the other had given out, up to
    /// `known`, what is not settled is lost. Says whether that is new.
    pub async fn note_twice(
        &mut self,
        fence: Fence,
        first: i64,
        known: i64,
    ) -> Result<bool, Error> {
        self.review(fence, async |connection, Cursor { sequence: settled, .. }| {
            let lost = (known > settled).then_some((settled + 1, known));
            let range = (first, known.max(settled));
            let noted = note_twice(connection, fence.partition, range, lost).await?;
            Ok(noted)
        })
        .await
    }

    /// Notes sequences that the ledger had settled, has lost, and cannot settle again; returns
    /// them.
    pub async fn note_rewound(
        &mut self,
        fence: Fence,
        rewound: Rewound<'_>,
    ) -> Result<Vec<(i64, i64)>, Error> {
        let Rewound { settled, gone_to, passed, detail } = rewound;
        self.review(fence, async |connection, stand| {
            if stand.sequence != settled {
                return Err(Error::Fenced);
            }
            sqlx::query(
                "update partition_owners set reached_stream_id = coalesce($2, reached_stream_id),
                     head_sequence = greatest(head_sequence, $3)
                 where partition = $1",
            )
            .bind(i32::from(fence.partition))
            .bind(passed.map(|id| id.to_string()))
            .bind(gone_to)
            .execute(&mut *connection)
            .await?;
            let jumps = jumps(connection, fence.partition).await?;
            let behind = jumps.iter().filter(|jump| jump.after_sequence >= settled);
            let lost = unlisted(settled + 1, gone_to, behind.map(Jump::ends));
            for (first, last) in &lost {
                // Where the first begins later, a jump leads there from what is settled.
                let finding = JumpFinding {
                    kind: JumpKind::LedgerLost,
                    after: first - 1,
                    resumes_at: gone_to + 1,
                    lost: Some((*first, *last)),
                    open: true,
                };
                record(connection, fence.partition, &finding, detail).await?;
            }
            Ok(lost)
        })
        .await
    }

    /// Sequences of these partitions that were found lost within a day, the
    /// latest first.
    pub async fn recent_losses(&mut self, partitions: &[u16]) -> Result<Vec<Gap>, Error> {
        let listing = sqlx::query_as(
            "select partition, lost_first, lost_last from sequence_jumps
             where partition = any($1) and lost_first is not null
                 and detected_at > clock_timestamp() - interval '1 day'
             order by detected_at desc limit $2",
        )
        .bind(partitions.iter().map(|number| i32::from(*number)).collect::<Vec<_>>())
        .bind(LIST_MAX);
        let listing = self.connection.ask(async |session| listing.fetch_all(session).await);
        let rows: Vec<(i32, i64, i64)> = in_time(self.patience, listing).await?;
        let gap = |(partition, first, last)| Ok((lookups::partition(partition)?, first, last));
        rows.into_iter().map(gap).collect()
    }
}

/// Notes sequences that are missing between what the ledger has and a batch,
/// or within the batch, which is in stream order.
pub(super) async fn note_gaps(
    connection: &mut Session,
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
        let missing = (last.saturating_add(1), sequence - 1);
        gaps.extend(note_gap(connection, *partition, missing, (last_id, *id)).await?);
    }
    Ok(gaps)
}

async fn note_gap(
    connection: &mut Session,
    partition: u16,
    (first, last): (i64, i64),
    (after, before): (StreamId, StreamId),
) -> Result<Vec<Gap>, Error> {
    if last < first {
        return Ok(Vec::new());
    }
    let jumps = jumps(connection, partition).await?;
    let behind = jumps.iter().filter(|jump| jump.after_sequence >= first - 1);
    let missing = unlisted(first, last, behind.map(Jump::ends));
    // Entries whose sequence could not be read have taken one each.
    let unread: Vec<String> = sqlx::query_scalar(
        "select stream_id from dead_letters where partition = $1 and sequence is null",
    )
    .bind(i32::from(partition))
    .fetch_all(&mut *connection)
    .await?;
    let unread = unread.iter().filter_map(|id| id.parse::<StreamId>().ok());
    let unread = unread.filter(|id| after < *id && *id < before).count();
    let count: i64 = missing.iter().map(|(first, last)| last - first + 1).sum();
    if i64::try_from(unread).is_ok_and(|unread| unread >= count) {
        return Ok(Vec::new());
    }
    let kind = JumpKind::EntriesMissing;
    for lost in &missing {
        let (after, resumes_at) = (lost.0 - 1, lost.1 + 1);
        let finding = JumpFinding { kind, after, resumes_at, lost: Some(*lost), open: true };
        record(connection, partition, &finding, kind.sentence()).await?;
    }
    Ok(missing.into_iter().map(|(first, last)| (partition, first, last)).collect())
}

/// Notes numbers that decisions show to have been given out twice: they are
/// settled already, under entries that came before.
pub(super) async fn note_reuse(
    connection: &mut Session,
    stands: &Cursors,
    decisions: &[Decision<'_>],
) -> Result<(), Error> {
    for Decision { delivery, outcome } in decisions {
        let Some(stand) = stands.get(&delivery.partition) else { continue };
        let is_new = match outcome {
            Outcome::Redelivered => false,
            // Those that were decided before come again, too.
            Outcome::Duplicate | Outcome::Conflict => delivery.stream_id > stand.reached,
            // A server came back that had not shown them while another gave out more.
            Outcome::Applied { .. }
            | Outcome::Recorded { .. }
            | Outcome::Rejected { .. }
            | Outcome::Suspense
            | Outcome::Parked => true,
        };
        if is_new && delivery.sequence <= stand.sequence {
            let range = (delivery.sequence, stand.sequence);
            note_twice(connection, delivery.partition, range, None).await?;
        }
    }
    Ok(())
}

/// Notes that these numbers were given out twice, and what is lost of them; says
/// whether that is new.
async fn note_twice(
    connection: &mut Session,
    partition: u16,
    (first, last): (i64, i64),
    lost: Option<(i64, i64)>,
) -> Result<bool, Error> {
    let (kind, is_from) = (JumpKind::Twice, |jump: &Jump| jump.after_sequence < first);
    let jumps = jumps(connection, partition).await?;
    if jumps.iter().any(|jump| jump.is(kind) && is_from(jump) && jump.resumes_at > first) {
        return Ok(false);
    }
    let finding = JumpFinding { kind, after: first - 1, resumes_at: last + 1, lost, open: true };
    record(connection, partition, &finding, kind.sentence()).await?;
    Ok(true)
}

#[derive(Clone)]
pub struct Losses {
    pub(super) pool: Pool,
}

#[derive(Clone, Debug, FromRow, Serialize)]
pub struct LossRow {
    pub partition: i32,
    pub after_sequence: i64,
    pub resumes_at: i64,
    /// `state_lost`, `entries_missing`, `ledger_lost` or `takeover`.
    pub reason: String,
    /// First of the sequences that were given out and never settled.
    pub lost_first: Option<i64>,
    pub lost_last: Option<i64>,
    /// What happened, as a sentence.
    pub detail: String,
    /// `open` or `accepted`.
    pub state: String,
    pub detected_at: DateTime<Utc>,
}

impl Losses {
    /// Losses, the latest first; at most 1,000.
    pub async fn list(&self, open: bool) -> Result<Vec<LossRow>, Error> {
        let rows = sqlx::query_as(
            "select partition, after_sequence, resumes_at, reason, lost_first, lost_last, detail,
                 state, detected_at
             from sequence_jumps where reason <> 'resize' and (state = 'open' or not $1)
             order by detected_at desc, partition limit $2",
        );
        self.pool.all(rows.bind(open).bind(LIST_MAX)).await
    }

    /// Accepts all open losses of a partition, or of every one; returns their number.
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
             from accepted
             -- All are locked before the first is noted: see migrations/0019_audit_chain.sql.
             order by partition, after_sequence",
        );
        let accepted = accepted.bind(partition.map(i32::from)).bind(actor).bind(reason);
        let accepted = self.pool.change(async |session| accepted.execute(session).await).await?;
        Ok(accepted.rows_affected())
    }
}

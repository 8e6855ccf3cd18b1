//! How a ledger that has lost commits is brought forward again: what Redis still
//! has is settled again, the rest is listed. Written by the partition's owner.

use std::collections::BTreeMap;

use sqlx::{Connection, Row};

use super::{
    Error, LaneWriter,
    rows::{Cursor, columns},
    writer,
};
use crate::domain::{Fence, StreamId};

/// What commits that were lost leave to be noted.
#[derive(Clone, Copy, Debug)]
pub struct Rewound<'a> {
    /// The highest sequence that the ledger has.
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

impl LaneWriter {
    /// How far the ledger has come with those of these partitions that are ours
    /// still.
    pub async fn cursors(&mut self, fences: &[Fence]) -> Result<BTreeMap<u16, Cursor>, Error> {
        let (partitions, epochs) = columns(fences);
        let rows = sqlx::query(
            "select partition, last_sequence, last_stream_id, reached_stream_id
             from partition_owners where owner = $1
                 and (partition, epoch) in (select * from unnest($2::int[], $3::bigint[]))",
        )
        .bind(&self.worker)
        .bind(partitions)
        .bind(epochs)
        .fetch_all(&mut self.connection)
        .await?;
        let stand = |row: &sqlx::postgres::PgRow| {
            let partition: i32 = row.try_get(0)?;
            let partition = u16::try_from(partition).map_err(|_| Error::Corrupt("partition"))?;
            Ok((partition, writer::cursor(row)?))
        };
        rows.iter().map(stand).collect()
    }

    /// Lists what the ledger had settled, has lost, and cannot settle again; says
    /// which sequences those are. Noting it again changes nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`] when the partition has another owner or epoch.
    pub async fn note_rewound(
        &mut self,
        fence: Fence,
        rewound: Rewound<'_>,
    ) -> Result<Vec<(i64, i64)>, Error> {
        let Rewound { settled, gone_to, passed, detail } = rewound;
        let mut transaction = self.connection.begin().await?;
        let ours = sqlx::query(
            "update partition_owners
             set reached_stream_id = coalesce($4, reached_stream_id),
                 head_sequence = greatest(head_sequence, $5)
             where partition = $1 and owner = $2 and epoch = $3 and last_sequence = $6",
        )
        .bind(i32::from(fence.partition))
        .bind(&self.worker)
        .bind(fence.epoch)
        .bind(passed.map(|id| id.to_string()))
        .bind(gone_to)
        .bind(settled);
        if ours.execute(&mut *transaction).await?.rows_affected() == 0 {
            return Err(Error::Fenced);
        }
        // Sequences that a jump left out were never given out, or are listed.
        let jumps: Vec<(i64, i64)> = sqlx::query_as(
            "select after_sequence, resumes_at from sequence_jumps
             where partition = $1 and after_sequence >= $2 order by after_sequence",
        )
        .bind(i32::from(fence.partition))
        .bind(settled)
        .fetch_all(&mut *transaction)
        .await?;
        let lost = between(settled + 1, gone_to, &jumps);
        for (first, last) in &lost {
            sqlx::query(
                "insert into sequence_jumps (partition, after_sequence, resumes_at, reason,
                     lost_first, lost_last, detail)
                 values ($1, $2, $6 + 1, 'ledger_lost', $3, $4, $5)
                 on conflict (partition, after_sequence) do update
                 set resumes_at = excluded.resumes_at, state = 'open', reason = excluded.reason,
                     lost_first = coalesce(sequence_jumps.lost_first, excluded.lost_first),
                     lost_last = excluded.lost_last,
                     detail = sequence_jumps.detail || '; then ' || excluded.detail",
            )
            .bind(i32::from(fence.partition))
            // Where the first begins later, a jump leads there from what is settled.
            .bind(first - 1)
            .bind(first)
            .bind(last)
            .bind(detail)
            .bind(gone_to)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(lost)
    }

    /// Raises epochs to those that Redis was told of, where we are the owner: the
    /// ledger has gone back, and the next acquisition must be above them. Says
    /// whether it raised any.
    pub async fn raise_epochs(&mut self, known: &[(Fence, i64)]) -> Result<bool, Error> {
        let raised = sqlx::query(
            "update partition_owners o set epoch = u.known
             from unnest($2::int[], $3::bigint[], $4::bigint[]) as u (partition, epoch, known)
             where o.partition = u.partition and o.owner = $1 and o.epoch = u.epoch
                 and o.epoch < u.known",
        )
        .bind(&self.worker)
        .bind(known.iter().map(|(fence, _)| i32::from(fence.partition)).collect::<Vec<_>>())
        .bind(known.iter().map(|(fence, _)| fence.epoch).collect::<Vec<_>>())
        .bind(known.iter().map(|(_, known)| *known).collect::<Vec<_>>())
        .execute(&mut self.connection)
        .await?;
        Ok(raised.rows_affected() > 0)
    }
}

/// What no jump leaves out of these sequences, as ranges in order.
pub(super) fn between(mut first: i64, last: i64, jumps: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut ranges = Vec::new();
    for (after, resumes_at) in jumps {
        ranges.push((first, last.min(*after)));
        first = first.max(*resumes_at);
    }
    ranges.push((first, last));
    ranges.retain(|(first, last)| first <= last);
    ranges
}

//! What is done when Redis has lost a partition's state: its stream or group is
//! gone, or it counts on from below what was given out (a replica that lacked
//! the tail, an old backup, a flush); and how a takeover by a replica, behind
//! which sequences jump by themselves, gets on record.
//!
//! Closed first, so that nothing is accepted under a sequence that was used;
//! then the finding is put on record; then opened behind everything that was
//! ever given out, from the ledger's cursor on and never from the end of what
//! is there. Each step can be repeated. Never says that nothing was lost.

use tracing::error;

use super::{error::Error, held::Held, settle::Link};
use crate::{
    domain::{Fence, StreamId},
    ledger::{self, Cursor, Takeovers},
    stream::{History, PartitionState, Reopening},
};

/// Why the state of a partition is lost, if it is. `known` is the highest
/// sequence that is known to have been given out.
pub(super) fn finding(state: &PartitionState, known: i64) -> Option<String> {
    if state.position.is_none() {
        return Some("the stream or the consumer group was missing".to_owned());
    }
    match state.sequence {
        None => Some("a gateway found that the sequence counter had gone back".to_owned()),
        Some(sequence) if sequence < known => Some(format!(
            "the sequence counter was at {sequence} although {known} had been given out"
        )),
        Some(_) => None,
    }
}

/// Brings the partition back into service; says the last sequence that counts
/// as given out from now on.
pub(super) async fn recover(
    link: &mut Link,
    fence: Fence,
    (state, known): (&PartitionState, i64),
    finding: &str,
) -> Result<i64, Error> {
    let Fence { partition, .. } = fence;
    let remains = link.consumer.close(fence).await?;
    let counts_on = state.sequence.is_some_and(|sequence| sequence >= known);
    if counts_on && remains.last_id > StreamId::default() {
        // The entries are all there; only how far we had read them is gone.
        let cursor = begin_at(link, fence).await?;
        let sequence = remains.counted;
        let reopening = Reopening { cursor, sets_back: false, sequence, kept: None, lost: &[] };
        link.consumer.reopen(fence, remains, reopening).await?;
        error!(partition, %cursor, "the consumer group was missing; created again behind the settled entries");
        return Ok(remains.counted);
    }
    let resumption =
        link.writer.note_loss(fence, remains.counted, remains.last_sequence, finding).await?;
    let sequence = resumption.resumes_at - 1;
    let reopening = Reopening {
        cursor: resumption.cursor,
        sets_back: false,
        sequence,
        kept: Some(resumption.kept()),
        lost: resumption.lost.as_slice(),
    };
    link.consumer.reopen(fence, remains, reopening).await?;
    let (lost_first, lost_last) = resumption.lost.unzip();
    error!(
        partition,
        finding,
        lost_first,
        lost_last,
        resumes_at = resumption.resumes_at,
        "Redis lost the state of a partition; its sequences resume behind a gap. See `paystream losses list`"
    );
    Ok(sequence)
}

/// Where a group that is gone begins: at the ledger's cursor, or with all that is kept
/// where entries wait before that, which a server whose clock is behind gave their ids.
async fn begin_at(link: &mut Link, fence: Fence) -> Result<StreamId, Error> {
    let cursor = link.writer.cursors(&[fence]).await?.remove(&fence.partition);
    let Cursor { sequence, reached, .. } = cursor.ok_or(ledger::Error::Fenced)?;
    let last = link.consumer.sequence_up_to(fence.partition, reached).await?;
    Ok(if last.is_some_and(|last| last > sequence) { StreamId::default() } else { reached })
}

/// Compares what the ledger knows of partitions with the Redis that answers now,
/// and tells Redis what the ledger knows to be lost.
pub(super) async fn compare<'a>(
    link: &mut Link,
    partitions: impl Iterator<Item = &'a Held>,
) -> Result<(), Error> {
    let known: Vec<(u16, i64)> =
        partitions.map(|held| (held.fence.partition, held.sequence)).collect();
    link.consumer.compare(&known).await?;
    let partitions: Vec<u16> = known.into_iter().map(|(partition, _)| partition).collect();
    let lost = link.writer.recent_losses(&partitions).await?;
    Ok(link.consumer.lose(&lost).await?)
}

/// Puts on record that a replica took over, and what it lacked.
pub(super) async fn note(
    link: &mut Link,
    fence: Fence,
    state: &PartitionState,
) -> Result<(), Error> {
    let Fence { partition, .. } = fence;
    let History { holes: jumps, lost } = &state.history;
    let takeovers =
        Takeovers { jumps, lost, handed: state.position.as_ref().map(|position| position.last_id) };
    let lost = link.writer.note_takeovers(fence, takeovers).await?;
    for (lost_first, lost_last) in lost {
        error!(
            partition,
            lost_first,
            lost_last,
            "Redis lacks acknowledged payments after a failover. See `paystream losses list`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::GroupPosition;

    #[test]
    fn a_partition_is_lost_when_it_is_gone_or_has_gone_back() {
        let position = Some(GroupPosition::default());
        let state =
            |position, sequence| PartitionState { position, sequence, ..PartitionState::default() };
        assert_eq!(finding(&state(position.clone(), Some(7)), 7), None);
        assert_eq!(finding(&state(position.clone(), Some(8)), 7), None);
        for lost in [state(None, Some(7)), state(position.clone(), Some(6)), state(position, None)]
        {
            assert!(finding(&lost, 7).is_some(), "{lost:?}");
        }
    }
}

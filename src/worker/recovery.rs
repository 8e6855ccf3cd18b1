//! Recovery of a partition whose state Redis has lost: the stream or the group is missing, or
//! the counter is below what was given out (a replica without the tail, an old backup, a
//! flush). Also records failovers to a replica, after which sequences jump by themselves.
//!
//! The partition is closed first, so that no sequence is given out twice; then the finding is
//! recorded; then the partition is opened behind all sequences ever given out, from the ledger's
//! cursor on and never from the end of the stream. Each step can be repeated. Never says that
//! nothing was lost.

use tracing::error;

use super::{error::Error, held::Held, settle::Link};
use crate::{
    domain::{Fence, StreamId},
    ledger::{self, Cursor, Takeovers},
    stream::{History, PartitionState, Reopening},
};

/// The reason why the state of a partition counts as lost, if it does. `known`: the highest
/// sequence known to have been given out.
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

/// Brings the partition back into service; returns the last sequence that counts as given out
/// from now on.
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
    error!(
        partition,
        finding,
        lost_first = resumption.lost.first().map(|(first, _)| first),
        lost_last = resumption.lost.last().map(|(_, last)| last),
        resumes_at = resumption.resumes_at,
        "Redis lost the state of a partition; its sequences resume behind a gap. See `paystream losses list`"
    );
    Ok(sequence)
}

/// The id behind which a missing group begins: the ledger's cursor, or the begin of the stream
/// where entries wait before the cursor, appended by a server whose clock was behind.
async fn begin_at(link: &mut Link, fence: Fence) -> Result<StreamId, Error> {
    let cursor = link.writer.cursors(&[fence]).await?.remove(&fence.partition);
    let Cursor { sequence, reached, .. } = cursor.ok_or(ledger::Error::Fenced)?;
    let last = link.consumer.sequence_up_to(fence.partition, reached).await?;
    Ok(if last.is_some_and(|last| last > sequence) { StreamId::default() } else { reached })
}

/// Compares the sequences that the ledger knows with the history of the Redis server that
/// answers now, and notes the ledger's losses there.
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

/// Records failovers to replicas, and the sequences that these lacked.
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

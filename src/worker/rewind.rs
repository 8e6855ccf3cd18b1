//! Recovery when PostgreSQL has lost commits (a promoted standby, a restored backup): Redis has
//! acknowledged entries that the ledger lacks.
//!
//! The partition is closed; sequences that the stream no longer has are recorded as lost; then
//! the group is set back to the ledger's cursor, and the remaining entries are settled again, in
//! order. Only the owner moves either, and checks between two batches, so a running batch is
//! never taken for a loss. Each step can be repeated. Never settles an entry itself.

use std::collections::BTreeMap;

use tracing::{error, warn};

use super::{
    error::Error,
    held::{Held, Phase},
    recovery,
    settle::Link,
};
use crate::{
    domain::{Fence, StreamId},
    ledger::{Cursor, LaneWriter, Rewound},
    stream::{self, Consumer, GroupPosition, Kept, Reopening},
};

/// Compares our group's position with the ledger's cursor, and sets the group back where the
/// ledger has lost commits. A group before the cursor may be on a server whose clock is behind:
/// its ids must go on above the cursor.
pub(super) async fn look(link: &mut Link, held: &mut BTreeMap<u16, Held>) -> Result<(), Error> {
    let fences: Vec<Fence> = held.values().map(|held| held.fence).collect();
    let cursors = link.writer.cursors(&fences).await?;
    let states = link.consumer.states(&fences).await?;
    let mut behind = Vec::new();
    for (fence, state) in fences.iter().zip(states) {
        let (Some(cursor), Some(held)) =
            (cursors.get(&fence.partition), held.get_mut(&fence.partition))
        else {
            continue;
        };
        // A missing group is created again at the cursor.
        let Some(GroupPosition { last_id, .. }) = state.position else { continue };
        if last_id <= cursor.reached {
            if last_id < cursor.reached {
                note_twice(link, *fence, *cursor, held.sequence).await?;
                behind.push((fence.partition, cursor.reached));
            }
            continue;
        }
        let kept = link.consumer.passed(*fence, cursor.reached, last_id).await?;
        if let Some(kept) = kept {
            // Where sequences jumped, the ledger may have forgotten.
            recovery::note(link, *fence, &state).await?;
            let known = held.sequence.max(state.sequence.unwrap_or(0));
            held.sequence = rewind(link, *fence, *cursor, (last_id, kept), known).await?;
            (held.suspects, held.retry_at) = (None, None);
            held.phase = Phase::Reclaiming(None);
        }
    }
    Ok(link.consumer.raise_ids(&behind).await?)
}

/// The group is before the cursor: somebody set it back, or Redis has gone back unseen and has
/// given out settled sequences again. Copies of settled entries prove nothing.
async fn note_twice(
    link: &mut Link,
    fence: Fence,
    cursor: Cursor,
    known: i64,
) -> Result<(), Error> {
    let partition = fence.partition;
    let mut after = cursor.reached;
    let first = loop {
        let found = link.consumer.first_after(partition, after).await?;
        match found.filter(|(sequence, _)| *sequence <= cursor.sequence) {
            None => return Ok(()),
            Some((_, Some(delivery))) if link.writer.is_copy(&delivery).await? => {
                after = delivery.stream_id;
            }
            Some((sequence, _)) => break sequence,
        }
    };
    if link.writer.note_twice(fence, first, known).await? {
        error!(
            partition,
            first,
            settled = cursor.sequence,
            known,
            "Redis went back and gave out sequences again. See `paystream losses list`"
        );
    }
    Ok(())
}

/// Sets the group back; returns the last sequence that was given out.
async fn rewind(
    link: &mut Link,
    fence: Fence,
    cursor: Cursor,
    (acknowledged, kept): (StreamId, Kept),
    known: i64,
) -> Result<i64, Error> {
    let partition = fence.partition;
    let remains = link.consumer.close(fence).await?;
    let given = known.max(remains.counted);
    let (gone_to, back_to) = match kept {
        Kept::Nothing => (given, acknowledged),
        Kept::From(first) => {
            let first = first.filter(|first| *first <= given);
            (first.map_or(cursor.sequence, |first| first - 1), cursor.reached)
        }
    };
    let detail = format!(
        "PostgreSQL went back to sequence {} (a promoted standby, or a restored backup) although \
         entries up to {acknowledged} were settled, and these were not in the stream any more",
        cursor.sequence
    );
    let passed = (kept == Kept::Nothing).then_some(acknowledged);
    let rewound = Rewound { settled: cursor.sequence, gone_to, passed, detail: &detail };
    let lost = link.writer.note_rewound(fence, rewound).await?;
    let reopening =
        Reopening { cursor: back_to, sets_back: true, sequence: given, kept: None, lost: &lost };
    link.consumer.reopen(fence, remains, reopening).await?;
    error!(
        partition,
        settled = cursor.sequence,
        %acknowledged,
        ?lost,
        "PostgreSQL lost commits; entries still in the stream are settled again. See `paystream \
         losses list`"
    );
    Ok(given)
}

/// Writes our ownership to Redis. If Redis has a higher epoch although we are the owner, the
/// ledger has gone back, and its epochs are raised above those in Redis.
pub(super) async fn mirror(
    consumer: &mut Consumer,
    writer: &mut LaneWriter,
    fences: &[Fence],
) -> Result<(), Error> {
    let told = consumer.mirror(fences).await;
    if matches!(told, Err(stream::Error::Fenced(_))) {
        let known = consumer.epochs(fences).await?;
        let known: Vec<(Fence, i64)> = fences.iter().copied().zip(known).collect();
        if writer.raise_epochs(&known).await? {
            warn!("epochs in Redis are higher than in the ledger; raised those of the ledger");
        }
    }
    Ok(told?)
}

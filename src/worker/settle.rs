//! Settles one batch: has the ledger decide and write in one fenced transaction, and
//! acknowledges. Never decides about a payment itself.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{
    error::Error,
    watch::{Again, BatchProgress, Watch},
};
use crate::{
    domain::{DeadEntry, Delivery, Fence, StreamId, TraceContext},
    ledger::{self, Batch, Burial, LaneWriter, Races},
    stream::{self, Consumer, Taken, TakenFrom},
    telemetry::{Buried, Timestamp},
};

const UNREADABLE: &str = "entry_unreadable";

pub(super) struct Link {
    pub(super) consumer: Consumer,
    pub(super) writer: LaneWriter,
    pub(super) batch_deadline: Duration,
    pub(super) watch: Watch,
}

impl Link {
    /// Logs that no entry had these sequences, and notes it in Redis. If that fails, the next
    /// connection notes it.
    pub(super) async fn lose(&mut self, gaps: &[(u16, i64, i64)]) -> Result<(), stream::Error> {
        for (partition, lost_first, lost_last) in gaps {
            error!(
                partition,
                lost_first,
                lost_last,
                "entries were deleted from the stream before they were settled. See `paystream \
                 losses list`"
            );
        }
        self.consumer.lose(gaps).await
    }
}

#[derive(Default)]
struct Sorted {
    fences: Vec<Fence>,
    deliveries: Vec<Delivery>,
    unreadable: Vec<DeadEntry>,
    deleted: Vec<(u16, StreamId)>,
    settled: Vec<(Fence, Vec<StreamId>)>,
    earlier: Again,
}

/// Settles what was taken. When this returns, all of it is in the ledger and
/// acknowledged.
pub(super) async fn settle(link: &mut Link, taken: Vec<(Fence, TakenFrom)>) -> Result<(), Error> {
    let sorted = sort(&link.watch, taken);
    let mut progress = link.watch.progress();
    let settled = settle_sorted(link, &sorted, &mut progress).await;
    let error = settled.as_ref().err();
    link.watch.tried(&sorted.deliveries, &sorted.earlier, &progress, error);
    settled
}

async fn settle_sorted(
    link: &mut Link,
    sorted: &Sorted,
    progress: &mut BatchProgress,
) -> Result<(), Error> {
    let deadline = link.batch_deadline;
    let posting = async {
        let mut races = Races::default();
        loop {
            match post(link, sorted, progress).await {
                Err(error) if error.is_raced() => link.watch.signals.retried("raced"),
                posted => return posted,
            }
            if !races.go_on() {
                return Err(link.writer.damage(&sorted.deliveries).await?.into());
            }
        }
    };
    timeout(deadline, posting).await.map_err(|_| Error::Deadline(deadline))??;
    for entry in &sorted.unreadable {
        warn!(
            partition = entry.partition,
            stream_id = %entry.stream_id,
            reference = entry.reference,
            trace_id = entry.trace_id.map(tracing::field::display),
            reason = entry.reason,
            "an entry could not be read and is a dead letter now"
        );
        link.consumer.bury(entry.partition, entry.stream_id, UNREADABLE, &entry.reason).await?;
        let trace = |trace_id| TraceContext { trace_id, span_id: None, sampled: false };
        link.watch.signals.buried(&Buried {
            entry: (entry.partition, entry.stream_id),
            trace: entry.trace_id.map(trace),
            code: UNREADABLE,
            reason: &entry.reason,
        });
    }
    link.consumer.conclude(&sorted.settled).await?;
    progress.steps.acknowledged = Some(Timestamp::now());
    Ok(())
}

fn sort(watch: &Watch, taken: Vec<(Fence, TakenFrom)>) -> Sorted {
    let mut sorted = Sorted::default();
    for (fence, from) in taken.into_iter().filter(|(_, from)| !from.taken.is_empty()) {
        sorted.fences.push(fence);
        sorted.earlier.extend(watch.earlier(fence, &from.earlier));
        let mut ids = Vec::with_capacity(from.taken.len());
        for taken in from.taken {
            match taken {
                Taken::Delivery(delivery) => {
                    ids.push(delivery.stream_id);
                    sorted.deliveries.push(delivery);
                }
                Taken::Unreadable(unreadable) => sorted.unreadable.push(*unreadable),
                Taken::Deleted(partition, id) => {
                    // Claiming removed it from the pending list: this line and the
                    // audit's gap are its last traces.
                    error!(partition, stream_id = %id, "an entry was deleted from the stream before it was settled");
                    ids.push(id);
                    sorted.deleted.push((partition, id));
                }
            }
        }
        sorted.settled.push((fence, ids));
    }
    sorted
}

async fn post(link: &mut Link, sorted: &Sorted, progress: &mut BatchProgress) -> Result<(), Error> {
    let Sorted { fences, deliveries, unreadable, deleted, .. } = sorted;
    let begun = Timestamp::now();
    let mut batch = link.writer.open(fences, deliveries).await?;
    for (partition, id) in deleted {
        batch.pass(*partition, *id);
    }
    for fence in fences {
        must_follow(&link.consumer, &batch, fence.partition, sorted).await?;
    }
    let burial = |entry: &DeadEntry| Burial {
        entry: entry.clone(),
        code: UNREADABLE,
        attempts: 1,
        parks: false,
    };
    let burials: Vec<Burial> = unreadable.iter().map(burial).collect();
    let customers = deliveries.iter().map(|delivery| &delivery.payment.customer);
    let (outcomes, ()) = tokio::try_join!(
        async { batch.settle(deliveries, &burials).await.map_err(Error::from) },
        async { link.consumer.announce(fences, customers).await.map_err(Error::from) },
    )?;
    progress.outcomes = outcomes;
    let gaps = batch.commit().await?;
    progress.steps.committed = Some((begun, Timestamp::now()));
    Ok(link.lose(&gaps).await?)
}

/// Refuses a batch that would move the cursor past entries which the stream has and the
/// ledger lacks: the ledger has lost commits.
async fn must_follow(
    consumer: &Consumer,
    batch: &Batch<'_>,
    partition: u16,
    sorted: &Sorted,
) -> Result<(), Error> {
    let Some(stand) = batch.stand(partition) else { return Ok(()) };
    let Sorted { deliveries, unreadable, .. } = sorted;
    let unreadable = unreadable.iter().map(|entry| (entry.partition, entry.stream_id, None));
    let deliveries = deliveries.iter().map(|d| (d.partition, d.stream_id, Some(d.sequence)));
    let new =
        deliveries.chain(unreadable).filter(|(p, id, _)| *p == partition && *id > stand.reached);
    let Some((_, id, sequence)) = new.min_by_key(|(_, id, _)| *id) else { return Ok(()) };
    let follows = sequence.is_some_and(|sequence| sequence <= stand.sequence.saturating_add(1));
    if !follows && consumer.has_between(partition, stand.reached, id).await? {
        return Err(Error::Passed(partition));
    }
    Ok(())
}

/// Makes an entry a dead letter: first the ledger's row, then one script that acknowledges it
/// and appends to the dead stream. An entry that the ledger has already settled is only
/// acknowledged.
pub(super) async fn give_up(
    link: &mut Link,
    fence: Fence,
    delivery: &Delivery,
    burial: Burial,
) -> Result<(), Error> {
    let Burial { code, attempts, .. } = burial;
    let reason = burial.entry.reason.clone();
    let burying = async {
        let mut batch = link.writer.open(&[fence], &[]).await?;
        if batch.has_settled(delivery).await? {
            // So that a standby that is waited for has it, too.
            batch.commit().await?;
            return Ok(None);
        }
        batch.settle(&[], &[burial]).await?;
        Ok::<_, ledger::Error>(Some(batch.commit().await?))
    };
    let deadline = link.batch_deadline;
    let buried = timeout(deadline, burying).await.map_err(|_| Error::Deadline(deadline))??;
    let Some(gaps) = buried else {
        info!(
            partition = fence.partition,
            stream_id = %delivery.stream_id,
            "the entry was already settled; acknowledged it"
        );
        return Ok(link.consumer.conclude(&[(fence, vec![delivery.stream_id])]).await?);
    };
    link.lose(&gaps).await?;
    error!(
        partition = fence.partition,
        stream_id = %delivery.stream_id,
        reference = delivery.payment.reference.as_str(),
        trace_id = delivery.trace_id().map(tracing::field::display),
        attempts,
        reason,
        "an entry used up its attempts and is a dead letter now"
    );
    link.consumer.bury(fence.partition, delivery.stream_id, code, &reason).await?;
    let (entry, trace) = ((fence.partition, delivery.stream_id), delivery.trace);
    link.watch.signals.buried(&Buried { entry, trace, code, reason: &reason });
    Ok(())
}

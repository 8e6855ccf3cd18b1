//! Settles one batch: decides about each delivery, posts the decisions in one
//! fenced transaction, and acknowledges. The only decider.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{error, warn};

use crate::{
    domain::{Decision, Delivery, StreamId},
    ledger::{self, Burial, Fence, LaneWriter},
    stream::{self, Claim, Consumer, Taken, TakenFrom, Unreadable},
};

/// How often a batch is decided again because another transaction was faster.
const RACES_MAX: usize = 5;
/// Class of entries that cannot be read.
const UNREADABLE: &str = "entry_unreadable";

/// A lane's connections.
pub(super) struct Link {
    pub(super) consumer: Consumer,
    pub(super) writer: LaneWriter,
    pub(super) batch_deadline: Duration,
}

/// Why a batch was not settled. What was taken stays pending.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error("the batch did not end within {0:?}")]
    Deadline(Duration),
    #[error("other transactions were faster {RACES_MAX} times")]
    Contended,
    #[error("this worker's lease has run out")]
    LeaseOver,
    #[error("the lane is not connected")]
    NotConnected,
}

impl Error {
    pub(super) fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Stream(stream::Error::Fenced(_))
                | Self::Ledger(ledger::Error::Fenced)
                | Self::LeaseOver
        )
    }

    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_outage(),
            Self::Ledger(error) => error.is_outage(),
            Self::Deadline(_) | Self::Contended => true,
            Self::LeaseOver | Self::NotConnected => false,
        }
    }

    /// The error below, for the log.
    pub(super) fn cause(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }
}

/// What was taken, sorted by what can be done with it.
#[derive(Default)]
struct Sorted {
    fences: Vec<Fence>,
    deliveries: Vec<Delivery>,
    unreadable: Vec<Unreadable>,
    settled: Vec<(Claim, Vec<StreamId>)>,
}

/// Settles what was taken. When this returns, all of it is in the ledger and
/// acknowledged.
pub(super) async fn settle(link: &mut Link, taken: Vec<(Claim, TakenFrom)>) -> Result<(), Error> {
    let Sorted { fences, deliveries, unreadable, settled } = sort(taken);
    let claims: Vec<Claim> = settled.iter().map(|(claim, _)| *claim).collect();
    let deadline = link.batch_deadline;
    let posting = async {
        for _ in 0..RACES_MAX {
            match post(link, &fences, &claims, &deliveries, &unreadable).await {
                Err(Error::Ledger(ledger::Error::Raced)) => {}
                result => return result,
            }
        }
        Err(Error::Contended)
    };
    timeout(deadline, posting).await.map_err(|_| Error::Deadline(deadline))??;
    for entry in &unreadable {
        warn!(
            partition = entry.partition,
            stream_id = %entry.stream_id,
            reference = entry.reference,
            reason = entry.reason,
            "an entry could not be read and is a dead letter now"
        );
        link.consumer.bury(entry, UNREADABLE).await?;
    }
    Ok(link.consumer.conclude(&settled).await?)
}

fn sort(taken: Vec<(Claim, TakenFrom)>) -> Sorted {
    let mut sorted = Sorted::default();
    for (claim, from) in taken.into_iter().filter(|(_, from)| !from.taken.is_empty()) {
        sorted.fences.push(Fence { partition: claim.partition, epoch: claim.epoch });
        let mut ids = Vec::with_capacity(from.taken.len());
        for taken in from.taken {
            match taken {
                Taken::Delivery(delivery) => {
                    ids.push(delivery.stream_id);
                    sorted.deliveries.push(delivery);
                }
                Taken::Unreadable(unreadable) => sorted.unreadable.push(unreadable),
                Taken::Deleted(partition, id) => {
                    // Claiming it has removed it from the pending list; this
                    // line and the audit's gap are its last traces.
                    error!(partition, stream_id = %id, "an entry was deleted from the stream before it was settled");
                    ids.push(id);
                }
            }
        }
        sorted.settled.push((claim, ids));
    }
    sorted
}

/// One transaction: fence, decide, write, commit.
async fn post(
    link: &mut Link,
    fences: &[Fence],
    claims: &[Claim],
    deliveries: &[Delivery],
    unreadable: &[Unreadable],
) -> Result<(), Error> {
    let mut batch = link.writer.open(fences, deliveries).await?;
    let decide = |delivery| Decision { delivery, outcome: batch.book.decide(delivery) };
    let decisions: Vec<Decision<'_>> = deliveries.iter().map(decide).collect();
    let burials: Vec<Burial> = unreadable.iter().map(burial).collect();
    let customers = deliveries.iter().map(|delivery| &delivery.payment.customer);
    tokio::try_join!(
        async { batch.post(&decisions, &burials).await.map_err(Error::from) },
        async { link.consumer.announce(claims, customers).await.map_err(Error::from) },
    )?;
    Ok(batch.commit().await?)
}

fn burial(entry: &Unreadable) -> Burial {
    Burial {
        partition: entry.partition,
        stream_id: entry.stream_id,
        sequence: entry.sequence,
        reference: entry.reference.clone(),
        code: UNREADABLE,
        reason: entry.reason.clone(),
        fields: entry.fields.clone(),
        attempts: 1,
    }
}

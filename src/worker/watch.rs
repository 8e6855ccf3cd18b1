//! Reports a lane's batches to the log and to telemetry. Decides nothing, and costs a batch
//! only a few readings of the clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::{debug, info};

use super::error::Error;
use crate::{
    domain::{Delivery, Fence, Outcome, StreamId},
    stream::Delivered,
    telemetry::{BatchFailure, Earlier, Signals, Steps, Timestamp, Tried},
};

/// Interval of the log line about settled entries.
const TELL_EVERY: Duration = Duration::from_secs(10);

pub(super) type Again = HashMap<(u16, StreamId), Earlier>;

#[derive(Clone)]
pub(super) struct Watch {
    pub(super) signals: Signals,
    worker: String,
    since: Instant,
    /// When entries were last asked for, and when they arrived.
    asked: Timestamp,
    taken: Timestamp,
    /// Time of the last log line, and entries settled since.
    untold: (Instant, usize),
}

/// How far a batch came.
pub(super) struct BatchProgress {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) steps: Steps,
}

impl Watch {
    pub(super) fn new(signals: Signals, worker: &str) -> Self {
        let (since, now) = (Instant::now(), Timestamp::now());
        Self {
            signals,
            worker: worker.to_owned(),
            since,
            asked: now,
            taken: now,
            untold: (since, 0),
        }
    }

    pub(super) fn asks(&mut self) {
        self.asked = Timestamp::now();
    }

    /// Entries arrived, some of them redelivered.
    pub(super) fn took(&mut self, entries: usize, again: usize) {
        self.taken = Timestamp::now();
        self.signals.taken(entries, again, self.asked.until(self.taken));
    }

    /// Logs what the lane has settled, every ten seconds: there are too many batches for a line
    /// each.
    pub(super) fn settled(&mut self, lane: u16, entries: usize) {
        if entries > 0 {
            debug!(lane, entries, "batch settled");
        }
        let (since, before) = self.untold;
        let settled = before + entries;
        if settled == 0 || since.elapsed() < TELL_EVERY {
            self.untold.1 = settled;
            return;
        }
        info!(lane, entries = settled, "settled");
        self.untold = (Instant::now(), 0);
    }

    /// The progress of a batch that was taken just now.
    pub(super) fn progress(&self) -> BatchProgress {
        let (committed, acknowledged) = (None, None);
        let steps = Steps { asked: self.asked, taken: self.taken, committed, acknowledged };
        BatchProgress { outcomes: Vec::new(), steps }
    }

    pub(super) fn earlier(&self, fence: Fence, delivered: &[Delivered]) -> Again {
        let here = self.since.elapsed();
        let earlier = delivered.iter().map(|before| {
            let Delivered { id, worker, ago, deliveries } = before;
            // This lane has reported its own attempts.
            let lost = *worker != self.worker || *ago > here;
            let deliveries = deliveries.saturating_add(1);
            let earlier = Earlier { worker: worker.clone(), ago: *ago, deliveries, lost };
            ((fence.partition, *id), earlier)
        });
        earlier.collect()
    }

    pub(super) fn tried(
        &self,
        deliveries: &[Delivery],
        earlier: &Again,
        progress: &BatchProgress,
        error: Option<&Error>,
    ) {
        // The new owner of the partition reports it.
        if error.is_some_and(Error::is_fenced) || deliveries.is_empty() {
            return;
        }
        let failure = error.map(|error| BatchFailure {
            class: error.class(),
            text: error.sentence(),
            of_an_entry: error.is_of_an_entry(),
        });
        let BatchProgress { outcomes, steps } = progress;
        let (steps, failure) = (*steps, failure.as_ref());
        self.signals.tried(&Tried { deliveries, outcomes, earlier, steps, failure });
    }
}

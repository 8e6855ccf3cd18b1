//! What a lane tells the signals about its batches. Decides nothing, and costs
//! a batch a look at the clock or two.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::{debug, info};

use super::error::Error;
use crate::{
    domain::{Delivery, Fence, Outcome, StreamId, TraceContext},
    stream::Delivered,
    telemetry::{BatchFailure, Buried, Earlier, Signals, Steps, Timestamp, Tried},
};

/// Between two lines about what a lane has settled.
const TELL_EVERY: Duration = Duration::from_secs(10);

pub(super) type Again = HashMap<(u16, StreamId), Earlier>;

#[derive(Clone)]
pub(super) struct Watch {
    pub(super) signals: Signals,
    worker: String,
    since: Instant,
    /// When entries were asked for last, and when they came.
    asked: Timestamp,
    taken: Timestamp,
    /// Entries settled since the last line about it.
    untold: (Instant, usize),
}

#[derive(Default)]
pub(super) struct BatchProgress {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) begun: Option<Timestamp>,
    pub(super) committed: Option<Timestamp>,
    pub(super) acknowledged: Option<Timestamp>,
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

    /// They came: so many, some of them again.
    pub(super) fn took(&mut self, entries: usize, again: usize) {
        self.taken = Timestamp::now();
        self.signals.taken(entries, again, self.asked.until(self.taken));
    }

    /// The lane has settled so many more. A line about each batch would be
    /// thousands a second; one now and then says as much.
    pub(super) fn settled(&mut self, lane: u16, entries: usize) {
        if entries > 0 {
            debug!(lane, entries, "a batch is settled");
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

    pub(super) fn earlier(&self, fence: Fence, delivered: &[Delivered]) -> Again {
        let here = self.since.elapsed();
        let earlier = delivered.iter().map(|before| {
            let Delivered { id, worker, ago, deliveries } = before;
            // Whatever this lane tried since it works, it has told itself.
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
        // Whoever took the partition over tells of it.
        if error.is_some_and(Error::is_fenced) || deliveries.is_empty() {
            return;
        }
        let failure = error.map(|error| BatchFailure {
            class: error.class(),
            text: error.sentence(),
            of_an_entry: error.is_of_an_entry(),
        });
        let BatchProgress { outcomes, begun, committed, acknowledged } = progress;
        let steps = Steps {
            asked: self.asked,
            taken: self.taken,
            committed: begun.zip(*committed),
            acknowledged: *acknowledged,
        };
        let failure = failure.as_ref();
        self.signals.tried(&Tried { deliveries, outcomes, earlier, steps, failure });
    }

    pub(super) fn buried(
        &self,
        entry: (u16, StreamId),
        trace: Option<TraceContext>,
        code: &'static str,
        reason: &str,
    ) {
        self.signals.buried(&Buried { entry, trace, code, reason });
    }
}

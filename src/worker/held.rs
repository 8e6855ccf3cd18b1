//! A lane's state of one partition. Never does anything by itself.

use tokio::time::Instant;

use crate::{
    domain::{Fence, StreamId},
    ledger::{Attempt, Grant},
    stream::History,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its owner is not in Redis yet; its entries may not be touched.
    Arriving,
    /// Claims pending entries behind this id, before any new one.
    Reclaiming(Option<StreamId>),
    /// Takes new entries. `full`: the last take returned as many as it asked for.
    Taking { last_id: StreamId, full: bool },
}

pub(super) struct Held {
    pub(super) fence: Fence,
    pub(super) phase: Phase,
    /// The former owner, whose connections are closed on arrival.
    pub(super) previous: Option<String>,
    /// The highest sequence known to have been given out; a lower counter has gone back.
    pub(super) sequence: i64,
    /// The part of that which is noted in the ledger.
    pub(super) noted: i64,
    /// Up to this sequence no entry waits, by the last inspection; none while entries wait.
    pub(super) quiet: Option<i64>,
    /// Up to this sequence all is settled or recorded as lost.
    pub(super) accounted: i64,
    /// The partition's history in Redis, as recorded in the ledger.
    pub(super) history: History,
    /// Entries that failed before, or may have ended a worker: settled one by one.
    pub(super) suspects: Option<Attempt>,
    /// The end of the pause after its first entry failed.
    pub(super) retry_at: Option<Instant>,
}

impl Held {
    pub(super) fn new(grant: Grant) -> Self {
        let Grant { fence, sequence, previous, .. } = grant;
        Self {
            fence,
            phase: Phase::Arriving,
            previous,
            sequence,
            noted: sequence,
            quiet: None,
            accounted: 0,
            history: History::default(),
            suspects: None,
            retry_at: None,
        }
    }

    /// Forgets what is recorded in the ledger, which may have gone back.
    pub(super) fn tell_again(&mut self) {
        (self.noted, self.history) = (0, History::default());
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }
}

//! A partition in the hands of a lane: how far the lane has come with it, and
//! what is known against its entries. Does nothing by itself.

use tokio::time::Instant;

use crate::{
    domain::{Fence, StreamId},
    ledger::{Attempt, Grant},
    stream::History,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Tells Redis whose it is now; nothing of it may be touched before.
    Arriving,
    /// Claims what is pending, after this id; nothing new until that is done.
    Reclaiming(Option<StreamId>),
    /// Takes what is new. `full`: the last take was cut off by its bound.
    Taking { last_id: StreamId, full: bool },
}

pub(super) struct Held {
    pub(super) fence: Fence,
    pub(super) phase: Phase,
    /// Whose connections are to be cut off, on arrival.
    pub(super) previous: Option<String>,
    /// The highest sequence that is known to have been given out: a stream that
    /// has counted less has gone back.
    pub(super) sequence: i64,
    /// As much of that as the ledger knows.
    pub(super) noted: i64,
    /// Up to here nothing is left to wait for, by the last look; nothing while
    /// entries wait.
    pub(super) quiet: Option<i64>,
    /// Up to here everything is settled or on record as lost.
    pub(super) accounted: i64,
    /// What Redis notes of the partition's past, as the ledger was told it.
    pub(super) history: History,
    /// What failed before, or may have ended a worker: tried one by one.
    pub(super) suspects: Option<Attempt>,
    /// Not to be touched before this: its first entry has just failed.
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

    /// Nothing counts as told to the ledger.
    pub(super) fn tell_again(&mut self) {
        (self.noted, self.history) = (0, History::default());
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| now < at)
    }
}

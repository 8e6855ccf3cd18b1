//! A lane's reaction to a failed step: it starts over from the pending entries, pauses one
//! partition, or waits for a store. Never settles an entry.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::{Lane, LaneEvent, PAUSE_MAX, Step, WAIT};
use crate::{
    stream,
    worker::{error::Error, held::Phase},
};

impl Lane {
    /// Pauses a partition that waits for a database lock, so that others are served.
    pub(super) fn rest(&mut self, partition: u16, waited: Duration, error: &Error) {
        self.watch.signals.retried(error.class());
        warn!(partition, cause = error.cause(), "a partition waits for a lock");
        self.waits(error.to_string());
        let now = Instant::now();
        // However many wait in turn, between two rounds the others have their time.
        let resting = self.held.values().filter(|held| held.rests(now)).count();
        let round = waited.saturating_mul(u32::try_from(resting + 1).unwrap_or(u32::MAX));
        if let Some(held) = self.held.get_mut(&partition) {
            held.retry_at = Some(now + round + PAUSE_MAX);
        }
    }

    /// Starts over: new connections, and everything pending first. A fenced
    /// lane drops its partitions and lets the ownership loop acquire again.
    pub(super) fn recover(&mut self, error: Error) {
        let signals = &self.watch.signals;
        if error.is_fenced() {
            signals.fenced();
        } else if !error.is_of_an_entry() {
            // An entry's own failure was counted with its attempt.
            signals.retried(error.class());
        }
        if error.is_of_an_entry() {
            let error = error.sentence();
            warn!(
                lane = self.number,
                error, "a batch failed; settling its entries in smaller parts to find the cause"
            );
            self.reclaim_all();
            return;
        }
        if error.is_locked() {
            let cause = error.cause();
            warn!(
                lane = self.number,
                cause, "a batch waited for a lock; settling each partition separately"
            );
            self.reclaim_all();
            return;
        }
        if matches!(error, Error::Stream(stream::Error::StateLost(_)) | Error::Passed(_)) {
            warn!(lane = self.number, %error, "state may be lost; comparing Redis with the ledger");
            self.looked_at = None;
            self.reclaim_all();
            return;
        }
        if matches!(error, Error::Deadline(_)) {
            self.batch.was_late();
        }
        self.link = None;
        if error.is_fenced() {
            warn!(lane = self.number, %error, "fenced; dropping the lane's partitions");
            self.held.clear();
            self.tell(LaneEvent::Lost(self.number));
            return;
        }
        self.reclaim_all();
        if error.is_outage() {
            warn!(lane = self.number, cause = error.cause(), "{error}; waiting");
            self.waits(error.to_string());
        } else if error.is_forbidden() {
            error!(lane = self.number, cause = error.cause(), "{error}; waiting");
            self.waits(error.to_string());
            let again = Some(Instant::now() + PAUSE_MAX);
            self.held.values_mut().for_each(|held| held.retry_at = again);
        } else {
            error!(lane = self.number, cause = error.cause(), "could not settle a batch: {error}");
        }
    }

    /// Everything pending first, on every partition that has arrived.
    fn reclaim_all(&mut self) {
        for held in self.held.values_mut().filter(|held| held.phase != Phase::Arriving) {
            held.phase = Phase::Reclaiming(None);
        }
    }

    /// Waits up to 250 ms while a store's circuit breaker is open; returns whether one is.
    pub(super) async fn circuit_is_open(&self) -> bool {
        for circuit in [&self.worker.redis, &self.worker.postgresql] {
            if let Err(open) = circuit.check(Instant::now()) {
                self.waits(open.to_string());
                let _closed_or_not = tokio::time::timeout(WAIT, circuit.closed()).await;
                return true;
            }
        }
        false
    }

    pub(super) fn note_outage(&self, step: &Result<Step, Error>) {
        match step {
            Err(Error::Stream(error)) if error.is_outage() => {
                self.worker.redis.failed(Instant::now())
            }
            Err(error) if error.is_locked() => {}
            Err(Error::Ledger(error)) if error.is_outage() => {
                self.worker.postgresql.failed(Instant::now());
            }
            Ok(Step::Settled(_) | Step::Idle) => {
                self.worker.redis.succeeded();
                self.worker.postgresql.succeeded();
            }
            Ok(Step::Stuck) | Err(_) => {}
        }
    }
}

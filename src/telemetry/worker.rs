//! What the worker says: of each batch that it settled or could not, and of
//! what happens to its partitions. Counts; what becomes a span is in
//! `attempts`.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use opentelemetry::KeyValue;
use rust_decimal::{Decimal, prelude::ToPrimitive};

use super::{
    Signals,
    spans::Timestamp,
    words::{self, ACK, LEDGER, PROCESS, RECEIVE},
};
use crate::domain::{Delivery, Outcome, StreamId, TraceContext};

/// When an entry was delivered before this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    pub worker: String,
    pub ago: Duration,
    /// How often, this time included.
    pub deliveries: u32,
    /// Whoever had it did not come back to it, and so could not say.
    pub lost: bool,
}

/// When the steps of a batch ended; nothing where it did not come so far.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Its entries were asked for,
    pub asked: Timestamp,
    /// came,
    pub taken: Timestamp,
    /// were committed in the transaction that began at the first of these,
    pub committed: Option<(Timestamp, Timestamp)>,
    /// and acknowledged.
    pub acknowledged: Option<Timestamp>,
}

/// Why a batch was not settled.
#[derive(Clone, Debug)]
pub struct BatchFailure {
    /// Its class, stable: `postgresql_outage`, `entry`, and so on.
    pub class: &'static str,
    pub text: String,
    /// It is the doing of an entry.
    pub of_an_entry: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// What was taken, in stream order.
    pub deliveries: &'a [Delivery],
    /// What was decided of each; empty when it did not come so far.
    pub outcomes: &'a [Outcome],
    /// Those that were delivered before.
    pub earlier: &'a HashMap<(u16, StreamId), Earlier>,
    /// How far it came, and when.
    pub steps: Steps,
    pub failure: Option<&'a BatchFailure>,
}

#[derive(Clone, Copy, Debug)]
pub struct Buried<'a> {
    pub entry: (u16, StreamId),
    /// Its trace, as far as it is known.
    pub trace: Option<TraceContext>,
    /// Why: a stable class,
    pub code: &'static str,
    /// and a sentence.
    pub reason: &'a str,
}

impl Signals {
    /// A batch was settled, or was not.
    pub fn tried(&self, tried: &Tried<'_>) {
        let ended = Timestamp::now();
        self.count(tried, ended);
        if self.0.spans.is_on() {
            self.trace(tried, ended);
        }
    }

    fn count(&self, tried: &Tried<'_>, ended: Timestamp) {
        let meters = &self.0.meters;
        let Steps { taken, committed, acknowledged, .. } = tried.steps;
        let failed = tried.failure.map(|failure| KeyValue::new(words::ERROR, failure.class));
        let group = KeyValue::new(words::GROUP, LEDGER);
        let of = |operation| words::messaging(operation).into_iter();
        let process: Vec<_> = of(PROCESS).chain([group]).chain(failed.clone()).collect();
        meters.process_duration.record(taken.until(ended).as_secs_f64(), &process);
        if tried.failure.is_some_and(|failure| failure.of_an_entry) {
            self.retried("entry");
        }
        let Some((begun, committed)) = committed else { return };
        let ledger = words::ledger("INSERT");
        meters.ledger_duration.record(begun.until(committed).as_secs_f64(), &ledger);
        if let Some(acknowledged) = acknowledged {
            let ack: Vec<_> = of(ACK).collect();
            meters.stream_duration.record(committed.until(acknowledged).as_secs_f64(), &ack);
        }
        meters.batch_size.record(length(tried.deliveries.len()), &[]);
        self.count_outcomes(tried, taken, committed);
    }

    fn count_outcomes(&self, tried: &Tried<'_>, taken: Timestamp, committed: Timestamp) {
        let meters = &self.0.meters;
        let mut counts: Vec<(&'static str, u64)> = Vec::new();
        let mut money = Decimal::ZERO;
        for (delivery, outcome) in tried.deliveries.iter().zip(tried.outcomes) {
            let name = outcome.as_str();
            match counts.iter_mut().find(|(counted, _)| *counted == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
            if let Outcome::Applied { applied, excess, .. } = outcome {
                money += applied + excess;
            }
            if *outcome != Outcome::Redelivered {
                meters.queue_wait.record(since(delivery.received_at, taken.wall), &[]);
                meters.end_to_end.record(since(delivery.received_at, committed.wall), &[]);
            }
        }
        for (name, count) in counts {
            self.processed(name, count);
        }
        let hundredths = (money * Decimal::ONE_HUNDRED).to_u64().unwrap_or_default();
        meters.amount.add(hundredths, &[]);
    }

    /// Entries were taken, some of them again, and it took so long.
    pub fn taken(&self, entries: usize, again: usize, took: Duration) {
        let meters = &self.0.meters;
        let mut attributes = words::messaging(RECEIVE).to_vec();
        meters.stream_duration.record(took.as_secs_f64(), &attributes);
        attributes.push(KeyValue::new(words::GROUP, LEDGER));
        meters.consumed.add(length(entries), &attributes);
        meters.redeliveries.add(length(again), &[]);
    }

    /// So many payments ended so.
    pub fn processed(&self, outcome: &'static str, payments: u64) {
        self.0.meters.processed.add(payments, &[KeyValue::new(words::OUTCOME, outcome)]);
    }

    /// Something is done again, for this reason.
    pub fn retried(&self, reason: &'static str) {
        self.0.meters.retries.add(1, &[KeyValue::new(words::REASON, reason)]);
    }

    /// The worker was refused: it does not own a partition any more.
    pub fn fenced(&self) {
        self.0.meters.fenced.add(1, &[]);
    }

    /// So many partitions were `acquired`, `released` or `lost`.
    pub fn moved(&self, how: &'static str, partitions: usize) {
        self.0.meters.moves.add(length(partitions), &[KeyValue::new(words::MOVE, how)]);
    }
}

/// Seconds from a payment's receipt; none when a clock went back.
pub(super) fn since(received_at: DateTime<Utc>, at: SystemTime) -> f64 {
    let took = at.duration_since(received_at.into()).unwrap_or_default();
    took.as_secs_f64()
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

//! Metrics of the worker: batches, their outcomes, and moves of partitions. Spans are in
//! `attempts`. Never decides anything.

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

/// An earlier delivery of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    pub worker: String,
    pub ago: Duration,
    /// Deliveries, this one included.
    pub deliveries: u32,
    /// The worker that had it ended before it could report.
    pub lost: bool,
}

/// When the steps of a batch ended; none for a step that was not reached.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// The entries were asked for.
    pub asked: Timestamp,
    /// The entries arrived.
    pub taken: Timestamp,
    /// Begin and commit of the transaction.
    pub committed: Option<(Timestamp, Timestamp)>,
    pub acknowledged: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct BatchFailure {
    /// Stable: `postgresql_outage`, `entry`, and so on.
    pub class: &'static str,
    pub text: String,
    /// Caused by an entry, not by the stores.
    pub of_an_entry: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// In stream order.
    pub deliveries: &'a [Delivery],
    /// One for each delivery; empty when none was decided.
    pub outcomes: &'a [Outcome],
    /// Earlier deliveries of redelivered entries.
    pub earlier: &'a HashMap<(u16, StreamId), Earlier>,
    pub steps: Steps,
    pub failure: Option<&'a BatchFailure>,
}

#[derive(Clone, Copy, Debug)]
pub struct Buried<'a> {
    pub entry: (u16, StreamId),
    /// The trace, if the entry could be read that far.
    pub trace: Option<TraceContext>,
    pub code: &'static str,
    /// A sentence.
    pub reason: &'a str,
}

impl Signals {
    /// Reports a batch that was settled, or failed.
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

    /// Reports entries that were taken; `again`: how many of them were redelivered.
    pub fn taken(&self, entries: usize, again: usize, took: Duration) {
        let meters = &self.0.meters;
        let mut attributes = words::messaging(RECEIVE).to_vec();
        meters.stream_duration.record(took.as_secs_f64(), &attributes);
        attributes.push(KeyValue::new(words::GROUP, LEDGER));
        meters.consumed.add(length(entries), &attributes);
        meters.redeliveries.add(length(again), &[]);
    }

    pub fn processed(&self, outcome: &'static str, payments: u64) {
        self.0.meters.processed.add(payments, &[KeyValue::new(words::OUTCOME, outcome)]);
    }

    pub fn retried(&self, reason: &'static str) {
        self.0.meters.retries.add(1, &[KeyValue::new(words::REASON, reason)]);
    }

    /// The worker was refused because it no longer owns a partition.
    pub fn fenced(&self) {
        self.0.meters.fenced.add(1, &[]);
    }

    /// `how`: `acquired`, `released` or `lost`.
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

//! What the worker says: of each batch that it settled or could not, and of
//! what happens to its partitions.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc};
use opentelemetry::{KeyValue, trace::SpanKind};
use rust_decimal::{Decimal, prelude::ToPrimitive};

use super::{
    Signals,
    spans::{Moment, SAMPLE_RATIO, Span},
    words::{self, ACK, DESTINATION, LEDGER, PROCESS, RECEIVE},
};
use crate::domain::{Delivery, Outcome, StreamId, TraceContext};

/// Links of one span.
const LINKS_MAX: usize = 128;
/// The table that a batch is for.
const TABLE: &str = "processed_transactions";

/// When an entry was delivered before this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// To whom.
    pub worker: String,
    /// How long ago.
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
    pub asked: Moment,
    /// came,
    pub taken: Moment,
    /// were committed in the transaction that began at the first of these,
    pub committed: Option<(Moment, Moment)>,
    /// and acknowledged.
    pub acknowledged: Option<Moment>,
}

/// Why a batch was not settled.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its class, stable: `postgresql_outage`, `entry`, and so on.
    pub class: &'static str,
    /// As a sentence.
    pub text: String,
    /// It is the doing of an entry.
    pub of_an_entry: bool,
}

/// A batch that was tried.
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
    /// Why no further.
    pub failure: Option<&'a Failure>,
}

impl Signals {
    /// A batch was settled, or was not.
    pub fn tried(&self, tried: &Tried<'_>) {
        let ended = Moment::now();
        self.count(tried, ended);
        if self.0.spans.is_on() {
            self.trace(tried, ended);
        }
    }

    fn count(&self, tried: &Tried<'_>, ended: Moment) {
        let meters = &self.0.meters;
        let Steps { asked, taken, committed, acknowledged } = tried.steps;
        let failed = tried.failure.map(|failure| KeyValue::new(words::ERROR, failure.class));
        let group = KeyValue::new(words::GROUP, LEDGER);
        let of = |operation| words::messaging(operation).into_iter();
        let received: Vec<_> = of(RECEIVE).chain([group.clone()]).collect();
        meters.consumed.add(length(tried.deliveries.len()), &received);
        meters.redeliveries.add(length(tried.earlier.len()), &[]);
        let receive: Vec<_> = of(RECEIVE).collect();
        meters.stream_duration.record(asked.until(taken).as_secs_f64(), &receive);
        let process: Vec<_> = of(PROCESS).chain([group]).chain(failed.clone()).collect();
        meters.process_duration.record(taken.until(ended).as_secs_f64(), &process);
        if let Some(failure) = tried.failure {
            self.retried(failure.class);
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

    fn count_outcomes(&self, tried: &Tried<'_>, taken: Moment, committed: Moment) {
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

    fn trace(&self, tried: &Tried<'_>, ended: Moment) {
        let recorded: Vec<&Delivery> =
            tried.deliveries.iter().filter(|delivery| is_recorded(delivery)).collect();
        let links: Vec<TraceContext> =
            recorded.iter().filter_map(|delivery| delivery.trace).take(LINKS_MAX).collect();
        let receive = links.first().map(|first| self.write_receive(tried, *first, &links));
        let mut first = None;
        for (index, delivery) in tried.deliveries.iter().enumerate() {
            let outcome = tried.outcomes.get(index);
            let stands_out = self.stands_out(tried, delivery);
            let context = match delivery.trace.filter(|_| is_recorded(delivery)) {
                Some(context) => context,
                None if stands_out && self.0.spans.allows_late(ended) => self.late(delivery),
                None => continue,
            };
            let span = self.write_process(tried, (delivery, outcome), context, receive, ended);
            if first.is_none() && is_recorded(delivery) {
                first = Some(span);
            }
        }
        if let Some(first) = first {
            self.write_posting(tried, &first, &links);
        }
    }

    /// What is written though it was not to be: a failure that is its own
    /// doing, and what took too long.
    fn stands_out(&self, tried: &Tried<'_>, delivery: &Delivery) -> bool {
        match (tried.failure, tried.steps.committed) {
            (Some(failure), _) => failure.of_an_entry && tried.deliveries.len() == 1,
            (None, Some((_, committed))) => {
                let took = since(delivery.received_at, committed.wall);
                took >= self.0.spans.slow.as_secs_f64()
            }
            (None, None) => false,
        }
    }

    /// The trace of a payment that was to have none; the same for each attempt.
    fn late(&self, delivery: &Delivery) -> TraceContext {
        let earlier = self.0.spans.attempts(entry(delivery)).0.first().copied();
        let known = earlier.or(delivery.trace);
        let unparented = |trace| TraceContext { span_id: None, ..trace };
        known.map_or_else(|| unparented(self.0.spans.new_trace()), unparented)
    }

    fn write_receive(
        &self,
        tried: &Tried<'_>,
        parent: TraceContext,
        links: &[TraceContext],
    ) -> TraceContext {
        let context = self.0.spans.below(&parent);
        let mut attributes = words::messaging(RECEIVE).to_vec();
        attributes.extend([
            KeyValue::new(words::OPERATION_TYPE, RECEIVE),
            KeyValue::new(words::GROUP, LEDGER),
            KeyValue::new(words::BATCH_COUNT, number(tried.deliveries.len())),
        ]);
        self.0.spans.write(Span {
            context,
            parent: parent.span_id,
            kind: SpanKind::Client,
            name: format!("{RECEIVE} {DESTINATION}").into(),
            start: tried.steps.asked.wall,
            end: tried.steps.taken.wall,
            attributes,
            links: links.to_vec(),
            events: Vec::new(),
            error: None,
        });
        context
    }

    fn write_process(
        &self,
        tried: &Tried<'_>,
        (delivery, outcome): (&Delivery, Option<&Outcome>),
        parent: TraceContext,
        receive: Option<TraceContext>,
        ended: Moment,
    ) -> TraceContext {
        let spans = &self.0.spans;
        let context = spans.below(&parent);
        let earlier = tried.earlier.get(&entry(delivery));
        let attempt = earlier.map_or(1, |earlier| earlier.deliveries);
        let mut links: Vec<TraceContext> = receive.into_iter().collect();
        links.extend(spans.attempts(entry(delivery)).0.last());
        if let Some(earlier) = earlier.filter(|earlier| earlier.lost) {
            links.push(self.write_lost(tried, delivery, parent, earlier));
        }
        let mut attributes = process_attributes(delivery, attempt);
        let failure = tried.failure;
        attributes.extend(failure.map(|failure| KeyValue::new(words::ERROR, failure.class)));
        // What was not committed was decided for nothing.
        let outcome = outcome.filter(|_| failure.is_none());
        attributes.extend(outcome.map(|outcome| KeyValue::new(words::OUTCOME, outcome.as_str())));
        if self.stands_out(tried, delivery) {
            attributes.push(KeyValue::new(SAMPLE_RATIO, 1.0));
        }
        let Steps { committed, acknowledged, .. } = tried.steps;
        let committed = committed.map(|(_, at)| ("committed", at.wall));
        let acknowledged = acknowledged.map(|at| ("acknowledged", at.wall));
        spans.write(Span {
            context,
            parent: parent.span_id,
            kind: SpanKind::Consumer,
            name: format!("{PROCESS} {DESTINATION}").into(),
            start: tried.steps.taken.wall,
            end: ended.wall,
            attributes,
            links,
            events: committed.into_iter().chain(acknowledged).collect(),
            error: failure.map(|failure| failure.text.clone()),
        });
        match failure {
            Some(_) => spans.remember(entry(delivery), context),
            None if earlier.is_some() => spans.forget(entry(delivery)),
            None => {}
        }
        context
    }

    /// The attempt of somebody who did not come back to tell of it.
    fn write_lost(
        &self,
        tried: &Tried<'_>,
        delivery: &Delivery,
        parent: TraceContext,
        earlier: &Earlier,
    ) -> TraceContext {
        let context = self.0.spans.below(&parent);
        let attempt = earlier.deliveries.saturating_sub(1).max(1);
        let mut attributes = process_attributes(delivery, attempt);
        attributes.push(KeyValue::new(words::ERROR, "worker_lost"));
        attributes.push(KeyValue::new(words::WORKER, earlier.worker.clone()));
        let taken = tried.steps.taken;
        self.0.spans.write(Span {
            context,
            parent: parent.span_id,
            kind: SpanKind::Consumer,
            name: format!("{PROCESS} {DESTINATION}").into(),
            start: taken.before(earlier.ago),
            end: taken.wall,
            attributes,
            links: Vec::new(),
            events: Vec::new(),
            error: Some(format!("{} took it and did not come back to it", earlier.worker)),
        });
        context
    }

    /// The transaction and the acknowledgement, once for the whole batch.
    fn write_posting(&self, tried: &Tried<'_>, parent: &TraceContext, links: &[TraceContext]) {
        let Some((begun, committed)) = tried.steps.committed else { return };
        let others: Vec<TraceContext> = links.iter().skip(1).copied().collect();
        let below = |name: String, from: Moment, to: Moment, attributes| Span {
            context: self.0.spans.below(parent),
            parent: parent.span_id,
            kind: SpanKind::Client,
            name: name.into(),
            start: from.wall,
            end: to.wall,
            attributes,
            links: others.clone(),
            events: Vec::new(),
            error: None,
        };
        let mut attributes = words::ledger("INSERT").to_vec();
        attributes.push(KeyValue::new(words::DB_TABLE, TABLE));
        attributes.push(KeyValue::new(words::DB_BATCH, number(tried.deliveries.len())));
        self.0.spans.write(below(format!("INSERT {TABLE}"), begun, committed, attributes));
        let Some(acknowledged) = tried.steps.acknowledged else { return };
        let mut attributes = words::messaging(ACK).to_vec();
        attributes.push(KeyValue::new(words::OPERATION_TYPE, "settle"));
        attributes.push(KeyValue::new(words::GROUP, LEDGER));
        let name = format!("{ACK} {DESTINATION}");
        self.0.spans.write(below(name, committed, acknowledged, attributes));
    }
}

fn process_attributes(delivery: &Delivery, attempt: u32) -> Vec<KeyValue> {
    let mut attributes = words::messaging(PROCESS).to_vec();
    attributes.extend([
        KeyValue::new(words::OPERATION_TYPE, PROCESS),
        KeyValue::new(words::GROUP, LEDGER),
        KeyValue::new(words::PARTITION_ID, delivery.partition.to_string()),
        KeyValue::new(words::MESSAGE_ID, delivery.stream_id.to_string()),
        KeyValue::new(words::ATTEMPT, i64::from(attempt)),
        KeyValue::new(words::REFERENCE, delivery.payment.reference.as_str().to_owned()),
    ]);
    attributes
}

fn entry(delivery: &Delivery) -> (u16, StreamId) {
    (delivery.partition, delivery.stream_id)
}

/// Whether its sender has said that it is.
fn is_recorded(delivery: &Delivery) -> bool {
    delivery.trace.is_some_and(|trace| trace.sampled && trace.span_id.is_some())
}

/// Seconds from a payment's receipt; none when a clock went back.
fn since(received_at: DateTime<Utc>, at: SystemTime) -> f64 {
    let took = at.duration_since(received_at.into()).unwrap_or_default();
    took.as_secs_f64()
}

fn length(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

//! The spans of a batch: receiving, each attempt at a payment, the transaction and the
//! acknowledgement. One attempt span for each payment whose trace is recorded, and for each
//! failed or slow one; spans of the whole batch once, in the first payment's trace, with links
//! to the others. Never decides anything about a payment.

use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    Signals,
    logs::current_request,
    spans::{SAMPLE_RATIO, Span, Timestamp},
    words::{self, ACK, BURY, LEDGER, PROCESS, RECEIVE},
    worker::{Buried, Earlier, Steps, Tried, since},
};
use crate::domain::{Delivery, Outcome, StreamId, TraceContext};

const LINKS_MAX: usize = 128;
const TABLE: &str = "processed_transactions";

impl Signals {
    /// An entry became a dead letter.
    pub fn buried(&self, buried: &Buried<'_>) {
        self.processed("dead_lettered", 1);
        let (spans, at) = (&self.0.spans, Timestamp::now());
        let Some(parent) = self.parent(buried.entry, buried.trace, true, at) else { return };
        let attempts = spans.attempts(buried.entry);
        spans.forget(buried.entry);
        let (partition, stream_id) = buried.entry;
        let attributes = [
            KeyValue::new(words::OPERATION_TYPE, "settle"),
            KeyValue::new(words::PARTITION_ID, partition.to_string()),
            KeyValue::new(words::MESSAGE_ID, stream_id.to_string()),
            KeyValue::new(words::OUTCOME, "dead_lettered"),
            KeyValue::new(words::ERROR, buried.code),
            KeyValue::new(SAMPLE_RATIO, 1.0),
        ];
        let (place, took) = (spans.place(&parent), (at.wall, Timestamp::now().wall));
        spans.write(Span {
            links: attempts,
            error: Some(buried.reason.to_owned()),
            ..Span::step(BURY, SpanKind::Client, place, took, attributes)
        });
    }

    /// A dead letter was redriven and is settled.
    pub fn redriven(&self, delivery: &Delivery, outcome: &str, started: Timestamp) {
        let (spans, ended) = (&self.0.spans, Timestamp::now());
        let parent = self.parent(entry(delivery), delivery.trace, true, ended);
        let Some(parent) = parent else { return };
        let mut links = spans.attempts(entry(delivery));
        links.extend(current_request().and_then(|request| request.recorded()));
        let mut attributes = process_attributes(self, delivery);
        attributes.push(KeyValue::new(words::OUTCOME, outcome.to_owned()));
        attributes.push(KeyValue::new(SAMPLE_RATIO, 1.0));
        let (place, took) = (spans.place(&parent), (started.wall, ended.wall));
        spans.write(Span {
            links,
            events: vec![("redriven", ended.wall)],
            ..Span::step(PROCESS, SpanKind::Consumer, place, took, attributes)
        });
    }

    pub(super) fn trace(&self, tried: &Tried<'_>, ended: Timestamp) {
        let traces = tried.deliveries.iter().filter_map(|delivery| delivery.trace);
        let recorded = traces.filter(TraceContext::is_recorded);
        let links: Vec<TraceContext> = recorded.take(LINKS_MAX).collect();
        let receive = links.first().map(|first| self.write_receive(tried, *first, &links));
        let mut first = None;
        for (index, delivery) in tried.deliveries.iter().enumerate() {
            let outcome = tried.outcomes.get(index);
            let stands_out = self.stands_out(tried, delivery);
            let parent = self.parent(entry(delivery), delivery.trace, stands_out, ended);
            let Some(parent) = parent else { continue };
            let span = self.write_process(tried, (delivery, outcome), parent, receive, ended);
            if first.is_none() && is_recorded(delivery) {
                first = Some(span);
            }
        }
        if let Some(first) = first {
            self.write_posting(tried, &first, &links);
        }
    }

    /// Whether the attempt is traced whatever the sampling: it failed by its own fault, or was
    /// slow.
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

    /// The parent of an entry's span, if one is written. An unsampled attempt that stands out
    /// gets a trace, the same one for all attempts at its entry.
    fn parent(
        &self,
        entry: (u16, StreamId),
        trace: Option<TraceContext>,
        stands_out: bool,
        at: Timestamp,
    ) -> Option<TraceContext> {
        let spans = &self.0.spans;
        if trace.is_some_and(|trace| trace.is_recorded()) {
            return trace;
        }
        let is_written = stands_out && spans.allows_late(at);
        let known = || spans.attempts(entry).first().copied().or(trace);
        is_written.then(|| known().unwrap_or_else(|| spans.new_trace()).unparented())
    }

    fn write_receive(
        &self,
        tried: &Tried<'_>,
        parent: TraceContext,
        links: &[TraceContext],
    ) -> TraceContext {
        let place = self.0.spans.place(&parent);
        let attributes = [
            KeyValue::new(words::OPERATION_TYPE, RECEIVE),
            KeyValue::new(words::GROUP, LEDGER),
            KeyValue::new(words::BATCH_COUNT, number(tried.deliveries.len())),
        ];
        let took = (tried.steps.asked.wall, tried.steps.taken.wall);
        self.0.spans.write(Span {
            links: links.to_vec(),
            ..Span::step(RECEIVE, SpanKind::Client, place, took, attributes)
        });
        place.0
    }

    fn write_process(
        &self,
        tried: &Tried<'_>,
        (delivery, outcome): (&Delivery, Option<&Outcome>),
        parent: TraceContext,
        receive: Option<TraceContext>,
        ended: Timestamp,
    ) -> TraceContext {
        let spans = &self.0.spans;
        let place = spans.place(&parent);
        let earlier = tried.earlier.get(&entry(delivery));
        let attempt = earlier.map_or(1, |earlier| earlier.deliveries);
        let mut links: Vec<TraceContext> = receive.into_iter().collect();
        links.extend(spans.attempts(entry(delivery)).last());
        if let Some(earlier) = earlier.filter(|earlier| earlier.lost) {
            links.push(self.write_lost(tried, delivery, parent, earlier));
        }
        let mut attributes = process_attributes(self, delivery);
        attributes.push(KeyValue::new(words::ATTEMPT, i64::from(attempt)));
        let failure = tried.failure;
        attributes.extend(failure.map(|failure| KeyValue::new(words::ERROR, failure.class)));
        // Without a commit, no outcome counts.
        let outcome = outcome.filter(|_| failure.is_none());
        attributes.extend(outcome.map(|outcome| KeyValue::new(words::OUTCOME, outcome.as_str())));
        if self.stands_out(tried, delivery) {
            attributes.push(KeyValue::new(SAMPLE_RATIO, 1.0));
        }
        let Steps { committed, acknowledged, .. } = tried.steps;
        let committed = committed.map(|(_, at)| ("committed", at.wall));
        let acknowledged = acknowledged.map(|at| ("acknowledged", at.wall));
        let start = match parent.span_id {
            Some(_) => tried.steps.taken.wall,
            // No other span shows how long it waited.
            None => delivery.received_at.into(),
        };
        spans.write(Span {
            links,
            events: committed.into_iter().chain(acknowledged).collect(),
            error: failure.map(|failure| failure.text.clone()),
            ..Span::step(PROCESS, SpanKind::Consumer, place, (start, ended.wall), attributes)
        });
        match failure {
            Some(_) => spans.remember(entry(delivery), place.0),
            None if earlier.is_some() => spans.forget(entry(delivery)),
            None => {}
        }
        place.0
    }

    /// The attempt of a worker that ended before it could report it.
    fn write_lost(
        &self,
        tried: &Tried<'_>,
        delivery: &Delivery,
        parent: TraceContext,
        earlier: &Earlier,
    ) -> TraceContext {
        let place = self.0.spans.place(&parent);
        let attempt = earlier.deliveries.saturating_sub(1).max(1);
        let mut attributes = process_attributes(self, delivery);
        attributes.push(KeyValue::new(words::ATTEMPT, i64::from(attempt)));
        attributes.push(KeyValue::new(words::ERROR, "worker_lost"));
        attributes.push(KeyValue::new(words::WORKER, earlier.worker.clone()));
        let taken = tried.steps.taken;
        let took = (taken.before(earlier.ago), taken.wall);
        self.0.spans.write(Span {
            error: Some(format!("{} took the entry and ended before settling it", earlier.worker)),
            ..Span::step(PROCESS, SpanKind::Consumer, place, took, attributes)
        });
        place.0
    }

    /// The transaction and the acknowledgement, once for the whole batch.
    fn write_posting(&self, tried: &Tried<'_>, parent: &TraceContext, links: &[TraceContext]) {
        let Some((begun, committed)) = tried.steps.committed else { return };
        let others: Vec<TraceContext> = links.iter().skip(1).copied().collect();
        let step = |from: Timestamp, to: Timestamp, attributes| Span {
            links: others.clone(),
            ..Span::step(
                ACK,
                SpanKind::Client,
                self.0.spans.place(parent),
                (from.wall, to.wall),
                attributes,
            )
        };
        let mut attributes = words::ledger("INSERT").to_vec();
        attributes.push(KeyValue::new(words::DB_TABLE, TABLE));
        attributes.push(KeyValue::new(words::DB_BATCH, number(tried.deliveries.len())));
        self.0.spans.write(Span {
            name: format!("INSERT {TABLE}").into(),
            attributes,
            ..step(begun, committed, Vec::new())
        });
        let Some(acknowledged) = tried.steps.acknowledged else { return };
        let attributes = vec![
            KeyValue::new(words::OPERATION_TYPE, "settle"),
            KeyValue::new(words::GROUP, LEDGER),
        ];
        self.0.spans.write(step(committed, acknowledged, attributes));
    }
}

fn process_attributes(signals: &Signals, delivery: &Delivery) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new(words::OPERATION_TYPE, PROCESS),
        KeyValue::new(words::GROUP, LEDGER),
        KeyValue::new(words::PARTITION_ID, delivery.partition.to_string()),
        KeyValue::new(words::MESSAGE_ID, delivery.stream_id.to_string()),
    ];
    attributes.extend(signals.reference(&delivery.payment.reference));
    attributes
}

fn entry(delivery: &Delivery) -> (u16, StreamId) {
    (delivery.partition, delivery.stream_id)
}

fn is_recorded(delivery: &Delivery) -> bool {
    delivery.trace.is_some_and(|trace| trace.is_recorded())
}

fn number(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

//! The spans of payments at a worker: each attempt, its end as a dead letter, its redrive. One
//! span for each payment whose trace is recorded, and for each failed or slow one. Spans of whole
//! batches are in `batches`. Never decides anything about a payment.

use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    Signals,
    logs::current_request,
    spans::{Span, Timestamp, Weight},
    words::{self, BURY, LEDGER, PROCESS},
    worker::{Buried, Earlier, Steps, Tried, since},
};
use crate::domain::{Delivery, Outcome, StreamId, TraceContext};

/// What a span of a payment is below, and what it stands for.
#[derive(Clone, Copy)]
struct Place {
    parent: TraceContext,
    /// The caller's span, where the trace is not its own.
    caller: Option<TraceContext>,
    weight: Weight,
}

impl Signals {
    /// An entry became a dead letter.
    pub fn buried(&self, buried: &Buried<'_>) {
        self.processed("dead_lettered", 1);
        let (spans, at) = (&self.0.spans, Timestamp::now());
        let Some(place) = self.place(buried.entry, buried.trace, true, at) else { return };
        let attempts = spans.attempts(buried.entry);
        spans.forget(buried.entry);
        let (partition, stream_id) = buried.entry;
        let attributes = [
            KeyValue::new(words::OPERATION_TYPE, "settle"),
            KeyValue::new(words::PARTITION_ID, partition.to_string()),
            KeyValue::new(words::MESSAGE_ID, stream_id.to_string()),
            KeyValue::new(words::OUTCOME, "dead_lettered"),
            KeyValue::new(words::ERROR, buried.code),
        ];
        let (below, took) = (spans.place(&place.parent), (at.wall, Timestamp::now().wall));
        spans.write(Span {
            weight: place.weight,
            links: attempts,
            error: Some(buried.reason.to_owned()),
            ..Span::step(BURY, SpanKind::Client, below, took, attributes)
        });
    }

    /// A dead letter was redriven and is settled.
    pub fn redriven(&self, delivery: &Delivery, outcome: &str, started: Timestamp) {
        let (spans, ended) = (&self.0.spans, Timestamp::now());
        let place = self.place(entry(delivery), delivery.trace, true, ended);
        let Some(place) = place else { return };
        let mut links = spans.attempts(entry(delivery));
        links.extend(current_request().and_then(|request| request.recorded()));
        let mut attributes = process_attributes(self, delivery);
        attributes.push(KeyValue::new(words::OUTCOME, outcome.to_owned()));
        let (below, took) = (spans.place(&place.parent), (started.wall, ended.wall));
        spans.write(Span {
            weight: place.weight,
            links,
            events: vec![("redriven", ended.wall)],
            ..Span::step(PROCESS, SpanKind::Consumer, below, took, attributes)
        });
    }

    /// Writes the spans of the batch's payments; `batch` is the span of the whole. Answers those
    /// that were written.
    pub(super) fn trace_payments(
        &self,
        tried: &Tried<'_>,
        batch: TraceContext,
        ended: Timestamp,
    ) -> Vec<TraceContext> {
        let mut written = Vec::new();
        for (index, delivery) in tried.deliveries.iter().enumerate() {
            let outcome = tried.outcomes.get(index);
            let stands_out = self.stands_out(tried, delivery);
            let place = self.place(entry(delivery), delivery.trace, stands_out, ended);
            let Some(place) = place else { continue };
            written.push(self.write_process(tried, (delivery, outcome), place, batch, ended));
        }
        written
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

    /// Where an entry's span belongs, if one is written. An unsampled attempt that stands out gets
    /// a trace, the same one for all attempts at its entry in this process.
    fn place(
        &self,
        entry: (u16, StreamId),
        trace: Option<TraceContext>,
        stands_out: bool,
        at: Timestamp,
    ) -> Option<Place> {
        let spans = &self.0.spans;
        if let Some(parent) = trace.filter(TraceContext::is_recorded) {
            return Some(Place { parent, caller: None, weight: Weight::OfTrace });
        }
        let is_written = stands_out && spans.allows_late(at);
        is_written.then(|| {
            let known = spans.attempts(entry).first().copied();
            let parent = known.unwrap_or_else(|| spans.new_trace()).unparented();
            let caller = trace.filter(|trace| trace.span_id.is_some());
            Place { parent, caller, weight: Weight::Nothing }
        })
    }

    fn write_process(
        &self,
        tried: &Tried<'_>,
        (delivery, outcome): (&Delivery, Option<&Outcome>),
        place: Place,
        batch: TraceContext,
        ended: Timestamp,
    ) -> TraceContext {
        let spans = &self.0.spans;
        let below = spans.place(&place.parent);
        let earlier = tried.earlier.get(&entry(delivery));
        let attempt = earlier.map_or(1, |earlier| earlier.deliveries);
        let mut links = vec![batch];
        links.extend(place.caller);
        links.extend(spans.attempts(entry(delivery)).last());
        if let Some(earlier) = earlier.filter(|earlier| earlier.lost) {
            links.push(self.write_lost(tried, delivery, place, earlier));
        }
        let mut attributes = process_attributes(self, delivery);
        attributes.push(KeyValue::new(words::ATTEMPT, i64::from(attempt)));
        let failure = tried.failure;
        attributes.extend(failure.map(|failure| KeyValue::new(words::ERROR, failure.class)));
        // Without a commit, no outcome counts.
        let outcome = outcome.filter(|_| failure.is_none());
        attributes.extend(outcome.map(|outcome| KeyValue::new(words::OUTCOME, outcome.as_str())));
        let Steps { committed, acknowledged, .. } = tried.steps;
        let committed = committed.map(|(_, at)| ("committed", at.wall));
        let acknowledged = acknowledged.map(|at| ("acknowledged", at.wall));
        let (kind, start) = match place.parent.span_id {
            Some(_) => (SpanKind::Consumer, tried.steps.taken.wall),
            // No other span shows how long it waited. Graphs of services would draw a consumer
            // without a producer as one that users call.
            None => (SpanKind::Internal, delivery.received_at.into()),
        };
        spans.write(Span {
            weight: place.weight,
            links,
            events: committed.into_iter().chain(acknowledged).collect(),
            error: failure.map(|failure| failure.text.clone()),
            ..Span::step(PROCESS, kind, below, (start, ended.wall), attributes)
        });
        match failure {
            Some(_) => spans.remember(entry(delivery), below.0),
            None if earlier.is_some() => spans.forget(entry(delivery)),
            None => {}
        }
        below.0
    }

    /// The attempt of a worker that ended before it could report it.
    fn write_lost(
        &self,
        tried: &Tried<'_>,
        delivery: &Delivery,
        place: Place,
        earlier: &Earlier,
    ) -> TraceContext {
        let below = self.0.spans.place(&place.parent);
        let attempt = earlier.deliveries.saturating_sub(1).max(1);
        let mut attributes = process_attributes(self, delivery);
        attributes.push(KeyValue::new(words::ATTEMPT, i64::from(attempt)));
        attributes.push(KeyValue::new(words::ERROR, "worker_lost"));
        attributes.push(KeyValue::new(words::WORKER, earlier.worker.clone()));
        let taken = tried.steps.taken;
        let took = (taken.before(earlier.ago), taken.wall);
        self.0.spans.write(Span {
            weight: place.weight,
            error: Some(format!("{} took the entry and ended before settling it", earlier.worker)),
            ..Span::step(PROCESS, SpanKind::Consumer, below, took, attributes)
        });
        below.0
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

//! What the gateway says: of each request, and of each payment that it sends.

use std::borrow::Cow;

use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    Signals,
    spans::{Moment, SAMPLE_RATIO, Span},
    words::{self, SEND},
};
use crate::domain::{Reference, SpanId, StreamId, TraceContext, TraceId};

/// Where a request belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTrace {
    /// What came with it; sampled only when its caller may say so.
    inbound: Option<TraceContext>,
    /// The span of the request itself; nothing while nobody traces.
    own: Option<TraceContext>,
}

#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Its method, if it is a usual one.
    pub method: &'static str,
    pub route: Option<&'a str>,
    pub status: u16,
    pub started: Moment,
    /// It asked for its answer to wait, so that it is not slow.
    pub waits: bool,
}

/// A payment on its way into the stream.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// What its entry carries.
    pub context: Option<TraceContext>,
    parent: Option<SpanId>,
    started: Moment,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub reference: &'a Reference,
    /// `accepted`, `duplicate`, `conflict`, `overloaded` or `error`.
    pub outcome: &'static str,
    /// Where it is now.
    pub place: Option<(u16, StreamId)>,
}

/// Counts a request for as long as it is under way.
pub struct Active<'a> {
    signals: &'a Signals,
    method: &'static str,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.signals.0.meters.http_active.add(-1, &[KeyValue::new(words::METHOD, self.method)]);
    }
}

impl RequestTrace {
    pub fn trace_id(&self) -> Option<TraceId> {
        self.own.or(self.inbound).map(|context| context.trace_id)
    }

    /// The request's own span, when it is recorded.
    pub fn recorded(&self) -> Option<TraceContext> {
        self.own.filter(|own| own.sampled)
    }
}

impl Signals {
    /// A request comes in, with what its `traceparent` said; whether its caller
    /// may have it recorded is `trusted`.
    pub fn request(&self, inbound: Option<TraceContext>, trusted: bool) -> RequestTrace {
        let inbound =
            inbound.map(|context| TraceContext { sampled: context.sampled && trusted, ..context });
        let spans = &self.0.spans;
        if !spans.is_on() {
            return RequestTrace { inbound, own: None };
        }
        let sampled = match inbound {
            Some(context) if trusted => context.sampled,
            Some(_) | None => spans.samples(),
        };
        let own = inbound.map_or_else(|| spans.new_trace(), |parent| spans.below(&parent));
        RequestTrace { inbound, own: Some(TraceContext { sampled, ..own }) }
    }

    /// Counts a request until the guard is dropped.
    pub fn active(&self, method: &'static str) -> Active<'_> {
        self.0.meters.http_active.add(1, &[KeyValue::new(words::METHOD, method)]);
        Active { signals: self, method }
    }

    /// A request was answered. Says which span of it is written, if one is.
    pub fn answered(&self, trace: &RequestTrace, exchange: &Exchange<'_>) -> Option<TraceContext> {
        let Exchange { method, route, status, started, waits } = *exchange;
        let ended = Moment::now();
        let took = started.until(ended);
        let mut attributes = vec![
            KeyValue::new(words::METHOD, method),
            KeyValue::new(words::STATUS, i64::from(status)),
        ];
        attributes.extend(route.map(|route| KeyValue::new(words::ROUTE, route.to_owned())));
        self.0.meters.http_duration.record(took.as_secs_f64(), &attributes);
        let spans = &self.0.spans;
        let failed = status >= 500;
        let stands_out = failed || (!waits && took >= spans.slow);
        let sampled = trace.own.is_some_and(|own| own.sampled);
        let is_written = sampled || (stands_out && spans.allows_late(ended));
        let own = TraceContext { sampled: true, ..trace.own.filter(|_| is_written)? };
        attributes.push(KeyValue::new(words::SCHEME, "http"));
        if stands_out {
            attributes.push(KeyValue::new(SAMPLE_RATIO, 1.0));
        }
        let error = failed.then(|| status.to_string());
        attributes.extend(error.clone().map(|status| KeyValue::new(words::ERROR, status)));
        spans.write(Span {
            context: own,
            parent: trace.inbound.and_then(|inbound| inbound.span_id),
            kind: SpanKind::Server,
            name: route.map_or(Cow::Borrowed(method), |route| format!("{method} {route}").into()),
            start: started.wall,
            end: ended.wall,
            attributes,
            links: Vec::new(),
            events: Vec::new(),
            error,
        });
        Some(own)
    }

    /// A payment is about to be appended.
    pub fn sending(&self, trace: &RequestTrace) -> Sending {
        let recorded = trace.recorded();
        // What is not recorded here goes on below the caller's own span.
        let context = recorded.map(|own| self.0.spans.below(&own)).or(trace.inbound);
        Sending { context, parent: recorded.and_then(|own| own.span_id), started: Moment::now() }
    }

    /// Payments that were sent together have been appended, or have not.
    pub fn sent<'a>(&self, sent: impl Iterator<Item = (Sending, Sent<'a>)>) {
        let ended = Moment::now();
        let meters = &self.0.meters;
        let (mut appended, mut first) = (0, None);
        for (sending, sent) in sent {
            first.get_or_insert((sending.started, sent.outcome));
            appended += u64::from(sent.outcome == "accepted");
            self.write_sent(&sending, &sent, ended);
        }
        let Some((started, outcome)) = first else { return };
        let attributes = words::messaging(SEND);
        meters.sent.add(appended, &attributes);
        let mut attributes = attributes.to_vec();
        if matches!(outcome, "overloaded" | "error") {
            attributes.push(KeyValue::new(words::ERROR, outcome));
        }
        meters.stream_duration.record(started.until(ended).as_secs_f64(), &attributes);
    }

    fn write_sent(&self, sending: &Sending, sent: &Sent<'_>, ended: Moment) {
        // Recorded only when the request is; then it has a span of its own.
        let (Some(context), Some(parent)) = (sending.context, sending.parent) else { return };
        let Sent { reference, outcome, place } = *sent;
        let mut attributes = vec![
            KeyValue::new(words::OPERATION_TYPE, SEND),
            KeyValue::new(words::OUTCOME, outcome),
            KeyValue::new(words::REFERENCE, reference.as_str().to_owned()),
        ];
        if let Some((partition, stream_id)) = place {
            attributes.push(KeyValue::new(words::PARTITION_ID, partition.to_string()));
            attributes.push(KeyValue::new(words::MESSAGE_ID, stream_id.to_string()));
        }
        let error = matches!(outcome, "overloaded" | "error").then(|| outcome.to_owned());
        let (place, took) = ((context, Some(parent)), (sending.started.wall, ended.wall));
        let step = Span::step(SEND, SpanKind::Producer, place, took, attributes);
        self.0.spans.write(Span { error, ..step });
    }

    /// The ledger was asked something; it may have failed.
    pub fn asked(&self, started: Moment, failed: bool) {
        let mut attributes = words::ledger("SELECT").to_vec();
        attributes.extend(failed.then(|| KeyValue::new(words::ERROR, "error")));
        let took = started.until(Moment::now());
        self.0.meters.ledger_duration.record(took.as_secs_f64(), &attributes);
    }

    /// So many payments came, with this outcome: `accepted`, `duplicate`,
    /// `conflict`, `invalid`, `overloaded` or `error`.
    pub fn received(&self, outcome: &'static str, payments: usize) {
        let payments = u64::try_from(payments).unwrap_or(u64::MAX);
        self.0.meters.received.add(payments, &[KeyValue::new(words::OUTCOME, outcome)]);
    }
}

//! Metrics and spans of the gateway: requests, and payments on their way into the streams.
//! Never decides what a request is answered.

use std::borrow::Cow;

use opentelemetry::{KeyValue, trace::SpanKind};

use super::{
    Signals,
    spans::{RequestTrace, Span, Timestamp, Weight},
    words::{self, SEND},
};
use crate::domain::{Reference, SpanId, StreamId, TraceContext};

#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The method; `_OTHER` for an unusual one.
    pub method: &'static str,
    pub route: Option<&'a str>,
    pub is_https: bool,
    pub status: u16,
    pub started: Timestamp,
    /// The client asked to wait for the outcome, so a long answer is not slow.
    pub waits: bool,
}

/// The span of a payment that is being appended.
#[derive(Clone, Copy, Debug)]
pub struct SendSpan {
    /// The trace context that the entry carries.
    pub context: Option<TraceContext>,
    parent: Option<SpanId>,
    started: Timestamp,
}

#[derive(Clone, Copy, Debug)]
pub struct SendResult<'a> {
    pub reference: &'a Reference,
    /// `accepted`, `duplicate`, `conflict`, `overloaded` or `error`.
    pub outcome: &'static str,
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

impl Signals {
    /// The trace of a request that arrived with this `traceparent`.
    pub fn request(&self, inbound: Option<TraceContext>, trusted: bool) -> RequestTrace {
        self.0.spans.request(inbound, trusted)
    }

    /// Counts a request until the guard is dropped.
    pub fn active(&self, method: &'static str) -> Active<'_> {
        self.0.meters.http_active.add(1, &[KeyValue::new(words::METHOD, method)]);
        Active { signals: self, method }
    }

    /// Measures a request that was answered; its span, if one is written.
    pub fn answered(&self, trace: &RequestTrace, exchange: &Exchange<'_>) -> Option<TraceContext> {
        let Exchange { method, route, is_https, status, started, waits } = *exchange;
        let ended = Timestamp::now();
        let took = started.until(ended);
        let mut attributes = vec![
            KeyValue::new(words::METHOD, method),
            KeyValue::new(words::STATUS, i64::from(status)),
        ];
        attributes.extend(route.map(|route| KeyValue::new(words::ROUTE, route.to_owned())));
        self.0.meters.http_duration.record(took.as_secs_f64(), &attributes);
        let spans = &self.0.spans;
        let failed = status >= 500;
        let sampled = trace.own.is_some_and(|own| own.sampled);
        let stands_out = failed || (!waits && took >= spans.slow);
        let is_written = sampled || (stands_out && spans.allows_late(ended));
        let own = TraceContext { sampled: true, ..trace.own.filter(|_| is_written)? };
        attributes.push(KeyValue::new(words::SCHEME, if is_https { "https" } else { "http" }));
        // References and customers are in paths: the route stands for those that have some.
        let path = route.map_or(words::REDACTED.to_owned(), str::to_owned);
        attributes.push(KeyValue::new(words::PATH, path));
        // What the client calls us is the client's word, and may be anything.
        attributes.push(KeyValue::new(words::SERVER, self.0.host.clone()));
        let error = failed.then(|| status.to_string());
        attributes.extend(error.clone().map(|status| KeyValue::new(words::ERROR, status)));
        let name = route.map_or(Cow::Borrowed(method), |route| format!("{method} {route}").into());
        let place = (own, trace.parent.and_then(|parent| parent.span_id));
        let took = (started.wall, ended.wall);
        spans.write(Span {
            weight: if sampled { Weight::OfTrace } else { Weight::Nothing },
            links: trace.caller.into_iter().collect(),
            error,
            ..Span::new(name, SpanKind::Server, place, took, attributes)
        });
        Some(own)
    }

    /// A payment is about to be appended.
    pub fn sending(&self, trace: &RequestTrace) -> SendSpan {
        let recorded = trace.recorded();
        // Without a span here, the entry names the caller's.
        let context =
            recorded.map(|own| self.0.spans.below(&own)).or(trace.parent).or(trace.caller);
        SendSpan {
            context,
            parent: recorded.and_then(|own| own.span_id),
            started: Timestamp::now(),
        }
    }

    /// Measures payments that were sent together, appended or not.
    pub fn sent<'a>(&self, sent: impl Iterator<Item = (SendSpan, SendResult<'a>)>) {
        let ended = Timestamp::now();
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

    fn write_sent(&self, sending: &SendSpan, sent: &SendResult<'_>, ended: Timestamp) {
        let (Some(context), Some(parent)) = (sending.context, sending.parent) else { return };
        let SendResult { reference, outcome, place } = *sent;
        let mut attributes = vec![
            KeyValue::new(words::OPERATION_TYPE, SEND),
            KeyValue::new(words::OUTCOME, outcome),
        ];
        attributes.extend(self.reference(reference));
        if let Some((partition, stream_id)) = place {
            attributes.push(KeyValue::new(words::PARTITION_ID, partition.to_string()));
            attributes.push(KeyValue::new(words::MESSAGE_ID, stream_id.to_string()));
        }
        let error = matches!(outcome, "overloaded" | "error").then(|| outcome.to_owned());
        let (place, took) = ((context, Some(parent)), (sending.started.wall, ended.wall));
        let step = Span::step(SEND, SpanKind::Producer, place, took, attributes);
        self.0.spans.write(Span { error, ..step });
    }

    /// Measures a query of the gateway.
    pub fn asked(&self, started: Timestamp, failed: bool) {
        let mut attributes = words::ledger("SELECT").to_vec();
        attributes.extend(failed.then(|| KeyValue::new(words::ERROR, "error")));
        let took = started.until(Timestamp::now());
        self.0.meters.ledger_duration.record(took.as_secs_f64(), &attributes);
    }

    /// Counts payments that arrived with this outcome: `accepted`, `duplicate`, `conflict`,
    /// `invalid`, `overloaded` or `error`.
    pub fn received(&self, outcome: &'static str, payments: usize) {
        let payments = u64::try_from(payments).unwrap_or(u64::MAX);
        self.0.meters.received.add(payments, &[KeyValue::new(words::OUTCOME, outcome)]);
    }
}

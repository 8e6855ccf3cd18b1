//! What Tempo's metrics generator makes of spans: calls and latencies of each, who
//! called whom, and how long a message waited in between. Each span counts as often
//! as it stands for. Keeps sums, and for a while the halves of calls.

#![allow(clippy::float_arithmetic, reason = "a span stands for 1 / ratio of them")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use paystream::telemetry::catalog;

use super::{
    received::{Attributes, Number, Span, seconds},
    shown::{self, Labels, label_value},
};

/// Attributes that are told apart, as `tempo.yaml` lists them.
const DIMENSIONS: [&str; 6] = [
    "http.route",
    "http.response.status_code",
    "messaging.operation.name",
    "messaging.destination.name",
    "db.operation.name",
    "error.type",
];
/// Says which share of the spans was kept.
const RATIO: &str = "paystream.trace.sample_ratio";
/// Says that a span stands for nothing.
const UNSAMPLED: &str = "paystream.trace.unsampled";
/// How long a half waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Halves that are kept; more are not counted.
const HALVES_MAX: usize = 10_000;
/// Sums that are kept; more are not counted.
const SUMS_MAX: usize = 50_000;
/// What makes a client span a database's.
const DATABASE: &[&str] = &["db.namespace", "db.name", "db.system"];
/// What names a database's server.
const ADDRESS: &[&str] = &["peer.service", "server.address", "network.peer.address"];
/// What names the other side when it sends no spans.
const PEER: &[&str] = &["peer.service", "db.name", "db.system", "db.system.name"];

/// Sums by metric and labels, and halves by trace and the client's span.
#[derive(Default)]
pub struct Generator {
    pub sums: BTreeMap<(&'static str, Labels), Number>,
    halves: BTreeMap<(String, String), (Instant, Span)>,
}

/// How many spans this one stands for.
fn times(span: &Span) -> f64 {
    // As Tempo: a double, and nothing else.
    let of = |all: &Attributes| all.get(RATIO).filter(|ratio| ratio.is_f64())?.as_f64();
    let ratio = of(&span.attributes).or_else(|| of(&span.resource));
    ratio.filter(|ratio| *ratio > 0.0).map_or(1.0, |ratio| 1.0 / ratio)
}

fn first(span: &Span, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| span.attributes.get(*name)).map(label_value)
}

fn is_client(span: &Span) -> bool {
    matches!(span.kind, SpanKind::Client | SpanKind::Producer)
}

impl Generator {
    /// Counts a span.
    pub fn add(&mut self, span: &Span, now: Instant) {
        if span.attributes.get(UNSAMPLED).is_some_and(|unsampled| *unsampled == true) {
            return;
        }
        let mut labels = shown::origin(&span.resource);
        labels.extend(shown::labels([
            ("service", span.service()),
            ("span_name", &span.name),
            ("span_kind", span.kind.as_str_name()),
            ("status_code", span.status.as_str_name()),
        ]));
        let told = DIMENSIONS.iter().filter_map(|name| {
            let value = span.resource.get(*name).or_else(|| span.attributes.get(*name))?;
            Some((shown::label(name), label_value(value)))
        });
        labels.extend(told);
        self.count("traces_spanmetrics_calls_total", &labels, times(span));
        self.spread("traces_spanmetrics_latency", &labels, span.seconds(), times(span));
        self.expire(now);
        self.pair(span, now);
    }

    /// Looks for the other side of a call.
    fn pair(&mut self, span: &Span, now: Instant) {
        if is_client(span)
            && let Some(database) = first(span, DATABASE)
        {
            let server = first(span, ADDRESS).unwrap_or(database);
            return self.call([Some(span); 2], [span.service(), &server, "database"]);
        }
        let id = match span.kind {
            SpanKind::Client | SpanKind::Producer => span.span_id.clone(),
            // Roots have no parent to be told apart by.
            SpanKind::Server | SpanKind::Consumer if is_root(span) => format!("/{}", span.span_id),
            SpanKind::Server | SpanKind::Consumer => span.parent_id.clone(),
            SpanKind::Unspecified | SpanKind::Internal => return,
        };
        let key = (span.trace_id.clone(), id);
        let waiting = self.halves.remove(&key);
        if let Some((_, other)) = &waiting
            && is_client(other) != is_client(span)
        {
            let [client, server] = if is_client(span) { [span, other] } else { [other, span] };
            let connection =
                if server.kind == SpanKind::Consumer { "messaging_system" } else { "" };
            let names = [client.service(), server.service(), connection];
            self.call([Some(client), Some(server)], names);
        } else if self.halves.len() < HALVES_MAX {
            let since = waiting.map_or(now, |(since, _)| since);
            self.halves.insert(key, (since, span.clone()));
        }
    }

    /// Gives up waiting for other halves: some are outside of what sends spans.
    pub fn expire(&mut self, now: Instant) {
        let expired = self
            .halves
            .extract_if(.., |_, (since, _)| now.duration_since(*since) >= PATIENCE)
            .map(|(_, (_, span))| span);
        for span in expired.collect::<Vec<_>>() {
            if is_client(&span) {
                if let Some(peer) = first(&span, PEER) {
                    self.call([Some(&span), None], [span.service(), &peer, "virtual_node"]);
                }
            } else if is_root(&span) {
                self.call([None, Some(&span)], ["user", span.service(), "virtual_node"]);
            }
        }
    }

    /// Counts a call between two nodes, of which one may have sent nothing.
    fn call(&mut self, sides: [Option<&Span>; 2], [client, server, connection]: [&str; 3]) {
        let of_both = [("client", client), ("server", server), ("connection_type", connection)];
        let labels = shown::labels(of_both);
        let times = sides.into_iter().flatten().map(times).next_back().unwrap_or(1.0);
        self.count("traces_service_graph_request_total", &labels, times);
        if sides.into_iter().flatten().any(|span| span.status == StatusCode::Error) {
            self.count("traces_service_graph_request_failed_total", &labels, times);
        }
        let names = [
            "traces_service_graph_request_client_seconds",
            "traces_service_graph_request_server_seconds",
        ];
        for (name, side) in names.into_iter().zip(sides) {
            self.spread(name, &labels, side.map_or(0.0, Span::seconds), times);
        }
        if connection == "messaging_system"
            && let [Some(sent), Some(taken)] = sides
            && taken.start > sent.end
        {
            let waited = seconds(sent.end, taken.start);
            let name = "traces_service_graph_request_messaging_system_seconds";
            self.spread(name, &labels, waited, times);
        }
    }

    fn count(&mut self, name: &'static str, labels: &Labels, times: f64) {
        if let Some(Number::Plain(sum)) = self.sum(name, labels, || Number::Plain(0.0)) {
            *sum += times;
        }
    }

    fn spread(&mut self, name: &'static str, labels: &Labels, value: f64, times: f64) {
        let none = || {
            let bounds = catalog::SECONDS.to_vec();
            Number::Spread { counts: vec![0.0; bounds.len() + 1], bounds, sum: 0.0, count: 0.0 }
        };
        if let Some(Number::Spread { bounds, counts, sum, count }) = self.sum(name, labels, none) {
            counts[bounds.partition_point(|bound| *bound < value)] += times;
            *sum += value * times;
            *count += times;
        }
    }

    fn sum(
        &mut self,
        name: &'static str,
        labels: &Labels,
        none: impl Fn() -> Number,
    ) -> Option<&mut Number> {
        let key = (name, labels.clone());
        if self.sums.len() >= SUMS_MAX && !self.sums.contains_key(&key) {
            return None;
        }
        Some(self.sums.entry(key).or_insert_with(none))
    }
}

fn is_root(span: &Span) -> bool {
    span.parent_id.is_empty()
}

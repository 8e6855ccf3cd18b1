//! What Tempo's metrics generator makes of pairs of spans: who called whom, and
//! how long a message waited between them. Keeps halves for a while, then sums.

#![allow(clippy::float_arithmetic, reason = "a span stands for 1 / ratio of them")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};

use super::{
    exposition::Exposition,
    names::{Labels, label_value},
    received::{Span, seconds},
    span_metrics::{Spread, multiplier},
};

/// How long a half waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Halves that are kept; more are not counted.
const HALVES_MAX: usize = 10_000;
/// What makes a client span a database's.
const DATABASE: [&str; 3] = ["db.namespace", "db.name", "db.system"];
/// What names the other side when it sends no spans.
const PEER: [&str; 4] = ["peer.service", "db.name", "db.system", "db.system.name"];
/// What every family's name begins with.
const FAMILY: &str = "traces_service_graph_request";

/// What is known of a call so far.
#[derive(Default)]
struct Edge {
    client: String,
    server: String,
    connection: &'static str,
    /// The other side, as the client names it.
    peer: String,
    /// The server's span has no parent.
    root: bool,
    failed: bool,
    client_seconds: f64,
    server_seconds: f64,
    client_end: u64,
    server_start: u64,
    times: f64,
}

#[derive(Default)]
struct Sums {
    total: f64,
    failed: f64,
    client: Spread,
    server: Spread,
    messaging: Spread,
}

/// Who called whom.
#[derive(Default)]
pub struct ServiceGraph {
    halves: BTreeMap<(String, String), (Instant, Edge)>,
    sums: BTreeMap<Labels, Sums>,
}

impl ServiceGraph {
    /// Counts a span, if it is one side of a call.
    pub fn add(&mut self, span: &Span, now: Instant) {
        self.expire(now);
        let id = match span.kind {
            SpanKind::Client | SpanKind::Producer => &span.span_id,
            SpanKind::Server | SpanKind::Consumer => &span.parent_id,
            SpanKind::Unspecified | SpanKind::Internal => return,
        };
        let mut key = (span.trace_id.clone(), id.clone());
        if self.halves.len() >= HALVES_MAX && !self.halves.contains_key(&key) {
            return;
        }
        let (since, mut edge) = self.halves.remove(&key).unwrap_or((now, Edge::default()));
        edge.learn(span);
        if !edge.client.is_empty() && !edge.server.is_empty() {
            return self.complete(&edge);
        }
        if edge.root {
            // Roots have no parent to be told apart by.
            key.1 = format!("root {}", span.span_id);
        }
        self.halves.insert(key, (since, edge));
    }

    /// Gives up waiting for other halves: some are outside of what sends spans.
    pub fn expire(&mut self, now: Instant) {
        let old = |since: &Instant| now.duration_since(*since) >= PATIENCE;
        let expired = self.halves.extract_if(.., |_, (since, _)| old(since));
        for (_, (_, mut edge)) in expired.collect::<Vec<_>>() {
            edge.connection = "virtual_node";
            if edge.client.is_empty() && edge.root {
                edge.client = "user".to_owned();
                self.complete(&edge);
            } else if edge.server.is_empty() && !edge.peer.is_empty() {
                edge.server = std::mem::take(&mut edge.peer);
                self.complete(&edge);
            }
        }
    }

    fn complete(&mut self, edge: &Edge) {
        let labels = [
            ("client", edge.client.as_str()),
            ("server", &edge.server),
            ("connection_type", edge.connection),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sums = self.sums.entry(labels.into()).or_default();
        sums.total += edge.times;
        if edge.failed {
            sums.failed += edge.times;
        }
        sums.client.add(edge.client_seconds, edge.times);
        sums.server.add(edge.server_seconds, edge.times);
        let waited = seconds(edge.client_end, edge.server_start);
        if edge.connection == "messaging_system" && waited > 0.0 {
            sums.messaging.add(waited, edge.times);
        }
    }

    /// Writes all of it.
    pub fn write(&self, to: &mut Exposition) {
        for (labels, sums) in &self.sums {
            let (total, failed) = (format!("{FAMILY}_total"), format!("{FAMILY}_failed_total"));
            let help = "Total count of requests between two nodes.";
            to.sample(&total, "counter", help, labels, sums.total);
            if sums.failed > 0.0 {
                let help = "Total count of failed requests between two nodes.";
                to.sample(&failed, "counter", help, labels, sums.failed);
            }
            let spreads = [
                ("client", "Time for a request as seen from the client.", &sums.client),
                ("server", "Time for a request as seen from the server.", &sums.server),
                ("messaging_system", "Time between publisher and consumer.", &sums.messaging),
            ];
            for (who, help, spread) in spreads {
                spread.write(to, &format!("{FAMILY}_{who}_seconds"), help, labels);
            }
        }
    }
}

impl Edge {
    fn learn(&mut self, span: &Span) {
        self.failed |= span.status == StatusCode::Error;
        self.times = multiplier(span);
        let messaging = matches!(span.kind, SpanKind::Producer | SpanKind::Consumer);
        self.connection = if messaging { "messaging_system" } else { "" };
        if matches!(span.kind, SpanKind::Server | SpanKind::Consumer) {
            span.service().clone_into(&mut self.server);
            self.server_seconds = span.seconds();
            self.server_start = span.start;
            self.root = span.parent_id.is_empty();
            return;
        }
        span.service().clone_into(&mut self.client);
        self.client_seconds = span.seconds();
        self.client_end = span.end;
        let first = |names: &[&str]| {
            let value = names.iter().find_map(|name| span.attributes.get(*name));
            value.map(label_value).unwrap_or_default()
        };
        self.peer = first(&PEER);
        let database = first(&DATABASE);
        if !database.is_empty() {
            self.connection = "database";
            self.server_seconds = span.seconds();
            let address = first(&["peer.service", "server.address", "network.peer.address"]);
            self.server = if address.is_empty() { database } else { address };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::otlp::span_metrics::tests::{samples, span};

    fn text(graph: &ServiceGraph) -> String {
        let mut text = Exposition::default();
        graph.write(&mut text);
        text.text()
    }

    fn total(text: &str) -> Vec<&str> {
        samples(text, "traces_service_graph_request_total")
    }

    #[test]
    fn a_message_pairs_its_producer_and_its_consumer_whichever_comes_first() {
        let sent = span("gateway", "send payments", SpanKind::Producer, ["send", "post"]);
        let mut taken = span("worker", "process payments", SpanKind::Consumer, ["take", "send"]);
        // It waited for a quarter of a second in the stream.
        taken.start = sent.end + 250_000_000;
        for pair in [[&sent, &taken], [&taken, &sent]] {
            let mut graph = ServiceGraph::default();
            let now = Instant::now();
            pair.into_iter().for_each(|span| graph.add(span, now));
            graph.expire(now + PATIENCE);
            let text = text(&graph);
            let labels =
                "client=\"gateway\",connection_type=\"messaging_system\",server=\"worker\"";
            let total_name = "traces_service_graph_request_total";
            assert_eq!(total(&text), [format!("{total_name}{{{labels}}} 10")]);
            let sum = "traces_service_graph_request_messaging_system_seconds_sum";
            assert_eq!(samples(&text, sum), [format!("{sum}{{{labels}}} 2.5")]);
            assert_eq!(samples(&text, "traces_service_graph_request_failed_total").len(), 0);
            for who in ["client", "server"] {
                let count = format!("traces_service_graph_request_{who}_seconds_count");
                assert_eq!(samples(&text, &count), [format!("{count}{{{labels}}} 10")]);
            }
        }
    }

    #[test]
    fn a_failure_on_either_side_is_one() {
        let mut graph = ServiceGraph::default();
        graph.add(&span("a", "call", SpanKind::Client, ["1", ""]), Instant::now());
        let mut failed = span("b", "serve", SpanKind::Server, ["2", "1"]);
        failed.status = StatusCode::Error;
        graph.add(&failed, Instant::now());
        let labels = "client=\"a\",connection_type=\"\",server=\"b\"";
        let name = "traces_service_graph_request_failed_total";
        assert_eq!(samples(&text(&graph), name), [format!("{name}{{{labels}}} 10")]);
    }

    #[test]
    fn roots_were_called_by_a_user() {
        let mut graph = ServiceGraph::default();
        let now = Instant::now();
        for id in ["1", "2"] {
            graph.add(&span("gateway", "POST", SpanKind::Server, [id, ""]), now);
        }
        assert_eq!(total(&text(&graph)).len(), 0, "another half may come");
        graph.expire(now + PATIENCE);
        let text = text(&graph);
        assert_eq!(total(&text).len(), 1);
        assert!(
            total(&text)[0].ends_with(
                "{client=\"user\",connection_type=\"virtual_node\",server=\"gateway\"} 20"
            )
        );
    }

    #[test]
    fn a_database_is_a_node_by_its_name_or_by_its_system() {
        let mut insert = span("worker", "INSERT", SpanKind::Client, ["1", "0"]);
        insert.attributes.insert("db.system.name".to_owned(), json!("postgresql"));
        let mut graph = ServiceGraph::default();
        let now = Instant::now();
        graph.add(&insert, now);
        graph.expire(now + PATIENCE);
        let labels = "client=\"worker\",connection_type=\"virtual_node\",server=\"postgresql\"";
        assert!(total(&text(&graph))[0].contains(labels), "{}", text(&graph));
        insert.attributes.insert("db.namespace".to_owned(), json!("ledger"));
        let mut graph = ServiceGraph::default();
        graph.add(&insert, now);
        let labels = "client=\"worker\",connection_type=\"database\",server=\"ledger\"";
        assert!(total(&text(&graph))[0].contains(labels), "{}", text(&graph));
    }

    #[test]
    fn a_half_that_names_nobody_is_forgotten() {
        let mut graph = ServiceGraph::default();
        let now = Instant::now();
        graph.add(&span("worker", "ack", SpanKind::Client, ["1", "0"]), now);
        graph.add(&span("worker", "work", SpanKind::Internal, ["2", "0"]), now);
        graph.expire(now + PATIENCE);
        assert_eq!((text(&graph).as_str(), graph.halves.len()), ("", 0));
    }
}

//! What a sink keeps, within bounds, and what it has counted. Waits for nobody.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use procfs::WithCurrentSystemInfo;

use super::{
    exposition::Exposition,
    names::Labels,
    received::{Series, Span},
    service_graph::ServiceGraph,
    span_metrics::SpanMetrics,
};

/// Spans that are kept; older ones are forgotten.
const SPANS_MAX: usize = 100_000;
/// Series that are kept; more are refused.
const SERIES_MAX: usize = 50_000;
/// How long a series is shown after it was reported last.
const EXPIRY: Duration = Duration::from_secs(45);

/// How something was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Grpc,
    Http,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// What was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests by transport, whatever became of them.
    pub requests: BTreeMap<Transport, u64>,
    pub spans: BTreeMap<Transport, u64>,
    pub points: BTreeMap<Transport, u64>,
    pub spans_refused: BTreeMap<Transport, u64>,
    pub points_refused: BTreeMap<Transport, u64>,
}

/// Everything that was received.
#[derive(Default)]
pub struct Kept {
    spans: VecDeque<Span>,
    series: BTreeMap<String, Series>,
    span_metrics: SpanMetrics,
    service_graph: ServiceGraph,
    pub counts: Counts,
}

impl Kept {
    /// Takes spans.
    pub fn add_spans(&mut self, transport: Transport, spans: impl Iterator<Item = Span>) {
        let now = Instant::now();
        for span in spans {
            count(&mut self.counts.spans, transport, 1);
            self.span_metrics.add(&span);
            self.service_graph.add(&span, now);
            if self.spans.len() >= SPANS_MAX {
                self.spans.pop_front();
            }
            self.spans.push_back(span);
        }
    }

    /// Takes series; a later value takes the place of an earlier one.
    pub fn add_series(&mut self, transport: Transport, all: Vec<Series>) {
        for series in all {
            count(&mut self.counts.points, transport, 1);
            let key = key(&series);
            if self.series.len() < SERIES_MAX || self.series.contains_key(&key) {
                self.series.insert(key, series);
            }
        }
    }

    /// All spans, oldest first.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter()
    }

    /// All series.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.series.values()
    }

    /// What Prometheus would scrape of the collector, what Tempo would write to
    /// it, and a few of the collector's metrics about itself.
    pub fn text(&mut self) -> String {
        self.service_graph.expire(Instant::now());
        let mut text = Exposition::default();
        text.series(self.series.values(), EXPIRY);
        self.span_metrics.write(&mut text);
        self.service_graph.write(&mut text);
        self.counts.write(&mut text);
        text.text()
    }
}

/// Adds to a count.
pub fn count(counts: &mut BTreeMap<Transport, u64>, transport: Transport, more: u64) {
    *counts.entry(transport).or_default() += more;
}

/// What makes a series another one.
fn key(series: &Series) -> String {
    let resource = series.resource.iter().filter(|(name, _)| name.starts_with("service."));
    let pairs = resource.chain(&series.attributes);
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
    format!("{} {} {}", series.name, series.scope.name, pairs.join(" "))
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

impl Counts {
    /// Writes what the collector says of itself. Under its Prometheus reader
    /// these counters have no `_total`.
    fn write(&self, to: &mut Exposition) {
        let received = [
            ("accepted_spans", &self.spans),
            ("refused_spans", &self.spans_refused),
            ("accepted_metric_points", &self.points),
            ("refused_metric_points", &self.points_refused),
        ];
        for (name, counts) in received {
            for transport in [Transport::Grpc, Transport::Http] {
                let count = counts.get(&transport).copied().unwrap_or_default();
                let labels = labels([("receiver", "otlp"), ("transport", transport.name())]);
                let name = format!("otelcol_receiver_{name}");
                to.sample(&name, "counter", "Counted by the receiver.", &labels, count as f64);
            }
        }
        let sent = [
            ("otlp_grpc/tempo", "sent_spans", &self.spans),
            ("prometheus", "sent_metric_points", &self.points),
        ];
        for (exporter, name, counts) in sent {
            let labels = labels([("exporter", exporter)]);
            let count: u64 = counts.values().sum();
            let name = format!("otelcol_exporter_{name}");
            to.sample(&name, "counter", "Sent on; here, kept.", &labels, count as f64);
        }
        let labels = labels([("data_type", "traces"), ("exporter", "otlp_grpc/tempo")]);
        for (name, value) in [("size", 0.0), ("capacity", 1000.0)] {
            let name = format!("otelcol_exporter_queue_{name}");
            to.sample(&name, "gauge", "There is no queue here.", &labels, value);
        }
        if let Some(bytes) = memory() {
            let name = "otelcol_process_memory_rss";
            to.sample(name, "gauge", "Memory of this process.", &Labels::new(), bytes);
        }
    }
}

fn memory() -> Option<f64> {
    let status = procfs::process::Process::myself().ok()?.stat().ok()?;
    Some(status.rss_bytes().get() as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
    use serde_json::json;

    use super::*;
    use crate::otlp::{
        received::{Kind, Number, Scope},
        span_metrics::tests::{samples, span},
    };

    fn series(instance: &str, value: f64) -> Series {
        let resource = ("service.instance.id".to_owned(), json!(instance));
        Series {
            resource: Arc::new([resource].into()),
            scope: Scope::default(),
            name: "a".to_owned(),
            unit: String::new(),
            description: String::new(),
            kind: Kind::Gauge,
            attributes: BTreeMap::new(),
            value: Number::Plain(value),
            received: Instant::now(),
        }
    }

    #[test]
    fn a_later_value_takes_the_place_of_an_earlier_one_of_the_same_process() {
        let mut kept = Kept::default();
        let all = vec![series("1", 1.0), series("2", 2.0), series("1", 3.0)];
        kept.add_series(Transport::Http, all);
        let values: Vec<&Number> = kept.series().map(|series| &series.value).collect();
        assert_eq!(values, [&Number::Plain(3.0), &Number::Plain(2.0)]);
    }

    #[test]
    fn it_speaks_of_itself_as_the_collector_does() {
        let mut kept = Kept::default();
        let one = span("g", "POST", SpanKind::Server, ["1", ""]);
        kept.add_spans(Transport::Grpc, [one].into_iter());
        let text = kept.text();
        let name = "otelcol_receiver_accepted_spans";
        assert_eq!(
            samples(&text, name),
            [
                format!("{name}{{receiver=\"otlp\",transport=\"grpc\"}} 1"),
                format!("{name}{{receiver=\"otlp\",transport=\"http\"}} 0"),
            ]
        );
        let name = "otelcol_exporter_sent_spans";
        assert_eq!(samples(&text, name), [format!("{name}{{exporter=\"otlp_grpc/tempo\"}} 1")]);
    }

    #[test]
    fn spans_are_kept_within_bounds() {
        let mut kept = Kept::default();
        let one = span("g", "POST", SpanKind::Internal, ["1", ""]);
        kept.add_spans(Transport::Grpc, std::iter::repeat_n(one, SPANS_MAX + 1));
        assert_eq!(kept.spans().count(), SPANS_MAX);
        assert_eq!(kept.counts.spans[&Transport::Grpc], 100_001, "and all are counted");
    }
}

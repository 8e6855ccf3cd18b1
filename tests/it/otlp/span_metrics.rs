//! What Tempo's metrics generator makes of single spans: calls and latencies,
//! each span counted as often as it stands for. Keeps sums only.

#![allow(clippy::float_arithmetic, reason = "a span stands for 1 / ratio of them")]

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    exposition::{Bounds, Exposition},
    names::{self, Labels},
    received::Span,
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
/// Bounds of latencies, in seconds.
pub const BOUNDS: &[f64] = paystream::telemetry::catalog::SECONDS;
/// Sets of labels that are kept; more are not counted.
const SERIES_MAX: usize = 10_000;

/// How values spread.
#[derive(Default)]
pub struct Spread {
    counts: Vec<f64>,
    sum: f64,
    count: f64,
}

impl Spread {
    /// Adds a value that stands for so many.
    pub fn add(&mut self, value: f64, times: f64) {
        self.counts.resize(BOUNDS.len() + 1, 0.0);
        let bucket = BOUNDS.partition_point(|bound| *bound < value);
        self.counts[bucket] += times;
        self.sum += value * times;
        self.count += times;
    }

    /// Writes it, unless it is empty.
    pub fn write(&self, to: &mut Exposition, family: &str, help: &str, labels: &Labels) {
        if !self.counts.is_empty() {
            let bounds = (BOUNDS, Bounds::Shortest);
            to.histogram((family, help), labels, bounds, &self.counts, (self.sum, self.count));
        }
    }
}

/// How many spans this one stands for.
pub fn multiplier(span: &Span) -> f64 {
    let of = |attributes: &BTreeMap<String, Value>| {
        // As Tempo: a double, and nothing else.
        attributes.get(RATIO).filter(|ratio| ratio.is_f64())?.as_f64()
    };
    let ratio = of(&span.attributes).or_else(|| of(&span.resource));
    ratio.filter(|ratio| *ratio > 0.0).map_or(1.0, |ratio| 1.0 / ratio)
}

/// Calls and latencies.
#[derive(Default)]
pub struct SpanMetrics(BTreeMap<Labels, (f64, Spread)>);

impl SpanMetrics {
    /// Counts a span.
    pub fn add(&mut self, span: &Span) {
        let labels = labels(span);
        if self.0.len() < SERIES_MAX || self.0.contains_key(&labels) {
            let times = multiplier(span);
            let (calls, latency) = self.0.entry(labels).or_default();
            *calls += times;
            latency.add(span.seconds(), times);
        }
    }

    /// Writes all of it.
    pub fn write(&self, to: &mut Exposition) {
        for (labels, (calls, latency)) in &self.0 {
            let help = "Total count of the spans.";
            to.sample("traces_spanmetrics_calls_total", "counter", help, labels, *calls);
            latency.write(to, "traces_spanmetrics_latency", "Duration of the spans.", labels);
        }
    }
}

fn labels(span: &Span) -> Labels {
    let mut labels = names::origin(&span.resource);
    let of_its_own = [
        ("service", span.service()),
        ("span_name", &span.name),
        ("span_kind", span.kind.as_str_name()),
        ("status_code", span.status.as_str_name()),
    ];
    labels.extend(of_its_own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for name in DIMENSIONS {
        if let Some(value) = span.resource.get(name).or_else(|| span.attributes.get(name)) {
            labels.insert(names::label(name), names::label_value(value));
        }
    }
    labels
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
    use serde_json::json;

    use super::*;

    /// A span of a service that samples one in ten.
    pub fn span(service: &str, name: &str, kind: SpanKind, [id, parent]: [&str; 2]) -> Span {
        let resource = [("service.name", json!(service)), (RATIO, json!(0.1))];
        Span {
            resource: Arc::new(resource.map(|(name, value)| (name.to_owned(), value)).into()),
            trace_id: "trace".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            name: name.to_owned(),
            kind,
            attributes: BTreeMap::new(),
            links: Vec::new(),
            status: StatusCode::Unset,
            start: 1_000_000_000,
            end: 1_250_000_000,
        }
    }

    /// The samples of a name in a text.
    pub fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        text.lines().filter(of_name).collect()
    }

    #[test]
    fn a_span_counts_as_often_as_it_stands_for() {
        let mut one = span("g", "POST /x", SpanKind::Server, ["1", ""]);
        assert_eq!(multiplier(&one), 10.0);
        one.attributes.insert(RATIO.to_owned(), json!(1.0));
        assert_eq!(multiplier(&one), 1.0, "the span's own word counts first");
        one.attributes.insert(RATIO.to_owned(), json!(0.0));
        assert_eq!(multiplier(&one), 1.0, "nothing is not divided by");
    }

    #[test]
    fn calls_and_latencies_have_the_names_and_labels_of_tempo() {
        let mut metrics = SpanMetrics::default();
        let mut one = span("g", "POST /x", SpanKind::Server, ["1", ""]);
        one.attributes.insert("http.route".to_owned(), json!("/x"));
        one.attributes.insert("http.response.status_code".to_owned(), json!(503));
        one.attributes.insert("paystream.reference".to_owned(), json!("secret"));
        one.status = StatusCode::Error;
        metrics.add(&one);
        metrics.add(&one);
        let mut text = Exposition::default();
        metrics.write(&mut text);
        let text = text.text();
        let labels = "http_response_status_code=\"503\",http_route=\"/x\",job=\"g\",service=\"g\",\
                      span_kind=\"SPAN_KIND_SERVER\",span_name=\"POST /x\",\
                      status_code=\"STATUS_CODE_ERROR\"";
        assert_eq!(
            samples(&text, "traces_spanmetrics_calls_total"),
            [format!("traces_spanmetrics_calls_total{{{labels}}} 20")]
        );
        assert_eq!(
            samples(&text, "traces_spanmetrics_latency_sum"),
            [format!("traces_spanmetrics_latency_sum{{{labels}}} 5")]
        );
        assert_eq!(
            samples(&text, "traces_spanmetrics_latency_count"),
            [format!("traces_spanmetrics_latency_count{{{labels}}} 20")]
        );
        let buckets = samples(&text, "traces_spanmetrics_latency_bucket");
        let bucket = |bound: &str| {
            let line = buckets.iter().find(|line| line.contains(&format!("le=\"{bound}\"")));
            line.unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        // A bound holds what is equal to it.
        assert_eq!(["0.1", "0.25", "1", "+Inf"].map(bucket), ["0", "20", "20", "20"]);
    }
}

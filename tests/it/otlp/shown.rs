//! What Prometheus would scrape of the OpenTelemetry collector, Tempo's metrics and
//! the collector's own among them: names, labels and text. Keeps nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::{Duration, Instant},
};

use paystream::telemetry::catalog::METRICS;
use serde_json::Value;

use super::{
    Kept,
    received::{Attributes, Kind, Number, Series, text},
};

/// The content type of what is written.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How long a series is shown after it was reported last.
const EXPIRY: Duration = Duration::from_secs(45);
/// Resource attributes that become `job` and `instance`.
const IDENTITY: [&str; 3] = ["service.name", "service.namespace", "service.instance.id"];

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// Labels of these names and values.
pub fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The name of a label.
pub fn label(name: &str) -> String {
    name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
}

/// The value of a label.
pub fn label_value(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Where something comes from: `job` and `instance`.
pub fn origin(resource: &Attributes) -> Labels {
    let [name, namespace, instance] = IDENTITY.map(|attribute| text(resource, attribute));
    let job = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let mut origin = labels([("job", &job), ("instance", instance)]);
    origin.retain(|_, value| !value.is_empty());
    origin
}

/// Labels of these attributes of something from there.
fn labelled<'a>(
    attributes: impl Iterator<Item = (&'a String, &'a Value)>,
    resource: &Attributes,
) -> Labels {
    let mut labels: Labels =
        attributes.map(|(name, value)| (label(name), label_value(value))).collect();
    labels.extend(origin(resource));
    labels
}

impl Series {
    /// Its name in Prometheus. What is sent is in the catalogue.
    fn family(&self) -> String {
        let known = METRICS.iter().find(|metric| metric.name == self.name);
        known.map_or_else(|| label(&self.name), |metric| metric.prometheus_name())
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::UpDownCounter | Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A text to be, family by family.
#[derive(Default)]
struct Exposition(BTreeMap<String, String>);

impl Exposition {
    fn add(&mut self, [family, kind, help]: [&str; 3], labels: &Labels, value: &Number) {
        let text = self.0.entry(family.to_owned()).or_insert_with(|| {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            format!("# HELP {family} {help}\n# TYPE {family} {kind}\n")
        });
        let mut line = |end: &str, bound: Option<String>, value: f64| {
            let bound = bound.map(|bound| ("le".to_owned(), bound));
            let labels = labels.clone().into_iter().chain(bound);
            // Rust escapes quotes, backslashes and line ends as Prometheus does.
            let labels: Vec<String> =
                labels.map(|(name, value)| format!("{name}={value:?}")).collect();
            // Text grows without failing.
            let _ = writeln!(text, "{family}{end}{{{}}} {value}", labels.join(","));
        };
        match value {
            Number::Plain(value) => line("", None, *value),
            Number::Spread { bounds, counts, sum, count } => {
                let mut below = 0.0;
                for (number, counted) in counts.iter().enumerate() {
                    #[allow(clippy::float_arithmetic, reason = "buckets add up")]
                    {
                        below += counted;
                    }
                    let bound = bounds.get(number).map_or("+Inf".to_owned(), f64::to_string);
                    line("_bucket", Some(bound), below);
                }
                line("_sum", None, *sum);
                line("_count", None, *count);
            }
        }
    }
}

/// All of it.
pub fn page(kept: &mut Kept) -> String {
    let mut to = Exposition::default();
    let mut targets = BTreeSet::new();
    for one in kept.series.values().filter(|one| one.received.elapsed() <= EXPIRY) {
        let labels = labelled(one.attributes.iter().chain(&one.scope), &one.resource);
        to.add([&one.family(), one.type_name(), &one.description], &labels, &one.value);
        let rest = one.resource.iter().filter(|(name, _)| !IDENTITY.contains(&name.as_str()));
        targets.insert(labelled(rest, &one.resource));
    }
    for labels in targets {
        to.add(["target_info", "gauge", "Target metadata"], &labels, &Number::Plain(1.0));
    }
    kept.generator.expire(Instant::now());
    for ((name, labels), sum) in &kept.generator.sums {
        let kind = if matches!(sum, Number::Plain(_)) { "counter" } else { "histogram" };
        to.add([name, kind, "Made of spans."], labels, sum);
    }
    of_the_collector(kept, &mut to);
    to.0.into_values().collect()
}

/// What the collector says of itself. Under its Prometheus reader these counters
/// have no `_total`.
fn of_the_collector(kept: &Kept, to: &mut Exposition) {
    let mut tell = |name: &str, kind, labels, value: u64| {
        let family = format!("otelcol_{name}");
        to.add([&family, kind, "The collector's own."], &labels, &Number::Plain(value as f64));
    };
    for (what, exporter) in [("spans", "otlp_grpc/tempo"), ("metric_points", "prometheus")] {
        let mut sent = 0;
        for transport in ["grpc", "http"] {
            let labels = labels([("receiver", "otlp"), ("transport", transport)]);
            let [accepted, refused] = ["accepted", "refused"].map(|fate| {
                let key = (format!("{fate}_{what}"), transport);
                kept.counts.get(&key).copied().unwrap_or_default()
            });
            sent += accepted;
            tell(&format!("receiver_accepted_{what}"), "counter", labels.clone(), accepted);
            tell(&format!("receiver_refused_{what}"), "counter", labels, refused);
        }
        tell(&format!("exporter_sent_{what}"), "counter", labels([("exporter", exporter)]), sent);
    }
    let labels = labels([("data_type", "traces"), ("exporter", "otlp_grpc/tempo")]);
    // There is no queue here.
    tell("exporter_queue_size", "gauge", labels.clone(), 0);
    tell("exporter_queue_capacity", "gauge", labels, 1000);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::trace::v1::{
        span::SpanKind::{self, Client, Consumer, Internal, Producer, Server},
        status::StatusCode,
    };
    use serde_json::json;

    use super::*;
    use crate::otlp::{SPANS_MAX, received::Span};

    fn attributes(value: Value) -> Attributes {
        value.as_object().unwrap().clone().into_iter().collect()
    }

    fn series(name: &str, kind: Kind, value: Number) -> Series {
        let resource = json!({"service.namespace": "payments", "service.name": "worker",
            "service.instance.id": "w-1", "service.version": "1"});
        Series {
            resource: Arc::new(attributes(resource)),
            scope: attributes(json!({"otel.scope.name": "s"})),
            name: name.to_owned(),
            unit: String::new(),
            description: "What it \\ says.\nTwice.".to_owned(),
            kind,
            attributes: attributes(json!({"x.y": "a\"b"})),
            value,
            received: Instant::now(),
        }
    }

    /// A span of a service that samples one in ten.
    fn span(service: &str, kind: SpanKind, [id, parent]: [&str; 2], told: Value) -> Span {
        let resource = json!({"service.name": service, "paystream.trace.sample_ratio": 0.1});
        Span {
            resource: Arc::new(attributes(resource)),
            trace_id: "trace".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            name: "POST /x".to_owned(),
            kind,
            attributes: attributes(told),
            links: Vec::new(),
            status: StatusCode::Unset,
            start: 1_000_000_000,
            end: 1_250_000_000,
        }
    }

    /// The lines of a text that begin so.
    fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(start)).collect()
    }

    #[test]
    fn series_are_named_and_labelled_as_the_collector_does() {
        let spread = |count| Number::Spread {
            bounds: vec![0.005, 1.0],
            counts: vec![1.0, 2.0, count],
            sum: 9.5,
            count: 3.0 + count,
        };
        let mut old = series("paystream.partition.held", Kind::Gauge, Number::Plain(7.0));
        old.received = Instant::now().checked_sub(EXPIRY + Duration::from_secs(1)).unwrap();
        let mut kept = Kept::default();
        kept.add_series(vec![
            series("paystream.payments.received", Kind::Counter, Number::Plain(1.0)),
            series("http.server.request.duration", Kind::Histogram, spread(9.0)),
            // Later values of the same process, and one that is not reported any more.
            series("paystream.payments.received", Kind::Counter, Number::Plain(7.0)),
            series("http.server.request.duration", Kind::Histogram, spread(4.0)),
            old,
        ]);
        let text = page(&mut kept);
        let own = text.find("# HELP otelcol").unwrap()..text.find("# HELP paystream").unwrap();
        let told = [&text[..own.start], &text[own.end..]].concat();
        let origin = "instance=\"w-1\",job=\"payments/worker\"";
        let rest = "otel_scope_name=\"s\",x_y=\"a\\\"b\"";
        let duration = "http_server_request_duration_seconds";
        assert_eq!(
            told,
            format!(
                "# HELP {duration} What it \\\\ says.\\nTwice.\n\
                 # TYPE {duration} histogram\n\
                 {duration}_bucket{{{origin},{rest},le=\"0.005\"}} 1\n\
                 {duration}_bucket{{{origin},{rest},le=\"1\"}} 3\n\
                 {duration}_bucket{{{origin},{rest},le=\"+Inf\"}} 7\n\
                 {duration}_sum{{{origin},{rest}}} 9.5\n\
                 {duration}_count{{{origin},{rest}}} 7\n\
                 # HELP paystream_payments_received_total What it \\\\ says.\\nTwice.\n\
                 # TYPE paystream_payments_received_total counter\n\
                 paystream_payments_received_total{{{origin},{rest}}} 7\n\
                 # HELP target_info Target metadata\n\
                 # TYPE target_info gauge\n\
                 target_info{{{origin},service_version=\"1\"}} 1\n"
            )
        );
    }

    #[test]
    fn calls_and_latencies_have_the_names_and_labels_of_tempo() {
        let told = json!({"http.route": "/x", "http.response.status_code": 503,
            "paystream.reference": "secret"});
        let mut failed = span("g", Server, ["1", ""], told);
        failed.status = StatusCode::Error;
        let mut kept = Kept::default();
        kept.add_spans([failed.clone(), failed.clone()].into_iter());
        // A span's own ratio counts first, and nothing is not divided by.
        for ratio in [1.0, 0.0] {
            failed.attributes.insert("paystream.trace.sample_ratio".to_owned(), json!(ratio));
            kept.add_spans([failed.clone()].into_iter());
        }
        let text = page(&mut kept);
        let labels = "http_response_status_code=\"503\",http_route=\"/x\",job=\"g\",service=\"g\",\
                      span_kind=\"SPAN_KIND_SERVER\",span_name=\"POST /x\",\
                      status_code=\"STATUS_CODE_ERROR\"";
        for (name, value) in
            [("calls_total", "22"), ("latency_sum", "5.5"), ("latency_count", "22")]
        {
            let name = format!("traces_spanmetrics_{name}");
            assert_eq!(lines(&text, &name), [format!("{name}{{{labels}}} {value}")]);
        }
        // A bound holds what is equal to it.
        for (bound, value) in [("0.1", "0"), ("0.25", "22"), ("1", "22"), ("+Inf", "22")] {
            let bucket =
                format!("traces_spanmetrics_latency_bucket{{{labels},le=\"{bound}\"}} {value}");
            assert!(text.contains(&bucket), "{bucket}: {text}");
        }
    }

    #[test]
    fn calls_between_services_are_found_as_tempo_does() {
        let sent = span("g", Producer, ["send", "post"], json!({}));
        let mut taken = span("w", Consumer, ["take", "send"], json!({}));
        // It waited for a quarter of a second in the stream.
        taken.start = sent.end + 250_000_000;
        let mut failed = span("b", Server, ["2", "1"], json!({}));
        failed.status = StatusCode::Error;
        let roots = ["1", "2"].map(|id| span("g", Server, [id, ""], json!({})));
        let insert = |told| span("w", Client, ["1", "0"], told);
        let message = vec![
            "client_seconds_count{client=\"g\",connection_type=\"messaging_system\",server=\"w\"} 10",
            "messaging_system_seconds_sum{client=\"g\",connection_type=\"messaging_system\",server=\"w\"} 2.5",
            "server_seconds_count{client=\"g\",connection_type=\"messaging_system\",server=\"w\"} 10",
            "total{client=\"g\",connection_type=\"messaging_system\",server=\"w\"} 10",
        ];
        let cases = [
            // A producer and a consumer, whichever comes first.
            (vec![sent.clone(), taken.clone()], message.clone(), message.clone()),
            (vec![taken, sent], message.clone(), message),
            // A failure on either side is one.
            (
                vec![span("a", Client, ["1", ""], json!({})), failed],
                vec!["failed_total{client=\"a\",connection_type=\"\",server=\"b\"} 10"],
                vec!["failed_total{client=\"a\",connection_type=\"\",server=\"b\"} 10"],
            ),
            // Roots were called by a user, once no other half came.
            (
                roots.into(),
                vec![],
                vec!["total{client=\"user\",connection_type=\"virtual_node\",server=\"g\"} 20"],
            ),
            // A database is a node by its system, or at once by its name.
            (
                vec![insert(json!({"db.system.name": "postgresql"}))],
                vec![],
                vec![
                    "total{client=\"w\",connection_type=\"virtual_node\",server=\"postgresql\"} 10",
                ],
            ),
            (
                vec![insert(json!({"db.system.name": "postgresql", "db.namespace": "ledger"}))],
                vec!["total{client=\"w\",connection_type=\"database\",server=\"ledger\"} 10"],
                vec!["total{client=\"w\",connection_type=\"database\",server=\"ledger\"} 10"],
            ),
            // A half that names nobody is forgotten.
            (vec![insert(json!({})), span("w", Internal, ["2", "0"], json!({}))], vec![], vec![]),
        ];
        for (spans, at_once, later) in cases {
            let mut kept = Kept::default();
            kept.add_spans(spans.into_iter());
            for (wanted, wait) in [(at_once, 0), (later, 10)] {
                kept.generator.expire(Instant::now() + Duration::from_secs(wait));
                let text = page(&mut kept);
                let told = lines(&text, "traces_service_graph_request_");
                for one in &wanted {
                    let line = format!("traces_service_graph_request_{one}");
                    assert!(told.contains(&line.as_str()), "{line}: {told:#?}");
                }
                assert_eq!(told.is_empty(), wanted.is_empty(), "{told:#?}");
                let fails = wanted.iter().any(|one| one.starts_with("failed"));
                assert_eq!(text.contains("request_failed_total"), fails, "{told:#?}");
            }
        }
    }

    #[test]
    fn it_counts_all_as_the_collector_does_and_keeps_spans_within_bounds() {
        let mut kept = Kept::default();
        kept.count("accepted_spans", "grpc", 2);
        let one = span("g", Internal, ["1", ""], json!({}));
        kept.add_spans(std::iter::repeat_n(one, SPANS_MAX + 1));
        assert_eq!(kept.spans.len(), SPANS_MAX);
        let text = page(&mut kept);
        for line in [
            "otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"grpc\"} 2",
            "otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"http\"} 0",
            "otelcol_receiver_refused_metric_points{receiver=\"otlp\",transport=\"http\"} 0",
            "otelcol_exporter_sent_spans{exporter=\"otlp_grpc/tempo\"} 2",
        ] {
            assert_eq!(lines(&text, line), [line]);
        }
    }
}

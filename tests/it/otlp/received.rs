//! What was received, in plain values that tests and labels can be made of.
//! Turns OTLP into them; keeps nothing.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{
        self as metrics, AggregationTemporality, ResourceMetrics, metric::Data, number_data_point,
    },
    trace::v1::{self as trace, ResourceSpans, span::SpanKind, status::StatusCode},
};
use serde_json::{Value, json};

/// Attributes by name.
pub type Attributes = BTreeMap<String, Value>;

/// A span.
#[derive(Clone, Debug)]
pub struct Span {
    pub resource: Arc<Attributes>,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for a root.
    pub parent_id: String,
    pub name: String,
    pub kind: SpanKind,
    pub attributes: Attributes,
    pub links: Vec<Link>,
    pub status: StatusCode,
    /// Nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
}

/// A span's link to another one.
#[derive(Clone, Debug)]
pub struct Link {
    pub trace_id: String,
    pub span_id: String,
}

/// A metric's last value under one set of attributes.
#[derive(Clone, Debug)]
pub struct Series {
    pub resource: Arc<Attributes>,
    /// Who made it, as attributes that the collector gives it.
    pub scope: Attributes,
    pub name: String,
    pub unit: String,
    pub description: String,
    pub kind: Kind,
    pub attributes: Attributes,
    pub value: Number,
    pub received: Instant,
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    UpDownCounter,
    Gauge,
    Histogram,
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    Plain(f64),
    /// `counts` has one more than `bounds`, and does not add up.
    Spread {
        bounds: Vec<f64>,
        counts: Vec<f64>,
        sum: f64,
        count: f64,
    },
}

impl Span {
    /// The name of the service it is from.
    pub fn service(&self) -> &str {
        text(&self.resource, "service.name")
    }

    /// How long it lasted, in seconds.
    pub fn seconds(&self) -> f64 {
        seconds(self.start, self.end)
    }
}

impl Series {
    /// What makes it another one.
    pub fn key(&self) -> String {
        let process = self.resource.iter().filter(|(name, _)| name.starts_with("service."));
        let pairs: Vec<_> = process.chain(&self.scope).chain(&self.attributes).collect();
        format!("{} {pairs:?}", self.name)
    }
}

/// From one instant to another; nothing if they are the wrong way round.
#[allow(clippy::float_arithmetic, reason = "times are exported as seconds")]
pub fn seconds(start: u64, end: u64) -> f64 {
    end.saturating_sub(start) as f64 / 1e9
}

/// An attribute that is text, or nothing.
pub fn text<'a>(attributes: &'a Attributes, name: &str) -> &'a str {
    attributes.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Spans as they were sent.
pub fn spans(sent: Vec<ResourceSpans>) -> impl Iterator<Item = Span> {
    sent.into_iter().flat_map(|of_one| {
        let resource = Arc::new(attributes(of_one.resource.unwrap_or_default().attributes));
        let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |one| span(&resource, one))
    })
}

fn span(resource: &Arc<Attributes>, span: trace::Span) -> Span {
    let links = span
        .links
        .into_iter()
        .map(|link| Link { trace_id: hex(&link.trace_id), span_id: hex(&link.span_id) });
    Span {
        resource: Arc::clone(resource),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_id: hex(&span.parent_span_id),
        kind: SpanKind::try_from(span.kind).unwrap_or_default(),
        name: span.name,
        attributes: attributes(span.attributes),
        links: links.collect(),
        status: StatusCode::try_from(span.status.unwrap_or_default().code).unwrap_or_default(),
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
    }
}

/// Metrics as they were sent. What is neither a sum, a gauge nor a histogram
/// with bounds is left out, and so is what does not count from the start.
pub fn series(sent: Vec<ResourceMetrics>) -> Vec<Series> {
    let mut all = Vec::new();
    for of_one in sent {
        let resource = Arc::new(attributes(of_one.resource.unwrap_or_default().attributes));
        for of_scope in of_one.scope_metrics {
            let from = of_scope.scope.unwrap_or_default();
            let scope = [
                ("name", from.name),
                ("version", from.version),
                ("schema_url", of_scope.schema_url),
            ];
            let scope: Attributes =
                scope.map(|(part, value)| (format!("otel.scope.{part}"), json!(value))).into();
            for mut metric in of_scope.metrics {
                let Some((kind, points)) = points(metric.data.take()) else { continue };
                all.extend(points.into_iter().map(|(attributes, value)| Series {
                    resource: Arc::clone(&resource),
                    scope: scope.clone(),
                    name: metric.name.clone(),
                    unit: metric.unit.clone(),
                    description: metric.description.clone(),
                    kind,
                    attributes,
                    value,
                    received: Instant::now(),
                }));
            }
        }
    }
    all
}

type Points = Vec<(Attributes, Number)>;

fn points(data: Option<Data>) -> Option<(Kind, Points)> {
    let cumulative = |temporality| temporality == AggregationTemporality::Cumulative as i32;
    match data? {
        Data::Gauge(gauge) => Some((Kind::Gauge, plain(gauge.data_points))),
        Data::Sum(sum) if cumulative(sum.aggregation_temporality) => {
            let kind = if sum.is_monotonic { Kind::Counter } else { Kind::UpDownCounter };
            Some((kind, plain(sum.data_points)))
        }
        Data::Histogram(histogram) if cumulative(histogram.aggregation_temporality) => {
            Some((Kind::Histogram, histogram.data_points.into_iter().map(spread).collect()))
        }
        Data::Sum(_) | Data::Histogram(_) | Data::ExponentialHistogram(_) | Data::Summary(_) => {
            None
        }
    }
}

fn plain(points: Vec<metrics::NumberDataPoint>) -> Points {
    let points = points.into_iter().filter_map(|point| {
        let value = match point.value? {
            number_data_point::Value::AsDouble(value) => value,
            number_data_point::Value::AsInt(value) => value as f64,
        };
        Some((attributes(point.attributes), Number::Plain(value)))
    });
    points.collect()
}

fn spread(point: metrics::HistogramDataPoint) -> (Attributes, Number) {
    let value = Number::Spread {
        bounds: point.explicit_bounds,
        counts: point.bucket_counts.iter().map(|count| *count as f64).collect(),
        sum: point.sum.unwrap_or_default(),
        count: point.count as f64,
    };
    (attributes(point.attributes), value)
}

fn attributes(sent: Vec<KeyValue>) -> Attributes {
    sent.into_iter().map(|pair| (pair.key, value(pair.value))).collect()
}

fn value(sent: Option<AnyValue>) -> Value {
    use any_value::Value as Sent;
    match sent.and_then(|sent| sent.value) {
        None => Value::Null,
        Some(Sent::StringValue(text)) => json!(text),
        Some(Sent::BoolValue(truth)) => json!(truth),
        Some(Sent::IntValue(number)) => json!(number),
        Some(Sent::DoubleValue(number)) => json!(number),
        Some(Sent::BytesValue(bytes)) => json!(hex(&bytes)),
        Some(Sent::ArrayValue(array)) => {
            array.values.into_iter().map(|one| value(Some(one))).collect()
        }
        Some(Sent::KvlistValue(list)) => attributes(list.values).into_iter().collect(),
        // Of profiles only.
        Some(Sent::StringValueStrindex(_)) => Value::Null,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

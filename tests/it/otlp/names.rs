//! How the OpenTelemetry collector's Prometheus exporter names things: metrics,
//! labels, and where they come from. Knows no value.

use std::collections::BTreeMap;

use serde_json::Value;

use super::received::{Attributes, Kind, Scope, Series, text};

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// Resource attributes that become `job` and `instance`.
const IDENTITY: [&str; 3] = ["service.name", "service.namespace", "service.instance.id"];

/// The name of a metric.
pub fn metric(name: &str, unit: &str, kind: Kind) -> String {
    let mut words: Vec<String> = name
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != ':')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    for suffix in unit_words(unit) {
        if !words.contains(&suffix) {
            words.push(suffix);
        }
    }
    let last = match (kind, unit) {
        (Kind::Counter, _) => Some("total"),
        (Kind::Gauge, "1") => Some("ratio"),
        (Kind::Gauge | Kind::UpDownCounter | Kind::Histogram, _) => None,
    };
    if let Some(last) = last {
        words.retain(|word| word != last);
        words.push(last.to_owned());
    }
    let name = words.join("_");
    if name.starts_with(|letter: char| letter.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// What a unit adds to a name.
fn unit_words(unit: &str) -> Vec<String> {
    let (unit, per) = unit.split_once('/').unwrap_or((unit, ""));
    let mut words = Vec::new();
    words.extend(unit_word(unit));
    if let Some(per) = unit_word(per) {
        words.extend(["per".to_owned(), per.strip_suffix('s').unwrap_or(&per).to_owned()]);
    }
    words
}

fn unit_word(unit: &str) -> Option<String> {
    let word = match unit.trim() {
        "" | "1" => return None,
        annotation if annotation.contains('{') => return None,
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "Hz" => "hertz",
        "%" => "percent",
        other => other,
    };
    Some(word.to_owned())
}

/// The name of a label.
pub fn label(name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
    let label: String = name.chars().map(plain).collect();
    if label.starts_with(|letter: char| letter.is_ascii_digit()) {
        format!("key_{label}")
    } else {
        label
    }
}

/// The value of a label.
pub fn label_value(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Adds labels of attributes. Two that come to the same name are joined.
fn add(labels: &mut Labels, attributes: &Attributes) {
    for (name, value) in attributes {
        let value = label_value(value);
        labels
            .entry(label(name))
            .and_modify(|joined| *joined = format!("{joined};{value}"))
            .or_insert(value);
    }
}

/// Where something comes from: `job` and `instance`.
pub fn origin(resource: &Attributes) -> Labels {
    let [name, namespace, instance] = IDENTITY.map(|attribute| text(resource, attribute));
    let job = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let labels = [("job", job), ("instance", instance.to_owned())];
    let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
    labels.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Labels of a series.
pub fn labels(series: &Series) -> Labels {
    let mut labels = Labels::new();
    add(&mut labels, &series.attributes);
    labels.extend(origin(&series.resource));
    let Scope { name, version, schema_url } = &series.scope;
    let scope = [("name", name), ("version", version), ("schema_url", schema_url)];
    labels.extend(scope.map(|(part, value)| (format!("otel_scope_{part}"), value.clone())));
    labels
}

/// Labels of `target_info`; none when there is nothing to tell.
pub fn target(resource: &Attributes) -> Option<Labels> {
    let rest = resource.iter().filter(|(name, _)| !IDENTITY.contains(&name.as_str()));
    let rest: Attributes = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
    let origin = origin(resource);
    if rest.is_empty() || origin.is_empty() {
        return None;
    }
    let mut labels = Labels::new();
    add(&mut labels, &rest);
    labels.extend(origin);
    Some(labels)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use paystream::telemetry::catalog::{self, METRICS};
    use serde_json::json;

    use super::*;
    use crate::otlp::received::Number;

    fn attributes(pairs: &[(&str, Value)]) -> Attributes {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn resource() -> Attributes {
        attributes(&[
            ("service.name", json!("paystream-worker")),
            ("service.namespace", json!("payments")),
            ("service.instance.id", json!("w-1")),
            ("service.version", json!("0.1.0")),
            ("paystream.trace.sample_ratio", json!(0.01)),
        ])
    }

    fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
        labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn metrics_are_named_by_their_unit_and_kind() {
        use Kind::{Counter, Gauge, Histogram, UpDownCounter};
        for (name, unit, kind, wanted) in [
            // Dots become underscores, one for many.
            ("paystream.queue.depth", "", Gauge, "paystream_queue_depth"),
            ("a..b-c", "", Gauge, "a_b_c"),
            // Units become suffixes, unless the name has them or they are in braces.
            ("a.age", "s", Gauge, "a_age_seconds"),
            ("a.used", "By", UpDownCounter, "a_used_bytes"),
            ("a.duration", "ms", Histogram, "a_duration_milliseconds"),
            ("a.rate", "By/s", Gauge, "a_rate_bytes_per_second"),
            ("a.seconds", "s", Gauge, "a_seconds"),
            ("a.depth", "{message}", Gauge, "a_depth"),
            // Gauges without a unit of their own are ratios.
            ("cpu.utilization", "1", Gauge, "cpu_utilization_ratio"),
            ("a.size", "1", Histogram, "a_size"),
            ("a.size", "1", UpDownCounter, "a_size"),
            // Counters end in total, once, after the unit; what goes down again does not.
            ("a.cpu", "s", Counter, "a_cpu_seconds_total"),
            ("a.total", "{call}", Counter, "a_total"),
            ("a.things", "1", Counter, "a_things_total"),
            ("a.active", "{request}", UpDownCounter, "a_active"),
            // No name begins with a digit.
            ("5xx.answers", "", Counter, "_5xx_answers_total"),
        ] {
            assert_eq!(metric(name, unit, kind), wanted, "{name} in {unit}, a {kind:?}");
        }
    }

    #[test]
    fn labels_are_letters_digits_and_underscores() {
        assert_eq!(label("http.request.method"), "http_request_method");
        assert_eq!(label("5xx"), "key_5xx");
        let mut labels = Labels::new();
        add(&mut labels, &attributes(&[("a.b", json!("x")), ("a_b", json!(2))]));
        assert_eq!(pairs(&labels), [("a_b", "x;2")], "joined");
    }

    #[test]
    fn job_is_namespace_and_name_and_instance_the_id() {
        let labels = origin(&resource());
        assert_eq!(pairs(&labels), [("instance", "w-1"), ("job", "payments/paystream-worker")]);
        let labels = origin(&attributes(&[("service.name", json!("alone"))]));
        assert_eq!(pairs(&labels), [("job", "alone")]);
    }

    #[test]
    fn target_info_has_what_is_left_of_the_resource() {
        let labels = target(&resource()).unwrap();
        assert_eq!(
            pairs(&labels),
            [
                ("instance", "w-1"),
                ("job", "payments/paystream-worker"),
                ("paystream_trace_sample_ratio", "0.01"),
                ("service_version", "0.1.0"),
            ]
        );
        assert_eq!(target(&attributes(&[("service.name", json!("alone"))])), None);
    }

    #[test]
    fn a_series_is_labelled_with_its_scope_and_origin() {
        let series = Series {
            resource: Arc::new(resource()),
            scope: Scope { name: "paystream".to_owned(), ..Scope::default() },
            name: String::new(),
            unit: String::new(),
            description: String::new(),
            kind: Kind::Counter,
            attributes: attributes(&[("paystream.outcome", json!("applied"))]),
            value: Number::Plain(1.0),
            received: Instant::now(),
        };
        assert_eq!(
            pairs(&labels(&series)),
            [
                ("instance", "w-1"),
                ("job", "payments/paystream-worker"),
                ("otel_scope_name", "paystream"),
                ("otel_scope_schema_url", ""),
                ("otel_scope_version", ""),
                ("paystream_outcome", "applied"),
            ]
        );
    }

    #[test]
    fn the_catalogue_says_the_same_names() {
        for one in METRICS {
            let kind = match one.kind {
                catalog::Instrument::Counter => Kind::Counter,
                catalog::Instrument::UpDownCounter => Kind::UpDownCounter,
                catalog::Instrument::Gauge => Kind::Gauge,
                catalog::Instrument::Histogram(_) => Kind::Histogram,
            };
            assert_eq!(metric(one.name, one.unit, kind), one.prometheus_name());
        }
    }
}

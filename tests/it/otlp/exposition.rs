//! Prometheus' text format. Writes what it is told; names nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::{Duration, Instant},
};

use super::{
    names::{self, Labels},
    received::{Kind, Number, Series},
};

/// The content type of what is written.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text to be, family by family.
#[derive(Default)]
pub struct Exposition {
    families: BTreeMap<String, (String, String)>,
}

/// How a bound is written in `le`.
#[derive(Clone, Copy)]
pub enum Bounds {
    /// `1.0`, as the collector.
    Decimal,
    /// `1`, as Tempo.
    Shortest,
}

impl Bounds {
    fn text(self, bound: f64) -> String {
        match self {
            Self::Decimal => format!("{bound:?}"),
            Self::Shortest => format!("{bound}"),
        }
    }
}

impl Exposition {
    /// A sample of a family.
    pub fn sample(&mut self, family: &str, kind: &str, help: &str, labels: &Labels, value: f64) {
        let text = self.family(family, kind, help);
        line(text, family, labels, None, value);
    }

    /// A histogram of a family. `counts` has one more than `bounds`.
    #[allow(clippy::float_arithmetic, reason = "buckets add up")]
    pub fn histogram(
        &mut self,
        (family, help): (&str, &str),
        labels: &Labels,
        (bounds, style): (&[f64], Bounds),
        counts: &[f64],
        (sum, count): (f64, f64),
    ) {
        let text = self.family(family, "histogram", help);
        let mut below = 0.0;
        for (number, counted) in counts.iter().enumerate() {
            below += counted;
            let bound = bounds.get(number).map_or("+Inf".to_owned(), |bound| style.text(*bound));
            line(text, &format!("{family}_bucket"), labels, Some(&bound), below);
        }
        line(text, &format!("{family}_sum"), labels, None, sum);
        line(text, &format!("{family}_count"), labels, None, count);
    }

    /// Series that were received within this time, and their targets.
    pub fn series<'a>(&mut self, series: impl Iterator<Item = &'a Series>, within: Duration) {
        let now = Instant::now();
        let mut targets = BTreeSet::new();
        for one in series.filter(|one| now.duration_since(one.received) <= within) {
            targets.extend(names::target(&one.resource));
            self.one(one);
        }
        for labels in targets {
            self.sample("target_info", "gauge", "Target metadata", &labels, 1.0);
        }
    }

    fn one(&mut self, series: &Series) {
        let family = names::metric(&series.name, &series.unit, series.kind);
        let (labels, help) = (names::labels(series), &series.description);
        let kind = match series.kind {
            Kind::Counter => "counter",
            Kind::UpDownCounter | Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        match &series.value {
            Number::Plain(value) => self.sample(&family, kind, help, &labels, *value),
            Number::Spread { bounds, counts, sum, count } => {
                let bounds = (bounds.as_slice(), Bounds::Decimal);
                self.histogram((&family, help), &labels, bounds, counts, (*sum, *count));
            }
        }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut String {
        let begin = || {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            (format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"), String::new())
        };
        &mut self.families.entry(name.to_owned()).or_insert_with(begin).1
    }

    /// All of it.
    pub fn text(self) -> String {
        let families = self.families.into_values();
        families.map(|(head, samples)| head + &samples).collect()
    }
}

fn line(text: &mut String, name: &str, labels: &Labels, bound: Option<&str>, value: f64) {
    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let labels: Vec<String> = labels
        .chain(bound.map(|bound| ("le", bound)))
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    let labels =
        if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    // Text grows without failing. Rust's `inf` is Prometheus' too.
    let _ = writeln!(text, "{name}{labels} {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::otlp::received::Scope;

    fn series(name: &str, unit: &str, kind: Kind, value: Number) -> Series {
        let resource = [("service.name", "a"), ("service.version", "1")];
        Series {
            resource: Arc::new(resource.map(|(k, v)| (k.to_owned(), json!(v))).into()),
            scope: Scope { name: "s".to_owned(), ..Scope::default() },
            name: name.to_owned(),
            unit: unit.to_owned(),
            description: "What it \\ says.\nTwice.".to_owned(),
            kind,
            attributes: [("x.y".to_owned(), json!("a\"b"))].into(),
            value,
            received: Instant::now(),
        }
    }

    #[test]
    fn a_counter_is_one_line_under_its_help() {
        let one = series("a.b", "{c}", Kind::Counter, Number::Plain(7.0));
        let mut text = Exposition::default();
        text.series([&one].into_iter(), Duration::from_secs(45));
        let scope = "otel_scope_name=\"s\",otel_scope_schema_url=\"\",otel_scope_version=\"\"";
        assert_eq!(
            text.text(),
            format!(
                "# HELP a_b_total What it \\\\ says.\\nTwice.\n# TYPE a_b_total counter\n\
                 a_b_total{{job=\"a\",{scope},x_y=\"a\\\"b\"}} 7\n\
                 # HELP target_info Target metadata\n# TYPE target_info gauge\n\
                 target_info{{job=\"a\",service_version=\"1\"}} 1\n"
            )
        );
    }

    #[test]
    fn buckets_add_up_to_infinity() {
        let value = Number::Spread {
            bounds: vec![0.005, 1.0],
            counts: vec![1.0, 2.0, 4.0],
            sum: 9.5,
            count: 7.0,
        };
        let one = series("d", "s", Kind::Histogram, value);
        let mut text = Exposition::default();
        text.series([&one].into_iter(), Duration::from_secs(45));
        let text = text.text();
        let samples: Vec<(&str, &str)> = text
            .lines()
            .filter(|line| line.starts_with("d_seconds"))
            .map(|line| (line.split('{').next().unwrap(), line.rsplit(',').next().unwrap()))
            .collect();
        assert_eq!(
            samples,
            [
                ("d_seconds_bucket", "le=\"0.005\"} 1"),
                ("d_seconds_bucket", "le=\"1.0\"} 3"),
                ("d_seconds_bucket", "le=\"+Inf\"} 7"),
                ("d_seconds_sum", "x_y=\"a\\\"b\"} 9.5"),
                ("d_seconds_count", "x_y=\"a\\\"b\"} 7"),
            ]
        );
        assert!(text.contains("# TYPE d_seconds histogram\n"));
    }

    #[test]
    fn what_is_not_reported_any_more_is_dropped() {
        let mut one = series("a.b", "", Kind::Gauge, Number::Plain(7.0));
        one.received = Instant::now().checked_sub(Duration::from_secs(46)).unwrap();
        let mut text = Exposition::default();
        text.series([&one].into_iter(), Duration::from_secs(45));
        assert_eq!(text.text(), "");
    }

    #[test]
    fn bounds_are_written_as_their_source_does() {
        assert_eq!(
            (Bounds::Decimal.text(1.0), Bounds::Shortest.text(1.0)),
            ("1.0".into(), "1".into())
        );
        assert_eq!(Bounds::Shortest.text(0.002), "0.002");
    }
}

//! Proves that the dashboards and alerts say what the services report: every
//! metric, label and value they name is in the catalogue, every metric of the
//! catalogue is looked at somewhere, every panel and alert says what to do, and
//! the RUNBOOK knows it. Starts nothing but python3, promtool, amtool and Alertmanager.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use paystream::telemetry::catalog::{Instrument, METRICS, Metric};

mod alertmanager;
mod boards;
mod collector;
mod queries;
mod rules;
mod sources;

pub use queries::parsed;
use queries::{Use, uses};
use sources::{Language, Panel, Query, Rule, filled_in, panels};
pub use sources::{files, read, yaml};

/// Metrics of others, and the labels that we rely on.
const FOREIGN: &[(&str, &[&str])] = &[
    ("up", &[]),
    (
        "ALERTS",
        &[
            "alertname",
            "alertstate",
            "severity",
            "paystream_role",
            "paystream_worker",
            "paystream_partition",
            "paystream_dependency",
            "mountpoint",
            "exporter",
            "receiver",
            "replication_client",
        ],
    ),
    ("target_info", &["service_version"]),
    // Of the collector's receivers.
    ("httpcheck_status", &["http_url", "http_status_class"]),
    ("nginx_connections_current", &["state"]),
    ("redis_replication_offset_bytes", &[]),
    ("redis_replication_replica_offset_bytes", &[]),
    ("redis_slaves_connected", &[]),
    ("redis_clients_connected", &[]),
    ("postgresql_backends", &[]),
    ("postgresql_connection_max", &[]),
    ("postgresql_commits_total", &[]),
    ("postgresql_rollbacks_total", &[]),
    ("postgresql_deadlocks_total", &[]),
    ("postgresql_replication_data_delay_bytes", &["replication_client"]),
    ("postgresql_lock_wait_age_seconds", &[]),
    ("system_filesystem_usage_bytes", &["device", "mountpoint", "state", "type", "mode"]),
    ("system_cpu_load_average_1m", &[]),
    ("system_memory_usage_bytes", &["state"]),
    // Of the collector itself.
    ("otelcol_receiver_accepted_spans", &[]),
    ("otelcol_receiver_refused_spans", &["receiver"]),
    ("otelcol_exporter_sent_spans", &[]),
    ("otelcol_exporter_send_failed_spans", &["exporter"]),
    ("otelcol_exporter_queue_size", &["exporter"]),
    ("otelcol_exporter_queue_capacity", &["exporter"]),
    ("otelcol_scraper_scraped_metric_points", &["receiver", "scraper"]),
    // Of Tempo.
    ("traces_spanmetrics_calls_total", &["service", "span_name", "span_kind", "status_code"]),
    (
        "traces_spanmetrics_latency_bucket",
        &["service", "span_name", "span_kind", "status_code", "le"],
    ),
    ("traces_service_graph_request_total", &["client", "server"]),
    ("traces_service_graph_request_failed_total", &["client", "server"]),
    ("traces_service_graph_request_server_seconds_bucket", &["client", "server", "le"]),
    ("traces_service_graph_request_messaging_system_seconds_bucket", &["client", "server", "le"]),
];
/// What Prometheus knows a process by.
const OF_THE_PROCESS: &[&str] = &["job", "instance"];
/// Spans, and their attributes that searches for traces may name.
const SPANS: &[&str] = &[
    "POST /api/v1/payments",
    "send payments",
    "receive payments",
    "process payments",
    "INSERT processed_transactions",
    "ack payments",
];
const SPAN_ATTRIBUTES: &[&str] = &[
    "http.response.status_code",
    "error.type",
    "paystream.reference",
    "paystream.outcome",
    "paystream.attempt",
    "db.operation.batch.size",
];

/// A metric of the catalogue by one of its names in Prometheus.
pub fn catalogued(name: &str) -> Option<&'static Metric> {
    METRICS.iter().copied().find(|metric| {
        let ours = metric.prometheus_name();
        match metric.kind {
            Instrument::Histogram(_) => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|end| name.strip_suffix(end) == Some(ours.as_str())),
            Instrument::Counter | Instrument::UpDownCounter | Instrument::Gauge => name == ours,
        }
    })
}

/// Every query of Prometheus with where it stands and its legend.
fn prometheus_queries() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut add = |place: String, queries: Vec<Query>| {
        let ours = queries.into_iter().filter(|query| query.language == Language::PromQl);
        found.extend(ours.map(|Query { text, legend, .. }| {
            (place.clone(), filled_in(&text, "1m", "1h"), legend)
        }));
    };
    for board in sources::boards() {
        board.panels.into_iter().for_each(|panel| {
            add(format!("{}: {}", panel.board, panel.title), panel.queries);
        });
        add(format!("{}: annotations", board.title), board.annotations);
    }
    found.extend(sources::rules().into_iter().map(|rule| (rule.name, rule.expr, String::new())));
    assert!(found.len() > 100, "queries are found");
    found
}

/// Says what is wrong with how a query names a metric.
fn fault(one: &Use, recorded: &BTreeSet<String>) -> Option<String> {
    let attributes: Vec<String> = if let Some(metric) = catalogued(&one.metric) {
        let bucket = one.metric.ends_with("_bucket").then(|| "le".to_owned());
        metric.attributes.iter().map(|name| name.replace('.', "_")).chain(bucket).collect()
    } else if let Some((_, labels)) = FOREIGN.iter().find(|(name, _)| *name == one.metric) {
        labels.iter().map(|&label| label.to_owned()).collect()
    } else if recorded.contains(&one.metric) {
        Vec::new()
    } else {
        return Some(format!("{} is in no list", one.metric));
    };
    for (label, values) in &one.labels {
        if OF_THE_PROCESS.contains(&label.as_str()) {
            continue;
        }
        if !attributes.contains(label) {
            return Some(format!("{} has no {label}", one.metric));
        }
        // What a catalogued attribute can be stands in the metric's description.
        let Some(metric) = catalogued(&one.metric).filter(|_| label != "le") else { continue };
        let words: Vec<&str> =
            metric.description.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        if let Some(value) = values.iter().find(|value| !words.contains(&value.as_str())) {
            return Some(format!("{} is never told apart as {value}", one.metric));
        }
    }
    let named = one.labels.get("span_name").into_iter().flatten();
    let unknown = named.into_iter().find(|name| !SPANS.contains(&name.as_str()));
    unknown.map(|name| format!("{name} is no span"))
}

#[test]
fn queries_name_what_the_services_report() {
    let rules = sources::rules().into_iter();
    let recorded = rules.filter(|rule| rule.alert.is_none()).map(|rule| rule.name).collect();
    let mut faults = Vec::new();
    for (place, query, legend) in prometheus_queries() {
        let uses = uses(&parsed(&query));
        faults.extend(
            uses.iter()
                .filter_map(|one| fault(one, &recorded))
                .map(|told| format!("{place}: {told}")),
        );
        for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
            if !uses.iter().any(|one| one.labels.contains_key(label)) {
                faults.push(format!("{place}: nothing is told apart by {label}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_metric_is_looked_at() {
    let queries = prometheus_queries();
    let used: BTreeSet<String> = queries
        .iter()
        .flat_map(|(_, query, _)| uses(&parsed(query)))
        .filter_map(|one| catalogued(&one.metric))
        .map(|metric| metric.name.to_owned())
        .collect();
    let all: BTreeSet<String> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
    let unused: Vec<&String> = all.difference(&used).collect();
    assert!(unused.is_empty(), "no panel and no rule looks at {unused:?}");
}

#[test]
fn every_metric_of_others_that_is_listed_is_looked_at() {
    let queries = prometheus_queries();
    let used = queries.iter().flat_map(|(_, query, _)| uses(&parsed(query)));
    let used: BTreeSet<String> = used.map(|one| one.metric).collect();
    let unused: Vec<&str> =
        FOREIGN.iter().map(|(name, _)| *name).filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "no panel and no rule looks at {unused:?}");
}

/// What `prometheus_name` makes of a metric is what the collector makes of it, as long as
/// units and names are of these kinds.
#[test]
fn names_are_such_as_the_collector_changes_in_no_other_way() {
    for Metric { name, unit, kind, .. } in METRICS {
        let annotated = unit.starts_with('{') && unit.ends_with('}');
        assert!(annotated || ["", "1", "s", "By"].contains(unit), "{name} in {unit}");
        let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
        assert!(name.chars().all(plain) && !name.contains(".."), "{name}");
        let words: Vec<&str> = name.split(['.', '_']).collect();
        let added = ["seconds", "bytes", "ratio", "total"];
        assert!(!words.iter().any(|word| added.contains(word)), "{name}, a {kind:?}");
    }
}

#[test]
fn rules_are_taken_apart() {
    let told = |found: Vec<_>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expr = parsed("a / (b > 0) > 0.5 or absent(c)");
    assert_eq!(told(queries::inputs(&expr)), ["b", "c"]);
    assert_eq!(
        told(queries::mutants(&expr)),
        [
            "a / (b > 0) > 0.5",
            "absent(c)",
            "a / (b > 0) > 0.505 or absent(c)",
            "a / (b > 0) > 0.495 or absent(c)",
            "a / (b > 1) > 0.5 or absent(c)",
            "a / (b > -1) > 0.5 or absent(c)",
        ]
    );
}

#[test]
fn searches_for_traces_name_spans_and_attributes_that_there_are() {
    let mut seen = 0;
    for panel in panels() {
        for query in panel.queries.iter().filter(|query| query.language == Language::TraceQl) {
            let text = &query.text;
            for name in text.split("name = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(SPANS.contains(&name), "{}: {name}", panel.title);
            }
            let attributes = text.split("span.").skip(1);
            for rest in attributes {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
                let name = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
                assert!(SPAN_ATTRIBUTES.contains(&name), "{}: {name}", panel.title);
                seen += 1;
            }
        }
    }
    assert!(seen > 3);
}

/// Headings of the RUNBOOK.
fn headings(runbook: &str) -> BTreeSet<&str> {
    runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect()
}

#[test]
fn every_panel_says_what_it_shows_and_what_to_do() {
    let runbook = read("RUNBOOK.md");
    let headings = headings(&runbook);
    let (mut titles, mut named) = (BTreeSet::new(), 0);
    for Panel { board, title, description, unit, queries, kind, .. } in panels() {
        let place = format!("{board}: {title}");
        assert!(!title.is_empty() && !unit.is_empty() && !queries.is_empty(), "{place} ({kind})");
        assert!(
            description.len() > 30 && description.ends_with(['.', '"']),
            "{place}: {description}"
        );
        for list in description.split("RUNBOOK: ").skip(1) {
            for heading in list.trim_end_matches('.').split("; ") {
                assert!(headings.contains(heading), "{place}: the RUNBOOK has no {heading}");
                named += 1;
            }
        }
        assert!(titles.insert(place.clone()), "{place} is there twice");
    }
    assert!(named > 50, "panels name headings");
}

#[test]
fn dashboards_are_what_their_source_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.args(["grafana/build", "--check"]).current_dir(folder);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn every_alert_is_in_the_runbook() {
    let runbook = read("RUNBOOK.md");
    let headings = headings(&runbook);
    let mut rows = BTreeMap::new();
    for Rule { name, alert, .. } in sources::rules() {
        let Some(alert) = alert else { continue };
        assert!(["critical", "warning", "none"].contains(&alert.severity.as_str()), "{name}");
        assert!(!alert.summary.is_empty() && alert.description.ends_with('.'), "{name}");
        let section = alert.section;
        let heading = headings.iter().find(|one| crate::runbook::anchor(one) == section);
        let heading = heading.unwrap_or_else(|| panic!("{name}: the RUNBOOK has no {section}"));
        let row = format!("| `{name}` | {} | [{heading}](#{section}) |", alert.severity);
        assert!(rows.insert(name.clone(), row).is_none(), "{name} is there twice");
    }
    let table = runbook.split("\n## What the alerts say\n").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let told: BTreeSet<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: BTreeSet<&str> = rows.values().map(String::as_str).collect();
    assert_eq!(told, wanted);
    for (name, row) in &rows {
        let heading = row.split(['[', ']']).nth(1).unwrap();
        let section = runbook.split(&format!("\n## {heading}\n")).nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        assert!(section.contains(&format!("`{name}`")), "{name} is not told under {heading}");
    }
}

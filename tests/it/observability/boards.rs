//! Proves that the boards cannot mislead: missing telemetry is never drawn as a
//! value, every link leads somewhere that a viewer may go, every variable is
//! there, and the home board stays small. Reads files, and asks promtool; knows
//! nothing of how Grafana draws.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use super::{
    headings, parsed,
    queries::{Use, is_nan_when_idle, uses},
    rules::{promtool, told},
    sources::{self, Language, Panel, RUNBOOK_URL, boards, filled_in, panels, read, yaml},
};
use crate::runbook::anchor;

/// The first glance takes no more than this.
const HOME_PANELS: usize = 16;
/// Not known, and no fault (panels.py).
const GREY: &str = "#8e8e8e";

fn place(panel: &Panel) -> String {
    format!("{}: {}", panel.board, panel.title)
}

/// Texts of a list's objects under one key.
fn texts(list: &Value, key: &str) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|one| Some(one[key].as_str()?.to_owned())).collect()
}

/// Every text anywhere within.
fn every_text(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(every_text).collect(),
        Value::Object(keys) => keys.values().flat_map(every_text).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

#[test]
fn no_query_puts_a_value_where_telemetry_is_missing() {
    for panel in panels() {
        let queries = panel.queries.iter().filter(|query| query.language == Language::PromQl);
        for query in queries {
            let told = parsed(&filled_in(&query.text, "1m", "1h")).to_string();
            let invented = told.contains("vector(")
                || told.split("* 0").skip(1).any(|rest| !rest.starts_with(['.', '0']));
            assert!(!invented, "{}: {told}", place(&panel));
        }
    }
}

#[test]
fn figures_are_of_now_and_say_what_is_missing() {
    let mut seen = 0;
    for panel in panels() {
        let defaults = &panel.json["fieldConfig"]["defaults"];
        let missing = defaults["noValue"].as_str().unwrap_or_default();
        assert!(missing.len() > 10, "{} does not say what is missing", place(&panel));
        if !["stat", "bargauge"].contains(&panel.kind.as_str()) {
            continue;
        }
        let now = panel.queries.iter().all(|query| query.instant);
        let options = &panel.json["options"];
        let last = options["reduceOptions"]["calcs"] == json!(["last"]);
        assert!(now && last && options["graphMode"] != "area", "{} is not of now", place(&panel));
        let mappings = defaults["mappings"].as_array().unwrap();
        let unknown = mappings.iter().find(|one| one["options"]["match"] == "null");
        let unknown = &unknown.unwrap_or_else(|| panic!("{}", place(&panel)))["options"]["result"];
        assert_eq!(unknown["text"], missing, "{}", place(&panel));
        let color = unknown["color"].as_str().unwrap();
        assert!(["red", GREY].contains(&color), "{}: unknown is {color}", place(&panel));
        let idle = mappings.iter().any(|one| one["options"]["match"] == "nan");
        let can_be_idle = panel
            .queries
            .iter()
            .any(|query| is_nan_when_idle(&parsed(&filled_in(&query.text, "1m", "1h"))));
        assert_eq!(can_be_idle, idle, "{} when nothing happens", place(&panel));
        seen += 1;
    }
    assert!(seen > 20);
}

/// What a metric reports, as series of promtool's with the values of a state.
fn series(one: &Use, values: &str) -> Vec<Value> {
    let labels = one.labels.iter().filter(|(label, _)| *label != "le");
    let labels = labels.map(|(label, values)| {
        format!("{label}=\"{}\"", values.first().map_or("any", String::as_str))
    });
    let labels: Vec<String> = labels.collect();
    let bounds: &[&str] =
        if one.metric.ends_with("_bucket") { &["le=\"1.0\"", "le=\"+Inf\""] } else { &[""] };
    let named = bounds.iter().map(|bound| {
        let labels = labels.iter().map(String::as_str).chain([*bound]);
        let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
        json!({"series": format!("{}{{{}}}", one.metric, labels.join(",")), "values": values})
    });
    named.collect()
}

/// Whether promtool, fed with what the queries name in some state, counts so many answers to
/// each. Samples are 15 s apart.
fn answers(queries: &[String], counts: &str, at: &str, expected: usize, values: Values) {
    let uses = queries.iter().flat_map(|query| uses(&parsed(query)));
    let series: BTreeSet<String> = uses
        .filter_map(|one| Some(series(&one, values(&one.metric)?)))
        .flatten()
        .map(|series| series.to_string())
        .collect();
    let series: Vec<Value> =
        series.iter().map(|series| serde_json::from_str(series).unwrap()).collect();
    let samples: &[Value] = &[json!({"labels": "{}", "value": 1})];
    let asked: Vec<Value> = queries
        .iter()
        .map(|query| {
            let expr = counts.replace('_', query);
            json!({"expr": expr, "eval_time": at, "exp_samples": &samples[..expected]})
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let test = json!({"tests": [{
        "interval": "15s", "input_series": series, "promql_expr_test": asked,
    }]});
    fs::write(folder.path().join("test.yml"), test.to_string()).unwrap();
    let output = promtool(&["test", "rules", "test.yml"], folder.path());
    assert!(output.status.success(), "{}", told(&output));
}

/// What a metric reports; nothing when it is not there.
type Values = fn(&str) -> Option<&'static str>;

fn counts_up(metric: &str) -> bool {
    ["_total", "_bucket", "_count", "_sum"].iter().any(|end| metric.ends_with(end))
}

/// Values of rules, which outlive what they are made of.
fn is_recorded(metric: &str) -> bool {
    metric.contains(':')
}

#[test]
fn figures_of_the_home_board_have_no_value_when_telemetry_is_dead() {
    let of_home = |panel: &Panel| panel.board == "Payments operations" && !panel.closed;
    let figures: Vec<Panel> =
        panels().into_iter().filter(|panel| panel.kind == "stat" && of_home(panel)).collect();
    let all = figures.iter().flat_map(|panel| &panel.queries);
    let all: Vec<String> = all.map(|query| filled_in(&query.text, "1m", "1h")).collect();
    assert!(all.len() > 12);

    let live: Values = |metric| Some(if counts_up(metric) { "0+10x60" } else { "1+0x60" });
    answers(&all, "count(_)", "9m", 1, live);

    // The last sample is at 10 minutes. The rules go on; the collector is away as well.
    let dead: Values = |metric| match metric {
        "paystream:front_up" => None,
        _ if is_recorded(metric) => Some("1+0x60"),
        _ => Some("0+10x40 stale"),
    };
    answers(&all, "count(_)", "11m30s", 0, dead);

    // NaN is the one value that is not what it is.
    let idle: Values = |metric| match metric {
        _ if is_recorded(metric) => None,
        _ if counts_up(metric) => Some("5+0x60"),
        _ => Some("1+0x60"),
    };
    let shares = all.into_iter().filter(|query| is_nan_when_idle(&parsed(query)));
    let shares: Vec<String> = shares.collect();
    assert!(shares.len() > 1);
    answers(&shares, "count((_) != (_))", "9m", 1, idle);
}

#[test]
fn every_heading_that_a_panel_names_is_linked() {
    let mut seen = 0;
    for panel in panels() {
        let named = panel.description.split("RUNBOOK: ").skip(1);
        let named = named.flat_map(|list| list.trim_end_matches('.').split("; "));
        let wanted: Vec<String> =
            named.map(|heading| format!("{RUNBOOK_URL}#{}", anchor(heading))).collect();
        let mut links = texts(&panel.json["links"], "url");
        links.retain(|url| url.contains("RUNBOOK"));
        assert_eq!(links, wanted, "{}", place(&panel));
        seen += links.len();
    }
    assert!(seen > 50);
}

#[test]
fn every_firing_alert_leads_to_its_heading() {
    let runbook = read("RUNBOOK.md");
    let known: BTreeSet<String> = headings(&runbook).into_iter().map(anchor).collect();
    let alerts = sources::rules().into_iter().filter_map(|rule| Some((rule.name, rule.alert?)));
    let (mut wanted, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for (name, alert) in alerts {
        let told = alert.summary + &alert.description;
        let named = told.split("$labels.").skip(1).filter_map(|rest| rest.split([' ', '}']).next());
        labels.extend(named.map(str::to_owned));
        wanted.insert((name, alert.section));
    }
    assert!(wanted.iter().all(|(_, anchor)| known.contains(anchor)));

    let shows = |panel: &Panel| panel.kind == "table" && panel.queries[0].text.contains("ALERTS");
    let panel = panels().into_iter().find(shows).unwrap();
    let query = &panel.queries[0].text;
    let told = |label: &String| query.contains(&format!("\"{label}\""));
    assert!(labels.len() > 3 && labels.iter().all(told), "{query} leaves one out of {labels:?}");
    let overrides = panel.json["fieldConfig"]["overrides"].as_array().unwrap();
    let column = overrides.iter().find(|one| one["matcher"]["options"] == "runbook").unwrap();
    let property = |id: &str| {
        let properties = column["properties"].as_array().unwrap();
        &properties.iter().find(|one| one["id"] == id).unwrap()["value"]
    };
    let shown = property("mappings")[0]["options"].as_object().unwrap().iter();
    let shown: BTreeSet<(String, String)> =
        shown.map(|(name, told)| (name.clone(), told["text"].as_str().unwrap().into())).collect();
    assert_eq!(shown, wanted);
    let url = property("links")[0]["url"].as_str().unwrap();
    assert_eq!(url, format!("{RUNBOOK_URL}#${{__value.text}}"));
}

/// Names of variables in a text; Grafana's own, and `$1` of a pattern, are left out.
fn variables(text: &str) -> BTreeSet<String> {
    let parts = text.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    let names = parts.map(|rest| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())].to_owned()
    });
    names
        .filter(|name| !name.starts_with("__") && name.starts_with(|c: char| c.is_alphabetic()))
        .collect()
}

#[test]
fn variables_are_declared_and_used() {
    for board in boards() {
        let mut used = BTreeSet::new();
        for query in board.panels.iter().flat_map(|panel| &panel.queries) {
            used.extend(variables(&query.text));
            let left = filled_in(&query.text, "1m", "1h");
            let unfilled = query.language == Language::PromQl && !variables(&left).is_empty();
            assert!(!unfilled, "{}: tests put nothing in for {left}", board.title);
        }
        let declared: BTreeSet<String> = board.variables.iter().cloned().collect();
        assert_eq!(used, declared, "{}", board.title);
    }
}

/// A link within Grafana names a board that there is, with variables that it has.
fn leads_to_a_board(url: &str) -> bool {
    let Some((path, query)) = url.split_once('?') else { return false };
    let board = boards().into_iter().find(|board| path == format!("/d/{}", board.uid));
    let named = query.split('&').filter_map(|part| part.strip_prefix("var-")?.split_once('='));
    let named: Vec<&str> = named.map(|(name, _)| name).collect();
    board.is_some_and(|board| named.iter().all(|name| board.variables.iter().any(|is| is == name)))
}

#[test]
fn traces_are_shown_on_a_board_since_explore_is_closed_to_viewers() {
    for panel in panels() {
        for url in every_text(&panel.json).into_iter().filter(|text| text.starts_with('/')) {
            assert!(leads_to_a_board(url), "{}: {url}", place(&panel));
        }
        if panel.kind == "table" && panel.queries[0].language == Language::TraceQl {
            let overrides = &panel.json["fieldConfig"]["overrides"][0];
            assert_eq!(overrides["matcher"]["options"], "traceID", "{}", place(&panel));
            let url = overrides["properties"][0]["value"][0]["url"].as_str().unwrap();
            assert!(url.contains("var-trace=${__value.raw}"), "{}: {url}", place(&panel));
        }
    }
    let shown = panels().into_iter().find(|panel| panel.kind == "traces").unwrap();
    assert_eq!(shown.queries[0].text, "$trace");
    // A dot of a heatmap.
    let sources = yaml("grafana/provisioning/datasources/datasources.yaml");
    let destination = &sources["datasources"][0]["jsonData"]["exemplarTraceIdDestinations"][0];
    assert_eq!(destination["datasourceUid"], Value::Null, "it would lead to Explore");
    let url = destination["url"].as_str().unwrap().replace("$$", "$");
    assert!(leads_to_a_board(&url) && url.contains("var-trace=${__value.raw}"), "{url}");
}

#[test]
fn the_home_board_answers_at_a_glance() {
    let grafana = &yaml("compose.yaml")["services"]["grafana"]["environment"];
    let home = grafana["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].as_str().unwrap();
    let file = home.rsplit('/').next().unwrap();
    let board = boards().into_iter().find(|board| board.file.ends_with(file)).unwrap();
    let open: Vec<&Panel> = board.panels.iter().filter(|panel| !panel.closed).collect();
    assert!(open.len() <= HOME_PANELS, "{} panels", open.len());
    let named = |query: &sources::Query| {
        let uses = uses(&parsed(&filled_in(&query.text, "1m", "1h")));
        uses.into_iter().map(|one| one.metric).collect::<Vec<_>>()
    };
    let asked: BTreeSet<String> =
        open.iter().flat_map(|panel| &panel.queries).flat_map(named).collect();
    // Taken, settled, late, stuck, firing.
    for metric in [
        "paystream_payments_received_total",
        "paystream_payments_processed_total",
        "paystream_payment_end_to_end_duration_seconds_bucket",
        "paystream_queue_oldest_age_seconds",
        "ALERTS",
    ] {
        assert!(asked.contains(metric), "{metric} is not at a glance");
    }
    let marked: BTreeSet<String> = board.annotations.iter().flat_map(named).collect();
    let wanted = ["ALERTS", "paystream_partition_moves_total", "target_info"];
    assert_eq!(marked, wanted.map(str::to_owned).into());
}

#[test]
fn payments_are_not_called_requests() {
    for panel in panels() {
        let told = every_text(&panel.json["fieldConfig"]);
        assert!(!told.contains(&"reqps"), "{}", place(&panel));
    }
}

#[test]
fn no_panel_has_a_line_for_every_partition() {
    let mut worst = 0;
    for panel in panels().into_iter().filter(|panel| panel.kind == "timeseries") {
        for query in &panel.queries {
            let each = query.text.contains("by (paystream_partition)");
            let few = query.text.starts_with("topk(5, ");
            assert!(!each || few, "{}: {}", place(&panel), query.text);
            worst += usize::from(few);
        }
    }
    assert!(worst > 3);
}

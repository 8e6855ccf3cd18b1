//! The dashboards and the alert rules as they are committed: boards, panels with
//! their queries, and rules. Reads files; judges nothing.

use std::{fs, path::Path};

use serde_json::Value;

/// What a variable puts in for "All".
pub const ALL: &str = ".+";
pub const RULES: &str = "prometheus/paystream.rules.yml";
/// Where links to the RUNBOOK lead.
pub const RUNBOOK_URL: &str = "https://github.com/paystream/paystream/blob/main/RUNBOOK.md";

pub struct Board {
    pub file: String,
    pub uid: String,
    pub title: String,
    /// Names of its variables.
    pub variables: Vec<String>,
    pub panels: Vec<Panel>,
    pub annotations: Vec<Query>,
}

pub struct Panel {
    pub board: String,
    pub kind: String,
    pub title: String,
    pub description: String,
    pub unit: String,
    pub queries: Vec<Query>,
    /// In a row that is closed when the board opens.
    pub closed: bool,
    /// As Grafana reads it.
    pub json: Value,
}

pub struct Query {
    pub language: Language,
    pub text: String,
    pub legend: String,
    /// Asked for the end of the time that is shown, and for nothing before it.
    pub instant: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Language {
    PromQl,
    TraceQl,
    ServiceMap,
}

pub struct Rule {
    /// The name of an alert, or the metric that is recorded.
    pub name: String,
    pub expr: String,
    pub alert: Option<Alert>,
}

pub struct Alert {
    pub severity: String,
    pub summary: String,
    pub description: String,
    /// The anchor of its section of the RUNBOOK.
    pub section: String,
}

pub fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Files of a folder whose names end so, in order.
pub fn files(folder: &str, end: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names
        .map(|name| format!("{folder}/{}", name.to_str().unwrap()))
        .filter(|name| name.ends_with(end))
        .collect();
    names.sort();
    names
}

/// A document of YAML.
pub fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Every dashboard.
pub fn boards() -> Vec<Board> {
    let read = |file: String| {
        let json: Value = serde_json::from_str(&read(&file)).unwrap();
        let title = text(&json["title"]);
        let list = |value: &Value| value["list"].as_array().unwrap().clone();
        Board {
            file,
            uid: text(&json["uid"]),
            variables: list(&json["templating"]).iter().map(|one| text(&one["name"])).collect(),
            panels: panels_of(&title, &json["panels"], false),
            annotations: list(&json["annotations"]).iter().map(annotation).collect(),
            title,
        }
    };
    files("grafana/dashboards", ".json").into_iter().map(read).collect()
}

/// Every panel of every dashboard.
pub fn panels() -> Vec<Panel> {
    boards().into_iter().flat_map(|board| board.panels).collect()
}

fn panels_of(board: &str, panels: &Value, closed: bool) -> Vec<Panel> {
    let mut found = Vec::new();
    for panel in panels.as_array().unwrap() {
        if panel["type"] == "row" {
            found.extend(panels_of(board, &panel["panels"], panel["collapsed"] == true));
            continue;
        }
        found.push(Panel {
            board: board.to_owned(),
            kind: text(&panel["type"]),
            title: text(&panel["title"]),
            description: text(&panel["description"]),
            unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
            queries: panel["targets"].as_array().unwrap().iter().map(query).collect(),
            closed,
            json: panel.clone(),
        });
    }
    found
}

fn query(target: &Value) -> Query {
    let (language, told) = match target["queryType"].as_str() {
        None => (Language::PromQl, &target["expr"]),
        Some("traceql") => (Language::TraceQl, &target["query"]),
        Some("serviceMap") => (Language::ServiceMap, &Value::Null),
        Some(other) => panic!("a query of an unknown type: {other}"),
    };
    let instant = target["instant"] == true && target["range"] == false;
    Query { language, text: text(told), legend: text(&target["legendFormat"]), instant }
}

fn annotation(one: &Value) -> Query {
    let legend = text(&one["titleFormat"]) + &text(&one["textFormat"]);
    let (language, instant) = (Language::PromQl, false);
    Query { language, text: text(&one["expr"]), legend, instant }
}

/// Every rule, recorded or raised.
pub fn rules() -> Vec<Rule> {
    let document = yaml(RULES);
    let groups = document["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap()).map(rule).collect()
}

fn rule(rule: &Value) -> Rule {
    let said = &rule["annotations"];
    let alert = rule.get("alert").map(|_| Alert {
        severity: text(&rule["labels"]["severity"]),
        summary: text(&said["summary"]),
        description: text(&said["description"]),
        section: text(&said["runbook_url"])
            .strip_prefix(&format!("{RUNBOOK_URL}#"))
            .unwrap_or_else(|| panic!("{rule}: no address of the RUNBOOK"))
            .to_owned(),
    });
    let name = rule.get("alert").or_else(|| rule.get("record")).unwrap();
    Rule { name: text(name), expr: text(&rule["expr"]), alert }
}

/// A query with what Grafana would put in for its variables; those of a board stand for all.
pub fn filled_in(query: &str, rate_interval: &str, range: &str) -> String {
    let query = query.replace("$__rate_interval", rate_interval).replace("$__range", range);
    query.replace("$instance", ALL).replace("$partition", ALL)
}

//! Proves who is told of which alert, and that a cause is told once: what follows from it is
//! muted, and nothing else is. Starts Debian's Alertmanager with the committed configuration, and
//! amtool; needs no Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use promql_parser::label::{MatchOp, Matchers};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use super::{
    queries::parsed,
    sources::{RULES, yaml},
};
use crate::prelude::{Stdio, until};

const ROUTES: &str = "alertmanager/alertmanager.yml";

/// Each alert of the rules with its labels.
fn alerts() -> Vec<(String, Value)> {
    let document = yaml(RULES);
    let groups = document["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let alerts = rules.filter_map(|rule| {
        let name = rule["alert"].as_str()?;
        let mut labels = rule["labels"].clone();
        labels["alertname"] = json!(name);
        Some((name.to_owned(), labels))
    });
    alerts.collect()
}

async fn amtool(arguments: &[&str]) -> String {
    let mut command = Command::new("amtool");
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    let ended = command.output().await;
    let ended = ended.expect("amtool runs; scripts/install.sh --observe installs it");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

#[tokio::test]
async fn every_alert_goes_where_its_severity_says() {
    amtool(&["check-config", ROUTES]).await;
    let file = format!("--config.file={ROUTES}");
    for (name, labels) in alerts() {
        let labels: Vec<String> = labels.as_object().unwrap().iter().map(label).collect();
        let mut arguments = vec!["config", "routes", "test", &file];
        arguments.extend(labels.iter().map(String::as_str));
        let wanted = match labels.iter().find_map(|label| label.strip_prefix("severity=")) {
            Some("critical") => "page",
            Some("warning") => "ticket",
            _ => "watchdog",
        };
        assert_eq!(amtool(&arguments).await.trim(), wanted, "{name}");
    }
}

fn label((name, value): (&String, &Value)) -> String {
    format!("{name}={}", value.as_str().unwrap())
}

/// The alerts that a rule of muting names, by exact names and by the beginnings of names.
fn named(matcher: &str) -> Vec<String> {
    let promql_parser::parser::Expr::VectorSelector(selector) = parsed(&format!("{{{matcher}}}"))
    else {
        panic!("{matcher} is no matcher");
    };
    let Matchers { matchers, .. } = selector.matchers;
    let of_names = matchers.iter().filter(|one| one.name == "alertname");
    let names = of_names.flat_map(|one| match one.op {
        MatchOp::Equal => vec![one.value.clone()],
        MatchOp::NotEqual | MatchOp::Re(_) | MatchOp::NotRe(_) => {
            one.value.split('|').map(str::to_owned).collect()
        }
    });
    names.collect()
}

#[test]
fn what_mutes_and_what_is_muted_are_alerts() {
    let known = alerts();
    let document = yaml(ROUTES);
    let mut seen = 0;
    for rule in document["inhibit_rules"].as_array().unwrap() {
        let sides = ["source_matchers", "target_matchers"].map(|side| rule[side].as_array());
        for matcher in sides.into_iter().flat_map(Option::unwrap) {
            for name in named(matcher.as_str().unwrap()) {
                let is_one = |alert: &str| match name.strip_suffix(".+") {
                    Some(start) => alert.starts_with(start),
                    None => alert == name,
                };
                assert!(known.iter().any(|(alert, _)| is_one(alert)), "{name} is no alert");
                seen += 1;
            }
        }
    }
    assert!(seen > 20);
}

/// An Alertmanager with nothing but what it is sent. It ends when this is dropped.
struct Alertmanager {
    url: String,
    client: reqwest::Client,
    _child: Child,
    _reading: JoinSet<()>,
    _folder: TempDir,
}

impl Alertmanager {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let routes = Path::new(env!("CARGO_MANIFEST_DIR")).join(ROUTES);
        let is_here =
            |program: &&str| std::process::Command::new(program).arg("--version").output().is_ok();
        let program = ["prometheus-alertmanager", "alertmanager"].into_iter().find(is_here);
        let mut command = Command::new(program.expect("there is an Alertmanager"));
        command.arg(format!("--config.file={}", routes.display()));
        command.args(["--storage.path=data", "--cluster.listen-address="]);
        command.args(["--web.listen-address=127.0.0.1:0"]).current_dir(folder.path());
        command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("Alertmanager starts");
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = log.next_line().await.unwrap().expect("it listens");
            if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
                break address.to_owned();
            }
        };
        // A pipe that nobody reads would stop it.
        let mut reading = JoinSet::new();
        reading.spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let url = format!("http://{address}/api/v2/alerts");
        let client = reqwest::Client::new();
        Self { url, client, _child: child, _reading: reading, _folder: folder }
    }

    async fn receives(&self, alerts: &[Value]) {
        let alerts: Vec<Value> = alerts.iter().map(|labels| json!({"labels": labels})).collect();
        let sent = self.client.post(&self.url).json(&alerts).send().await.unwrap();
        assert!(sent.status().is_success(), "{sent:?}");
    }

    /// Labels of the alerts in a state, `active` or `suppressed`.
    async fn state(&self, state: &str) -> BTreeSet<Labels> {
        let known: Value = self.client.get(&self.url).send().await.unwrap().json().await.unwrap();
        let known = known.as_array().unwrap().iter();
        let found = known.filter(|alert| alert["status"]["state"] == state);
        found.map(|alert| of(&alert["labels"])).collect()
    }
}

type Labels = BTreeMap<String, String>;

fn of(labels: &Value) -> Labels {
    serde_json::from_value(labels.clone()).unwrap()
}

/// What fires in a failure, as `name label=value`.
struct Failure {
    what: &'static str,
    causes: &'static [&'static str],
    follow: &'static [&'static str],
}

const FAILURES: &[Failure] = &[
    Failure {
        what: "Redis is dead",
        causes: &["PaystreamStoreDown paystream_dependency=redis"],
        follow: &[
            "PaystreamCircuitOpen paystream_dependency=redis",
            "PaystreamFrontDown",
            "PaystreamErrorRateHigh",
            "PaystreamAvailabilityBurnsFast",
            "PaystreamFreshnessBurnsFast",
            "PaystreamOldestWaitingLong",
            "PaystreamPartitionOwnerless",
            "PaystreamTelemetryMissing",
            "PaystreamReceiverFailing receiver=redis",
        ],
    },
    Failure {
        what: "PostgreSQL is dead",
        causes: &[
            "PaystreamStoreDown paystream_dependency=postgresql",
            // Streams are full, and a process is cut off from Redis besides.
            "PaystreamAvailabilityBurnsFast",
            "PaystreamCircuitOpen paystream_dependency=redis",
            "PaystreamReceiverFailing receiver=redis",
        ],
        follow: &[
            "PaystreamQueueDepthHigh",
            "PaystreamOldestWaitingLong",
            "PaystreamFreshnessBurnsFast",
            "PaystreamFreshnessBurnsSlowly",
            "PaystreamStreamsNotTrimmed",
            "PaystreamPoolExhausted",
            "PaystreamAuditLate",
        ],
    },
    Failure {
        what: "no worker lives",
        causes: &["PaystreamNoWorker"],
        follow: &[
            "PaystreamQueueDepthHigh",
            "PaystreamOldestWaitingLong",
            "PaystreamPartitionOwnerless",
            "PaystreamFreshnessBurnsFast",
            "PaystreamTelemetryMissing",
        ],
    },
    Failure {
        what: "a worker hangs",
        causes: &["PaystreamWorkerStalled paystream_worker=w1"],
        follow: &["PaystreamOldestWaitingLong", "PaystreamQueueDepthHigh"],
    },
    Failure {
        what: "no gateway answers",
        causes: &["PaystreamFrontDown"],
        follow: &[
            "PaystreamErrorRateHigh",
            "PaystreamAvailabilityBurnsFast",
            "PaystreamTelemetryMissing",
        ],
    },
    Failure {
        what: "the collector is dead",
        causes: &["PaystreamTelemetryMissing", "PaystreamTargetDown job=tempo"],
        follow: &["PaystreamTargetDown job=otel-collector", "PaystreamAuditLate"],
    },
    Failure {
        what: "disks and budgets at two levels",
        causes: &[
            "PaystreamDiskFull mountpoint=/disks/redis",
            "PaystreamDiskFilling mountpoint=/disks/postgresql",
            "PaystreamAvailabilityBurnsFast",
            "PaystreamFreshnessBurnsSlowly",
        ],
        follow: &[
            "PaystreamDiskFilling mountpoint=/disks/redis",
            "PaystreamAvailabilityBurnsSlowly",
            "PaystreamErrorRateHigh",
        ],
    },
];
/// What no failure of others mutes.
const ALWAYS: &[&str] =
    &["PaystreamWatchdog", "PaystreamAuditDrift", "PaystreamLosses", "PaystreamDeadLetters"];

/// The labels that Prometheus would send.
fn labels(alert: &str, known: &[(String, Value)]) -> Value {
    let mut parts = alert.split(' ');
    let name = parts.next().unwrap();
    let found = known.iter().find(|(one, _)| one == name);
    let (_, mut labels) = found.unwrap_or_else(|| panic!("{name} is no alert")).clone();
    for (label, value) in parts.map(|part| part.split_once('=').unwrap()) {
        labels[label] = json!(value);
    }
    labels
}

#[tokio::test]
async fn a_cause_is_told_once_and_what_follows_is_muted() {
    let known = alerts();
    for Failure { what, causes, follow } in FAILURES {
        let manager = Alertmanager::start().await;
        let fire = |alerts: &mut dyn Iterator<Item = &&str>| -> Vec<Value> {
            alerts.map(|one| labels(one, &known)).collect()
        };
        let told = fire(&mut causes.iter().chain(ALWAYS));
        let muted = fire(&mut follow.iter());
        // They come in any order.
        manager.receives(&muted).await;
        manager.receives(&told).await;
        let told: BTreeSet<Labels> = told.iter().map(of).collect();
        until(what, async || manager.state("active").await == told).await;
        assert_eq!(manager.state("suppressed").await, muted.iter().map(of).collect(), "{what}");
    }
}

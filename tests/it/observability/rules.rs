//! Proves that the alert rules and what tests them are right: promtool takes
//! them, and no threshold, time or condition can change without a test of
//! promtool's failing. Starts promtool; needs no Prometheus.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
};

use serde_json::{Value, json};

use super::{
    queries::{mutants, parsed},
    sources::{RULES, files, yaml},
};

pub(super) fn promtool(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder);
    command.output().expect("promtool runs; scripts/install.sh --observe installs it")
}

pub(super) fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

#[test]
fn promtool_takes_the_rules_and_the_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for arguments in [["check", "rules", RULES], ["check", "config", "prometheus/prometheus.yml"]] {
        let output = promtool(&arguments, root);
        assert!(output.status.success(), "{}", told(&output));
    }
}

/// Every test of promtool's, and how often its rules are evaluated.
fn tests() -> Vec<(String, Value)> {
    let mut tests = Vec::new();
    for file in files("prometheus", ".test.yml") {
        let document = yaml(&file);
        let step = document["evaluation_interval"].as_str().unwrap();
        let found = document["tests"].as_array().unwrap().iter();
        tests.extend(found.map(|test| (step.to_owned(), test.clone())));
    }
    tests
}

/// Runs those tests that bear an alert's name against the rules; says whether
/// all of them passed. JSON is YAML, too.
fn passes(rules: &Value, alert: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yml"), rules.to_string()).unwrap();
    let ours: Vec<_> = tests().into_iter().filter(|(_, test)| test["name"] == alert).collect();
    assert!(!ours.is_empty(), "{alert} is not tested");
    let step = &ours[0].0;
    assert!(ours.iter().all(|(other, _)| other == step), "the tests of {alert} are in one file");
    let tests: Vec<&Value> = ours.iter().map(|(_, test)| test).collect();
    let document =
        json!({"rule_files": ["rules.yml"], "evaluation_interval": step, "tests": tests});
    fs::write(folder.path().join("test.yml"), document.to_string()).unwrap();
    let output = promtool(&["test", "rules", "test.yml"], folder.path());
    let told = told(&output);
    // Not that it could not read them.
    assert!(output.status.success() || told.contains("exp:"), "{rules}: {told}");
    output.status.success()
}

/// An alert with what was changed in it, in words.
struct Mutant {
    alert: String,
    change: String,
    rules: Value,
}

/// One alert, and what is recorded for it in its group.
fn around(group: &Value, alert: &Value) -> Value {
    let mut kept = vec![alert];
    let recorded = group["rules"].as_array().unwrap().iter().rev();
    for rule in recorded.filter(|rule| rule.get("record").is_some()) {
        let name = rule["record"].as_str().unwrap();
        // A rule is recorded before those that use it.
        if kept.iter().any(|other| other["expr"].as_str().unwrap().contains(name)) {
            kept.push(rule);
        }
    }
    kept.reverse();
    json!({"groups": [{"name": group["name"], "rules": kept}]})
}

/// Each alert as it is, and with one thing changed each.
fn cases() -> (Vec<Mutant>, Vec<Mutant>) {
    let (mut as_they_are, mut changed) = (Vec::new(), Vec::new());
    for group in yaml(RULES)["groups"].as_array().unwrap() {
        let rules = group["rules"].as_array().unwrap().iter();
        for alert in rules.filter(|rule| rule.get("alert").is_some()) {
            let name = alert["alert"].as_str().unwrap().to_owned();
            let case = |key: &str, value: String| {
                let mut rules = around(group, alert);
                let list = rules["groups"][0]["rules"].as_array_mut().unwrap();
                list.last_mut().unwrap()[key] = json!(value);
                Mutant { alert: name.clone(), change: format!("{key}: {value}"), rules }
            };
            let expr = alert["expr"].as_str().unwrap();
            as_they_are.push(case("expr", expr.to_owned()));
            changed.extend(mutants(&parsed(expr)).iter().map(|one| case("expr", one.to_string())));
            for key in ["for", "keep_firing_for"] {
                let Some(wait) = alert.get(key) else { continue };
                let wait = humantime::parse_duration(wait.as_str().unwrap()).unwrap().as_secs();
                changed.extend([wait - 15, wait + 15].map(|wait| case(key, format!("{wait}s"))));
            }
        }
    }
    (as_they_are, changed)
}

/// Those of which the tests say otherwise than they should, two at a time.
fn misjudged(cases: &[Mutant], should_pass: bool) -> Vec<String> {
    let judge = |part: &[Mutant]| -> Vec<String> {
        let wrong = part.iter().filter(|one| passes(&one.rules, &one.alert) != should_pass);
        wrong.map(|one| format!("{}, {}", one.alert, one.change)).collect()
    };
    let (some, others) = cases.split_at(cases.len() / 2);
    thread::scope(|scope| {
        let running = scope.spawn(|| judge(some));
        let mut wrong = judge(others);
        wrong.extend(running.join().unwrap());
        wrong
    })
}

#[test]
fn shares_and_budgets_are_recorded_where_payments_come_and_nowhere_else() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus");
    let output = promtool(&["test", "rules", "paystream.records.test.yml"], &folder);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn alerts_are_raised_when_they_should_be() {
    let (as_they_are, _) = cases();
    assert!(as_they_are.len() > 20);
    let wrong = misjudged(&as_they_are, true);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_alert_can_change_unnoticed() {
    let (_, changed) = cases();
    assert!(changed.len() > 80, "{} changes", changed.len());
    let wrong = misjudged(&changed, false);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

//! Whole runs against a peer, from the first payment to the verdict.

use std::time::Duration;

use super::{
    super::{report::Report, run, table},
    args,
    stub::{Fault, Stub},
};

async fn load(stub: &Stub, line: &str) -> Report {
    let url = &stub.url;
    let common = format!("--url {url} --duration 300ms --seed 7 --customers 20");
    let args = args(&format!("{common} --drain-timeout 1s --json {line}"));
    args.check().unwrap();
    run::run(&args).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_run_is_reported_clean() {
    let stub = Stub::start(Fault::None).await;
    let report = load(&stub, "--rate 2000 --duplicates 10 --invalid 10").await;
    assert_eq!(report.problems, Vec::<String>::new());
    let (sending, counts) = (&report.sending, &report.sending.counts);
    assert_eq!((counts.sent, sending.not_sent), (600, 0));
    assert_eq!(counts.statuses.values().sum::<u64>(), 600);
    assert_eq!(counts.statuses[&200], counts.repeats_sent);
    assert_eq!(counts.statuses[&422], counts.invalid_sent);
    assert_eq!(sending.accepted, counts.statuses[&202]);
    let audit = report.audit.unwrap();
    assert_eq!(audit.applied(), sending.accepted);
    assert_eq!(audit.customers, 20);
    assert!((1_999..=2_001).contains(&audit.accept_to_applied_us.p50));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_audited_like_single_payments() {
    let stub = Stub::start(Fault::None).await;
    let report = load(&stub, "--rate 5000 --batch 50 --duplicates 10 --invalid 10").await;
    assert_eq!(report.problems, Vec::<String>::new());
    let counts = &report.sending.counts;
    assert_eq!(counts.sent, 1_500);
    assert_eq!(counts.invalid_refused, counts.invalid_sent);
    assert_eq!(counts.repeats_sent, counts.statuses[&200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_charged_to_every_request_it_delayed() {
    let stall = Duration::from_millis(200);
    let stub = Stub::start(Fault::Stalls(50, stall)).await;
    let report = load(&stub, "--rate 1000 --connections 1").await;
    assert_eq!(report.problems, Vec::<String>::new());
    // One answer took 200 ms; some 200 requests fell due meanwhile and waited 100 ms on average.
    let latency = &report.sending.accept_latency_us;
    assert!(latency.max >= 200_000, "{latency:?}");
    assert!(latency.p50 >= 20_000, "{latency:?}");
    assert!(report.sending.behind.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_leave_unknown_outcomes_that_are_looked_up() {
    let stub = Stub::start(Fault::Silent(40)).await;
    let report = load(&stub, "--rate 2000").await;
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.sending.counts.sent, 600);
    assert_eq!(report.sending.counts.unanswered.values().sum::<u64>(), 15);
    assert_eq!(report.sending.unknown, 15);
    let unknown = report.audit.unwrap().unknown;
    assert_eq!((unknown.applied, unknown.absent, unknown.other), (15, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_and_doubled_payments_are_found() {
    let stub = Stub::start(Fault::Loses(100)).await;
    let report = load(&stub, "--rate 1000").await;
    let (shown, json) = (table::render(&report), serde_json::to_value(&report).unwrap());
    let audit = report.audit.unwrap();
    assert_eq!((audit.lost.count, audit.differences.count), (3, 0));
    assert!(shown.contains(&audit.lost.first[2]) && !shown.contains("clean"), "{shown}");
    assert_eq!(json["audit"]["lost"]["first"][2], *audit.lost.first[2]);
    assert!(audit.lost.first.iter().all(|reference| reference.starts_with("LOAD-")));
    assert_eq!(report.problems, ["3 accepted payments are lost"]);

    let stub = Stub::start(Fault::Doubles(150)).await;
    let report = load(&stub, "--rate 1000").await;
    let audit = report.audit.unwrap();
    assert_eq!(audit.lost.count, 0);
    assert!((1..=2).contains(&audit.differences.count));
    assert!(report.problems[0].contains("doubled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_stays_is_a_problem() {
    let stub = Stub::start(Fault::Stuck).await;
    let report = load(&stub, "--rate 100").await;
    assert_eq!(report.problems, ["1 payments were not settled after 1 s of waiting"]);
    assert_eq!(report.applied_per_second, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_waiting_nothing_is_claimed() {
    let stub = Stub::start(Fault::Loses(2)).await;
    let report = load(&stub, "--rate 100 --no-wait").await;
    assert!(report.problems.is_empty() && report.audit.is_none() && report.drain.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_closed_after_an_answer_are_opened_again() {
    let stub = Stub::start(Fault::HangsUp(10)).await;
    let report = load(&stub, "--rate 500 --timeout 5s").await;
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.sending.counts.sent, report.sending.not_sent), (150, 0));
    assert!(!report.sending.counts.unanswered.contains_key("not answered in time"));
}

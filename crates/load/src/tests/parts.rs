//! The parts alone: options, schedule, plan, statuses, CPU times. Never opens a connection.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Parser as _;
use serde_json::Value;

use super::{
    super::{
        api::ApiAnswer,
        cpu::{Process, ProcessTimes, Watched, used},
        plan::{Arrival, Plan, customer_id},
        record::{Fate, RunFigures},
        report::{per_second, time},
        schedule::{Pacer, Schedule},
        send,
    },
    Cli, args,
};

fn plan(line: &str) -> Plan {
    Plan::new(&args(line), "run".to_owned(), 7).unwrap()
}

fn body(plan: &Plan, index: u64) -> Vec<u8> {
    let mut body = Vec::new();
    plan.write(index, plan.arrival(index), &mut body);
    body
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let refused = |line: &str| args(line).check().unwrap_err().to_string();
    assert!(refused("--duplicates 60 --invalid 50").contains("100 %"));
    assert!(refused("--duration 1ms --rate 1").contains("nothing falls due"));
    assert!(refused("--duration 1000000s --rate 100000").contains("remembered"));
    assert!(args("--duplicates 0.5%").check().is_ok());
    assert!(Cli::try_parse_from(["load", "--invalid", "101"]).is_err());
    assert!(Cli::try_parse_from(["load", "--rate", "0"]).is_err());
}

#[test]
fn requests_fall_due_at_the_rate() {
    let start = Instant::now();
    let schedule = Schedule::new(start, 1667, 1, 5_000);
    assert_eq!(schedule.due(0), start);
    assert_eq!(schedule.due(1667), start + Duration::from_secs(1));
    assert_eq!(schedule.due_by(start), 1);
    for index in 0..4_999 {
        let due = schedule.due(index);
        assert!(schedule.due_by(due) > index, "{index} is due when it is due");
        assert!(schedule.due_by(due - Duration::from_nanos(2)) <= index, "{index} is not early");
    }
    assert_eq!(schedule.due_by(start + Duration::from_secs(60)), 5_000);
    // Payments of a batch fall due together.
    let schedule = Schedule::new(start, 1_000, 100, 1_000);
    assert_eq!((schedule.requests, schedule.due(5)), (10, start + Duration::from_millis(500)));
}

#[tokio::test]
async fn requests_overdue_are_let_go_at_once_and_then_no_more() {
    let schedule = Schedule::new(Instant::now(), 1_000_000, 1, 3);
    let pacer = Pacer::new(schedule);
    pacer.run();
    for index in 0..3 {
        assert_eq!(pacer.next().await, Some(index));
    }
    assert_eq!(pacer.next().await, None);
}

#[test]
fn payments_are_valid_json_and_the_same_for_the_same_seed() {
    assert_eq!([0, 99_999].map(customer_id), ["GIG00001", "GIG100000"]);
    let plan = plan("--customers 200000");
    for index in 0..1_000 {
        let payment: Value = serde_json::from_slice(&body(&plan, index)).unwrap();
        let content = plan.content(index);
        assert_eq!(payment["customer_id"], customer_id(content.customer));
        assert_eq!(payment["payment_status"], "COMPLETE");
        assert_eq!(payment["transaction_amount"], content.amount().to_string());
        assert_eq!(payment["transaction_reference"], plan.reference(index));
        assert!((10_000..=5_000_000).contains(&content.cents));
        assert_eq!(body(&plan, index), body(&super::parts::plan("--customers 200000"), index));
    }
}

#[test]
fn repeats_are_byte_for_byte_those_of_an_earlier_new_payment() {
    for line in ["--duplicates 30 --invalid 20", "--duplicates 99.9", "--duplicates 100"] {
        let plan = plan(line);
        let mut repeats = 0;
        for index in 0..5_000 {
            if let Arrival::Repeat(earlier) = plan.arrival(index) {
                assert!(earlier < index);
                assert_eq!(plan.arrival(earlier), Arrival::New);
                assert_eq!(body(&plan, index), body(&plan, earlier));
                repeats += 1;
            }
        }
        assert!(repeats > 1_000, "{line}: {repeats}");
    }
}

#[test]
fn shares_are_kept() {
    let plan = plan("--duplicates 10 --invalid 2.5");
    let (mut repeats, mut invalid) = (0, 0);
    for index in 0..100_000 {
        match plan.arrival(index) {
            Arrival::New => {}
            Arrival::Repeat(_) => repeats += 1,
            Arrival::Invalid(_) => invalid += 1,
        }
    }
    assert!((9_700..10_300).contains(&repeats), "{repeats}");
    assert!((2_350..2_650).contains(&invalid), "{invalid}");
}

#[test]
fn customers_are_drawn_as_distributed() {
    let counts = |line: &str| {
        let plan = plan(line);
        let mut counts = BTreeMap::<u32, u32>::new();
        for index in 0..50_000 {
            *counts.entry(plan.content(index).customer).or_default() += 1;
        }
        counts
    };
    assert_eq!(counts("--distribution single").keys().collect::<Vec<_>>(), [&0]);

    let uniform = counts("--customers 100");
    assert_eq!(uniform.len(), 100);
    assert!(uniform.values().all(|count| (380..620).contains(count)), "{uniform:?}");

    // The harmonic number of 100 is 5.187: the first pays 19.3 %, the tenth a tenth of that.
    let zipf = counts("--customers 100 --distribution zipf");
    assert!((9_300..10_000).contains(&zipf[&0]), "{}", zipf[&0]);
    assert!((850..1_080).contains(&zipf[&9]), "{}", zipf[&9]);
}

#[test]
fn what_is_known_of_a_payment_is_only_ever_raised() {
    assert_eq!([202, 200, 422, 409, 429, 503, 408].map(Fate::of), {
        use Fate::{Accepted as A, Refused as R, Unknown as U};
        [A, A, R, R, R, U, U]
    });
    let mut figures = RunFigures::new(2).unwrap();
    for fate in [Fate::Unknown, Fate::Accepted, Fate::Unknown, Fate::Refused] {
        figures.raise(1, fate);
    }
    assert_eq!(figures.fates, [Fate::NotSent, Fate::Accepted]);
}

#[test]
fn each_payment_of_a_batch_has_its_own_status() {
    let statuses =
        |status, body: &str| send::statuses(&ApiAnswer { status, body: body.to_owned().into() }, 3);
    let body = r#"{"accepted":1,"replayed":1,"refused":1,"results":[{"status":"accepted","partition":3},
        {"status":"accepted","replayed":true},{"status":422,"code":"invalid","errors":[]}]}"#;
    assert_eq!(statuses(200, body), [202, 200, 422]);
    let body = r#"{"results":[{"status":"replayed"},{"status":"refused"},{"problem":{}}]}"#;
    assert_eq!(statuses(200, body), [200, 422, 422]);
    assert_eq!(statuses(503, ""), [503; 3]);
    assert_eq!(Fate::of(statuses(200, "cut off")[0]), Fate::Unknown);
}

#[test]
fn cpu_time_of_ended_children_is_counted_once() {
    let process = |pid, parent, name: &str, own, children| Process {
        pid,
        parent,
        name: name.to_owned(),
        own,
        children,
        started: u64::from(pid),
    };
    // A shell started two programs: one of ours, and ourselves.
    let before = ProcessTimes(vec![
        process(10, 1, "paystream", 100, 7),
        process(20, 10, "postgres", 50, 5),
        process(21, 20, "postgres", 30, 0),
        process(22, 20, "postgres", 20, 0),
        process(30, 1, "paystream", 3, 0),
    ]);
    // 21 ended: its 30 and 4 more are in 20's children. 23 came. A restarted child of 10 left
    // its time in 10's children, which are of another name.
    let after = ProcessTimes(vec![
        process(10, 1, "paystream", 160, 90),
        process(20, 10, "postgres", 51, 39),
        process(22, 20, "postgres", 25, 0),
        process(23, 20, "postgres", 6, 0),
        process(30, 1, "paystream", 40, 0),
    ]);
    let expected = BTreeMap::from([
        ("paystream".to_owned(), Duration::from_millis(600)),
        ("postgres".to_owned(), Duration::from_millis(160)),
    ]);
    let names = Watched::Names(vec!["paystream".to_owned(), "postgres".to_owned()]);
    assert_eq!(used(&names, (&before, &after), 30).by_name, expected);
    let below = used(&Watched::Pids(vec![10]), (&before, &after), 30);
    assert_eq!((below.by_name, below.here), (expected, Duration::from_millis(370)));
}

#[test]
fn figures_are_readable() {
    assert_eq!(
        [7, 1_234, 12_345, 1_234_567].map(time),
        ["0.00 ms", "1.23 ms", "12.3 ms", "1.23 s"]
    );
    assert_eq!(per_second(1_000, Duration::from_millis(500)), 2_000);
    assert_eq!(per_second(5, Duration::ZERO), 5);
}

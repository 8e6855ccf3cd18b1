//! Proves that `paystream partitions` and the stats say who owns each partition,
//! whether that owner lives, and what waits in it.

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::prelude::*;

fn partitions(stores: &Stores, arguments: &[&str]) -> Command {
    operate(stores, &[&["partitions", "--interval", "100ms"], arguments].concat())
}

/// The JSON document, and whether every partition has a living owner.
async fn document(stores: &Stores, arguments: &[&str]) -> (Value, bool) {
    let ended = run(partitions(stores, &[arguments, &["--json"]].concat())).await;
    let served = match ended.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{ended:?}"),
    };
    (ended.json(), served)
}

async fn table(stores: &Stores) -> Ended {
    run(partitions(stores, &[])).await
}

#[tokio::test]
async fn what_waits_and_who_owns_it_is_shown() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    let at = h.api.pay_into("one").await;
    h.api.pay("two", "ADA", "1").await;

    let (waiting, served) = document(&h.stores, &[]).await;
    assert!(!served, "nobody owns a partition");
    assert_eq!(waiting["workers"], json!({}));
    let one = &waiting["partitions"][usize::try_from(at).unwrap()];
    assert_eq!((&one["partition"], &one["owner"]), (&json!(at), &Value::Null));
    assert_eq!((&one["depth"], &one["lag"], &one["pending"]), (&json!(2), &json!(2), &json!(0)));
    assert!(one["oldest_waiting_seconds"].is_u64(), "{one}");
    let shown = table(&h.stores).await.stdout;
    assert!(shown.contains("8 partitions, 8 without a living owner"), "{shown}");
    assert!(shown.contains("lag 2, pending 0"), "{shown}");
    // Taken and not acknowledged, they wait as well.
    h.stores.hand_out(at, "ledger", "gone", 1000).await;
    let (waiting, _) = document(&h.stores, &[]).await;
    let one = &waiting["partitions"][usize::try_from(at).unwrap()];
    assert_eq!((&one["lag"], &one["pending"]), (&json!(0), &json!(2)));
    assert!(one["oldest_waiting_seconds"].is_u64(), "{one}");

    h.work().await;
    let settled = eventually("every partition is owned", async || {
        let (settled, served) = document(&h.stores, &[]).await;
        served.then_some(settled)
    })
    .await;
    assert_eq!(settled["workers"], json!({"tester": PARTITIONS}));
    let one = &settled["partitions"][usize::try_from(at).unwrap()];
    assert_eq!((&one["owner"], &one["owner_alive"]), (&json!("tester"), &json!(true)));
    assert_eq!((&one["lag"], &one["pending"]), (&json!(0), &json!(0)));
    assert_eq!((&one["last_sequence"], &one["draining_to"]), (&json!(2), &Value::Null));
    assert!(one["oldest_waiting_seconds"].is_null(), "{one}");
    assert!(one["epoch"].as_i64().unwrap() >= 1, "{one}");

    // Whoever locks a table of cases hides no owner.
    let mut locking = h.stores.pool.begin().await.unwrap();
    let lock = "lock table dead_letters in access exclusive mode";
    sqlx::query(lock).execute(&mut *locking).await.unwrap();
    let (locked, served) = document(&h.stores, &[]).await;
    assert!(served && locked["ledger_available"] == true, "{locked}");
    locking.rollback().await.unwrap();
    let shown = table(&h.stores).await;
    assert_eq!(shown.code(), Some(0), "{shown:?}");
    let line = shown.stdout.lines().find(|line| line.starts_with(&format!("| {at} ")));
    assert!(line.is_some_and(|line| line.contains("| tester |")), "{shown:?}");

    // The stats have the same facts.
    let stats = h.api.stats().await;
    let one = &stats["partitions"][usize::try_from(at).unwrap()];
    assert!(one["owner_silent_seconds"].is_i64() && one["moved_at"].is_string(), "{one}");
    assert_eq!((&one["oldest_waiting_seconds"], &one["draining_to"]), (&json!(null), &json!(null)));

    // An owner that is silent beyond its lease is not alive.
    h.crash_worker();
    h.stores.sql("update workers set lease_ms = 1").await;
    let (shown, served) = document(&h.stores, &[]).await;
    assert!(!served);
    let one = &shown["partitions"][0];
    assert_eq!((&one["owner"], &one["owner_alive"]), (&json!("tester"), &json!(false)));
}

#[tokio::test]
async fn watching_goes_on_until_it_is_interrupted() {
    let h = Harness::start().await;
    let mut command = partitions(&h.stores, &["--watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = in_time("it looks again", lines.next_line()).await.unwrap().unwrap();
        let view: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(view["partitions"].as_array().unwrap().len(), usize::from(PARTITIONS));
    }
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    // Somebody reads to the end, so that it does not wait for a reader.
    while in_time("it ends its answer", lines.next_line()).await.unwrap().is_some() {}
    let status = in_time("it ends", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

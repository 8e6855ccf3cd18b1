//! Proves that an operator can make a worker hand a partition over, or take it
//! away, under load, from a living worker and from a frozen one: nothing is
//! lost, doubled or out of order, and a release at a bad moment changes nothing.

use crate::prelude::*;

/// Payments that a load accepts before each release.
const WARM: usize = 300;

async fn release(stores: &Stores, arguments: &[&str]) -> Ended {
    let fixed = ["release", "--reason", "a test", "--actor", "ada", "--json"];
    stores.run(&[&fixed, arguments].concat()).await
}

/// A partition of this worker.
async fn partition_of(stores: &Stores, worker: &str) -> usize {
    owners(stores).await.iter().position(|owner| owner == worker).unwrap()
}

/// What of the ledger a refusal must leave as it is.
async fn unchanging(stores: &Stores) -> Vec<String> {
    let sql = "select partition_owners::text from partition_owners
         union all select count(*)::text from audit_log
         union all select (worker_id, incarnation, leaving, lease_ms)::text from workers order by 1";
    stores.texts(sql).await
}

/// A worker in the registry that no process stands behind, and that owns
/// partition 0 under epoch 5.
async fn enlist(stores: &Stores, beat: &str, lease_ms: i64) {
    let enlist = format!(
        "insert into workers (worker_id, incarnation, beat_at, lease_ms)
             values ('ghost', gen_random_uuid(), {beat}, {lease_ms});
         update partition_owners set owner = 'ghost', epoch = 5 where partition = 0"
    );
    stores.sql(&enlist).await;
}

/// Releases a partition of a living worker under load.
async fn release_under_load(force: bool) {
    let (stores, gateway) = with_gateway().await;
    let (a, b) = tokio::join!(worker(&stores, "a", &[]), worker(&stores, "b", &[]));
    until_spread(&stores, &["a", "b"]).await;
    let mut load = Load::start(&gateway.api, "release");
    for round in 1..=3 {
        load.reached(round * WARM).await;
        for name in ["a", "b"] {
            let partition = partition_of(&stores, name).await;
            let number = partition.to_string();
            let mut arguments = vec!["--partition", &number];
            arguments.extend(force.then_some("--force"));
            let ended = release(&stores, &arguments).await;
            assert_eq!(ended.code(), Some(0), "{ended:?}");
            let shown = ended.json();
            assert_eq!(shown["handed_over"], true, "{shown}");
            assert_eq!(shown["previous_owner"], name, "{shown}");
            assert!(shown["epoch"].as_i64() > shown["previous_epoch"].as_i64(), "{shown}");
            // Its lane may find itself fenced after it has acquired it again, and then
            // acquires everything of its own once more.
            let noted = format!(
                "select count(*) from partition_moves where partition = {partition}
                 and epoch = {epoch} and owner = '{}' and exists (
                     select 1 from partition_moves where partition = {partition}
                     and epoch > {} and epoch <= {epoch} and previous is null)",
                shown["owner"].as_str().unwrap(),
                shown["previous_epoch"],
                epoch = shown["epoch"],
            );
            assert_eq!(stores.count(&noted).await, 1, "{shown}");
        }
    }
    until_spread(&stores, &["a", "b"]).await;
    verify_after(&stores, &gateway.api, load).await;
    let action = if force { "partition_taken_away" } else { "partition_release_asked" };
    let audited = format!(
        "select count(*) from audit_log where action = '{action}' and actor = 'ada'
         and reason = 'a test' and before->>'owner' in ('a', 'b')
         and (before->>'epoch')::bigint >= 1 and after is not null"
    );
    assert_eq!(stores.count(&audited).await, 6);
    if !force {
        for log in [a.log(), b.log()] {
            assert!(!log.contains("fenced"), "{log}");
        }
    }
}

cases! { release_under_load:
    a_living_owner_hands_over_at_its_next_batch_edge(false);
    a_partition_is_taken_from_a_living_owner_under_load(true);
}

#[tokio::test]
async fn a_partition_is_taken_from_a_frozen_owner_before_its_lease_is_over() {
    let (stores, gateway) = with_gateway().await;
    let settings = [("PAYSTREAM_LEASE", "20s"), ("PAYSTREAM_BATCH_DEADLINE", "2s")];
    let frozen = worker(&stores, "frozen", &settings).await;
    let _other = worker(&stores, "other", &settings).await;
    until_spread(&stores, &["frozen", "other"]).await;
    let mut load = Load::warm(&gateway.api, "frozen").await;
    frozen.signal("STOP").await;
    let has_missed_two_beats = "select count(*) from workers where worker_id = 'frozen'
         and beat_at < clock_timestamp() - lease_ms * interval '0.4 milliseconds'";
    stores.until(1, has_missed_two_beats).await;
    let partition = partition_of(&stores, "frozen").await.to_string();
    let ended = release(&stores, &["--partition", &partition, "--force"]).await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.json()["owner"], "other", "{ended:?}");
    let early = format!(
        "select count(*) from partition_moves, workers where worker_id = 'frozen'
         and partition = {partition} and epoch = {}
         and acquired_at < beat_at + lease_ms * interval '1 millisecond'",
        ended.json()["epoch"]
    );
    assert_eq!(stores.count(&early).await, 1, "it was not the lease that ran out");
    load.goes_on().await;

    // It wakes, and believes that it owns everything as before.
    frozen.signal("CONT").await;
    until_spread(&stores, &["frozen", "other"]).await;
    verify_after(&stores, &gateway.api, load).await;
}

#[tokio::test]
async fn an_owner_that_does_not_follow_is_named_and_force_is_advised() {
    let stores = Stores::new().await;
    enlist(&stores, "clock_timestamp()", 2_000).await;
    let beating = async || {
        loop {
            let beat = "update workers set beat_at = clock_timestamp()";
            stores.sql(beat).await;
        }
    };
    let arguments = ["release", "--partition", "0", "--reason", "r", "--actor", "ada"];
    let ended = tokio::select! {
        ended = run(operate(&stores, &arguments)) => ended,
        () = beating() => unreachable!("it beats for as long as it is looked at"),
    };
    ended.is(1, "ghost was asked for partition 0");
    assert!(ended.stdout.contains("--partition 0 --force"), "{ended:?}");
    // Asking again changes nothing; taking it away does.
    let before = unchanging(&stores).await;
    let again = tokio::select! {
        again = release(&stores, &["--partition", "0"]) => again,
        () = beating() => unreachable!("it beats for as long as it is looked at"),
    };
    assert_eq!(again.code(), Some(1), "{again:?}");
    let refused = again.json()["refused"].as_str().unwrap().to_owned();
    assert!(refused.contains("ghost was asked for partition 0"), "{refused}");
    assert_eq!(unchanging(&stores).await, before);
    let taken = release(&stores, &["--partition", "0", "--force"]).await;
    assert_eq!(taken.code(), Some(1), "nobody is there to acquire it: {taken:?}");
    let shown = taken.json();
    assert_eq!((&shown["owner"], &shown["epoch"]), (&Value::Null, &json!(6)), "{shown}");
}

#[tokio::test]
async fn a_release_at_a_bad_moment_is_refused_and_changes_nothing() {
    let stores = Stores::new().await;
    let refused = async |arguments: &[&str], why: &str| {
        let before = unchanging(&stores).await;
        let ended = release(&stores, arguments).await;
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        let said = ended.json()["refused"].as_str().unwrap().to_owned();
        assert!(said.contains(why), "{said}");
        assert_eq!(unchanging(&stores).await, before, "{said}");
    };
    for force in [&[][..], &["--force"]] {
        let why = "there is no partition 99: the topology has partitions 0 to 7";
        refused(&[&["--partition", "99"], force].concat(), why).await;
        refused(&[&["--partition", "0"], force].concat(), "nobody owns partition 0").await;
    }
    enlist(&stores, "clock_timestamp() - interval '1 hour'", 10_000).await;
    refused(&["--partition", "0"], "has been silent for 3600 s, longer than its lease").await;
    stores.sql("update topology set resizing_to = 16").await;
    for force in [&[][..], &["--force"]] {
        refused(&[&["--partition", "0"], force].concat(), "is being changed to 16").await;
    }
}

#[tokio::test]
async fn a_beat_in_the_future_keeps_no_partition() {
    let (stores, _gateway) = with_gateway().await;
    // PostgreSQL's clock went back by an hour after the ghost's last beat.
    enlist(&stores, "clock_timestamp() + interval '1 hour'", 10_000).await;
    let _a = worker(&stores, "a", &[]).await;
    until_spread(&stores, &["a"]).await;
    let give = "update partition_owners set owner = 'ghost' where partition = 0";
    stores.sql(give).await;
    let ended = release(&stores, &["--partition", "0", "--force"]).await;
    assert_eq!((ended.code(), &ended.json()["owner"]), (Some(0), &json!("a")));
}

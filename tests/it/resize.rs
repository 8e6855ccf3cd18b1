//! Proves that the number of partitions can be changed under load, and that the
//! change can be interrupted anywhere, given up, and run again: every payment
//! that was answered with 202 is applied once and in order, and nothing of the
//! earlier topology can write afterwards.

use paystream::{
    domain::{Amount, Payment, PaymentStatus},
    ledger::NewAccount,
    stream::{AppendLimits, Appended, Error, ReceivedPayment},
};

use crate::prelude::*;

pub fn resize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ["topology", "resize"].into_iter().chain(more.iter().copied()).collect()
}

/// Runs a command that must be refused; the sentence it was refused with.
async fn refused(stores: &Stores, arguments: &[&str]) -> String {
    let ended = stores.run(arguments).await;
    assert_eq!(ended.code(), Some(2), "{arguments:?}: {}", ended.stdout);
    ended.stderr
}

async fn shown(stores: &Stores) -> Value {
    serde_json::from_str(&stores.succeed(&["topology", "show", "--json"]).await).unwrap()
}

/// What the sequence key of a partition of the first topology holds.
async fn gate(stores: &Stores, partition: u64) -> String {
    value(stores, &stores.key(partition, "seq")).await
}

async fn value(stores: &Stores, key: &str) -> String {
    let value: Option<String> = stores.ask(&["GET", key]).await;
    value.unwrap_or_default()
}

/// Waits until the processes serve so many partitions.
pub async fn served(process: &Process, partitions: usize) {
    eventually("the new topology is served", async || {
        // The gateway may let go of the connection just now.
        let answer = process.api.request(Method::GET, "/api/v1/admin/stats").send().await.ok()?;
        let stats: Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
        let seats = stats["partitions"].as_array()?;
        (seats.len() == partitions && seats.iter().all(|seat| seat["owner"] == "tester"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_topology_grows_and_shrinks_under_load() {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    let _worker = Process::serve("worker", &stores, &[]).await;
    gateway.api.seed(CUSTOMERS).await;
    // Held from before the changes, and applied after them, in order.
    gateway.api.pay("early", "LATE", "1").await;
    let mut load = Load::start_anew(&gateway.api, "l");
    for partitions in [32, 3] {
        load.goes_on().await;
        stores.succeed(&resize(&["--partitions", &partitions.to_string()])).await;
        served(&gateway, partitions).await;
        load.goes_on().await;
    }
    let load = load.finish().await;
    assert_eq!(load.broken, 0, "somebody listens all the while");
    gateway.api.pay("later", "LATE", "2").await;
    gateway.api.until_settled().await;
    gateway.api.open_account("LATE", "100").await;
    gateway.api.pay("last", "LATE", "3").await;
    gateway.settled(&stores).await;
    assert_applied(&stores, &load.accepted).await;
    assert_eq!(gateway.api.balance("LATE").await["total_paid"], "6.00");
    assert_eq!(
        shown(&stores).await,
        json!({"partitions": 3, "generation": 3, "key_prefix": stores.key_prefix,
            "resizing_to": null, "currency": "NGN"})
    );
    let streams = stores.keys("*:stream").await;
    assert_eq!(streams.len(), 3, "those of earlier topologies are removed: {streams:?}");
    let unserved = "select count(*) from partition_owners where partition >= 3 and owner is null";
    assert_eq!(stores.count(unserved).await, 29);
}

#[tokio::test]
async fn a_change_that_cannot_reach_redis_is_not_begun() {
    let (mut redis, stores) = Stores::on_own_redis("resize-redis-away").await;
    let lives = "insert into workers (worker_id, incarnation, beat_at, lease_ms)
         values ('ghost', gen_random_uuid(), clock_timestamp(), 3600000)";
    stores.sql(lives).await;
    redis.stop().await.unwrap();
    let said = refused(&stores, &resize(&["--partitions", "16"])).await;
    assert!(said.contains("could not reach Redis"), "{said}");
    assert_eq!(shown(&stores).await["resizing_to"], Value::Null);
}

#[tokio::test]
async fn while_partitions_are_closed_payments_are_refused_and_the_rest_goes_on() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    h.api.pay("before", "ADA", "1").await;
    let to_16 = resize(&["--partitions", "16", "--drain-timeout", "1h"]);
    assert!(refused(&h.stores, &to_16).await.contains("no worker lives"));
    assert!(!gate(&h.stores, 0).await.contains("resize"));
    // A worker that lives and settles nothing.
    h.stores
        .count(
            "with w as (insert into workers (worker_id, incarnation) values
        ('idle', gen_random_uuid()) returning 1) select count(*) from w",
        )
        .await;
    let mut running = operate(&h.stores, &to_16).spawn().unwrap();
    until("the partitions are closed", async || gate(&h.stores, 7).await.starts_with("resize:"))
        .await;
    let reply = h.api.post_payment(&payment("meanwhile", "ADA", "1")).await;
    reply.is_problem(503, "topology_resizing");
    assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|after| after > 0));
    let replayed = h.api.post_payment(&payment("before", "ADA", "1")).await;
    assert_eq!(replayed.status, 200, "what is remembered is answered");
    assert_eq!(h.api.payment("before").await["status"], "accepted");
    // One at a time, and one number at a time.
    assert!(refused(&h.stores, &to_16).await.contains("is running"));
    running.kill().await.unwrap();
    let other = eventually("its connection ends", async || {
        let said = refused(&h.stores, &resize(&["--partitions", "4"])).await;
        (!said.contains("is running")).then_some(said)
    })
    .await;
    assert!(other.contains("16 partitions is under way"), "{other}");
    assert_eq!(shown(&h.stores).await["resizing_to"], 16);
    // Given up.
    let by_bob = ["--abort", "--reason", "not tonight", "--actor", "bob"];
    h.stores.succeed(&resize(&by_bob)).await;
    let logged = "select count(*) from audit_log where action = 'topology_resize_aborted'
         and actor = 'bob' and reason = 'not tonight'";
    assert_eq!(h.stores.count(logged).await, 1);
    h.api.pay("meanwhile", "ADA", "2").await;
    assert_eq!(shown(&h.stores).await["resizing_to"], Value::Null);
    // Nobody settles: it gives up by itself.
    let hasty = refused(&h.stores, &resize(&["--partitions", "16", "--drain-timeout", "0s"])).await;
    assert!(hasty.contains("given up"), "{hasty}");
    h.api.pay("after", "ADA", "3").await;
    assert!(refused(&h.stores, &resize(&["--abort"])).await.contains("no change"));
    h.stores.sql("delete from workers").await;
    h.work().await;
}

/// Puts the stores where a command that was killed after some step leaves them.
async fn leave_at(stores: &Stores, api: &Api, step: u16, generation: i32, (from, to): (u16, u16)) {
    let gates = async |partitions, generation| {
        let streams =
            Streams::new(&stores.redis_url, &stores.key_prefix, partitions, generation).unwrap();
        streams.gates().await.unwrap()
    };
    let ledger = Ledger::new(&stores.database_url).unwrap();
    let mut resize = ledger.resize().await.unwrap().expect("nobody else resizes");
    assert!(resize.wish(to, &signed("ada")).await.unwrap());
    match step {
        // Only the wish is written down.
        0 => {}
        // Half of the partitions are closed.
        1 => _ = gates(from / 2, generation).await.close().await.unwrap(),
        // Some streams of an attempt that was given up are there.
        2 => {
            _ = gates(from, generation).await.close().await.unwrap();
            let begun = gates(to / 2, generation + 1).await.begin(1, &BTreeSet::new()).await;
            begun.unwrap();
        }
        // Half, or all, are closed for good.
        _ => {
            _ = gates(from, generation).await.close().await.unwrap();
            api.until_settled().await;
            let sealed = if step == 3 { from / 2 } else { from };
            gates(sealed, generation).await.seal().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_change_interrupted_at_any_step_goes_on_when_it_is_run_again() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[]).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::start_anew(&process.api, "k");
    let mut from = PARTITIONS;
    for step in 0..5 {
        let to = if from == PARTITIONS { 32 } else { PARTITIONS };
        load.goes_on().await;
        leave_at(&stores, &process.api, step, i32::from(step) + 1, (from, to)).await;
        if step >= 3 {
            let said = refused(&stores, &resize(&["--abort"])).await;
            assert!(said.contains("cannot be given up any more"), "{said}");
        }
        finish(&stores, to).await;
        served(&process, usize::from(to)).await;
        from = to;
    }
    load.goes_on().await;
    let load = load.finish().await;
    process.settled(&stores).await;
    assert_applied(&stores, &load.accepted).await;
}

/// Runs it until it is done; a connection that was just killed may hold the
/// right for a moment.
async fn finish(stores: &Stores, partitions: u16) {
    let partitions = partitions.to_string();
    let arguments = resize(&["--partitions", &partitions]);
    eventually("it is run again to its end", || async {
        let ended = stores.run(&arguments).await;
        let busy = ended.stderr.contains("is running");
        assert!(ended.status.success() || busy, "{}", ended.stderr);
        ended.status.success().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_change_killed_wherever_it_is_goes_on_when_it_is_run_again() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[]).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::start_anew(&process.api, "x");
    let mut to = 32;
    // Each is the first sign of a step.
    for sign in ["wish", "closed", "begun", "sealed", "switched"] {
        load.goes_on().await;
        let generation = stores.count("select generation::bigint from topology").await;
        let count = to.to_string();
        let mut running = operate(&stores, &resize(&["--partitions", &count])).spawn().unwrap();
        eventually("it has come so far, or to its end", || {
            let ended = running.try_wait().unwrap().is_some();
            let stores = &stores;
            async move {
                let key = stores.key_of(generation, 0, "seq");
                let come = match sign {
                    "wish" => shown(stores).await["resizing_to"] == to,
                    "closed" => value(stores, &key).await.starts_with("resize"),
                    "begun" => {
                        !value(stores, &stores.key_of(generation + 1, 0, "seq")).await.is_empty()
                    }
                    "sealed" => value(stores, &key).await.starts_with("resized"),
                    _ => shown(stores).await["generation"] == generation + 1,
                };
                (ended || come).then_some(())
            }
        })
        .await;
        // It may have ended just now.
        _ = running.kill().await;
        finish(&stores, to).await;
        served(&process, usize::from(to)).await;
        to = if to == 32 { PARTITIONS } else { 32 };
    }
    let load = load.finish().await;
    process.settled(&stores).await;
    assert_applied(&stores, &load.accepted).await;
}

#[tokio::test]
async fn nothing_of_the_earlier_topology_can_write_and_other_groups_keep_their_streams() {
    let h = Harness::start().await.account("ADA", "1000").await;
    for partition in 0..u64::from(PARTITIONS) {
        h.stores
            .tell(&["XGROUP", "CREATE", &h.stores.key(partition, "stream"), "fraud", "0"])
            .await;
    }
    h.api.pay("before", "ADA", "1").await;
    h.settled().await;
    let ledger = Ledger::new(&h.stores.database_url).unwrap();
    let schema = ledger.schema();
    let old = schema.topology(None, &h.stores.key_prefix).await.unwrap();
    let registrar = ledger.registrar(&old);
    let lease = Duration::from_secs(10);
    let mut ownership =
        ledger.ownership("old", "0197f000-0000-7000-8000-000000000000", lease, 5, 1);
    ownership.join().await.unwrap();
    let streams = Streams::new(&h.stores.redis_url, &h.stores.key_prefix, PARTITIONS, 1).unwrap();
    let producer = streams.producer(limits()).await.unwrap();
    let all: Vec<u16> = (0..PARTITIONS).collect();

    // The harness's processes have the old number in their settings and end.
    let stores = &h.stores;
    let by_ada = ["--partitions", "16", "--reason", "more load", "--actor", "ada"];
    let said = stores.succeed(&resize(&by_ada)).await;
    let logged = "select count(*) from audit_log
         where action in ('topology_resize_begun', 'topology_resize')
             and actor = 'ada' and reason = 'more load' and before = '8' and after = '16'";
    assert_eq!(stores.count(logged).await, 2);
    assert!(said.contains("PAYSTREAM_PARTITIONS=8 need the new number"), "{said}");
    assert!(said.contains("fraud"), "the other group has not read its entry: {said}");
    for name in ["again", "before"] {
        let appended = producer.append(&arrival(name)).await;
        match name {
            "before" => assert!(matches!(appended, Ok(Appended::Duplicate(_))), "{appended:?}"),
            _ => assert!(matches!(appended, Err(Error::Resizing)), "{appended:?}"),
        }
    }
    assert_eq!(ownership.acquire(&all).await.unwrap(), []);
    assert_eq!(ownership.look().await.unwrap().partitions, []);
    let opened = registrar.open(NewAccount::seeded(7), &signed("ada")).await;
    assert!(matches!(opened, Err(ledger::Error::Resized)), "{opened:?}");
    let groups = "fraud";
    let stream = stores.key_of(2, 15, "stream");
    let mut command = redis::cmd("XGROUP");
    command.arg("CREATE").arg(stream).arg(groups).arg("0");
    let there = command.exec_async(&mut stores.redis.clone()).await.unwrap_err();
    assert_eq!(there.code(), Some("BUSYGROUP"), "the other group goes on in the new streams");

    // Once the other group has read and acknowledged, they go.
    let left = stores.keys("{p*}:stream").await;
    assert_eq!(left.len(), 1, "only what it has not read: {left:?}");
    let read = ["XREADGROUP", "GROUP", groups, "reader", "NOACK", "STREAMS", &left[0], ">"];
    stores.tell(&read).await;
    stores.succeed(&resize(&["--partitions", "16"])).await;
    assert_eq!(stores.keys("{p*}:stream").await.len(), 0);
    let appended = producer.append(&arrival("again")).await;
    assert!(matches!(appended, Err(Error::Resizing)), "without its stream too: {appended:?}");
    stores.audit().await;
    h.crash();
}

#[tokio::test]
async fn what_is_left_in_streams_of_an_earlier_topology_is_named_and_settled_after_all() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "1000").await;
    process.api.pay("before", "ADA", "1").await;
    process.api.until_settled().await;
    stores.succeed(&resize(&["--partitions", "16"])).await;
    served(&process, 16).await;
    // As on a promoted replica that lacks the end of the change.
    stores.delete_keys("{p*}:seq").await;
    stores.delete_keys("{p*}:refs*").await;
    let old = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    old.provision().await.unwrap();
    let producer = old.producer(limits()).await.unwrap();
    for name in ["before", "left", "also"] {
        let appended = producer.append(&arrival(name)).await;
        assert!(matches!(appended, Ok(Appended::Accepted(_))), "{appended:?}");
    }
    doctor(&stores).await.tells("payments_left_behind", "critical", "2 payments");
    let said = stores.succeed(&resize(&["--partitions", "16"])).await;
    assert!(said.contains("2 payments"), "one is in the ledger: {said}");
    process.api.settles_at("ADA", "3.00").await;
    assert_eq!(stores.keys("{p*}:stream").await.len(), 0);
    assert!(doctor(&stores).await.find("payments_left_behind").is_none());
    stores.audit().await;
}

#[tokio::test]
async fn a_partition_that_is_brought_back_while_it_is_closed_for_good_stays_closed() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "1000").await;
    process.api.pay("before", "ADA", "1").await;
    process.api.until_settled().await;
    leave_at(&stores, &process.api, 4, 1, (PARTITIONS, 16)).await;
    let stream = stores.key(0, "stream");
    stores.tell(&["XGROUP", "DESTROY", &stream, "ledger"]).await;
    until("its owner brings it back", async || {
        let groups: redis::Value = stores.ask(&["XINFO", "GROUPS", &stream]).await;
        groups != redis::Value::Array(Vec::new())
    })
    .await;
    let gate = gate(&stores, 0).await;
    assert!(gate.starts_with("resized:"), "{gate}");
    finish(&stores, 16).await;
}

pub fn limits() -> AppendLimits {
    AppendLimits {
        backlog_max: 100,
        share_max: 100,
        dedupe_window: Duration::from_secs(60),
        deadline: Duration::from_secs(5),
    }
}

/// What the gateway makes of a payment of 1 by ADA.
pub fn arrival(reference: &str) -> ReceivedPayment {
    let payment = Payment {
        reference: Reference::parse(reference).unwrap(),
        customer: CustomerId::parse("ADA").unwrap(),
        status: PaymentStatus::Complete,
        amount: Amount::parse("1").unwrap(),
        date: "2025-11-07T13:54:16Z".parse().unwrap(),
    };
    ReceivedPayment { payment, received_at: clock::system(), trace: None, evidence: None }
}

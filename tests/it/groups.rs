//! Proves that other consumer groups can read our streams: trimming waits for
//! each of them, `paystream groups` registers and retires them whatever was
//! interrupted, and the example reads every payment.

use std::sync::{Arc, Mutex};

use crate::prelude::*;

#[path = "../../examples/second_group.rs"]
#[allow(dead_code, reason = "its main function, which a person runs")]
mod second_group;

/// `paystream groups` with these arguments.
async fn groups(stores: &Stores, arguments: &[&str]) -> Ended {
    let mut command = operate(stores, &[&["groups"], arguments].concat());
    command.env("USER", "ada");
    run(command).await
}

/// The same, which must end with this status and print JSON.
async fn answer(stores: &Stores, status: i32, arguments: &[&str]) -> Value {
    let ended = groups(stores, &[arguments, &["--json"]].concat()).await;
    assert_eq!(ended.code(), Some(status), "{ended:?}");
    ended.json()
}

/// What is listed of one group.
async fn listed(stores: &Stores, status: i32, name: &str) -> Value {
    let mut list = answer(stores, status, &["list"]).await;
    let groups = list["groups"].as_array_mut().unwrap();
    let found = groups.iter().position(|group| group["name"] == name);
    found.map_or(Value::Null, |at| groups.swap_remove(at))
}

async fn register(stores: &Stores, more: &[&str]) -> Value {
    let arguments = ["register", "notify", "--note", "tells customers"];
    answer(stores, 0, &[&arguments, more].concat()).await
}

async fn length(stores: &Stores, partition: u64) -> i64 {
    stores.ask(&["XLEN", &stores.key(partition, "stream")]).await
}

async fn xgroup(stores: &Stores, verb: &str, partition: u64, more: &[&str]) {
    let group = ["XGROUP", verb, &stores.key(partition, "stream"), "notify"];
    stores.tell(&[&group, more].concat()).await;
}

/// Waits until so many entries are left. Trimming keeps the first pending one,
/// or the last that was handed out, and all after it.
async fn until_trimmed(stores: &Stores, partition: u64, left: i64) {
    until("the stream is trimmed", async || length(stores, partition).await == left).await;
}

/// A customer of a partition other than ADA's, and both partitions.
async fn two_customers(api: &Api) -> (u64, &'static str, u64) {
    api.open_account("ADA", "1000000").await;
    let ada = api.pay_into("first-ada").await;
    for name in ["BOB", "CID", "DAN", "EVE", "FAY"] {
        api.open_account(name, "1000000").await;
        let reply = api.pay(&format!("first-{name}"), name, "1").await;
        let partition = reply["partition"].as_u64().unwrap();
        if partition != ada {
            return (ada, name, partition);
        }
    }
    panic!("all customers are in one partition");
}

#[tokio::test]
async fn trimming_waits_for_a_registered_group_and_goes_on_once_it_has_read() {
    let h = Harness::with(&["--retention=0s"]).await;
    let registered = register(&h.stores, &[]).await;
    assert_eq!(registered["created_on"], PARTITIONS);
    let (ada, ..) = two_customers(&h.api).await;
    h.api.pay_each("r", 0..5).await;
    h.settled().await;
    let notify = listed(&h.stores, 0, "notify").await;
    assert_eq!((&notify["registered"], &notify["note"]), (&true.into(), &"tells customers".into()));
    assert!(notify["pins_trimming_on"].as_array().unwrap().contains(&ada.into()), "{notify}");
    assert!(notify["lag"].as_i64().unwrap() >= 6, "{notify}");
    assert_eq!(notify["pending"], 0);
    assert!(notify["oldest_waiting_seconds"].is_u64(), "{notify}");
    assert_eq!(length(&h.stores, ada).await, 6, "nothing was trimmed");

    // It reads everything: now only the acknowledgement is missing.
    type Entries = Vec<(String, Vec<(String, Vec<String>)>)>;
    let stream = h.stores.key(ada, "stream");
    let read = ["XREADGROUP", "GROUP", "notify", "c", "STREAMS", &stream, ">"];
    let entries: Entries = h.stores.ask(&read).await;
    let ids: Vec<String> = entries[0].1.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids.len(), 6);
    let acknowledge = async |ids: &[String]| {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        h.stores.tell(&[&["XACK", &stream, "notify"], &ids[..]].concat()).await;
    };
    acknowledge(&ids[..3]).await;
    // The fourth is pending: it and all after it stay.
    until_trimmed(&h.stores, ada, 3).await;
    assert_eq!(listed(&h.stores, 0, "notify").await["pending"], 3);
    acknowledge(&ids[3..]).await;
    until_trimmed(&h.stores, ada, 1).await;
}

#[tokio::test]
async fn a_retired_group_is_waited_for_no_longer() {
    let h = Harness::with(&["--retention=0s"]).await;
    register(&h.stores, &[]).await;
    let (ada, ..) = two_customers(&h.api).await;
    h.api.pay("second", "ADA", "1").await;
    h.settled().await;
    assert_eq!(length(&h.stores, ada).await, 2);

    groups(&h.stores, &["retire", "notify"]).await.is(1, "not retired: there are");
    assert_eq!(listed(&h.stores, 0, "notify").await["missing_on"], serde_json::json!([]));

    let arguments = ["retire", "notify", "--yes", "--note", "no longer", "--actor", "bob"];
    let retired = answer(&h.stores, 0, &arguments).await;
    assert_eq!((&retired["retired"], &retired["removed_from"]), (&true.into(), &PARTITIONS.into()));
    assert!(retired["unread"].as_i64().unwrap() >= 3, "{retired}");
    until_trimmed(&h.stores, ada, 1).await;
    assert!(listed(&h.stores, 0, "notify").await.is_null());
    // Again: nothing to do.
    assert_eq!(answer(&h.stores, 0, &["retire", "notify"]).await["retired"], false);

    let noted = "select actor, action, reason, before is null, after is null from audit_log
         where subject = 'notify' order by id";
    let noted: Vec<(String, String, Option<String>, bool, bool)> = h.stores.rows(noted).await;
    let row = |actor: &str, action: &str, reason: &str, before, after| {
        (actor.to_owned(), action.to_owned(), Some(reason.to_owned()), before, after)
    };
    assert_eq!(
        noted,
        [
            row("ada", "register_group", "tells customers", true, false),
            row("bob", "retire_group", "no longer", false, true),
        ]
    );
}

#[tokio::test]
async fn a_missing_registered_group_stops_its_stream_only_and_is_said_aloud() {
    let stores = Stores::new().await;
    register(&stores, &[]).await;
    let settings = [("PAYSTREAM_RETENTION", "0s"), ("PAYSTREAM_TRIM_INTERVAL", "200ms")];
    let process = Process::serve("all", &stores, &settings).await;
    let (ada, other, others) = two_customers(&process.api).await;
    // Nobody reads `notify`, so what lets a stream go is that it has read all.
    for partition in [ada, others] {
        xgroup(&stores, "SETID", partition, &["$"]).await;
    }
    xgroup(&stores, "DESTROY", ada, &[]).await;
    for number in 0..3 {
        process.api.pay(&format!("a{number}"), "ADA", "1").await;
        process.api.pay(&format!("o{number}"), other, "1").await;
    }
    process.api.until_settled().await;
    let said = format!("group notify is registered and missing on partitions {ada}: ");
    until("it is said aloud", async || process.log().contains(&said)).await;
    xgroup(&stores, "SETID", others, &["$"]).await;
    until_trimmed(&stores, others, 1).await;
    assert!(length(&stores, ada).await >= 3, "its entries are kept");
    let notify = listed(&stores, 1, "notify").await;
    assert_eq!(notify["missing_on"], serde_json::json!([ada]));

    // Created again, it sees what was kept for it.
    assert_eq!(register(&stores, &[]).await["created_on"], 1);
    let lag = listed(&stores, 0, "notify").await["lag"].as_i64().unwrap();
    assert!(lag >= 3, "{lag}");
    until("its end is said too", async || process.log().contains("trimming is no longer held up"))
        .await;
    assert_eq!(
        process.log().matches(&said).count(),
        2,
        "said once, and its end:\n{}",
        process.log()
    );
}

#[tokio::test]
async fn an_unregistered_group_is_waited_for_and_named() {
    let stores = Stores::new().await;
    let settings = [("PAYSTREAM_RETENTION", "0s"), ("PAYSTREAM_TRIM_INTERVAL", "200ms")];
    let process = Process::serve("all", &stores, &settings).await.account("ADA", "1000").await;
    let ada = process.api.pay_into("a").await;
    xgroup(&stores, "CREATE", ada, &["0"]).await;
    process.api.pay("b", "ADA", "1").await;
    process.api.pay("c", "ADA", "1").await;
    process.api.until_settled().await;
    let said = format!("group notify is not registered and exists on partitions {ada}: ");
    until("it is named", async || process.log().contains(&said)).await;
    assert!(length(&stores, ada).await >= 2, "nobody has read them");
    assert_eq!(listed(&stores, 1, "notify").await["registered"], false);
    // Retired, it is gone from the streams although it was never registered.
    assert_eq!(answer(&stores, 0, &["retire", "notify", "--yes"]).await["removed_from"], 1);
    until_trimmed(&stores, ada, 1).await;
}

#[tokio::test]
async fn a_registration_that_was_interrupted_is_completed_by_the_same_command() {
    let h = Harness::gateway(&[]).await;
    let (ada, _, other) = two_customers(&h.api).await;
    // In the registry, and on one stream only.
    let insert =
        "insert into consumer_groups (name, starts_from, note) values ('notify', 'now', 'n')";
    h.stores.sql(insert).await;
    xgroup(&h.stores, "CREATE", ada, &["$"]).await;
    let list = listed(&h.stores, 1, "notify").await;
    assert_eq!(list["missing_on"].as_array().unwrap().len(), usize::from(PARTITIONS) - 1);

    let registered = register(&h.stores, &["--from", "now"]).await;
    assert_eq!(registered["already_registered"], true);
    assert_eq!(registered["created_on"], PARTITIONS - 1);
    assert_eq!(register(&h.stores, &["--from", "now"]).await["created_on"], 0);
    assert_eq!(h.stores.count("select count(*) from audit_log where subject = 'notify'").await, 1);
    // From now on: what was there is not for it.
    assert!(length(&h.stores, other).await > 0);
    assert_eq!(listed(&h.stores, 0, "notify").await["lag"], 0);
}

#[tokio::test]
async fn our_own_group_and_names_that_are_none_are_refused() {
    let stores = Stores::new().await;
    for (arguments, sentence) in [
        (&["register", "ledger", "--note", "x"][..], "ledger is ours"),
        (&["retire", "ledger", "--yes"], "ledger is ours"),
        (&["register", "a b", "--note", "x"], "1 to 64 letters"),
        (&["register", "", "--note", "x"], "1 to 64 letters"),
        (&["register", "notify", "--note", ""], "--note"),
        (&["register", "notify", "--note", "x", "--from", "yesterday"], "start, now"),
    ] {
        let ended = groups(&stores, arguments).await;
        assert_eq!(ended.code(), Some(2), "{ended:?}");
        assert!(ended.stderr.contains(sentence), "{sentence}: {ended:?}");
    }
    assert_eq!(stores.count("select count(*) from consumer_groups").await, 0);
    let ours = listed(&stores, 0, "ledger").await;
    assert_eq!((&ours["registered"], &ours["lag"]), (&true.into(), &0.into()));
    let table = groups(&stores, &["list"]).await.stdout;
    assert!(table.contains("| ledger | always"), "{table}");
}

#[tokio::test]
async fn the_example_reads_every_payment_beside_the_ledger() {
    let h = Harness::start().await;
    register(&h.stores, &[]).await;
    h.api.seed(20).await;
    let mut wanted = BTreeSet::new();
    let pay = async |number: u32| {
        let reference = format!("n{number}");
        h.api.pay(&reference, &format!("GIG{:05}", number % 20 + 1), "1").await;
        reference
    };
    for number in 0..20 {
        wanted.insert(pay(number).await);
    }
    // One that an earlier run took and did not acknowledge is read as well.
    let partition = h.api.payment("n0").await["partition"].as_u64().unwrap();
    h.stores.hand_out(partition, "notify", "printer-1", 1).await;

    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let streams = second_group::streams(&h.stores.key_prefix, PARTITIONS);
    let (url, keep) = (h.stores.redis_url.clone(), Arc::clone(&seen));
    let mut following = JoinSet::new();
    following.spawn(async move {
        second_group::follow(&url, &streams, "printer-1", |_, _, payment| {
            let payment: Value = serde_json::from_str(payment).unwrap();
            let reference = payment["transaction_reference"].as_str().unwrap().to_owned();
            keep.lock().unwrap().insert(reference);
        })
        .await
    });
    wanted.insert(pay(20).await);
    until("every payment is read", async || *seen.lock().unwrap() == wanted).await;
    until("every payment is acknowledged", async || {
        let notify = listed(&h.stores, 0, "notify").await;
        notify["lag"] == 0 && notify["pending"] == 0
    })
    .await;
    assert!(following.try_join_next().is_none(), "it goes on");
    h.settled().await;
}

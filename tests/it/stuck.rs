//! Proves that an operator sees what is stuck and why, whatever stopped it: each
//! kind of trouble has its verdict, looking harms nothing, and what was said to
//! mend it does. Lists a hundred thousand pending entries in pages.

use crate::prelude::*;

/// What `paystream pending` says, as data, and its exit status.
async fn pending(stores: &Stores, arguments: &[&str]) -> (Value, Option<i32>) {
    let ended = stores.run(&[&["pending", "--json"], arguments].concat()).await;
    (ended.json(), ended.code())
}

/// The moments of a life, by code.
pub fn moments(life: &Value) -> Vec<&str> {
    life["moments"].as_array().unwrap().iter().map(|m| m["code"].as_str().unwrap()).collect()
}

/// Waits until an entry has this verdict; answers with the entry.
async fn until_judged(stores: &Stores, arguments: &[&str], code: &str) -> Value {
    eventually(&format!("an entry is {code}"), async || {
        let (said, _) = pending(stores, arguments).await;
        let entries = said["entries"].as_array().unwrap();
        entries.iter().find(|entry| entry["verdict"]["code"] == code).cloned()
    })
    .await
}

/// One payment for each of many customers.
async fn pay_many(api: &Api, label: &str) {
    for number in 1..=40 {
        api.pay(&format!("{label}{number}"), &format!("GIG{number:05}"), "10").await;
    }
}

/// Codes of the actions of an entry.
fn actions(entry: &Value) -> Vec<&str> {
    let actions = entry["verdict"]["actions"].as_array().unwrap();
    actions.iter().map(|action| action["code"].as_str().unwrap()).collect()
}

/// Two workers that share the partitions; `ada` is in the middle of a batch that
/// cannot end before the lock is dropped.
async fn in_mid_batch(stores: &Stores) -> (Process, Process, Process, PgConnection) {
    let gateway = Process::serve("gateway", stores, &[]).await;
    gateway.api.seed(40).await;
    // Long enough to be looked at in, on a busy machine.
    let lease = [("PAYSTREAM_LEASE", "12s")];
    let ada = worker(stores, "ada", &lease).await;
    let bob = worker(stores, "bob", &lease).await;
    until_spread(stores, &["ada", "bob"]).await;
    let held = lock(stores, "processed_transactions", "share").await;
    pay_many(&gateway.api, "mid").await;
    let entry = until_judged(stores, &["--consumer", "ada"], "locked").await;
    assert_eq!((&entry["owner"], &entry["owner_alive"]), (&json!("ada"), &json!(true)));
    assert_eq!(actions(&entry), ["wait", "end_session"]);
    (gateway, ada, bob, held)
}

#[tokio::test]
async fn a_worker_killed_in_mid_batch_is_silent_until_it_is_taken_over() {
    let stores = Stores::new().await;
    let (gateway, ada, _bob, held) = in_mid_batch(&stores).await;
    ada.kill().await;
    let entry = until_judged(&stores, &["--consumer", "ada"], "owner_silent").await;
    let sentence = entry["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.contains("owner ada") && sentence.contains("taken over"), "{sentence}");
    assert_eq!(actions(&entry), ["wait", "release_partition"]);
    // The life of a payment that waits for it says the same.
    let reference = entry["transaction_reference"].as_str().unwrap();
    let life = stores.show(reference).await;
    assert_eq!(life["state"], "accepted");
    let mut told = moments(&life);
    told.retain(|code| *code != "attempt");
    assert_eq!(told[..3], ["received", "appended", "taken"]);
    // The right thing to do was to wait.
    drop(held);
    gateway.api.until_settled().await;
    let (said, code) = pending(&stores, &[]).await;
    assert_eq!((&said["entries"], code), (&json!([]), Some(0)));
    let life = stores.show(reference).await;
    assert_eq!(life["state"], "applied");
    assert!(life["pending"].is_null());
    stores.audit().await;
}

#[tokio::test]
async fn a_frozen_worker_looks_dead_and_writes_nothing_when_it_wakes() {
    let stores = Stores::new().await;
    let (gateway, ada, _bob, held) = in_mid_batch(&stores).await;
    ada.signal("STOP").await;
    let entry = until_judged(&stores, &["--consumer", "ada"], "owner_silent").await;
    assert_eq!(entry["owner_alive"], true, "its lease still runs");
    assert_eq!(actions(&entry), ["wait", "release_partition"]);
    drop(held);
    gateway.api.until_settled().await;
    ada.signal("CONT").await;
    until_spread(&stores, &["ada", "bob"]).await;
    assert_eq!(pending(&stores, &[]).await.0["summary"]["pending"], 0);
    stores.audit().await;
}

#[tokio::test]
async fn while_postgresql_is_stopped_everything_waits_for_the_ledger() {
    let (mut postgres, stores) = Stores::on_own_postgres("postgres-stuck").await;
    let process = Process::serve("all", &stores, &[]).await;
    process.api.seed(40).await;
    let held = lock(&stores, "processed_transactions", "share").await;
    pay_many(&process.api, "down").await;
    until_judged(&stores, &[], "locked").await;
    postgres.kill().await.unwrap();
    drop(held);
    let (said, code) = pending(&stores, &[]).await;
    assert_eq!((&said["ledger_available"], code), (&json!(false), Some(1)));
    let entries = said["entries"].as_array().unwrap();
    assert!(!entries.is_empty());
    for entry in entries {
        assert_eq!(entry["verdict"]["code"], "waiting_for_ledger", "{entry}");
        assert_eq!(actions(entry), ["check_postgresql"]);
        assert!(entry["owner"].is_null() && entry["owner_alive"].is_null(), "{entry}");
        assert!(entry["transaction_reference"].as_str().unwrap().starts_with("down"));
    }
    // A payment that was taken meanwhile is found, too; nothing is made up.
    process.api.pay("meanwhile", "GIG00001", "10").await;
    let life = stores.show("meanwhile").await;
    assert_eq!((&life["state"], &life["ledger_available"]), (&json!("accepted"), &json!(false)));
    let reply = process.api.get("/api/v1/admin/pending").await;
    assert_eq!((reply.status, &reply.json()["ledger_available"]), (200, &json!(false)));
    // The right thing to do was to bring it back.
    postgres.restart().await.unwrap();
    process.settled(&stores).await;
    assert_eq!(stores.show("meanwhile").await["state"], "applied");
}

#[tokio::test]
async fn poison_is_found_with_what_waits_behind_it() {
    let h = Harness::gateway(&[]).await.account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.pay("POISON", "ADA", "1").await;
    h.api.pay("behind", "ADA", "2").await;
    let settings = [("PAYSTREAM_ATTEMPTS_MAX", "100")];
    let _ada = worker(&h.stores, "ada", &settings).await;
    let entry = until_judged(&h.stores, &["--reference", "POISON"], "poison").await;
    let sentence = entry["verdict"]["sentence"].as_str().unwrap();
    assert!(sentence.contains(" of 100 attempts"), "{sentence}");
    assert!(entry["attempts"].as_u64().unwrap() >= 1);
    assert_eq!(actions(&entry), ["wait", "redrive"]);
    let entry = until_judged(&h.stores, &["--reference", "behind"], "behind_poison").await;
    assert_eq!((&entry["sequence"], &entry["customer_id"]), (&json!(2), &json!("ADA")));
    assert_eq!(entry["transaction_amount"], "2.00");
    // Its life tells of each attempt, by whom, and what it ended with.
    let life = eventually("two attempts have failed", async || {
        let life = h.stores.show("POISON").await;
        let failed = moments(&life).into_iter().filter(|code| *code == "attempt_failed").count();
        (failed >= 2).then_some(life)
    })
    .await;
    let failed = life["moments"].as_array().unwrap().iter();
    let failed = failed.filter(|moment| moment["code"] == "attempt_failed");
    for moment in failed {
        let sentence = moment["sentence"].as_str().unwrap();
        assert!(sentence.contains("by ada"), "{sentence}");
        // No line of PostgreSQL's own source.
        let told = "postgresql refused the values: no payment is called POISON (SQLSTATE P0001)";
        assert!(sentence.ends_with(told), "{sentence}");
    }
    // The right thing to do was to mend the cause.
    allow_poison(&h.stores).await;
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
    let life = h.stores.show("POISON").await;
    assert_eq!(life["state"], "applied");
    assert!(moments(&life).contains(&"attempt_failed"), "what happened is not forgotten");
}

#[tokio::test]
async fn a_locked_account_stops_its_partition_and_no_other() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[("PAYSTREAM_LANES", "1")]).await;
    let api = &process.api;
    api.seed(40).await;
    let mut holder = stores.session().await;
    let sql = "begin; set application_name = 'ada at her desk';
         select * from customer_accounts where customer_id = 'GIG00001' for update";
    sqlx::raw_sql(sql).execute(&mut holder).await.unwrap();
    let locked = api.pay("locked", "GIG00001", "10").await["partition"].clone();
    // Again and again, and whatever else comes: others are settled.
    for round in 0..5 {
        pay_many(api, &format!("round{round}-")).await;
        until("the other partitions go on", async || {
            let mut applied = true;
            for number in 1..=40 {
                let found = api.payment(&format!("round{round}-{number}")).await;
                applied &= found["status"] == "applied" || found["partition"] == locked;
            }
            applied
        })
        .await;
        // Each look says the same.
        let (said, code) = pending(&stores, &["--reference", "locked"]).await;
        let verdict = &said["entries"][0]["verdict"];
        assert_eq!((&verdict["code"], code), (&json!("locked"), Some(1)), "{said}");
        let sentence = verdict["sentence"].as_str().unwrap();
        assert!(sentence.contains("account GIG00001"), "{sentence}");
        assert!(sentence.contains("(ada at her desk, idle in transaction)"), "{sentence}");
        assert_eq!(actions(&said["entries"][0]), ["wait", "end_session"]);
    }
    let (said, _) = pending(&stores, &[]).await;
    let mut entries = said["entries"].as_array().unwrap().iter();
    assert!(entries.all(|entry| entry["verdict"]["code"] == "locked"), "{said}");
    for _ in 0..5 {
        // A warning, or critical if all this took ten seconds.
        let said = doctor(&stores).await;
        let lock = &said.find("postgresql_lock_wait").unwrap()["sentence"];
        let named = "(ada at her desk, idle in transaction) has locked";
        assert!(lock.as_str().unwrap().contains(named), "{lock}");
    }
    // The right thing to do was to end that transaction.
    holder.close().await.unwrap();
    api.until_settled().await;
    assert_eq!(stores.count("select count(*) from dead_letters").await, 0);
    stores.audit().await;
}

#[tokio::test]
async fn a_locked_table_is_told_from_an_outage() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "10").await;
    let held = lock(&stores, "customer_accounts", "access exclusive").await;
    process.api.pay("locked", "ADA", "1").await;
    process.until_logged("a partition waits for a lock").await;
    let (said, code) = pending(&stores, &["--reference", "locked"]).await;
    let verdict = &said["entries"][0]["verdict"];
    assert_eq!((&verdict["code"], code), (&json!("locked"), Some(1)), "{said}");
    assert_eq!(actions(&said["entries"][0]), ["wait", "end_session"]);
    let life = stores.show("locked").await;
    assert_eq!(life["ledger_available"], true, "{life}");
    assert!(moments(&life).contains(&"locked"), "{life}");
    let said = until_found(&stores, "postgresql_lock_wait").await;
    for wrong in ["postgresql_unreachable", "owners_unknown"] {
        assert!(said.find(wrong).is_none(), "{:?}", said.findings);
    }
    let sentence = said.has("postgresql_lock_wait", "warning");
    assert!(sentence.contains("(unnamed, idle in transaction) has locked a table"), "{sentence}");
    assert!(sentence.contains("paystream sessions waiting for a lock"), "{sentence}");
    drop(held);
    process.api.until_settled().await;
    assert_eq!(stores.count("select count(*) from dead_letters").await, 0);
}

/// Hands everything on every stream to a consumer that does nothing with it.
async fn hand_to_ghost(stores: &Stores) {
    for partition in 0..u64::from(PARTITIONS) {
        stores.hand_out(partition, "ledger", "ghost", 1_000_000).await;
    }
}

#[tokio::test]
async fn what_is_committed_unreadable_or_deleted_is_told_apart() {
    let mut h = Harness::with(&["--retention", "1h"]).await.account("ADA", "100").await;
    h.api.pay("done", "ADA", "1").await;
    h.settled().await;
    h.stop_worker().await;
    let stores = &h.stores;
    // Committed, and its acknowledgement lost: it is handed out again.
    let place = h.api.payment("done").await;
    let stream = stores.key(place["partition"].as_u64().unwrap(), "stream");
    stores.tell(&["XGROUP", "SETID", &stream, "ledger", "0"]).await;
    stores.tell(&["XADD", &stream, "*", "hello", "world"]).await;
    let gone: String = stores.ask(&["XADD", &stream, "*", "a", "b"]).await;
    hand_to_ghost(stores).await;
    stores.tell(&["XDEL", &stream, &gone]).await;
    // Nobody owns anything: the ledger's word on what is settled comes first.
    let (said, code) = pending(stores, &[]).await;
    assert_eq!(code, Some(1));
    let entries = said["entries"].as_array().unwrap();
    let codes: Vec<&str> =
        entries.iter().map(|entry| entry["verdict"]["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["committed", "no_owner", "deleted"], "{said}");
    assert_eq!(actions(&entries[1]), ["start_worker"]);
    assert_eq!(said["summary"]["consumers"][0], json!({"consumer": "ghost", "entries": 3}));
    // The right thing to do was to start a worker.
    h.start_worker();
    h.api.settles_at("ADA", "1.00").await;
    assert_eq!(pending(&h.stores, &[]).await.1, Some(0));
    let sentence = "there is no partition 99: the topology has partitions 0 to 7";
    h.stores.run(&["pending", "--partition", "99"]).await.refused(&[sentence]);
    let path = "/api/v1/admin/pending?partition=99";
    h.api.get(path).await.is_problem(400, "invalid_query");
}

#[tokio::test]
async fn a_payment_of_an_unknown_customer_is_said_to_wait_for_its_account() {
    let h = Harness::start().await;
    h.api.pay("lost", "NOBODY", "12.50").await;
    h.settled().await;
    let sentence = until_found(&h.stores, "suspense_held").await.has("suspense_held", "notice");
    let wanted = "1 payment held for unknown customers, 12.50 together; the oldest for";
    assert!(sentence.starts_with(wanted), "{sentence}");
    let life = h.stores.show("lost").await;
    assert_eq!(life["state"], "suspense");
    assert!(life["sentence"].as_str().unwrap().contains("no customer has the id NOBODY"));
    h.api.open_account("NOBODY", "100").await;
    let life = h.stores.show("lost").await;
    assert_eq!((&life["state"], &life["customer_id"]), (&json!("applied"), &json!("NOBODY")));
    assert_eq!(moments(&life), ["received", "appended", "taken", "suspense", "applied"]);
    let ended = h.stores.run(&["show", "never", "--json"]).await;
    assert_eq!((ended.code(), ended.stdout.trim()), (Some(1), "null"));
}

#[tokio::test]
async fn a_hundred_thousand_pending_entries_are_listed_in_pages() {
    const ENTRIES: usize = 100_000;
    let mut h = Harness::gateway(&[]).await;
    h.api.seed(40).await;
    for batch in 0..ENTRIES / 1_000 {
        let payments = (0..1_000).map(|number| {
            let customer = format!("GIG{:05}", number % 40 + 1);
            payment(&format!("many{batch}-{number}"), &customer, "1")
        });
        let body = Value::Array(payments.collect());
        h.api.post("/api/v1/payments/batch", &body).await.is(200);
    }
    hand_to_ghost(&h.stores).await;
    let summary = h.api.get("/api/v1/admin/pending/summary").await.json();
    assert_eq!((&summary["pending"], &summary["looked_at"]), (&json!(ENTRIES), &json!(ENTRIES)));
    let ages = summary["ages"].as_array().unwrap().iter().map(|age| age["entries"].as_u64());
    assert_eq!(ages.flatten().sum::<u64>(), 100_000);
    let (mut seen, mut from, mut pages) = (HashSet::new(), String::new(), 0);
    loop {
        let path = format!("/api/v1/admin/pending?limit=500{from}");
        let page = h.api.get(&path).await.json();
        for entry in page["entries"].as_array().unwrap() {
            seen.insert(entry["transaction_reference"].as_str().unwrap().to_owned());
        }
        pages += 1;
        if pages % 50 == 0 {
            h.api.pay(&format!("meanwhile{pages}"), "GIG00001", "1").await;
        }
        let Some(next) = page["next"].as_str() else { break };
        from = format!("&from={next}");
    }
    assert_eq!(seen.len(), ENTRIES, "each once, in {pages} pages");
    // A filter that nothing passes looks through a bounded part at a time.
    let page = h.api.get("/api/v1/admin/pending?min_idle_seconds=86400").await.json();
    assert_eq!(page["entries"], json!([]));
    assert!(page["next"].is_string(), "{page}");
    let (said, code) = pending(&h.stores, &["--limit", "1200"]).await;
    assert_eq!((said["entries"].as_array().unwrap().len(), code), (1_200, Some(1)));
    h.api.get("/api/v1/admin/pending?from=nowhere").await.is_problem(400, "invalid_query");
    h.work().await;
}

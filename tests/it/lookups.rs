//! Proves that a payment that was accepted is never unknown, however it is looked
//! up, how long it waits, how much waits with it, and whether the ledger can be
//! asked; that looking up what nobody knows costs Redis the same for any number of
//! partitions; and that a payment's life is told in its order.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::prelude::*;

const LOOK_UP: &str = "/api/v1/payments/lookup";

async fn look_up(api: &Api, references: &[impl AsRef<str>]) -> Reply {
    let references: Vec<&str> = references.iter().map(AsRef::as_ref).collect();
    api.post(LOOK_UP, &json!({"transaction_references": references})).await
}

/// The status of one reference, which both look-ups must tell.
async fn status(api: &Api, reference: &str) -> String {
    let reply = look_up(api, &[reference]).await.is(200);
    let many = reply.json()["payments"][0].clone();
    let one = api.get(&format!("/api/v1/payments/{reference}")).await;
    if one.status == 404 {
        assert_eq!(many["status"], "unknown", "{many}");
        return "unknown".to_owned();
    }
    let one = one.json();
    for name in ["status", "partition", "sequence", "stream_id", "customer_id", "payment_status"] {
        assert_eq!(one[name], many[name], "{name}: {one} {many}");
    }
    one["status"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_payment_that_waits_longer_than_it_is_remembered_is_found_by_every_look_up() {
    // More than a search reads first of one partition.
    const WAITING: usize = 60;
    let mut h = Harness::gateway(&["--dedupe-window=10s"]).await.account("ADA", "1000").await;
    h.api.open_account("BOB", "1000").await;
    let notice = but(payment("b", "BOB", "1"), json!({"payment_status": "PENDING"}));
    h.api.post_payment(&notice).await.is(202);
    h.api.pay_each("a", 0..WAITING).await;
    let last = format!("a{}", WAITING - 1);
    // Remembered or forgotten, they wait.
    for forgotten in [false, true] {
        if forgotten {
            h.stores.forget().await;
        }
        for reference in ["a0", "a20", &last, "b"] {
            assert_eq!(status(&h.api, reference).await, "accepted", "{reference}");
            let life = h.stores.said(&["show", reference, "--dedupe-window=10s"]).await;
            assert_eq!(life["state"], "accepted", "{life}");
        }
        assert_eq!(status(&h.api, "never").await, "unknown");
    }
    let all: Vec<String> = (0..WAITING).map(|number| format!("a{number}")).collect();
    let found = look_up(&h.api, &all).await.json();
    for (name, one) in all.iter().zip(found["payments"].as_array().unwrap()) {
        has(one, json!({"transaction_reference": name, "status": "accepted"}));
    }
    // A notice that is settled does not hide the payment that waits.
    h.work().await;
    assert_eq!(status(&h.api, "b").await, "recorded");
    h.stop_worker().await;
    h.api.pay("b", "BOB", "1").await;
    h.stores.forget().await;
    assert_eq!(status(&h.api, "b").await, "accepted");
    assert_eq!(h.api.payment("b").await["notices"][0]["status"], "recorded");
    h.work().await;
    for reference in ["a0", &last, "b"] {
        assert_eq!(status(&h.api, reference).await, "applied", "{reference}");
    }
}

#[tokio::test]
async fn a_search_that_would_be_too_long_is_refused_instead_of_saying_unknown() {
    const ENTRIES: i64 = 100_100;
    let h = Harness::gateway(&["--dedupe-window=10s"]).await.account("ADA", "1000").await;
    let place = h.api.pay("first", "ADA", "1").await;
    let partition = place["partition"].as_u64().unwrap();
    let (stream, seq) = (h.stores.key(partition, "stream"), h.stores.key(partition, "seq"));
    let fill = "for n = tonumber(ARGV[2]), tonumber(ARGV[3]) do
        redis.call('XADD', KEYS[1], '*', 'v', '1', 'seq', n, 'payment', ARGV[1], 'received_at', '1')
    end
    redis.call('SET', KEYS[2], ARGV[3])";
    let more = json!({
        "transaction_reference": "more", "customer_id": "ADA", "payment_status": "COMPLETE",
        "transaction_amount": "1", "transaction_date": "2025-11-07T14:54:16Z",
    });
    let more = more.to_string();
    for part in 0..10 {
        let (first, last) = (2 + part * ENTRIES / 10, 1 + (part + 1) * ENTRIES / 10);
        let (first, last) = (first.to_string(), last.to_string());
        h.stores.tell(&["EVAL", fill, "2", &stream, &seq, &more, &first, &last]).await;
    }
    h.api.pay("last", "ADA", "1").await;
    h.stores.forget().await;
    assert_eq!(status(&h.api, "first").await, "accepted");
    look_up(&h.api, &["first", "last"]).await.is_problem(503, "search_limit");
    h.api.get("/api/v1/payments/never").await.is_problem(503, "search_limit");
    // What is remembered needs no search.
    h.api.pay("latest", "ADA", "1").await;
    assert_eq!(status(&h.api, "latest").await, "accepted");
}

#[tokio::test]
async fn what_was_accepted_is_never_unknown_while_it_is_settled_and_trimmed() {
    let h = Harness::with(&["--retention=1ms"]).await;
    h.api.seed(16).await;
    let pay = async |number: usize| {
        let (reference, customer) = (format!("t{number}"), format!("GIG{:05}", number % 16 + 1));
        h.api.pay(&reference, &customer, "1").await;
        for _ in 0..3 {
            let reply = look_up(&h.api, &[&reference]).await.json();
            let told = reply["payments"][0]["status"].as_str().unwrap_or("nothing").to_owned();
            assert!(["accepted", "applied"].contains(&&*told), "{reference} is {told}: {reply}");
            let reply = h.api.get(&format!("/api/v1/payments/{reference}")).await;
            assert_eq!(reply.status, 200, "{reference}: {}", reply.text);
        }
    };
    for round in 0..20 {
        join_all((0..16).map(|number| pay(round * 16 + number))).await;
    }
    h.settled().await;
}

#[tokio::test]
async fn while_postgresql_is_away_a_payment_that_waits_is_accepted() {
    let (mut postgres, stores) = Stores::on_own_postgres("postgres-lookups").await;
    let mut h = Harness::on(stores, &[]).await.account("ADA", "1000").await;
    h.api.pay("settled", "ADA", "1").await;
    h.settled().await;
    h.stop_worker().await;
    let place = h.api.pay("handed-out", "ADA", "1").await;
    h.api.pay("waits", "ADA", "1").await;
    let partition = place["partition"].as_u64().unwrap();
    h.stores.hand_out(partition, "ledger", "ghost", 1).await;
    postgres.kill().await.unwrap();
    for reference in ["handed-out", "waits"] {
        assert_eq!(status(&h.api, reference).await, "accepted", "{reference}");
    }
    let found = look_up(&h.api, &["waits", "handed-out"]).await.json();
    assert_eq!(found["payments"][1]["customer_id"], "ADA", "{found}");
    // The others may be settled, as one of them is.
    for reference in ["settled", "never"] {
        let path = format!("/api/v1/payments/{reference}");
        h.api.get(&path).await.is_problem(503, "ledger_unavailable");
        look_up(&h.api, &["waits", reference]).await.is_problem(503, "ledger_unavailable");
        let ended = h.stores.run(&["show", reference]).await;
        assert!(!ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
        assert!(ended.stderr.contains("PostgreSQL does not answer"), "{ended:?}");
    }
    // Acknowledged: what became of it is not known from the stream any more.
    let id = place["stream_id"].as_str().unwrap();
    h.stores.tell(&["XACK", &h.stores.key(partition, "stream"), "ledger", id]).await;
    h.api.get("/api/v1/payments/handed-out").await.is_problem(503, "ledger_unavailable");
    let life = h.stores.show("waits").await;
    assert_eq!((&life["state"], &life["ledger_available"]), (&json!("accepted"), &json!(false)));
    postgres.restart().await.unwrap();
    h.api.until_is("settled", "applied").await;
    assert_eq!(status(&h.api, "settled").await, "applied");
}

#[tokio::test]
async fn operators_who_look_try_an_absent_postgresql_once() {
    let h = Harness::gateway(&[]).await;
    h.api.pay("waits", "ADA", "1").await;
    // Takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://nobody@{}/nothing", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let mut silent = JoinSet::new();
    silent.spawn(async move {
        let mut kept = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            kept.push(connection);
        }
    });
    for arguments in [&["show", "waits", "--json"][..], &["pending", "--json"]] {
        connections.store(0, Ordering::Relaxed);
        let mut command = operate(&h.stores, arguments);
        command.env("PAYSTREAM_DATABASE_URL", &url);
        let Ended { status, stdout, stderr } = run(command).await;
        assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
        let said: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(said["ledger_available"], false, "{said}");
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{arguments:?}");
    }
}

/// Calls of each Redis command since the counts were last reset.
async fn calls(stores: &Stores) -> BTreeMap<String, u64> {
    let text: String = stores.ask(&["INFO", "commandstats"]).await;
    let line = |line: &str| {
        let (name, counts) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), counts.split(',').next()?.parse().ok()?))
    };
    let ours = |(name, _): &(String, u64)| !name.starts_with("config") && name != "info";
    text.lines().filter_map(line).filter(ours).collect()
}

#[tokio::test]
async fn looking_up_what_nobody_knows_costs_redis_the_same_for_any_number_of_partitions() {
    let (_redis, stores) = Stores::on_own_redis("lookups-redis").await;
    let process = Process::serve("gateway", &stores, &[]).await;
    let unknown: Vec<String> = (0..1_000).map(|number| format!("unknown{number}")).collect();
    // The least of five: now and then the gateway samples its own rate.
    let cost = async |references: &[String]| {
        let mut least = None;
        for _ in 0..5 {
            stores.tell(&["CONFIG", "RESETSTAT"]).await;
            let reply = look_up(&process.api, references).await.is(200);
            let payments = reply.json()["payments"].as_array().unwrap().clone();
            assert!(payments.iter().all(|one| one["status"] == "unknown"));
            let calls = calls(&stores).await;
            let sum = calls.values().sum::<u64>();
            if least.as_ref().is_none_or(|(so_far, _)| sum < *so_far) {
                least = Some((sum, calls));
            }
        }
        least.unwrap().1
    };
    let few = cost(&unknown).await;
    let worker = Process::serve("worker", &stores, &[]).await;
    stores.succeed(&resize(&["--partitions", "64"])).await;
    served(&process, 64).await;
    // Nobody else asks Redis now.
    worker.stop().await;
    let many = cost(&unknown).await;
    println!("8 partitions: {few:?}; 64 partitions: {many:?}");
    assert_eq!(many.values().sum::<u64>(), 1, "{many:?}");
    assert_eq!(few, many);
    assert_eq!(cost(&unknown[..1]).await, many, "one reference costs as much as 1,000");
    // What waits is read once for all references.
    process.api.pay("waits", "ADA", "1").await;
    let waiting = cost(&unknown).await;
    println!("one waits: {waiting:?}");
    assert!(waiting.values().sum::<u64>() <= 4, "{waiting:?}");
}

#[tokio::test]
async fn whoever_prefers_to_wait_is_not_waited_for_by_a_look_up() {
    let h = Harness::gateway(&["--request-timeout=1s", "--append-deadline=500ms"]).await;
    // Longer than the limit, and shorter than limit and preference together, the
    // ledger gives up by itself.
    let held = lock(&h.stores, "processed_transactions", "access exclusive").await;
    let body = json!({"transaction_references": ["r"]});
    let requests = [
        h.api.request(Method::GET, "/api/v1/payments/r"),
        h.api.request(Method::POST, LOOK_UP).json(&body),
        h.api.request(Method::GET, "/api/v1/admin/payments/r"),
    ];
    for request in requests {
        send(request.header("prefer", "wait=30")).await.is_problem(503, "request_timeout");
    }
    drop(held);
}

#[tokio::test]
async fn a_life_is_told_in_its_order_and_without_times_that_nobody_knows() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    // Appended before any worker had the partition.
    h.api.pay("early", "ADA", "1").await;
    h.api.pay("held", "NOBODY", "7").await;
    h.work().await;
    let life = h.stores.show("early").await;
    assert_eq!(moments(&life), ["received", "appended", "taken", "applied"]);
    assert!(life["moments"][2]["at"].is_null(), "when it was taken is not kept: {life}");

    let mark = ["suspense", "refund-mark", "held", "--reason", "not ours"];
    h.stores.succeed(&mark).await;
    assert_eq!(status(&h.api, "held").await, "refund_marked");
    let life = h.stores.show("held").await;
    assert_eq!(life["state"], "refund_marked");
    let mut told = moments(&life);
    told.retain(|code| *code != "changed");
    assert_eq!(told, ["received", "appended", "taken", "suspense", "refund_marked"]);
    let marked: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select resolved_at from suspense")
            .fetch_one(&h.stores.pool)
            .await
            .unwrap();
    let mut told = life["moments"].as_array().unwrap().iter();
    let mark = told.find(|moment| moment["code"] == "refund_marked").unwrap();
    let at = mark["at"].as_str().unwrap();
    assert_eq!(at.parse::<chrono::DateTime<chrono::Utc>>().unwrap(), marked, "{life}");
}

#[tokio::test]
async fn a_lock_on_a_table_of_cases_does_not_stop_settling() {
    let h = Harness::start().await.account("ADA", "1000").await;
    let _duplicates = lock(&h.stores, "duplicates", "access exclusive").await;
    h.api.pay("first", "ADA", "1").await;
    h.api.until_is("first", "applied").await;
    // A look-up reads these two.
    let conflicts = lock(&h.stores, "conflicts", "access exclusive").await;
    let dead_letters = lock(&h.stores, "dead_letters", "access exclusive").await;
    h.api.pay("second", "ADA", "1").await;
    let settled = "select count(*) from processed_transactions where outcome = 'applied'";
    h.stores.until(2, settled).await;
    drop((conflicts, dead_letters));
    h.api.until_is("second", "applied").await;
}

#[tokio::test]
async fn all_that_is_kept_of_a_customer_is_printed_and_nothing_of_others() {
    let h = Harness::start().await.account("ADA", "1000").await.account("BOB", "1000").await;
    for (reference, customer) in [("ada-1", "ADA"), ("ada-2", "ADA"), ("bob-1", "BOB")] {
        h.api.pay(reference, customer, "1").await;
    }
    h.api.pay("slip", "AD-A", "7").await;
    h.api.until_is("slip", "suspense").await;
    let assign = ["suspense", "assign", "slip", "--customer", "ADA", "--reason", "a slip"];
    h.stores.succeed(&assign).await;
    h.stores.forget().await;
    // Redis has forgotten these references: the ledger judges.
    h.api.pay("ada-1", "ADA", "1").await;
    h.api.pay("ada-2", "ADA", "2").await;
    h.settled().await;
    let printed = h.stores.succeed(&["export", "ADA"]).await;
    assert!(!printed.contains("BOB") && !printed.contains("bob-1"), "{printed}");
    let rows = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut counts = BTreeMap::new();
    for row in rows {
        assert!(row["row"].is_object(), "{row}");
        *counts.entry(row["table"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    let wanted = [
        ("audit_log", 2),
        ("conflicts", 1),
        ("customer_accounts", 1),
        ("duplicates", 1),
        ("processed_transactions", 3),
        ("suspense", 1),
    ];
    assert_eq!(counts, wanted.map(|(table, count)| (table.to_owned(), count)).into());
    let nobody = h.stores.run(&["export", "NOBODY"]).await;
    nobody.is(1, "");
    assert!(nobody.stdout.is_empty() && nobody.stderr.contains("0 rows are kept of NOBODY"));
    h.stores.run(&["export", "a b\n"]).await.refused(&["the customer"]);
}

//! Proves that the operators' API does what the commands do: every change says
//! who and why or is refused, is made once, and is noted with what was before
//! and after; what is stuck and what needs somebody is listed in pages.

use crate::prelude::*;

const ADMIN: &str = "/api/v1/admin";

fn signed() -> Value {
    json!({"actor": "ada", "reason": "ticket 4711"})
}

async fn get(api: &Api, path: &str) -> Value {
    let reply = api.get(&format!("{ADMIN}{path}")).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    reply.json()
}

async fn post(api: &Api, path: &str, body: &Value) -> Reply {
    api.post(&format!("{ADMIN}{path}"), body).await
}

/// The changes that were noted, the oldest first: actor, action, subject, reason.
/// Accounts are opened by these tests themselves.
async fn noted(api: &Api) -> Vec<[String; 4]> {
    let log = get(api, "/audit-log?limit=500").await;
    let changes = log["changes"].as_array().unwrap().iter().rev();
    let changes = changes.filter(|change| change["action"] != "account_opened");
    let cell = |change: &Value, name: &str| change[name].as_str().unwrap_or_default().to_owned();
    changes
        .map(|change| ["actor", "action", "subject", "reason"].map(|name| cell(change, name)))
        .collect()
}

/// A dead letter named POISON of ADA; says its id.
async fn bury(h: &mut Harness) -> i64 {
    h.api.open_account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.pay("POISON", "ADA", "5").await;
    h.work().await;
    allow_poison(&h.stores).await;
    let letters = get(&h.api, "/dead-letters").await;
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 1, "{letters}");
    letters["dead_letters"][0]["id"].as_i64().unwrap()
}

#[tokio::test]
async fn a_change_that_does_not_say_who_and_why_is_refused_and_changes_nothing() {
    let mut h = Harness::gateway(&["--attempts-max", "1"]).await;
    let id = bury(&mut h).await;
    h.api.pay("held", "NOBODY", "7").await;
    h.settled().await;
    let missing = post(&h.api, "/partitions/99999/release", &signed()).await;
    let detail = missing.is_problem(404, "case_not_found")["detail"].clone();
    assert_eq!(detail, "there is no partition 99999: the topology has partitions 0 to 7");
    // Whoever reads a list may stop: the command then ends without a word.
    for list in [&["topology", "show"][..], &["dead-letters", "list"], &["pending"]] {
        let mut command = operate(&h.stores, list);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = in_time("the command ends", child.wait_with_output()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{list:?}");
    }
    let paths = [
        format!("/dead-letters/{id}/redrive"),
        format!("/dead-letters/{id}/discard"),
        "/dead-letters/redrive".to_owned(),
        "/dead-letters/discard".to_owned(),
        "/suspense/held/assign".to_owned(),
        "/suspense/held/refund-mark".to_owned(),
        "/conflicts/0/1/resolve".to_owned(),
        "/parked/ADA/release".to_owned(),
        "/partitions/0/release".to_owned(),
    ];
    for path in paths {
        // What else the request needs.
        let more = match &*path {
            "/suspense/held/assign" => json!({"customer_id": "ADA"}),
            "/dead-letters/redrive" | "/dead-letters/discard" => json!({"all": true}),
            _ => json!({}),
        };
        let body = but(json!({"reason": " "}), more.clone());
        let problem = post(&h.api, &path, &body).await.is_problem(422, "invalid_request");
        let errors = problem["errors"].as_array().unwrap();
        let pointers: Vec<&Value> = errors.iter().map(|error| &error["pointer"]).collect();
        assert_eq!(pointers, ["/actor", "/reason"], "{path}");
        let body = but(json!({"actor": "a\u{1b}[2J", "reason": "x".repeat(501)}), more);
        let problem = post(&h.api, &path, &body).await.is_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["code"], "bad_character", "{path}");
        assert_eq!(problem["errors"][1]["code"], "too_long", "{path}");
        post(&h.api, &path, &json!({})).await.is_problem(422, "invalid_request");
    }
    assert_eq!(noted(&h.api).await, Vec::<[String; 4]>::new());
    h.settled().await;
    assert_eq!(h.api.payment("POISON").await["status"], "dead_lettered");
    assert_eq!(h.api.payment("held").await["status"], "suspense");
}

#[tokio::test]
async fn a_dead_letter_is_redriven_once() {
    let mut h = Harness::gateway(&["--attempts-max", "1"]).await;
    let id = bury(&mut h).await;
    let letter = get(&h.api, &format!("/dead-letters/{id}")).await;
    assert_eq!(letter["customer_id"], "ADA");
    assert_eq!((&letter["transaction_amount"], &letter["state"]), (&json!("5.00"), &json!("dead")));
    let actions = letter["actions"].as_array().unwrap();
    assert!(!actions.is_empty(), "{letter}");
    let redrive = format!("/dead-letters/{id}/redrive");
    let dry = post(&h.api, &redrive, &but(signed(), json!({"dry_run": true}))).await;
    assert_eq!((dry.status, &dry.json()["outcome"]), (200, &json!("applied")), "{}", dry.text);
    assert_eq!(h.api.payment("POISON").await["status"], "dead_lettered");
    let done = post(&h.api, &redrive, &signed()).await;
    assert_eq!((done.status, &done.json()["redriven"]), (200, &json!(true)), "{}", done.text);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "5.00");
    let problem = post(&h.api, &redrive, &signed()).await.is_problem(409, "already_settled");
    assert!(problem["detail"].as_str().unwrap().contains("ada"), "{problem}");
    let discard = format!("/dead-letters/{id}/discard");
    post(&h.api, &discard, &signed()).await.is_problem(409, "already_settled");
    for path in ["/dead-letters/999999/redrive", "/dead-letters/999999/discard"] {
        post(&h.api, path, &signed()).await.is_problem(404, "case_not_found");
    }
    h.api.get(&format!("{ADMIN}/dead-letters/none")).await.is_problem(404, "case_not_found");
    h.api.get(&format!("{ADMIN}/dead-letters/999999")).await.is_problem(404, "case_not_found");
    h.api.get(&format!("{ADMIN}/dead-letters?state=x")).await.is_problem(400, "invalid_query");
    h.api.get(&format!("{ADMIN}/dead-letters?limit=0")).await.is_problem(400, "invalid_query");
    assert_eq!(get(&h.api, "/dead-letters").await["dead_letters"], json!([]));
    let redriven = get(&h.api, "/dead-letters?state=redriven&customer=ADA").await;
    assert_eq!(redriven["dead_letters"][0]["actions"], json!([]));
    let log = noted(&h.api).await;
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!([&log[0][0], &log[0][3]], ["ada", "ticket 4711"]);
    let life = get(&h.api, "/payments/POISON").await;
    assert_eq!(life["state"], "applied");
    let moments = life["moments"].as_array().unwrap();
    let changed = moments.iter().find(|moment| moment["code"] == "changed").expect("it is told");
    assert!(changed["sentence"].as_str().unwrap().contains("by ada: ticket 4711"), "{changed}");
    h.settled().await;
}

#[tokio::test]
async fn many_dead_letters_are_redriven_or_discarded_when_they_are_named() {
    let mut h = Harness::gateway(&["--attempts-max", "1"]).await;
    bury(&mut h).await;
    refuse_poison(&h.stores).await;
    h.api.pay_each("POISON", 1..=4).await;
    h.settled().await;
    allow_poison(&h.stores).await;
    for path in ["/dead-letters/redrive", "/dead-letters/discard"] {
        post(&h.api, path, &signed()).await.is_problem(422, "invalid_request");
    }
    let one = but(signed(), json!({"reference": "POISON4"}));
    let report = post(&h.api, "/dead-letters/discard", &one).await.json();
    assert_eq!((&report["discarded"], &report["left"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!(h.api.payment("POISON4").await["status"], "discarded");
    let dry = but(signed(), json!({"all": true, "dry_run": true}));
    let report = post(&h.api, "/dead-letters/redrive", &dry).await.json();
    assert_eq!(report["redriven"], 4, "{report}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "0.00");
    let page = get(&h.api, "/dead-letters?limit=3").await;
    assert_eq!(page["dead_letters"].as_array().unwrap().len(), 3);
    let next = page["next"].as_i64().unwrap();
    let page = get(&h.api, &format!("/dead-letters?limit=3&before={next}")).await;
    assert_eq!((page["dead_letters"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    let all = but(signed(), json!({"code": "settle_failed"}));
    let report = post(&h.api, "/dead-letters/redrive", &all).await.json();
    assert_eq!((&report["redriven"], &report["refused"]), (&json!(4), &json!(0)), "{report}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "8.00");
    let report = post(&h.api, "/dead-letters/redrive", &all).await.json();
    assert_eq!((&report["redriven"], &report["reports"]), (&json!(0), &json!([])), "{report}");
    h.settled().await;
}

#[tokio::test]
async fn held_money_and_conflicts_are_dealt_with_once() {
    let h = Harness::start().await.account("ADA", "100").await;
    h.api.pay_all("NOBODY", &[("held1", "7"), ("held2", "8")]).await;
    h.settled().await;
    let held = get(&h.api, "/suspense?limit=1").await;
    assert_eq!(held["payments"][0]["transaction_reference"], "held1");
    let next = held["next"].as_str().unwrap();
    let held = get(&h.api, &format!("/suspense?limit=1&after={next}&customer=NOBODY")).await;
    assert_eq!(held["payments"][0]["transaction_reference"], "held2");
    let to = |customer: &str| but(signed(), json!({"customer_id": customer}));
    let assign = "/suspense/held1/assign";
    post(&h.api, assign, &to("NOT HERE")).await.is_problem(422, "invalid_request");
    post(&h.api, assign, &to("NOTHERE")).await.is_problem(422, "not_possible");
    let done = post(&h.api, assign, &to("ADA")).await;
    assert_eq!(
        (done.status, &done.json()["balance_after"]),
        (200, &json!("93.00")),
        "{}",
        done.text
    );
    post(&h.api, assign, &to("ADA")).await.is_problem(409, "already_settled");
    post(&h.api, "/suspense/no/assign", &to("ADA")).await.is_problem(404, "case_not_found");
    let refund = "/suspense/held2/refund-mark";
    post(&h.api, refund, &signed()).await.is(200);
    post(&h.api, refund, &signed()).await.is_problem(409, "already_settled");
    post(&h.api, "/suspense/held2/assign", &to("ADA")).await.is_problem(409, "already_settled");
    let listed = get(&h.api, "/suspense").await["payments"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1, "whoever pays it back finds it: {listed}");
    assert_eq!(listed[0]["state"], "refund_marked");
    assert_eq!(get(&h.api, "/suspense?all=true").await["payments"].as_array().unwrap().len(), 2);

    // Another partition takes the same reference: a conflict for the ledger.
    h.api.pay("twice", "ADA", "1").await;
    h.settled().await;
    h.stores.forget_reference("twice").await;
    h.api.post_payment(&payment("twice", "ADA", "2")).await;
    h.settled().await;
    let conflicts = get(&h.api, "/conflicts?reference=twice").await;
    let conflict = &conflicts["conflicts"][0];
    has(conflict, json!({"transaction_amount": "2.00", "first_amount": "1.00"}));
    let resolve = format!("/conflicts/{}/{}/resolve", conflict["partition"], conflict["sequence"]);
    post(&h.api, &resolve, &signed()).await.is(200);
    post(&h.api, &resolve, &signed()).await.is_problem(409, "already_settled");
    post(&h.api, "/conflicts/0/999/resolve", &signed()).await.is_problem(404, "case_not_found");
    h.api.get(&format!("{ADMIN}/conflicts?after=x")).await.is_problem(400, "invalid_query");
    let log = noted(&h.api).await;
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log.iter().all(|[actor, .., reason]| (&**actor, &**reason) == ("ada", "ticket 4711")));
    h.settled().await;
}

#[tokio::test]
async fn parked_customers_and_partitions_are_released() {
    let mut h = Harness::gateway(&["--attempts-max", "1", "--park-customer"]).await;
    let id = bury(&mut h).await;
    h.api.pay("after", "ADA", "2").await;
    h.settled().await;
    let parked = get(&h.api, "/parked").await;
    has(&parked["customers"][0], json!({"customer_id": "ADA", "amount": "2.00"}));
    assert_eq!(parked["customers"][0]["dead_letters"], json!([id]));
    post(&h.api, "/parked/ADA/release", &signed()).await.is_problem(422, "not_possible");
    assert_eq!(h.api.payment("after").await["status"], "parked");
    post(&h.api, &format!("/dead-letters/{id}/redrive"), &signed()).await.is(200);
    post(&h.api, "/parked/ADA/release", &signed()).await.is(200);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "7.00");
    post(&h.api, "/parked/ADA/release", &signed()).await.is_problem(404, "case_not_found");

    let epoch =
        async || h.stores.count("select epoch from partition_owners where partition = 3").await;
    let before = epoch().await;
    let done = post(&h.api, "/partitions/3/release", &signed()).await.is(200);
    assert!(done.json()["done"].as_str().unwrap().contains("tester"), "{}", done.text);
    until("it is acquired anew", async || epoch().await > before).await;
    post(&h.api, "/partitions/99/release", &signed()).await.is_problem(404, "case_not_found");
    post(&h.api, "/partitions/x/release", &signed()).await.is_problem(404, "case_not_found");
    let checkup = get(&h.api, "/doctor").await;
    let findings = checkup["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["code"].is_string()), "{checkup}");
    h.api.get(&format!("{ADMIN}/payments/none")).await.is_problem(404, "payment_not_found");
    h.settled().await;
}

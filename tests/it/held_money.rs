//! Proves that money of an unknown customer is given to the right one, or marked
//! for refund, once; that what was assigned is no conflict when it is sent
//! again, and nothing but it may stand out of order; that conflicts are dealt
//! with once; and that the trace of a payment goes wherever it goes.

use paystream::operations::{AuditFilter, ConflictFilter, ConflictName, SuspenseFilter};

use crate::{mending::settled, prelude::*};

fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn customer(text: &str) -> CustomerId {
    CustomerId::parse(text).unwrap()
}

/// ADA has paid 1 and 2; 30 came for ADAA, who does not exist, between them.
async fn with_held_money() -> Harness {
    let h = Harness::with(&["--retention=1h"]).await.account("ADA", "100").await;
    h.api.pay("a1", "ADA", "1").await;
    h.api.pay("held", "ADAA", "30").await;
    h.settled().await;
    h.api.pay("a2", "ADA", "2").await;
    h.settled().await;
    assert_eq!(h.api.payment("held").await["status"], "suspense");
    h
}

#[tokio::test]
async fn held_money_is_assigned_once() {
    let h = with_held_money().await;
    let list = h.stores.said(&["suspense", "list"]).await;
    assert_eq!((&list[0]["customer_id"], &list[0]["state"]), (&json!("ADAA"), &json!("held")));
    let before = everything(&h.stores).await;
    let assign = ["suspense", "assign", "held", "--reason", "a typo", "--customer"];
    h.stores.run(&[&assign[..], &["BOB"]].concat()).await.is(1, "no customer has the id BOB");
    let nothing = ["suspense", "assign", "nothing", "--reason", "a typo", "--customer", "ADA"];
    let nothing = h.stores.run(&nothing).await;
    assert_eq!(nothing.stdout, "no payment nothing is in suspense\n");
    assert_eq!(everything(&h.stores).await, before);

    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
    let assigned = h.stores.run(&[&assign[..], &["ADA"]].concat()).await;
    assert_eq!(assigned.stdout, "applied to ADA, 67.00 left to pay\n", "{assigned:?}");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "33.00");
    let found = h.api.payment("held").await;
    assert_eq!((&found["status"], &found["customer_id"]), (&json!("applied"), &json!("ADA")));
    assert_eq!(found["account_version"], 3, "{found}");
    let (before, after) = noted_by(&h.stores, "suspense_assigned", ["ada", "held", "a typo"]).await;
    assert_eq!(before, json!({"state": "held", "customer_id": "ADAA"}));
    assert_eq!(after, json!({"state": "applied", "assigned_to": "ADA", "balance_after": "67.00"}));
    h.stores.audit().await;

    let after = everything(&h.stores).await;
    let again = h.stores.run(&[&assign[..], &["ADA"]].concat()).await;
    assert_eq!(again.code(), Some(1), "{again:?}");
    assert!(again.stdout.starts_with("held was assigned to ADA by ada at 2"), "{again:?}");
    let refund = ["suspense", "refund-mark", "held", "--reason", "no"];
    let refund = h.stores.run(&refund).await;
    assert_eq!((refund.code(), &refund.stdout), (Some(1), &again.stdout));
    assert_eq!(everything(&h.stores).await, after);
    read_again(&h).await;

    // The same again is a repetition, and the account finds nothing to apply.
    h.stores.forget().await;
    h.api.pay("held", "ADAA", "30").await;
    h.settled().await;
    assert_eq!(h.stores.count("select count(*) from conflicts").await, 0);
    assert_eq!(h.stores.count("select count(*) from duplicates").await, 1);
    h.api.open_account("ADAA", "100").await;
    assert_eq!(h.api.balance("ADAA").await["total_paid"], "0.00");
    h.api.pay("a3", "ADA", "1").await;
    h.settled().await;

    // Without the row that tells of it, it is out of place and not its content.
    let forget = "update suspense set assigned_to = null";
    h.stores.sql(forget).await;
    let audit = h.stores.said(&["audit"]).await;
    let drifts = audit["drifts"].as_array().unwrap();
    let drifts: Vec<&str> = drifts.iter().map(|one| one["check"].as_str().unwrap()).collect();
    assert!(drifts.contains(&"content_changed"), "{drifts:?}");
    assert!(drifts.contains(&"partition_mixed") || drifts.contains(&"order_broken"), "{drifts:?}");
}

#[tokio::test]
async fn money_marked_for_refund_is_never_applied() {
    let h = with_held_money().await;
    let refund = ["suspense", "refund-mark", "held", "--reason", "not ours"];
    let marked = h.stores.run(&refund).await;
    assert_eq!((marked.code(), &*marked.stdout), (Some(0), "held is marked for refund\n"));
    let (before, after) =
        noted_by(&h.stores, "suspense_refund_marked", ["ada", "held", "not ours"]).await;
    assert_eq!((&before["state"], &after["state"]), (&json!("held"), &json!("refund_marked")));
    let changed = everything(&h.stores).await;
    let again = h.stores.run(&refund).await;
    assert_eq!(again.code(), Some(1));
    assert!(again.stdout.starts_with("held was marked for refund by ada at 2"), "{again:?}");
    let operations = operations(&h.stores).await;
    let assign = operations.assign(&reference("held"), &customer("ADA"), &signed("bob")).await;
    assert_eq!(settled(assign.unwrap()), again.stdout.trim());
    assert_eq!(everything(&h.stores).await, changed);
    h.api.open_account("ADAA", "100").await;
    assert_eq!(h.api.balance("ADAA").await["total_paid"], "0.00");
    assert_eq!(h.api.payment("held").await["status"], "refund_marked");
    let of_ada =
        SuspenseFilter { all: true, customer: Some("ADAA".to_owned()), ..Default::default() };
    let all = operations.suspense(&of_ada).await.unwrap().rows;
    assert_eq!((&*all[0].state, all[0].actions.len()), ("refund_marked", 0));
    assert_eq!(
        operations.suspense(&SuspenseFilter::default()).await.unwrap().rows.len(),
        1,
        "it is to be paid"
    );
    h.stores.forget().await;
    h.api.pay("held", "ADAA", "30").await;
    h.settled().await;
    assert_eq!(h.stores.count("select count(*) from duplicates").await, 1);
    read_again(&h).await;
}

#[tokio::test]
async fn of_all_that_happens_to_held_money_at_once_one_counts() {
    let h = with_held_money().await;
    for name in ["BOB", "EVE"] {
        h.api.open_account(name, "100").await;
    }
    let operations = operations(&h.stores).await;
    let held = reference("held");
    let whose: Vec<CustomerId> = ["ADA", "BOB", "EVE", "ADA", "BOB", "EVE"].map(customer).into();
    let by = signed("ada");
    let assigns = join_all(whose.iter().map(|whose| operations.assign(&held, whose, &by)));
    let refund = Act::MarkForRefund { reference: held.clone() };
    let refunds = join_all((0..2).map(|_| operations.perform(&refund, &by)));
    let opening = h.api.open_account("ADAA", "100");
    let (assigns, refunds, ()) = tokio::join!(assigns, refunds, opening);
    let assigned = assigns.into_iter().filter(|one| one.as_ref().unwrap().is_ok()).count();
    let marked = refunds.into_iter().filter(|one| one.as_ref().unwrap().is_ok()).count();
    let released = "select count(*) from suspense where state = 'applied' and assigned_to is null";
    let released = usize::try_from(h.stores.count(released).await).unwrap();
    assert_eq!(assigned + marked + released, 1);
    let paid = "select coalesce(sum(total_paid), 0)::bigint from customer_accounts";
    assert_eq!(h.stores.count(paid).await, if marked == 1 { 3 } else { 33 });
    h.stores.audit().await;
    read_again(&h).await;
}

#[tokio::test]
async fn a_parked_customer_is_assigned_money_all_the_same() {
    let mut h = Harness::gateway(&["--park-customer", "--attempts-max=1", "--retention=1h"]).await;
    h.api.open_account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.pay("POISON", "ADA", "1").await;
    h.api.pay("a1", "ADA", "2").await;
    h.api.pay("held", "ADAA", "30").await;
    h.work().await;
    allow_poison(&h.stores).await;
    let operations = operations(&h.stores).await;
    let by = signed("ada");
    let assigned =
        operations.assign(&reference("held"), &customer("ADA"), &by).await.unwrap().unwrap();
    assert!(assigned.sentence.contains("`paystream parked release ADA --reason "), "{assigned:?}");
    assert_eq!(h.api.payment("held").await["status"], "applied");
    assert_eq!(h.api.payment("a1").await["status"], "parked");
    h.stores.audit().await;
    read_again(&h).await;
}

#[tokio::test]
async fn a_conflict_is_shown_beside_the_first_payment_and_resolved_once() {
    let h = Harness::with(&["--retention=1h"]).await;
    for name in ["ADA", "BOB"] {
        h.api.open_account(name, "100").await;
    }
    h.api.pay("r", "ADA", "1").await;
    h.api.pay("g", "GHOST", "5").await;
    h.settled().await;
    h.stores.forget().await;
    let place = h.api.pay("r", "BOB", "2").await;
    h.api.pay("g", "GHOST", "6").await;
    h.settled().await;
    let list = h.stores.said(&["conflicts", "list"]).await;
    let of = |name: &str| {
        let all = list.as_array().unwrap().iter();
        all.into_iter().find(|one| one["transaction_reference"] == name).unwrap().clone()
    };
    assert_eq!(of("r")["sentence"], "customer BOB instead of ADA, amount 2.00 instead of 1.00");
    assert_eq!(of("g")["first_amount"], "5.00", "one that is held has the reference, too");
    let operations = operations(&h.stores).await;
    let first = ConflictFilter { limit: Some(1), ..Default::default() };
    let after = operations.conflicts(&first).await.unwrap().next;
    assert!(after.is_some());
    let rest = ConflictFilter { after, ..Default::default() };
    assert_eq!(operations.conflicts(&rest).await.unwrap().rows.len(), 1);

    let (partition, sequence) = (place["partition"].to_string(), place["sequence"].to_string());
    let resolve = ["conflicts", "resolve", &partition, &sequence, "--reason", "BOB pays again"];
    let resolved = h.stores.run(&resolve).await;
    assert_eq!(resolved.code(), Some(0), "{resolved:?}");
    let (before, after) =
        noted_by(&h.stores, "conflict_resolved", ["ada", "r", "BOB pays again"]).await;
    assert_eq!((&before["state"], &after["state"]), (&json!("open"), &json!("resolved")));
    let changed = everything(&h.stores).await;
    let again = h.stores.run(&resolve).await;
    assert_eq!(again.code(), Some(1), "{again:?}");
    let said = format!("the conflict {partition}/{sequence} about r was resolved by ada at 2");
    assert!(again.stdout.starts_with(&said), "{again:?}");
    let nowhere = Act::Resolve { conflict: ConflictName { partition: 0, sequence: 999 } };
    let nowhere = operations.perform(&nowhere, &signed("ada")).await.unwrap().unwrap_err();
    assert!(matches!(nowhere, Refusal::Missing(_)), "{nowhere:?}");
    assert_eq!(everything(&h.stores).await, changed);
    for (all, count) in [(false, 0), (true, 1)] {
        let filter = ConflictFilter { all, reference: Some("r".to_owned()), ..Default::default() };
        assert_eq!(operations.conflicts(&filter).await.unwrap().rows.len(), count);
    }
    let changes = operations.audit_log(&AuditFilter::of("r")).await.unwrap().rows;
    assert_eq!((changes.len(), &*changes[0].action), (1, "conflict_resolved"));
    read_again(&h).await;
}

#[tokio::test]
async fn the_trace_of_a_payment_is_kept_wherever_it_ends() {
    let mut h = Harness::gateway(&["--park-customer", "--attempts-max=1"]).await;
    h.api.open_account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    let traced = async |name: &str, customer: &str, amount: &str, trace: u128| {
        let request = h.api.request(Method::POST, "/api/v1/payments");
        let header = format!("00-{trace:032x}-00f067aa0ba902b7-01");
        let request = request.json(&payment(name, customer, amount)).header("traceparent", header);
        send(request).await.is(202);
    };
    traced("applied", "ADA", "1", 1).await;
    traced("held", "GHOST", "2", 2).await;
    h.stores.forget().await;
    traced("applied", "ADA", "9", 3).await;
    traced("POISON", "ADA", "4", 4).await;
    traced("parked", "ADA", "5", 5).await;
    h.api.pay("b1", "BOB", "5").await;
    h.work().await;
    let kept = async |table: &str, name: &str| {
        let sql = format!(
            "select coalesce(encode(trace_id, 'hex'), '') from {table}
             where transaction_reference = '{name}'"
        );
        let [hex] = &h.stores.texts(&sql).await[..] else { panic!("{name} is in {table} once") };
        hex.trim_start_matches('0').to_owned()
    };
    assert_eq!(kept("processed_transactions", "applied").await, "1");
    assert_eq!(kept("suspense", "held").await, "2");
    assert_eq!(kept("suspense", "b1").await, "", "it came without one");
    assert_eq!(kept("conflicts", "applied").await, "3");
    assert_eq!(kept("dead_letters", "POISON").await, "4");
    assert_eq!(kept("parked", "parked").await, "5");
    // And on, when they are settled later.
    allow_poison(&h.stores).await;
    let id = h.stores.count("select id from dead_letters").await;
    let operations = operations(&h.stores).await;
    operations.redrive(id, &signed("ada"), false).await.unwrap().unwrap();
    let release = ["parked", "release", "ADA", "--reason", "it is settled"];
    assert!(h.stores.run(&release).await.status.success());
    h.api.open_account("GHOST", "10").await;
    for (name, trace) in [("POISON", "4"), ("parked", "5"), ("held", "2")] {
        assert_eq!(kept("processed_transactions", name).await, trace);
    }
    h.settled().await;
}

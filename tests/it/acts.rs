//! Proves that what operators are told about their acts is true: a payment that
//! was given up is accepted when it is sent again, a damaged account is named,
//! and what comes from outside leads no terminal and no shell astray.

use paystream::operations::SuspenseFilter;

use crate::prelude::*;

/// Ids of dead letters, the first buried first.
async fn letters(stores: &Stores) -> Vec<i64> {
    stores.values("select id from dead_letters order by id").await
}

/// ADA has a dead letter for each status that POISON was sent with.
async fn with_two_letters() -> (Harness, Vec<i64>) {
    let mut h = Harness::gateway(&["--attempts-max=1", "--retention=1h"]).await;
    h.api.open_account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    for sent in [poison("COMPLETE"), poison("PENDING")] {
        h.api.post_payment(&sent).await.is(202);
    }
    h.work().await;
    allow_poison(&h.stores).await;
    let letters = letters(&h.stores).await;
    assert_eq!(letters.len(), 2);
    (h, letters)
}

fn poison(status: &str) -> serde_json::Value {
    but(payment("POISON", "ADA", "20"), json!({"payment_status": status}))
}

#[tokio::test]
async fn a_discarded_payment_is_accepted_when_it_is_sent_again_and_counts_once() {
    let (h, letters) = with_two_letters().await;
    let post = async |status: &str| h.api.post_payment(&poison(status)).await.status;
    assert_eq!(post("COMPLETE").await, 200, "a repetition, as long as it is dead");
    let operations = operations(&h.stores).await;
    let report = operations.discard(letters[0], &signed("ada")).await.unwrap().unwrap();
    assert_eq!((report.can_be_sent_again, &*report.sentence), (Some(true), "discarded"));
    let references = h.stores.keys("*:refs:*").await;
    let left: i64 = h.stores.ask(&["PTTL", &references[0]]).await;
    assert!(left > 0, "what is left is forgotten in its time: {left}");
    assert_eq!(post("PENDING").await, 200, "the other one is a repetition still");
    assert_eq!(post("COMPLETE").await, 202);
    h.settled().await;
    assert_eq!(post("COMPLETE").await, 200);
    assert_eq!(h.api.payment("POISON").await["status"], "applied");
    assert_eq!(h.api.balance("ADA").await["total_paid"], "20.00");

    // Many at once, from the command line.
    let all = ["dead-letters", "discard", "--all", "--yes", "--reason", "given up"];
    let all = h.stores.run(&all).await;
    assert!(all.stdout.contains("1 discarded, 0 refused\n"), "{all:?}");
    assert_eq!(post("PENDING").await, 202);
    h.settled().await;
    assert_eq!(h.stores.count("select count(*) from processed_transactions").await, 2);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "20.00");
    assert!(h.stores.keys("*:lost").await.is_empty());
    let losses = h.stores.run(&["losses", "list", "--all"]).await;
    assert_eq!(losses.stdout, "Nothing is known to be lost.\n");
    h.stores.audit().await;
    read_again(&h).await;
}

#[tokio::test]
async fn a_discard_that_redis_was_not_told_of_says_when_to_send_again() {
    let (h, letters) = with_two_letters().await;
    let ledger = Ledger::new(&h.stores.database_url).unwrap();
    let topology = ledger.schema().topology(None, &h.stores.key_prefix).await.unwrap();
    // Nobody listens there.
    let streams = Streams::new("redis://127.0.0.1:1", &h.stores.key_prefix, PARTITIONS, 1).unwrap();
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let all = operations.mend_each(Mend::Discard, &letters, &signed("ada"), false, || ()).await;
    assert_eq!((all.discarded, all.refused), (Some(2), 0), "{all:?}");
    for report in all.reports {
        assert_eq!(report.can_be_sent_again, Some(false));
        assert!(report.sentence.contains("sent again within 15m"), "{report:?}");
    }
    assert_eq!(h.api.post_payment(&poison("COMPLETE")).await.status, 200, "as it was said");
    h.settled().await;
}

#[tokio::test]
async fn on_a_damaged_account_every_act_is_refused_with_what_is_wrong() {
    let settings = ["--park-customer", "--attempts-max=1", "--retention=1h"];
    let mut h = Harness::gateway(&settings).await.account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.pay_all("ADA", &["a1", "a2", "a3", "POISON", "waits"].map(|name| (name, "1"))).await;
    h.api.pay("held", "ADAA", "5").await;
    h.work().await;
    allow_poison(&h.stores).await;
    let id = letters(&h.stores).await[0];
    let set_version = async |version: i64| {
        h.stores.sql(&format!("update customer_accounts set version = {version}")).await;
    };
    set_version(1).await;
    let before = everything(&h.stores).await;
    let (operations, by) = (operations(&h.stores).await, signed("ada"));
    let (ada, held) = (CustomerId::parse("ADA").unwrap(), Reference::parse("held").unwrap());
    let wrong = "account ADA stands at version 1, but its statement goes on to 3";
    let unpark = |force| Act::Unpark { customer: ada.clone(), force };
    for (refused, stays) in [
        (operations.redrive(id, &by, true).await.unwrap().map(drop), "stays dead"),
        (operations.redrive(id, &by, false).await.unwrap().map(drop), "stays dead"),
        (operations.assign(&held, &ada, &by).await.unwrap().map(drop), "stays held"),
        (operations.perform(&unpark(true), &by).await.unwrap().map(drop), "stays"),
    ] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Refusal::Impossible(_)), "{refused:?}");
        let sentence = refused.sentence();
        assert!(sentence.contains(wrong) && sentence.contains(stays), "{sentence}");
    }
    let page =
        send(h.api.browse(Method::GET, &format!("/console/act/redrive?of={id}"))).await.is(200);
    assert!(page.text.contains(wrong), "{}", page.text);
    let path = format!("/api/v1/admin/dead-letters/{id}/redrive");
    let body = json!({"actor": "ada", "reason": "ticket 4711"});
    h.api.post(&path, &body).await.is_problem(422, "not_possible");
    let redrive = ["dead-letters", "redrive", "--all", "--reason", "again"];
    let redrive = h.stores.run(&redrive).await;
    redrive.is(1, "0 redriven, 1 refused\n");
    assert_eq!(everything(&h.stores).await, before);

    set_version(3).await;
    operations.redrive(id, &by, false).await.unwrap().unwrap();
    operations.perform(&unpark(false), &by).await.unwrap().unwrap();
    operations.assign(&held, &ada, &by).await.unwrap().unwrap();
    assert_eq!(h.api.balance("ADA").await["total_paid"], "10.00");
    h.settled().await;
}

#[tokio::test]
async fn what_comes_from_outside_leads_no_terminal_astray() {
    let mut h = Harness::gateway(&["--attempts-max=1", "--retention=1h"]).await;
    h.stores
        .sql(
            "create function astray() returns trigger language plpgsql as $$
         begin raise exception E'gone \\x1b[2J\\nCRITICAL  nothing'; end $$;
             create trigger astray before insert on processed_transactions
         for each row execute function astray()",
        )
        .await;
    h.api.open_account("ADA", "100").await;
    h.api.pay("POISON", "ADA", "1").await;
    h.work().await;
    h.stop_worker().await;
    let partition = h.api.pay_into("waits").await;
    let (stream, evil) = (h.stores.key(partition, "stream"), "evil\x1b[2J\nx; reboot");
    for words in [
        ["XREADGROUP", "GROUP", "ledger", evil, "COUNT", "1", "STREAMS", &stream, ">"].as_slice(),
        ["XGROUP", "CREATE", &stream, evil, "0"].as_slice(),
    ] {
        h.stores.tell(words).await;
    }
    let id = letters(&h.stores).await[0].to_string();
    let escaped = r"\u{1b}[2J\u{a}";
    for arguments in [
        ["dead-letters", "list"].as_slice(),
        &["dead-letters", "show", &id],
        &["dead-letters", "redrive", &id, "--reason", "again"],
        &["show", "POISON"],
        &["pending"],
        &["groups", "list"],
        &["doctor"],
    ] {
        let ended = h.stores.run(arguments).await;
        let raw = ended.stdout.chars().any(|one| one.is_control() && one != '\n');
        assert!(!raw, "{arguments:?}: {:?}", ended.stdout);
        // Tables break long words.
        let joined: String = ended.stdout.split(['|', '\n', ' ']).collect();
        assert!(joined.contains(escaped), "{arguments:?}: {}", ended.stdout);
    }
    let said = h.stores.run(&["doctor"]).await.stdout;
    assert!(said.contains(r"`paystream groups retire 'evil\u{1b}[2J\u{a}x; reboot'`"), "{said}");
    h.stores.tell(&["XGROUP", "DESTROY", &stream, evil]).await;
}

#[tokio::test]
async fn what_is_to_be_paid_back_stays_in_the_list_and_commands_can_be_pasted() {
    let h = Harness::start().await;
    for reference in ["a;reboot", "refunded"] {
        h.api.pay(reference, "NOBODY", "5").await;
    }
    h.settled().await;
    let operations = operations(&h.stores).await;
    let refund = Act::MarkForRefund { reference: Reference::parse("refunded").unwrap() };
    operations.perform(&refund, &signed("ada")).await.unwrap().unwrap();
    let listed = operations.suspense(&SuspenseFilter::default()).await.unwrap();
    let commands = listed.rows.iter().flat_map(|one| &one.actions);
    let commands: Vec<&str> = commands.filter_map(|one| one.command.as_deref()).collect();
    assert_eq!(commands.len(), 2);
    assert!(commands.iter().all(|command| command.contains(" 'a;reboot' --")), "{commands:?}");
    let page = send(h.api.browse(Method::GET, "/console/suspense")).await.text;
    let list = h.stores.run(&["suspense", "list"]).await.stdout;
    let api = h.api.get("/api/v1/admin/suspense").await.text;
    for shown in [page, list, api] {
        assert!(shown.contains("a;reboot") && shown.contains("refunded"), "{shown}");
    }

    let console = send(h.api.browse(Method::GET, "/console/")).await;
    assert_eq!((console.status, console.header("location")), (308, "/console"));
    for unseen in ["a\u{200b}da", "a\u{ad}da", "a\u{feff}da", "a\u{e0041}da"] {
        let body = json!({"actor": unseen, "reason": "ticket 4711"});
        let path = "/api/v1/admin/suspense/a;reboot/refund-mark";
        let problem = h.api.post(path, &body).await.is_problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["code"], "bad_character", "{unseen:?}");
    }
    h.settled().await;
}

#[tokio::test]
async fn a_letter_whose_payment_came_again_and_is_parked_says_so() {
    let settings = ["--park-customer", "--attempts-max=1", "--retention=1h"];
    let mut h = Harness::gateway(&settings).await.account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.pay("POISON", "ADA", "1").await;
    h.work().await;
    h.stores.forget().await;
    h.api.pay("POISON", "ADA", "1").await;
    h.settled().await;
    allow_poison(&h.stores).await;
    let (operations, id) = (operations(&h.stores).await, letters(&h.stores).await[0]);
    let done = operations.redrive(id, &signed("ada"), false).await.unwrap().unwrap();
    assert_eq!(done.outcome.as_deref(), Some("duplicate"));
    assert!(done.sentence.contains("came again meanwhile and waits in the parking"), "{done:?}");
    assert_eq!(h.api.payment("POISON").await["status"], "parked");
    let unpark = Act::Unpark { customer: CustomerId::parse("ADA").unwrap(), force: false };
    operations.perform(&unpark, &signed("ada")).await.unwrap().unwrap();
    assert_eq!(h.api.balance("ADA").await["total_paid"], "1.00");
    h.settled().await;
}

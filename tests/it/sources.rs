//! Proves that each source has references of its own: it neither blocks, nor reads, nor names
//! what another source sends, wherever a payment goes; and that operators see all of them.

use crate::{callers::Keys, prelude::*};

const PAYS: &str = "payments:write,payments:read";

/// A gateway for two banks, an app that sees balances, and an operator.
struct Banks {
    stores: Stores,
    keys: Keys,
    process: Process,
    a: Api,
    b: Api,
    app: Api,
    operator: Api,
}

impl Banks {
    async fn new(name: &str, role: &str) -> Self {
        let (stores, keys) = (Stores::new().await, Keys::new(name).await);
        let process = keys.serve_as(role, &stores, &[]).await;
        let caller = async |subject: &str, source: &str, scope: &str| {
            let token = ["--source", source, "--scope", scope];
            process.api.with_token(&keys.token_of(subject, "a", &token).await)
        };
        let a = caller("bank-a", "bank-a", PAYS).await;
        let b = caller("bank-b", "bank-b", PAYS).await;
        let app = caller("app", "bank-a", "payments:read,customers:read,customers:write").await;
        let operator = caller("ada", "default", "operations:read,operations:write").await;
        app.open_account("ADA", "100").await;
        Self { a, b, app, operator, stores, keys, process }
    }

    /// Each of both pays 1 more under this reference, and it comes to this.
    async fn both_pay(&self, reference: &str, customer: &str, status: &str) {
        for (bank, amount) in [(&self.a, "1"), (&self.b, "2")] {
            bank.pay(reference, customer, amount).await;
            bank.until_is(reference, status).await;
        }
    }

    async fn find(&self, bank: &Api, reference: &str) -> Value {
        let found = bank.payment(reference).await;
        let listed = json!({"transaction_references": [reference, "nobodys"]});
        let listed = bank.post("/api/v1/payments/lookup", &listed).await.is(200).json();
        let payments = &listed["payments"];
        assert_eq!(payments[0]["transaction_amount"], found["transaction_amount"], "{listed}");
        assert_eq!(payments[1]["status"], "unknown");
        found
    }
}

#[tokio::test]
async fn one_source_that_nobody_settles_leaves_room_to_others() {
    let (stores, keys) = (Stores::new().await, Keys::new("backlog").await);
    let settings = [("PAYSTREAM_BACKLOG_MAX", "32")];
    let gateway = keys.serve_as("gateway", &stores, &settings).await;
    let of = async |source: &str| {
        let token = ["--source", source, "--scope", PAYS];
        gateway.api.with_token(&keys.token_of(source, "a", &token).await)
    };
    let (a, b) = (of("bank-a").await, of("bank-b").await);
    // How many payments of one customer are taken until one is refused, and why.
    let fill = async |bank: &Api, name: &str| {
        for number in 0.. {
            let sent = bank.post_payment(&payment(&format!("{name}{number}"), "ADA", "1")).await;
            if sent.status != 202 {
                let refused = sent.is_problem(503, "backlog_full");
                return (number, refused["detail"].as_str().unwrap().to_owned());
            }
        }
        unreachable!("a backlog is bounded");
    };
    // One has three quarters at most.
    let (taken, why) = fill(&a, "a").await;
    assert_eq!((taken, why.contains("of this source")), (24, true), "{why}");
    let batch = json!([payment("a-batch", "ADA", "1")]);
    let batch = a.post("/api/v1/payments/batch", &batch).await.json();
    assert_eq!(batch["results"][0]["code"], "backlog_full", "{batch}");
    a.post_payment(&payment("a1", "ADA", "1")).await.is(200);
    let (taken, why) = fill(&b, "b").await;
    assert_eq!((taken, why.contains("of this source")), (8, false), "{why}");
    // What is settled is counted no more, though the stream keeps it and is as full as before.
    let worker = keys.serve_as("all", &stores, &settings).await;
    let settled = "select count(*) from taken_payments";
    stores.until(32, settled).await;
    worker.stop().await;
    let (taken, why) = fill(&a, "again").await;
    assert_eq!((taken, why.contains("of this source")), (24, true), "{why}");
    let (taken, why) = fill(&b, "b-again").await;
    assert_eq!((taken, why.contains("of this source")), (8, false), "{why}");
}

#[tokio::test]
async fn one_reference_of_two_sources_is_two_payments() {
    let banks = Banks::new("sources", "all").await;
    let Banks { a, b, app, operator, stores, .. } = &banks;
    banks.both_pay("R", "ADA", "applied").await;
    for (bank, source, amount) in [(a, "bank-a", "1.00"), (b, "bank-b", "2.00")] {
        let found = banks.find(bank, "R").await;
        has(&found, json!({"source": source, "transaction_reference": "R"}));
        assert_eq!(found["transaction_amount"], amount);
        // A balance is for whoever may read balances.
        has(&found, json!({"balance_after": null, "account_version": null}));
        assert_eq!(found["links"]["self"], "/api/v1/payments/R");
    }
    assert_eq!(app.payment("R").await["balance_after"], "99.00");
    assert_eq!(app.get("/api/v1/payments/R").await.header("cache-control"), "no-store");
    assert_eq!(app.balance("ADA").await["total_paid"], "3.00");
    let statement = app.get("/api/v1/customers/ADA/payments").await.is(200).json();
    let rows = statement["payments"].as_array().unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (&row["source"], &row["account_version"])).collect();
    assert_eq!(rows, [(&json!("bank-a"), &json!(1))], "{statement}");

    // Sent again, each is its own; and a conflict is of one source only.
    let paid =
        async |bank: &Api, amount: &str| bank.post_payment(&payment("R", "ADA", amount)).await;
    paid(a, "1").await.is(200);
    paid(b, "2").await.is(200);
    paid(a, "2").await.is_problem(409, "reference_conflict");
    stores.forget().await;
    for (bank, amount) in [(a, "1"), (b, "1")] {
        paid(bank, amount).await.is(202);
    }
    stores.until(1, "select count(*) from duplicates").await;
    stores.until(1, "select count(*) from conflicts").await;
    assert_eq!(a.payment("R").await["conflicts"], Value::Null);
    assert_eq!(b.payment("R").await["conflicts"][0]["transaction_amount"], "1.00");
    assert_eq!(app.balance("ADA").await["total_paid"], "3.00");

    // Operators name a payment with its source, the source `default` apart.
    let path = "/api/v1/admin/payments/bank-b%20R";
    let life = operator.get(path).await.is(200).json();
    assert_eq!(life["transaction_reference"], "bank-b R");
    operator.get("/api/v1/admin/payments/R").await.is(404);
    let shown = stores.succeed(&["show", "bank-a R"]).await;
    assert!(shown.contains("bank-a R: applied"), "{shown}");
    let conflicts = stores.said(&["conflicts", "list"]).await;
    assert_eq!(conflicts[0]["transaction_reference"], "bank-b R");
    stores.audit().await;
}

#[tokio::test]
async fn nobody_names_what_is_anothers() {
    let banks = Banks::new("names", "all").await;
    let Banks { a, b, app, process, keys, stores, .. } = &banks;
    b.pay("R", "ADA", "1").await;
    b.until_is("R", "applied").await;
    for name in ["R", "bank-b%20R", "bank-b+R", "bank-b%2FR", "%20R", "bank-b%00R"] {
        let reply = a.get(&format!("/api/v1/payments/{name}")).await;
        reply.is_problem(404, "payment_not_found");
    }
    let look_up = async |name: &str| {
        let body = json!({"transaction_references": [name]});
        a.post("/api/v1/payments/lookup", &body).await
    };
    assert_eq!(look_up("R").await.is(200).json()["payments"][0]["status"], "unknown");
    for name in ["bank-b R", " R", "default R"] {
        look_up(name).await.is_problem(422, "invalid_request");
        a.post_payment(&payment(name, "ADA", "1")).await.is_problem(422, "invalid_payment");
    }
    // A field of the body says nothing about whose it is.
    let forged = but(payment("F", "ADA", "1"), json!({"source": "bank-b"}));
    let taken = a.post_payment(&forged).await.is(202).json();
    assert_eq!(taken["ignored"], json!(["source"]));
    a.until_is("F", "applied").await;
    b.get("/api/v1/payments/F").await.is(404);
    let others = app.get("/api/v1/customers/ADA/payments").await.json();
    assert_eq!(others["payments"].as_array().unwrap().len(), 1, "{others}");

    let refused = ["token", "--key", &keys.path("a"), "--subject", "x", "--scope", PAYS];
    let refused = keys.run(&[&refused[..], &["--source", "Bank A"]].concat()).await;
    refused.refused(&["--source must have lower-case letters"]);
    assert_eq!(
        stores
            .texts(
                "select transaction_reference from processed_transactions
        order by 1"
            )
            .await,
        ["bank-a F", "bank-b R"]
    );
    process.api.get("/api/v1/payments/R").await.is(401);
}

#[tokio::test]
async fn a_payment_that_waits_is_found_by_its_source_only() {
    let banks = Banks::new("waiting", "gateway").await;
    banks.both_pay("W", "ADA", "accepted").await;
    for (bank, amount) in [(&banks.a, "1.00"), (&banks.b, "2.00")] {
        assert_eq!(banks.find(bank, "W").await["transaction_amount"], amount);
    }
    banks.a.pay("A", "ADA", "1").await;
    banks.b.get("/api/v1/payments/A").await.is(404);
    let shown = banks.stores.succeed(&["show", "bank-b W"]).await;
    assert!(shown.contains("bank-b W: accepted"), "{shown}");
    let _worker = banks.keys.serve_as("worker", &banks.stores, &[]).await;
    for (bank, reference) in [(&banks.a, "W"), (&banks.b, "W"), (&banks.a, "A")] {
        bank.until_is(reference, "applied").await;
    }
    banks.stores.audit().await;
}

#[tokio::test]
async fn a_payment_has_its_source_wherever_it_goes() {
    let banks = Banks::new("aside", "all").await;
    let Banks { a, b, app, stores, .. } = &banks;
    // Held for a customer who is opened, and for one who is not.
    banks.both_pay("H", "BOB", "suspense").await;
    banks.both_pay("K", "GHOST", "suspense").await;
    app.open_account("BOB", "100").await;
    assert_eq!(app.balance("BOB").await["total_paid"], "3.00");
    let assign = ["suspense", "assign", "bank-a K", "--customer", "BOB", "--reason", "a typo"];
    assert!(stores.succeed(&assign).await.contains("applied to BOB, 96.00 left to pay"));
    let refund = ["suspense", "refund-mark", "bank-b K", "--reason", "not ours"];
    stores.succeed(&refund).await;
    for (bank, k) in [(a, "applied"), (b, "refund_marked")] {
        bank.statuses(&[("H", "applied"), ("K", k)]).await;
    }
    // What cannot be settled, and is redriven or discarded.
    refuse_poison(stores).await;
    banks.both_pay("POISON", "ADA", "dead_lettered").await;
    allow_poison(stores).await;
    let letters = stores.said(&["dead-letters", "list"]).await;
    let names: Vec<_> = letters
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| letter["transaction_reference"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        BTreeSet::from_iter(names),
        ["bank-a POISON", "bank-b POISON"].map(Into::into).into()
    );
    for (mend, name) in [("redrive", "bank-a POISON"), ("discard", "bank-b POISON")] {
        let act = ["dead-letters", mend, "--reference", name, "--reason", "why"];
        stores.succeed(&act).await;
    }
    a.statuses(&[("POISON", "applied")]).await;
    b.statuses(&[("POISON", "discarded")]).await;
    // Discarded, it may be sent again at once.
    b.pay("POISON", "ADA", "2").await;
    b.until_is("POISON", "applied").await;
    assert_eq!(app.balance("ADA").await["total_paid"], "3.00");
    stores.audit().await;
}

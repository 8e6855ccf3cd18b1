//! Proves that the ledger is kept by months: that a month is there when a payment needs it, that a
//! reference is used once in all of them, that nothing in a month can be rewritten, and that an older
//! ledger becomes one of months while processes of the release before go on. That a month leaves the
//! ledger while payments go on, and the audit adds up without it; and that what is kept for a while only
//! goes.

use crate::prelude::*;

const MONTHS: &str = "select count(*) from payment_months where detached_at is null";

/// Takes the months out from this many ahead on, as if the clock had gone on without them.
async fn lose_months(stores: &Stores, ahead: i32) {
    let names = format!(
        "select name from payment_months where detached_at is null
             and ends_at > date_trunc('month', now()) + {ahead} * interval '1 month'"
    );
    for name in stores.texts(&names).await {
        stores
            .sql(&format!("drop table {name}; delete from payment_months where name = '{name}'"))
            .await;
    }
}

/// Makes all that was settled this month older by so many months.
pub async fn age(stores: &Stores, months: u32) {
    let old = format!(
        "select make_payment_month(now() - interval '{months} months');
         set session_replication_role = replica;
         update processed_transactions set processed_at = processed_at - interval '{months} months'
             where processed_at >= date_trunc('month', now());
         update used_references set settled_at = settled_at - interval '{months} months'
             where settled_at >= date_trunc('month', now());
         reset session_replication_role"
    );
    stores.sql(&old).await;
}

#[tokio::test]
async fn a_month_that_is_missing_is_made_by_the_payment_that_needs_it() {
    let h = Harness::start().await.account("ADA", "1000").await;
    assert_eq!(h.stores.count(MONTHS).await, 3, "this month and two ahead");
    lose_months(&h.stores, 0).await;
    let said = doctor(&h.stores).await;
    assert!(said.find("payment_months_short").is_none(), "nothing was settled that needs one");
    h.api.pay("one", "ADA", "1").await;
    h.api.until_is("one", "applied").await;
    assert_eq!(h.stores.count(MONTHS).await, 3);
    assert!(doctor(&h.stores).await.find("payment_months_short").is_none());
    // A clock that goes back for longer than there are months, with a month of this name beside it.
    lose_months(&h.stores, 0).await;
    let now = "select to_char(now() at time zone 'UTC', 'YYYY_MM')";
    let name = format!("processed_transactions_{}", h.stores.texts(now).await[0]);
    h.stores.sql(&format!("create table {name} (other integer)")).await;
    h.api.pay("two", "ADA", "1").await;
    h.api.until_is("two", "applied").await;
    let made = "select name from payment_months order by starts_at limit 1";
    assert_eq!(h.stores.texts(made).await, [format!("{name}_2")]);
    for none in ["attempts", "dead_letters"] {
        assert_eq!(h.stores.count(&format!("select count(*) from {none}")).await, 0, "{none}");
    }
}

#[tokio::test]
async fn who_holds_the_table_keeps_no_payment_waiting_for_a_month_ahead() {
    let h = Harness::start().await.account("ADA", "1000").await;
    lose_months(&h.stores, 1).await;
    // As VACUUM and ANALYZE do.
    let held = lock(&h.stores, "processed_transactions", "share update exclusive").await;
    h.api.pay("one", "ADA", "1").await;
    h.api.until_is("one", "applied").await;
    assert_eq!(h.stores.count(MONTHS).await, 1);
    let said = doctor(&h.stores).await;
    said.tells("payment_months_short", "warning", "no month");
    drop(held);
    h.api.pay("two", "ADA", "1").await;
    h.api.until_is("two", "applied").await;
    h.stores.until(3, MONTHS).await;
    h.settled().await;
}

#[tokio::test]
async fn a_reference_is_used_once_in_all_months() {
    let h = Harness::start().await;
    let (ada, bob) = ("ADA".to_owned(), elsewhere("ADA"));
    for customer in [&ada, &bob] {
        h.api.open_account(customer, "1000").await;
    }
    h.api.pay("same", &ada, "1").await;
    h.api.pay("other", &ada, "2").await;
    h.api.pay("elsewhere", &ada, "3").await;
    h.api
        .post_payment(&but(payment("same", &ada, "1"), json!({"payment_status": "PENDING"})))
        .await;
    h.settled().await;
    age(&h.stores, 1).await;
    h.api.pay("between", &ada, "1").await;
    h.api.until_settled().await;
    age(&h.stores, 2).await;
    h.stores.forget().await;
    // What Redis has forgotten, the ledger judges.
    h.api.pay("same", &ada, "1").await;
    h.api.pay("other", &ada, "5").await;
    h.api.pay("elsewhere", &bob, "3").await;
    h.settled().await;
    let totals = h.api.stats().await["totals"].clone();
    let counts =
        ["applied", "recorded", "duplicates", "conflicts"].map(|name| totals[name].clone());
    assert_eq!(counts, [4, 1, 1, 2].map(|count| json!(count)));
    // Found where they are, and in their order.
    assert_eq!(h.api.payment("same").await["status"], "applied");
    assert_eq!(h.stores.show("elsewhere").await["state"], "applied");
    let statement = h.api.get("/api/v1/customers/ADA/payments?limit=3").await.json();
    let versions: Vec<&Value> = statement["payments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["account_version"])
        .collect();
    assert_eq!(versions, [&json!(5), &json!(4), &json!(3)], "{statement}");
    let conflicts = h.stores.run(&["conflicts", "list"]).await;
    assert!(conflicts.stdout.contains("amount 5.00 instead of 2.00"), "{conflicts:?}");
}

#[tokio::test]
async fn nothing_in_a_month_can_be_rewritten_or_written_past_the_key() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("r", "ADA", "1").await;
    h.settled().await;
    let month = "select name from payment_months where starts_at <= now() and ends_at > now()";
    let month = &h.stores.texts(month).await[0];
    let mut owner = h.stores.session().await;
    for sql in [
        format!("update {month} set amount = 2"),
        format!("delete from {month}"),
        format!("truncate {month}"),
        "update processed_transactions set processed_at = now() - interval '1 month'".to_owned(),
        "delete from used_references".to_owned(),
        "truncate used_references".to_owned(),
        "update used_references set settled_at = null".to_owned(),
        "update used_references set partition = 9".to_owned(),
    ] {
        let refused =
            sqlx::query(AssertSqlSafe(sql.clone())).execute(&mut owner).await.unwrap_err();
        let code = refused.as_database_error().unwrap().code().unwrap().to_string();
        assert_eq!(code, "23001", "{sql}: {refused}");
    }
    // No role reaches a month by itself, where no trigger would take the key.
    for role in ["gateway", "worker", "operations", "auditor"] {
        for right in ["select", "insert", "update", "delete"] {
            let may = format!(
                "select has_table_privilege('paystream_{role}', '{month}', '{right}')::int::bigint"
            );
            assert_eq!(h.stores.count(&may).await, 0, "{role} {right}");
        }
    }
    h.stores.audit().await;
}

/// What the release before holds in a transaction: rows that claim the keys first.
const CLAIM: &str = "insert into processed_transactions (transaction_reference, payment_status,
        customer_id, amount, outcome, reason, applied_amount, excess_amount, partition, sequence,
        stream_id, epoch, transaction_date, received_at, payload_digest)
    values ('late', 'COMPLETE', 'NOBODY', 1, 'rejected', 'claimed', 0, 0, 1, 9, 'claim', 1, now(),
        now(), 'd');
    delete from processed_transactions
        where transaction_reference = any('{late}') and stream_id = 'claim';";
const HELD: &str = "insert into suspense (partition, sequence, transaction_reference, customer_id,
        amount, stream_id, epoch, transaction_date, received_at, payload_digest)
    values (1, $S, '$R', 'NOBODY', 1, '1-$S', 1, now(), now(), 'd');";
const APPLIED: &str = "insert into processed_transactions (transaction_reference, payment_status,
        customer_id, amount, outcome, applied_amount, excess_amount, balance_after,
        account_version, partition, sequence, stream_id, epoch, transaction_date, received_at,
        payload_digest)
    values ('$R', 'COMPLETE', 'ADA', 1, 'applied', 1, 0, 9, $S, 1, $S, '1-$S', 1, now(), now(), 'd');";

fn of(sql: &str, reference: &str, sequence: u32) -> String {
    sql.replace("$R", reference).replace("$S", &sequence.to_string())
}

#[tokio::test]
async fn an_older_ledger_is_cut_while_the_release_before_goes_on() {
    let stores = Stores::new().await;
    let mut session = stores.session().await;
    let mut run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.map(|_| ())
    };
    let files = |from: u32, to: u32| {
        let mut files: Vec<_> =
            fs::read_dir("migrations").unwrap().map(|it| it.unwrap().path()).collect();
        files.sort();
        let number = |path: &Path| -> u32 {
            path.file_name().unwrap().to_str().unwrap()[..4].parse().unwrap()
        };
        let files = files.into_iter().filter(move |path| (from..=to).contains(&number(path)));
        files.map(|path| fs::read_to_string(path).unwrap()).collect::<Vec<_>>()
    };
    let schema = format!(
        "create schema older authorization {OWNER};
         grant usage on schema older to paystream_worker; set search_path = older; set role {OWNER}"
    );
    run(schema).await.unwrap();
    for file in files(1, 23) {
        run(format!("begin; {file}; commit")).await.unwrap();
    }
    run("grant select, insert, delete on processed_transactions to paystream_worker".to_owned())
        .await
        .unwrap();
    for (sql, reference, sequence) in
        [(APPLIED, "a1", 1), (HELD, "h2", 2), (HELD, "h3", 3), (APPLIED, "a4", 4)]
    {
        run(of(sql, reference, sequence)).await.unwrap();
    }
    // Between the first and the last of these, both keys are kept.
    for file in files(24, 24) {
        run(format!("begin; {file}; commit")).await.unwrap();
    }
    run(of(APPLIED, "a5", 5)).await.unwrap();
    run(of(HELD, "h6", 6)).await.unwrap();
    // Opened meanwhile: the payment that was held is applied.
    run(of(APPLIED, "h3", 3)).await.unwrap();
    for file in files(25, 26) {
        run(format!("begin; {file}; commit")).await.unwrap();
    }
    let used = "select transaction_reference || case when settled_at is null then ' held'
        else ' settled' end from older.used_references order by 1";
    let wanted = ["a1 settled", "a4 settled", "a5 settled", "h2 held", "h3 settled", "h6 held"];
    assert_eq!(stores.texts(used).await, wanted);
    // The release before goes on, with its rights and its statements.
    run("set role paystream_worker; select count(*) from processed_transactions".to_owned())
        .await
        .unwrap();
    run(format!("reset role; set role {OWNER}; begin; {CLAIM} {}; commit", of(HELD, "late", 9)))
        .await
        .unwrap();
    run(of(APPLIED, "h2", 2)).await.unwrap();
    for (sql, reference) in [(APPLIED, "a1"), (APPLIED, "h6"), (HELD, "a4"), (HELD, "h2")] {
        let refused = run(of(sql, reference, 7)).await.unwrap_err();
        let refused = refused.as_database_error().unwrap();
        assert_eq!(refused.code().unwrap(), "23505", "{reference}: {refused}");
    }
    let found = "select transaction_reference || ' ' || state from older.taken_payments
        where takes_reference and state not like 'was%' order by 1";
    let wanted = [
        "a1 applied",
        "a4 applied",
        "a5 applied",
        "h2 applied",
        "h2 suspense",
        "h3 applied",
        "h3 suspense",
        "h6 suspense",
        "late suspense",
    ];
    assert_eq!(stores.texts(found).await, wanted);
    let months = "select name from older.payment_months order by starts_at";
    assert_eq!(
        stores.texts(months).await.first().map(String::as_str),
        Some("processed_transactions_first")
    );
    assert_eq!(stores.count("select count(*) from older.payment_months").await, 3);
}

/// The oldest month that is in the ledger.
const OLDEST: &str = "select name from payment_months where detached_at is null
     and exists (select from processed_transactions p
         where p.tableoid = to_regclass(quote_ident(name))) order by starts_at limit 1";

async fn detach(stores: &Stores, month: &str) -> Ended {
    stores.run(&["archive", "detach", month, "--reason", "it is old"]).await
}

#[tokio::test]
async fn a_month_leaves_the_ledger_and_everything_still_adds_up() {
    let h = Harness::start().await;
    let (ada, bob) = ("ADA".to_owned(), elsewhere("ADA"));
    for customer in [&ada, &bob] {
        h.api.open_account(customer, "10").await;
    }
    h.api.pay("old-1", &ada, "1").await;
    h.api.pay("old-2", &ada, "2").await;
    h.api.pay("old-3", &bob, "12").await;
    h.api.pay("held", "NOBODY", "3").await;
    h.api
        .post_payment(&but(payment("old-4", &bob, "1"), json!({"payment_status": "FAILED"})))
        .await;
    h.settled().await;
    age(&h.stores, 4).await;
    h.api.pay("mid", &ada, "4").await;
    h.settled().await;
    age(&h.stores, 2).await;
    h.api.pay("new", &ada, "1").await;
    h.settled().await;
    let months = h.stores.texts("select name from payment_months order by starts_at").await;
    assert_eq!(months.len(), 5, "{months:?}");
    detach(&h.stores, &months[1]).await.is(1, "is not the oldest month");
    detach(&h.stores, "topology").await.is(1, "no month is called topology");
    h.stores.forget().await;
    h.api.pay("old-1", &ada, "9").await;
    h.settled().await;
    detach(&h.stores, &months[0]).await.is(1, "1 conflicts are open about its payments");
    h.stores.succeed(&["conflicts", "list"]).await;
    h.stores.sql("update conflicts set state = 'resolved', resolved_at = now()").await;
    let other = h.stores.run(&["archive", "list"]).await;
    assert!(other.stdout.contains("old") && other.stdout.contains("in use"), "{other:?}");

    detach(&h.stores, &months[0]).await.is(0, "with 4 payments");
    h.stores.succeed(&["audit"]).await;
    detach(&h.stores, &months[0]).await.is(1, "is detached already");
    let kept = format!("select count(*) from {}", months[0]);
    assert_eq!(h.stores.count(&kept).await, 4, "its table is there");
    // What is said of its payments.
    assert_eq!(h.api.balance(&ada).await["total_paid"], "8.00");
    assert_eq!(h.api.payment("old-1").await["status"], "archived");
    assert_eq!(h.stores.show("old-2").await["state"], "archived");
    let statement = h.api.get("/api/v1/customers/ADA/payments").await.json();
    assert_eq!(statement["payments"].as_array().unwrap().len(), 2, "{statement}");
    assert_eq!(statement["archived_up_to"], 2);
    // Its references stay used, by the same and by others, and what is held is still held.
    h.stores.forget().await;
    h.api.pay("old-2", &ada, "2").await;
    h.api.pay("old-3", &ada, "12").await;
    h.api.pay("later", &bob, "1").await;
    h.api.open_account("NOBODY", "10").await;
    h.api.until_settled().await;
    let totals = h.api.stats().await["totals"].clone();
    let counts = ["applied", "duplicates", "conflicts"].map(|name| totals[name].clone());
    assert_eq!(counts, [7, 1, 2].map(|count| json!(count)));
    h.stores.succeed(&["audit"]).await;
    h.stores.sql("update conflicts set state = 'resolved', resolved_at = now()").await;
    age_more(&h.stores, &months[1]).await;
    detach(&h.stores, &months[1]).await.is(0, "with 1 payments");
    detach(&h.stores, &months[2]).await.is(1, "days after its end");
    h.stores.succeed(&["audit"]).await;
    let noted = "select count(*) from audit_log where action = 'month_detached'";
    assert_eq!(h.stores.count(noted).await, 2);
}

/// As if a month had ended long ago, as far as it is judged by that.
async fn age_more(stores: &Stores, month: &str) {
    let sql = format!(
        "update payment_months set ends_at = starts_at + interval '1 day' where name = '{month}';
         set session_replication_role = replica;
         update used_references set settled_at = m.starts_at
             from payment_months m where name = '{month}' and settled_at >= m.starts_at
                 and settled_at < m.starts_at + interval '1 month';
         update {month} p set processed_at = m.starts_at
             from payment_months m where name = '{month}';
         reset session_replication_role"
    );
    stores.sql(&sql).await;
}

#[tokio::test]
async fn payments_go_on_while_a_month_is_detached_and_an_interruption_is_gone_on_with() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("old", "ADA", "1").await;
    h.settled().await;
    age(&h.stores, 3).await;
    let month = h.stores.texts(OLDEST).await[0].clone();
    // Somebody reads, and does not end: the month cannot go before.
    let reader = lock(&h.stores, "processed_transactions", "access share").await;
    let detaching = ["archive", "detach", &*month, "--reason", "it is old"];
    let mut command = operate(&h.stores, &detaching);
    let mut archive = command
        .env("PAYSTREAM_ACTOR", "ada")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let waits = "select count(*) from pg_stat_activity where application_name = 'paystream archive'
         and wait_event_type = 'Lock' and datname = current_database()";
    h.stores.until(1, waits).await;
    for name in ["one", "two", "three"] {
        h.api.pay(name, "ADA", "1").await;
        h.api.until_is(name, "applied").await;
    }
    h.stores.succeed(&["audit"]).await;
    assert_eq!(h.api.payment("old").await["status"], "archived", "for whoever comes now");
    archive.kill().await.unwrap();
    h.stores
        .sql(
            "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'paystream archive' and datname = current_database()",
        )
        .await;
    h.stores.until(0, waits).await;
    drop(reader);
    h.stores.succeed(&["audit"]).await;
    detach(&h.stores, &month).await.is(0, "with 1 payments");
    assert_eq!(h.api.payment("old").await["status"], "archived");
    h.stores.succeed(&["audit"]).await;
    let noted = "select count(*) from audit_log where action = 'month_detached'";
    assert_eq!(h.stores.count(noted).await, 1);
}

#[tokio::test]
async fn attempts_and_former_owners_go_after_their_retention() {
    let stores = Stores::new().await;
    stores
        .sql(
            "insert into attempts (partition, first_stream_id, last_stream_id, attempt, worker, epoch, at)
                 select n % 8, '1-1', '1-1', 1, 'w', 1,
                     now() - case when n < 12000 then interval '91 days' else interval '89 days' end
                 from generate_series(0, 12004) n;
             update partition_owners set epoch = 3;
             insert into partition_moves (partition, epoch, owner, acquired_at)
                 select n % 8, n / 8 + 1, 'w', now() - interval '91 days' * (2 - n / 8)
                 from generate_series(0, 15) n",
        )
        .await;
    let _worker = worker(&stores, "w", &[]).await;
    stores.until(5, "select count(*) from attempts").await;
    // Of each partition the owner it has now, and those of the last 90 days.
    stores
        .until(
            0,
            "select count(*) from partition_moves where acquired_at < now() - interval '90 days'",
        )
        .await;
    assert_eq!(stores.count("select count(*) from partition_moves where epoch = 2").await, 0);
}

//! Proves that `paystream audit` sees each kind of drift: a clean ledger is
//! damaged in one way after another, and each time the command exits with 1
//! and names the check. What cannot be damaged because the database refuses it
//! is damaged all the same, with the constraints out of the way.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    harness::{Harness, Stores, but, payment},
    process::{paystream, run},
};

/// A check, damage that it must see, and what undoes the damage.
const DAMAGE: &[(&str, &str, &str)] = &[
    (
        "account_sum",
        "update customer_accounts set total_paid = total_paid + 1 where customer_id = 'ADA'",
        "update customer_accounts set total_paid = total_paid - 1 where customer_id = 'ADA'",
    ),
    (
        "account_credit",
        "update customer_accounts set credit = credit + 1 where customer_id = 'ADA'",
        "update customer_accounts set credit = credit - 1 where customer_id = 'ADA'",
    ),
    (
        "account_count",
        "update customer_accounts set payment_count = payment_count + 1 where customer_id = 'ADA'",
        "update customer_accounts set payment_count = payment_count - 1 where customer_id = 'ADA'",
    ),
    (
        "account_version",
        "update customer_accounts set version = version + 1 where customer_id = 'ADA'",
        "update customer_accounts set version = version - 1 where customer_id = 'ADA'",
    ),
    (
        "account_overpaid",
        "update customer_accounts set asset_value = 1 where customer_id = 'ADA'",
        "update customer_accounts set asset_value = 1000 where customer_id = 'ADA'",
    ),
    (
        "account_missing",
        "update customer_accounts set customer_id = 'BOX' where customer_id = 'BOB'",
        "update customer_accounts set customer_id = 'BOB' where customer_id = 'BOX'",
    ),
    (
        "version_gap",
        "update processed_transactions set account_version = 9 where transaction_reference = 'r3'",
        "update processed_transactions set account_version = 3 where transaction_reference = 'r3'",
    ),
    (
        "balance_after",
        "update processed_transactions set balance_after = balance_after + 1
         where transaction_reference = 'r2'",
        "update processed_transactions set balance_after = balance_after - 1
         where transaction_reference = 'r2'",
    ),
    (
        "amount_parts",
        "update processed_transactions set applied_amount = applied_amount + 1
         where transaction_reference = 'r2'",
        "update processed_transactions set applied_amount = applied_amount - 1
         where transaction_reference = 'r2'",
    ),
    (
        "content_changed",
        "update processed_transactions set transaction_date = transaction_date + interval '1 s'
         where transaction_reference = 'r2'",
        "update processed_transactions set transaction_date = transaction_date - interval '1 s'
         where transaction_reference = 'r2'",
    ),
    (
        "order_broken",
        "update processed_transactions set sequence = 3 - sequence
         where transaction_reference in ('r1', 'r2')",
        "update processed_transactions set sequence = 3 - sequence
         where transaction_reference in ('r1', 'r2')",
    ),
    (
        "partition_mixed",
        "update processed_transactions set partition = (partition + 1) % 8
         where transaction_reference = 'r3'",
        "update processed_transactions set partition = (partition + 7) % 8
         where transaction_reference = 'r3'",
    ),
    (
        "sequence_gap",
        "update partition_owners set last_sequence = last_sequence + 1 where partition = 0",
        "update partition_owners set last_sequence = last_sequence - 1 where partition = 0",
    ),
    (
        "sequence_lost",
        "insert into sequence_jumps (partition, after_sequence, resumes_at, reason, lost_first,
             lost_last, detail)
         values (0, 1000, 1003, 'state_lost', 1001, 1002, 'the stream went back')",
        "delete from sequence_jumps",
    ),
    (
        "sequence_twice",
        "insert into duplicates (partition, sequence, transaction_reference, payment_status,
             stream_id, epoch, received_at)
         select partition, sequence, transaction_reference, payment_status, stream_id, epoch,
             received_at from processed_transactions where transaction_reference = 'r1'",
        "delete from duplicates",
    ),
    (
        "sequence_beyond",
        "update partition_owners set last_sequence = last_sequence - 1 where partition =
             (select partition from processed_transactions where transaction_reference = 'r1')",
        "update partition_owners set last_sequence = last_sequence + 1 where partition =
             (select partition from processed_transactions where transaction_reference = 'r1')",
    ),
    (
        "outcome_twice",
        "insert into dead_letters (partition, stream_id, sequence, transaction_reference, code,
             reason, entry, attempts, epoch)
         select partition, stream_id, sequence, transaction_reference, 'entry_unreadable', 'no',
             '{}', 1, epoch from processed_transactions where transaction_reference = 'r1'",
        "delete from dead_letters",
    ),
    (
        "reference_twice",
        "update suspense set transaction_reference = 'r1' where transaction_reference = 's1'",
        "update suspense set transaction_reference = 's1' where transaction_reference = 'r1'",
    ),
    (
        "totals",
        "update partition_totals set amount = amount + 1 where partition = 0",
        "update partition_totals set amount = amount - 1 where partition = 0",
    ),
];

async fn audit(stores: &Stores, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = paystream();
    command.arg("audit").args(arguments).env("PAYSTREAM_DATABASE_URL", &stores.database_url);
    let ended = run(command).await;
    assert!(ended.stderr.is_empty(), "{ended:?}");
    (ended.status.code(), ended.stdout)
}

#[tokio::test]
async fn each_kind_of_drift_is_seen() {
    let h = Harness::start().await;
    h.api.open_account("ADA", "1000").await;
    h.api.open_account("BOB", "10").await;
    for (reference, customer, amount) in [
        ("r1", "ADA", "10"),
        ("r2", "ADA", "20"),
        ("r3", "ADA", "30"),
        ("r4", "BOB", "15"),
        ("s1", "NOBODY", "5"),
    ] {
        h.api.pay(reference, customer, amount).await;
    }
    let failed = but(payment("n1", "BOB", "1"), json!({"payment_status": "FAILED"}));
    h.api.post_payment(&failed).await;
    h.settled().await;
    let stores = h.stop().await;
    let (code, clean) = audit(&stores, &["--json"]).await;
    let clean: Value = serde_json::from_str(&clean).unwrap();
    assert_eq!((code, &clean["clean"], &clean["drifts"]), (Some(0), &json!(true), &json!([])));
    let counts = ["accounts", "payments", "amount", "sequences"].map(|name| &clean[name]);
    assert_eq!(counts, [&json!(2), &json!(5), &json!("75.00"), &json!(6)]);
    let mut checks: Vec<&str> = clean["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["check"].as_str().unwrap())
        .collect();

    let mut connection = PgConnection::connect(&stores.database_url).await.unwrap();
    for sql in [
        "set session_replication_role = replica",
        "alter table customer_accounts drop constraint customer_accounts_check",
        "alter table processed_transactions drop constraint processed_transactions_check",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    for (check, damage, undo) in DAMAGE {
        let done = sqlx::query(*damage).execute(&mut connection).await.unwrap();
        assert!(done.rows_affected() > 0, "{damage}");
        let (code, found) = audit(&stores, &["--json"]).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!((code, &found["clean"]), (Some(1), &json!(false)), "{check}");
        let drifts = found["drifts"].as_array().unwrap();
        assert!(drifts.iter().any(|drift| drift["check"] == *check), "{check} in {drifts:?}");
        let (code, page) = audit(&stores, &[]).await;
        assert!(code == Some(1) && page.contains(check), "{page}");
        sqlx::query(*undo).execute(&mut connection).await.unwrap();
        checks.retain(|one| one != check);
    }
    assert!(checks.is_empty(), "nothing here is seen by {checks:?}");
    assert_eq!(audit(&stores, &[]).await.0, Some(0));
}

#[tokio::test]
async fn an_audit_that_cannot_be_done_is_no_clean_one() {
    let stores = Stores::new().await;
    let mut command = paystream();
    command.arg("audit").env("PAYSTREAM_DATABASE_URL", "postgres://paystream@127.0.0.1:1/none");
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    sqlx::query("drop table partition_totals").execute(&stores.pool).await.unwrap();
    let mut command = paystream();
    command.arg("audit").env("PAYSTREAM_DATABASE_URL", &stores.database_url);
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
}

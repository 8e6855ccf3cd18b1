//! Proves that `paystream audit` sees each kind of drift: a ledger is damaged in one
//! way after another, the constraints out of the way, and exactly what differs is
//! named; and that the command then exits with 1 and names the check.

use crate::prelude::*;

async fn audit(stores: &Stores, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = paystream();
    command.arg("audit").args(arguments).env("PAYSTREAM_DATABASE_URL", &stores.database_url);
    let ended = run(command).await;
    assert!(ended.stderr.is_empty(), "{ended:?}");
    (ended.code(), ended.stdout)
}

#[tokio::test]
async fn the_command_names_what_differs_and_fails() {
    let h = Harness::start().await.account("ADA", "1000").await;
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
    // Damage on damage, with the constraints out of the way.
    let mut connection = stores.pool.acquire().await.unwrap();
    for (check, damage) in [
        ("account_sum", "update customer_accounts set asset_value = 2000, total_paid = 61"),
        ("content_changed", "update processed_transactions set transaction_date = now()"),
        ("totals", "update partition_totals set amount = amount + 1"),
    ] {
        let damage = AssertSqlSafe(format!("set session_replication_role = replica; {damage}"));
        sqlx::raw_sql(damage).execute(&mut *connection).await.unwrap();
        let (code, found) = audit(&stores, &["--json"]).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!((code, &found["clean"]), (Some(1), &json!(false)), "{check}");
        let drifts = found["drifts"].as_array().unwrap();
        assert!(drifts.iter().any(|drift| drift["check"] == check), "{check} in {drifts:?}");
        let (code, page) = audit(&stores, &[]).await;
        assert!(code == Some(1) && page.contains(check), "{page}");
    }
}

#[tokio::test]
async fn an_audit_that_cannot_be_done_is_no_clean_one() {
    let stores = Stores::new().await;
    let mut command = paystream();
    command.arg("audit").env("PAYSTREAM_DATABASE_URL", "postgres://paystream@127.0.0.1:1/none");
    let ended = run(command).await;
    assert_eq!(ended.code(), Some(2), "{ended:?}");
    stores.sql("drop table partition_totals").await;
    let mut command = paystream();
    command.arg("audit").env("PAYSTREAM_DATABASE_URL", &stores.database_url);
    let ended = run(command).await;
    assert_eq!(ended.code(), Some(2), "{ended:?}");
}

/// What makes the small ledger, and changes it: `jump` notes that sequences do not
/// follow on each other, `misread` a dead letter whose sequence nobody knows.
const TOOLS: &str = "
    alter table customer_accounts drop constraint customer_accounts_check;
    alter table processed_transactions drop constraint processed_transactions_check;
    create function jump(after bigint, resumes bigint, why text default 'state_lost',
            state text default 'accepted', first bigint default null, last bigint default null,
            detail text default 'the stream went back', kind text default null)
        returns void language sql as $$
        insert into sequence_jumps (partition, after_sequence, resumes_at, kinds, reason, state,
            lost_first, lost_last, detail)
            values (7, after, resumes, array[coalesce(kind, why)], why, state, first, last, detail)
        $$;
    create function misread(id text) returns void language sql as $$
        insert into dead_letters (partition, stream_id, code, reason, entry, attempts, epoch)
            values (7, id, 'c', 'r', '{}', 1, 1);
        update partition_totals set dead_letters = dead_letters + 1 $$;";

/// A small ledger that holds: in partition 7, three rows of one account, a payment in
/// suspense and a dead letter. Each entry has a thousand and its sequence for an id.
const SOUND: &str = "
    set session_replication_role = replica;
    truncate archived_sequences, opening_balances;
    delete from payment_months where name = 'gone';
    truncate customer_accounts, processed_transactions, suspense, dead_letters, duplicates,
        conflicts, sequence_jumps, partition_totals;
    insert into customer_accounts (customer_id, asset_value, term_weeks, total_paid, credit,
            payment_count, version)
        values ('GIG0', 100, 1, 0, 0, 0, 0), ('GIG1', 100, 1, 100, 20, 2, 3);
    insert into processed_transactions (transaction_reference, payment_status, customer_id, amount,
            outcome, applied_amount, excess_amount, balance_after, account_version, partition,
            sequence, stream_id, epoch, transaction_date, received_at, payload_digest)
        select 'r' || n, status, 'GIG1', amount,
            case status when 'COMPLETE' then 'applied' else 'recorded' end, applied, excess,
            balance, n, 7, n, 1000 + n || '-0', 1, '2026-01-01Z', now(),
            substring(sha256('GIG1\\000'::bytea || status::bytea || '\\x000000000000000000'::bytea
                || int8send((amount * 100)::bigint) || int8send(1767225600000000)) for 16)
        from (values (1, 'COMPLETE', 40.00, 40, 0, 60), (2, 'PENDING', 5.00, 0, 0, 60),
            (3, 'COMPLETE', 80.00, 60, 20, 0)) v (n, status, amount, applied, excess, balance);
    insert into suspense (transaction_reference, customer_id, amount, partition, sequence,
            stream_id, epoch, transaction_date, received_at, payload_digest)
        values ('s4', 'NOBODY', 1, 7, 4, '1004-0', 1, now(), now(), '');
    insert into dead_letters (partition, sequence, stream_id, code, reason, entry, attempts, epoch)
        values (7, 5, '1005-0', 'c', 'r', '{}', 1, 1);
    update partition_owners set last_sequence = case partition when 7 then 5 else 0 end;
    insert into partition_totals (partition, applied, recorded, suspense, dead_letters, amount)
        values (7, 2, 1, 1, 1, 120);";

/// The keys of whatever is settled.
const USED: &str = "
    truncate used_references;
    insert into used_references (transaction_reference, payment_status, payload_digest, partition,
            sequence, settled_at)
        select transaction_reference, payment_status, payload_digest, partition, sequence, processed_at
        from processed_transactions on conflict do nothing;";

/// Damage to keys and to what is said of archived months, and what is found. The first row is archived.
const ARCHIVES: &[(&[&str], &[&str])] = &[
    (&[], &[]),
    (&[ARCHIVED], &[]),
    (&["delete from used_references where transaction_reference = 'r2'"], &["reference_unused r2"]),
    (
        &["update used_references set transaction_reference = 'r9' where sequence = 2"],
        &["reference_unused r2", "reference_unused r9"],
    ),
    (
        &["update used_references set sequence = 9 where sequence = 2"],
        &["reference_unused r2", "reference_unused r2"],
    ),
    (
        &[ARCHIVED, "update opening_balances set balance_after = 61"],
        &["balance_after GIG1 version 2"],
    ),
    (&[ARCHIVED, "update opening_balances set applied = 39"], &["account_sum GIG1"]),
    (
        &[ARCHIVED, "delete from opening_balances"],
        &[
            "account_sum GIG1",
            "account_count GIG1",
            "version_gap GIG1 version 2",
            "balance_after GIG1 version 2",
        ],
    ),
    (
        &[ARCHIVED, "delete from archived_sequences"],
        &["sequence_gap partition 7 sequence 1", "totals partition 7"],
    ),
    (&[ARCHIVED, "update archived_sequences set amount = 41"], &["totals partition 7"]),
    (
        &[ARCHIVED, "update archived_sequences set sequences = '{[1,3)}'"],
        &["archived_twice partition 7 of gone"],
    ),
];
const ARCHIVED: &str = "
    insert into payment_months values ('gone', '-infinity', '2000-01-01Z', now());
    insert into opening_balances values ('GIG1', 1, 60, 40, 0, 1);
    insert into archived_sequences values ('gone', 7, '{[1,2)}', 1, 0, 0, 40);
    delete from processed_transactions where account_version = 1;
    update used_references set settled_at = '1999-12-31Z' where transaction_reference = 'r1'";

/// The second row was settled by an operator, later.
const BY_HAND: &str = "
    update processed_transactions set partition = 6, sequence = 1, stream_id = '9-0' where account_version = 2;
    insert into dead_letters (partition, sequence, stream_id, code, reason, entry, attempts, epoch,
            state, resolved_at)
        values (6, 1, '9-0', 'c', 'r', '{}', 1, 1, 'redriven', now());";
/// The third row is of another partition.
const MOVED: &str = "update processed_transactions set partition = 6 where account_version = 3;";

/// Damage to accounts and their statements, and what is found.
const STATEMENTS: &[(&[&str], &[&str])] = &[
    (&[], &[]),
    (
        &["update processed_transactions set excess_amount = 21 where account_version = 3"],
        &["account_credit GIG1", "amount_parts GIG1 version 3"],
    ),
    (&["update suspense set transaction_reference = 'r1'"], &["reference_twice r1"]),
    (
        &["update processed_transactions set balance_after = 59 where account_version = 2"],
        &["balance_after GIG1 version 2", "balance_after GIG1 version 3"],
    ),
    (
        &["update processed_transactions set balance_after = null where account_version = 2"],
        &["balance_after GIG1 version 2"],
    ),
    (
        &["delete from processed_transactions where account_version = 2"],
        &["version_gap GIG1 version 3"],
    ),
    (
        &["delete from processed_transactions where account_version = 3"],
        &["account_sum GIG1", "account_credit GIG1", "account_count GIG1", "account_version GIG1"],
    ),
    (
        &["update customer_accounts set asset_value = 90 where version = 3"],
        &["account_overpaid GIG1", "balance_after GIG1 version 1"],
    ),
    (
        &["update processed_transactions set customer_id = 'GIG2'"],
        &[
            "account_sum GIG1",
            "account_credit GIG1",
            "account_count GIG1",
            "account_version GIG1",
            "account_missing GIG2",
            "content_changed GIG2 version 1",
            "content_changed GIG2 version 2",
            "content_changed GIG2 version 3",
        ],
    ),
    (&[MOVED], &["partition_mixed GIG1 version 3"]),
    (
        &["update processed_transactions set sequence = 2 where account_version = 3"],
        &["order_broken GIG1 version 3"],
    ),
    // What an operator settled later stands beside the stream's order.
    (&[BY_HAND], &[]),
    (
        &[BY_HAND, "update processed_transactions set sequence = 1 where account_version = 3"],
        &["order_broken GIG1 version 3"],
    ),
    // So does what was given out twice.
    (
        &[
            "update processed_transactions set sequence = 2 where account_version = 3",
            "select jump(0, 9, 'takeover', kind => 'twice')",
        ],
        &[],
    ),
    // A resize moves customers to other partitions, where sequences go on higher.
    (&[MOVED, "select jump(0, 3, 'resize')"], &[]),
    (&[MOVED, "select jump(0, 2, 'resize')"], MIXED),
    (&[MOVED, "select jump(0, 4, 'resize')"], MIXED),
    (&[MOVED, "select jump(0, 3)"], MIXED),
    (
        &[
            "update processed_transactions set partition = 6, sequence = 1 where account_version = 3",
            "select jump(0, 2, 'resize')",
        ],
        MIXED,
    ),
];
const MIXED: &[&str] = &["partition_mixed GIG1 version 3"];

/// The last two entries go on behind a jump.
const RESUMED: &str = "
    update suspense set sequence = 11; update dead_letters set sequence = 12;
    update partition_owners set last_sequence = 12 where partition = 7;";
const WITHOUT_SECOND: &str = "
    delete from processed_transactions where sequence = 2;
    update partition_totals set recorded = 0;";
const REDRIVEN: &str =
    "update dead_letters set state = 'redriven', resolved_at = now() where sequence = 5;";

/// Damage to sequences, and what is found.
const SEQUENCES: &[(&[&str], &[&str])] = &[
    (&[], &[]),
    (
        &["delete from processed_transactions where sequence = 2"],
        &["sequence_gap partition 7 sequence 2", "totals partition 7"],
    ),
    (
        &["delete from processed_transactions where sequence < 3"],
        &["sequence_gap partition 7 sequences 1 to 2", "totals partition 7"],
    ),
    (
        &["update partition_owners set last_sequence = 7 where partition = 7"],
        &["sequence_gap partition 7 sequences 6 to 7"],
    ),
    (
        &["update partition_owners set last_sequence = 4 where partition = 7"],
        &["sequence_beyond partition 7"],
    ),
    (
        &["insert into duplicates select 7, 1, 'r1', 'COMPLETE', '9-0', 1, now(), now()"],
        &["sequence_twice partition 7 sequence 1", "totals partition 7"],
    ),
    (
        &["update processed_transactions set sequence = 5 where sequence = 3"],
        &["sequence_gap partition 7 sequence 3", "outcome_twice partition 7 sequence 5"],
    ),
    // A letter that was redriven must have ended somewhere.
    (&[REDRIVEN, "update suspense set sequence = 5"], &["sequence_gap partition 7 sequence 4"]),
    (&[REDRIVEN], &["sequence_gap partition 7 sequence 5"]),
    (
        &["update suspense set sequence = 0"],
        &["sequence_gap partition 7 sequence 0", "sequence_gap partition 7 sequence 4"],
    ),
    (&["update partition_totals set amount = 120.01"], &["totals partition 7"]),
    (
        &["update processed_transactions set partition = 9 where sequence = 1"],
        &[
            "sequence_gap partition 7 sequence 1",
            "totals partition 7",
            "sequence_beyond partition 9",
            "totals partition 9",
        ],
    ),
    // A jump explains the sequences inside it and no others.
    (&[RESUMED], &["sequence_gap partition 7 sequences 4 to 10"]),
    (&[RESUMED, "select jump(3, 11)"], &[]),
    (&[RESUMED, "select jump(3, 7), jump(6, 11)"], &[]),
    (&[RESUMED, "select jump(4, 11)"], &["sequence_gap partition 7 sequence 4"]),
    (&[RESUMED, "select jump(3, 9)"], &["sequence_gap partition 7 sequences 9 to 10"]),
    (
        &[RESUMED, "select jump(4, 6), jump(7, 9)"],
        &[
            "sequence_gap partition 7 sequence 4",
            "sequence_gap partition 7 sequences 6 to 7",
            "sequence_gap partition 7 sequences 9 to 10",
        ],
    ),
    // What was lost with it is drift until somebody accepts it.
    (
        &[RESUMED, "select jump(3, 11, state => 'open', first => 4, last => 9)"],
        &["sequence_lost partition 7 sequences 4 to 9"],
    ),
    (
        &[RESUMED, "select jump(3, 11, state => 'open')"],
        &["sequence_lost partition 7 after sequence 3"],
    ),
    // At the end.
    (
        &[
            "update partition_owners set last_sequence = 9 where partition = 7",
            "select jump(5, 10)",
        ],
        &[],
    ),
    (
        &["update partition_owners set last_sequence = 9 where partition = 7", "select jump(5, 9)"],
        &["sequence_gap partition 7 sequence 9"],
    ),
    // An entry that could not be read took a sequence that nobody knows. It explains a
    // hole where it stood, and no other.
    (&[WITHOUT_SECOND, "select misread('1001-1')"], &[]),
    (&[WITHOUT_SECOND, "select misread('1002-1')"], &[]),
    (&[WITHOUT_SECOND, "select misread('1000-1')"], &["sequence_gap partition 7 sequence 2"]),
    (&[WITHOUT_SECOND, "select misread('1003-1')"], &["sequence_gap partition 7 sequence 2"]),
    (
        &[
            "delete from dead_letters; update partition_totals set dead_letters = 0",
            "select misread('1004-1')",
        ],
        &[],
    ),
    // One that stood nowhere explains nothing, and is looked at like any other.
    (&[WITHOUT_SECOND, "select misread('1001-1; drop')"], &["sequence_gap partition 7 sequence 2"]),
    // One does not explain two.
    (
        &[
            WITHOUT_SECOND,
            "delete from suspense; update partition_totals set suspense = 0",
            "update processed_transactions set sequence = 4 where sequence = 3",
            "select misread('1001-1')",
        ],
        &["sequence_gap partition 7 sequences 2 to 3"],
    ),
];

#[tokio::test]
async fn each_kind_of_drift_is_seen_and_nothing_else() {
    let stores = Stores::new().await;
    let mut connection = stores.pool.acquire().await.unwrap();
    sqlx::raw_sql(TOOLS).execute(&mut *connection).await.unwrap();
    let audit = Ledger::new(&stores.database_url).unwrap().audit();
    let checks = audit.run(&[], |_| ()).await.unwrap().checks;
    let mut unseen: BTreeSet<&str> = checks.iter().map(|line| line.check).collect();
    // These are seen in audit_log.rs.
    unseen.retain(|check| !check.starts_with("log_"));
    for (of_sequences, cases) in [(false, STATEMENTS), (true, SEQUENCES)] {
        for (damage, wanted) in cases {
            let sql = AssertSqlSafe(format!("{SOUND} {}; {USED}", damage.join(";")));
            sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
            let report = audit.run(&[], |_| ()).await.unwrap();
            for drift in &report.drifts {
                unseen.remove(drift.check);
            }
            let is_of_sequences = |check: &str| {
                ["sequence", "outcome", "totals"].iter().any(|start| check.starts_with(start))
            };
            let mut found: Vec<String> = report
                .drifts
                .iter()
                .filter(|drift| is_of_sequences(drift.check) == of_sequences)
                .map(|drift| format!("{} {}", drift.check, drift.subject))
                .collect();
            // Checks are made relation by relation; within one, in no order.
            let at = |one: &String| wanted.iter().position(|wanted| wanted == one);
            found.sort_by_key(at);
            assert_eq!(found, *wanted, "{damage:?}: {:?}", report.drifts);
        }
    }
    for (damage, wanted) in ARCHIVES {
        let sql = AssertSqlSafe(format!("{SOUND} {USED} {}", damage.join(";")));
        sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
        let report = audit.run(&[], |_| ()).await.unwrap();
        unseen.retain(|check| report.drifts.iter().all(|drift| drift.check != *check));
        let mut found: Vec<String> = report
            .drifts
            .iter()
            .map(|drift| format!("{} {}", drift.check, drift.subject))
            .collect();
        found.sort_by_key(|one| wanted.iter().position(|wanted| wanted == one));
        assert_eq!(found, *wanted, "{damage:?}: {:?}", report.drifts);
    }
    assert!(unseen.is_empty(), "nothing here is seen by {unseen:?}");
}

#[tokio::test]
async fn all_drifts_are_counted_and_the_first_are_kept() {
    let stores = Stores::new().await;
    let sql = "insert into customer_accounts (customer_id, asset_value, term_weeks, version)
         select 'GIG' || n, 1, 1, 1 from generate_series(1, 1000) n";
    stores.sql(sql).await;
    let report = Ledger::new(&stores.database_url).unwrap().audit().run(&[], |_| ()).await.unwrap();
    assert_eq!((report.drifts.len(), report.drift_count, report.accounts), (100, 1000, 1000));
    let line = report.checks.iter().find(|line| line.check == "account_version").unwrap();
    assert_eq!((line.looked_at, line.drift), (1000, 1000));
}

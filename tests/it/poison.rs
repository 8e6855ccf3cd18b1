//! Proves what becomes of an entry that cannot be settled: it is found in its
//! batch wherever it stands, tried as often as configured, also when it ends
//! its worker, and buried once with its reason; everything else is applied, in
//! order, and what its customer sends after it waits if that is wanted.

use std::sync::Mutex;

use crate::prelude::*;

/// A rule of the database that refuses what is named POISON.
pub async fn refuse_poison(stores: &Stores) {
    stores
        .sql(
            "create or replace function refuse_poison() returns trigger language plpgsql as $$
         begin
             -- One that is to wait is not settled: it only claims its key.
             if new.transaction_reference like '%POISON%' and new.stream_id <> 'claim' then
                 raise exception 'no payment is called %', new.transaction_reference;
             end if;
             return new;
         end $$;
             create trigger refuse_poison before insert on processed_transactions
         for each row execute function refuse_poison()",
        )
        .await;
}

pub async fn allow_poison(stores: &Stores) {
    let sql = "drop trigger refuse_poison on processed_transactions";
    stores.sql(sql).await;
}

/// Notices on all dead streams.
async fn notices(stores: &Stores) -> i64 {
    let mut notices = 0;
    for partition in 0..u64::from(PARTITIONS) {
        notices += stores.ask::<i64>(&["XLEN", &stores.key(partition, "dead")]).await;
    }
    notices
}

/// Applies `count` payments of one customer but those at `poisons`.
async fn bury_among(count: usize, poisons: &[usize], attempts: &str) {
    let mut h = Harness::gateway(&["--attempts-max", attempts]).await;
    h.api.open_account("ADA", "100000").await;
    refuse_poison(&h.stores).await;
    h.api.open_account("BOB", "100000").await;
    let name = |n: usize| match poisons.contains(&n) {
        true => format!("POISON{n}"),
        false => format!("sound{n}"),
    };
    for n in 0..count {
        h.api.pay(&name(n), "ADA", "1").await;
        h.api.pay(&format!("bob{n}"), "BOB", "1").await;
    }
    h.work().await;
    let check = async |what: &str| {
        for n in 0..count {
            let found = h.api.payment(&name(n)).await;
            let wanted = if poisons.contains(&n) { "dead_lettered" } else { "applied" };
            assert_eq!(found["status"], wanted, "{what}: {found}");
            if poisons.contains(&n) {
                let reason = found["reason"].as_str().unwrap();
                assert_eq!(reason, "the ledger refused it; an operator must redrive or discard it");
                assert_eq!(found["payment_status"], "COMPLETE");
                for date in ["transaction_date", "received_at", "processed_at"] {
                    assert!(found[date].is_string(), "{found}");
                }
            }
        }
        let sound = format!("{}.00", count - poisons.len());
        assert_eq!(h.api.balance("ADA").await["total_paid"], sound, "{what}");
        assert_eq!(h.api.balance("BOB").await["total_paid"], format!("{count}.00"), "{what}");
        let letters = format!(
            "select count(*) from dead_letters where code = 'settle_failed' and attempts = {attempts}"
        );
        let buried = i64::try_from(poisons.len()).unwrap();
        assert_eq!(h.stores.count(&letters).await, buried, "{what}");
        assert_eq!(h.stores.count("select count(*) from dead_letters").await, buried, "{what}");
        assert_eq!(notices(&h.stores).await, buried, "{what}: told once each");
    };
    check("at first").await;
    assert_eq!(h.stores.count("select count(*) from partition_trials").await, 0);

    // A dead letter stays one, although nothing stands in its way any more.
    allow_poison(&h.stores).await;
    h.stores.rewind().await;
    h.settled().await;
    check("read again from the start").await;
}

cases! { bury_among:
    poison_first_in_its_batch_is_buried_alone(20, &[0], "5");
    poison_in_the_middle_is_buried_alone(21, &[10], "3");
    poison_last_in_its_batch_is_buried_alone(20, &[19], "1");
    many_poisons_are_buried_each_once(16, &[0, 1, 7, 8, 15], "2");
}

/// Transactions of this database that wait for the lock of [`DEADLY`].
const WAITING: &str = "select count(*) from pg_locks where locktype = 'advisory' and not granted
     and database = (select oid from pg_database where datname = current_database())";
/// Whoever inserts this reference waits for an advisory lock.
const DEADLY: &str = "create function wait_for_the_end() returns trigger language plpgsql as $$
     begin
         if new.transaction_reference = 'DEADLY' then
             perform pg_advisory_xact_lock(7);
         end if;
         return new;
     end $$;
     create trigger wait_for_the_end before insert on processed_transactions
     for each row execute function wait_for_the_end()";

#[tokio::test]
async fn an_entry_that_ends_its_worker_each_time_is_buried_at_the_limit() {
    let h = Harness::gateway(&[]).await;
    h.stores.sql(DEADLY).await;
    let _lock = h.stores.advisory_lock(7).await;
    h.api.open_account("ADA", "1000").await;
    h.api.pay_all("ADA", &["before", "DEADLY", "after"].map(|name| (name, "1"))).await;
    let settings = [
        ("PAYSTREAM_ATTEMPTS_MAX", "3"),
        ("PAYSTREAM_BATCH_DEADLINE", "500ms"),
        ("PAYSTREAM_LEASE", "1s"),
    ];
    let buried = "select count(*) from dead_letters";
    let mut deaths = 0;
    let _worker = loop {
        // Not until it is ready: a worker whose every payment waits for a lock is not.
        let worker = Process::listening(serve("worker", &h.stores, &settings)).await;
        let dies = eventually("it tries the entry, or gives it up", async || {
            let waits = h.stores.count(WAITING).await > 0;
            (waits || h.stores.count(buried).await > 0).then_some(waits)
        })
        .await;
        if !dies {
            break worker;
        }
        worker.kill().await;
        deaths += 1;
        assert!(deaths <= 5, "it must be given up by now");
        h.stores.until(0, WAITING).await;
    };
    // The first deaths cannot be told from an outage, and are of several entries;
    // the three count in which it was tried alone.
    assert_eq!(deaths, 5);
    h.settled().await;
    h.api
        .statuses(&[("before", "applied"), ("DEADLY", "dead_lettered"), ("after", "applied")])
        .await;
    let counted = "select count(*) from dead_letters where code = 'worker_died' and attempts = 3";
    assert_eq!(h.stores.count(counted).await, 1);
    assert_eq!(notices(&h.stores).await, 1);
}

async fn parked(stores: &Stores, arguments: &[&str]) -> Ended {
    stores.run(&[&["parked"], arguments].concat()).await
}

#[tokio::test]
async fn what_comes_after_a_dead_letter_waits_when_wanted_and_goes_on_in_order() {
    let mut h = Harness::gateway(&["--park-customer", "--attempts-max=2"]).await;
    h.api.open_account("ADA", "100").await;
    refuse_poison(&h.stores).await;
    h.api.open_account("BOB", "100").await;
    for (name, customer, amount) in [
        ("a1", "ADA", "1"),
        ("POISON", "ADA", "2"),
        ("a2", "ADA", "60"),
        ("b1", "BOB", "5"),
        ("a3", "ADA", "50"),
    ] {
        h.api.pay(name, customer, amount).await;
    }
    h.work().await;
    h.api.pay("a4", "ADA", "4").await;
    h.settled().await;
    h.api
        .statuses(&[
            ("a1", "applied"),
            ("POISON", "dead_lettered"),
            ("a2", "parked"),
            ("b1", "applied"),
            ("a3", "parked"),
            ("a4", "parked"),
        ])
        .await;
    assert_eq!(h.api.stats().await["totals"]["parked"], 3);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "1.00");
    // Sent again after the stream has forgotten it: still one payment.
    h.stores.forget().await;
    h.api.post_payment(&payment("a2", "ADA", "60")).await.is(202);
    h.settled().await;

    let list = parked(&h.stores, &["list", "--json"]).await;
    let list = list.json();
    assert_eq!((&list[0]["customer_id"], &list[0]["payments"]), (&json!("ADA"), &json!(3)));
    assert_eq!(list[0]["amount"], "114.00");
    // The dead letter that they wait for is open: not before it, unless forced.
    let refused = parked(&h.stores, &["release", "ADA", "--reason", "in haste"]).await;
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.contains("is still open: released now"), "{refused:?}");
    let dry = ["release", "ADA", "--reason", "to see", "--dry-run"];
    let dry = parked(&h.stores, &dry).await;
    assert!(dry.status.success() && dry.stdout.starts_with("3 payments of ADA, 114.00"), "{dry:?}");
    assert!(dry.stdout.contains("it would have to be forced"), "{dry:?}");
    assert_eq!(h.api.payment("a2").await["status"], "parked");
    // Who does it is known without any variable, as in a container.
    let release = ["parked", "release", "ADA", "--reason", "the rule is gone", "--force"];
    let mut command = operate(&h.stores, &release);
    command.env_remove("USER").env_remove("LOGNAME").env_remove("PAYSTREAM_ACTOR");
    let released = run(command).await;
    assert!(released.status.success(), "{released:?}");
    assert_eq!(released.stdout, "3 payments of ADA released\n");
    for (version, name, after) in [(2, "a2", "39.00"), (3, "a3", "0.00"), (4, "a4", "0.00")] {
        let found = h.api.payment(name).await;
        assert_eq!(found["status"], "applied", "{found}");
        has(&found, json!({"account_version": version, "balance_after": after}));
    }
    let again = parked(&h.stores, &["release", "ADA", "--reason", "twice"]).await;
    assert_eq!((again.code(), &*again.stdout), (Some(1), "ADA is not parked\n"));
    let logged = "select count(*) from audit_log where action = 'parked_released'
         and reason = 'the rule is gone' and actor <> ''";
    assert_eq!(h.stores.count(logged).await, 1);
    h.api.pay("a5", "ADA", "1").await;
    h.settled().await;
    assert_eq!(h.api.payment("a5").await["status"], "applied");
}

#[tokio::test]
async fn an_attempt_that_a_stop_or_an_outage_ends_is_none() {
    let settings = ["--attempts-max=2", "--batch-deadline=500ms", "--lease=1s"];
    let mut h = Harness::gateway(&settings).await;
    h.stores.sql(DEADLY).await;
    let lock = h.stores.advisory_lock(7).await;
    h.api.open_account("ADA", "1000").await;
    h.api.pay_all("ADA", &["DEADLY", "after"].map(|name| (name, "1"))).await;
    let dead = "select count(*) from dead_letters";
    for _ in 0..6 {
        h.start_worker();
        until("it tries the entry", async || {
            assert_eq!(h.stores.count(dead).await, 0, "a healthy payment was given up");
            h.stores.count(WAITING).await > 0
        })
        .await;
        h.stop_worker().await;
    }
    let trials = "select count(*) from partition_trials where first_stream_id = last_stream_id";
    assert_eq!(h.stores.count(trials).await, 0, "no attempt is left behind");
    h.start_worker();
    // Each try has another transaction; it ends when the batch's time is over.
    let waits = "select distinct a.pid::text || a.xact_start from pg_locks l
         join pg_stat_activity a using (pid) where locktype = 'advisory' and not granted
         and database = (select oid from pg_database where datname = current_database())";
    let tries = Mutex::new(BTreeSet::new());
    until("it is tried more often than attempts are allowed", async || {
        let waiting = h.stores.texts(waits).await;
        let mut tries = tries.lock().unwrap();
        tries.extend(waiting);
        tries.len() > 4
    })
    .await;
    assert_eq!(h.stores.count(dead).await, 0);
    lock.close().await.unwrap();
    h.settled().await;
    h.api.statuses(&[("DEADLY", "applied"), ("after", "applied")]).await;
    assert_eq!(h.stores.count(dead).await, 0);
}

#[tokio::test]
async fn an_entry_that_is_settled_is_not_given_up_when_its_workers_died() {
    let mut h = Harness::with(&["--attempts-max=2"]).await.account("ADA", "1000").await;
    let taken = h.api.pay("settled", "ADA", "1").await;
    h.settled().await;
    h.stop_worker().await;
    // As if it had been committed, and its worker had died before every
    // acknowledgement.
    let (partition, id) = (taken["partition"].as_u64().unwrap(), taken["stream_id"].clone());
    h.stores.rewind().await;
    h.stores.hand_out(partition, "ledger", "ghost", 1000).await;
    let noted = format!(
        "insert into partition_trials
             (partition, first_stream_id, last_stream_id, attempts, worker, epoch)
         values ({partition}, '{0}', '{0}', 2, 'ghost', 1)",
        id.as_str().unwrap()
    );
    h.stores.sql(&noted).await;
    h.work().await;
    assert_eq!(h.stores.count("select count(*) from dead_letters").await, 0);
    assert_eq!(notices(&h.stores).await, 0);
    assert_eq!(h.api.payment("settled").await["status"], "applied");
}

#[tokio::test]
async fn a_damaged_account_stops_nobody_else_and_is_named() {
    let mut h = Harness::gateway(&["--attempts-max=2", "--lanes=1"]).await;
    h.api.open_account("ADA", "1000").await;
    h.api.open_account("BOB", "1000").await;
    h.start_worker();
    h.api.pay_each("a", 0..3).await;
    h.api.until_settled().await;
    assert!(doctor(&h.stores).await.find("account_damaged").is_none());
    h.stop_worker().await;
    let damage = "update customer_accounts set version = 1 where customer_id = 'ADA'";
    h.stores.sql(damage).await;
    for n in 0..3 {
        h.api.pay(&format!("bob{n}"), "BOB", "1").await;
        h.api.pay(&format!("late{n}"), "ADA", "1").await;
    }
    h.start_worker();
    h.api.until_settled().await;
    let named = "account ADA stands at version 1, but its statement goes on to 3";
    for n in 0..3 {
        assert_eq!(h.api.payment(&format!("bob{n}")).await["status"], "applied");
        let found = h.api.payment(&format!("late{n}")).await;
        assert_eq!(found["status"], "dead_lettered", "{found}");
        let letters = format!("/api/v1/admin/dead-letters?reference=late{n}");
        let letters = h.api.get(&letters).await.json();
        let reason = letters["dead_letters"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(named), "{reason}");
    }
    let said = doctor(&h.stores).await;
    let sentence = said.has("account_damaged", "critical");
    assert!(sentence.starts_with(named) && sentence.contains("3 dead letters are open"));
    let advice = &said.find("account_damaged").unwrap()["advice"];
    assert!(advice.as_str().unwrap().contains("redrive --customer ADA"), "{advice}");
    h.stores.sql("update customer_accounts set version = 3 where customer_id = 'ADA'").await;
    assert!(doctor(&h.stores).await.find("account_damaged").is_none());
}

//! Proves what happens when Redis loses what it was given: it is detected, said
//! aloud and listed; nothing is accepted under a sequence that was used; the
//! partition goes on behind the ledger's cursor; what is sent again is taken
//! again; and what was settled stays settled.

use std::ops::RangeInclusive;

use paystream_dev::PostgresServer;

use crate::{failover::taken_anew, prelude::*};

/// Deals with all losses; then health and audit are content.
async fn accept_losses(h: &Harness) {
    // An answer about health is given again for a second.
    until("health is degraded", async || {
        let health = h.api.get("/api/v1/health").await.json();
        health["status"] == "degraded"
    })
    .await;
    h.stores.run(&["audit"]).await.is(1, "");
    h.stores.accept_losses().await;
    assert_eq!(h.stores.losses().await, [""; 0]);
    until("health is content", async || {
        let health = h.api.get("/api/v1/health").await.json();
        health["status"] == "ok" && health["open_losses"] == 0
    })
    .await;
    h.stores.succeed(&["audit"]).await;
    let logged = "select count(*) from audit_log where action = 'loss_accepted'";
    assert!(h.stores.count(logged).await > 0);
}

/// The value of a key, to be put back later.
async fn dump(stores: &Stores, key: &str) -> Option<Vec<u8>> {
    stores.ask(&["DUMP", key]).await
}

async fn restore(stores: &Stores, key: &str, value: Option<Vec<u8>>) {
    let Some(value) = value else { return stores.tell(&["DEL", key]).await };
    let mut restore = redis::cmd("RESTORE");
    restore.arg(key).arg(0).arg(value).arg("REPLACE");
    restore.exec_async(&mut stores.redis.clone()).await.unwrap();
}

async fn partition_of(h: &Harness, reference: &str) -> u64 {
    h.api.payment(reference).await["partition"].as_u64().unwrap()
}

/// Pays 1 for ADA under each of these numbers; the ids of the entries.
async fn pay_for_ids(h: &Harness, numbers: RangeInclusive<i64>) -> Vec<String> {
    let mut ids = Vec::new();
    for number in numbers {
        let taken = h.api.pay(&format!("r{number}"), "ADA", "1").await;
        ids.push(taken["stream_id"].as_str().unwrap().to_owned());
    }
    ids
}

/// Pays until it is taken: a partition that was lost is closed until its owner
/// has brought it back.
async fn pay_when_open(h: &Harness, reference: &str) -> Value {
    let body = payment(reference, "ADA", "1");
    eventually("the partition is open again", async || {
        let reply = h.api.post_payment(&body).await;
        if reply.status == 503 {
            reply.is_problem(503, "stream_state_lost");
            return None;
        }
        Some(reply.is(202).json())
    })
    .await
}

#[tokio::test]
async fn a_lost_stream_is_listed_and_what_is_sent_again_is_taken_again() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    h.api.pay_each("r", 1..=3).await;
    let partition = partition_of(&h, "r1").await;
    h.stores.delete_keys(&format!("{{p{partition:02}}}:stream")).await;
    h.api.post_payment(&payment("r4", "ADA", "1")).await.is_problem(503, "stream_state_lost");
    h.start_worker();
    let taken = pay_when_open(&h, "r4").await;
    assert!(taken["sequence"].as_i64().unwrap() > 1_000_000, "{taken}");
    assert_eq!(h.stores.losses().await, ["state_lost 1-3"]);
    // Redis remembers the references, and that their entries are lost.
    taken_anew([&h.api; 2], &["r1", "r2", "r3"]).await;
    h.api.settles_at("ADA", "4.00").await;
    accept_losses(&h).await;
}

/// Redis is emptied while only a gateway knows of r4 to r6. `gateway_first`: it
/// finds out before a worker has brought the partition back.
async fn flush(gateway_first: bool) {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    h.start_worker();
    h.api.pay_each("r", 1..=3).await;
    h.settled().await;
    h.stop_worker().await;
    let partition = partition_of(&h, "r1").await;
    h.api.pay_each("r", 4..=6).await;
    assert!(h.stores.delete_keys("*").await > 0);
    if gateway_first {
        h.api.post_payment(&payment("new", "ADA", "1")).await.is_problem(503, "stream_state_lost");
    }
    h.start_worker();
    eventually("the partition is brought back", async || {
        let head: Option<String> = h.stores.ask(&["GET", &h.stores.key(partition, "seq")]).await;
        // While it is lost, that is no number.
        head?.parse().ok().filter(|sequence: &i64| *sequence > 1_000_000)
    })
    .await;
    pay_when_open(&h, "new").await;
    until("exactly what was lost is listed", async || {
        let mut listed = h.stores.losses().await;
        listed.retain(|one| one.contains('-'));
        listed == ["state_lost 4-6"]
    })
    .await;
    h.api.pay_each("r", 4..=6).await;
    h.api.settles_at("ADA", "7.00").await;
    accept_losses(&h).await;
}

cases! { flush:
    what_only_a_gateway_knows_is_listed_when_it_finds_an_empty_redis(true);
    what_only_a_gateway_knows_is_listed_when_a_worker_was_first(false);
}

#[tokio::test]
async fn a_loss_is_not_taken_for_another_whose_numbers_end_alike() {
    let mut h = Harness::gateway(&[]).await;
    let items: Vec<_> = (1..=30).map(|n| payment(&format!("r{n}"), "ADA", "1")).collect();
    h.api.post("/api/v1/payments/batch", &json!(items)).await;
    let partition = partition_of(&h, "r1").await;
    h.stores.tell(&["SET", &h.stores.key(partition, "lost"), "21 30\n"]).await;
    h.stores.delete_keys(&format!("{{p{partition:02}}}:stream")).await;
    h.start_worker();
    pay_when_open(&h, "new").await;
    h.api.post_payment(&payment("r1", "ADA", "1")).await.is(202);
}

#[tokio::test]
async fn what_an_earlier_jump_left_out_is_not_listed_as_lost() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    h.api.pay_each("r", 1..=3).await;
    let partition = partition_of(&h, "r1").await;
    let jumped = format!(
        "insert into sequence_jumps (partition, after_sequence, resumes_at, kinds, reason, detail, state)
         values ({partition}, 3, 1000004, '{{takeover}}', 'takeover', 'a failover', 'accepted')"
    );
    h.stores.sql(&jumped).await;
    h.stores.tell(&["SET", &h.stores.key(partition, "seq"), "1000003"]).await;
    h.api.pay_each("r", 4..=5).await;
    h.stores.delete_keys(&format!("{{p{partition:02}}}:stream")).await;
    h.start_worker();
    pay_when_open(&h, "new").await;
    let mut listed = h.stores.losses().await;
    listed.sort();
    assert_eq!(listed, ["state_lost 1-3", "state_lost 1000004-1000005"]);
    taken_anew([&h.api; 2], &["r1", "r3", "r4", "r5"]).await;
    h.api.settles_at("ADA", "5.00").await;
    accept_losses(&h).await;
}

#[tokio::test]
async fn a_lost_group_is_created_again_at_the_ledgers_cursor() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    h.start_worker();
    h.api.pay("r1", "ADA", "1").await;
    h.settled().await;
    for round in 2..5 {
        let stream = h.stores.key(partition_of(&h, "r1").await, "stream");
        h.stores.tell(&["XGROUP", "DESTROY", &stream, "ledger"]).await;
        pay_when_open(&h, &format!("r{round}")).await;
        h.api.until_is(&format!("r{round}"), "applied").await;
    }
    h.settled().await;
    assert_eq!(h.stores.losses().await, [""; 0], "no entry was lost");
}

#[tokio::test]
async fn a_flushed_redis_is_brought_back_and_said_aloud() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("before", "ADA", "1").await;
    h.settled().await;
    h.stores.delete_keys("*").await;
    pay_when_open(&h, "after").await;
    until("all partitions are back", async || h.stores.losses().await.len() == 8).await;
    h.api.settles_at("ADA", "2.00").await;
    h.api.post_payment(&payment("before", "ADA", "1")).await.is(202);
    h.api.until_settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "2.00", "it was settled before");
    accept_losses(&h).await;
}

#[tokio::test]
async fn a_stream_that_went_back_accepts_nothing_until_it_is_brought_forward() {
    let mut h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    h.api.pay_each("r", 1..=3).await;
    let partition = partition_of(&h, "r1").await;
    let keys = ["stream", "seq", "ref:r4", "ref:r5"];
    let keys = keys.map(|name| h.stores.key(partition, name));
    let mut backup = Vec::new();
    for key in &keys {
        backup.push(dump(&h.stores, key).await);
    }
    h.api.pay("r4", "ADA", "1").await;
    h.api.pay("r5", "ADA", "1").await;
    for (key, value) in keys.iter().zip(backup) {
        restore(&h.stores, key, value).await;
    }
    // This gateway gave out 5 sequences; the stream counts on from 3.
    for _ in 0..2 {
        h.api.post_payment(&payment("r6", "ADA", "1")).await.is_problem(503, "stream_state_lost");
    }
    let batch = json!([payment("r7", "ADA", "1")]);
    let batch = h.api.post("/api/v1/payments/batch", &batch).await;
    assert!(batch.status == 503 || batch.json()["accepted"] == 0, "{}", batch.text);
    h.start_worker();
    pay_when_open(&h, "r6").await;
    h.api.until_settled().await;
    assert_eq!(h.stores.losses().await, ["state_lost 4-5"]);
    assert_eq!(h.api.balance("ADA").await["total_paid"], "4.00");
    for name in ["r4", "r5"] {
        h.api.post_payment(&payment(name, "ADA", "1")).await.is(202);
    }
    h.api.settles_at("ADA", "6.00").await;
    accept_losses(&h).await;
}

#[tokio::test]
async fn an_old_backup_applies_nothing_twice_and_no_gateway_trusts_it() {
    let mut h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("r1", "ADA", "1").await;
    h.settled().await;
    let partition = partition_of(&h, "r1").await;
    let keys = ["stream", "seq"].map(|name| h.stores.key(partition, name));
    let backup = (dump(&h.stores, &keys[0]).await, dump(&h.stores, &keys[1]).await);
    h.api.pay_each("r", 2..=9).await;
    h.settled().await;
    h.stop_worker().await;
    restore(&h.stores, &keys[0], backup.0).await;
    restore(&h.stores, &keys[1], backup.1).await;
    // One that was started afterwards knows it from the ledger.
    let gateway = Process::serve("gateway", &h.stores, &[]).await;
    gateway
        .api
        .post_payment(&payment("new", "ADA", "1"))
        .await
        .is_problem(503, "stream_state_lost");
    gateway.stop().await;
    h.start_worker();
    pay_when_open(&h, "new").await;
    h.api.settles_at("ADA", "10.00").await;
    assert_eq!(h.stores.losses().await, ["state_lost"]);
    accept_losses(&h).await;
}

#[tokio::test]
async fn entries_taken_out_of_a_stream_are_listed() {
    let h = Harness::gateway(&[]).await.account("ADA", "1000").await;
    let ids = pay_for_ids(&h, 1..=6).await;
    let notice = but(payment("r7", "ADA", "1"), json!({"payment_status": "PENDING"}));
    h.api.post_payment(&notice).await;
    let partition = partition_of(&h, "r1").await;
    let stream = h.stores.key(partition, "stream");
    for id in [&ids[1], &ids[3], &ids[4]] {
        assert_eq!(h.stores.ask::<i64>(&["XDEL", &stream, id]).await, 1);
    }
    let worker = worker(&h.stores, "tester", &[]).await;
    h.api.until_settled().await;
    assert_eq!(h.stores.losses().await, ["entries_missing 2-2", "entries_missing 4-5"]);
    let line = "entries were deleted from the stream before they were settled. See `paystream \
         losses list`";
    let said = eventually("both gaps are said aloud", async || {
        Some(worker.events(line)).filter(|events| events.len() == 2)
    })
    .await;
    let said: Vec<_> = said.iter().map(|event| (&event["level"], &event["lost_first"])).collect();
    assert_eq!(said, [(&json!("ERROR"), &json!(2)), (&json!("ERROR"), &json!(4))]);
    // Nobody claims that they were never accepted.
    let nothing = "nothing is known under this reference";
    let lost = h.api.get("/api/v1/payments/r2").await;
    lost.is_problem(404, "payment_not_found");
    assert_eq!(lost.json()["detail"], nothing);
    let lost = h.api.get("/api/v1/admin/payments/r2").await.json();
    let hint = "losses are open, and it may be among them: see `paystream losses list`";
    assert_eq!(lost["detail"], format!("{nothing}; {hint}"));
    let shown = h.stores.run(&["show", "r2"]).await;
    let other = "A payment of another source has its name before it: paystream show 'SOURCE r2'";
    assert_eq!(shown.stdout, format!("r2: {nothing}; {hint}. {other}\n"));
    assert_eq!(h.api.balance("ADA").await["total_paid"], "3.00");
    // As the RUNBOOK says, clients send them again.
    taken_anew([&h.api; 2], &["r2", "r4", "r5"]).await;
    h.api.post_payment(&payment("r1", "ADA", "1")).await.is(200);
    h.api.settles_at("ADA", "6.00").await;
    accept_losses(&h).await;
    let listed = h.stores.succeed(&["losses", "list"]).await;
    assert_eq!(listed, "No loss is open; --all shows accepted ones.\n");
}

/// A copy of the files of a server that is stopped.
pub async fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let copied = command.arg("-a").arg(from).arg(to).status().await.unwrap();
    assert!(copied.success(), "{} to {}", from.display(), to.display());
}

/// Keeps a copy of the data of a PostgreSQL beside it.
pub async fn back_up(postgres: &mut PostgresServer) {
    postgres.stop().await.unwrap();
    let data = postgres.data_directory().to_owned();
    copy(&data, &data.with_file_name("backup")).await;
    postgres.restart().await.unwrap();
}

/// Starts a stopped PostgreSQL on the copy.
pub async fn put_back(postgres: &mut PostgresServer) {
    let data = postgres.data_directory().to_owned();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(data.with_file_name("backup"), &data).unwrap();
    postgres.restart().await.unwrap();
}

/// Puts an old backup of PostgreSQL back. `restarts`: the worker was started
/// anew since the backup, so that Redis knows higher epochs than it. `dies`: and
/// is killed before it is put back.
async fn put_back_a_backup(name: &str, restarts: bool, dies: bool) {
    let (mut postgres, stores) = Stores::on_own_postgres(name).await;
    let mut h = Harness::gateway_on(stores, &["--retention=1h"]).await.account("ADA", "1000").await;
    h.start_worker();
    h.api.pay_each("r", 1..=3).await;
    h.settled().await;
    back_up(&mut postgres).await;
    if restarts {
        for _ in 0..2 {
            h.stop_worker().await;
            h.start_worker();
        }
    }
    let ids = pay_for_ids(&h, 4..=13).await;
    h.api.until_is("r13", "applied").await;
    h.settled().await;
    let partition = partition_of(&h, "r1").await;
    h.stores.tell(&["XTRIM", &h.stores.key(partition, "stream"), "MINID", &ids[3]]).await;
    postgres.stop().await.unwrap();
    if dies {
        h.crash_worker();
    }
    put_back(&mut postgres).await;
    if dies {
        h.start_worker();
    }

    h.api.until_is("r13", "applied").await;
    // One more may say that bringing it back was interrupted; it lists nothing.
    let mut listed = h.stores.losses().await;
    listed.retain(|one| one.contains('-'));
    assert_eq!(listed, ["ledger_lost 4-6"]);
    let why = "select count(*) from sequence_jumps where detail like 'PostgreSQL went back to \
         sequence 3 (a promoted standby, or a restored backup)%'";
    assert_eq!(h.stores.count(why).await, 1);
    h.api.until_settled().await;
    let paid = "select total_paid::bigint from customer_accounts where customer_id = 'ADA'";
    assert_eq!(h.stores.count(paid).await, 10);
    taken_anew([&h.api; 2], &["r4", "r5", "r6"]).await;
    h.api.post_payment(&payment("r7", "ADA", "1")).await.is(200);
    h.api.until_settled().await;
    assert_eq!(h.stores.count(paid).await, 13);
    accept_losses(&h).await;
    h.settled().await;
    h.stop().await;
    postgres.stop().await.unwrap();
}

cases! { put_back_a_backup:
    commits_that_postgresql_lost_are_settled_again_or_listed("postgres-back", false, false);
    a_backup_with_lower_epochs_is_brought_forward_too("postgres-epochs", true, true);
    a_worker_that_a_backup_does_not_know_yet_goes_on("postgres-worker", true, false);
}

#[tokio::test]
async fn nothing_is_trimmed_that_the_ledger_does_not_know() {
    let mut h = Harness::with(&["--retention=1h"]).await.account("ADA", "1000").await;
    let ids = pay_for_ids(&h, 1..=5).await;
    let ids: Vec<StreamId> = ids.iter().map(|id| id.parse().unwrap()).collect();
    h.settled().await;
    h.stop_worker().await;
    let partition = partition_of(&h, "r1").await;
    let streams = Streams::new(&h.stores.redis_url, &h.stores.key_prefix, PARTITIONS, 1).unwrap();
    let upkeep = streams.upkeep().await.unwrap();
    let length = async || h.stores.ask::<i64>(&["XLEN", &h.stores.key(partition, "stream")]).await;
    let reached = BTreeMap::from([(u16::try_from(partition).unwrap(), ids[1])]);
    let aged = vec![ids[4]; usize::from(PARTITIONS)];
    upkeep.trim_all(Duration::ZERO, &aged, &reached, &[]).await.unwrap();
    assert_eq!(length().await, 4, "what comes after the second is kept");
    upkeep.trim_all(Duration::ZERO, &aged, &BTreeMap::new(), &[]).await.unwrap();
    assert_eq!(length().await, 4);
}

#[tokio::test]
async fn entries_taken_out_at_the_end_of_a_stream_are_listed_before_another_comes() {
    let mut h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("r1", "ADA", "1").await;
    h.settled().await;
    let partition = partition_of(&h, "r1").await;
    let stream = h.stores.key(partition, "stream");
    let first = "entries_missing 2-4";
    let rounds =
        [(vec!["r2", "r3", "r4"], vec![first]), (vec!["r5"], vec![first, "entries_missing 5-5"])];
    for (references, wanted) in &rounds {
        h.stop_worker().await;
        let mut delete = redis::cmd("XDEL");
        delete.arg(&stream);
        for reference in references {
            delete.arg(h.api.pay(reference, "ADA", "1").await["stream_id"].as_str().unwrap());
        }
        // One was handed out, the others were not.
        h.stores.hand_out(partition, "ledger", "ghost", 1).await;
        delete.exec_async(&mut h.stores.redis.clone()).await.unwrap();
        h.start_worker();
        until("they are listed", async || h.stores.losses().await == *wanted).await;
    }
    for name in rounds.iter().flat_map(|(references, _)| references) {
        let body = payment(name, "ADA", "1");
        h.api.until_taken(&body).await;
        h.api.post_payment(&body).await.is(200);
    }
    h.api.settles_at("ADA", "5.00").await;
    accept_losses(&h).await;
}

/// A process of an earlier release may still run beside a ledger that is migrated.
#[tokio::test]
async fn findings_of_an_older_process_have_their_kinds() {
    let stores = Stores::new().await;
    let kinds = async |sql: &'static str| {
        stores.sql(sql).await;
        stores.texts("select unnest(kinds) from sequence_jumps order by 1").await
    };
    let written = "insert into sequence_jumps
            (partition, after_sequence, resumes_at, reason, detail, state)
        values (0, 10, 21, 'takeover', 'another Redis answered that had gone back, and numbers \
            from here on were given out twice: what the ledger does not have is lost', 'open')";
    assert_eq!(kinds(written).await, ["takeover", "twice"]);
    let added = "update sequence_jumps set detail = detail || '; then another Redis took over that \
         lacked these, and may have given their numbers out again'";
    assert_eq!(kinds(added).await, ["lacking", "takeover", "twice"]);
    let accepted = "update sequence_jumps set state = 'accepted', kinds = array['twice']";
    assert_eq!(kinds(accepted).await, ["twice"], "what a process of today writes stays");
}

//! Proves what is listed when a server answers with older data, or without the
//! memory of those before it: what the ledger had settled is not lost, whose
//! number was given out again is, and nothing that was never given out.

use paystream_dev::DATABASE;

use crate::{
    failover::{ask, pay_each, tell},
    losses::{back_up, copy, put_back},
    prelude::*,
};

/// First and last sequences that are on record as lost.
async fn lost(stores: &Stores) -> Vec<(i64, i64)> {
    let listed = "select lost_first, lost_last from sequence_jumps where lost_first is not null
         order by lost_first";
    stores.rows(listed).await
}

/// The checks of the audit that find something.
async fn drifts(stores: &Stores) -> Vec<String> {
    let report = stores.said(&["audit"]).await;
    let checks = report["checks"].as_array().unwrap().iter();
    let found = checks.filter(|check| check["drift"].as_u64().unwrap() > 0);
    found.map(|check| check["check"].as_str().unwrap().to_owned()).collect()
}

/// Keeps a copy of the data of a Redis beside it.
async fn keep_copy(redis: &mut RedisServer) {
    redis.stop().await.unwrap();
    let data = redis.data_directory().to_owned();
    copy(&data, &data.with_file_name("copy")).await;
    redis.restart().await.unwrap();
}

async fn put_copy_back(redis: &mut RedisServer) {
    redis.stop().await.unwrap();
    let data = redis.data_directory().to_owned();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(data.with_file_name("copy"), &data).unwrap();
    redis.restart().await.unwrap();
}

#[tokio::test]
async fn what_was_settled_before_a_copy_was_put_back_is_not_lost() {
    let (mut redis, mut stores) = Stores::on_own_redis("redis-copy").await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "1000").await;
    pay(&process.api, "r1").await;
    process.api.until_settled().await;
    keep_copy(&mut redis).await;
    pay_each(&process.api, 2..=5).await;
    process.api.until_settled().await;
    put_copy_back(&mut redis).await;
    pay(&process.api, "r6").await;
    process.api.until_settled().await;
    assert_eq!(stores.count(LOST).await, 0);
    process.stop().await;
    // Another worker notes all of it again.
    let process = Process::serve("all", &stores, &[]).await;
    pay(&process.api, "r7").await;
    process.api.until_settled().await;
    assert_eq!(stores.count(LOST).await, 0);
    stores.accept_losses().await;
    stores.connect_again().await;
    stores.audit().await;
}

#[tokio::test]
async fn what_was_lost_is_listed_though_its_number_was_given_out_again_and_settled() {
    let (mut redis, stores) = Stores::on_own_redis("redis-reused").await;
    let a = Process::serve("gateway", &stores, &[]).await;
    let b = Process::serve("gateway", &stores, &[]).await;
    a.api.open_account("ADA", "1000").await;
    pay(&a.api, "r1").await;
    keep_copy(&mut redis).await;
    pay_each(&a.api, 2..=4).await;
    put_copy_back(&mut redis).await;
    // This gateway knows nothing of what the other was given.
    assert_eq!(pay(&b.api, "again").await["sequence"], 2);
    let worker = Process::serve("all", &stores, &[]).await;
    worker.api.until_settled().await;
    pay(&a.api, "r5").await;
    let listed = "select count(*) from sequence_jumps where lost_first = 2 and lost_last = 4";
    stores.until(1, listed).await;
}

/// The lineage of every partition is as it is after many restarts, or gone.
async fn forget_lineage(name: &str, many: bool) {
    let (mut redis, mut stores) = Stores::on_own_redis(name).await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "1000").await;
    pay_each(&process.api, 1..=3).await;
    process.api.until_settled().await;
    for partition in 0..u64::from(PARTITIONS) {
        let key = stores.key(partition, "lineage");
        if many {
            let given: Option<i64> = stores.ask(&["GET", &stores.key(partition, "seq")]).await;
            let given = given.unwrap_or(0);
            let line = |n| format!("{n:040} {given} {}\n", given + 1);
            let lines: String = (0..32).map(line).collect();
            tell(&redis, &["SET", &key, &lines]).await;
        } else {
            tell(&redis, &["DEL", &key]).await;
        }
    }
    for n in 4..=5 {
        redis.stop().await.unwrap();
        redis.restart().await.unwrap();
        pay(&process.api, &format!("r{n}")).await;
        process.api.until_settled().await;
    }
    assert_eq!(stores.count(LOST).await, 0, "{}", process.log());
    stores.connect_again().await;
    stores.audit().await;
}

cases! { forget_lineage:
    a_lineage_that_is_gone_is_no_loss("redis-no-lineage", false);
    a_server_that_many_have_followed_is_no_loss("redis-many", true);
}

#[tokio::test]
async fn a_ledger_from_before_a_failover_lists_nothing_that_was_never_given_out() {
    let mut postgres = own_postgres("pg-before").await;
    let mut pair = Pair::on("before", Some(postgres.url(DATABASE))).await;
    let process = Process::serve("all", &pair.stores, &[]).await.account("ADA", "1000").await;
    pay(&process.api, "r1").await;
    process.api.until_settled().await;
    back_up(&mut postgres).await;
    pay(&process.api, "r2").await;
    process.api.until_settled().await;
    pair.promote_in_step().await;
    pair.fail_over().await;
    pay(&process.api, "r3").await;
    let last = pay(&process.api, "r4").await;
    assert_eq!(last["sequence"], 1_000_003, "{last}");
    process.api.until_settled().await;
    // The stream keeps only the last.
    let stream = pair.stores.key(last["partition"].as_u64().unwrap(), "stream");
    tell(&pair.replica, &["XTRIM", &stream, "MINID", last["stream_id"].as_str().unwrap()]).await;
    postgres.stop().await.unwrap();
    put_back(&mut postgres).await;
    process.api.until_is("r4", "applied").await;
    process.api.until_settled().await;
    let mut listed = pair.stores.losses().await;
    listed.retain(|one| one.contains('-'));
    assert_eq!(listed, ["ledger_lost 1000002-1000002", "ledger_lost 2-2"]);
    // Partitions in which nothing was paid have jumped too.
    for customer in 0..30 {
        let body = payment(&format!("c{customer}"), &format!("C{customer}"), "1");
        process.api.post_payment(&body).await;
    }
    process.api.until_settled().await;
    assert_eq!(pair.stores.count(LOST).await, 2);
    process.stop().await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn numbers_that_were_given_out_twice_are_listed_and_their_conflicts_kept() {
    let (mut redis, mut stores) = Stores::on_own_redis("redis-twice").await;
    let a = Process::serve("gateway", &stores, &[]).await;
    let b = Process::serve("gateway", &stores, &[]).await;
    let first = Process::serve("worker", &stores, &[]).await;
    a.api.open_account("ADA", "1000").await;
    pay(&b.api, "r1").await;
    pay(&a.api, "r2").await;
    a.api.until_settled().await;
    keep_copy(&mut redis).await;
    stores.connect_again().await;
    pay(&a.api, "r3").await;
    // Redis has forgotten a reference: its conflict is found by the ledger.
    let conflict = async |stores: &Stores, process: &Process, reference: &str| {
        stores.forget_reference(reference).await;
        let taken = process.api.post_payment(&payment(reference, "ADA", "7")).await;
        assert_eq!(taken.json()["sequence"], 4, "{}", taken.text);
    };
    conflict(&stores, &a, "r1").await;
    a.api.until_settled().await;
    first.kill().await;
    for n in 5..=6 {
        assert_eq!(pay(&a.api, &format!("lost{n}")).await["sequence"], n);
    }
    // The worker had told the ledger of them before it died.
    let told = "update partition_owners set head_sequence = 6 where last_sequence = 4";
    assert_eq!(sqlx::query(told).execute(&stores.pool).await.unwrap().rows_affected(), 1);
    a.kill().await;
    put_copy_back(&mut redis).await;
    stores.connect_again().await;
    // The other gateway knows nothing of what is lost.
    assert_eq!(pay(&b.api, "new3").await["sequence"], 3);
    conflict(&stores, &b, "r2").await;
    for n in 5..=8 {
        assert_eq!(pay(&b.api, &format!("new{n}")).await["sequence"], n);
    }
    let _late = Process::serve("worker", &stores, &[]).await;
    b.api.until_settled().await;
    assert_eq!(lost(&stores).await, [(5, 6)]);
    assert_eq!(stores.count("select count(*) from conflicts").await, 2);
    assert_eq!(drifts(&stores).await, ["sequence_lost"]);
    let place = stores.count("select partition::bigint from conflicts limit 1").await.to_string();
    for open in [1, 0] {
        let resolve = ["conflicts", "resolve", &place, "4", "--reason", "asked", "--actor", "me"];
        stores.succeed(&resolve).await;
        let left = "select count(*) from conflicts where state = 'open'";
        assert_eq!(stores.count(left).await, open);
    }
    stores.accept_losses().await;
    assert_eq!(drifts(&stores).await, [""; 0]);
}

#[tokio::test]
async fn two_failovers_without_a_worker_in_between_list_each_loss_once() {
    let mut pair = Pair::on("two", None).await;
    let third = own_redis("redis-two-third").await;
    let port = pair.primary.port().to_string();
    tell(&third, &["REPLICAOF", "127.0.0.1", &port]).await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await;
    let worker = Process::serve("all", &pair.stores, &[]).await;
    gateway.api.open_account("ADA", "1000").await;
    pay(&gateway.api, "r1").await;
    gateway.api.until_settled().await;
    worker.stop().await;
    pair.in_step().await;
    tell(&pair.primary, &["SET", "last", "1"]).await;
    until("the third has everything", async || ask::<i64>(&third, &["EXISTS", "last"]).await == 1)
        .await;
    // From here on neither hears anything more.
    for replica in [&pair.replica, &third] {
        tell(replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
    }
    assert_eq!(pay_each(&gateway.api, 2..=3).await, [2, 3]);
    pair.promote().await;
    pair.fail_over().await;
    assert_eq!(pay_each(&gateway.api, 4..=5).await, [1_000_001, 1_000_002]);
    tell(&third, &["REPLICAOF", "NO", "ONE"]).await;
    pair.proxy.lead_to(&third.url());
    pair.proxy.break_all().await;
    pair.stores.connect_again().await;
    gateway.api.post_payment(&payment("r6", "ADA", "1")).await.is(503);
    let worker = Process::serve("all", &pair.stores, &[]).await;
    pay_each(&gateway.api, 2..=6).await;
    worker.api.until_settled().await;
    assert_eq!(lost(&pair.stores).await, [(2, 3), (1_000_001, 1_000_002)]);
    pair.stores.accept_losses().await;
    assert_eq!(drifts(&pair.stores).await, [""; 0]);
    assert_eq!(worker.api.balance("ADA").await["total_paid"], "6.00");
}

#[tokio::test]
async fn what_a_restarted_primary_kept_is_lost_with_it_where_the_replica_lacks_it() {
    let mut pair = Pair::on("kept", None).await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await.account("ADA", "1000").await;
    assert_eq!(pay_each(&gateway.api, 1..=2).await, [1, 2]);
    pair.in_step().await;
    // From here on the replica hears nothing more.
    tell(&pair.replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(pay_each(&gateway.api, 3..=4).await, [3, 4]);
    pair.primary.restart().await.unwrap();
    assert_eq!(pay_each(&gateway.api, 5..=6).await, [5, 6], "it kept all, under another name");
    pair.promote().await;
    pair.fail_over().await;
    assert_eq!(pay_each(&gateway.api, 7..=7).await, [1_000_002]);
    let worker = Process::serve("worker", &pair.stores, &[]).await;
    pay_each(&gateway.api, 3..=6).await;
    gateway.api.until_settled().await;
    assert_eq!(lost(&pair.stores).await, [(3, 6)]);
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "7.00");
    drop(worker);
}

#[tokio::test]
async fn what_came_behind_a_jump_is_settled_though_the_counter_is_gone_before_anybody_looked() {
    let mut pair = Pair::on("jumped", None).await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await.account("ADA", "1000").await;
    let worker = Process::serve("worker", &pair.stores, &[]).await;
    assert_eq!(pay_each(&gateway.api, 1..=2).await, [1, 2]);
    gateway.api.until_settled().await;
    worker.stop().await;
    // More than a worker has seen.
    assert_eq!(pay_each(&gateway.api, 3..=5).await, [3, 4, 5]);
    pair.in_step().await;
    pair.promote().await;
    pair.fail_over().await;
    assert_eq!(pay_each(&gateway.api, 6..=7).await, [1_000_005, 1_000_006]);
    for counter in pair.stores.keys("*:seq").await {
        if ask::<i64>(&pair.replica, &["GET", &counter]).await > 0 {
            tell(&pair.replica, &["DEL", &counter]).await;
        }
    }
    let worker = Process::serve("worker", &pair.stores, &[]).await;
    for number in 1..=7 {
        gateway.api.until_is(&format!("r{number}"), "applied").await;
    }
    assert_eq!(lost(&pair.stores).await, []);
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "7.00");
    drop(worker);
}

#[tokio::test]
async fn what_a_primary_that_comes_back_still_has_is_settled_late_and_on_record() {
    let mut pair = Pair::on("late", None).await;
    let gateway = Process::serve("gateway", &pair.stores, &[]).await.account("ADA", "1000").await;
    let worker = Process::serve("worker", &pair.stores, &[]).await;
    pay_each(&gateway.api, 1..=1).await;
    gateway.api.until_settled().await;
    worker.stop().await;
    pair.in_step().await;
    tell(&pair.replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
    pay_each(&gateway.api, 2..=2).await;
    pair.promote().await;
    pair.fail_over().await;
    pay_each(&gateway.api, 3..=3).await;
    let worker = Process::serve("worker", &pair.stores, &[]).await;
    gateway.api.settles_at("ADA", "2.00").await;
    assert_eq!(lost(&pair.stores).await, [(2, 2)]);
    // The second is where it was, and so is everybody.
    pair.proxy.lead_to(&pair.primary.url());
    pair.proxy.break_all().await;
    pair.stores.connect_again().await;
    pay_each(&gateway.api, 4..=4).await;
    gateway.api.until_settled().await;
    assert_eq!(gateway.api.balance("ADA").await["total_paid"], "4.00");
    pair.stores.accept_losses().await;
    assert_eq!(drifts(&pair.stores).await, [""; 0]);
    drop(worker);
}

#[tokio::test]
async fn a_gateway_that_missed_a_resize_gives_nothing_to_old_streams_of_a_promoted_replica() {
    let mut pair = Pair::on("missed", None).await;
    let postgres = Proxy::before(&pair.stores.database_url).await;
    let url = [("PAYSTREAM_DATABASE_URL", postgres.url.as_str())];
    let gateway = Process::serve("gateway", &pair.stores, &url).await;
    let _worker = Process::serve("worker", &pair.stores, &[]).await;
    gateway.api.open_account("ADA", "1000").await;
    pay(&gateway.api, "r1").await;
    gateway.api.until_settled().await;
    pair.in_step().await;
    // The replica hears nothing of the change, and neither does the gateway.
    tell(&pair.replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
    postgres.set(Way::Cut);
    pair.stores.succeed(&resize(&["--partitions", "16"])).await;
    pair.promote().await;
    pair.fail_over().await;
    gateway.api.post_payment(&payment("r2", "ADA", "1")).await.is(503);
    postgres.set(Way::Open);
    served(&gateway, 16).await;
    pay(&gateway.api, "r2").await;
    gateway.api.settles_at("ADA", "2.00").await;
}

#[tokio::test]
async fn an_old_ledger_that_is_put_back_again_and_again_lists_each_loss_once() {
    let (mut postgres, stores) = Stores::on_own_postgres("pg-again").await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "1000").await;
    pay(&process.api, "r1").await;
    process.api.until_settled().await;
    back_up(&mut postgres).await;
    pay_each(&process.api, 2..=4).await;
    let last = pay(&process.api, "r5").await;
    process.api.until_settled().await;
    postgres.stop().await.unwrap();
    // The stream keeps only the last; what it lacked before, Redis has noted.
    let partition = last["partition"].as_u64().unwrap();
    let (stream, noted) = (stores.key(partition, "stream"), stores.key(partition, "lost"));
    let mut commands = redis::pipe();
    commands.cmd("XTRIM").arg(stream).arg("MINID").arg(last["stream_id"].as_str().unwrap());
    commands.cmd("SET").arg(noted).arg("2 2\n3 3\n");
    commands.exec_async(&mut stores.redis.clone()).await.unwrap();
    put_back(&mut postgres).await;
    process.api.until_is("r5", "applied").await;
    process.api.until_settled().await;
    assert_eq!(lost(&stores).await, [(2, 2), (3, 3), (4, 4)]);
    stores.accept_losses().await;
    assert_eq!(drifts(&stores).await, [""; 0]);
    process.stop().await;
    postgres.stop().await.unwrap();
}

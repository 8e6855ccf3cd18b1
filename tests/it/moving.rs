//! Proves that the streams can be taken to another Redis under load, from one server to a cluster as
//! well: what was answered with 202 is applied once and in order, nothing is listed as lost, and
//! no process goes on with the Redis that was left, whatever it slept through.

use crate::{
    cluster::Cluster,
    harness::{EVERYTHING, redis_users},
    prelude::*,
};

fn move_to(url: &str) -> [&str; 4] {
    ["topology", "move", "--to-redis-url", url]
}

const LEFT: &str = "were moved from this Redis to another one";

#[tokio::test]
async fn streams_move_from_one_server_to_a_cluster_under_load() {
    let cluster = Cluster::start("moved").await;
    let mut stores = Stores::new().await;
    let mut gateway = Process::serve("gateway", &stores, &[]).await;
    let mut worker = Process::serve("worker", &stores, &[]).await;
    gateway.api.seed(CUSTOMERS).await;
    let mut load = Load::start_anew(&gateway.api, "l");
    load.goes_on().await;
    let said = stores.succeed(&move_to(&cluster.stores.redis_url)).await;
    assert!(said.contains("PAYSTREAM_REDIS_URL"), "{said}");
    let is_of_a_cluster =
        "the address of one server, but the streams of this ledger are in a cluster";
    for process in [&mut gateway, &mut worker] {
        assert_ne!(process.ended().await, Some(0));
        assert!(process.log().contains(is_of_a_cluster), "{}", process.log());
    }
    run(serve("gateway", &stores, &[])).await.refused(&[is_of_a_cluster]);
    stores.run(&["partitions"]).await.refused(&[is_of_a_cluster]);
    let old = stores.redis_url.clone();
    stores.redis_url = cluster.stores.redis_url.clone();
    let mut gateway = Process::serve("gateway", &stores, &[]).await;
    let mut worker = Process::serve("worker", &stores, &[]).await;
    let accepted = load.finish().await.accepted;
    assert!(!accepted.is_empty());
    gateway.api.pay("later", "LATE", "2").await;
    gateway.api.until_settled().await;
    stores.audit_ledger().await;
    assert_applied(&stores, &accepted).await;
    assert_eq!(stores.losses().await, [""; 0]);
    // And back, which is no place that was left any more.
    stores.succeed(&move_to(&old)).await;
    for process in [&mut gateway, &mut worker] {
        assert_ne!(process.ended().await, Some(0));
    }
    stores.redis_url = old;
    let gateway = Process::serve("all", &stores, &[]).await;
    gateway.api.pay("back", "LATE", "3").await;
    gateway.api.until_settled().await;
    assert_eq!(stores.losses().await, [""; 0]);
}

#[tokio::test]
async fn a_gateway_that_slept_through_a_move_takes_nothing_where_it_was() {
    let (_old, mut stores) = Stores::on_own_redis("moved-from").await;
    let mut sleeper = Process::serve("gateway", &stores, &[]).await.account("ADA", "1000").await;
    let worker = Process::serve("worker", &stores, &[]).await;
    sleeper.api.pay("r1", "ADA", "1").await;
    sleeper.signal("STOP").await;
    let directory = empty_directory("redis-moved-to").await;
    let new = RedisServer::start(&directory, &redis_users()).await.unwrap();
    let url = as_user(&new.url(), EVERYTHING);
    stores.succeed(&move_to(&url)).await;
    drop(worker);
    let old = std::mem::replace(&mut stores.redis_url, url);
    let other = Process::serve("all", &stores, &[]).await;
    other.api.pay("r2", "ADA", "1").await;
    sleeper.signal("CONT").await;
    eventually("it ends", async || {
        let sent = sleeper.api.request(Method::POST, "/api/v1/payments");
        let sent = sent.json(&payment("r3", "ADA", "1")).send().await;
        let status = sent.map(|reply| reply.status().as_u16());
        assert!(!matches!(status, Ok(200 | 202)), "{status:?}");
        status.is_err().then_some(())
    })
    .await;
    assert_ne!(sleeper.ended().await, Some(0));
    assert!(sleeper.log().contains(LEFT), "{}", sleeper.log());
    stores.redis_url = old;
    run(serve("worker", &stores, &[])).await.refused(&[LEFT]);
    stores.run(&["pending"]).await.refused(&[LEFT]);
    other.api.until_settled().await;
    assert_eq!(other.api.balance("ADA").await["total_paid"], "2.00");
}

#[tokio::test]
async fn a_move_that_cannot_be_made_is_refused_and_payments_go_on() {
    let h = Harness::start().await.account("ADA", "1000").await;
    let directory = empty_directory("redis-unsafe").await;
    let new = RedisServer::start(&directory, &redis_users()).await.unwrap();
    let url = as_user(&new.url(), EVERYTHING);
    let same = h.stores.redis_url.clone();
    h.stores.run(&move_to(&same)).await.refused(&["is the one in which the streams are"]);
    let set = async |policy: &str| {
        let mut connection = connect_to_redis(&new.url()).await;
        let mut command = redis::cmd("CONFIG");
        command.arg(&["SET", "appendfsync", policy]).exec_async(&mut connection).await.unwrap();
    };
    set("everysec").await;
    h.stores.run(&move_to(&url)).await.refused(&["is not safe for payments", "appendfsync"]);
    set("always").await;
    h.stores
        .run(&move_to("redis://127.0.0.1:1/"))
        .await
        .refused(&["could not reach the new Redis"]);
    h.api.pay("r1", "ADA", "1").await;
    // Another paystream's payments are there, in streams of the next generation.
    let mut connection = connect_to_redis(&new.url()).await;
    let mut add = redis::cmd("XADD");
    add.arg(h.stores.key_of(2, 3, "stream")).arg("*").arg(&["v", "1"]);
    add.exec_async(&mut connection).await.unwrap();
    h.stores.run(&move_to(&url)).await.refused(&["another paystream uses that Redis"]);
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, [h.stores.key_of(2, 3, "stream")], "nothing was begun there");
    let given_up = h.stores.run(&["topology", "resize", "--abort"]).await;
    given_up.refused(&["no change of the topology is under way"]);
    h.api.pay("r2", "ADA", "1").await;
    h.settled().await;
}

#[tokio::test]
async fn a_move_that_was_interrupted_is_gone_on_with_as_a_move() {
    let stores = Stores::new().await;
    let mut process = Process::serve("all", &stores, &[]).await.account("ADA", "1000").await;
    let directory = empty_directory("redis-interrupted").await;
    let new = RedisServer::start(&directory, &redis_users()).await.unwrap();
    let url = as_user(&new.url(), EVERYTHING);
    // Somebody holds what a payment is to change, so that the move waits.
    let mut holder = stores.session().await;
    let hold = "begin; lock table customer_accounts in exclusive mode";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    process.api.pay("r1", "ADA", "1").await;
    let mut running = operate(&stores, &move_to(&url)).spawn().unwrap();
    stores.until(1, "select count(*) from topology where resizing_to = partitions").await;
    running.kill().await.unwrap();
    let goes_on = "a move to another Redis is under way: go on with `paystream topology move`";
    assert!(stores.succeed(&["topology", "show"]).await.contains(goes_on));
    let partitions = stores.count("select partitions::bigint from topology").await.to_string();
    until("it is refused to go on with it as another change", async || {
        let to = ["topology", "resize", "--partitions", &partitions];
        stores.run(&to).await.stderr.contains(goes_on)
    })
    .await;
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    stores.succeed(&move_to(&url)).await;
    let logged = "select action from audit_log where action like 'topology%' order by id";
    let logged: Vec<String> = stores.values(logged).await;
    assert_eq!(logged, ["topology_move_begun", "topology_move"]);
    assert_ne!(process.ended().await, Some(0));
    assert!(process.log().contains(LEFT), "{}", process.log());
}

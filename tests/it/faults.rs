//! Proves what holds when things break: processes and servers are killed at
//! full load, Redis goes away, settings are unsafe. Every payment that was
//! answered with 202 is applied once, at the place its answer named; order is
//! kept; the service recovers by itself; what is unsafe does not start.

use crate::prelude::*;

/// Payments that a load accepts before something happens to it.
const WARM: usize = 1_000;

/// Nothing waits, nothing is lost, nothing came twice.
async fn verify(stores: &Stores, process: &Process, loads: &[Loaded]) {
    process.settled(stores).await;
    for load in loads {
        assert_applied(stores, &load.accepted).await;
    }
}

#[tokio::test]
async fn a_process_killed_at_full_load_three_times_loses_nothing() {
    let stores = Stores::new().await;
    let mut process = Process::serve("all", &stores, &[]).await;
    process.api.seed(CUSTOMERS).await;
    let mut loads = Vec::new();
    for round in 0..3 {
        let mut load = Load::start(&process.api, &format!("round{round}"));
        load.reached(WARM).await;
        process.kill().await;
        loads.push(load.finish().await);
        assert!(loads[round].broken > 0, "it was killed under load");
        process = Process::serve("all", &stores, &[]).await;
    }
    verify(&stores, &process, &loads).await;
}

#[tokio::test]
async fn a_worker_killed_apart_from_its_gateway_loses_nothing() {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    gateway.api.seed(CUSTOMERS).await;
    let mut load = Load::start(&gateway.api, "w");
    for round in 1..=3 {
        let settings = [("PAYSTREAM_BATCH_MAX", "50")];
        let worker = Process::serve("worker", &stores, &settings).await;
        load.reached(round * WARM).await;
        worker.kill().await;
    }
    let loads = [load.finish().await];
    assert_eq!(loads[0].broken, 0, "the gateway lives on");
    let _worker = Process::serve("worker", &stores, &[]).await;
    verify(&stores, &gateway, &loads).await;
}

#[tokio::test]
async fn redis_killed_at_full_load_loses_nothing() {
    let (mut redis, mut stores) = Stores::on_own_redis("redis-killed").await;
    let mut process = Process::serve("all", &stores, &[]).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::start(&process.api, "r");
    for round in 1..=2 {
        load.reached(round * WARM).await;
        redis.kill().await.unwrap();
        redis.restart().await.unwrap();
    }
    let before = load.accepted();
    load.reached(before + WARM).await;
    let loads = [load.finish().await];
    process.must_live();
    assert_eq!(loads[0].broken, 0, "the gateway answers all the while");
    // The connection of the test itself did not survive.
    stores.connect_again().await;
    verify(&stores, &process, &loads).await;
}

#[tokio::test]
async fn postgresql_killed_at_full_load_loses_nothing() {
    let (mut postgres, stores) = Stores::on_own_postgres("postgres-killed").await;
    let mut process = Process::serve("all", &stores, &[]).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::start(&process.api, "p");
    for round in 1..=2 {
        load.reached(round * WARM).await;
        postgres.kill().await.unwrap();
        // Payments are taken all the while.
        load.reached(round * WARM + WARM / 2).await;
        postgres.restart().await.unwrap();
    }
    let loads = [load.finish().await];
    process.must_live();
    assert_eq!((loads[0].broken, loads[0].refused), (0, 0), "every payment was taken");
    verify(&stores, &process, &loads).await;
}

#[tokio::test]
async fn a_stop_under_load_finishes_what_it_took_and_exits_with_0() {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[("PAYSTREAM_SHUTDOWN_GRACE", "25s")]).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::start(&process.api, "t");
    load.reached(WARM).await;
    process.stop().await;
    let loads = [load.finish().await];
    // Nothing is left in its hands.
    let mut pending = 0;
    for key in stores.keys("*:stream").await {
        let reply: (i64, redis::Value, redis::Value, redis::Value) =
            stores.ask(&["XPENDING", &key, "ledger"]).await;
        pending += reply.0;
    }
    assert_eq!(pending, 0);
    let owned = "select count(*) from partition_owners where owner is not null";
    assert_eq!(stores.count(owned).await, 0, "its partitions are given back");
    assert_eq!(stores.count("select count(*) from workers").await, 0);
    let process = Process::serve("all", &stores, &[]).await;
    verify(&stores, &process, &loads).await;
    let epoch = "select min(epoch) from partition_owners where owner is not null";
    stores.until(2, epoch).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_idle_clients() {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[("PAYSTREAM_SHUTDOWN_GRACE", "1s")]).await;
    let address = gateway.api.url.trim_start_matches("http://").to_owned();
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: paystream\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
    // Longer than its grace, it would end with another status than 0.
    gateway.stop().await;
    drop(idle);
}

#[tokio::test]
async fn while_redis_is_away_nothing_is_accepted_and_everyone_is_told() {
    let (mut redis, stores) = Stores::on_own_redis("redis-away").await;
    let settings = ["--append-deadline", "300ms"];
    let mut h = Harness::on(stores, &settings).await.account("ADA", "1000").await;
    h.api.pay("before", "ADA", "1").await;
    h.settled().await;
    redis.stop().await.unwrap();
    let looked = h.api.get("/api/v1/payments/nobody").await;
    let looked = looked.is_problem(503, "stream_unavailable")["detail"].to_string();
    assert!(!looked.contains("taken"), "nobody sent a payment: {looked}");
    for n in 0..6 {
        let reply = h.api.post_payment(&payment(&format!("away{n}"), "ADA", "1")).await;
        reply.is_problem(503, "stream_unavailable");
        assert!(reply.header("retry-after").parse::<u32>().is_ok_and(|after| after > 0));
    }
    let reply = h.api.post("/api/v1/payments/batch", &json!([payment("away0", "ADA", "1")])).await;
    reply.is_problem(503, "stream_unavailable");
    h.api.get("/readyz").await.is(503);
    let health = h.api.get("/api/v1/health").await;
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("down")));
    let circuit = &health.json()["dependencies"]["redis"]["circuit"];
    assert_eq!(circuit, "open", "nobody waits any more: {}", health.text);
    assert_eq!(h.api.get("/livez").await.status, 200, "a restart would not help");
    // What the ledger knows is still told.
    assert_eq!(h.api.balance("ADA").await["total_paid"], "1.00");
    assert_eq!(h.api.payment("before").await["status"], "applied");

    redis.restart().await.unwrap();
    // Ready means that the circuit is closed, too.
    h.api.until_ready().await;
    for n in 0..6 {
        let reply = h.api.post_payment(&payment(&format!("away{n}"), "ADA", "1")).await;
        assert!(matches!(reply.status, 200 | 202), "{}", reply.text);
    }
    h.stores.connect_again().await;
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "7.00");
}

#[tokio::test]
async fn cut_connections_and_forgotten_scripts_heal_by_themselves() {
    let (_redis, stores) = Stores::on_own_redis("redis-cut").await;
    let mut process = Process::serve("all", &stores, &[]).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::start(&process.api, "c");
    for round in 1..=10 {
        load.reached(round * 200).await;
        stores.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        stores.tell(&["SCRIPT", "FLUSH"]).await;
        // Every worker's and gateway's backend, in the middle of its work.
        let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()";
        stores.count(kill).await;
    }
    let loads = [load.finish().await];
    process.must_live();
    assert_eq!((loads[0].broken, loads[0].refused), (0, 0), "nobody noticed");
    verify(&stores, &process, &loads).await;
}

#[tokio::test]
async fn while_the_ledger_is_away_payments_are_taken_and_applied_later() {
    let (mut postgres, stores) = Stores::on_own_postgres("postgres-away").await;
    let h = Harness::on(stores, &[]).await.account("ADA", "1000").await;
    h.api.pay("before", "ADA", "1").await;
    h.settled().await;
    postgres.stop().await.unwrap();
    h.api.pay("during", "ADA", "2").await;
    h.api.get("/api/v1/customers/ADA").await.is_problem(503, "ledger_unavailable");
    until("health says so", async || {
        let health = h.api.get("/api/v1/health").await;
        health.status == 200 && health.json()["status"] == "degraded"
    })
    .await;
    h.api.get("/readyz").await.is(200);
    postgres.restart().await.unwrap();
    h.api.until_is("during", "applied").await;
    h.settled().await;
}

#[tokio::test]
async fn a_full_redis_takes_nothing_and_is_drained() {
    let (_redis, stores) = Stores::on_own_redis("redis-full").await;
    let mut h = Harness::gateway_on(stores, &[]).await.account("ADA", "1000").await;
    h.api.pay_each("full", 0..20).await;
    h.stores.tell(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let many: Vec<_> = (0..201).map(|n| payment(&format!("batch{n}"), "ADA", "1")).collect();
    let batch = h.api.post("/api/v1/payments/batch", &json!(many)).await;
    let results = batch.json()["results"].as_array().cloned().unwrap_or_default();
    assert_eq!(results.len(), many.len(), "{}", batch.text);
    for result in results {
        assert_eq!(result["code"], "backlog_full", "{result}");
    }
    // That was no outage: the others are still told the same.
    let reply = h.api.post("/api/v1/payments", &payment("more", "ADA", "1")).await;
    reply.is_problem(503, "backlog_full");
    h.work().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "20.00");
    h.stores.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
    h.api.pay("more", "ADA", "1").await;
    h.settled().await;
    // The same where it has lost a counter.
    h.stop_worker().await;
    h.api.pay_each("counter", 0..20).await;
    let partition = h.api.payment("counter0").await["partition"].as_u64().unwrap();
    h.stores.tell(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(h.stores.delete_keys(&format!("{{p{partition:02}}}:seq")).await, 1);
    h.start_worker();
    h.api.settles_at("ADA", "41.00").await;
}

#[tokio::test]
async fn an_unsafe_redis_is_refused() {
    let (_redis, stores) = Stores::on_own_redis("redis-unsafe").await;
    let set = async |name: &str, value: &str| {
        stores.tell(&["CONFIG", "SET", name, value]).await;
    };
    for (name, unsafe_value, safe_value) in [
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("maxmemory-policy", "volatile-ttl", "noeviction"),
        ("appendfsync", "everysec", "always"),
        ("appendfsync", "no", "always"),
        ("appendonly", "no", "yes"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
    ] {
        set(name, unsafe_value).await;
        for role in ["all", "gateway", "worker"] {
            let ended = run(serve(role, &stores, &[])).await;
            let found = format!("{name} is {unsafe_value}");
            ended.refused(&["this Redis is not safe for payments", &found]);
        }
        let allowed = [("PAYSTREAM_ALLOW_UNSAFE_REDIS", "true")];
        if name == "maxmemory-policy" {
            let ended = run(serve("all", &stores, &allowed)).await;
            ended.refused(&["this Redis is not safe for payments"]);
        } else {
            let process = Process::serve("all", &stores, &allowed).await;
            assert!(process.log().contains("an unsafe Redis is allowed"), "{}", process.log());
            process.stop().await;
        }
        set(name, safe_value).await;
    }
    let process = Process::serve("all", &stores, &[]).await;
    // What was safe when it started is looked at again with each connection.
    set("no-appendfsync-on-rewrite", "yes").await;
    stores.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    until("it is not ready, and says why", async || {
        let ready = process.api.get("/readyz").await;
        ready.status == 503 && ready.text.contains("no-appendfsync-on-rewrite is yes")
    })
    .await;
    let refused = process.api.post_payment(&payment("unsafe", "ADA", "1")).await;
    refused.is_problem(503, "stream_unavailable");
    set("no-appendfsync-on-rewrite", "no").await;
    process.api.until_ready().await;
    process.stop().await;
    let primary = own_redis("redis-primary").await;
    stores.tell(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    for role in ["all", "gateway", "worker"] {
        let ended = run(serve(role, &stores, &[])).await;
        ended.refused(&["this Redis is not safe for payments: it is a replica of"]);
    }
}

#[tokio::test]
async fn an_unsafe_postgresql_is_refused() {
    for name in ["fsync", "full_page_writes"] {
        let stores = Stores::new().await;
        // The shared server is safe; this database says otherwise of it.
        let function = format!(
            "create function other.current_setting(text) returns text language sql as
             $$ select case when $1 = '{name}' then 'off' else pg_catalog.current_setting($1) end $$"
        );
        for sql in [
            "create schema other",
            "grant usage on schema other to public",
            &function,
            "do $$ begin execute format('alter database %I set search_path = other, pg_catalog, \
             public', current_database()); end $$",
        ] {
            stores.sql(sql).await;
        }
        let ended = run(serve("worker", &stores, &[])).await;
        let found = format!("this PostgreSQL is not safe for payments: {name} is off");
        ended.refused(&[&found]);
    }
}

#[tokio::test]
async fn settings_that_do_not_fit_are_refused() {
    let stores = Stores::new().await;
    for (settings, sentences) in [
        (
            vec![("PAYSTREAM_PARTITIONS", "9")],
            vec!["the topology has 8", "Set PAYSTREAM_PARTITIONS=8"],
        ),
        (
            vec![("PAYSTREAM_KEY_PREFIX", "other")],
            vec!["PAYSTREAM_KEY_PREFIX is other", "set PAYSTREAM_KEY_PREFIX="],
        ),
        (vec![("PAYSTREAM_BIND", "0.0.0.0:0")], vec!["no token guards it"]),
        (vec![("PAYSTREAM_BIND", "[::]:0")], vec!["no token guards it"]),
        (vec![("PAYSTREAM_API_TOKEN", "short")], vec!["at least 16 characters"]),
        (
            vec![("PAYSTREAM_API_TOKEN_FILE", "/no/such/file")],
            vec!["could not read PAYSTREAM_API_TOKEN_FILE"],
        ),
        (
            vec![("PAYSTREAM_LEASE", "7s"), ("PAYSTREAM_BATCH_DEADLINE", "4s")],
            vec!["PAYSTREAM_LEASE (7s) must be at least twice PAYSTREAM_BATCH_DEADLINE (4s)"],
        ),
        (
            vec![("PAYSTREAM_APPEND_DEADLINE", "15s")],
            vec!["must be shorter than PAYSTREAM_REQUEST_TIMEOUT"],
        ),
        (
            vec![("PAYSTREAM_DEDUPE_WINDOW", "9s")],
            vec!["must be at least twice PAYSTREAM_APPEND_DEADLINE"],
        ),
        (vec![("PAYSTREAM_BACKLOG_MAX", "0")], vec!["PAYSTREAM_BACKLOG_MAX must be at least 1"]),
        (vec![("PAYSTREAM_PARTITIONS", "0")], vec!["0 is not in 1..=1024"]),
        (vec![("PAYSTREAM_TIME_ZONE", "Mars/Olympus")], vec!["Mars/Olympus"]),
        (vec![("PAYSTREAM_REDIS_URL", "http://x")], vec!["PAYSTREAM_REDIS_URL is not a valid URL"]),
    ] {
        run(serve("all", &stores, &settings)).await.refused(&sentences);
    }
    // It would be stored for good, and no process would start with it.
    let mut migrate = operate(&stores, &["migrate"]);
    migrate.env("PAYSTREAM_KEY_PREFIX", "pay:stream");
    run(migrate)
        .await
        .refused(&["PAYSTREAM_KEY_PREFIX must have letters, digits and hyphens only"]);
    let guarded = [("PAYSTREAM_BIND", "0.0.0.0:0"), ("PAYSTREAM_API_TOKEN", "0123456789abcdef")];
    let mut command = serve("gateway", &stores, &guarded);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none(), "a token allows a public bind");
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_schema_of_another_release_is_refused() {
    let stores = Stores::new().await;
    stores
        .sql("create table kept as select * from _sqlx_migrations order by version desc limit 1")
        .await;
    stores.sql("delete from _sqlx_migrations where version = (select version from kept)").await;
    let ended = run(serve("all", &stores, &[])).await;
    ended.refused(&["older than this release", "paystream migrate"]);
    stores.sql("insert into _sqlx_migrations select * from kept").await;
    stores.sql("update kept set version = version + 1000").await;
    stores.sql("insert into _sqlx_migrations select * from kept").await;
    run(serve("all", &stores, &[])).await.refused(&["newer than this release"]);
    stores.sql("delete from _sqlx_migrations where version > 1000").await;

    // No topology, streams that were never created, and no schema at all.
    stores.sql("update topology set provisioned_at = null").await;
    let ended = run(serve("all", &stores, &[])).await;
    ended.refused(&["the streams have not been created", "paystream migrate"]);
    stores.sql("delete from topology").await;
    let ended = run(serve("all", &stores, &[])).await;
    ended.refused(&["the topology has not been created", "paystream migrate"]);
    stores.sql("drop table _sqlx_migrations").await;
    let ended = run(serve("all", &stores, &[])).await;
    ended.refused(&["older than this release", "paystream migrate"]);
}

#[tokio::test]
async fn lost_streams_are_refused_and_never_created_again_in_silence() {
    let mut h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("before", "ADA", "1").await;
    h.settled().await;
    // A worker would bring them back, and say so.
    h.stop_worker().await;
    h.stores.delete_keys("*").await;
    h.api.post_payment(&payment("after", "ADA", "1")).await.is_problem(503, "stream_state_lost");
    // Migrating again does not paper over it.
    h.stores.succeed(&["migrate", "--partitions=8"]).await;
    h.api.post_payment(&payment("after", "ADA", "1")).await.is_problem(503, "stream_state_lost");
    assert_eq!(h.api.payment("before").await["status"], "applied");
}

#[tokio::test]
async fn the_statement_of_an_account_cannot_be_rewritten() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("r", "ADA", "1").await;
    h.settled().await;
    let mut connection = h.stores.session().await;
    for sql in [
        "update processed_transactions set amount = 2",
        "delete from processed_transactions",
        "truncate processed_transactions",
        "update customer_accounts set total_paid = 1001",
        "update customer_accounts set credit = -1",
    ] {
        let refused = sqlx::query(sql).execute(&mut connection).await.unwrap_err();
        assert!(refused.as_database_error().is_some(), "{sql}: {refused}");
    }
    h.stores.audit().await;
}

//! Proves what holds when PostgreSQL has a standby: a commit that may not be there is not
//! believed, and a promotion is followed.

use std::io::Write;

use paystream_dev::{DATABASE, PostgresServer};

use crate::{losses::copy, prelude::*};

/// Sessions of the lanes of `tester` that wait for the synchronous standby.
const LANES: &str = "wait_event = 'SyncRep' and application_name = 'paystream tester'";

/// Every commit waits for a standby from here on, and there is none.
pub async fn await_nobody(stores: &Stores) {
    stores.sql("alter system set synchronous_standby_names = 'nobody'").await;
    stores.sql("select pg_reload_conf()").await;
    // The setting counts when a process of the server has read it.
    let mut probe = stores.session().await;
    let mut probing = JoinSet::new();
    probing.spawn(async move {
        let message = "select pg_logical_emit_message(true, 'probe', '')";
        while sqlx::query(message).execute(&mut probe).await.is_ok() {}
    });
    let waits = "select count(*) from pg_stat_activity
         where wait_event = 'SyncRep' and query like '%''probe''%'";
    stores.until(1, waits).await;
}

/// Waits for a session that waits for the standby, and has it wait no more.
pub async fn cancel(stores: &Stores, which: &str) -> i64 {
    let waiting = format!("select pid::bigint from pg_stat_activity where {which}");
    let pid = eventually(&format!("one waits for the standby: {which}"), async || {
        stores.values::<i64>(&waiting).await.first().copied()
    })
    .await;
    stores.sql(&format!("select pg_cancel_backend({pid})")).await;
    pid
}

#[tokio::test]
async fn a_commit_that_only_warns_is_of_unknown_fate() {
    let (_postgres, stores) = Stores::on_own_postgres("warned").await;
    let h = Harness::on(stores, &["--lease=60s"]).await.account("ADA", "1000").await;
    let partition = h.api.pay("r0", "ADA", "1").await["partition"].as_u64().unwrap();
    h.settled().await;
    await_nobody(&h.stores).await;
    // A warning that nobody listened for does not make later ones unheard.
    h.stores.sql("do $$ begin raise warning 'of something else'; end $$").await;

    let opening = async {
        let customer = elsewhere("ADA");
        let account = json!({ "customer_id": customer, "asset_value": "1000", "term_weeks": 50 });
        h.api.post("/api/v1/customers", &account).await
    };
    let others = "wait_event = 'SyncRep' and query = 'COMMIT' and application_name = 'paystream'";
    let (refused, _) = tokio::join!(opening, cancel(&h.stores, others));
    refused.is_problem(503, "ledger_unavailable");

    h.api.post_payment(&payment("r1", "ADA", "1")).await.is(202);
    let first = cancel(&h.stores, &format!("{LANES} and query = 'COMMIT'")).await;
    // The lane begins anew, and waits again.
    let again = format!("select count(*) from pg_stat_activity where {LANES} and pid <> {first}");
    h.stores.until(1, &again).await;
    let stream = h.stores.key(partition, "stream");
    let pending: Vec<redis::Value> = h.stores.ask(&["XPENDING", &stream, "ledger"]).await;
    assert_eq!(pending[0], redis::Value::Int(1), "nothing is acknowledged");
    let said = until_found(&h.stores, "postgresql_standby_wait").await;
    let found = said.find("postgresql_standby_wait").unwrap();
    let sentence = found["sentence"].as_str().unwrap();
    assert!(sentence.contains("for the synchronous standby, the longest for "), "{sentence}");

    h.stores.sql("alter system reset synchronous_standby_names").await;
    h.stores.sql("select pg_reload_conf()").await;
    h.settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "2.00");
    h.stores.audit().await;
}

#[tokio::test]
async fn a_statement_that_commits_by_itself_and_only_warns_is_of_unknown_fate() {
    let (_postgres, stores) = Stores::on_own_postgres("warned-statement").await;
    let groups = Ledger::new(&stores.database_url).unwrap().group_registrar();
    await_nobody(&stores).await;
    let registering = groups.register("fraud", "now", "reads along", "ada");
    let waits = "wait_event = 'SyncRep' and query like '%register_group%'";
    let (registered, _) = tokio::join!(registering, cancel(&stores, waits));
    assert!(matches!(registered, Err(ledger::Error::Unconfirmed(_))), "{registered:?}");
    stores.until(1, "select count(*) from consumer_groups").await;
}

/// A primary, a standby of it, and stores on the primary.
struct Pair {
    primary: PostgresServer,
    standby: PostgresServer,
    stores: Stores,
    _redis: RedisServer,
}

impl Pair {
    async fn start(name: &str) -> Self {
        let mut primary = own_postgres(&format!("{name}-primary")).await;
        primary.stop().await.unwrap();
        let data = primary.data_directory().to_owned();
        append(&data.join("pg_hba.conf"), "host replication all 127.0.0.1/32 scram-sha-256\n");
        let directory = empty_directory(&format!("{name}-standby")).await;
        let home = directory.join("postgres");
        copy(data.parent().unwrap(), &home).await;
        for file in ["lock", "log", "pid", "port"] {
            fs::remove_file(home.join(file)).unwrap();
        }
        primary.restart().await.unwrap();
        let data = home.join("data");
        let follow = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=paystream password={} \
             application_name=standby'\n",
            primary.port(),
            primary.password()
        );
        append(&data.join("postgresql.auto.conf"), &follow);
        // Only that it is there counts.
        fs::hard_link(data.join("PG_VERSION"), data.join("standby.signal")).unwrap();
        let standby = PostgresServer::start(&directory).await.unwrap();
        let redis = own_redis(&format!("{name}-redis")).await;
        let stores = Stores::on(&redis.url(), Some(primary.url(DATABASE))).await;
        stores.until(1, "select count(*) from pg_stat_replication").await;
        Self { primary, standby, stores, _redis: redis }
    }

    /// What a process is given that may use either.
    fn either(&self) -> String {
        let port = self.primary.port();
        let both = format!(":{port},127.0.0.1:{}/", self.standby.port());
        let url = self.stores.database_url.replace(&format!(":{port}/"), &both);
        assert_ne!(url, self.stores.database_url);
        url + "?target_session_attrs=read-write"
    }

    /// The primary dies and the standby takes over.
    async fn promote(&mut self) {
        self.primary.kill().await.unwrap();
        let url = self.standby.url(DATABASE);
        let mut session = PgConnection::connect(&url).await.unwrap();
        sqlx::query("select pg_promote()").execute(&mut session).await.unwrap();
        let (old, new) = (self.primary.port(), self.standby.port());
        let url = &mut self.stores.database_url;
        *url = url.replace(&format!(":{old}/"), &format!(":{new}/"));
        let options = self.stores.pool.connect_options();
        self.stores.pool.set_connect_options((*options).clone().port(new));
    }
}

fn append(file: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn commits_that_a_promoted_standby_lacks_are_settled_again() {
    let mut pair = Pair::start("behind").await;
    let either = pair.either();
    let url = [("PAYSTREAM_DATABASE_URL", either.as_str()), ("PAYSTREAM_RETENTION", "1h")];
    let process = Process::serve("all", &pair.stores, &url).await;
    process.api.seed(CUSTOMERS).await;
    let mut load = Load::warm(&process.api, "before").await;
    pair.stores.until(0, "select count(*) from pg_stat_replication where replay_lag > '1 s'").await;
    // The standby hears nothing more.
    let mut standby = PgConnection::connect(&pair.standby.url(DATABASE)).await.unwrap();
    for statement in ["alter system set primary_conninfo = ''", "select pg_reload_conf()"] {
        sqlx::query(statement).execute(&mut standby).await.unwrap();
    }
    pair.stores.until(0, "select count(*) from pg_stat_replication").await;
    load.goes_on().await;
    let settled = "select count(*) from processed_transactions";
    let before = pair.stores.count(settled).await;
    pair.promote().await;
    assert!(pair.stores.count(settled).await < before, "the standby lacks some");
    verify_after(&pair.stores, &process.api, load).await;
    let lost: Vec<String> = pair.stores.losses().await;
    assert!(lost.iter().all(|one| !one.contains('-')), "{lost:?}");

    // The old primary is back, and is listed first.
    pair.primary.restart().await.unwrap();
    process.stop().await;
    let process = Process::serve("all", &pair.stores, &url).await;
    process.until_logged("another server of PostgreSQL is the primary").await;
    let load = Load::start(&process.api, "after");
    verify_after(&pair.stores, &process.api, load).await;
}

#[tokio::test]
async fn a_synchronous_standby_that_is_promoted_under_load_lacks_nothing() {
    let mut pair = Pair::start("in-step").await;
    let either = pair.either();
    let url = [("PAYSTREAM_DATABASE_URL", either.as_str())];
    let gateway = Process::serve("gateway", &pair.stores, &url).await;
    let worker = Process::serve("worker", &pair.stores, &url).await;
    gateway.api.seed(CUSTOMERS).await;
    pair.stores.sql("alter system set synchronous_standby_names = 'standby'").await;
    pair.stores.sql("select pg_reload_conf()").await;
    let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    pair.stores.until(1, synchronous).await;
    let mut load = Load::warm(&gateway.api, "before").await;
    load.goes_on().await;
    pair.promote().await;
    // Nobody follows it: it waits for none. What it has by itself, it was given.
    pair.stores.sql("alter system reset synchronous_standby_names").await;
    pair.stores.sql("select pg_reload_conf()").await;
    verify_after(&pair.stores, &gateway.api, load).await;
    assert!(!worker.log().contains("PostgreSQL lost commits"), "{}", worker.log());
}

/// Whether a statement was read from the standby: the gateway names itself there.
async fn read_there(standby: &mut PgConnection) -> bool {
    let asked = "select exists (select from pg_stat_activity
         where application_name = 'paystream reads' and query like '%account_version%')";
    sqlx::query_scalar(asked).fetch_one(standby).await.unwrap()
}

async fn at_the_standby(standby: &mut PgConnection, statement: &'static str) {
    sqlx::query(statement).execute(standby).await.unwrap();
}

#[tokio::test]
async fn what_was_applied_is_read_whatever_the_standby_knows() {
    let mut pair = Pair::start("reads").await;
    let url = as_user(&pair.standby.url(DATABASE), "paystream_front");
    let settings = [("PAYSTREAM_DATABASE_READ_URL", url.as_str())];
    let process = Process::serve("all", &pair.stores, &settings).await;
    let api = &process.api;
    let mut standby = PgConnection::connect(&pair.standby.url(DATABASE)).await.unwrap();
    api.open_account("ADA", "1000").await;
    let applied = async |numbers: std::ops::RangeInclusive<usize>| {
        for number in numbers {
            let paid = api.pay_and_wait(&payment(&format!("r{number}"), "ADA", "1")).await;
            assert_eq!(paid.json()["status"], "applied", "{}", paid.text);
            let total = format!("{number}.00");
            assert_eq!(api.balance("ADA").await["total_paid"], total, "its own payment");
            let statement = api.get("/api/v1/customers/ADA/payments?limit=100").await.json();
            assert_eq!(statement["payments"].as_array().unwrap().len(), number, "{statement}");
        }
    };
    applied(1..=20).await;
    until("the standby is read", async || {
        api.get("/api/v1/customers/ADA/payments").await.is(200);
        read_there(&mut standby).await
    })
    .await;
    // It stands still.
    at_the_standby(&mut standby, "select pg_wal_replay_pause()").await;
    applied(21..=30).await;
    at_the_standby(&mut standby, "select pg_wal_replay_resume()").await;
    applied(31..=40).await;
    // It is away, and comes back as a server of its own, which is not read.
    pair.standby.stop().await.unwrap();
    applied(41..=45).await;
    pair.standby.restart().await.unwrap();
    let mut standby = PgConnection::connect(&pair.standby.url(DATABASE)).await.unwrap();
    at_the_standby(&mut standby, "select pg_promote()").await;
    let forged = "update customer_accounts set total_paid = total_paid + 1";
    at_the_standby(&mut standby, forged).await;
    applied(46..=55).await;
}

#[tokio::test]
async fn a_server_of_another_cluster_is_neither_followed_nor_read() {
    let (postgres, stores) = Stores::on_own_postgres("ours").await;
    let stranger = own_postgres("strangers").await;
    let alter = format!("alter role paystream_dev password '{}'", postgres.password());
    let mut session = PgConnection::connect(&stranger.url(DATABASE)).await.unwrap();
    sqlx::query(AssertSqlSafe(alter)).execute(&mut session).await.unwrap();
    drop(session);
    let port = postgres.port();
    let both = format!(":{port},127.0.0.1:{}/", stranger.port());
    let several = stores.database_url.replace(&format!(":{port}/"), &both);
    let several = [("PAYSTREAM_DATABASE_URL", several.as_str())];
    let mut command = operate(&stores, &["topology", "show"]);
    command.envs(several);
    let refused = run(command).await;
    assert!(refused.stderr.contains("is of another cluster than the others"), "{refused:?}");

    // It is a standby, further on than ours, of somebody else.
    let data = stranger.data_directory().to_owned();
    let mut stranger = stranger;
    stranger.stop().await.unwrap();
    fs::hard_link(data.join("PG_VERSION"), data.join("standby.signal")).unwrap();
    stranger.restart().await.unwrap();
    let url = as_user(&stranger.url(DATABASE), "paystream_front");
    let reads = [("PAYSTREAM_DATABASE_READ_URL", url.as_str())];
    let process = Process::serve("all", &stores, &reads).await.account("ADA", "1000").await;
    process.api.pay("r1", "ADA", "1").await;
    process.api.settles_at("ADA", "1.00").await;
    process.until_logged("it is of another cluster than PAYSTREAM_DATABASE_URL").await;
}

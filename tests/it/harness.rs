//! What every test stands on: a real Redis and a real PostgreSQL, started once
//! for all tests of this process, a database and a key prefix for each test,
//! and the gateway and the worker in process. Proves nothing by itself.
//!
//! The only file that waits by asking again, in [`eventually`].

use std::{
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use clap::Parser;
use futures_util::FutureExt;
use paystream::{
    app::{self, Role},
    cli,
    config::ServeConfig,
    http::Door,
    ledger::{DATABASE_ROLES, Ledger},
    stream::permissions,
    telemetry::Signals,
};
use paystream_dev::{self as dev, PostgresServer, RedisServer, Servers};
use redis::{AsyncConnectionConfig, FromRedisValue, aio::MultiplexedConnection};
use reqwest::{
    Method, RequestBuilder,
    header::{self, HeaderMap, HeaderValue},
    redirect::Policy,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, Connection, FromRow, PgConnection, PgPool,
    postgres::{PgPoolOptions, PgRow},
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{OnceCell, Semaphore, SemaphorePermit},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long something that must happen may take. Generous: it bounds a failure,
/// it measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Partitions of a test's topology.
pub const PARTITIONS: u16 = 8;
/// Directories of servers to try, when test runs overlap.
const DIRECTORIES: usize = 8;

/// Asks until there is an answer, and fails when there is none in time.
pub async fn eventually<T, F, A>(what: &str, mut ask: F) -> T
where
    F: FnMut() -> A,
    A: Future<Output = Option<T>>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        pause(what, end).await;
    }
}

/// Asks until it is so.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        pause(what, end).await;
    }
}

/// Before the next look.
async fn pause(what: &str, end: Instant) {
    assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
    sleep(PAUSE).await;
}

/// Waits for what must end, and fails when it does not in time.
pub async fn in_time<T>(what: &str, ending: impl Future<Output = T>) -> T {
    let ended = timeout(PATIENCE, ending).await;
    ended.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// Where everything runs that a test starts: it goes on while the test itself waits
/// in a destructor.
fn background() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// Runs there what starts something.
pub async fn in_background<T: Send + 'static>(
    starting: impl Future<Output = T> + Send + 'static,
) -> T {
    background().spawn(starting).await.unwrap()
}

/// Waits for the clean end of what a test has started, when the test is over.
pub fn end(ending: impl Future<Output = ()> + Send + 'static) {
    if thread::panicking() {
        return;
    }
    let (tell, ended) = mpsc::channel();
    background().spawn(async move {
        let ending = AssertUnwindSafe(in_time("what was started ends", ending));
        tell.send(ending.catch_unwind().await).unwrap();
    });
    // What a panic said elsewhere would be shown with another test.
    if let Err(panic) = ended.recv().unwrap() {
        panic!("{}", panic.downcast_ref::<String>().map_or("it panicked", String::as_str));
    }
}

/// A connection of the test itself. It waits: the client's own half a second is
/// too short on a busy machine.
pub async fn connect_to_redis(url: &str) -> MultiplexedConnection {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    // Of a cluster, to the node that is named first.
    let url = url.replace("redis-cluster://", "redis://");
    let client = redis::Client::open(url.split(',').next().unwrap()).unwrap();
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

/// A directory for servers, empty, that no other run uses. All Redis servers of one
/// run have the same password, as a primary and its replicas do.
pub async fn empty_directory(name: &str) -> PathBuf {
    for number in 0..DIRECTORIES {
        let directory =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("servers-{name}-{number}"));
        if dev::remove(&directory).await.is_ok() {
            static PASSWORD: OnceLock<String> = OnceLock::new();
            let password = PASSWORD.get_or_init(|| Uuid::now_v7().simple().to_string());
            fs::create_dir_all(directory.join("redis")).unwrap();
            fs::write(directory.join("redis/password"), password).unwrap();
            return directory;
        }
    }
    panic!("{DIRECTORIES} other test runs are using their servers");
}

/// Who uses the stores, and as what. No part of paystream is more in a test than in
/// production; what a test does by itself, it does as the administrator of both.
const USERS: [(&str, &[&str]); 7] = [
    (EVERYTHING, &["gateway", "worker", "operations"]),
    // A gateway that serves operators, too.
    (FRONT, &["gateway", "operations"]),
    ("paystream_gateway", &["gateway"]),
    ("paystream_worker", &["worker"]),
    ("paystream_operations", &["operations"]),
    ("paystream_auditor", &[]),
    (OWNER, &["operations"]),
];
pub const EVERYTHING: &str = "paystream_dev";
pub const FRONT: &str = "paystream_front";
/// Of the tables; it migrates.
pub const OWNER: &str = "paystream_migrate";
const SUPERUSER: &str = "paystream";

/// The rules of Redis's users. Tests have prefixes that begin so.
pub fn redis_users() -> Vec<(&'static str, String)> {
    USERS.iter().map(|(user, roles)| (*user, permissions::rules(roles, "t*"))).collect()
}

/// The same store, for another user of it.
pub fn as_user(url: &str, user: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (login, place) = rest.rsplit_once('@').unwrap();
    let password = login.split_once(':').map_or("", |(_, password)| password);
    format!("{scheme}://{user}:{password}@{place}")
}

/// Has a process use the stores as this user.
fn log_in(config: &mut ServeConfig, user: &str) {
    let redis_url = config.store.redis_url().unwrap();
    let database_url = config.store.ledger.database_url().unwrap();
    config.store.replace(as_user(&redis_url, user), as_user(&database_url, user));
}

/// A Redis in this directory.
pub async fn redis_in(directory: &Path) -> RedisServer {
    RedisServer::start(directory, &redis_users()).await.expect("Redis starts")
}

/// A Redis that nobody shares.
pub async fn own_redis(name: &str) -> RedisServer {
    redis_in(&empty_directory(name).await).await
}

/// A PostgreSQL that nobody shares.
pub async fn own_postgres(name: &str) -> PostgresServer {
    let directory = empty_directory(name).await;
    let server = PostgresServer::start(&directory).await.expect("PostgreSQL starts");
    create_users(&server).await;
    server
}

async fn create_users(server: &PostgresServer) {
    let mut statements = format!(
        "create role {OWNER} login password '{password}';
         alter database {} owner to {OWNER};",
        dev::DATABASE,
        password = server.password(),
    );
    for role in DATABASE_ROLES {
        statements += &format!("create role {role} login password '{}';", server.password());
    }
    for (user, roles) in [USERS[0], USERS[1]] {
        let roles: Vec<String> = roles.iter().map(|role| format!("paystream_{role}")).collect();
        statements += &format!(
            "create role {user} login password '{}' in role {};",
            server.password(),
            roles.join(", ")
        );
    }
    // As compose.yaml has it: operators are told who holds a lock.
    statements += "grant pg_monitor to paystream_operations";
    let pool = pool(&server.url(dev::DATABASE));
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&pool).await.unwrap();
    pool.close().await;
}

/// The servers that tests share. A static is never dropped; the servers end
/// with the process.
async fn shared() -> &'static Servers {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    SERVERS
        .get_or_init(|| async {
            let directory = empty_directory("shared").await;
            let servers = Servers::start(&directory, &redis_users()).await;
            let servers = servers.expect("Redis and PostgreSQL start");
            create_users(&servers.postgres).await;
            servers
        })
        .await
}

async fn create_database(how: &str) {
    let pool = pool(&shared().await.postgres.url(dev::DATABASE));
    let create = AssertSqlSafe(format!("create database {how}"));
    sqlx::query(create).execute(&pool).await.unwrap();
    pool.close().await;
}

/// A database that has the schema already; each test's is a copy of it.
async fn migrated() -> &'static str {
    const NAME: &str = "migrated";
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    let migrating = || async {
        create_database(&format!("{NAME} owner {OWNER}")).await;
        let ledger = Ledger::new(&shared().await.postgres.url_of(OWNER, NAME)).unwrap();
        ledger.schema().migrate().await.expect("migrates");
    };
    // What connected to it must be gone before it is copied.
    MIGRATED.get_or_init(|| in_background(migrating())).await;
    NAME
}

/// Bounds the tests that use stores at once, whatever the machine: their
/// connections must fit the shared PostgreSQL.
static PLACES: Semaphore = Semaphore::const_new(8);

/// Where one test keeps its payments: its own database and its own keys.
pub struct Stores {
    pub redis_url: String,
    pub database_url: String,
    pub key_prefix: String,
    pub pool: PgPool,
    pub redis: MultiplexedConnection,
    _place: SemaphorePermit<'static>,
}

impl Stores {
    /// Both on the shared servers.
    pub async fn new() -> Self {
        let servers = shared().await;
        Self::on(&servers.redis.url(), None).await
    }

    /// On a Redis of their own, which may be stopped.
    pub async fn on_own_redis(name: &str) -> (RedisServer, Self) {
        let redis = own_redis(name).await;
        let stores = Self::on(&redis.url(), None).await;
        (redis, stores)
    }

    /// On a PostgreSQL of their own, which may be stopped.
    pub async fn on_own_postgres(name: &str) -> (PostgresServer, Self) {
        let postgres = own_postgres(name).await;
        let stores = Self::on(&shared().await.redis.url(), Some(postgres.url(dev::DATABASE))).await;
        (postgres, stores)
    }

    /// After Redis was away, connects the test itself again.
    pub async fn connect_again(&mut self) {
        self.redis = connect_to_redis(&as_user(&self.redis_url, "")).await;
    }

    /// On this Redis, and on the shared PostgreSQL unless another is given.
    pub async fn on(redis_url: &str, database_url: Option<String>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let place = PLACES.acquire().await.unwrap();
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let database_url = match database_url {
            Some(url) => url,
            None => {
                let template = migrated().await;
                create_database(&format!("{name} template {template} owner {OWNER}")).await;
                shared().await.postgres.url(&name)
            }
        };
        let stores = Self {
            redis_url: as_user(redis_url, EVERYTHING),
            pool: pool(&as_user(&database_url, SUPERUSER)),
            database_url: as_user(&database_url, EVERYTHING),
            key_prefix: name,
            redis: connect_to_redis(redis_url).await,
            _place: place,
        };
        let mut owner = stores.config(&[]);
        log_in(&mut owner, OWNER);
        cli::migrate::run(&owner.store).await.expect("migrates");
        stores
    }

    /// A process's settings on these stores, with short intervals.
    pub fn config(&self, more: &[&str]) -> ServeConfig {
        #[derive(Parser)]
        struct Arguments {
            #[command(flatten)]
            config: ServeConfig,
        }
        let partitions = PARTITIONS.to_string();
        let fixed = [
            "paystream",
            "--redis-url",
            &self.redis_url,
            "--database-url",
            &self.database_url,
            "--key-prefix",
            &self.key_prefix,
            "--partitions",
            &partitions,
            "--worker-id=tester",
            "--query-connections=4",
            "--trim-interval=200ms",
        ];
        // What is said later counts.
        let arguments = Arguments::try_parse_from(fixed.iter().chain(more));
        arguments.expect("settings").config.check().expect("settings that fit")
    }

    /// The key of a partition.
    pub fn key(&self, partition: u64, name: &str) -> String {
        self.key_of(1, partition, name)
    }

    /// The key of a partition in a generation of the topology.
    pub fn key_of(&self, generation: i64, partition: u64, name: &str) -> String {
        let generation = if generation == 1 { String::new() } else { format!("g{generation}") };
        format!("{}:{{{generation}p{partition:02}}}:{name}", self.key_prefix)
    }

    /// Keys of this test that match a pattern after the prefix.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let pattern = format!("{}:{pattern}", self.key_prefix);
        self.ask(&["KEYS", &pattern]).await
    }

    /// Removes keys that match a pattern after the prefix; says how many.
    pub async fn delete_keys(&self, pattern: &str) -> usize {
        let keys = self.keys(pattern).await;
        if !keys.is_empty() {
            redis::cmd("DEL").arg(&keys).exec_async(&mut self.redis.clone()).await.unwrap();
        }
        keys.len()
    }

    /// Forgets every reference, as Redis does once they are old.
    pub async fn forget(&self) -> usize {
        self.delete_keys("*:refs*").await
    }

    /// Forgets one reference, whatever its status.
    pub async fn forget_reference(&self, reference: &str) {
        let digest = Sha256::digest(reference);
        let name = &digest[..15];
        for table in self.keys("*:refs:*").await {
            let fields: Vec<Vec<u8>> = self.ask(&["HKEYS", &table]).await;
            for field in fields.iter().filter(|field| field.starts_with(name)) {
                let mut delete = redis::cmd("HDEL");
                delete.arg(&table).arg(field).exec_async(&mut self.redis.clone()).await.unwrap();
            }
        }
    }

    /// The answer of Redis to a command.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        ask(&mut self.redis.clone(), words).await
    }

    /// Tells Redis something, whatever it answers.
    pub async fn tell(&self, words: &[&str]) {
        self.ask::<redis::Value>(words).await;
    }

    /// Hands entries of a partition to a consumer that does nothing with them.
    pub async fn hand_out(&self, partition: u64, group: &str, consumer: &str, count: u32) {
        let (stream, count) = (self.key(partition, "stream"), count.to_string());
        let to = ["XREADGROUP", "GROUP", group, consumer, "COUNT", &count, "STREAMS", &stream, ">"];
        self.tell(&to).await;
    }

    /// Appends an entry that no gateway wrote, of this payment and these other fields.
    pub async fn forge(&self, partition: u64, fields: &str, payment: &Value) {
        let (stream, payment) = (self.key(partition, "stream"), payment.to_string());
        let mut entry = vec!["XADD", &stream, "*", "payment", &payment];
        entry.extend(fields.split(' '));
        self.tell(&entry).await;
    }

    /// Sets the ledger's group back: the streams are read anew from their start.
    pub async fn rewind(&self) {
        for partition in 0..u64::from(PARTITIONS) {
            self.tell(&["XGROUP", "SETID", &self.key(partition, "stream"), "ledger", "0"]).await;
        }
    }

    /// Runs statements of SQL, as nobody but a test may.
    pub async fn sql(&self, statements: &str) {
        let statements = AssertSqlSafe(statements.to_owned());
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// A session of somebody who may do everything.
    pub async fn session(&self) -> PgConnection {
        PgConnection::connect(&as_user(&self.database_url, SUPERUSER)).await.unwrap()
    }

    /// A session that holds an advisory lock until it ends.
    pub async fn advisory_lock(&self, number: i64) -> PgConnection {
        let mut session = self.session().await;
        let lock = sqlx::query("select pg_advisory_lock($1)").bind(number);
        lock.execute(&mut session).await.unwrap();
        session
    }

    /// Rows of the ledger.
    pub async fn rows<T: for<'r> FromRow<'r, PgRow> + Send + Unpin>(&self, sql: &str) -> Vec<T> {
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await.unwrap()
    }

    /// One value of each row.
    pub async fn values<T>(&self, sql: &str) -> Vec<T>
    where
        (T,): for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.rows(sql).await.into_iter().map(|(value,)| value).collect()
    }

    /// One text of each row.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        self.values(sql).await
    }

    /// One number out of the ledger.
    pub async fn count(&self, sql: &str) -> i64 {
        self.values(sql).await[0]
    }

    /// Waits until the ledger has this number.
    pub async fn until(&self, wanted: i64, sql: &str) {
        until(sql, async || self.count(sql).await == wanted).await;
    }

    /// The ledger against itself and against the stream; fails on any drift.
    /// Asks in SQL of its own, and then as `paystream audit` does.
    pub async fn audit(&self) {
        self.audit_ledger().await;
        let partitions = self.count("select partitions::bigint from topology").await;
        let generation = self.count("select generation::bigint from topology").await;
        for partition in 0..u64::try_from(partitions).unwrap() {
            let key = self.key_of(generation, partition, "seq");
            let given: Option<i64> = self.ask(&["GET", &key]).await;
            // Behind a takeover sequences have jumped, though none was given out yet.
            let sql = format!(
                "select greatest(last_sequence, (select max(resumes_at) - 1 from sequence_jumps j
                     where j.partition = o.partition and reason = 'takeover'))
                 from partition_owners o where partition = {partition}"
            );
            assert_eq!(given.unwrap_or(0), self.count(&sql).await, "{key} and the cursor");
        }
    }

    /// The same of the ledger alone.
    pub async fn audit_ledger(&self) {
        for (what, sql) in AUDIT {
            let drift = self.texts(sql).await;
            assert!(drift.is_empty(), "{what}: {drift:?}");
        }
        let auditor = as_user(&self.database_url, "paystream_auditor");
        let report = Ledger::new(&auditor).unwrap().audit().run(&[], |_| ()).await.unwrap();
        assert!(report.drift_count == 0, "{:?}", report.drifts);
    }
}

/// Each selects what is wrong, as text.
const AUDIT: &[(&str, &str)] = &[
    (
        "accounts that differ from their statement",
        "select a.customer_id from customer_accounts a left join (
             select customer_id, sum(applied_amount) as paid, sum(excess_amount) as credit,
                 count(*) filter (where outcome = 'applied') as payments, count(*) as rows,
                 min(account_version) as first, max(account_version) as last
             from processed_transactions where account_version is not null group by customer_id
         ) s using (customer_id)
         where (a.total_paid, a.credit, a.payment_count, a.version, a.version)
             <> (coalesce(s.paid, 0), coalesce(s.credit, 0), coalesce(s.payments, 0),
                 coalesce(s.rows, 0), coalesce(s.last, 0))
             or s.first <> 1",
    ),
    (
        "rows whose balance does not follow from the row before",
        "select transaction_reference from (
             select transaction_reference, balance_after, asset_value - sum(applied_amount) over
                 (partition by customer_id order by account_version) as wanted
             from processed_transactions join customer_accounts using (customer_id)
             where account_version is not null
         ) s where balance_after <> wanted",
    ),
    (
        "customers whose payments were applied in another order than they came",
        "select distinct customer_id from (
             select customer_id, sequence, lag(sequence) over
                 (partition by customer_id order by account_version) as before
             from processed_transactions p where account_version is not null
                 and not exists (select 1 from dead_letters d where d.state = 'redriven'
                     and d.partition = p.partition and d.sequence = p.sequence)
                 and not exists (select 1 from suspense s where s.assigned_to = p.customer_id
                     and s.transaction_reference = p.transaction_reference)
         ) s where sequence <= before",
    ),
    (
        "sequences that ended in no state, or in two",
        "with ended as (
             select partition, sequence from processed_transactions
             union all select partition, sequence from suspense
                 where state in ('held', 'refund_marked')
             union all select partition, sequence from conflicts
             union all select partition, sequence from duplicates
             union all select partition, sequence from dead_letters where state <> 'redriven'
             union all select partition, sequence from parked where state = 'held'
         )
         select format('partition %s sequence %s: %s times', p.partition, n, count(e.sequence))
         from partition_owners p cross join lateral generate_series(1, p.last_sequence) n
         left join ended e on e.partition = p.partition and e.sequence = n
         where not exists (select 1 from sequence_jumps j where j.partition = p.partition
             and n > j.after_sequence and n < j.resumes_at)
         group by p.partition, n having count(e.sequence) <> 1
         union all
         select format('partition %s sequence %s: beyond the cursor', partition, sequence)
         from ended join partition_owners using (partition) where sequence > last_sequence",
    ),
    (
        "totals that differ from the rows",
        "select format('partition %s', t.partition) from partition_totals t
         where (applied, recorded, rejected, suspense, conflicts, duplicates, dead_letters, parked,
             amount)
             <> (select count(*) filter (where outcome = 'applied'),
                    count(*) filter (where outcome = 'recorded'),
                    count(*) filter (where outcome = 'rejected'),
                    (select count(*) from suspense s where s.partition = t.partition
                         and state in ('held', 'refund_marked')),
                    (select count(*) from conflicts c where c.partition = t.partition),
                    (select count(*) from duplicates d where d.partition = t.partition),
                    (select count(*) from dead_letters d where d.partition = t.partition),
                    (select count(*) from parked k where k.partition = t.partition
                         and state = 'held'),
                    coalesce(sum(amount) filter (where outcome = 'applied'), 0)
                from processed_transactions p where p.partition = t.partition)",
    ),
];

fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect_lazy(url).unwrap()
}

/// The answer to a command on this connection.
pub async fn ask<T: FromRedisValue>(redis: &mut MultiplexedConnection, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query_async(redis).await.unwrap()
}

/// The gateway and the worker in process, on stores of their own. Dropped, they are
/// stopped cleanly; a task that failed fails the test.
pub struct Harness {
    servings: Servings,
    pub stores: Stores,
    pub api: Api,
    settings: Vec<String>,
    worker_signals: Signals,
}

struct Servings {
    worker: Option<Serving>,
    gateway: Option<Serving>,
}

impl Servings {
    /// Stops what runs: the worker first.
    fn stop(&mut self) -> impl Future<Output = ()> + use<> {
        let running = [self.worker.take(), self.gateway.take()];
        async move {
            for serving in running.into_iter().flatten() {
                serving.stop().await;
            }
        }
    }
}

impl Drop for Servings {
    fn drop(&mut self) {
        if self.worker.is_some() || self.gateway.is_some() {
            end(self.stop());
        }
    }
}

/// One role in process. Dropped, it ends at once, as if killed.
struct Serving {
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Serving {
    fn start(
        role: Role,
        mut config: ServeConfig,
        signals: Signals,
        listeners: Vec<(Door, TcpListener)>,
    ) -> Self {
        log_in(&mut config, if role == Role::Worker { "paystream_worker" } else { FRONT });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let serving = app::serve_on(role, config, signals, listeners, stop.clone());
        tasks.spawn_on(serving, background().handle());
        Self { stop, tasks }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().expect("ends well");
    }
}

impl Harness {
    /// Gateway and worker.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Gateway and worker with other settings.
    pub async fn with(settings: &[&str]) -> Self {
        Self::on(Stores::new().await, settings).await
    }

    /// Gateway and worker on these stores.
    pub async fn on(stores: Stores, settings: &[&str]) -> Self {
        let mut harness = Self::gateway_on(stores, settings).await;
        harness.start_worker();
        harness
    }

    /// The gateway only; payments wait until [`Harness::start_worker`].
    pub async fn gateway(settings: &[&str]) -> Self {
        Self::gateway_on(Stores::new().await, settings).await
    }

    /// The gateway only, on these stores.
    pub async fn gateway_on(stores: Stores, settings: &[&str]) -> Self {
        Self::measured(stores, settings, Signals::off(), Signals::off()).await
    }

    /// The same, where gateway and worker tell these how they fare.
    pub async fn measured(
        stores: Stores,
        settings: &[&str],
        signals: Signals,
        worker_signals: Signals,
    ) -> Self {
        let listener = in_background(TcpListener::bind("127.0.0.1:0")).await.unwrap();
        let api = Api::new(format!("http://{}", listener.local_addr().unwrap()));
        let config = stores.config(settings);
        let gateway =
            Some(Serving::start(Role::Gateway, config, signals, vec![(Door::All, listener)]));
        let servings = Servings { worker: None, gateway };
        let settings = settings.iter().map(ToString::to_string).collect();
        let harness = Self { servings, stores, api, settings, worker_signals };
        harness.api.until_ready().await;
        harness
    }

    /// And an account is open.
    pub async fn account(self, customer: &str, asset_value: &str) -> Self {
        self.api.open_account(customer, asset_value).await;
        self
    }

    /// Starts the worker.
    pub fn start_worker(&mut self) {
        assert!(self.servings.worker.is_none());
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let (config, signals) = (self.stores.config(&settings), self.worker_signals.clone());
        self.servings.worker = Some(Serving::start(Role::Worker, config, signals, Vec::new()));
    }

    /// Starts the worker, and waits until everything accepted is settled.
    pub async fn work(&mut self) {
        self.start_worker();
        self.settled().await;
    }

    /// Stops the worker cleanly.
    pub async fn stop_worker(&mut self) {
        self.servings.worker.take().expect("a worker").stop().await;
    }

    /// Drops the worker where it stands, as a crash would.
    pub fn crash_worker(&mut self) {
        drop(self.servings.worker.take().expect("a worker"));
    }

    /// Waits until everything accepted is settled, and audits.
    pub async fn settled(&self) {
        self.api.until_settled().await;
        self.stores.audit().await;
    }

    /// Stops everything cleanly now.
    pub async fn stop(mut self) -> Stores {
        self.servings.stop().await;
        self.stores
    }

    /// Drops everything where it stands.
    pub fn crash(mut self) -> Stores {
        drop((self.servings.worker.take(), self.servings.gateway.take()));
        self.stores
    }
}

/// What the gateway answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    /// The body, or null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// A header's text, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Fails unless it has this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Fails unless this is the whole problem document of `code`.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, &body["code"]), (status, &json!(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(body["type"], format!("urn:paystream:problem:{code}"));
        assert_eq!(body["status"], status);
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()), "{}", self.text);
        assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{}", self.text);
        assert_eq!(body["request_id"], self.header("x-request-id"), "{}", self.text);
        let waits = [429, 503].contains(&status);
        assert_eq!(self.headers.contains_key("retry-after"), waits, "{}", self.text);
        body
    }
}

/// A client of a gateway, in the words of the domain.
#[derive(Clone)]
pub struct Api {
    pub url: String,
    client: reqwest::Client,
}

impl Api {
    pub fn new(url: String) -> Self {
        Self { url, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    /// The same gateway for whoever has this token.
    pub fn with_token(&self, token: &str) -> Self {
        let shown = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, shown)]);
        let client = reqwest::Client::builder().no_proxy().default_headers(headers);
        Self { url: self.url.clone(), client: client.build().unwrap() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// A request whose answer leads nowhere else, as a browser's answers are looked at.
    pub fn browse(&self, method: Method, path: &str) -> RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none());
        client.build().unwrap().request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Reply {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// Posts a payment, whatever comes of it.
    pub async fn post_payment(&self, payment: &Value) -> Reply {
        self.post("/api/v1/payments", payment).await
    }

    /// Posts a payment that waits for its outcome.
    pub async fn pay_and_wait(&self, payment: &Value) -> Reply {
        let request = self.request(Method::POST, "/api/v1/payments").json(payment);
        send(request.header("prefer", "wait=30")).await
    }

    /// Pays; it must be accepted as new.
    pub async fn pay(&self, reference: &str, customer: &str, amount: &str) -> Value {
        self.post_payment(&payment(reference, customer, amount)).await.is(202).json()
    }

    pub async fn open_account(&self, customer: &str, asset_value: &str) {
        let body = json!({"customer_id": customer, "asset_value": asset_value, "term_weeks": 50});
        self.post("/api/v1/customers", &body).await.is(201);
    }

    /// Opens the first seeded accounts.
    pub async fn seed(&self, count: u32) {
        self.post("/api/v1/admin/seed-customers", &json!({"count": count})).await.is(200);
    }

    pub async fn balance(&self, customer: &str) -> Value {
        self.get(&format!("/api/v1/customers/{customer}/balance")).await.is(200).json()
    }

    /// Waits until everything accepted is settled; this customer has paid so much then.
    pub async fn settles_at(&self, customer: &str, total: &str) {
        self.until_settled().await;
        assert_eq!(self.balance(customer).await["total_paid"], total, "{customer}");
    }

    /// Where a payment is.
    pub async fn payment(&self, reference: &str) -> Value {
        self.get(&format!("/api/v1/payments/{reference}")).await.is(200).json()
    }

    /// Pays 1 for ADA under each of these numbers.
    pub async fn pay_each(&self, label: &str, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            self.pay(&format!("{label}{number}"), "ADA", "1").await;
        }
    }

    /// Pays these amounts for a customer.
    pub async fn pay_all(&self, customer: &str, payments: &[(&str, &str)]) {
        for (reference, amount) in payments {
            self.pay(reference, customer, amount).await;
        }
    }

    /// Pays 1 for each of the first seeded customers in turn.
    pub async fn pay_seeded(&self, label: &str, count: usize, customers: usize) {
        for number in 0..count {
            let customer = format!("GIG{:05}", number % customers + 1);
            self.pay(&format!("{label}{number}"), &customer, "1").await;
        }
    }

    /// Pays 1 for ADA; says into which partition it went.
    pub async fn pay_into(&self, reference: &str) -> u64 {
        self.pay(reference, "ADA", "1").await["partition"].as_u64().unwrap()
    }

    /// Pays until it is taken: what takes payments may be away.
    pub async fn until_taken(&self, payment: &Value) -> Value {
        eventually("it is taken", async || {
            let reply = self.post_payment(payment).await;
            (reply.status == 202).then(|| reply.json())
        })
        .await
    }

    /// Waits until a payment has this status.
    pub async fn until_is(&self, reference: &str, status: &str) {
        until(&format!("{reference} is {status}"), async || {
            self.get(&format!("/api/v1/payments/{reference}")).await.json()["status"] == status
        })
        .await;
    }

    /// Fails unless each of these payments has its status.
    pub async fn statuses(&self, wanted: &[(&str, &str)]) {
        for (reference, status) in wanted {
            assert_eq!(self.payment(reference).await["status"], *status, "{reference}");
        }
    }

    pub async fn stats(&self) -> Value {
        self.get("/api/v1/admin/stats").await.is(200).json()
    }

    pub async fn until_ready(&self) {
        eventually("the gateway is ready", async || {
            let answer = self.request(Method::GET, "/readyz").send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Waits until every partition says that nothing waits in it.
    pub async fn until_settled(&self) {
        let (mut said, end) = (Value::Null, Instant::now() + PATIENCE);
        while !is_settled(&said) {
            pause(&format!("everything accepted is settled: {said}"), end).await;
            said = self.get("/api/v1/admin/stats").await.json();
        }
    }
}

/// Nothing waits in any partition.
fn is_settled(stats: &Value) -> bool {
    let empty = |one: &Value| one["lag"] == 0 && one["pending"] == 0;
    stats["partitions"].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(empty))
}

/// Fails unless all of these fields are there.
#[track_caller]
pub fn has(found: &Value, wanted: Value) {
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(found[name], *value, "{name} of {found}");
    }
}

/// Sends a request that must be answered.
pub async fn send(request: RequestBuilder) -> Reply {
    try_send(request).await.expect("a whole answer")
}

/// Sends a request; its connection may break.
pub async fn try_send(request: RequestBuilder) -> reqwest::Result<Reply> {
    let answer = request.send().await?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Ok(Reply { status, headers, text: answer.text().await? })
}

/// A COMPLETE payment, as a bank reports it.
pub fn payment(reference: &str, customer: &str, amount: &str) -> Value {
    json!({
        "customer_id": customer,
        "payment_status": "COMPLETE",
        "transaction_amount": amount,
        "transaction_date": "2025-11-07 14:54:16",
        "transaction_reference": reference,
    })
}

/// The same with some fields changed; a null removes its field.
pub fn but(mut payment: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        let fields = payment.as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    payment
}

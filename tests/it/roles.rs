//! Proves that each process may do in both stores what it needs, with the users that compose.yaml
//! makes, and nothing else; that a user without its rights is refused at the start; and that what
//! is written of roles is so.

use std::path::PathBuf;

use paystream::{
    ledger::{DATABASE_ROLES, TABLE_RIGHTS},
    stream::permissions,
};
use paystream_dev::{DATABASE, PostgresServer};
use reqwest::Url;

use crate::{doctor::Said, observability::yaml, prelude::*};

const PASSWORDS: [(&str, &str); 6] = [
    ("ADMIN_PASSWORD", "a-password-of-somebody"),
    ("MIGRATE_PASSWORD", "a-password-to-migrate"),
    ("GATEWAY_PASSWORD", "a-password-of-gateways"),
    ("WORKER_PASSWORD", "a-password-of-workers"),
    ("OPERATIONS_PASSWORD", "a-password-of-operators"),
    ("MONITOR_PASSWORD", "a-password-of-the-collector"),
];

/// The servers as compose.yaml sets them up.
struct Deployed {
    postgres: PostgresServer,
    folder: PathBuf,
    redis_port: u16,
    redis: tokio::process::Child,
}

impl Deployed {
    async fn start(name: &str) -> Self {
        let directory = empty_directory(name).await;
        let postgres = PostgresServer::start(&directory).await.expect("PostgreSQL starts");
        let mut roles = script("postgres/roles.sh");
        roles.env("POSTGRES_USER", "paystream").env("POSTGRES_DB", DATABASE);
        roles.env("PGHOST", "127.0.0.1").env("PGPORT", postgres.port().to_string());
        roles.env("PGPASSWORD", postgres.password());
        // It can be run again.
        for _ in 0..2 {
            let ended = run(script_like(&roles)).await;
            assert!(ended.status.success(), "{ended:?}");
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let redis_port = free.local_addr().unwrap().port();
        drop(free);
        let folder = directory.join("redis");
        let redis = Self::redis(&folder, redis_port).await;
        Self { postgres, folder, redis_port, redis }
    }

    async fn redis(folder: &Path, port: u16) -> tokio::process::Child {
        let mut redis = script("redis/with-users.sh");
        redis.args(["redis-server", "--bind", "127.0.0.1", "--appendonly", "yes"]);
        redis.args(["--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"]);
        redis.args(["--port", &port.to_string()]).current_dir(folder).stdout(Stdio::null());
        let redis = redis.spawn().expect("Redis starts");
        let health = format!("redis://health:any@127.0.0.1:{port}/");
        let health = redis::Client::open(health).unwrap();
        until("Redis answers", async || {
            let Ok(mut health) = health.get_multiplexed_async_connection().await else {
                return false;
            };
            redis::cmd("PING").exec_async(&mut health).await.is_ok()
        })
        .await;
        redis
    }

    /// Kills Redis, and starts it again with what it has on disk.
    async fn restart_redis(&mut self) {
        self.redis.kill().await.unwrap();
        self.redis = Self::redis(&self.folder, self.redis_port).await;
    }

    /// The URLs of both stores for this role.
    fn urls(&self, role: &str) -> [String; 2] {
        let password = |role: &str| {
            let name = format!("{}_PASSWORD", role.to_uppercase());
            PASSWORDS.iter().find(|(known, _)| *known == name).unwrap().1
        };
        let in_redis = if role == "migrate" { "operations" } else { role };
        let mut database_url = Url::parse(&self.postgres.url(DATABASE)).unwrap();
        database_url.set_username(&format!("paystream_{role}")).unwrap();
        database_url.set_password(Some(password(role))).unwrap();
        let redis_url =
            format!("redis://{in_redis}:{}@127.0.0.1:{}/", password(in_redis), self.redis_port);
        [redis_url, database_url.into()]
    }

    /// A command as this role.
    fn command(&self, role: &str, arguments: &[&str]) -> Command {
        let [redis_url, database_url] = self.urls(role);
        let mut command = paystream();
        command.args(arguments).env("PAYSTREAM_ACTOR", "ada").env("PAYSTREAM_PARTITIONS", "8");
        command.env("PAYSTREAM_REDIS_URL", redis_url).env("PAYSTREAM_DATABASE_URL", database_url);
        command.env("PAYSTREAM_BIND", "127.0.0.1:0").env("PAYSTREAM_HEALTH_BIND", "127.0.0.1:0");
        command
    }

    async fn said(&self, role: &str, arguments: &[&str]) -> Ended {
        run(self.command(role, arguments)).await
    }

    async fn sql(&self, role: &str, statement: &str) -> Result<Vec<String>, sqlx::Error> {
        let mut session = PgConnection::connect(&self.urls(role)[1]).await?;
        let statement = sqlx::query_scalar(AssertSqlSafe(statement.to_owned()));
        statement.fetch_all(&mut session).await
    }
}

fn script(name: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).envs(PASSWORDS);
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true);
    command
}

fn script_like(other: &Command) -> Command {
    let arguments: Vec<_> = other.as_std().get_args().map(|one| one.to_str().unwrap()).collect();
    like(other, "sh", &arguments)
}

#[tokio::test]
async fn each_role_may_do_its_part_and_nothing_else() {
    let deployed = Deployed::start("roles").await;
    deployed.said("migrate", &["migrate"]).await.is(0, "");
    deployed.said("migrate", &["seed", "--count", "2"]).await.is(0, "");

    let mut gateway = deployed.command("gateway", &["serve", "gateway"]);
    gateway.env("PAYSTREAM_OPERATIONS_BIND", "none");
    let mut operations = deployed.command("operations", &["serve", "operations"]);
    operations.env("PAYSTREAM_OPERATIONS_BIND", "127.0.0.1:0");
    let worker = deployed.command("worker", &["serve", "worker"]);
    let [gateway, operations, worker] = [gateway, operations, worker].map(Process::start);
    let (gateway, operations, worker) = tokio::join!(gateway, operations, worker);
    let (public, admin) = (&gateway.api, &operations.api);

    // Payments, accounts and look-ups.
    let body = payment("r1", "GIG00001", "100");
    public.pay_and_wait(&body).await.is(200);
    public.post_payment(&body).await.is(200);
    public
        .post_payment(&payment("r1", "GIG00001", "200"))
        .await
        .is_problem(409, "reference_conflict");
    public.pay("held", "NOBODY-YET", "5").await;
    public.until_is("held", "suspense").await;
    public.open_account("NOBODY-YET", "100").await;
    public.until_is("held", "applied").await;
    let balance = public.get("/api/v1/customers/NOBODY-YET/balance").await.is(200).json();
    assert_eq!(balance["outstanding_balance"], "95.00");
    public.get("/api/v1/customers/GIG00001/payments").await.is(200);
    public.get("/api/v1/admin/stats").await.is_problem(404, "route_not_found");
    public.get("/console").await.is_problem(404, "route_not_found");

    // Operators, in the API, the console and on the command line.
    admin.get("/api/v1/payments/r1").await.is_problem(404, "route_not_found");
    for path in ["stats", "doctor", "pending", "audit-log", "payments/r1"] {
        admin.get(&format!("/api/v1/admin/{path}")).await.is(200);
    }
    for path in ["", "/partitions", "/stuck", "/customers"] {
        admin.get(&format!("/console{path}")).await.is(200);
    }
    public.pay("lost-1", "SOMEBODY", "5").await;
    public.until_is("lost-1", "suspense").await;
    let assign = ["suspense", "assign", "lost-1", "--customer", "GIG00001", "--reason", "a slip"];
    deployed.said("operations", &assign).await.is(0, "");
    for arguments in [
        &["partitions"][..],
        &["pending"],
        &["show", "r1"],
        &["audit"],
        &["groups", "register", "mirror", "--note", "to try"],
        &["groups", "retire", "mirror", "--yes"],
        &["topology", "show"],
    ] {
        let ended = deployed.said("operations", arguments).await;
        assert!(ended.status.success(), "{arguments:?}: {ended:?}");
    }
    let said = Said::from(deployed.said("operations", &["doctor", "--json"]).await);
    assert!(said.bad().is_empty(), "{:?}", said.findings);
    let roles = "select distinct role from audit_log where subject like '%lost-1'";
    let roles = deployed.sql("operations", roles).await.unwrap();
    assert_eq!(roles, ["paystream_operations"], "the log has the session's user");

    // And nothing else.
    for (role, statement) in [
        ("gateway", "select action from audit_log"),
        ("gateway", "select body from payment_evidence"),
        (
            "gateway",
            "insert into audit_log (id, actor, action, subject) overriding system value
             values (9, 'a', 'b', 'c') returning ''",
        ),
        ("gateway", "update topology set generation = 9 returning currency"),
        ("gateway", "update partition_owners set epoch = 9 returning owner"),
        ("gateway", "delete from workers returning worker_id"),
        ("worker", "select action from audit_log"),
        (
            "worker",
            "insert into customer_accounts (customer_id) values ('X') returning customer_id",
        ),
        ("worker", "update suspense set state = 'resolved' returning state"),
        ("worker", "delete from suspense returning state"),
        ("operations", "delete from audit_log returning action"),
        ("operations", "delete from customer_accounts returning currency"),
        ("operations", "update processed_transactions set outcome = 'x' returning outcome"),
        ("operations", "update audit_log_head set position = 1 returning ''"),
        ("operations", "create table mine (a text)"),
        ("gateway", "create role mine"),
        ("gateway", "copy topology to program 'true'"),
    ] {
        let refused = deployed.sql(role, statement).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{role}: {statement}: {refused}");
    }
    let everybody = ["gateway", "worker", "operations"];
    for (roles, words) in [
        (&everybody[..], "FLUSHALL"),
        (&everybody, "KEYS *"),
        (&everybody, "CONFIG SET appendonly no"),
        (&everybody, "SHUTDOWN NOSAVE"),
        (&everybody, "ACL LIST"),
        (&everybody, "GET of-somebody-else"),
        (&everybody, "EVAL return 0"),
        (&["gateway", "operations"], "XREADGROUP GROUP ledger me STREAMS paystream:{p00}:stream >"),
        (&["gateway", "operations"], "XTRIM paystream:{p00}:stream MAXLEN 0"),
        (&["worker"], "INCR paystream:{p00}:seq"),
        (&["gateway"], "HINCRBY paystream:{p00}:owner epoch 1"),
        (&["gateway"], "HDEL paystream:{p00}:owner epoch"),
        (&["gateway"], "SET paystream:{p00}:owner x"),
        (&["gateway"], "SET paystream:{p00}:stream x"),
        (&["gateway"], "DEL paystream:{p00}:stream"),
        (&["gateway"], "SET paystream:{p00}:settling x"),
        (&["gateway", "operations"], "CLIENT KILL ID 1"),
    ] {
        for role in roles {
            let client = redis::Client::open(deployed.urls(role)[0].as_str()).unwrap();
            let mut user = client.get_multiplexed_async_connection().await.unwrap();
            let words: Vec<&str> = words.split(' ').collect();
            let refused = redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut user).await;
            assert_eq!(refused.unwrap_err().code(), Some("NOPERM"), "{role}: {words:?}");
        }
    }
    for process in [gateway, operations, worker] {
        process.stop().await;
    }
}

/// What the telemetry collector asks, and what it must not.
#[tokio::test]
async fn the_collector_reads_statistics_and_nothing_else() {
    let deployed = Deployed::start("roles-monitor").await;
    deployed.said("migrate", &["migrate"]).await.is(0, "");
    let asked = yaml("otel-collector.yaml")["receivers"]["sqlquery"]["queries"].clone();
    let asked = asked.as_array().unwrap().iter().map(|query| query["sql"].as_str().unwrap());
    let asked: Vec<String> =
        asked.map(|sql| format!("select q.seconds::text from ({sql}) q")).collect();
    assert_eq!(deployed.sql("monitor", &asked[0]).await.unwrap(), ["0"]);
    let of_others = "select count(*)::text from pg_stat_activity
                     where usename <> current_user and backend_type = 'client backend' and query <> ''";
    let mut other = PgConnection::connect(&deployed.urls("operations")[1]).await.unwrap();
    sqlx::query("select from topology").execute(&mut other).await.unwrap();
    assert_eq!(deployed.sql("monitor", of_others).await.unwrap(), ["1"]);

    // Somebody waits for a lock.
    let lock = "lock table topology in access exclusive mode";
    let [mut holds, mut waits] = {
        let owner = deployed.urls("migrate")[1].clone();
        [PgConnection::connect(&owner).await.unwrap(), PgConnection::connect(&owner).await.unwrap()]
    };
    let mut held = holds.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *held).await.unwrap();
    let seconds = async || deployed.sql("monitor", &asked[0]).await.unwrap()[0].parse::<f64>();
    let wait = async {
        let mut waiting = waits.begin().await.unwrap();
        sqlx::query(lock).execute(&mut *waiting).await.unwrap();
        waiting.rollback().await.unwrap();
    };
    let look = async {
        until("the wait is seen", async || seconds().await.unwrap() > 0.0).await;
        held.rollback().await.unwrap();
    };
    tokio::join!(wait, look);
    assert_eq!(seconds().await.unwrap(), 0.0);

    for statement in [
        "select currency from topology",
        "select action from audit_log",
        "create table mine (a text)",
    ] {
        let refused = deployed.sql("monitor", statement).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code());
        assert!(["42501", "25006"].map(Some).contains(&code.as_deref()), "{statement}: {refused}");
    }
    let client = redis::Client::open(deployed.urls("monitor")[0].as_str()).unwrap();
    let mut user = client.get_multiplexed_async_connection().await.unwrap();
    let info: String = redis::cmd("INFO").arg("all").query_async(&mut user).await.unwrap();
    assert!(info.contains("role:master") && info.contains("aof_enabled:1"), "{info}");
    for words in ["GET paystream:topology", "KEYS *", "CONFIG GET maxmemory", "CLIENT LIST", "PING"]
    {
        let words: Vec<&str> = words.split(' ').collect();
        let refused = redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut user).await;
        assert_eq!(refused.unwrap_err().code(), Some("NOPERM"), "{words:?}");
    }
}

#[tokio::test]
async fn a_redis_with_these_users_keeps_what_it_answered() {
    let mut deployed = Deployed::start("roles-restart").await;
    deployed.said("migrate", &["migrate"]).await.is(0, "");
    deployed.said("migrate", &["seed", "--count", "1"]).await.is(0, "");
    let mut gateway = deployed.command("gateway", &["serve", "gateway"]);
    gateway.env("PAYSTREAM_OPERATIONS_BIND", "none");
    let gateway = Process::start(gateway).await;
    for number in 0..3 {
        gateway.api.pay(&format!("r{number}"), "GIG00001", "1").await;
    }
    deployed.restart_redis().await;
    gateway.api.until_ready().await;
    let worker = Process::start(deployed.command("worker", &["serve", "worker"])).await;
    for number in 0..3 {
        gateway.api.until_is(&format!("r{number}"), "applied").await;
    }
    deployed.restart_redis().await;
    gateway.api.until_ready().await;
    // Sent again it is the one that was taken.
    let first = gateway.api.payment("r0").await;
    let again = gateway.api.post_payment(&payment("r0", "GIG00001", "1")).await;
    assert_eq!(again.json()["stream_id"], first["stream_id"], "{}", again.text);
    gateway.api.pay("r3", "GIG00001", "1").await;
    gateway.api.until_is("r3", "applied").await;
    deployed.said("operations", &["losses", "list"]).await.is(0, "");
    worker.stop().await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_told_and_nothing_is_lost() {
    let h = Harness::gateway(&[]).await.account("ADA", "100").await;
    let worker = Process::serve("worker", &h.stores, &[]).await;
    h.stores.sql("revoke update on customer_accounts from paystream_worker").await;
    h.api.pay("r1", "ADA", "1").await;
    let said = until_found(&h.stores, "postgresql_rights").await;
    let found = format!("{:?}", said.find("postgresql_rights"));
    assert!(found.contains("paystream_worker may not update on customer_accounts"), "{found}");
    assert_eq!(h.stores.count("select count(*) from dead_letters").await, 0);
    h.stores
        .sql("revoke select on payment_outcomes from paystream_gateway, paystream_operations")
        .await;
    h.stores
        .sql("revoke select on customer_accounts from paystream_gateway, paystream_operations")
        .await;
    h.api.get("/api/v1/customers/ADA").await.is_problem(503, "ledger_unavailable");
    until("the worker says so", async || {
        let log = worker.log();
        log.contains("postgresql refuses this to our user") && log.contains("customer_accounts")
    })
    .await;
    h.stores.succeed(&["migrate"]).await;
    h.api.until_is("r1", "applied").await;
    h.settled().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_user_without_its_rights_is_refused_at_the_start() {
    let stores = Stores::new().await;
    for (role, user) in [
        ("worker", "paystream_gateway"),
        ("all", "paystream_worker"),
        ("gateway", "paystream_auditor"),
    ] {
        let mut command = serve(role, &stores, &[]);
        command.env("PAYSTREAM_DATABASE_URL", as_user(&stores.database_url, user));
        let sentence = format!("the database user {user} may not ");
        run(command).await.refused(&[&sentence, "run `paystream migrate` as the owner"]);
    }
    // Whoever may do everything is served, and told.
    let mut command = serve("worker", &stores, &[]);
    command.env("PAYSTREAM_DATABASE_URL", as_user(&stores.database_url, "paystream"));
    let process = Process::start(command).await;
    assert!(process.log().contains("this user of PostgreSQL may do everything"));
    process.stop().await;
}

#[tokio::test]
async fn a_right_that_was_given_by_hand_is_taken_back() {
    let stores = Stores::new().await;
    let mut stranger = operate(&stores, &["migrate"]);
    stranger.env("PAYSTREAM_DATABASE_URL", as_user(&stores.database_url, "paystream_worker"));
    run(stranger).await.refused(&["permission denied", "log in as the owner of the database"]);
    stores.sql("grant delete on customer_accounts to paystream_worker").await;
    stores.succeed(&["migrate"]).await;
    let may = "select has_table_privilege('paystream_worker', 'customer_accounts', 'delete')";
    assert_eq!(stores.values::<bool>(may).await, [false]);
}

#[test]
fn what_is_written_of_roles_is_so() {
    let page = read("docs/roles.md");
    let mut rights = format!("| table | {} |\n|---|---|---|---|---|\n", DATABASE_ROLES.join(" | "));
    for (table, letters) in TABLE_RIGHTS {
        rights += &format!("| `{table}` | {} |\n", letters.join(" | "));
    }
    assert!(page.contains(&rights), "docs/roles.md lacks this table:\n{rights}");
    let mut commands =
        format!("| command | {} |\n|---|---|---|---|\n", permissions::ROLES.join(" | "));
    for (command, needs) in permissions::COMMANDS {
        let marks = needs.map(|needs| if needs { "x" } else { "" });
        commands += &format!("| `{}` | {} |\n", command.replace('|', " "), marks.join(" | "));
    }
    assert!(page.contains(&commands), "docs/roles.md lacks this table:\n{commands}");

    // All that scripts call, and nothing that nobody does.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stream");
    let files = fs::read_dir(folder.join("lua")).unwrap().chain(fs::read_dir(folder).unwrap());
    let files = files.map(|file| file.unwrap().path()).filter(|path| path.is_file());
    let sources: String = files
        .filter(|path| !path.ends_with("permissions.rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let allowed: Vec<String> =
        permissions::COMMANDS.iter().map(|(command, _)| command.replace('|', "', '")).collect();
    for call in sources.split("call('").skip(1) {
        let call = call.to_lowercase();
        let is_allowed = allowed.iter().any(|one| call.starts_with(&format!("{one}'")));
        assert!(is_allowed, "redis/with-users.sh allows nobody: {}", call.lines().next().unwrap());
    }
    for (command, _) in permissions::COMMANDS {
        let mut words = command.split('|').map(str::to_uppercase);
        assert!(words.all(|word| sources.contains(&word)), "{command} is allowed for nothing");
    }
    // No password that somebody else could know.
    let compose = read("compose.yaml").replace("GRAFANA_PASSWORD:-", "");
    assert!(!compose.contains("PASSWORD:-"), "a password has a default");
    let script = read("redis/with-users.sh");
    for role in permissions::ROLES {
        let rules = permissions::rules(&[role], "paystream");
        let user = format!("user {role} on >${}_PASSWORD {rules}\n", role.to_uppercase());
        assert!(script.contains(&user), "redis/with-users.sh lacks this line:\n{user}");
    }
}

//! Proves what holds when a connection pooler in transaction mode, a real PgBouncer, is before
//! PostgreSQL: payments, look-ups and changes need no session; deadlines and locks are bounded; a
//! lock of a session is done without; warnings are heard; what a paused pooler delays is not lost;
//! and a pooler that no setting names is found.

use std::{
    fs::{File, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, Command as StdCommand},
    sync::Mutex,
};

use sqlx::{
    Row,
    postgres::{PgConnectOptions, PgRow},
};
use tempfile::TempDir;

use crate::{
    chromium::GUARDIAN,
    doctor::doctor_with,
    harness::{EVERYTHING, FRONT},
    prelude::*,
    standby::{await_nobody, cancel},
};

const TRANSACTION: &str = "--database-pooler=transaction";
/// How often a start is tried: somebody may take its port.
const STARTS: usize = 5;
/// Connections to PostgreSQL that all of one user's share.
const SERVERS: i64 = 3;

/// PgBouncer before a PostgreSQL. It ends when this is dropped, or the process is.
struct Pooler {
    /// The ledger, through it.
    url: String,
    guardian: Mutex<Child>,
    folder: TempDir,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.end();
    }
}

/// The user's password, and the port.
fn place(url: &str) -> (String, u16) {
    let options: PgConnectOptions = url.parse().unwrap();
    let login = url.split_once("://").unwrap().1.split_once('@').unwrap().0;
    (login.split_once(':').unwrap().1.to_owned(), options.get_port())
}

fn launch(folder: &Path) -> Child {
    let program = ["pgbouncer", "/usr/sbin/pgbouncer"].into_iter().find(|program| {
        StdCommand::new(program).arg("--version").stdout(Stdio::null()).status().is_ok()
    });
    let program = program.expect("pgbouncer is missing: scripts/install.sh --pooler");
    let log = File::options().append(true).create(true).open(folder.join("log")).unwrap();
    let mut command = StdCommand::new("sh");
    command.args(["-c", GUARDIAN, "pgbouncer-guardian", program]);
    if fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0) {
        command.args(["-u", "postgres"]);
    }
    command.arg(folder.join("pgbouncer.ini")).process_group(0).stdin(Stdio::piped());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Pooler {
    /// Before the PostgreSQL of these stores.
    async fn before(stores: &Stores, settings: &str) -> Self {
        for _ in 0..STARTS {
            if let Some(pooler) = Self::start(&stores.database_url, settings).await {
                return pooler;
            }
        }
        panic!("pgbouncer did not start {STARTS} times");
    }

    /// Nothing when it ends at once.
    async fn start(url: &str, settings: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("paystream-pgbouncer-").tempdir().unwrap();
        // It does not run as root.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let (password, direct) = place(url);
        let others = ["paystream_worker", "paystream_operations", "paystream_auditor"];
        let users = others.into_iter().chain([EVERYTHING, FRONT]);
        let users: String = users.map(|user| format!("\"{user}\" \"{password}\"\n")).collect();
        let file = folder.path().join("users");
        fs::write(&file, users).unwrap();
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={direct}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\npool_mode = transaction\n\
             auth_type = scram-sha-256\nauth_file = {}\nadmin_users = {EVERYTHING}\n\
             default_pool_size = {SERVERS}\nmax_client_conn = 200\n{settings}\n",
            file.display()
        );
        fs::write(folder.path().join("pgbouncer.ini"), text).unwrap();
        let url = url.replace(&format!(":{direct}/"), &format!(":{port}/"));
        let pooler = Self { url, guardian: Mutex::new(launch(folder.path())), folder };
        pooler.is_there().await.then_some(pooler)
    }

    /// False when it has ended.
    async fn is_there(&self) -> bool {
        eventually("pgbouncer listens", async || {
            if self.guardian.lock().unwrap().try_wait().unwrap().is_some() {
                return Some(false);
            }
            TcpStream::connect(("127.0.0.1", place(&self.url).1)).await.ok().map(|_| true)
        })
        .await
    }

    /// Ends it, and every connection.
    fn end(&self) {
        let mut guardian = self.guardian.lock().unwrap();
        // Closes the pipe that it waits at.
        drop(guardian.stdin.take());
        guardian.wait().unwrap();
    }

    /// Starts it again where it was.
    async fn start_again(&self) {
        *self.guardian.lock().unwrap() = launch(self.folder.path());
        assert!(self.is_there().await, "pgbouncer starts again");
    }

    /// Tells it something, as its administrator; the answer's rows.
    async fn tell(&self, command: &'static str) -> Vec<PgRow> {
        let mut console = self.client("pgbouncer").await;
        sqlx::raw_sql(command).fetch_all(&mut console).await.unwrap()
    }

    /// Somebody else's connection through it.
    async fn client(&self, database: &str) -> PgConnection {
        let options: PgConnectOptions = self.url.parse().unwrap();
        let options = options.database(database).extra_float_digits(None);
        PgConnection::connect_with(&options).await.unwrap()
    }

    fn ledger(&self) -> Ledger {
        Ledger::pooled(&self.url).unwrap()
    }
}

/// Gateway and worker, which use the pooler; what the test asks by itself does not.
async fn serving(pooler: &Pooler, mut stores: Stores) -> (Harness, String) {
    let direct = std::mem::replace(&mut stores.database_url, pooler.url.clone());
    (Harness::on(stores, &[TRANSACTION]).await, direct)
}

#[tokio::test]
async fn payments_are_settled_and_found_over_few_connections() {
    let stores = Stores::new().await;
    let pooler = Pooler::before(&stores, "").await;
    let (mut h, direct) = serving(&pooler, stores).await;
    h.api.seed(20).await;
    h.api.pay_seeded("pooled", 400, 20).await;
    // Again, and with other content.
    let again = payment("pooled-again", "GIG00001", "1");
    h.api.post_payment(&again).await.is(202);
    h.api.post_payment(&again).await.is(200);
    h.api.post_payment(&but(again, json!({ "transaction_amount": "2" }))).await.is(409);
    h.api.post_payment(&payment("pooled-held", "NOBODY", "1")).await.is(202);
    h.api.until_settled().await;
    h.api.statuses(&[("pooled-again", "applied"), ("pooled-held", "suspense")]).await;
    // Opening the account applies what is held, in one transaction.
    h.api.open_account("NOBODY", "1000").await;
    h.api.statuses(&[("pooled-held", "applied")]).await;
    let clients = pooler.tell("show clients").await.len();
    let servers = pooler.tell("show servers").await;
    let of_worker = servers.iter().filter(|row| row.get::<&str, _>("user") == "paystream_worker");
    let of_worker = i64::try_from(of_worker.count()).unwrap();
    assert!((1..=SERVERS).contains(&of_worker), "{of_worker} connections of the worker");
    assert!(clients > servers.len(), "{clients} clients, {} servers", servers.len());
    // The command line, through it too.
    let mut command = operate(&h.stores, &["audit", "--json"]);
    command.env("PAYSTREAM_DATABASE_POOLER", "transaction");
    assert_eq!(run(command).await.json()["drift_count"], 0);
    h.stores.database_url = direct;
    h.stores.audit().await;
}

#[tokio::test]
async fn nothing_of_a_transaction_stays_in_a_connection() {
    let stores = Stores::new().await;
    let pooler = Pooler::before(&stores, "default_pool_size = 1").await;
    let groups = pooler.ledger().groups();
    groups.registered().await.unwrap();
    groups.reached(1).await.unwrap();
    let mut next = pooler.client(&stores.key_prefix).await;
    let left =
        "select (select count(*)::text from pg_prepared_statements where name <> '') as kept,
             current_setting('statement_timeout') as timeout,
             current_setting('enable_seqscan') as by_key,
             (select count(*)::text from pg_locks where pid = pg_backend_pid()
                 and locktype = 'advisory') as locks";
    let left = sqlx::raw_sql(left).fetch_one(&mut next).await.unwrap();
    let left: Vec<&str> =
        ["kept", "timeout", "by_key", "locks"].map(|name| left.get(name)).to_vec();
    assert_eq!(left, ["0", "0", "on", "0"]);
    assert_eq!(pooler.tell("show servers").await.len(), 1, "they shared a connection");
}

#[tokio::test]
async fn a_lock_is_waited_for_and_held_no_longer_than_without_a_pooler() {
    let stores = Stores::new().await;
    let pooler = Pooler::before(&stores, "").await;
    let fence = Fence { partition: 0, epoch: 0 };
    let own = "update partition_owners set owner = 'tester', epoch = 0 where partition = 0";
    stores.sql(own).await;
    let deadline = Duration::from_millis(900);
    let mut lane = pooler.ledger().writer("tester", deadline).lane().await.unwrap();
    // Somebody else has the row.
    let mut other = stores.session().await;
    let lock = "begin; select from partition_owners where partition = 0 for update";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let refused = in_time("the lock is given up", lane.open(&[fence], &[])).await.err();
    assert!(matches!(refused, Some(ledger::Error::Locked(_))), "{refused:?}");
    other.close().await.unwrap();
    // A worker that is frozen in a batch does not keep the row.
    let mut lane = pooler.ledger().writer("tester", deadline).lane().await.unwrap();
    let _batch = lane.open(&[fence], &[]).await.unwrap();
    let mut other = stores.session().await;
    let locking = sqlx::raw_sql("select from partition_owners where partition = 0 for update");
    in_time("the frozen batch is ended", locking.execute(&mut other)).await.unwrap();
}

#[tokio::test]
async fn what_needs_a_lock_of_a_session_does_without_or_is_refused() {
    let stores = Stores::new().await;
    let pooler = Pooler::before(&stores, "").await;
    let ledger = pooler.ledger();
    let refused = ledger.resize().await.err().expect("a lock that is not kept").sentence();
    assert!(refused.contains("PAYSTREAM_DATABASE_POOLER=none"), "{refused}");
    // The first worker that lives audits, one slice after the other.
    let beat = "insert into workers (worker_id, incarnation, lease_ms, attempts_max)
         select name, gen_random_uuid(), 10000, 5 from unnest(array['ada', 'ben']) name";
    stores.sql(beat).await;
    let rounds = |worker: Option<&str>| ledger.rounds().of(worker.map(str::to_owned));
    let (mut ada, mut ben) = (rounds(Some("ada")), rounds(Some("ben")));
    for _ in 0..2 {
        assert!(ada.next(10).await.unwrap().is_some());
        assert!(ben.next(10).await.unwrap().is_none());
    }
    assert!(rounds(None).next(10).await.unwrap().is_none(), "a gateway alone does not");
    let silent = "update workers set beat_at = clock_timestamp() - interval '1 minute'
         where worker_id = 'ada'";
    stores.sql(silent).await;
    assert!(ada.next(10).await.unwrap().is_none());
    assert!(ben.next(10).await.unwrap().is_some());
    // Nothing of it keeps the pooler from being paused.
    in_time("all transactions have ended", pooler.tell("pause")).await;
}

#[tokio::test]
async fn a_warning_is_heard_through_a_pooler() {
    let (_postgres, stores) = Stores::on_own_postgres("warned-pooler").await;
    let pooler = Pooler::before(&stores, "").await;
    let groups = pooler.ledger().group_registrar();
    await_nobody(&stores).await;
    let registering = groups.register("fraud", "now", "reads along", "ada");
    let waits = "wait_event = 'SyncRep' and query = 'COMMIT'";
    let (registered, _) = tokio::join!(registering, cancel(&stores, waits));
    assert!(matches!(registered, Err(ledger::Error::Unconfirmed(_))), "{registered:?}");
}

#[tokio::test]
async fn a_paused_and_a_killed_pooler_delay_payments_and_lose_none() {
    let stores = Stores::new().await;
    let pooler = Pooler::before(&stores, "").await;
    let (h, direct) = serving(&pooler, stores).await;
    let mut h = h.account("ADA", "1000").await;
    h.api.pay("r0", "ADA", "1").await;
    h.api.until_settled().await;
    pooler.tell("pause").await;
    for number in 1..=5 {
        h.api.post_payment(&payment(&format!("r{number}"), "ADA", "1")).await.is(202);
    }
    pooler.tell("resume").await;
    h.api.until_settled().await;
    assert_eq!(h.api.balance("ADA").await["total_paid"], "6.00");
    pooler.end();
    for number in 6..=9 {
        h.api.post_payment(&payment(&format!("r{number}"), "ADA", "1")).await.is(202);
    }
    pooler.start_again().await;
    h.api.until_settled().await;
    until("look-ups go on", async || {
        let told = h.api.get("/api/v1/customers/ADA/balance").await;
        told.status == 200 && told.json()["total_paid"] == "10.00"
    })
    .await;
    h.stores.database_url = direct;
    h.stores.audit().await;
}

#[tokio::test]
async fn a_pooler_that_no_setting_names_is_found() {
    let mut stores = Stores::new().await;
    let pooler = Pooler::before(&stores, "").await;
    // One that takes settings and forgets them.
    let forgets = "ignore_startup_parameters = options,extra_float_digits";
    let forgetful = Pooler::before(&stores, forgets).await;
    stores.database_url = pooler.url.clone();
    let refused = Ledger::new(&stores.database_url).unwrap().schema().check().await;
    assert!(matches!(refused, Err(ledger::Error::Pooler(Some(_)))), "{refused:?}");
    doctor_with(&stores, &[]).await.tells(
        "postgresql_pooler",
        "critical",
        "PAYSTREAM_DATABASE_POOLER",
    );
    let said = doctor_with(&stores, &[("PAYSTREAM_DATABASE_POOLER", "transaction")]).await;
    assert!(said.find("postgresql_pooler").is_none(), "{:?}", said.findings);
    // Nor are migrations run where their lock is not kept.
    let migrated = pooler.ledger().schema().migrate().await.unwrap_err().sentence();
    assert!(migrated.contains("PAYSTREAM_DATABASE_POOLER=none"), "{migrated}");
    stores.database_url = forgetful.url.clone();
    let refused = Ledger::new(&stores.database_url).unwrap().schema().check().await;
    assert!(matches!(refused, Err(ledger::Error::Pooler(_))), "{refused:?}");
    let said = doctor_with(&stores, &[]).await;
    said.has("postgresql_pooler", "critical");
}

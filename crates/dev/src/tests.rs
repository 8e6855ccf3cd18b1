//! The private servers, tried for real: restarts, `kill -9`, a killed parent.
//!
//! Never uses a server of the machine, and removes what it made.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, find_program};
use super::place::ServerFolder;
use super::*;

/// Names the directory to [`a_parent_to_be_killed`].
const PARENT_OF: &str = "PAYSTREAM_TEST_PARENT_OF";
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that also an ordinary account can walk into.
fn directory() -> TempDir {
    directory_with(0o755)
}

fn directory_with(mode: u32) -> TempDir {
    let permissions = std::fs::Permissions::from_mode(mode);
    tempfile::Builder::new().prefix("paystream-dev-").permissions(permissions).tempdir().unwrap()
}

fn ask<T: redis::FromRedisValue>(url: &str, command: &str) -> redis::RedisResult<T> {
    let (name, arguments) = command.split_once(' ').unwrap_or((command, ""));
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    redis::cmd(name).arg(arguments).query(&mut redis::Client::open(url)?.get_connection()?)
}

#[track_caller]
fn redis(server: &RedisServer, command: &str) -> String {
    ask(&server.url(), command).unwrap()
}

async fn psql_program(server: &PostgresServer) -> PathBuf {
    let place =
        ServerFolder::take(server.data_directory().parent().unwrap(), "lookup").await.unwrap();
    let beside = Cluster::locate(&place).await.unwrap().program("psql");
    if beside.is_file() { beside } else { find_program("psql").unwrap() }
}

async fn sql(server: &PostgresServer, statement: &str) -> String {
    let output = tokio::process::Command::new(psql_program(server).await)
        .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", &server.url(DATABASE), "-c", statement])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn lives(pid: u32) -> bool {
    ps::living().await.unwrap().iter().any(|one| one.pid == pid)
}

#[tokio::test]
async fn redis_keeps_what_it_answered_for() {
    let directory = directory();
    let mut server = RedisServer::start(directory.path(), &[]).await.unwrap();
    let port = server.port();
    for (setting, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("bind", "127.0.0.1"),
        ("save", ""),
    ] {
        let told: Vec<String> = ask(&server.url(), &format!("CONFIG GET {setting}")).unwrap();
        assert_eq!(told, [setting, value]);
    }
    assert_eq!(redis(&server, "SET money 100"), "OK");
    server.kill().await.unwrap();
    assert!(!lives(server.pid()).await);
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(redis(&server, "GET money"), "100");

    server.restart().await.unwrap();
    server.stop().await.unwrap();
    assert!(!lives(server.pid()).await);
    server.stop().await.unwrap();
    drop(server);

    let server = RedisServer::start(directory.path(), &[]).await.unwrap();
    assert_eq!(server.port(), port, "a second start takes the port of last time");
    assert_eq!(redis(&server, "GET money"), "100");
}

#[tokio::test]
async fn postgres_keeps_what_it_committed() {
    let directory = directory();
    let mut server = PostgresServer::start(directory.path()).await.unwrap();
    let port = server.port();
    sql(&server, "create table money as select 100 as amount").await;
    assert_eq!(sql(&server, "show server_encoding").await, "UTF8");
    assert_eq!(
        sql(&server, "show data_directory").await,
        server.data_directory().to_str().unwrap()
    );

    let mut busy = busy_backend(&server).await;
    server.kill().await.unwrap();
    busy.wait().unwrap();
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(sql(&server, "select amount from money").await, "100");

    // Killed by somebody else, who leaves the busy backend as an orphan.
    let mut busy = busy_backend(&server).await;
    ps::signal("KILL", &[server.pid()]).await.unwrap();
    server.restart().await.unwrap();
    busy.wait().unwrap();
    assert_eq!(sql(&server, "select amount from money").await, "100");
    server.stop().await.unwrap();
    drop(server);

    let server = PostgresServer::start(directory.path()).await.unwrap();
    assert_eq!(server.port(), port, "a second start takes the port of last time");
    assert_eq!(sql(&server, "select amount from money").await, "100");
    drop(server);
    timeout(PATIENCE, remove_when_free(directory.path())).await.unwrap();
}

/// A backend that does not notice by itself that the postmaster is gone.
async fn busy_backend(server: &PostgresServer) -> std::process::Child {
    let client = Command::new(psql_program(server).await)
        .args(["-X", "-d", &server.url(DATABASE), "-c"])
        .arg("do $$ begin loop perform 1; end loop; end $$")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let busy = "select count(*) from pg_stat_activity where state = 'active' and query like 'do%'";
    while sql(server, busy).await != "1" {}
    client
}

/// Waits for the lock of a server that was dropped a moment ago, too.
async fn remove_when_free(directory: &Path) {
    while let Err(error) = remove(directory).await {
        assert!(format!("{error:#}").contains("in use"), "{error:#}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether PostgreSQL lets somebody in who knows no password.
async fn trusts(server: &PostgresServer) -> bool {
    let port = server.port().to_string();
    let output = tokio::process::Command::new(psql_program(server).await)
        .args(["-X", "-w", "-h", "127.0.0.1", "-p", &port, "-U", "paystream", "-c", "select 1"])
        .env_remove("PGPASSWORD")
        .output()
        .await
        .unwrap();
    output.status.success()
}

#[tokio::test]
async fn what_an_older_version_made_is_closed_at_the_next_start() {
    let directory = directory();
    let servers = Servers::start(directory.path(), &[]).await.unwrap();
    sql(&servers.postgres, "create table money as select 100 as amount").await;
    redis(&servers.redis, "SET money 100");
    assert!(!trusts(&servers.postgres).await);
    let data = servers.postgres.data_directory().to_owned();
    servers.stop().await.unwrap();

    // As it was before there were passwords.
    std::fs::remove_file(data.join(secret::PASSWORD)).unwrap();
    std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.1/32 trust\n").unwrap();
    for folder in ["redis", "postgres"] {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path().join(folder), open).unwrap();
    }
    std::fs::remove_file(directory.path().join("redis/password")).unwrap();

    let servers = Servers::start(directory.path(), &[]).await.unwrap();
    assert!(!trusts(&servers.postgres).await);
    let port = servers.redis.port();
    let refused = ask::<String>(&format!("redis://:another@127.0.0.1:{port}/"), "GET money");
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(sql(&servers.postgres, "select amount from money").await, "100");
    assert_eq!(redis(&servers.redis, "GET money"), "100");
    for folder in ["redis", "postgres"] {
        let mode = std::fs::metadata(directory.path().join(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o067, 0, "{folder}: {mode:o}");
    }
    servers.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_has_one_user() {
    let directory = directory();
    let first = RedisServer::start(directory.path(), &[]).await.unwrap();
    let refusal = RedisServer::start(directory.path(), &[]).await.err().unwrap().to_string();
    let path = std::fs::canonicalize(directory.path()).unwrap();
    assert_eq!(
        refusal,
        format!(
            "{} is in use by another paystream (process {}): stop that one, or choose another \
             directory",
            path.display(),
            std::process::id()
        )
    );
    assert!(remove(directory.path()).await.is_err());
    assert_eq!(redis(&first, "PING"), "PONG");
}

#[tokio::test]
async fn a_taken_port_and_that_of_a_server_that_is_down_are_left_alone() {
    let one = directory();
    let mut first = RedisServer::start(one.path(), &[]).await.unwrap();
    first.kill().await.unwrap();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [stranger.local_addr().unwrap().port(), first.port()] {
        let other = directory();
        let place = ServerFolder::take(other.path(), "redis").await.unwrap();
        place.remember(port, u32::MAX).unwrap();
        drop(place);
        assert_ne!(RedisServer::start(other.path(), &[]).await.unwrap().port(), port);
    }
    first.restart().await.unwrap();
}

#[tokio::test]
async fn servers_that_nobody_guards_any_more_are_replaced() {
    let directory = directory();
    let servers = Servers::start(directory.path(), &[]).await.unwrap();
    redis(&servers.redis, "SET money 100");
    let orphans = [servers.redis.pid(), servers.postgres.pid()];
    let guardians = [parent_of(orphans[0]).await, parent_of(orphans[1]).await];
    ps::signal("KILL", &guardians).await.unwrap();
    drop(servers);
    let servers = Servers::start(directory.path(), &[]).await.unwrap();
    assert!(!lives(orphans[0]).await && !lives(orphans[1]).await);
    assert_eq!(redis(&servers.redis, "GET money"), "100");
    assert_eq!(sql(&servers.postgres, "select 100").await, "100");
    servers.stop().await.unwrap();
}

async fn parent_of(pid: u32) -> u32 {
    ps::living().await.unwrap().iter().find(|one| one.pid == pid).unwrap().parent
}

/// Not a test by itself: the program that the next test kills.
#[tokio::test]
async fn a_parent_to_be_killed() {
    let Some(directory) = std::env::var_os(PARENT_OF) else { return };
    let servers = Servers::start(Path::new(&directory), &[]).await.unwrap();
    servers.announce(&own_addresses(&servers)).unwrap();
    std::future::pending::<()>().await;
}

/// Of the administrators.
fn own_addresses(servers: &Servers) -> Addresses {
    Addresses { redis_url: servers.redis.url(), database_url: servers.postgres.url(DATABASE) }
}

fn start_parent(directory: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::a_parent_to_be_killed"])
        .env(PARENT_OF, directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

async fn addresses_of(directory: &Path) -> Addresses {
    let appear = async {
        loop {
            if let Some(addresses) = running_addresses(directory) {
                return addresses;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, appear).await.unwrap()
}

#[tokio::test]
async fn servers_die_with_a_killed_parent_and_come_back_with_the_next() {
    let directory = directory();
    let mut parent = start_parent(directory.path());
    let addresses = addresses_of(directory.path()).await;
    assert_eq!(ask::<String>(&addresses.redis_url, "SET money 100").unwrap(), "OK");

    let guardians = family_of(parent.id()).await;
    assert_eq!(guardians.len(), 2, "{guardians:?}");
    let mut pids = guardians.clone();
    for guardian in guardians {
        pids.extend(family_of(guardian).await);
    }
    assert!(pids.len() >= 6, "two guardians, each with a watcher and a server: {pids:?}");
    parent.kill().unwrap();
    parent.wait().unwrap();

    // At once, while the old servers may still be stopping.
    let servers = Servers::start(directory.path(), &[]).await.unwrap();
    for pid in pids {
        assert!(!lives(pid).await, "{pid} outlived its parent");
    }
    assert_eq!(own_addresses(&servers), addresses);
    servers.announce(&addresses).unwrap();
    assert_eq!(running_addresses(directory.path()), Some(addresses));
    assert_eq!(redis(&servers.redis, "GET money"), "100");
    servers.stop().await.unwrap();
    assert_eq!(running_addresses(directory.path()), None);

    // A crash leaves stale files behind; they must not matter.
    let stranger = format!("{}\n", std::process::id());
    std::fs::write(directory.path().join("redis/pid"), &stranger).unwrap();
    std::fs::write(directory.path().join("postgres/pid"), &stranger).unwrap();
    let place = ServerFolder::take(directory.path(), "postgres").await.unwrap();
    let data = Cluster::locate(&place).await.unwrap().data;
    std::fs::write(data.join("postmaster.pid"), &stranger).unwrap();
    drop(place);
    let servers = Servers::start(directory.path(), &[]).await.unwrap();
    servers.stop().await.unwrap();
    remove(directory.path()).await.unwrap();
    assert!(!data.exists());
}

async fn family_of(pid: u32) -> Vec<u32> {
    let living = ps::living().await.unwrap();
    living.iter().filter(|one| one.parent == pid).map(|one| one.pid).collect()
}

#[tokio::test]
async fn a_directory_that_the_ordinary_account_cannot_reach_still_works() {
    let closed = directory_with(0o700);
    let mut server = PostgresServer::start(closed.path()).await.unwrap();
    let moved = server.data_directory().starts_with("/var/tmp");
    assert_eq!(moved, super::account::SystemAccount::ordinary().await.unwrap().is_some());
    server.stop().await.unwrap();
    let data = server.data_directory().to_owned();
    drop(server);
    remove(closed.path()).await.unwrap();
    assert!(!data.exists());
}

#[test]
fn addresses_are_found_in_urls() {
    assert_eq!(authority("redis://:p@127.0.0.1:20001/"), Some("127.0.0.1:20001"));
    assert_eq!(authority("postgres://u:p@127.0.0.1:20002/paystream"), Some("127.0.0.1:20002"));
    assert_eq!(authority("nonsense"), None);
}

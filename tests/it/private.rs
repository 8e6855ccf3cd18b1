//! Proves that the private servers of `paystream dev` are private: no other user of
//! the machine gets in or reads their files, and nothing of our environment reaches
//! them; commands beside it find them all the same.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use paystream_dev as dev;
use reqwest::Url;

use crate::prelude::*;

/// The account `nobody`, as most systems number it.
const NOBODY: &str = "65534";
/// What must not reach the servers.
const TOKEN: &str = "correct-horse-battery-staple";

/// Where `paystream dev` runs; others may walk down to it.
fn directory() -> tempfile::TempDir {
    let open = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("paystream-private-").permissions(open).tempdir().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode()
}

/// This process and all that descend from it.
#[cfg(target_os = "linux")]
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        let children = fs::read_dir(format!("/proc/{parent}/task")).unwrap().flat_map(|task| {
            let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap();
            children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
        });
        family.extend(children.collect::<Vec<u32>>());
        next += 1;
    }
    family
}

#[tokio::test]
async fn another_user_of_the_machine_gets_into_neither_store() {
    let directory = directory();
    let mut command = paystream();
    command.current_dir(directory.path()).args(["dev", "--customers", "1"]);
    command.env("PAYSTREAM_BIND", "127.0.0.1:0").env("PAYSTREAM_API_TOKEN", TOKEN);
    command.env("PAYSTREAM_OPERATOR_TOKENS", format!("ada={TOKEN}-ada"));
    command.stdout(std::process::Stdio::null());
    let process = Process::start(command).await;
    let home = directory.path().join(".paystream");
    let addresses = dev::running_addresses(&home).expect("they are found");

    // Whoever knows no password, from any account of this machine.
    for user in ["paystream", "postgres", "nobody"] {
        let mut url = Url::parse(&addresses.database_url).unwrap();
        url.set_username(user).unwrap();
        for password in [None, Some("paystream"), Some("")] {
            url.set_password(password).unwrap();
            let refused = PgConnection::connect(url.as_str()).await.unwrap_err();
            let code = refused.as_database_error().and_then(|error| error.code());
            assert_eq!(code.as_deref(), Some("28P01"), "{user}: {refused}");
        }
    }
    let mut url = Url::parse(&addresses.redis_url).unwrap();
    url.set_password(None).unwrap();
    let mut stranger =
        redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let refused = redis::cmd("KEYS").arg("*").exec_async(&mut stranger).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"), "{refused}");

    // Nor can anybody read a password.
    for file in ["addresses.json", "redis/password", "redis/redis.conf", "redis/log"] {
        assert_eq!(mode(&home.join(file)) & 0o177, 0, "{file}");
    }
    for folder in ["redis", "postgres"] {
        assert_eq!(mode(&home.join(folder)) & 0o067, 0, "{folder}");
    }
    assert_eq!(mode(&home) & 0o066, 0);
    if rustix::process::geteuid().is_root() {
        // As root we can be somebody else.
        let mut find = Command::new("setpriv");
        find.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "find"]);
        find.arg(&home).args(["-type", "f", "-readable"]);
        assert_eq!(run(find).await.stdout, "", "nobody reads these");
    }

    // Whoever gets in all the same does not find our tokens.
    #[cfg(target_os = "linux")]
    {
        let family = family(process.pid());
        assert!(family.len() > 8, "guardians, servers and their children: {family:?}");
        for pid in &family[1..] {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment).into_owned();
            assert!(!environment.contains("PAYSTREAM"), "{pid}: {environment}");
            assert!(!environment.contains(TOKEN), "{pid}: {environment}");
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let url = Url::parse(&addresses.redis_url).unwrap();
            assert!(!command.contains(url.password().unwrap()), "{pid}: {command}");
        }
    }
    // Nor is what paystream itself connects as allowed more than it needs.
    let mut ours = PgConnection::connect(&addresses.database_url).await.unwrap();
    for statement in ["copy topology to program 'env'", "drop table topology", "create role me"] {
        let refused = sqlx::query(statement).execute(&mut ours).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
    let ours = redis::Client::open(addresses.redis_url.as_str()).unwrap();
    let mut ours = ours.get_multiplexed_async_connection().await.unwrap();
    for words in ["FLUSHALL", "KEYS *", "CONFIG SET appendonly no", "GET elsewhere", "EVAL 1 0"] {
        let words: Vec<&str> = words.split(' ').collect();
        let refused = redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut ours).await;
        assert_eq!(refused.unwrap_err().code(), Some("NOPERM"), "{words:?}");
    }

    // Commands beside it need no setting.
    for arguments in [&["partitions"][..], &["groups", "list"], &["audit"]] {
        let mut command = paystream();
        command.current_dir(directory.path()).args(arguments);
        let ended = run(command).await;
        assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    }
    process.stop().await;
    let left: PathBuf = home.join("addresses.json");
    assert!(!left.exists());
    dev::remove(&home).await.unwrap();
}

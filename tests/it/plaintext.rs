//! Proves that stores on other machines are reached over TLS or not at all, however their URL
//! is written, unless that is allowed; and that URLs may be in files.

use paystream::operations::{open_ledger, open_streams};

use crate::prelude::*;

/// URLs of Redis, and the host that each reaches in plain text.
const REDIS: [(&str, Option<&str>); 9] = [
    ("redis://127.0.0.1:6379/", None),
    ("redis://:secret@localhost:6379/0", None),
    ("redis://[::1]:6379/", None),
    ("redis+unix:///run/redis.sock", None),
    ("rediss://redis.example:6379/", None),
    ("redis://redis:6379/", Some("redis")),
    ("redis://10.0.0.1/", Some("10.0.0.1")),
    ("redis://localhost.example/", Some("localhost.example")),
    ("redis://127.0.0.1.example/", Some("127.0.0.1.example")),
];
/// The same of PostgreSQL.
const POSTGRES: [(&str, Option<&str>); 14] = [
    ("postgres://p@127.0.0.1/p", None),
    ("postgres://p@localhost:5432/p", None),
    ("postgres://p@[::1]/p", None),
    ("postgres://p@%2Frun%2Fpostgresql/p", None),
    ("postgres://p@db.example/p?host=/run/postgresql", None),
    ("postgres://p@db.example/p?sslmode=require", None),
    ("postgres://p@db.example/p?sslmode=verify-ca", None),
    ("postgres://p@db.example/p?ssl-mode=verify-full", None),
    ("postgres://p:secret@db.example/p", Some("db.example")),
    ("postgres://p@db/p?sslmode=prefer", Some("db")),
    ("postgres://p@db/p?sslmode=allow", Some("db")),
    ("postgres://p@10.0.0.1/p?sslmode=disable", Some("10.0.0.1")),
    ("postgres://p@127.0.0.1/p?host=db.example", Some("db.example")),
    ("postgres://p@localhost/p?hostaddr=10.0.0.1", Some("10.0.0.1")),
];

#[track_caller]
fn is_refused<T>(opened: anyhow::Result<T>, setting: &str, host: Option<&str>) {
    let said = opened.err().map(|error| format!("{error:#}"));
    match (host, said) {
        (None, said) => assert_eq!(said, None),
        (Some(host), said) => {
            let said = said.unwrap_or_default();
            assert!(said.starts_with(&format!("{setting} reaches {host} without TLS")), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}

#[tokio::test]
async fn stores_on_other_machines_are_reached_over_tls_or_not_at_all() {
    let stores = Stores::new().await;
    let mut store = stores.config(&[]).store;
    for allowed in [false, true] {
        store.ledger.allow_plaintext_stores = allowed;
        for (url, host) in REDIS {
            store.redis_url = Some(url.into());
            let host = host.filter(|_| !allowed);
            is_refused(open_streams(&store, 8, 1), "PAYSTREAM_REDIS_URL", host);
        }
        for (url, host) in POSTGRES {
            store.ledger.database_url = Some(url.into());
            let host = host.filter(|_| !allowed);
            is_refused(open_ledger(&store.ledger), "PAYSTREAM_DATABASE_URL", host);
        }
    }
    // Whatever is started says so at once, and sends nothing anywhere.
    for (arguments, setting, url) in [
        (&["serve", "worker"][..], "PAYSTREAM_REDIS_URL", "redis://redis/"),
        (&["serve", "gateway"], "PAYSTREAM_DATABASE_URL", "postgres://p@db/p"),
        (&["migrate"], "PAYSTREAM_DATABASE_URL", "postgres://p@db/p"),
        (&["pending"], "PAYSTREAM_REDIS_URL", "redis://redis/"),
    ] {
        let mut command = operate(&stores, arguments);
        command.env(setting, url).env("PAYSTREAM_BIND", "127.0.0.1:0");
        run(command).await.refused(&[&format!("{setting} reaches "), "without TLS"]);
    }
    let mut doctor = operate(&stores, &["doctor"]);
    doctor.env("PAYSTREAM_REDIS_URL", "redis://redis/");
    run(doctor).await.is(1, "PAYSTREAM_REDIS_URL reaches redis without TLS");
}

#[tokio::test]
async fn urls_of_the_stores_may_be_in_files() {
    let stores = Stores::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        path
    };
    let without_urls = |mut command: Command| {
        command.env_remove("PAYSTREAM_REDIS_URL").env_remove("PAYSTREAM_DATABASE_URL");
        command.env("PAYSTREAM_REDIS_URL_FILE", file("redis", &stores.redis_url));
        command.env("PAYSTREAM_DATABASE_URL_FILE", file("database", &stores.database_url));
        command
    };
    let all = Process::start(without_urls(serve("all", &stores, &[]))).await;
    let all = all.account("ADA", "100").await;
    all.api.pay("one", "ADA", "1").await;
    all.settled(&stores).await;
    let show = without_urls(operate(&stores, &["show", "one", "--json"]));
    assert_eq!(run(show).await.code(), Some(0));
    let mut both = without_urls(serve("worker", &stores, &[]));
    both.env("PAYSTREAM_REDIS_URL", &stores.redis_url);
    run(both).await.refused(&["cannot be used with"]);
    let mut none = without_urls(serve("worker", &stores, &[]));
    none.env("PAYSTREAM_DATABASE_URL_FILE", folder.path().join("none"));
    run(none).await.refused(&["could not read PAYSTREAM_DATABASE_URL_FILE"]);
    let plain = without_urls(serve("worker", &stores, &[]));
    file("database", "postgres://p@db/p");
    run(plain).await.refused(&["PAYSTREAM_DATABASE_URL reaches db without TLS"]);
}

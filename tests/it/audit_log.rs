//! Proves that what moves held money, opens accounts or changes how much is logged
//! leaves a row of the audit log, in the transaction that does it; that a log level
//! can be changed while PostgreSQL is away; and that a command knows who runs it
//! where the machine has no name for the user. That tampering with the log shows is
//! proven in chain.rs.

use std::os::unix::fs::PermissionsExt;

use crate::prelude::*;

const ADA: &str = "the-token-of-ada-01";

/// Rows of the audit log, the oldest first: actor, action, subject.
async fn rows(stores: &Stores) -> Vec<(String, String, String)> {
    stores.rows("select actor, action, subject from audit_log order by id").await
}

fn row(actor: &str, action: &str, subject: &str) -> (String, String, String) {
    (actor.to_owned(), action.to_owned(), subject.to_owned())
}

#[tokio::test]
async fn opening_an_account_notes_what_it_applied() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay_all("LATE", &[("held1", "7"), ("held2", "8")]).await;
    h.settled().await;
    h.api.open_account("LATE", "100.5").await;
    let (before, after) =
        noted_by(&h.stores, "account_opened", ["api", "LATE", "opened by the API"]).await;
    assert_eq!(before, Value::Null);
    let wanted = json!({
        "asset_value": "100.50", "term_weeks": 50, "released": 2,
        "references": ["held1", "held2"], "conflicts": [],
    });
    assert_eq!(after, wanted);
    // Again: nothing is opened, and nothing is noted.
    let body = json!({"customer_id": "LATE", "asset_value": "100.50", "term_weeks": 50});
    h.api.post("/api/v1/customers", &body).await.is(200);
    let opened = |subject| row("api", "account_opened", subject);
    assert_eq!(rows(&h.stores).await, [opened("ADA"), opened("LATE")]);
    // No row, no money: the log refuses, and the account is not there.
    let refuse = "create function refuse_row() returns trigger language plpgsql as $$
         begin raise exception 'full'; end $$;
         create trigger refuse_row before insert on audit_log for each row
         execute function refuse_row()";
    h.stores.sql(refuse).await;
    h.api.pay("held3", "NEVER", "5").await;
    h.settled().await;
    let body = json!({"customer_id": "NEVER", "asset_value": "100", "term_weeks": 50});
    h.api.post("/api/v1/customers", &body).await.is_problem(500, "internal");
    h.api.get("/api/v1/customers/NEVER").await.is(404);
    assert_eq!(h.api.payment("held3").await["status"], "suspense");
}

#[tokio::test]
async fn a_seed_is_noted_once_and_held_money_each_time() {
    let h = Harness::with(&["--operator-tokens", &format!("ada={ADA}")]).await;
    h.api.pay("held", "GIG00002", "7").await;
    let stored = "select count(*) from suspense";
    h.stores.until(1, stored).await;
    let seed = async |body: Value| {
        let path = "/api/v1/admin/seed-customers";
        send(h.api.request(Method::POST, path).json(&body).bearer_auth(ADA)).await
    };
    let seeded = seed(json!({"count": 5001, "reason": "the pilot begins"})).await;
    assert_eq!((seeded.status, &seeded.json()["created"]), (200, &json!(5001)), "{}", seeded.text);
    let (actor, subject, reason, before, after) = logged(&h.stores, "customers_seeded").await;
    assert_eq!((&*actor, &*subject), ("ada", "GIG00001 to GIG05001"));
    assert_eq!((&*reason, before), ("the pilot begins", Value::Null));
    assert_eq!(after, json!({"count": 5001, "first": "GIG00001", "last": "GIG05001"}));
    let (.., after) = logged(&h.stores, "account_opened").await;
    assert_eq!((&after["released"], &after["references"]), (&json!(1), &json!(["held"])));
    assert_eq!(seed(json!({"count": 500})).await.json()["existing"], 500);
    let noted = [
        row("ada", "customers_seeded", "GIG00001 to GIG05001"),
        row("ada", "account_opened", "GIG00002"),
    ];
    assert_eq!(rows(&h.stores).await, noted, "what opens nothing is not noted");
    let more = h.stores.run(&["seed", "--count", "5002", "--actor", "ben"]).await;
    assert!(more.stdout.starts_with("1 customers created, 5001 existed"), "{more:?}");
    assert_eq!(rows(&h.stores).await[2], row("ben", "customers_seeded", "GIG00001 to GIG05002"));
}

async fn set_level(api: &Api, body: &Value) -> Reply {
    send(api.request(Method::PUT, "/api/v1/admin/log").json(body)).await
}

#[tokio::test]
async fn a_log_level_is_noted_and_changes_without_postgresql_too() {
    let (mut postgres, stores) = Stores::on_own_postgres("audit-log-postgres").await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    let body = json!({"level": "info,paystream=debug", "actor": "ada", "reason": "posts are slow"});
    set_level(&gateway.api, &body).await.is(200);
    let (before, after) =
        noted_by(&stores, "log_level_changed", ["ada", "log level", "posts are slow"]).await;
    assert_eq!((before, after), (json!({"level": "info"}), json!({"level": body["level"]})));
    set_level(&gateway.api, &json!({"level": "loud"})).await.is(422);
    assert_eq!(stores.count("select count(*) from audit_log").await, 1, "a refusal is no change");
    postgres.kill().await.unwrap();
    let set = set_level(&gateway.api, &json!({"level": "debug", "actor": "ada"})).await;
    assert_eq!((set.status, &set.json()["level"]), (200, &json!("debug")), "{}", set.text);
    gateway.until_logged("the change of the log level is not in the audit log").await;
}

#[tokio::test]
async fn a_failure_is_found_in_the_log_by_the_id_that_the_client_was_given() {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    stores.sql("alter table customer_accounts rename to elsewhere").await;
    let problem = gateway.api.get("/api/v1/customers/ADA").await.is_problem(500, "internal");
    let id = problem["request_id"].as_str().unwrap();
    let line_with = async |text: &str| -> Value {
        gateway.until_logged(text).await;
        let log = gateway.log();
        let line = log.lines().find(|line| line.contains(text)).unwrap();
        serde_json::from_str(line).unwrap()
    };
    let line = line_with(id).await;
    has(&line, json!({"level": "ERROR", "request_id": id}));
    assert!(line["message"].as_str().unwrap().starts_with("a request failed"), "{line}");
    // A client may choose the id; it cannot write fields of its own with it.
    let chosen = r#"x","level":"INFO"#;
    let request = gateway.api.request(Method::GET, "/api/v1/customers/BOB");
    send(request.header("x-request-id", chosen)).await.is_problem(500, "internal");
    let line = line_with(&serde_json::to_string(chosen).unwrap()).await;
    has(&line, json!({"level": "ERROR", "request_id": chosen}));
    gateway.api.post_payment(&payment("fine", "ADA", "1")).await.is(202);
}

/// A user that no name is known for, as in many containers.
const NAMELESS: u32 = 54_321;

#[tokio::test]
async fn a_command_knows_who_runs_it_without_a_name_in_the_environment() {
    let stores = Stores::new().await;
    // Where that user may run it.
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("paystream");
    fs::copy(paystream().as_std().get_program(), &binary).unwrap();
    for path in [directory.path(), &binary] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let is_root = runs_as_root();
    let command = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(&binary);
        command
            .args(arguments)
            .env_clear()
            .env("PAYSTREAM_REDIS_URL", &stores.redis_url)
            .env("PAYSTREAM_DATABASE_URL", &stores.database_url)
            .env("PAYSTREAM_KEY_PREFIX", &stores.key_prefix)
            .current_dir(directory.path());
        if is_root {
            command.uid(NAMELESS).gid(NAMELESS);
        }
        command
    };
    let register = ["groups", "register", "notify", "--note", "tells customers"];
    let done = run(command(&register)).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    let why = ["--reason", "why", "--all"];
    let dry = [&["dead-letters", "redrive", "--dry-run"][..], &why].concat();
    let none = run(command(&dry)).await;
    assert_eq!(none.code(), Some(1), "{none:?}");
    assert!(none.stdout.starts_with("No open dead letter matches"), "{none:?}");
    let seeded = run(command(&["seed", "--count", "2"])).await;
    assert_eq!(seeded.code(), Some(0), "{seeded:?}");
    let (actor, ..) = logged(&stores, "customers_seeded").await;
    if is_root {
        assert_eq!(actor, format!("uid {NAMELESS}"));
    } else {
        assert!(!actor.is_empty());
    }
    let groups = rows(&stores).await;
    assert!(groups.iter().all(|(who, ..)| *who == actor), "{groups:?}");
}

/// Only root may run a command as somebody else.
fn runs_as_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

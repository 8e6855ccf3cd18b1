//! Proves that `paystream doctor` names what is wrong with real parts that are
//! stopped, killed, frozen or set wrongly, each with its heading of the RUNBOOK,
//! and goes on when a store is away; and that the ledger keeps the history of
//! attempts it tells of.

use crate::prelude::*;

/// What may be wrong with the machine that runs the tests.
const OF_THE_MACHINE: [&str; 5] =
    ["disk_low", "redis_memory_low", "redis_slow", "postgresql_slow", "postgresql_connections_low"];

/// What the doctor says, and whether it is content.
pub struct Said {
    status: Option<i32>,
    pub findings: Vec<Value>,
}

impl From<Ended> for Said {
    fn from(ended: Ended) -> Self {
        let shown: Value = ended.json();
        let findings = shown["findings"].as_array().unwrap().clone();
        let codes: BTreeSet<&str> =
            findings.iter().map(|one| one["code"].as_str().unwrap()).collect();
        assert!(codes.iter().all(|code| KINDS.iter().any(|kind| kind.code == *code)), "{codes:?}");
        Self { status: ended.code(), findings }
    }
}

impl Said {
    /// A finding that is not good, with its heading.
    pub fn find(&self, code: &str) -> Option<&Value> {
        let found =
            self.findings.iter().find(|one| one["code"] == code && one["severity"] != "good")?;
        let kind = KINDS.iter().find(|kind| kind.code == code).expect("a known code");
        assert_eq!(found["runbook"], kind.runbook, "{found}");
        assert!(found["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{found}");
        assert!(found["sentence"].as_str().is_some_and(|it| !it.is_empty()), "{found}");
        Some(found)
    }

    /// The same, which must be there, of this severity.
    #[track_caller]
    pub fn has(&self, code: &str, severity: &str) -> String {
        let found = self.find(code).unwrap_or_else(|| panic!("no {code}: {:?}", self.findings));
        assert_eq!(found["severity"], severity, "{found}");
        let fails = ["warning", "critical"].contains(&severity);
        assert!(!fails || self.status == Some(1), "{:?}", self.status);
        found["sentence"].as_str().unwrap().to_owned()
    }

    /// The same, with this in its sentence.
    #[track_caller]
    pub fn tells(&self, code: &str, severity: &str, text: &str) {
        let sentence = self.has(code, severity);
        assert!(sentence.contains(text), "{sentence}");
    }

    /// Codes that are a warning or worse, but for those of the machine.
    pub fn bad(&self) -> BTreeSet<&str> {
        let bad = self
            .findings
            .iter()
            .filter(|one| one["severity"] == "warning" || one["severity"] == "critical");
        let codes = bad.map(|one| one["code"].as_str().unwrap());
        codes.filter(|code| !OF_THE_MACHINE.contains(code)).collect()
    }
}

pub async fn doctor_with(stores: &Stores, settings: &[(&str, &str)]) -> Said {
    let mut command = operate(stores, &["doctor", "--json"]);
    command.envs(settings.iter().copied());
    Said::from(run(command).await)
}

pub async fn doctor(stores: &Stores) -> Said {
    doctor_with(stores, &[]).await
}

/// Asks the doctor until it finds this.
pub async fn until_found(stores: &Stores, code: &str) -> Said {
    eventually(&format!("the doctor finds {code}"), async || {
        let said = doctor(stores).await;
        said.find(code).is_some().then_some(said)
    })
    .await
}

#[tokio::test]
async fn a_healthy_system_is_told_to_be_well() {
    let h = Harness::start().await.account("ADA", "1000").await;
    h.api.pay("one", "ADA", "1").await;
    h.settled().await;
    let said = eventually("nothing is wrong", async || {
        let said = doctor(&h.stores).await;
        said.bad().is_empty().then_some(said)
    })
    .await;
    let machine = said.findings.iter().any(|one| {
        OF_THE_MACHINE.contains(&one["code"].as_str().unwrap()) && one["severity"] != "good"
    });
    assert_eq!(said.status, Some(i32::from(machine)), "{:?}", said.findings);
    let told = |one: &Value, field: &str| one[field].as_str().is_some_and(|it| !it.is_empty());
    for one in &said.findings {
        assert!(told(one, "subject") && told(one, "sentence"), "{one}");
    }
    // Both stores, and everything that lies in them, was looked at.
    let good = |code| said.findings.iter().any(|one| one["code"] == code);
    for code in ["redis_loses", "postgresql_loses", "schema_mismatch", "no_worker", "pending_old"] {
        assert!(good(code), "{code}: {:?}", said.findings);
    }
    let page = h.stores.run(&["doctor"]).await;
    assert_eq!(page.stdout.starts_with("OK\n"), !machine, "{page:?}");
    assert!(!page.stdout.contains('\x1b'), "colours without a terminal: {page:?}");
}

#[tokio::test]
async fn without_postgresql_redis_is_looked_at_and_owners_are_unknown() {
    let (mut postgres, stores) = Stores::on_own_postgres("doctor-owners").await;
    let mut h = Harness::on(stores, &[]).await;
    until_spread(&h.stores, &["tester"]).await;
    until("Redis is told of every owner", async || h.stores.keys("*:owner").await.len() == 8).await;
    h.crash_worker();
    postgres.stop().await.unwrap();
    let said = doctor(&h.stores).await;
    said.has("postgresql_unreachable", "critical");
    assert_eq!(said.bad(), BTreeSet::from(["postgresql_unreachable"]));
    assert!(said.findings.iter().any(|one| one["code"] == "redis_loses"), "redis is looked at");
    for command in [["losses", "list"], ["dead-letters", "list"], ["groups", "list"]] {
        h.stores.run(&command).await.refused(&["Connection refused"]);
    }
    // An entry of long ago waits.
    h.stores.tell(&["XADD", &h.stores.key(3, "stream"), "1000-1", "v", "1"]).await;
    let said = doctor(&h.stores).await;
    said.tells("owners_unknown", "notice", "last owners known to Redis: tester 8");
    assert_eq!(said.bad(), BTreeSet::from(["postgresql_unreachable", "waiting_long"]));
    for finding in &said.findings {
        let advice = finding["advice"].as_str().unwrap();
        assert!(
            !advice.contains("start a worker") && !advice.contains("more workers"),
            "{finding}"
        );
    }
    let shown = h.stores.run(&["partitions", "--interval", "100ms"]).await;
    assert_eq!(shown.code(), Some(2), "{shown:?}");
    assert!(shown.stdout.contains("owners are unknown (last owners known to Redis: tester 8)"));
    assert!(shown.stdout.contains("| tester? |") && !shown.stdout.contains("NONE"), "{shown:?}");
    // The console's API says the same.
    let checkup = h.api.get("/api/v1/admin/doctor").await.json();
    let findings = checkup["findings"].as_array().unwrap();
    assert!(findings.iter().any(|one| one["code"] == "owners_unknown"), "{checkup}");
    assert!(!checkup.to_string().contains("start a worker"), "{checkup}");
    h.crash();
}

#[tokio::test]
async fn a_redis_that_became_unsafe_or_went_away_is_found() {
    let (mut redis, stores) = Stores::on_own_redis("doctor-unsafe").await;
    let set = async |name: &str, value: &str| {
        stores.tell(&["CONFIG", "SET", name, value]).await;
    };
    set("appendfsync", "everysec").await;
    set("maxmemory-policy", "allkeys-lru").await;
    let said = doctor(&stores).await;
    said.tells("redis_loses", "critical", "appendfsync is everysec");
    said.has("redis_evicts", "critical");
    let allowed = doctor_with(&stores, &[("PAYSTREAM_ALLOW_UNSAFE_REDIS", "true")]).await;
    allowed.has("redis_loses", "warning");
    redis.stop().await.unwrap();
    let said = doctor(&stores).await;
    said.has("redis_unreachable", "critical");
    said.has("no_worker", "critical");
    assert_eq!(said.bad(), BTreeSet::from(["redis_unreachable", "no_worker"]));
    let praised = ["owner_silent", "owner_stuck"];
    assert!(said.findings.iter().all(|one| !praised.contains(&one["code"].as_str().unwrap())));
    // A cause is told once, however many errors carry it.
    let ended = stores.run(&["pending"]).await;
    assert_eq!(ended.stderr.matches("refused").count(), 1, "{ended:?}");
}

#[tokio::test]
async fn a_silent_worker_is_told_until_it_wakes_or_is_replaced() {
    let stores = Stores::new().await;
    let (a, b) = tokio::join!(worker(&stores, "a", &[]), worker(&stores, "b", &[]));
    until_spread(&stores, &["a", "b"]).await;
    a.signal("STOP").await;
    let said = until_found(&stores, "owner_silent").await;
    said.tells("owner_silent", "warning", "its 4 partitions are taken over in ");
    let sentence = said.has("owner_silent", "warning");
    assert!(sentence.starts_with("a has been silent for "), "{sentence}");
    until_spread(&stores, &["b"]).await;
    a.signal("CONT").await;
    until_spread(&stores, &["a", "b"]).await;
    until("it is well", async || doctor(&stores).await.bad().is_empty()).await;
    // One that dies is replaced before anybody looks.
    a.kill().await;
    until_spread(&stores, &["b"]).await;
    doctor(&stores).await.tells("owner_silent", "notice", "a has sent no heartbeat for");
    b.stop().await;
    doctor(&stores).await.has("no_worker", "critical");
}

#[tokio::test]
async fn a_foreign_group_that_stopped_reading_is_told_with_what_it_keeps() {
    let stores = Stores::new().await;
    // An entry of long ago that ours has settled.
    let stream = stores.key(3, "stream");
    stores.tell(&["XADD", &stream, "1000-1", "v", "1"]).await;
    let moved = ["XGROUP", "SETID", &stream, "ledger", "1000-1", "ENTRIESREAD", "1"];
    stores.tell(&moved).await;
    let arguments = ["groups", "register", "notify", "--note", "tells customers", "--actor", "ada"];
    let registered = stores.run(&arguments).await;
    assert!(registered.status.success(), "{registered:?}");
    assert!(registered.stdout.contains("created on all 8 partitions;"), "{registered:?}");
    assert!(doctor(&stores).await.find("group_pins_trimming").is_none(), "it has just begun");
    stores.sql("update consumer_groups set registered_at = now() - interval '1 hour'").await;
    let sentence = doctor(&stores).await.has("group_pins_trimming", "warning");
    assert!(sentence.contains("group notify"), "{sentence}");
    assert!(sentence.contains("1 settled entries wait for it, on partition 3"), "{sentence}");
    let retire = ["groups", "retire", "notify", "--yes", "--actor", "ada"];
    assert!(stores.run(&retire).await.status.success());
    assert!(doctor(&stores).await.find("group_pins_trimming").is_none());

    // One that nobody registered, and one that is registered and not there.
    stores.tell(&["XGROUP", "CREATE", &stream, "stranger", "$"]).await;
    let said = doctor(&stores).await;
    said.tells("group_unregistered", "warning", "group stranger is on partition 3");
    stores
        .sql(
            "insert into consumer_groups (name, starts_from, note) values ('stranger', 'now', 'n')",
        )
        .await;
    let said = doctor(&stores).await;
    said.tells("group_incomplete", "warning", "missing on partitions 0, 1, 2, 4, 5 and 2 more");
}

#[tokio::test]
async fn poison_is_told_while_it_is_tried_and_when_it_is_buried() {
    // Pauses of 7 s in all, so that a doctor on a busy machine comes in time.
    let h = Harness::with(&["--attempts-max", "8"]).await.account("ADA", "1000").await;
    refuse_poison(&h.stores).await;
    h.api.pay("POISON", "ADA", "1").await;
    // While an attempt is under way, it has not failed yet.
    let sentence = eventually("the doctor tells why it fails", async || {
        let said = until_found(&h.stores, "poison_on_trial").await;
        let sentence = said.has("poison_on_trial", "warning").to_owned();
        sentence.contains("no payment is called POISON").then_some(sentence)
    })
    .await;
    assert!(sentence.contains(" of 8, "), "{sentence}");
    h.settled().await;
    let said = doctor(&h.stores).await;
    let sentence = said.has("dead_letters_open", "warning");
    assert!(sentence.starts_with("1 dead letter is open"), "{sentence}");
    assert!(said.find("poison_on_trial").is_none());

    // Every attempt is kept, as it began and as it failed.
    let attempts = "select attempt, error is not null from attempts
         where first_stream_id = (select stream_id from dead_letters) order by id";
    let attempts: Vec<(i32, bool)> = h.stores.rows(attempts).await;
    let wanted: Vec<(i32, bool)> = (1..=8).flat_map(|n| [(n, false), (n, true)]).collect();
    assert_eq!(attempts, wanted);
    let by = "select count(*) from attempts join partition_owners using (partition, epoch)
         where worker = owner";
    assert_eq!(h.stores.count(by).await, 16);
}

#[tokio::test]
async fn a_stream_that_is_gone_is_found() {
    let stores = Stores::new().await;
    assert_eq!(stores.delete_keys("{p02}:stream").await, 1);
    stores.tell(&["XGROUP", "DESTROY", &stores.key(5, "stream"), "ledger"]).await;
    let said = doctor(&stores).await;
    assert!(said.has("stream_missing", "critical").contains("partition 2 "));
    assert!(said.has("group_missing", "critical").ends_with("partition 5"));
}

#[tokio::test]
async fn what_does_not_fit_together_is_found() {
    let stores = Stores::new().await;
    let said = doctor_with(&stores, &[("PAYSTREAM_LEASE", "1s")]).await;
    said.tells("settings_refused", "critical", "must be at least twice PAYSTREAM_BATCH_DEADLINE");
    let said = doctor_with(&stores, &[("PAYSTREAM_REDIS_URL", "nonsense")]).await;
    let settings = said.findings.iter().filter(|one| one["code"] == "settings_refused");
    assert_eq!(settings.count(), 1, "not consistent beside it: {:?}", said.findings);
    let said = doctor_with(&stores, &[("PAYSTREAM_BIND", "0.0.0.0:80")]).await;
    assert!(said.has("settings_refused", "critical").contains("no token guards it"));
    let (_, server) = stores.database_url.split_once('@').unwrap();
    let wrong = format!("postgres://stranger@{server}");
    doctor_with(&stores, &[("PAYSTREAM_DATABASE_URL", &wrong)])
        .await
        .has("postgresql_unexpected", "critical");
    let said = doctor_with(&stores, &[("PAYSTREAM_PARTITIONS", "16")]).await;
    assert!(said.has("topology_mismatch", "critical").contains("the topology has 8"));
    stores.sql("update topology set provisioned_at = null").await;
    doctor(&stores).await.has("streams_not_created", "critical");
    let latest = "delete from _sqlx_migrations where version = (select max(version) from
         _sqlx_migrations)";
    stores.sql(latest).await;
    doctor(&stores).await.tells("schema_mismatch", "critical", "older than this release");
}

#[tokio::test]
async fn what_operators_began_and_nobody_followed_is_found() {
    let stores = Stores::new().await;
    stores.sql("insert into workers (worker_id, incarnation, beat_at, lease_ms)
         values ('ghost', gen_random_uuid(), clock_timestamp() + interval '1 minute', 3600000);
             update partition_owners set owner = 'ghost', epoch = 1, moved_at = now() - interval '1 h',
         release_asked_at = case partition when 4 then now() - interval '1 minute' end;
             update topology set resizing_to = 16, resize_started_at = now() - interval '1 hour';
             insert into dead_letters (partition, stream_id, code, reason, entry, attempts, epoch)
         values (1, '1-1', 'entry_unreadable', 'r', '{}', 1, 1)").await;
    let said = doctor(&stores).await;
    let sentence = said.has("release_ignored", "warning");
    assert!(sentence.starts_with("ghost was asked for partition 4 1m "), "{sentence}");
    assert!(said.has("resize_under_way", "warning").contains("changing to 16 for 1h"));
    // Nobody is sent to redrive what nobody can read.
    let advice = said.find("dead_letters_open").unwrap()["advice"].as_str().unwrap();
    assert!(advice.contains("discard ID") && !advice.contains("redrive"), "{advice}");
    // And an owner that lives and does nothing while an entry waits.
    stores.tell(&["XADD", &stores.key(6, "stream"), "1000-1", "v", "1"]).await;
    let said = doctor(&stores).await;
    said.has("waiting_long", "critical");
    let sentence = said.has("owner_stuck", "critical");
    assert!(sentence.starts_with("ghost lives and settles nothing of partition 6"), "{sentence}");
    assert_eq!(
        said.find("release_ignored").map(|one| &one["subject"]),
        Some(&json!("partition 4"))
    );
    // No share is uneven where every worker is leaving.
    stores.sql("update workers set leaving = true").await;
    doctor(&stores).await.has("release_ignored", "warning");
}

//! Proves that tampering with the audit log shows: the database chains every row, whoever inserts
//! it and how many do so at once, and waits for no lock meanwhile; `paystream audit` finds what the
//! owner of the database has changed, removed or put in, and a checkpoint finds a whole new chain.

use paystream::ledger::{FullAudit, NewAccount, Signature, Topology};

use crate::prelude::*;

fn ledger(stores: &Stores) -> Ledger {
    Ledger::new(&stores.database_url).unwrap()
}

async fn topology(stores: &Stores) -> Topology {
    ledger(stores).schema().topology(None, &stores.key_prefix).await.unwrap()
}

/// What is wrong with the log: check, subject.
async fn found(audit: &FullAudit) -> Vec<String> {
    let drifts = audit.run(&[], |_| ()).await.unwrap().drifts.into_iter();
    let of_log = drifts.filter(|drift| drift.check.starts_with("log_"));
    of_log.map(|drift| format!("{} {}", drift.check, drift.subject)).collect()
}

/// Six rows, with each kind of value.
const ROWS: &str = "
    insert into audit_log (actor, action, subject, reason, before, after)
    select 'ada', 'changed', 'Ọ̀ṣun ' || n, case when n % 2 = 0 then 'why: \"so\"' end,
        case when n % 3 <> 0 then 'null'::jsonb end, jsonb_build_object('b', n, 'a', '1.50')
    from generate_series(1, 6) n;
    create table kept as select * from audit_log;
    create table kept_head as select * from audit_log_head;";
/// As it was, and nothing in the way of whoever owns the database.
const RESTORED: &str = "
    set session_replication_role = replica;
    alter table audit_log drop constraint if exists audit_log_position;
    truncate audit_log, audit_log_head;
    insert into audit_log overriding system value select * from kept;
    insert into audit_log_head select * from kept_head;";
/// Makes every digest anew.
const REWRITTEN: &str = "
    do $$
    declare entry audit_log; previous bytea;
    begin
        select sha256(convert_to(ledger::text, 'UTF8')) into previous from audit_log_head;
        for entry in select * from audit_log order by position loop
            previous := audit_log_digest(entry, previous);
            update audit_log set digest = previous where id = entry.id;
        end loop;
        update audit_log_head set digest = previous, position = (select max(position) from audit_log);
    end $$;";

const THIRD: &[&str] = &["log_chain position 3, id 3"];
const TAMPERED: &[(&str, &[&str])] = &[
    ("", &[]),
    ("update audit_log set actor = 'eve' where id = 3", THIRD),
    ("update audit_log set reason = '' where id = 3", THIRD),
    ("update audit_log set before = 'null' where id = 3", THIRD),
    ("update audit_log set after = null where id = 3", THIRD),
    ("update audit_log set role = 'eve' where id = 3", THIRD),
    ("update audit_log set role = null where id = 3", THIRD),
    ("update audit_log set action = 'other' where id = 3", THIRD),
    ("update audit_log set subject = subject || ' ' where id = 3", THIRD),
    ("update audit_log set at = at - interval '1 microsecond' where id = 3", THIRD),
    // The same text, cut elsewhere.
    ("update audit_log set actor = 'ad', action = 'achanged' where id = 3", THIRD),
    // With a digest that fits again, the next row does not.
    (
        "update audit_log set actor = 'eve' where id = 3;
         update audit_log a set digest = audit_log_digest(a, b.digest)
         from audit_log b where a.id = 3 and b.id = 2",
        &["log_chain position 4, id 4"],
    ),
    ("delete from audit_log where id = 1", &["log_gap position 1"]),
    ("delete from audit_log where id in (3, 4)", &["log_gap positions 3 to 4"]),
    ("delete from audit_log where id = 6", &["log_gap position 6"]),
    ("delete from audit_log", &["log_gap positions 1 to 6"]),
    (
        "update audit_log set position = 6 - position where id in (2, 4)",
        &[
            "log_chain position 2, id 4",
            "log_chain position 3, id 3",
            "log_chain position 4, id 2",
            "log_chain position 5, id 5",
        ],
    ),
    (
        "insert into audit_log (id, position, digest, actor, action, subject) overriding system value
         values (9, 3, '', 'eve', 'changed', 'x')",
        &["log_chain id 9"],
    ),
    (
        "alter table audit_log alter position drop not null;
         insert into audit_log (id, digest, actor, action, subject) overriding system value
         values (9, '', 'eve', 'changed', 'x')",
        &["log_chain id 9"],
    ),
    (
        "insert into audit_log (id, position, digest, actor, action, subject) overriding system value
         values (9, 7, '', 'eve', 'changed', 'x');
         update audit_log a set digest = audit_log_digest(a, b.digest)
         from audit_log b where a.id = 9 and b.id = 6",
        &["log_end position 7"],
    ),
    ("update audit_log_head set digest = ''", &["log_end position 6"]),
    ("delete from audit_log_head", &["log_end audit_log_head"]),
];

#[tokio::test]
async fn what_the_owner_of_the_database_does_to_the_log_is_found() {
    let stores = Stores::new().await;
    stores.sql(ROWS).await;
    let audit = ledger(&stores).audit();
    assert_eq!(found(&audit).await, [""; 0]);
    let mut connection = stores.pool.acquire().await.unwrap();
    for (tampering, wanted) in TAMPERED {
        let sql = AssertSqlSafe(format!("{RESTORED} {tampering}"));
        sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
        assert_eq!(found(&audit).await, *wanted, "{tampering}");
    }
}

#[tokio::test]
async fn a_chain_that_was_rewritten_is_found_by_a_checkpoint_alone() {
    let stores = Stores::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (key, keys, file) = (path("key.pem"), path("keys.json"), path("checkpoints"));
    stores.succeed(&["keys", "new", &key, "--keys-file", &keys]).await;
    let take = async || stores.succeed(&["audit-log", "checkpoint", "--key", &key]).await;
    let empty = take().await;
    stores.sql("insert into audit_log (actor, action, subject) values ('ada', 'a', 's')").await;
    let first = take().await;
    stores.sql(ROWS).await;
    let last = take().await;
    assert!(last.ends_with('\n') && last.lines().count() == 1, "{last}");
    fs::write(&file, format!("{empty}{first}\n{last}")).unwrap();
    let audit = async |more: &[&str]| stores.run(&[&["audit"], more].concat()).await;
    let with = ["--checkpoint", &file, "--keys-file", &keys];
    audit(&with).await.is(0, "no drift");
    let mut connection = stores.pool.acquire().await.unwrap();
    for (tampering, position) in [
        ("update audit_log set actor = 'eve' where position = 5", "position 7 had the digest"),
        ("delete from audit_log where position > 6", "position 7 was there and is not"),
    ] {
        let sql = AssertSqlSafe(format!("{RESTORED} {tampering}; {REWRITTEN}"));
        sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
        audit(&[]).await.is(0, "no drift");
        let ended = audit(&with).await;
        ended.is(1, "does NOT hold: 1 drift");
        ended.is(1, "line 4, signed 2");
        ended.is(1, position);
    }
    // Nothing is signed that the next audit would not find.
    let sql = "update audit_log_head set position = 7";
    sqlx::raw_sql(sql).execute(&mut *connection).await.unwrap();
    let ended = stores.run(&["audit-log", "checkpoint", "--key", &key]).await;
    ended.refused(&["the audit log does not end where its head says"]);
    sqlx::raw_sql(RESTORED).execute(&mut *connection).await.unwrap();
    // What cannot be believed is no checkpoint.
    let token =
        ["token", "--subject", "ada", "--scope", "operations:read", "--issuer", "i", "--key"];
    let token = stores.succeed(&[&token[..], &[&key]].concat()).await;
    let other = path("other.pem");
    stores.succeed(&["keys", "new", &other, "--keys-file", &path("others.json")]).await;
    let foreign = stores.succeed(&["audit-log", "checkpoint", "--key", &other]).await;
    fs::write(&file, format!("{last}{token}{foreign}")).unwrap();
    let ended = audit(&with).await;
    ended.is(1, "does NOT hold: 2 drifts");
    ended.is(1, "it has another `typ` than audit-checkpoint+jwt");
    ended.is(1, "is not in the key set");
    sqlx::raw_sql("update audit_log_head set ledger = gen_random_uuid()")
        .execute(&mut *connection)
        .await
        .unwrap();
    audit(&with).await.is(1, "is of position 7 of ledger ");
    fs::write(&file, "\n").unwrap();
    audit(&with).await.refused(&["has no checkpoint"]);
}

#[tokio::test]
async fn changes_that_are_made_at_once_form_one_chain() {
    let stores = Stores::new().await;
    let letters =
        "insert into dead_letters (partition, stream_id, code, reason, entry, attempts, epoch)
         select n % 8, n || '-0', 'c', 'r', '{}', 1, 1 from generate_series(1, 60) n";
    stores.sql(letters).await;
    let (topology, ledger) = (topology(&stores).await, ledger(&stores));
    let mut tasks = JoinSet::new();
    for number in 0..6_u32 {
        let (admin, _) = ledger.admin(&topology, 1);
        let (registrar, pool) = (ledger.registrar(&topology), stores.pool.clone());
        tasks.spawn(async move {
            for one in 1..=10 {
                let account = NewAccount::seeded(number * 10 + one);
                registrar.open(account, &signed("ada")).await.unwrap();
                // An id that nobody uses.
                let mut lost = pool.begin().await.unwrap();
                let sql = "insert into audit_log (actor, action, subject) values ('x', 'x', 'x')";
                sqlx::raw_sql(sql).execute(&mut *lost).await.unwrap();
                lost.rollback().await.unwrap();
                let letter = i64::from(number * 10 + one);
                admin.discard(letter, &signed("ben")).await.unwrap().unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let count = "select count(*) from audit_log where position between 1 and 120 and id > 120";
    assert!(stores.count(count).await > 0, "ids have gaps");
    assert_eq!(stores.count("select position from audit_log_head").await, 120);
    assert_eq!(found(&ledger.audit()).await, [""; 0]);
}

/// A lock that another session holds on what `waiting` needs.
async fn notes_while(stores: &Stores, waiting: impl Future<Output = ()> + Send + 'static) {
    let mut holder = stores.session().await;
    let hold = "begin; select * from sequence_jumps where partition = 1 for update";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(waiting);
    let waits = "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'";
    stores.until(1, waits).await;
    // Whoever waits holds up nobody who notes a change.
    let note = "set lock_timeout = '20s';
         insert into audit_log (actor, action, subject) values ('ada', 'a', 's')";
    let mut connection = stores.session().await;
    let noted = sqlx::raw_sql(note).execute(&mut connection);
    in_time("a change is noted", noted).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut holder).await.unwrap();
    in_time("who waited goes on", tasks.join_next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_waits_for_another_lock_with_the_head_of_the_log() {
    let stores = Stores::new().await;
    let jumps =
        "insert into sequence_jumps (partition, after_sequence, resumes_at, reason, state, detail)
         select n, 0, 11, 'state_lost', 'open', 'lost' from generate_series(0, 1) n";
    stores.sql(jumps).await;
    let losses = ledger(&stores).losses();
    notes_while(&stores, async move {
        assert_eq!(losses.accept(None, "ada", "known").await.unwrap(), 2);
    })
    .await;
    let mut resize = ledger(&stores).resize().await.unwrap().unwrap();
    let by = Signature { actor: "ada".to_owned(), reason: "more".to_owned() };
    assert!(resize.wish(16, &by).await.unwrap());
    notes_while(&stores, async move { resize.switch(1, 16, 100, false, &by).await.unwrap() }).await;
    let noted = stores
        .texts(
            "select action || ' ' || coalesce(before::text, '') from audit_log order by position",
        )
        .await;
    let wanted = [
        "a ",
        "loss_accepted",
        "loss_accepted",
        "topology_resize_begun 8",
        "a ",
        "topology_resize 8",
    ];
    let fits = noted.iter().zip(wanted).all(|(one, wanted)| one.starts_with(wanted));
    assert!(fits && noted.len() == wanted.len(), "{noted:?}");
}

#[tokio::test]
async fn the_database_chains_what_any_release_and_any_role_inserts() {
    let stores = Stores::new().await;
    let clerk = format!("clerk_{}", stores.key_prefix);
    let older = "insert into audit_log (actor, action, subject, reason, before, after)
         values ('old', 'account_opened', 'ADA', 'r', 'null', '{}');";
    let lies = "insert into audit_log (at, actor, action, subject, role, position, digest)
         values ('2000-01-01', 'clerk', 'a', 's', 'other', 99, '\\x00');";
    stores
        .sql(&format!(
            "{older} create role {clerk}; grant insert on audit_log to {clerk};
         set session authorization {clerk}; {older} {lies} reset session authorization;
         drop owned by {clerk}; drop role {clerk};",
        ))
        .await;
    let owner = stores.texts("select session_user::text").await.swap_remove(0);
    let rows = "select position, role, at > now() - interval '1 hour' from audit_log order by id";
    let rows: Vec<(i64, String, bool)> = stores.rows(rows).await;
    assert_eq!(
        rows,
        [(1, owner.clone(), true), (2, clerk.clone(), true), (3, clerk.clone(), true)]
    );
    assert_eq!(found(&ledger(&stores).audit()).await, [""; 0]);
    // And shows the role.
    let listed = stores.run(&["audit-log", "list", "--json"]).await.json();
    assert_eq!([&listed[0]["role"], &listed[2]["role"]], [&json!(clerk), &json!(owner)]);
    stores.run(&["audit-log", "list", "--subject", "s"]).await.is(0, &clerk);
}

#[tokio::test]
async fn the_migration_chains_the_rows_that_are_there() {
    let stores = Stores::new().await;
    stores
        .sql(
            "
        drop trigger audit_log_chain on audit_log;
        drop function chain_audit_log, audit_log_digest;
        drop table audit_log_head;
        alter table audit_log drop role, drop position, drop digest;
        insert into audit_log (actor, action, subject, before) select 'a' || n, 'x', 's', 'null'
            from generate_series(1, 4) n;
        set session_replication_role = replica;
        delete from audit_log where actor = 'a2';
        reset session_replication_role",
        )
        .await;
    let migration = read("migrations/0019_audit_chain.sql");
    stores.sql(&format!("set role {OWNER}; {migration}; reset role")).await;
    // Gives the rights on the table that is new.
    stores.succeed(&["migrate"]).await;
    stores.sql("insert into audit_log (actor, action, subject) values ('new', 'x', 's')").await;
    let rows = "select id, position, role is null from audit_log order by position";
    let rows: Vec<(i64, i64, bool)> = stores.rows(rows).await;
    assert_eq!(rows, [(1, 1, true), (3, 2, true), (4, 3, true), (5, 4, false)]);
    assert_eq!(found(&ledger(&stores).audit()).await, [""; 0]);
}

#[tokio::test]
async fn what_is_pruned_is_gone_and_the_chain_goes_on_behind_it() {
    let stores = Stores::new().await;
    stores.sql(ROWS).await;
    let older = format!(
        "set session_replication_role = replica;
         update audit_log set at = '2020-01-01Z' where position <= 4; {REWRITTEN}
         reset session_replication_role"
    );
    stores.sql(&older).await;
    let audit = ledger(&stores).audit();
    assert_eq!(found(&audit).await, [""; 0]);
    let prune =
        ["audit-log", "prune", "--before", "2021-01-01", "--reason", "seven years are over"];
    stores.run(&prune).await.is(0, "4 rows were removed, up to position 4");
    assert_eq!(found(&audit).await, [""; 0]);
    let positions = "select position from audit_log order by position";
    assert_eq!(stores.values::<i64>(positions).await, [5, 6, 7]);
    stores.run(&prune).await.is(1, "no rows from before");
    let mut owner = stores.session().await;
    let refused = sqlx::query("delete from audit_log").execute(&mut owner).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "23001", "{refused}");
    // Whoever owns the database can prune, and cannot hide it.
    for (damage, wanted) in [
        (
            "update audit_log_anchor set digest = 'x'",
            &["log_chain position 5, id 5", "log_end audit_log_anchor"][..],
        ),
        (
            "update audit_log_anchor set position = 6,
                 digest = (select digest from audit_log where position = 6);
             delete from audit_log where position < 7",
            &["log_end audit_log_anchor"],
        ),
        (
            "delete from audit_log where position = 7",
            &["log_gap position 7", "log_end audit_log_anchor"],
        ),
    ] {
        let damaged = format!(
            "create table rows_before as select * from audit_log;
             create table anchor_before as select * from audit_log_anchor;
             set session_replication_role = replica; {damage}; reset session_replication_role"
        );
        stores.sql(&damaged).await;
        let mut seen = found(&audit).await;
        seen.sort_by_key(|one| wanted.iter().position(|wanted| wanted == one));
        assert_eq!(seen, wanted, "{damage}");
        stores.run(&prune).await.is(1, "is not as it was written");
        let restored = "set session_replication_role = replica;
             delete from audit_log; delete from audit_log_anchor;
             insert into audit_log overriding system value select * from rows_before;
             insert into audit_log_anchor select * from anchor_before;
             drop table rows_before, anchor_before;
             reset session_replication_role";
        stores.sql(restored).await;
    }
    assert_eq!(found(&audit).await, [""; 0]);
}

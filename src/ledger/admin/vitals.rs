//! What PostgreSQL can judge itself: a table of queries, one for each thing that can be wrong
//! with the server, with the owners of partitions, and with what waits for an operator. A query
//! measures and says in words what it found; how bad that is, the doctor decides. Never changes
//! anything, and counts no further than it has to.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow};

use super::{AdminStore, COUNT_MAX, locks};
use crate::ledger::{
    ACQUIRE_TIMEOUT, Error, Ledger, QUERY_TIMEOUT, in_time, rights::missing_rights,
    session::Session,
};

/// How often the way there is measured; the quickest counts.
const QUESTIONS: usize = 3;

/// One row of a check. In its texts `{age}` stands for [`Symptom::age`] and `{partitions}` for
/// the names of [`Symptom::partitions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow)]
#[sqlx(default)]
pub struct Symptom {
    /// A share in percent, a number, or an age in milliseconds.
    pub level: i64,
    /// In milliseconds; where there is none, `level` is the age.
    pub age: Option<i64>,
    pub partitions: Vec<i32>,
    /// What it is about, where that is one of many.
    pub subject: Option<String>,
    pub sentence: String,
    /// What is said where the level is as it should be.
    pub good: Option<String>,
    /// What to do, where that depends on what was found.
    pub advice: Option<String>,
}

/// Rows by the code of their check; without those that were not asked.
pub type Symptoms = BTreeMap<&'static str, Vec<Symptom>>;

#[derive(Clone, Debug)]
pub struct Vitals {
    /// The quickest of a few questions and answers.
    pub latency: Duration,
    pub now: DateTime<Utc>,
    /// Where it keeps its data; nothing when this user may not ask.
    pub directory: Option<String>,
    pub symptoms: Symptoms,
}

const SERVER: &[(&str, &str)] = &[
    (
        "postgresql_too_old",
        "select (current_setting('server_version_num')::int < 140000)::int::bigint as level,
             format('PostgreSQL is %s; nothing below 14 is tested', v) as sentence,
             format('is version %s, the database has %s', v,
                 pg_size_pretty(pg_database_size(current_database()))) as good
         from current_setting('server_version') v",
    ),
    (
        "postgresql_loses",
        "select count(*) as level, string_agg(name || ' is off', ' and ')
             || ': a crash of its machine can lose payments that were settled and acknowledged'
             as sentence
         from pg_settings
         where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'
         having count(*) > 0",
    ),
    (
        "postgresql_pooler",
        "select 1::bigint as level, 'a connection pooler is before this PostgreSQL and forgets the \
             settings of a session: timeouts of statements and locks do not hold' as sentence
         where current_setting('enable_seqscan') = 'on'",
    ),
    (
        "postgresql_read_only",
        "select 1::bigint as level, 'this PostgreSQL takes no writes: '
             || case when pg_is_in_recovery() then 'it is a standby, which copies another PostgreSQL'
                     else 'default_transaction_read_only is on' end as sentence
         where pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on'",
    ),
    (
        "postgresql_connections_low",
        "select used * 100 / most as level, words as sentence, words as good
         from (select count(*) as used from pg_stat_activity
                 where backend_type = 'client backend') used
         cross join (select greatest(current_setting('max_connections')::int
                 - current_setting('superuser_reserved_connections')::int, 1) as most) most
         cross join lateral format('%s of %s connections are in use', used, most) words",
    ),
    (
        "postgresql_standby_wait",
        "select coalesce(max(extract(epoch from clock_timestamp() - query_start) * 1000), 0)::bigint
                 as level,
             case count(*) when 1 then 'a commit waits' else count(*) || ' commits wait' end
                 || ' for the synchronous standby, the longest for {age}' as sentence,
             case when not pg_has_role('pg_read_all_stats', 'usage')
                     then 'whether commits wait for a standby is hidden: grant pg_monitor to this user'
                 else coalesce('commits wait for the standby '
                     || nullif(current_setting('synchronous_standby_names'), ''),
                     'commits wait for no standby') end as good
         from pg_stat_activity where datname = current_database() and wait_event = 'SyncRep'",
    ),
    (
        "postgresql_transaction_open",
        "select (extract(epoch from clock_timestamp() - xact_start) * 1000)::bigint as level,
             format('%s (process %s, %s) has had a transaction open for {age}: nothing that was \
                 deleted since can be cleaned up', coalesce(nullif(application_name, ''),
                 'an unnamed session'), pid, coalesce(state, 'hidden')) as sentence
         from pg_stat_activity
         where datname = current_database() and backend_type = 'client backend'
             and xact_start is not null and pid <> pg_backend_pid()
         order by xact_start limit 1",
    ),
];

/// A foreign session that holds what a batch needs explains those that wait. Whoever has held or
/// waited for less than two seconds is on its turn.
const LOCKS: &str = "
    , waits as (
        select pid, application_name,
            (extract(epoch from clock_timestamp() - query_start) * 1000)::bigint as waited,
            (select string_agg(format('%s (%s, %s)', b.pid,
                coalesce(nullif(b.application_name, ''), 'unnamed'), coalesce(b.state, 'hidden')),
                ', ') from pg_stat_activity b where b.pid = any(pg_blocking_pids(a.pid)))
                as blockers
        from pg_stat_activity a
        where datname = current_database() and application_name like 'paystream%'
            and wait_event_type = 'Lock')
    (select level, format('process %s (%s, %s) has locked %s in a transaction that has been open \
            for %s: %s; paystream sessions waiting for a lock: %s', pid,
            coalesce(nullif(application_name, ''), 'unnamed'), coalesce(state, 'hidden'),
            case when has_table then 'a table of the ledger' else 'rows of the ledger' end,
            case when xact_start is null then 'an unknown time' else '{age}' end,
            case when has_table then 'no payment is settled meanwhile'
                else 'payments of these accounts and their partitions wait' end,
            (select count(*) from waits)) as sentence,
        format('`paystream pending` names the payments that wait; if the session is nobody''s \
            work, end it: `select pg_terminate_backend(%s)`; what waits is settled then', pid)
            as advice
     from holders, coalesce((extract(epoch from clock_timestamp() - xact_start) * 1000)::bigint,
        2000) level
     where level >= 2000 order by xact_start limit 1)
    union all
    (select waited, format('%s sessions of paystream wait for a lock; %s (process %s) has waited \
            for {age}; held by %s', (select count(*) from waits where waited >= 2000),
            application_name, pid, coalesce(blockers, 'somebody who has just let go')), null
     from waits where waited >= 2000 order by waited desc limit 1)
    limit 1";

/// Who owns the partitions. Workers with their silence in milliseconds are `heard`.
const OWNERS: &[(&str, &str)] = &[
    (
        "no_worker",
        "select (count(*) filter (where lives) = 0)::int::bigint as level, min(silence) as age,
             'no worker lives' || coalesce((select format('; the last was %s, {age} ago', worker_id)
                 from heard order by silence limit 1), '')
                 || ': payments are taken and wait in the streams' as sentence,
             count(*) filter (where lives) || ' live' as good
         from heard",
    ),
    (
        "partition_unowned",
        "select max(level) as level, array_agg(partition order by partition) as partitions,
             '{partitions}' as subject,
             'nobody owns {partitions} although a worker is running' as sentence
         from partition_owners,
             cast(extract(epoch from clock_timestamp() - moved_at) * 1000 as bigint) level
         where owner is null and generation = (select generation from topology)
             and exists (select from heard where lives)
         having count(*) > 0",
    ),
    (
        "owner_silent",
        "select silence * 1000 / lease_ms as level, silence as age,
             'worker ' || worker_id as subject,
             format('%s has been silent for {age}; %s taken over %s', worker_id,
                 case owns when 1 then 'its partition is'
                     else format('its %s partitions are', owns) end,
                 case when lives and others then format('in %ss', (lease_ms - silence) / 1000 + 1)
                     else 'as soon as another worker runs' end) as sentence,
             case when others then 'wait for that, or start it again: nothing is lost. `paystream \
                 release --partition N --force --reason \"…\"` moves one at once' end as advice
         from heard h, lateral (select exists (select from heard o
             where o.lives and o.worker_id <> h.worker_id) as others) o
         where owns > 0 and silence * 1000 / lease_ms > 400
         union all
         (select 1, silence, 'worker ' || worker_id,
             worker_id || ' has sent no heartbeat for {age} and did not deregister; it owns \
                 nothing any more', 'see its log for the reason; restart it if needed'
          from heard where owns = 0 and not lives and silence <= 3600000 order by silence limit 1)",
    ),
    (
        "owners_uneven",
        "select case when bool_or(moving) then 0 else coalesce(max(owns) - min(owns), 0) end as level,
             'partitions are spread unevenly and nothing moves: ' || coalesce(shares, '') as sentence,
             coalesce('partitions: ' || shares,
                 'none takes partitions: they are leaving, or do not reach Redis') as good
         from (select string_agg(worker_id || ' ' || owns, ', ' order by worker_id) as shares
                 from (select * from heard where lives and not leaving order by worker_id limit 10) s
             ) s
         cross join (select exists (select from partition_owners
             where clock_timestamp() - moved_at <= interval '30 seconds') as moving) m
         left join heard on lives and not leaving
         where exists (select from heard where lives) group by shares",
    ),
    (
        "release_ignored",
        "select (extract(epoch from clock_timestamp() - release_asked_at) * 1000)::bigint as level,
             'partition ' || partition as subject,
             format('%s was asked for partition %s {age} ago and has not handed it over',
                 coalesce(owner, 'its owner'), partition) as sentence,
             format('`paystream release --partition %s --force --reason \"…\"`: what it still tries \
                 is refused', partition) as advice
         from partition_owners
         where release_asked_at is not null and generation = (select generation from topology)
         order by release_asked_at limit 1",
    ),
];

const HEARD: &str = "
    with heard as (
        select worker_id, lease_ms, leaving, silence, silence <= lease_ms as lives,
            (select count(*) from partition_owners where owner = worker_id) as owns
        from workers,
            cast(abs(extract(epoch from clock_timestamp() - beat_at)) * 1000 as bigint) silence) ";

/// What waits for an operator: rows, their names in the singular and in the plural, and SQL for
/// the words behind the name and for what to do, where that depends.
struct Pile {
    code: &'static str,
    rows: &'static str,
    names: [&'static str; 2],
    then: &'static str,
    advice: &'static str,
}

/// What waits for an operator, of one kind; at most [`COUNT_MAX`] rows are looked at.
#[derive(Clone, Copy, Debug)]
pub struct OpenCases {
    pub count: i64,
    /// How long the oldest has waited; 0 where there is none.
    pub oldest_seconds: i64,
}

const PILES: [Pile; 5] = [
    Pile {
        code: "dead_letters_open",
        rows: "dead_at as at, code from dead_letters where state = 'dead' order by id",
        names: ["dead letter is open", "dead letters are open"],
        then: "''",
        advice: "case when bool_and(code = 'entry_unreadable') then '`paystream dead-letters list`: \
            none of them could be read. Find out who wrote them, then `paystream dead-letters \
            discard ID --reason \"…\"`' end",
    },
    Pile {
        code: "suspense_held",
        rows: "held_at as at, amount from suspense where state = 'held'
            order by held_at, transaction_reference",
        names: ["payment", "payments"],
        then: "' held for unknown customers, ' || round(sum(amount), 2) || ' together'",
        advice: "null",
    },
    Pile {
        code: "conflicts_open",
        rows: "detected_at as at from conflicts where state = 'open'
            order by detected_at, partition, sequence",
        names: ["conflict is open", "conflicts are open"],
        then: "': one reference, two payments'",
        advice: "null",
    },
    Pile {
        code: "customers_parked",
        rows: "parked_at as at from customer_accounts where parked_at is not null",
        names: ["customer has payments", "customers have payments"],
        then: "' that wait behind a dead letter'",
        advice: "null",
    },
    Pile {
        code: "losses_open",
        rows: "detected_at as at from sequence_jumps where state = 'open'",
        names: ["loss", "losses"],
        then: "' still open: accepted payments are missing'",
        advice: "null",
    },
];

impl Pile {
    fn sql(&self) -> String {
        let Self { rows, names: [one, many], then, advice, .. } = self;
        format!(
            "select (greatest(extract(epoch from clock_timestamp() - min(at)), 0) * 1000)::bigint
                 as level,
                 case count(*) when 1 then '1 {one}' when {COUNT_MAX} then '{COUNT_MAX} or more {many}'
                     else count(*) || ' {many}' end || {then} || '; the oldest for {{age}}' as sentence,
                 {advice} as advice
             from (select {rows} limit {COUNT_MAX}) rows having count(*) > 0"
        )
    }
}

const CASES: &[(&str, &str)] = &[
    (
        "resize_under_way",
        "select (extract(epoch from clock_timestamp() - resize_started_at) * 1000)::bigint as level,
             format('the number of partitions has been changing to %s for {age}; payments may be \
                 refused', resizing_to) as sentence,
             format('`paystream topology show` says how far it is; if nobody is at it, run \
                 `paystream topology resize --partitions %s` again, or with --abort', resizing_to)
                 as advice
         from topology where resizing_to is not null",
    ),
    (
        "old_streams_left",
        "select count(*) as level, 'streams of an earlier topology are still there: a group of \
             others has not read them' as sentence
         from past_topologies where removed_at is null having count(*) > 0",
    ),
    (
        "payment_months_short",
        "select 1::bigint as level, 'there is no month for payments of '
             || to_char(ahead at time zone 'UTC', 'YYYY-MM-DD') || ': settling makes months ahead, and \
                 has not done so' as sentence
         from (select clock_timestamp() + interval '31 days' as ahead) a
         where not exists (select from payment_months
                 where detached_at is null and starts_at <= ahead and ends_at > ahead)
             and exists (select from processed_transactions
                 where processed_at > clock_timestamp() - interval '1 day')",
    ),
    (
        "account_damaged",
        "with dead as (
             select customer_id, count(*) as letters from (
                 select customer_id from dead_letters
                 where state = 'dead' and customer_id is not null order by id limit 10000) s
             group by customer_id)
         select letters as level, 'account ' || customer_id as subject,
             format('account %s stands at version %s, but its statement goes on to %s: it was \
                 changed by hand or damaged; %s open for it', customer_id, version, last,
                 case letters when 1 then '1 dead letter is'
                     else letters || ' dead letters are' end) as sentence,
             format('compare the account with its statement (`paystream audit`) and correct the \
                 account; then `paystream dead-letters redrive --customer %s --reason \"…\"`',
                 customer_id) as advice
         from dead join customer_accounts using (customer_id)
         cross join lateral (select coalesce(max(account_version), 0) as last
             from processed_transactions p where p.customer_id = dead.customer_id) s
         where version < last order by customer_id limit 20",
    ),
    (
        // The first attempt of a page that came back is nothing out of the ordinary.
        "poison_on_trial",
        "select t.attempts::bigint as level, 'partition ' || t.partition as subject,
             format('%s of partition %s fails: attempt %s of %s, %s',
                 case when t.first_stream_id = t.last_stream_id
                     then 'entry ' || t.first_stream_id
                     else format('entries %s to %s', t.first_stream_id, t.last_stream_id) end,
                 t.partition, t.attempts, most,
                 coalesce(t.error, 'no answer yet, or its worker died of it')) as sentence,
             format('mend the cause if it is not the entry''s own; after %s attempts it becomes a \
                 dead letter and the others go on. `paystream pending --partition %s`',
                 most, t.partition) as advice
         from partition_trials t join partition_owners p on p.partition = t.partition
         left join workers w on w.worker_id = p.owner,
             coalesce(w.attempts_max, 5) most
         where t.error is not null or t.attempts > 1 order by t.partition limit 20",
    ),
];

impl Ledger {
    /// Asks PostgreSQL how it is, whatever the schema.
    pub async fn vitals(&self) -> Result<Vitals, Error> {
        // Not a pool: that would only say that it had no connection in time.
        let address = self.by_key(QUERY_TIMEOUT);
        let mut connection = in_time(ACQUIRE_TIMEOUT, address.connect()).await?;
        let mut latency = Duration::MAX;
        for _ in 0..QUESTIONS {
            let asked = Instant::now();
            let asking =
                async |session: &mut Session| sqlx::query("select 1").execute(session).await;
            in_time(QUERY_TIMEOUT, connection.ask(asking)).await?;
            latency = latency.min(asked.elapsed());
        }
        let mut symptoms = Symptoms::new();
        let locks = ("postgresql_lock_wait", [locks::HOLDERS, LOCKS].concat());
        let rights = ("postgresql_rights", missing_rights());
        let server = SERVER.iter().map(|(code, sql)| (*code, (*sql).to_owned()));
        for (code, sql) in server.chain([locks, rights]) {
            symptoms.insert(code, ask(&mut connection, sql).await?);
        }
        let place = "select clock_timestamp(),
             (select setting from pg_settings where name = 'data_directory')";
        let place = async |session: &mut Session| sqlx::query_as(place).fetch_one(session).await;
        let place = connection.ask(place);
        let (now, directory) = in_time(QUERY_TIMEOUT, place).await?;
        connection.close().await?;
        Ok(Vitals { latency, now, directory, symptoms })
    }

    pub fn is_local(&self) -> bool {
        let is_local =
            |host: &str| matches!(host, "localhost" | "127.0.0.1" | "::1") || host.starts_with('/');
        self.address.hosts().all(is_local)
    }
}

impl AdminStore {
    /// Who owns the partitions, and what waits for operators. Ends at the first check that is
    /// not answered, such as one whose table is locked, and tells why.
    pub async fn symptoms(&self) -> (Symptoms, Result<(), Error>) {
        let mut symptoms = Symptoms::new();
        let owners = OWNERS.iter().map(|(code, sql)| (*code, [HEARD, sql].concat()));
        let cases = CASES.iter().map(|(code, sql)| (*code, (*sql).to_owned()));
        let piles = PILES.iter().map(|pile| (pile.code, pile.sql()));
        for (code, sql) in owners.chain(cases).chain(piles) {
            let rows = match self.pool.acquire().await {
                Ok(mut connection) => ask(&mut connection, sql).await,
                Err(error) => Err(error),
            };
            match rows {
                Ok(rows) => symptoms.insert(code, rows),
                Err(error) => return (symptoms, Err(error)),
            };
        }
        (symptoms, Ok(()))
    }

    /// How much waits for an operator, by the code of its check, each up to 10,000.
    pub async fn open_cases(&self) -> Result<BTreeMap<&'static str, OpenCases>, Error> {
        let counts = PILES.iter().map(|Pile { code, rows, .. }| {
            format!(
                "select '{code}' as code, count(*) as count, greatest(coalesce(
                     extract(epoch from clock_timestamp() - min(at)), 0), 0)::bigint as oldest
                 from (select {rows} limit {COUNT_MAX}) rows"
            )
        });
        let sql = counts.collect::<Vec<_>>().join(" union all ");
        let rows: Vec<(String, i64, i64)> =
            self.pool.all(sqlx::query_as(AssertSqlSafe(sql))).await?;
        let of = |code: &str| rows.iter().find(|(found, ..)| found == code);
        let cases = PILES.iter().filter_map(|pile| {
            let (_, count, oldest_seconds) = *of(pile.code)?;
            Some((pile.code, OpenCases { count, oldest_seconds }))
        });
        Ok(cases.collect())
    }
}

async fn ask(connection: &mut Session, sql: String) -> Result<Vec<Symptom>, Error> {
    let rows = sqlx::query_as(AssertSqlSafe(sql));
    let rows = connection.ask(async |session| rows.fetch_all(session).await);
    in_time(QUERY_TIMEOUT, rows).await
}

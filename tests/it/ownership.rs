//! Proves that partitions move between workers that come, leave, are killed,
//! sleep or flap, with no payment lost, doubled or out of order, and that
//! whoever lost its partitions writes nothing more.

use crate::prelude::*;

/// A lease that runs out soon.
pub const SHORT: [(&str, &str); 2] =
    [("PAYSTREAM_LEASE", "2s"), ("PAYSTREAM_BATCH_DEADLINE", "1s")];

/// A worker of this name, at work.
pub async fn worker(stores: &Stores, name: &str, settings: &[(&str, &str)]) -> Process {
    let own = [("PAYSTREAM_WORKER_ID", name)];
    Process::serve("worker", stores, &[&own, settings].concat()).await
}

/// A gateway with accounts.
pub async fn with_gateway() -> (Stores, Process) {
    let stores = Stores::new().await;
    let gateway = Process::serve("gateway", &stores, &[]).await;
    gateway.api.seed(CUSTOMERS).await;
    (stores, gateway)
}

/// The owner of each partition, dead or alive; none is the empty name.
pub async fn owners(stores: &Stores) -> Vec<String> {
    stores.texts("select coalesce(owner, '') from partition_owners order by partition").await
}

/// Waits until these workers own everything, none much more than another.
pub async fn until_spread(stores: &Stores, workers: &[&str]) {
    until(&format!("the partitions are spread over {workers:?}"), async || {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for owner in owners(stores).await {
            *counts.entry(owner).or_default() += 1;
        }
        let each = usize::from(PARTITIONS) / workers.len();
        let even =
            |worker: &&str| counts.get(*worker).is_some_and(|n| (each..=each + 1).contains(n));
        counts.len() == workers.len() && workers.iter().all(even)
    })
    .await;
}

/// Everything is applied once, in order, by owners that followed each other.
pub async fn verify(stores: &Stores, api: &Api, loads: &[Loaded]) {
    api.until_settled().await;
    stores.audit().await;
    for load in loads {
        assert_applied(stores, &load.accepted).await;
    }
    let late = "select count(*) from (select epoch, lag(epoch) over
         (partition by partition order by sequence) as before from processed_transactions) rows
         where epoch < before";
    assert_eq!(stores.count(late).await, 0, "an older epoch wrote after a newer one");
}

/// The same once the load has gone on, and has ended.
pub async fn verify_after(stores: &Stores, api: &Api, mut load: Load) {
    load.goes_on().await;
    verify(stores, api, &[load.finish().await]).await;
}

/// Partitions that a worker acquired, as it logged it.
fn acquired(worker: &Process) -> Vec<Value> {
    worker.events("partition acquired")
}

/// Fails if two acquisitions of a partition were given one epoch.
fn assert_epochs_rise(acquired: &[Vec<Value>]) {
    let mut seen = BTreeSet::new();
    for event in acquired.iter().flatten() {
        let grant = (event["partition"].as_u64().unwrap(), event["epoch"].as_u64().unwrap());
        assert!(seen.insert(grant), "granted twice: {grant:?}");
    }
}

/// A session that holds a lock until it is dropped.
pub async fn lock(stores: &Stores, table: &str, mode: &str) -> PgConnection {
    let mut session = stores.session().await;
    let sql = format!("begin; lock table {table} in {mode} mode");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session).await.unwrap();
    session
}

#[tokio::test]
async fn workers_that_join_and_leave_share_the_partitions_and_redeliver_nothing() {
    let (stores, gateway) = with_gateway().await;
    let mut load = Load::start(&gateway.api, "scale");
    let a = worker(&stores, "a", &[]).await;
    until_spread(&stores, &["a"]).await;
    load.goes_on().await;
    let b = worker(&stores, "b", &[]).await;
    until_spread(&stores, &["a", "b"]).await;
    load.goes_on().await;
    let (c, d) = tokio::join!(worker(&stores, "c", &[]), worker(&stores, "d", &[]));
    until_spread(&stores, &["a", "b", "c", "d"]).await;
    load.goes_on().await;
    let mut logs = vec![a.log(), c.log(), d.log()];
    let mut grants = vec![acquired(&a), acquired(&c), acquired(&d)];
    tokio::join!(a.stop(), c.stop(), d.stop());
    until_spread(&stores, &["b"]).await;
    load.goes_on().await;
    logs.push(b.log());
    grants.push(acquired(&b));
    assert_epochs_rise(&grants);
    verify(&stores, &gateway.api, &[load.finish().await]).await;
    for grant in grants.iter().flatten().filter(|grant| grant["epoch"] != 1) {
        println!("partition {} was handed over in {} ms", grant["partition"], grant["idle_ms"]);
    }
    for log in logs {
        assert!(!log.contains("reclaimed pending entries"), "{log}");
        assert!(!log.contains("fenced"), "{log}");
    }
}

#[tokio::test]
async fn a_killed_worker_is_replaced_while_the_others_go_on() {
    let (stores, gateway) = with_gateway().await;
    let settings = [("PAYSTREAM_LEASE", "4s"), ("PAYSTREAM_BATCH_DEADLINE", "2s")];
    let mut load = Load::start(&gateway.api, "kill");
    let (_a, _b, c) = tokio::join!(
        worker(&stores, "a", &settings),
        worker(&stores, "b", &settings),
        worker(&stores, "c", &settings)
    );
    until_spread(&stores, &["a", "b", "c"]).await;
    load.goes_on().await;
    let before = owners(&stores).await;
    c.kill().await;
    stores.sql("create table killed as select clock_timestamp() as at").await;
    until_spread(&stores, &["a", "b"]).await;
    verify_after(&stores, &gateway.api, load).await;
    let after = owners(&stores).await;
    for (partition, owner) in before.iter().enumerate().filter(|(_, owner)| *owner != "c") {
        assert_eq!(after[partition], *owner, "partition {partition} has not moved");
    }
    // Payments come when they come: of one partition there may be none within a second.
    let meanwhile = "select count(*) from processed_transactions, killed, partition_owners
         where processed_transactions.partition = partition_owners.partition and moved_at < at
             and processed_at between at
                 and (select min(moved_at) from partition_owners where moved_at > at)";
    assert!(stores.count(meanwhile).await > 0, "the others stood still");
    let takeover = "select (extract(epoch from max(moved_at) - min(at)) * 1000)::bigint
         from partition_owners, killed where moved_at > at";
    println!("taken over {} ms after the kill", stores.count(takeover).await);
}

/// Where in a batch a worker falls asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It has taken entries and has not begun its transaction.
    Taken,
    /// Its transaction waits.
    Posting,
    /// Its transaction is committed and nothing is acknowledged.
    Committed,
}

/// Entries that were handed to a worker and not acknowledged.
async fn pending(stores: &Stores, worker: &str) -> Vec<(i32, StreamId)> {
    let mut pending = Vec::new();
    for partition in 0..u64::from(PARTITIONS) {
        let stream = stores.key(partition, "stream");
        let all = ["XPENDING", &stream, "ledger", "-", "+", "10000", worker];
        let entries: Vec<(String, String, u64, u64)> = stores.ask(&all).await;
        let partition = i32::try_from(partition).unwrap();
        pending.extend(entries.iter().map(|(id, ..)| (partition, id.parse().unwrap())));
    }
    pending
}

/// Whether a worker has taken an entry that is not settled.
async fn has_unsettled(stores: &Stores, worker: &str) -> bool {
    let reached = "select partition, reached_stream_id from partition_owners";
    let pending = pending(stores, worker).await;
    let reached: Vec<(i32, String)> = stores.rows(reached).await;
    let reached: BTreeMap<i32, StreamId> =
        reached.into_iter().map(|(partition, id)| (partition, id.parse().unwrap())).collect();
    pending.iter().any(|(partition, id)| *id > reached[partition])
}

/// Sessions of a worker's lanes in this state.
pub async fn sessions(stores: &Stores, worker: &str, state: &str) -> i64 {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = current_database()
         and application_name = 'paystream {worker}' and {state}"
    );
    stores.count(&sql).await
}

/// A worker sleeps in its batch for longer than its lease. Whoever takes over
/// goes on from exactly there, and the sleeper writes nothing when it wakes.
async fn sleep_through_a_lease(step: Step) {
    let (stores, gateway) = with_gateway().await;
    let redis = Proxy::before(&stores.redis_url).await;
    let postgres = Proxy::before(&stores.database_url).await;
    let settings = [
        ("PAYSTREAM_LEASE", "4s"),
        ("PAYSTREAM_BATCH_DEADLINE", "2s"),
        ("PAYSTREAM_LANES", "1"),
        ("PAYSTREAM_REDIS_URL", &redis.url),
        ("PAYSTREAM_DATABASE_URL", &postgres.url),
    ];
    let mut sleeper = worker(&stores, "sleeper", &settings).await;
    let other = worker(&stores, "other", &settings[..2]).await;
    until_spread(&stores, &["sleeper", "other"]).await;
    let load = Load::warm(&gateway.api, "sleep").await;
    let mut held = None;
    if step == Step::Taken {
        until("it has taken entries, and no transaction", async || {
            postgres.set(Way::HoldsRequests);
            // In a transaction it would stay there: nothing of it arrives any more.
            let outside = sessions(&stores, "sleeper", "state <> 'idle'").await == 0;
            // Not one whose acknowledgement is on its way.
            let taken = outside && has_unsettled(&stores, "sleeper").await;
            if !taken {
                postgres.set(Way::Open);
            }
            taken
        })
        .await;
    } else {
        held = Some(lock(&stores, "processed_transactions", "exclusive").await);
        until("its transaction waits", async || {
            let waits = sessions(&stores, "sleeper", "wait_event_type = 'Lock'").await > 0;
            let announced = !stores.keys("*:settling").await.is_empty();
            waits && announced
        })
        .await;
        if step == Step::Committed {
            redis.set(Way::HoldsRequests);
            drop(held.take());
            until("it has committed and not acknowledged", async || {
                let sql = "select count(*) from partition_owners o where owner = 'sleeper'
                     and exists (select 1 from processed_transactions t
                         where t.partition = o.partition and t.epoch = o.epoch
                         and t.processed_at > clock_timestamp() - interval '1 second')";
                let committed = stores.count(sql).await > 0;
                let idle = sessions(&stores, "sleeper", "state <> 'idle'").await == 0;
                committed && idle && !pending(&stores, "sleeper").await.is_empty()
            })
            .await;
        }
    }
    sleeper.signal("STOP").await;
    drop(held);
    until_spread(&stores, &["other"]).await;
    stores.sql("create table taken_over as select partition, epoch from partition_owners").await;
    let by_earlier_owners = "select count(*) from processed_transactions t
         join taken_over o using (partition) where t.epoch < o.epoch";
    let written = stores.count(by_earlier_owners).await;
    other.until_logged("reclaimed pending entries").await;
    refuses_the_sleeper(&stores).await;

    // Nobody can tell it what has happened: it has its own clock.
    let registry = lock(&stores, "workers", "access exclusive").await;
    redis.set(Way::Open);
    postgres.set(Way::Open);
    sleeper.signal("CONT").await;
    sleeper.until_logged("fenced; dropping the lane's partitions").await;
    drop(registry);
    until_spread(&stores, &["sleeper", "other"]).await;
    verify_after(&stores, &gateway.api, load).await;
    assert_eq!(stores.count(by_earlier_owners).await, written, "written after the takeover");
    assert_epochs_rise(&[acquired(&sleeper), acquired(&other)]);
    sleeper.must_live();
}

/// What the sleeper could still try with what it held is refused by both.
async fn refuses_the_sleeper(stores: &Stores) {
    let epoch = stores.count("select epoch from partition_owners where partition = 0").await - 1;
    let config = stores.config(&[]);
    let writer = Ledger::new(&stores.database_url).unwrap();
    let mut lane = writer.writer("sleeper", config.worker.batch_deadline).lane().await.unwrap();
    let refused = lane.open(&[Fence { partition: 0, epoch }], &[]).await.err();
    assert!(matches!(refused, Some(ledger::Error::Fenced)), "{refused:?}");
    let streams = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    let fence = Fence { partition: 0, epoch };
    eventually("redis refuses it", async || {
        // The new owner cuts off connections of this name.
        let mut consumer = streams.consumer("sleeper", "earlier").await.ok()?;
        let refused = [
            consumer.take(&[(fence, 1)]).await.expect_err("it took an entry"),
            consumer.mirror(&[fence]).await.expect_err("it took the partition"),
        ];
        refused.iter().all(|error| matches!(error, stream::Error::Fenced(_))).then_some(())
    })
    .await;
}

cases! { sleep_through_a_lease:
    a_worker_that_sleeps_before_its_transaction_is_fenced(Step::Taken);
    a_worker_that_sleeps_in_its_transaction_is_fenced(Step::Posting);
    a_worker_that_sleeps_before_it_acknowledges_is_fenced(Step::Committed);
}

#[tokio::test]
async fn a_flapping_worker_does_no_harm() {
    let (stores, gateway) = with_gateway().await;
    let steady = worker(&stores, "steady", &SHORT).await;
    until_spread(&stores, &["steady"]).await;
    let mut load = Load::start(&gateway.api, "flap");
    let mut grants = Vec::new();
    for round in 1..=10 {
        let flapping = worker(&stores, "flapping", &SHORT).await;
        flapping.until_logged("partition acquired").await;
        load.reached(round * 100).await;
        grants.push(acquired(&flapping));
        flapping.kill().await;
    }
    until_spread(&stores, &["steady"]).await;
    verify_after(&stores, &gateway.api, load).await;
    grants.push(acquired(&steady));
    assert_epochs_rise(&grants);
}

#[tokio::test]
async fn of_two_workers_of_one_name_the_older_stops() {
    let (stores, gateway) = with_gateway().await;
    let mut load = Load::start(&gateway.api, "twin");
    let mut older = worker(&stores, "twin", &SHORT).await;
    until_spread(&stores, &["twin"]).await;
    load.goes_on().await;
    let mut younger = worker(&stores, "twin", &SHORT).await;
    assert_ne!(older.ended().await, Some(0));
    let sentence = "another process runs as worker twin: give each its own PAYSTREAM_WORKER_ID";
    assert!(older.log().contains(sentence), "{}", older.log());
    verify_after(&stores, &gateway.api, load).await;
    assert_epochs_rise(&[acquired(&older), acquired(&younger)]);
    younger.must_live();
}

#[tokio::test]
async fn a_killed_worker_that_starts_again_at_once_gets_its_share_back() {
    let (stores, gateway) = with_gateway().await;
    let mut load = Load::start(&gateway.api, "restart");
    let a = worker(&stores, "a", &[]).await;
    let b = worker(&stores, "b", &[]).await;
    until_spread(&stores, &["a", "b"]).await;
    load.goes_on().await;
    a.kill().await;
    let a = worker(&stores, "a", &[]).await;
    until("it serves a share again", async || acquired(&a).len() >= usize::from(PARTITIONS) / 2)
        .await;
    until_spread(&stores, &["a", "b"]).await;
    verify_after(&stores, &gateway.api, load).await;
    assert_epochs_rise(&[acquired(&a), acquired(&b)]);
}

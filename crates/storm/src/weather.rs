//! Makes the faults of a plan, each at its time and by itself. Whatever it breaks it also mends,
//! so that after the last one everything can come to rest. Never judges what came of it.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use rustix::process::Signal;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    args::Topology,
    bank::Bank,
    fault::{Fault, Kind, pick},
    ledger,
    process::Process,
    proxy::Way,
    servers::{self, Blow},
    site::{PARTITIONS, Site},
};

/// Clients of a hot customer.
const CROWD: u32 = 5;
/// Clients of crowds have numbers from here on.
const CROWD_NUMBERS: u32 = 100_000;
/// What stands in entries that cannot be read.
pub(crate) const POISON: &str = "{\"customer_id\": 7";
/// So many of them at once.
const POISON_MAX: u32 = 3;
/// How often an operator goes on with a change that was stopped, and when.
const RESIZES_MAX: u32 = 30;
const RESIZE_PAUSE: Duration = Duration::from_secs(1);
/// Streams are set to one of these.
const SIZES: [u16; 4] = [PARTITIONS, 5, 12, 16];

/// Makes all faults; returns when each is over.
pub(crate) async fn make(site: &Arc<Site>, faults: Vec<Fault>) {
    let mut under_way = JoinSet::new();
    for (number, fault) in (0..).zip(faults) {
        sleep_until(site.began + fault.at).await;
        let site = Arc::clone(site);
        under_way.spawn(async move {
            let name = fault.kind.name();
            match make_one(&site, &fault, number).await {
                Ok(what) => site.note(format!("{name} is over: {what}")),
                Err(error) => site.trouble(format!("{name}: {error:#}")),
            }
        });
    }
    while let Some(ended) = under_way.join_next().await {
        if let Err(error) = ended {
            site.trouble(format!("a fault could not be made: {error}"));
        }
    }
}

/// Makes one; says what was done to whom.
async fn make_one(site: &Arc<Site>, fault: &Fault, number: u32) -> Result<String> {
    let Fault { kind, lasts, draws, .. } = fault;
    let worker = pick(site.workers(), draws[0])?;
    let gateway = pick(site.gateways(), draws[0])?;
    match kind {
        Kind::KillWorker => end(site, worker, fault, true).await,
        Kind::KillGateway => end(site, gateway, fault, true).await,
        Kind::StopWorker => end(site, worker, fault, false).await,
        Kind::StopGateway => end(site, gateway, fault, false).await,
        Kind::FreezeWorker => freeze(site, worker, fault).await,
        Kind::FreezeGateway => freeze(site, gateway, fault).await,
        Kind::RollingRestart => {
            site.note(format!("rolling-restart, {lasts:?}"));
            for process in site.processes.iter().rev() {
                let mut hold = process.lock().await;
                hold.stop().await?;
                hold.begin()?;
                drop(hold);
                sleep(*lasts).await;
            }
            Ok("all processes".to_owned())
        }
        Kind::Cut => disturb(site, fault, Way::Cut).await,
        Kind::HalfOpen => disturb(site, fault, Way::Dumb).await,
        Kind::Delay => {
            let late = Duration::from_millis(u64::from(draws[2] % 800));
            disturb(site, fault, Way::Late(late)).await
        }
        Kind::HotCustomer => {
            crowd(site, fault, number).await;
            Ok(format!("{CROWD} clients"))
        }
        Kind::Resize => resize(site, draws).await,
        Kind::EndSessions | Kind::ForeignLock => sessions(site, fault).await,
        Kind::FreezePostgres => servers::postgres(site, fault, Blow::Freeze, number).await,
        Kind::KillPostgres => servers::postgres(site, fault, Blow::Kill, number).await,
        Kind::RestartPostgres => servers::postgres(site, fault, Blow::Restart, number).await,
        Kind::OldPostgres => servers::postgres(site, fault, Blow::Old, number).await,
        Kind::PromotePostgres => servers::promote_postgres(site, fault).await,
        Kind::FreezeStandby => servers::freeze_standby(site, fault).await,
        Kind::FreezeRedis => servers::redis(site, fault, Blow::Freeze, number).await,
        Kind::KillRedis => servers::redis(site, fault, Blow::Kill, number).await,
        Kind::RestartRedis => servers::redis(site, fault, Blow::Restart, number).await,
        Kind::OldRedis => servers::redis(site, fault, Blow::Old, number).await,
        Kind::FillDiskPostgres => servers::fill_postgres(site, fault).await,
        Kind::FillDiskRedis => servers::fill_redis(site, fault).await,
        Kind::StepClock => servers::step_clock(site, fault).await,
        Kind::FailOver => {
            site.note(kind.name());
            site.stores.redis.fail_over(draws[0]).await
        }
        Kind::PromoteLagging => servers::promote_lagging(site, fault).await,
        Kind::MoveSlot => servers::move_slot(site, fault).await,
        Kind::ScriptFlush
        | Kind::FlushAll
        | Kind::DeleteStream
        | Kind::DeleteCounter
        | Kind::DeleteEntries
        | Kind::DestroyGroup
        | Kind::ShrinkRedis
        | Kind::UnsafeRedis
        | Kind::Poison => commands(site, fault).await,
    }
}

async fn end(site: &Site, process: &Process, fault: &Fault, kills: bool) -> Result<String> {
    let mut hold = process.lock().await;
    site.note(format!("{} {}, {:?}", fault.kind.name(), process.name, fault.lasts));
    if kills {
        hold.kill().await?;
    } else {
        hold.stop().await?;
    }
    sleep(fault.lasts).await;
    hold.begin()?;
    Ok(process.name.clone())
}

async fn freeze(site: &Site, process: &Process, fault: &Fault) -> Result<String> {
    let hold = process.lock().await;
    site.note(format!("{} {}, {:?}", fault.kind.name(), process.name, fault.lasts));
    hold.signal(Signal::STOP)?;
    sleep(fault.lasts).await;
    hold.signal(Signal::CONT)?;
    Ok(process.name.clone())
}

async fn disturb(site: &Site, fault: &Fault, way: Way) -> Result<String> {
    let line = pick(&site.lines, fault.draws[0])?;
    site.note(format!("{} {}, {:?}", fault.kind.name(), line.name, fault.lasts));
    line.set(way);
    sleep(fault.lasts).await;
    line.set(Way::Open);
    Ok(line.name.clone())
}

/// Where there are several servers, the one that is told may have ended, or become a replica, a
/// moment ago: then nothing is done.
async fn commands(site: &Site, fault: &Fault) -> Result<String> {
    match command(site, fault).await {
        Err(error) if site.stores.redis.topology != Topology::Single => {
            Ok(format!("not made: {error:#}"))
        }
        made => made,
    }
}

async fn command(site: &Site, fault: &Fault) -> Result<String> {
    let Fault { kind, lasts, draws, .. } = fault;
    let redis = &site.stores.redis;
    let streams = ledger::streams(&site.stores).await?;
    let stream = pick(&streams, draws[0])?.as_str();
    let at = redis.master_of(stream).await?;
    // Nobody restarts it meanwhile.
    let _server = redis.node(at)?.server.lock().await;
    site.note(format!("{} {stream}, {lasts:?}", kind.name()));
    let counter = stream.replace(":stream", ":seq");
    let simple: &[(Kind, &[&str])] = &[
        (Kind::ScriptFlush, &["SCRIPT", "FLUSH"]),
        (Kind::FlushAll, &["FLUSHALL"]),
        (Kind::DeleteStream, &["DEL", stream]),
        (Kind::DeleteCounter, &["DEL", &counter]),
        (Kind::DestroyGroup, &["XGROUP", "DESTROY", stream, "ledger"]),
        (Kind::ShrinkRedis, &["CONFIG", "SET", "maxmemory", "1mb"]),
        (Kind::UnsafeRedis, &["CONFIG", "SET", "appendfsync", "no"]),
    ];
    let made = if let Some((_, words)) = simple.iter().find(|(simple, _)| simple == kind) {
        let made = redis.tell(at, words).await;
        sleep(*lasts).await;
        let back = ["maxmemory", "0", "appendfsync", "always"];
        redis.tell(at, &[&["CONFIG", "SET"], &back[..]].concat()).await?;
        made
    } else if *kind == Kind::DeleteEntries {
        let count = draws[1] % 6 + 1;
        delete_entries(site, at, stream, &count.to_string()).await
    } else {
        add_poison(site, at, stream, draws[1] % POISON_MAX + 1).await
    };
    made.map(|()| stream.to_owned())
}

async fn delete_entries(site: &Site, at: usize, stream: &str, count: &str) -> Result<()> {
    let redis = &site.stores.redis;
    let range = ["XREVRANGE", stream, "+", "-", "COUNT", count];
    let entries: Vec<(String, Vec<String>)> = redis.ask(at, &range).await?;
    let mut delete = vec!["XDEL", stream];
    delete.extend(entries.iter().map(|(id, _)| id.as_str()));
    if entries.is_empty() { Ok(()) } else { redis.tell(at, &delete).await }
}

async fn add_poison(site: &Site, at: usize, stream: &str, count: u32) -> Result<()> {
    for number in 1..=count {
        let v = if number == 1 { "1" } else { "9" };
        let add = ["XADD", stream, "*", "v", v, "payment", POISON, "received_at", "x"];
        site.stores.redis.tell(at, &add).await?;
    }
    Ok(())
}

async fn sessions(site: &Site, fault: &Fault) -> Result<String> {
    let Fault { kind, lasts, draws, .. } = fault;
    let _postgres = site.stores.postgres.lock().await;
    site.note(format!("{} for {lasts:?}", kind.name()));
    if *kind == Kind::EndSessions {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
             where usename in ('paystream_gateway', 'paystream_worker')";
        site.stores.sql(end.to_owned()).await?;
        return Ok("all of gateways and workers".to_owned());
    }
    let seconds = lasts.as_millis();
    let lock = match draws[0] % 4 {
        0 => "lock table customer_accounts in exclusive mode",
        1 => "select * from partition_owners where partition % 3 = 0 for update",
        2 => "lock table processed_transactions in share mode",
        _ => "select * from customer_accounts where customer_id like '%1' for update",
    };
    let hold = format!("begin; {lock}; select pg_sleep({seconds} / 1000.0); rollback");
    site.stores.sql(hold).await?;
    Ok(lock.to_owned())
}

/// One customer pays through many clients for a while.
async fn crowd(site: &Arc<Site>, fault: &Fault, number: u32) {
    let customer = customer(fault.draws[0] % 8);
    site.note(format!("hot-customer {customer}, {:?}", fault.lasts));
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for one in 0..CROWD {
        let bank = Bank {
            number: CROWD_NUMBERS + number * CROWD + one,
            customer: customer.clone(),
            api: site.api.clone(),
            records: site.records.clone(),
            seed: site.seed,
            thinks: 10,
        };
        clients.spawn(bank.run(stopped.clone()));
    }
    sleep(fault.lasts).await;
    stop.send_replace(true);
    while clients.join_next().await.is_some() {}
}

/// The customer of this number.
pub(crate) fn customer(number: u32) -> String {
    format!("C{number:05}")
}

/// Cuts the streams anew. A store may be away meanwhile: then an operator goes on later.
async fn resize(site: &Site, draws: &[u32; 3]) -> Result<String> {
    let size = pick(&SIZES, draws[0])?.to_string();
    site.note(format!("resize to {size}"));
    let (status, said) = site.resize(&size).await?;
    finish_resize(site).await?;
    // What there is no more takes nothing, and is not closed.
    let count: u32 = size.parse()?;
    site.records.hold().taken_at.retain(|partition, _| *partition < count);
    Ok(format!("{size} partitions, exit status {status:?}: {said}"))
}

/// Goes on with a change of the number of partitions that is under way, until it is done.
pub(crate) async fn finish_resize(site: &Site) -> Result<()> {
    for _ in 0..RESIZES_MAX {
        let Some(to) = ledger::topology(&site.stores).await?.resizing_to else { return Ok(()) };
        let (status, said) = site.resize(&to.to_string()).await?;
        site.note(format!("went on with the resize: {status:?} {said}"));
        sleep(RESIZE_PAUSE).await;
    }
    Ok(())
}

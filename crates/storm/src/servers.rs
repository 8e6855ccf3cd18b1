//! Faults of whole servers: frozen, killed, restarted, replaced by an old copy or by another. Each
//! mends what it broke. Never does anything to a server that another fault holds.

use std::{
    ops::DerefMut,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail};
use paystream_dev::{DATABASE, PostgresServer, RedisServer, Server};
use rustix::process::Signal;
use sqlx::{Connection as _, PgConnection};
use tokio::{
    sync::MutexGuard,
    time::{Instant, sleep, timeout},
};

use crate::{
    clock::SEEN_WITHIN,
    fault::{ClockOwner, Fault, pick},
    ledger,
    nodes::{Role, role},
    process::send_family,
    site::Site,
};

/// How long a replica may take to be promoted.
const PROMOTED_WITHIN: Duration = Duration::from_secs(20);
/// How long a slot may take to move, whatever else happens.
const MOVED_WITHIN: Duration = Duration::from_secs(60);
/// How long a server may take to serve again once its disk has room.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// So wrong are clocks, in seconds, to either side.
const STEPS: [i64; 6] = [2, 10, 60, 600, 3_600, 7_200];
const PAUSE: Duration = Duration::from_millis(200);

/// A server that can be started again.
trait Restart: DerefMut<Target = Server> + Sync {
    fn start_again(&mut self) -> impl Future<Output = Result<()>> + Send;
    /// Whether it answers a client now.
    fn answers(&self) -> impl Future<Output = bool> + Send;
}

impl Restart for RedisServer {
    fn start_again(&mut self) -> impl Future<Output = Result<()>> + Send {
        self.restart()
    }

    async fn answers(&self) -> bool {
        role(&self.url()).await.is_ok()
    }
}

impl Restart for PostgresServer {
    fn start_again(&mut self) -> impl Future<Output = Result<()>> + Send {
        self.restart()
    }

    async fn answers(&self) -> bool {
        let url = self.url(DATABASE);
        timeout(ANSWERS_WITHIN, PgConnection::connect(&url)).await.is_ok_and(|it| it.is_ok())
    }
}

/// What is done to a server.
#[derive(Clone, Copy)]
pub(crate) enum Blow {
    Freeze,
    Kill,
    Restart,
    /// An old copy is put back.
    Old,
}

async fn freeze(pid: u32, lasts: Duration) -> Result<()> {
    send_family(pid, Signal::STOP)?;
    sleep(lasts).await;
    send_family(pid, Signal::CONT)
}

/// Has it away for a while. An old copy is made now and put back at the end.
async fn strike(
    site: &Site,
    server: &mut impl Restart,
    lasts: Duration,
    blow: Blow,
    number: u32,
) -> Result<()> {
    match blow {
        Blow::Freeze => return freeze(server.pid(), lasts).await,
        Blow::Kill => {
            server.kill().await?;
            sleep(lasts).await;
        }
        Blow::Restart => {
            server.stop().await?;
            sleep(lasts).await;
        }
        Blow::Old => {
            let (data, name) = (server.data_directory().to_owned(), format!("copy-{number}"));
            server.stop().await?;
            site.stores.copy(&data, &name, false).await?;
            server.start_again().await?;
            sleep(lasts).await;
            server.kill().await?;
            site.stores.copy(&data, &name, true).await?;
        }
    }
    server.start_again().await
}

/// A fault of the primary of PostgreSQL.
pub(crate) async fn postgres(
    site: &Site,
    fault: &Fault,
    blow: Blow,
    number: u32,
) -> Result<String> {
    let mut pair = site.stores.postgres.lock().await;
    site.note(format!("{} for {:?}", fault.kind.name(), fault.lasts));
    if let Blow::Old = blow {
        // It is further on than what will be there.
        pair.standby().kill().await?;
    }
    strike(site, pair.primary(), fault.lasts, blow, number).await?;
    if let Blow::Old = blow {
        pair.follow().await?;
    }
    Ok("it is back".to_owned())
}

pub(crate) async fn promote_postgres(site: &Site, fault: &Fault) -> Result<String> {
    let mut pair = site.stores.postgres.lock().await;
    site.note(format!("{}, {:?}", fault.kind.name(), fault.lasts));
    pair.promote(fault.lasts).await?;
    Ok("the old primary follows the new one".to_owned())
}

pub(crate) async fn freeze_standby(site: &Site, fault: &Fault) -> Result<String> {
    let mut pair = site.stores.postgres.lock().await;
    site.note(format!("{}, {:?}", fault.kind.name(), fault.lasts));
    freeze(pair.standby().pid(), fault.lasts).await?;
    Ok("it goes on".to_owned())
}

/// The disk of PostgreSQL's primary is full for a while: tables do not grow, or its log does not,
/// and then it ends.
pub(crate) async fn fill_postgres(site: &Site, fault: &Fault) -> Result<String> {
    let mut pair = site.stores.postgres.lock().await;
    let disk = match site.disks.of(pair.primary().data_directory()) {
        Ok(disk) => disk,
        Err(why) => return Ok(format!("not made: {why}")),
    };
    let ends_log = fault.draws[1].is_multiple_of(2);
    let what = if ends_log { "its log" } else { "its tables" };
    site.note(format!("{} under {what}, for {:?}", fault.kind.name(), fault.lasts));
    disk.fill()?;
    let over = sleep(fault.lasts);
    let switches = async {
        loop {
            // It may have ended by it.
            let _switched_or_not = site.stores.sql("select pg_switch_wal()".to_owned()).await;
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = over => {}
        () = switches, if ends_log => {}
    }
    disk.make_room()?;
    come_back(pair.primary()).await
}

/// The disk of one of Redis' servers is full for a while: it ends with the next write.
pub(crate) async fn fill_redis(site: &Site, fault: &Fault) -> Result<String> {
    let node = pick(&site.stores.redis.all, fault.draws[0])?;
    let mut server = node.server.lock().await;
    let disk = match site.disks.of(server.data_directory()) {
        Ok(disk) => disk,
        Err(why) => return Ok(format!("not made: {why}")),
    };
    let (name, is) = (fault.kind.name(), node.role().await);
    site.note(format!("{name} of port {}, {is:?}, for {:?}", node.announced, fault.lasts));
    disk.fill()?;
    sleep(fault.lasts).await;
    disk.make_room()?;
    come_back(&mut *server).await
}

/// Waits until it serves again; if it has ended, it is started.
async fn come_back(server: &mut impl Restart) -> Result<String> {
    let end = Instant::now() + BACK_WITHIN;
    loop {
        if server.has_ended() {
            server.start_again().await?;
            return Ok("it had ended, and was started again".to_owned());
        }
        if server.answers().await {
            return Ok("it went on by itself".to_owned());
        }
        if Instant::now() > end {
            bail!("it has room again, and does not serve");
        }
        sleep(PAUSE).await;
    }
}

/// The clock of one process or server is wrong for a while. Nobody is held meanwhile: whatever else
/// happens, happens by that clock.
pub(crate) async fn step_clock(site: &Site, fault: &Fault) -> Result<String> {
    let Fault { lasts, draws, .. } = fault;
    if !site.clocks.exist() {
        return Ok("not made: libfaketime is not installed".to_owned());
    }
    let ahead = pick(&STEPS, draws[2])? * if draws[2] & 1 << 16 == 0 { 1 } else { -1 };
    let redis = usize::try_from(draws[1])? % site.stores.redis.all.len();
    let owner = fault.clock_owner();
    let name = match owner {
        ClockOwner::Gateway => pick(site.gateways(), draws[1])?.name.clone(),
        ClockOwner::Worker => pick(site.workers(), draws[1])?.name.clone(),
        ClockOwner::Postgres => {
            let port = site.stores.postgres.lock().await.primary().port();
            let is_first = port == site.stores.postgres_ports[0];
            format!("postgres-{}", if is_first { 1 } else { 2 })
        }
        ClockOwner::Redis => format!("redis-{}", redis + 1),
    };
    site.note(format!("{} of {name} by {ahead} s, for {lasts:?}", fault.kind.name()));
    site.clocks.set(&name, ahead)?;
    sleep(SEEN_WITHIN).await;
    let told = match owner {
        ClockOwner::Postgres => timeout(ANSWERS_WITHIN, ledger::time(&site.stores)).await,
        ClockOwner::Redis => timeout(ANSWERS_WITHIN, site.stores.redis.time(redis)).await,
        ClockOwner::Gateway | ClockOwner::Worker => Ok(Err(anyhow!("nobody is asked"))),
    };
    // It may be away.
    let told = told
        .ok()
        .and_then(Result::ok)
        .map_or_else(String::new, |time| format!(": it told a time {} s ahead", time - now()));
    sleep(*lasts).await;
    site.clocks.set(&name, 0)?;
    Ok(name + &told)
}

/// The machine's time, in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "what is noted decides nothing")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

/// A fault of one of Redis' servers.
pub(crate) async fn redis(site: &Site, fault: &Fault, blow: Blow, number: u32) -> Result<String> {
    let node = pick(&site.stores.redis.all, fault.draws[0])?;
    let mut server = node.server.lock().await;
    let is = node.role().await;
    let name = fault.kind.name();
    site.note(format!("{name} of port {}, {is:?}, for {:?}", node.announced, fault.lasts));
    strike(site, &mut *server, fault.lasts, blow, number).await?;
    Ok("it is back".to_owned())
}

/// A master's replicas hear nothing more, the master dies, and one of them is promoted.
pub(crate) async fn promote_lagging(site: &Site, fault: &Fault) -> Result<String> {
    let redis = &site.stores.redis;
    let masters = redis.masters().await?;
    if masters.is_empty() {
        return Ok("not made: no Redis takes commands".to_owned());
    }
    let master = *pick(&masters, fault.draws[0])?;
    let of_it = Role::ReplicaOf(redis.node(master)?.announced);
    let roles = redis.roles().await;
    let held: Vec<usize> = (0..roles.len()).filter(|at| roles[*at] == of_it).collect();
    // Always in the same order, so that two faults do not wait for each other.
    let mut servers: Vec<(usize, MutexGuard<'_, RedisServer>)> = Vec::new();
    for (at, node) in redis.all.iter().enumerate() {
        if at == master || held.contains(&at) {
            servers.push((at, node.server.lock().await));
        }
    }
    site.note(format!("{} of Redis {}, {:?}", fault.kind.name(), master + 1, fault.lasts));
    for (_, server) in servers.iter().filter(|(at, _)| held.contains(at)) {
        send_family(server.pid(), Signal::STOP)?;
    }
    // What is on its way to them must not arrive either.
    let cut = redis.tell(master, &["CLIENT", "KILL", "TYPE", "replica"]).await;
    sleep(fault.lasts).await;
    let Some((_, server)) = servers.iter_mut().find(|(at, _)| *at == master) else {
        bail!("the master is not held");
    };
    server.kill().await?;
    for (_, server) in servers.iter().filter(|(at, _)| held.contains(at)) {
        send_family(server.pid(), Signal::CONT)?;
    }
    let end = Instant::now() + PROMOTED_WITHIN;
    let promoted = loop {
        let roles = redis.roles().await;
        if let Some(at) = held.iter().find(|at| roles[**at] == Role::Master) {
            break format!("Redis {} took over", at + 1);
        }
        if Instant::now() > end {
            break "nobody took over".to_owned();
        }
        sleep(PAUSE).await;
    };
    if let Some((_, server)) = servers.iter_mut().find(|(at, _)| *at == master) {
        server.restart().await?;
    }
    cut.map(|()| promoted)
}

/// Moves the slot of a partition to another master, its keys one after the other.
pub(crate) async fn move_slot(site: &Site, fault: &Fault) -> Result<String> {
    let redis = &site.stores.redis;
    let streams = ledger::streams(&site.stores).await?;
    let stream = pick(&streams, fault.draws[0])?.as_str();
    let slot = redis.slot_of(stream).await?;
    site.note(format!("{} {slot}, of {stream}", fault.kind.name()));
    let end = Instant::now() + MOVED_WITHIN;
    loop {
        let moved = move_once(site, stream, &slot.to_string(), fault.draws[1]).await;
        match moved {
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("slot {slot} is on its way and stays so")));
            }
            Err(error) => site.note(format!("slot {slot} is on its way: {error:#}")),
            Ok(what) => return Ok(what),
        }
        sleep(PAUSE).await;
    }
}

async fn move_once(site: &Site, stream: &str, slot: &str, draw: u32) -> Result<String> {
    let redis = &site.stores.redis;
    let from = redis.master_of(stream).await?;
    let mut others = redis.masters().await?;
    others.retain(|at| *at != from);
    let to = *pick(&others, draw).context("there is no other master")?;
    let (first, second) = (from.min(to), from.max(to));
    let _first = redis.node(first)?.server.lock().await;
    let _second = redis.node(second)?.server.lock().await;
    let source: String = redis.ask(from, &["CLUSTER", "MYID"]).await?;
    let target: String = redis.ask(to, &["CLUSTER", "MYID"]).await?;
    redis.tell(to, &["CLUSTER", "SETSLOT", slot, "IMPORTING", &source]).await?;
    redis.tell(from, &["CLUSTER", "SETSLOT", slot, "MIGRATING", &target]).await?;
    let port = redis.node(to)?.port.to_string();
    let mut count = 0;
    loop {
        let keys: Vec<String> = redis.ask(from, &["CLUSTER", "GETKEYSINSLOT", slot, "8"]).await?;
        if keys.is_empty() {
            break;
        }
        count += keys.len();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
        words.extend(["AUTH", &redis.password, "KEYS"]);
        words.extend(keys.iter().map(String::as_str));
        redis.tell(from, &words).await?;
    }
    for at in [to, from] {
        redis.tell(at, &["CLUSTER", "SETSLOT", slot, "NODE", &target]).await?;
    }
    Ok(format!("{count} keys went from Redis {} to Redis {}", from + 1, to + 1))
}

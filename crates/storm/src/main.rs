//! The storm: real gateways and workers on private servers of Redis and PostgreSQL, under load, broken
//! in every way from a seed; then every invariant is checked. How a sceptic convinces himself:
//! docs/storm.md. Never touches a server that it did not start.

mod args;
mod bank;
mod clock;
mod disk;
mod fault;
mod ledger;
mod nodes;
mod pair;
mod process;
mod proxy;
mod report;
mod rest;
mod site;
mod stores;
mod servers;
mod watch;
mod weather;

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::Write as _,
    process::ExitCode,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use paystream_invariants::Records;
use tokio::{
    sync::watch::channel,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use args::{Args, Topology};
use bank::Bank;
use fault::Fault;
use report::Report;
use site::Site;
use watch::Progress;

/// How long a client thinks between two payments, at most, in milliseconds.
const THINKS: u64 = 400;
/// How long clients may take to be answered once nothing is broken any more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);
const SHOW_EVERY: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> ExitCode {
    let ran = tokio::select! {
        ran = run(Args::parse()) => ran,
        // What is dropped by it is stopped and unmounted.
        () = paystream_dev::interrupted() => Err(anyhow!("interrupted")),
    };
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("paystream-storm: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything held.
async fn run(args: Args) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let length = Duration::from_secs(args.minutes * 60);
    let faults = fault::plan(seed, length, args.topology, &args.faults)?;
    if args.plan {
        let line =
            |fault: &Fault| format!("{:?} {} {:?}\n", fault.at, fault.kind.name(), fault.lasts);
        return print(&faults.iter().map(line).collect::<String>()).map(|()| true);
    }
    eprintln!("seed {seed}: {} faults in {} minutes", faults.len(), args.minutes);
    let folder = args.folder.join(format!("{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("could not make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let site = Site::build(&args, seed, folder.clone(), &faults).await?;
    let report = storm(&args, &site, length, faults).await?;
    let site = Arc::into_inner(site).context("somebody still holds the site")?;
    let Site { stores, disks, clocks, .. } = site;
    stores.stop().await?;
    drop((disks, clocks));
    let _removed_or_not = std::fs::remove_dir_all(folder.join("copies"));
    if report.held && !args.keep {
        std::fs::remove_dir_all(&folder)?;
    }
    print(&if args.json { report.json()? + "\n" } else { report.text()? })?;
    Ok(report.held)
}

fn print(text: &str) -> Result<()> {
    write!(std::io::stdout().lock(), "{text}").context("could not print the report")
}

async fn storm(
    args: &Args,
    site: &Arc<Site>,
    length: Duration,
    faults: Vec<Fault>,
) -> Result<Report> {
    let customers: Vec<String> = (0..args.customers).map(weather::customer).collect();
    site.open_accounts(&customers).await?;
    let progress = Arc::new(Progress::default());
    let (stop, stopped) = channel(false);
    let mut clients = JoinSet::new();
    for (number, customer) in (0..).zip(customers) {
        let (api, records, seed) = (site.api.clone(), site.records.clone(), site.seed);
        let bank = Bank { number, customer, api, records, seed, thinks: THINKS };
        clients.spawn(bank.run(stopped.clone()));
    }
    let mut watching = JoinSet::new();
    {
        let (site, progress) = (Arc::clone(site), Arc::clone(&progress));
        watching.spawn(async move { progress.sample(&site).await });
    }
    {
        let site = Arc::clone(site);
        watching.spawn(async move { watch::watch_processes(&site).await });
    }
    if !args.json {
        let (site, progress) = (Arc::clone(site), Arc::clone(&progress));
        watching.spawn(async move { show(&site, &progress, length).await });
    }
    weather::make(site, faults.clone()).await;
    site.note("the last fault is over".to_owned());
    let over = Instant::now();
    stop.send_replace(true);
    let answering = async { while clients.join_next().await.is_some() {} };
    if timeout(ANSWERED_WITHIN, answering).await.is_err() {
        site.trouble(format!("{} clients are still not answered", clients.len()));
        clients.shutdown().await;
    }
    let rested = rest::rest(site).await?;
    let rested_after_ms = rested.then(|| over.elapsed().as_millis());
    watching.shutdown().await;
    let (records, violations) = rest::judge(site).await?;
    site.stop().await;
    check_losses(args.topology, site, &faults, &records);
    let troubles = site.troubles();
    let accepting = site.records.hold().gaps.clone();
    let held = violations.is_empty() && troubles.is_empty() && rested;
    let (accepted, replayed, refused) = {
        let record = site.records.hold();
        (record.accepted, record.replayed, record.refused)
    };
    let report = Report {
        seed: site.seed,
        held,
        accepted,
        replayed,
        refused,
        effects: records.effects.len(),
        listed: records.losses.iter().map(|loss| loss.last - loss.first + 1).sum(),
        lost: report::lost(&records),
        rested_after_ms,
        faults: report::pauses(site.began, &faults, &progress.gaps(), &accepting),
        not_made: report::not_made(&site.timeline()),
        violations: violations.iter().map(ToString::to_string).collect(),
        troubles,
        jumps: ledger::jumps(&site.stores).await?,
        folder: (!held).then(|| site.folder.clone()),
    };
    report::leave(site, &faults, &records, &violations, &report)?;
    Ok(report)
}

/// Nothing may be listed where no fault loses anything.
fn check_losses(topology: Topology, site: &Site, faults: &[Fault], records: &Records) {
    let may_lose = |fault: &Fault| {
        site.can_make(fault.kind) && fault.may_lose(topology, site::in_step(site.seed))
    };
    if let Some(loss) = records.losses.first().filter(|_| !faults.iter().any(may_lose)) {
        site.trouble(format!("{loss:?} is listed, although no fault loses anything"));
    }
}

/// A line that says how far it is.
async fn show(site: &Site, progress: &Progress, length: Duration) {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    loop {
        let (accepted, refused) = {
            let record = site.records.hold();
            (record.accepted, record.refused)
        };
        let settled = *progress.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let last = site.timeline().pop().map_or_else(String::new, |(_, what)| what);
        let seconds = (site.began.elapsed().as_secs(), length.as_secs());
        bar.set_message(format!(
            "{} of {} s, seed {}: taken {accepted}, settled {settled}, refused {refused}, \
             troubles {}; {last}",
            seconds.0,
            seconds.1,
            site.seed,
            site.troubles().len()
        ));
        bar.tick();
        sleep(SHOW_EVERY).await;
    }
}

//! Measures one scenario once, on stores of its own. Never compares.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use paystream_load::ProcessTimes;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    load::Load,
    scenario::{Arrival, Scenario},
    site::{Build, Site},
};

const WARM_UP_RATE: u32 = 500;
/// At which payments come that are to wait. Nothing is measured meanwhile.
const BACKLOG_RATE: u32 = 20_000;
const MICROSECONDS: u128 = 1_000_000;

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) sent_per_second: Option<u64>,
    /// Where a rate was asked for.
    pub(crate) rate_was_kept: Option<bool>,
    pub(crate) applied_per_second: Option<u64>,
    /// Processor time by process; in nanoseconds, so that what is small is no zero.
    pub(crate) cpu_ns_per_payment: BTreeMap<&'static str, u64>,
    /// By process, where nobody pays.
    pub(crate) thousandths_of_a_core: BTreeMap<&'static str, u64>,
    pub(crate) accept_p50_us: Option<u64>,
    pub(crate) accept_p99_us: Option<u64>,
    pub(crate) apply_p50_us: Option<u64>,
    pub(crate) apply_p99_us: Option<u64>,
    /// Of a gateway and a worker.
    pub(crate) resident_bytes: u64,
}

pub(crate) async fn measure(build: &Build, folder: &Path, scenario: &Scenario) -> Result<Measured> {
    let mut site = Site::start(build, folder, scenario).await?;
    let measured = match scenario.arrival {
        Arrival::Idle => idle(&mut site, scenario).await,
        Arrival::Backlog(payments) => drain(&mut site, scenario, payments).await,
        Arrival::Rate(_) | Arrival::Saturated => load(&mut site, scenario).await,
    };
    let measured = measured.with_context(|| format!("could not measure `{}`", scenario.name))?;
    site.stop().await?;
    Ok(measured)
}

async fn load(site: &mut Site, scenario: &Scenario) -> Result<Measured> {
    if scenario.ledger_rows > 0 {
        site.fill(scenario.ledger_rows).await?;
    }
    Load::seed(site, scenario).await?;
    site.start_workers(scenario.workers)?;
    warm_up(site, scenario).await?;
    let (since, before) = (site.mark().await?, ProcessTimes::take()?);
    let load = Load::of(site, scenario, (scenario.rate(), scenario.length())).await?;
    site.settled(&since, load.accepted).await?;
    let used = site.used(&before, &ProcessTimes::take()?);
    let found = site.found(&since).await?;
    let payments = u64::try_from(found.payments)?;
    ensure!(
        payments == load.accepted,
        "{} payments were accepted, and {payments} applied",
        load.accepted
    );
    let mut measured = Measured {
        sent_per_second: Some(load.sent_per_second),
        applied_per_second: Some(per_second(payments, u128::try_from(found.took_us)?)?),
        cpu_ns_per_payment: per_payment(used, payments)?,
        resident_bytes: site.resident()?,
        ..Measured::default()
    };
    if let Arrival::Rate(_) = scenario.arrival {
        measured.rate_was_kept = Some(load.kept_rate);
    }
    // Where as many come as are taken, latency says how many wait, and nothing else.
    if measured.rate_was_kept == Some(true) {
        measured.accept_p50_us = Some(load.accept.p50);
        measured.accept_p99_us = Some(load.accept.p99);
        measured.apply_p50_us = Some(u64::try_from(found.p50_us)?);
        measured.apply_p99_us = Some(u64::try_from(found.p99_us)?);
    }
    Ok(measured)
}

/// Payments wait, then workers come.
async fn drain(site: &mut Site, scenario: &Scenario, payments: u32) -> Result<Measured> {
    Load::seed(site, scenario).await?;
    let since = site.mark().await?;
    let length = Duration::from_secs(1) * payments / BACKLOG_RATE;
    let waiting = Load::of(site, scenario, (BACKLOG_RATE, length)).await?;
    ensure!(
        waiting.accepted == u64::from(payments),
        "{payments} payments were to wait, and {} were accepted",
        waiting.accepted
    );
    let (before, began) = (ProcessTimes::take()?, Instant::now());
    site.start_workers(scenario.workers)?;
    site.settled(&since, waiting.accepted).await?;
    let took = began.elapsed().as_micros();
    let used = site.used(&before, &ProcessTimes::take()?);
    Ok(Measured {
        applied_per_second: Some(per_second(waiting.accepted, took)?),
        cpu_ns_per_payment: per_payment(used, waiting.accepted)?,
        resident_bytes: site.resident()?,
        ..Measured::default()
    })
}

async fn idle(site: &mut Site, scenario: &Scenario) -> Result<Measured> {
    site.start_workers(scenario.workers)?;
    sleep(2 * scenario.warm_up).await;
    let before = ProcessTimes::take()?;
    sleep(scenario.length()).await;
    let used = site.used(&before, &ProcessTimes::take()?);
    let share = |(name, time): (&'static str, Duration)| {
        Ok((name, u64::try_from(time.as_millis())? / scenario.seconds))
    };
    Ok(Measured {
        thousandths_of_a_core: used.into_iter().map(share).collect::<Result<_>>()?,
        resident_bytes: site.resident()?,
        ..Measured::default()
    })
}

async fn warm_up(site: &mut Site, scenario: &Scenario) -> Result<()> {
    let since = site.mark().await?;
    let little = Load::of(site, &scenario.single_posts(), (WARM_UP_RATE, scenario.warm_up)).await?;
    site.settled(&since, little.accepted).await
}

fn per_second(payments: u64, took_us: u128) -> Result<u64> {
    Ok(u64::try_from(u128::from(payments) * MICROSECONDS / took_us.max(1))?)
}

fn per_payment(
    used: BTreeMap<&'static str, Duration>,
    payments: u64,
) -> Result<BTreeMap<&'static str, u64>> {
    let each = |(name, time): (&'static str, Duration)| {
        Ok((name, u64::try_from(time.as_nanos() / u128::from(payments.max(1)))?))
    };
    used.into_iter().map(each).collect()
}

//! The worker: settles the entries of its partitions in the ledger.
//!
//! The ownership loop (`owner.rs`) keeps the worker registered, acquires its share of the
//! partitions (`assignment.rs`), deals them to lanes (`dealing.rs`) and hands them over. Each lane
//! settles its partitions on its own. Never knows HTTP, SQL or Redis commands.

mod assignment;
mod attempt;
mod batch_size;
mod dealing;
mod error;
mod held;
mod keep;
mod lane;
mod lease;
mod lifelines;
mod moves;
mod owner;
mod process;
mod reach;
mod recovery;
mod rewind;
mod settle;
mod trim;
mod watch;

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use lane::Lane;
use owner::Owner;
pub use process::Worker;
use trim::Trimmer;

/// Works until `stop`, then hands everything over.
pub async fn run(worker: Worker, stop: CancellationToken) -> anyhow::Result<()> {
    let worker = Arc::new(worker);
    // Lanes go on while partitions are handed over.
    let stop_lanes = CancellationToken::new();
    let _stop_lanes_at_the_end = stop_lanes.clone().drop_guard();
    let (keeper, lease) = lease::lease(worker.config.lease);
    let (events, lane_events) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let mut lanes = Vec::new();
    for number in 0..worker.config.lanes {
        let (orders, lane_orders) = mpsc::unbounded_channel();
        lanes.push(orders);
        let lane = Lane::new(number, &worker, lease.clone(), lane_orders, events.clone());
        tasks.spawn(lane.run(stop_lanes.clone()));
    }
    tasks.spawn(Trimmer::run(Arc::clone(&worker), stop_lanes.clone()));
    tasks.spawn(keep::run(Arc::clone(&worker), stop_lanes.clone()));

    let (misses, reach) = reach::reach();
    let beat_interval = owner::beat_interval(worker.config.lease);
    tasks.spawn(reach::ask(worker.streams.clone(), beat_interval, misses, stop_lanes.clone()));

    let (lifelines, watcher) = lifelines::lifelines();
    let incarnation = worker.incarnation.clone();
    tasks.spawn(watcher.run(worker.streams.clone(), incarnation, stop_lanes.clone()));

    let mut owner = Owner::new(&worker, keeper, reach, lifelines, lanes);
    tokio::select! {
        owned = owner.run(lane_events, stop) => owned?,
        Some(ended) = tasks.join_next() => {
            ended.context("a task of the worker failed")?;
            bail!("a task of the worker ended before it was told to stop");
        }
    }
    stop_lanes.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the worker failed")?;
    }
    owner.leave().await;
    info!(worker = worker.id, "worker left");
    Ok(())
}

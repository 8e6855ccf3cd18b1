//! The worker: takes what its partitions hold and settles it in the ledger.
//!
//! This file is the ownership loop: it keeps the worker registered, acquires
//! partitions and deals them to the lanes. Each lane settles its share on its
//! own. Never knows HTTP, SQL or Redis commands.

mod lane;
mod settle;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{sync::mpsc, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::WorkerConfig,
    health::Board,
    ledger::{Grant, Ledger, Ownership},
    stream::{Streams, Upkeep},
};
use lane::{Lane, LaneEvent};

/// Beats within one lease.
const BEATS_PER_LEASE: u32 = 5;
/// How long a lane waits for an entry before it looks around.
const WAIT: Duration = Duration::from_millis(250);

/// What a worker works with.
pub struct Worker {
    /// Its name: unique, and the same after a restart.
    pub id: String,
    /// Tells this process from an earlier one of the same name.
    pub incarnation: String,
    /// Its settings.
    pub config: WorkerConfig,
    /// Where payments come from.
    pub streams: Streams,
    /// Where they go.
    pub ledger: Ledger,
    /// Where it says how it fares.
    pub board: Arc<Board>,
    /// Tells the time.
    pub clock: Clock,
}

/// The ownership loop's own state.
struct Owner {
    ownership: Ownership,
    joined: bool,
    held: BTreeMap<u16, Grant>,
    lanes: Vec<mpsc::UnboundedSender<Vec<Grant>>>,
}

/// Works until `stop`, then gives everything back.
///
/// # Errors
/// When another process takes the worker's name, or a lane ends by itself.
pub async fn run(worker: Worker, stop: CancellationToken) -> anyhow::Result<()> {
    let ownership = worker.ledger.ownership(&worker.id, worker.config.lease);
    let (events, mut lane_events) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let mut owner = Owner { ownership, joined: false, held: BTreeMap::new(), lanes: Vec::new() };
    for number in 0..worker.config.lanes {
        // Bounded by use: one message an ownership change.
        let (deal, dealt) = mpsc::unbounded_channel();
        owner.lanes.push(deal);
        let lane = Lane::new(number, &worker, dealt, events.clone());
        tasks.spawn(lane.run(stop.clone()));
    }
    drop(events);
    let upkeep = worker.streams.upkeep().await.context("could not reach Redis")?;
    tasks.spawn(trim(upkeep, worker.config.clone(), worker.clock, stop.clone()));

    let mut beat = time::interval(worker.config.lease / BEATS_PER_LEASE);
    beat.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = beat.tick() => owner.renew(&worker).await?,
            Some(LaneEvent::Lost(lane)) = lane_events.recv() => owner.forget(lane),
            Some(ended) = tasks.join_next() => {
                ended.context("a task of the worker failed")?;
                if !stop.is_cancelled() {
                    bail!("a task of the worker ended before it was told to stop");
                }
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the worker failed")?;
    }
    if let Err(error) = owner.ownership.leave(&worker.incarnation).await {
        warn!(%error, "could not give the partitions back; their lease will run out");
    }
    info!(worker = worker.id, "worker left");
    Ok(())
}

impl Owner {
    /// Joins or beats, and acquires what is free. Outages are waited out.
    async fn renew(&mut self, worker: &Worker) -> anyhow::Result<()> {
        if !self.joined {
            if let Err(error) = self.ownership.join(&worker.incarnation).await {
                warn!(%error, "could not join the workers; trying again");
                return Ok(());
            }
            info!(worker = worker.id, "worker joined");
            self.joined = true;
        }
        match self.ownership.beat(&worker.incarnation).await {
            Ok(true) => {}
            Ok(false) => bail!(
                "another process runs as worker {0}: give each its own PAYSTREAM_WORKER_ID; this \
                 older one stops",
                worker.id
            ),
            Err(error) => {
                warn!(%error, "could not beat; trying again");
                return Ok(());
            }
        }
        let held: Vec<(u16, i64)> = self.held.values().map(|g| (g.partition, g.epoch)).collect();
        match self.ownership.acquire(&held).await {
            Ok(grants) if grants.is_empty() => {}
            Ok(grants) => self.deal(grants),
            Err(error) => warn!(%error, "could not acquire partitions; trying again"),
        }
        Ok(())
    }

    /// Deals new partitions to the lanes, each always to the same one.
    fn deal(&mut self, grants: Vec<Grant>) {
        info!(partitions = grants.len(), "partitions acquired");
        let mut hands = vec![Vec::new(); self.lanes.len()];
        for grant in grants {
            self.held.insert(grant.partition, grant);
            let lane = self.lane_of(grant.partition);
            hands[lane].push(grant);
        }
        for (lane, hand) in self.lanes.iter().zip(hands).filter(|(_, hand)| !hand.is_empty()) {
            // A lane that has ended is noticed by the loop.
            let _ = lane.send(hand);
        }
    }

    /// A lane found itself fenced and has dropped its partitions; those that
    /// are still ours are acquired again under a new epoch.
    fn forget(&mut self, lane: u16) {
        let lanes = self.lanes.len();
        self.held.retain(|partition, _| usize::from(*partition) % lanes != usize::from(lane));
    }

    fn lane_of(&self, partition: u16) -> usize {
        usize::from(partition) % self.lanes.len()
    }
}

/// Trims what has been settled, at intervals.
async fn trim(upkeep: Upkeep, config: WorkerConfig, clock: Clock, stop: CancellationToken) {
    let mut interval = time::interval(config.trim_interval);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let retention = chrono::Duration::from_std(config.retention).unwrap_or(chrono::Duration::MAX);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        if let Err(error) = upkeep.trim_all(clock() - retention).await {
            warn!(%error, "could not trim the streams; trying again");
        }
    }
}

/// Monotonic time, for the board.
fn now() -> Instant {
    Instant::now()
}

//! The ownership loop: sends heartbeats, reads the registry, acquires this worker's share of the
//! partitions, and hands over those of others.
//!
//! A partition moves from a live owner only when both agree: the wanted owner requests it, and
//! the owner's own view of the registry says the same. Then its lane drops it between two
//! batches, and only then is it released. Never settles anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    dealing::{Dealer, Hands},
    lane::{LaneEvent, Order},
    lease::Keeper,
    lifelines::Lifelines,
    moves::Moves,
    process::Worker,
    reach::Reach,
};
use crate::{
    domain::Fence,
    ledger::{self, Grant, Ownership, RegistrySnapshot},
};

const BEATS_PER_LEASE: u32 = 5;
/// Interval between two reads of the registry.
const LOOK: Duration = Duration::from_millis(500);
/// The same interval while a partition is on its way.
const LOOK_CLOSELY: Duration = Duration::from_millis(50);
/// Messages of lanes that are handled at once.
const EVENTS_MAX: usize = 256;
/// How long a leaving worker serves on until others ask for its partitions.
const LEAVE_PATIENCE: Duration = Duration::from_secs(6);

pub(super) fn beat_interval(lease: Duration) -> Duration {
    lease / BEATS_PER_LEASE
}

/// A partition of ours, and the lane that serves it.
struct OwnedPartition {
    epoch: i64,
    lane: usize,
    /// Its lane was told to drop it.
    leaving: bool,
    /// The lane that it goes to then; without one it is handed over.
    next_lane: Option<usize>,
}

pub(super) struct Owner {
    worker: Arc<Worker>,
    ownership: Ownership,
    keeper: Keeper,
    reach: Reach,
    lifelines: Lifelines,
    joined: bool,
    /// Since when this worker has wanted to leave.
    leaving: Option<Instant>,
    held: BTreeMap<u16, OwnedPartition>,
    lanes: Vec<mpsc::UnboundedSender<Order>>,
    dealer: Dealer,
    /// Workers that were alive at the last read. Partitions move after two equal reads: a
    /// worker that misses a heartbeat, or restarts, would move them twice.
    lived: Vec<String>,
    expecting: bool,
}

impl Owner {
    pub(super) fn new(
        worker: &Arc<Worker>,
        keeper: Keeper,
        reach: Reach,
        lifelines: Lifelines,
        lanes: Vec<mpsc::UnboundedSender<Order>>,
    ) -> Self {
        Self {
            worker: Arc::clone(worker),
            ownership: worker.ledger.ownership(
                &worker.id,
                &worker.incarnation,
                worker.config.lease,
                worker.config.attempts_max,
                worker.generation,
            ),
            keeper,
            reach,
            lifelines,
            joined: false,
            leaving: None,
            held: BTreeMap::new(),
            dealer: Dealer::new(lanes.len(), Instant::now()),
            lanes,
            lived: Vec::new(),
            expecting: false,
        }
    }

    /// Owns until `stop`, and then until everything is handed over.
    pub(super) async fn run(
        &mut self,
        mut events: mpsc::UnboundedReceiver<LaneEvent>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut beats = interval(beat_interval(self.worker.config.lease));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_look = Instant::now();
        let mut heard = Vec::new();
        while !self.has_left() {
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.leaving.is_none() => {
                    self.leaving = Some(Instant::now());
                    self.beat().await?;
                    next_look = Instant::now();
                }
                _ = beats.tick() => self.beat().await?,
                _ = events.recv_many(&mut heard, EVENTS_MAX), if !events.is_closed() => {
                    self.hear(heard.drain(..)).await;
                }
                Some(incarnation) = self.lifelines.died.recv() => {
                    self.bury(&incarnation).await;
                    next_look = Instant::now();
                }
                () = sleep_until(next_look) => {
                    self.look().await;
                    let closely = self.expecting || self.leaving.is_some();
                    next_look = Instant::now() + if closely { LOOK_CLOSELY } else { LOOK };
                }
            }
            self.worker.board.serves(self.held.keys().copied());
        }
        Ok(())
    }

    /// Gives back what is left and leaves the registry.
    pub(super) async fn leave(&mut self) {
        if let Err(error) = self.ownership.leave().await {
            let error = error.sentence();
            warn!(error, "could not release the partitions; their lease will expire");
        }
    }

    fn has_left(&self) -> bool {
        self.leaving.is_some_and(|since| {
            !self.joined || self.held.is_empty() || since.elapsed() > LEAVE_PATIENCE
        })
    }

    /// Joins or beats. Outages are waited out.
    async fn beat(&mut self) -> anyhow::Result<()> {
        let sent = Instant::now();
        if !self.joined {
            if let Err(error) = self.ownership.join().await {
                let error = error.sentence();
                warn!(error, "could not register the worker; retrying");
                return Ok(());
            }
            info!(worker = self.worker.id, "worker joined");
            self.joined = true;
            self.keeper.renew(sent);
            return Ok(());
        }
        // A worker that does not reach Redis hands over like one that leaves.
        match self.ownership.beat(self.leaving.is_some() || self.reach.is_lost()).await {
            Ok(true) => self.keeper.renew(sent),
            Ok(false) => bail!(
                "another process runs as worker {0}: give each its own PAYSTREAM_WORKER_ID; this \
                 older one stops",
                self.worker.id
            ),
            Err(error) => warn!(error = error.sentence(), "heartbeat failed; retrying"),
        }
        Ok(())
    }

    /// Ends the lease of a worker that has died. After an error it runs out by itself.
    async fn bury(&mut self, incarnation: &str) {
        match self.ownership.end_lease(incarnation).await {
            Ok(Some(worker)) => {
                warn!(worker, "a worker died: its connection ended; taking its partitions over");
                self.expecting = true;
            }
            // Another worker was faster, or it has left.
            Ok(None) => {}
            Err(error) => debug!(%error, "could not end the lease of a worker that died"),
        }
    }

    /// Looks at the registry and moves what has to move. Outages are waited out.
    async fn look(&mut self) {
        if !self.joined {
            return;
        }
        let moved = match self.ownership.look().await {
            Ok(snapshot) => self.follow(&snapshot).await,
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            self.expecting = false;
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            // Heartbeats report an outage.
            if matches!(error, ledger::Error::Outage(_)) {
                debug!(cause, "could not move partitions: {error}");
            } else {
                warn!(cause, %error, "could not move partitions; retrying");
            }
        }
    }

    async fn follow(&mut self, snapshot: &RegistrySnapshot) -> Result<(), ledger::Error> {
        let others = snapshot.workers.iter().filter(|worker| worker.worker != self.worker.id);
        let others = others.map(|worker| worker.incarnation.clone()).collect();
        self.lifelines.others.send_replace(others);
        let staying = snapshot.workers.iter().filter(|worker| !worker.leaving);
        let staying: Vec<&str> = staying.map(|worker| worker.worker.as_str()).collect();
        // A single worker has no other to wait for.
        let alone = staying == [self.worker.id.as_str()];
        if self.lived != staying && !alone {
            self.lived = staying.into_iter().map(str::to_owned).collect();
            return Ok(());
        }
        if staying.is_empty() && self.leaving.is_none() {
            // No worker reaches Redis, so moving partitions would not help.
            self.expecting = false;
            return Ok(());
        }
        let mut moves =
            Moves::plan(&self.worker.id, &staying, snapshot, |fence| self.serves(fence));
        if !self.reach.is_sure() {
            // A worker that may not reach Redis acquires nothing.
            moves.acquire.clear();
            moves.request.clear();
        }
        self.expecting = !moves.request.is_empty() || !moves.acquire.is_empty();
        // Before anything is acquired again: another lane may be given it.
        self.order_releases(&self.taken_from_us(snapshot));
        if !moves.acquire.is_empty() {
            let grants = self.ownership.acquire(&moves.acquire).await?;
            self.deal(grants);
        }
        if !moves.request.is_empty() {
            self.ownership.request(&moves.request).await?;
        }
        if !moves.abandon.is_empty() {
            self.ownership.release(&moves.abandon).await?;
        }
        self.order_releases(&moves.hand_over);
        let now = Instant::now();
        let worker = &self.worker;
        // While a store is away, no lane can show that it is needed.
        if worker.redis.check(now).is_err() || worker.postgresql.check(now).is_err() {
            self.dealer.put_off(now);
        }
        let moves = self.dealer.narrow(&self.hands(), now);
        if !moves.is_empty() {
            info!(
                partitions = moves.len(),
                "one lane less is enough; its partitions go to the others"
            );
        }
        self.change_lanes(moves);
        Ok(())
    }

    fn deal(&mut self, grants: Vec<Grant>) {
        self.worker.signals.moved("acquired", grants.len());
        for grant in grants {
            let Fence { partition, epoch } = grant.fence;
            let idle_ms = u64::try_from(grant.since_moved.as_millis()).unwrap_or(u64::MAX);
            let previous = grant.previous.as_deref();
            info!(partition, epoch, previous, idle_ms, "partition acquired");
            let server = self.worker.streams.server_of(partition);
            let lane = self.dealer.lane_for(server.as_deref(), &self.hands());
            let owned = OwnedPartition { epoch, lane, leaving: false, next_lane: None };
            self.held.insert(partition, owned);
            self.send(lane, Order::Adopt(grant));
        }
    }

    /// Where partitions are, or are going to be.
    fn hands(&self) -> Hands {
        let server_of = |partition| self.worker.streams.server_of(partition);
        let lane_of = |held: &OwnedPartition| held.next_lane.unwrap_or(held.lane);
        let hands = self.held.iter();
        hands.map(|(one, held)| (*one, (lane_of(held), server_of(*one)))).collect()
    }

    /// Moves partitions from lane to lane. Those on their way are left alone.
    fn change_lanes(&mut self, moves: Vec<(u16, usize)>) {
        for (partition, lane) in moves {
            let Some(held) = self.held.get_mut(&partition).filter(|held| !held.leaving) else {
                continue;
            };
            (held.leaving, held.next_lane) = (true, Some(lane));
            let from = held.lane;
            debug!(partition, from, to = lane, "a partition changes lanes");
            self.send(from, Order::Release(partition));
        }
    }

    /// Partitions that a lane still serves although the registry gives them to others.
    fn taken_from_us(&self, snapshot: &RegistrySnapshot) -> BTreeSet<u16> {
        // An acquisition of ours may be younger than the look. After a change of
        // the topology the registry does not list what is ours at all.
        let is_ours = |partition: u16, held: &OwnedPartition| {
            snapshot
                .partitions
                .iter()
                .map(|row| row.fence)
                .any(|fence| fence.partition == partition && fence.epoch <= held.epoch)
        };
        let taken = self.held.iter().filter(|(partition, held)| !is_ours(**partition, held));
        taken.map(|(partition, _)| *partition).collect()
    }

    fn serves(&self, fence: Fence) -> bool {
        self.held.get(&fence.partition).is_some_and(|held| held.epoch == fence.epoch)
    }

    /// Tells lanes to drop partitions at their next batch edge.
    fn order_releases(&mut self, partitions: &BTreeSet<u16>) {
        for partition in partitions {
            let Some(held) = self.held.get_mut(partition) else { continue };
            let (lane, told) = (held.lane, held.leaving);
            (held.leaving, held.next_lane) = (true, None);
            if !told {
                self.send(lane, Order::Release(*partition));
            }
        }
    }

    fn send(&self, lane: usize, order: Order) {
        // A lane that has ended is noticed by whoever runs us.
        let _ = self.lanes.get(lane).map(|lane| lane.send(order));
    }

    async fn hear(&mut self, events: impl Iterator<Item = LaneEvent>) {
        let mut released = Vec::new();
        for event in events {
            match event {
                // A lane found itself fenced, or without a lease. What is still
                // ours by name is acquired again, under a new epoch.
                LaneEvent::Lost(lane) => {
                    let before = self.held.len();
                    self.held.retain(|_, held| held.lane != usize::from(lane));
                    self.worker.signals.moved("lost", before - self.held.len());
                    self.expecting = true;
                }
                LaneEvent::Behind(lane) => {
                    let lane = usize::from(lane);
                    let moves = self.dealer.widen(lane, &self.hands(), Instant::now());
                    if !moves.is_empty() {
                        let partitions = moves.len();
                        info!(
                            lane,
                            partitions,
                            "a lane does not keep up; half of its partitions go to another"
                        );
                    }
                    self.change_lanes(moves);
                }
                // If it has been acquired again meanwhile, the epoch differs.
                LaneEvent::Released(fence, sequence) if self.serves(fence) => {
                    if !self.adopt_elsewhere(fence, sequence) {
                        self.held.remove(&fence.partition);
                        released.push(fence);
                    }
                }
                LaneEvent::Released(..) => {}
            }
        }
        if released.is_empty() {
            return;
        }
        match self.ownership.release(&released).await {
            Ok(()) => {
                self.worker.signals.moved("released", released.len());
                info!(partitions = ?released, "partitions handed over");
            }
            // The next look finds them listed as ours and served by no lane.
            Err(error) => warn!(%error, "could not release partitions; retrying"),
        }
    }

    /// Gives a partition that its lane has dropped to the lane that it was meant for, if to any.
    fn adopt_elsewhere(&mut self, fence: Fence, sequence: i64) -> bool {
        let Some(held) = self.held.get_mut(&fence.partition) else { return false };
        let Some(lane) = held.next_lane.take() else { return false };
        (held.lane, held.leaving) = (lane, false);
        let grant = Grant { fence, sequence, previous: None, since_moved: Duration::ZERO };
        self.send(lane, Order::Adopt(grant));
        true
    }
}

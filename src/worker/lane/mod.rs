//! One lane: waits, takes, settles and acknowledges for its partitions, one
//! batch at a time.
//!
//! The loop starts over from the pending entries whenever a step fails. It remembers nothing
//! about a failed batch: its entries are pending in Redis and are claimed again. Orders of the
//! ownership loop are followed between two batches, never within one.

mod failures;
mod inspect;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    attempt::{self, Attempted},
    batch_size::BatchSize,
    error::Error,
    held::{Held, Phase},
    lease::Lease,
    process::Worker,
    recovery, rewind,
    settle::{self, Link},
    watch::Watch,
};
use crate::{
    domain::{Fence, StreamId},
    ledger::{Grant, Writer},
    stream::TakenFrom,
};

/// How long a lane waits for an entry before it inspects its partitions.
const WAIT: Duration = Duration::from_millis(250);

/// How long every batch must have been at least half full before a lane counts as one that does
/// not keep up.
const BEHIND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Order {
    Adopt(Grant),
    Release(u16),
}

#[derive(Debug)]
pub(super) enum LaneEvent {
    /// This lane was fenced and has dropped its partitions.
    Lost(u16),
    /// This lane has dropped this partition as ordered, of which sequences up to this one were
    /// given out; no batch of it is running.
    Released(Fence, i64),
    /// For a while each batch of this lane was at least half full.
    Behind(u16),
}

enum Step {
    Settled(usize),
    /// No entry waits.
    Idle,
    /// Entries wait, but none can be settled now.
    Stuck,
}

pub(super) struct Lane {
    number: u16,
    worker: Arc<Worker>,
    writer: Writer,
    lease: Lease,
    // Both bounded by use: one message a move of a partition.
    orders: mpsc::UnboundedReceiver<Order>,
    events: mpsc::UnboundedSender<LaneEvent>,
    held: BTreeMap<u16, Held>,
    link: Option<Link>,
    watch: Watch,
    /// The last inspection of the partitions in Redis.
    looked_at: Option<Instant>,
    /// When entries were last taken.
    took_at: Option<Instant>,
    /// Since when every batch was at least half full.
    full_since: Option<Instant>,
    batch: BatchSize,
}

impl Lane {
    pub(super) fn new(
        number: u16,
        worker: &Arc<Worker>,
        lease: Lease,
        orders: mpsc::UnboundedReceiver<Order>,
        events: mpsc::UnboundedSender<LaneEvent>,
    ) -> Self {
        Self {
            number,
            worker: Arc::clone(worker),
            writer: worker.ledger.writer(&worker.id, worker.config.batch_deadline),
            lease,
            orders,
            events,
            held: BTreeMap::new(),
            link: None,
            watch: Watch::new(worker.signals.clone(), &worker.id),
            looked_at: None,
            took_at: None,
            full_since: None,
            batch: BatchSize::new(worker.config.batch_max),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut pauses = pauses();
        while !stop.is_cancelled() {
            if self.held.is_empty() {
                self.say_idle();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(WAIT) => continue,
                    Some(order) = self.orders.recv() => self.obey(order),
                }
            }
            while let Ok(order) = self.orders.try_recv() {
                self.obey(order);
            }
            if self.circuit_is_open().await {
                continue;
            }
            let step = self.step().await;
            self.note_outage(&step);
            match step {
                Ok(Step::Stuck) => {}
                Ok(Step::Idle) => {
                    self.watch.settled(self.number, 0);
                    self.moved();
                }
                Ok(Step::Settled(entries)) => {
                    self.watch.settled(self.number, entries);
                    self.moved();
                    self.batch.was_in_time();
                    pauses = self::pauses();
                }
                Err(error) => {
                    // What is moved is there from one moment to the next.
                    let longest = if error.is_moving() { WAIT } else { PAUSE_MAX };
                    self.recover(error);
                    let pause = pauses.next().unwrap_or(PAUSE_MAX).min(longest);
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                }
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Adopt(grant) => {
                self.held.insert(grant.fence.partition, Held::new(grant));
            }
            Order::Release(partition) => {
                if let Some(Held { fence, sequence, .. }) = self.held.remove(&partition) {
                    self.tell(LaneEvent::Released(fence, sequence));
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step, Error> {
        if self.held.is_empty() {
            return Ok(Step::Idle);
        }
        if !self.lease.holds(Instant::now()) {
            return Err(Error::LeaseOver);
        }
        if self.link.is_none() {
            self.link = Some(self.connect().await?);
            self.looked_at = None;
            // The ledger may have gone back: everything is recorded again.
            self.held.values_mut().for_each(Held::tell_again);
        }
        if self.held.values().any(|held| held.phase == Phase::Arriving) {
            self.arrive().await?;
        }
        self.inspect_in_turn().await?;
        let now = Instant::now();
        let awake = self.held.values().filter(|held| !held.rests(now));
        let reclaiming = awake.filter_map(|held| match held.phase {
            Phase::Reclaiming(after) => Some((held.suspects.is_some(), held.fence, after)),
            Phase::Arriving | Phase::Taking { .. } => None,
        });
        // Entries that may end this worker come last.
        let next = reclaiming.min_by_key(|(suspected, fence, _)| (*suspected, fence.partition));
        match next.map(|(_, fence, after)| (fence, after)) {
            Some((fence, after)) => self.reclaim(fence, after).await,
            None => self.take().await,
        }
    }

    async fn connect(&self) -> Result<Link, Error> {
        // The ledger first: while it is away nothing is taken.
        let mut writer = self.writer.lane().await?;
        let mut consumer =
            self.worker.streams.consumer(&self.worker.id, &self.worker.incarnation).await?;
        let fences: Vec<Fence> = self.held.values().map(|held| held.fence).collect();
        rewind::mirror(&mut consumer, &mut writer, &fences).await?;
        // Attempts that could not be undone while the ledger was unavailable.
        for held in self.held.values().filter(|held| held.phase != Phase::Arriving) {
            match &held.suspects {
                Some(attempt) => writer.note_attempt(held.fence, attempt).await?,
                None => writer.end_attempt(held.fence).await?,
            }
        }
        let batch_deadline = self.worker.config.batch_deadline;
        let mut link = Link { consumer, writer, batch_deadline, watch: self.watch.clone() };
        recovery::compare(&mut link, self.held.values()).await?;
        Ok(link)
    }

    /// Takes partitions over: Redis gets the new owner, former owners' connections are closed,
    /// and pending entries come first.
    async fn arrive(&mut self) -> Result<(), Error> {
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        let arriving = self.held.values_mut().filter(|held| held.phase == Phase::Arriving);
        let mut arriving: Vec<&mut Held> = arriving.collect();
        let fences: Vec<Fence> = arriving.iter().map(|held| held.fence).collect();
        rewind::mirror(&mut link.consumer, &mut link.writer, &fences).await?;
        let previous: BTreeSet<&str> =
            arriving.iter().filter_map(|held| held.previous.as_deref()).collect();
        for worker in previous {
            link.consumer.cut_off(worker).await?;
        }
        recovery::compare(link, arriving.iter().map(|held| &**held)).await?;
        for held in &mut arriving {
            held.previous = None;
            held.suspects = link.writer.attempt(held.fence.partition).await?;
            held.phase = Phase::Reclaiming(None);
        }
        self.looked_at = None;
        Ok(())
    }

    async fn reclaim(&mut self, fence: Fence, after: Option<StreamId>) -> Result<Step, Error> {
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        let Some(held) = self.held.get_mut(&fence.partition) else { return Ok(Step::Idle) };
        let count = if held.suspects.is_some() { 1 } else { self.batch.page() };
        link.watch.asks();
        let page = link.consumer.reclaim(fence, after, count).await?;
        if let Some(last_id) = page.last_id {
            let entries = page.taken.len();
            link.watch.took(entries, entries);
            info!(partition = fence.partition, entries, "reclaimed pending entries");
            let config = &self.worker.config;
            let begun = Instant::now();
            let tried =
                attempt::settle_page(link, fence, page, held.suspects.as_ref(), config).await;
            match tried {
                Err(error) if error.is_locked() => {
                    self.rest(fence.partition, begun.elapsed(), &error);
                    return Ok(Step::Stuck);
                }
                Err(error) => return Err(error),
                Ok(Attempted::Done(left)) => {
                    (held.suspects, held.retry_at) = (left, None);
                    held.phase = Phase::Reclaiming(Some(last_id));
                }
                Ok(Attempted::Failed(attempt, settled_to)) => {
                    let pause = ATTEMPT_PAUSE * 2_u32.saturating_pow(attempt.attempts - 1);
                    held.retry_at = Some(Instant::now() + pause.min(PAUSE_MAX));
                    held.suspects = Some(attempt);
                    held.phase = Phase::Reclaiming(settled_to.or(after));
                }
            }
            self.note_fullness(self.batch.is_half_full(entries));
            return Ok(Step::Settled(entries));
        }
        (held.suspects, held.retry_at) = (None, None);
        link.writer.end_attempt(fence).await?;
        link.consumer.forget_others(fence).await?;
        // The next inspection reads the group's position.
        let last_id = after.unwrap_or_default();
        self.enter(fence.partition, Phase::Taking { last_id, full: false });
        self.looked_at = None;
        Ok(Step::Settled(0))
    }

    async fn take(&mut self) -> Result<Step, Error> {
        let link = self.link.as_mut().ok_or(Error::NotConnected)?;
        let after: Vec<(u16, StreamId)> = self
            .held
            .values()
            .filter_map(|held| match held.phase {
                Phase::Taking { last_id, .. } => Some((held.fence.partition, last_id)),
                Phase::Arriving | Phase::Reclaiming(_) => None,
            })
            .collect();
        let busy = self.held.values().any(|h| matches!(h.phase, Phase::Taking { full: true, .. }));
        // Each transaction costs PostgreSQL as much as some five payments in it.
        if let Some(took_at) = self.took_at.filter(|_| !busy) {
            sleep_until(took_at + self.worker.config.linger).await;
        }
        // No longer than until an entry that failed is to be tried again.
        let now = Instant::now();
        let retries = self.held.values().filter_map(|held| held.retry_at);
        let wait = retries.map(|at| at - now).min().map_or(WAIT, |until| until.min(WAIT));
        if after.is_empty() {
            tokio::time::sleep(wait).await;
            return Ok(Step::Stuck);
        }
        let ready = link.consumer.wait(&after, (!busy).then_some(wait)).await?;
        if ready.is_empty() {
            return self.look_around().await;
        }
        let share = self.batch.share(ready.len());
        let counts: Vec<(Fence, u32)> =
            ready.iter().filter_map(|p| Some((self.held.get(p)?.fence, share))).collect();
        link.watch.asks();
        self.took_at = Some(Instant::now());
        let taken = link.consumer.take(&counts).await?;
        if taken.iter().all(|from| from.taken.is_empty()) {
            // Entries exist, but none was delivered: the group was moved on.
            return self.look_around().await;
        }
        let batch: Vec<(Fence, TakenFrom)> =
            counts.into_iter().map(|(fence, _)| fence).zip(taken).collect();
        let moved: Vec<(u16, Option<StreamId>, bool)> = batch
            .iter()
            .map(|(fence, from)| {
                let full = u32::try_from(from.taken.len()).is_ok_and(|taken| taken >= share);
                (fence.partition, from.last_id, full)
            })
            .collect();
        let entries = batch.iter().map(|(_, from)| from.taken.len()).sum();
        link.watch.took(entries, 0);
        settle::settle(link, batch).await?;
        self.note_fullness(self.batch.is_half_full(entries));
        for (partition, last_id, full) in moved {
            if let Some(last_id) = last_id {
                self.enter(partition, Phase::Taking { last_id, full });
            }
        }
        Ok(Step::Settled(entries))
    }

    /// Says that this lane does not keep up, while that is so.
    fn note_fullness(&mut self, is_full: bool) {
        let since = self.full_since.filter(|_| is_full);
        let is_behind = since.is_some_and(|since| since.elapsed() >= BEHIND);
        if is_behind {
            self.tell(LaneEvent::Behind(self.number));
        }
        let now = is_full.then(Instant::now);
        self.full_since = if is_behind { now } else { since.or(now) };
    }

    fn moved(&self) {
        self.worker.board.moved(self.number, Instant::now().into_std());
    }

    fn waits(&self, reason: String) {
        self.worker.board.waits(self.number, Instant::now().into_std(), reason);
    }

    /// Reports a lane without partitions: idle, or without a lease an outage.
    fn say_idle(&self) {
        if self.lease.holds(Instant::now()) {
            self.moved();
        } else {
            let reason = "PostgreSQL has recorded no heartbeat of this worker within its lease";
            self.waits(reason.to_owned());
        }
    }

    fn tell(&self, event: LaneEvent) {
        // The ownership loop outlives its lanes; if it has ended, so do we.
        let _ = self.events.send(event);
    }

    fn enter(&mut self, partition: u16, phase: Phase) {
        if let Some(held) = self.held.get_mut(&partition) {
            held.phase = phase;
        }
    }
}

/// Pause after the first attempt at an entry; doubling after each, up to
/// [`PAUSE_MAX`].
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// Pauses after failures; they double.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

fn pauses() -> impl Iterator<Item = Duration> + Send {
    let builder = ExponentialBuilder::default().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX);
    builder.with_jitter().without_max_times().build()
}

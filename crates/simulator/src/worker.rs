//! A worker as src/worker has it: arrives, claims what is pending, takes, settles, acknowledges,
//! inspects and brings back. Each call of [`Worker::step`] is one exchange with one store, between
//! which anything may happen, its own end included.

use std::collections::BTreeMap;

use rand::{RngExt as _, rngs::Xoshiro256PlusPlus};

use crate::{
    Breakage,
    ledger::{Batch, Cursor, History, Ledger, Payment, Spot},
    redis::{Entry, Fence, HOLE, Keys, Position, Redis, Refusal, Reopening},
};

const PAGE: usize = 3;

/// `Phase` in src/worker/held.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Arriving,
    Reclaiming(u64),
    Taking,
}

/// `Held` in src/worker/held.rs.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    epoch: i64,
    phase: Phase,
    previous: Option<usize>,
    sequence: i64,
    quiet: Option<i64>,
    accounted: i64,
    history: History,
}

/// Entries in hand.
#[derive(Clone, Debug)]
struct Work {
    partition: u16,
    epoch: i64,
    entries: Vec<(u64, Option<Entry>)>,
    is_reclaimed: bool,
    seen: Option<Vec<bool>>,
}

#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Taken(Work),
    /// In a transaction of this life of the ledger.
    Open(Work, u32),
    Committed(Work, Vec<(i64, i64)>),
}

#[derive(Debug, Default)]
pub(crate) struct Worker {
    number: usize,
    pub(crate) is_alive: bool,
    pub(crate) generation: u32,
    pub(crate) held: BTreeMap<u16, Held>,
    /// The server that its connections lead to, and the life of the ledger.
    link: Option<(u32, u32)>,
    has_looked: bool,
    stage: Stage,
}

/// Where a step happens.
pub(crate) struct Scene {
    pub(crate) redis: Redis,
    pub(crate) ledger: Ledger,
    pub(crate) payments: Vec<Payment>,
    pub(crate) random: Xoshiro256PlusPlus,
    pub(crate) breakage: Option<Breakage>,
    /// Partitions whose ledger was taken to have gone back.
    pub(crate) rewound: Vec<u16>,
    /// Workers whose connections were cut.
    pub(crate) cut: Vec<usize>,
}

impl Scene {
    /// Where connections lead.
    fn ends(&self) -> (u32, u32) {
        (self.redis.identity, self.ledger.incarnation)
    }
}

impl Worker {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    pub(crate) fn crash(&mut self) {
        self.is_alive = false;
        self.held.clear();
        (self.link, self.stage, self.has_looked) = (None, Stage::Idle, false);
    }

    /// Its connections to Redis break.
    pub(crate) fn cut(&mut self) {
        self.link = None;
    }

    /// Whether the ledger has from it what these keys tell of failovers and losses.
    pub(crate) fn has_noted(&self, partition: u16, keys: &Keys) -> bool {
        self.held.get(&partition).is_some_and(|held| held.history == history(keys))
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    pub(crate) fn adopt(&mut self, partition: u16, grant: (i64, i64, Option<usize>)) {
        let (epoch, sequence, previous) = grant;
        let previous = previous.filter(|previous| *previous != self.number);
        let held = Held {
            epoch,
            phase: Phase::Arriving,
            previous,
            sequence,
            quiet: None,
            accounted: 0,
            history: History::default(),
        };
        self.held.insert(partition, held);
    }

    /// Drops a partition between two batches; its fence.
    pub(crate) fn drop_held(&mut self, partition: u16) -> Option<Fence> {
        self.held.remove(&partition).map(|held| (self.number, held.epoch))
    }

    pub(crate) fn step(&mut self, scene: &mut Scene) {
        let failed = match std::mem::take(&mut self.stage) {
            Stage::Idle => self.idle(scene),
            Stage::Taken(work) => self.open(scene, work),
            Stage::Open(work, life) if life != scene.ledger.incarnation => {
                drop(work);
                Err(Refusal::Outage)
            }
            Stage::Open(work, _) => self.commit(scene, work),
            Stage::Committed(work, gaps) => self.conclude(scene, &work, &gaps),
        };
        match failed {
            Ok(()) => return,
            Err(Refusal::Fenced) => {
                self.held.clear();
                self.link = None;
            }
            Err(Refusal::Outage) => self.link = None,
            Err(Refusal::StateLost | Refusal::Lineage) => self.has_looked = false,
        }
        for held in self.held.values_mut().filter(|held| held.phase != Phase::Arriving) {
            held.phase = Phase::Reclaiming(0);
        }
    }

    fn connected(&self, scene: &Scene) -> Result<(), Refusal> {
        if self.link == Some(scene.ends()) { Ok(()) } else { Err(Refusal::Outage) }
    }

    fn fence(&self, scene: &Scene, epoch: i64) -> Option<Fence> {
        (scene.breakage != Some(Breakage::NoFence)).then_some((self.number, epoch))
    }

    /// `post` in src/worker/settle.rs, up to what it reads: `must_follow`.
    fn open(&mut self, scene: &mut Scene, mut work: Work) -> Result<(), Refusal> {
        self.connected(scene)?;
        let keys = scene.redis.at((self.generation, work.partition));
        let cursor = scene.ledger.cursor(work.partition);
        let new = work.entries.iter().filter_map(|(_, entry)| entry.as_ref());
        let first = new.filter(|entry| entry.id > cursor.reached).min_by_key(|entry| entry.id);
        if let Some(first) = first.filter(|entry| entry.sequence > cursor.sequence + 1) {
            let entries = keys.stream.as_ref().map_or(&[][..], |stream| &stream.entries);
            let is_between = |entry: &Entry| entry.id > cursor.reached && entry.id < first.id;
            let checks = scene.breakage != Some(Breakage::NoFence);
            if checks && entries.iter().any(is_between) {
                return Err(Refusal::StateLost);
            }
        }
        if scene.breakage == Some(Breakage::AckBeforeCommit) {
            keys.acknowledge(&work.entries.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        }
        if scene.breakage == Some(Breakage::DedupeOutside) {
            let is_used = |(_, entry): &(u64, Option<Entry>)| {
                let payment = entry.and_then(|entry| scene.payments.get(entry.payment));
                payment.is_some_and(|one| scene.ledger.used.contains_key(&one.reference))
            };
            work.seen = Some(work.entries.iter().map(is_used).collect());
        }
        self.stage = Stage::Open(work, scene.ledger.incarnation);
        Ok(())
    }

    fn commit(&mut self, scene: &mut Scene, work: Work) -> Result<(), Refusal> {
        let Work { partition, epoch, ref entries, ref seen, .. } = work;
        let fence = self.fence(scene, epoch);
        let batch = Batch { partition, fence, entries, seen: seen.as_deref() };
        let gaps = scene.ledger.settle(&batch, &scene.payments)?;
        if scene.random.random_ratio(1, 12) {
            // The answer to the commit was lost.
            return Err(Refusal::Outage);
        }
        self.stage = Stage::Committed(work, gaps);
        Ok(())
    }

    fn conclude(
        &mut self,
        scene: &mut Scene,
        work: &Work,
        gaps: &[(i64, i64)],
    ) -> Result<(), Refusal> {
        self.connected(scene)?;
        let keys = scene.redis.at((self.generation, work.partition));
        gaps.iter().for_each(|gap| keys.lose(*gap));
        let ids: Vec<u64> = work.entries.iter().map(|(id, _)| *id).collect();
        keys.acknowledge(&ids);
        if let Some(held) = self.held.get_mut(&work.partition).filter(|_| work.is_reclaimed) {
            held.phase = Phase::Reclaiming(ids.last().copied().unwrap_or(0));
        }
        Ok(())
    }

    /// `step` in src/worker/lane/mod.rs.
    fn idle(&mut self, scene: &mut Scene) -> Result<(), Refusal> {
        if self.held.is_empty() {
            return Ok(());
        }
        let is_new = self.link != Some(scene.ends());
        if is_new {
            self.link = Some(scene.ends());
            self.has_looked = false;
        }
        if is_new || self.held.values().any(|held| held.phase == Phase::Arriving) {
            return self.arrive(scene, is_new);
        }
        if !self.has_looked || scene.random.random_ratio(1, 8) {
            self.rewind(scene)?;
            self.inspect(scene)?;
            self.note_missing(scene)?;
            self.has_looked = true;
            for (partition, held) in &self.held {
                let at = (*partition, (self.number, held.epoch));
                scene.ledger.raise(at, held.sequence, 0);
            }
            return Ok(());
        }
        let number = scene.random.random_range(0..self.held.len());
        let Some((partition, held)) = self.held.iter().nth(number) else { return Ok(()) };
        let (partition, Held { epoch, phase, .. }) = (*partition, held.clone());
        let fence = self.fence(scene, epoch);
        let keys = scene.redis.at((self.generation, partition));
        let (entries, is_reclaimed) = match phase {
            Phase::Reclaiming(after) => (keys.reclaim(fence, after, PAGE)?, true),
            Phase::Arriving | Phase::Taking => {
                let taken = keys.take(fence, PAGE)?;
                (taken.into_iter().map(|entry| (entry.id, Some(entry))).collect(), false)
            }
        };
        if !entries.is_empty() {
            let work = Work { partition, epoch, entries, is_reclaimed, seen: None };
            self.stage = Stage::Taken(work);
        } else if is_reclaimed {
            self.has_looked = false;
            if let Some(held) = self.held.get_mut(&partition) {
                held.phase = Phase::Taking;
            }
        } else {
            self.inspect(scene)?;
        }
        Ok(())
    }

    /// `connect` and `arrive` in src/worker/lane/mod.rs, `mirror` in src/worker/rewind.rs, and
    /// `compare` in src/worker/recovery.rs.
    fn arrive(&mut self, scene: &mut Scene, all: bool) -> Result<(), Refusal> {
        let server = (scene.redis.identity, scene.redis.promoted);
        for (partition, held) in &mut self.held {
            let arrives = held.phase == Phase::Arriving;
            if !all && !arrives {
                continue;
            }
            let keys = scene.redis.at((self.generation, *partition));
            let told = keys.mirror(self.number, held.epoch);
            if let Err(known) = told
                && scene.breakage != Some(Breakage::NoFence)
            {
                scene.ledger.raise((*partition, (self.number, held.epoch)), 0, known);
                return Err(Refusal::Fenced);
            }
            if scene.breakage != Some(Breakage::NoFence) {
                scene.cut.extend(held.previous.take());
            }
            keys.compare(server, held.sequence, None);
            let jumps = scene.ledger.jumps.get(partition).into_iter().flatten();
            jumps.filter_map(|jump| jump.lost).for_each(|range| keys.lose(range));
            held.history = History::default();
            if arrives {
                held.phase = Phase::Reclaiming(0);
                self.has_looked = false;
            }
        }
        Ok(())
    }

    /// `look` in src/worker/rewind.rs.
    fn rewind(&mut self, scene: &mut Scene) -> Result<(), Refusal> {
        let identity = scene.redis.identity;
        for (partition, held) in &mut self.held {
            let (partition, fence) = (*partition, (self.number, held.epoch));
            let Cursor { sequence: settled, reached, .. } = scene.ledger.cursor(partition);
            let keys = scene.redis.at((self.generation, partition));
            let Some(Position { last, .. }) = keys.position(false) else { continue };
            if last <= reached {
                if last < reached {
                    let stream = keys.stream.as_ref().into_iter();
                    let after = stream.flat_map(|stream| &stream.entries);
                    let mut after = after.filter(|one| one.id > reached && one.sequence <= settled);
                    let is_copy = |entry: &&Entry| {
                        let payment = scene.payments.get(entry.payment);
                        let used = payment.and_then(|one| scene.ledger.used.get(&one.reference));
                        used == Some(&(partition, entry.sequence))
                    };
                    if let Some(first) = after.find(|entry| !is_copy(entry)) {
                        let range = (first.sequence, held.sequence);
                        scene.ledger.note_twice((partition, fence), range)?;
                    }
                }
                continue;
            }
            let Some(kept) = keys.passed(reached, last) else { continue };
            note(keys, &mut scene.ledger, (partition, fence), Some(last))?;
            let known = held.sequence.max(keys.sequence().unwrap_or(0));
            let (counted, ..) = keys.close(fence)?;
            let given = known.max(counted);
            let (gone_to, cursor) = match kept {
                None => (given, last),
                Some(first) if first <= given => (first - 1, reached),
                Some(_) => (settled, reached),
            };
            let passed = kept.is_none().then_some(last);
            let rewound = (settled, gone_to, passed);
            let lost = scene.ledger.note_rewound((partition, fence), rewound)?;
            let sequence = given;
            let how = Reopening { cursor, sets_back: true, sequence, kept: None, lost: &lost };
            keys.reopen(fence, identity, &how)?;
            (held.sequence, held.phase) = (given, Phase::Reclaiming(0));
            scene.rewound.push(partition);
        }
        Ok(())
    }

    /// `inspect` in src/worker/lane/inspect.rs.
    fn inspect(&mut self, scene: &mut Scene) -> Result<(), Refusal> {
        self.connected(scene)?;
        let identity = scene.redis.identity;
        for (partition, held) in &mut self.held {
            let (partition, fence) = (*partition, (self.number, held.epoch));
            let keys = scene.redis.at((self.generation, partition));
            let position = keys.position(scene.breakage == Some(Breakage::LagBelieved));
            let sequence = keys.sequence();
            if held.history != history(keys) {
                note(keys, &mut scene.ledger, (partition, fence), position.map(|one| one.last))?;
                held.history = history(keys);
            }
            let known = held.sequence;
            let is_sound = position.is_some() && sequence.is_some_and(|one| one >= known);
            held.quiet = None;
            if !is_sound {
                let counts_on = sequence.is_some_and(|one| one >= known);
                let seen = (identity, counts_on);
                held.sequence = recover(keys, &mut scene.ledger, (partition, fence), seen)?;
                held.phase = Phase::Reclaiming(0);
            }
            held.sequence = held.sequence.max(sequence.unwrap_or(0));
            let Some(position) = position else { continue };
            let nothing_waits = position.pending == 0 && position.lag == 0;
            held.quiet = (is_sound && nothing_waits).then_some(known);
            if held.phase == Phase::Taking && position.pending > 0 {
                held.phase = Phase::Reclaiming(0);
            }
        }
        Ok(())
    }

    /// `note_missing` in src/worker/lane/inspect.rs.
    fn note_missing(&mut self, scene: &mut Scene) -> Result<(), Refusal> {
        for (partition, held) in &mut self.held {
            let is_taking = held.phase == Phase::Taking;
            let quiet = held.quiet.filter(|given| is_taking && *given > held.accounted);
            let Some(given) = quiet else { continue };
            let fence = (self.number, held.epoch);
            let gaps = scene.ledger.note_missing((*partition, fence), given)?;
            let keys = scene.redis.at((self.generation, *partition));
            gaps.iter().for_each(|gap| keys.lose(*gap));
            held.accounted = given;
        }
        Ok(())
    }
}

fn history(keys: &Keys) -> History {
    let holes = keys.lineage.iter().filter(|line| line.first > line.after + 1);
    (holes.map(|line| (line.after, line.first)).collect(), keys.lost.clone())
}

/// `note` in src/worker/recovery.rs.
fn note(keys: &Keys, ledger: &mut Ledger, at: Spot, handed: Option<u64>) -> Result<(), Refusal> {
    ledger.note_takeovers(at, &history(keys), handed)
}

/// `recover` in src/worker/recovery.rs: the last sequence that counts as given out.
fn recover(
    keys: &mut Keys,
    ledger: &mut Ledger,
    (partition, fence): Spot,
    (identity, counts_on): (u32, bool),
) -> Result<i64, Refusal> {
    let cursor = ledger.cursor(partition);
    let (counted, last_sequence, last_id) = keys.close(fence)?;
    if counts_on && last_id > 0 {
        // `begin_at`: behind the cursor, unless entries wait before it.
        let entries = keys.stream.as_ref().map_or(&[][..], |stream| &stream.entries);
        let before = entries.iter().rfind(|entry| entry.id <= cursor.reached);
        let waits = before.is_some_and(|entry| entry.sequence > cursor.sequence);
        let cursor = if waits { 0 } else { cursor.reached };
        let how = Reopening { cursor, sets_back: false, sequence: counted, kept: None, lost: &[] };
        keys.reopen(fence, identity, &how)?;
        return Ok(counted);
    }
    let (resumes_at, lost, cursor) =
        ledger.note_loss((partition, fence), (counted, last_sequence))?;
    let kept = lost.map_or(resumes_at - HOLE, |(first, _)| first - 1);
    let sequence = resumes_at - 1;
    let (kept, lost) = (Some(kept), lost.into_iter().collect::<Vec<_>>());
    keys.reopen(
        fence,
        identity,
        &Reopening { cursor, sets_back: false, sequence, kept, lost: &lost },
    )?;
    Ok(sequence)
}

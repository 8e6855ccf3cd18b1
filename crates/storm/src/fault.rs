//! The faults, and the plan of a storm: which one happens when, to whom and for how long. A pure
//! function of the seed. Never makes a fault.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

use crate::args::Topology;

/// What can be made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// `kill -9` of a worker, which is started again after a while.
    KillWorker,
    KillGateway,
    /// SIGTERM, and started again.
    StopWorker,
    StopGateway,
    /// SIGSTOP for a while.
    FreezeWorker,
    FreezeGateway,
    FreezeRedis,
    FreezePostgres,
    KillRedis,
    RestartRedis,
    KillPostgres,
    RestartPostgres,
    /// SCRIPT FLUSH.
    ScriptFlush,
    /// FLUSHALL.
    FlushAll,
    /// DEL of a stream.
    DeleteStream,
    /// DEL of a partition's counter.
    DeleteCounter,
    /// XDEL of a stream's last entries.
    DeleteEntries,
    /// XGROUP DESTROY.
    DestroyGroup,
    /// A small maxmemory.
    ShrinkRedis,
    /// CONFIG SET appendfsync no, and back.
    UnsafeRedis,
    /// pg_terminate_backend of all sessions.
    EndSessions,
    /// Rows or tables locked by somebody else.
    ForeignLock,
    /// Entries that cannot be read.
    Poison,
    /// One customer pays through many clients at once.
    HotCustomer,
    /// Connections between one process and one store break.
    Cut,
    /// They stand, and carry nothing more.
    HalfOpen,
    /// Everything comes late.
    Delay,
    /// All processes in turn, by SIGTERM.
    RollingRestart,
    /// Another number of partitions.
    Resize,
    /// An old backup of PostgreSQL is put back.
    OldPostgres,
    /// An old copy of Redis is put back.
    OldRedis,
    /// A replica is promoted whose master is well.
    FailOver,
    /// A replica hears nothing more; then its master dies, and it is promoted.
    PromoteLagging,
    /// A partition's slot moves to another master.
    MoveSlot,
    /// The standby of PostgreSQL is promoted.
    PromotePostgres,
    FreezeStandby,
    /// The disk of PostgreSQL's primary is full.
    FillDiskPostgres,
    /// The disk of a Redis is full.
    FillDiskRedis,
    /// The clock of one process or server is wrong for a while.
    StepClock,
}

/// How a kind of fault takes part in a plan.
struct Trait {
    /// How often, beside the others.
    weight: u32,
    /// How long it lasts, in milliseconds, from and to.
    lasts: (u64, u64),
    /// Redis may lose what it acknowledged.
    loses: bool,
    /// A gateway ends, with all that it alone knows to have been given out.
    forgets: bool,
}

impl Kind {
    fn made(self, topology: Topology) -> Trait {
        let alone = topology == Topology::Single;
        // Whatever stands longer is replaced, and what replaces it may lack something.
        let redis = |weight, alone_at_most, at_most| {
            let most = if alone { alone_at_most } else { at_most };
            Trait { weight, lasts: (0, most), loses: !alone, forgets: false }
        };
        let one = |weight, lasts| Trait { weight, lasts, loses: false, forgets: false };
        match self {
            Self::KillWorker => one(8, (0, 14_000)),
            Self::StopWorker => one(4, (0, 2_000)),
            Self::KillGateway => Trait { forgets: true, ..one(5, (0, 2_000)) },
            Self::StopGateway => Trait { forgets: true, ..one(3, (0, 1_000)) },
            Self::RollingRestart => Trait { forgets: true, ..one(1, (0, 1_000)) },
            Self::FreezeWorker => one(6, (300, 14_000)),
            Self::FreezeGateway => one(3, (300, 10_000)),
            Self::FreezeRedis => redis(2, 6_000, 10_000),
            Self::FreezePostgres => one(2, (300, 8_000)),
            Self::KillRedis => redis(4, 2_000, 8_000),
            Self::RestartRedis => redis(2, 500, 8_000),
            Self::KillPostgres => one(4, (0, 2_000)),
            Self::RestartPostgres => one(2, (0, 500)),
            Self::ScriptFlush => one(3, (0, 0)),
            Self::FlushAll | Self::OldRedis => Trait { loses: true, ..one(2, (0, 3_000)) },
            Self::DeleteStream | Self::DeleteCounter | Self::DeleteEntries => one(2, (0, 0)),
            Self::DestroyGroup => one(2, (0, 0)),
            Self::ShrinkRedis => one(2, (500, 4_000)),
            Self::UnsafeRedis => one(1, (500, 3_000)),
            Self::EndSessions => one(4, (0, 0)),
            Self::ForeignLock => one(3, (500, 8_000)),
            Self::Poison => one(3, (0, 0)),
            Self::HotCustomer => one(2, (2_000, 6_000)),
            Self::Cut => redis(4, 3_000, 5_000),
            Self::HalfOpen => redis(4, 12_000, 12_000),
            Self::Delay => redis(3, 4_000, 4_000),
            Self::FailOver => redis(4, 0, 0),
            Self::PromoteLagging => redis(3, 0, 3_000),
            Self::MoveSlot => one(4, (0, 0)),
            Self::PromotePostgres => one(3, (0, 3_000)),
            Self::FreezeStandby => one(2, (300, 8_000)),
            Self::FillDiskPostgres => one(2, (500, 8_000)),
            Self::FillDiskRedis => redis(2, 6_000, 8_000),
            // Whoever judges by it that a Redis is away has it replaced.
            Self::StepClock => redis(3, 12_000, 12_000),
            Self::Resize => one(2, (0, 0)),
            Self::OldPostgres => one(2, (1_000, 6_000)),
        }
    }

    /// Whether there is anything to break in this way.
    fn is_of(self, topology: Topology) -> bool {
        let needs_replica = matches!(self, Self::FailOver | Self::PromoteLagging);
        let needs_cluster = self == Self::MoveSlot;
        !(needs_replica && topology == Topology::Single
            || needs_cluster && topology != Topology::Cluster)
    }

    fn may_lose(self, topology: Topology, in_step: bool) -> bool {
        let loses = matches!(
            self,
            Self::DeleteStream
                | Self::DeleteCounter
                | Self::DeleteEntries
                | Self::UnsafeRedis
                | Self::Poison
                | Self::OldPostgres
        );
        loses || self.made(topology).loses || self == Self::PromotePostgres && !in_step
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// One fault of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    pub(crate) lasts: Duration,
    /// Whoever makes it draws from these whom it hits.
    pub(crate) draws: [u32; 3],
}

/// Whose clock steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockOwner {
    Gateway,
    Worker,
    Postgres,
    Redis,
}

impl Fault {
    pub(crate) fn clock_owner(&self) -> ClockOwner {
        match self.draws[0] % 4 {
            0 => ClockOwner::Gateway,
            1 => ClockOwner::Worker,
            2 => ClockOwner::Postgres,
            _ => ClockOwner::Redis,
        }
    }

    /// Whether sequences may be listed as lost after it. `in_step`: PostgreSQL's standby has
    /// whatever its primary committed.
    pub(crate) fn may_lose(&self, topology: Topology, in_step: bool) -> bool {
        let is_elsewhere = self.kind == Kind::StepClock && self.clock_owner() != ClockOwner::Redis;
        self.kind.may_lose(topology, in_step) && !is_elsewhere
    }
}

/// Whom a draw hits.
pub(crate) fn pick<T>(of: &[T], draw: u32) -> Result<&T> {
    let count = of.len().max(1);
    of.get(usize::try_from(draw)? % count).context("there is nothing to choose from")
}

/// The first fault comes when the load has settled in.
const CALM: u64 = 3_000;
/// What only a gateway knows to have been given out must not be lost before another process has
/// learnt of it (docs/recovery.md, "Limit"): until a worker is there that notes it in the ledger,
/// a dead one's lease included.
const LEARNT_WITHIN: u64 = 20_000;
/// How long a gateway must go on after a loss, so that it has compared what it knows.
const COMPARED_WITHIN: u64 = 12_000;

/// The faults of a storm.
///
/// # Errors
///
/// When a kind is asked for that this topology cannot have.
pub(crate) fn plan(
    seed: u64,
    length: Duration,
    topology: Topology,
    kinds: &[Kind],
) -> Result<Vec<Fault>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    if let Some(kind) = kinds.iter().find(|kind| !kind.is_of(topology)) {
        bail!("--faults {} needs another --topology", kind.name());
    }
    let all = Kind::value_variants();
    let mut kinds: Vec<Kind> = if kinds.is_empty() { all.to_vec() } else { kinds.to_vec() };
    kinds.retain(|kind| kind.is_of(topology));
    let end = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let (mut at, mut faults) = (CALM, Vec::new());
    let (mut forgotten, mut lost) = (None, None);
    while at < end {
        let kind = draw(&mut random, topology, &kinds);
        let made = kind.made(topology);
        let lasts = random.random_range(made.lasts.0..=made.lasts.1);
        let draws = [random.next_u32(), random.next_u32(), random.next_u32()];
        let since = |then: Option<u64>| then.map_or(u64::MAX, |then| at.saturating_sub(then));
        let too_early = made.loses && since(forgotten) < LEARNT_WITHIN
            || made.forgets && since(lost) < COMPARED_WITHIN;
        if !too_early {
            forgotten = if made.forgets { Some(at + lasts) } else { forgotten };
            lost = if made.loses { Some(at + lasts) } else { lost };
            let lasts = Duration::from_millis(lasts);
            faults.push(Fault { at: Duration::from_millis(at), kind, lasts, draws });
        }
        // Some come on top of each other.
        let pause = if random.random_ratio(1, 4) { 0..=400 } else { 800..=6_000 };
        at += random.random_range(pause);
    }
    Ok(faults)
}

fn draw(random: &mut impl Rng, topology: Topology, kinds: &[Kind]) -> Kind {
    let total: u32 = kinds.iter().map(|kind| kind.made(topology).weight).sum();
    let mut drawn = random.random_range(0..total.max(1));
    for kind in kinds {
        let weight = kind.made(topology).weight;
        if drawn < weight {
            return *kind;
        }
        drawn -= weight;
    }
    Kind::KillWorker
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPOLOGIES: [Topology; 3] = [Topology::Single, Topology::Sentinel, Topology::Cluster];

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let five = Duration::from_mins(5);
        let plan = |seed, kinds: &[Kind]| plan(seed, five, Topology::Single, kinds);
        let shown = |seed| format!("{:?}", plan(seed, &[]).unwrap());
        assert_eq!(shown(7), shown(7));
        assert_ne!(shown(7), shown(8));
        let only = plan(7, &[Kind::FlushAll, Kind::Cut]).unwrap();
        assert!(only.iter().any(|fault| fault.kind == Kind::FlushAll));
        assert!(only.iter().all(|fault| [Kind::FlushAll, Kind::Cut].contains(&fault.kind)));
        let refused = plan(7, &[Kind::MoveSlot]).unwrap_err();
        assert_eq!(refused.to_string(), "--faults move-slot needs another --topology");
    }

    #[test]
    fn every_kind_comes_up_and_no_loss_soon_after_a_gateway_ended() {
        for topology in TOPOLOGIES {
            let faults = plan(1, Duration::from_hours(3), topology, &[]).unwrap();
            for kind in Kind::value_variants() {
                let comes_up = faults.iter().any(|fault| fault.kind == *kind);
                assert_eq!(comes_up, kind.is_of(topology), "{kind:?} in {topology:?}");
            }
            let mut forgotten = None::<Duration>;
            for Fault { at, kind, lasts, .. } in faults {
                let made = kind.made(topology);
                if made.loses
                    && let Some(then) = forgotten
                {
                    assert!(at >= then + Duration::from_millis(LEARNT_WITHIN), "{kind:?}, {at:?}");
                }
                forgotten = if made.forgets { Some(at + lasts) } else { forgotten };
            }
        }
    }
}

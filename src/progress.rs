//! The board on which a worker writes how it fares and from which the health
//! endpoints read. Knows neither of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

#[derive(Clone, Debug)]
struct LaneState {
    /// When it last settled something, or saw that nothing waits.
    progress: Instant,
    /// What it waits for, if something it needs is away.
    waits_for: Option<String>,
}

#[derive(Debug)]
pub struct Board {
    lanes: Mutex<Vec<LaneState>>,
    stall_limit: Duration,
    /// Partitions that were ever served, and whether they still are.
    served: Mutex<BTreeMap<u16, bool>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerHealth {
    /// Every lane settles, or has nothing to settle.
    Working,
    /// A lane waits for something that is away; a restart would not help.
    Waiting(String),
    /// A lane has entries waiting and has not moved for this long.
    Stalled(Duration),
}

impl Board {
    /// A board for so many lanes, all of which have just moved.
    #[must_use]
    pub fn new(lanes: u16, stall_limit: Duration, now: Instant) -> Self {
        let lane = LaneState { progress: now, waits_for: None };
        let lanes = Mutex::new(vec![lane; usize::from(lanes)]);
        Self { lanes, stall_limit, served: Mutex::default() }
    }

    /// The lane settled something, or saw that nothing waits.
    pub fn moved(&self, lane: u16, now: Instant) {
        self.write(lane, LaneState { progress: now, waits_for: None });
    }

    /// The lane cannot work until something comes back.
    pub fn waits(&self, lane: u16, now: Instant, reason: String) {
        self.write(lane, LaneState { progress: now, waits_for: Some(reason) });
    }

    /// The worker serves these partitions now and no others.
    pub fn serves(&self, partitions: impl IntoIterator<Item = u16>) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.values_mut().for_each(|serves| *serves = false);
        served.extend(partitions.into_iter().map(|partition| (partition, true)));
    }

    /// The partitions that it serves, and those that it has given up.
    #[must_use]
    pub fn served(&self) -> BTreeMap<u16, bool> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For how long the slowest lane has stood still.
    #[must_use]
    pub fn still(&self, now: Instant) -> Duration {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        slowest(&lanes, now)
    }

    #[must_use]
    pub fn read(&self, now: Instant) -> WorkerHealth {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let still = slowest(&lanes, now);
        if still > self.stall_limit {
            return WorkerHealth::Stalled(still);
        }
        let waiting = lanes.iter().find_map(|lane| lane.waits_for.clone());
        waiting.map_or(WorkerHealth::Working, WorkerHealth::Waiting)
    }

    fn write(&self, lane: u16, state: LaneState) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get_mut(usize::from(lane)) {
            *lane = state;
        }
    }
}

fn slowest(lanes: &[LaneState], now: Instant) -> Duration {
    let still = lanes.iter().map(|lane| now.saturating_duration_since(lane.progress));
    still.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_stands_still_is_stalled_and_one_that_waits_is_not() {
        let start = Instant::now();
        let later = start + Duration::from_secs(31);
        let board = Board::new(2, Duration::from_secs(30), start);
        assert_eq!(board.read(start), WorkerHealth::Working);
        assert_eq!(board.read(later), WorkerHealth::Stalled(Duration::from_secs(31)));
        board.moved(0, later);
        assert_eq!(board.read(later), WorkerHealth::Stalled(Duration::from_secs(31)));
        board.waits(1, later, "postgresql is away".to_owned());
        assert_eq!(board.read(later), WorkerHealth::Waiting("postgresql is away".to_owned()));
        board.moved(1, later);
        assert_eq!(board.read(later), WorkerHealth::Working);
        assert_eq!(board.still(later + Duration::from_secs(2)), Duration::from_secs(2));
    }

    #[test]
    fn what_was_given_up_is_remembered() {
        let board = Board::new(1, Duration::from_secs(30), Instant::now());
        board.serves([0, 1]);
        board.serves([1, 2]);
        assert_eq!(board.served(), BTreeMap::from([(0, false), (1, true), (2, true)]));
    }
}

//! Which lane serves which partition of this worker: as few lanes as keep up, since the fewer
//! transactions payments share, the less each costs. Partitions of one server share lanes, so that
//! a server that is away holds up no other's. Decides; never moves a partition.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// How long all lanes must have kept up before fewer are tried. Doubles with each lane that was
/// needed after all.
const CALM_MIN: Duration = Duration::from_secs(30);
const CALM_MAX: Duration = Duration::from_secs(16 * 60);

/// Where partitions are: the lane of each, and its server where there are several.
pub(super) type Hands = BTreeMap<u16, (usize, Option<String>)>;

pub(super) struct Dealer {
    lanes: usize,
    calm: Duration,
    /// When fewer lanes are tried.
    narrow_at: Instant,
}

impl Dealer {
    pub(super) fn new(lanes: usize, now: Instant) -> Self {
        Self { lanes, calm: CALM_MIN, narrow_at: now + CALM_MIN }
    }

    /// The lane for another partition of this server.
    pub(super) fn lane_for(&self, server: Option<&str>, hands: &Hands) -> usize {
        let of_server = lanes_of(server, hands);
        let candidates = match (of_server.is_empty(), self.empty(hands)) {
            (false, _) => of_server,
            (true, Some(empty)) => return empty,
            (true, None) => (0..self.lanes).collect(),
        };
        candidates.into_iter().min_by_key(|lane| on(*lane, hands).count()).unwrap_or_default()
    }

    /// What goes to another lane because this one does not keep up: half of its partitions, if a
    /// lane is free.
    pub(super) fn widen(&mut self, lane: usize, hands: &Hands, now: Instant) -> Vec<(u16, usize)> {
        self.put_off(now);
        let Some(empty) = self.empty(hands) else { return Vec::new() };
        let moves: Vec<_> = on(lane, hands).skip(1).step_by(2).map(|one| (one, empty)).collect();
        if !moves.is_empty() {
            self.calm = (2 * self.calm).min(CALM_MAX);
            self.put_off(now);
        }
        moves
    }

    /// Nothing was learnt of how many lanes are needed.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.narrow_at = now + self.calm;
    }

    /// What goes to another lane because all have kept up for long: the partitions of one.
    pub(super) fn narrow(&mut self, hands: &Hands, now: Instant) -> Vec<(u16, usize)> {
        if now < self.narrow_at {
            return Vec::new();
        }
        self.narrow_at = now + self.calm;
        let servers: BTreeSet<_> = hands.values().map(|(_, server)| server.as_deref()).collect();
        let spread = servers.into_iter().map(|server| lanes_of(server, hands));
        let Some(mut lanes) = spread.max_by_key(BTreeSet::len).filter(|lanes| lanes.len() > 1)
        else {
            return Vec::new();
        };
        let Some(given_up) = lanes.pop_last() else { return Vec::new() };
        let others: Vec<usize> = lanes.into_iter().collect();
        on(given_up, hands).zip(others.iter().copied().cycle()).collect()
    }

    fn empty(&self, hands: &Hands) -> Option<usize> {
        (0..self.lanes).find(|lane| on(*lane, hands).next().is_none())
    }
}

fn on(lane: usize, hands: &Hands) -> impl Iterator<Item = u16> + '_ {
    hands.iter().filter(move |(_, (its, _))| *its == lane).map(|(partition, _)| *partition)
}

fn lanes_of(server: Option<&str>, hands: &Hands) -> BTreeSet<usize> {
    let of_server = hands.values().filter(|(_, its)| its.as_deref() == server);
    of_server.map(|(lane, _)| *lane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry(hands: &mut Hands, moves: Vec<(u16, usize)>) -> usize {
        let count = moves.len();
        for (partition, lane) in moves {
            hands.get_mut(&partition).unwrap().0 = lane;
        }
        count
    }

    fn counts(hands: &Hands, lanes: usize) -> Vec<usize> {
        (0..lanes).map(|lane| on(lane, hands).count()).collect()
    }

    #[test]
    fn lanes_are_taken_into_use_as_they_are_needed_and_given_up_later_each_time() {
        let now = Instant::now();
        let mut dealer = Dealer::new(3, now);
        let mut hands = Hands::new();
        for partition in 0..8 {
            let lane = dealer.lane_for(None, &hands);
            hands.insert(partition, (lane, None));
        }
        assert_eq!(counts(&hands, 3), [8, 0, 0]);
        let moves = dealer.widen(0, &hands, now);
        carry(&mut hands, moves);
        assert_eq!(counts(&hands, 3), [4, 4, 0]);
        let moves = dealer.widen(1, &hands, now);
        carry(&mut hands, moves);
        assert_eq!(counts(&hands, 3), [4, 2, 2]);
        assert_eq!(dealer.widen(0, &hands, now), [], "no lane is free");

        let later = now + 4 * CALM_MIN;
        assert_eq!(dealer.narrow(&hands, later - Duration::from_millis(1)), []);
        let moves = dealer.narrow(&hands, later);
        assert_eq!(carry(&mut hands, moves), 2);
        assert_eq!(counts(&hands, 3), [5, 3, 0]);
        let moves = dealer.narrow(&hands, later + 4 * CALM_MIN);
        carry(&mut hands, moves);
        assert_eq!(counts(&hands, 3), [8, 0, 0]);
        assert_eq!(dealer.narrow(&hands, later + CALM_MAX), [], "one lane is needed");
    }

    #[test]
    fn partitions_of_two_servers_share_a_lane_only_where_there_are_too_few() {
        let dealer = Dealer::new(2, Instant::now());
        let mut hands = Hands::new();
        let servers = ["a", "b", "c"].map(|server| Some(server.to_owned()));
        for (partition, server) in (0..12).zip(servers.iter().cycle()) {
            let lane = dealer.lane_for(server.as_deref(), &hands);
            hands.insert(partition, (lane, server.clone()));
        }
        assert_eq!(lanes_of(Some("a"), &hands), BTreeSet::from([0]));
        assert_eq!(lanes_of(Some("b"), &hands), BTreeSet::from([1]));
        assert_eq!(lanes_of(Some("c"), &hands).len(), 1);
    }
}

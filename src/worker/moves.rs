//! Which partitions a worker acquires, asks for and hands over, from one look at the registry.
//! Never moves one.

use std::collections::BTreeSet;

use super::assignment::assign;
use crate::{domain::Fence, ledger::RegistrySnapshot};

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) acquire: Vec<u16>,
    pub(super) request: Vec<u16>,
    /// Registered as ours, served by no lane, and wanted by another.
    pub(super) abandon: Vec<Fence>,
    /// Requested by the wanted owner, or by an operator.
    pub(super) hand_over: BTreeSet<u16>,
}

impl Moves {
    /// The moves that `me` has to make. `serves`: whether a lane of ours serves a partition under an epoch.
    pub(super) fn plan(
        me: &str,
        staying: &[&str],
        snapshot: &RegistrySnapshot,
        serves: impl Fn(Fence) -> bool,
    ) -> Self {
        let lives = |owner: &&str| snapshot.workers.iter().any(|live| live.worker == *owner);
        let owners: Vec<Option<&str>> =
            snapshot.partitions.iter().map(|row| row.owner.as_deref().filter(lives)).collect();
        let wanted = assign(staying, &owners);
        let mut moves = Self::default();
        for ((row, owner), wanted) in snapshot.partitions.iter().zip(owners).zip(wanted) {
            let partition = row.fence.partition;
            let served = owner == Some(me) && serves(row.fence);
            match (wanted == Some(me), owner == Some(me)) {
                (_, true) if served && row.release_asked => {
                    moves.hand_over.insert(partition);
                }
                (true, true) if served => {}
                (true, true) => moves.acquire.push(partition),
                (true, false) if owner.is_none() => moves.acquire.push(partition),
                (true, false) => moves.request.push(partition),
                (false, true) if !served => moves.abandon.push(row.fence),
                (false, true) if wanted.is_none() || row.draining_to.as_deref() == wanted => {
                    moves.hand_over.insert(partition);
                }
                (false, _) => {}
            }
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{LiveWorker, PartitionOwner};

    fn snapshot(
        workers: &[(&str, bool)],
        partitions: &[(Option<&str>, Option<&str>)],
    ) -> RegistrySnapshot {
        let live = |(worker, leaving): &(&str, bool)| LiveWorker {
            worker: (*worker).to_owned(),
            incarnation: String::new(),
            leaving: *leaving,
        };
        let partition =
            |(partition, (owner, draining_to)): (u16, &(Option<&str>, Option<&str>))| {
                PartitionOwner {
                    fence: Fence { partition, epoch: 7 },
                    owner: owner.map(str::to_owned),
                    draining_to: draining_to.map(str::to_owned),
                    release_asked: false,
                }
            };
        RegistrySnapshot {
            workers: workers.iter().map(live).collect(),
            partitions: (0..).zip(partitions).map(partition).collect(),
        }
    }

    #[test]
    fn what_nobody_living_owns_is_acquired() {
        let seen =
            snapshot(&[("a", false)], &[(None, None), (Some("dead"), None), (Some("a"), None)]);
        let ours = Fence { partition: 2, epoch: 7 };
        let moves = Moves::plan("a", &["a"], &seen, |fence| fence == ours);
        assert_eq!(moves, Moves { acquire: vec![0, 1], ..Moves::default() });
        // Ours by name, but no lane serves it: an earlier process had it.
        let moves = Moves::plan("a", &["a"], &seen, |_| false);
        assert_eq!(moves, Moves { acquire: vec![0, 1, 2], ..Moves::default() });
    }

    #[test]
    fn a_living_owner_is_asked_and_hands_over_what_it_is_asked_for() {
        let workers = [("a", false), ("b", false)];
        let seen = snapshot(&workers, &[(Some("a"), None), (Some("a"), None)]);
        let asked = Moves::plan("b", &["a", "b"], &seen, |_| false);
        assert_eq!((asked.request.len(), asked.acquire.len()), (1, 0));
        let kept = Moves::plan("a", &["a", "b"], &seen, |_| true);
        assert_eq!(kept, Moves::default(), "not before it is asked");
        let wanted = asked.request[0];
        let mut partitions = [(Some("a"), None), (Some("a"), None)];
        partitions[usize::from(wanted)].1 = Some("b");
        partitions[usize::from(1 - wanted)].1 = Some("b");
        let seen = snapshot(&workers, &partitions);
        let given = Moves::plan("a", &["a", "b"], &seen, |_| true);
        assert_eq!(given.hand_over, BTreeSet::from([wanted]), "and nothing it should keep");
    }

    #[test]
    fn what_an_operator_asks_for_is_handed_over_by_its_owner_only() {
        let workers = [("a", false), ("b", false)];
        let mut seen = snapshot(&workers, &[(Some("a"), None), (Some("b"), None)]);
        seen.partitions[0].release_asked = true;
        let given = Moves::plan("a", &["a", "b"], &seen, |_| true);
        assert_eq!(given, Moves { hand_over: BTreeSet::from([0]), ..Moves::default() });
        let kept = Moves::plan("b", &["a", "b"], &seen, |_| true);
        assert_eq!(kept, Moves::default());
    }

    #[test]
    fn a_leaving_worker_serves_until_asked_and_the_last_one_just_goes() {
        let partitions = [(Some("a"), None), (Some("a"), Some("b"))];
        let seen = snapshot(&[("a", true), ("b", false)], &partitions);
        let moves = Moves::plan("a", &["b"], &seen, |_| true);
        assert_eq!(moves, Moves { hand_over: BTreeSet::from([1]), ..Moves::default() });
        let seen = snapshot(&[("a", true)], &partitions);
        let moves = Moves::plan("a", &[], &seen, |_| true);
        assert_eq!(moves, Moves { hand_over: BTreeSet::from([0, 1]), ..Moves::default() });
    }

    #[test]
    fn what_no_lane_serves_is_not_kept_from_others() {
        let workers = [("a", false), ("b", false)];
        let seen = snapshot(&workers, &[(Some("a"), None), (Some("a"), None)]);
        let moves = Moves::plan("a", &["a", "b"], &seen, |_| false);
        assert_eq!((moves.acquire.len(), moves.abandon.len()), (1, 1));
    }
}

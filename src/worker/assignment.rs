//! The assignment of partitions to workers. A pure function: all workers that see the same
//! registry compute the same answer, so there is no leader.
//!
//! Owners keep their partitions up to their share; the rest goes to workers with room, by
//! rendezvous hashing. Counts differ by at most one, and a worker that joins or leaves moves
//! only its own share. Never knows which workers are alive, and never moves anything.

use std::{cmp::Reverse, collections::BTreeMap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The wanted owner of each partition, given the workers that may own any and the current
/// owners. None where there is no worker.
pub(super) fn assign<'a>(workers: &[&'a str], owners: &[Option<&str>]) -> Vec<Option<&'a str>> {
    let mut shares = shares(workers, owners);
    let mut wanted = vec![None; owners.len()];
    for (worker, share) in &mut shares {
        for partition in share.keep(worker) {
            wanted[partition] = Some(*worker);
        }
    }
    let mut bids: Vec<(u64, usize, &str)> = Vec::new();
    for (partition, _) in wanted.iter().enumerate().filter(|(_, owner)| owner.is_none()) {
        let open = shares.iter().filter(|(_, share)| share.room > 0);
        bids.extend(open.map(|(worker, _)| (score(worker, partition), partition, *worker)));
    }
    // The highest bid first; ties, which do not happen, by number and name.
    bids.sort_unstable_by_key(|bid| Reverse(*bid));
    for (_, partition, worker) in bids {
        let Some(share) = shares.get_mut(worker) else { continue };
        if wanted[partition].is_none() && share.room > 0 {
            share.room -= 1;
            wanted[partition] = Some(worker);
        }
    }
    wanted
}

/// The partitions of a worker, its share, and the room left in it.
struct Share {
    has: Vec<usize>,
    due: usize,
    room: usize,
}

impl Share {
    /// The partitions that stay: those with the highest scores.
    fn keep(&mut self, worker: &str) -> Vec<usize> {
        self.has.sort_by_key(|partition| Reverse(score(worker, *partition)));
        self.has.truncate(self.due);
        self.room = self.due - self.has.len();
        std::mem::take(&mut self.has)
    }
}

/// The share of each worker: equal, and one more for those with the most partitions now while
/// any are left over.
fn shares<'a>(workers: &[&'a str], owners: &[Option<&str>]) -> BTreeMap<&'a str, Share> {
    let share = |worker: &&'a str| (*worker, Share { has: Vec::new(), due: 0, room: 0 });
    let mut shares: BTreeMap<&str, Share> = workers.iter().map(share).collect();
    for (partition, owner) in owners.iter().enumerate() {
        if let Some(share) = owner.and_then(|owner| shares.get_mut(owner)) {
            share.has.push(partition);
        }
    }
    let count = shares.len().max(1);
    let (each, left_over) = (owners.len() / count, owners.len() % count);
    let mut by_size: Vec<&mut Share> = shares.values_mut().collect();
    // A stable sort: among equals, by name.
    by_size.sort_by_key(|share| Reverse(share.has.len()));
    for (rank, share) in by_size.into_iter().enumerate() {
        share.due = each + usize::from(rank < left_over);
    }
    shares
}

/// The rendezvous hash.
fn score(worker: &str, partition: usize) -> u64 {
    xxh3_64_with_seed(worker.as_bytes(), u64::try_from(partition).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn names(numbers: &BTreeSet<u8>) -> Vec<String> {
        numbers.iter().map(|number| format!("worker-{number}")).collect()
    }

    fn assigned(workers: &[String], owners: &[Option<String>]) -> Vec<Option<String>> {
        let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
        let owners: Vec<Option<&str>> = owners.iter().map(Option::as_deref).collect();
        let wanted = assign(&workers, &owners);
        wanted.into_iter().map(|owner| owner.map(str::to_owned)).collect()
    }

    fn moves(before: &[Option<String>], after: &[Option<String>]) -> usize {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    }

    fn assert_balanced(workers: &[String], owners: &[Option<String>]) {
        let owned_by =
            |worker: &String| owners.iter().filter(|owner| owner.as_ref() == Some(worker)).count();
        let counts: Vec<usize> = workers.iter().map(owned_by).collect();
        assert_eq!(counts.iter().sum::<usize>(), owners.len(), "all are owned");
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }

    #[test]
    fn without_a_worker_nobody_owns_anything() {
        assert_eq!(assign(&[], &[Some("gone"), None]), [None, None]);
        assert_eq!(assign(&["one"], &[]), Vec::<Option<&str>>::new());
    }

    proptest! {
        /// Any history of workers that join and leave, one after another.
        #[test]
        fn counts_are_even_and_few_partitions_move(
            partitions in 1_usize..200,
            steps in prop::collection::vec(0_u8..12, 1..30),
        ) {
            let mut live = BTreeSet::new();
            let mut owners = vec![None; partitions];
            for step in steps {
                let before = live.len();
                // Whoever is there leaves, whoever is not joins.
                if !live.remove(&step) {
                    live.insert(step);
                }
                if live.is_empty() {
                    continue;
                }
                let workers = names(&live);
                let after = assigned(&workers, &owners);
                assert_balanced(&workers, &after);
                if before > 0 {
                    let bound = partitions.div_ceil(before.max(live.len())) + 1;
                    prop_assert!(moves(&owners, &after) <= bound);
                }
                prop_assert_eq!(&assigned(&workers, &after), &after, "and then it rests");
                owners = after;
            }
        }

        /// Whatever the registry holds, and however far the moves have come.
        #[test]
        fn every_worker_comes_to_the_same_answer_and_moves_come_to_an_end(
            live in prop::collection::btree_set(0_u8..9, 1..9),
            owners in prop::collection::vec(prop::option::of(0_u8..12), 1..100),
            order in any::<u64>(),
        ) {
            let workers = names(&live);
            let owner = |owner: &Option<u8>| owner.map(|number| format!("worker-{number}"));
            let mut owners: Vec<Option<String>> = owners.iter().map(owner).collect();
            let mut shuffled = workers.clone();
            shuffled.reverse();
            prop_assert_eq!(assigned(&workers, &owners), assigned(&shuffled, &owners));
            // Moves are made one by one, each after looking again.
            let mut made = 0;
            loop {
                let wanted = assigned(&workers, &owners);
                assert_balanced(&workers, &wanted);
                let open: Vec<usize> =
                    (0..owners.len()).filter(|partition| wanted[*partition] != owners[*partition]).collect();
                let Some(pick) = open.len().checked_sub(1) else { break };
                let partition = open[usize::try_from(order).unwrap_or(0) % (pick + 1)];
                owners[partition] = wanted[partition].clone();
                made += 1;
                prop_assert!(made <= owners.len(), "no partition moves twice");
            }
        }
    }
}

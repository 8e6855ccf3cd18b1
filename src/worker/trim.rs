//! Trims entries that every group has acknowledged, at intervals, and logs what holds trimming
//! up. Never trims an entry that is not settled in the ledger, and nothing while the ledger is
//! unavailable.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::process::Worker;
use crate::{
    domain::{StreamId, argument},
    ledger::Groups,
    stream::{GROUP, Trim, Upkeep},
};

const NAMED: usize = 8;

pub(super) struct Trimmer {
    upkeep: Upkeep,
    groups: Groups,
    worker: Arc<Worker>,
    /// Current retention: shorter while the streams use too much memory.
    keeps: Duration,
    ages: Ages,
    said: LoggedObstacles,
}

impl Trimmer {
    /// Trims until `stop`. A Redis that is away is waited for.
    pub(super) async fn run(worker: Arc<Worker>, stop: CancellationToken) {
        let upkeep = loop {
            match worker.streams.upkeep().await {
                Ok(upkeep) => break upkeep,
                Err(error) => warn!(%error, "could not begin to trim; retrying"),
            }
            if stop.run_until_cancelled(sleep(worker.config.trim_interval)).await.is_none() {
                return;
            }
        };
        let (groups, keeps) = (worker.ledger.groups(), worker.config.retention);
        let (ages, said) = (Ages::default(), LoggedObstacles::default());
        Self { upkeep, groups, worker, keeps, ages, said }.trim(stop).await;
    }

    async fn trim(mut self, stop: CancellationToken) {
        let mut interval = interval(self.worker.config.trim_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            let obstacles = match self.round().await {
                Ok(trims) => obstacles(trims),
                Err(error) => BTreeSet::from([format!("trimming failed, retrying: {error:#}")]),
            };
            let (new, over) = self.said.change(obstacles);
            for obstacle in new {
                warn!("{obstacle}");
            }
            for obstacle in over {
                info!(obstacle, "trimming is no longer held up");
            }
        }
    }

    async fn round(&mut self) -> anyhow::Result<Vec<Result<Trim, crate::stream::Error>>> {
        let registered =
            self.groups.registered().await.context("could not read the registry of groups")?;
        let groups: Vec<String> = registered.into_iter().map(|group| group.name).collect();
        let reached = self.groups.reached(self.worker.generation).await;
        let reached = reached.context("could not read how far the ledger has come")?;
        self.keep_within_memory().await.context("could not see how much memory is used")?;
        let now = Instant::now();
        let aged = self.ages.before(now, self.keeps);
        let trims = self.upkeep.trim_all(self.keeps, aged, &reached, &groups).await;
        let trims = trims.context("could not reach the streams")?;
        let newest = |trim: &Result<Trim, _>| {
            trim.as_ref().map_or_else(|_| StreamId::default(), |trim| trim.newest)
        };
        self.ages.note(now, trims.iter().map(newest).collect());
        Ok(trims)
    }

    async fn keep_within_memory(&mut self) -> Result<(), crate::stream::Error> {
        let limit = self.upkeep.redis_info().await?.limit;
        let used = if limit == 0 { 0 } else { self.upkeep.streams_memory().await? };
        let keeps = keeps(self.worker.config.retention, self.keeps, used, limit);
        if self.keeps == self.worker.config.retention && keeps < self.keeps {
            warn!(
                used,
                limit, "streams use more than a quarter of Redis's memory; trimming earlier"
            );
        }
        self.keeps = keeps;
        Ok(())
    }
}

/// The next retention: halved while the streams use more than a quarter of the memory, doubled
/// again below an eighth.
fn keeps(retention: Duration, now: Duration, used: u64, limit: u64) -> Duration {
    if limit > 0 && used > limit / 4 {
        now / 2
    } else if limit == 0 {
        retention
    } else if used < limit / 8 && now < retention {
        (now * 2).max(Duration::from_secs(1)).min(retention)
    } else {
        now
    }
}

/// The newest id of each partition at earlier rounds: the age of entries by this process's own
/// clock, whatever their ids say.
#[derive(Default)]
struct Ages {
    rounds: VecDeque<(Instant, Vec<StreamId>)>,
}

impl Ages {
    fn note(&mut self, at: Instant, newest: Vec<StreamId>) {
        self.rounds.push_back((at, newest));
    }

    /// The newest ids of the last round that is at least `age` ago; forgets what
    /// was before it.
    fn before(&mut self, now: Instant, age: Duration) -> &[StreamId] {
        let aged = |(at, _): &(Instant, Vec<StreamId>)| now - *at >= age;
        while self.rounds.get(1).is_some_and(aged) {
            self.rounds.pop_front();
        }
        self.rounds.front().filter(|one| aged(one)).map_or(&[], |(_, newest)| newest)
    }
}

/// Obstacles that were logged, so that each is logged once.
#[derive(Default)]
struct LoggedObstacles {
    seen: BTreeSet<String>,
    said: BTreeSet<String>,
}

impl LoggedObstacles {
    /// Obstacles to log now, and those that are over. An obstacle is logged after two rounds:
    /// a group that is being registered or retired looks like one for a moment.
    fn change(&mut self, obstacles: BTreeSet<String>) -> (Vec<String>, Vec<String>) {
        let over = self.said.difference(&obstacles).cloned().collect();
        self.said.retain(|obstacle| obstacles.contains(obstacle));
        let new: Vec<String> = self
            .seen
            .intersection(&obstacles)
            .filter(|one| !self.said.contains(*one))
            .cloned()
            .collect();
        self.said.extend(new.iter().cloned());
        self.seen = obstacles;
        (new, over)
    }
}

/// A sentence for each thing that holds trimming up, with what to do.
fn obstacles(trims: Vec<Result<Trim, crate::stream::Error>>) -> BTreeSet<String> {
    let mut missing: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    let mut unregistered: BTreeMap<String, Vec<u16>> = BTreeMap::new();
    let mut failed = Vec::new();
    for trim in trims {
        match trim {
            Ok(trim) => {
                for group in trim.missing {
                    missing.entry(group).or_default().push(trim.partition);
                }
                for group in trim.unregistered {
                    unregistered.entry(group).or_default().push(trim.partition);
                }
            }
            Err(error) => failed.push(error),
        }
    }
    let mut obstacles = BTreeSet::new();
    for (group, partitions) in &missing {
        let (on, named) = (named(partitions), argument(group));
        obstacles.insert(if group == GROUP {
            format!(
                "our group {GROUP} is missing on {on}: state is lost in Redis, nothing is trimmed \
                 there"
            )
        } else {
            format!(
                "group {group} is registered and missing on {on}: nothing is trimmed there. Create \
                 it again with `paystream groups register {named} --note …`, or retire it with \
                 `paystream groups retire {named}`"
            )
        });
    }
    for (group, partitions) in &unregistered {
        let (on, named) = (named(partitions), argument(group));
        obstacles.insert(format!(
            "group {group} is not registered and exists on {on}: trimming waits for it all the \
             same. Register it with `paystream groups register {named} --note …`, or remove it \
             with `paystream groups retire {named}`"
        ));
    }
    if let Some(first) = failed.first() {
        let count = failed.len();
        obstacles.insert(format!("{count} streams could not be trimmed, one of them: {first}"));
    }
    obstacles
}

fn named(partitions: &[u16]) -> String {
    let first: Vec<String> = partitions.iter().take(NAMED).map(u16::to_string).collect();
    let more = partitions.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("partitions {}{more}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::{Duration, Instant};

    use super::{Ages, LoggedObstacles, StreamId, Trim, keeps, obstacles};

    #[test]
    fn settled_entries_never_keep_more_than_a_quarter_of_the_memory() {
        let (configured, second) = (Duration::from_mins(15), Duration::from_secs(1));
        assert_eq!(keeps(configured, configured, 900, 0), configured, "no limit");
        assert_eq!(keeps(configured, configured, 250, 1000), configured);
        assert_eq!(keeps(configured, configured, 251, 1000), configured / 2);
        assert_eq!(keeps(configured, second, 200, 1000), second, "in between it stays");
        assert_eq!(keeps(configured, second, 100, 1000), second * 2);
        assert_eq!(keeps(configured, Duration::ZERO, 100, 1000), second);
        assert_eq!(keeps(configured, configured - second, 100, 1000), configured);
        assert_eq!(keeps(second, second, 0, 1000), second);
    }

    #[test]
    fn an_id_is_as_old_as_the_round_that_found_it_newest() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let id = |number| StreamId { milliseconds: 5, number };
        let mut ages = Ages::default();
        assert_eq!(ages.before(start, Duration::ZERO), []);
        for round in 0..4 {
            ages.note(start + round * second, vec![id(u64::from(round))]);
        }
        assert_eq!(ages.before(start + second, 2 * second), []);
        assert_eq!(ages.before(start + 3 * second, 2 * second), [id(1)]);
        assert_eq!(ages.before(start + 9 * second, 2 * second), [id(3)]);
        assert_eq!(ages.rounds.len(), 1);
    }

    #[test]
    fn an_obstacle_is_said_once_and_its_end_too() {
        let mut said = LoggedObstacles::default();
        let a = || BTreeSet::from(["a".to_owned()]);
        assert_eq!(said.change(a()), (vec![], vec![]), "it may be over in a moment");
        assert_eq!(said.change(a()), (vec!["a".to_owned()], vec![]));
        assert_eq!(said.change(a()), (vec![], vec![]));
        assert_eq!(said.change(BTreeSet::new()), (vec![], vec!["a".to_owned()]));
        assert_eq!(said.change(a()), (vec![], vec![]));
        assert_eq!(said.change(BTreeSet::new()), (vec![], vec![]));
    }

    #[test]
    fn a_sentence_names_the_group_and_its_first_partitions() {
        let trim = |partition| {
            let (missing, unregistered) = (vec!["notify".to_owned()], Vec::new());
            Ok(Trim { partition, removed: 0, newest: StreamId::default(), missing, unregistered })
        };
        let sentences = obstacles((0..10).map(trim).collect());
        let sentence = sentences.first().unwrap();
        assert!(
            sentence.starts_with(
                "group notify is registered and missing on partitions 0, 1, 2, 3, 4, 5, 6, 7 and \
                 2 more: nothing is trimmed there. "
            ),
            "{sentence}"
        );
    }
}

//! Looks at everything that can be wrong and says what to do about it. Never
//! changes anything, and goes on when a store is away: that is a finding.
//!
//! Asking and judging are apart: what is asked for here is judged by the files
//! below, which are pure.

mod examine;
mod groups;
mod machine;
mod owners;
mod postgresql;
mod redis_vitals;
mod words;
mod work;

use std::{collections::BTreeSet, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

pub use examine::examine;

use self::machine::Reading;
use super::{
    Error, Finding, Operations, Severity,
    Severity::Critical,
    chain,
    finding::{self as kind},
};
use crate::{
    clock::Clock,
    config::ServeConfig,
    ledger::{self, CursorRow, GroupRow, Vitals, Work, WorkerRow},
    stream::{Presence, RedisVitals, Standing, Streams},
};

/// Between two looks at whether a worker gets on with what waits.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Everything that was looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Checkup {
    /// The worst there is.
    pub severity: Severity,
    /// What was found, the worst first; what is as it should be comes last.
    pub findings: Vec<Finding>,
    /// When it was looked.
    pub as_of: DateTime<Utc>,
}

impl Checkup {
    fn of(mut findings: Vec<Finding>, as_of: DateTime<Utc>) -> Self {
        // A stable sort: the order of looking among equals.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let severity = findings.first().map_or(Severity::Good, |finding| finding.severity);
        Self { severity, findings, as_of }
    }
}

/// What of the settings of gateways and workers is known.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    unsafe_redis_allowed: bool,
    backlog_max: Option<u32>,
}

impl Known {
    fn of(config: &ServeConfig) -> Self {
        Self {
            unsafe_redis_allowed: config.store.allow_unsafe_redis,
            backlog_max: Some(config.gateway.backlog_max),
        }
    }
}

/// What the ledger says, all of it.
struct Registry {
    workers: Vec<WorkerRow>,
    cursors: Vec<CursorRow>,
    /// Or why that could not be read; the rest tells of the workers all the same.
    work: Result<Work, ledger::Error>,
    groups: Vec<GroupRow>,
}

impl Operations {
    /// Looks at everything.
    pub async fn checkup(&self) -> Checkup {
        let findings = self.look(Known::default()).await;
        Checkup::of(findings, (self.clock)())
    }

    async fn look(&self, known: Known) -> Vec<Finding> {
        let (redis, ledger) =
            tokio::join!(look_at_redis(&self.streams, known, self.clock), self.look_at_ledger());
        let (mut findings, redis_answers) = redis;
        let (found, registry) = ledger;
        findings.extend(found);
        let mut streams = None;
        if redis_answers {
            match self.look_at_streams().await {
                Ok(seen) => streams = Some(seen),
                Err(error) => findings.push(redis_away(&error)),
            }
        }
        let now = (self.clock)();
        if let Some((presence, standings)) = &streams {
            findings.extend(redis_vitals::streams(presence));
            let waiting = work::waiting(standings, presence, known.backlog_max, now);
            match registry {
                Some(_) => findings.extend(waiting),
                None => findings.extend(waiting.into_iter().map(work::without_ledger)),
            }
        }
        if registry.is_none() && redis_answers {
            findings.extend(self.last_owners().await);
        }
        if let Some(registry) = registry {
            let Registry { workers, cursors, work, groups } = &registry;
            let releases = work.as_ref().map_or(&[][..], |work| &work.releases);
            findings.extend(owners::judge(workers, cursors, releases));
            findings.extend(owners::gone(workers));
            match work {
                Ok(work) => {
                    findings.extend(work::topology(&self.topology, work, now));
                    findings.extend(work::piles(work, now));
                }
                Err(error) => findings.push(unusable(error)),
            }
            if redis_answers {
                findings.extend(self.look_for_left_behind().await);
            }
            if let Some((_, standings)) = streams.filter(|(_, standings)| !standings.is_empty()) {
                let partitions = self.topology.partitions;
                findings.extend(groups::judge(groups, &standings, partitions, now));
                findings.extend(self.look_for_progress(&registry, &standings, now).await);
            }
        }
        findings
    }

    /// What there is of each partition, and where every group stands; nobody
    /// stands anywhere while a stream or our group is missing.
    async fn look_at_streams(&self) -> Result<(Vec<Presence>, Vec<Standing>), Error> {
        let (presence, mut standings): (Vec<_>, Vec<_>) =
            self.streams.presence().await?.into_iter().unzip();
        if !presence.iter().all(|one| one.stream && one.group) {
            standings.clear();
        }
        Ok((presence, standings.concat()))
    }

    /// While the ledger does not say who owns what, Redis knows who did.
    async fn last_owners(&self) -> Option<Finding> {
        let told = self.looks().await.ok()?.upkeep.owners_told().await.ok()?;
        Some(owners::unknown(&told))
    }

    async fn look_at_ledger(&self) -> (Vec<Finding>, Option<Registry>) {
        let before = (self.clock)();
        let vitals = self.ledger.vitals().await;
        let mut findings = match &vitals {
            Ok(vitals) => judge_ledger(vitals, (before, (self.clock)()), self.ledger.is_local()),
            Err(error) => return (vec![postgresql_away(error)], None),
        };
        let schema = self.ledger.schema().check().await;
        let registry = match schema {
            Ok(()) => self.registry().await,
            Err(error) => Err(error),
        };
        match registry {
            Ok(registry) => {
                findings.push(kind::SCHEMA.good());
                (findings, Some(registry))
            }
            Err(error) => {
                findings.push(unusable(&error));
                (findings, None)
            }
        }
    }

    async fn registry(&self) -> Result<Registry, ledger::Error> {
        Ok(Registry {
            workers: self.admin.workers().await?,
            cursors: self.reader.cursors().await?,
            work: self.admin.work().await,
            groups: self.groups.registered().await?,
        })
    }

    /// Where something has waited for long, looks twice.
    async fn look_for_progress(
        &self,
        Registry { workers, cursors, .. }: &Registry,
        standings: &[Standing],
        now: DateTime<Utc>,
    ) -> Option<Finding> {
        if !workers.iter().any(WorkerRow::is_alive) {
            return None;
        }
        let waiting = work::waiting_long(standings, now);
        if waiting.is_empty() {
            return Some(owners::stuck(cursors, cursors, &waiting));
        }
        sleep(SECOND_LOOK).await;
        let later = self.reader.cursors().await.ok()?;
        let living: BTreeSet<&str> = workers
            .iter()
            .filter(|worker| worker.is_alive())
            .map(|worker| worker.worker_id.as_str())
            .collect();
        let lives = |row: &CursorRow| row.owner.as_deref().is_some_and(|it| living.contains(it));
        let later: Vec<CursorRow> = later.into_iter().filter(lives).collect();
        Some(owners::stuck(cursors, &later, &waiting))
    }
}

/// Everything about the server that can be seen without a topology, and whether
/// it answers.
async fn look_at_redis(streams: &Streams, known: Known, clock: Clock) -> (Vec<Finding>, bool) {
    let before = clock();
    let vitals: RedisVitals = match streams.vitals().await {
        Ok(vitals) => vitals,
        Err(error) => return (vec![redis_away(&error.into())], false),
    };
    let reading = Reading { there: vitals.now, before, after: clock() };
    let mut findings = vec![kind::REDIS_AWAY.good()];
    findings.extend(redis_vitals::judge(&vitals, known.unsafe_redis_allowed));
    findings.push(machine::clock("redis", reading));
    findings.push(disk("redis", vitals.directory.as_deref(), streams.is_local()));
    (findings, !vitals.loading)
}

/// Everything about the server that can be seen without a topology.
fn judge_ledger(
    vitals: &Vitals,
    (before, after): (DateTime<Utc>, DateTime<Utc>),
    is_local: bool,
) -> Vec<Finding> {
    let mut findings = vec![kind::POSTGRESQL_AWAY.good()];
    findings.extend(postgresql::judge(vitals));
    let reading = Reading { there: vitals.now, before, after };
    findings.push(machine::clock("postgresql", reading));
    findings.push(disk("postgresql", vitals.directory.as_deref(), is_local));
    findings
}

fn disk(subject: &str, directory: Option<&str>, is_local: bool) -> Finding {
    let directory = directory.filter(|_| is_local);
    machine::disk(subject, directory.and_then(|directory| machine::space(Path::new(directory))))
}

fn redis_away(error: &Error) -> Finding {
    // Where it is there, it says no.
    let kind = if error.is_outage() { kind::REDIS_AWAY } else { kind::REDIS_ODD };
    kind.found(Critical, chain(error))
}

fn postgresql_away(error: &ledger::Error) -> Finding {
    let (kind, answers) = if matches!(error, ledger::Error::Locked(_)) {
        (kind::POSTGRESQL_LOCKS, true)
    } else if matches!(error, ledger::Error::Slow(_)) {
        (kind::POSTGRESQL_SLOW, true)
    } else if error.is_outage() {
        (kind::POSTGRESQL_AWAY, false)
    } else {
        (kind::POSTGRESQL_ODD, false)
    };
    let finding = kind.found(if answers { Severity::Warning } else { Critical }, chain(error));
    if !answers {
        return finding;
    }
    finding
        .advising("PostgreSQL answers: look for who holds a lock, and at the load of its machine")
}

/// Why a PostgreSQL that answers cannot be worked with.
fn unusable(error: &ledger::Error) -> Finding {
    let ledger::Error::Schema(sentence) = error else { return postgresql_away(error) };
    kind::SCHEMA.found(Critical, sentence.clone())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn the_worst_comes_first() {
        let at = DateTime::UNIX_EPOCH;
        assert_eq!(Checkup::of(Vec::new(), at).severity, Severity::Good);
        let findings = vec![
            kind::SCHEMA.good().about("a"),
            kind::SCHEMA.found(Severity::Warning, "").about("b"),
            kind::SCHEMA.found(Critical, "").about("c"),
            kind::SCHEMA.found(Severity::Warning, "").about("d"),
        ];
        let checkup = Checkup::of(findings, at);
        assert_eq!(checkup.severity, Critical);
        let order: String = checkup.findings.iter().map(|one| one.subject.as_str()).collect();
        assert_eq!(order, "cbda");
    }
}

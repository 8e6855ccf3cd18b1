//! Looks at everything that can be wrong and says what to do about it. Never
//! changes anything, and goes on when a store is away: that is a finding.
//!
//! Asking and judging are apart: what is asked for here is judged by the files
//! below, which are pure.

mod checks;
mod examine;
mod groups;
mod machine;
mod streams;
mod words;

use std::{path::Path, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

pub use examine::examine;

use self::machine::ClockReading;
use super::{
    Error, Finding, LOOK_TIMEOUT, Operations, Severity,
    Severity::{Critical, Warning},
    chain,
    finding::{self as kind},
};
use crate::{
    clock::Clock,
    config::ServeConfig,
    ledger::{CursorRow, Error as LedgerError, GroupRow, Symptoms, Vitals},
    operations::{groups::groups, shapes::last_owners},
    stream::{GroupPosition, Presence, Streams},
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
struct KnownSettings {
    unsafe_redis_allowed: bool,
    backlog_max: Option<u32>,
    dedupe_window: Duration,
}

impl KnownSettings {
    fn of(config: &ServeConfig) -> Self {
        Self {
            unsafe_redis_allowed: config.store.allow_unsafe_redis,
            backlog_max: Some(config.gateway.backlog_max),
            dedupe_window: config.gateway.dedupe_window,
        }
    }
}

/// What the ledger says.
struct Registry {
    symptoms: Symptoms,
    cursors: Vec<CursorRow>,
    groups: Vec<GroupRow>,
}

impl Operations {
    /// Looks at everything.
    pub async fn checkup(&self) -> Checkup {
        let known = KnownSettings { dedupe_window: self.dedupe_window, ..KnownSettings::default() };
        let findings = self.look(known).await;
        Checkup::of(findings, (self.clock)())
    }

    async fn look(&self, known: KnownSettings) -> Vec<Finding> {
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
            findings.extend(self.look_at_rate(known.dedupe_window).await);
        }
        let now = (self.clock)();
        let partitions = self.topology.partitions;
        // What is on a server that is away is neither missing nor well.
        let is_whole =
            streams.as_ref().is_some_and(|(seen, _)| seen.len() == usize::from(partitions));
        if let Some((presence, standings)) = &streams {
            let mut found = streams::waiting(standings, presence, known.backlog_max, now);
            if registry.is_none() {
                found = found.into_iter().map(streams::without_ledger).collect();
            }
            found.extend(streams::missing(presence));
            found.retain(|one| is_whole || one.severity > Severity::Good);
            findings.extend(found);
        }
        let Some(Registry { symptoms, cursors, groups: registered }) = registry else {
            if redis_answers {
                findings.extend(self.last_owners().await);
            }
            return findings;
        };
        findings.push(kind::TOPOLOGY.good().or(format!("{partitions} partitions")));
        findings.extend(checks::judge(&symptoms));
        if redis_answers {
            findings.extend(self.look_for_left_behind().await);
        }
        if let Some((_, standings)) = streams.filter(|(_, standings)| !standings.is_empty()) {
            let late = streams::waiting_long(&standings, now);
            if is_whole {
                let all = groups(registered, standings, partitions, now);
                findings.extend(groups::judge(&all, now));
            }
            let progress = self.look_for_progress(&cursors, &late).await;
            findings.extend(progress.filter(|one| is_whole || one.severity > Severity::Good));
        }
        findings
    }

    /// Nothing where Redis went away meanwhile, which others tell.
    async fn look_at_rate(&self, dedupe_window: Duration) -> Option<Finding> {
        let memory = self.looks().await.ok()?.upkeep.redis_info().await.ok()?;
        let streams = self.streams.clone().answering_within(LOOK_TIMEOUT);
        let a_second = streams.payments_a_second().await.ok()?;
        Some(streams::rate(memory.limit, dedupe_window, a_second))
    }

    /// What there is of each partition, and where every group stands; nobody
    /// stands anywhere while a stream or our group is missing.
    async fn look_at_streams(&self) -> Result<(Vec<Presence>, Vec<GroupPosition>), Error> {
        let (presence, mut standings): (Vec<_>, Vec<_>) =
            self.looks().await?.upkeep.presence().await?.into_iter().unzip();
        if !presence.iter().all(|one| one.stream && one.group) {
            standings.clear();
        }
        Ok((presence, standings.concat()))
    }

    /// While the ledger does not say who owns what, Redis knows who did.
    async fn last_owners(&self) -> Option<Finding> {
        let told = self.looks().await.ok()?.upkeep.owners_told().await.ok()?;
        let last = last_owners(told.iter().flatten().map(String::as_str));
        let sentence = format!("owners are unknown while the ledger cannot be read; {last}");
        Some(kind::OWNERS.found(Severity::Notice, sentence))
    }

    async fn look_at_ledger(&self) -> (Vec<Finding>, Option<Registry>) {
        let before = (self.clock)();
        let vitals = self.ledger.vitals().await;
        let mut findings = match &vitals {
            Ok(vitals) => judge_ledger(vitals, (before, (self.clock)()), self.ledger.is_local()),
            Err(error) => return (vec![postgresql_away(error)], None),
        };
        let (symptoms, all_asked) = match self.ledger.schema().check().await {
            Ok(()) => self.admin.symptoms().await,
            Err(error) => {
                findings.push(unusable(&error));
                return (findings, None);
            }
        };
        findings.extend(all_asked.err().map(|error| unusable(&error)));
        let rest = async { Ok((self.reader.cursors().await?, self.groups.registered().await?)) };
        match rest.await {
            Ok((cursors, groups)) => {
                findings.push(kind::SCHEMA.good());
                (findings, Some(Registry { symptoms, cursors, groups }))
            }
            Err(error) => {
                findings.push(unusable(&error));
                (findings, None)
            }
        }
    }

    /// Where something has waited for long, looks twice.
    async fn look_for_progress(&self, cursors: &[CursorRow], late: &[u16]) -> Option<Finding> {
        if !cursors.iter().any(CursorRow::is_owner_alive) {
            return None;
        }
        if late.is_empty() {
            return Some(kind::STUCK.good());
        }
        sleep(SECOND_LOOK).await;
        let later = self.reader.cursors().await.ok()?;
        Some(checks::stuck(cursors, &later, late))
    }
}

/// Everything about the server that can be seen without a topology, and whether
/// it answers.
async fn look_at_redis(
    streams: &Streams,
    known: KnownSettings,
    clock: Clock,
) -> (Vec<Finding>, bool) {
    let before = clock();
    let asked = match streams.clone().answering_within(LOOK_TIMEOUT).vitals().await {
        Ok(asked) => asked,
        Err(error) => return (vec![redis_away(&error.into())], false),
    };
    let nobody = asked.iter().all(|(_, vitals)| vitals.is_err());
    if let Some((_, Err(error))) = asked.first().filter(|_| nobody) {
        return (vec![redis_away(&error.clone().into())], false);
    }
    let (count, in_cluster) = (asked.len(), streams.are_in_a_cluster());
    let (mut findings, mut all_answer, mut is_loading) = (Vec::new(), true, false);
    for (server, vitals) in asked {
        let vitals = match vitals {
            Ok(vitals) => vitals,
            Err(error) => {
                all_answer = false;
                findings.push(one_away(&server, &error.into(), count));
                continue;
            }
        };
        is_loading |= vitals.number("loading") > 0;
        let reading = ClockReading { there: vitals.now, before, after: clock() };
        let mut found = streams::server(&vitals, known.unsafe_redis_allowed);
        found.push(streams::replicas(vitals.replicas(), u64::from(streams.replicas())));
        found.push(machine::clock("redis", reading));
        found.push(disk("redis", vitals.directory.as_deref(), streams.is_local()));
        let about =
            |one: Finding| if in_cluster { one.about(format!("redis {server}")) } else { one };
        findings.extend(found.into_iter().map(about));
    }
    if all_answer {
        findings.insert(0, kind::REDIS_AWAY.good());
    }
    (findings, !is_loading)
}

/// Everything about the server that can be seen without a topology.
fn judge_ledger(
    vitals: &Vitals,
    (before, after): (DateTime<Utc>, DateTime<Utc>),
    is_local: bool,
) -> Vec<Finding> {
    let mut findings = vec![kind::POSTGRESQL_AWAY.good()];
    let took = vitals.latency;
    let slow = format!("PostgreSQL takes {took:.1?} for the simplest question");
    let slow = kind::POSTGRESQL_SLOW.judge((took > streams::SLOW).then_some((Warning, slow)));
    findings.push(slow.or(format!("answers in {took:.1?}")));
    findings.extend(checks::judge(&vitals.symptoms));
    let reading = ClockReading { there: vitals.now, before, after };
    findings.push(machine::clock("postgresql", reading));
    findings.push(disk("postgresql", vitals.directory.as_deref(), is_local));
    findings
}

fn disk(subject: &str, directory: Option<&str>, is_local: bool) -> Finding {
    let directory = directory.filter(|_| is_local);
    machine::disk(subject, directory.and_then(|directory| machine::space(Path::new(directory))))
}

/// One of several servers does not answer.
fn one_away(server: &str, error: &Error, count: usize) -> Finding {
    let away = redis_away(error);
    let sentence = format!("{server}, one of {count} servers of the cluster: {}", away.sentence);
    let advice = "bring it back with the data it had, or let a replica take over: until then \
                  payments of its partitions are refused (`paystream partitions` names them); those \
                  of the others go on where cluster-require-full-coverage is no";
    Finding { sentence, ..away }.about(format!("redis {server}")).advising(advice)
}

fn redis_away(error: &Error) -> Finding {
    // Where it is there, it says no.
    let kind = if error.is_outage() { kind::REDIS_AWAY } else { kind::REDIS_ODD };
    kind.found(Critical, chain(error))
}

fn postgresql_away(error: &LedgerError) -> Finding {
    let (kind, answers) = if matches!(error, LedgerError::Locked(_)) {
        (kind::POSTGRESQL_LOCKS, true)
    } else if matches!(error, LedgerError::Slow(_)) {
        (kind::POSTGRESQL_SLOW, true)
    } else if matches!(error, LedgerError::Pooler(_)) {
        (kind::POSTGRESQL_POOLER, false)
    } else if error.is_outage() {
        (kind::POSTGRESQL_AWAY, false)
    } else {
        (kind::POSTGRESQL_ODD, false)
    };
    let finding = kind.found(if answers { Warning } else { Critical }, chain(error));
    if !answers {
        return finding;
    }
    finding
        .advising("PostgreSQL answers: look for who holds a lock, and at the load of its machine")
}

/// Why a PostgreSQL that answers cannot be worked with.
fn unusable(error: &LedgerError) -> Finding {
    let LedgerError::Schema(sentence) = error else { return postgresql_away(error) };
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
            kind::SCHEMA.found(Warning, "").about("b"),
            kind::SCHEMA.found(Critical, "").about("c"),
            kind::SCHEMA.found(Warning, "").about("d"),
        ];
        let checkup = Checkup::of(findings, at);
        assert_eq!(checkup.severity, Critical);
        let order: String = checkup.findings.iter().map(|one| one.subject.as_str()).collect();
        assert_eq!(order, "cbda");
    }
}

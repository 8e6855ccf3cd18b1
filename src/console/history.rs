//! What the last looks saw: everything at one moment, with rates, charts of ten
//! minutes, and since when a store has been away. Asks nobody.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::chart::{self, Chart, REACH};
use crate::operations::{Finding, SystemSnapshot};

/// A checkup that is this old is not shown.
pub(super) const CHECKUP_KEPT: Duration = Duration::from_secs(30);
/// A rate is over at least this long.
const RATE_OVER: Duration = Duration::from_secs(3);
/// Between two points of a chart.
const POINT_EVERY: Duration = Duration::from_secs(3);

/// Everything at one moment, with what came before it.
pub(super) struct LiveFigures {
    pub(super) snapshot: Arc<SystemSnapshot>,
    pub(super) redis_away: Option<DateTime<Utc>>,
    pub(super) ledger_away: Option<DateTime<Utc>>,
    /// What the last checkup found that is not as it should be, the worst first.
    pub(super) findings: Vec<Finding>,
    points: Vec<Point>,
}

/// A point of every chart; the last one is of now. Rates are per second.
#[derive(Clone, Copy)]
pub(super) struct Point {
    at: Instant,
    /// Totals: appended and settled.
    totals: [Option<i64>; 2],
    pub(super) appended: Option<i64>,
    pub(super) settled: Option<i64>,
    pub(super) waiting: Option<i64>,
    pub(super) oldest: Option<i64>,
}

impl LiveFigures {
    /// Which servers of Redis do not answer, while others do.
    pub(super) fn redis_trouble(&self) -> Option<&str> {
        self.snapshot.redis_trouble.as_deref().filter(|_| self.snapshot.redis_available)
    }
}

#[derive(Default)]
pub(super) struct FigureHistory {
    points: VecDeque<Point>,
    pub(super) redis_away: Option<DateTime<Utc>>,
    pub(super) ledger_away: Option<DateTime<Utc>>,
    /// What the last checkup found, and when.
    pub(super) findings: Option<(Instant, Vec<Finding>)>,
}

impl FigureHistory {
    pub(super) fn take(&mut self, snapshot: Arc<SystemSnapshot>) -> LiveFigures {
        let now = snapshot.at;
        let since = |available: bool, away: Option<DateTime<Utc>>| {
            if available { None } else { away.or(Some(snapshot.as_of)) }
        };
        let before = (self.redis_away.is_some(), self.ledger_away.is_some());
        self.redis_away = since(snapshot.redis_available, self.redis_away);
        self.ledger_away = since(snapshot.ledger_available, self.ledger_away);
        let away = (self.redis_away.is_some(), self.ledger_away.is_some());
        // What was found before a store went away or came back is not so any more.
        let is_old = |at: &Instant| now.duration_since(*at) > CHECKUP_KEPT;
        if away != before || self.findings.as_ref().is_some_and(|(at, _)| is_old(at)) {
            self.findings = None;
        }
        let figures = &snapshot.figures;
        let totals = [figures.appended, figures.settled];
        let oldest = figures.oldest_waiting_seconds.unwrap_or(0);
        self.push(Point {
            at: now,
            totals,
            appended: self.rate(now, totals, 0),
            settled: self.rate(now, totals, 1),
            waiting: figures.lag.zip(figures.pending).map(|(lag, pending)| lag + pending),
            oldest: figures.pending.and_then(|_| i64::try_from(oldest).ok()),
        });
        LiveFigures {
            redis_away: self.redis_away,
            ledger_away: self.ledger_away,
            findings: self.findings.iter().flat_map(|(_, found)| found).cloned().collect(),
            points: self.points.iter().copied().collect(),
            snapshot,
        }
    }

    /// The rate since the newest look that is old enough, or else the first. A total
    /// that falls was begun again: its rate is not known.
    fn rate(&self, now: Instant, totals: [Option<i64>; 2], which: usize) -> Option<i64> {
        let old = |then: &&Point| now.duration_since(then.at) >= RATE_OVER;
        let then = self.points.iter().rev().find(old).or(self.points.front())?;
        let milliseconds = i64::try_from(now.duration_since(then.at).as_millis()).ok()?;
        let gained = totals[which]?.checked_sub(then.totals[which]?)?;
        (gained >= 0 && milliseconds > 0).then(|| gained.saturating_mul(1_000) / milliseconds)
    }

    fn push(&mut self, point: Point) {
        let newest = self.points.len().checked_sub(2).and_then(|at| self.points.get(at));
        // The last point moves until it is far enough from the one before.
        if newest.is_some_and(|newest| point.at.duration_since(newest.at) <= POINT_EVERY) {
            self.points.pop_back();
        }
        self.points.push_back(point);
        while self.points.front().is_some_and(|old| point.at.duration_since(old.at) > REACH) {
            self.points.pop_front();
        }
    }
}

impl LiveFigures {
    /// A figure of now.
    pub(super) fn now(&self, of: impl Fn(&Point) -> Option<i64>) -> Option<i64> {
        self.points.last().and_then(of)
    }

    pub(super) fn chart(&self, what: &str, of: impl Fn(&Point) -> Option<i64>) -> Chart {
        Chart::new(what, &self.past(of))
    }

    /// How far back the charts reach, in seconds.
    pub(super) fn reach(&self) -> u64 {
        chart::reach(&self.past(|_| None))
    }

    fn past(&self, of: impl Fn(&Point) -> Option<i64>) -> Vec<(u64, Option<i64>)> {
        let ago = |point: &Point| self.snapshot.at.duration_since(point.at).as_secs();
        self.points.iter().map(|point| (ago(point), of(point))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Severity;

    fn at(at: Instant, ledger_available: bool) -> Arc<SystemSnapshot> {
        let unknown = SystemSnapshot::unknown(at, DateTime::UNIX_EPOCH);
        Arc::new(SystemSnapshot { at, redis_available: true, ledger_available, ..unknown })
    }

    #[test]
    fn what_was_found_during_an_outage_ends_with_it() {
        let now = Instant::now();
        let finding = Finding {
            code: "postgresql_unreachable",
            severity: Severity::Critical,
            subject: String::new(),
            sentence: String::new(),
            advice: String::new(),
            runbook: "",
        };
        let mut history = FigureHistory::default();
        history.take(at(now, false));
        history.findings = Some((now, vec![finding]));
        assert_eq!(history.take(at(now, false)).findings.len(), 1);
        assert!(history.take(at(now, true)).findings.is_empty());
        // Nor is shown what was found long ago.
        history.findings = Some((now, Vec::new()));
        history.take(at(now + CHECKUP_KEPT, true));
        assert!(history.findings.is_some());
        history.take(at(now + CHECKUP_KEPT + Duration::from_secs(1), true));
        assert!(history.findings.is_none());
    }
}

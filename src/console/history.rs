//! What the last looks saw: everything at one moment, with rates, charts of ten
//! minutes, and since when a store has been away. Asks nobody.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::chart::{self, Chart, REACH};
use crate::operations::{Finding, Overview};

/// A checkup that is this old is not shown.
pub(super) const CHECKUP_KEPT: Duration = Duration::from_secs(30);
/// A rate is over at least this long.
const RATE_OVER: Duration = Duration::from_secs(3);
/// Between two points of a chart.
const POINT_EVERY: Duration = Duration::from_secs(3);

/// Everything at one moment, with what came before it.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) overview: Arc<Overview>,
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

#[derive(Default)]
pub(super) struct LookHistory {
    points: VecDeque<Point>,
    pub(super) redis_away: Option<DateTime<Utc>>,
    pub(super) ledger_away: Option<DateTime<Utc>>,
    /// What the last checkup found, and when.
    pub(super) findings: Option<(Instant, Vec<Finding>)>,
}

impl LookHistory {
    pub(super) fn take(&mut self, now: Instant, overview: Arc<Overview>) -> Look {
        let since = |available: bool, away: Option<DateTime<Utc>>| {
            if available { None } else { away.or(Some(overview.as_of)) }
        };
        let before = (self.redis_away.is_some(), self.ledger_away.is_some());
        self.redis_away = since(overview.redis_available, self.redis_away);
        self.ledger_away = since(overview.ledger_available, self.ledger_away);
        let away = (self.redis_away.is_some(), self.ledger_away.is_some());
        // What was found before a store went away or came back is not so any more.
        let is_old = |at: &Instant| now.duration_since(*at) > CHECKUP_KEPT;
        if away != before || self.findings.as_ref().is_some_and(|(at, _)| is_old(at)) {
            self.findings = None;
        }
        let figures = &overview.figures;
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
        Look {
            at: now,
            redis_away: self.redis_away,
            ledger_away: self.ledger_away,
            findings: self.findings.iter().flat_map(|(_, found)| found).cloned().collect(),
            points: self.points.iter().copied().collect(),
            overview,
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

impl Look {
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
        let ago = |point: &Point| self.at.duration_since(point.at).as_secs();
        self.points.iter().map(|point| (ago(point), of(point))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::{Figures, Severity};

    fn overview(ledger_available: bool) -> Arc<Overview> {
        Arc::new(Overview {
            as_of: DateTime::UNIX_EPOCH,
            redis_available: true,
            ledger_available,
            redis_trouble: None,
            ledger_trouble: None,
            figures: Figures::default(),
            workers: Vec::new(),
            partitions: Vec::new(),
        })
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
        let mut history = LookHistory::default();
        history.take(now, overview(false));
        history.findings = Some((now, vec![finding]));
        assert_eq!(history.take(now, overview(false)).findings.len(), 1);
        assert!(history.take(now, overview(true)).findings.is_empty());
        // Nor is shown what was found long ago.
        history.findings = Some((now, Vec::new()));
        history.take(now + CHECKUP_KEPT, overview(true));
        assert!(history.findings.is_some());
        history.take(now + CHECKUP_KEPT + Duration::from_secs(1), overview(true));
        assert!(history.findings.is_none());
    }
}

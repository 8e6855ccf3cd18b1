//! What the last looks saw: everything at one moment, with rates, charts of ten
//! minutes, and since when a store has been away. Asks nobody.

use std::{
    collections::VecDeque,
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
    pub(super) overview: Overview,
    /// Per second; nothing before there are two looks.
    pub(super) appended_rate: Option<i64>,
    pub(super) settled_rate: Option<i64>,
    /// Since when Redis has not answered,
    pub(super) redis_away: Option<DateTime<Utc>>,
    /// and PostgreSQL.
    pub(super) ledger_away: Option<DateTime<Utc>>,
    /// What the last checkup found that is not as it should be, the worst first.
    pub(super) findings: Vec<Finding>,
    points: Vec<Point>,
}

/// A point of every chart.
#[derive(Clone, Copy)]
struct Point {
    at: Instant,
    appended: Option<i64>,
    settled: Option<i64>,
    waiting: Option<i64>,
    oldest: Option<i64>,
}

/// What the last looks saw.
#[derive(Default)]
pub(super) struct History {
    /// Totals of the last seconds: appended and settled.
    totals: VecDeque<(Instant, Option<i64>, Option<i64>)>,
    points: VecDeque<Point>,
    pub(super) redis_away: Option<DateTime<Utc>>,
    pub(super) ledger_away: Option<DateTime<Utc>>,
    /// What the last checkup found, and when.
    pub(super) findings: Option<(Instant, Vec<Finding>)>,
}

impl History {
    pub(super) fn take(&mut self, now: Instant, overview: Overview) -> Look {
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
        let (appended, settled) = (figures.appended, figures.settled);
        let appended_rate = self.rate(now, appended, |(_, appended, _)| *appended);
        let settled_rate = self.rate(now, settled, |(_, _, settled)| *settled);
        self.totals.push_back((now, appended, settled));
        let oldest = figures.oldest_waiting_seconds.unwrap_or(0);
        self.point(Point {
            at: now,
            appended: appended_rate,
            settled: settled_rate,
            waiting: figures.lag.zip(figures.pending).map(|(lag, pending)| lag + pending),
            oldest: figures.pending.and_then(|_| i64::try_from(oldest).ok()),
        });
        Look {
            at: now,
            appended_rate,
            settled_rate,
            redis_away: self.redis_away,
            ledger_away: self.ledger_away,
            findings: self.findings.iter().flat_map(|(_, found)| found).cloned().collect(),
            points: self.points.iter().copied().collect(),
            overview,
        }
    }

    /// The rate since the newest look that is old enough. A total that falls was
    /// begun again: its rate is not known.
    fn rate(
        &mut self,
        now: Instant,
        total: Option<i64>,
        of: impl Fn(&(Instant, Option<i64>, Option<i64>)) -> Option<i64>,
    ) -> Option<i64> {
        let old = |then: &Instant| now.duration_since(*then) >= RATE_OVER;
        while self.totals.get(1).is_some_and(|(then, ..)| old(then)) {
            self.totals.pop_front();
        }
        let first = self.totals.front()?;
        let milliseconds = i64::try_from(now.duration_since(first.0).as_millis()).ok()?;
        let gained = total?.checked_sub(of(first)?)?;
        (gained >= 0 && milliseconds > 0).then(|| gained.saturating_mul(1_000) / milliseconds)
    }

    fn point(&mut self, point: Point) {
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
    /// Payments that were accepted, per second.
    pub(super) fn appended_chart(&self) -> Chart {
        self.chart("accepted per second", |point| point.appended)
    }

    /// Payments that were settled, per second.
    pub(super) fn settled_chart(&self) -> Chart {
        self.chart("settled per second", |point| point.settled)
    }

    /// Entries that wait.
    pub(super) fn waiting_chart(&self) -> Chart {
        self.chart("payments that wait", |point| point.waiting)
    }

    /// How long the first of them has waited, in seconds.
    pub(super) fn oldest_chart(&self) -> Chart {
        self.chart("seconds that the oldest has waited", |point| point.oldest)
    }

    /// How far back the charts reach, in seconds.
    pub(super) fn reach(&self) -> u64 {
        chart::reach(&self.past(|_| None))
    }

    fn chart(&self, what: &str, of: impl Fn(&Point) -> Option<i64>) -> Chart {
        Chart::new(what, &self.past(of))
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

    fn overview(ledger_available: bool) -> Overview {
        Overview {
            as_of: DateTime::UNIX_EPOCH,
            redis_available: true,
            ledger_available,
            redis_trouble: None,
            figures: Figures::default(),
            workers: Vec::new(),
            partitions: Vec::new(),
        }
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
        let mut history = History::default();
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

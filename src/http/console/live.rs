//! Live figures: one poll for everybody who watches, and a stream of events
//! for each of them. Looks every second while somebody watches, and now and
//! then otherwise, so that a chart has a past. Keeps ten minutes in memory.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Extension, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use chrono::{DateTime, Utc};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time,
};

use super::{
    super::{
        App,
        intake::Query,
        observe::Peer,
        operator::Operator,
        places::{Full, Place, Places},
        problem::{Code, Problem},
    },
    chart::{self, Chart, REACH},
    overview, partitions,
};
use crate::operations::{Finding, Operations, Overview, Severity};

/// Pages that may show live figures at once.
const VIEWERS_MAX: usize = 64;
/// Those of one operator, or of one address where operators have no names.
const VIEWERS_OF_ONE_MAX: usize = 8;
/// Between two looks while somebody watches,
const WATCHED_EVERY: Duration = Duration::from_secs(1);
/// and while nobody does.
const UNWATCHED_EVERY: Duration = Duration::from_secs(10);
/// Between two checkups while somebody watches.
const CHECKED_EVERY: Duration = Duration::from_secs(10);
/// A look that is this old is not shown on a new page.
const FRESH: Duration = Duration::from_secs(2);
/// A rate is over at least this long.
const RATE_OVER: Duration = Duration::from_secs(3);
/// Between two points of a chart.
const POINT_EVERY: Duration = Duration::from_secs(3);

/// Everything at one moment, with what came before it.
pub(super) struct Look {
    at: Instant,
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
struct History {
    /// Totals of the last seconds: appended and settled.
    totals: VecDeque<(Instant, Option<i64>, Option<i64>)>,
    points: VecDeque<Point>,
    redis_away: Option<DateTime<Utc>>,
    ledger_away: Option<DateTime<Utc>>,
    /// What the last checkup found, and when.
    findings: Option<(Instant, Vec<Finding>)>,
}

/// The poll and its viewers.
pub(in crate::http) struct Live {
    viewers: Places<String>,
    came: Notify,
    visited: Notify,
    /// A store went away or came back.
    changed: Notify,
    history: Mutex<History>,
    latest: watch::Sender<Option<Arc<Look>>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            viewers: Places::new(VIEWERS_MAX, VIEWERS_OF_ONE_MAX),
            came: Notify::new(),
            visited: Notify::new(),
            changed: Notify::new(),
            history: Mutex::default(),
            latest: watch::Sender::new(None),
        }
    }
}

impl Live {
    /// Looks again and again; never ends by itself.
    pub(in crate::http) async fn run(&self, operations: &Operations) {
        tokio::join!(self.keep_looking(operations), self.keep_checking(operations));
    }

    async fn keep_looking(&self, operations: &Operations) {
        loop {
            self.look(operations).await;
            let pause = if self.is_watched() { WATCHED_EVERY } else { UNWATCHED_EVERY };
            tokio::select! {
                () = time::sleep(pause) => {}
                () = self.came.notified() => {}
            }
        }
    }

    /// Costs more than a look, so that it is done for somebody only.
    async fn keep_checking(&self, operations: &Operations) {
        loop {
            if !self.is_watched() {
                tokio::select! {
                    () = self.came.notified() => {}
                    () = self.visited.notified() => {}
                }
            }
            let mut findings = operations.checkup().await.findings;
            findings.retain(|finding| finding.severity > Severity::Good);
            let found = Some((Instant::now(), findings));
            self.history.lock().unwrap_or_else(PoisonError::into_inner).findings = found;
            tokio::select! {
                () = time::sleep(CHECKED_EVERY) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    fn is_watched(&self) -> bool {
        self.viewers.taken() > 0
    }

    /// The last look, or a new one when that is old. What a checkup finds comes
    /// with a later one.
    pub(super) async fn fresh(&self, operations: &Operations) -> Arc<Look> {
        self.visited.notify_waiters();
        let latest = self.latest.borrow().clone();
        match latest {
            Some(look) if look.at.elapsed() < FRESH => look,
            _ => self.look(operations).await,
        }
    }

    async fn look(&self, operations: &Operations) -> Arc<Look> {
        let overview = operations.overview().await;
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let away = (history.redis_away.is_some(), history.ledger_away.is_some());
        let look = Arc::new(history.take(Instant::now(), overview));
        drop(history);
        if away != (look.redis_away.is_some(), look.ledger_away.is_some()) {
            self.changed.notify_one();
        }
        self.latest.send_replace(Some(Arc::clone(&look)));
        look
    }
}

impl History {
    fn take(&mut self, now: Instant, overview: Overview) -> Look {
        let since = |available: bool, away: Option<DateTime<Utc>>| {
            if available { None } else { away.or(Some(overview.as_of)) }
        };
        let before = (self.redis_away.is_some(), self.ledger_away.is_some());
        self.redis_away = since(overview.redis_available, self.redis_away);
        self.ledger_away = since(overview.ledger_available, self.ledger_away);
        let away = (self.redis_away.is_some(), self.ledger_away.is_some());
        // What was found before a store went away or came back is not so any more.
        let is_old = |at: &Instant| now.duration_since(*at) > CHECKED_EVERY * 3;
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

/// What a page wants to be told live.
#[derive(Deserialize)]
pub(super) struct LiveQuery {
    page: String,
    from: Option<u16>,
}

/// One viewer.
struct Viewer {
    app: App,
    looks: watch::Receiver<Option<Arc<Look>>>,
    wants: LiveQuery,
    _place: Place<String>,
}

/// The figures of a page, again whenever they were looked at.
pub(super) async fn watch(
    State(app): State<App>,
    Extension(operator): Extension<Operator>,
    Extension(Peer(address)): Extension<Peer>,
    Query(wants): Query<LiveQuery>,
) -> Result<Response, Problem> {
    let viewer = operator.0.unwrap_or_else(|| address.to_string());
    let place = app.live.viewers.take(viewer).map_err(|full| {
        let (count, whose) = match full {
            Full::All => (VIEWERS_MAX, ""),
            Full::Client => (VIEWERS_OF_ONE_MAX, " of yours"),
        };
        let detail = format!(
            "{count} pages{whose} show live figures already; close some, or reload this page by \
             hand"
        );
        Problem::new(Code::GatewayBusy, detail)
    })?;
    let mut looks = app.live.latest.subscribe();
    looks.mark_changed();
    app.live.came.notify_waiters();
    let viewer = Viewer { app, looks, wants, _place: place };
    // A proxy in front passes each event on at once.
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(stream::unfold(viewer, next))).into_response())
}

/// The next event; nothing when the process stops.
async fn next(mut viewer: Viewer) -> Option<(Result<Event, Infallible>, Viewer)> {
    let Viewer { app, looks, wants, .. } = &mut viewer;
    let html = loop {
        app.stop.run_until_cancelled(looks.changed()).await?.ok()?;
        let look = looks.borrow_and_update().clone();
        if let Some(Ok(html)) = look.map(|look| fragment(&look, wants)) {
            break html;
        }
    };
    Some((Ok(Event::default().data(html)), viewer))
}

fn fragment(look: &Look, wants: &LiveQuery) -> Result<String, Problem> {
    match wants.page.as_str() {
        "partitions" => partitions::live(look, wants.from.unwrap_or(0)),
        _ => overview::live(look),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::Figures;

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
        history.take(now + 3 * CHECKED_EVERY, overview(true));
        assert!(history.findings.is_some());
        history.take(now + 4 * CHECKED_EVERY, overview(true));
        assert!(history.findings.is_none());
    }
}

//! Live figures: the process's snapshots for everybody who watches, and a stream of events for
//! each of them. Wants a new snapshot every second while somebody watches; otherwise those of the
//! monitor give charts a past. Keeps ten minutes in memory.

use std::{
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
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time,
};

use super::{
    Console,
    history::{Look, LookHistory},
    overview, partitions,
};
use crate::{
    http::{Code, Full, Operator, Peer, Problem, Query, Slot, Slots},
    operations::{Operations, Severity, Snapshot},
};

/// Pages that may show live figures at once.
const VIEWERS_MAX: usize = 64;
/// Those of one operator, or of one address where operators have no names.
const VIEWERS_OF_ONE_MAX: usize = 8;
/// Interval of looks while somebody watches.
const WATCHED_EVERY: Duration = Duration::from_secs(1);
/// Interval of looks while nobody watches.
const UNWATCHED_EVERY: Duration = Duration::from_secs(10);
/// Interval of checkups while somebody watches.
const CHECKED_EVERY: Duration = Duration::from_secs(10);
/// A snapshot that is this old is taken anew for a page, and for those who watch.
const FRESH: Duration = Duration::from_secs(2);
const FRESH_WATCHED: Duration = Duration::from_millis(500);

pub(super) struct Live {
    viewers: Slots<String>,
    came: Notify,
    visited: Notify,
    /// A store went away or came back.
    changed: Notify,
    history: Mutex<LookHistory>,
    latest: watch::Sender<Option<Arc<Look>>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            viewers: Slots::new(VIEWERS_MAX, VIEWERS_OF_ONE_MAX),
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
    pub(super) async fn run(&self, operations: &Operations) {
        tokio::join!(self.keep_looking(operations), self.keep_checking(operations));
    }

    async fn keep_looking(&self, operations: &Operations) {
        loop {
            let fresh = if self.is_watched() { FRESH_WATCHED } else { UNWATCHED_EVERY };
            self.look(operations, fresh).await;
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
        self.look(operations, FRESH).await
    }

    async fn look(&self, operations: &Operations, fresh: Duration) -> Arc<Look> {
        let Snapshot { at, overview } = operations.snapshot(fresh).await;
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody has looked since, or somebody has and shown it already.
        if let Some(look) = self.latest.borrow().clone().filter(|look| look.at >= at) {
            return look;
        }
        let away = (history.redis_away.is_some(), history.ledger_away.is_some());
        let look = Arc::new(history.take(at, overview));
        if away != (look.redis_away.is_some(), look.ledger_away.is_some()) {
            self.changed.notify_one();
        }
        self.latest.send_replace(Some(Arc::clone(&look)));
        drop(history);
        look
    }
}

#[derive(Deserialize)]
pub(super) struct LiveQuery {
    page: String,
    from: Option<u16>,
}

struct Viewer {
    console: Arc<Console>,
    looks: watch::Receiver<Option<Arc<Look>>>,
    wants: LiveQuery,
    _slot: Slot<String>,
}

/// The figures of a page, again whenever they were looked at.
pub(super) async fn watch(
    State(console): State<Arc<Console>>,
    Extension(operator): Extension<Operator>,
    Extension(Peer(address)): Extension<Peer>,
    Query(wants): Query<LiveQuery>,
) -> Result<Response, Problem> {
    let viewer = operator.0.unwrap_or_else(|| address.to_string());
    let place = console.live.viewers.take(viewer).map_err(|full| {
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
    let mut looks = console.live.latest.subscribe();
    looks.mark_changed();
    console.live.came.notify_waiters();
    let viewer = Viewer { console, looks, wants, _slot: place };
    // A proxy in front passes each event on at once.
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(stream::unfold(viewer, next))).into_response())
}

/// The next event; nothing when the process stops.
async fn next(mut viewer: Viewer) -> Option<(Result<Event, Infallible>, Viewer)> {
    let Viewer { console, looks, wants, .. } = &mut viewer;
    let html = loop {
        console.app.stop.run_until_cancelled(looks.changed()).await?.ok()?;
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

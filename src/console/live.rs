//! What the console works with: the gateway, and live figures, which are the process's
//! snapshots with what came before them. Wants a new snapshot every second while somebody
//! watches; otherwise those of the monitor give charts a past. Keeps ten minutes in memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time,
};

use super::history::{FigureHistory, LiveFigures};
use crate::{
    http::{App, Slots},
    operations::{Operations, Severity},
};

/// Pages that may show live figures at once.
pub(super) const VIEWERS_MAX: usize = 64;
/// Those of one operator, or of one address where operators have no names.
pub(super) const VIEWERS_OF_ONE_MAX: usize = 8;
/// Interval of looks while somebody watches.
const WATCHED_EVERY: Duration = Duration::from_secs(1);
/// Interval of looks while nobody watches.
const UNWATCHED_EVERY: Duration = Duration::from_secs(10);
/// Interval of checkups while somebody watches.
const CHECKED_EVERY: Duration = Duration::from_secs(10);
/// A snapshot that is this old is taken anew for a page, and for those who watch.
const FRESH: Duration = Duration::from_secs(2);
const FRESH_WATCHED: Duration = Duration::from_millis(500);

pub(super) struct Console {
    pub(super) app: App,
    pub(super) live: Live,
}

pub(super) struct Live {
    pub(super) viewers: Slots<Arc<str>>,
    pub(super) came: Notify,
    visited: Notify,
    /// A store went away or came back.
    changed: Notify,
    history: Mutex<FigureHistory>,
    pub(super) latest: watch::Sender<Option<Arc<LiveFigures>>>,
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
    pub(super) async fn run(&self, operations: &Arc<Operations>) {
        tokio::join!(self.keep_looking(operations), self.keep_checking(operations));
    }

    async fn keep_looking(&self, operations: &Arc<Operations>) {
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
    async fn keep_checking(&self, operations: &Arc<Operations>) {
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
    pub(super) async fn fresh(&self, operations: &Arc<Operations>) -> Arc<LiveFigures> {
        self.visited.notify_waiters();
        self.look(operations, FRESH).await
    }

    async fn look(&self, operations: &Arc<Operations>, fresh: Duration) -> Arc<LiveFigures> {
        let snapshot = operations.snapshot(fresh).await;
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody has looked since, or somebody has and shown it already.
        let shown = self.latest.borrow().clone();
        if let Some(look) = shown.filter(|look| look.snapshot.at >= snapshot.at) {
            return look;
        }
        let away = (history.redis_away.is_some(), history.ledger_away.is_some());
        let look = Arc::new(history.take(snapshot));
        if away != (look.redis_away.is_some(), look.ledger_away.is_some()) {
            self.changed.notify_one();
        }
        self.latest.send_replace(Some(Arc::clone(&look)));
        drop(history);
        look
    }
}

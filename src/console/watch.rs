//! The stream of events of a page with live figures: the figures again whenever there is
//! a new snapshot, and a heartbeat meanwhile, so that a page tells a slow store from a
//! lost connection. Never takes a snapshot itself.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Extension, State},
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    history::LiveFigures,
    live::{Console, VIEWERS_MAX, VIEWERS_OF_ONE_MAX},
    overview, partitions,
};
use crate::http::{Code, Full, Peer, Principal, Problem, Query, Slot, sessions};

/// Longest silence of a stream. A page does not call figures live after twelve seconds of it,
/// and takes the connection for lost after thirty-six.
const BEAT_EVERY: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
pub(super) struct LiveQuery {
    page: String,
    from: Option<u16>,
}

struct Viewer {
    console: Arc<Console>,
    looks: watch::Receiver<Option<Arc<LiveFigures>>>,
    wants: LiveQuery,
    /// Of the request: its token or session may end while the page is open.
    headers: HeaderMap,
    peer: Peer,
    _slot: Slot<Arc<str>>,
}

/// The figures of a page, again whenever they were looked at.
pub(super) async fn follow(
    State(console): State<Arc<Console>>,
    Extension(operator): Extension<Principal>,
    Extension(peer): Extension<Peer>,
    Query(wants): Query<LiveQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let viewer = operator.name.unwrap_or_else(|| peer.address.to_string().into());
    let slot = console.live.viewers.take(viewer).map_err(|full| {
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
    let viewer = Viewer { console, looks, wants, headers, peer, _slot: slot };
    // A proxy in front passes each event on at once.
    let unbuffered = [("x-accel-buffering", "no")];
    Ok((unbuffered, Sse::new(stream::unfold(viewer, next))).into_response())
}

/// The next event; nothing when the process stops, or the viewer may not look any more.
async fn next(mut viewer: Viewer) -> Option<(Result<Event, Infallible>, Viewer)> {
    let Viewer { console, looks, wants, headers, peer, .. } = &mut viewer;
    // Also where every look says that it cannot be shown.
    let beat = Instant::now() + BEAT_EVERY;
    let event = loop {
        let new = timeout_at(beat, looks.changed());
        let Ok(changed) = console.app.stop.run_until_cancelled(new).await? else {
            break Event::default().event("beat");
        };
        changed.ok()?;
        let look = looks.borrow_and_update().clone();
        if let Some(Ok(html)) = look.map(|look| fragment(&look, wants)) {
            break Event::default().data(html);
        }
    };
    sessions::may_look(&console.app, headers, *peer).await.then_some((Ok(event), viewer))
}

fn fragment(look: &LiveFigures, wants: &LiveQuery) -> Result<String, Problem> {
    match wants.page.as_str() {
        "partitions" => partitions::live(look, wants.from.unwrap_or(0)),
        _ => overview::live(look),
    }
}

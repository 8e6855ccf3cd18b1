//! Live figures: a stream of events for each viewer, who is told whenever
//! everything was looked at.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{Extension, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    history::Look,
    live::{VIEWERS_MAX, VIEWERS_OF_ONE_MAX},
    overview, partitions,
    state::Console,
};
use crate::http::{Code, Full, Operator, Peer, Place, Problem, Query};

/// What a page wants to be told live.
#[derive(Deserialize)]
pub(super) struct LiveQuery {
    page: String,
    from: Option<u16>,
}

/// One viewer.
struct Viewer {
    console: Arc<Console>,
    looks: watch::Receiver<Option<Arc<Look>>>,
    wants: LiveQuery,
    _place: Place<String>,
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
    let viewer = Viewer { console, looks, wants, _place: place };
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

//! What every request passes before its handler: the name it was sent to, the token,
//! where a form comes from, the bound on requests under way, and the time limit.
//! Health endpoints need no more than the name; live figures of the console have a
//! bound of their own.

use std::time::Duration;

use axum::{
    BoxError,
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    access::{self, Head},
    intake,
    operator::Principal,
    peer::Peer,
    preferences,
    problem::{Code, Problem},
    sessions,
    state::App,
    surface::{Door, Surface},
};
use crate::callers::Scope;

/// Largest body of a request.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Largest body that carries many payments.
const BULK_BYTES_MAX: usize = 4 * 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const BULK: [&str; 2] = ["/api/v1/payments/batch", "/api/v1/payments/lookup"];

pub(super) async fn guard(
    app: &App,
    door: Door,
    surface: Surface,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    // Where another address serves a part of the paths, whoever asks for one that is not here
    // is answered 404: such a path differs in nothing from one that nobody serves.
    let is_missing = door != Door::All
        && surface == Surface::Api
        && request.extensions().get::<MatchedPath>().is_none();
    let surface = if is_missing { Surface::Open } else { surface };
    let session = sessions::holder(app, surface, request.headers(), peer).await;
    let answer = match enter(app, door, surface, (&request, session), peer) {
        Ok(caller) => pass(app, door, surface, caller, request, next).await,
        Err(problem) => problem.into_response(),
    };
    if let Some(problem) = answer.extensions().get::<Problem>().filter(|one| one.is_refusal()) {
        app.security_log.refused(problem, surface, peer);
    }
    answer
}

/// Has a request answered that may come in, within its bounds.
async fn pass(
    app: &App,
    door: Door,
    surface: Surface,
    operator: Principal,
    mut request: Request,
    next: Next,
) -> Response {
    if surface == Surface::Open {
        return next.run(request).await;
    }
    if matches!(surface, Surface::Admin | Surface::Console) {
        let peer = request.extensions().get::<Peer>().copied();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        app.security_log.asked(&operator, request.method(), path, peer);
    }
    request.extensions_mut().insert(operator.clone());
    if surface == Surface::Live {
        return next.run(request).await;
    }
    // A place is for work: whoever sends slowly has none yet.
    let wait = preferences::wait_of(&request);
    // Its share of the memory for bodies is given back when it is answered.
    let (request, _room) = match arrived(request, &app.bodies).await {
        Ok(arrived) => arrived,
        Err(problem) => return problem.into_response(),
    };
    // The connections of operators bound their requests: payments must not keep them out.
    let place = (door != Door::Operations).then(|| app.requests.try_acquire()).transpose();
    let Ok(_under_way) = place else {
        return busy().into_response();
    };
    let limit = app.gateway.config.request_timeout + wait;
    let answering = async {
        let scope = surface.scope(request.method(), request.uri().path());
        let reads = matches!(scope, Some(Scope::PaymentsRead | Scope::CustomersRead));
        match app.shares.take(operator.share(surface), reads).await {
            Ok(_share) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    };
    timeout(limit, answering).await.unwrap_or_else(|_| {
        let detail = "it is not known whether anything was taken; sending it again is safe";
        Problem::new(Code::RequestTimeout, detail).into_response()
    })
}

/// Who the request is from, if it may come in.
fn enter(
    app: &App,
    door: Door,
    surface: Surface,
    (request, session): (&Request, Option<Principal>),
    peer: Option<Peer>,
) -> Result<Principal, Problem> {
    let (gateway, uri, headers) = (&app.gateway, request.uri(), request.headers());
    if !access::is_meant_for_us(&gateway.config, door, surface, uri, headers) {
        let detail = "no token is set, so only a name of this machine is answered here: use \
                      localhost, or set PAYSTREAM_API_TOKEN and PAYSTREAM_OPERATOR_TOKENS";
        return Err(Problem::new(Code::Unauthorized, detail));
    }
    let (method, has_body) = (request.method(), !request.body().is_end_stream());
    let head = Head { method, uri, headers, has_body, peer, session };
    let caller = access::admit(gateway, surface, &head)?;
    if surface == Surface::Api {
        let rules = gateway.sources.find(caller.source.as_str());
        access::admit_from(rules.as_deref(), peer)?;
    }
    if surface.is_console() && !access::is_of_our_pages(request.method(), headers) {
        let detail = "nothing was changed; use the form on the console's own page";
        return Err(Problem::new(Code::CrossOrigin, detail));
    }
    Ok(caller)
}

fn busy() -> Problem {
    Problem::new(Code::GatewayBusy, "nothing was taken; send it again later")
}

/// The request with its whole body, and the room that this takes of `bodies`. Small
/// ones take none: connections bound them.
async fn arrived<'a>(
    request: Request,
    bodies: &'a Semaphore,
) -> Result<(Request, Option<SemaphorePermit<'a>>), Problem> {
    if request.body().is_end_stream() {
        return Ok((request, None));
    }
    let is_bulk = BULK.contains(&request.uri().path());
    // Before anything is read: whoever waits for 100 Continue is answered, too.
    let most = if is_bulk { BULK_BYTES_MAX } else { BODY_BYTES_MAX };
    if request.body().size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let (parts, body) = request.into_parts();
    let late = |_| {
        let detail =
            format!("it must be here within {} s; nothing was taken", BODY_TIMEOUT.as_secs());
        Problem::new(Code::BodyTimeout, detail)
    };
    let (bytes, room) = match is_bulk {
        true => {
            let (bytes, room) =
                timeout(BODY_TIMEOUT, collected(body, bodies)).await.map_err(late)??;
            (bytes, Some(room))
        }
        false => {
            let collected = timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect());
            (collected.await.map_err(late)?.map_err(unread)?.to_bytes(), None)
        }
    };
    Ok((Request::from_parts(parts, Body::from(bytes)), room))
}

/// A large body, and its room: as much as it says to have, or as has come.
async fn collected(
    body: Body,
    bodies: &Semaphore,
) -> Result<(Bytes, SemaphorePermit<'_>), Problem> {
    let room = |bytes: u64| {
        let bytes = u32::try_from(bytes).map_err(|_| busy())?;
        bodies.try_acquire_many(bytes).map_err(|_| busy())
    };
    let announced = body.size_hint().lower();
    let mut taken = room(announced)?;
    let mut body = Limited::new(body, BULK_BYTES_MAX);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(unread)?.into_data() else { continue };
        let beyond = (bytes.len() + data.len()).saturating_sub(taken.num_permits());
        if beyond > 0 {
            taken.merge(room(beyond as u64)?);
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.into(), taken))
}

fn unread(error: BoxError) -> Problem {
    if error.is::<LengthLimitError>() { too_large() } else { intake::unread() }
}

fn too_large() -> Problem {
    let detail = "16 KiB at most; 4 MiB where many are sent at once";
    Problem::new(Code::BodyTooLarge, detail)
}

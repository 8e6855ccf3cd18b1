//! Sessions of the console: who is signed in, for how long, and what ends that. PostgreSQL has
//! them, so that every gateway and a restarted one know them; memory answers for a few seconds,
//! and for as long as PostgreSQL is away. Never keeps a token or the id of a session.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use tracing::warn;

use super::{
    access::{self, SignedIn},
    operator::Principal,
    peer::Peer,
    problem::{Code, Problem},
    session_memory::{Digest, Seen, Sessions},
    state::AppState,
    surface::{CONSOLE, Surface},
};
use crate::{
    callers::{Credential, SessionId},
    ledger::SessionRow,
};

/// Hold the id of a session: over TLS, so that no other host and no plain page of this one can set
/// it, and elsewhere.
const COOKIES: [&str; 2] = ["__Host-paystream_console", "paystream_console"];
/// Interval at which the use of a session is noted in PostgreSQL.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);

/// The name of the cookie for a client that came so.
pub(crate) fn cookie_name(is_https: bool) -> &'static str {
    if is_https { COOKIES[0] } else { COOKIES[1] }
}

/// Whose session the cookie names, where a surface takes cookies and no token is shown. Pages use a
/// session, live figures do not: a page that is left open ends by itself.
pub(super) async fn holder(
    app: &AppState,
    surface: Surface,
    headers: &HeaderMap,
    peer: Option<Peer>,
) -> Option<Principal> {
    if !matches!(surface, Surface::Console | Surface::Live) || access::bearer(headers).is_some() {
        return None;
    }
    // In a box: most requests have none, and would carry the room for it.
    Box::pin(known(app, surface, shown(headers, peer?)?, peer)).await
}

async fn known(
    app: &AppState,
    surface: Surface,
    id: SessionId,
    peer: Option<Peer>,
) -> Option<Principal> {
    let row = app.sessions.look(app, id.digest(), peer).await?;
    let Some(principal) = access::holder(&app.gateway, &id, &row, peer) else {
        app.security_log.session_ended(&row.operator, "its token or key is gone", peer);
        return None;
    };
    if surface == Surface::Console {
        app.sessions.used(app, id.digest()).await;
    }
    Some(principal)
}

/// Whether whoever sees live figures may go on.
pub(crate) async fn may_look(app: &AppState, headers: &HeaderMap, peer: Peer) -> bool {
    let session = holder(app, Surface::Live, headers, Some(peer)).await;
    access::may_get(&app.gateway, CONSOLE, headers, Some(peer), session)
}

/// Begins a session with this token, and ends the one that the browser had. While PostgreSQL is
/// away, this process alone has it.
pub(crate) async fn sign_in(
    app: &AppState,
    headers: &HeaderMap,
    token: &str,
    peer: Peer,
) -> Result<(Principal, SessionId), Problem> {
    let id = SessionId::generate().map_err(|why| Problem::new(Code::Internal, why))?;
    let SignedIn { principal, seal, credential } = access::sign_in(&app.gateway, &id, token, peer)?;
    let (now, config) = ((app.gateway.clock)(), &app.gateway.config);
    let lasts = now + config.session_lifetime;
    let expires_at = credential.as_ref().map_or(lasts, |token| token.expires_at.min(lasts));
    let (kid, jti) = credential.map(|Credential { kid, jti, .. }| (kid, jti)).unzip();
    let row = SessionRow {
        digest: id.digest().to_vec(),
        operator: principal.name.as_deref().unwrap_or_default().to_owned(),
        scopes: principal.scopes(),
        source: principal.source.as_str().to_owned(),
        kid,
        jti,
        seal: seal.to_vec(),
        address: peer.address.to_string(),
        signed_in_at: now,
        last_used_at: now,
        ends_at: expires_at.min(now + config.session_idle),
        expires_at,
    };
    app.sessions.tell_ends(app).await;
    let is_stored = app.ask(app.gateway.sessions.begin(&row)).await.is_ok();
    if !is_stored {
        warn!(
            operator = row.operator,
            "session kept in the memory of this process only: PostgreSQL did not take it. It is \
             stored when it is used after PostgreSQL is back"
        );
    }
    app.sessions.memory().keep(id.digest(), row, is_stored.then(Instant::now));
    if let Some(before) = shown(headers, peer) {
        // The token is good, whatever comes of a session that nobody uses any more.
        drop(app.sessions.end(app, before.digest()).await);
    }
    Ok((principal, id))
}

/// Ends the session whose cookie came; says whose it was.
pub(crate) async fn sign_out(
    app: &AppState,
    headers: &HeaderMap,
    peer: Peer,
) -> Result<Option<String>, Problem> {
    let Some(id) = shown(headers, peer) else { return Ok(None) };
    let seen = app.sessions.memory().see(&id.digest(), Instant::now());
    if matches!(seen, Seen::Never) {
        app.sessions.questions.attempt_from(peer.address)?;
    }
    app.sessions.end(app, id.digest()).await
}

/// The session that the cookie names. Over TLS the other cookie does not count: another host of this
/// domain can set that one.
fn shown(headers: &HeaderMap, peer: Peer) -> Option<SessionId> {
    SessionId::parse(access::cookie(headers, cookie_name(peer.is_https))?)
}

impl Sessions {
    /// The session, if it goes on. While PostgreSQL cannot be asked, one that this process has seen
    /// goes on until it expires, used or not: another gateway may have seen it used.
    async fn look(&self, app: &AppState, digest: Digest, peer: Option<Peer>) -> Option<SessionRow> {
        let seen = self.memory().see(&digest, Instant::now());
        let (row, is_confirmed) = match seen {
            Seen::Ended => {
                self.tell_ends(app).await;
                return None;
            }
            Seen::Fresh(row) => (row, true),
            Seen::Never => {
                self.questions.attempt_from(peer?.address).ok()?;
                self.ask(app, digest, None, peer).await?
            }
            Seen::Stale { row, is_stored } => {
                self.ask(app, digest, Some((row, is_stored)), peer).await?
            }
        };
        let now = (app.gateway.clock)();
        if now < if is_confirmed { row.ends_at } else { row.expires_at } {
            return Some(row);
        }
        let why = if now < row.expires_at { "it was not used" } else { "it expired" };
        app.security_log.session_ended(&row.operator, why, peer);
        self.memory().forget(&digest);
        None
    }

    /// What PostgreSQL has of a session, or else what was known; and whether PostgreSQL said so.
    async fn ask(
        &self,
        app: &AppState,
        digest: Digest,
        known: Option<(SessionRow, bool)>,
        peer: Option<Peer>,
    ) -> Option<(SessionRow, bool)> {
        let store = &app.gateway.sessions;
        self.tell_ends(app).await;
        if let Some((row, false)) = &known
            && app.ask(store.begin(row)).await.is_err()
        {
            return known.map(|(row, _)| (row, false));
        }
        match app.ask(store.find(&digest)).await {
            Ok(Some(row)) => Some((self.memory().keep(digest, row, Some(Instant::now()))?, true)),
            Ok(None) => {
                self.memory().forget(&digest);
                let (row, _) = known?;
                app.security_log.session_ended(&row.operator, "it was ended elsewhere", peer);
                None
            }
            Err(_) => known.map(|(row, _)| (row, false)),
        }
    }

    /// Moves the end of a session that is used, here at once and in PostgreSQL now and then.
    async fn used(&self, app: &AppState, digest: Digest) {
        let now = (app.gateway.clock)();
        let ends_at = now + app.gateway.config.session_idle;
        let noted = self.memory().used(&digest, now, ends_at, USE_NOTED_EVERY);
        if let Some(row) = noted {
            // What was not noted now is noted with a later use.
            drop(app.ask(app.gateway.sessions.used(&row)).await);
        }
    }

    /// Ends a session, here at once and in PostgreSQL; says whose it was. One that was not seen here
    /// is ended by PostgreSQL or not at all.
    async fn end(&self, app: &AppState, digest: Digest) -> Result<Option<String>, Problem> {
        let seen = self.memory().see(&digest, Instant::now());
        let operator = match seen {
            Seen::Never => {
                let ended = app.ask(app.gateway.sessions.end(&[digest.to_vec()])).await?;
                let Some((_, operator)) = ended.into_iter().next() else { return Ok(None) };
                Some(operator)
            }
            Seen::Ended => None,
            Seen::Fresh(row) | Seen::Stale { row, .. } => Some(row.operator),
        };
        self.memory().end(digest);
        self.tell_ends(app).await;
        Ok(operator)
    }

    /// Ends in PostgreSQL what was ended here.
    async fn tell_ends(&self, app: &AppState) {
        let untold = self.memory().untold();
        if untold.is_empty() {
            return;
        }
        let rows: Vec<Vec<u8>> = untold.iter().map(|digest| digest.to_vec()).collect();
        let told = app.ask(app.gateway.sessions.end(&rows)).await;
        match told {
            Ok(_) => self.memory().told(&untold),
            Err(_) => warn!(
                sessions = untold.len(),
                "sessions ended in the memory of this process only: PostgreSQL did not take it. \
                 Other gateways are told when PostgreSQL is back"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use axum::http::header::COOKIE;

    use super::*;

    #[test]
    fn each_way_to_come_has_its_own_cookie() {
        let [secure, plain] = [(); 2].map(|()| SessionId::generate().unwrap());
        let [of_secure, of_plain] = [(0, &secure), (1, &plain)]
            .map(|(name, id)| format!("{}={}", COOKIES[name], id.text()));
        let seen = |cookie: &str, is_https: bool| {
            let headers = HeaderMap::from_iter([(COOKIE, cookie.parse().unwrap())]);
            let peer = Peer::connected(IpAddr::V4(Ipv4Addr::LOCALHOST), is_https);
            shown(&headers, peer).map(|id| id.digest())
        };
        for both in [format!("{of_secure}; {of_plain}"), format!("{of_plain}; {of_secure}")] {
            assert_eq!(seen(&both, true), Some(secure.digest()));
            assert_eq!(seen(&both, false), Some(plain.digest()));
        }
        assert_eq!(seen(&of_plain, true), None, "another host may have set it");
        assert_eq!(seen(&of_secure, false), None);
    }
}

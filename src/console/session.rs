//! Signing in and out: a token, shown once, begins a session, whose id is kept in a cookie that no
//! script and no other site can use. Remembers the name of whoever has no token of their own. Never
//! logs a token or an id.

use std::sync::Arc;

use axum::{
    Extension, Form,
    extract::{State, rejection::FormRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{
    live::Console,
    shell::{NAME_COOKIE, Shell, SignInPage, page},
    words,
};
use crate::http::{CONSOLE, Code, Peer, Problem, SIGN_IN, Surface, sessions};

/// How long a name is remembered, in seconds.
const NAME_KEPT: u32 = 90 * 86_400;

pub(super) async fn ask(State(console): State<Arc<Console>>) -> Result<Response, Problem> {
    if !console.app.gateway.config.asks_operators_for_token() {
        return Ok(Redirect::to(CONSOLE).into_response());
    }
    page(&SignInPage { shell: Shell::bare("Sign in"), to: String::new(), refused: None })
}

#[derive(Deserialize)]
pub(super) struct SignInForm {
    token: String,
    to: Option<String>,
}

/// Begins a session, if the token is one. What the browser had before ends.
pub(super) async fn sign_in(
    State(console): State<Arc<Console>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    form: Result<Form<SignInForm>, FormRejection>,
) -> Result<Response, Problem> {
    let app = &console.app;
    app.sign_ins.attempt_from(peer.address)?;
    let unread = |_| Problem::new(Code::Unauthorized, "the token could not be read");
    let Form(form) = form.map_err(unread)?;
    let to = Redirect::to(inside(form.to.as_deref()));
    if !app.gateway.config.asks_operators_for_token() {
        return Ok(to.into_response());
    }
    let signed_in = sessions::sign_in(app, &headers, form.token.trim(), peer).await;
    app.security_log.signed_in(signed_in.as_ref().map(|(operator, _)| operator), peer);
    let (_, id) = signed_in?;
    let cookie = kept(sessions::cookie_name(peer.is_https), &id.text(), None, peer)?;
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), to).into_response())
}

/// Ends the session, and has the browser forget it.
pub(super) async fn sign_out(
    State(console): State<Arc<Console>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if let Some(operator) = sessions::sign_out(&console.app, &headers, peer).await? {
        console.app.security_log.signed_out(&operator, peer);
    }
    let forgotten = [true, false].map(sessions::cookie_name);
    let forgotten = forgotten.map(|name| kept(name, "", Some(0), peer));
    let [host, plain] = forgotten.map(|cookie| cookie.map(|cookie| (header::SET_COOKIE, cookie)));
    let to = format!("{SIGN_IN}?done=sign-out");
    Ok((AppendHeaders([host?, plain?]), Redirect::to(&to)).into_response())
}

/// A cookie that remembers a name.
pub(super) fn name_cookie(name: &str, peer: Peer) -> Result<HeaderValue, Problem> {
    kept(NAME_COOKIE, &words::encoded(name), Some(NAME_KEPT), peer)
}

/// A cookie for the console only; without a time it ends with the browser.
fn kept(name: &str, value: &str, seconds: Option<u32>, peer: Peer) -> Result<HeaderValue, Problem> {
    let secure = if peer.is_https { "; Secure" } else { "" };
    let age = seconds.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
    // A name with this prefix is taken by browsers for the whole host only, and over TLS only.
    let path = if name.starts_with("__Host-") { "/" } else { "/console" };
    let text = format!("{name}={value}; Path={path}; HttpOnly; SameSite=Strict{age}{secure}");
    HeaderValue::from_str(&text)
        .map_err(|_| Problem::new(Code::Internal, "a cookie could not be written"))
}

/// Where to go after signing in: a page of ours, wherever the form points.
fn inside(to: Option<&str>) -> &str {
    to.filter(|to| Surface::of(to.split('?').next().unwrap_or_default()).is_console())
        .filter(|to| to.bytes().all(|byte| byte.is_ascii_graphic()) && !to.contains('\\'))
        .unwrap_or(CONSOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_our_own_pages_only() {
        for (to, lands) in [
            ("/console/stuck?partition=3", "/console/stuck?partition=3"),
            ("https://example.org/console", "/console"),
            ("//example.org/console", "/console"),
            ("/consoles", "/console"),
            ("/console/\nSet-Cookie: x", "/console"),
        ] {
            assert_eq!(inside(Some(to)), lands, "{to}");
        }
    }
}

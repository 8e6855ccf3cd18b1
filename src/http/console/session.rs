//! Signing in and out: a token, shown once, is kept in a cookie that no script
//! and no other site can use. Remembers the name of whoever has no token of
//! their own. Never logs a token.

use axum::{
    Form,
    extract::{State, rejection::FormRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{
    super::{
        App, access,
        problem::{Code, Problem},
    },
    TOKEN_COOKIE, page,
    shell::{Shell, SignInPage},
    words,
};

/// Holds the name of whoever made the last change here.
const NAME_COOKIE: &str = "paystream_name";
/// How long a name is remembered, in seconds.
const NAME_KEPT: u32 = 90 * 86_400;

/// The value of a cookie.
pub(in crate::http) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';'));
    pairs.find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

/// The name that was given with the last change.
pub(super) fn remembered(headers: &HeaderMap) -> String {
    let name = cookie(headers, NAME_COOKIE).unwrap_or_default();
    percent_decode_str(name).decode_utf8().map(String::from).unwrap_or_default()
}

/// The page that asks for a token.
pub(super) async fn ask(State(app): State<App>) -> Result<Response, Problem> {
    if !access::asks_for_token(&app.gateway.config) {
        return Ok(Redirect::to("/console").into_response());
    }
    page(&SignInPage { shell: Shell::bare("Sign in"), to: String::new(), refused: false })
}

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct SignInForm {
    token: String,
    to: Option<String>,
}

/// Keeps the token in a cookie, if it is one.
pub(super) async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    form: Result<Form<SignInForm>, FormRejection>,
) -> Result<Response, Problem> {
    let refused = || Problem::new(Code::Unauthorized, "this token opens nothing");
    let Form(form) = form.map_err(|_| refused())?;
    let token = form.token.trim();
    access::operator(&app.gateway.config, Some(token)).ok_or_else(refused)?;
    let cookie = kept(TOKEN_COOKIE, &words::encoded(token), None, &headers)?;
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), Redirect::to(inside(form.to.as_deref())))
        .into_response())
}

/// Forgets the token.
pub(super) async fn sign_out(headers: HeaderMap) -> Result<Response, Problem> {
    let cookie = kept(TOKEN_COOKIE, "", Some(0), &headers)?;
    let to = format!("{}?done=sign-out", super::SIGN_IN);
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), Redirect::to(&to)).into_response())
}

/// A cookie that remembers a name.
pub(super) fn name_cookie(name: &str, headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    kept(NAME_COOKIE, &words::encoded(name), Some(NAME_KEPT), headers)
}

/// A cookie for the console only; without a time it ends with the browser.
fn kept(
    name: &str,
    value: &str,
    seconds: Option<u32>,
    headers: &HeaderMap,
) -> Result<HeaderValue, Problem> {
    let https = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if https { "; Secure" } else { "" };
    let age = seconds.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
    let text = format!("{name}={value}; Path=/console; HttpOnly; SameSite=Strict{age}{secure}");
    HeaderValue::from_str(&text)
        .map_err(|_| Problem::new(Code::Internal, "a cookie could not be written"))
}

/// Where to go after signing in: a page of ours, wherever the form points.
fn inside(to: Option<&str>) -> &str {
    to.filter(|to| super::has(to.split('?').next().unwrap_or_default()))
        .filter(|to| to.bytes().all(|byte| byte.is_ascii_graphic()) && !to.contains('\\'))
        .unwrap_or("/console")
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

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=1; paystream_console=x%3By; b=2".parse().unwrap());
        assert_eq!(cookie(&headers, TOKEN_COOKIE), Some("x%3By"));
        assert_eq!(cookie(&headers, "console"), None);
    }
}

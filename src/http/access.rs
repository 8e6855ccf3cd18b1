//! Who may do what: which paths are open, and whose token a request shows. Where no
//! token guards a path, only names of this machine are answered. The console takes a
//! session instead of a token too, and its forms from its own pages only. Never logs a
//! token, and compares them in constant time.

use axum::http::{HeaderMap, Method, Uri, header};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::{
    operator::Principal,
    peer::Peer,
    problem::{Code, Problem},
    state::Gateway,
    surface::{CONSOLE, Door, PAYMENTS, Surface},
};
use crate::{
    callers::{Caller, Credential, Scope, Scopes, SessionId, SignedParts, SourceRules, Tokens},
    config::{GatewayConfig, is_this_machine},
    domain::Source,
    ledger::SessionRow,
};

/// Headers of a signed request.
const SIGNED: [&str; 2] = ["signature-input", "signature"];
/// A request before its body.
pub(super) struct Head<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) has_body: bool,
    /// Where it is from.
    pub(super) peer: Option<Peer>,
    /// Whose session its cookie names, where the console is asked for.
    pub(super) session: Option<Principal>,
}

/// Who the request is from, if it may pass.
pub(super) fn admit(
    gateway: &Gateway,
    surface: Surface,
    head: &Head<'_>,
) -> Result<Principal, Problem> {
    let caller = identify(gateway, surface, head)?;
    match surface.scope(head.method, head.uri.path()) {
        Some(scope) if !caller.may(scope) => {
            let detail = format!("{} lacks the scope {scope}", caller.describes());
            Err(Problem::new(Code::InsufficientScope, detail))
        }
        _ => Ok(caller),
    }
}

fn identify(gateway: &Gateway, surface: Surface, head: &Head<'_>) -> Result<Principal, Problem> {
    let headers = head.headers;
    // A signature is ignored beside a token only: it may be of somebody with a source of its own.
    let is_signed = SIGNED.iter().any(|name| headers.contains_key(*name));
    let shows_token = bearer(headers).is_some() && gateway.config.asks_for_token();
    if surface == Surface::Api && is_signed && !shows_token {
        return signer(gateway, head);
    }
    let token = match surface {
        Surface::Open | Surface::Docs | Surface::Doorstep | Surface::Webhooks => {
            return Ok(Principal::default());
        }
        Surface::Api | Surface::Admin | Surface::Console | Surface::Live => bearer(headers),
    };
    if let Some(session) = &head.session {
        return Ok(session.clone());
    }
    let config = &gateway.config;
    let shows = |wanted: &SecretString| token.is_some_and(|token| is_same(wanted, token));
    let known = match surface == Surface::Api {
        true => may_call(config, shows).then(Principal::default),
        false => operator(config, shows),
    };
    if let Some(known) = known {
        return Ok(known);
    }
    if let Some((tokens, token)) = access_token(gateway, token) {
        return caller(gateway, tokens, token, head.peer).map(Principal::from);
    }
    Err(unauthorized(advice(config, surface)))
}

/// Whose signature the request has.
fn signer(gateway: &Gateway, head: &Head<'_>) -> Result<Principal, Problem> {
    let Head { method, uri, headers, has_body, .. } = *head;
    let lines = |name: &str| {
        let values: Option<Vec<&str>> =
            headers.get_all(name).iter().map(|value| Some(value.to_str().ok()?.trim())).collect();
        values.filter(|values| !values.is_empty()).map(|values| values.join(", "))
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none());
    let host = host.and_then(|host| host.to_str().ok());
    let request = SignedParts {
        method: method.as_str(),
        authority: uri.authority().map(|one| one.as_str()).or(host).unwrap_or_default(),
        hosts: &gateway.config.public_hosts,
        path: uri.path(),
        query: uri.query(),
        header: &lines,
        has_body,
    };
    let (rules, signature) = gateway
        .sources
        .check(&request, (gateway.clock)())
        .map_err(|refused| Problem::new(Code::BadSignature, refused.to_string()))?;
    Ok(Principal::of_signature(&rules, signature))
}

/// Whether whoever acts for this source may do so from there.
pub(super) fn admit_from(rules: Option<&SourceRules>, peer: Option<Peer>) -> Result<(), Problem> {
    let admits = |rules: &SourceRules| peer.is_some_and(|peer| rules.admits(peer.address));
    if rules.is_none_or(admits) {
        return Ok(());
    }
    let from = peer.map_or_else(|| "nowhere".to_owned(), |peer| peer.address.to_string());
    let source = rules.map_or_else(String::new, |rules| rules.source.as_str().to_owned());
    let detail =
        format!("{from} is in none of the networks that the settings of the source {source} name");
    Err(Problem::new(Code::AddressNotAllowed, detail))
}

/// Whoever signs in to the console, and what the session stands on.
pub(super) struct SignedIn {
    pub(super) principal: Principal,
    pub(super) seal: [u8; 32],
    /// Of an access token.
    pub(super) credential: Option<Credential>,
}

/// Whose token this is, at the console's sign-in, and the seal of the session that begins.
pub(super) fn sign_in(
    gateway: &Gateway,
    id: &SessionId,
    token: &str,
    peer: Peer,
) -> Result<SignedIn, Problem> {
    if let Some(principal) = operator(&gateway.config, |wanted| is_same(wanted, token)) {
        return Ok(SignedIn { principal, seal: id.seal(token.as_bytes()), credential: None });
    }
    let (tokens, token) = access_token(gateway, Some(token)).ok_or_else(|| {
        unauthorized("token not recognised; tokens of operators are in the gateway's settings")
    })?;
    let now = (gateway.clock)();
    let shown = peer.certificate.as_ref();
    let (caller, credential) = tokens.identify(token, shown, now).map_err(unauthorized)?;
    let caller = unlike_operators(&gateway.config, caller)?;
    if !caller.scopes.has(Scope::OperationsRead) {
        return Err(unauthorized("the token lacks the scope operations:read"));
    }
    // Requests have a moment longer, for clocks that differ.
    let bound_to = shown.filter(|_| credential.is_bound);
    let ground = tokens.ground(&credential.kid, bound_to).filter(|_| now < credential.expires_at);
    let ground = ground.ok_or_else(|| unauthorized("the token expires now; take another"))?;
    Ok(SignedIn { principal: caller.into(), seal: id.seal(&ground), credential: Some(credential) })
}

/// Who has this session, if what it stands on still opens the console: the same token in the
/// settings, or the same key in the key set, and the certificate of a token that is bound to one.
pub(super) fn holder(
    gateway: &Gateway,
    id: &SessionId,
    row: &SessionRow,
    peer: Option<Peer>,
) -> Option<Principal> {
    let is_sealed = |secret: &[u8]| bool::from(id.seal(secret)[..].ct_eq(&row.seal));
    let Some(kid) = &row.kid else {
        let wanted = |token: &SecretString| is_sealed(token.expose_secret().as_bytes());
        return operator(&gateway.config, wanted);
    };
    let tokens = gateway.tokens.as_ref()?;
    let shown = peer.and_then(|peer| peer.certificate);
    let mut grounds = [tokens.ground(kid, None)?, tokens.ground(kid, shown.as_ref())?].into_iter();
    let caller = Caller {
        name: row.operator.as_str().into(),
        source: Source::parse(&row.source).ok()?,
        scopes: Scopes::parse(row.scopes.as_deref()?),
    };
    let is_good = grounds.any(|ground| is_sealed(&ground));
    is_good.then_some(unlike_operators(&gateway.config, caller).ok()?.into())
}

/// A token that must be an access token: a static one has not three parts.
fn access_token<'a>(gateway: &'a Gateway, token: Option<&'a str>) -> Option<(&'a Tokens, &'a str)> {
    let tokens = gateway.tokens.as_deref()?;
    let token = token.filter(|token| token.bytes().filter(|byte| *byte == b'.').count() == 2)?;
    Some((tokens, token))
}

/// Whose access token this is.
fn caller(
    gateway: &Gateway,
    tokens: &Tokens,
    token: &str,
    peer: Option<Peer>,
) -> Result<Caller, Problem> {
    let shown = peer.and_then(|peer| peer.certificate);
    let caller = tokens.check(token, shown.as_ref(), (gateway.clock)()).map_err(unauthorized)?;
    unlike_operators(&gateway.config, caller)
}

/// The audit log must not take one for another.
fn unlike_operators(config: &GatewayConfig, caller: Caller) -> Result<Caller, Problem> {
    match config.operators.iter().any(|operator| *operator.name == *caller.name) {
        true => {
            Err(unauthorized("the token's `sub` is the name of an operator with a static token"))
        }
        false => Ok(caller),
    }
}

fn unauthorized(why: impl ToString) -> Problem {
    Problem::new(Code::Unauthorized, why.to_string())
}

/// Whether the request was sent to us: where no token guards a surface, a page from
/// elsewhere may have made its own name lead here.
pub(super) fn is_meant_for_us(
    config: &GatewayConfig,
    door: Door,
    surface: Surface,
    uri: &Uri,
    headers: &HeaderMap,
) -> bool {
    let guarded = match surface {
        // A signature says more than a name.
        Surface::Webhooks => true,
        Surface::Open | Surface::Docs | Surface::Api if door.has_payments() => {
            config.asks_for_token()
        }
        Surface::Open
        | Surface::Docs
        | Surface::Api
        | Surface::Admin
        | Surface::Console
        | Surface::Doorstep
        | Surface::Live => config.asks_operators_for_token(),
    };
    guarded || is_of_this_machine(uri, headers)
}

/// Whether it may be told more than whether all is well.
pub(super) fn may_see_details(gateway: &Gateway, headers: &HeaderMap, peer: Option<Peer>) -> bool {
    [PAYMENTS, CONSOLE].iter().any(|path| may_get(gateway, path, headers, peer, None))
}

/// Whether it may see what is at this path.
pub(super) fn may_get(
    gateway: &Gateway,
    path: &'static str,
    headers: &HeaderMap,
    peer: Option<Peer>,
    session: Option<Principal>,
) -> bool {
    let (method, uri) = (&Method::GET, &Uri::from_static(path));
    let head = Head { method, uri, headers, has_body: false, peer, session };
    admit(gateway, Surface::of(path), &head).is_ok()
}

/// What to do about a request that shows no token that opens this.
fn advice(config: &GatewayConfig, surface: Surface) -> &'static str {
    let has_no_operator = config.operators.is_empty() && config.jwt_keys_file.is_none();
    if surface != Surface::Api && has_no_operator && !config.operators_bind().ip().is_loopback() {
        return "no operator has a token: set PAYSTREAM_OPERATOR_TOKENS; the API's token opens \
                this only on loopback";
    }
    "send the header Authorization: Bearer <token>"
}

/// Whether the static token that is shown, or its absence, opens the API.
fn may_call(config: &GatewayConfig, shows: impl Fn(&SecretString) -> bool) -> bool {
    config.api_token.as_ref().map_or(config.jwt_keys_file.is_none(), shows)
}

/// The operator whom the static token that is shown, or its absence, stands for.
fn operator(config: &GatewayConfig, shows: impl Fn(&SecretString) -> bool) -> Option<Principal> {
    if !config.operators.is_empty() {
        // All of them are compared, whichever it is.
        let found = config
            .operators
            .iter()
            .fold(None, |found, one| if shows(&one.token) { Some(one) } else { found });
        return found.map(|one| Principal::named(&one.name));
    }
    // Whoever has scopes gives operators theirs, and a client that pays must not act as one.
    let is_reachable = !config.operators_bind().ip().is_loopback();
    if config.jwt_keys_file.is_some() || is_reachable && config.asks_for_token() {
        return None;
    }
    may_call(config, shows).then(Principal::default)
}

fn is_same(wanted: &SecretString, given: &str) -> bool {
    given.as_bytes().ct_eq(wanted.expose_secret().as_bytes()).into()
}

pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';'));
    pairs.find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then_some(value)
    })
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, header::AUTHORIZATION.as_str())?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the request was sent to names of this machine only: one Host, and where
/// the request line has one too, that.
fn is_of_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    host.to_str().is_ok_and(is_our_name)
        && uri.authority().is_none_or(|authority| is_our_name(authority.as_str()))
}

/// Whether this is a name of this machine, with or without a port.
fn is_our_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    is_this_machine(name)
}

/// Whether a form comes from a page of ours. Looking needs no proof.
pub(super) fn is_of_our_pages(method: &Method, headers: &HeaderMap) -> bool {
    if method == Method::GET || method == Method::HEAD {
        return true;
    }
    if let Some(site) = text(headers, "sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let origin = text(headers, header::ORIGIN.as_str());
    let origin = origin.and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == text(headers, header::HOST.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for (host, ours) in [
            ("127.0.0.1:8081", true),
            ("localhost", true),
            ("[::1]:8081", true),
            ("127.0.0.2", true),
            ("LOCALHOST:1", true),
            ("[::1]", true),
            ("10.0.0.1:8081", false),
            ("", false),
            ("example.org:8081", false),
            ("localhost.example.org", false),
            ("127.0.0.1.evil.example:8081", false),
            ("evil.example@127.0.0.1", false),
            ("127.0.0.1:8081:80", false),
            ("127.0.0.1, evil.example", false),
            ("[::2]:8081", false),
            ("[::ffff:10.0.0.1]", false),
            ("0.0.0.0:8081", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            let of_this_machine =
                |uri: &str, headers: &HeaderMap| is_of_this_machine(&uri.parse().unwrap(), headers);
            assert_eq!(of_this_machine("/x", &headers), ours, "{host}");
            assert!(!of_this_machine("http://evil.example/x", &headers), "{host}");
            assert_eq!(of_this_machine("http://localhost:8081/x", &headers), ours, "{host}");
            headers.append(header::HOST, "localhost".parse().unwrap());
            assert!(!of_this_machine("/x", &headers), "{host} and another");
        }
        assert!(!is_of_this_machine(&Uri::from_static("/x"), &HeaderMap::new()));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "a=1; paystream_console=x%3By; b=2".parse().unwrap());
        assert_eq!(cookie(&headers, "paystream_console"), Some("x%3By"));
        assert_eq!(cookie(&headers, "console"), None);
    }
}

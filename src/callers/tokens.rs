//! Checks bearer tokens: signature, issuer, audience, times and claims, as RFC 9068 has them.
//! A token that was taken is remembered until it expires or the keys change, so that a payment
//! does not pay for its signature. Never lets a token choose how it is checked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;
use tracing::info;

use super::{KeySet, Scope, Scopes, signing_key::ACCESS_TOKEN};
use crate::domain::{Source, is_plain};

/// How far the clock of whoever makes tokens may be from ours.
const SKEW_MAX: Duration = Duration::from_secs(30);
const TOKEN_BYTES_MAX: usize = 8 * 1024;
const NAME_CHARACTERS_MAX: usize = 64;
const REMEMBERED_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's subject.
    pub name: Arc<str>,
    /// Whose payments it sends and sees.
    pub source: Source,
    pub scopes: Scopes,
}

/// What a session of the console notes of the token that it began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub kid: String,
    pub jti: String,
    pub expires_at: DateTime<Utc>,
}

#[derive(Clone, Debug)]
pub struct TokenRules {
    pub issuer: String,
    pub audience: String,
    /// From when it was issued until it expires.
    pub lifetime_max: Duration,
}

/// Scopes of callers that act for a source: a statement has the payments of one, too.
const OF_A_SOURCE: [Scope; 3] = [Scope::PaymentsWrite, Scope::PaymentsRead, Scope::CustomersRead];

/// What [`is_name`] asks for, in words.
pub const NAME: &str = "1 to 64 visible characters";

/// Whether a caller may be called so: the audit log has this name.
pub fn is_name(text: &str) -> bool {
    let length = text.chars().count();
    (1..=NAME_CHARACTERS_MAX).contains(&length) && is_plain(text) && text.trim() == text
}

/// Why a token is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the token is longer than 8 KiB")]
    TooLong,
    #[error("the token is not a signed JWT")]
    Malformed,
    #[error("the token's `typ` is not at+jwt: it is no access token")]
    NotForAccess,
    #[error("the token demands extensions (`crit`), and none is supported")]
    Extended,
    #[error("the token names no key (`kid`)")]
    NoKey,
    #[error("the token's key (`kid`) is not one of ours, or not any more")]
    UnknownKey,
    #[error("the token's `alg` is not that of its key")]
    OtherAlgorithm,
    #[error("the token's signature is not that of its key")]
    BadSignature,
    #[error("the token is from another issuer")]
    OtherIssuer,
    #[error("the token is for another audience")]
    OtherAudience,
    #[error("a claim of the token is missing or wrong: {0}")]
    Claims(String),
    #[error("the token expired at {0}")]
    Expired(DateTime<Utc>),
    #[error("the token is not valid before {0}")]
    Early(DateTime<Utc>),
    #[error("the token is valid for {0} s, more than the {1} s that are allowed")]
    Lasting(i64, u64),
    #[error("the token's `sub` must be {NAME}")]
    Name,
    #[error("the token has no `source`, which its scopes need")]
    NoSource,
    #[error("the token's `source` {0}")]
    Source(&'static str),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: i64,
    exp: i64,
    nbf: Option<i64>,
    source: Option<String>,
    #[serde(default)]
    scope: String,
    // RFC 9068 demands it.
    #[serde(rename = "client_id")]
    _client_id: String,
    jti: String,
}

struct Remembered {
    caller: Caller,
    expires_at: i64,
}

#[derive(Default)]
struct State {
    keys: Arc<KeySet>,
    remembered: HashMap<String, Remembered>,
}

pub struct Tokens {
    rules: TokenRules,
    state: Mutex<State>,
}

impl Tokens {
    pub fn new(rules: TokenRules, keys: KeySet) -> Self {
        let state = State { keys: Arc::new(keys), ..State::default() };
        Self { rules, state: Mutex::new(state) }
    }

    /// From now on. Tokens of keys that are gone are not taken any more.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with this key set. Nothing has changed.
    pub fn replace(&self, keys: &str) -> Result<(), String> {
        let keys = KeySet::parse(keys)?;
        info!(kids = ?keys.kids(), ignored = keys.ignored(), "using the key set");
        *self.state() = State { keys: Arc::new(keys), ..State::default() };
        Ok(())
    }

    pub fn check(&self, token: &str, now: DateTime<Utc>) -> Result<Caller, Refused> {
        let (keys, remembered) = {
            let state = self.state();
            let known = state.remembered.get(token);
            let known = known.map(|known| (known.caller.clone(), known.expires_at));
            (Arc::clone(&state.keys), known)
        };
        if let Some((caller, expires_at)) = remembered {
            return if is_over(expires_at, now) { Err(expired(expires_at)) } else { Ok(caller) };
        }
        let (caller, Credential { expires_at, .. }) = self.read(&keys, token, now)?;
        let taken = Remembered { caller: caller.clone(), expires_at: expires_at.timestamp() };
        self.remember(&keys, token, taken, now);
        Ok(caller)
    }

    /// Whose token this is, and what a session that begins with it stands on.
    pub fn identify(
        &self,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(Caller, Credential), Refused> {
        let keys = Arc::clone(&self.state().keys);
        self.read(&keys, token, now)
    }

    /// What tokens of this key are checked with: it changes with the key and with who makes tokens
    /// for whom. None where the key is not one of ours, or not any more.
    pub fn ground(&self, kid: &str) -> Option<Vec<u8>> {
        let key = self.state().keys.bytes(kid)?;
        let TokenRules { issuer, audience, .. } = &self.rules;
        Some([&key[..], issuer.as_bytes(), b"\0", audience.as_bytes()].concat())
    }

    fn read(
        &self,
        keys: &KeySet,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(Caller, Credential), Refused> {
        let (kid, claims) = self.verify(keys, token)?;
        let Claims { sub, iat, exp, nbf, source, scope, jti, .. } = claims;
        if is_over(exp, now) {
            return Err(expired(exp));
        }
        let begins = nbf.map_or(iat, |nbf| nbf.max(iat));
        if begins > now.timestamp().saturating_add(seconds(SKEW_MAX)) {
            return Err(Refused::Early(moment(begins)));
        }
        let lasts = exp.saturating_sub(iat);
        if lasts > seconds(self.rules.lifetime_max) {
            return Err(Refused::Lasting(lasts, self.rules.lifetime_max.as_secs()));
        }
        if !is_name(&sub) {
            return Err(Refused::Name);
        }
        let scopes = Scopes::parse(&scope);
        let source = match source {
            Some(source) => Source::parse(&source).map_err(|bad| Refused::Source(bad.reason))?,
            None if OF_A_SOURCE.iter().any(|scope| scopes.has(*scope)) => {
                return Err(Refused::NoSource);
            }
            None => Source::default(),
        };
        let caller = Caller { name: sub.into(), source, scopes };
        Ok((caller, Credential { kid, jti, expires_at: moment(exp) }))
    }

    /// The claims of a token, and the key that it is signed with.
    fn verify(&self, keys: &KeySet, token: &str) -> Result<(String, Claims), Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let header = decode_header(token).map_err(|_| Refused::Malformed)?;
        let is_for_access = header.typ.is_some_and(|typ| {
            let typ = typ.to_ascii_lowercase();
            typ.strip_prefix("application/").unwrap_or(&typ) == ACCESS_TOKEN
        });
        if !is_for_access {
            return Err(Refused::NotForAccess);
        }
        if header.crit.is_some() {
            return Err(Refused::Extended);
        }
        let kid = header.kid.ok_or(Refused::NoKey)?;
        let key = keys.find(&kid).ok_or(Refused::UnknownKey)?;
        if header.alg != key.algorithm {
            return Err(Refused::OtherAlgorithm);
        }
        let decoded = decode::<Claims>(token, &key.key, &self.validation(key.algorithm));
        decoded.map(|token| (kid, token.claims)).map_err(refusal)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        // By our own clock, which is an argument.
        validation.validate_exp = false;
        validation
    }

    fn remember(&self, keys: &Arc<KeySet>, token: &str, taken: Remembered, now: DateTime<Utc>) {
        let mut state = self.state();
        // The keys may have changed since.
        if !Arc::ptr_eq(&state.keys, keys) {
            return;
        }
        if state.remembered.len() >= REMEMBERED_MAX {
            state.remembered.retain(|_, one| !is_over(one.expires_at, now));
        }
        if state.remembered.len() >= REMEMBERED_MAX {
            state.remembered.clear();
        }
        state.remembered.insert(token.to_owned(), taken);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what else there is to say helps nobody")]
fn refusal(error: jsonwebtoken::errors::Error) -> Refused {
    match error.into_kind() {
        ErrorKind::InvalidSignature => Refused::BadSignature,
        ErrorKind::InvalidIssuer => Refused::OtherIssuer,
        ErrorKind::InvalidAudience => Refused::OtherAudience,
        ErrorKind::MissingRequiredClaim(claim) => Refused::Claims(format!("no `{claim}`")),
        ErrorKind::Json(error) => Refused::Claims(error.to_string()),
        _ => Refused::Malformed,
    }
}

fn is_over(expires_at: i64, now: DateTime<Utc>) -> bool {
    expires_at.saturating_add(seconds(SKEW_MAX)) <= now.timestamp()
}

fn expired(at: i64) -> Refused {
    Refused::Expired(moment(at))
}

fn moment(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::callers::{Grant, Scope, SigningKey};

    fn tokens(key: &SigningKey) -> Tokens {
        let rules = TokenRules {
            issuer: "https://issuer".to_owned(),
            audience: "paystream".to_owned(),
            lifetime_max: Duration::from_secs(3600),
        };
        Tokens::new(rules, KeySet::parse(&text(&[key])).unwrap())
    }

    fn text(keys: &[&SigningKey]) -> String {
        let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
        json!({ "keys": keys }).to_string()
    }

    const NOW: i64 = 1_790_000_000;
    const GRANT: Grant<'_> = Grant {
        iss: "https://issuer",
        aud: "paystream",
        sub: "bank-a",
        client_id: "bank-a",
        source: "bank-a",
        scope: "payments:write",
        iat: NOW,
        exp: NOW + 600,
        jti: "1",
    };

    fn but_exp(exp: serde_json::Value) -> serde_json::Value {
        let mut claims = json!(GRANT);
        claims["exp"] = exp;
        claims
    }

    #[test]
    fn a_token_is_taken_from_when_it_is_issued_until_it_expires() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let token = key.mint(&GRANT).unwrap();
        assert_eq!(tokens.check(&token, moment(NOW - 31)), Err(Refused::Early(moment(NOW))));
        // Then from what is remembered.
        for at in [NOW - 30, NOW, NOW + 629] {
            let caller = tokens.check(&token, moment(at)).unwrap();
            assert_eq!((&*caller.name, caller.source.as_str()), ("bank-a", "bank-a"));
            assert!(caller.scopes.has(Scope::PaymentsWrite));
        }
        let late = tokens.check(&token, moment(NOW + 630));
        assert_eq!(late, Err(Refused::Expired(moment(NOW + 600))));
    }

    #[test]
    fn a_token_of_a_key_that_is_gone_is_not_taken_any_more() {
        let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let tokens = tokens(&old);
        let (of_old, of_new) = (old.mint(&GRANT).unwrap(), new.mint(&GRANT).unwrap());
        let check = |token: &str| tokens.check(token, moment(NOW)).map(drop);
        assert_eq!((check(&of_old), check(&of_new)), (Ok(()), Err(Refused::UnknownKey)));
        tokens.replace(&text(&[&old, &new])).unwrap();
        assert_eq!((check(&of_old), check(&of_new)), (Ok(()), Ok(())));
        tokens.replace(&text(&[&new])).unwrap();
        assert!(tokens.replace("{}").is_err());
        assert_eq!((check(&of_old), check(&of_new)), (Err(Refused::UnknownKey), Ok(())));
    }

    #[test]
    fn what_a_session_stands_on_changes_with_the_key_and_with_who_makes_tokens() {
        let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let tokens = tokens(&old);
        let (_, credential) = tokens.identify(&old.mint(&GRANT).unwrap(), moment(NOW)).unwrap();
        assert_eq!((&*credential.jti, credential.expires_at), ("1", moment(NOW + 600)));
        let before = tokens.ground(&credential.kid).unwrap();
        // Another key under the same name.
        let mut other = json!(new.public());
        other["kid"] = credential.kid.as_str().into();
        tokens.replace(&json!({ "keys": [other] }).to_string()).unwrap();
        assert_ne!(tokens.ground(&credential.kid).unwrap(), before);
        tokens.replace(&text(&[&new])).unwrap();
        assert_eq!(tokens.ground(&credential.kid), None);
    }

    #[test]
    fn what_is_not_as_it_must_be_is_refused_and_said() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let too_long = "x".repeat(NAME_CHARACTERS_MAX + 1);
        for (grant, refusal) in [
            (Grant { iss: "https://other", ..GRANT }, Refused::OtherIssuer),
            (Grant { aud: "other", ..GRANT }, Refused::OtherAudience),
            (Grant { exp: NOW + 3601, ..GRANT }, Refused::Lasting(3601, 3600)),
            (Grant { sub: "", ..GRANT }, Refused::Name),
            (Grant { sub: "a\nb", ..GRANT }, Refused::Name),
            (Grant { sub: &too_long, ..GRANT }, Refused::Name),
            (Grant { source: "", ..GRANT }, Refused::Source("must not be empty")),
        ] {
            let token = key.mint(&grant).unwrap();
            assert_eq!(tokens.check(&token, moment(NOW)), Err(refusal));
        }
        for claim in ["iss", "aud", "sub", "client_id", "iat", "exp", "jti"] {
            let mut claims = json!(GRANT);
            claims.as_object_mut().unwrap().remove(claim);
            let token = key.mint(&claims).unwrap();
            let refused = tokens.check(&token, moment(NOW)).unwrap_err();
            assert!(matches!(&refused, Refused::Claims(what) if what.contains(claim)), "{refused}");
        }
        let mut claims = json!(GRANT);
        claims.as_object_mut().unwrap().remove("source");
        let check = |claims: &serde_json::Value| {
            let checked = tokens.check(&key.mint(claims).unwrap(), moment(NOW));
            checked.map(|caller| caller.source)
        };
        assert_eq!(check(&claims), Err(Refused::NoSource));
        claims["scope"] = "customers:read".into();
        assert_eq!(check(&claims), Err(Refused::NoSource));
        claims["scope"] = "customers:write operations:write".into();
        assert_eq!(check(&claims), Ok(Source::default()));
        let never = key.mint(&but_exp(json!(i64::MAX))).unwrap();
        assert!(matches!(tokens.check(&never, moment(NOW)), Err(Refused::Lasting(..))));
        let text = key.mint(&but_exp(json!("never"))).unwrap();
        assert!(matches!(tokens.check(&text, moment(NOW)), Err(Refused::Claims(_))));
        assert_eq!(tokens.check("a.b.c", moment(NOW)), Err(Refused::Malformed));
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(tokens.check(&long, moment(NOW)), Err(Refused::TooLong));
    }

    #[test]
    fn no_more_tokens_are_remembered_than_there_is_room_for() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let keys = Arc::clone(&tokens.state().keys);
        let caller =
            Caller { name: "a".into(), source: Source::default(), scopes: Scopes::default() };
        for number in 0..=REMEMBERED_MAX {
            let taken = Remembered { caller: caller.clone(), expires_at: NOW + 1 };
            tokens.remember(&keys, &number.to_string(), taken, moment(NOW));
            assert!(tokens.state().remembered.len() <= REMEMBERED_MAX);
        }
    }
}

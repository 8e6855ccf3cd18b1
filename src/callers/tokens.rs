//! Checks bearer tokens: signature, issuer, audience, times and claims, as RFC 9068 has them.
//! A token that was taken is remembered until it expires or the keys change, so that a payment
//! does not pay for its signature. Never lets a token choose how it is checked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Validation, decode};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Number;
use tracing::info;

use super::{
    Confirmation, KeySet, Refused, Scope, Scopes, Thumbprint, is_name, signing_key::ACCESS_TOKEN,
};
use crate::domain::Source;

/// How far the clock of whoever makes tokens may be from ours.
const SKEW_MAX: Duration = Duration::from_secs(30);
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
    /// To the client's certificate.
    pub is_bound: bool,
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

#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: Number,
    exp: Number,
    nbf: Option<Number>,
    cnf: Option<Confirmation>,
    source: Option<String>,
    #[serde(default)]
    scope: String,
    // RFC 9068 demands it.
    #[serde(rename = "client_id")]
    _client_id: String,
    jti: String,
}

#[derive(Clone)]
struct Remembered {
    caller: Caller,
    bound_to: Option<Confirmation>,
    expires_at: i64,
}

impl Remembered {
    /// The caller, if the token may be shown on a connection with this certificate.
    fn shown_with(self, certificate: Option<&Thumbprint>) -> Result<Caller, Refused> {
        match (self.bound_to, certificate) {
            (None, _) => Ok(self.caller),
            (Some(_), None) => Err(Refused::NoCertificate),
            (Some(bound_to), Some(shown)) => match bound_to.is_of(shown) {
                true => Ok(self.caller),
                false => Err(Refused::OtherCertificate),
            },
        }
    }
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

    /// Whose token this is. `certificate` is the one that the client has shown on this connection.
    pub fn check(
        &self,
        token: &str,
        certificate: Option<&Thumbprint>,
        now: DateTime<Utc>,
    ) -> Result<Caller, Refused> {
        // A token that is remembered may come over any connection.
        self.taken(token, now)?.shown_with(certificate)
    }

    fn taken(&self, token: &str, now: DateTime<Utc>) -> Result<Remembered, Refused> {
        let state = self.state();
        let (keys, remembered) = (Arc::clone(&state.keys), state.remembered.get(token).cloned());
        drop(state);
        if let Some(known) = remembered {
            let is_over = is_over(known.expires_at, now);
            return if is_over { Err(expired(known.expires_at)) } else { Ok(known) };
        }
        let (taken, _) = self.read(&keys, token, now)?;
        self.remember(&keys, token, taken.clone(), now);
        Ok(taken)
    }

    /// Whose token this is, and what a session that begins with it stands on.
    pub fn identify(
        &self,
        token: &str,
        certificate: Option<&Thumbprint>,
        now: DateTime<Utc>,
    ) -> Result<(Caller, Credential), Refused> {
        let keys = Arc::clone(&self.state().keys);
        let (taken, credential) = self.read(&keys, token, now)?;
        Ok((taken.shown_with(certificate)?, credential))
    }

    /// What tokens of this key are checked with, and the certificate that one is bound to: it
    /// changes with the key and with who makes tokens for whom. None where the key is not one of
    /// ours, or not any more.
    pub fn ground(&self, kid: &str, bound_to: Option<&Thumbprint>) -> Option<Vec<u8>> {
        let key = self.state().keys.bytes(kid)?;
        let TokenRules { issuer, audience, .. } = &self.rules;
        let bound_to = bound_to.map_or(&[][..], |certificate| &certificate[..]);
        Some([&key[..], issuer.as_bytes(), b"\0", audience.as_bytes(), b"\0", bound_to].concat())
    }

    fn read(
        &self,
        keys: &KeySet,
        token: &str,
        now: DateTime<Utc>,
    ) -> Result<(Remembered, Credential), Refused> {
        let (kid, claims) = self.verify(keys, token)?;
        let Claims { sub, iat, exp, nbf, cnf, source, scope, jti, .. } = claims;
        // Never longer than the token says.
        let (iat, exp) = (seconds_of(&iat, Decimal::ceil)?, seconds_of(&exp, Decimal::floor)?);
        let nbf = nbf.map(|nbf| seconds_of(&nbf, Decimal::ceil)).transpose()?;
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
        let credential = Credential { kid, jti, expires_at: moment(exp), is_bound: cnf.is_some() };
        Ok((Remembered { caller, bound_to: cnf, expires_at: exp }, credential))
    }

    /// The claims of a token, and the key that it is signed with.
    fn verify(&self, keys: &KeySet, token: &str) -> Result<(String, Claims), Refused> {
        let (kid, key) = keys.key_of(token, ACCESS_TOKEN)?;
        let decoded = decode::<Claims>(token, &key.key, &self.validation(key.algorithm));
        decoded.map(|token| (kid, token.claims)).map_err(Refused::from)
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

/// A time, which may have a fraction (RFC 7519), in whole seconds.
fn seconds_of(time: &Number, round: fn(&Decimal) -> Decimal) -> Result<i64, Refused> {
    let rounded = || i64::try_from(round(&time.to_string().parse().ok()?)).ok();
    let wrong = || Refused::Claims(format!("the time {time} is not in seconds since 1970"));
    time.as_i64().or_else(rounded).ok_or_else(wrong)
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
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::callers::{Grant, HeaderRefused, Scope, SigningKey};

    fn tokens(key: &SigningKey) -> Tokens {
        let rules = TokenRules {
            issuer: "https://issuer".to_owned(),
            audience: "paystream".to_owned(),
            lifetime_max: Duration::from_secs(3600),
        };
        Tokens::new(rules, KeySet::parse(&text(&[key])).unwrap())
    }

    fn text(keys: &[&SigningKey]) -> String {
        let keys: Vec<_> = keys.iter().map(|key| key.public().to_jwk()).collect();
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
        cnf: None,
    };
    const UNKNOWN: Refused = Refused::Header(HeaderRefused::UnknownKey);

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
        assert_eq!(tokens.check(&token, None, moment(NOW - 31)), Err(Refused::Early(moment(NOW))));
        // Then from what is remembered.
        for at in [NOW - 30, NOW, NOW + 629] {
            let caller = tokens.check(&token, None, moment(at)).unwrap();
            assert_eq!((&*caller.name, caller.source.as_str()), ("bank-a", "bank-a"));
            assert!(caller.scopes.has(Scope::PaymentsWrite));
        }
        let late = tokens.check(&token, None, moment(NOW + 630));
        assert_eq!(late, Err(Refused::Expired(moment(NOW + 600))));
    }

    #[test]
    fn a_token_of_a_key_that_is_gone_is_not_taken_any_more() {
        let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let tokens = tokens(&old);
        let (of_old, of_new) = (old.mint(&GRANT).unwrap(), new.mint(&GRANT).unwrap());
        let check = |token: &str| tokens.check(token, None, moment(NOW)).map(drop);
        assert_eq!((check(&of_old), check(&of_new)), (Ok(()), Err(UNKNOWN)));
        tokens.replace(&text(&[&old, &new])).unwrap();
        assert_eq!((check(&of_old), check(&of_new)), (Ok(()), Ok(())));
        tokens.replace(&text(&[&new])).unwrap();
        assert!(tokens.replace("{}").is_err());
        assert_eq!((check(&of_old), check(&of_new)), (Err(UNKNOWN), Ok(())));
    }

    #[test]
    fn what_a_session_stands_on_changes_with_the_key_and_with_who_makes_tokens() {
        let (old, new) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let tokens = tokens(&old);
        let (_, credential) =
            tokens.identify(&old.mint(&GRANT).unwrap(), None, moment(NOW)).unwrap();
        assert_eq!((&*credential.jti, credential.expires_at), ("1", moment(NOW + 600)));
        let before = tokens.ground(&credential.kid, None).unwrap();
        // Another key under the same name.
        let mut other = json!(new.public().to_jwk());
        other["kid"] = credential.kid.as_str().into();
        tokens.replace(&json!({ "keys": [other] }).to_string()).unwrap();
        assert_ne!(tokens.ground(&credential.kid, None).unwrap(), before);
        tokens.replace(&text(&[&new])).unwrap();
        assert_eq!(tokens.ground(&credential.kid, None), None);
    }

    #[test]
    fn what_is_not_as_it_must_be_is_refused_and_said() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let too_long = "x".repeat(65);
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
            assert_eq!(tokens.check(&token, None, moment(NOW)), Err(refusal));
        }
        for claim in ["iss", "aud", "sub", "client_id", "iat", "exp", "jti"] {
            let mut claims = json!(GRANT);
            claims.as_object_mut().unwrap().remove(claim);
            let token = key.mint(&claims).unwrap();
            let refused = tokens.check(&token, None, moment(NOW)).unwrap_err();
            assert!(matches!(&refused, Refused::Claims(what) if what.contains(claim)), "{refused}");
        }
        let mut claims = json!(GRANT);
        claims.as_object_mut().unwrap().remove("source");
        let check = |claims: &serde_json::Value| {
            let checked = tokens.check(&key.mint(claims).unwrap(), None, moment(NOW));
            checked.map(|caller| caller.source)
        };
        assert_eq!(check(&claims), Err(Refused::NoSource));
        claims["scope"] = "customers:read".into();
        assert_eq!(check(&claims), Err(Refused::NoSource));
        claims["scope"] = "customers:write operations:write".into();
        assert_eq!(check(&claims), Ok(Source::default()));
        let never = key.mint(&but_exp(json!(i64::MAX))).unwrap();
        assert!(matches!(tokens.check(&never, None, moment(NOW)), Err(Refused::Lasting(..))));
        let text = key.mint(&but_exp(json!("never"))).unwrap();
        assert!(matches!(tokens.check(&text, None, moment(NOW)), Err(Refused::Claims(_))));
        assert_eq!(
            tokens.check("a.b.c", None, moment(NOW)),
            Err(Refused::Header(HeaderRefused::Malformed))
        );
        let long = "x".repeat(9_000);
        assert_eq!(
            tokens.check(&long, None, moment(NOW)),
            Err(Refused::Header(HeaderRefused::TooLong))
        );
    }

    #[test]
    fn times_with_a_fraction_are_never_stretched() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let mut claims = json!(GRANT);
        claims["iat"] = json!(1_790_000_000.25);
        claims["exp"] = json!(1_790_000_600.75);
        let token = key.mint(&claims).unwrap();
        let check = |at| tokens.check(&token, None, moment(at)).map(drop);
        assert_eq!(check(NOW - 30), Err(Refused::Early(moment(NOW + 1))));
        assert_eq!((check(NOW - 29), check(NOW + 629)), (Ok(()), Ok(())));
        assert_eq!(check(NOW + 630), Err(Refused::Expired(moment(NOW + 600))));
        let beyond = key.mint(&but_exp(json!(1e300))).unwrap();
        assert!(matches!(tokens.check(&beyond, None, moment(NOW)), Err(Refused::Claims(_))));
    }

    #[test]
    fn a_bound_token_is_good_with_its_certificate_alone_also_when_it_is_remembered() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE", b"a certificate"));
        let (own, other): (Thumbprint, Thumbprint) =
            (Sha256::digest(b"a certificate").into(), Sha256::digest(b"another").into());
        let cnf = Some(Confirmation::of_pem(&pem).unwrap());
        let token = key.mint(&Grant { cnf, ..GRANT }).unwrap();
        let check = |shown| tokens.check(&token, shown, moment(NOW)).map(drop);
        for _ in 0..2 {
            assert_eq!(check(Some(&other)), Err(Refused::OtherCertificate));
            assert_eq!(check(None), Err(Refused::NoCertificate));
            assert_eq!(check(Some(&own)), Ok(()));
        }
        // What else it is bound to would not be looked at.
        let mut claims = json!(GRANT);
        claims["cnf"] = json!({"x5t#S256": "x", "jkt": "x"});
        let token = key.mint(&claims).unwrap();
        let refused = tokens.check(&token, Some(&own), moment(NOW)).unwrap_err();
        assert!(matches!(&refused, Refused::Claims(why) if why.contains("jkt")), "{refused}");
        assert!(Confirmation::of_pem("x").unwrap_err().contains("no certificate"));
    }

    #[test]
    fn no_more_tokens_are_remembered_than_there_is_room_for() {
        let key = SigningKey::generate().unwrap();
        let tokens = tokens(&key);
        let keys = Arc::clone(&tokens.state().keys);
        let caller =
            Caller { name: "a".into(), source: Source::default(), scopes: Scopes::default() };
        for number in 0..=REMEMBERED_MAX {
            let taken = Remembered { caller: caller.clone(), bound_to: None, expires_at: NOW + 1 };
            tokens.remember(&keys, &number.to_string(), taken, moment(NOW));
            assert!(tokens.state().remembered.len() <= REMEMBERED_MAX);
        }
    }
}

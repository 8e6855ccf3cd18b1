//! Checks signed webhooks after Standard Webhooks: an id, a time, and a signature over both and the
//! body, with a shared secret (HMAC-SHA256) or with the sender's own key (Ed25519). Never knows what
//! the body says, and never tells a secret.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use ring::{
    hmac,
    signature::{ED25519, UnparsedPublicKey},
};
use sha2::{Digest, Sha256};

use super::algorithms::is_weak;
use crate::domain::Evidence;

const SCHEME: &str = "standard-webhooks";
const SECRET_PREFIX: &str = "whsec_";
const PUBLIC_PREFIX: &str = "whpk_";
/// Signatures that are looked at.
const SIGNATURES_MAX: usize = 4;
/// How old, or how far ahead of our clock, a webhook may be.
const AGE_MAX: TimeDelta = TimeDelta::minutes(5);
const ID_BYTES_MAX: usize = 128;
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;

/// What a sender's webhooks are checked with.
pub struct WebhookKey {
    kind: Kind,
    pub(super) fingerprint: String,
    /// That of all keys that make the same signatures: HMAC fills a secret up with zeros.
    pub(super) likeness: hmac::Tag,
}

enum Kind {
    /// Shared with the sender.
    Secret(hmac::Key),
    /// The sender's own.
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl WebhookKey {
    /// From `whsec_` and 24 to 64 bytes in base64.
    pub(super) fn secret(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(SECRET_PREFIX)?).ok()?;
        let fits = (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len());
        let kind = Kind::Secret(hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        fits.then(|| Self::new(kind, &bytes))
    }

    /// From `whpk_` and the 32 bytes of an Ed25519 key in base64, unless anybody can sign for it.
    pub(super) fn public(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PUBLIC_PREFIX)?).ok()?;
        let kind = Kind::Public(UnparsedPublicKey::new(&ED25519, bytes.clone()));
        (bytes.len() == 32 && !is_weak(&bytes)).then(|| Self::new(kind, &bytes))
    }

    fn new(kind: Kind, bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let fingerprint = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let likeness = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"");
        Self { kind, fingerprint, likeness }
    }

    /// Whether it has made this signature of this version.
    fn has_signed(&self, message: &[u8], version: &str, signature: &[u8]) -> bool {
        match &self.kind {
            Kind::Secret(key) => version == "v1" && hmac::verify(key, message, signature).is_ok(),
            Kind::Public(key) => version == "v1a" && key.verify(message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fingerprint)
    }
}

/// A webhook's headers and body as they came.
#[derive(Clone, Copy, Debug)]
pub struct Webhook<'a> {
    pub id: &'a str,
    /// Seconds since 1970.
    pub timestamp: &'a str,
    /// Signatures with spaces between: a sender that changes its secret sends two.
    pub signature: &'a str,
    pub body: &'a str,
}

/// Why a webhook is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookRefused {
    #[error("webhook-id must be 1 to 128 visible ASCII characters without a dot")]
    Id,
    #[error("webhook-timestamp must be the seconds since 1970")]
    Timestamp,
    #[error("webhook-timestamp is more than 5 minutes from now: sign each attempt anew")]
    Stale,
    #[error(
        "no signature in webhook-signature (v1 or v1a) is that of a secret or key of this source \
         over id, timestamp and body; look at the source's name, its secret or key, and whether \
         the body is changed on its way"
    )]
    BadSignature,
}

impl Webhook<'_> {
    /// What proves that whoever has one of the keys has sent this.
    pub fn check(
        &self,
        keys: &[WebhookKey],
        now: DateTime<Utc>,
    ) -> Result<Evidence, WebhookRefused> {
        let Self { id, timestamp, signature, body } = *self;
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'.';
        if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(fits) {
            return Err(WebhookRefused::Id);
        }
        let sent_at =
            timestamp.parse().ok().filter(|_| timestamp.bytes().all(|b| b.is_ascii_digit()));
        let sent_at = sent_at.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let sent_at = sent_at.ok_or(WebhookRefused::Timestamp)?;
        if now.signed_duration_since(sent_at).abs() > AGE_MAX {
            return Err(WebhookRefused::Stale);
        }
        let base = format!("{id}.{timestamp}.");
        let signed = [&base, body].concat();
        let signatures = signature.split(' ').filter_map(|one| {
            let (version, given) = one.split_once(',')?;
            Some((version, STANDARD.decode(given).ok()?))
        });
        for (version, given) in signatures.take(SIGNATURES_MAX) {
            let is_of = |key: &&WebhookKey| key.has_signed(signed.as_bytes(), version, &given);
            if let Some(key) = keys.iter().find(is_of) {
                return Ok(Evidence {
                    scheme: SCHEME.to_owned(),
                    key: key.fingerprint.clone(),
                    signature: format!("{version},{}", STANDARD.encode(&given)),
                    base,
                    body: body.to_owned(),
                });
            }
        }
        Err(WebhookRefused::BadSignature)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    /// The example of the specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const HOOK: Webhook<'_> = Webhook {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp: "1614265330",
        signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        body: r#"{"test": 2432232314}"#,
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_614_265_330 + seconds, 0).unwrap()
    }

    #[test]
    fn a_webhook_is_taken_with_either_of_two_secrets_for_five_minutes() {
        let other = WebhookKey::secret("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        let secrets = [other, WebhookKey::secret(SECRET).unwrap()];
        for seconds in [-300, 0, 300] {
            let evidence = HOOK.check(&secrets, at(seconds)).unwrap();
            assert_eq!(evidence.base, "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.");
            assert_eq!((&evidence.key, evidence.key.len()), (&secrets[1].fingerprint, 16));
        }
        let rotated = format!("v1,AAAA v1a,xxxx {}", HOOK.signature);
        assert!(Webhook { signature: &rotated, ..HOOK }.check(&secrets, at(0)).is_ok());
        let check = |hook: Webhook<'_>| hook.check(&secrets, at(0)).err();
        for (hook, refused) in [
            (Webhook { id: "other", ..HOOK }, WebhookRefused::BadSignature),
            (Webhook { body: "{}", ..HOOK }, WebhookRefused::BadSignature),
            (Webhook { timestamp: "1614265331", ..HOOK }, WebhookRefused::BadSignature),
            (Webhook { signature: "", ..HOOK }, WebhookRefused::BadSignature),
            (Webhook { signature: &HOOK.signature[3..], ..HOOK }, WebhookRefused::BadSignature),
            (Webhook { timestamp: "+1614265330", ..HOOK }, WebhookRefused::Timestamp),
            (Webhook { timestamp: "", ..HOOK }, WebhookRefused::Timestamp),
            (Webhook { id: "", ..HOOK }, WebhookRefused::Id),
            // Id and time could be cut elsewhere.
            (Webhook { id: "a.1", ..HOOK }, WebhookRefused::Id),
        ] {
            assert_eq!(check(hook), Some(refused), "{hook:?}");
        }
        for seconds in [-301, 301] {
            assert_eq!(HOOK.check(&secrets, at(seconds)), Err(WebhookRefused::Stale));
        }
        assert_eq!(HOOK.check(&secrets[..1], at(0)), Err(WebhookRefused::BadSignature));
        for bad in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ", "whsec_!"] {
            assert!(WebhookKey::secret(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_webhook_is_taken_with_the_key_of_its_sender() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let text = |bytes: &[u8]| STANDARD.encode(bytes);
        let public = WebhookKey::public(&format!("whpk_{}", text(pair.public_key().as_ref())));
        // Whoever has read the public key knows it: it must never be taken for a secret.
        let known = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
        let keys = [WebhookKey::secret(SECRET).unwrap(), public.unwrap()];
        let signed = format!("{}.{}.{}", HOOK.id, HOOK.timestamp, HOOK.body);
        let good = text(pair.sign(signed.as_bytes()).as_ref());
        let forged = text(hmac::sign(&known, signed.as_bytes()).as_ref());
        let check = |signature: &str| Webhook { signature, ..HOOK }.check(&keys, at(0));
        let evidence = check(&format!("v1,AAAA v1a,{good}")).unwrap();
        assert_eq!(evidence.key, keys[1].fingerprint);
        assert_eq!(evidence.signature, format!("v1a,{good}"));
        let other = pair.sign(b"another message");
        for bad in [
            format!("v1,{good}"),
            format!("v1a,{forged}"),
            format!("v1,{forged}"),
            format!("v1a,{}", text(other.as_ref())),
            HOOK.signature.replace("v1,", "v1a,"),
        ] {
            assert_eq!(check(&bad), Err(WebhookRefused::BadSignature), "{bad}");
        }
        let weak = format!("whpk_{}", text(&[0; 32]));
        for bad in [&*weak, "whpk_AAAA", "whpk_!", &SECRET.replace("whsec", "whpk"), SECRET] {
            assert!(WebhookKey::public(bad).is_none(), "{bad}");
        }
    }
}

//! Checks signed webhooks after Standard Webhooks: an id, a time, and an HMAC-SHA256 over both and
//! the body. Never knows what the body says, and never tells a secret.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use ring::hmac;
use sha2::{Digest, Sha256};

use crate::domain::Evidence;

const SCHEME: &str = "standard-webhooks";
const PREFIX: &str = "whsec_";
/// Of the signature's kind that is made with a shared secret.
const VERSION: &str = "v1,";
/// How old, or how far ahead of our clock, a webhook may be.
const AGE_MAX: TimeDelta = TimeDelta::minutes(5);
const ID_BYTES_MAX: usize = 128;
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;

/// A secret that we share with a sender.
pub struct WebhookSecret {
    key: hmac::Key,
    pub(super) fingerprint: String,
}

impl WebhookSecret {
    /// From `whsec_` and 24 to 64 bytes in base64.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()).then(|| {
            let digest = Sha256::digest(&bytes);
            let fingerprint = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), fingerprint }
        })
    }
}

impl fmt::Debug for WebhookSecret {
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
        "no signature in webhook-signature (v1) is that of a secret of this source over id, \
         timestamp and body; look at the source's name, its secret, and whether the body is \
         changed on its way"
    )]
    BadSignature,
}

impl Webhook<'_> {
    /// What proves that whoever knows one of the secrets has sent this.
    pub fn check(
        &self,
        secrets: &[WebhookSecret],
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
        let signatures = signature.split(' ').filter_map(|one| one.strip_prefix(VERSION));
        for given in signatures.filter_map(|one| STANDARD.decode(one).ok()).take(4) {
            let is_of = |secret: &&WebhookSecret| {
                hmac::verify(&secret.key, signed.as_bytes(), &given).is_ok()
            };
            if let Some(secret) = secrets.iter().find(is_of) {
                return Ok(Evidence {
                    scheme: SCHEME.to_owned(),
                    key: secret.fingerprint.clone(),
                    signature: format!("{VERSION}{}", STANDARD.encode(&given)),
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
        let other = WebhookSecret::parse("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        let secrets = [other, WebhookSecret::parse(SECRET).unwrap()];
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
            assert!(WebhookSecret::parse(bad).is_none(), "{bad}");
        }
    }
}

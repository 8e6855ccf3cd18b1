//! Why an access token is not taken, in words for whoever sent it. Never decides.

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::ErrorKind;

use super::HeaderRefused;
use crate::domain::is_plain;

const NAME_CHARACTERS_MAX: usize = 64;
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
    #[error("the token {0}")]
    Header(#[from] HeaderRefused),
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
    #[error(
        "the token is bound to a client certificate (`cnf`), and this connection showed none: \
         connect to the gateway itself, over TLS and with that certificate"
    )]
    NoCertificate,
    #[error("the token is bound to another client certificate (`cnf`) than this connection's")]
    OtherCertificate,
    #[error("the token has no `source`, which its scopes need")]
    NoSource,
    #[error("the token's `source` {0}")]
    Source(&'static str),
}

impl From<jsonwebtoken::errors::Error> for Refused {
    #[expect(clippy::wildcard_enum_match_arm, reason = "what else there is to say helps nobody")]
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.into_kind() {
            ErrorKind::InvalidSignature => Self::BadSignature,
            ErrorKind::InvalidIssuer => Self::OtherIssuer,
            ErrorKind::InvalidAudience => Self::OtherAudience,
            ErrorKind::MissingRequiredClaim(claim) => Self::Claims(format!("no `{claim}`")),
            ErrorKind::Json(error) => Self::Claims(error.to_string()),
            _ => Self::Header(HeaderRefused::Malformed),
        }
    }
}

//! Signed statements of how far the audit log had come, which are kept outside of the database.
//! Never one for access: their `typ` is another, and each check takes only its own.

use jsonwebtoken::{Validation, decode};
use serde::{Serialize, de::DeserializeOwned};

use super::{KeySet, SigningKey};

const CHECKPOINT: &str = "audit-checkpoint+jwt";

impl SigningKey {
    /// # Errors
    ///
    /// When the machine gives no random numbers.
    pub fn sign_checkpoint(
        &self,
        claims: &impl Serialize,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        self.sign_claims(CHECKPOINT, claims)
    }
}

impl KeySet {
    /// What a checkpoint says that one of these keys has signed. It never expires.
    ///
    /// # Errors
    ///
    /// A sentence that says why it is not taken.
    pub fn checkpoint<T: DeserializeOwned>(&self, text: &str) -> Result<T, String> {
        let (_, key) = self.key_of(text, CHECKPOINT).map_err(|refused| format!("it {refused}"))?;
        let mut validation = Validation::new(key.algorithm);
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        let decoded = decode(text, &key.key, &validation);
        decoded.map(|token| token.claims).map_err(|error| format!("it is not genuine: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;
    use serde_json::{Value, json};

    use super::*;
    use crate::callers::{HeaderRefused, Refused, TokenRules, Tokens};

    #[test]
    fn a_checkpoint_is_taken_from_its_key_alone_and_is_no_access_token() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let keys =
            || KeySet::parse(&json!({ "keys": [key.public().to_jwk()] }).to_string()).unwrap();
        let claims = json!({ "position": 7 });
        let signed = key.sign_checkpoint(&claims).unwrap();
        assert_eq!(keys().checkpoint::<Value>(&signed).unwrap(), claims);
        let rules = TokenRules {
            issuer: "i".to_owned(),
            audience: "a".to_owned(),
            lifetime_max: Duration::MAX,
        };
        let tokens = Tokens::new(rules, keys());
        let refused = tokens.check(&signed, None, DateTime::UNIX_EPOCH);
        assert_eq!(refused, Err(Refused::Header(HeaderRefused::Type("at+jwt"))));
        let another = key.sign_checkpoint(&json!({ "position": 8 })).unwrap();
        let (said, _) = another.rsplit_once('.').unwrap();
        let forged = format!("{said}.{}", signed.rsplit_once('.').unwrap().1);
        for (text, refusal) in [
            (&*key.mint(&claims).unwrap(), "it has another `typ` than audit-checkpoint+jwt"),
            (&other.sign_checkpoint(&claims).unwrap(), "it names a key "),
            (&forged, "it is not genuine"),
            ("a.b.c", "it is not a signed JWT"),
            (&"x".repeat(9_000), "it is longer"),
        ] {
            let refused = keys().checkpoint::<Value>(text).unwrap_err();
            assert!(refused.starts_with(refusal), "{refused}");
        }
    }
}

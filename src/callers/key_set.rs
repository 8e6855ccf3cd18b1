//! The public keys that tokens are checked with, from a key set (RFC 7517). Never holds a
//! private key, and refuses a file that does.

use std::collections::HashMap;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::algorithms;

const KEYS_MAX: usize = 100;
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Members that only secret keys have.
const SECRET: [&str; 4] = ["d", "k", "p", "q"];

/// A key set as its file has it, with keys of others, which are left as they are.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Kept {
    pub keys: Vec<Value>,
}

impl Kept {
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text)
            .map_err(|error| format!("it is not a JSON object with a list `keys`: {error}"))
    }
}

#[derive(Debug, Default)]
pub struct KeySet {
    keys: HashMap<String, VerificationKey>,
    ignored: usize,
}

#[derive(Debug)]
pub(super) struct VerificationKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl KeySet {
    /// Keys of kinds that we do not check, or for encryption, are ignored.
    ///
    /// # Errors
    ///
    /// A sentence that says which key is wrong, and never what it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        algorithms::install();
        let Kept { keys } = Kept::parse(text)?;
        if keys.len() > KEYS_MAX {
            return Err(format!("it has {} keys, more than {KEYS_MAX}", keys.len()));
        }
        let mut set = Self::default();
        for (number, value) in (1..).zip(keys) {
            let wrong = |what: &str| format!("key {number} {what}");
            if SECRET.iter().any(|name| value.get(*name).is_some()) {
                return Err(wrong("is secret: a key set has public keys only"));
            }
            let jwk = serde_json::from_value::<Jwk>(value).ok();
            let Some((jwk, algorithm)) = jwk.and_then(|jwk| algorithm(&jwk).map(|is| (jwk, is)))
            else {
                set.ignored += 1;
                continue;
            };
            let key = DecodingKey::from_jwk(&jwk)
                .map_err(|error| wrong(&format!("is damaged: {error}")))?;
            if !is_whole(&key) {
                return Err(wrong(
                    "is damaged, or an RSA key of another size than 2048 to 8192 bits",
                ));
            }
            if let (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(bytes)) =
                (key.family(), key.kind())
                && algorithms::is_weak(bytes)
            {
                return Err(wrong("is an Ed25519 key of small order: anybody could sign for it"));
            }
            let kid = jwk.common.key_id.filter(|kid| !kid.is_empty());
            let kid = kid.ok_or_else(|| wrong("has no `kid`, so nothing can name it"))?;
            if set.keys.insert(kid.clone(), VerificationKey { algorithm, key }).is_some() {
                return Err(wrong(&format!("has the `kid` {kid} of another one")));
            }
        }
        if set.keys.is_empty() {
            return Err("it has no key for EdDSA (Ed25519), ES256 or PS256".to_owned());
        }
        Ok(set)
    }

    /// The key that has signed this token, as it says, if it is of this type.
    pub(super) fn key_of(
        &self,
        token: &str,
        typ: &'static str,
    ) -> Result<(String, &VerificationKey), HeaderRefused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(HeaderRefused::TooLong);
        }
        let header = decode_header(token).map_err(|_| HeaderRefused::Malformed)?;
        let is_of_type = header.typ.is_some_and(|given| {
            let given = given.to_ascii_lowercase();
            given.strip_prefix("application/").unwrap_or(&given) == typ
        });
        if !is_of_type {
            return Err(HeaderRefused::Type(typ));
        }
        if header.crit.is_some() {
            return Err(HeaderRefused::Extended);
        }
        let kid = header.kid.ok_or(HeaderRefused::NoKey)?;
        let key = self.find(&kid).ok_or(HeaderRefused::UnknownKey)?;
        match header.alg == key.algorithm {
            true => Ok((kid, key)),
            false => Err(HeaderRefused::Algorithm),
        }
    }

    pub(super) fn find(&self, kid: &str) -> Option<&VerificationKey> {
        self.keys.get(kid)
    }

    /// The bytes of a public key: another one under the same `kid` has others.
    pub(super) fn bytes(&self, kid: &str) -> Option<Vec<u8>> {
        Some(match self.find(kid)?.key.kind() {
            DecodingKeyKind::SecretOrDer(key) => key.clone(),
            DecodingKeyKind::RsaModulusExponent { n, e } => [&n[..], &e[..]].concat(),
        })
    }

    pub fn kids(&self) -> Vec<&str> {
        self.keys.keys().map(String::as_str).collect()
    }

    /// Keys that we cannot check a token with.
    pub fn ignored(&self) -> usize {
        self.ignored
    }
}

/// Why the header of a token is not taken; follows what names the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRefused {
    #[error("is longer than 8 KiB")]
    TooLong,
    #[error("is not a signed JWT")]
    Malformed,
    #[error("has another `typ` than {0}")]
    Type(&'static str),
    #[error("demands extensions (`crit`), and none is supported")]
    Extended,
    #[error("names no key (`kid`)")]
    NoKey,
    #[error("names a key (`kid`) that is not in the key set, or not any more")]
    UnknownKey,
    #[error("has an `alg` that is not that of its key")]
    Algorithm,
}

/// Whether its parts have the lengths that signatures are checked with.
fn is_whole(key: &DecodingKey) -> bool {
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(key)) => key.len() == 32,
        // Both coordinates, and a byte before them.
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(key)) => key.len() == 65,
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, .. }) => {
            (256..=1024).contains(&n.len())
        }
        _ => false,
    }
}

/// The one algorithm of this key, whatever a token says. None if we do not check it.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::PS256, KeyAlgorithm::PS256),
        AlgorithmParameters::OctetKeyPair(_)
        | AlgorithmParameters::EllipticCurve(_)
        | AlgorithmParameters::OctetKey(_) => return None,
    };
    let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let agrees = jwk.common.key_algorithm.is_none_or(|given| given == name);
    (signs && agrees).then_some(algorithm)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"a",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn set(keys: &[&str]) -> Result<KeySet, String> {
        KeySet::parse(&format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
    }

    #[test]
    fn a_key_set_has_public_keys_that_tokens_can_name() {
        let rsa = r#"{"kty":"RSA","alg":"RS256","kid":"b","n":"AQAB","e":"AQAB"}"#;
        let encrypts = ED.replace(r#""kid":"a""#, r#""kid":"c","use":"enc""#);
        let found = set(&[ED, rsa, &encrypts, r#"{"kty":"new"}"#]).unwrap();
        assert_eq!((found.kids(), found.ignored()), (vec!["a"], 3));
        for (keys, refusal) in [
            (vec![ED, r#"{"kty":"oct","k":"AAAA","kid":"b"}"#], "key 2 is secret"),
            (vec![&*ED.replace("\"x\"", "\"d\":\"AAAA\",\"x\"")], "key 1 is secret"),
            (
                vec![&*ED.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", &"A".repeat(43))],
                "key 1 is an Ed25519 key of small order",
            ),
            (vec![ED, ED], "key 2 has the `kid` a of another one"),
            (vec![&*ED.replace(r#""kid":"a","#, "")], "key 1 has no `kid`"),
            (vec![rsa], "it has no key for EdDSA"),
            (vec![], "it has no key for EdDSA"),
        ] {
            let refused = set(&keys).unwrap_err();
            assert!(refused.starts_with(refusal), "{refused}");
        }
        assert!(KeySet::parse("[]").unwrap_err().starts_with("it is not a JSON object"));
    }
}

//! Public keys as a key set has them, and as PEM files have them (SPKI, RFC 5280). Never sees a
//! private key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(super) const LABEL: &str = "PUBLIC KEY";

/// What comes before an Ed25519 key (RFC 8410), before a point on P-256 (RFC 5480), and what
/// names RSA (RFC 3279).
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0,
];
const RSA: [u8; 13] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;

pub struct PublicKey {
    pub(super) algorithm: Algorithm,
    /// The members that make the key, in the order of their names.
    members: Value,
}

impl PublicKey {
    pub(super) fn ed25519(key: &[u8]) -> Self {
        let members = json!({"crv": "Ed25519", "kty": "OKP", "x": text(key)});
        Self { algorithm: Algorithm::EdDSA, members }
    }

    /// From both coordinates, and a byte before them that says it is not compressed.
    pub(super) fn p256(point: &[u8]) -> Self {
        let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        let members = json!({"crv": "P-256", "kty": "EC", "x": text(x), "y": text(y)});
        Self { algorithm: Algorithm::ES256, members }
    }

    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Self {
        let members = json!({"e": text(exponent), "kty": "RSA", "n": text(modulus)});
        Self { algorithm: Algorithm::PS256, members }
    }

    /// Nothing if it is none of the kinds that we check.
    pub(super) fn from_spki(der: &[u8]) -> Option<Self> {
        if let Some(key) = der.strip_prefix(&ED25519) {
            return (key.len() == 32).then(|| Self::ed25519(key));
        }
        if let Some(point) = der.strip_prefix(&P256) {
            return (point.len() == 65 && point.first() == Some(&4)).then(|| Self::p256(point));
        }
        let (info, after) = element(SEQUENCE, der)?;
        let (kind, bits) = element(SEQUENCE, info)?;
        let (bits, after_bits) = element(BIT_STRING, bits)?;
        let (key, after_key) = element(SEQUENCE, bits.strip_prefix(&[0])?)?;
        let (modulus, exponent) = element(INTEGER, key)?;
        let (exponent, after_exponent) = element(INTEGER, exponent)?;
        let is_whole =
            [after, after_bits, after_key, after_exponent].iter().all(|rest| rest.is_empty());
        // A zero stands before what would be negative.
        let positive = |bytes: &'_ [u8]| bytes.strip_prefix(&[0]).unwrap_or(bytes).to_vec();
        (is_whole && kind == RSA).then(|| Self::rsa(&positive(modulus), &positive(exponent)))
    }

    /// As a key set has it.
    pub fn to_jwk(&self) -> Value {
        let mut key = self.members.clone();
        key["kid"] = self.kid().into();
        key["alg"] = json!(self.algorithm);
        key["use"] = "sig".into();
        key
    }

    /// Its thumbprint (RFC 7638).
    pub fn kid(&self) -> String {
        text(&Sha256::digest(self.members.to_string()))
    }
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The contents of the first element (DER), if it is of this kind, and what follows it.
fn element(kind: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match *der.strip_prefix(&[kind])? {
        [short @ 0..=0x7f, ref rest @ ..] => (usize::from(short), rest),
        [0x81, length, ref rest @ ..] => (usize::from(length), rest),
        [0x82, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

//! The algorithms of tokens, by ring, which TLS uses too: EdDSA, ES256 and PS256. Never a
//! symmetric one: whoever can check such a token can make one.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwkUtils, JwtSigner, JwtVerifier},
    errors::{Error, ErrorKind},
    signature,
};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
        Ed25519KeyPair, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA512, RSA_PSS_SHA256,
        RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Signer::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| {
        Ok(Box::new(Verifier { algorithm: *algorithm, key: key.clone() }))
    },
    jwk_utils: JwkUtils::new_unimplemented(),
};

/// Comes before every use of jsonwebtoken.
pub(super) fn install() {
    // Once a process; a second time changes nothing.
    let _ = PROVIDER.install_default();
}

struct Verifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.algorithm, self.key.kind()) {
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            (Algorithm::PS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PSS_2048_8192_SHA256, message, signature)
            }
            _ => Err(ring::error::Unspecified),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// The algorithm of a signed request (RFC 9421) for keys of this kind.
pub(super) fn name_in_messages(algorithm: Algorithm) -> &'static str {
    match algorithm.family() {
        AlgorithmFamily::Ed => "ed25519",
        AlgorithmFamily::Ec => "ecdsa-p256-sha256",
        AlgorithmFamily::Rsa | AlgorithmFamily::Hmac => "rsa-pss-sha512",
    }
}

/// Whether this key has signed the message of a request.
pub(super) fn verify_message(
    (algorithm, key): (Algorithm, &DecodingKey),
    message: &[u8],
    signature: &[u8],
) -> bool {
    match key.kind() {
        // As in tokens, but for the digest.
        DecodingKeyKind::RsaModulusExponent { n, e } => RsaPublicKeyComponents { n, e }
            .verify(&RSA_PSS_2048_8192_SHA512, message, signature)
            .is_ok(),
        DecodingKeyKind::SecretOrDer(_) => {
            let verifier = Verifier { algorithm, key: key.clone() };
            signature::Verifier::verify(&verifier, message, &signature.to_vec()).is_ok()
        }
    }
}

/// Whether an Ed25519 key is of small order: anybody can sign for such a key.
pub(super) fn is_weak(key: &[u8]) -> bool {
    // With this signature (the neutral point, and zero) a key must vanish when it is multiplied by
    // a digest of the message. For this message, found by trial, the digest is a multiple of the
    // order of each such key.
    const MESSAGE: [u8; 4] = [0, 4, 0x3e, 0x63];
    let mut signature = [0; 64];
    signature[0] = 1;
    UnparsedPublicKey::new(&ED25519, key).verify(&MESSAGE, &signature).is_ok()
}

/// A private key with its algorithm.
pub(super) enum Signer {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Ps256(Box<RsaKeyPair>),
}

impl Signer {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self, Error> {
        let signer = Self::from_pkcs8(key.inner()).filter(|one| one.algorithm() == algorithm);
        signer.ok_or_else(|| ErrorKind::InvalidAlgorithm.into())
    }

    /// Of the kind that the key is; nothing if it is none of ours.
    pub(super) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let ecdsa = || {
            let random = SystemRandom::new();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).ok()
        };
        let rsa = || RsaKeyPair::from_pkcs8(der).ok();
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .ok()
            .map(Self::EdDsa)
            .or_else(|| ecdsa().map(Self::Es256))
            .or_else(|| rsa().map(|key| Self::Ps256(Box::new(key))))
    }
}

impl signature::Signer<Vec<u8>> for Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let random = SystemRandom::new();
        let signed = match self {
            Self::EdDsa(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::Es256(key) => key.sign(&random, message).map(|signed| signed.as_ref().to_vec()),
            Self::Ps256(key) => {
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PSS_SHA256, &random, message, &mut signed).map(|()| signed)
            }
        };
        signed.map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Signer {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::EdDsa(_) => Algorithm::EdDSA,
            Self::Es256(_) => Algorithm::ES256,
            Self::Ps256(_) => Algorithm::PS256,
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use ring::signature::KeyPair;

    use super::*;

    #[test]
    fn a_key_that_anybody_can_sign_for_is_weak() {
        // Of orders 1, 2, 4 and 8, and what is read like those.
        for (start, middle, end) in [(1, 0, 0), (0xee, 0xff, 0x7f), (0xec, 0xff, 0x7f), (0, 0, 0)] {
            let mut key = [middle; 32];
            (key[0], key[31]) = (start, end);
            assert!(is_weak(&key), "{key:?}");
            key[31] ^= 0x80;
            assert!(is_weak(&key), "{key:?}");
        }
        for eighth in [
            "JuiVj8KyJ7BFw/SJ8u+Y8NXfrAXTxjM5sTgCiG1T/AU=",
            "xxdqcD1N2E+6PAt2DRBnDyogU/osOczGTsf9d5KsA3o=",
        ] {
            let mut key = STANDARD.decode(eighth).unwrap();
            assert!(is_weak(&key), "{key:?}");
            key[31] ^= 0x80;
            assert!(is_weak(&key), "{key:?}");
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        assert!(!is_weak(pair.public_key().as_ref()));
    }
}

//! Private keys, with which tokens are made: for development, and for banks without a token
//! server of their own. Never writes a key to a file.

use jsonwebtoken::{EncodingKey, Header, crypto::JwtSigner};
use pem::Pem;
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{KeyPair, RsaPublicKeyComponents},
};
use serde::Serialize;

use super::{Confirmation, PublicKey, algorithms, algorithms::Signer, public_key};

const LABEL: &str = "PRIVATE KEY";
const KINDS: &str =
    "its key is not one for EdDSA (Ed25519), ES256 (P-256) or PS256 (RSA, 2048 bits or more)";
/// What says that a token is one for access (RFC 9068).
pub(super) const ACCESS_TOKEN: &str = "at+jwt";

/// What comes before the seed of a key in PKCS #8, version 1 (RFC 8410). OpenSSL 3.0 reads no
/// later one, which ring would write.
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The claims of a token. Times are in seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Grant<'a> {
    pub iss: &'a str,
    pub aud: &'a str,
    pub sub: &'a str,
    pub client_id: &'a str,
    pub source: &'a str,
    pub scope: &'a str,
    pub iat: i64,
    pub exp: i64,
    pub jti: &'a str,
    /// What it is bound to, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

pub struct SigningKey {
    signer: Signer,
    der: Vec<u8>,
}

impl PublicKey {
    /// From a PEM file that has it, or its private key.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        match pem::parse(text) {
            Ok(file) if file.tag() == public_key::LABEL => {
                Self::from_spki(file.contents()).ok_or_else(|| KINDS.to_owned())
            }
            Ok(_) | Err(_) => SigningKey::from_pem(text).map(|key| key.public()),
        }
    }
}

impl SigningKey {
    /// For EdDSA.
    ///
    /// # Errors
    ///
    /// When the machine gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let mut seed = [0; 32];
        let filled = SystemRandom::new().fill(&mut seed);
        filled.map_err(|_| "the machine gives no random numbers".to_owned())?;
        Self::from_der([&ED25519_PKCS8[..], &seed].concat())
    }

    /// From a PEM file as `openssl genpkey` writes one.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let file = pem::parse(text).map_err(|error| format!("it is not a PEM file: {error}"))?;
        if file.tag() != LABEL {
            return Err(format!(
                "it holds {}, not a PKCS #8 private key: convert it with `openssl pkcs8 -topk8 \
                 -nocrypt`",
                file.tag()
            ));
        }
        Self::from_der(file.into_contents())
    }

    fn from_der(der: Vec<u8>) -> Result<Self, String> {
        algorithms::install();
        let signer = Signer::from_pkcs8(&der).ok_or(KINDS)?;
        Ok(Self { signer, der })
    }

    pub fn to_pem(&self) -> String {
        pem::encode(&Pem::new(LABEL, self.der.clone()))
    }

    pub fn public(&self) -> PublicKey {
        match &self.signer {
            Signer::EdDsa(key) => PublicKey::ed25519(key.public_key().as_ref()),
            Signer::Es256(key) => PublicKey::p256(key.public_key().as_ref()),
            Signer::Ps256(key) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                PublicKey::rsa(&n, &e)
            }
        }
    }

    /// The thumbprint of its public key.
    pub fn kid(&self) -> String {
        self.public().kid()
    }

    #[cfg(test)]
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        jsonwebtoken::signature::Signer::sign(&self.signer, message)
    }

    /// A token with these claims.
    ///
    /// # Errors
    ///
    /// When the machine gives no random numbers.
    pub fn mint(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        self.sign_claims(ACCESS_TOKEN, claims)
    }

    /// `typ` is what the statement is for: whoever checks one takes no other.
    pub(super) fn sign_claims(
        &self,
        typ: &str,
        claims: &impl Serialize,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let algorithm = self.signer.algorithm();
        let mut header = Header::new(algorithm);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid());
        let key = match &self.signer {
            Signer::EdDsa(_) => EncodingKey::from_ed_der(&self.der),
            Signer::Es256(_) => EncodingKey::from_ec_der(&self.der),
            Signer::Ps256(_) => EncodingKey::from_rsa_der(&self.der),
        };
        jsonwebtoken::encode(&header, claims, &key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(two: &[u8]) -> u8 {
        u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()
    }

    #[test]
    fn a_key_survives_its_file_and_is_named_by_its_thumbprint() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public().to_jwk(), key.public().to_jwk());
        assert_eq!(key.public().to_jwk()["alg"], "EdDSA");
        // The example of RFC 8037.
        let example = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let example: Vec<u8> = example.as_bytes().chunks(2).map(hex).collect();
        let known = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        assert_eq!(PublicKey::ed25519(&example).kid(), known);
        let wrong = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
        for (file, refusal) in [("x", "it is not a PEM file"), (wrong, "it holds EC PRIVATE KEY")] {
            let refused = SigningKey::from_pem(file).err().unwrap();
            assert!(refused.starts_with(refusal), "{refused}");
        }
    }
}

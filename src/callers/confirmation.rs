//! Binds a token to a client certificate (RFC 8705), so that whoever has stolen the token alone
//! has nothing. Never sees a private key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The SHA-256 of a certificate.
pub type Thumbprint = [u8; 32];

/// The claim `cnf`. A token that is bound to something else, too, is not taken: it would be
/// taken without that.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: String,
}

impl Confirmation {
    fn new(certificate: &Thumbprint) -> Self {
        Self { certificate: URL_SAFE_NO_PAD.encode(certificate) }
    }

    /// From a PEM file, whose first certificate is the client's.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub fn of_pem(text: &str) -> Result<Self, String> {
        let blocks = pem::parse_many(text).map_err(|error| format!("it is not PEM: {error}"))?;
        let certificate = blocks.iter().find(|block| block.tag() == "CERTIFICATE");
        let certificate = certificate.ok_or("it holds no certificate in PEM")?;
        Ok(Self::new(&Sha256::digest(certificate.contents()).into()))
    }

    pub(super) fn is_of(&self, certificate: &Thumbprint) -> bool {
        *self == Self::new(certificate)
    }
}

//! Ids of the console's sessions: random, as text in a cookie, and everywhere else as a digest.
//! Never leaves an id, or a secret that it seals, in a log or a store.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

const BYTES: usize = 32;

pub struct SessionId([u8; BYTES]);

impl SessionId {
    /// From the operating system's generator.
    ///
    /// # Errors
    ///
    /// When the machine gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let mut id = [0; BYTES];
        let filled = SystemRandom::new().fill(&mut id);
        filled.map_err(|_| "the machine gives no random numbers".to_owned())?;
        Ok(Self(id))
    }

    /// None where the text is no id of ours, such as a token that an older release left there.
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Finds the session, and does not lead back to the id.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// Binds the session to a secret. Who has the seal alone cannot try secrets: the id is the key.
    pub fn seal(&self, secret: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.0).chain_update(secret).finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text_and_from_nothing_else() {
        let id = SessionId::generate().unwrap();
        let text = id.text();
        assert_eq!(SessionId::parse(&text).unwrap().digest(), id.digest());
        assert_ne!(SessionId::generate().unwrap().digest(), id.digest());
        for other in ["", "a-token-of-an-operator", &text[1..], &format!("{text}A"), "a.b.c"] {
            assert!(SessionId::parse(other).is_none(), "{other}");
        }
        assert_ne!(id.seal(b"one"), id.seal(b"other"));
        assert_ne!(id.seal(b"one"), SessionId::generate().unwrap().seal(b"one"));
    }
}

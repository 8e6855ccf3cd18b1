//! Remembers webhooks by their ids, so that none comes with two bodies. Never knows what one says.

use super::{Error, Producer};
use crate::domain::Source;

impl Producer {
    /// Remembers which body came with this id, for as long as a reference is remembered; whether
    /// none or the same came before.
    pub async fn claim_webhook(
        &self,
        source: &Source,
        id: &str,
        body_digest: &[u8; 32],
    ) -> Result<bool, Error> {
        let window = u64::try_from(self.limits.dedupe_window.as_millis()).unwrap_or(u64::MAX);
        let mut claim = redis::cmd("SET");
        claim.arg(self.keys.webhook(source, id)).arg(&body_digest[..]);
        claim.arg("NX").arg("GET").arg("PX").arg(window);
        let attempt = || async {
            let before: Option<Vec<u8>> =
                claim.query_async(&mut self.connections[0].clone()).await?;
            Ok(before.is_none_or(|before| before == body_digest))
        };
        self.insist(attempt).await
    }
}

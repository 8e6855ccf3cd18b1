//! Before anything is appended to a server that was not met before, the ledger is
//! asked whether these streams are the ones that are served: a replica that was
//! promoted, or a copy that was put back, may not know that they were closed for
//! good. Never asks again about a server that it let pass, and never knows how the
//! ledger is asked.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use redis::RedisResult;
use tokio::{sync::Mutex, time::timeout};

use super::server::{self, Primary};

/// How long the ledger is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers the generation that is served, and whether it is being changed; nothing
/// while the ledger is away.
type Ask = dyn Fn() -> BoxFuture<'static, Option<(i32, bool)>> + Send + Sync;

#[derive(Clone)]
pub(super) struct Authority {
    generation: i32,
    ask: Arc<Ask>,
    met: Arc<Mutex<Option<Arc<Primary>>>>,
}

impl Authority {
    pub(super) fn new(generation: i32, ask: Arc<Ask>) -> Self {
        Self { generation, ask, met: Arc::default() }
    }

    /// Refuses a server to which these streams must not be appended.
    pub(super) async fn confirm(&self, server: &Arc<Primary>) -> RedisResult<()> {
        let mut met = self.met.lock().await;
        if met.as_ref() == Some(server) {
            return Ok(());
        }
        match timeout(PATIENCE, (self.ask)()).await.unwrap_or(None) {
            // What was closed may be open on one that was promoted meanwhile.
            Some((generation, changes))
                if generation != self.generation || (changes && server.promoted) =>
            {
                return Err(server::closed("resize: the number of partitions is changed"));
            }
            None if server.promoted => {
                return Err(server::unfit(
                    "it was promoted, and PostgreSQL does not say whether its streams are still \
                     the ones that are served"
                        .to_owned(),
                ));
            }
            // One that was restarted has what it had.
            Some(_) | None => {}
        }
        *met = Some(Arc::clone(server));
        Ok(())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("generation", &self.generation).finish()
    }
}

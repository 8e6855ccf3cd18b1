//! Before the first append to a Redis server, the ledger confirms that these streams belong to
//! the current topology: a promoted replica or a restored copy may lack their closing. Never
//! asks twice about a server that passed, and never knows how the ledger is asked.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use redis::RedisResult;
use tokio::{sync::Mutex, time::timeout};

use super::server::{self, Primary};

/// How long the ledger may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Servers that are remembered to have passed.
const SERVERS_MAX: usize = 64;

/// Returns the current generation, and whether it is being changed; none while the ledger is
/// unavailable.
type Ask = dyn Fn() -> BoxFuture<'static, Option<(i32, bool)>> + Send + Sync;

#[derive(Clone)]
pub(super) struct Authority {
    generation: i32,
    ask: Arc<Ask>,
    met: Arc<Mutex<Vec<Arc<Primary>>>>,
}

impl Authority {
    pub(super) fn new(generation: i32, ask: Arc<Ask>) -> Self {
        Self { generation, ask, met: Arc::default() }
    }

    /// Refuses a server to which these streams must not be appended.
    pub(super) async fn confirm(&self, server: &Arc<Primary>) -> RedisResult<()> {
        let mut met = self.met.lock().await;
        if met.contains(server) {
            return Ok(());
        }
        match timeout(PATIENCE, (self.ask)()).await.unwrap_or(None) {
            // Closed streams may be open on a promoted replica.
            Some((generation, changes))
                if generation != self.generation || (changes && server.promoted) =>
            {
                return Err(server::closed("resize: the number of partitions is changed"));
            }
            None if server.promoted => {
                return Err(server::unfit(
                    "it was promoted, and PostgreSQL did not confirm that its streams belong to the \
                     current topology"
                        .to_owned(),
                ));
            }
            // A restarted server has lost nothing.
            Some(_) | None => {}
        }
        if met.len() == SERVERS_MAX {
            met.remove(0);
        }
        met.push(Arc::clone(server));
        Ok(())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("generation", &self.generation).finish()
    }
}

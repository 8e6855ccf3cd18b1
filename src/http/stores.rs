//! Whether Redis and PostgreSQL answer, for the health endpoints.
//!
//! They do not read the snapshot of the system: readiness is about the connections that
//! payments use, must not answer from knowledge older than a second, and is asked by
//! anybody, for whom a snapshot of all partitions costs too much.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};
use utoipa::ToSchema;

use crate::{
    circuit_breaker::CircuitBreaker,
    ledger::{self, Reader},
    stream::Producer,
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is given again: whoever asks needs no token.
const KEPT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct LatestHealth(Mutex<Option<StoreHealth>>);

#[derive(Clone)]
pub(super) struct StoreHealth {
    asked: Instant,
    pub(super) redis: DependencyView,
    pub(super) postgresql: DependencyView,
    pub(super) open_losses: Option<i64>,
}

impl LatestHealth {
    /// Asks the stores, unless that was just done. Whoever comes meanwhile waits
    /// for the same answer.
    pub(super) async fn look(
        &self,
        producer: &Producer,
        reader: &Reader,
        circuit: &CircuitBreaker,
    ) -> StoreHealth {
        let mut latest = self.0.lock().await;
        if let Some(stores) = latest.as_ref().filter(|stores| stores.asked.elapsed() < KEPT) {
            return stores.clone();
        }
        let (redis, (postgresql, open_losses)) = tokio::join!(
            async { dependency(timeout(ANSWER_TIMEOUT, producer.ping()).await).0 },
            postgresql(reader, circuit)
        );
        let stores = StoreHealth { asked: Instant::now(), redis, postgresql, open_losses };
        latest.insert(stores).clone()
    }
}

#[derive(Clone, Serialize, ToSchema)]
pub(super) struct DependencyView {
    /// Of a store `up` or `down`, else of a worker.
    #[schema(pattern = "^(up|down|working|waiting|stalled)$")]
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// `open`: calls are refused at once until a probe succeeds.
    #[schema(pattern = "^(open|closed)$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) circuit: Option<&'static str>,
}

impl DependencyView {
    pub(super) fn new(status: &'static str, detail: Option<String>) -> Self {
        Self { status, detail, circuit: None }
    }
}

async fn postgresql(reader: &Reader, circuit: &CircuitBreaker) -> (DependencyView, Option<i64>) {
    let asked = timeout(ANSWER_TIMEOUT, reader.open_losses()).await;
    let is_busy = match &asked {
        Ok(asked) => matches!(asked, Err(ledger::Error::Busy)),
        Err(_) => reader.usage().used >= reader.usage().max,
    };
    if is_busy && circuit.check(Instant::now().into()).is_ok() {
        let detail = "every connection for queries is in use".to_owned();
        return (DependencyView::new("up", Some(detail)), None);
    }
    dependency(asked)
}

/// How a dependency fares, and what it answered.
fn dependency<T, E: std::fmt::Display>(
    result: Result<Result<T, E>, tokio::time::error::Elapsed>,
) -> (DependencyView, Option<T>) {
    let detail = match result {
        Ok(Ok(answer)) => return (DependencyView::new("up", None), Some(answer)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
    };
    (DependencyView::new("down", Some(detail)), None)
}

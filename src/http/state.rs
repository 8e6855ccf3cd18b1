//! What the gateway works with, and how handlers ask the stores: through the
//! circuits, and as many at once as there is room for.

use std::sync::Arc;

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    intake::Rules,
    problem::Problem,
    quota::Quotas,
    rate::Rate,
    security_log::SecurityLog,
    session_memory::Sessions,
    shares::Shares,
    stores::{LatestHealth, StoreHealth},
};
use crate::{
    callers::{Sources, Tokens},
    circuit_breaker::CircuitBreaker,
    clock::Clock,
    config::GatewayConfig,
    domain::Source,
    ledger::{self, Reader, Registrar, SessionStore},
    operations::Operations,
    progress::Board,
    stream::{self, Balances, Finder, Gathering, Producer},
    telemetry::{Signals, Timestamp},
};

/// Bytes of bodies that carry many payments, at once, from the first that comes until
/// the answer.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests that may wait for an outcome at once; one more is answered 202.
const WAITERS_MAX: usize = 512;
/// Look-ups that search the streams at once; the next one waits.
const LOOK_UPS_MAX: usize = 2;

pub(crate) struct Gateway {
    pub producer: Producer,
    /// For payments that come one by one.
    pub gathering: Gathering,
    pub finder: Finder,
    pub reader: Reader,
    pub registrar: Registrar,
    pub sessions: SessionStore,
    pub balances: Balances,
    pub operations: Arc<Operations>,
    pub redis: Arc<CircuitBreaker>,
    pub postgresql: Arc<CircuitBreaker>,
    pub board: Option<Arc<Board>>,
    pub signals: Signals,
    pub config: GatewayConfig,
    /// Checks access tokens, where callers have some.
    pub tokens: Option<Arc<Tokens>>,
    /// What is known of each source.
    pub sources: Arc<Sources>,
    pub clock: Clock,
}

pub(crate) struct AppState {
    pub(crate) gateway: Gateway,
    /// Cancelled when the process is stopping.
    pub(crate) stop: CancellationToken,
    pub(super) requests: Semaphore,
    pub(super) bodies: Semaphore,
    pub(super) waiters: Semaphore,
    pub(super) look_ups: Semaphore,
    pub(super) stores: LatestHealth,
    pub(super) rate: Rate,
    pub(super) quotas: Quotas,
    pub(super) shares: Shares,
    /// Attempts to sign in to the console, by address.
    pub(crate) sign_ins: Quotas,
    pub(super) sessions: Sessions,
    pub(crate) security_log: SecurityLog,
}

pub(crate) type App = Arc<AppState>;

impl AppState {
    pub(crate) fn new(gateway: Gateway, stop: CancellationToken) -> App {
        Arc::new(Self {
            requests: Semaphore::new(gateway.config.requests_max),
            bodies: Semaphore::new(BODIES_BYTES_MAX),
            waiters: Semaphore::new(WAITERS_MAX),
            look_ups: Semaphore::new(LOOK_UPS_MAX),
            stores: LatestHealth::default(),
            rate: Rate::default(),
            quotas: Quotas::new(gateway.config.caller_rate_max),
            sign_ins: Quotas::of_sign_ins(),
            sessions: Sessions::default(),
            security_log: SecurityLog::default(),
            shares: Shares::new(gateway.config.requests_max, gateway.config.query_connections),
            stop,
            gateway,
        })
    }

    /// How both stores answered when they were last asked, a moment ago at most.
    pub(super) async fn stores(&self) -> StoreHealth {
        let Gateway { producer, reader, postgresql, .. } = &self.gateway;
        self.stores.look(producer, reader, postgresql).await
    }

    /// What the payments of this source must be.
    pub(super) fn rules<'a>(
        &self,
        source: &'a Source,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Rules<'a> {
        Rules::new(source, &self.gateway.config, self.gateway.registrar.currency(), now)
    }

    /// Asks the ledger, unless it is known to be away.
    pub(crate) async fn ask<T>(
        &self,
        asking: impl Future<Output = Result<T, ledger::Error>>,
    ) -> Result<T, Problem> {
        let circuit = &self.gateway.postgresql;
        circuit.check(Instant::now())?;
        let started = Timestamp::now();
        let asked = asking.await;
        self.gateway.signals.asked(started, asked.is_err());
        match &asked {
            // Many ask at once, or somebody holds a lock; PostgreSQL itself is there.
            Err(ledger::Error::Busy | ledger::Error::Locked(_)) => {}
            Err(error) if error.is_outage() => circuit.failed(Instant::now()),
            Ok(_) | Err(_) => circuit.succeeded(),
        }
        Ok(asked?)
    }

    /// Calls the stream, unless it is known to be away.
    pub(super) async fn call<T>(
        &self,
        calling: impl Future<Output = Result<T, stream::Error>>,
    ) -> Result<T, Problem> {
        let circuit = &self.gateway.redis;
        circuit.check(Instant::now())?;
        let called = calling.await;
        match called.as_ref().is_err_and(stream::Error::is_outage) {
            true => circuit.failed(Instant::now()),
            false => circuit.succeeded(),
        }
        Ok(called?)
    }
}

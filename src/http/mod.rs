//! Accept: a request becomes a payment and is appended. Also the queries, the
//! operators' API, health, and the description of all of it.
//!
//! The only room with axum. Never posts to the ledger, never takes from the
//! stream, and never knows the worker: what a payment became is asked of the
//! ledger, not told by whoever settled it.

mod problem;
mod access;
mod observe;
mod guard;
mod intake;
mod shapes;
mod description;
mod views;
mod payments;
mod batch;
mod lookup;
mod customers;
mod admin;
mod operator;
mod console;
mod health;
mod rate;
mod places;
mod connection;
mod serve;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::get,
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use intake::Segment;
pub use problem::CODES;
use problem::Problem;
pub use serve::{serve, serve_health};

use crate::{
    circuit_breaker::CircuitBreaker,
    clock::Clock,
    config::GatewayConfig,
    domain::Currency,
    ledger::{self, Reader, Registrar},
    operations::{self, Operations},
    progress::Board,
    stream::{self, Balances, Finder, Producer, Upkeep},
    telemetry::{Moment, Signals},
};

/// Largest body of a request,
const BODY_BYTES_MAX: usize = 16 * 1024;
/// and of one that carries many payments.
const BULK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of such bodies at once, from the first that comes until the answer.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests that may wait for an outcome at once; one more is answered 202.
const WAITERS_MAX: usize = 512;
/// Look-ups that search the streams at once; the next one waits.
const LOOK_UPS_MAX: usize = 2;

/// What the gateway works with.
pub struct Gateway {
    pub producer: Producer,
    /// Finds them in the streams.
    pub finder: Finder,
    /// Answers what became of them.
    pub reader: Reader,
    pub registrar: Registrar,
    pub balances: Balances,
    /// Tells how deep the streams are.
    pub upkeep: Upkeep,
    /// What operators see and do.
    pub operations: Arc<Operations>,
    /// Refuses calls while Redis is known to be away,
    pub redis: Arc<CircuitBreaker>,
    /// and while PostgreSQL is.
    pub postgresql: Arc<CircuitBreaker>,
    /// How the worker of this process fares, if it has one.
    pub board: Option<Arc<Board>>,
    /// Speaks of what it does.
    pub signals: Signals,
    pub config: GatewayConfig,
    /// Tells the time.
    pub clock: Clock,
}

/// The gateway as its handlers see it.
struct Shared {
    gateway: Gateway,
    /// Cancelled when the process is stopping.
    stop: CancellationToken,
    requests: Semaphore,
    bodies: Semaphore,
    waiters: Semaphore,
    look_ups: Semaphore,
    health: health::Latest,
    rate: rate::Rate,
    live: console::Live,
}

type App = Arc<Shared>;

impl Shared {
    /// What is taken now.
    fn rules(&self, now: chrono::DateTime<chrono::Utc>) -> intake::Rules {
        intake::Rules::new(&self.gateway.config, self.gateway.registrar.currency(), now)
    }

    /// Asks the ledger, unless it is known to be away.
    async fn ask<T>(
        &self,
        asking: impl Future<Output = Result<T, ledger::Error>>,
    ) -> Result<T, Problem> {
        let circuit = &self.gateway.postgresql;
        circuit.check(Instant::now())?;
        let started = Moment::now();
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
    async fn call<T>(
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

    /// Lets an operator look or act, unless a store that it needs is known to
    /// be away.
    async fn operate<T>(
        &self,
        acting: impl Future<Output = Result<T, operations::Error>>,
    ) -> Result<T, Problem> {
        Ok(acting.await?)
    }
}

/// Every route, and its description.
fn routes() -> (Router<App>, utoipa::openapi::OpenApi) {
    let bulk = OpenApiRouter::new()
        .routes(routes!(batch::accept_batch))
        .routes(routes!(lookup::look_up))
        .layer(DefaultBodyLimit::max(BULK_BYTES_MAX));
    OpenApiRouter::with_openapi(description::outline())
        // Payments.
        .routes(routes!(payments::accept))
        .routes(routes!(lookup::find))
        // Customers.
        .routes(routes!(customers::list, customers::open))
        .routes(routes!(customers::show))
        .routes(routes!(customers::balance))
        .routes(routes!(customers::statement))
        // Operators.
        .merge(admin::routes())
        // Health.
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(bulk)
        .split_for_parts()
}

/// The description of the API, as `/openapi.json` serves it where accounts are
/// in the default currency.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    description::complete(routes().1, Currency::DEFAULT)
}

/// The whole application.
fn router(shared: App) -> Router {
    let (routes, outline) = routes();
    let description = description::complete(outline, shared.gateway.registrar.currency());
    // A payment may be named like a path beside it.
    let find = |name: &'static str| {
        get(move |app: State<App>| lookup::find(app, Segment(name.to_owned())))
    };
    routes
        .route("/api/v1/payments/batch", find("batch"))
        .route("/api/v1/payments/lookup", find("lookup"))
        .merge(console::routes())
        .merge(SwaggerUi::new("/docs").url("/openapi.json", description))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        // One stack: each layer of a router of its own would cost a request a
        // box and a clone of everything below it.
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(middleware::from_fn_with_state(Arc::clone(&shared), observe::observe))
                .layer(middleware::from_fn(problem::render))
                .layer(CatchPanicLayer::custom(problem::panicked))
                .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard::guard)),
        )
        .with_state(shared)
}

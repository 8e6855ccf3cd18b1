//! A receiver of OTLP, over gRPC and over HTTP, that keeps what it is sent: for
//! tests, which look at it, and for trying dashboards and alerts without
//! containers (`examples/otlp_receiver.rs`). It has the names and labels that
//! the OpenTelemetry collector and Tempo's metrics generator give, and nothing
//! else of them: it forwards nothing and stores nothing.

pub mod exposition;
pub mod kept;
pub mod names;
pub mod received;
mod receiving;
mod service_graph;
mod span_metrics;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

use kept::{Counts, Kept};
use received::{Number, Series, Span};

/// How the sink answers.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// At once.
    Prompt,
    /// After a pause; it takes what it was sent.
    Slow(Duration),
    /// That it is unavailable; it takes nothing.
    Refusing,
    /// Never; it takes nothing.
    Hanging,
}

/// What the listeners and the sink share.
struct Shared {
    kept: Mutex<Kept>,
    manner: Mutex<Manner>,
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver at work. Dropped, it listens no more.
pub struct Sink {
    shared: Arc<Shared>,
    grpc: SocketAddr,
    http: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Sink {
    /// Listens for gRPC here, and for HTTP there.
    pub async fn listen(grpc: SocketAddr, http: SocketAddr) -> io::Result<Self> {
        let (grpc, http) = (TcpListener::bind(grpc).await?, TcpListener::bind(http).await?);
        let shared = Arc::new(Shared {
            kept: Mutex::new(Kept::default()),
            manner: Mutex::new(Manner::Prompt),
        });
        let (grpc_address, http_address) = (grpc.local_addr()?, http.local_addr()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(receiving::grpc(grpc, Arc::clone(&shared)));
        tasks.spawn(receiving::http(http, Arc::clone(&shared)));
        Ok(Self { shared, grpc: grpc_address, http: http_address, _tasks: tasks })
    }

    /// Where it takes gRPC.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Where it takes protobuf over HTTP, below `/v1/traces` and `/v1/metrics`.
    /// Its `/metrics` is what Prometheus would scrape.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// From now on, it answers like this. What hangs goes on hanging.
    pub fn answer(&self, manner: Manner) {
        *self.shared.manner() = manner;
    }

    /// The spans it was sent, oldest first.
    pub fn spans(&self) -> Vec<Span> {
        self.shared.kept().spans().cloned().collect()
    }

    /// Those of one trace, by when they began.
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace_id == trace_id);
        spans.sort_by_key(|span| span.start);
        spans
    }

    /// All series it was sent, with their last values.
    pub fn series(&self) -> Vec<Series> {
        self.shared.kept().series().cloned().collect()
    }

    /// Those of one metric.
    pub fn metric(&self, name: &str) -> Vec<Series> {
        let mut series = self.series();
        series.retain(|one| one.name == name);
        series
    }

    /// A metric's sum over all series that have these attributes; of a
    /// histogram, how many values it has.
    #[allow(clippy::float_arithmetic, reason = "OTLP's numbers are floats")]
    pub fn total(&self, name: &str, attributes: &[(&str, Value)]) -> f64 {
        let has = |series: &&Series| {
            attributes.iter().all(|(name, value)| series.attributes.get(*name) == Some(value))
        };
        let series = self.metric(name);
        let values = series.iter().filter(has).map(|one| match one.value {
            Number::Plain(value) => value,
            Number::Spread { count, .. } => count,
        });
        values.sum()
    }

    /// What it has counted.
    pub fn counts(&self) -> Counts {
        self.shared.kept().counts.clone()
    }
}

//! A receiver of OTLP, over gRPC and over HTTP, that keeps what it is sent: for
//! tests, which look at it, and for trying dashboards and alerts without
//! containers (`examples/otlp_receiver.rs`). It has the names and labels that
//! the OpenTelemetry collector and Tempo's metrics generator give, and nothing
//! else of them: it forwards nothing and stores nothing.

mod generator;
pub mod received;
mod receiving;
mod shown;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};

use generator::Generator;
use received::{Number, Series, Span};

/// Spans that are kept; older ones are forgotten.
const SPANS_MAX: usize = 100_000;
/// Series that are kept; more are refused.
const SERIES_MAX: usize = 50_000;

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
    /// That it is unavailable, to Prometheus as well.
    #[allow(dead_code, reason = "examples/observe takes it away; tests refuse")]
    Gone,
}

/// Everything that was received.
#[derive(Default)]
struct Kept {
    spans: VecDeque<Span>,
    series: BTreeMap<String, Series>,
    generator: Generator,
    /// What was counted, by its name and by transport.
    counts: BTreeMap<(String, &'static str), u64>,
}

impl Kept {
    fn count(&mut self, what: &str, transport: &'static str, more: usize) {
        *self.counts.entry((what.to_owned(), transport)).or_default() += more as u64;
    }

    fn add_spans(&mut self, spans: impl Iterator<Item = Span>) {
        for span in spans {
            self.generator.add(&span, Instant::now());
            if self.spans.len() >= SPANS_MAX {
                self.spans.pop_front();
            }
            self.spans.push_back(span);
        }
    }

    /// A later value takes the place of an earlier one.
    fn add_series(&mut self, all: Vec<Series>) {
        for series in all {
            let key = series.key();
            if self.series.len() < SERIES_MAX || self.series.contains_key(&key) {
                self.series.insert(key, series);
            }
        }
    }
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
        let (kept, manner) = (Mutex::default(), Mutex::new(Manner::Prompt));
        let shared = Arc::new(Shared { kept, manner });
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
        self.shared.kept().spans.iter().cloned().collect()
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
        self.shared.kept().series.values().cloned().collect()
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

    /// What it has counted under this name, by transport.
    pub fn counted(&self, what: &str) -> BTreeMap<&'static str, u64> {
        let kept = self.shared.kept();
        let ours = kept.counts.iter().filter(|((name, _), _)| name == what);
        ours.map(|((_, transport), count)| (*transport, *count)).collect()
    }

    /// Requests that came, whatever became of them.
    pub fn requests(&self) -> u64 {
        self.counted("requests").values().sum()
    }
}

//! The handle with which rooms report what they do: metrics, spans and samples of gauges.
//! Costs next to nothing while no telemetry is exported. Never fails and never waits.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use ring::hmac;
use tracing::{error, warn};

use super::{
    catalog,
    gauges::{GaugeSource, Gauges, Sample},
    logs::LogLevel,
    meters::Meters,
    spans::{Spans, StorePlaces},
    words,
};
use crate::domain::Reference;

/// The log level that a signal switches to.
const DETAILED: &str = "info,paystream=debug";

/// Clones share what is measured.
#[derive(Clone)]
pub struct Signals(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) meters: Meters,
    pub(super) gauges: Gauges,
    pub(super) spans: Spans,
    level: Option<LogLevel>,
    /// Whether metrics are exported.
    heard: bool,
    /// Of this machine.
    pub(super) host: String,
    /// What hides references in spans; until it is known, they have none.
    trace_key: OnceLock<hmac::Key>,
}

impl Signals {
    pub(super) fn new(
        provider: &SdkMeterProvider,
        spans: Spans,
        level: Option<LogLevel>,
        heard: bool,
        host: String,
    ) -> Self {
        let meter = provider.meter("paystream");
        let (meters, gauges) = (Meters::new(&meter), Gauges::register(&meter));
        let trace_key = OnceLock::new();
        Self(Arc::new(Inner { meters, gauges, spans, level, heard, host, trace_key }))
    }

    /// Whether telemetry is exported, so that taking samples is worth it.
    pub fn are_heard(&self) -> bool {
        self.0.heard
    }

    /// The process has begun, in this role. Said from now on, whether it can serve or not.
    pub fn begins(&self, role: &'static str, now: Instant) {
        let uptime = Sample::since(&catalog::UPTIME, now).by(words::ROLE, role);
        self.saw(GaugeSource::Start, now, vec![uptime]);
    }

    /// From now on spans say where the stores are.
    pub fn know_stores(&self, places: StorePlaces) {
        self.0.spans.places.get_or_init(|| places);
    }

    /// From now on spans name references under this key.
    pub fn hide_references(&self, trace_key: &[u8]) {
        let key = || hmac::Key::new(hmac::HMAC_SHA256, trace_key);
        self.0.trace_key.get_or_init(key);
    }

    /// What a span says of a reference: enough to find it again, for whoever has the key.
    pub(super) fn reference(&self, reference: &Reference) -> Option<KeyValue> {
        let key = self.0.trace_key.get()?;
        let tag = hmac::sign(key, reference.as_str().as_bytes());
        let name: String = tag.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Some(KeyValue::new(words::REFERENCE, name))
    }

    /// The log level; none where no log was started.
    pub fn log_level(&self) -> Option<&LogLevel> {
        self.0.level.as_ref()
    }

    /// Switches between the configured log level and debug.
    pub fn toggle_log_level(&self) {
        let Some(level) = self.log_level() else { return };
        let configured = level.configured().to_owned();
        let before = level.now();
        let wanted = if before == configured { DETAILED } else { configured.as_str() };
        match level.set(wanted) {
            // A signal has no actor, so the audit log has no row of it.
            Ok(()) => {
                let actor = "signal";
                warn!(level = wanted, before, actor, "the log level was changed by a signal");
            }
            Err(error) => error!("the log level could not be changed: {error:#}"),
        }
    }

    /// Replaces all samples of a source; none when it could not be read.
    pub fn saw(&self, source: GaugeSource, now: Instant, samples: Vec<Sample>) {
        self.0.gauges.set(source, now, samples);
    }

    /// Stops exporting all gauges, because nobody updates them any more.
    pub fn forget_what_was_seen(&self) {
        self.0.gauges.clear();
    }

    /// Measures how long a query waited for a connection of this pool.
    pub fn waited_for_connection(&self, pool: &'static str, waited: Duration) {
        let pool = [KeyValue::new(words::POOL, pool)];
        self.0.meters.pool_wait.record(waited.as_secs_f64(), &pool);
    }

    /// Signals with metrics only, for this provider.
    pub fn measuring(provider: &SdkMeterProvider) -> Self {
        Self::new(provider, Spans::off(), None, true, String::new())
    }

    /// Signals that go nowhere.
    pub fn off() -> Self {
        Self::unheard(None)
    }

    pub(super) fn unheard(level: Option<LogLevel>) -> Self {
        Self::new(&SdkMeterProvider::default(), Spans::off(), level, false, String::new())
    }
}

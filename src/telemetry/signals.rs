//! What the rooms are handed to speak with: what they counted, how long it
//! took, and which traces it belongs to. Costs next to nothing while nobody
//! listens. Never fails and never waits.

use std::sync::Arc;

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tracing::{error, warn};

use super::{gauges::Gauges, logs::LogLevel, meters::Meters, spans::Spans};

/// What is logged while somebody looks closely.
const DETAILED: &str = "info,paystream=debug";

/// A handle to everything that is measured; clones share it.
#[derive(Clone)]
pub struct Signals(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) meters: Meters,
    pub(super) gauges: Gauges,
    pub(super) spans: Spans,
    level: Option<LogLevel>,
    /// Whether metrics go anywhere.
    heard: bool,
}

impl Signals {
    pub(super) fn new(provider: &SdkMeterProvider, spans: Spans, level: Option<LogLevel>) -> Self {
        Self::over(provider, spans, level, true)
    }

    fn over(
        provider: &SdkMeterProvider,
        spans: Spans,
        level: Option<LogLevel>,
        heard: bool,
    ) -> Self {
        let meter = provider.meter("paystream");
        let (meters, gauges) = (Meters::new(&meter), Gauges::register(&meter));
        Self(Arc::new(Inner { meters, gauges, spans, level, heard }))
    }

    /// Whether somebody listens, so that looking around is worth it.
    #[must_use]
    pub fn are_heard(&self) -> bool {
        self.0.heard
    }

    /// How much is logged; nothing where no log was started.
    #[must_use]
    pub fn log_level(&self) -> Option<&LogLevel> {
        self.0.level.as_ref()
    }

    /// Logs everything in detail, or again what was configured.
    pub fn toggle_log_level(&self) {
        let Some(level) = self.log_level() else { return };
        let configured = level.configured().to_owned();
        let before = level.now();
        let wanted = if before == configured { DETAILED } else { configured.as_str() };
        match level.set(wanted) {
            // A signal names nobody, so that the audit log has no row of it.
            Ok(()) => {
                let actor = "signal";
                warn!(level = wanted, before, actor, "the log level was changed by a signal");
            }
            Err(error) => error!("the log level could not be changed: {error:#}"),
        }
    }

    /// Signals whose metrics go to this provider, and that write no traces.
    #[must_use]
    pub fn measuring(provider: &SdkMeterProvider) -> Self {
        Self::new(provider, Spans::off(), None)
    }

    /// Signals that nobody listens to.
    #[must_use]
    pub fn off() -> Self {
        Self::unheard(None)
    }

    /// The same, of a process that logs.
    pub(super) fn unheard(level: Option<LogLevel>) -> Self {
        Self::over(&SdkMeterProvider::default(), Spans::off(), level, false)
    }
}

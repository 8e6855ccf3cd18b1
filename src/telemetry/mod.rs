//! How the process speaks of itself: metrics, traces and logs. Never a condition
//! of service: nothing waits for it, and nothing fails with it.
//!
//! The only room with opentelemetry. Rooms are handed [`Signals`] and say what
//! happened; which of it becomes a span, and where it goes, is decided here.

mod attempts;
pub mod catalog;
mod export;
mod gateway;
mod gauges;
mod logs;
mod meters;
mod signals;
mod spans;
pub mod traceparent;
pub mod words;
mod worker;

use std::{sync::mpsc, thread, time::Duration};

use anyhow::Context;
use opentelemetry_sdk::metrics::SdkMeterProvider;

pub use export::Service;
pub use gateway::{Active, Exchange, RequestTrace, Sending, Sent};
pub use gauges::{Look, Sample};
pub use logs::{LogLevel, within};
pub use signals::Signals;
pub use spans::Moment;
use spans::Spans;
pub use worker::{Buried, Earlier, Failure, Steps, Tried};

use crate::config::{ExportConfig, TelemetryConfig};

/// How long an end waits for what has not been delivered.
const FAREWELL: Duration = Duration::from_secs(3);

/// Starts logging.
///
/// # Errors
/// When the filter is not one.
pub fn log(config: &TelemetryConfig) -> anyhow::Result<LogLevel> {
    logs::init(config)
}

/// Signals, and their way out.
pub struct Telemetry {
    /// What the rooms are handed.
    pub signals: Signals,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts sending, if there is anywhere to send to.
    ///
    /// # Errors
    /// When a setting is wrong; not when nobody listens.
    pub fn start(
        config: &ExportConfig,
        service: Service,
        level: LogLevel,
        seed: u64,
    ) -> anyhow::Result<Self> {
        if !export::is_wanted() {
            return Ok(Self { signals: Signals::unheard(Some(level)), metrics: None });
        }
        let ratio = match config.trace_ratio {
            Some(ratio) => ratio,
            None => export::ratio_of_the_environment()?.unwrap_or(DEFAULT_RATIO),
        };
        let resource = export::resource(service, ratio);
        let processor = export::spans(&resource).context("telemetry cannot be sent")?;
        let metrics = export::metrics(resource).context("telemetry cannot be sent")?;
        let spans = Spans::new(processor, ratio, config.trace_slow, seed);
        Ok(Self { signals: Signals::new(&metrics, spans, Some(level)), metrics: Some(metrics) })
    }

    /// Sends what is left, for three seconds at most.
    pub fn shut_down(self) {
        let Some(metrics) = self.metrics else { return };
        let signals = self.signals;
        let (done, ended) = mpsc::channel();
        // The exporter may wait longer than it is told to.
        thread::spawn(move || {
            signals.0.spans.shut_down(FAREWELL);
            // What is not delivered by now is not missed.
            let _ = metrics.shutdown_with_timeout(FAREWELL);
            let _ = done.send(());
        });
        let _ = ended.recv_timeout(FAREWELL);
    }
}

/// Traces that are recorded unless a setting says otherwise.
const DEFAULT_RATIO: f64 = 0.01;

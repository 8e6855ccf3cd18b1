//! Metrics, traces and logs. Never a condition of service: no payment waits for telemetry,
//! and none fails with it.
//!
//! The only room with opentelemetry. Other rooms report events to [`Signals`]; this room
//! decides which become spans and where they are exported.

mod attempts;
mod batches;
pub mod catalog;
mod export;
mod gateway;
mod gauges;
mod logs;
mod meters;
mod sampling;
mod signals;
mod spans;
pub mod traceparent;
pub mod words;
mod worker;

use std::{sync::mpsc, thread, time::Duration};

use anyhow::Context;
use opentelemetry_sdk::metrics::SdkMeterProvider;

pub use export::Service;
pub use gateway::{Active, Exchange, SendResult, SendSpan};
pub use gauges::{GaugeSource, Sample};
pub use logs::{LogLevel, within};
pub use signals::Signals;
use spans::Spans;
pub use spans::{RequestTrace, StorePlaces, Timestamp};
pub use worker::{BatchFailure, Buried, Earlier, Steps, Tried};

use crate::config::{ExportConfig, TelemetryConfig};

/// How long shutting down waits for undelivered telemetry.
const FAREWELL: Duration = Duration::from_secs(3);

/// Starts logging; fails on an invalid filter.
pub fn log(config: &TelemetryConfig) -> anyhow::Result<LogLevel> {
    logs::init(config)
}

pub struct Telemetry {
    pub signals: Signals,
    metrics: Option<SdkMeterProvider>,
}

impl Telemetry {
    /// Starts exporting, if a collector is configured. Fails on a wrong setting, not when the
    /// collector is away.
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
        let host = service.host.clone();
        let resource = export::resource(service, ratio);
        let processor = export::spans(&resource).context("telemetry cannot be exported")?;
        let metrics = export::metrics(resource).context("telemetry cannot be exported")?;
        let spans = Spans::new(processor, ratio, config.trace_slow, seed);
        Ok(Self {
            signals: Signals::new(&metrics, spans, Some(level), true, host),
            metrics: Some(metrics),
        })
    }

    /// Exports what is left, for three seconds at most.
    pub fn shut_down(self) {
        let Some(metrics) = self.metrics else { return };
        let signals = self.signals;
        let (done, ended) = mpsc::channel();
        // The exporter may wait longer than its timeout.
        thread::spawn(move || {
            signals.0.spans.shut_down(FAREWELL);
            let _ = metrics.shutdown_with_timeout(FAREWELL);
            let _ = done.send(());
        });
        let _ = ended.recv_timeout(FAREWELL);
    }
}

/// Share of traces that are recorded by default.
const DEFAULT_RATIO: f64 = 0.01;

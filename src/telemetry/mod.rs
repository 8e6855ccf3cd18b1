//! How the process speaks of itself. Never a condition of service: nothing
//! waits for it, and nothing fails with it.

pub mod catalog;
mod gauges;
mod meters;
mod signals;

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

pub use signals::Signals;

use crate::config::{LogFormat, TelemetryConfig};

/// Starts logging to standard error; standard output belongs to the commands.
///
/// # Errors
/// When the filter is not one.
pub fn init(config: &TelemetryConfig) -> anyhow::Result<Signals> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("PAYSTREAM_LOG is not a log filter: {}", config.log))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match config.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer = if json {
        layer.json().flatten_event(true).boxed()
    } else {
        layer.with_ansi(terminal).boxed()
    };
    tracing_subscriber::registry().with(filter).with(layer).init();
    Ok(Signals::off())
}

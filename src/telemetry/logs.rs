//! Log lines on standard error, each with its request id and trace id. The level can be
//! changed while the process runs. Never decides what is logged.

use std::{
    fmt,
    io::IsTerminal,
    iter,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, ensure};
use tokio::task_local;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use super::spans::RequestTrace;
use crate::config::{LogFormat, TelemetryConfig};

task_local! {
    static REQUEST: (RequestTrace, String);
}

/// Runs the handler of a request; its log lines carry the request's id and trace.
pub fn within<T>(
    trace: RequestTrace,
    request_id: String,
    answering: impl Future<Output = T>,
) -> impl Future<Output = T> {
    REQUEST.scope((trace, request_id), answering)
}

/// The request that is being answered here, if any.
pub(super) fn current_request() -> Option<RequestTrace> {
    REQUEST.try_with(|(trace, _)| *trace).ok()
}

/// Fields of the current request, values as JSON.
fn request_fields() -> Vec<(&'static str, String)> {
    let fields = REQUEST.try_with(|(trace, request_id)| {
        let request_id = ("request_id", serde_json::Value::from(request_id.as_str()).to_string());
        let ids = [("trace_id", trace.trace_id()), ("caller_trace_id", trace.caller_trace_id())];
        let ids = ids.into_iter().filter_map(|(name, id)| Some((name, format!("\"{}\"", id?))));
        iter::once(request_id).chain(ids).collect()
    });
    fields.unwrap_or_default()
}

pub struct LogLevel {
    handle: reload::Handle<EnvFilter, Registry>,
    now: Mutex<String>,
    configured: String,
}

impl LogLevel {
    /// The current level or directives.
    pub fn now(&self) -> String {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn configured(&self) -> &str {
        &self.configured
    }

    /// Sets the level until the process ends; an invalid filter changes nothing.
    pub fn set(&self, directives: &str) -> anyhow::Result<()> {
        let filter = filter(directives)?;
        self.handle.reload(filter).context("the log filter could not be changed")?;
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = directives.to_owned();
        Ok(())
    }
}

/// Starts logging to standard error; standard output belongs to the commands.
pub(super) fn init(config: &TelemetryConfig) -> anyhow::Result<LogLevel> {
    let filter = filter(&config.log).context("PAYSTREAM_LOG")?;
    let terminal = std::io::stderr().is_terminal();
    let json = match config.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let (filter, handle) = reload::Layer::new(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = if json {
        let format =
            LogFormatter::Json(Format::default().with_target(false).json().flatten_event(true));
        layer.json().event_format(format).boxed()
    } else {
        let format = LogFormatter::Text(Format::default().with_ansi(terminal).with_target(false));
        layer.with_ansi(terminal).event_format(format).boxed()
    };
    tracing_subscriber::registry().with(filter).with(layer).init();
    let configured = config.log.clone();
    Ok(LogLevel { handle, now: Mutex::new(configured.clone()), configured })
}

/// The exporter's own lines are off: `export.rs` logs its failures, once each.
fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    ensure!(
        directives.split(',').all(is_directive) && directives.split(',').any(is_heard),
        "{directives} is not a log filter; use a level such as debug, or directives such as \
         info,paystream=debug"
    );
    let filter = EnvFilter::try_new(directives)
        .with_context(|| format!("{directives} is not a log filter; use a level such as debug"))?;
    let quiet = ["opentelemetry=off", "opentelemetry_sdk=off", "opentelemetry-otlp=off"];
    quiet.iter().try_fold(filter, |filter, quiet| Ok(filter.add_directive(quiet.parse()?)))
}

/// A level, or a target and its level. The library takes a misspelt level for a target, and
/// then logs nothing else.
fn is_directive(text: &str) -> bool {
    match text.split_once('=') {
        Some((target, level)) => {
            let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
            !target.is_empty() && target.chars().all(named) && is_level(level)
        }
        None => is_level(text),
    }
}

/// Whether a directive sets the level of paystream's own lines.
fn is_heard(text: &str) -> bool {
    text.split_once('=').is_none_or(|(target, _)| target.starts_with("paystream"))
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

enum LogFormatter {
    Json(Format<Json>),
    Text(Format<Full>),
}

impl<S, N> FormatEvent<S, N> for LogFormatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        let mut lined = Writer::new(&mut line);
        match self {
            Self::Json(format) => {
                format.format_event(context, lined.by_ref(), event)?;
                let Some(open) = line.trim_end().strip_suffix('}') else {
                    return writer.write_str(&line);
                };
                writer.write_str(open)?;
                for (name, value) in request_fields() {
                    write!(writer, r#","{name}":{value}"#)?;
                }
                writeln!(writer, "}}")
            }
            Self::Text(format) => {
                format.format_event(context, lined.by_ref(), event)?;
                writer.write_str(line.trim_end())?;
                for (name, value) in request_fields() {
                    write!(writer, " {name}={}", value.trim_matches('"'))?;
                }
                writeln!(writer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_filter_is_of_levels_and_says_how_much_of_our_own_is_logged() {
        for good in ["debug", "WARN", "off", "info,paystream=debug", "paystream::http=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let silent = ["loud", "info,loud", "", "info,", "a=b=c", "paystream=loud", "paystream"];
        for bad in silent.into_iter().chain(["nowhere=debug", "=debug", "info,[span]=debug"]) {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}

//! Export to an OpenTelemetry collector, over OTLP, in the background. The `OTEL_*` variables
//! are those of the specification and are read by the SDK. Never a condition of service:
//! telemetry that cannot be delivered is dropped, and the failure is logged once.

use std::{
    env,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{
    MetricExporter, SpanExporter, WithTonicConfig, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality, data::ResourceMetrics,
        exporter::PushMetricExporter,
    },
    resource::EnvResourceDetector,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanProcessor},
};
use tracing::{info, warn};

use super::spans::SAMPLE_RATIO;

/// Interval between exports of the metrics.
const METRICS_EVERY: Duration = Duration::from_secs(10);
/// Spans that may wait for the exporter; more are dropped.
const SPANS_MAX: usize = 65_536;
/// Spans in one export.
const SPANS_PER_EXPORT: usize = 4_096;
/// Interval between exports of spans.
const SPANS_EVERY: Duration = Duration::from_millis(500);

/// The process, as it is called in all that it exports.
pub struct Service {
    /// `paystream-gateway`, `paystream-worker`, or `paystream` for both in one.
    pub name: &'static str,
    /// Distinguishes processes of one name.
    pub instance: String,
    pub host: String,
}

/// Whether an endpoint is configured.
pub(super) fn is_wanted() -> bool {
    let disabled = text("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let endpoints = ["", "TRACES_", "METRICS_"];
    !disabled && endpoints.iter().any(|signal| endpoint(signal).is_some())
}

/// The sample ratio of the `OTEL_*` variables.
pub(super) fn ratio_of_the_environment() -> anyhow::Result<Option<f64>> {
    let Some(sampler) = text("OTEL_TRACES_SAMPLER") else { return Ok(None) };
    match sampler.strip_prefix("parentbased_").unwrap_or(&sampler) {
        "always_on" => Ok(Some(1.0)),
        "always_off" => Ok(Some(0.0)),
        "traceidratio" => {
            let ratio = text("OTEL_TRACES_SAMPLER_ARG").unwrap_or_else(|| "1".to_owned());
            let ratio: f64 = ratio.parse().context("OTEL_TRACES_SAMPLER_ARG is not a number")?;
            ensure!((0.0..=1.0).contains(&ratio), "OTEL_TRACES_SAMPLER_ARG must be from 0 to 1");
            Ok(Some(ratio))
        }
        _ => bail!(
            "OTEL_TRACES_SAMPLER {sampler} is not supported: use always_on, always_off, \
             traceidratio or one of them with parentbased_, or set PAYSTREAM_TRACE_RATIO"
        ),
    }
}

pub(super) fn resource(service: Service, ratio: f64) -> Resource {
    let ours = [
        KeyValue::new("service.name", service.name),
        KeyValue::new("service.namespace", "payments"),
        KeyValue::new("service.instance.id", service.instance),
        KeyValue::new("host.name", service.host),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new(SAMPLE_RATIO, ratio),
    ];
    // The environment overrides.
    let named = text("OTEL_SERVICE_NAME").map(|name| KeyValue::new("service.name", name));
    let resource = Resource::builder_empty().with_attributes(ours);
    resource.with_detector(Box::new(EnvResourceDetector::new())).with_attributes(named).build()
}

/// The exporter of spans; none when they are not exported.
pub(super) fn spans(resource: &Resource) -> anyhow::Result<Option<BatchSpanProcessor>> {
    if !is_exported("TRACES") {
        return Ok(None);
    }
    let built = match protocol("TRACES_")? {
        Protocol::Grpc => {
            SpanExporter::builder().with_tonic().with_tls_config(trusted_roots()).build()
        }
        Protocol::Http => SpanExporter::builder().with_http().build(),
    };
    let exporter = LoggingExporter::new("traces", built.context("OTEL_EXPORTER_OTLP_ENDPOINT")?);
    let mut bounds = BatchConfigBuilder::default();
    if text("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
        bounds = bounds.with_max_queue_size(SPANS_MAX);
    }
    if text("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").is_none() {
        bounds = bounds.with_max_export_batch_size(SPANS_PER_EXPORT);
    }
    if text("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        bounds = bounds.with_scheduled_delay(SPANS_EVERY);
    }
    let builder = BatchSpanProcessor::builder(exporter).with_batch_config(bounds.build());
    let mut processor = builder.build();
    processor.set_resource(resource);
    Ok(Some(processor))
}

pub(super) fn metrics(resource: Resource) -> anyhow::Result<SdkMeterProvider> {
    let provider = SdkMeterProvider::builder().with_resource(resource);
    if !is_exported("METRICS") {
        return Ok(provider.build());
    }
    let built = match protocol("METRICS_")? {
        Protocol::Grpc => {
            MetricExporter::builder().with_tonic().with_tls_config(trusted_roots()).build()
        }
        Protocol::Http => MetricExporter::builder().with_http().build(),
    };
    let exporter = LoggingExporter::new("metrics", built.context("OTEL_EXPORTER_OTLP_ENDPOINT")?);
    let mut reader = PeriodicReader::builder(exporter);
    if text("OTEL_METRIC_EXPORT_INTERVAL").is_none() {
        reader = reader.with_interval(METRICS_EVERY);
    }
    Ok(provider.with_reader(reader.build()).build())
}

enum Protocol {
    Grpc,
    Http,
}

fn protocol(signal: &str) -> anyhow::Result<Protocol> {
    let variable = format!("OTEL_EXPORTER_OTLP_{signal}PROTOCOL");
    let protocol = text(&variable).or_else(|| text("OTEL_EXPORTER_OTLP_PROTOCOL"));
    match protocol.as_deref() {
        None | Some("grpc") => Ok(Protocol::Grpc),
        Some("http/protobuf") => {
            let endpoint = endpoint(signal).unwrap_or_default();
            ensure!(
                !endpoint.starts_with("https:"),
                "OTEL_EXPORTER_OTLP_ENDPOINT {endpoint}: https is supported over grpc only; set \
                 OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or send to a collector beside this process"
            );
            Ok(Protocol::Http)
        }
        Some(other) => {
            bail!("OTEL_EXPORTER_OTLP_PROTOCOL {other} is not supported: use grpc or http/protobuf")
        }
    }
}

/// Used where the endpoint is https.
fn trusted_roots() -> ClientTlsConfig {
    ClientTlsConfig::new().with_enabled_roots()
}

fn endpoint(signal: &str) -> Option<String> {
    let own = text(&format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT"));
    own.or_else(|| text("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

fn is_exported(signal: &str) -> bool {
    let wanted = text(&format!("OTEL_{signal}_EXPORTER"));
    wanted.as_deref() != Some("none") && endpoint(&format!("{signal}_")).is_some()
}

/// A variable that is set and not empty.
fn text(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|text| !text.is_empty())
}

/// An exporter that logs when it begins to fail, and when it works again.
#[derive(Debug)]
struct LoggingExporter<E> {
    signal: &'static str,
    exporter: E,
    fails: Arc<AtomicBool>,
}

impl<E> LoggingExporter<E> {
    fn new(signal: &'static str, exporter: E) -> Self {
        Self { signal, exporter, fails: Arc::default() }
    }

    fn note(&self, result: OTelSdkResult) -> OTelSdkResult {
        let signal = self.signal;
        match &result {
            Err(error) if !self.fails.swap(true, Ordering::Relaxed) => {
                warn!(signal, %error, "telemetry export failed; payments are not affected");
            }
            Ok(()) if self.fails.swap(false, Ordering::Relaxed) => {
                info!(signal, "telemetry export works again");
            }
            Ok(()) | Err(_) => {}
        }
        result
    }
}

impl<E: opentelemetry_sdk::trace::SpanExporter> opentelemetry_sdk::trace::SpanExporter
    for LoggingExporter<E>
{
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.note(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for LoggingExporter<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.note(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

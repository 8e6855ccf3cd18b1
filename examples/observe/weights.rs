//! Holds what is counted from sampled spans against what is counted of everything. Rates of spans
//! are worth something only while both agree.

use super::report::Report;

/// How far a figure made of spans may be from the truth; at 1,000 sampled spans, chance is a
/// third of it.
const TOLERANCE: f64 = 0.1;
/// Fewer spans than this say nothing.
const SPANS_MIN: usize = 500;

/// Each kind of span, and what counts the same.
const SPANS: [(&str, &str); 7] = [
    (
        "POST /api/v1/payments",
        "http_server_request_duration_seconds_count{http_request_method=\"POST\",\
         http_route=\"/api/v1/payments\"}",
    ),
    ("send payments", "paystream_payments_received_total{paystream_outcome!=\"invalid\"}"),
    ("process payments", "paystream_payments_processed_total"),
    ("settle batch", BATCHES),
    ("receive payments", BATCHES),
    ("INSERT processed_transactions", BATCHES),
    ("ack payments", BATCHES),
];
const BATCHES: &str = "paystream_batch_size_count";

/// Adds a row for each kind of span.
#[allow(clippy::float_arithmetic, reason = "figures of Prometheus are floats")]
pub async fn compare(report: &mut Report<'_>) -> anyhow::Result<()> {
    for (name, counter) in SPANS {
        let made = format!("sum(traces_spanmetrics_calls_total{{span_name=\"{name}\"}})");
        let (made, true_count) =
            (report.one(&made).await?, report.one(&format!("sum({counter})")).await?);
        let written = report.written_spans(name);
        let off = made / true_count - 1.0;
        let told =
            format!("{made:.0} of {true_count:.0} from {written} spans: {:+.1} %", off * 100.0);
        let is_fault = off.is_nan() || off.abs() > TOLERANCE;
        match (written < SPANS_MIN, is_fault) {
            (true, _) => report.note("spans", name, "too few", &told),
            (false, true) => report.fault("spans", name, "WRONG", &told),
            (false, false) => report.note("spans", name, "agrees", &told),
        }
    }
    Ok(())
}

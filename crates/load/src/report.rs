//! What is told at the end, and whether it is good. Never measures anything itself.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    args::LoadArgs,
    audit::Audit,
    cpu::Cpu,
    drain::{Drain, millis},
    record::{Counts, Fate, RunFigures},
};

/// Arrivals later than this at p99 say that the rate was not kept.
const LATE: Duration = Duration::from_millis(20);
/// Connections this busy are what held the rate back.
const BUSY_PERCENT: u64 = 80;

/// Percentiles of a histogram, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

impl Percentiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) run_id: String,
    pub(super) seed: u64,
    pub(super) options: Value,
    pub(super) interrupted: bool,
    pub(super) sending: SendingReport,
    pub(super) drain: Option<Drain>,
    /// Payments found applied, per second from the first sent until drained.
    pub(super) applied_per_second: Option<u64>,
    /// The same, from the first received to the last applied, by the service's clocks.
    pub(super) ledger_applied_per_second: Option<u64>,
    pub(super) audit: Option<Audit>,
    /// Why there is no audit, where one was wanted.
    pub(super) audit_error: Option<String>,
    pub(super) cpu: Option<Cpu>,
    pub(super) problems: Vec<String>,
}

/// The options that the payments and their rate depend on.
pub(super) fn options(args: &LoadArgs) -> Value {
    json!({
        "url": args.url,
        "rate": args.rate,
        "duration_ms": millis(args.duration),
        "customers": args.customers,
        "distribution": args.distribution,
        "duplicates_ppm": args.duplicates,
        "invalid_ppm": args.invalid,
        "connections": args.connections,
        "batch": args.batch,
    })
}

/// What was sent and what was answered.
#[derive(Debug, Serialize)]
pub(super) struct SendingReport {
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// From the start to the last answer.
    pub(super) took_ms: u64,
    pub(super) due: u64,
    pub(super) not_sent: u64,
    /// Payments sent per second, from the first to the last.
    pub(super) achieved_per_second: u64,
    pub(super) accepted: u64,
    /// References of which nobody said whether they were taken.
    pub(super) unknown: u64,
    /// From due to answered.
    pub(super) accept_latency_us: Percentiles,
    /// From due to sent.
    pub(super) lateness_us: Percentiles,
    /// How much of the time connections were waiting for answers.
    pub(super) connections_busy_percent: u64,
    /// A sentence when the rate was not kept, and what held it back.
    pub(super) behind: Option<String>,
}

impl SendingReport {
    pub(super) fn of(figures: &RunFigures, due: u64, connections: u32, took: Duration) -> Self {
        let sent = figures.counts.sent;
        let span = figures.first_sent.zip(figures.last_sent).map(|(first, last)| last - first);
        let whole = took.as_micros() * u128::from(connections);
        let busy = u64::try_from(figures.busy.as_micros() * 100 / whole.max(1)).unwrap_or(100);
        let lateness_us = Percentiles::of(&figures.lateness);
        Self {
            counts: figures.counts.clone(),
            took_ms: millis(took),
            due,
            not_sent: due - sent.min(due),
            achieved_per_second: per_second(sent, span.unwrap_or_default()),
            accepted: figures.count(Fate::Accepted),
            unknown: figures.count(Fate::Unknown),
            accept_latency_us: Percentiles::of(&figures.accept_latency),
            behind: behind(&lateness_us, &figures.counts, busy),
            lateness_us,
            connections_busy_percent: busy,
        }
    }
}

/// What forbids calling the run clean, one sentence each.
pub(super) fn problems(report: &Report) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            problems.push(format!("{count} {what}"));
        }
    };
    let counts = &report.sending.counts;
    say(counts.invalid_accepted, "invalid payments were accepted");
    if report.sending.accepted == 0 && !report.interrupted {
        let valid = report.sending.due - counts.invalid_sent;
        say(valid, "payments were due, and none was accepted");
    }
    if let Some(audit) = &report.audit {
        say(audit.lost.count, "accepted payments are lost");
        say(audit.unsettled.count, "payments are still not settled");
        say(audit.altered.count, "payments were applied with another customer or amount");
        say(audit.misordered.count, "payments were accepted behind later ones of their batch");
        say(
            audit.differences.count,
            "accounts grew by another amount than their payments of this run: payments were \
             doubled or left out, or others paid into the same accounts meanwhile",
        );
    }
    if let Some(drain) = report.drain.as_ref().filter(|drain| !drain.drained) {
        let what = match drain.backlog {
            Some(backlog) => format!("{backlog} payments were not settled"),
            None => "nobody knows whether all payments were settled".to_owned(),
        };
        let why = drain.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        problems.push(format!("{what} after {} s of waiting{why}", drain.waited_ms / 1000));
    }
    problems.extend(report.audit_error.iter().map(|error| format!("no audit: {error}")));
    problems
}

/// `count` per second over `span`; all of it when there is no span.
pub(super) fn per_second(count: u64, span: Duration) -> u64 {
    if span.is_zero() {
        return count;
    }
    u64::try_from(u128::from(count) * 1_000_000_000 / span.as_nanos()).unwrap_or(u64::MAX)
}

fn behind(lateness: &Percentiles, counts: &Counts, busy_percent: u64) -> Option<String> {
    if counts.sent > 0 && u128::from(lateness.p99) < LATE.as_micros() {
        return None;
    }
    let why = if counts.connect_failures > 0 {
        "the service could not be reached for a while"
    } else if busy_percent >= BUSY_PERCENT {
        "all connections were busy: the service was slower, or needs more of them"
    } else {
        "connections were free at times: the service stalled, or the load generator itself could \
         not keep up"
    };
    let late = time(lateness.p99);
    Some(format!("the rate was not kept: p99 of arrivals was sent {late} late; {why}"))
}

/// Microseconds, readable.
pub(super) fn time(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        10_000..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

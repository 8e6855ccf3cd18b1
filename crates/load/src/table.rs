//! The report as a person reads it. Shows the figures of the report and adds none.

use comfy_table::{Table, presets};

use super::{
    cpu::CpuOf,
    report::{Percentiles, Report, time},
};

pub(super) fn render(report: &Report) -> String {
    let mut parts = vec![format!("run {}  seed {}", report.run_id, report.seed)];
    parts.push(sending(report));
    parts.push(latencies(report));
    parts.extend(settled(report));
    parts.extend(report.cpu.as_ref().map(|cpu| {
        let heading = ["CPU", "while sending", "until drained", "per accepted payment"];
        let rows = cpu.processes.iter().chain([&cpu.total, &cpu.load_generator]);
        table(heading, rows.map(cpu_row))
    }));
    parts.extend(named(report));
    parts.extend(report.sending.behind.clone());
    if report.problems.is_empty() && report.audit.is_some() {
        parts.push("clean: every accepted payment had its effect once".to_owned());
    }
    parts.join("\n\n")
}

fn table<const COLUMNS: usize>(
    heading: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(heading);
    table.add_rows(rows);
    table.to_string()
}

fn row(name: impl Into<String>, value: impl ToString) -> [String; 2] {
    [name.into(), value.to_string()]
}

fn sending(report: &Report) -> String {
    let (sending, counts) = (&report.sending, &report.sending.counts);
    let (achieved, asked) = (sending.achieved_per_second, &report.options["rate"]);
    let mut rows = vec![
        row("rate", format!("{achieved}/s of {asked}/s asked for")),
        row("payments sent", format!("{} of {} due", counts.sent, sending.due)),
        row("accepted references", sending.accepted),
        row("unknown outcomes", sending.unknown),
    ];
    let statuses = counts.statuses.iter();
    rows.extend(statuses.map(|(status, count)| row(format!("answered {status}"), count)));
    let unanswered = counts.unanswered.iter();
    rows.extend(
        unanswered.map(|(reason, count)| row("not answered", format!("{count} ({reason})"))),
    );
    if counts.repeats_sent > 0 {
        rows.push(row("repeats sent", counts.repeats_sent));
    }
    if counts.invalid_sent > 0 {
        let refused = format!("{} of {}", counts.invalid_refused, counts.invalid_sent);
        rows.push(row("invalid refused with 422", refused));
    }
    if counts.connect_failures > 0 {
        rows.push(row("connects that failed", counts.connect_failures));
    }
    rows.push(row("connections busy", format!("{} %", sending.connections_busy_percent)));
    table(["sending", ""], rows)
}

fn latencies(report: &Report) -> String {
    let row = |name: &str, figures: &Percentiles| {
        let Percentiles { p50, p90, p99, p999, max, count } = *figures;
        let shown = |micros| if count > 0 { time(micros) } else { "-".to_owned() };
        [name.to_owned(), shown(p50), shown(p90), shown(p99), shown(p999), shown(max)]
    };
    let mut rows = vec![
        row("due to accepted", &report.sending.accept_latency_us),
        row("due to sent", &report.sending.lateness_us),
    ];
    let audit = report.audit.as_ref();
    rows.extend(audit.map(|audit| row("accepted to applied", &audit.accept_to_applied_us)));
    table(["latency", "p50", "p90", "p99", "p99.9", "max"], rows)
}

fn settled(report: &Report) -> Option<String> {
    let drain = report.drain.as_ref()?;
    let how = if drain.drained { "drained" } else { "not drained" };
    let mut rows = vec![row(how, format!("{} ms after sending", drain.waited_ms))];
    for (name, rate) in [
        ("applied, first sent to drained", report.applied_per_second),
        ("applied, first received to last applied", report.ledger_applied_per_second),
    ] {
        rows.extend(rate.map(|rate| row(name, format!("{rate}/s"))));
    }
    if let Some(audit) = &report.audit {
        let found = audit.by_status.iter();
        rows.extend(found.map(|(status, count)| row(format!("found {status}"), count)));
        rows.push(row("accepted but lost", audit.lost.count));
        let unknown = &audit.unknown;
        let (applied, absent, other) = (unknown.applied, unknown.absent, unknown.other);
        let unknown = format!("{applied} applied, {absent} absent, {other} other");
        rows.push(row("unknown outcomes", unknown));
        let compared = format!("{}, {} differ", audit.customers, audit.differences.count);
        rows.push(row("accounts compared", compared));
    }
    Some(table(["settling", ""], rows))
}

fn cpu_row(of: &CpuOf) -> [String; 4] {
    let or_none = |value: Option<u64>, unit: &str| {
        value.map_or("-".to_owned(), |value| format!("{value} {unit}"))
    };
    let sending = format!("{} ms", of.sending_ms);
    [of.name.clone(), sending, or_none(of.drained_ms, "ms"), or_none(of.us_per_payment, "µs")]
}

/// The first of what is wrong, by name.
fn named(report: &Report) -> Vec<String> {
    let Some(audit) = &report.audit else { return Vec::new() };
    let lists =
        [("lost", &audit.lost), ("not settled", &audit.unsettled), ("altered", &audit.altered)];
    let wrong = lists.into_iter().filter(|(_, listed)| listed.count > 0);
    let mut parts: Vec<String> = wrong
        .map(|(what, listed)| {
            format!("{what}, first of {}: {}", listed.count, listed.first.join(" "))
        })
        .collect();
    if audit.differences.count > 0 {
        let rows =
            audit.differences.first.iter().map(|one| {
                [one.customer_id.clone(), one.expected.to_string(), one.actual.to_string()]
            });
        parts.push(table(["account", "paid in this run", "grew by"], rows));
    }
    parts
}

//! The report as a person reads it. Shows every figure of the report and adds none.

use comfy_table::{Table, presets};

use super::report::{Percentiles, Report, time};

pub(super) fn render(report: &Report) -> String {
    let mut parts = vec![format!("run {}  seed {}", report.run_id, report.seed)];
    parts.push(sending(report).to_string());
    parts.push(latencies(report).to_string());
    parts.extend(settled(report).map(|table| table.to_string()));
    parts.extend(cpu(report).map(|table| table.to_string()));
    parts.extend(named(report));
    parts.extend(report.sending.behind.clone());
    if report.problems.is_empty() && report.audit.is_some() {
        parts.push("clean: every accepted payment had its effect once".to_owned());
    }
    parts.join("\n\n")
}

fn table(heading: [&str; 2]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(heading);
    table
}

fn sending(report: &Report) -> Table {
    let sending = &report.sending;
    let mut table = table(["sending", ""]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    let (achieved, asked) = (sending.achieved_per_second, report.options.rate());
    row("rate", format!("{achieved}/s of {asked}/s asked for"));
    row("payments sent", format!("{} of {} due", sending.sent, sending.due));
    row("accepted references", sending.accepted.to_string());
    row("unknown outcomes", sending.unknown.to_string());
    for (status, count) in &sending.statuses {
        row(&format!("answered {status}"), count.to_string());
    }
    for (reason, count) in &sending.unanswered {
        row("not answered", format!("{count} ({reason})"));
    }
    if sending.repeats_sent > 0 {
        row("repeats sent", sending.repeats_sent.to_string());
    }
    if sending.invalid_sent > 0 {
        let (refused, sent) = (sending.invalid_refused, sending.invalid_sent);
        row("invalid refused with 422", format!("{refused} of {sent}"));
    }
    if sending.connect_failures > 0 {
        row("connects that failed", sending.connect_failures.to_string());
    }
    row("connections busy", format!("{} %", sending.connections_busy_percent));
    table
}

fn latencies(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["latency", "p50", "p90", "p99", "p99.9", "max"]);
    let mut row = |name: &str, figures: &Percentiles| {
        let Percentiles { p50, p90, p99, p999, max, count } = *figures;
        let mut cells = vec![name.to_owned()];
        let shown = |micros| if count > 0 { time(micros) } else { "-".to_owned() };
        cells.extend([p50, p90, p99, p999, max].map(shown));
        table.add_row(cells);
    };
    row("due to accepted", &report.sending.accept_latency_us);
    row("due to sent", &report.sending.lateness_us);
    if let Some(audit) = &report.audit {
        row("accepted to applied", &audit.accept_to_applied_us);
    }
    table
}

fn settled(report: &Report) -> Option<Table> {
    let mut table = table(["settling", ""]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    let drain = report.drain.as_ref()?;
    let how = if drain.drained { "drained" } else { "not drained" };
    row(how, format!("{} ms after sending", drain.waited_ms));
    if let Some(rate) = report.applied_per_second {
        row("applied, first sent to drained", format!("{rate}/s"));
    }
    if let Some(rate) = report.ledger_applied_per_second {
        row("applied, first received to last applied", format!("{rate}/s"));
    }
    if let Some(audit) = &report.audit {
        for (status, count) in &audit.by_status {
            row(&format!("found {}", status.as_str()), count.to_string());
        }
        row("accepted but lost", audit.lost.count.to_string());
        let unknown = &audit.unknown;
        let (applied, absent, other) = (unknown.applied, unknown.absent, unknown.other);
        row("unknown outcomes", format!("{applied} applied, {absent} absent, {other} other"));
        let (customers, differing) = (audit.customers, audit.differences.count);
        row("accounts compared", format!("{customers}, {differing} differ"));
    }
    Some(table)
}

fn cpu(report: &Report) -> Option<Table> {
    let cpu = report.cpu.as_ref()?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["CPU", "while sending", "until drained", "per accepted payment"]);
    for of in cpu.processes.iter().chain([&cpu.total, &cpu.load_generator]) {
        table.add_row([
            of.name.clone(),
            format!("{} ms", of.sending_ms),
            of.drained_ms.map_or("-".to_owned(), |drained| format!("{drained} ms")),
            of.us_per_payment.map_or("-".to_owned(), |micros| format!("{micros} µs")),
        ]);
    }
    Some(table)
}

/// The first of what is wrong, by name.
fn named(report: &Report) -> Vec<String> {
    let Some(audit) = &report.audit else { return Vec::new() };
    let lists =
        [("lost", &audit.lost), ("not settled", &audit.unsettled), ("altered", &audit.altered)];
    let mut parts: Vec<String> = lists
        .into_iter()
        .filter(|(_, listed)| listed.count > 0)
        .map(|(what, listed)| {
            format!("{what}, first of {}: {}", listed.count, listed.first.join(" "))
        })
        .collect();
    if audit.differences.count > 0 {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["account", "paid in this run", "grew by"]);
        for difference in &audit.differences.first {
            let (expected, actual) = (difference.expected.0, difference.actual.0);
            table.add_row([
                difference.customer_id.clone(),
                expected.to_string(),
                actual.to_string(),
            ]);
        }
        parts.push(table.to_string());
    }
    parts
}

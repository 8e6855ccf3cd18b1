//! `paystream audit`: recomputes the ledger and says whether it holds. Never
//! changes or repairs anything.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    Running,
    audit_log::CheckpointArgs,
    stores,
    table::{Column, cell, number, table},
};
use crate::{
    config::LedgerConfig,
    domain::two_places,
    ledger::{AuditProgress, AuditReport, CheckCount, Drift, Stage},
};

#[derive(clap::Args, Clone, Debug)]
pub struct AuditArgs {
    #[command(flatten)]
    pub ledger: LedgerConfig,
    #[command(flatten)]
    pub checkpoints: CheckpointArgs,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Recomputes every account from its statement, accounts for every sequence, and verifies the
/// chain of the audit log. Exits with 0 when the ledger holds and with 1 on any drift.
pub(super) async fn run(args: AuditArgs, running: Running) -> anyhow::Result<ExitCode> {
    let checkpoints = args.checkpoints.read()?;
    let ledger = stores::ledger_or(args.ledger, running)?;
    ledger.schema().check().await.context("could not audit the ledger")?;
    let bar = progress_bar(!args.json && std::io::stderr().is_terminal());
    let report = ledger.audit().run(&checkpoints, |progress| draw(&bar, progress)).await;
    bar.finish_and_clear();
    let report = report.context("could not audit the ledger")?;
    let text = if args.json { format!("{:#}\n", document(&report)) } else { page(&report) };
    std::io::stdout().write_all(text.as_bytes()).context("could not write the report")?;
    Ok(if report.drift_count == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn progress_bar(visible: bool) -> ProgressBar {
    if !visible {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let template = "{spinner} {msg:9} [{bar:40}] {human_pos}/{human_len} rows, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    // PostgreSQL sorts for a while before the first row comes.
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}

fn draw(bar: &ProgressBar, progress: AuditProgress) {
    bar.set_length(progress.total.max(progress.done));
    bar.set_position(progress.done);
    bar.set_message(match progress.stage {
        Stage::Accounts => "accounts",
        Stage::Sequences => "sequences",
    });
}

fn document(report: &AuditReport) -> Value {
    let mut document = json!(report);
    document["clean"] = (report.drift_count == 0).into();
    document["amount"] = two_places(report.amount).to_string().into();
    document
}

fn page(report: &AuditReport) -> String {
    let columns: &[Column<'_, CheckCount>] = &[
        ("check", &|line| cell(line.check)),
        ("looked at", &|line| number(line.looked_at)),
        ("drift", &|line| number(line.drift)),
    ];
    let mut page = format!("{}\n", table(&report.checks, columns));
    if !report.drifts.is_empty() {
        let columns: &[Column<'_, Drift>] = &[
            ("drift", &|drift| cell(drift.check)),
            ("where", &|drift| cell(&drift.subject)),
            ("what", &|drift| cell(&drift.detail)),
        ];
        page.push_str(&format!("\n{}\n", table(&report.drifts, columns)));
        let more = report.drift_count - report.drifts.len() as u64;
        if more > 0 {
            page.push_str(&format!("and {more} more\n"));
        }
    }
    page.push_str(&format!("\n{}\n", verdict(report)));
    page
}

fn verdict(report: &AuditReport) -> String {
    let AuditReport { accounts, payments, sequences, partitions, drift_count, .. } = report;
    let seen = format!(
        "{accounts} accounts with {payments} rows and {} paid (credit included), {sequences} \
         sequences in {partitions} partitions",
        two_places(report.amount)
    );
    match drift_count {
        0 => format!("The ledger holds: {seen}, no drift."),
        1 => format!("The ledger does NOT hold: 1 drift in {seen}."),
        many => format!("The ledger does NOT hold: {many} drifts in {seen}."),
    }
}

#[cfg(test)]
mod tests {
    use super::{document, page};
    use crate::ledger::{AuditReport, CheckCount, Drift};

    fn report(drifts: usize, drift_count: u64) -> AuditReport {
        let drift = Drift {
            check: "account_sum",
            subject: "GIG00001".to_owned(),
            detail: "total_paid is 1.00, should be 2.00".to_owned(),
        };
        AuditReport {
            accounts: 500,
            payments: 12_000,
            amount: "1000.5".parse().unwrap(),
            sequences: 12_010,
            partitions: 32,
            checks: vec![CheckCount { check: "account_sum", looked_at: 500, drift: drift_count }],
            drifts: vec![drift; drifts],
            drift_count,
        }
    }

    #[test]
    fn a_clean_ledger_is_said_to_hold() {
        let page = page(&report(0, 0));
        assert!(page.ends_with(
            "The ledger holds: 500 accounts with 12000 rows and 1000.50 paid (credit included), \
             12010 sequences in 32 partitions, no drift.\n"
        ));
        let document = document(&report(0, 0));
        assert_eq!((&document["clean"], &document["amount"]), (&true.into(), &"1000.50".into()));
    }

    #[test]
    fn drift_is_shown_with_its_details() {
        let page = page(&report(2, 7));
        assert!(page.contains("GIG00001"), "{page}");
        assert!(page.contains("total_paid is 1.00, should be 2.00"), "{page}");
        assert!(page.contains("and 5 more"), "{page}");
        assert!(page.contains("does NOT hold: 7 drifts"), "{page}");
        let document = document(&report(2, 7));
        assert_eq!((&document["clean"], &document["drift_count"]), (&false.into(), &7.into()));
        assert_eq!(document["drifts"][1]["check"], "account_sum");
    }
}

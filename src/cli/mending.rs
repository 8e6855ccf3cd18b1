//! Redrives or discards dead letters, one or many: says how many there are and
//! asks before it changes many, shows how far it is, and sums up. Never decides
//! what becomes of one.

use std::{
    io::{BufRead, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use comfy_table::CellAlignment;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    Signature,
    table::{Tone, cell, known, table, toned},
};
use crate::{
    domain::shown,
    ledger::DeadLetterFilter,
    operations::{self, BULK_MAX, Operations},
};

/// What is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    Redrive,
    Discard,
}

/// Which dead letters, by whom and why.
#[derive(Args, Clone, Debug)]
pub struct MendArgs {
    /// Which.
    #[command(flatten)]
    pub which: Which,
    /// Say what would come of each by itself, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask, however many there are.
    #[arg(long)]
    pub yes: bool,
    /// Deal with at most so many, the first buried first; at most 1000.
    #[arg(long, default_value_t = BULK_MAX)]
    pub max: usize,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Who and why.
    #[command(flatten)]
    pub signature: Signature,
}

/// Which dead letters; filters narrow each other down.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct Which {
    /// Their ids.
    #[arg(value_name = "ID", conflicts_with_all = ["reference", "code", "customer", "all"])]
    pub ids: Vec<i64>,
    /// Those of this reference.
    #[arg(long)]
    pub reference: Option<String>,
    /// Those of this class of reason.
    #[arg(long)]
    pub code: Option<String>,
    /// Those of this customer.
    #[arg(long)]
    pub customer: Option<String>,
    /// All that nobody has dealt with.
    #[arg(long, conflicts_with_all = ["reference", "code", "customer"])]
    pub all: bool,
}

/// One of them, as it is shown.
struct Row {
    id: i64,
    reference: Option<String>,
    done: bool,
    sentence: String,
}

/// What came of all of them.
struct Summary {
    done: usize,
    refused: usize,
    left: usize,
    stopped: Option<String>,
    rows: Vec<Row>,
    document: Value,
}

/// Deals with the dead letters. Says what came of it, and how to exit: with 1
/// when one was refused or none was found, with 2 when it had to stop.
pub(super) async fn run(
    operations: &Operations,
    mend: Mend,
    args: MendArgs,
) -> anyhow::Result<(String, ExitCode)> {
    let MendArgs { which, dry_run, yes, max, json, signature } = args;
    let signature = signature.signed()?;
    let (ids, count) = find(operations, which, max).await?;
    if ids.is_empty() {
        let none = "There are no such dead letters, or somebody has dealt with them.\n".to_owned();
        let text = if json { format!("{:#}\n", json!({ "reports": [] })) } else { none };
        return Ok((text, ExitCode::from(1)));
    }
    if ids.len() > 1 && !dry_run && !confirm(mend, ids.len(), count, yes)? {
        return Ok(("Nothing was changed.\n".to_owned(), ExitCode::from(1)));
    }
    let mut summary = mend_each(operations, mend, &ids, &signature, dry_run).await?;
    summary.left += count.saturating_sub(ids.len());
    let text = match json {
        true => {
            summary.document["left"] = summary.left.into();
            format!("{:#}\n", summary.document)
        }
        false => summary.page(mend, dry_run),
    };
    Ok((text, summary.code()))
}

/// Which dead letters are meant, and how many there are altogether.
async fn find(
    operations: &Operations,
    which: Which,
    max: usize,
) -> anyhow::Result<(Vec<i64>, usize)> {
    let Which { mut ids, reference, code, customer, all: _ } = which;
    if ids.is_empty() {
        let filter = DeadLetterFilter { reference, code, customer, ..Default::default() };
        return operations.open_letters(&filter, max).await.context("could not find dead letters");
    }
    // The order in which they were buried.
    ids.sort_unstable();
    ids.dedup();
    let count = ids.len();
    ids.truncate(max.min(BULK_MAX));
    Ok((ids, count))
}

/// Says how many there are, and asks.
fn confirm(mend: Mend, picked: usize, count: usize, yes: bool) -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    let of = if count > picked { format!(" of {count}") } else { String::new() };
    writeln!(stderr, "{picked}{of} dead letters, each in a transaction of its own.")?;
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        writeln!(stderr, "Nobody can be asked here: say --yes, or see first with --dry-run.")?;
        return Ok(false);
    }
    write!(stderr, "{} {picked} dead letters? [y/N] ", mend.name())?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn mend_each(
    operations: &Operations,
    mend: Mend,
    ids: &[i64],
    signature: &operations::Signature,
    dry_run: bool,
) -> anyhow::Result<Summary> {
    let bar = progress_bar(ids.len())?;
    let summary = match mend {
        Mend::Redrive => {
            let all = operations.redrive_each(ids, signature, dry_run, |_, _| bar.inc(1)).await;
            let rows = all.reports.iter().map(|report| Row {
                id: report.id,
                reference: report.transaction_reference.clone(),
                done: report.redriven,
                sentence: report.sentence.clone(),
            });
            Summary {
                done: all.redriven,
                refused: all.refused,
                left: all.left,
                rows: rows.collect(),
                document: json!(all),
                stopped: all.stopped,
            }
        }
        Mend::Discard => {
            let all = operations.discard_each(ids, signature, dry_run, |_, _| bar.inc(1)).await;
            let rows = all.reports.iter().map(|report| Row {
                id: report.id,
                reference: report.transaction_reference.clone(),
                done: report.discarded,
                sentence: report.sentence.clone(),
            });
            Summary {
                done: all.discarded,
                refused: all.refused,
                left: all.left,
                rows: rows.collect(),
                document: json!(all),
                stopped: all.stopped,
            }
        }
    };
    bar.finish_and_clear();
    Ok(summary)
}

fn progress_bar(count: usize) -> anyhow::Result<ProgressBar> {
    // It hides itself where there is no terminal.
    let style = ProgressStyle::with_template("[{bar:40}] {pos}/{len} dead letters, {eta} left");
    let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX));
    Ok(bar.with_style(style.context("progress style")?))
}

impl Mend {
    fn name(self) -> &'static str {
        match self {
            Self::Redrive => "Redrive",
            Self::Discard => "Discard",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }
}

impl Summary {
    fn page(&self, mend: Mend, dry_run: bool) -> String {
        let mut table = table(["id", "reference", "", "what came of it"]);
        let would = if dry_run { "would be " } else { "" };
        for row in &self.rows {
            let (word, tone) = match row.done {
                true => (format!("{would}{}", mend.done()), Tone::Good),
                false => ("refused".to_owned(), Tone::Bad),
            };
            table.add_row([
                cell(row.id).set_alignment(CellAlignment::Right),
                known(row.reference.as_ref()),
                toned(word, tone),
                cell(&row.sentence),
            ]);
        }
        let mut text = match self.rows.is_empty() {
            true => String::new(),
            false => format!("{table}\n"),
        };
        text.push_str(&format!("{} {would}{}, {} refused", self.done, mend.done(), self.refused));
        if self.left > 0 {
            text.push_str(&format!(", {} left: run this again", self.left));
        }
        if dry_run {
            text.push_str("; nothing was changed");
        }
        text.push('\n');
        if let Some(error) = &self.stopped {
            let error = shown(error);
            text.push_str(&format!("It stopped: {error}. What was done before is done.\n"));
        }
        text
    }

    fn code(&self) -> ExitCode {
        match (&self.stopped, self.refused) {
            (Some(_), _) => ExitCode::from(2),
            (None, 0) => ExitCode::SUCCESS,
            (None, _) => ExitCode::from(1),
        }
    }
}

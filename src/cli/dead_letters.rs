//! `paystream dead-letters`: entries that could not be settled. Lists and shows
//! them; redrives or discards one or many: says how many there are and asks before
//! it changes many, shows how far it is, and sums up. Never decides what becomes
//! of one, and never removes one.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{
    ActArgs, Output,
    table::{Column, PageArgs, Tone, cell, instant, known, listing, number, toned, up_to},
};
use crate::{
    domain::shown,
    operations::{
        AuditFilter, BULK_MAX, DeadLetter, EntryName, LetterFilter, LetterReport, LetterState,
        Mend, MendSummary, Operations, PAGE_MAX, counted,
    },
};

#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersAction {
    /// Show dead letters, the latest first
    List {
        #[command(flatten)]
        filter: LetterFilter,
        #[command(flatten)]
        list: PageArgs,
    },
    /// Show all that is known of one, and what was done about it
    Show {
        /// Its id, or its reference.
        #[arg(value_name = "ID|REFERENCE")]
        name: String,
        /// Print one JSON document instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Redrive dead letters: settle them now; what still cannot be settled stays dead. Exits with 1
    /// when one was refused, or when there was none
    Redrive(MendArgs),
    /// Discard dead letters: they are not settled; nothing is removed. Exits with 1
    /// when one was refused, or when there was none
    Discard(MendArgs),
}

#[derive(Args, Clone, Debug)]
pub struct MendArgs {
    #[command(flatten)]
    which: Which,
    /// Say what would come of each by itself, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, however many there are.
    #[arg(long)]
    yes: bool,
    /// Deal with at most so many, the first buried first; at most 1000.
    #[arg(long, default_value_t = BULK_MAX)]
    max: usize,
    #[command(flatten)]
    act: ActArgs,
}

/// Which dead letters; filters narrow each other down.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct Which {
    /// Their ids.
    #[arg(value_name = "ID", conflicts_with_all = ["reference", "code", "customer", "all"])]
    ids: Vec<i64>,
    /// Those of this reference.
    #[arg(long)]
    reference: Option<String>,
    /// Those of this class of reason.
    #[arg(long)]
    code: Option<String>,
    /// Those of this customer.
    #[arg(long)]
    customer: Option<String>,
    /// All open dead letters.
    #[arg(long, conflicts_with_all = ["reference", "code", "customer"])]
    all: bool,
}

pub(super) async fn run(
    action: DeadLettersAction,
    operations: &Operations,
) -> anyhow::Result<Output> {
    match action {
        DeadLettersAction::List { filter, list } => listed(operations, &filter, &list).await,
        DeadLettersAction::Show { name, json } => show(operations, &name, json).await,
        DeadLettersAction::Redrive(args) => mend(operations, Mend::Redrive, args).await,
        DeadLettersAction::Discard(args) => mend(operations, Mend::Discard, args).await,
    }
}

async fn listed(
    operations: &Operations,
    filter: &LetterFilter,
    list: &PageArgs,
) -> anyhow::Result<Output> {
    let letters = up_to(list.limit, async |before, limit| {
        operations.dead_letters(&LetterFilter { before, limit, ..filter.clone() }).await
    });
    let unfiltered = LetterFilter { state: filter.state, ..LetterFilter::default() };
    let none = match (filter.state, *filter == unfiltered) {
        (LetterState::Dead, true) => "No dead letter is open; --state all shows all.",
        (LetterState::All, true) => "There are no dead letters.",
        (_, _) => "No dead letter matches.",
    };
    let tone = |state: &str| match state {
        "dead" => Tone::Bad,
        "redriven" => Tone::Good,
        _ => Tone::Quiet,
    };
    let columns: &[Column<'_, DeadLetter>] = &[
        ("id", &|letter| number(letter.id)),
        ("state", &|letter| toned(&letter.state, tone(&letter.state))),
        ("reference", &|letter| known(letter.transaction_reference.as_ref())),
        ("customer", &|letter| known(letter.customer_id.as_ref())),
        ("amount", &|letter| known(letter.transaction_amount)),
        ("dead at", &|letter| cell(instant(letter.dead_at))),
        ("attempts", &|letter| number(letter.attempts)),
        ("code", &|letter| cell(&letter.code)),
        ("reason", &|letter| cell(&letter.reason)),
    ];
    Ok((listing(&letters.await?, list.json, none, columns), ExitCode::SUCCESS))
}

/// Everything about the dead letters of this name, and what was done to them.
async fn show(operations: &Operations, name: &str, json: bool) -> anyhow::Result<Output> {
    let failed = "could not read dead letters";
    let mut letters = Vec::new();
    if let Ok(id) = name.parse() {
        letters.extend(operations.dead_letter(id).await.context(failed)?);
    }
    if letters.is_empty() {
        let filter = LetterFilter { limit: Some(PAGE_MAX), ..LetterFilter::of(name) };
        letters = operations.dead_letters(&filter).await.context(failed)?.rows;
    }
    let mut documents = Vec::new();
    let mut text = String::new();
    for letter in &letters {
        let reference = letter.transaction_reference.clone();
        let subject = reference.unwrap_or_else(|| format!("dead letter {}", letter.id));
        let changes = operations.audit_log(&AuditFilter::of(&subject)).await;
        let changes = changes.context("could not read the audit log")?.rows;
        documents.push(json!({ "dead_letter": letter, "changes": changes }));
        text.push_str(&page(letter)?);
        for change in changes.iter().rev() {
            let reason = change.reason.as_deref().unwrap_or("no reason given");
            let at = instant(change.at);
            let (actor, under) = (&change.actor, change.under());
            let said = format!("{} by {actor}: {reason}{under}", change.action);
            text.push_str(&format!("  {at}  {}\n", shown(&said)));
        }
    }
    let code = ExitCode::from(u8::from(letters.is_empty()));
    let text = match (json, letters.is_empty()) {
        (true, _) => format!("{:#}\n", json!(documents)),
        (false, true) => format!("There is no dead letter {}.\n", shown(name)),
        (false, false) => text,
    };
    Ok((text, code))
}

fn page(letter: &DeadLetter) -> anyhow::Result<String> {
    let unknown = || "not known".to_owned();
    let text = |text: &Option<String>| text.as_deref().map_or_else(unknown, shown);
    let sequence = letter.sequence.map_or_else(unknown, |sequence| sequence.to_string());
    let mut lines = vec![
        format!("Dead letter {}, {}", letter.id, letter.state),
        format!("  reference  {}", text(&letter.transaction_reference)),
        format!("  customer   {}", text(&letter.customer_id)),
        format!(
            "  amount     {}",
            letter.transaction_amount.map_or_else(unknown, |amount| amount.to_string())
        ),
        format!(
            "  was at     entry {}, sequence {sequence}",
            EntryName::of(letter.partition, &letter.stream_id)
        ),
        format!("  dead at    {}", instant(letter.dead_at)),
        format!(
            "  why        {}, after {}: {}",
            letter.code,
            counted(letter.attempts, "attempt", "attempts"),
            shown(&letter.reason)
        ),
    ];
    if let Some(at) = letter.resolved_at {
        lines.push(format!("  {:9}  {}", letter.state, instant(at)));
    }
    let entry = letter.entry.as_object().ok_or_else(|| anyhow!("its entry has no fields"))?;
    for (name, value) in entry {
        let value = value.as_str().unwrap_or_default();
        lines.push(format!("  entry      {} = {}", shown(name), shown(value)));
    }
    for action in &letter.actions {
        let command = action.command.as_deref().unwrap_or_default();
        lines.push(format!("  you can    {}: {}", action.label, shown(command)));
        lines.push(format!("             safe, because {}", action.safe_because));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// Deals with the dead letters. Says what came of it, and how to exit: with 1
/// when one was refused or none was found, with 2 when it had to stop.
async fn mend(operations: &Operations, mend: Mend, args: MendArgs) -> anyhow::Result<Output> {
    let MendArgs { which, dry_run, yes, max, act: ActArgs { signature, json } } = args;
    let by = signature.signed()?;
    let (ids, count) = find(operations, which, max).await?;
    if ids.is_empty() {
        let none = "No open dead letter matches.\n".to_owned();
        let text = if json { format!("{:#}\n", json!({ "reports": [] })) } else { none };
        return Ok((text, ExitCode::from(1)));
    }
    if ids.len() > 1 && !dry_run && !confirm(mend, ids.len(), count, yes)? {
        return Ok(("Nothing was changed.\n".to_owned(), ExitCode::from(1)));
    }
    // It hides itself where there is no terminal.
    let style = ProgressStyle::with_template("[{bar:40}] {pos}/{len} dead letters, {eta} left")?;
    let bar = ProgressBar::new(u64::try_from(ids.len()).unwrap_or(u64::MAX)).with_style(style);
    let mut summary = operations.mend_each(mend, &ids, &by, dry_run, || bar.inc(1)).await;
    bar.finish_and_clear();
    summary.left += count.saturating_sub(ids.len());
    let code = match (&summary.stopped, summary.refused) {
        (Some(_), _) => 2,
        (None, 0) => 0,
        (None, _) => 1,
    };
    let text = match json {
        true => format!("{:#}\n", json!(summary)),
        false => summed_up(&summary, mend, dry_run),
    };
    Ok((text, ExitCode::from(code)))
}

/// Which dead letters are meant, and how many there are altogether.
async fn find(
    operations: &Operations,
    which: Which,
    max: usize,
) -> anyhow::Result<(Vec<i64>, usize)> {
    let Which { mut ids, reference, code, customer, all: _ } = which;
    if ids.is_empty() {
        let filter = LetterFilter { reference, code, customer, ..Default::default() };
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
        writeln!(stderr, "No terminal to ask at: add --yes, or look first with --dry-run.")?;
        return Ok(false);
    }
    super::confirm(&format!("{mend:?} {picked} dead letters?"))
}

fn summed_up(summary: &MendSummary, mend: Mend, dry_run: bool) -> String {
    let would = if dry_run { "would be " } else { "" };
    let mended = format!("{would}{}", mend.done());
    let result = |report: &LetterReport| match report.redriven.or(report.discarded) {
        Some(true) => toned(&mended, Tone::Good),
        _ => toned("refused", Tone::Bad),
    };
    let columns: &[Column<'_, LetterReport>] = &[
        ("id", &|report| number(report.id)),
        ("reference", &|report| known(report.transaction_reference.as_ref())),
        ("", &result),
        ("what came of it", &|report| cell(&report.sentence)),
    ];
    let mut text = listing(&summary.reports, false, "", columns);
    text.push_str(&format!("{} {mended}, {} refused", summary.done(), summary.refused));
    if summary.left > 0 {
        text.push_str(&format!(", {} left: run this again", summary.left));
    }
    if dry_run {
        text.push_str("; nothing was changed");
    }
    text.push('\n');
    if let Some(error) = &summary.stopped {
        let error = shown(error);
        text.push_str(&format!("It stopped: {error}. What was done before is done.\n"));
    }
    text
}

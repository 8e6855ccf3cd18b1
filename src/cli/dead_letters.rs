//! `paystream dead-letters`: entries that could not be settled. Lists and shows
//! them; redriving and discarding is in `mending`. Never removes one.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use serde_json::json;

use super::{
    mending::{self, Mend, MendArgs},
    stores,
    table::{Tone, cell, instant, known, table, toned},
};
use crate::{
    clock,
    config::StoreConfig,
    domain::{parse_date, shown},
    ledger::{DeadLetterFilter, PAGE_MAX},
    operations::{DeadLetter, Operations},
};

/// What `paystream dead-letters` is told.
#[derive(Args, Clone, Debug)]
pub struct DeadLettersArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DeadLettersAction,
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
}

/// What can be done with dead letters.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersAction {
    /// Show them, the latest first
    List(ListArgs),
    /// Show all that is known of one, and what was done about it
    Show(ShowArgs),
    /// Settle them now; what still cannot be settled stays dead. Exits with 1
    /// when one was refused, or when there was none
    Redrive(MendArgs),
    /// Note that they are not to be settled; nothing is removed. Exits with 1
    /// when one was refused, or when there was none
    Discard(MendArgs),
}

/// Which dead letters are listed.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Those that nobody has dealt with, those that were settled, given up, or
    /// all.
    #[arg(long, default_value = "dead", value_parser = ["dead", "redriven", "discarded", "all"])]
    pub state: String,
    /// Of this reference.
    #[arg(long)]
    pub reference: Option<String>,
    /// Of this class of reason: `settle_failed`, `worker_died` or
    /// `entry_unreadable`.
    #[arg(long)]
    pub code: Option<String>,
    /// Of this customer.
    #[arg(long)]
    pub customer: Option<String>,
    /// Dead since then: RFC 3339, `2025-11-07 14:54:16` in UTC, or how long
    /// ago, such as 2h.
    #[arg(long, value_parser = parse_instant)]
    pub since: Option<DateTime<Utc>>,
    /// Dead before then.
    #[arg(long, value_parser = parse_instant)]
    pub until: Option<DateTime<Utc>>,
    /// How many to show.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Which dead letter is shown.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Its id, or its reference.
    #[arg(value_name = "ID|REFERENCE")]
    pub name: String,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Reads an instant, or how long ago it was.
pub(super) fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let instant = chrono::TimeDelta::from_std(ago).ok();
        let instant = instant.and_then(|ago| clock::system().checked_sub_signed(ago));
        return instant.ok_or_else(|| "is too long ago".to_owned());
    }
    parse_date(text, Tz::UTC).map_err(|invalid| format!("{}, or a span such as 2h", invalid.reason))
}

/// Lists, shows, redrives or discards.
pub async fn run(args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    let (streams, ledger, topology) = stores::open(&args.store).await?;
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let (text, code) = match args.action {
        DeadLettersAction::List(args) => list(&operations, args).await?,
        DeadLettersAction::Show(args) => show(&operations, args).await?,
        DeadLettersAction::Redrive(args) => mending::run(&operations, Mend::Redrive, args).await?,
        DeadLettersAction::Discard(args) => mending::run(&operations, Mend::Discard, args).await?,
    };
    std::io::stdout().write_all(text.as_bytes()).context("could not write")?;
    Ok(code)
}

async fn list(operations: &Operations, args: ListArgs) -> anyhow::Result<(String, ExitCode)> {
    let ListArgs { state, reference, code, customer, since, until, limit, json } = args;
    let state = (state != "all").then_some(state);
    let filter = DeadLetterFilter { state, reference, code, customer, since, until };
    let mut letters: Vec<DeadLetter> = Vec::new();
    while letters.len() < limit {
        let before = letters.last().map(|letter| letter.id);
        let page = i64::try_from(limit - letters.len()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let page = operations.dead_letters(&filter, before, page).await;
        let page = page.context("could not list dead letters")?;
        if page.is_empty() {
            break;
        }
        letters.extend(page);
    }
    let text = if json { format!("{:#}\n", json!(letters)) } else { rows(&letters, &filter) };
    Ok((text, ExitCode::SUCCESS))
}

fn rows(letters: &[DeadLetter], filter: &DeadLetterFilter) -> String {
    if letters.is_empty() {
        let unfiltered = DeadLetterFilter { state: filter.state.clone(), ..Default::default() };
        let none = match filter.state.as_deref() {
            Some("dead") if *filter == unfiltered => {
                "No dead letter is open; --state all shows all.\n"
            }
            None if *filter == unfiltered => "There are no dead letters.\n",
            _ => "There are no such dead letters.\n",
        };
        return none.to_owned();
    }
    let mut table = table([
        "id",
        "state",
        "reference",
        "customer",
        "amount",
        "dead at",
        "attempts",
        "code",
        "reason",
    ]);
    for letter in letters {
        table.add_row([
            cell(letter.id).set_alignment(CellAlignment::Right),
            state(letter),
            known(letter.transaction_reference.as_ref()),
            known(letter.customer_id.as_ref()),
            known(letter.transaction_amount.as_ref()).set_alignment(CellAlignment::Right),
            cell(instant(letter.dead_at)),
            cell(letter.attempts).set_alignment(CellAlignment::Right),
            cell(&letter.code),
            cell(&letter.reason),
        ]);
    }
    format!("{table}\n")
}

fn state(letter: &DeadLetter) -> Cell {
    let tone = match letter.state.as_str() {
        "dead" => Tone::Bad,
        "redriven" => Tone::Good,
        _ => Tone::Quiet,
    };
    toned(&letter.state, tone)
}

/// Everything about the dead letters of this name, and what was done to them.
async fn show(operations: &Operations, args: ShowArgs) -> anyhow::Result<(String, ExitCode)> {
    let ShowArgs { name, json } = args;
    let failed = "could not read dead letters";
    let mut letters = Vec::new();
    if let Ok(id) = name.parse() {
        letters.extend(operations.dead_letter(id).await.context(failed)?);
    }
    if letters.is_empty() {
        let filter = DeadLetterFilter { reference: Some(name.clone()), ..Default::default() };
        letters = operations.dead_letters(&filter, None, PAGE_MAX).await.context(failed)?;
    }
    let mut documents = Vec::new();
    let mut text = String::new();
    for letter in &letters {
        let reference = letter.transaction_reference.clone();
        let subject = reference.unwrap_or_else(|| format!("dead letter {}", letter.id));
        let changes = operations.audit_log(Some(&subject), None, PAGE_MAX).await;
        let changes = changes.context("could not read the log of changes")?;
        documents.push(json!({ "dead_letter": letter, "changes": changes }));
        text.push_str(&page(letter)?);
        for change in changes.iter().rev() {
            let reason = change.reason.as_deref().unwrap_or("no reason given");
            let at = instant(change.at);
            let said = format!("{} by {}: {reason}", change.action, change.actor);
            text.push_str(&format!("  {at}  {}\n", shown(&said)));
        }
    }
    let (text, code) = match (letters.is_empty(), json) {
        (_, true) => {
            (format!("{:#}\n", json!(documents)), ExitCode::from(u8::from(letters.is_empty())))
        }
        (true, false) => {
            (format!("There is no dead letter {}.\n", shown(&name)), ExitCode::from(1))
        }
        (false, false) => (text, ExitCode::SUCCESS),
    };
    Ok((text, code))
}

/// All that is known of one.
fn page(letter: &DeadLetter) -> anyhow::Result<String> {
    let unknown = || "not known".to_owned();
    let text = |text: &Option<String>| text.as_deref().map_or_else(unknown, shown);
    let place = letter.sequence.map_or_else(unknown, |sequence| sequence.to_string());
    let mut lines = vec![
        format!("Dead letter {}, {}", letter.id, letter.state),
        format!("  reference  {}", text(&letter.transaction_reference)),
        format!("  customer   {}", text(&letter.customer_id)),
        format!("  amount     {}", text(&letter.transaction_amount)),
        format!(
            "  was at     partition {}, sequence {place}, entry {}",
            letter.partition, letter.stream_id
        ),
        format!("  dead at    {}", instant(letter.dead_at)),
        format!(
            "  why        {}, after {} attempts: {}",
            letter.code,
            letter.attempts,
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

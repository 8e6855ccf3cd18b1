//! `paystream pending`: every entry that was taken and is not acknowledged, why,
//! and what is safe to do about it. Never claims or acknowledges one.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use humantime::parse_duration;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    Running, stores,
    table::{Column, Tone, cell, known, number, table, toned},
    watch::{Shown, WatchArgs, show},
};
use crate::{
    config::StoreConfig,
    domain::shown,
    operations::{
        EntryName, Operations, PAGE_MAX, PendingEntry, PendingFilter, PendingPage, PendingSummary,
        span,
    },
};

/// Width of the longest bar, in characters.
const BAR: u64 = 30;

#[derive(Args, Clone, Debug)]
pub struct PendingArgs {
    #[command(flatten)]
    pub store: StoreConfig,
    #[command(flatten)]
    pub filter: PendingFilter,
    /// Entries to show. They are asked for in pages of 500 at most.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
    /// How long gateways remember a reference in the stream. What waits for
    /// longer is looked for in the streams themselves.
    #[arg(long, env = "PAYSTREAM_DEDUPE_WINDOW", default_value = "15m", value_parser = parse_duration)]
    pub dedupe_window: Duration,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Shows pending entries, once or until Ctrl-C. Exits with 1 when, looked at
/// once, one of those shown is more than work under way.
pub(super) async fn run(mut args: PendingArgs, running: Running) -> anyhow::Result<ExitCode> {
    args.store = args.store.or(running);
    let operations = stores::operations_to_look(&args.store, args.dedupe_window).await?;
    let style = ProgressStyle::with_template("looking at pending entries {bar:30} {pos}/{len}")?;
    show(&args.watch, async || {
        let bar = if args.watch.watch { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let look = PendingLook::take(&operations, &args, &bar.with_style(style.clone())).await?;
        let trouble = look.page.entries.iter().any(|entry| entry.verdict.trouble);
        Ok(Shown {
            document: args.watch.document(&look.document())?,
            page: look.page(),
            status: u8::from(trouble),
        })
    })
    .await
}

struct PendingLook {
    summary: PendingSummary,
    page: PendingPage,
}

impl PendingLook {
    async fn take(
        operations: &Operations,
        args: &PendingArgs,
        bar: &ProgressBar,
    ) -> anyhow::Result<Self> {
        let summary = operations.pending_summary(|done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        let summary = summary.await.context("could not read what is pending")?;
        let mut filter = args.filter.clone();
        let mut entries = Vec::new();
        bar.set_length(summary.pending.min(u64::try_from(args.limit).unwrap_or(u64::MAX)));
        loop {
            let limit = i64::try_from(args.limit - entries.len()).unwrap_or(PAGE_MAX);
            filter.limit = Some(limit.clamp(1, PAGE_MAX));
            let page =
                operations.pending(&filter).await.context("could not read what is pending")?;
            entries.extend(page.entries);
            bar.set_position(u64::try_from(entries.len()).unwrap_or(u64::MAX));
            if page.next.is_none() || entries.len() >= args.limit {
                bar.finish_and_clear();
                return Ok(Self { summary, page: PendingPage { entries, ..page } });
            }
            filter.from = page.next;
        }
    }

    fn document(&self) -> Value {
        let Self { summary, page } = self;
        json!({
            "summary": summary,
            "entries": page.entries,
            "next": page.next,
            "ledger_available": page.ledger_available,
            "as_of": page.as_of,
        })
    }

    fn page(&self) -> String {
        let mut parts = vec![self.glance()];
        if !self.page.ledger_available {
            parts.push("PostgreSQL does not answer: owners and outcomes are not known.".to_owned());
        }
        if self.page.entries.is_empty() {
            parts.push(match self.summary.pending {
                0 => "Nothing is pending.".to_owned(),
                _ => "No pending entry matches the filters.".to_owned(),
            });
            return parts.join("\n\n");
        }
        parts.push(listed(&self.page.entries).to_string());
        parts.extend(safe_actions(&self.page.entries));
        if let Some(next) = &self.page.next {
            parts.push(format!("There are more: go on with --from {next}"));
        }
        parts.join("\n\n")
    }

    /// How much, how old, and who has it.
    fn glance(&self) -> String {
        let PendingSummary { pending, lag, ages, consumers, looked_at, .. } = &self.summary;
        let mut lines = vec![format!("{pending} pending; {lag} waiting, not taken yet")];
        if *pending == 0 {
            return lines.remove(0);
        }
        let most = ages.iter().map(|age| age.entries).max().unwrap_or(1).max(1);
        let mut from = 0;
        for age in ages {
            let name = match age.below_seconds {
                Some(below) => format!("{from}-{below} s"),
                None => format!("over {from} s"),
            };
            let bar = usize::try_from((age.entries * BAR).div_ceil(most)).unwrap_or(0);
            lines.push(format!("  idle {name:>10}  {:>7}  {}", age.entries, "#".repeat(bar)));
            from = age.below_seconds.unwrap_or(from);
        }
        if looked_at < pending {
            lines.push(format!("  (of the first {looked_at})"));
        }
        let shares =
            consumers.iter().map(|one| format!("{} {}", shown(&one.consumer), one.entries));
        lines.push(format!("  held by: {}", shares.collect::<Vec<_>>().join(", ")));
        lines.join("\n")
    }
}

fn listed(entries: &[PendingEntry]) -> Table {
    let owner = |entry: &PendingEntry| match (&entry.owner, entry.owner_alive) {
        (Some(owner), Some(false)) => toned(format!("{owner} (silent)"), Tone::Bad),
        (owner @ Some(_), _) => known(owner.as_ref()),
        (None, Some(_)) => toned("NONE", Tone::Bad),
        (None, None) => known(None::<String>),
    };
    let tone = |trouble| if trouble { Tone::Bad } else { Tone::Good };
    let columns: &[Column<'_, PendingEntry>] = &[
        ("entry", &|entry| cell(EntryName::of(entry.partition, &entry.stream_id))),
        ("sequence", &|entry| known(entry.sequence)),
        ("reference", &|entry| known(entry.transaction_reference.as_ref())),
        ("customer", &|entry| known(entry.customer_id.as_ref())),
        ("amount", &|entry| known(entry.transaction_amount).set_alignment(CellAlignment::Right)),
        ("held by", &|entry| cell(&entry.consumer)),
        ("owner", &owner),
        ("idle", &|entry| number(span(Duration::from_millis(entry.idle_ms)))),
        ("taken", &|entry| number(entry.deliveries)),
        ("attempts", &|entry| number(entry.attempts)),
        ("verdict", &|entry| toned(&entry.verdict.sentence, tone(entry.verdict.trouble))),
    ];
    table(entries, columns)
}

/// What is safe to do about those that are in trouble, each once.
fn safe_actions(entries: &[PendingEntry]) -> Option<String> {
    let mut actions: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.verdict.trouble) {
        for action in &entry.verdict.actions {
            let command = action.command.as_deref().unwrap_or("nothing to run");
            actions
                .entry((entry.verdict.code, &action.label))
                .or_insert((command, action.safe_because));
        }
    }
    if actions.is_empty() {
        return None;
    }
    let lines = actions.iter().map(|((code, label), (command, because))| {
        format!("  {}", shown(&format!("{code}: {label} ({command}); safe, because {because}")))
    });
    Some(format!("What is safe to do:\n{}", lines.collect::<Vec<_>>().join("\n")))
}

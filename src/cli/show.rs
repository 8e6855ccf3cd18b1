//! `paystream show`: one payment's whole life, from the request to the ledger.
//! Never changes anything.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use clap::Args;
use humantime::parse_duration;

use super::{
    Running, stores,
    table::{Tone, cell, known, table, toned},
    watch::{Shown, WatchArgs, show},
};
use crate::{
    config::StoreConfig,
    domain::{Reference, Source, shown},
    operations::{EntryName, Life, LifeEvent},
};

#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// The payment's reference.
    pub reference: String,
    #[command(flatten)]
    pub store: StoreConfig,
    /// How long gateways remember a reference in the stream. What waits for
    /// longer is looked for in the streams themselves.
    #[arg(long, env = "PAYSTREAM_DEDUPE_WINDOW", default_value = "15m", value_parser = parse_duration)]
    pub dedupe_window: Duration,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Shows a payment's life, once or until Ctrl-C. Exits with 1 when nobody knows
/// it.
pub(super) async fn run(args: ShowArgs, running: Running) -> anyhow::Result<ExitCode> {
    let reference = Reference::parse(&*args.reference)
        .map_err(|invalid| anyhow!("the reference {}", invalid.reason))?;
    let operations =
        stores::operations_to_look(&args.store.or(running), args.dedupe_window).await?;
    show(&args.watch, async || {
        let life = operations.life(&reference).await.context("could not look the payment up")?;
        let page = match &life {
            Some(life) => page(life),
            None => {
                let known = operations.nothing_known().await;
                format!("{}: {known}{}", args.reference, of_a_source(&reference))
            }
        };
        let document = args.watch.document(&life)?;
        Ok(Shown { document, page, status: u8::from(life.is_none()) })
    })
    .await
}

/// Whoever asks for a payment often has the bank's reference alone.
fn of_a_source(reference: &Reference) -> String {
    match reference.source() == Source::default().as_str() {
        true => format!(
            ". A payment of another source has its name before it: paystream show 'SOURCE {}'",
            shown(reference.as_str())
        ),
        false => String::new(),
    }
}

fn page(life: &Life) -> String {
    let text = |text: &Option<String>| text.as_deref().map_or("unknown".to_owned(), shown);
    let mut lines = vec![
        format!("{}: {}", life.transaction_reference, life.state),
        format!("  {}", shown(&life.sentence)),
        format!(
            "  customer {}, amount {}, {}",
            text(&life.customer_id),
            life.transaction_amount.map_or("unknown".to_owned(), |amount| amount.to_string()),
            text(&life.payment_status)
        ),
    ];
    if let (Some(partition), Some(id)) = (life.partition, &life.stream_id) {
        let sequence = life.sequence.map_or("unknown".to_owned(), |number| number.to_string());
        lines.push(format!("  entry {}, sequence {sequence}", EntryName::of(partition, id)));
    }
    lines.push(match &life.trace_id {
        Some(trace_id) => format!("  trace {trace_id}"),
        None => "  not traced".to_owned(),
    });
    lines.extend(life.evidence.iter().map(|evidence| {
        format!("  signed with {} ({}); --json shows what", evidence.key_id, evidence.scheme)
    }));
    if !life.ledger_available {
        let line = "  PostgreSQL does not answer in time: what became of it is not known now";
        lines.push(line.to_owned());
    }
    let sentence = |moment: &LifeEvent| match moment.failed {
        true => toned(&moment.sentence, Tone::Bad),
        false => cell(&moment.sentence),
    };
    let moments = table(
        &life.moments,
        &[
            ("when", &|one| known(one.at.map(|at| at.format("%Y-%m-%d %H:%M:%S%.3f UTC")))),
            ("what", &|one| cell(&one.code)),
            ("", &sentence),
        ],
    );
    lines.push(String::new());
    lines.push(moments.to_string());
    if let Some(pending) = &life.pending {
        lines.push(String::new());
        lines.push("What is safe to do:".to_owned());
        for action in &pending.verdict.actions {
            let command = action.command.as_deref().unwrap_or("nothing to run");
            let line =
                format!("{} ({command}); safe, because {}", action.label, action.safe_because);
            lines.push(format!("  {}", shown(&line)));
        }
    }
    lines.join("\n")
}

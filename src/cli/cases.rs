//! `paystream suspense`, `conflicts`, `parked` and `losses`: cases that wait for a
//! decision. Lists them and makes what was decided; never sends money anywhere.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};

use super::{
    ActArgs, Output, Running, SignatureArgs, stores,
    table::{Column, PageArgs, Tone, cell, instant, known, listing, number, toned, up_to},
};
use crate::{
    clock,
    config::LedgerConfig,
    domain::{CustomerId, Invalid, Reference},
    ledger::{LossRow, Topology},
    operations::{
        Act, Conflict, ConflictFilter, Foretold, Operations, ParkedCustomer, SuspenseFilter,
        SuspensePayment,
    },
    stream::Streams,
};

#[derive(Clone, Debug, Subcommand)]
pub enum SuspenseAction {
    /// Show payments that are held or marked for refund, the longest held first
    List {
        #[command(flatten)]
        filter: SuspenseFilter,
        #[command(flatten)]
        list: PageArgs,
    },
    /// Apply a held payment to the account of the customer that was meant
    Assign {
        /// Its reference.
        reference: String,
        /// Whose it is.
        #[arg(long)]
        customer: String,
        #[command(flatten)]
        act: ActArgs,
    },
    /// Mark a held payment for refund; it is not applied any more
    #[command(alias = "refund_mark")]
    RefundMark {
        /// Its reference.
        reference: String,
        #[command(flatten)]
        act: ActArgs,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConflictsAction {
    /// Show conflicts, the longest open first
    List {
        #[command(flatten)]
        filter: ConflictFilter,
        #[command(flatten)]
        list: PageArgs,
    },
    /// Resolve a conflict
    Resolve {
        /// Its partition and its sequence there, such as 7/3.
        #[arg(value_name = "PARTITION/SEQUENCE", num_args = 1..=2, required = true)]
        conflict: Vec<String>,
        #[command(flatten)]
        act: ActArgs,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum ParkedAction {
    /// Show the customers whose payments wait
    List {
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Settle what waits for a customer, in its order, and park no more
    Release {
        /// Whose payments.
        customer: String,
        /// Release them though a dead letter that they wait for is open: they are
        /// settled before it.
        #[arg(long)]
        force: bool,
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        signature: SignatureArgs,
    },
}

#[derive(Args, Clone, Debug)]
pub struct LossesArgs {
    #[command(subcommand)]
    action: LossesAction,
    #[command(flatten)]
    ledger: LedgerConfig,
}

#[derive(Clone, Debug, Subcommand)]
enum LossesAction {
    /// Show open losses; exits with 1 when there are some
    List {
        /// Include accepted losses.
        #[arg(long)]
        all: bool,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Accept the open losses; health and audit no longer report them
    Accept {
        /// Only those of this partition.
        #[arg(long)]
        partition: Option<u16>,
        #[command(flatten)]
        signature: SignatureArgs,
    },
}

const UNUSED: &str = "redis://unused";

pub(super) async fn suspense(
    action: SuspenseAction,
    operations: &Operations,
) -> anyhow::Result<Output> {
    match action {
        SuspenseAction::List { filter, list } => {
            let rows = up_to(list.limit, async |after, limit| {
                operations.suspense(&SuspenseFilter { after, limit, ..filter.clone() }).await
            });
            let tone = |state: &str| match state {
                "held" => Tone::Notice,
                "applied" => Tone::Good,
                "conflict" => Tone::Bad,
                _ => Tone::Quiet,
            };
            let columns: &[Column<'_, SuspensePayment>] = &[
                ("reference", &|row| cell(&row.transaction_reference)),
                ("sent for", &|row| cell(&row.customer_id)),
                ("amount", &|row| number(row.transaction_amount)),
                ("held since", &|row| cell(instant(row.held_at))),
                ("state", &|row| toned(&row.state, tone(&row.state))),
                ("assigned to", &|row| known(row.assigned_to.as_ref())),
                ("why", &|row| cell(&row.sentence)),
            ];
            let none = "No payment is in suspense.";
            Ok((listing(&rows.await?, list.json, none, columns), ExitCode::SUCCESS))
        }
        SuspenseAction::Assign { reference, customer, act } => {
            let customer = Some(parsed("customer id", &customer, CustomerId::parse)?);
            let reference = parsed("reference", &reference, Reference::parse)?;
            act.make(operations, Act::Assign { reference, customer }).await
        }
        SuspenseAction::RefundMark { reference, act } => {
            let reference = parsed("reference", &reference, Reference::parse)?;
            act.make(operations, Act::MarkForRefund { reference }).await
        }
    }
}

fn parsed<T>(
    what: &str,
    text: &str,
    parse: impl FnOnce(String) -> Result<T, Invalid>,
) -> anyhow::Result<T> {
    parse(text.to_owned()).map_err(|invalid| anyhow!("the {what} {text} {}", invalid.reason))
}

pub(super) async fn conflicts(
    action: ConflictsAction,
    operations: &Operations,
) -> anyhow::Result<Output> {
    match action {
        ConflictsAction::List { filter, list } => {
            let rows = up_to(list.limit, async |after, limit| {
                operations.conflicts(&ConflictFilter { after, limit, ..filter.clone() }).await
            });
            let none = match (filter.all, &filter.reference) {
                (_, Some(_)) => "No conflict matches.",
                (true, None) => "There are no conflicts.",
                (false, None) => "No conflict is open; --all shows all.",
            };
            let tone = |state: &str| if state == "open" { Tone::Notice } else { Tone::Quiet };
            let columns: &[Column<'_, Conflict>] = &[
                ("conflict", &|row| number(row.name())),
                ("reference", &|row| cell(&row.transaction_reference)),
                ("status", &|row| cell(&row.payment_status)),
                ("customer", &|row| cell(&row.customer_id)),
                ("amount", &|row| number(row.transaction_amount)),
                ("first customer", &|row| known(row.first_customer_id.as_ref())),
                ("first amount", &|row| known(row.first_amount)),
                ("found at", &|row| cell(instant(row.detected_at))),
                ("state", &|row| toned(&row.state, tone(&row.state))),
                ("what differs", &|row| cell(&row.sentence)),
            ];
            Ok((listing(&rows.await?, list.json, none, columns), ExitCode::SUCCESS))
        }
        ConflictsAction::Resolve { conflict, act } => {
            let conflict = conflict.join(" ");
            let conflict =
                conflict.parse().map_err(|wrong| anyhow!("the conflict {conflict} {wrong}"))?;
            act.make(operations, Act::Resolve { conflict }).await
        }
    }
}

pub(super) async fn parked(
    action: ParkedAction,
    operations: &Operations,
) -> anyhow::Result<Output> {
    match action {
        ParkedAction::List { json } => {
            let rows = operations.parked(None).await.context("could not list parked payments")?;
            let columns: &[Column<'_, ParkedCustomer>] = &[
                ("customer", &|row| cell(&row.customer_id)),
                ("parked at", &|row| cell(instant(row.parked_at))),
                ("payments", &|row| number(row.payments)),
                ("amount", &|row| number(row.amount)),
            ];
            Ok((listing(&rows, json, "No customer is parked.", columns), ExitCode::SUCCESS))
        }
        ParkedAction::Release { customer, force, dry_run, yes, signature } => {
            let customer = parsed("customer id", &customer, CustomerId::parse)?;
            let act = ActArgs { signature, json: false };
            let unpark = Act::Unpark { customer, force };
            let foretold =
                operations.foretell(&unpark).await.context("could not see what waits")?;
            match foretold.and_then(|foretold| hold(&foretold, force, dry_run, yes)) {
                Some(held) => held,
                None => act.make(operations, unpark).await,
            }
        }
    }
}

/// Says what a release would do, and asks where somebody can be asked. What to
/// answer instead, and how to exit, when it is not to be done.
fn hold(
    foretold: &Foretold,
    force: bool,
    dry_run: bool,
    yes: bool,
) -> Option<anyhow::Result<Output>> {
    let Foretold { must_force, sentence: would, .. } = foretold;
    if dry_run {
        let forced = if *must_force { "; it would have to be forced" } else { "" };
        return Some(Ok((format!("{would}{forced}. Nothing was changed.\n"), ExitCode::SUCCESS)));
    }
    if (*must_force && !force) || yes || !std::io::stdin().is_terminal() {
        // What must be forced is refused by the ledger, with a sentence.
        return None;
    }
    match super::confirm(&format!("{would}. Release them?")) {
        Ok(true) => None,
        Ok(false) => Some(Ok(("Nothing was changed.\n".to_owned(), ExitCode::from(1)))),
        Err(error) => Some(Err(error)),
    }
}

/// Lists or accepts losses.
pub(super) async fn losses(args: LossesArgs, running: Running) -> anyhow::Result<Output> {
    let ledger = stores::ledger_or(args.ledger, running)?;
    ledger.schema().check().await.context("could not use the ledger")?;
    // Losses are in the ledger, whatever Redis and the topology are.
    let streams = Streams::new(UNUSED, "", 1, 1).context("could not use the ledger")?;
    let operations = Operations::new(&streams, &ledger, &Topology::noted(1, 1), clock::system);
    match args.action {
        LossesAction::List { all, json } => {
            let rows = operations.losses(all).await.context("could not list losses")?;
            let open = rows.iter().any(|row| row.state == "open");
            let none = match all {
                true => "Nothing is known to be lost.",
                false => "No loss is open; --all shows accepted ones.",
            };
            let columns: &[Column<'_, LossRow>] = &[
                ("partition", &|row| cell(row.partition)),
                ("found", &|row| cell(instant(row.detected_at))),
                ("lost sequences", &|row| cell(lost(row))),
                ("goes on at", &|row| cell(row.resumes_at)),
                ("state", &|row| cell(&row.state)),
                ("what", &|row| cell(format!("{}: {}", row.reason, row.detail))),
            ];
            Ok((listing(&rows, json, none, columns), ExitCode::from(u8::from(open))))
        }
        LossesAction::Accept { partition, signature } => {
            let act = ActArgs { signature, json: false };
            act.make(&operations, Act::AcceptLosses { partition }).await
        }
    }
}

fn lost(row: &LossRow) -> String {
    match (row.lost_first, row.lost_last) {
        (Some(first), Some(last)) if first == last => first.to_string(),
        (Some(first), Some(last)) => format!("{first} to {last}"),
        // Given out after the ledger was last told, if any was.
        _ => "none known".to_owned(),
    }
}

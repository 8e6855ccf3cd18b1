//! `paystream release`: makes the owner of a partition hand it over, and says who
//! has it next. Never chooses the next owner, and never touches a payment.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{Signature, stores};
use crate::{
    clock,
    config::StoreConfig,
    operations::{Handover, Operations, Refusal},
};

/// What `paystream release` is told.
#[derive(Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Which partition.
    #[arg(long)]
    pub partition: u16,
    /// Do not wait for its owner to end its batch: what it has under way is
    /// refused by the ledger and settled by the next owner.
    #[arg(long)]
    pub force: bool,
    /// Who and why.
    #[command(flatten)]
    pub signature: Signature,
    /// Print one JSON document instead of a sentence.
    #[arg(long)]
    pub json: bool,
}

/// Releases a partition and waits, for two leases, until it has an owner under a
/// new epoch. Exits with 1 when it was refused, or has none in time.
pub async fn run(args: ReleaseArgs) -> anyhow::Result<ExitCode> {
    let (streams, ledger, topology) = stores::open(&args.store).await?;
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    let signature = args.signature.signed()?;
    let released = operations.release(args.partition, args.force, &signature).await;
    let (text, code) = match released.context("could not release the partition")? {
        Ok(released) => {
            let handover = operations.handover(released).await;
            let handover = handover.context(
                "the partition is released, but it cannot be seen who has it: look at `paystream \
                 partitions`",
            )?;
            let code = if handover.handed_over { 0 } else { 1 };
            let text = if args.json {
                format!("{:#}", serde_json::to_value(&handover)?)
            } else {
                sentence(&handover, args.force)
            };
            (text, code)
        }
        Err(refusal) if args.json => (refused(args.partition, &refusal), 1),
        Err(refusal) => (format!("not released: {}", refusal.sentence()), 1),
    };
    writeln!(std::io::stdout(), "{text}").context("could not write the answer")?;
    Ok(ExitCode::from(code))
}

fn refused(partition: u16, refusal: &Refusal) -> String {
    let document = json!({
        "partition": partition, "handed_over": false, "refused": refusal.sentence(),
    });
    format!("{document:#}")
}

fn sentence(handover: &Handover, force: bool) -> String {
    let Handover { partition, previous_owner, previous_epoch, owner, epoch, handed_over } =
        handover;
    match owner {
        Some(owner) if *handed_over => format!(
            "partition {partition} is with {owner} under epoch {epoch}; it was with \
             {previous_owner} under epoch {previous_epoch}"
        ),
        _ if force => format!(
            "partition {partition} was taken from {previous_owner} and nobody has acquired it yet: \
             `paystream doctor` says whether a worker lives; one that starts takes it"
        ),
        _ => format!(
            "{previous_owner} was asked for partition {partition} and has not handed it over yet; \
             it does at the end of its batch. If it hangs, take it away: `paystream release \
             --partition {partition} --force --reason \"…\"`, which is safe, as the ledger \
             refuses whatever it still tries"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{Handover, sentence};

    #[test]
    fn what_to_do_next_is_said_when_nobody_has_it() {
        let mut handover = Handover {
            partition: 7,
            previous_owner: "a".to_owned(),
            previous_epoch: 3,
            owner: Some("a".to_owned()),
            epoch: 3,
            handed_over: false,
        };
        assert!(sentence(&handover, false).contains("--partition 7 --force"));
        handover.owner = None;
        assert!(sentence(&handover, true).contains("nobody has acquired it"));
        let handover =
            Handover { owner: Some("b".to_owned()), epoch: 5, handed_over: true, ..handover };
        assert!(sentence(&handover, true).starts_with("partition 7 is with b under epoch 5"));
    }
}

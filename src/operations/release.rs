//! Makes the owner of a partition hand it over, and sees who has it next. Never
//! decides who that is: the workers do.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Acted, Answer, Error, Operations, Signature, error::Context};

/// Code of the act.
const CODE: &str = "release_partition";
/// Between two looks at whether a partition has a new owner.
const LOOK: Duration = Duration::from_millis(100);
/// How long to wait for one at most, whatever the lease is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who owns a partition, and under which epoch.
type Owner = (Option<String>, i64);

impl Operations {
    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.topology.partitions
    }

    /// Says that a partition is not one of this topology's.
    #[must_use]
    pub fn no_partition(&self, partition: u32) -> String {
        self.topology.no_partition(partition)
    }

    /// Asks the owner of a partition to hand it over at its next batch edge, or
    /// with `force` takes it away at once. With `wait`, says who acquired it.
    pub(super) async fn release(
        &self,
        partition: u16,
        (force, wait): (bool, bool),
        by: &Signature,
    ) -> Result<Acted<Answer>, Error> {
        let (_, epoch) = self.ownership(partition).await?;
        let owner = match self.admin.release(partition, force, by).await? {
            Ok(owner) => owner,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if wait {
            let now = self.next_owner(partition, epoch).await.context(
                "the partition is released, but it cannot be seen who has it: look at `paystream \
                 partitions`",
            )?;
            return Ok(Ok(handover(partition, &owner, epoch, now, force)));
        }
        let sentence = match force {
            true => format!("the epoch of {owner} on partition {partition} has ended"),
            false => format!("{owner} was asked to hand partition {partition} over"),
        };
        let facts = json!({ "partition": partition, "owner": owner, "epoch": epoch });
        Ok(Ok(Answer::done(CODE, sentence, facts)))
    }

    /// Waits until the partition is acquired under a new epoch: for two leases,
    /// and not longer than a minute.
    async fn next_owner(&self, partition: u16, epoch: i64) -> Result<Owner, Error> {
        let workers = self.admin.workers().await?;
        let lease = workers.iter().map(|worker| worker.lease_ms).max().unwrap_or(0);
        let lease = Duration::from_millis(u64::try_from(lease).unwrap_or(0));
        let end = Instant::now() + PATIENCE.min(2 * lease);
        loop {
            let now = self.ownership(partition).await?;
            if (now.0.is_some() && now.1 > epoch) || Instant::now() >= end {
                return Ok(now);
            }
            sleep(LOOK).await;
        }
    }

    async fn ownership(&self, partition: u16) -> Result<Owner, Error> {
        let cursors = self.reader.cursors().await?;
        let row = cursors.into_iter().find(|row| row.partition == i32::from(partition));
        Ok(row.map(|row| (row.owner, row.epoch)).unwrap_or_default())
    }
}

/// What became of a partition that was released, and what to do while nobody has it.
fn handover(
    partition: u16,
    previous: &str,
    previous_epoch: i64,
    (owner, epoch): Owner,
    force: bool,
) -> Answer {
    let complete = owner.is_some() && epoch > previous_epoch;
    let sentence = match &owner {
        Some(owner) if complete => format!(
            "partition {partition} is with {owner} under epoch {epoch}; it was with {previous} \
             under epoch {previous_epoch}"
        ),
        _ if force => format!(
            "partition {partition} was taken from {previous} and nobody has acquired it yet: \
             `paystream doctor` says whether a worker lives; one that starts takes it"
        ),
        _ => format!(
            "{previous} was asked for partition {partition} and has not handed it over yet; it \
             does at the end of its batch. If it hangs, take it away: `paystream release \
             --partition {partition} --force --reason \"…\"`, which is safe, as the ledger \
             refuses whatever it still tries"
        ),
    };
    let document = json!({
        "partition": partition, "previous_owner": previous, "previous_epoch": previous_epoch,
        "owner": owner, "epoch": epoch, "handed_over": complete,
    });
    Answer { code: CODE, sentence, document, complete }
}

#[cfg(test)]
mod tests {
    use super::handover;

    #[test]
    fn what_to_do_next_is_said_when_nobody_has_it() {
        let owned = |owner: Option<&str>, epoch| (owner.map(str::to_owned), epoch);
        let asked = handover(7, "a", 3, owned(Some("a"), 3), false);
        assert!(!asked.complete && asked.sentence.contains("--partition 7 --force"));
        assert!(handover(7, "a", 3, owned(None, 4), true).sentence.contains("nobody has acquired"));
        let moved = handover(7, "a", 3, owned(Some("b"), 5), true);
        assert!(
            moved.complete && moved.sentence.starts_with("partition 7 is with b under epoch 5")
        );
    }
}

//! Makes the owner of a partition hand it over, and sees who has it next. Never
//! decides who that is: the workers do.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Acted, Answer, Error, Operations, Signature};

/// Between two looks at whether a partition has a new owner.
const LOOK: Duration = Duration::from_millis(100);
/// How long to wait for one at most, whatever the lease is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A partition that was released, or is about to be.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Released {
    partition: u16,
    /// Who had it,
    owner: String,
    /// under which epoch.
    epoch: i64,
}

/// What became of a partition that was released.
#[derive(Serialize)]
struct Handover {
    partition: u16,
    previous_owner: String,
    previous_epoch: i64,
    /// Nothing while nobody has it.
    owner: Option<String>,
    /// A higher one once it was acquired.
    epoch: i64,
    /// Whether it was acquired under a new epoch.
    handed_over: bool,
}

impl Operations {
    /// Asks the owner of a partition to hand it over at its next batch edge, or
    /// with `force` takes it away at once. Does not wait for the next owner.
    pub(super) async fn release(
        &self,
        partition: u16,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<Released>, Error> {
        let epoch = self.seat(partition).await?.1;
        let released = self.admin.release(partition, force, signature).await?;
        Ok(released.map(|owner| Released { partition, owner, epoch }))
    }

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

    /// Waits until the partition is acquired under a new epoch: for two leases,
    /// and not longer than a minute.
    ///
    /// # Errors
    /// When the ledger cannot be asked; it may be handed over all the same.
    pub(super) async fn handed_over(
        &self,
        code: &'static str,
        released: Released,
        force: bool,
    ) -> Result<Answer, Error> {
        let handover = self.handover(released).await.map_err(|error| {
            let what = "the partition is released, but it cannot be seen who has it: look at \
                        `paystream partitions`";
            error.after(what)
        })?;
        Ok(Answer {
            complete: handover.handed_over,
            document: json!(handover),
            ..Answer::done(code, handover.sentence(force), json!({}))
        })
    }

    async fn handover(&self, released: Released) -> Result<Handover, Error> {
        let workers = self.admin.workers().await?;
        let lease = workers.iter().map(|worker| worker.lease_ms).max().unwrap_or(0);
        let lease = Duration::from_millis(u64::try_from(lease).unwrap_or(0));
        let end = Instant::now() + PATIENCE.min(2 * lease);
        let Released { partition, owner: previous_owner, epoch: previous_epoch } = released;
        loop {
            let (owner, epoch) = self.seat(partition).await?;
            let handed_over = owner.is_some() && epoch > previous_epoch;
            if handed_over || Instant::now() >= end {
                return Ok(Handover {
                    partition,
                    previous_owner,
                    previous_epoch,
                    owner,
                    epoch,
                    handed_over,
                });
            }
            sleep(LOOK).await;
        }
    }

    /// Who owns a partition, and under which epoch.
    async fn seat(&self, partition: u16) -> Result<(Option<String>, i64), Error> {
        let cursors = self.reader.cursors().await?;
        let seat = cursors.into_iter().find(|row| row.partition == i32::from(partition));
        Ok(seat.map_or((None, 0), |row| (row.owner, row.epoch)))
    }
}

impl Released {
    pub(super) fn sentence(&self, force: bool) -> String {
        let Self { partition, owner, .. } = self;
        match force {
            true => format!("the epoch of {owner} on partition {partition} has ended"),
            false => format!("{owner} was asked to hand partition {partition} over"),
        }
    }
}

impl Handover {
    fn sentence(&self, force: bool) -> String {
        let Self { partition, previous_owner, previous_epoch, owner, epoch, handed_over } = self;
        match owner {
            Some(owner) if *handed_over => format!(
                "partition {partition} is with {owner} under epoch {epoch}; it was with \
                 {previous_owner} under epoch {previous_epoch}"
            ),
            _ if force => format!(
                "partition {partition} was taken from {previous_owner} and nobody has acquired it \
                 yet: `paystream doctor` says whether a worker lives; one that starts takes it"
            ),
            _ => format!(
                "{previous_owner} was asked for partition {partition} and has not handed it over \
                 yet; it does at the end of its batch. If it hangs, take it away: `paystream \
                 release --partition {partition} --force --reason \"…\"`, which is safe, as the \
                 ledger refuses whatever it still tries"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Handover;

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
        assert!(handover.sentence(false).contains("--partition 7 --force"));
        handover.owner = None;
        assert!(handover.sentence(true).contains("nobody has acquired it"));
        let handover =
            Handover { owner: Some("b".to_owned()), epoch: 5, handed_over: true, ..handover };
        assert!(handover.sentence(true).starts_with("partition 7 is with b under epoch 5"));
    }
}

//! Makes the owner of a partition hand it over, and sees who has it next. Never
//! decides who that is: the workers do.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

use super::{Acted, Error, Operations, Signature};

/// Between two looks at whether a partition has a new owner.
const LOOK: Duration = Duration::from_millis(100);
/// How long to wait for one at most, whatever the lease is.
const PATIENCE: Duration = Duration::from_secs(60);

/// A partition that was released, or is about to be.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Released {
    /// Which.
    pub partition: u16,
    /// Who had it,
    pub owner: String,
    /// under which epoch.
    pub epoch: i64,
}

/// What became of a partition that was released.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Handover {
    /// Which.
    pub partition: u16,
    /// Who had it,
    pub previous_owner: String,
    /// under which epoch.
    pub previous_epoch: i64,
    /// Who has it now; nothing while nobody does.
    pub owner: Option<String>,
    /// Under which epoch: a higher one once it was acquired.
    pub epoch: i64,
    /// Whether it was acquired under a new epoch.
    pub handed_over: bool,
}

impl Operations {
    /// Asks the owner of a partition to hand it over at its next batch edge, or
    /// with `force` takes it away at once. Does not wait for the next owner.
    ///
    /// # Errors
    /// When the ledger cannot be asked; nothing has changed then.
    pub async fn release(
        &self,
        partition: u16,
        force: bool,
        signature: &Signature,
    ) -> Result<Acted<Released>, Error> {
        let epoch = self.seat(partition).await?.1;
        let released = self.admin.release(partition, force, signature).await?;
        Ok(released.map(|owner| Released { partition, owner, epoch }))
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
    pub async fn handover(&self, released: Released) -> Result<Handover, Error> {
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

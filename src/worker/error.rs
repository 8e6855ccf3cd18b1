//! Failures of a batch, classified. Never decides what follows.

use std::time::Duration;

use crate::{ledger, stream};

/// A failure of a batch; its entries stay pending.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error("the batch did not end within {0:?}")]
    Deadline(Duration),
    #[error("Redis has acknowledged entries of partition {0} that the ledger lacks")]
    Passed(u16),
    #[error("this worker's lease has expired")]
    LeaseOver,
    #[error("the lane is not connected")]
    NotConnected,
}

impl Error {
    pub(super) fn is_fenced(&self) -> bool {
        matches!(
            self,
            Self::Stream(stream::Error::Fenced(_))
                | Self::Ledger(ledger::Error::Fenced)
                | Self::LeaseOver
        )
    }

    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_outage(),
            Self::Ledger(error) => error.is_outage(),
            Self::Deadline(_) => true,
            Self::Passed(_) | Self::LeaseOver | Self::NotConnected => false,
        }
    }

    /// Whether a partition is on its way to another server of Redis.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self, Self::Stream(stream::Error::Moving(_)))
    }

    /// Whether a store refuses this to our user, for whatever entry.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Ledger(ledger::Error::Forbidden(_)) | Self::Stream(stream::Error::Forbidden(_))
        )
    }

    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Ledger(ledger::Error::Locked(_)))
    }

    /// Whether an entry of the batch caused the failure, so that others may be settled without
    /// it. A failure that could hit every entry does not count.
    pub(super) fn is_of_an_entry(&self) -> bool {
        self.is_raced() || matches!(self, Self::Ledger(error) if error.is_of_a_delivery())
    }

    pub(super) fn is_raced(&self) -> bool {
        matches!(self, Self::Ledger(ledger::Error::Raced))
    }

    pub(super) fn class(&self) -> &'static str {
        match self {
            error if error.is_fenced() => "fenced",
            error if error.is_of_an_entry() => "entry",
            Self::Stream(stream::Error::StateLost(_)) | Self::Passed(_) => "state_lost",
            Self::Stream(error) if error.is_outage() => "redis_outage",
            error if error.is_locked() => "locked",
            error if error.is_forbidden() => "forbidden",
            Self::Deadline(_) | Self::Ledger(ledger::Error::Slow(_)) => "deadline",
            Self::Ledger(error) if error.is_outage() => "postgresql_outage",
            Self::Stream(_) | Self::Ledger(_) | Self::LeaseOver | Self::NotConnected => {
                "unexpected"
            }
        }
    }

    pub(super) fn cause(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn sentence(&self) -> String {
        match self.cause() {
            cause if cause.is_empty() => self.to_string(),
            cause => format!("{self}: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_fail_for_every_entry_is_no_entrys_doing() {
        for error in [
            Error::Deadline(Duration::from_secs(1)),
            Error::Passed(1),
            Error::Ledger(ledger::Error::Fenced),
            Error::Ledger(ledger::Error::Schema("old".to_owned())),
        ] {
            assert!(!error.is_of_an_entry(), "{error}");
        }
    }
}

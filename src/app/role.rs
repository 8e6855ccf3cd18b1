//! What a serving process does. Serves nothing itself.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Gateway and worker in one process.
    All,
    /// Takes payments over HTTP.
    Gateway,
    /// Serves operators: the console and their API.
    Operations,
    /// Settles payments in the ledger.
    Worker,
}

impl Role {
    /// As metrics tell it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Gateway => "gateway",
            Self::Operations => "operations",
            Self::Worker => "worker",
        }
    }

    /// In all that is exported.
    pub(super) fn service_name(self) -> &'static str {
        match self {
            Self::All => "paystream",
            Self::Gateway => "paystream-gateway",
            Self::Operations => "paystream-operations",
            Self::Worker => "paystream-worker",
        }
    }

    pub(super) fn takes_payments(self) -> bool {
        matches!(self, Self::All | Self::Gateway)
    }

    pub(super) fn settles(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }
}

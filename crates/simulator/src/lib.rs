//! A model of the protocol between gateways, streams, workers and ledger, run under thousands of
//! schedules a second. It says what the code does, file by file, in as few words as possible; where
//! the code changes, it changes. The same seed gives the same schedule.
//!
//! Never opens a connection, reads a clock, or names the service's code.

mod gateway;
mod ledger;
mod redis;
#[cfg(test)]
mod tests;
mod worker;
mod world;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// What may be broken in the model on purpose, to see that a schedule shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// Neither Redis nor the ledger checks who owns a partition.
    NoFence,
    /// Entries are acknowledged before their transaction commits.
    AckBeforeCommit,
    /// Trimming does not ask how far the ledger is.
    TrimBeyondCursor,
    /// `lag` as Redis counts it is believed.
    LagBelieved,
    /// References are looked up before the transaction, and not in it.
    DedupeOutside,
    /// A client library sends a whole pipeline again, behind an append of unknown fate.
    ResendPipeline,
    /// Gateways do not compare what they know with a new server.
    NoComparison,
}

impl Breakage {
    pub const ALL: [Self; 7] = [
        Self::NoFence,
        Self::AckBeforeCommit,
        Self::TrimBeyondCursor,
        Self::LagBelieved,
        Self::DedupeOutside,
        Self::ResendPipeline,
        Self::NoComparison,
    ];
}

/// A seed that is another one each time.
pub fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Runs the schedule of a seed; what it showed to be wrong.
pub fn run(seed: u64, breakage: Option<Breakage>) -> Vec<String> {
    world::run(seed, breakage)
}

//! Says of one pending entry why it is where it is, whether that is as it should
//! be, and what is safe to do. Pure: what is known goes in, a verdict comes out.

use serde::Serialize;
use utoipa::ToSchema;

/// Why an entry is pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    /// Stable, for programs: `in_flight`, `waiting_for_ledger`, `owner_silent`,
    /// `no_owner`, `changing_hands`, `committed`, `poison`, `behind_poison`,
    /// `unreadable`, `deleted`, `slow`.
    pub code: &'static str,
    /// For people.
    pub sentence: String,
    /// Whether it is more than work under way.
    pub trouble: bool,
    /// What is safe to do, the best first. Never empty.
    pub actions: Vec<Action>,
}

/// Something safe to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Action {
    /// Stable, for programs: `wait`, `release_partition`, `start_worker`,
    /// `check_postgresql`, `redrive`, `discard`, `assign`, `open_account`.
    pub code: &'static str,
    /// What it does, as an imperative.
    pub label: String,
    /// The command that does it, if a command does.
    pub command: Option<String>,
    /// Why it can do no harm.
    pub safe_because: &'static str,
}

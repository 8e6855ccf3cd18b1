//! Something an operator should know, in one shape: what, how bad, what to do,
//! and which heading of the RUNBOOK says more.

use serde::Serialize;
use utoipa::ToSchema;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing.
    Notice,
    /// Will hurt if nobody acts.
    Warning,
    /// Hurts now.
    Critical,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// Stable, for programs: `partition_unowned`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `partition 7`, `redis`.
    pub subject: String,
    /// What is so.
    pub sentence: String,
    /// What to do about it; empty when it is as it should be.
    pub advice: String,
    /// The heading of the RUNBOOK that says more; empty when it is as it should
    /// be.
    pub runbook: &'static str,
}

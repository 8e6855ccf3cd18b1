//! The whole system at a glance, for whoever watches it live.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

/// Everything at a glance. What could not be asked is missing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Overview {
    /// When it was looked.
    pub as_of: DateTime<Utc>,
    /// Whether Redis answered,
    pub redis_available: bool,
    /// and PostgreSQL.
    pub ledger_available: bool,
}

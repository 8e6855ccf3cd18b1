//! How the database itself is: settings, clock, sessions, size. Never changes
//! a setting.

use chrono::{DateTime, Utc};

use super::Desk;
use crate::ledger::Error;

/// What `paystream doctor` wants to know of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Its clock.
    pub now: DateTime<Utc>,
}

impl Desk {
    /// Asks PostgreSQL how it is.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn vitals(&self) -> Result<Vitals, Error> {
        let now = sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.pool).await?;
        Ok(Vitals { now })
    }
}

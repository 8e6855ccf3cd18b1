//! How much waits for a decision of an operator: open cases of every kind.
//! Cheap enough to ask every second; never changes anything.

use sqlx::FromRow;

use super::{AdminStore, COUNT_MAX};
use crate::ledger::Error;

/// Cases that somebody has to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct OpenCases {
    pub dead_letters: i64,
    pub suspense: i64,
    pub conflicts: i64,
    pub parked: i64,
}

impl AdminStore {
    /// Counts what is open, each kind up to 10,000.
    pub async fn open_cases(&self) -> Result<OpenCases, Error> {
        let row = sqlx::query_as(
            "select (select count(*) from (select from dead_letters where state = 'dead'
                     limit $1) counted) as dead_letters,
                 (select count(*) from (select from suspense where state = 'held'
                     limit $1) counted) as suspense,
                 (select count(*) from (select from conflicts where state = 'open'
                     limit $1) counted) as conflicts,
                 (select count(*) from (select from customer_accounts where parked_at is not null
                     limit $1) counted) as parked",
        );
        Ok(row.bind(COUNT_MAX).fetch_one(&self.pool).await?)
    }
}

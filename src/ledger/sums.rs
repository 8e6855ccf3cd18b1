//! Sums over everything that the ledger has. Never changes anything.

use rust_decimal::Decimal;
use sqlx::{Connection, FromRow};

use super::{Error, Reader};

/// How long counting all customers may take, in milliseconds.
const COUNTING_MS_MAX: &str = "5000";

#[derive(Clone, Debug, FromRow)]
pub struct Totals {
    /// Payments that moved money,
    pub applied: i64,
    /// were noted,
    pub recorded: i64,
    /// were refused by an account,
    pub rejected: i64,
    /// are held in suspense,
    pub suspense: i64,
    /// came under a used reference with other content,
    pub conflicts: i64,
    /// came again after the stream had forgotten them,
    pub duplicates: i64,
    /// could not be settled,
    pub dead_letters: i64,
    /// wait behind those.
    pub parked: i64,
    /// The whole amount of applied payments.
    pub amount: Decimal,
    pub customers: i64,
    /// Accounts with nothing left to pay.
    pub customers_completed: i64,
}

/// How many customers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct CustomerCount {
    /// All of them,
    pub all: i64,
    /// and those with nothing left to pay.
    pub completed: i64,
}

impl Reader {
    pub async fn totals(&self) -> Result<Totals, Error> {
        let row = sqlx::query_as(
            "select sum(applied)::bigint as applied, sum(recorded)::bigint as recorded,
                 sum(rejected)::bigint as rejected, sum(suspense)::bigint as suspense,
                 sum(conflicts)::bigint as conflicts, sum(duplicates)::bigint as duplicates,
                 sum(dead_letters)::bigint as dead_letters, sum(parked)::bigint as parked,
                 sum(amount) as amount,
                 (select count(*) from customer_accounts) as customers,
                 (select count(*) from customer_accounts
                  where outstanding_balance = 0) as customers_completed
             from partition_totals",
        )
        .fetch_one(&mut *self.pool.acquire().await?)
        .await?;
        Ok(row)
    }

    /// How many losses of Redis nobody has dealt with.
    pub async fn open_losses(&self) -> Result<i64, Error> {
        let count = sqlx::query_scalar("select count(*) from sequence_jumps where state = 'open'")
            .fetch_one(&mut *self.pool.acquire().await?)
            .await?;
        Ok(count)
    }

    /// How many payments the ledger has settled; cheap enough to ask often.
    pub async fn settled(&self) -> Result<i64, Error> {
        let sum = sqlx::query_scalar(
            "select coalesce(sum(applied + recorded + rejected + suspense), 0)::bigint
             from partition_totals",
        )
        .fetch_one(&mut *self.pool.acquire().await?)
        .await?;
        Ok(sum)
    }

    /// Counts all customers, for five seconds at most. Reads every account: not
    /// to be asked often.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached, or counting takes longer.
    pub async fn customers(&self) -> Result<CustomerCount, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        sqlx::query(
            "select set_config('statement_timeout', $1, true),
                 set_config('enable_seqscan', 'on', true)",
        )
        .bind(COUNTING_MS_MAX)
        .execute(&mut *transaction)
        .await?;
        let count = sqlx::query_as(
            "select count(*) as \"all\", count(*) filter (where outstanding_balance = 0) as completed
             from customer_accounts",
        )
        .fetch_one(&mut *transaction)
        .await?;
        transaction.rollback().await?;
        Ok(count)
    }
}

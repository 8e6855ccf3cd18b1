//! All that the ledger keeps of one customer, row by row and as of one moment. Never changes
//! anything, and never holds more than a row.

use std::io;

use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;

use super::{Error, Ledger};
use crate::domain::CustomerId;

const OWN: &str = "customer_id = $1";
/// Of the same entry as what the customer paid, wherever that is: another's payment may have the
/// same reference.
const OF_ENTRIES: &str = "(partition, sequence, stream_id) in
    (select partition, sequence, stream_id from payment_outcomes where customer_id = $1)";
/// Repetitions of what the customer paid: another's payment would be a conflict.
const OF_PAYMENTS: &str = "(transaction_reference, payment_status) in
    (select transaction_reference, payment_status from payment_outcomes where customer_id = $1)";

const IN_THE_LOG: &str = "subject = $1 or after ->> 'customer_id' = $1 or subject in
    (select transaction_reference from payment_outcomes where customer_id = $1)";

/// Tables, and which of their rows are about a customer.
const PARTS: [(&str, &str); 9] = [
    ("customer_accounts", OWN),
    ("processed_transactions", OWN),
    ("suspense", "customer_id = $1 or assigned_to = $1"),
    ("parked", OWN),
    ("conflicts", OWN),
    ("dead_letters", OWN),
    ("duplicates", OF_PAYMENTS),
    ("payment_evidence", OF_ENTRIES),
    ("audit_log", IN_THE_LOG),
];

impl Ledger {
    /// Hands over each row as its table and a JSON object; says how many there were.
    pub async fn export(
        &self,
        customer: &CustomerId,
        mut each: impl FnMut(&str, &str) -> io::Result<()>,
    ) -> Result<io::Result<u64>, Error> {
        let mut connection = self.address.connect().await?;
        let mut transaction = connection.snapshot().await?;
        let mut count = 0;
        for (table, about) in PARTS {
            let rows = format!("select to_jsonb(it)::text from {table} it where {about}");
            let rows = sqlx::query_scalar(AssertSqlSafe(rows)).bind(customer.as_str());
            let mut rows = rows.fetch(&mut *transaction);
            while let Some(row) = rows.try_next().await? {
                let row: String = row;
                if let Err(error) = each(table, &row) {
                    return Ok(Err(error));
                }
                count += 1;
            }
        }
        Ok(Ok(count))
    }
}

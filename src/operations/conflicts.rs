//! Conflicts as operators see them: two payments under one reference, side by
//! side.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Act, Action, Error, Operations,
    shapes::{Money, money},
};
use crate::ledger::OpenConflict;

/// Names a conflict: `7/3` came from partition 7 with sequence 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConflictName {
    pub partition: u16,
    pub sequence: i64,
}

impl fmt::Display for ConflictName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.sequence)
    }
}

impl FromStr for ConflictName {
    type Err = &'static str;

    /// `7-3`, as the console wrote it once, is the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be a partition and a sequence, such as 7/3";
        let (partition, sequence) = text.split_once(['/', '-']).ok_or(wrong)?;
        let parsed = partition.parse().ok().zip(sequence.parse().ok());
        let (partition, sequence) = parsed.ok_or(wrong)?;
        Ok(Self { partition, sequence })
    }
}

/// A payment that came under a used reference with other content.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Conflict {
    /// Where it came from,
    pub partition: u16,
    /// and its sequence there: together they name it.
    pub sequence: i64,
    pub transaction_reference: String,
    /// Whom it is of,
    pub customer_id: String,
    /// how much,
    #[schema(value_type = Money)]
    pub transaction_amount: String,
    /// what the bank said,
    pub payment_status: String,
    /// and when.
    pub transaction_date: DateTime<Utc>,
    /// The payment that has the reference: of whom,
    pub first_customer_id: Option<String>,
    /// how much,
    #[schema(value_type = Option<Money>)]
    pub first_amount: Option<String>,
    /// and when.
    pub first_transaction_date: Option<DateTime<Utc>>,
    /// What differs, as a sentence.
    pub sentence: String,
    /// `open` or `resolved`.
    pub state: String,
    /// When it was found.
    pub detected_at: DateTime<Utc>,
    /// When somebody dealt with it.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What is safe to do; empty once it is dealt with.
    pub actions: Vec<Action>,
}

impl Conflict {
    #[must_use]
    pub fn name(&self) -> ConflictName {
        ConflictName { partition: self.partition, sequence: self.sequence }
    }
}

impl Operations {
    /// A page of conflicts, the longest open first.
    pub async fn conflicts(
        &self,
        all: bool,
        reference: Option<&str>,
        after: Option<ConflictName>,
        limit: i64,
    ) -> Result<Vec<Conflict>, Error> {
        let after = after.map(|name| (i32::from(name.partition), name.sequence));
        let rows = self.admin.conflicts(all, reference, after, limit).await?;
        Ok(rows.into_iter().map(Conflict::from).collect())
    }
}

impl From<OpenConflict> for Conflict {
    fn from(row: OpenConflict) -> Self {
        let partition = u16::try_from(row.partition).unwrap_or_default();
        let conflict = ConflictName { partition, sequence: row.sequence };
        let actions = [Act::Resolve { conflict }].map(Act::action);
        Self {
            partition,
            sequence: row.sequence,
            sentence: difference(&row),
            transaction_reference: row.transaction_reference,
            customer_id: row.customer_id,
            transaction_amount: money(row.amount),
            payment_status: row.payment_status,
            transaction_date: row.transaction_date,
            first_customer_id: row.first_customer_id,
            first_amount: row.first_amount.map(money),
            first_transaction_date: row.first_transaction_date,
            actions: actions.into_iter().filter(|_| row.state == "open").collect(),
            state: row.state,
            detected_at: row.detected_at,
            resolved_at: row.resolved_at,
        }
    }
}

/// What the payment says, and what the one said that has the reference.
fn difference(row: &OpenConflict) -> String {
    let (Some(customer), Some(amount), Some(date)) =
        (&row.first_customer_id, row.first_amount, row.first_transaction_date)
    else {
        return "the payment that has the reference is not settled yet".to_owned();
    };
    let date = date.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let was = [
        ("customer", row.customer_id.clone(), customer.clone()),
        ("amount", money(row.amount), money(amount)),
        ("date", row.transaction_date.to_rfc3339_opts(SecondsFormat::AutoSi, true), date),
    ];
    let differ = was.into_iter().filter(|(_, new, first)| new != first);
    let differ: Vec<String> =
        differ.map(|(what, new, first)| format!("{what} {new} instead of {first}")).collect();
    match differ.is_empty() {
        // Money in suspense was sent for one customer and assigned to another.
        true => "says now what the first was corrected to".to_owned(),
        false => differ.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::ConflictName;

    #[test]
    fn a_conflict_has_one_name_and_its_older_one_is_known() {
        for text in ["7/3", "7-3"] {
            assert_eq!(text.parse::<ConflictName>().unwrap().to_string(), "7/3");
        }
        for text in ["", "7", "7/", "/3", "70000/3", "7/3/1"] {
            assert!(text.parse::<ConflictName>().is_err(), "{text}");
        }
    }
}

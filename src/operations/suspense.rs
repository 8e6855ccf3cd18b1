//! Money of unknown customers as operators see it, and what they do with it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Act, Acted, Action, Error, Operations, Signature,
    shapes::{Money, money},
};
use crate::{
    domain::{CustomerId, Reference},
    ledger::SuspenseRow,
};

/// A payment in suspense.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SuspensePayment {
    /// The bank's name for it.
    pub transaction_reference: String,
    /// The customer it was sent for.
    pub customer_id: String,
    #[schema(value_type = Money)]
    pub transaction_amount: String,
    /// `held`, `applied`, `conflict` or `refund_marked`.
    pub state: String,
    /// Why it is there, as a sentence.
    pub sentence: String,
    /// The customer that it was assigned to.
    pub assigned_to: Option<String>,
    /// When the bank says it happened.
    pub transaction_date: DateTime<Utc>,
    /// Since when it is held.
    pub held_at: DateTime<Utc>,
    /// When it was dealt with.
    pub resolved_at: Option<DateTime<Utc>>,
    /// What is safe to do; empty once it is dealt with.
    pub actions: Vec<Action>,
}

/// What came of assigning a held payment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AssignReport {
    /// The bank's name for it.
    pub transaction_reference: String,
    /// The customer that it was to be applied to.
    pub customer_id: String,
    /// `applied`, or `conflict` when its reference was used meanwhile.
    pub outcome: String,
    /// What is left to pay, if it was applied.
    #[schema(value_type = Option<Money>)]
    pub balance_after: Option<String>,
    /// What came of it.
    pub sentence: String,
}

impl Operations {
    /// A page of payments in suspense, the longest held first: those that are held
    /// or to be sent back, or `all`.
    pub async fn suspense(
        &self,
        all: bool,
        customer: Option<&str>,
        after: Option<&str>,
        limit: i64,
    ) -> Result<Vec<SuspensePayment>, Error> {
        let rows = self.admin.suspense(all, customer, after, limit).await?;
        Ok(rows.into_iter().map(SuspensePayment::from).collect())
    }

    /// Applies a held payment to the account of `customer`, whose it is.
    pub async fn assign(
        &self,
        reference: &Reference,
        customer: &CustomerId,
        signature: &Signature,
    ) -> Result<Acted<AssignReport>, Error> {
        let assigned = match self.admin.assign(reference, customer, signature).await? {
            Ok(assigned) => assigned,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if assigned.balance_after.is_some() {
            self.forget_balance(customer).await;
        }
        let (name, balance) = (customer.as_str(), assigned.balance_after.map(money));
        let mut sentence = match (assigned.outcome.as_str(), &balance) {
            ("applied", Some(balance)) => format!("applied to {name}, {balance} left to pay"),
            _ => "a conflict: its reference was used for another payment while it was held; it \
                  moved no money"
                .to_owned(),
        };
        if assigned.parked && balance.is_some() {
            let wait = format!("`paystream parked release {name} --reason \"…\"`");
            sentence = format!("{sentence}; other payments still wait: {wait}");
        }
        Ok(Ok(AssignReport {
            transaction_reference: reference.as_str().to_owned(),
            customer_id: name.to_owned(),
            outcome: assigned.outcome,
            balance_after: balance,
            sentence,
        }))
    }
}

impl From<SuspenseRow> for SuspensePayment {
    fn from(row: SuspenseRow) -> Self {
        let customer = &row.customer_id;
        let sentence = match (row.state.as_str(), &row.assigned_to) {
            ("held", _) => format!("no customer has the id {customer}"),
            ("applied", Some(other)) => format!("was assigned to {other} and applied"),
            ("applied", None) => format!("was applied when the account of {customer} was opened"),
            ("refund_marked", _) => "is to be sent back; it is not applied any more".to_owned(),
            _ => "its reference was used for another payment while it was held".to_owned(),
        };
        let actions = if row.state == "held" { actions(&row) } else { Vec::new() };
        Self {
            transaction_reference: row.transaction_reference,
            customer_id: row.customer_id,
            transaction_amount: money(row.amount),
            state: row.state,
            sentence,
            assigned_to: row.assigned_to,
            transaction_date: row.transaction_date,
            held_at: row.held_at,
            resolved_at: row.resolved_at,
            actions,
        }
    }
}

fn actions(row: &SuspenseRow) -> Vec<Action> {
    let open = Action {
        code: "open_account",
        label: format!("Open the account of {}, if it is a customer of ours", row.customer_id),
        command: None,
        safe_because: "what is held for it is applied with it, once and in order",
        act: None,
    };
    let Ok(reference) = Reference::parse(&*row.transaction_reference) else { return vec![open] };
    let assign = Act::Assign { reference: reference.clone(), customer: None };
    vec![open, assign.action(), Act::MarkForRefund { reference }.action()]
}

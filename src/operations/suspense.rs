//! Money of unknown customers as operators see it, and what they do with it.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, QueryBuilder};
use utoipa::{IntoParams, ToSchema};

use super::{
    Act, Acted, Action, Error, Money, Operations, Page, Signature,
    page::{narrow, page_size},
};
use crate::domain::{CustomerId, Reference};

#[derive(Args, Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SuspenseFilter {
    /// Include payments that were applied or found in conflict, beside those that are
    /// held or marked for refund.
    #[arg(long)]
    pub all: bool,
    /// Only payments that were sent for this customer.
    #[arg(long)]
    pub customer: Option<String>,
    /// Cursor: `next` of the previous page.
    #[arg(skip)]
    pub after: Option<String>,
    /// 1 to 500; default 50.
    #[arg(skip)]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
}

/// A payment in suspense.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct SuspensePayment {
    pub transaction_reference: String,
    pub customer_id: String,
    #[sqlx(rename = "amount")]
    pub transaction_amount: Money,
    /// `held`, `applied`, `conflict` or `refund_marked`.
    pub state: String,
    #[sqlx(skip)]
    pub sentence: String,
    /// The customer that it was assigned to.
    pub assigned_to: Option<String>,
    pub transaction_date: DateTime<Utc>,
    pub held_at: DateTime<Utc>,
    pub resolved_at: Option<DateTime<Utc>>,
    /// What is safe to do; empty once it is resolved.
    #[sqlx(skip)]
    pub actions: Vec<Action>,
}

/// What came of assigning a held payment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AssignReport {
    pub transaction_reference: String,
    /// The customer that it was to be applied to.
    pub customer_id: String,
    /// `applied`, or `conflict` when its reference was used meanwhile.
    pub outcome: String,
    /// What is left to pay, if it was applied.
    pub balance_after: Option<Money>,
    pub sentence: String,
}

impl Operations {
    /// A page of payments in suspense, the longest held first.
    pub async fn suspense(
        &self,
        filter: &SuspenseFilter,
    ) -> Result<Page<SuspensePayment, String>, Error> {
        let limit = page_size(filter.limit)?;
        let mut query = QueryBuilder::new(
            "select transaction_reference, customer_id, amount, state, assigned_to,
                 transaction_date, held_at, resolved_at from suspense where ",
        );
        query.push(if filter.all { "true" } else { "state in ('held', 'refund_marked')" });
        narrow(&mut query, [("customer_id", &filter.customer)]);
        if let Some(after) = &filter.after {
            query.push(
                " and (held_at, transaction_reference) > (select held_at, transaction_reference
                     from suspense where transaction_reference = ",
            );
            query.push_bind(after).push(")");
        }
        query.push(" order by held_at, transaction_reference limit ").push_bind(limit);
        let mut rows: Vec<SuspensePayment> = self.pool.all(query.build_query_as()).await?;
        for row in &mut rows {
            row.sentence = row.reason();
            row.actions = row.actions();
        }
        Ok(Page::new(rows, limit, |row| row.transaction_reference.clone()))
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
        let (name, balance) = (customer.as_str(), assigned.balance_after.map(Money));
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

impl SuspensePayment {
    fn reason(&self) -> String {
        let customer = &self.customer_id;
        match (self.state.as_str(), &self.assigned_to) {
            ("held", _) => format!("no customer has the id {customer}"),
            ("applied", Some(other)) => format!("was assigned to {other} and applied"),
            ("applied", None) => format!("was applied when the account of {customer} was opened"),
            ("refund_marked", _) => "is to be sent back; it is not applied any more".to_owned(),
            _ => "its reference was used for another payment while it was held".to_owned(),
        }
    }

    fn actions(&self) -> Vec<Action> {
        if self.state != "held" {
            return Vec::new();
        }
        let open = Action {
            code: "open_account",
            label: format!("Open the account of {}, if it is a customer of ours", self.customer_id),
            command: None,
            safe_because: "what is held for it is applied with it, once and in order",
            act: None,
        };
        let reference = Reference::parse(&*self.transaction_reference).ok();
        let acts = reference.into_iter().flat_map(|reference| {
            let assign = Act::Assign { reference: reference.clone(), customer: None };
            [assign, Act::MarkForRefund { reference }]
        });
        [open].into_iter().chain(acts.map(Act::action)).collect()
    }
}

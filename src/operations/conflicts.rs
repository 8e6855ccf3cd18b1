//! Conflicts as operators see them: two payments under one reference, side by
//! side.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, QueryBuilder};
use utoipa::{IntoParams, ToSchema};

use super::{
    Act, Action, ConflictName, Error, Money, Operations, Page,
    page::{narrow, page_size},
};

#[derive(Args, Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConflictFilter {
    /// Include resolved conflicts.
    #[arg(long)]
    pub all: bool,
    /// Only conflicts of this reference.
    #[arg(long)]
    pub reference: Option<String>,
    /// Cursor: `next` of the previous page.
    #[arg(skip)]
    #[param(value_type = Option<String>, pattern = "^[0-9]{1,5}/[0-9]{1,18}$")]
    pub after: Option<ConflictName>,
    /// 1 to 500; default 50.
    #[arg(skip)]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
}

/// A payment that came under a used reference with other content.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct Conflict {
    /// Partition and sequence together name the conflict.
    #[sqlx(try_from = "i32")]
    pub partition: u16,
    pub sequence: i64,
    pub transaction_reference: String,
    pub customer_id: String,
    #[sqlx(rename = "amount")]
    pub transaction_amount: Money,
    pub payment_status: String,
    pub transaction_date: DateTime<Utc>,
    /// Customer of the payment that has the reference.
    pub first_customer_id: Option<String>,
    /// Amount of the payment that has the reference.
    pub first_amount: Option<Money>,
    /// Date of the payment that has the reference.
    pub first_transaction_date: Option<DateTime<Utc>>,
    #[sqlx(skip)]
    pub sentence: String,
    /// `open` or `resolved`.
    pub state: String,
    pub detected_at: DateTime<Utc>,
    pub resolved_at: Option<DateTime<Utc>>,
    /// What is safe to do; empty once it is resolved.
    #[sqlx(skip)]
    pub actions: Vec<Action>,
}

/// Selects [`Conflict`]s.
const CONFLICT: &str = "select c.partition, c.sequence, c.transaction_reference, \
     c.payment_status, c.customer_id, c.amount, c.transaction_date, c.state, c.detected_at, \
     c.resolved_at, f.customer_id as first_customer_id, f.amount as first_amount, \
     f.transaction_date as first_transaction_date \
     from conflicts c left join lateral ( \
         select customer_id, amount, transaction_date from taken_payments t \
         where t.transaction_reference = c.transaction_reference \
             and t.payment_status = c.payment_status and takes_reference \
         limit 1) f on true";

impl Operations {
    /// A page of conflicts, the longest open first.
    pub async fn conflicts(
        &self,
        filter: &ConflictFilter,
    ) -> Result<Page<Conflict, ConflictName>, Error> {
        let limit = page_size(filter.limit)?;
        let mut query = QueryBuilder::new(CONFLICT);
        query.push(if filter.all { " where true" } else { " where c.state = 'open'" });
        narrow(&mut query, [("c.transaction_reference", &filter.reference)]);
        if let Some(ConflictName { partition, sequence }) = filter.after {
            query.push(
                " and (c.detected_at, c.partition, c.sequence) >
                     all (select detected_at, partition, sequence from conflicts where partition = ",
            );
            query.push_bind(i32::from(partition)).push(" and sequence = ");
            query.push_bind(sequence).push(")");
        }
        query.push(" order by c.detected_at, c.partition, c.sequence limit ").push_bind(limit);
        let mut rows: Vec<Conflict> = self.pool.all(query.build_query_as()).await?;
        for row in &mut rows {
            row.sentence = row.difference();
            let actions = [Act::Resolve { conflict: row.name() }].map(Act::action);
            row.actions = actions.into_iter().filter(|_| row.state == "open").collect();
        }
        Ok(Page::new(rows, limit, Conflict::name))
    }
}

impl Conflict {
    #[must_use]
    pub fn name(&self) -> ConflictName {
        ConflictName { partition: self.partition, sequence: self.sequence }
    }

    /// What the payment says, and what the one said that has the reference.
    fn difference(&self) -> String {
        let (Some(customer), Some(amount), Some(date)) =
            (&self.first_customer_id, self.first_amount, self.first_transaction_date)
        else {
            return "the payment that has the reference is not settled yet, or archived".to_owned();
        };
        let written = |date: DateTime<Utc>| date.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let was = [
            ("customer", self.customer_id.clone(), customer.clone()),
            ("amount", self.transaction_amount.to_string(), amount.to_string()),
            ("date", written(self.transaction_date), written(date)),
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
}

//! What operators look at and change that needs nothing but the ledger: owners,
//! parked customers, and the log of all changes.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, QueryBuilder};
use utoipa::{IntoParams, ToSchema};

use super::{
    Error, Foretold, Money, Operations, PAGE_MAX, Page, Signature,
    page::{narrow, page_size},
    shapes::counted,
};
use crate::{domain::CustomerId, ledger::LossRow};

/// Customers that are listed at once.
const LIST_MAX: i64 = 1_000;

#[derive(Args, Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditFilter {
    /// Only changes of this subject: a reference, a customer, `partition 7`.
    #[arg(long)]
    pub subject: Option<String>,
    /// Cursor: `next` of the previous page.
    #[arg(skip)]
    pub before: Option<i64>,
    /// 1 to 500; default 50.
    #[arg(skip)]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
}

impl AuditFilter {
    /// The latest changes of a subject, as many as a page may have.
    #[must_use]
    pub fn of(subject: &str) -> Self {
        Self { subject: Some(subject.to_owned()), before: None, limit: Some(PAGE_MAX) }
    }
}

/// A change that somebody made.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Rises with every change.
    pub id: i64,
    pub at: DateTime<Utc>,
    pub actor: String,
    /// Database role whose session made the change, as PostgreSQL knows it; null in rows from
    /// before it was noted.
    pub role: Option<String>,
    /// `dead_letter_redriven`, for instance.
    pub action: String,
    /// A reference, a customer, `partition 7`.
    pub subject: String,
    pub reason: Option<String>,
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

impl AuditEntry {
    /// The database role, as the end of a sentence.
    pub fn under(&self) -> String {
        self.role.as_ref().map_or_else(String::new, |role| format!(" (database role {role})"))
    }
}

/// A customer whose payments wait behind a dead letter.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct ParkedCustomer {
    pub customer_id: String,
    pub parked_at: DateTime<Utc>,
    /// How many payments wait.
    pub payments: i64,
    /// Sum of the waiting payments, all statuses together.
    pub amount: Money,
    /// Open dead letters of the customer; while there is one, a release must be forced.
    pub dead_letters: Vec<i64>,
}

impl ParkedCustomer {
    /// What releasing them would do.
    pub(super) fn release_would(&self) -> Foretold {
        let Self { customer_id, payments, amount, dead_letters, .. } = self;
        let what = counted(*payments, "payment", "payments");
        let are = if *payments == 1 { "is" } else { "are" };
        let would = format!("{what} of {customer_id}, {amount} together, {are} settled");
        let ids: Vec<String> = dead_letters.iter().map(i64::to_string).collect();
        let must_force = !ids.is_empty();
        let sentence = match must_force {
            false => format!("{would} now, in their order"),
            true => format!("{would} before dead letter {}, which is still open", ids.join(", ")),
        };
        Foretold { would: !must_force, must_force, sentence }
    }
}

impl Operations {
    /// A page of changes, the latest first.
    pub async fn audit_log(&self, filter: &AuditFilter) -> Result<Page<AuditEntry, i64>, Error> {
        let limit = page_size(filter.limit)?;
        let mut query = QueryBuilder::new(
            "select id, at, actor, role, action, subject, reason, before, after
             from audit_log where true",
        );
        narrow(&mut query, [("subject", &filter.subject)]);
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(limit);
        let rows: Vec<AuditEntry> = self.pool.all(query.build_query_as()).await?;
        Ok(Page::new(rows, limit, |change| change.id))
    }

    /// Notes that somebody changed how much a gateway logs.
    pub async fn note_log_level(
        &self,
        before: &str,
        after: &str,
        by: &Signature,
    ) -> Result<(), Error> {
        Ok(self.admin.note_log_level(before, after, by).await?)
    }

    /// Customers whose payments wait behind a dead letter, the longest first; only
    /// this one, if one is named. At most 1,000.
    pub async fn parked(
        &self,
        customer: Option<&CustomerId>,
    ) -> Result<Vec<ParkedCustomer>, Error> {
        let rows = sqlx::query_as(
            "select a.customer_id, a.parked_at, count(p.sequence) as payments,
                 coalesce(sum(p.amount), 0) as amount,
                 array(select id from dead_letters d where d.customer_id = a.customer_id
                     and d.state = 'dead' order by id) as dead_letters
             from customer_accounts a
             left join parked p on p.customer_id = a.customer_id and p.state = 'held'
             where a.parked_at is not null and ($2::text is null or a.customer_id = $2)
             group by a.customer_id order by a.parked_at, a.customer_id limit $1",
        );
        let rows = rows.bind(LIST_MAX).bind(customer.map(CustomerId::as_str));
        Ok(self.pool.all(rows).await?)
    }

    /// Losses, the latest first; only those that nobody has dealt with, unless `all`.
    pub async fn losses(&self, all: bool) -> Result<Vec<LossRow>, Error> {
        Ok(self.ledger.losses().list(!all).await?)
    }
}

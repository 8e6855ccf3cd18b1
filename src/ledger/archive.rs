//! Months of payments that are taken out of the ledger: what is left of them is written in one
//! transaction, then the table is detached while payments go on. Never deletes a payment, and never
//! forgets that its reference is used.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, FromRow, Row};

use super::{
    Acted, Error, Ledger, Refusal, Signature,
    address::Address,
    admin::{Change, note},
    session::{Session, commit},
};

/// One archive command at a time.
const LOCK: i64 = 0x7061_7973_6172_6368;
/// Days since the end of a month before it can be detached.
const AGE_DAYS: i32 = 31;

/// A month of payments, as PostgreSQL has it.
#[derive(Clone, Debug, FromRow, Serialize)]
pub struct MonthRow {
    /// Of its table.
    pub name: String,
    /// None where it has all that is older.
    pub starts_at: Option<DateTime<Utc>>,
    pub ends_at: DateTime<Utc>,
    /// When its payments left the ledger.
    pub detached_at: Option<DateTime<Utc>>,
    /// Whether its table still has to be detached.
    pub is_attached: bool,
    /// As PostgreSQL estimates.
    pub payments: i64,
    /// With its indexes.
    pub bytes: i64,
    /// Whether it has been over for long enough.
    pub is_old: bool,
}

const MONTHS: &str =
    "select name, nullif(starts_at, '-infinity') as starts_at, ends_at, detached_at,
         exists (select from pg_inherits where inhrelid = at.oid) as is_attached,
         greatest(coalesce(reltuples, 0), 0)::bigint as payments,
         coalesce(pg_total_relation_size(at.oid), 0) as bytes,
         ends_at <= clock_timestamp() - $1 * interval '1 day' as is_old
     from payment_months m left join pg_class at on at.oid = to_regclass(quote_ident(name))
     order by m.starts_at, name";

/// Refusals: a condition of SQL about the table `{month}`, and the sentence of what it finds.
const UNSETTLED: [(&str, &str); 2] = [
    (
        "select count(*) from conflicts c join {month} p using (transaction_reference, payment_status)
         where c.state = 'open'",
        "conflicts are open about its payments, and are judged by what these say: resolve them first \
         (`paystream conflicts list`)",
    ),
    (
        "select count(*) from (select customer_id, count(*) as rows, max(account_version) as last
             from {month} where account_version is not null group by customer_id) s
         left join opening_balances o using (customer_id) where rows <> last - coalesce(version, 0)",
        "statements have older rows in other months, or lack rows: `paystream audit` tells more",
    ),
];

const OPEN: &str = "insert into opening_balances as o
         (customer_id, version, balance_after, applied, excess, payments)
     select customer_id, max(account_version),
         (array_agg(balance_after order by account_version desc))[1], sum(applied_amount),
         sum(excess_amount), count(*) filter (where outcome = 'applied')
     from {month} where account_version is not null group by customer_id
     on conflict (customer_id) do update set version = excluded.version,
         balance_after = excluded.balance_after, applied = o.applied + excluded.applied,
         excess = o.excess + excluded.excess, payments = o.payments + excluded.payments";

/// Sequences that follow on each other are one range.
const COUNT: &str = "insert into archived_sequences
         (month, partition, sequences, applied, recorded, rejected, amount)
     select $1, partition, range_agg(int8range(first, last + 1)), sum(applied), sum(recorded),
         sum(rejected), sum(amount)
     from (select partition, min(sequence) as first, max(sequence) as last,
             count(*) filter (where outcome = 'applied') as applied,
             count(*) filter (where outcome = 'recorded') as recorded,
             count(*) filter (where outcome = 'rejected') as rejected,
             sum(applied_amount + excess_amount) as amount
         from (select *, sequence - dense_rank() over (partition by partition order by sequence) as run
             from {month}) p
         group by partition, run) runs
     group by partition
     returning applied + recorded + rejected, amount::text";

/// The archive's part of the ledger, over a connection of the owner of the tables.
pub struct Archive {
    address: Address,
}

impl Ledger {
    pub fn archive(&self) -> Archive {
        let address = self.address.with(|options| options.application_name("paystream archive"));
        let address = address.set([
            ("statement_timeout", "0".to_owned()),
            ("jit", "off".to_owned()),
            ("work_mem", "64MB".to_owned()),
        ]);
        Archive { address }
    }
}

impl Archive {
    /// All months, the oldest first.
    pub async fn months(&self) -> Result<Vec<MonthRow>, Error> {
        self.address.connect().await?.ask(months).await
    }

    /// Takes a month out of the ledger; says how many payments it has. Run again after it was
    /// interrupted, it goes on.
    pub async fn detach(&self, name: &str, by: &Signature) -> Result<Acted<i64>, Error> {
        let mut connection = self.address.connect().await?;
        // Detaching is no part of a transaction either: it takes a session of PostgreSQL's own.
        if !connection.lock(LOCK).await? {
            return Ok(Err(Refusal::Impossible("another archive command is at work".to_owned())));
        }
        let known = months(&mut connection).await?;
        let Some(month) = known.iter().find(|month| month.name == name) else {
            let text = format!("no month is called {name}: see `paystream archive list`");
            return Ok(Err(Refusal::Missing(text)));
        };
        if month.detached_at.is_none() {
            if let Some(refusal) = refusal(&mut connection, month, &known).await? {
                return Ok(Err(Refusal::Impossible(refusal)));
            }
            leave(&mut connection, month, by).await?;
        } else if !month.is_attached {
            let text = format!("{name} is detached already");
            return Ok(Err(Refusal::Settled(text)));
        }
        detach(&mut connection, name).await?;
        let payments = "select coalesce(sum(applied + recorded + rejected), 0)::bigint
             from archived_sequences where month = $1";
        let payments = sqlx::query_scalar(payments).bind(name).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(Ok(payments))
    }
}

async fn months(connection: &mut Session) -> Result<Vec<MonthRow>, Error> {
    Ok(sqlx::query_as(MONTHS).bind(AGE_DAYS).fetch_all(connection).await?)
}

/// Why a month must stay.
async fn refusal(
    connection: &mut Session,
    month: &MonthRow,
    known: &[MonthRow],
) -> Result<Option<String>, Error> {
    let name = &month.name;
    let oldest = known.iter().find(|other| other.detached_at.is_none());
    if let Some(oldest) = oldest.filter(|oldest| oldest.name != *name) {
        return Ok(Some(format!(
            "{name} is not the oldest month: statements keep their newest rows, so detach {} first",
            oldest.name
        )));
    }
    if !month.is_old {
        return Ok(Some(format!(
            "{name} ends at {}: a month is detached {AGE_DAYS} days after its end, when nothing of \
             it is repeated or corrected any more",
            month.ends_at.format("%Y-%m-%d")
        )));
    }
    for (count, sentence) in UNSETTLED {
        let count = sqlx::query_scalar(AssertSqlSafe(about(count, name)));
        let count: i64 = count.fetch_one(&mut *connection).await?;
        if count > 0 {
            return Ok(Some(format!("{name} is not settled: {count} {sentence}")));
        }
    }
    Ok(None)
}

/// A statement about the table of a month, whose name is one that `payment_months` has.
fn about(sql: &str, month: &str) -> String {
    sql.replace("{month}", &format!("\"{month}\""))
}

/// Writes what stays of a month. From its commit on its payments are archived.
async fn leave(connection: &mut Session, month: &MonthRow, by: &Signature) -> Result<(), Error> {
    let mut transaction = connection.begin().await?;
    let name = &*month.name;
    sqlx::query(AssertSqlSafe(about(OPEN, name))).execute(&mut *transaction).await?;
    let counted = sqlx::query(AssertSqlSafe(about(COUNT, name))).bind(name);
    let mut payments = 0;
    for row in counted.fetch_all(&mut *transaction).await? {
        payments += row.try_get::<i64, _>(0)?;
    }
    sqlx::query("update payment_months set detached_at = clock_timestamp() where name = $1")
        .bind(name)
        .execute(&mut *transaction)
        .await?;
    let change = Change {
        action: "month_detached",
        subject: name,
        before: Value::Null,
        after: json!({ "payments": payments, "ends_at": month.ends_at }),
    };
    note(&mut transaction, by, &change).await?;
    commit(transaction).await
}

/// Waits for transactions that read or write payments, and keeps none waiting.
async fn detach(connection: &mut Session, name: &str) -> Result<(), Error> {
    let pending = sqlx::query_scalar(
        "select inhdetachpending from pg_inherits where inhrelid = to_regclass(quote_ident($1))",
    );
    let pending: Option<bool> = pending.bind(name).fetch_optional(&mut *connection).await?;
    let how = match pending {
        // Another attempt was interrupted.
        Some(true) => "finalize",
        Some(false) => "concurrently",
        None => return Ok(()),
    };
    let statement = about("alter table processed_transactions detach partition {month}", name);
    sqlx::raw_sql(AssertSqlSafe(format!("{statement} {how}"))).execute(connection).await?;
    Ok(())
}

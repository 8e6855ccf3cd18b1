//! Dead letters as operators see them. What is done with them is in `redrive`.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sqlx::{FromRow, Postgres, QueryBuilder};
use utoipa::{IntoParams, ToSchema};

use super::{
    Act, Action, Error, Money, Operations, Page,
    page::{narrow, page_size},
};
use crate::{
    clock,
    domain::{Delivery, is_in_calendar, parse_date},
    stream::read_fields,
};

#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LetterFilter {
    /// Only dead letters in this state; default `dead`, which means open.
    #[arg(long, value_enum, default_value_t)]
    #[param(inline)]
    pub state: LetterState,
    /// Only dead letters of this reference.
    #[arg(long)]
    pub reference: Option<String>,
    /// Only dead letters of this class of reason: `settle_failed`, `worker_died` or
    /// `entry_unreadable`.
    #[arg(long)]
    pub code: Option<String>,
    /// Only dead letters of this customer.
    #[arg(long)]
    pub customer: Option<String>,
    /// Only payments that became dead letters at this time or later: RFC 3339; on the
    /// command line also `2025-11-07 14:54:16` in UTC, or how long ago, such as 2h.
    #[arg(long, value_parser = parse_instant)]
    #[serde(deserialize_with = "moment")]
    pub since: Option<DateTime<Utc>>,
    /// Only payments that became dead letters before this time.
    #[arg(long, value_parser = parse_instant)]
    #[serde(deserialize_with = "moment")]
    pub until: Option<DateTime<Utc>>,
    /// Cursor: `next` of the previous page.
    #[arg(skip)]
    pub before: Option<i64>,
    /// 1 to 500; default 50.
    #[arg(skip)]
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
}

/// The state that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LetterState {
    #[default]
    Dead,
    Redriven,
    Discarded,
    All,
}

impl LetterFilter {
    /// Dead letters of this reference, whatever became of them.
    #[must_use]
    pub fn of(reference: &str) -> Self {
        Self { reference: Some(reference.to_owned()), state: LetterState::All, ..Self::default() }
    }

    pub(super) fn narrow(&self, query: &mut QueryBuilder<Postgres>) {
        query.push(match self.state {
            LetterState::Dead => " where state = 'dead'",
            LetterState::Redriven => " where state = 'redriven'",
            LetterState::Discarded => " where state = 'discarded'",
            LetterState::All => " where true",
        });
        let columns = [
            ("transaction_reference", &self.reference),
            ("code", &self.code),
            ("customer_id", &self.customer),
        ];
        narrow(query, columns);
        for (column, value) in [(" and dead_at >= ", self.since), (" and dead_at < ", self.until)] {
            if let Some(value) = value {
                query.push(column).push_bind(value);
            }
        }
    }
}

/// Reads a moment that the stores can keep, where one is given.
pub fn moment<'de, D>(reading: D) -> Result<Option<DateTime<Utc>>, D::Error>
where
    D: Deserializer<'de>,
{
    let moment = Option::<DateTime<Utc>>::deserialize(reading)?;
    match moment.is_none_or(is_in_calendar) {
        true => Ok(moment),
        false => Err(D::Error::custom("a date must be in the years 1 to 9999 in UTC")),
    }
}

/// Reads an instant, or how long ago it was.
fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let instant = chrono::TimeDelta::from_std(ago).ok();
        let instant = instant.and_then(|ago| clock::system().checked_sub_signed(ago));
        return instant.ok_or_else(|| "is too long ago".to_owned());
    }
    parse_date(text, Tz::UTC).map_err(|invalid| format!("{}, or a span such as 2h", invalid.reason))
}

/// A dead letter. What could not be read of its entry is missing.
#[derive(Clone, Debug, FromRow, Serialize, ToSchema)]
pub struct DeadLetter {
    pub id: i64,
    #[sqlx(try_from = "i32")]
    pub partition: u16,
    pub stream_id: String,
    pub sequence: Option<i64>,
    pub transaction_reference: Option<String>,
    pub customer_id: Option<String>,
    #[sqlx(rename = "amount")]
    pub transaction_amount: Option<Money>,
    /// Stable class of the reason: `entry_unreadable`, `settle_failed`,
    /// `worker_died`.
    pub code: String,
    pub reason: String,
    #[sqlx(try_from = "i32")]
    pub attempts: u32,
    /// `dead`, `redriven` or `discarded`.
    pub state: String,
    pub dead_at: DateTime<Utc>,
    /// Time of the redrive or discard.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The entry's fields as they were.
    #[schema(value_type = Object)]
    pub entry: serde_json::Value,
    /// What is safe to do; empty once it is redriven or discarded.
    #[sqlx(skip)]
    pub actions: Vec<Action>,
}

/// Selects [`DeadLetter`]s.
const LETTER: &str = "select id, partition, stream_id, sequence, transaction_reference, \
     customer_id, amount, code, reason, entry, attempts, state, dead_at, resolved_at \
     from dead_letters";

impl Operations {
    /// A page of dead letters, the latest first.
    pub async fn dead_letters(
        &self,
        filter: &LetterFilter,
    ) -> Result<Page<DeadLetter, i64>, Error> {
        let limit = page_size(filter.limit)?;
        let mut query = QueryBuilder::new(LETTER);
        filter.narrow(&mut query);
        if let Some(before) = filter.before {
            query.push(" and id < ").push_bind(before);
        }
        query.push(" order by id desc limit ").push_bind(limit);
        let rows: Vec<DeadLetter> = self.pool.all(query.build_query_as()).await?;
        let rows = rows.into_iter().map(DeadLetter::with_actions).collect();
        Ok(Page::new(rows, limit, |letter| letter.id))
    }

    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, Error> {
        let mut query = QueryBuilder::new(LETTER);
        query.push(" where id = ").push_bind(id);
        let row: Option<DeadLetter> = self.pool.maybe(query.build_query_as()).await?;
        Ok(row.map(DeadLetter::with_actions))
    }
}

impl DeadLetter {
    fn with_actions(mut self) -> Self {
        let id = self.id;
        let redrive = self.read().ok().map(|_| Act::Redrive { id, dry_run: false });
        let acts = redrive.into_iter().chain([Act::Discard { id }]);
        self.actions = acts.filter(|_| self.state == "dead").map(Act::action).collect();
        self
    }

    /// The entry that was buried; why there is nothing to settle, and what to do.
    pub(super) fn read(&self) -> Result<Delivery, String> {
        let id = self.id;
        let delivery = self.read_entry().map_err(|reason| {
            format!(
                "dead letter {id} cannot be read, {reason}: discard it and ask the bank to send it \
                 again, or redrive it with a release that can read it"
            )
        })?;
        // Settled under it, it would take the place of another.
        if self.sequence.is_none() {
            return Err(format!(
                "dead letter {id} was written by no gateway, its sequence {} was never given out: \
                 discard it and find out who writes to the streams",
                delivery.sequence
            ));
        }
        Ok(delivery)
    }

    fn read_entry(&self) -> Result<Delivery, String> {
        let stream_id = self.stream_id.parse().map_err(|_| "its entry id cannot be")?;
        let fields = self.entry.as_object().into_iter().flatten();
        let fields: Vec<(String, String)> = fields
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        read_fields(self.partition, stream_id, &fields)
    }
}

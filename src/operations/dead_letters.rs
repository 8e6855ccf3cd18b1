//! Dead letters as operators see them, and what they do with one of them. Many
//! at once are in `bulk`.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sqlx::{FromRow, Postgres, QueryBuilder};
use utoipa::{IntoParams, ToSchema};

use super::{
    Act, Acted, Action, Error, Looks, Mend, Money, Operations, Page, Refusal, Signature,
    page::{narrow, page_size},
    shapes::span,
};
use crate::{
    clock,
    domain::{Delivery, Reference, is_in_calendar, parse_date},
    ledger::SettledCase,
    stream::read_fields,
    telemetry,
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

/// What came of redriving or discarding one dead letter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LetterReport {
    pub id: i64,
    pub transaction_reference: Option<String>,
    /// Whether it is settled now, or would be; where it was to be redriven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redriven: Option<bool>,
    /// Whether it is discarded now, or would be; where it was to be discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<bool>,
    /// `applied` and so on, where it is redriven.
    pub outcome: Option<String>,
    /// Whether the payment is accepted when it is sent again now; where it was to be
    /// discarded. It is not for a while when Redis could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_be_sent_again: Option<bool>,
    /// What came of it, or why not.
    pub sentence: String,
}

impl LetterReport {
    /// Of one that was refused, unless more is said.
    pub(super) fn new(
        mend: Mend,
        id: i64,
        transaction_reference: Option<String>,
        sentence: String,
    ) -> Self {
        let refused = |of: Mend| (mend == of).then_some(false);
        Self {
            id,
            transaction_reference,
            redriven: refused(Mend::Redrive),
            discarded: refused(Mend::Discard),
            outcome: None,
            can_be_sent_again: refused(Mend::Discard),
            sentence,
        }
    }
}

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
        let rows: Vec<DeadLetter> = query.build_query_as().fetch_all(&self.pool).await?;
        let rows = rows.into_iter().map(DeadLetter::with_actions).collect();
        Ok(Page::new(rows, limit, |letter| letter.id))
    }

    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, Error> {
        let mut query = QueryBuilder::new(LETTER);
        query.push(" where id = ").push_bind(id);
        let row: Option<DeadLetter> = query.build_query_as().fetch_optional(&self.pool).await?;
        Ok(row.map(DeadLetter::with_actions))
    }

    /// Settles one dead letter now, or says what would come of it.
    pub async fn redrive(
        &self,
        id: i64,
        signature: &Signature,
        dry_run: bool,
    ) -> Result<Acted<LetterReport>, Error> {
        let row = match self.open_letter(id).await? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let delivery = match row.read() {
            Ok(delivery) => delivery,
            Err(sentence) => return Ok(Err(Refusal::Impossible(sentence))),
        };
        let started = telemetry::Timestamp::now();
        let redriven = match self.admin.redrive(id, &delivery, signature, dry_run).await? {
            Ok(redriven) => redriven,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !dry_run {
            self.signals.redriven(&delivery, &redriven.outcome, started);
        }
        if !dry_run && redriven.balance_after.is_some() {
            self.forget_balance(&delivery.payment.customer).await;
        }
        let reference = delivery.payment.reference.as_str().to_owned();
        let sentence = sentence(&delivery, &redriven, dry_run);
        Ok(Ok(LetterReport {
            redriven: Some(true),
            outcome: Some(redriven.outcome),
            ..LetterReport::new(Mend::Redrive, id, Some(reference), sentence)
        }))
    }

    /// Notes that a dead letter is not to be settled. Sent again, the payment is
    /// accepted anew; where Redis could not be told so, the report says it.
    pub async fn discard(&self, id: i64, by: &Signature) -> Result<Acted<LetterReport>, Error> {
        self.discard_telling(id, by, false, true).await
    }

    /// The same, or what would come of it; does not try to tell Redis if `tells` is
    /// false.
    ///
    /// Redis is told first: who stops in between has changed nothing, because the
    /// ledger settles a reference once, however often it is accepted.
    pub(super) async fn discard_telling(
        &self,
        id: i64,
        signature: &Signature,
        dry_run: bool,
        tells: bool,
    ) -> Result<Acted<LetterReport>, Error> {
        let row = match self.open_letter(id).await? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let reference = row.transaction_reference.clone();
        let report = |can_be_sent_again, sentence| LetterReport {
            discarded: Some(true),
            can_be_sent_again: Some(can_be_sent_again),
            ..LetterReport::new(Mend::Discard, id, reference, sentence)
        };
        if dry_run {
            return Ok(Ok(report(true, "would be discarded".to_owned())));
        }
        let can_be_sent_again = tells && self.forget_reference(&row).await;
        let done = self.admin.discard(row.id, signature).await?;
        let sentence = match can_be_sent_again {
            true => "discarded".to_owned(),
            false => format!(
                "discarded; Redis could not be told: sent again within {} of the last time, the \
                 payment is answered as a repetition and not settled. Have it sent after that",
                span(self.dedupe_window)
            ),
        };
        Ok(done.map(|()| report(can_be_sent_again, sentence)))
    }

    /// Makes Redis forget that this letter's payment was sent. Says whether it
    /// did.
    async fn forget_reference(&self, row: &DeadLetter) -> bool {
        let reference = row.transaction_reference.clone().map(Reference::parse);
        // Nothing that could be sent again is remembered of it.
        let Some(Ok(reference)) = reference else { return true };
        let forget = async |looks: &Looks| {
            looks.upkeep.forget_reference(row.partition, &reference, &row.stream_id).await
        };
        self.tell_redis(forget, "Redis could not be told that a payment was discarded").await
    }

    async fn open_letter(&self, id: i64) -> Result<Acted<DeadLetter>, Error> {
        let Some(row) = self.dead_letter(id).await? else {
            return Ok(Err(Refusal::Missing(format!("there is no dead letter {id}"))));
        };
        if row.state == "dead" {
            return Ok(Ok(row));
        }
        // Who has, and when.
        let refusal = self.admin.dead_letter_refusal(id).await?;
        Ok(refusal.map_or(Ok(row), Err))
    }
}

fn sentence(delivery: &Delivery, redriven: &SettledCase, dry_run: bool) -> String {
    let customer = delivery.payment.customer.as_str();
    let amount = Money(delivery.payment.amount.get());
    let balance = Money(redriven.balance_after.unwrap_or_default());
    let what = match redriven.outcome.as_str() {
        "applied" => format!("{amount} applied to {customer}, {balance} left to pay"),
        "recorded" => format!("recorded as {}, no money moved", delivery.payment.status.as_str()),
        "rejected" => format!("rejected by the account of {customer}, no money moved"),
        "suspense" => format!("held in suspense, because no customer has the id {customer}"),
        "duplicate" if redriven.waits => {
            "a duplicate: the same payment came again meanwhile and waits in the parking".to_owned()
        }
        "duplicate" => {
            "a duplicate: the same payment came again meanwhile and has been settled".to_owned()
        }
        "conflict" => {
            "a conflict: another payment came under its reference meanwhile; it moved no money"
                .to_owned()
        }
        _ => "in the ledger already, nothing moved".to_owned(),
    };
    let would = if dry_run { "would be " } else { "" };
    let parked = if redriven.parked {
        format!(
            "; later payments of {customer} still wait: `paystream parked release {customer} \
             --reason \"…\"`"
        )
    } else {
        String::new()
    };
    format!("{would}{what}{parked}")
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
    fn read(&self) -> Result<Delivery, String> {
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

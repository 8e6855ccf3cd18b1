//! Dead letters as operators see them, and what they do with one of them. Many
//! at once are in `bulk`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use super::{
    Act, Acted, Action, Error, FORGET_PATIENCE, Mend, Operations, Refusal, Signature,
    shapes::{Money, money, span},
};
use crate::{
    domain::{Delivery, Reference},
    ledger::{DeadLetterFilter, DeadLetterRow, Redriven},
    stream::read_fields,
    telemetry,
};

/// A dead letter.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Names it.
    pub id: i64,
    /// Where it was.
    pub partition: u16,
    pub stream_id: String,
    /// Its sequence, if it could be read so far.
    pub sequence: Option<i64>,
    /// Its reference, if it could be read so far.
    pub transaction_reference: Option<String>,
    /// Its customer, if it could be read so far.
    pub customer_id: Option<String>,
    /// Its amount, if it could be read so far.
    #[schema(value_type = Option<Money>)]
    pub transaction_amount: Option<String>,
    /// Stable class of the reason: `entry_unreadable`, `settle_failed`,
    /// `worker_died`.
    pub code: String,
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// `dead`, `redriven` or `discarded`.
    pub state: String,
    /// When it was buried.
    pub dead_at: DateTime<Utc>,
    /// When it was redriven or discarded.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The entry's fields as they were.
    #[schema(value_type = Object)]
    pub entry: serde_json::Value,
    /// What is safe to do; empty once it is dealt with.
    pub actions: Vec<Action>,
}

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
        filter: &DeadLetterFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, Error> {
        let rows = self.admin.dead_letters(filter, before, limit).await?;
        Ok(rows.into_iter().map(DeadLetter::from).collect())
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, Error> {
        Ok(self.admin.dead_letter(id).await?.map(DeadLetter::from))
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
        let delivery = match read(&row) {
            Ok(delivery) => delivery,
            Err(sentence) => return Ok(Err(Refusal::Impossible(sentence))),
        };
        let started = telemetry::Moment::now();
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
    async fn forget_reference(&self, row: &DeadLetterRow) -> bool {
        let reference = row.transaction_reference.clone().map(Reference::parse);
        let (Some(Ok(reference)), Ok(partition)) = (reference, u16::try_from(row.partition)) else {
            // Nothing that could be sent again is remembered of it.
            return true;
        };
        let forgetting = async {
            let upkeep = &self.looks().await?.upkeep;
            Ok(upkeep.forget_reference(partition, &reference, &row.stream_id).await?)
        };
        let forgotten: Result<(), Error> = match timeout(FORGET_PATIENCE, forgetting).await {
            Ok(forgotten) => forgotten,
            Err(_) => Err(crate::stream::Error::Deadline(FORGET_PATIENCE).into()),
        };
        if let Err(error) = &forgotten {
            warn!(error = error.sentence(), "Redis could not be told that a payment was discarded");
        }
        forgotten.is_ok()
    }

    /// A dead letter that nobody has dealt with.
    async fn open_letter(&self, id: i64) -> Result<Acted<DeadLetterRow>, Error> {
        let Some(row) = self.admin.dead_letter(id).await? else {
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

/// What came of it, for whoever wanted it.
fn sentence(delivery: &Delivery, redriven: &Redriven, dry_run: bool) -> String {
    let customer = delivery.payment.customer.as_str();
    let amount = money(delivery.payment.amount.get());
    let balance = redriven.balance_after.map(money).unwrap_or_default();
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

/// The entry that was buried; why there is nothing to settle, and what to do.
fn read(row: &DeadLetterRow) -> Result<Delivery, String> {
    let id = row.id;
    let delivery = read_entry(row).map_err(|reason| {
        format!(
            "dead letter {id} cannot be read, {reason}: discard it and ask the bank to send it \
             again, or redrive it with a release that can read it"
        )
    })?;
    // Settled under it, it would take the place of another.
    if row.sequence.is_none() {
        return Err(format!(
            "dead letter {id} was written by no gateway, its sequence {} was never given out: \
             discard it and find out who writes to the streams",
            delivery.sequence
        ));
    }
    Ok(delivery)
}

fn read_entry(row: &DeadLetterRow) -> Result<Delivery, String> {
    let partition = u16::try_from(row.partition).map_err(|_| "its partition cannot be")?;
    let stream_id = row.stream_id.parse().map_err(|_| "its entry id cannot be")?;
    let fields: Vec<(String, String)> = match row.entry.as_object() {
        Some(fields) => fields
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
        None => Vec::new(),
    };
    read_fields(partition, stream_id, &fields)
}

impl From<DeadLetterRow> for DeadLetter {
    fn from(row: DeadLetterRow) -> Self {
        let actions = actions(&row);
        Self {
            id: row.id,
            partition: u16::try_from(row.partition).unwrap_or_default(),
            stream_id: row.stream_id,
            sequence: row.sequence,
            transaction_reference: row.transaction_reference,
            customer_id: row.customer_id,
            transaction_amount: row.amount.map(money),
            code: row.code,
            reason: row.reason,
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
            state: row.state,
            dead_at: row.dead_at,
            resolved_at: row.resolved_at,
            entry: row.entry,
            actions,
        }
    }
}

fn actions(row: &DeadLetterRow) -> Vec<Action> {
    let id = row.id;
    let redrive = read(row).ok().map(|_| Act::Redrive { id, dry_run: false });
    let acts = redrive.into_iter().chain([Act::Discard { id }]);
    acts.filter(|_| row.state == "dead").map(Act::action).collect()
}

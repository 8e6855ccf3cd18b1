//! Redrives and discards dead letters, one or many. Many are dealt with each in a
//! transaction of its own, in the order in which they were buried, so that each
//! customer's come in its order. What is refused stays as it was and stops nothing;
//! an outage stops the rest.

use serde::Serialize;
use sqlx::QueryBuilder;
use utoipa::ToSchema;

use super::{
    Acted, DeadLetter, Error, LetterFilter, LetterState, Looks, Money, Operations, Refusal,
    Signature, shapes::span,
};
use crate::{
    domain::{Delivery, Reference},
    ledger::SettledCase,
    telemetry,
};

/// Dead letters that one call deals with.
pub const BULK_MAX: usize = 1_000;

/// What is done to each of many dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    Redrive,
    Discard,
}

impl Mend {
    /// What it makes of a dead letter.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct MendSummary {
    /// How many are settled now, or would be; where they are redriven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redriven: Option<usize>,
    /// How many are discarded now, or would be; where they are discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded: Option<usize>,
    /// How many were refused and stay as they were.
    pub refused: usize,
    /// How many dead ones match and were not looked at.
    pub left: usize,
    /// Why it stopped before the end; what was done before is done.
    pub stopped: Option<String>,
    /// Each of them, in the order in which they were buried.
    pub reports: Vec<LetterReport>,
}

impl MendSummary {
    /// How many were dealt with, or would be.
    #[must_use]
    pub fn done(&self) -> usize {
        self.redriven.or(self.discarded).unwrap_or_default()
    }
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
    fn new(mend: Mend, id: i64, transaction_reference: Option<String>, sentence: String) -> Self {
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
    /// Ids of dead letters that nobody has dealt with, the first buried first,
    /// at most `max` and [`BULK_MAX`], and how many there are altogether.
    pub async fn open_letters(
        &self,
        filter: &LetterFilter,
        max: usize,
    ) -> Result<(Vec<i64>, usize), Error> {
        let filter = LetterFilter { state: LetterState::Dead, ..filter.clone() };
        let mut query = QueryBuilder::new("select id, count(*) over () from dead_letters");
        filter.narrow(&mut query);
        let limit = i64::try_from(max.min(BULK_MAX)).unwrap_or(i64::MAX);
        query.push(" order by id limit ").push_bind(limit);
        let rows: Vec<(i64, i64)> = self.pool.all(query.build_query_as()).await?;
        let count = rows.first().map_or(0, |(_, count)| usize::try_from(*count).unwrap_or(0));
        Ok((rows.into_iter().map(|(id, _)| id).collect(), count))
    }

    /// Mends the dead letters that match, or says what would come of each by itself.
    pub async fn mend_all(
        &self,
        mend: Mend,
        filter: &LetterFilter,
        by: &Signature,
        dry_run: bool,
    ) -> Result<MendSummary, Error> {
        let (ids, count) = self.open_letters(filter, BULK_MAX).await?;
        let mut summary = self.mend_each(mend, &ids, by, dry_run, || ()).await;
        summary.left += count - ids.len();
        Ok(summary)
    }

    /// Mends these dead letters, in this order. `on_report` is called after each.
    pub async fn mend_each(
        &self,
        mend: Mend,
        ids: &[i64],
        by: &Signature,
        dry_run: bool,
        mut on_report: impl FnMut() + Send,
    ) -> MendSummary {
        let mut summary = MendSummary::default();
        let mut done = 0;
        // A Redis that is away is not waited for again and again.
        let mut tells = true;
        for (id, left) in ids.iter().zip((0..ids.len()).rev()) {
            let acted = match mend {
                Mend::Redrive => self.redrive(*id, by, dry_run).await,
                Mend::Discard => self.discard_telling(*id, by, dry_run, tells).await,
            };
            let acted = match acted {
                Ok(acted) => acted,
                Err(error) => {
                    summary.stopped = Some(error.sentence());
                    summary.left = left + 1;
                    break;
                }
            };
            match acted.is_ok() {
                true => done += 1,
                false => summary.refused += 1,
            }
            let report = acted.unwrap_or_else(|refusal| {
                LetterReport::new(mend, *id, None, refusal.sentence().to_owned())
            });
            tells &= report.can_be_sent_again != Some(false) || report.discarded == Some(false);
            on_report();
            summary.reports.push(report);
        }
        match mend {
            Mend::Redrive => summary.redriven = Some(done),
            Mend::Discard => summary.discarded = Some(done),
        }
        summary
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
    async fn discard_telling(
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

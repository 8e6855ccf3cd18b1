//! Many dead letters at once: each in a transaction of its own, in the order in
//! which they were buried, so that each customer's come in its order. What is
//! refused stays as it was and stops nothing; an outage stops the rest.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Acted, Error, Operations, RedriveReport, Signature};
use crate::ledger::DeadLetterFilter;

/// Dead letters that one call deals with.
pub const BULK_MAX: usize = 1_000;

/// What came of redriving many.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct RedriveSummary {
    /// How many are settled now, or would be.
    pub redriven: usize,
    /// How many were refused and stay as they were.
    pub refused: usize,
    /// How many dead ones match and were not looked at.
    pub left: usize,
    /// Why it stopped before the end; what was done before is done.
    pub stopped: Option<String>,
    /// Each of them, in the order in which they were buried.
    pub reports: Vec<RedriveReport>,
}

/// What came of discarding one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DiscardReport {
    /// Which.
    pub id: i64,
    /// Its reference, if it could be read so far.
    pub transaction_reference: Option<String>,
    /// Whether it is discarded now, or would be.
    pub discarded: bool,
    /// Whether the payment is accepted when it is sent again now. It is not for a
    /// while when Redis could not be told.
    pub can_be_sent_again: bool,
    /// What came of it, or why not.
    pub sentence: String,
}

/// What came of discarding many.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct DiscardSummary {
    /// How many are discarded now, or would be.
    pub discarded: usize,
    /// How many were refused and stay as they were.
    pub refused: usize,
    /// How many dead ones match and were not looked at.
    pub left: usize,
    /// Why it stopped before the end; what was done before is done.
    pub stopped: Option<String>,
    /// Each of them, in the order in which they were buried.
    pub reports: Vec<DiscardReport>,
}

impl Operations {
    /// Ids of dead letters that nobody has dealt with, the first buried first,
    /// at most `max` and [`BULK_MAX`], and how many there are altogether.
    pub async fn open_letters(
        &self,
        filter: &DeadLetterFilter,
        max: usize,
    ) -> Result<(Vec<i64>, usize), Error> {
        let filter = DeadLetterFilter { state: Some("dead".to_owned()), ..filter.clone() };
        let limit = i64::try_from(max.min(BULK_MAX)).unwrap_or(i64::MAX);
        let ids = self.admin.dead_letter_ids(&filter, limit).await?;
        let count = self.admin.dead_letter_count(&filter).await?;
        let count = usize::try_from(count).unwrap_or(usize::MAX).max(ids.len());
        Ok((ids, count))
    }

    /// Settles the dead letters that match, or says what would come of each by
    /// itself. `on_report` hears of each with how many are to come.
    ///
    /// # Errors
    /// When the ledger cannot be asked which match; nothing has changed then.
    pub async fn redrive_all(
        &self,
        filter: &DeadLetterFilter,
        signature: &Signature,
        dry_run: bool,
        max: usize,
        on_report: impl FnMut(&RedriveReport, usize) + Send,
    ) -> Result<RedriveSummary, Error> {
        let (ids, count) = self.open_letters(filter, max).await?;
        let mut summary = self.redrive_each(&ids, signature, dry_run, on_report).await;
        summary.left += count - ids.len();
        Ok(summary)
    }

    /// Settles these dead letters, in this order; see [`Self::redrive_all`].
    pub async fn redrive_each(
        &self,
        ids: &[i64],
        signature: &Signature,
        dry_run: bool,
        mut on_report: impl FnMut(&RedriveReport, usize) + Send,
    ) -> RedriveSummary {
        let mut summary = RedriveSummary::default();
        for (id, left) in ids.iter().zip((0..ids.len()).rev()) {
            let report = match self.redrive(*id, signature, dry_run).await {
                Ok(Ok(report)) => report,
                Ok(Err(refusal)) => RedriveReport {
                    id: *id,
                    transaction_reference: None,
                    redriven: false,
                    outcome: None,
                    sentence: refusal.sentence().to_owned(),
                },
                Err(error) => {
                    summary.stopped = Some(error.sentence());
                    summary.left = left + 1;
                    break;
                }
            };
            match report.redriven {
                true => summary.redriven += 1,
                false => summary.refused += 1,
            }
            on_report(&report, left);
            summary.reports.push(report);
        }
        summary
    }

    /// Discards the dead letters that match, or says which would be; see
    /// [`Self::redrive_all`].
    ///
    /// # Errors
    /// When the ledger cannot be asked which match; nothing has changed then.
    pub async fn discard_all(
        &self,
        filter: &DeadLetterFilter,
        signature: &Signature,
        dry_run: bool,
        max: usize,
        on_report: impl FnMut(&DiscardReport, usize) + Send,
    ) -> Result<DiscardSummary, Error> {
        let (ids, count) = self.open_letters(filter, max).await?;
        let mut summary = self.discard_each(&ids, signature, dry_run, on_report).await;
        summary.left += count - ids.len();
        Ok(summary)
    }

    /// Discards these dead letters, in this order; see [`Self::redrive_all`].
    pub async fn discard_each(
        &self,
        ids: &[i64],
        signature: &Signature,
        dry_run: bool,
        mut on_report: impl FnMut(&DiscardReport, usize) + Send,
    ) -> DiscardSummary {
        let mut summary = DiscardSummary::default();
        // A Redis that is away is not waited for again and again.
        let mut tells = true;
        for (id, left) in ids.iter().zip((0..ids.len()).rev()) {
            let report = match self.discard_one(*id, signature, dry_run, tells).await {
                Ok(Ok(report)) => report,
                Ok(Err(refusal)) => DiscardReport {
                    id: *id,
                    transaction_reference: None,
                    discarded: false,
                    can_be_sent_again: false,
                    sentence: refusal.sentence().to_owned(),
                },
                Err(error) => {
                    summary.stopped = Some(error.sentence());
                    summary.left = left + 1;
                    break;
                }
            };
            match report.discarded {
                true => {
                    tells = report.can_be_sent_again;
                    summary.discarded += 1;
                }
                false => summary.refused += 1,
            }
            on_report(&report, left);
            summary.reports.push(report);
        }
        summary
    }

    async fn discard_one(
        &self,
        id: i64,
        signature: &Signature,
        dry_run: bool,
        tells: bool,
    ) -> Result<Acted<DiscardReport>, Error> {
        let row = match self.open_letter(id).await? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !dry_run {
            return self.discard_open(row, signature, tells).await;
        }
        Ok(Ok(DiscardReport {
            id,
            transaction_reference: row.transaction_reference,
            discarded: true,
            can_be_sent_again: true,
            sentence: "would be discarded".to_owned(),
        }))
    }
}

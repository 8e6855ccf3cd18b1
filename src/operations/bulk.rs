//! Many dead letters at once: each in a transaction of its own, in the order in
//! which they were buried, so that each customer's come in its order. What is
//! refused stays as it was and stops nothing; an outage stops the rest.

use serde::Serialize;
use sqlx::QueryBuilder;
use utoipa::ToSchema;

use super::{Error, LetterFilter, LetterReport, LetterState, Operations, Signature};

/// Dead letters that one call deals with.
pub const BULK_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    Redrive,
    Discard,
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
        let rows: Vec<(i64, i64)> = query.build_query_as().fetch_all(&self.pool).await?;
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
}

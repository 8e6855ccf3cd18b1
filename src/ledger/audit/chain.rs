//! The chain of the audit log: whether each row has the digest of its columns and of the row
//! before, whether rows are missing, and whether the log still has what checkpoints say of it.
//! Digests are made here, whatever the database's functions say. Never stops at the first fault.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::FromRow;

use super::AuditReport;
use crate::ledger::{Error, session::Session};

const CHAIN: &str = "log_chain";
const GAP: &str = "log_gap";
const END: &str = "log_end";
const CHECKPOINT: &str = "log_checkpoint";
pub(super) const CHECKS: [&str; 4] = [CHAIN, GAP, END, CHECKPOINT];

/// A place in the audit log of one ledger. Who has it can tell whether the log before it is
/// still the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogPlace {
    /// Names the ledger.
    pub ledger: String,
    /// Of the row, from 1; 0 before the first.
    pub position: i64,
    /// In hexadecimal.
    pub digest: String,
}

/// What was kept outside of the database.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where it is kept.
    pub name: String,
    /// Or why it cannot be believed.
    pub place: Result<LogPlace, String>,
}

#[derive(FromRow)]
struct Head {
    ledger: String,
    position: i64,
    digest: Vec<u8>,
}

#[derive(FromRow)]
struct Row {
    /// None only where somebody has dropped its constraint.
    position: Option<i64>,
    id: i64,
    at: DateTime<Utc>,
    role: Option<String>,
    actor: String,
    action: String,
    subject: String,
    reason: Option<String>,
    before: Option<String>,
    after: Option<String>,
    digest: Vec<u8>,
}

impl Row {
    /// Whether it notes that the log was pruned up to there.
    fn says_pruned(&self, (position, digest): &(i64, Vec<u8>)) -> bool {
        let after = self.after.as_deref().map(serde_json::from_str::<serde_json::Value>);
        let wanted = serde_json::json!({ "position": position, "digest": hexadecimal(digest) });
        self.action == "audit_log_pruned" && matches!(after, Some(Ok(after)) if after == wanted)
    }

    /// As `audit_log_digest` of the database makes it.
    fn digest(&self, position: i64, previous: &[u8]) -> Vec<u8> {
        let numbers = [position, self.id, self.at.timestamp_micros()].map(|one| one.to_string());
        let [position, id, at] = numbers.each_ref().map(|number| Some(&**number));
        let fields = [
            position,
            id,
            at,
            self.role.as_deref(),
            Some(&*self.actor),
            Some(&*self.action),
            Some(&*self.subject),
            self.reason.as_deref(),
            self.before.as_deref(),
            self.after.as_deref(),
        ];
        let mut hash = Sha256::new_with_prefix(previous);
        for field in fields {
            match field {
                Some(text) => hash.update(format!("{}:{text}", text.len())),
                None => hash.update("-"),
            }
        }
        hash.finalize().to_vec()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn positions(first: i64, last: i64) -> String {
    if first == last { format!("position {first}") } else { format!("positions {first} to {last}") }
}

async fn head(connection: &mut Session) -> Result<Option<Head>, Error> {
    let head =
        sqlx::query_as("select ledger::text as ledger, position, digest from audit_log_head");
    Ok(head.fetch_optional(connection).await?)
}

/// The last row's place; none when it is not where the head says.
pub(super) async fn end(connection: &mut Session) -> Result<Option<LogPlace>, Error> {
    let last: Option<(i64, Vec<u8>)> =
        sqlx::query_as("select position, digest from audit_log order by position desc limit 1")
            .fetch_optional(&mut *connection)
            .await?;
    let Some(Head { ledger, position, digest }) = head(connection).await? else { return Ok(None) };
    let last = last.unwrap_or_else(|| (0, Sha256::digest(&ledger).to_vec()));
    let digest = (last == (position, digest)).then(|| hexadecimal(&last.1));
    Ok(digest.map(|digest| LogPlace { ledger, position, digest }))
}

/// Looks at every row, in the order of positions.
pub(super) async fn examine(
    connection: &mut Session,
    checkpoints: &[Checkpoint],
    report: &mut AuditReport,
) -> Result<(), Error> {
    let head = head(connection).await?;
    let mut kept = Kept::of(checkpoints, head.as_ref(), report);
    // The digest before the next row, where it is known.
    let mut previous = head.as_ref().map(|head| Sha256::digest(&head.ledger).to_vec());
    let (mut last, mut number) = (0, 0);
    // What was pruned is not there; the chain goes on behind it, and has the row that says so.
    let anchor: Option<(i64, Vec<u8>)> =
        sqlx::query_as("select position, digest from audit_log_anchor")
            .fetch_optional(&mut *connection)
            .await?;
    let mut noted = anchor.is_none();
    if let Some((position, digest)) = &anchor {
        (last, previous) = (*position, Some(digest.clone()));
        kept.forget_before(*position);
    }
    kept.compare(last, previous.as_deref(), report);
    let mut rows = sqlx::query_as::<_, Row>(
        "select position, id, at, role, actor, action, subject, reason, before::text as before,
             after::text as after, digest
         from audit_log
         where position > coalesce((select position from audit_log_anchor), 0) or position is null
         order by position, id",
    )
    .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        number += 1;
        let Some(position) = row.position.filter(|position| *position > last) else {
            let position = row.position.map_or_else(|| "none".to_owned(), |one| one.to_string());
            let detail = format!("was put in: its position, {position}, is not the next");
            report.add(CHAIN, &format!("id {}", row.id), detail);
            continue;
        };
        if position > last + 1 {
            let detail = "rows were removed, or moved to other positions".to_owned();
            report.add(GAP, &positions(last + 1, position - 1), detail);
        } else if previous.is_some_and(|previous| row.digest(position, &previous) != row.digest) {
            let detail = "its digest is not that of its columns and of the row before: one of \
                          them was changed, put in or moved";
            report.add(CHAIN, &format!("position {position}, id {}", row.id), detail.to_owned());
        }
        kept.compare(position, Some(&row.digest), report);
        noted |= anchor.as_ref().is_some_and(|anchor| row.says_pruned(anchor));
        (last, previous) = (position, Some(row.digest));
    }
    drop(rows);
    if !noted {
        let detail = "says that the log was pruned, and the log does not say so".to_owned();
        report.add(END, "audit_log_anchor", detail);
    }
    end_where_the_head_says(head, last, previous.as_deref(), report);
    kept.compare_no_more(last, report);
    for line in report.checks.iter_mut().filter(|line| CHECKS.contains(&line.check)) {
        line.looked_at = match line.check {
            CHECKPOINT => checkpoints.len() as u64,
            END => 1,
            _ => number,
        };
    }
    Ok(())
}

fn end_where_the_head_says(
    head: Option<Head>,
    last: i64,
    previous: Option<&[u8]>,
    report: &mut AuditReport,
) {
    match head {
        None => report.add(END, "audit_log_head", "has no row".to_owned()),
        Some(head) if head.position > last => {
            let detail = "the last rows were removed".to_owned();
            report.add(GAP, &positions(last + 1, head.position), detail);
        }
        Some(head) if head.position < last => {
            let detail = "rows were put in behind the end that audit_log_head names".to_owned();
            report.add(END, &positions(head.position + 1, last), detail);
        }
        Some(head) if previous.is_some_and(|previous| previous != head.digest) => {
            let detail = "audit_log_head has another digest than the last row".to_owned();
            report.add(END, &positions(last, last), detail);
        }
        Some(_) => {}
    }
}

/// Checkpoints that are still to be compared, by position: name and digest.
struct Kept<'a>(BTreeMap<i64, Vec<(&'a str, &'a str)>>);

impl<'a> Kept<'a> {
    /// Those that can be believed, and are of this ledger.
    fn of(checkpoints: &'a [Checkpoint], head: Option<&Head>, report: &mut AuditReport) -> Self {
        let mut kept: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for Checkpoint { name, place } in checkpoints {
            match (place, head) {
                (Err(error), _) => report.add(CHECKPOINT, name, error.clone()),
                (Ok(place), Some(head)) if place.ledger != head.ledger => {
                    let (theirs, ours) = (&place.ledger, &head.ledger);
                    let detail = format!(
                        "is of position {} of ledger {theirs}, this is {ours}",
                        place.position
                    );
                    report.add(CHECKPOINT, name, detail);
                }
                (Ok(place), _) => {
                    kept.entry(place.position).or_default().push((&**name, &*place.digest));
                }
            }
        }
        Self(kept)
    }

    /// What these are of was pruned: they were compared before.
    fn forget_before(&mut self, position: i64) {
        self.0.retain(|at, _| *at >= position);
    }

    fn compare(&mut self, position: i64, digest: Option<&[u8]>, report: &mut AuditReport) {
        let (Some(kept), Some(digest)) = (self.0.remove(&position), digest) else { return };
        let has = hexadecimal(digest);
        for (name, was) in kept.into_iter().filter(|(_, was)| *was != has) {
            let detail = format!(
                "position {position} had the digest {was} and has {has}: rows up to it were rewritten"
            );
            report.add(CHECKPOINT, name, detail);
        }
    }

    fn compare_no_more(self, last: i64, report: &mut AuditReport) {
        for (position, kept) in self.0 {
            for (name, _) in kept {
                let detail = format!(
                    "position {position} was there and is not: the log ends at {last}, or lacks it"
                );
                report.add(CHECKPOINT, name, detail);
            }
        }
    }
}

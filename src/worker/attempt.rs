//! Attempts at entries that came back: after a crash, a takeover, or a failure.
//!
//! A page that came back is noted before it is tried, so that a worker which
//! dies of it has counted the attempt. If a page fails, it is halved until the
//! entry that cannot be settled stands alone; if a worker died of it, its
//! entries are tried one by one. An entry that has used up its attempts becomes
//! a dead letter. Nothing behind an entry is settled before it, whatever
//! becomes of it.
//!
//! What counts is an entry's own failure, and a worker that vanished while it
//! tried the entry alone. An attempt that ended otherwise (an outage, a deadline, a
//! worker that stops) is given back: the note is then what it was before.

use tokio::time::timeout;
use tracing::warn;

use super::{
    error::Error,
    settle::{self, Link},
};
use crate::{
    config::WorkerConfig,
    domain::{DeadEntry, Fence, StreamId},
    ledger::{Attempt, Burial},
    stream::{Taken, TakenFrom, fields_of},
};

const FAILED: &str = "settle_failed";
/// Class of entries whose workers died while they were settled.
const DIED: &str = "worker_died";

/// Tries to undo the note of an attempt over one connection.
const GIVE_BACK_MAX: usize = 3;

pub(super) enum Attempted {
    /// The page is settled, or buried. The attempt that still covers later entries.
    Done(Option<Attempt>),
    /// This entry failed and is to be tried again; what came before it in the
    /// page is settled up to the id.
    Failed(Attempt, Option<StreamId>),
}

/// Settles a page of redelivered entries.
pub(super) async fn settle_page(
    link: &mut Link,
    fence: Fence,
    page: TakenFrom,
    suspects: Option<&Attempt>,
    config: &WorkerConfig,
) -> Result<Attempted, Error> {
    let (Some(first), Some(last)) = (page.taken.first(), page.taken.last()) else {
        return Ok(Attempted::Done(None));
    };
    match suspects.filter(|attempt| attempt.covers(first.id())) {
        Some(attempt) => alone(link, fence, page, attempt, config).await,
        None => {
            let attempt = Attempt { first: first.id(), last: last.id(), attempts: 1, error: None };
            link.writer.note_attempt(fence, &attempt).await?;
            let tried = together(link, fence, page, config).await;
            if let Err(error) = &tried {
                give_back(link, fence, None, error).await;
            }
            tried
        }
    }
}

async fn together(
    link: &mut Link,
    fence: Fence,
    page: TakenFrom,
    config: &WorkerConfig,
) -> Result<Attempted, Error> {
    let mut settled_to = None;
    let TakenFrom { taken, earlier, .. } = page;
    let mut pieces = vec![taken];
    while let Some(mut piece) = pieces.pop() {
        let last_id = piece.last().map(Taken::id);
        let batch = TakenFrom { taken: piece.clone(), last_id, earlier: earlier.clone() };
        match settle::settle(link, vec![(fence, batch)]).await {
            Ok(()) => settled_to = last_id.or(settled_to),
            Err(error) if error.is_of_an_entry() && piece.len() > 1 => {
                let behind = piece.split_off(piece.len() / 2);
                pieces.extend([behind, piece]);
            }
            Err(error) if error.is_of_an_entry() => {
                let tried = failed(link, fence, &piece, 1, &error, config).await?;
                let Attempted::Failed(attempt, _) = tried else {
                    settled_to = last_id;
                    continue;
                };
                return Ok(Attempted::Failed(attempt, settled_to));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Attempted::Done(None))
}

/// Settles one entry that failed before, or of which a worker may have died.
async fn alone(
    link: &mut Link,
    fence: Fence,
    page: TakenFrom,
    attempt: &Attempt,
    config: &WorkerConfig,
) -> Result<Attempted, Error> {
    let Some(id) = page.taken.first().map(Taken::id) else { return Ok(Attempted::Done(None)) };
    let left = || (id < attempt.last).then(|| attempt.clone());
    if attempt.first == attempt.last && attempt.attempts >= config.attempts_max {
        give_up(link, fence, &page.taken, attempt, config).await?;
        return Ok(Attempted::Done(left()));
    }
    // An attempt at a whole page does not count against its entries.
    let attempts = if attempt.first == attempt.last { attempt.attempts + 1 } else { 1 };
    let this = Attempt { first: id, last: id, attempts, error: None };
    link.writer.note_attempt(fence, &this).await?;
    let entry = page.taken.clone();
    match settle::settle(link, vec![(fence, page)]).await {
        Ok(()) => Ok(Attempted::Done(left())),
        Err(error) if error.is_of_an_entry() => {
            failed(link, fence, &entry, attempts, &error, config).await
        }
        Err(error) => {
            give_back(link, fence, Some(attempt), &error).await;
            Err(error)
        }
    }
}

/// Restores the earlier note, because no entry caused the failure. If that fails, connecting
/// again does it.
async fn give_back(link: &mut Link, fence: Fence, before: Option<&Attempt>, error: &Error) {
    if error.is_fenced() {
        return;
    }
    // The connection may still be busy with the statement that was given up, whose
    // failure is then the answer to the next one.
    let deadline = link.batch_deadline;
    let giving = async {
        for _ in 0..GIVE_BACK_MAX {
            let given = match before {
                Some(attempt) => link.writer.note_attempt(fence, attempt).await,
                None => link.writer.end_attempt(fence).await,
            };
            if given.is_ok() {
                return true;
            }
        }
        false
    };
    if timeout(deadline, giving).await != Ok(true) {
        warn!(
            partition = fence.partition,
            "could not undo the note of an attempt; retrying on the next connection"
        );
    }
}

/// Notes a failure of one entry, or gives the entry up.
async fn failed(
    link: &mut Link,
    fence: Fence,
    entry: &[Taken],
    attempts: u32,
    error: &Error,
    config: &WorkerConfig,
) -> Result<Attempted, Error> {
    let id = entry.first().map(Taken::id).unwrap_or_default();
    let attempt = Attempt { first: id, last: id, attempts, error: Some(error.sentence()) };
    link.writer.note_attempt(fence, &attempt).await?;
    let attempts_max = config.attempts_max;
    let trace_id = match entry.first() {
        Some(Taken::Delivery(delivery)) => delivery.trace_id().map(tracing::field::display),
        Some(Taken::Unreadable(_) | Taken::Deleted(..)) | None => None,
    };
    warn!(partition = fence.partition, stream_id = %id, trace_id, attempts, attempts_max,
        error = error.sentence(), "an entry could not be settled");
    if attempts < attempts_max {
        return Ok(Attempted::Failed(attempt, None));
    }
    give_up(link, fence, entry, &attempt, config).await?;
    Ok(Attempted::Done(None))
}

async fn give_up(
    link: &mut Link,
    fence: Fence,
    entry: &[Taken],
    attempt: &Attempt,
    config: &WorkerConfig,
) -> Result<(), Error> {
    let Some(Taken::Delivery(delivery)) = entry.first() else {
        // Settling an unreadable or deleted entry cannot fail by the entry's fault.
        let batch = TakenFrom { taken: entry.to_vec(), ..TakenFrom::default() };
        return settle::settle(link, vec![(fence, batch)]).await;
    };
    let Attempt { attempts, error, .. } = attempt;
    let (code, reason) = match error {
        Some(error) => (FAILED, error.clone()),
        None => (DIED, format!("the worker ended while settling it, {attempts} times")),
    };
    let entry = DeadEntry {
        partition: fence.partition,
        stream_id: delivery.stream_id,
        sequence: Some(delivery.sequence),
        reference: Some(delivery.payment.reference.as_str().to_owned()),
        customer: Some(delivery.payment.customer.clone()),
        amount: Some(delivery.payment.amount),
        trace_id: delivery.trace_id(),
        reason,
        fields: fields_of(delivery),
    };
    let burial = Burial { entry, code, attempts: *attempts, parks: config.park_customer };
    settle::give_up(link, fence, delivery, burial).await
}

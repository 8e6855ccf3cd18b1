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
//! tried the entry alone. A try that ended otherwise (an outage, a deadline, a
//! worker that stops) is given back: the note is then what it was before.

use tokio::time::timeout;
use tracing::warn;

use super::settle::{self, Error, GivenUp, Link};
use crate::{
    domain::StreamId,
    ledger::{Fence, Trial},
    stream::{Claim, Taken, TakenFrom},
};

/// Class of entries that could not be settled.
const FAILED: &str = "settle_failed";
/// Class of entries whose workers died while they were settled.
const DIED: &str = "worker_died";

/// How often taking an attempt back is tried over one connection.
const GIVE_BACK_TRIES: usize = 3;

/// When to give up, and what then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) attempts_max: u32,
    pub(super) park_customer: bool,
}

/// What came of a try.
pub(super) enum Tried {
    /// The page is settled, or buried. What is left under suspicion.
    Done(Option<Trial>),
    /// This entry failed and is to be tried again; what came before it in the
    /// page is settled up to the id.
    Failed(Trial, Option<StreamId>),
}

/// Tries a page of entries that came back, which are not empty.
pub(super) async fn attempt(
    link: &mut Link,
    claim: Claim,
    page: TakenFrom,
    suspects: Option<&Trial>,
    rules: Rules,
) -> Result<Tried, Error> {
    let (Some(first), Some(last)) = (page.taken.first(), page.taken.last()) else {
        return Ok(Tried::Done(None));
    };
    match suspects.filter(|trial| trial.covers(first.id())) {
        Some(trial) => alone(link, claim, page, trial, rules).await,
        None => {
            let trial = Trial { first: first.id(), last: last.id(), attempts: 1, error: None };
            link.writer.note_trial(fence(claim), &trial).await?;
            let tried = together(link, claim, page, rules).await;
            if let Err(error) = &tried {
                give_back(link, claim, None, error).await;
            }
            tried
        }
    }
}

/// Settles the page, halving whatever fails.
async fn together(
    link: &mut Link,
    claim: Claim,
    page: TakenFrom,
    rules: Rules,
) -> Result<Tried, Error> {
    let mut settled_to = None;
    let TakenFrom { taken, earlier, .. } = page;
    let mut pieces = vec![taken];
    while let Some(mut piece) = pieces.pop() {
        let last_id = piece.last().map(Taken::id);
        let batch = TakenFrom { taken: piece.clone(), last_id, earlier: earlier.clone() };
        match settle::settle(link, vec![(claim, batch)]).await {
            Ok(()) => settled_to = last_id.or(settled_to),
            Err(error) if error.is_of_an_entry() && piece.len() > 1 => {
                let behind = piece.split_off(piece.len() / 2);
                pieces.extend([behind, piece]);
            }
            Err(error) if error.is_of_an_entry() => {
                let tried = failed(link, claim, &piece, 1, &error, rules).await?;
                let Tried::Failed(trial, _) = tried else {
                    settled_to = last_id;
                    continue;
                };
                return Ok(Tried::Failed(trial, settled_to));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Tried::Done(None))
}

/// Settles one entry that failed before, or of which a worker may have died.
async fn alone(
    link: &mut Link,
    claim: Claim,
    page: TakenFrom,
    trial: &Trial,
    rules: Rules,
) -> Result<Tried, Error> {
    let Some(id) = page.taken.first().map(Taken::id) else { return Ok(Tried::Done(None)) };
    let left = || (id < trial.last).then(|| trial.clone());
    if trial.first == trial.last && trial.attempts >= rules.attempts_max {
        give_up(link, claim, &page.taken, trial, rules).await?;
        return Ok(Tried::Done(left()));
    }
    // Those of a page were tried together: none of them was to blame.
    let attempts = if trial.first == trial.last { trial.attempts + 1 } else { 1 };
    let this = Trial { first: id, last: id, attempts, error: None };
    link.writer.note_trial(fence(claim), &this).await?;
    let entry = page.taken.clone();
    match settle::settle(link, vec![(claim, page)]).await {
        Ok(()) => Ok(Tried::Done(left())),
        Err(error) if error.is_of_an_entry() => {
            failed(link, claim, &entry, attempts, &error, rules).await
        }
        Err(error) => {
            give_back(link, claim, Some(trial), &error).await;
            Err(error)
        }
    }
}

/// A try ended by nobody's doing: what is noted is what was before it. If that
/// cannot be said now, it is when the lane is connected again.
async fn give_back(link: &mut Link, claim: Claim, before: Option<&Trial>, error: &Error) {
    if error.is_fenced() {
        return;
    }
    let fence = fence(claim);
    // The connection may still be busy with the statement that was given up, whose
    // failure is then the answer to the next one.
    let deadline = link.batch_deadline;
    let giving = async {
        for _ in 0..GIVE_BACK_TRIES {
            let given = match before {
                Some(trial) => link.writer.note_trial(fence, trial).await,
                None => link.writer.end_trial(fence).await,
            };
            if given.is_ok() {
                return true;
            }
        }
        false
    };
    if timeout(deadline, giving).await != Ok(true) {
        warn!(partition = claim.partition, "could not take an attempt back yet");
    }
}

/// Notes a failure of one entry, or gives the entry up.
async fn failed(
    link: &mut Link,
    claim: Claim,
    entry: &[Taken],
    attempts: u32,
    error: &Error,
    rules: Rules,
) -> Result<Tried, Error> {
    let id = entry.first().map(Taken::id).unwrap_or_default();
    let trial = Trial { first: id, last: id, attempts, error: Some(error.sentence()) };
    link.writer.note_trial(fence(claim), &trial).await?;
    let Rules { attempts_max, .. } = rules;
    let trace_id = match entry.first() {
        Some(Taken::Delivery(delivery)) => delivery.trace_id().map(tracing::field::display),
        Some(Taken::Unreadable(_) | Taken::Deleted(..)) | None => None,
    };
    warn!(partition = claim.partition, stream_id = %id, trace_id, attempts, attempts_max,
        error = error.sentence(), "an entry could not be settled");
    if attempts < attempts_max {
        return Ok(Tried::Failed(trial, None));
    }
    give_up(link, claim, entry, &trial, rules).await?;
    Ok(Tried::Done(None))
}

async fn give_up(
    link: &mut Link,
    claim: Claim,
    entry: &[Taken],
    trial: &Trial,
    rules: Rules,
) -> Result<(), Error> {
    let Some(Taken::Delivery(delivery)) = entry.first() else {
        // What cannot be read, or is gone, has nothing that could fail.
        let batch = TakenFrom { taken: entry.to_vec(), ..TakenFrom::default() };
        return settle::settle(link, vec![(claim, batch)]).await;
    };
    let Trial { attempts, error, .. } = trial;
    let (code, reason) = match error {
        Some(error) => (FAILED, error.clone()),
        None => (DIED, format!("the worker ended while settling it, {attempts} times")),
    };
    let parks = rules.park_customer;
    let given_up = GivenUp { code, reason, attempts: *attempts, parks };
    settle::give_up(link, claim, delivery, &given_up).await
}

fn fence(claim: Claim) -> Fence {
    Fence { partition: claim.partition, epoch: claim.epoch }
}

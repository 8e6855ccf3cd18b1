//! What one source or operator may have under way, so that it leaves room for others: requests,
//! reads, and connections to PostgreSQL. Only callers with names have shares; where nobody has
//! one, all are one caller. Never bounds what all may have together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    problem::{Code, Problem},
    slots::{Slot, Slots},
};

/// Reads of one caller at once, those included that wait for their turn.
const READS_OF_ONE_MAX: usize = 64;
/// Requests of one caller that wait for an outcome.
const WAITERS_OF_ONE_MAX: usize = 128;
/// Callers whose turns are remembered, before those without a read are forgotten.
const CALLERS_MAX: usize = 1_000;

pub(super) struct Shares {
    requests: Slots<Arc<str>>,
    reads: Slots<Arc<str>>,
    waiters: Slots<Arc<str>>,
    turns: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
    turns_of_one: usize,
}

/// A part of a caller's share, until it is dropped.
#[derive(Default)]
pub(super) struct Share {
    _request: Option<Slot<Arc<str>>>,
    _read: Option<Slot<Arc<str>>>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Shares {
    /// A caller may have half of all requests under way, and half of the connections to
    /// PostgreSQL.
    pub(super) fn new(requests_max: usize, query_connections: u32) -> Self {
        let of_one = |most| Slots::new(usize::MAX, most);
        Self {
            requests: of_one(requests_max.div_ceil(2)),
            reads: of_one(READS_OF_ONE_MAX),
            waiters: of_one(WAITERS_OF_ONE_MAX),
            turns: Mutex::default(),
            turns_of_one: usize::try_from(query_connections.div_ceil(2)).unwrap_or(1),
        }
    }

    /// A request's part; one that reads waits for its turn among the caller's reads.
    pub(super) async fn take(&self, name: Option<Arc<str>>, reads: bool) -> Result<Share, Problem> {
        let Some(name) = &name else { return Ok(Share::default()) };
        let much = |what: &str| {
            let detail = format!(
                "this source or operator has as many {what} under way as it may; nothing was taken, wait for \
                 answers and send it again"
            );
            Problem::new(Code::RateLimited, detail).retry_after(1)
        };
        let request = self.requests.take(Arc::clone(name)).map_err(|_| much("requests"))?;
        let mut share = Share { _request: Some(request), ..Share::default() };
        if reads {
            share._read = Some(self.reads.take(Arc::clone(name)).map_err(|_| much("reads"))?);
            share._turn = self.turns_of(name).acquire_owned().await.ok();
        }
        Ok(share)
    }

    /// Whether one more request of this caller may wait for an outcome.
    pub(super) fn wait(&self, name: Option<Arc<str>>) -> Option<Share> {
        let Some(name) = &name else { return Some(Share::default()) };
        let waiter = self.waiters.take(Arc::clone(name)).ok()?;
        Some(Share { _request: Some(waiter), ..Share::default() })
    }

    fn turns_of(&self, name: &Arc<str>) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = turns.get(name).and_then(Weak::upgrade) {
            return known;
        }
        if turns.len() >= CALLERS_MAX {
            turns.retain(|_, known| known.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.turns_of_one));
        turns.insert(Arc::clone(name), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_caller_leaves_half_of_everything_to_others() {
        let shares = Shares::new(8, 3);
        let (a, b) = ("a", "b");
        let take = |name: &str, reads| shares.take(Some(name.into()), reads).now_or_never();
        let mut held: Vec<Share> = (0..2).map(|_| take(a, true).unwrap().ok().unwrap()).collect();
        assert!(take(a, true).is_none(), "it waits for its turn");
        held.extend((0..2).map(|_| take(a, false).unwrap().ok().unwrap()));
        let refused = take(a, false).unwrap().err().unwrap();
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(take(b, true).unwrap().is_ok());
        assert!(shares.take(None, true).now_or_never().unwrap().is_ok());
        drop(held);
        assert!(take(a, true).unwrap().is_ok());
        let waits: Vec<_> =
            (0..=WAITERS_OF_ONE_MAX).filter_map(|_| shares.wait(Some(a.into()))).collect();
        assert_eq!(waits.len(), WAITERS_OF_ONE_MAX);
        assert!(shares.wait(Some(b.into())).is_some());
    }
}

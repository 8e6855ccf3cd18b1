//! What the ledger knows around every pending entry: owners, workers, and what
//! is being tried. Read once for a page, at about one moment.

use std::{
    collections::BTreeMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{
    Error, Operations,
    verdict::{InLedger, OwnerLease},
};
use crate::ledger::{self, Attempt, CursorRow, WorkerRow};

/// What is taken for the lease and the attempts of an owner that has left the
/// registry: their defaults.
const LEASE_DEFAULT: Duration = Duration::from_secs(10);
const ATTEMPTS_DEFAULT: u32 = 5;

/// How long it is not asked again whether the ledger is there.
const THERE_FOR: Duration = Duration::from_secs(5);

pub(super) struct Background {
    cursors: BTreeMap<u16, CursorRow>,
    workers: Vec<WorkerRow>,
    trials: BTreeMap<u16, Attempt>,
}

impl Operations {
    /// What the ledger answers; nothing while it is away. Whether it is there is
    /// asked first, with a bound of its own, and not again for a while: nobody who
    /// looks waits for an absent ledger twice.
    pub(super) async fn if_there<T>(
        &self,
        asking: impl Future<Output = Result<T, ledger::Error>>,
    ) -> Result<Option<T>, Error> {
        let noted = *self.ledger_there.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = match noted.filter(|(at, _)| at.elapsed() < THERE_FOR) {
            Some((_, true)) => asking.await,
            Some((_, false)) => return Ok(None),
            None => match self.ledger.reach().await {
                Ok(()) => {
                    self.note_ledger(true);
                    asking.await
                }
                Err(error) => Err(error),
            },
        };
        match asked {
            Ok(answer) => Ok(Some(answer)),
            // It is there.
            Err(ledger::Error::Locked(_) | ledger::Error::Slow(_)) => Ok(None),
            Err(error) if error.is_outage() => {
                self.note_ledger(false);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the ledger was found there just now.
    pub(crate) fn note_ledger(&self, is_there: bool) {
        let noted = Some((Instant::now(), is_there));
        *self.ledger_there.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }

    /// Nothing while the ledger cannot be asked.
    pub(super) async fn background(&self) -> Result<Option<Background>, Error> {
        let asking = async {
            tokio::try_join!(self.reader.cursors(), self.admin.workers(), self.admin.attempts_now())
        };
        let Some((cursors, workers, trials)) = self.if_there(asking).await? else {
            return Ok(None);
        };
        let number = |row: &CursorRow| u16::try_from(row.partition).ok();
        Ok(Some(Background {
            cursors: cursors.into_iter().filter_map(|c| Some((number(&c)?, c))).collect(),
            workers,
            trials,
        }))
    }
}

impl Background {
    /// What is known around an entry of a partition, which the ledger has
    /// `settled` as this, if it has.
    pub(super) fn around<'a>(&'a self, partition: u16, settled: Option<&'a str>) -> InLedger<'a> {
        let cursor = self.cursors.get(&partition);
        let owner = cursor.and_then(|cursor| {
            let name = cursor.owner.as_deref()?;
            let worker = self.workers.iter().find(|worker| worker.worker_id == name);
            let lease = worker.and_then(|worker| u64::try_from(worker.lease_ms).ok());
            let lease = lease.map_or(LEASE_DEFAULT, Duration::from_millis);
            // One that has left the registry says nothing any more.
            let silence = cursor
                .owner_silence()
                .map_or(lease * 2, |silence| silence.to_std().unwrap_or_default());
            let attempts_max = worker.and_then(|worker| u32::try_from(worker.attempts_max).ok());
            let attempts_max = attempts_max.unwrap_or(ATTEMPTS_DEFAULT);
            Some(OwnerLease { name, silence, lease, attempts_max })
        });
        let name = owner.as_ref().map(|owner| owner.name);
        let others = self.workers.iter().filter(|worker| Some(worker.worker_id.as_str()) != name);
        InLedger {
            settled,
            others_alive: others.filter(|worker| worker.is_alive()).count(),
            owner,
            trial: self.trials.get(&partition),
            lock: None,
        }
    }
}

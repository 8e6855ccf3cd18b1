//! What the ledger knows around every pending entry: owners, workers, and what
//! is being tried. Read once for a page, at about one moment.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Control, Error,
    verdict::{InLedger, Owner},
};
use crate::ledger::{self, CursorRow, TrialRow, WorkerRow};

/// What is taken for the lease and the attempts of an owner that has left the
/// registry: their defaults.
const LEASE_DEFAULT: Duration = Duration::from_secs(10);
const ATTEMPTS_DEFAULT: u32 = 5;

/// Owners, workers and trials.
pub(super) struct Background {
    cursors: BTreeMap<u16, CursorRow>,
    workers: Vec<WorkerRow>,
    trials: BTreeMap<u16, TrialRow>,
}

impl Control {
    /// Nothing while the ledger cannot be asked.
    pub(super) async fn background(&self) -> Result<Option<Background>, Error> {
        let asked =
            tokio::try_join!(self.reader.cursors(), self.desk.workers(), self.desk.trials());
        match asked {
            Ok((cursors, workers, trials)) => {
                let number = |row: &CursorRow| u16::try_from(row.partition).ok();
                Ok(Some(Background {
                    cursors: cursors.into_iter().filter_map(|c| Some((number(&c)?, c))).collect(),
                    workers,
                    trials: trials.into_iter().map(|trial| (trial.partition, trial)).collect(),
                }))
            }
            Err(error) => unless_away(error),
        }
    }
}

/// While the ledger is away nothing is known; anything else is an error.
pub(super) fn unless_away<T: Default>(error: ledger::Error) -> Result<T, Error> {
    if error.is_outage() { Ok(T::default()) } else { Err(error.into()) }
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
            Some(Owner { name, silence, lease, attempts_max })
        });
        let name = owner.as_ref().map(|owner| owner.name);
        let others = self.workers.iter().filter(|worker| Some(worker.worker_id.as_str()) != name);
        InLedger {
            settled,
            others_alive: others.filter(|worker| worker.is_alive()).count(),
            owner,
            trial: self.trials.get(&partition),
        }
    }
}

//! What a gateway knows to have been given out, as in src/stream/lineage.rs, and how it appends, as
//! in src/stream/producer.rs. Never decides that something is lost: that is for the scripts.

use std::collections::BTreeMap;

use crate::{
    Breakage,
    ledger::Ledger,
    redis::{Appended, Keys, Known, Line, Redis},
};

/// `SERVERS_MAX` in src/stream/lineage.rs.
const SERVERS_MAX: usize = 4;

/// The highest sequence that one server gave out: the server, and the first of its lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GivenOut {
    sequence: i64,
    by: Option<(u32, i64)>,
}

/// `KnownSequences` in src/stream/lineage.rs.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownSequences {
    sequence: i64,
    given_out: Vec<GivenOut>,
    lacked: Vec<GivenOut>,
    verified: Option<(u32, Line)>,
}

impl KnownSequences {
    fn raise(&mut self, sequence: i64, server: Option<u32>) {
        self.sequence = self.sequence.max(sequence);
        let verified = self.verified.filter(|(verified, _)| Some(*verified) == server);
        let first = verified.map(|(_, newest)| newest.first);
        let by = server.zip(first);
        let same = |known: &&mut GivenOut| match by {
            Some(_) => known.by == by,
            None => known.by.map(|(server, _)| server) == server,
        };
        if let Some(known) = self.given_out.iter_mut().find(same) {
            known.sequence = known.sequence.max(sequence);
            return;
        }
        if self.given_out.len() == SERVERS_MAX {
            self.given_out.remove(0);
        }
        let by = server.map(|server| (server, first.unwrap_or(sequence)));
        self.given_out.push(GivenOut { sequence, by });
    }

    fn is_verified(&self, server: u32) -> bool {
        self.verified.is_some_and(|(verified, newest)| {
            let by = Some((server, newest.first));
            verified == server && self.given_out.iter().all(|known| known.by == by)
        })
    }

    /// `compare` and `verified`.
    fn compare(&mut self, server: (u32, bool), keys: &mut Keys) {
        keys.compare(server, 0, None);
        let Some(newest) = keys.lineage.last().copied() else { return };
        let by = Some((server.0, newest.first));
        let (mut lacked, mut has) = (Vec::new(), None);
        for known in &self.given_out {
            let is_own = known.by == by;
            let lost = || keys.compare(server, known.sequence, known.by);
            match (!is_own).then(lost).flatten() {
                // From the first that is lost on, whatever a later server knows of lineages.
                Some((lost, _)) => lacked.push(GivenOut {
                    by: known.by.map(|(server, first)| (server, first.min(lost))),
                    ..*known
                }),
                // What it has counts as its own from now on: it may lose it, too.
                None if known.by.is_some() => has = has.max(Some(known.sequence)),
                // The ledger has what it knows, and counts up to a jump what was never given out.
                None => {}
            }
        }
        for known in &self.lacked {
            keys.compare(server, known.sequence, known.by);
        }
        self.lacked.retain(|known| !lacked.contains(known));
        self.lacked.extend(lacked);
        self.lacked.drain(..self.lacked.len().saturating_sub(SERVERS_MAX));
        self.given_out = has.map(|sequence| GivenOut { sequence, by }).into_iter().collect();
        self.verified = Some((server.0, newest));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Gateway {
    /// Counts its starts.
    pub(crate) incarnation: u32,
    pub(crate) generation: u32,
    known: BTreeMap<u16, KnownSequences>,
}

impl Gateway {
    /// Starts, or serves the current topology from now on: it knows what the ledger knows
    /// (src/app/capabilities.rs).
    pub(crate) fn begin(&mut self, ledger: &Ledger) {
        self.generation = ledger.generation;
        self.known.clear();
        for (partition, row) in &ledger.rows {
            let known = self.known.entry(*partition).or_default();
            known.raise(row.cursor.sequence.max(row.cursor.head), None);
        }
    }

    /// Whether it has compared all that it knows of a partition with what there is now.
    pub(crate) fn has_compared(&self, server: u32, partition: u16, keys: &Keys) -> bool {
        self.known.get(&partition).is_some_and(|known| {
            let newest = known.verified.map(|(_, newest)| newest);
            known.is_verified(server) && newest == keys.lineage.last().copied()
        })
    }

    /// `try_append`: compares first, if it has to; none where that was all, or nothing was done.
    pub(crate) fn append(
        &mut self,
        redis: &mut Redis,
        partition: u16,
        payments: &[(u32, usize)],
        breakage: Option<Breakage>,
    ) -> Option<Vec<Appended>> {
        let server = (redis.identity, redis.promoted);
        let clock = redis.clock;
        let keys = redis.at((self.generation, partition));
        let known = self.known.entry(partition).or_default();
        let compares = breakage != Some(Breakage::NoComparison);
        if compares && !known.is_verified(server.0) {
            known.compare(server, keys);
            return None;
        }
        let line = known.verified.map(|(_, newest)| newest);
        let given_out = if compares { known.sequence } else { 0 };
        match keys.append(payments, Known { given_out, line, clock }) {
            Ok(answers) => {
                let new = answers.iter().rev().find_map(|answer| match answer {
                    Appended::New(sequence) => Some(*sequence),
                    Appended::Duplicate(_) | Appended::Conflict | Appended::Refused => None,
                });
                if let Some(sequence) = new {
                    known.raise(sequence, Some(server.0));
                }
                Some(answers)
            }
            Err(_refused) => {
                known.verified = None;
                None
            }
        }
    }
}

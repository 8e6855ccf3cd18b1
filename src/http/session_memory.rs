//! What a process remembers of the console's sessions: those it has seen, and those that ended
//! here. Bounded. Never asks anybody and reads no clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::ledger::SessionRow;

/// How long PostgreSQL's answer counts.
const FRESH: Duration = Duration::from_secs(3);
/// Sessions that are remembered; then the one that ends first is asked for again.
const KNOWN_MAX: usize = 4_096;
/// Ended sessions that are remembered; then those that PostgreSQL knows of go, and the next is not
/// remembered.
const ENDED_MAX: usize = 4_096;

pub(super) type Digest = [u8; 32];

#[derive(Default)]
pub(super) struct Memory {
    known: HashMap<Digest, Known>,
    /// With whether PostgreSQL knows.
    ended: HashMap<Digest, bool>,
}

struct Known {
    row: SessionRow,
    /// When PostgreSQL said so; never, where it does not have the session.
    confirmed: Option<Instant>,
    /// The last use that PostgreSQL was told of.
    noted_at: DateTime<Utc>,
}

/// What is known of a session.
#[derive(Debug)]
pub(super) enum Seen {
    Never,
    Ended,
    Fresh(SessionRow),
    Stale { row: SessionRow, is_stored: bool },
}

impl Memory {
    pub(super) fn see(&self, digest: &Digest, now: Instant) -> Seen {
        if self.ended.contains_key(digest) {
            return Seen::Ended;
        }
        let Some(Known { row, confirmed, .. }) = self.known.get(digest) else {
            return Seen::Never;
        };
        match confirmed {
            Some(at) if now.saturating_duration_since(*at) < FRESH => Seen::Fresh(row.clone()),
            confirmed => Seen::Stale { row: row.clone(), is_stored: confirmed.is_some() },
        }
    }

    pub(super) fn operator(&self, digest: &Digest) -> Option<String> {
        self.known.get(digest).map(|known| known.row.operator.clone())
    }

    /// The session as it is known from here on; none where it ended while it was asked for.
    pub(super) fn keep(
        &mut self,
        digest: Digest,
        mut row: SessionRow,
        confirmed: Option<Instant>,
    ) -> Option<SessionRow> {
        if self.ended.contains_key(&digest) {
            return None;
        }
        let mut noted_at = row.last_used_at;
        if let Some(Known { row: known, noted_at: noted, .. }) = self.known.get(&digest) {
            noted_at = noted_at.max(*noted);
            // A use here that PostgreSQL was not told of yet.
            row.last_used_at = row.last_used_at.max(known.last_used_at);
            row.ends_at = row.ends_at.max(known.ends_at);
        } else if self.known.len() >= KNOWN_MAX {
            let first = self.known.iter().min_by_key(|(_, known)| known.row.ends_at);
            let first = first.map(|(digest, _)| *digest);
            first.and_then(|digest| self.known.remove(&digest));
        }
        self.known.insert(digest, Known { row: row.clone(), confirmed, noted_at });
        Some(row)
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        self.known.remove(digest);
    }

    /// Moves the end of a session. Returns it where its use was not noted for so long.
    pub(super) fn used(
        &mut self,
        digest: &Digest,
        now: DateTime<Utc>,
        ends_at: DateTime<Utc>,
        noted_every: Duration,
    ) -> Option<SessionRow> {
        let Known { row, noted_at, .. } = self.known.get_mut(digest)?;
        row.last_used_at = row.last_used_at.max(now);
        row.ends_at = row.ends_at.max(ends_at.min(row.expires_at));
        let silent = now.signed_duration_since(*noted_at);
        if silent < TimeDelta::from_std(noted_every).unwrap_or(TimeDelta::MAX) {
            return None;
        }
        *noted_at = now;
        Some(row.clone())
    }

    /// Ends a session here, whatever PostgreSQL answers to a question from before.
    pub(super) fn end(&mut self, digest: Digest) {
        self.known.remove(&digest);
        if self.ended.len() >= ENDED_MAX {
            self.ended.retain(|_, is_told| !*is_told);
        }
        if self.ended.len() < ENDED_MAX {
            self.ended.insert(digest, false);
        }
    }

    /// Ended sessions that PostgreSQL does not know of.
    pub(super) fn untold(&self) -> Vec<Digest> {
        self.ended.iter().filter(|(_, is_told)| !**is_told).map(|(digest, _)| *digest).collect()
    }

    pub(super) fn told(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.ended.entry(*digest).and_modify(|is_told| *is_told = true);
        }
    }
}

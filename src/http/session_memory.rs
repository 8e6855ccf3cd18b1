//! What a process remembers of the console's sessions: those it has seen, and those that ended
//! here. Bounded. Never asks anybody and reads no clock.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::quota::Quotas;
use crate::ledger::SessionRow;

/// How long PostgreSQL's answer counts.
const FRESH: Duration = Duration::from_secs(3);
/// Sessions that are remembered; then the one that ends first is asked for again.
const KNOWN_MAX: usize = 4_096;
/// Ended sessions that are remembered; then those that PostgreSQL knows of go, and the next is not
/// remembered.
const ENDED_MAX: usize = 4_096;

pub(super) type Digest = [u8; 32];

pub(crate) struct Sessions {
    memory: Mutex<Memory>,
    /// Questions for sessions that this process has not seen, by address.
    pub(super) questions: Quotas,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { memory: Mutex::default(), questions: Quotas::of_unseen_sessions() }
    }
}

impl Sessions {
    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

    /// Ends a session here, whatever PostgreSQL answers to a question from before. Only for one that
    /// there is: whoever invents ids would push out the ends that PostgreSQL does not know of.
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

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: TimeDelta = TimeDelta::minutes(1);

    fn row(ends_at: DateTime<Utc>) -> SessionRow {
        let at = DateTime::UNIX_EPOCH;
        SessionRow {
            digest: Vec::new(),
            operator: "ada".to_owned(),
            scopes: None,
            source: String::new(),
            kid: None,
            jti: None,
            seal: Vec::new(),
            address: String::new(),
            signed_in_at: at,
            last_used_at: at,
            ends_at,
            expires_at: at + MINUTE * 60,
        }
    }

    #[test]
    fn an_answer_counts_for_a_few_seconds_and_a_use_is_noted_once_a_minute() {
        let (mut memory, now, at) = (Memory::default(), Instant::now(), DateTime::UNIX_EPOCH);
        let used = |memory: &mut Memory, minutes: i32| {
            let used_at = at + MINUTE * minutes;
            memory.used(&[1; 32], used_at, used_at + MINUTE * 30, Duration::from_secs(60))
        };
        assert!(matches!(memory.see(&[1; 32], now), Seen::Never));
        assert!(used(&mut memory, 1).is_none());
        memory.keep([1; 32], row(at + MINUTE * 30), Some(now)).unwrap();
        let fresh = now + FRESH.saturating_sub(Duration::from_millis(1));
        assert!(matches!(memory.see(&[1; 32], fresh), Seen::Fresh(_)));
        assert!(matches!(memory.see(&[1; 32], now + FRESH), Seen::Stale { is_stored: true, .. }));
        assert!(used(&mut memory, 0).is_none());
        let noted = used(&mut memory, 1).unwrap();
        assert_eq!((noted.last_used_at, noted.ends_at), (at + MINUTE, at + MINUTE * 31));
        assert!(used(&mut memory, 1).is_none());
        // PostgreSQL may not have been told; and it expires, however much it is used.
        let kept = memory.keep([1; 32], row(at + MINUTE * 30), Some(now)).unwrap();
        assert_eq!(kept.ends_at, at + MINUTE * 31);
        assert_eq!(used(&mut memory, 59).unwrap().ends_at, at + MINUTE * 60);
        memory.keep([2; 32], row(at), None).unwrap();
        assert!(matches!(memory.see(&[2; 32], now), Seen::Stale { is_stored: false, .. }));
    }

    #[test]
    fn what_ended_here_stays_so_whatever_postgresql_said_before() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.keep([1; 32], row(DateTime::UNIX_EPOCH), Some(now)).unwrap();
        memory.end([1; 32]);
        for _ in 0..2 {
            assert!(memory.keep([1; 32], row(DateTime::UNIX_EPOCH), Some(now)).is_none());
            assert!(matches!(memory.see(&[1; 32], now), Seen::Ended));
            memory.told(&memory.untold());
        }
        assert!(memory.untold().is_empty());
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        let mut memory = Memory::default();
        for number in 0..=KNOWN_MAX {
            let ends_at = DateTime::UNIX_EPOCH + MINUTE * i32::try_from(number).unwrap();
            memory.keep(digest(number), row(ends_at), None).unwrap();
        }
        assert_eq!(memory.known.len(), KNOWN_MAX);
        let see = |number| memory.see(&digest(number), Instant::now());
        assert!(matches!(see(0), Seen::Never) && matches!(see(1), Seen::Stale { .. }));
        (0..=ENDED_MAX).for_each(|number| memory.end(digest(number)));
        assert_eq!(memory.untold().len(), ENDED_MAX);
        memory.told(&memory.untold());
        memory.end(digest(ENDED_MAX + 1));
        assert_eq!((memory.ended.len(), memory.untold().len()), (1, 1));
    }
}

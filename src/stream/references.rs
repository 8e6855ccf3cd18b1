//! What is remembered of references: which tables a partition has, and where a reference is in
//! them. Never asks Redis.
//!
//! A table holds what came within half of the dedupe window, in hashes so small that Redis keeps
//! them compact, and goes as a whole, one window after its end. `lua/append.lua` begins tables.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{RedisResult, Value};
use sha2::{Digest as _, Sha256};

use super::Keys;
use crate::domain::{PaymentStatus, Reference, StreamId};

/// How long after its start a process also looks for what the release before remembers, beside
/// the window: as long as a rolling upgrade may take.
const UPGRADE_WAIT: Duration = Duration::from_secs(60 * 60);

/// How often a table is asked about that has not ended by what is known, in parts of the window:
/// the clock of Redis may have been set back.
const CHECKS_A_WINDOW: u32 = 16;

/// The tables of one partition, as Redis tells them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    text: String,
    window: u64,
    /// When the newest began, and behind which sequence.
    beginning: (u64, i64),
    /// When the newest ends, in milliseconds, by the clock of Redis.
    end: u64,
    /// The sequence at which the newest is full.
    full_at: i64,
    /// Number and count of hashes, the newest first.
    tables: Vec<(u64, u64)>,
}

impl Tables {
    pub(super) fn parse(text: &str) -> Self {
        let numbers = |part: &str| -> Vec<u64> {
            part.split(',').map(|number| number.parse().unwrap_or_default()).collect()
        };
        let mut parts = text.split(';').map(numbers);
        let newest = parts.next().unwrap_or_default();
        let newest = |place| newest.get(place).copied().unwrap_or_default();
        let sequence = |place| i64::try_from(newest(place)).unwrap_or(i64::MAX);
        let table = |part: Vec<u64>| Some((*part.first()?, (*part.get(1)?).max(1)));
        Self {
            text: text.to_owned(),
            window: newest(0),
            beginning: (newest(1), sequence(3)),
            end: newest(2),
            full_at: sequence(4),
            tables: parts.filter_map(table).collect(),
        }
    }

    /// The tables that the append script names where it was told others.
    pub(super) fn told(reply: &RedisResult<Value>) -> Option<Self> {
        let Ok(Value::Array(answers)) = reply else { return None };
        let Some(Value::BulkString(answer)) = answers.first() else { return None };
        let text = answer.strip_prefix(b"tables ")?;
        Some(Self::parse(std::str::from_utf8(text).ok()?))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn beginning(&self) -> (u64, i64) {
        self.beginning
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The window of whoever began the newest, in milliseconds.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn count(&self) -> usize {
        self.tables.len()
    }

    /// The hash of a reference in each table, the newest first. `refs`: the key of the tables.
    pub(super) fn hashes<'a>(
        &'a self,
        refs: &'a str,
        name: Name,
    ) -> impl Iterator<Item = String> + 'a {
        self.tables.iter().map(move |(number, hashes)| {
            let hash = name.place() % hashes;
            format!("{refs}:{number}:{hash}")
        })
    }
}

/// What a reference is called in the tables.
#[derive(Clone, Copy, Debug)]
pub struct Name([u8; 16]);

impl Name {
    /// No other reference has the same, also where somebody looks for one: what is taken for
    /// another payment is not appended.
    pub fn of(reference: &Reference) -> Self {
        let digest = Sha256::digest(reference.as_str());
        let mut name = [0; 16];
        name.copy_from_slice(&digest[..16]);
        Self(name)
    }

    /// The field of a status: it takes the place of the last two bits.
    pub(super) fn field(self, status: PaymentStatus) -> [u8; 16] {
        let number = match status {
            PaymentStatus::Complete => 0,
            PaymentStatus::Pending => 1,
            PaymentStatus::Failed => 2,
        };
        let Self(mut field) = self;
        field[15] = field[15] & !3 | number;
        field
    }

    pub(super) fn fields(self) -> [[u8; 16]; 3] {
        use PaymentStatus::{Complete, Failed, Pending};
        [Complete, Pending, Failed].map(|status| self.field(status))
    }

    fn place(self) -> u64 {
        let [first, second, third, fourth, ..] = self.0;
        u64::from(u32::from_be_bytes([first, second, third, fourth]))
    }
}

/// The entry in a value of `lua/references.lua`.
pub(super) fn entry_in(value: &[u8]) -> Option<StreamId> {
    let (milliseconds, number) = value.get(15..)?.split_first_chunk::<6>()?;
    let milliseconds = milliseconds.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some(StreamId { milliseconds, number })
}

/// What a producer knows of the tables of one partition.
#[derive(Default)]
struct Known {
    tables: Arc<Tables>,
    /// The highest milliseconds of an id that Redis has given out.
    seen: u64,
    checked: Option<Instant>,
}

/// What a producer knows of the tables.
#[derive(Clone)]
pub(super) struct References {
    /// The key of the tables of a partition.
    pub(super) key: fn(&Keys, u16) -> String,
    old_key: fn(&Keys, u16, &Reference) -> String,
    old_until: Option<Instant>,
    window: Duration,
    known: Arc<[Mutex<Known>]>,
}

impl References {
    pub(super) fn new(partitions: u16, window: Duration) -> Self {
        Self {
            key: Keys::references,
            old_key: Keys::old_reference,
            old_until: Instant::now().checked_add(window.saturating_add(UPGRADE_WAIT)),
            window,
            known: (0..partitions).map(|_| Mutex::default()).collect(),
        }
    }

    /// The same for payments whose reference is that of another.
    pub(super) fn beside(&self) -> Self {
        Self {
            key: Keys::references_beside,
            old_key: Keys::old_beside,
            known: self.known.iter().map(|_| Mutex::default()).collect(),
            ..self.clone()
        }
    }

    pub(super) fn tables(&self, partition: u16) -> Arc<Tables> {
        Arc::clone(&self.known(partition).tables)
    }

    pub(super) fn note(&self, partition: u16, tables: &Arc<Tables>) {
        let mut known = self.known(partition);
        known.tables = Arc::clone(tables);
        known.checked = None;
    }

    /// Redis has given out this id.
    pub(super) fn saw(&self, partition: u16, id: StreamId) {
        let mut known = self.known(partition);
        known.seen = known.seen.max(id.milliseconds);
    }

    /// Whether the script is to look if another table is due, now that this sequence is known to
    /// have been given out.
    pub(super) fn may_be_due(&self, partition: u16, tables: &Tables, sequence: i64) -> bool {
        let mut known = self.known(partition);
        let since = known.checked.map(|at| at.elapsed());
        let is_due = since.is_none_or(|since| since >= self.window / CHECKS_A_WINDOW)
            || known.seen >= tables.end
            || sequence >= tables.full_at
            || self.window_ms() > tables.window;
        if is_due {
            known.checked = Some(Instant::now());
        }
        is_due
    }

    pub(super) fn window_ms(&self) -> u64 {
        u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX)
    }

    fn known(&self, partition: u16) -> MutexGuard<'_, Known> {
        self.known[usize::from(partition)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the release before names a reference, while that counts.
    pub(super) fn old_key(&self) -> Option<fn(&Keys, u16, &Reference) -> String> {
        let counts = self.old_until.is_none_or(|until| Instant::now() < until);
        counts.then_some(self.old_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_the_script_writes_them() {
        let tables = Tables::parse("900000,10,450000,7,79;3,16,1350000;2,1,900000");
        let name = Name([0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        let hashes: Vec<_> = tables.hashes("{p07}:refs", name).collect();
        assert_eq!(hashes, ["{p07}:refs:3:1", "{p07}:refs:2:0"]);
        assert_eq!(tables.beginning(), (10, 7));
        assert_eq!((tables.window(), tables.end(), tables.full_at), (900_000, 450_000, 79));
        assert_eq!(Tables::parse("").count(), 0);
    }

    #[test]
    fn each_status_of_a_reference_has_a_field() {
        let name = Name::of(&Reference::parse("bank-a TX-1").unwrap());
        let last = name.fields().map(|field| field[15] % 4);
        assert_eq!(last, [0, 1, 2]);
        assert!(name.fields().iter().all(|field| field[..15] == name.0[..15]));
    }

    #[test]
    fn an_entry_is_read_from_a_value() {
        let mut value = vec![9; 15];
        value.extend([0, 0, 0, 0, 1, 2]);
        value.extend(b"34");
        let id = StreamId { milliseconds: 258, number: 34 };
        assert_eq!(entry_in(&value), Some(id));
        assert_eq!(entry_in(b""), None);
    }
}

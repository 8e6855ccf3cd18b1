//! One Redis server as the scripts of `src/stream/lua` see it. Each function is one script, and so
//! one step that happens in whole or not at all. Never knows who calls, nor the ledger.

use std::collections::{BTreeMap, BTreeSet};

/// How far sequences jump where a replica took over (`HOLE` in src/stream/lineage.rs).
pub(crate) const HOLE: i64 = 1_000_000;

/// A worker, and the epoch under which it owns a partition.
pub(crate) type Fence = (usize, i64);

/// What a `:seq` key holds before its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    #[default]
    Open,
    /// Closed, because what was given out is lost.
    Lost,
    /// Closed while the number of partitions changes, and for good after that.
    Resizing,
    Resized,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) sequence: i64,
    pub(crate) payment: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    pub(crate) entries: Vec<Entry>,
    pub(crate) last_id: u64,
    pub(crate) group: Option<Group>,
    /// Entries ever added, as Redis counts them.
    added: i64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) last: u64,
    pub(crate) pending: BTreeSet<u64>,
    /// `entries-read`, which a replica does not get before Redis 7.4.
    read: i64,
}

impl Stream {
    /// With our group.
    pub(crate) fn new() -> Self {
        Self { group: Some(Group::default()), ..Self::default() }
    }
}

/// A line of a lineage: a server's identity, the last sequence before its own, and the first of its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) identity: u32,
    pub(crate) after: i64,
    pub(crate) first: i64,
}

/// The keys of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) stream: Option<Stream>,
    pub(crate) gate: Gate,
    pub(crate) counted: i64,
    pub(crate) owner: Option<Fence>,
    pub(crate) lost: Vec<(i64, i64)>,
    pub(crate) lineage: Vec<Line>,
    /// References that are remembered: the payment, its sequence, its entry.
    pub(crate) references: BTreeMap<u32, (usize, i64)>,
}

/// A server: its data by generation and partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Redis {
    pub(crate) identity: u32,
    pub(crate) promoted: bool,
    pub(crate) clock: u64,
    pub(crate) keys: BTreeMap<(u32, u16), Keys>,
}

/// What became of a payment that was to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    New(i64),
    Duplicate(i64),
    Conflict,
    Refused,
}

/// Why a script or a transaction has done nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// LINEAGE: another lineage has begun.
    Lineage,
    /// FENCED: somebody else owns the partition.
    Fenced,
    /// NOSTREAM, NOGROUP; or entries would be passed.
    StateLost,
    /// The connection is gone.
    Outage,
}

/// What a group has before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) last: u64,
    pub(crate) pending: usize,
    pub(crate) lag: i64,
}

impl Redis {
    pub(crate) fn at(&mut self, key: (u32, u16)) -> &mut Keys {
        self.keys.entry(key).or_default()
    }
}

/// What `append.lua` is told beside the payments.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) given_out: i64,
    pub(crate) line: Option<Line>,
    pub(crate) clock: u64,
}

impl Keys {
    /// `append.lua`. `payments`: the reference and the payment of each.
    pub(crate) fn append(
        &mut self,
        payments: &[(u32, usize)],
        known: Known,
    ) -> Result<Vec<Appended>, Refusal> {
        if known.line.is_some() && known.line != self.lineage.last().copied() {
            return Err(Refusal::Lineage);
        }
        let (mut given_out, mut answers) = (known.given_out, Vec::new());
        for (reference, payment) in payments {
            let seen = self.references.get(reference).filter(|(_, sequence)| {
                !self.lost.iter().any(|(first, last)| (first..=last).contains(&sequence))
            });
            if let Some((other, sequence)) = seen {
                let same = other == payment;
                answers.push(if same {
                    Appended::Duplicate(*sequence)
                } else {
                    Appended::Conflict
                });
                continue;
            }
            let Some(sequence) = self.next_sequence(given_out) else {
                answers.push(Appended::Refused);
                return Ok(answers);
            };
            let Some(stream) = self.stream.as_mut() else { return Err(Refusal::StateLost) };
            stream.last_id = known.clock.max(stream.last_id + 1);
            stream.added += 1;
            stream.entries.push(Entry { id: stream.last_id, sequence, payment: *payment });
            self.references.insert(*reference, (*payment, sequence));
            given_out = sequence;
            answers.push(Appended::New(sequence));
        }
        Ok(answers)
    }

    fn next_sequence(&mut self, given_out: i64) -> Option<i64> {
        if matches!(self.gate, Gate::Open | Gate::Lost) && self.counted < given_out {
            (self.gate, self.counted) = (Gate::Lost, given_out);
        }
        if self.gate != Gate::Open || self.stream.is_none() {
            return None;
        }
        self.counted += 1;
        Some(self.counted)
    }

    /// `counted` in src/stream/state.rs: a counter that is lost counts nothing.
    pub(crate) fn sequence(&self) -> Option<i64> {
        (self.gate != Gate::Lost).then_some(self.counted)
    }

    /// `lineage.lua`: what is lost of `known`, a sequence and who gave it out with the first of
    /// that lineage.
    pub(crate) fn compare(
        &mut self,
        (identity, promoted): (u32, bool),
        known: i64,
        origin: Option<(u32, i64)>,
    ) -> Option<(i64, i64)> {
        let counted = self.counted;
        let newest = self.lineage.last().copied();
        if newest.is_none_or(|newest| newest.identity != identity) {
            let mut first = counted + 1;
            if promoted && (newest.is_some() || counted > 0) {
                first = counted.max(known) + HOLE;
                self.counted = first - 1;
            }
            self.lineage.push(Line { identity, after: counted, first });
        }
        let mut shared = known;
        match origin {
            None => {
                if counted < known {
                    shared = counted;
                }
                for line in &self.lineage {
                    if line.after < known && known < line.first - 1 {
                        shared = line.after;
                    }
                }
            }
            Some((origin, origin_first)) => {
                let oldest = self.lineage.first().map_or((0, 0), |line| (line.after, line.first));
                let forgotten = oldest.1 > origin_first;
                let mut last = origin_first - 1;
                if forgotten {
                    last = last.max(oldest.0);
                }
                for line in &self.lineage {
                    if line.after < last && last < line.first - 1 {
                        last = line.after;
                    }
                }
                for (number, line) in self.lineage.iter().enumerate() {
                    if line.identity == origin && (forgotten || line.first <= origin_first) {
                        last = self.lineage.get(number + 1).map_or(known, |next| next.after);
                    }
                }
                shared = known.min(last);
            }
        }
        (shared < known).then(|| {
            self.lose((shared + 1, known));
            (shared + 1, known)
        })
    }

    /// `lose.lua`.
    pub(crate) fn lose(&mut self, range: (i64, i64)) {
        if !self.lost.contains(&range) {
            self.lost.push(range);
        }
    }

    /// `mirror.lua`; the epoch that is known if it is higher.
    pub(crate) fn mirror(&mut self, worker: usize, epoch: i64) -> Result<(), i64> {
        match self.owner {
            Some((_, known)) if epoch < known => Err(known),
            Some(_) | None => {
                self.owner = Some((worker, epoch));
                Ok(())
            }
        }
    }

    pub(crate) fn is_owner(&self, fence: Option<Fence>) -> Result<(), Refusal> {
        // Nothing to compare with: the fence was removed.
        if fence.is_none() || self.owner == fence { Ok(()) } else { Err(Refusal::Fenced) }
    }

    /// `take.lua`.
    pub(crate) fn take(
        &mut self,
        fence: Option<Fence>,
        count: usize,
    ) -> Result<Vec<Entry>, Refusal> {
        self.is_owner(fence)?;
        let Some(Stream { entries, group: Some(group), .. }) = self.stream.as_mut() else {
            return Err(Refusal::StateLost);
        };
        let new = entries.iter().filter(|entry| entry.id > group.last).take(count);
        let taken: Vec<Entry> = new.copied().collect();
        for entry in &taken {
            group.last = entry.id;
            group.pending.insert(entry.id);
            group.read += 1;
        }
        Ok(taken)
    }

    /// `reclaim.lua`: a page of what is pending after an id; an entry that is gone is none.
    pub(crate) fn reclaim(
        &mut self,
        fence: Option<Fence>,
        after: u64,
        count: usize,
    ) -> Result<Vec<(u64, Option<Entry>)>, Refusal> {
        self.is_owner(fence)?;
        let Some(Stream { entries, group: Some(group), .. }) = self.stream.as_ref() else {
            return Err(Refusal::StateLost);
        };
        let entry = |id: u64| entries.iter().find(|entry| entry.id == id).copied();
        let page = group.pending.range(after + 1..).take(count);
        Ok(page.map(|id| (*id, entry(*id))).collect())
    }

    /// XACK.
    pub(crate) fn acknowledge(&mut self, ids: &[u64]) {
        if let Some(group) = self.stream.as_mut().and_then(|stream| stream.group.as_mut()) {
            ids.iter().for_each(|id| {
                group.pending.remove(id);
            });
        }
    }

    /// `positions.lua`, with `entries_after.lua`. Believed: as Redis itself counts.
    pub(crate) fn position(&self, believed: bool) -> Option<Position> {
        let stream = self.stream.as_ref()?;
        let group = stream.group.as_ref()?;
        let waiting = stream.entries.iter().filter(|entry| entry.id > group.last).count();
        let counted = i64::try_from(waiting).unwrap_or(i64::MAX);
        let lag = if believed { (stream.added - group.read).max(0) } else { counted };
        Some(Position { last: group.last, pending: group.pending.len(), lag })
    }

    /// What a replica is not told of a group.
    pub(crate) fn forget_reads(&mut self) {
        if let Some(stream) = self.stream.as_mut()
            && let Some(group) = stream.group.as_mut()
        {
            group.read = stream.added;
        }
    }

    /// `passed.lua`: whether the group has acknowledged an entry after `known`; then the sequence of
    /// the first that is kept, if any is.
    pub(crate) fn passed(&self, known: u64, last: u64) -> Option<Option<i64>> {
        let stream = self.stream.as_ref()?;
        let pending = &stream.group.as_ref()?.pending;
        let held = |id: u64| pending.contains(&id);
        let between = stream.entries.iter().filter(|entry| entry.id > known && entry.id <= last);
        let none_held = pending.range(known + 1..=last).next().is_none();
        let passed = none_held || between.clone().any(|entry| !held(entry.id));
        let first = stream.entries.iter().find(|entry| entry.id > known);
        passed.then(|| first.map(|entry| entry.sequence))
    }

    /// `close.lua`: what was counted, the sequence of the last entry, the last id.
    pub(crate) fn close(&mut self, fence: Fence) -> Result<(i64, i64, u64), Refusal> {
        self.is_owner(Some(fence))?;
        if self.gate == Gate::Open {
            self.gate = Gate::Lost;
        }
        let stream = self.stream.as_ref();
        let last = stream.and_then(|stream| stream.entries.last());
        let last_id = stream.map_or(0, |stream| stream.last_id);
        Ok((self.counted, last.map_or(0, |entry| entry.sequence), last_id))
    }

    /// `reopen.lua`.
    pub(crate) fn reopen(
        &mut self,
        fence: Fence,
        identity: u32,
        how: &Reopening<'_>,
    ) -> Result<(), Refusal> {
        self.is_owner(Some(fence))?;
        let stream = self.stream.get_or_insert_with(Stream::default);
        let group = stream.group.get_or_insert(Group { last: how.cursor, ..Group::default() });
        stream.last_id = stream.last_id.max(how.cursor);
        if how.sets_back {
            group.last = how.cursor;
            group.pending.retain(|id| *id <= how.cursor);
        }
        how.lost.iter().for_each(|range| self.lose(*range));
        if let Some(after) = how.kept {
            let line = Line { identity, after, first: how.sequence + 1 };
            if self.lineage.last() != Some(&line) {
                self.lineage.push(line);
            }
        }
        self.counted = how.sequence;
        if self.gate == Gate::Lost {
            self.gate = Gate::Open;
        }
        Ok(())
    }

    /// `trim.lua`, of what is old enough. Without a cursor the ledger is not asked.
    pub(crate) fn trim(&mut self, aged: u64, cursor: Option<u64>) {
        let Some(stream) = self.stream.as_mut() else { return };
        let Some(group) = stream.group.as_ref() else { return };
        let first = cursor.and(group.pending.first().copied());
        let floor = aged.min(cursor.unwrap_or(aged)).min(first.unwrap_or(group.last));
        stream.entries.retain(|entry| entry.id >= floor);
    }
}

/// How a closed partition is opened again (`Reopening` in src/stream/state.rs).
pub(crate) struct Reopening<'a> {
    pub(crate) cursor: u64,
    pub(crate) sets_back: bool,
    pub(crate) sequence: i64,
    pub(crate) kept: Option<i64>,
    pub(crate) lost: &'a [(i64, i64)],
}

//! PostgreSQL as `src/ledger` uses it. Each function is one transaction, and so one step. A copy of
//! it is an old backup. Never knows Redis.

use std::collections::BTreeMap;

use crate::redis::{Entry, Fence, HOLE, Refusal};

/// How far sequences jump after a loss (`JUMP` in src/ledger/losses.rs).
const JUMP: i64 = HOLE;

/// Two sequences: the first and the last, or those around a jump.
pub(crate) type Range = (i64, i64);

/// A partition, and who asks about it.
pub(crate) type Spot = (u16, Fence);

/// Jumps and losses of a partition, as its keys in Redis tell them.
pub(crate) type History = (Vec<Range>, Vec<Range>);

/// `Cursor` in src/ledger/cursors.rs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) sequence: i64,
    pub(crate) reached: u64,
    pub(crate) head: i64,
}

/// A row of `partition_owners`: the fence and the cursor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) owner: Option<usize>,
    pub(crate) epoch: i64,
    pub(crate) cursor: Cursor,
    /// 0 where no topology has it.
    pub(crate) generation: u32,
}

/// A row of `processed_transactions`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    pub(crate) payment: usize,
    pub(crate) partition: u16,
    pub(crate) sequence: i64,
    pub(crate) version: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Resize,
    StateLost,
    EntriesMissing,
    LedgerLost,
    Takeover,
    Lacking,
    Twice,
}

/// A row of `sequence_jumps`.
#[derive(Clone, Debug)]
pub(crate) struct Jump {
    pub(crate) after: i64,
    pub(crate) resumes_at: i64,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) lost: Option<Range>,
}

/// A payment as the book sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payment {
    pub(crate) reference: u32,
    pub(crate) customer: u16,
    pub(crate) cents: i64,
}

/// A batch of one partition. `seen`: which references were known when it was opened, where the
/// ledger is not asked again.
pub(crate) struct Batch<'a> {
    pub(crate) partition: u16,
    pub(crate) fence: Option<Fence>,
    pub(crate) entries: &'a [(u64, Option<Entry>)],
    pub(crate) seen: Option<&'a [bool]>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) generation: u32,
    pub(crate) partitions: u16,
    pub(crate) resizing_to: Option<u16>,
    pub(crate) rows: BTreeMap<u16, Row>,
    pub(crate) effects: Vec<Effect>,
    /// References that are used, with the place of each.
    pub(crate) used: BTreeMap<u32, (u16, i64)>,
    /// Balance and version of each account.
    pub(crate) accounts: BTreeMap<u16, Range>,
    pub(crate) jumps: BTreeMap<u16, Vec<Jump>>,
    /// Counts how often it went back: no transaction outlives that.
    pub(crate) incarnation: u32,
}

impl Ledger {
    pub(crate) fn new(partitions: u16) -> Self {
        let row = Row { generation: 1, ..Row::default() };
        let rows = (0..partitions).map(|partition| (partition, row.clone())).collect();
        Self { generation: 1, partitions, rows, ..Self::default() }
    }

    /// `acquire` in src/ledger/ownership.rs; the epoch, the highest known sequence, and whose it
    /// was.
    pub(crate) fn acquire(
        &mut self,
        partition: u16,
        worker: usize,
        is_expired: impl Fn(usize) -> bool,
    ) -> Option<(i64, i64, Option<usize>)> {
        let row = self.rows.get_mut(&partition)?;
        let free = row.owner.is_none_or(|owner| owner == worker || is_expired(owner));
        if !free || row.generation != self.generation {
            return None;
        }
        let previous = row.owner.replace(worker);
        row.epoch += 1;
        Some((row.epoch, row.cursor.sequence.max(row.cursor.head), previous))
    }

    pub(crate) fn release(&mut self, partition: u16, fence: Fence) {
        if let Some(row) = self.rows.get_mut(&partition)
            && (row.owner, row.epoch) == (Some(fence.0), fence.1)
        {
            row.owner = None;
        }
    }

    /// The row, if it still has this owner and epoch; without a fence whoever asks.
    fn lock(&mut self, partition: u16, fence: Option<Fence>) -> Result<&mut Row, Refusal> {
        let row = self.rows.get_mut(&partition).ok_or(Refusal::Fenced)?;
        let is_ours = |(worker, epoch)| (row.owner, row.epoch) == (Some(worker), epoch);
        if fence.is_none_or(is_ours) { Ok(row) } else { Err(Refusal::Fenced) }
    }

    pub(crate) fn cursor(&self, partition: u16) -> Cursor {
        self.rows.get(&partition).map(|row| row.cursor).unwrap_or_default()
    }

    /// `Batch::settle` and `Batch::commit` in src/ledger/writer.rs: decisions, accounts and the
    /// cursor in one transaction; the gaps that it found.
    pub(crate) fn settle(
        &mut self,
        batch: &Batch<'_>,
        payments: &[Payment],
    ) -> Result<Vec<Range>, Refusal> {
        let partition = batch.partition;
        let mut cursor = self.lock(partition, batch.fence)?.cursor;
        let stood = cursor;
        let (mut gaps, mut reused) = (Vec::new(), Vec::new());
        for (number, (id, entry)) in batch.entries.iter().enumerate() {
            let Some(entry) = entry else {
                cursor.reached = cursor.reached.max(*id);
                continue;
            };
            let Some(payment) = payments.get(entry.payment).copied() else { continue };
            let known = self.used.get(&payment.reference).copied();
            let seen = batch.seen.and_then(|seen| seen.get(number)).copied();
            let is_known = seen.unwrap_or(known.is_some());
            let is_redelivered = known == Some((partition, entry.sequence));
            if !is_known {
                let account = self.accounts.entry(payment.customer).or_default();
                account.0 += payment.cents;
                account.1 += 1;
                let (sequence, version) = (entry.sequence, account.1);
                self.effects.push(Effect { payment: entry.payment, partition, sequence, version });
                self.used.insert(payment.reference, (partition, sequence));
            }
            // `note_reuse`: a number that was settled under another entry, or comes late.
            let is_new = !is_redelivered && (*id > stood.reached || !is_known);
            if is_new && entry.sequence <= stood.sequence {
                reused.push(entry.sequence);
            }
            if entry.sequence > cursor.sequence {
                gaps.extend(self.note_gap(partition, cursor.sequence + 1, entry.sequence - 1));
                cursor.sequence = entry.sequence;
            }
            cursor.reached = cursor.reached.max(*id);
        }
        for sequence in reused {
            self.note_twice_of(partition, (sequence, stood.sequence), None);
        }
        if let Some(row) = self.rows.get_mut(&partition) {
            row.cursor = cursor;
        }
        Ok(gaps)
    }

    /// `note_gap` in src/ledger/losses.rs.
    fn note_gap(&mut self, partition: u16, first: i64, last: i64) -> Vec<Range> {
        if last < first {
            return Vec::new();
        }
        let jumps = self.jumps.entry(partition).or_default();
        let missing = unlisted(first, last, jumps.iter().filter(|jump| jump.after >= first - 1));
        for range in &missing {
            record(jumps, Kind::EntriesMissing, (range.0 - 1, range.1 + 1), Some(*range));
        }
        missing
    }

    /// `note_missing` in src/ledger/losses.rs.
    pub(crate) fn note_missing(&mut self, at: Spot, given: i64) -> Result<Vec<Range>, Refusal> {
        let (partition, fence) = at;
        let settled = self.lock(partition, Some(fence))?.cursor.sequence;
        let jumps = self.jumps.get(&partition).map_or(&[][..], Vec::as_slice);
        let jumped_to = jumps.iter().map(|jump| jump.resumes_at - 1).max().unwrap_or(0);
        Ok(self.note_gap(partition, jumped_to.max(settled) + 1, given))
    }

    /// `note_loss`: where sequences go on, what is lost, and the cursor.
    pub(crate) fn note_loss(
        &mut self,
        (partition, fence): Spot,
        (counted, last_in_stream): Range,
    ) -> Result<(i64, Option<Range>, u64), Refusal> {
        let stand = self.lock(partition, Some(fence))?.cursor;
        let jumps = self.jumps.entry(partition).or_default();
        let after = stand.sequence.max(last_in_stream);
        let top = after.max(stand.head).max(counted);
        let resumes_at = top + JUMP;
        let ranges = unlisted(after + 1, top, jumps.iter());
        let lost = ranges.first().zip(ranges.last()).map(|(from, to)| (from.0, to.1));
        let after = lost.map_or(after, |(first, _)| first - 1);
        record(jumps, Kind::StateLost, (after, resumes_at), lost);
        self.lock(partition, Some(fence))?.cursor.head = resumes_at - 1;
        Ok((resumes_at, lost, stand.reached))
    }

    /// `note_takeovers`, with `of_takeover` and `of_range` of src/ledger/jumps.rs.
    pub(crate) fn note_takeovers(
        &mut self,
        (partition, fence): Spot,
        (holes, lost): &History,
        handed: Option<u64>,
    ) -> Result<(), Refusal> {
        let stand = self.lock(partition, Some(fence))?.cursor;
        let jumps = self.jumps.entry(partition).or_default();
        let is_behind = handed.is_none_or(|handed| handed < stand.reached);
        let settled_before = if is_behind { stand.sequence } else { 0 };
        for range in lost {
            if let Some(part) = of_jump(jumps, stand.sequence, *range) {
                record(jumps, Kind::Lacking, (part.0 - 1, part.1 + 1), Some(part));
            }
        }
        let is_in = |jump: &Range, lost: &Range| jump.0 < lost.0 && lost.1 < jump.1;
        for (after, resumes_at) in holes.iter().copied() {
            let within = lost.iter().filter(|lost| is_in(&(after, resumes_at), lost));
            let lost_to = within.map(|(_, last)| *last).max();
            let noted = jumps.iter().find(|jump| jump.resumes_at == resumes_at);
            let settled = if stand.sequence < resumes_at { stand.sequence } else { 0 };
            let from = noted.map_or(after.max(settled), |jump| jump.after);
            let known_to = noted.and_then(|jump| jump.lost).map_or(from, |(_, last)| last);
            let lost = lost_to.filter(|last| *last > known_to).map(|last| (from + 1, last));
            if noted.is_none() || lost.is_some() {
                record(jumps, Kind::Takeover, (from, resumes_at), lost);
            }
        }
        for range in lost.iter().filter(|lost| !holes.iter().any(|hole| is_in(hole, lost))) {
            let (first, last) = *range;
            let spared = jumps
                .iter()
                .filter(|jump| jump.kinds.contains(&Kind::Lacking) && jump.after < first)
                .map(|jump| jump.lost.map_or(jump.resumes_at, |(first, _)| first))
                .max()
                .unwrap_or(0);
            if spared > last {
                continue;
            }
            let lost_first = first.max(spared).max(settled_before + 1);
            let lost = (lost_first <= last).then_some((lost_first, last));
            let from = lost.map_or(first, |(first, _)| first);
            let listed = jumps.iter().filter_map(|jump| jump.lost);
            if !listed.clone().any(|(a, b)| a <= from && b >= last) {
                let (after, resumes_at) = (first - 1, last.max(settled_before) + 1);
                record(jumps, Kind::Lacking, (after, resumes_at), lost);
            }
        }
        Ok(())
    }

    /// `note_twice`.
    pub(crate) fn note_twice(&mut self, at: Spot, (first, known): Range) -> Result<(), Refusal> {
        let (partition, fence) = at;
        let settled = self.lock(partition, Some(fence))?.cursor.sequence;
        let lost = (known > settled).then_some((settled + 1, known));
        self.note_twice_of(partition, (first, known.max(settled)), lost);
        Ok(())
    }

    fn note_twice_of(&mut self, partition: u16, (first, last): Range, lost: Option<Range>) {
        let jumps = self.jumps.entry(partition).or_default();
        let is_noted = |jump: &Jump| {
            jump.kinds.contains(&Kind::Twice) && jump.after < first && jump.resumes_at > first
        };
        if !jumps.iter().any(is_noted) {
            record(jumps, Kind::Twice, (first - 1, last + 1), lost);
        }
    }

    /// `note_rewound`.
    pub(crate) fn note_rewound(
        &mut self,
        (partition, fence): Spot,
        (settled, gone_to, passed): (i64, i64, Option<u64>),
    ) -> Result<Vec<Range>, Refusal> {
        let row = self.lock(partition, Some(fence))?;
        if row.cursor.sequence != settled {
            return Err(Refusal::Fenced);
        }
        row.cursor.reached = passed.unwrap_or(row.cursor.reached);
        row.cursor.head = row.cursor.head.max(gone_to);
        let jumps = self.jumps.entry(partition).or_default();
        let behind = jumps.iter().filter(|jump| jump.after >= settled);
        let lost = unlisted(settled + 1, gone_to, behind);
        for range in &lost {
            record(jumps, Kind::LedgerLost, (range.0 - 1, gone_to + 1), Some(*range));
        }
        Ok(lost)
    }

    /// `note_heads`, and `raise_epochs`.
    pub(crate) fn raise(&mut self, (partition, fence): Spot, head: i64, epoch: i64) {
        if let Ok(row) = self.lock(partition, Some(fence)) {
            row.cursor.head = row.cursor.head.max(head);
            row.epoch = row.epoch.max(epoch);
        }
    }

    /// `missing` in src/ledger/resize.rs: what was given out and nobody knows of.
    pub(crate) fn is_missing(&self, partition: u16, given: i64) -> bool {
        let settled = self.cursor(partition).sequence;
        let jumps = self.jumps.get(&partition).map_or(&[][..], Vec::as_slice);
        let jumped = jumps.iter().filter(|jump| jump.after == settled);
        given > jumped.map(|jump| jump.resumes_at - 1).max().unwrap_or(0).max(settled)
    }

    /// `switch` in src/ledger/resize.rs; whether it was possible.
    pub(crate) fn switch(&mut self, generation: u32, to: u16, sequence: i64) -> bool {
        let ahead = self.rows.values().any(|row| row.cursor.sequence > sequence);
        if self.generation != generation || self.resizing_to != Some(to) || ahead {
            return false;
        }
        (self.generation, self.partitions, self.resizing_to) = (generation + 1, to, None);
        for partition in 0..to {
            let row = self.rows.entry(partition).or_default();
            let jumps = self.jumps.entry(partition).or_default();
            record(jumps, Kind::Resize, (row.cursor.sequence, sequence + 1), None);
        }
        for (partition, row) in &mut self.rows {
            (row.owner, row.generation) = (None, 0);
            row.epoch += 1;
            if *partition < to {
                row.generation = generation + 1;
                row.cursor = Cursor { sequence, reached: 0, head: sequence };
            }
        }
        true
    }
}

/// `of_jump` in src/ledger/jumps.rs: what of a lost range was given out before a jump, behind which
/// the ledger has come.
fn of_jump(jumps: &[Jump], settled: i64, (first, last): Range) -> Option<Range> {
    let jumped = |kind: &Kind| matches!(kind, Kind::StateLost | Kind::Takeover);
    let jump = jumps.iter().find(|jump| {
        let is_in = jump.after < last && last < jump.resumes_at && jump.resumes_at <= settled;
        is_in && jump.kinds.iter().any(jumped)
    })?;
    let part = (first.max(jump.after + 1), last);
    let listed = jumps.iter().filter_map(|jump| jump.lost);
    (!listed.clone().any(|lost| lost.0 <= part.0 && last <= lost.1)).then_some(part)
}

/// `unlisted` in src/ledger/jumps.rs.
fn unlisted<'a>(mut first: i64, last: i64, jumps: impl Iterator<Item = &'a Jump>) -> Vec<Range> {
    let mut ranges = Vec::new();
    for jump in jumps {
        ranges.push((first, last.min(jump.after)));
        first = first.max(jump.resumes_at);
    }
    ranges.push((first, last));
    ranges.retain(|(first, last)| first <= last);
    ranges
}

/// `record` in src/ledger/jumps.rs: one that begins where another does is added to it.
fn record(jumps: &mut Vec<Jump>, kind: Kind, (after, resumes_at): Range, lost: Option<Range>) {
    let Some(jump) = jumps.iter_mut().find(|jump| jump.after == after) else {
        jumps.push(Jump { after, resumes_at, kinds: vec![kind], lost });
        jumps.sort_by_key(|jump| jump.after);
        return;
    };
    jump.resumes_at = jump.resumes_at.max(resumes_at);
    jump.kinds.push(kind);
    let both = jump.lost.into_iter().chain(lost);
    jump.lost = both.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
}

//! Accounts for every sequence of every partition: each up to the cursor has
//! one outcome, or belongs to a jump that is recorded. Pure: places in, findings out; keeps one partition at a time.

use std::{collections::BTreeMap, ops::RangeInclusive};

use rust_decimal::Decimal;

use super::findings::{Check, Findings};
use crate::domain::StreamId;

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Applied,
    Recorded,
    Rejected,
    Suspense,
    Parked,
    Conflict,
    Duplicate,
    Dead,
    /// A dead letter that was sent on its way again.
    Redriven,
}

impl Kind {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "applied" => Self::Applied,
            "recorded" => Self::Recorded,
            "rejected" => Self::Rejected,
            "suspense" => Self::Suspense,
            "parked" => Self::Parked,
            "conflict" => Self::Conflict,
            "duplicate" => Self::Duplicate,
            "dead" => Self::Dead,
            "redriven" => Self::Redriven,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Recorded => "recorded",
            Self::Rejected => "rejected",
            Self::Suspense => "suspense",
            Self::Parked => "parked",
            Self::Conflict => "conflict",
            Self::Duplicate => "duplicate",
            Self::Dead => "dead",
            Self::Redriven => "redriven",
        }
    }
}

/// An entry in its partition.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) sequence: i64,
    pub(super) kind: Kind,
    pub(super) amount: Decimal,
    /// Only where an entry could not be read so far as its sequence.
    pub(super) id: Option<StreamId>,
}

/// What a partition has brought into the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) applied: i64,
    pub(super) recorded: i64,
    pub(super) rejected: i64,
    pub(super) suspense: i64,
    pub(super) conflicts: i64,
    pub(super) duplicates: i64,
    pub(super) dead_letters: i64,
    pub(super) parked: i64,
    pub(super) amount: Decimal,
}

impl Sums {
    /// Rows in `processed_transactions`.
    pub(super) fn posted(&self) -> i64 {
        self.applied + self.recorded + self.rejected
    }

    /// Rows in all tables.
    pub(super) fn rows(&self) -> i64 {
        self.posted()
            + self.suspense
            + self.conflicts
            + self.duplicates
            + self.dead_letters
            + self.parked
    }

    fn count(&mut self, place: &Place) {
        let sum = match place.kind {
            Kind::Applied => &mut self.applied,
            Kind::Recorded => &mut self.recorded,
            Kind::Rejected => &mut self.rejected,
            Kind::Suspense => &mut self.suspense,
            Kind::Parked => &mut self.parked,
            Kind::Conflict => &mut self.conflicts,
            Kind::Duplicate => &mut self.duplicates,
            Kind::Dead | Kind::Redriven => &mut self.dead_letters,
        };
        *sum += 1;
        self.amount += place.amount;
    }

    fn differences(&self, counted: &Self) -> Vec<String> {
        let rows = [
            ("applied", self.applied, counted.applied),
            ("recorded", self.recorded, counted.recorded),
            ("rejected", self.rejected, counted.rejected),
            ("suspense", self.suspense, counted.suspense),
            ("conflicts", self.conflicts, counted.conflicts),
            ("duplicates", self.duplicates, counted.duplicates),
            ("dead_letters", self.dead_letters, counted.dead_letters),
            ("parked", self.parked, counted.parked),
        ];
        let rows = rows.into_iter().filter(|(_, kept, counted)| kept != counted);
        let amount = (self.amount != counted.amount)
            .then(|| format!("amount is {}, counted {}", self.amount, counted.amount));
        rows.map(|(name, kept, counted)| format!("{name} is {kept}, counted {counted}"))
            .chain(amount)
            .collect()
    }
}

/// What a partition's cursor and totals say that there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Owed {
    pub(super) last_sequence: i64,
    pub(super) sums: Sums,
    /// Where entries stood that could not be read so far as their sequence.
    pub(super) unread: Vec<StreamId>,
    /// Where its sequences do not follow on each other, in order.
    pub(super) jumps: Vec<Jump>,
}

/// Sequences after the one and before the other belong to no settled entry.
#[derive(Clone, Debug)]
pub(super) struct Jump {
    pub(super) after: i64,
    pub(super) resumes_at: i64,
    /// What was lost and how, while nobody has accepted it.
    pub(super) open: Option<Loss>,
}

impl Jump {
    fn spans(&self, sequence: i64) -> bool {
        self.after < sequence && sequence < self.resumes_at
    }
}

/// Accepted payments that are gone.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    /// The first and the last, where they are known.
    pub(super) sequences: Option<(i64, i64)>,
    pub(super) detail: String,
}

/// The partition that is being read.
#[derive(Debug)]
struct Current {
    partition: i32,
    owed: Owed,
    counted: Sums,
    /// Sequence, outcome and entry id of the last place.
    last: (i64, Option<Kind>, StreamId),
    beyond: i64,
}

/// Takes places in the order of partitions and sequences.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    owed: BTreeMap<i32, Owed>,
    current: Option<Current>,
    partitions: u64,
    sequences: u64,
    amount: Decimal,
}

impl Sequences {
    pub(super) fn new(owed: BTreeMap<i32, Owed>) -> Self {
        Self { owed, ..Self::default() }
    }

    /// Takes the next place.
    pub(super) fn take(&mut self, place: &Place, findings: &mut Findings) {
        self.sequences += 1;
        self.amount += place.amount;
        match &mut self.current {
            Some(current) if current.partition == place.partition => current.take(place, findings),
            _ => {
                self.close(findings);
                let owed = self.owed.remove(&place.partition).unwrap_or_default();
                self.current.insert(Current::new(place.partition, owed)).take(place, findings);
            }
        }
    }

    /// How many sequences there were, and the sum of what was applied.
    pub(super) fn conclude(mut self, findings: &mut Findings) -> (u64, Decimal) {
        self.close(findings);
        for (partition, owed) in std::mem::take(&mut self.owed) {
            self.current = Some(Current::new(partition, owed));
            self.close(findings);
        }
        for check in
            [Check::SequenceGap, Check::SequenceTwice, Check::SequenceBeyond, Check::OutcomeTwice]
        {
            findings.looked_at(check, self.sequences);
        }
        findings.looked_at(Check::Totals, self.partitions);
        (self.sequences, self.amount)
    }

    fn close(&mut self, findings: &mut Findings) {
        if let Some(current) = self.current.take() {
            self.partitions += 1;
            current.conclude(findings);
        }
    }
}

impl Current {
    fn new(partition: i32, mut owed: Owed) -> Self {
        owed.unread.sort_unstable();
        // Those dead letters have no place of their own.
        let dead_letters = i64::try_from(owed.unread.len()).unwrap_or(i64::MAX);
        let counted = Sums { dead_letters, ..Sums::default() };
        Self { partition, owed, counted, last: (0, None, StreamId::default()), beyond: 0 }
    }

    fn take(&mut self, place: &Place, findings: &mut Findings) {
        self.counted.count(place);
        let (last, kind, last_id) = self.last;
        if place.sequence < 1 {
            let subject = format!("partition {} sequence {}", self.partition, place.sequence);
            return findings.add(Check::SequenceGap, subject, "sequences begin with 1");
        }
        if place.sequence == last {
            return self.take_again(place, kind, findings);
        }
        self.conclude_place(findings);
        if place.sequence > last + 1 {
            self.gap(last + 1..=place.sequence - 1, (last_id, place.id), findings);
        }
        if place.sequence > self.owed.last_sequence {
            self.beyond += 1;
        }
        self.last = (place.sequence, Some(place.kind), place.id.unwrap_or_default());
    }

    fn take_again(&mut self, place: &Place, before: Option<Kind>, findings: &mut Findings) {
        let kinds = [before.unwrap_or(place.kind), place.kind];
        let check = match kinds {
            // Settled at last; the dead letter only tells of the way there.
            [Kind::Redriven, other] | [other, Kind::Redriven] if other != Kind::Redriven => {
                self.last.1 = Some(other);
                return;
            }
            // It was given out twice, which is on record.
            _ if self.owed.jumps.iter().any(|jump| jump.spans(place.sequence)) => return,
            [Kind::Dead, other] | [other, Kind::Dead] if other != Kind::Dead => Check::OutcomeTwice,
            _ => Check::SequenceTwice,
        };
        let subject = format!("partition {} sequence {}", self.partition, place.sequence);
        findings.add(check, subject, format!("is {} and {}", kinds[0].name(), kinds[1].name()));
    }

    /// A dead letter that was sent on its way again must have ended somewhere.
    fn conclude_place(&self, findings: &mut Findings) {
        if let (sequence, Some(Kind::Redriven), _) = self.last {
            let subject = self.named(sequence, sequence);
            findings.add(Check::SequenceGap, subject, "was redriven and has no outcome");
        }
    }

    /// Missing sequences, unless entries stood there that could not be read.
    fn gap(
        &mut self,
        missing: RangeInclusive<i64>,
        (after, before): (StreamId, Option<StreamId>),
        findings: &mut Findings,
    ) {
        let unread = &self.owed.unread;
        let missing = self.unexplained(missing);
        let end = before.map_or(unread.len(), |before| unread.partition_point(|id| *id < before));
        let stood = end.saturating_sub(unread.partition_point(|id| *id <= after));
        let count: i64 = missing.iter().map(|(first, last)| last - first + 1).sum();
        if i64::try_from(stood).is_ok_and(|stood| stood >= count) {
            return;
        }
        for (first, last) in missing {
            let detail = match last - first + 1 {
                1 => "has no outcome".to_owned(),
                many => format!("{many} sequences have no outcome"),
            };
            findings.add(Check::SequenceGap, self.named(first, last), detail);
        }
    }

    /// What no jump covers of a range, as ranges in order.
    fn unexplained(&self, missing: RangeInclusive<i64>) -> Vec<(i64, i64)> {
        let (mut first, last) = missing.into_inner();
        let mut ranges = Vec::new();
        for jump in &self.owed.jumps {
            if jump.after >= first {
                ranges.push((first, last.min(jump.after)));
            }
            first = first.max(jump.resumes_at);
        }
        ranges.push((first, last));
        ranges.retain(|(first, last)| first <= last);
        ranges
    }

    fn named(&self, first: i64, last: i64) -> String {
        if first == last {
            format!("partition {} sequence {first}", self.partition)
        } else {
            format!("partition {} sequences {first} to {last}", self.partition)
        }
    }

    fn conclude(mut self, findings: &mut Findings) {
        self.conclude_place(findings);
        let (last, _, last_id) = self.last;
        if last < self.owed.last_sequence {
            self.gap(last + 1..=self.owed.last_sequence, (last_id, None), findings);
        }
        for jump in &self.owed.jumps {
            findings.looked_at(Check::SequenceLost, 1);
            let Some(loss) = &jump.open else { continue };
            let subject = match loss.sequences {
                Some((first, last)) => self.named(first, last),
                None => format!("partition {} after sequence {}", self.partition, jump.after),
            };
            findings.add(Check::SequenceLost, subject, &loss.detail);
        }
        let subject = format!("partition {}", self.partition);
        if self.beyond > 0 {
            let detail = format!(
                "{} sequences up to {last} are beyond the cursor, which is {}",
                self.beyond, self.owed.last_sequence
            );
            findings.add(Check::SequenceBeyond, &subject, detail);
        }
        let differences = self.owed.sums.differences(&self.counted);
        if !differences.is_empty() {
            findings.add(Check::Totals, subject, differences.join("; "));
        }
    }
}

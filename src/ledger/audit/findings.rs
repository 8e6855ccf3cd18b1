//! What an audit looked at and what it found, by check. Never decides whether
//! something is drift; only counts it and keeps the first examples.

/// Drifts that are kept with their details; all are counted.
const DRIFTS_KEPT: usize = 100;

/// What is checked. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// `total_paid` is the sum of all applied parts.
    AccountSum,
    /// `credit` is the sum of all excess parts.
    AccountCredit,
    /// `payment_count` is the number of applied payments.
    AccountCount,
    /// `version` is the version of the statement's last row.
    AccountVersion,
    /// No account is paid beyond its value.
    AccountOverpaid,
    /// Whoever has a statement has an account.
    AccountMissing,
    /// Versions of a statement are 1, 2, 3 and so on.
    VersionGap,
    /// Each row's `balance_after` follows from the row before it.
    BalanceAfter,
    /// Applied and excess parts are the whole amount, or nothing.
    AmountParts,
    /// A payment's content is what its digest stands for.
    ContentChanged,
    /// A customer's payments were posted in the order of the stream.
    OrderBroken,
    /// A customer's payments come from one partition.
    PartitionMixed,
    /// Each sequence up to the cursor has an outcome.
    SequenceGap,
    /// No accepted payment was lost, as far as an operator has not accepted it.
    SequenceLost,
    /// No sequence has two outcomes.
    SequenceTwice,
    /// No sequence is beyond its partition's cursor.
    SequenceBeyond,
    /// No dead letter was settled as well.
    OutcomeTwice,
    /// No reference is applied and held in suspense.
    ReferenceTwice,
    /// `partition_totals` is what was counted.
    Totals,
}

impl Check {
    /// In the order in which they are shown.
    pub const ALL: [Self; 19] = [
        Self::AccountSum,
        Self::AccountCredit,
        Self::AccountCount,
        Self::AccountVersion,
        Self::AccountOverpaid,
        Self::AccountMissing,
        Self::VersionGap,
        Self::BalanceAfter,
        Self::AmountParts,
        Self::ContentChanged,
        Self::OrderBroken,
        Self::PartitionMixed,
        Self::SequenceGap,
        Self::SequenceLost,
        Self::SequenceTwice,
        Self::SequenceBeyond,
        Self::OutcomeTwice,
        Self::ReferenceTwice,
        Self::Totals,
    ];

    /// Stable, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccountSum => "account_sum",
            Self::AccountCredit => "account_credit",
            Self::AccountCount => "account_count",
            Self::AccountVersion => "account_version",
            Self::AccountOverpaid => "account_overpaid",
            Self::AccountMissing => "account_missing",
            Self::VersionGap => "version_gap",
            Self::BalanceAfter => "balance_after",
            Self::AmountParts => "amount_parts",
            Self::ContentChanged => "content_changed",
            Self::OrderBroken => "order_broken",
            Self::PartitionMixed => "partition_mixed",
            Self::SequenceGap => "sequence_gap",
            Self::SequenceLost => "sequence_lost",
            Self::SequenceTwice => "sequence_twice",
            Self::SequenceBeyond => "sequence_beyond",
            Self::OutcomeTwice => "outcome_twice",
            Self::ReferenceTwice => "reference_twice",
            Self::Totals => "totals",
        }
    }
}

/// One thing that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Name of the check that found it.
    pub check: &'static str,
    /// Whose or what it is: a customer, a sequence, a reference, a partition.
    pub subject: String,
    /// What is there and what should be.
    pub detail: String,
}

/// One check's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    pub check: &'static str,
    /// Things looked at: accounts, rows, sequences or partitions.
    pub looked_at: u64,
    /// Drifts among them.
    pub drift: u64,
}

/// Counts by check, and the first drifts.
#[derive(Debug, Default)]
pub(super) struct Findings {
    looked_at: [u64; Check::ALL.len()],
    drift: [u64; Check::ALL.len()],
    drifts: Vec<Drift>,
}

impl Findings {
    pub(super) fn looked_at(&mut self, check: Check, things: u64) {
        self.looked_at[check as usize] += things;
    }

    pub(super) fn add(
        &mut self,
        check: Check,
        subject: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.drift[check as usize] += 1;
        if self.drifts.len() < DRIFTS_KEPT {
            let (subject, detail) = (subject.into(), detail.into());
            self.drifts.push(Drift { check: check.name(), subject, detail });
        }
    }

    /// Drifts so far.
    pub(super) fn drift_count(&self) -> u64 {
        self.drift.iter().sum()
    }

    /// Compares what is there with what should be.
    pub(super) fn expect<T: PartialEq + std::fmt::Display>(
        &mut self,
        check: Check,
        subject: &str,
        (found, wanted): (T, T),
        what: &str,
    ) {
        if found != wanted {
            self.add(check, subject, format!("{what} {found}, should be {wanted}"));
        }
    }

    pub(super) fn conclude(self) -> (Vec<Line>, Vec<Drift>, u64) {
        let line = |check: Check| Line {
            check: check.name(),
            looked_at: self.looked_at[check as usize],
            drift: self.drift[check as usize],
        };
        let drift_count = self.drift_count();
        (Check::ALL.into_iter().map(line).collect(), self.drifts, drift_count)
    }
}

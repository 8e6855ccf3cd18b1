//! Outcomes of deliveries and states of payments, declared once. Names, labels, totals and
//! metrics derive from here. Never decides which one applies.

use rust_decimal::Decimal;

/// The outcome of a delivery. Each accepted payment ends in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `applied` goes to the outstanding balance, `excess` to the credit.
    Applied {
        applied: Decimal,
        excess: Decimal,
        after: BalanceAfter,
    },
    /// Without an account the notice stands alone.
    Recorded {
        after: Option<BalanceAfter>,
    },
    Rejected {
        reason: RejectionReason,
        after: BalanceAfter,
    },
    Suspense,
    Parked,
    Conflict,
    Duplicate,
    Redelivered,
}

impl Outcome {
    /// The account afterwards, where the delivery reached one.
    pub fn after(&self) -> Option<BalanceAfter> {
        match *self {
            Self::Applied { after, .. } | Self::Rejected { after, .. } => Some(after),
            Self::Recorded { after } => after,
            Self::Suspense
            | Self::Parked
            | Self::Conflict
            | Self::Duplicate
            | Self::Redelivered => None,
        }
    }

    pub fn state(&self) -> PaymentState {
        match self {
            Self::Applied { .. } => PaymentState::Applied,
            Self::Recorded { .. } => PaymentState::Recorded,
            Self::Rejected { .. } => PaymentState::Rejected,
            Self::Suspense => PaymentState::Suspense,
            Self::Parked => PaymentState::Parked,
            Self::Conflict => PaymentState::Conflict,
            Self::Duplicate => PaymentState::Duplicate,
            Self::Redelivered => PaymentState::Redelivered,
        }
    }

    pub fn as_str(&self) -> &'static str {
        self.state().as_str()
    }
}

/// An account after one row of its statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceAfter {
    pub balance: Decimal,
    pub version: i64,
}

/// The rule of an account that rejects a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    /// The credit would be larger than the ledger's columns hold.
    CreditLimit,
}

impl RejectionReason {
    /// Stable, as it is stored.
    pub fn code(self) -> &'static str {
        match self {
            Self::CreditLimit => "credit_limit",
        }
    }
}

/// Who puts a payment into a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nobody,
    Gateway,
    Worker,
    Operator,
}

macro_rules! states {
    ($($(#[$attribute:meta])? $state:ident $name:literal $label:literal $by:ident $total:expr, $meaning:literal;)*) => {
        /// Every state of a payment, or of a repetition of one.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum PaymentState { $(#[doc = $meaning] $(#[$attribute])? $state,)* }

        impl PaymentState {
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$state),*];

            /// For programs: in the ledger, in the API, in metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$state => $name,)* }
            }

            /// For people.
            pub fn label(self) -> &'static str {
                match self { $(Self::$state => $label,)* }
            }

            pub fn meaning(self) -> &'static str {
                match self { $(Self::$state => $meaning,)* }
            }

            /// The column of its total.
            fn total(self) -> Option<&'static str> {
                match self { $(Self::$state => $total,)* }
            }

            fn by(self) -> By {
                match self { $(Self::$state => By::$by,)* }
            }
        }
    };
}

states! {
    Accepted "accepted" "accepted" Gateway None,
        "On disk in the stream, not known to be in the ledger yet";
    Applied "applied" "applied" Worker Some("applied"),
        "Moved money";
    Recorded "recorded" "recorded" Worker Some("recorded"),
        "Noted; moves no money";
    Rejected "rejected" "rejected" Worker Some("rejected"),
        "Refused by a rule of the account";
    Suspense "suspense" "in suspense" Worker Some("suspense"),
        "Held: no customer has its id";
    Parked "parked" "parked" Worker Some("parked"),
        "Waits behind a dead letter of its customer, in its order";
    Conflict "conflict" "conflict" Worker Some("conflicts"),
        "No effect: the reference is used with other content";
    Duplicate "duplicate" "duplicate" Worker Some("duplicates"),
        "No effect: the reference was sent again under another sequence";
    Redelivered "redelivered" "redelivered" Worker None,
        "No effect: this very entry is in the ledger already";
    DeadLettered "dead_lettered" "dead letter" Worker Some("dead_letters"),
        "Could not be settled; an operator will look";
    Discarded "discarded" "discarded" Operator None,
        "Could not be settled; discarded by an operator";
    RefundMarked "refund_marked" "marked for refund" Operator None,
        "Was held and is to be sent back; will not be applied";
    Archived "archived" "archived" Operator None,
        "Was settled in a month that has left the ledger; its row is in the archive";
    #[default]
    Unknown "unknown" "unknown" Nobody None,
        "Neither the stream nor the ledger knows it";
}

impl PaymentState {
    pub fn is_a_workers(self) -> bool {
        self.by() == By::Worker
    }

    /// States that partitions count, each with its column in their totals.
    pub fn counted() -> impl Iterator<Item = (Self, &'static str)> {
        Self::ALL.into_iter().filter_map(|state| Some((state, state.total()?)))
    }

    /// Whether a look-up answers with it: a payment without an effect has no state of
    /// its own.
    pub fn is_of_a_payment(self) -> bool {
        !matches!(self, Self::Conflict | Self::Duplicate | Self::Redelivered)
    }
}

impl TryFrom<String> for PaymentState {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(text)
    }
}

//! What arrival `i` is: a new payment, a repeat of an earlier one, or an invalid one; of
//! which customer and which amount. A pure function of the seed and the index, so that
//! nothing has to be remembered to know later what was sent. Never does IO.

use std::io::Write as _;

use anyhow::Context as _;
use rand::{
    RngExt as _, SeedableRng as _,
    distr::{Distribution as _, weighted::WeightedIndex},
    rngs::Xoshiro256PlusPlus,
};
use rust_decimal::Decimal;

use super::args::{Distribution, LoadArgs, PARTS_PER_MILLION};

/// Repeats reach back at most so many arrivals.
const REPEAT_REACH: u64 = 10_000;
/// So many arrivals are looked at for a payment worth repeating.
const REPEAT_STEPS: u64 = 64;
/// Amounts run from 100.00 to 50000.00.
const AMOUNT_CENTS: std::ops::RangeInclusive<u32> = 10_000..=5_000_000;
/// Zipf weight of the first customer; customer n has this divided by n.
const ZIPF_SCALE: u64 = 1 << 40;

/// What is to be sent as arrival `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A payment not sent before.
    New,
    /// The payment of an earlier arrival, once more.
    Repeat(u64),
    /// A payment that breaks a rule of validation.
    Invalid(Form),
}

/// How a payment is written; an invalid one differs from [`VALID`] in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Stands within the customer's id.
    gap: &'static str,
    /// Stand before and behind the amount.
    sign: &'static str,
    tail: &'static str,
    status: &'static str,
    date: &'static str,
}

const VALID: Form =
    Form { gap: "", sign: "", tail: "", status: "COMPLETE", date: "2025-11-07 14:54:16" };

const FLAWS: [Form; 7] = [
    Form { sign: "-", ..VALID },
    Form { tail: "5", ..VALID },
    Form { tail: "e3", ..VALID },
    Form { tail: "abc", ..VALID },
    Form { gap: " ", ..VALID },
    Form { status: "DONE", ..VALID },
    Form { date: "yesterday", ..VALID },
];

/// Who pays in a new payment, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// Counted from 0: the customer GIG00001 is 0.
    pub(super) customer: u32,
    pub(super) cents: u32,
}

impl Content {
    pub(super) fn amount(self) -> Decimal {
        Decimal::new(i64::from(self.cents), 2)
    }
}

#[derive(Debug)]
pub(super) struct Plan {
    /// The id that every reference of this run carries.
    pub(super) run_id: String,
    pub(super) seed: u64,
    invalid_below: u32,
    repeat_below: u32,
    payers: Payers,
}

#[derive(Debug)]
enum Payers {
    Uniform(u32),
    Weighted(WeightedIndex<u64>),
    Single,
}

impl Plan {
    /// The plan that `args` ask for, under references that begin with `run_id`.
    pub(super) fn new(args: &LoadArgs, run_id: String, seed: u64) -> anyhow::Result<Self> {
        let invalid_below = args.invalid;
        let payers = match args.distribution {
            Distribution::Uniform => Payers::Uniform(args.customers),
            Distribution::Single => Payers::Single,
            Distribution::Zipf => {
                let weights = (1..=u64::from(args.customers)).map(|rank| ZIPF_SCALE / rank);
                Payers::Weighted(WeightedIndex::new(weights).context("could not weigh customers")?)
            }
        };
        let repeat_below = invalid_below + args.duplicates;
        Ok(Self { run_id, seed, invalid_below, repeat_below, payers })
    }

    /// How many customers may be paid for: all of them, or the only one.
    pub(super) fn customers_used(&self, customers: u32) -> u32 {
        match self.payers {
            Payers::Uniform(_) | Payers::Weighted(_) => customers,
            Payers::Single => 1,
        }
    }

    pub(super) fn arrival(&self, index: u64) -> Arrival {
        let mut random = self.random(index, DrawOf::Kind);
        let drawn = random.random_range(0..PARTS_PER_MILLION);
        if drawn < self.invalid_below {
            return Arrival::Invalid(FLAWS[random.random_range(0..FLAWS.len())]);
        }
        if drawn >= self.repeat_below || index == 0 {
            return Arrival::New;
        }
        let latest = index - random.random_range(1..=index.min(REPEAT_REACH));
        let oldest = latest.saturating_sub(REPEAT_STEPS);
        let found =
            (oldest..=latest).rev().find(|earlier| self.draw(*earlier) >= self.repeat_below);
        match found {
            Some(earlier) => Arrival::Repeat(earlier),
            None if self.draw(0) >= self.invalid_below => Arrival::Repeat(0),
            None => Arrival::New,
        }
    }

    /// Customer and amount of the new payment at `index`.
    pub(super) fn content(&self, index: u64) -> Content {
        let mut random = self.random(index, DrawOf::Content);
        let cents = random.random_range(AMOUNT_CENTS);
        let customer = match &self.payers {
            Payers::Uniform(customers) => random.random_range(0..*customers),
            Payers::Weighted(weights) => {
                u32::try_from(weights.sample(&mut random)).unwrap_or_default()
            }
            Payers::Single => 0,
        };
        Content { customer, cents }
    }

    /// The reference of the payment first sent as arrival `index`.
    pub(super) fn reference(&self, index: u64) -> String {
        format!("LOAD-{}-{index}", self.run_id)
    }

    /// Appends the JSON of arrival `index` to `body`. Every part is of our own making and
    /// needs no escaping.
    pub(super) fn write(&self, index: u64, arrival: Arrival, body: &mut Vec<u8>) {
        let (index, form) = match arrival {
            Arrival::New => (index, VALID),
            Arrival::Repeat(earlier) => (earlier, VALID),
            Arrival::Invalid(form) => (index, form),
        };
        let Form { gap, sign, tail, status, date } = form;
        let Content { customer, cents } = self.content(index);
        let (number, units, hundredths) = (customer + 1, cents / 100, cents % 100);
        let written = write!(
            body,
            concat!(
                r#"{{"customer_id":"GIG{}{:05}","payment_status":"{}","#,
                r#""transaction_amount":"{}{}.{:02}{}","transaction_date":"{}","#,
                r#""transaction_reference":"LOAD-{}-{}"}}"#
            ),
            gap, number, status, sign, units, hundredths, tail, date, self.run_id, index
        );
        debug_assert!(written.is_ok(), "writing to memory cannot fail");
    }

    fn draw(&self, index: u64) -> u32 {
        self.random(index, DrawOf::Kind).random_range(0..PARTS_PER_MILLION)
    }

    fn random(&self, index: u64, purpose: DrawOf) -> Xoshiro256PlusPlus {
        // An odd factor, unlike the step by which the seeding itself goes on.
        let spread = index.wrapping_mul(0xd134_2543_de82_ef95);
        Xoshiro256PlusPlus::seed_from_u64(self.seed ^ spread ^ purpose as u64)
    }
}

/// Kind and content are drawn apart, so that other shares leave the payments as they are.
#[derive(Clone, Copy)]
#[repr(u64)]
enum DrawOf {
    Kind = 0,
    Content = 0x5851_f42d_4c95_7f2d,
}

/// The id of customer `index`, counted from 0, as seeded.
pub(super) fn customer_id(index: u32) -> String {
    format!("GIG{:05}", u64::from(index) + 1)
}

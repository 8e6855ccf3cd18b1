//! What a payment is and what may happen to it: money, payments, accounts, and
//! the one decision the ledger makes about each delivery.
//!
//! Pure functions over values: no IO, no clock, no async, no wire format, so that the rules
//! are tested without a server.

mod money;
mod currency;
mod reference;
mod payment;
mod text;
mod trace;
mod partition;
mod account;
mod outcome;
mod book;
#[cfg(test)]
mod tests;

pub use account::Account;
pub use book::{Book, DeadEntry, Decision, Delivery, Evidence, UsedReference, unpanicked};
pub use currency::Currency;
pub use money::{AMOUNT_MAX, Amount, LEDGER_MAX, two_places};
pub use outcome::{BalanceAfter, Outcome, PaymentState, RejectionReason};
pub use partition::{Fence, HASH_VERSION, StreamId, partition_of};
pub use payment::{
    CustomerId, Digest, Payment, PaymentStatus, check_date, is_in_calendar, parse_date,
};
pub use reference::{Reference, Source};
pub use text::{Invalid, argument, is_plain, shown};
pub use trace::{SpanId, TraceContext, TraceId};

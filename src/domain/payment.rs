//! A payment and its parts. Each part is parsed once, on arrival: a value is always valid.
//! Never knows how a payment is transported.

use chrono::{DateTime, Datelike as _, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};

use super::{Amount, Invalid, Reference, text::name, two_places};

/// Whose account a payment is for: 1 to 64 of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CustomerId(String);

impl CustomerId {
    pub const LENGTH_MAX: usize = 64;

    pub fn parse(text: impl Into<String>) -> Result<Self, Invalid> {
        let long = Invalid::new("too_long", "must have at most 64 characters");
        let bad = "must have letters, digits, underscores and hyphens only";
        let is_of_an_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let text = text.into();
        name(&text, is_of_an_id, bad, Self::LENGTH_MAX, long)?;
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The bank's status of the payment. Only `COMPLETE` moves money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PaymentStatus {
    Complete,
    Pending,
    Failed,
}

impl PaymentStatus {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "COMPLETE" => Ok(Self::Complete),
            "PENDING" => Ok(Self::Pending),
            "FAILED" => Ok(Self::Failed),
            _ => Err(Invalid::new("unknown_status", "must be COMPLETE, PENDING or FAILED")),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETE",
            Self::Pending => "PENDING",
            Self::Failed => "FAILED",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    pub reference: Reference,
    pub customer: CustomerId,
    pub status: PaymentStatus,
    pub amount: Amount,
    /// The bank's transaction date, to the microsecond.
    pub date: DateTime<Utc>,
}

impl Payment {
    /// Identifies the content: two payments with the same reference and digest are one payment
    /// sent twice, however the amount or the date was written.
    pub fn digest(&self) -> Digest {
        Digest::of(self.customer.as_str(), self.status.as_str(), self.amount.get(), self.date)
    }
}

/// The first 16 bytes of a SHA-256 over a payment's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// Of a payment's content as it is stored. Never changes: a payment that is
    /// sent again is recognised by it.
    pub fn of(customer: &str, status: &str, amount: Decimal, date: DateTime<Utc>) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(customer);
        hasher.update([0]);
        hasher.update(status);
        hasher.update([0]);
        hasher.update(two_places(amount).mantissa().to_be_bytes());
        hasher.update(date.timestamp_micros().to_be_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize()[..16]);
        Self(digest)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Reads `YYYY-MM-DD HH:MM:SS` in `zone`, or RFC 3339.
pub fn parse_date(text: &str, zone: Tz) -> Result<DateTime<Utc>, Invalid> {
    const REASON: Invalid = Invalid::new(
        "bad_date",
        "must be a date such as 2025-11-07 14:54:16, or RFC 3339 such as 2025-11-07T14:54:16+01:00",
    );
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let digit_or_same = |(byte, shape): (u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == *shape,
    };
    let instant = if text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(digit_or_same) {
        let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S");
        let local = local.map_err(|_| REASON)?;
        // An hour that the clocks repeat is read as its first occurrence.
        zone.from_local_datetime(&local).earliest().ok_or(REASON)?.to_utc()
    } else {
        DateTime::parse_from_rfc3339(text).map_err(|_| REASON)?.to_utc()
    };
    // To the microsecond, as the ledger keeps it; a leap second is the next one.
    DateTime::from_timestamp_micros(instant.timestamp_micros()).ok_or(REASON)
}

/// Whether the stores and RFC 3339 can represent this moment: years 1 to 9999.
pub fn is_in_calendar(moment: DateTime<Utc>) -> bool {
    (1..=9999).contains(&moment.year())
}

/// Whether a payment can have happened then, when nothing later than `latest` is
/// believed.
pub fn check_date(date: DateTime<Utc>, latest: DateTime<Utc>) -> Result<DateTime<Utc>, Invalid> {
    if !is_in_calendar(date) {
        return Err(Invalid::new("date_out_of_range", "must be in the years 1 to 9999 in UTC"));
    }
    if date > latest {
        return Err(Invalid::new("date_in_future", "must not be that far in the future"));
    }
    Ok(date)
}

//! Amounts of money: exact decimals with two places, never a float.

use rust_decimal::Decimal;

use super::Invalid;

pub const AMOUNT_MAX: Decimal = Decimal::from_parts(0xD4A5_1000, 0xE8, 0, false, 2);

/// The largest sum the ledger's NUMERIC(18,2) columns hold.
pub const LEDGER_MAX: Decimal = Decimal::from_parts(0xA763_FFFF, 0x0DE0_B6B3, 0, false, 2);

/// Digits before the point beyond which an amount is certainly too large.
const WHOLE_DIGITS_MAX: usize = 11;

/// The amount of one payment: above zero, at most two places, at most
/// [`AMOUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(Decimal);

impl Amount {
    /// Reads a plain decimal such as `10000` or `10000.50`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (whole, fraction) = split(text)?;
        if fraction.len() > 2 {
            return Err(Invalid::new("too_many_decimals", "must have at most two decimal places"));
        }
        let whole = whole.trim_start_matches('0');
        if whole.len() > WHOLE_DIGITS_MAX {
            return Err(too_large());
        }
        let hundredths = whole.bytes().chain(fraction.bytes()).chain(*b"00").take(whole.len() + 2);
        let minor = hundredths.fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Self::checked(Decimal::new(minor, 2))
    }

    /// Takes an amount that is already a number, as the ledger stores it.
    pub fn checked(value: Decimal) -> Result<Self, Invalid> {
        if value.is_zero() {
            return Err(Invalid::new("not_positive", "must be greater than 0"));
        }
        if value.is_sign_negative() {
            return Err(Invalid::new("negative", "must not be negative"));
        }
        if value > AMOUNT_MAX {
            return Err(too_large());
        }
        if value.normalize().scale() > 2 {
            return Err(Invalid::new("too_many_decimals", "must have at most two decimal places"));
        }
        Ok(Self(two_places(value)))
    }

    pub fn get(self) -> Decimal {
        self.0
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The same value written with exactly two places, as money is shown everywhere.
pub fn two_places(mut value: Decimal) -> Decimal {
    value.rescale(2);
    value
}

fn too_large() -> Invalid {
    Invalid::new("too_large", "must be at most 10000000000.00")
}

fn split(text: &str) -> Result<(&str, &str), Invalid> {
    plain(text).ok_or_else(|| not_plain(text))
}

/// The two sides of a plain decimal; both hold ASCII digits only.
fn plain(text: &str) -> Option<(&str, &str)> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once('.') {
        None if digits(text) => Some((text, "")),
        Some((whole, fraction)) if digits(whole) && digits(fraction) => Some((whole, fraction)),
        _ => None,
    }
}

/// Why `text` is not a plain decimal, in the words that help its sender most.
fn not_plain(text: &str) -> Invalid {
    if text.is_empty() {
        return Invalid::new("empty", "must not be empty");
    }
    if text.strip_prefix('-').is_some_and(|rest| plain(rest).is_some()) {
        return Invalid::new("negative", "must not be negative");
    }
    if let Some((mantissa, exponent)) = text.split_once(['e', 'E'])
        && plain(mantissa.trim_start_matches('-')).is_some()
        && plain(exponent.trim_start_matches(['+', '-'])).is_some()
    {
        return Invalid::new("exponent", "must be written without an exponent, such as 1000.00");
    }
    Invalid::new("not_a_decimal", "must be a plain decimal, such as 10000 or 10000.50")
}

//! The currency that a deployment keeps its accounts in.

use super::Invalid;

/// Codes of ISO 4217 whose money has two places, as the ledger's has.
const CODES: &str = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD \
    BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP \
    GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP \
    LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD \
    PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC \
    SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER ZAR ZMW ZWG";

/// An ISO 4217 code, such as `NGN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency(&'static str);

impl Currency {
    /// What a deployment has that names none.
    pub const DEFAULT: Self = Self("NGN");

    /// # Errors
    /// When it is no code of ISO 4217, or one of a currency that has not two
    /// decimal places.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        CODES.split_ascii_whitespace().find(|code| *code == text).map(Self).ok_or(Invalid::new(
            "unknown_currency",
            "must be an ISO 4217 code of a currency with two decimal places, such as NGN",
        ))
    }

    /// The code itself.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

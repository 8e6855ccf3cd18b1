//! The currency that a deployment keeps its accounts in.

use super::Invalid;

/// Active codes of ISO 4217 (list one of 2026-01-01) whose money has two places, as
/// the ledger's has. Without funds and units of account.
const CODES: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD \
    BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP \
    GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP \
    LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD \
    PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC \
    SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG";

/// An ISO 4217 code, such as `NGN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency(&'static str);

impl Currency {
    /// The currency of a deployment without a configured one.
    pub const DEFAULT: Self = Self("NGN");

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        CODES.split_ascii_whitespace().find(|code| *code == text).map(Self).ok_or(Invalid::new(
            "unknown_currency",
            "must be an ISO 4217 code of a currency with two decimal places, such as NGN",
        ))
    }

    pub fn as_str(self) -> &'static str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_codes_with_two_places_are_taken() {
        for code in ["NGN", "EUR", "USD", "KES", "ZWG", "XCG", "VED"] {
            assert_eq!(Currency::parse(code).unwrap().as_str(), code);
        }
        // Withdrawn, without two places, no currency of a country, or no code.
        for code in ["ANG", "BGN", "HRK", "JPY", "XOF", "KWD", "USN", "XAU", "ngn", "NGN ", ""] {
            assert_eq!(Currency::parse(code).unwrap_err().code, "unknown_currency", "{code}");
        }
    }

    #[test]
    fn codes_are_distinct_and_sorted() {
        let codes: Vec<&str> = CODES.split_ascii_whitespace().collect();
        assert!(codes.is_sorted_by(|one, next| one < next), "{codes:?}");
        assert!(codes.iter().all(|code| code.len() == 3));
    }
}

//! Time as an argument. This is the only file that asks the machine what time
//! it is; everything else is handed a [`Clock`].

use chrono::{DateTime, Utc};

pub type Clock = fn() -> DateTime<Utc>;

#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that may")]
pub fn system() -> DateTime<Utc> {
    Utc::now()
}

//! What can go wrong while an operator looks or acts. Refusals are no errors.

use crate::{ledger, stream};

/// An error with what caused it; what a cause says again is left out.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// What is asked for does not wait in a stream, and the ledger does not answer.
    #[error(
        "PostgreSQL does not answer in time, and the payment is not among those that wait in the \
         streams: look again when `paystream doctor` finds PostgreSQL well"
    )]
    LedgerAway,
    /// A page or a partition was asked for that does not exist.
    #[error("{0}")]
    Place(String),
    /// What was begun could not be ended.
    #[error("{0}")]
    Halfway(&'static str, #[source] Box<Error>),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// Says what could not be done when something failed.
pub(super) trait Context<T> {
    fn context(self, what: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Halfway(what, Box::new(error.into())))
    }
}

impl Error {
    /// All of it in one line: what happened, and what made it so.
    #[must_use]
    pub fn sentence(&self) -> String {
        chain(self)
    }

    /// Whether the streams cannot be searched now; the ledger may be asked.
    #[must_use]
    pub fn is_of_streams(&self) -> bool {
        let Self::Stream(error) = self else { return false };
        error.is_outage() || matches!(error, stream::Error::SearchLimit(_))
    }

    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_outage(),
            Self::Ledger(error) => error.is_outage(),
            Self::LedgerAway => true,
            Self::Place(_) => false,
            Self::Halfway(_, error) => error.is_outage(),
        }
    }
}

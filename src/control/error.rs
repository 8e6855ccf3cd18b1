//! What can go wrong while an operator looks or acts. Refusals are no errors.

use crate::{ledger, stream};

/// A store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis did.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// PostgreSQL did.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// A page was asked for that does not exist.
    #[error("{0} is no place to go on from: take what `next` says")]
    Place(String),
}

impl Error {
    /// All of it in one line: what happened, and what made it so.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        let mut below = std::error::Error::source(self);
        while let Some(cause) = below {
            sentence = format!("{sentence}: {cause}");
            below = cause.source();
        }
        sentence
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_outage(),
            Self::Ledger(error) => error.is_outage(),
            Self::Place(_) => false,
        }
    }
}

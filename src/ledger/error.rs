//! What can go wrong between us and PostgreSQL, classified where it arises.
//! Never decides what to do about it.

/// A failure of the ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer owner has taken a partition; nothing was changed.
    #[error("partition ownership is over: this worker's epoch is not the current one")]
    Fenced,
    /// Another transaction used a reference or moved an account meanwhile;
    /// nothing was changed, and deciding again will see it.
    #[error("another transaction was faster")]
    Raced,
    /// The number of partitions was changed since the process started; nothing
    /// was changed.
    #[error("the number of partitions has changed since this process started")]
    Resized,
    /// PostgreSQL cannot be reached or cannot answer now; it may later.
    #[error("postgresql is not available")]
    Outage(#[source] sqlx::Error),
    /// Another session has locked what is to be written. Says nothing of PostgreSQL.
    #[error("another session has locked what this one needs")]
    Locked(#[source] sqlx::Error),
    /// Every connection is in use, and none came free in time. Says nothing of
    /// PostgreSQL.
    #[error("every connection to postgresql is in use")]
    Busy,
    /// PostgreSQL refused a value: nothing but these very values is wrong.
    #[error("postgresql refused a value")]
    Refused(#[source] sqlx::Error),
    /// PostgreSQL refused, or answered what we do not understand.
    #[error("postgresql answered unexpectedly")]
    Unexpected(#[source] sqlx::Error),
    /// A stored value is not one that we ever write.
    #[error("the ledger holds a {0} that cannot be")]
    Corrupt(&'static str),
    /// The schema is not the one this release needs.
    #[error("{0}")]
    Schema(String),
}

impl Error {
    /// Whether waiting may help.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Outage(_) | Self::Locked(_) | Self::Busy)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some("23505") => return Self::Raced,
            Some("55P03" | "40P01") => return Self::Locked(error),
            // Serialization, statement timeout, idle in transaction,
            // shutting down, starting up, no resources, IO.
            Some("40001" | "57014" | "25P03" | "57P01" | "57P02" | "57P03" | "57P05") => {
                return Self::Outage(error);
            }
            Some(code) if ["08", "53", "58"].iter().any(|class| code.starts_with(class)) => {
                return Self::Outage(error);
            }
            // Data exceptions, integrity, check options, raised by a rule of the
            // database, too large.
            Some(code) if ["22", "23", "44", "P0", "54"].iter().any(|c| code.starts_with(c)) => {
                return Self::Refused(error);
            }
            Some(_) => return Self::Unexpected(error),
            None => {}
        }
        let unavailable = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_)
        );
        if unavailable { Self::Outage(error) } else { Self::Unexpected(error) }
    }
}

//! Errors of PostgreSQL and of the ledger, classified where they arise. Never decides what to do
//! about one.

use std::fmt;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer owner has taken a partition; nothing was changed.
    #[error("partition ownership is over: this worker's epoch is not the current one")]
    Fenced,
    /// Another transaction used a reference or moved an account meanwhile;
    /// nothing was changed, and deciding again will see it.
    #[error("a concurrent transaction changed the same rows")]
    Raced,
    /// The number of partitions was changed since the process started; nothing
    /// was changed.
    #[error("the number of partitions has changed since this process started")]
    Resized,
    /// PostgreSQL cannot be reached or cannot answer now.
    #[error("postgresql is not available")]
    Outage(#[source] Cause),
    /// It committed, and cannot say that its standby has it.
    #[error("postgresql committed and warned, so a failover may lose it: {0}")]
    Unconfirmed(String),
    /// Another session holds a lock; PostgreSQL itself works.
    #[error("another database session holds a lock that this one needs")]
    Locked(#[source] Cause),
    #[error("postgresql ended a statement at its timeout: it is slow, or rows are locked")]
    Slow(#[source] Cause),
    /// This user may not log in, or lacks a right that its role has.
    #[error(
        "postgresql refuses this to our user: log in as its role, and run `paystream migrate` as the \
         owner of the tables"
    )]
    Forbidden(#[source] Cause),
    /// Between us and PostgreSQL is what keeps no session, and we rely on one.
    #[error(
        "a connection pooler that keeps no session is before postgresql: set \
         PAYSTREAM_DATABASE_POOLER=transaction, and no options in the URL"
    )]
    Pooler(#[source] Option<Cause>),
    /// No connection of the pool came free in time; PostgreSQL itself works.
    #[error("every connection to postgresql is in use")]
    Busy,
    /// PostgreSQL or a constraint refused these values.
    #[error("postgresql refused the values")]
    Refused(#[source] Cause),
    #[error("postgresql answered unexpectedly")]
    Unexpected(#[source] Cause),
    #[error("settling panicked: {0}")]
    Panicked(String),
    /// An account's version is not the last of its statement, so that every change of it
    /// loses its race.
    #[error(
        "account {customer} stands at version {version}, but its statement goes on to {last}: the \
         account was changed by hand or damaged. See `paystream audit`"
    )]
    Damaged { customer: String, version: i64, last: i64 },
    /// A stored value is not one that we ever write.
    #[error("the ledger holds an invalid {0}")]
    Corrupt(&'static str),
    #[error("{0}")]
    Schema(String),
}

impl Error {
    /// Whether a delivery caused the error. An error that could hit every delivery does not
    /// count.
    pub fn is_of_a_delivery(&self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::Corrupt(_) | Self::Panicked(_) | Self::Damaged { .. }
        )
    }

    /// What PostgreSQL calls it.
    pub(super) fn code(&self) -> Option<String> {
        let cause = std::error::Error::source(self)?.downcast_ref::<Cause>()?;
        Some(cause.0.as_database_error()?.code()?.into_owned())
    }

    /// Whether the connection is gone.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Outage(Cause(sqlx::Error::Io(_))))
    }

    pub fn sentence(&self) -> String {
        let cause = std::error::Error::source(self);
        cause.map_or_else(|| self.to_string(), |cause| format!("{self}: {cause}"))
    }

    /// Whether waiting may help.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Outage(_) | Self::Unconfirmed(_) | Self::Locked(_) | Self::Slow(_) | Self::Busy
        )
    }
}

/// The error of sqlx, without the line of PostgreSQL's source code that it adds.
#[derive(Debug)]
pub struct Cause(pub(super) sqlx::Error);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = self.0.as_database_error() {
            let code = error.code().unwrap_or_default();
            return write!(f, "{} (SQLSTATE {code})", error.message());
        }
        // Also used for our own timeouts.
        if matches!(self.0, sqlx::Error::PoolTimedOut) {
            return f.write_str("no connection or no answer in time");
        }
        write!(f, "{}", self.0)
    }
}

impl std::error::Error for Cause {}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let error = Cause(error);
        let code = error.0.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some("23505") => return Self::Raced,
            // No month has this payment: the clock went on between the look and the payment.
            Some("23514") if is_without_constraint(&error.0) => return Self::Raced,
            Some("55P03" | "40P01") => return Self::Locked(error),
            Some("57014") => return Self::Slow(error),
            Some("42501" | "28000" | "28P01") => return Self::Forbidden(error),
            // A statement that is prepared elsewhere, or was prepared here by somebody else.
            Some("26000" | "42P05") => return Self::Pooler(Some(error)),
            Some("08P01") if error.to_string().contains("unsupported startup parameter") => {
                return Self::Pooler(Some(error));
            }
            // As PgBouncer has it.
            Some("08P01") if error.to_string().contains("authentication failed") => {
                return Self::Forbidden(error);
            }
            // Serialization, a standby, idle in transaction, shutting down, starting up, no
            // resources, IO.
            Some("40001" | "25006" | "25P03" | "57P01" | "57P02" | "57P03" | "57P05") => {
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
            error.0,
            sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_)
        );
        if unavailable { Self::Outage(error) } else { Self::Unexpected(error) }
    }
}

/// Whether PostgreSQL found no partition of a table for a row, and no constraint refused it.
fn is_without_constraint(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.constraint().is_none())
}

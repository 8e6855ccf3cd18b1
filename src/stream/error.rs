//! Errors of Redis, classified where they arise. Never decides what to do about one.

use redis::{ErrorKind, ParsingError, RedisError, ServerError, ServerErrorKind};

use super::server;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The partition holds as many entries as it may.
    #[error("the backlog of partition {0} is full")]
    BacklogFull(u16),
    /// The source has as many of them as it may.
    #[error("a source's share of the backlog of partition {0} is full")]
    ShareFull(u16),
    /// A stream or its group is gone although the topology says it exists.
    #[error("state is lost in Redis: {0}")]
    StateLost(String),
    /// The number of partitions is being changed; until then, appends are refused.
    #[error("the partitions are closed while their number is changed")]
    Resizing,
    #[error("unexpected gate of a partition: {0}")]
    Gate(String),
    #[error("this worker no longer owns the partition: {0}")]
    Fenced(String),
    #[error("redis has no memory left for writes")]
    MemoryFull(#[source] RedisError),
    /// Redis cannot be reached, or cannot answer yet.
    #[error("redis is not available")]
    Outage(#[source] RedisError),
    /// A server of a cluster does not have this partition now, or not yet.
    #[error("redis moves the partition to another server")]
    Moving(#[source] RedisError),
    /// This user may not log in, or lacks a command that its role has.
    #[error("redis refuses this to our user: give it the commands of its role")]
    Forbidden(#[source] RedisError),
    /// Redis answers, but its configuration is not safe for payments.
    #[error("this Redis is not safe for payments: {0}")]
    Unfit(String),
    #[error("{0}")]
    Url(RedisError),
    #[error("{0}")]
    Address(String),
    #[error("more than {0} waiting payments are older than the dedupe window, too many to search")]
    SearchLimit(usize),
    #[error("redis did not answer within {0:?}")]
    Deadline(std::time::Duration),
    /// Redis has it, and too few replicas do: what becomes of it is not known.
    #[error("{has} of {wanted} replicas have confirmed in time")]
    Unreplicated { has: u32, wanted: u32 },
    #[error("redis answered unexpectedly")]
    Unexpected(#[source] RedisError),
    #[error("redis answered {0} in an unexpected shape")]
    Shape(&'static str),
}

impl Error {
    /// A refusal of the append script: its code and the text behind it.
    pub(super) fn refused(code: &str, why: &str, partition: u16) -> Self {
        match code {
            "BACKPRESSURE" => Self::BacklogFull(partition),
            "SHARE" => Self::ShareFull(partition),
            "MEMORY" => {
                let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
                Self::MemoryFull((kind, "OOM", why.to_owned()).into())
            }
            "CLOSED" if why.starts_with("resize") => Self::Resizing,
            "CLOSED" | "NOSTREAM" => Self::StateLost(why.to_owned()),
            _ => Self::Shape("append"),
        }
    }

    /// Whether waiting may help.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Outage(_)
                | Self::Moving(_)
                | Self::Unfit(_)
                | Self::Deadline(_)
                | Self::Unreplicated { .. }
        )
    }
}

/// What was answered of several, without those that are away; an error where all are.
pub(super) fn answered<T>(
    answers: impl IntoIterator<Item = Result<T, Error>>,
) -> Result<Vec<T>, Error> {
    let (mut answered, mut away) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(answer) => answered.push(answer),
            Err(error) if error.is_outage() => away = Some(error),
            Err(error) => return Err(error),
        }
    }
    away.filter(|_| answered.is_empty()).map_or(Ok(answered), Err)
}

impl From<ParsingError> for Error {
    fn from(error: ParsingError) -> Self {
        Self::Unexpected(error.into())
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        if error.kind() == ErrorKind::InvalidClientConfig {
            return Self::Url(error);
        }
        // The error of a pipeline has no code; the first of its commands' has.
        let answered = error.clone().into_server_errors();
        let first = answered.as_deref().and_then(<[_]>::first).map(|(_, error)| error);
        let detail = || first.and_then(ServerError::details).unwrap_or_default().to_owned();
        match first.map(ServerError::code) {
            Some("UNFIT") => return Self::Unfit(detail()),
            Some("FENCED") => return Self::Fenced(detail()),
            Some("GATE") => return Self::Gate(detail()),
            Some("CLOSED") if detail().starts_with("resize") => return Self::Resizing,
            Some("NOSTREAM" | "NOGROUP" | "UNBLOCKED" | "CLOSED") => {
                return Self::StateLost(detail());
            }
            Some("OOM") => return Self::MemoryFull(error),
            Some("NOPERM" | "NOAUTH" | "WRONGPASS") => return Self::Forbidden(error),
            // So Redis 7.0 says it of a command within a script.
            Some(_) if detail().starts_with("The user executing the script can't run") => {
                return Self::Forbidden(error);
            }
            // One of many commands may have it, each with the same.
            Some("AWAY") => return Self::Outage(server::away(&detail())),
            Some("MOVED" | "ASK" | "TRYAGAIN") => return Self::Moving(error),
            // MISCONF: the last write to disk failed. BUSY: a long script runs.
            // NOSCRIPT: connecting again also loads the scripts again.
            // LINEAGE: known sequences are compared again with this server's history.
            Some(
                "CLUSTERDOWN" | "NOSCRIPT" | "LINEAGE" | "MISCONF" | "BUSY" | "NOREPLICAS"
                | "LOADING" | "MASTERDOWN" | "READONLY",
            ) => {
                return Self::Outage(error);
            }
            _ => {}
        }
        if error.kind() == ErrorKind::AuthenticationFailed {
            return Self::Forbidden(error);
        }
        let unavailable =
            error.is_io_error() || error.is_timeout() || error.is_connection_dropped();
        if unavailable { Self::Outage(error) } else { Self::Unexpected(error) }
    }
}

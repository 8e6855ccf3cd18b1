//! How long connecting and replies may take, and which replies end a connection. Never connects.

use std::time::Duration;

use redis::{AsyncConnectionConfig, RedisError, ServerErrorKind, Value};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for a reply. On purpose longer than a slow sync to disk,
/// and never the client's default, which is shorter than a blocking read.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an append waits for a reply, and never more than half of the time
/// that it may take in all: on a half-open connection there is time left for a
/// new one.
pub(super) const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn connection_config(response_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT.min(response_timeout)))
        .set_response_timeout(Some(response_timeout))
}

pub(super) fn is_over(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// The reply to one or more commands.
pub(super) trait Reply {
    /// Whether a command was refused because the server is a replica now.
    fn is_read_only(&self) -> bool;

    /// Whether another server would have done what was refused.
    fn is_of_another_server(&self) -> bool;
}

impl Reply for Value {
    fn is_read_only(&self) -> bool {
        matches!(self, Self::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
    }

    fn is_of_another_server(&self) -> bool {
        const CODES: [&str; 5] = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY"];
        matches!(self, Self::ServerError(error) if CODES.contains(&error.code()))
    }
}

impl Reply for Vec<Value> {
    fn is_read_only(&self) -> bool {
        self.iter().any(Reply::is_read_only)
    }

    fn is_of_another_server(&self) -> bool {
        self.iter().any(Reply::is_of_another_server)
    }
}

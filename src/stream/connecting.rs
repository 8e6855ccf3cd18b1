//! How long connecting and replies may take. Never connects.

use std::time::Duration;

use redis::AsyncConnectionConfig;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for a reply. On purpose longer than a slow sync to disk,
/// and never the client's default, which is shorter than a blocking read.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn connection_config(response_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(response_timeout))
}

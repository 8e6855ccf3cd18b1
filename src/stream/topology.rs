//! A note in Redis of how the streams are cut, for operators who look while the
//! ledger is away. The ledger holds the truth; nothing but looking uses this.

use redis::{AsyncConnectionConfig, Client};

use super::{CONNECT_TIMEOUT, Error, RESPONSE_TIMEOUT, Streams};

fn key(prefix: &str) -> String {
    format!("{prefix}:topology")
}

impl Streams {
    /// Notes how the streams are cut.
    pub async fn note_topology(&self, generation: i32) -> Result<(), Error> {
        let mut connection = self.connect("topology").await?;
        let note = format!("{generation} {}", self.keys.partitions);
        let mut set = redis::cmd("SET");
        set.arg(key(self.keys.prefix())).arg(note);
        Ok(set.exec_async(&mut connection).await?)
    }

    /// Generation and number of partitions as they were noted last.
    pub async fn noted_topology(url: &str, key_prefix: &str) -> Result<Option<(i32, u16)>, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let client = Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let note: Option<String> =
            redis::cmd("GET").arg(key(key_prefix)).query_async(&mut connection).await?;
        let numbers = note.as_deref().and_then(|note| note.split_once(' '));
        Ok(numbers.and_then(|(generation, partitions)| {
            Some((generation.parse().ok()?, partitions.parse().ok()?))
        }))
    }
}

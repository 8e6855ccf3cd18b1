//! A second consumer group on paystream's streams: it prints every payment that
//! was accepted, beside the ledger and without disturbing it.
//!
//! ```sh
//! paystream groups register notify --note "prints payments; ask Ada"
//! cargo run --example second_group
//! ```
//!
//! Each entry is delivered at least once: one that was printed and not
//! acknowledged when this stopped is printed again. An entry says that a payment
//! was accepted, not what became of it: that is in the ledger.

use std::{collections::HashMap, env, time::Duration};

use redis::{AsyncConnectionConfig, Client, RedisResult};

/// The group, as it was registered.
const GROUP: &str = "notify";
/// How long one read waits for an entry.
const WAIT: Duration = Duration::from_secs(1);

/// Entries by stream: id, and fields unless the entry is gone.
type Entries = Vec<(String, Vec<(String, Option<HashMap<String, String>>)>)>;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it prints payments")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Without a setting, the private Redis of a `make run` in this directory.
    let private = || paystream_dev::running_addresses(".paystream".as_ref());
    let url = env::var("PAYSTREAM_REDIS_URL").ok();
    let url = url.or_else(|| Some(private()?.redis_url)).ok_or("no Redis: start `make run`")?;
    let prefix = env::var("PAYSTREAM_KEY_PREFIX").unwrap_or("paystream".to_owned());
    let partitions = env::var("PAYSTREAM_PARTITIONS").unwrap_or("32".to_owned()).parse()?;
    // A name of its own that stays: what it left behind is found under it.
    follow(&url, &streams(&prefix, partitions), "printer-1", |stream, id, payment| {
        println!("{stream} {id} {payment}");
    })
    .await?;
    Ok(())
}

/// The streams of a topology.
pub fn streams(prefix: &str, partitions: u16) -> Vec<String> {
    (0..partitions).map(|partition| format!("{prefix}:{{p{partition:02}}}:stream")).collect()
}

/// Hands every entry to `each` (stream, id, payment as JSON) and acknowledges
/// it afterwards; goes on until Redis fails.
pub async fn follow(
    url: &str,
    streams: &[String],
    consumer: &str,
    mut each: impl FnMut(&str, &str, &str),
) -> RedisResult<()> {
    // A reply may take as long as a read waits.
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(WAIT * 3));
    let client = Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // First what an earlier run took and did not acknowledge, then what is new.
    let mut from = "0";
    loop {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(consumer).arg("COUNT").arg(100);
        read.arg("BLOCK").arg(WAIT.as_millis()).arg("STREAMS").arg(streams);
        read.arg(vec![from; streams.len()]);
        let entries: Option<Entries> = read.query_async(&mut connection).await?;
        let mut read = 0;
        for (stream, entries) in entries.unwrap_or_default() {
            for (id, fields) in entries {
                if let Some(payment) = fields.as_ref().and_then(|fields| fields.get("payment")) {
                    each(&stream, &id, payment);
                }
                let mut acknowledge = redis::cmd("XACK");
                acknowledge.arg(&stream).arg(GROUP).arg(&id);
                acknowledge.exec_async(&mut connection).await?;
                read += 1;
            }
        }
        if read == 0 {
            from = ">";
        }
    }
}

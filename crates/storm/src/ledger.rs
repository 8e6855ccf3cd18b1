//! What the stores have in the end, read by SQL and commands of the storm's own. Shares no line
//! with paystream, which could be wrong about itself in the same way twice.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use paystream_invariants::{Account, Backlog, Effect, Loss, Place, Records};
use redis::Value;
use sqlx::FromRow;
use tokio::time::sleep;

use crate::{args, stores::Stores};

const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_millis(500);

/// How the streams are cut now.
#[derive(Clone, Copy, Debug, FromRow)]
pub(crate) struct Topology {
    pub(crate) partitions: i32,
    pub(crate) generation: i32,
    pub(crate) resizing_to: Option<i32>,
}

/// PostgreSQL may be away for a moment.
pub(crate) async fn topology(stores: &Stores) -> Result<Topology> {
    let mut attempt = 0;
    loop {
        let read = sqlx::query_as("select partitions, generation, resizing_to from topology");
        match read.fetch_one(&stores.pool).await {
            Ok(topology) => return Ok(topology),
            Err(_) if attempt < ATTEMPTS => sleep(PAUSE).await,
            Err(error) => return Err(error).context("could not read the topology"),
        }
        attempt += 1;
    }
}

/// The keys of the streams, by partition.
pub(crate) async fn streams(stores: &Stores) -> Result<Vec<String>> {
    let Topology { partitions, generation, .. } = topology(stores).await?;
    let tag = if generation == 1 { String::new() } else { format!("g{generation}") };
    let partitions = (0..partitions).map(|partition| format!("{tag}p{partition:02}"));
    if stores.redis.topology != args::Topology::Cluster {
        return Ok(partitions.map(|tag| format!("paystream:{{{tag}}}:stream")).collect());
    }
    let mut streams = Vec::new();
    for tag in partitions {
        streams.push(spread_stream(stores, &tag).await?);
    }
    Ok(streams)
}

/// The key of a stream whose tag ends with a number that decides which master has it. All that a
/// partition has may be gone for a moment.
async fn spread_stream(stores: &Stores, tag: &str) -> Result<String> {
    let begin = format!("paystream:{{{tag}.");
    let pattern = format!("{begin}*");
    for _ in 0..ATTEMPTS {
        for at in stores.redis.masters().await? {
            // One that ends just now has nothing to say.
            let found = stores.redis.ask(at, &["KEYS", &pattern]).await;
            let keys: Vec<String> = found.unwrap_or_default();
            let rest = keys.first().and_then(|key| key.strip_prefix(&begin));
            if let Some((number, _)) = rest.and_then(|rest| rest.split_once('}')) {
                return Ok(format!("{begin}{number}}}:stream"));
            }
        }
        sleep(PAUSE).await;
    }
    bail!("no Redis has anything of the partition {tag}")
}

/// What waits in each partition. A stream or a group that is missing is to be brought back, and a
/// Redis that does not answer will.
pub(crate) async fn backlogs(stores: &Stores) -> Result<Vec<Backlog>> {
    let mut backlogs = Vec::new();
    for (partition, stream) in (0..).zip(streams(stores).await?) {
        let (lag, pending) = waiting(stores, &stream).await.unwrap_or((1, 0));
        backlogs.push(Backlog { partition, lag, pending });
    }
    Ok(backlogs)
}

async fn waiting(stores: &Stores, stream: &str) -> Result<(u64, u64)> {
    let redis = &stores.redis;
    let at = redis.master_of(stream).await?;
    let groups: Vec<Vec<Value>> = redis.ask(at, &["XINFO", "GROUPS", stream]).await?;
    let ours = groups.into_iter().find_map(|group| position(&group));
    let (pending, last) = ours.context("the group is missing")?;
    let range = ["XRANGE", stream, &format!("({last}"), "+", "COUNT", "1000"];
    let waiting: Vec<Value> = redis.ask(at, &range).await?;
    Ok((u64::try_from(waiting.len())?, pending))
}

/// How many entries are pending in the group of settlement, and up to which id it was handed some.
fn position(group: &[Value]) -> Option<(u64, String)> {
    let field = |name: &str| {
        let at = group.iter().position(|value| text(value) == Some(name.to_owned()))?;
        group.get(at + 1)
    };
    if text(field("name")?)? != "ledger" {
        return None;
    }
    let Some(Value::Int(pending)) = field("pending") else { return None };
    Some((u64::try_from(*pending).ok()?, text(field("last-delivered-id")?)?))
}

fn text(value: &Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}

/// Everything that the invariants are about, but what clients know.
pub(crate) async fn records(stores: &Stores) -> Result<Records> {
    type EffectRow = (String, String, i64, i32, i64, i64);
    let effects: Vec<EffectRow> = sqlx::query_as(
        "select transaction_reference, customer_id, (amount * 100)::bigint, partition, sequence,
             account_version
         from processed_transactions where outcome = 'applied'",
    )
    .fetch_all(&stores.pool)
    .await?;
    let effects = effects.into_iter().map(|row| {
        let (reference, customer, cents, partition, sequence, version) = row;
        let place = Place { partition: u32::try_from(partition)?, sequence };
        Ok(Effect { reference, customer, cents, place, version })
    });
    let losses: Vec<(i32, i64, i64)> = sqlx::query_as(
        "select partition, lost_first, lost_last from sequence_jumps where lost_first is not null",
    )
    .fetch_all(&stores.pool)
    .await?;
    let losses = losses.into_iter().map(|(partition, first, last)| {
        Ok(Loss { partition: u32::try_from(partition)?, first, last })
    });
    let accounts: Vec<(String, i64, i64)> = sqlx::query_as(
        "select customer_id, ((total_paid + credit) * 100)::bigint, version from customer_accounts",
    )
    .fetch_all(&stores.pool)
    .await?;
    let account = |(customer, cents, version)| Account { customer, cents, version };
    Ok(Records {
        sent: Vec::new(),
        effects: effects.collect::<Result<_>>()?,
        losses: losses.collect::<Result<_>>()?,
        accounts: accounts.into_iter().map(account).collect(),
        backlogs: backlogs(stores).await?,
    })
}

/// What PostgreSQL takes for the time, in seconds since 1970.
pub(crate) async fn time(stores: &Stores) -> Result<i64> {
    let time = sqlx::query_scalar("select extract(epoch from clock_timestamp())::bigint");
    Ok(time.fetch_one(&stores.pool).await?)
}

/// Where sequences do not follow on each other, as rows of text.
pub(crate) async fn jumps(stores: &Stores) -> Result<Vec<String>> {
    let rows = sqlx::query_scalar("select jumps::text from sequence_jumps jumps order by jumps");
    Ok(rows.fetch_all(&stores.pool).await?)
}

/// What lies aside although nobody sent anything that should: each as a sentence. `poison`: what
/// the storm itself wrote into entries.
pub(crate) async fn aside(stores: &Stores, poison: &str) -> Result<Vec<String>> {
    let rows = sqlx::query_scalar(
        "select format('%s is held in suspense', transaction_reference) from suspense
         union all select format('%s is in conflict', transaction_reference) from conflicts
         union all select format('%s is parked', transaction_reference) from parked
         union all
         select format('%s became a dead letter: %s', coalesce(transaction_reference, stream_id),
             reason)
         from dead_letters where entry ->> 'payment' is distinct from $1
         limit 100",
    );
    Ok(rows.bind(poison).fetch_all(&stores.pool).await?)
}

//! Where groups stand on the streams: how much waits for each, and since when.
//! Never changes anything.

use redis::{Pipeline, RedisResult, Value, aio::ConnectionLike};

use super::{Error, GROUP, Keys, Position, replies, upkeep};
use crate::domain::StreamId;

/// Where one group stands on one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which partition,
    pub partition: u16,
    /// and which group.
    pub group: String,
    /// Entries the group has not been handed yet; unknown after damage.
    pub lag: Option<i64>,
    /// Entries handed out and not acknowledged.
    pub pending: i64,
    /// The first entry it has not acknowledged.
    pub oldest_waiting: Option<StreamId>,
    /// Everything before this is acknowledged: the first pending entry, or the
    /// last that was handed out.
    pub floor: StreamId,
}

/// Our group on every partition.
///
/// # Errors
/// [`Error::StateLost`] when a stream or our group is gone.
pub(super) async fn ours(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<Standing>, Error> {
    let mut positions = Vec::with_capacity(usize::from(keys.partitions));
    for (partition, reply) in (0..).zip(infos(keys, connection).await?) {
        positions.push((partition, GROUP.to_owned(), upkeep::our_group(keys, partition, reply)?));
    }
    standings(keys, connection, positions).await
}

/// Every group on every partition.
///
/// # Errors
/// [`Error::StateLost`] when a stream is gone.
pub(super) async fn all(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<Standing>, Error> {
    let mut positions = Vec::new();
    for (partition, reply) in (0..).zip(infos(keys, connection).await?) {
        let groups = upkeep::groups(keys, partition, reply)?.into_iter();
        positions.extend(groups.map(|(group, position)| (partition, group, position)));
    }
    standings(keys, connection, positions).await
}

async fn infos(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<RedisResult<Value>>, Error> {
    let mut pipeline = Pipeline::with_capacity(usize::from(keys.partitions));
    for partition in 0..keys.partitions {
        pipeline.cmd("XINFO").arg("GROUPS").arg(keys.stream(partition));
    }
    pipeline.ignore_errors();
    Ok(pipeline.query_async(connection).await?)
}

/// Looks up what waits first in each position. An entry that was acknowledged
/// since the position was read may still be named.
async fn standings(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
    positions: Vec<(u16, String, Position)>,
) -> Result<Vec<Standing>, Error> {
    let mut pipeline = Pipeline::with_capacity(2 * positions.len());
    for (partition, group, position) in &positions {
        let stream = keys.stream(*partition);
        pipeline.cmd("XPENDING").arg(&stream).arg(group);
        let after = format!("({}", position.last_id);
        pipeline.cmd("XRANGE").arg(&stream).arg(after).arg("+").arg("COUNT").arg(1);
    }
    let replies: Vec<(Value, Value)> = if positions.is_empty() {
        Vec::new()
    } else {
        let replies: Vec<Value> = pipeline.query_async(connection).await?;
        let mut replies = replies.into_iter();
        std::iter::from_fn(|| Some((replies.next()?, replies.next()?))).collect()
    };
    let standing = |((partition, group, position), (pending, next)): (_, (Value, Value))| {
        let Position { last_id, lag, pending: count } = position;
        let pending = replies::array(pending, "XPENDING")?;
        let first_pending: Option<StreamId> = match pending.get(1) {
            Some(Value::Nil) | None => None,
            Some(id) => Some(replies::parsed(id, "XPENDING")?),
        };
        let next = replies::entries(next)?.into_iter().next().map(|(id, _)| id);
        Ok(Standing {
            partition,
            group,
            lag,
            pending: count,
            oldest_waiting: first_pending.or(next),
            floor: first_pending.unwrap_or(last_id),
        })
    };
    positions.into_iter().zip(replies).map(standing).collect()
}

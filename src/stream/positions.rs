//! Positions of consumer groups on the streams: how much waits for each, and since when.
//! The only place that counts what waits. Never changes anything, and never uses the `lag` of
//! Redis, which a restart or a failover makes wrong.

use redis::{Cmd, Pipeline, RedisResult, Value, aio::ConnectionLike};

use super::{Error, GROUP, Keys, scripts};
use crate::domain::StreamId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPosition {
    pub partition: u16,
    pub group: String,
    /// The last entry that was delivered.
    pub last_id: StreamId,
    pub lag: i64,
    pub pending: i64,
    /// The first entry that the group has not acknowledged.
    pub oldest_waiting: Option<StreamId>,
    /// All entries before this one are acknowledged: the first pending entry, or the last
    /// delivered one.
    pub floor: StreamId,
}

/// Asks for every group of a stream, or for one.
pub(super) fn command(stream: String, group: Option<&str>) -> Cmd {
    let mut command = scripts::POSITIONS.on(&[stream]);
    command.arg(group);
    command
}

/// Positions of our group on all partitions.
pub(super) async fn ours(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<GroupPosition>, Error> {
    let found = (0..).zip(on_each(keys, connection, Some(GROUP)).await?);
    found.map(|(partition, found)| our(keys, partition, found)).collect()
}

/// Positions of all groups on all partitions.
pub(super) async fn all(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<GroupPosition>, Error> {
    let found = on_each(keys, connection, None).await?.into_iter();
    Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Positions of all groups, or of one, by partition. [`Error::StateLost`] where the stream is
/// missing.
pub(super) async fn on_each(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
    group: Option<&str>,
) -> Result<Vec<Result<Vec<GroupPosition>, Error>>, Error> {
    let mut pipeline = Pipeline::with_capacity(1 + usize::from(keys.partitions));
    scripts::POSITIONS.load_in(&mut pipeline);
    for partition in 0..keys.partitions {
        pipeline.add_command(command(keys.stream(partition), group));
    }
    pipeline.ignore_errors();
    let replies: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
    let replies = (0..keys.partitions).zip(replies.into_iter().skip(1));
    Ok(replies.map(|(partition, reply)| read(partition, reply)).collect())
}

/// The position of our group, out of a reply to [`command`].
pub(super) fn our_position(
    keys: &Keys,
    partition: u16,
    reply: RedisResult<Value>,
) -> Result<GroupPosition, Error> {
    our(keys, partition, read(partition, reply))
}

fn our(
    keys: &Keys,
    partition: u16,
    found: Result<Vec<GroupPosition>, Error>,
) -> Result<GroupPosition, Error> {
    let missing = || format!("group {GROUP} is missing on {}", keys.stream(partition));
    found?.into_iter().next().ok_or_else(|| Error::StateLost(missing()))
}

/// The positions of all groups, out of a reply to [`command`].
pub(super) fn read(partition: u16, reply: RedisResult<Value>) -> Result<Vec<GroupPosition>, Error> {
    /// Group, last id, lag, pending, first pending, next; an id is empty where there is none.
    type GroupReply = (String, StreamId, i64, i64, String, String);
    let rows: Vec<GroupReply> = redis::from_redis_value(reply?)?;
    let position = |(group, last_id, lag, pending, first_pending, next): GroupReply| {
        let first_pending = first_pending.parse().ok();
        let oldest_waiting = first_pending.or(next.parse().ok());
        let floor = first_pending.unwrap_or(last_id);
        GroupPosition { partition, group, last_id, lag, pending, oldest_waiting, floor }
    };
    Ok(rows.into_iter().map(position).collect())
}

//! Where groups stand on the streams: how much waits for each, and since when.
//! The only place that counts what waits. Never changes anything, and never
//! uses the `lag` of Redis, which a restart or a failover makes wrong.

use redis::{Cmd, Pipeline, RedisResult, Value, aio::ConnectionLike};

use super::{Error, GROUP, Keys, scripts};
use crate::domain::StreamId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub partition: u16,
    pub group: String,
    pub lag: i64,
    pub pending: i64,
    /// The first entry it has not acknowledged.
    pub oldest_waiting: Option<StreamId>,
    /// Everything before this is acknowledged: the first pending entry, or the
    /// last that was handed out.
    pub floor: StreamId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub last_id: StreamId,
    pub lag: i64,
    pub pending: i64,
}

/// Asks for every group of a stream, or for one.
pub(super) fn command(stream: String, group: Option<&str>) -> Cmd {
    let mut command = scripts::STANDING.on(&[stream]);
    command.arg(group);
    command
}

pub(super) async fn ours(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<Standing>, Error> {
    let found = ask(keys, connection, Some(GROUP)).await?;
    let ours = |(partition, groups): (u16, Vec<GroupState>)| {
        let ours = groups.into_iter().next().ok_or_else(|| group_missing(keys, partition))?;
        Ok(ours.standing(partition))
    };
    found.into_iter().map(ours).collect()
}

/// Where entries begin that our group has not acknowledged: partition, first such
/// entry, last entry that was handed out. Partitions without any are left out.
pub(super) async fn unacknowledged(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<(u16, StreamId, StreamId)>, Error> {
    let mut waiting = Vec::new();
    for (partition, groups) in ask(keys, connection, Some(GROUP)).await? {
        let ours = groups.into_iter().next().ok_or_else(|| group_missing(keys, partition))?;
        let first = ours.first_pending.or(ours.next);
        waiting.extend(first.map(|first| (partition, first, ours.position.last_id)));
    }
    Ok(waiting)
}

/// Partitions with entries that our group has not acknowledged, or without our group,
/// in streams of which some may be gone: partition, last entry that was handed out.
pub(super) async fn left(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<(u16, Option<StreamId>)>, Error> {
    let mut left = Vec::new();
    for (partition, reply) in (0..keys.partitions).zip(run(keys, connection, Some(GROUP)).await?) {
        let groups = match read(reply) {
            Err(Error::StateLost(_)) => continue,
            groups => groups?,
        };
        match groups.into_iter().next() {
            None => left.push((partition, None)),
            Some(ours) if ours.first_pending.or(ours.next).is_some() => {
                left.push((partition, Some(ours.position.last_id)));
            }
            Some(_) => {}
        }
    }
    Ok(left)
}

pub(super) async fn all(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<Standing>, Error> {
    Ok(on_each(keys, connection).await?.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

pub(super) async fn on_each(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<Vec<Result<Vec<Standing>, Error>>, Error> {
    let replies = (0..keys.partitions).zip(run(keys, connection, None).await?);
    let standings = |(partition, reply): (u16, RedisResult<Value>)| {
        Ok(read(reply)?.into_iter().map(|group| group.standing(partition)).collect())
    };
    Ok(replies.map(standings).collect())
}

/// Where our group stands, out of a reply to [`command`].
pub(super) fn our_position(
    keys: &Keys,
    partition: u16,
    reply: RedisResult<Value>,
) -> Result<Position, Error> {
    let ours = read(reply)?.into_iter().next();
    Ok(ours.ok_or_else(|| group_missing(keys, partition))?.position)
}

fn group_missing(keys: &Keys, partition: u16) -> Error {
    Error::StateLost(format!("group {GROUP} is missing on {}", keys.stream(partition)))
}

async fn ask(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
    group: Option<&str>,
) -> Result<Vec<(u16, Vec<GroupState>)>, Error> {
    let answers = (0..keys.partitions).zip(run(keys, connection, group).await?);
    answers.map(|(partition, reply)| Ok((partition, read(reply)?))).collect()
}

async fn run(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
    group: Option<&str>,
) -> Result<Vec<RedisResult<Value>>, Error> {
    let mut pipeline = Pipeline::with_capacity(1 + usize::from(keys.partitions));
    scripts::STANDING.load_in(&mut pipeline);
    for partition in 0..keys.partitions {
        pipeline.add_command(command(keys.stream(partition), group));
    }
    pipeline.ignore_errors();
    let replies: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
    Ok(replies.into_iter().skip(1).collect())
}

struct GroupState {
    group: String,
    position: Position,
    first_pending: Option<StreamId>,
    next: Option<StreamId>,
}

impl GroupState {
    fn standing(self, partition: u16) -> Standing {
        let Self { group, position: Position { last_id, lag, pending }, first_pending, next } =
            self;
        Standing {
            partition,
            group,
            lag,
            pending,
            oldest_waiting: first_pending.or(next),
            floor: first_pending.unwrap_or(last_id),
        }
    }
}

/// Group, last id, lag, pending, first pending, next; an id is empty where there is none.
type Row = (String, StreamId, i64, i64, String, String);

fn read(reply: RedisResult<Value>) -> Result<Vec<GroupState>, Error> {
    let rows: Vec<Row> = redis::from_redis_value(reply?)?;
    let found = |(group, last_id, lag, pending, first_pending, next): Row| GroupState {
        group,
        position: Position { last_id, lag, pending },
        first_pending: first_pending.parse().ok(),
        next: next.parse().ok(),
    };
    Ok(rows.into_iter().map(found).collect())
}

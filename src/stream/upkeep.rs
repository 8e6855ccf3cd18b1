//! What keeps the streams in order: provisioning, safety checks, depths,
//! trimming. Never removes an entry that a group has not settled.

use chrono::{DateTime, Utc};
use redis::{
    Pipeline, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager},
};

use super::{Error, GROUP, Keys, Streams, Unsafe, replies, scripts::Lua};
use crate::domain::StreamId;

/// How much is in one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Which.
    pub partition: u16,
    /// Entries in the stream, settled ones included.
    pub length: i64,
    /// Entries our group has not been handed yet; unknown after damage.
    pub lag: Option<i64>,
    /// Entries handed out and not acknowledged.
    pub pending: i64,
}

/// Where our group stands on one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last entry that was handed out.
    pub last_id: StreamId,
    /// Entries not handed out yet; unknown after damage.
    pub lag: Option<i64>,
    /// Entries handed out and not acknowledged.
    pub pending: i64,
}

/// Depths, trimming and health, over one shared connection.
#[derive(Clone)]
pub struct Upkeep {
    connection: ConnectionManager,
    keys: Keys,
    trim: Lua,
}

impl Upkeep {
    pub(super) async fn connect(streams: &Streams) -> Result<Self, Error> {
        let connection = streams.connect_shared().await?;
        let trim = Lua::new(include_str!("lua/trim.lua"));
        Ok(Self { connection, keys: streams.keys.clone(), trim })
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(redis::cmd("PING").exec_async(&mut self.connection.clone()).await?)
    }

    /// How much is in each partition, by our group.
    ///
    /// # Errors
    /// [`Error::StateLost`] when a stream or its group is gone.
    pub async fn depths(&self) -> Result<Vec<Depth>, Error> {
        let mut pipeline = Pipeline::with_capacity(2 * usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            let stream = self.keys.stream(partition);
            pipeline.cmd("XLEN").arg(&stream).cmd("XINFO").arg("GROUPS").arg(&stream);
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<Value>> =
            pipeline.query_async(&mut self.connection.clone()).await?;
        let mut replies = replies.into_iter();
        let mut depths = Vec::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            let (Some(length), Some(groups)) = (replies.next(), replies.next()) else {
                return Err(Error::Shape("XINFO GROUPS"));
            };
            let length = replies::integer(&length?, "XLEN")?;
            let Position { lag, pending, .. } = our_group(&self.keys, partition, groups)?;
            depths.push(Depth { partition, length, lag, pending });
        }
        Ok(depths)
    }

    /// Trims what every group has settled and is older than `before`, in all
    /// partitions; says how many entries went.
    ///
    /// # Errors
    /// [`Error::StateLost`] when our group is missing from a stream, which is
    /// then left alone.
    pub async fn trim_all(&self, before: DateTime<Utc>) -> Result<i64, Error> {
        let mut connection = self.connection.clone();
        self.trim.load(&mut connection).await?;
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            let mut command = self.trim.on(&[self.keys.stream(partition)]);
            command.arg(format!("{}-0", before.timestamp_millis().max(0))).arg(GROUP);
            pipeline.add_command(command);
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<i64>> = pipeline.query_async(&mut connection).await?;
        let mut trimmed = 0;
        for reply in replies {
            trimmed += reply?;
        }
        Ok(trimmed)
    }
}

/// Our group out of an `XINFO GROUPS` reply.
pub(super) fn our_group(
    keys: &Keys,
    partition: u16,
    reply: RedisResult<Value>,
) -> Result<Position, Error> {
    const WHAT: &str = "XINFO GROUPS";
    let stream = keys.stream(partition);
    let groups = match reply {
        // A stream that does not exist is a plain ERR here.
        Err(error) if error.code() == Some("ERR") => {
            return Err(Error::StateLost(format!("stream {stream} is missing")));
        }
        reply => replies::array(reply?, WHAT)?,
    };
    for group in groups {
        let group = replies::array(group, WHAT)?;
        let field = |name| replies::pick(&group, name).ok_or(Error::Shape(WHAT));
        if replies::text(field("name")?, WHAT)? == GROUP {
            return Ok(Position {
                last_id: replies::parsed(field("last-delivered-id")?, WHAT)?,
                lag: field("lag").ok().and_then(|lag| replies::integer(lag, WHAT).ok()),
                pending: replies::integer(field("pending")?, WHAT)?,
            });
        }
    }
    Err(Error::StateLost(format!("group {GROUP} is missing on {stream}")))
}

pub(super) async fn provision(
    keys: &Keys,
    connection: &mut impl ConnectionLike,
) -> Result<(), Error> {
    for partition in 0..keys.partitions {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(keys.stream(partition)).arg(GROUP).arg(0).arg("MKSTREAM");
        match create.exec_async(connection).await {
            // An earlier attempt came this far.
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            result => result?,
        }
    }
    Ok(())
}

pub(super) async fn unsafe_settings(connection: &mut impl ConnectionLike) -> Result<Unsafe, Error> {
    let mut found = Unsafe::default();
    match setting(connection, "maxmemory-policy").await? {
        Some(policy) if policy == "noeviction" => {}
        Some(policy) => {
            found.evicts = Some(format!(
                "maxmemory-policy is {policy}: Redis would throw payments away when its memory is \
                 full. Set it to noeviction"
            ));
        }
        None => {
            found.loses = Some(
                "CONFIG GET is refused, so it cannot be seen whether this Redis keeps its data \
                 safe. Allow it for this user"
                    .to_owned(),
            );
            return Ok(found);
        }
    }
    for (name, wanted) in [("appendonly", "yes"), ("appendfsync", "always")] {
        let value = setting(connection, name).await?.unwrap_or_default();
        if value != wanted {
            found.loses = Some(format!(
                "{name} is {value}: a payment answered with 202 could be lost when Redis or its \
                 machine stops. Set it to {wanted}"
            ));
        }
    }
    Ok(found)
}

/// One setting; nothing when this user may not ask.
async fn setting(
    connection: &mut impl ConnectionLike,
    name: &str,
) -> Result<Option<String>, Error> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    match command.query_async::<Vec<String>>(connection).await {
        Ok(pair) => Ok(pair.into_iter().nth(1)),
        Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

//! Maintenance of the streams: creating groups, depths, memory, trimming. Never removes an entry
//! that a group has not acknowledged.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use redis::{FromRedisValue, Pipeline, RedisResult, Value, aio::ConnectionLike};

use super::{
    Error, GROUP, GroupPosition, Keys,
    error::answered,
    positions,
    references::{Name, Tables},
    replies::Entry,
    scripts, server,
    shared::SharedConnection,
};
use crate::domain::{Reference, StreamId};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    pub partition: u16,
    /// Entries in the stream, settled ones included.
    pub length: i64,
    /// Entries our group has not been handed yet.
    pub lag: i64,
    pub pending: i64,
    /// The first entry that our group has not acknowledged.
    pub oldest_waiting: Option<StreamId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Entries ever appended. Falls when a stream was lost and begun again.
    pub appended: i64,
    pub oldest: Option<StreamId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisInfo {
    pub used: u64,
    /// What it may use; 0 is no limit.
    pub limit: u64,
    /// Whether the last write to the append-only file of a server failed. A failed rewrite stops no
    /// payment, and stands until the next one; the doctor tells of it.
    pub aof_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    pub partition: u16,
    pub stream: bool,
    /// Whether our group exists.
    pub group: bool,
    /// Entries in the stream, settled ones included.
    pub length: i64,
}

#[derive(Debug)]
pub struct Trim {
    pub partition: u16,
    pub removed: i64,
    pub newest: StreamId,
    /// Registered groups that are missing on the stream; then nothing is removed.
    pub missing: Vec<String>,
    /// Groups on the stream that are not registered; trimming waits for them, too.
    pub unregistered: Vec<String>,
}

#[derive(Clone)]
pub struct Upkeep {
    pub(super) connection: SharedConnection,
    pub(super) keys: Keys,
}

impl Upkeep {
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(redis::cmd("PING").exec_async(&mut self.connection.clone()).await?)
    }

    /// Entries ever appended, and the oldest one kept, all partitions together.
    pub async fn contents(&self) -> Result<Contents, Error> {
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.cmd("XINFO").arg("STREAM").arg(self.keys.stream(partition));
        }
        let streams: Vec<HashMap<String, Value>> =
            pipeline.query_async(&mut self.connection.clone()).await?;
        let mut contents = Contents::default();
        for mut fields in streams {
            let mut field = |name| fields.remove(name).ok_or(Error::Shape("XINFO STREAM"));
            contents.appended += i64::from_redis_value(field("entries-added")?)?;
            let first: Option<Entry> = redis::from_redis_value(field("first-entry")?)?;
            let first = first.map(|entry| entry.id);
            contents.oldest = contents.oldest.into_iter().chain(first).min();
        }
        Ok(contents)
    }

    /// Forgets that a reference was sent as this entry: a payment sent again is accepted, not
    /// answered as a duplicate.
    pub async fn forget_reference(
        &self,
        partition: u16,
        reference: &Reference,
        entry: &str,
    ) -> Result<(), Error> {
        // One of an earlier topology is remembered nowhere.
        if partition >= self.keys.partitions {
            return Ok(());
        }
        let mut connection = self.connection.clone();
        let (refs, name) = (self.keys.references(partition), Name::of(reference));
        let tables: Option<String> =
            redis::cmd("GET").arg(&refs).query_async(&mut connection).await?;
        let tables = Tables::parse(&tables.unwrap_or_default());
        let mut keys = vec![self.keys.old_reference(partition, reference)];
        keys.extend(tables.hashes(&refs, name));
        let script = &scripts::FORGET_REFERENCE;
        let mut command = script.on(&keys);
        command.arg(entry);
        name.fields().iter().for_each(|field| _ = command.arg(field));
        Ok(script.ask(&command, &mut connection).await?)
    }

    /// Of all servers together.
    pub async fn redis_info(&self) -> Result<RedisInfo, Error> {
        let mut all = RedisInfo { used: 0, limit: 0, aof_failed: false };
        for line in self.connection.all_lines().await? {
            let info =
                server::info(&mut line.connection.clone(), &["memory", "persistence"]).await?;
            let number = |name: &str| info.get(name)?.parse::<u64>().ok();
            let memory = number("used_memory").zip(number("maxmemory"));
            let (used, limit) = memory.ok_or(Error::Shape("INFO"))?;
            let failed = info.get("aof_last_write_status").is_some_and(|status| status != "ok");
            all = RedisInfo {
                used: all.used + used,
                limit: all.limit + limit,
                aof_failed: all.aof_failed || failed,
            };
        }
        Ok(all)
    }

    /// Of each partition; an error where one server does not answer.
    pub async fn all_depths(&self) -> Result<Vec<Depth>, Error> {
        self.depths().await?.into_iter().collect()
    }

    /// Of each partition, or why its server does not say it.
    pub async fn depths(&self) -> Result<Vec<Result<Depth, Error>>, Error> {
        let depth = |(partition, (length, position)): (u16, (RedisResult<Value>, _))| {
            let position = positions::our_position(&self.keys, partition, position)?;
            let GroupPosition { lag, pending, oldest_waiting, .. } = position;
            let length = redis::from_redis_value(length?)?;
            Ok(Depth { partition, length, lag, pending, oldest_waiting })
        };
        Ok((0..).zip(self.lengths_and_positions(Some(GROUP)).await?).map(depth).collect())
    }

    /// Two replies for each partition, asked for at once: a server that is away costs its time once.
    async fn lengths_and_positions(
        &self,
        group: Option<&str>,
    ) -> Result<Vec<(RedisResult<Value>, RedisResult<Value>)>, Error> {
        let mut pipeline = Pipeline::with_capacity(1 + 2 * usize::from(self.keys.partitions));
        scripts::POSITIONS.load_in(&mut pipeline);
        for partition in 0..self.keys.partitions {
            let stream = self.keys.stream(partition);
            pipeline.cmd("XLEN").arg(&stream);
            pipeline.add_command(positions::command(stream, group));
        }
        pipeline.ignore_errors();
        let mut connection = self.connection.clone();
        let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut connection).await?;
        let mut replies = replies.into_iter().skip(1);
        Ok(std::iter::from_fn(|| replies.next().zip(replies.next())).collect())
    }

    /// Presence of each partition, and the positions of all groups on it; of those whose server
    /// answers, and an error where none does.
    pub async fn presence(&self) -> Result<Vec<(Presence, Vec<GroupPosition>)>, Error> {
        let one = |(partition, (length, positions)): (u16, (RedisResult<Value>, _))| {
            let (stream, positions) = match positions::read(partition, positions) {
                Err(Error::StateLost(_)) => (false, Vec::new()),
                positions => (true, positions?),
            };
            let group = positions.iter().any(|one| one.group == GROUP);
            let length = redis::from_redis_value(length?)?;
            Ok((Presence { partition, stream, group, length }, positions))
        };
        answered((0..).zip(self.lengths_and_positions(None).await?).map(one))
    }

    /// Owners as mirrored in Redis. The ledger holds the truth: an owner that has released a
    /// partition stays here until the next one.
    pub async fn owners_told(&self) -> Result<Vec<Option<String>>, Error> {
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.cmd("HGET").arg(self.keys.owner(partition)).arg("owner");
        }
        Ok(pipeline.query_async(&mut self.connection.clone()).await?)
    }

    /// Positions of all groups on all partitions.
    pub async fn standings(&self) -> Result<Vec<GroupPosition>, Error> {
        positions::all(&self.keys, &mut self.connection.clone()).await
    }

    /// Memory used by the streams, in bytes, approximately.
    pub async fn streams_memory(&self) -> Result<u64, Error> {
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.cmd("MEMORY").arg("USAGE").arg(self.keys.stream(partition));
        }
        let sizes: Vec<Option<u64>> = pipeline.query_async(&mut self.connection.clone()).await?;
        Ok(sizes.into_iter().flatten().sum())
    }

    /// Trims from every stream what each of its groups has acknowledged, comes
    /// before the partition's entry in `reached`, and is older than `retention`:
    /// appended so long before the stream's newest entry, and before the id in
    /// `aged`, the newest of that partition that long ago. A stream on which one
    /// of `groups` is missing is left alone, and what fails on one stream stops
    /// no other.
    pub async fn trim_all(
        &self,
        retention: Duration,
        aged: &[StreamId],
        reached: &BTreeMap<u16, StreamId>,
        groups: &[String],
    ) -> Result<Vec<Result<Trim, Error>>, Error> {
        let mut connection = self.connection.clone();
        scripts::TRIM.load(&mut connection).await?;
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            let keys = [self.keys.stream(partition), self.keys.backlog(partition)];
            let mut command = scripts::TRIM.on(&keys);
            let aged = aged.get(usize::from(partition)).copied().unwrap_or_default();
            let reached = reached.get(&partition).copied().unwrap_or_default();
            command.arg(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX));
            command.arg(aged).arg(reached).arg(GROUP).arg(groups);
            pipeline.add_command(command);
        }
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<Value>> = pipeline.query_async(&mut connection).await?;
        let trim = |(partition, reply): (u16, RedisResult<Value>)| {
            let (removed, newest, missing, unregistered) = redis::from_redis_value(reply?)?;
            Ok(Trim { partition, removed, newest, missing, unregistered })
        };
        Ok((0..self.keys.partitions).zip(replies).map(trim).collect())
    }
}

/// Creates every stream that is missing, with this group at id 0.
pub(super) async fn create_groups(
    keys: &Keys,
    group: &str,
    connection: &mut impl ConnectionLike,
) -> Result<(), Error> {
    for partition in 0..keys.partitions {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(keys.stream(partition)).arg(group).arg(0).arg("MKSTREAM");
        match create.exec_async(connection).await {
            // An earlier attempt came this far.
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            result => result?,
        }
    }
    Ok(())
}

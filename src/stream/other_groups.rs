//! Creates and removes consumer groups of others on our streams. Never touches
//! ours.

use std::str::FromStr;

use redis::{Pipeline, RedisResult};

use super::{Error, GROUP, Keys, scripts, shared::SharedConnection};

/// Where a new group begins on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartsFrom {
    /// With the oldest entry that is kept.
    Start,
    /// With the next entry that is appended.
    Now,
}

impl StartsFrom {
    /// As the registry and the scripts have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Now => "now",
        }
    }
}

impl FromStr for StartsFrom {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "start" => Ok(Self::Start),
            "now" => Ok(Self::Now),
            _ => Err("start or now"),
        }
    }
}

#[derive(Clone)]
pub struct OtherGroups {
    pub(super) connection: SharedConnection,
    pub(super) keys: Keys,
}

impl OtherGroups {
    /// Creates `group` on every stream where it is missing; says on how many.
    /// After a failure some streams may have it: creating again goes on.
    ///
    /// # Panics
    /// When asked for our own group.
    pub async fn create(&self, group: &str, from: StartsFrom) -> Result<i64, Error> {
        assert_ne!(group, GROUP, "our group comes with the streams");
        let mut connection = self.connection.clone();
        scripts::CREATE_GROUP.load(&mut connection).await?;
        self.on_every_stream(|stream| {
            scripts::CREATE_GROUP.on(&[stream]).arg(group).arg(from.as_str()).clone()
        })
        .await
    }

    /// Removes `group` from every stream that has it; says from how many.
    ///
    /// # Panics
    /// When asked for our own group.
    pub async fn remove(&self, group: &str) -> Result<i64, Error> {
        assert_ne!(group, GROUP, "without our group, accepted payments are lost");
        self.on_every_stream(|stream| {
            redis::cmd("XGROUP").arg("DESTROY").arg(stream).arg(group).clone()
        })
        .await
    }

    async fn on_every_stream(&self, command: impl Fn(String) -> redis::Cmd) -> Result<i64, Error> {
        let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            pipeline.add_command(command(self.keys.stream(partition)));
        }
        // One stream that refuses does not hide what became of the others.
        pipeline.ignore_errors();
        let replies: Vec<RedisResult<i64>> =
            pipeline.query_async(&mut self.connection.clone()).await?;
        let mut changed = 0;
        for reply in replies {
            changed += reply?;
        }
        Ok(changed)
    }
}

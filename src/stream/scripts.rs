//! The Lua scripts, each called by its hash. Never keeps state of its own.

use redis::{Cmd, RedisError, Script, ServerErrorKind, aio::ConnectionLike};

/// A script that Redis runs as one atomic step.
#[derive(Clone)]
pub(super) struct Lua(Script);

impl Lua {
    pub(super) fn new(code: &str) -> Self {
        Self(Script::new(code))
    }

    /// The command that runs it on `keys`; arguments are added by the caller.
    pub(super) fn on(&self, keys: &[String]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.0.get_hash()).arg(keys.len()).arg(keys);
        command
    }

    /// Makes Redis know the script; it forgets when it restarts.
    pub(super) async fn load(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> Result<(), RedisError> {
        self.0.load_async(connection).await.map(|_| ())
    }
}

/// A script that notes losses.
pub(super) fn losing(code: &str) -> Lua {
    Lua::new(&(include_str!("lua/note_lost.lua").to_owned() + code))
}

/// Whether Redis does not know the script (any more).
pub(super) fn is_unknown(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

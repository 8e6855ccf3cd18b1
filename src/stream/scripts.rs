//! The Lua scripts, each declared here once and called by its hash. Never keeps state of
//! its own.

use std::sync::OnceLock;

use redis::{
    Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Script, ServerErrorKind,
    aio::ConnectionLike,
};

const COUNTING: &str = include_str!("lua/entries_after.lua");
const LOSING: &str = include_str!("lua/note_lost.lua");
const REMEMBERING: &str = include_str!("lua/references.lua");

pub(super) static APPEND: Lua = Lua::new(&[COUNTING, REMEMBERING, include_str!("lua/append.lua")]);
pub(super) static BALANCE_FILL: Lua = Lua::new(&[include_str!("lua/balance_fill.lua")]);
pub(super) static BALANCE_GET: Lua = Lua::new(&[include_str!("lua/balance_get.lua")]);
pub(super) static BEGIN: Lua = Lua::new(&[include_str!("lua/begin.lua")]);
pub(super) static BURY: Lua = Lua::new(&[include_str!("lua/bury.lua")]);
pub(super) static CLOSE: Lua = Lua::new(&[include_str!("lua/close.lua")]);
pub(super) static CREATE_GROUP: Lua = Lua::new(&[include_str!("lua/create_group.lua")]);
pub(super) static FORGET_CONSUMERS: Lua = Lua::new(&[include_str!("lua/forget_consumers.lua")]);
pub(super) static FORGET_REFERENCE: Lua =
    Lua::new(&[REMEMBERING, include_str!("lua/forget_reference.lua")]);
pub(super) static GATE: Lua = Lua::new(&[include_str!("lua/gate.lua")]);
pub(super) static LINEAGE: Lua = Lua::new(&[LOSING, include_str!("lua/lineage.lua")]);
pub(super) static LOSE: Lua = Lua::new(&[LOSING, include_str!("lua/lose.lua")]);
pub(super) static MIRROR: Lua = Lua::new(&[include_str!("lua/mirror.lua")]);
pub(super) static PASSED: Lua = Lua::new(&[include_str!("lua/passed.lua")]);
pub(super) static POSITIONS: Lua = Lua::new(&[COUNTING, include_str!("lua/positions.lua")]);
pub(super) static RAISE_IDS: Lua = Lua::new(&[include_str!("lua/raise_ids.lua")]);
pub(super) static RECLAIM: Lua = Lua::new(&[include_str!("lua/reclaim.lua")]);
pub(super) static REMOVE: Lua = Lua::new(&[COUNTING, include_str!("lua/remove.lua")]);
pub(super) static REOPEN: Lua = Lua::new(&[LOSING, include_str!("lua/reopen.lua")]);
pub(super) static SETTLED: Lua = Lua::new(&[include_str!("lua/settled.lua")]);
pub(super) static SETTLING_BEGIN: Lua = Lua::new(&[include_str!("lua/settling_begin.lua")]);
pub(super) static TAKE: Lua = Lua::new(&[include_str!("lua/take.lua")]);
pub(super) static TRIM: Lua = Lua::new(&[include_str!("lua/trim.lua")]);

/// Scripts that a lane runs in pipelines, which must be loaded beforehand.
pub(super) static OF_A_LANE: [&Lua; 14] = [
    &BURY,
    &CLOSE,
    &FORGET_CONSUMERS,
    &LINEAGE,
    &LOSE,
    &MIRROR,
    &PASSED,
    &POSITIONS,
    &RAISE_IDS,
    &RECLAIM,
    &REOPEN,
    &SETTLED,
    &SETTLING_BEGIN,
    &TAKE,
];

/// A script that Redis runs as one atomic step: its code, in parts.
pub(super) struct Lua {
    parts: &'static [&'static str],
    script: OnceLock<Script>,
}

impl Lua {
    const fn new(parts: &'static [&'static str]) -> Self {
        Self { parts, script: OnceLock::new() }
    }

    fn script(&self) -> &Script {
        self.script.get_or_init(|| Script::new(&self.parts.concat()))
    }

    /// The command that runs it on `keys`; arguments are added by the caller.
    pub(super) fn on(&self, keys: &[String]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script().get_hash()).arg(keys.len()).arg(keys);
        command
    }

    /// Loads the script; Redis forgets it when it restarts.
    pub(super) async fn load(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> Result<(), RedisError> {
        self.script().load_async(connection).await.map(|_| ())
    }

    /// The same, ahead of the calls in a pipeline.
    pub(super) fn load_in(&self, pipeline: &mut Pipeline) {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(self.parts.concat());
    }

    /// Runs the script; loads it first and runs it again where Redis does not know it.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        command: &Cmd,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<T> {
        match command.query_async(connection).await {
            Err(error) if is_unknown(&error) => {
                self.load(connection).await?;
                command.query_async(connection).await
            }
            reply => reply,
        }
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

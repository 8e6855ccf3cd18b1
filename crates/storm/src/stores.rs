//! Redis and PostgreSQL as the storm has them: private servers, with the users that
//! docs/roles.md asks for, and a way past every fault for the storm itself. Never reads what
//! paystream wrote; that is the business of [`crate::ledger`].

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use paystream_dev::{DATABASE, PostgresServer, RedisServer};
use redis::{AsyncConnectionConfig, FromRedisValue, aio::MultiplexedConnection};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tokio::{process::Command, sync::Mutex};

use crate::args::Topology;

/// As shipped: each line `user NAME on >$PASSWORD RULES`.
const REDIS_USERS: &str = include_str!("../../../redis/with-users.sh");
/// How long the storm itself waits for a store that is there.
const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const WORKER: &str = "worker";
pub(crate) const OPERATIONS: &str = "operations";
pub(crate) const MIGRATE: &str = "migrate";

/// Both stores. Whoever does something to a server holds its lock.
pub(crate) struct Stores {
    pub(crate) redis: Mutex<RedisServer>,
    pub(crate) postgres: Mutex<PostgresServer>,
    pub(crate) redis_port: u16,
    pub(crate) postgres_port: u16,
    redis_url: String,
    postgres_password: String,
    /// Of the superuser, past every proxy.
    pub(crate) pool: PgPool,
    copies: PathBuf,
}

impl Stores {
    pub(crate) async fn start(topology: Topology, folder: &Path) -> Result<Self> {
        match topology {
            Topology::Single => {}
            Topology::Sentinel | Topology::Cluster => bail!(
                "a storm over Redis Sentinel or Redis Cluster is not there yet: paystream does not \
                 speak to either; run --topology single"
            ),
        }
        let users: Vec<(&str, String)> = [GATEWAY, WORKER, OPERATIONS]
            .into_iter()
            .map(|user| Ok((user, redis_rules(user)?)))
            .collect::<Result<_>>()?;
        let directory = folder.join("servers");
        let redis = RedisServer::start(&directory, &users).await?;
        let postgres = PostgresServer::start(&directory).await?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(PATIENCE)
            .connect_lazy(&postgres.url(DATABASE))?;
        create_users(&pool, postgres.password()).await?;
        Ok(Self {
            redis_port: redis.port(),
            postgres_port: postgres.port(),
            redis_url: redis.url(),
            postgres_password: postgres.password().to_owned(),
            redis: Mutex::new(redis),
            postgres: Mutex::new(postgres),
            pool,
            copies: folder.join("copies"),
        })
    }

    /// The URLs of both stores, for a user and through these ports.
    pub(crate) fn urls(&self, user: &str, ports: (u16, u16)) -> Vec<(String, String)> {
        let at =
            |url: &str, from: u16, to: u16| url.replace(&format!(":{from}/"), &format!(":{to}/"));
        let redis = self.redis_url.replacen("redis://:", &format!("redis://{user}:"), 1);
        let password = &self.postgres_password;
        let (redis_port, postgres_port) = ports;
        vec![
            ("PAYSTREAM_REDIS_URL".to_owned(), at(&redis, self.redis_port, redis_port)),
            (
                "PAYSTREAM_DATABASE_URL".to_owned(),
                format!(
                    "postgres://paystream_{user}:{password}@127.0.0.1:{postgres_port}/{DATABASE}"
                ),
            ),
        ]
    }

    /// A connection of the storm's own, as administrator.
    pub(crate) async fn redis(&self) -> Result<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let client = redis::Client::open(self.redis_url.as_str())?;
        let connection = client.get_multiplexed_async_connection_with_config(&patient).await;
        connection.context("the storm could not connect to Redis")
    }

    /// The answer of Redis to a command.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        let mut connection = self.redis().await?;
        let (name, rest) = words.split_first().context("a command without words")?;
        let answer = redis::cmd(name).arg(rest).query_async(&mut connection).await;
        answer.with_context(|| format!("Redis refused {}", words.join(" ")))
    }

    /// Statements of SQL, as the superuser.
    pub(crate) async fn sql(&self, statements: String) -> Result<()> {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.pool).await?;
        Ok(())
    }

    /// Copies a stopped server's data, or puts the copy back.
    pub(crate) async fn copy(&self, data: &Path, name: &str, back: bool) -> Result<()> {
        let copy = self.copies.join(name);
        let (from, to) = if back { (copy.as_path(), data) } else { (data, copy.as_path()) };
        let script = r#"mkdir -p "$(dirname "$2")" && rm -rf "$2" && cp -a "$1" "$2""#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "copy"]).arg(from).arg(to).stdin(Stdio::null());
        let status = command.status().await?;
        ensure!(status.success(), "could not copy {} to {}", from.display(), to.display());
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.pool.close().await;
        self.redis.into_inner().stop().await?;
        self.postgres.into_inner().stop().await
    }
}

/// What this user may do, in the words of an ACL.
fn redis_rules(user: &str) -> Result<String> {
    let begin = format!("user {user} on >");
    let line = REDIS_USERS.lines().find_map(|line| line.strip_prefix(&begin));
    let rules = line.and_then(|line| line.split_once(' '));
    Ok(rules.with_context(|| format!("redis/with-users.sh has no user {user}"))?.1.to_owned())
}

/// As postgres/roles.sh makes them.
async fn create_users(pool: &PgPool, password: &str) -> Result<()> {
    let roles = [MIGRATE, GATEWAY, WORKER, OPERATIONS, "auditor"];
    let create =
        roles.map(|role| format!("create role paystream_{role} login password '{password}';"));
    let rest = format!(
        "grant pg_monitor to paystream_operations;
         revoke all on database {DATABASE} from public;
         grant connect on database {DATABASE} to paystream_gateway, paystream_worker,
             paystream_operations, paystream_auditor;
         alter database {DATABASE} owner to paystream_migrate;
         alter schema public owner to paystream_migrate;"
    );
    sqlx::raw_sql(AssertSqlSafe(create.concat() + &rest)).execute(pool).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_of_redis_are_those_that_are_shipped() {
        for user in [GATEWAY, WORKER, OPERATIONS] {
            let rules = redis_rules(user).unwrap();
            assert!(rules.contains("~paystream:*") && rules.contains("-@all"), "{user}: {rules}");
        }
        assert!(redis_rules("nobody").is_err());
    }
}

//! Both stores as the storm has them: private servers, with the users that docs/roles.md asks
//! for, and a way past every fault for the storm itself. Never reads what
//! paystream wrote; that is the business of [`crate::ledger`].

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use paystream_dev::DATABASE;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::{process::Command, sync::Mutex};

use crate::{
    args::Topology,
    clock::Clocks,
    nodes::{self, Nodes},
    pair::Pair,
    proxy::Line,
};

/// As shipped: each line `user NAME on >$PASSWORD RULES`.
const REDIS_USERS: &str = include_str!("../../../redis/with-users.sh");
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const WORKER: &str = "worker";
pub(crate) const OPERATIONS: &str = "operations";
pub(crate) const MIGRATE: &str = "migrate";

/// Both stores.
pub(crate) struct Stores {
    pub(crate) redis: Nodes,
    pub(crate) postgres: Mutex<Pair>,
    /// Ports of both servers of PostgreSQL, whichever is the primary.
    pub(crate) postgres_ports: [u16; 2],
    password: String,
    /// Of the superuser at the primary, past every proxy.
    pub(crate) pool: PgPool,
    copies: PathBuf,
}

impl Stores {
    /// Starts them; with the network before the servers of Redis where all processes share it.
    /// `in_step`: a commit waits for the standby.
    pub(crate) async fn start(
        topology: Topology,
        folder: &Path,
        in_step: bool,
        clocks: &Clocks,
    ) -> Result<(Self, Vec<Line>)> {
        let users: Vec<(&str, String)> = [GATEWAY, WORKER, OPERATIONS]
            .into_iter()
            .map(|user| Ok((user, redis_rules(user)?)))
            .collect::<Result<_>>()?;
        let postgres = Pair::start(folder, clocks).await?;
        let pool = postgres.pool();
        let postgres_ports = [postgres.servers[0].port(), postgres.servers[1].port()];
        let password = postgres.servers[0].password().to_owned();
        create_users(&pool, &password).await?;
        if in_step {
            postgres.in_step().await?;
        }
        let (redis, lines) = Nodes::start(topology, folder, &users, &password, clocks).await?;
        let postgres = Mutex::new(postgres);
        let copies = folder.join("copies");
        Ok((Self { redis, postgres, postgres_ports, password, pool, copies }, lines))
    }

    /// The URLs of both stores, for a user and through these ports; Redis is there only where
    /// it has one server.
    pub(crate) fn urls(&self, user: &str, redis: u16, postgres: [u16; 2]) -> Vec<(String, String)> {
        let [first, second] = postgres;
        vec![
            ("PAYSTREAM_REDIS_URL".to_owned(), self.redis.url(user, redis)),
            (
                "PAYSTREAM_DATABASE_URL".to_owned(),
                format!(
                    "postgres://paystream_{user}:{}@127.0.0.1:{first},127.0.0.1:{second}/\
                     {DATABASE}?target_session_attrs=read-write",
                    self.password
                ),
            ),
        ]
    }

    /// The same, past every proxy that a process has for itself.
    pub(crate) fn direct_urls(&self, user: &str) -> Vec<(String, String)> {
        self.urls(user, self.redis.all[0].port, self.postgres_ports)
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
        let stopped = self.redis.stop().await;
        self.postgres.into_inner().stop().await.and(stopped)
    }
}

/// Where the servers that keep anything have it.
pub(crate) fn directories(topology: Topology, folder: &Path) -> Vec<PathBuf> {
    let postgres = (1..=2).map(|number| format!("postgres-{number}"));
    let redis = (1..=nodes::count(topology)).map(|number| format!("redis-{number}"));
    postgres.chain(redis).map(|name| folder.join("servers").join(name)).collect()
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

//! PostgreSQL as the storm has it: a primary and its standby, which change places. Never reads what
//! paystream wrote.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use paystream_dev::{DATABASE, PostgresServer};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::time::{Instant, sleep};

use crate::{clock::Clocks, nodes::discard};

/// How long the storm itself waits for a server that is there.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// A primary, then its standby. Whoever does something to either holds the lock of both.
pub(crate) struct Pair {
    pub(crate) servers: [PostgresServer; 2],
    /// Of the superuser at the primary, past every proxy.
    pool: PgPool,
    directories: [PathBuf; 2],
}

impl Pair {
    pub(crate) async fn start(folder: &Path, clocks: &Clocks) -> Result<Self> {
        let directories =
            ["postgres-1", "postgres-2"].map(|name| folder.join("servers").join(name));
        let mut primary = PostgresServer::start(&directories[0]).await?;
        let mut standby = PostgresServer::start(&directories[1]).await?;
        clocks.give("postgres-1", &mut primary).await?;
        clocks.give("postgres-2", &mut standby).await?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(PATIENCE)
            .connect_lazy(&primary.url(DATABASE))?;
        let mut pair = Self { servers: [primary, standby], pool, directories };
        pair.follow().await?;
        Ok(pair)
    }

    pub(crate) fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    pub(crate) fn primary(&mut self) -> &mut PostgresServer {
        &mut self.servers[0]
    }

    pub(crate) fn standby(&mut self) -> &mut PostgresServer {
        &mut self.servers[1]
    }

    /// Has the standby begin anew with what the primary has, and waits until it follows.
    pub(crate) async fn follow(&mut self) -> Result<()> {
        let [primary, standby] = &mut self.servers;
        standby.follow(primary).await?;
        let end = Instant::now() + PATIENCE;
        let following = "select exists (select from pg_stat_replication where state = 'streaming')";
        while !sqlx::query_scalar::<_, bool>(following).fetch_one(&self.pool).await? {
            if Instant::now() > end {
                bail!("the standby of PostgreSQL does not follow");
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// From here on, a commit waits for the standby.
    pub(crate) async fn in_step(&self) -> Result<()> {
        for statement in
            ["alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"]
        {
            sqlx::query(AssertSqlSafe(statement)).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// The primary dies, the standby takes over, and after a while the old primary follows it.
    pub(crate) async fn promote(&mut self, away: Duration) -> Result<()> {
        self.primary().kill().await?;
        let url = self.standby().url(DATABASE);
        let mut session = PgConnection::connect(&url).await.context("the standby is away")?;
        sqlx::query("select pg_promote()").execute(&mut session).await?;
        self.servers.swap(0, 1);
        let (options, port) = ((*self.pool.connect_options()).clone(), self.primary().port());
        self.pool.set_connect_options(options.port(port));
        sleep(away).await;
        self.follow().await
    }

    /// Stops both; what they kept goes, but their logs.
    pub(crate) async fn stop(self) -> Result<()> {
        self.pool.close().await;
        for mut server in self.servers {
            server.stop().await?;
        }
        discard(&self.directories, "postgres").await
    }
}

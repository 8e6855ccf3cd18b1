//! A private paystream: its stores, a gateway and a worker, and payments for it. Each part can be
//! taken away and comes back. Never looks at what they report.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use paystream_dev::{DATABASE, PostgresServer, RedisServer};
use sqlx::{Connection, PgConnection, raw_sql};
use tokio::process::{Child, Command};

use super::programs::{answers, free_port, start};

/// What makes a batch take almost as long as it may, so that most of its payments are late.
const SLOW: &str = "create or replace function slow() returns trigger language plpgsql as $$
     begin perform pg_sleep(3.5); return null; end $$;
     create trigger slow after insert on processed_transactions for each statement
     execute function slow()";
const FAST: &str = "drop trigger slow on processed_transactions";

pub struct Deployment {
    binary: PathBuf,
    folder: PathBuf,
    settings: Vec<(&'static str, String)>,
    redis: RedisServer,
    postgres: PostgresServer,
    url: String,
    gateway: Child,
    worker: Option<Child>,
}

impl Deployment {
    /// Tells the receiver at `otlp` of itself.
    pub async fn start(
        binary: &Path,
        folder: &Path,
        otlp: &str,
        trace_ratio: &str,
    ) -> anyhow::Result<Self> {
        let redis = RedisServer::start(&folder.join("redis"), &[]).await?;
        let postgres = PostgresServer::start(&folder.join("postgres")).await?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let settings = vec![
            ("PAYSTREAM_REDIS_URL", redis.url()),
            ("PAYSTREAM_DATABASE_URL", postgres.url(DATABASE)),
            ("PAYSTREAM_BIND", address.clone()),
            ("PAYSTREAM_HEALTH_BIND", format!("127.0.0.1:{}", free_port()?)),
            ("PAYSTREAM_WORKER_ID", "observed".to_owned()),
            ("PAYSTREAM_TRACE_RATIO", trace_ratio.to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.to_owned()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "2000".to_owned()),
        ];
        let url = format!("http://{address}");
        let run = |arguments: &[&str], log: &str| {
            start(&mut command(binary, &settings, arguments), folder, log)
        };
        let migrated = run(&["migrate"], "migrate.log")?.wait().await?;
        ensure!(migrated.success(), "the migration ended with {migrated}; see migrate.log");
        let mut gateway = run(&["serve", "gateway"], "gateway.log")?;
        answers(&format!("{url}/readyz"), &mut gateway).await?;
        let (binary, folder) = (binary.to_owned(), folder.to_owned());
        let mut made =
            Self { binary, folder, settings, redis, postgres, url, gateway, worker: None };
        made.start_worker()?;
        Ok(made)
    }

    fn run(&self, arguments: &[&str], log: &str) -> anyhow::Result<Child> {
        start(&mut command(&self.binary, &self.settings, arguments), &self.folder, log)
    }

    /// Payments, some of which come twice and some of which are wrong, as in life.
    pub fn payments(&self, rate: u32, seconds: u64) -> anyhow::Result<Child> {
        eprintln!("observe: sending {rate} payments a second for {seconds} s");
        let (rate, seconds) = (rate.to_string(), format!("{seconds}s"));
        let arguments = [
            &["load", "--url", &self.url, "--duplicates", "1", "--invalid", "1", "--no-wait"],
            &["--rate", &rate, "--duration", &seconds, "--json"][..],
        ];
        self.run(&arguments.concat(), "load.log")
    }

    /// Sends payments to the end.
    pub async fn load(&self, rate: u32, seconds: u64) -> anyhow::Result<()> {
        let status = self.payments(rate, seconds)?.wait().await?;
        ensure!(status.success(), "the load ended with {status}; see load.log");
        Ok(())
    }

    pub fn start_worker(&mut self) -> anyhow::Result<()> {
        self.worker = Some(self.run(&["serve", "worker"], "worker.log")?);
        Ok(())
    }

    pub async fn kill_worker(&mut self) -> anyhow::Result<()> {
        if let Some(mut worker) = self.worker.take() {
            worker.kill().await?;
        }
        Ok(())
    }

    pub async fn kill_redis(&mut self) -> anyhow::Result<()> {
        self.redis.kill().await
    }

    pub async fn restart_redis(&mut self) -> anyhow::Result<()> {
        self.redis.restart().await
    }

    pub async fn slow_the_ledger(&self) -> anyhow::Result<()> {
        self.sql(SLOW).await
    }

    pub async fn speed_up_the_ledger(&self) -> anyhow::Result<()> {
        self.sql(FAST).await
    }

    async fn sql(&self, sql: &'static str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.postgres.url(DATABASE)).await?;
        raw_sql(sql).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Ends all of it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.kill_worker().await?;
        self.gateway.kill().await?;
        self.redis.stop().await?;
        self.postgres.stop().await
    }
}

/// The program with these settings and no others.
fn command(binary: &Path, settings: &[(&'static str, String)], arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars()
        .filter(|(name, _)| name.starts_with("PAYSTREAM_") || name.starts_with("OTEL_"))
    {
        command.env_remove(name);
    }
    command.args(arguments).envs(settings.iter().map(|(name, value)| (name, value)));
    command
}

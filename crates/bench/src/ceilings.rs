//! What this machine could do at best: each part alone, without paystream. Rates of payments are told
//! as shares of these, so that runs on other machines and days can be compared.

use std::{fs::File, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Router, http::StatusCode, routing::post};
use paystream_dev::{DATABASE, PostgresServer, RedisServer, Servers};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};

use crate::load::Load;

/// About as large as an entry of a stream.
const ENTRY: [u8; 250] = [b'x'; 250];
const SYNCS: u32 = 1_000;
/// As many as there are requests under way.
const APPENDERS: usize = 64;
const WRITERS: u32 = 2;
const ROWS: u32 = 500;

/// Each a second, but for the first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ceilings {
    /// One entry written and synced, in microseconds.
    pub(crate) sync_us: u64,
    /// Requests to a handler that does nothing.
    pub(crate) requests: u64,
    /// Entries that Redis appends, one a call, each synced before its answer.
    pub(crate) appends: u64,
    /// Rows that PostgreSQL inserts into a plain table, 500 a transaction.
    pub(crate) rows: u64,
}

impl Ceilings {
    pub(crate) async fn measure(binary: &Path, folder: &Path, length: Duration) -> Result<Self> {
        let servers = Servers::start(folder, &[]).await?;
        let ceilings = Self {
            sync_us: sync(folder)?,
            requests: requests(binary, length).await?,
            appends: appends(&servers.redis, length).await?,
            rows: rows(&servers.postgres, length).await?,
        };
        servers.stop().await?;
        paystream_dev::remove(folder).await?;
        Ok(ceilings)
    }
}

fn sync(folder: &Path) -> Result<u64> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let began = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&ENTRY)?;
        file.sync_data()?;
    }
    let took = began.elapsed() / SYNCS;
    std::fs::remove_file(&path)?;
    Ok(u64::try_from(took.as_micros())?)
}

async fn requests(binary: &Path, length: Duration) -> Result<u64> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let answer = || async { (StatusCode::ACCEPTED, "{}") };
    let app = Router::new().route("/api/v1/payments", post(answer));
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await });
    let report = Load::ceiling(binary, &url, length).await?;
    serving.shutdown().await;
    Ok(report.sent_per_second)
}

async fn appends(redis: &RedisServer, length: Duration) -> Result<u64> {
    let client = redis::Client::open(redis.url())?;
    let connection = client.get_multiplexed_async_connection().await?;
    let mut appending = JoinSet::new();
    let end = Instant::now() + length;
    for _ in 0..APPENDERS {
        let mut connection = connection.clone();
        appending.spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < end {
                let mut add = redis::cmd("XADD");
                add.arg("ceiling").arg("*").arg("payment").arg(&ENTRY[..]);
                add.exec_async(&mut connection).await?;
                count += 1;
            }
            Ok::<_, redis::RedisError>(count)
        });
    }
    per_second(appending, length).await.context("could not measure Redis")
}

async fn rows(postgres: &PostgresServer, length: Duration) -> Result<u64> {
    let pool: PgPool =
        PgPoolOptions::new().max_connections(WRITERS).connect(&postgres.url(DATABASE)).await?;
    sqlx::query("create table ceiling (id bigserial primary key, what text)")
        .execute(&pool)
        .await?;
    let insert = format!(
        "insert into ceiling (what) select repeat('x', {}) from generate_series(1, {ROWS})",
        ENTRY.len()
    );
    let mut inserting = JoinSet::new();
    let end = Instant::now() + length;
    for _ in 0..WRITERS {
        let (pool, insert) = (pool.clone(), insert.clone());
        inserting.spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < end {
                sqlx::query(AssertSqlSafe(insert.clone())).execute(&pool).await?;
                count += u64::from(ROWS);
            }
            Ok::<_, sqlx::Error>(count)
        });
    }
    let rate = per_second(inserting, length).await.context("could not measure PostgreSQL");
    pool.close().await;
    rate
}

async fn per_second<E>(mut tasks: JoinSet<Result<u64, E>>, length: Duration) -> Result<u64>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(count * 1000 / u64::try_from(length.as_millis())?.max(1))
}

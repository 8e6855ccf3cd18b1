//! Reads from a standby that are as new as reads from the primary. The primary is asked how far
//! it is, after the request came; what the standby has replayed up to there, it may be read for.
//! One answer serves all requests that waited for it. Whoever would wait too long, and whoever
//! finds the standby away or on another timeline, reads from the primary. Never writes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    FromRow, Postgres,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Error, pool::Pool};

/// Between two looks how far the standby has come.
const LOOK: Duration = Duration::from_millis(5);
/// How long it is left alone after it failed.
const REST: Duration = Duration::from_secs(2);
/// How long connecting to it may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the log of a server ends, in bytes, its timeline, and what cluster it is of.
type Position = (i64, i64, i64);

/// A commit is visible on the primary once it is flushed.
const PRIMARY: &str = "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint,
     ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint,
     (select system_identifier from pg_control_system())";
/// After a promotion a standby says the new timeline at its next restart point at the latest.
const STANDBY: &str = "select pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint,
     greatest((select timeline_id from pg_control_checkpoint()),
         (select min_recovery_end_timeline from pg_control_recovery()))::bigint,
     (select system_identifier from pg_control_system())
     where pg_is_in_recovery()";

#[derive(Clone)]
pub(super) struct Replica {
    pool: Pool,
    lag_max: Duration,
    primary: Sampled,
    standby: Sampled,
    /// Since when it fails, and until when it is left alone.
    failing: Arc<Mutex<Option<Instant>>>,
}

impl Replica {
    /// `lag_max`: how long a request waits for the standby.
    pub(super) fn new(primary: &Pool, pool: Pool, lag_max: Duration) -> Self {
        let primary = Sampled { pool: primary.clone(), sql: PRIMARY, last: Arc::default() };
        let standby = Sampled { pool: pool.clone(), sql: STANDBY, last: Arc::default() };
        Self { pool, lag_max, primary, standby, failing: Arc::default() }
    }

    /// All rows of a query; none where the standby cannot answer as the primary would.
    pub(super) async fn all<T>(
        &self,
        query: QueryAs<'_, Postgres, T, PgArguments>,
    ) -> Option<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let now = Instant::now();
        if !self.may_be_asked(now) {
            return None;
        }
        let reading = async {
            self.catch_up(now).await?;
            self.pool.all(query).await.map_err(|error| error.sentence())
        };
        let bound = self.lag_max + CONNECT_TIMEOUT;
        let late = || Err(format!("it has not answered within {bound:?}"));
        let read = timeout(bound, reading).await.unwrap_or_else(|_| late());
        let mut failing = self.failing();
        match read {
            Ok(rows) => {
                if failing.take().is_some() {
                    info!("the standby for reads answers again");
                }
                Some(rows)
            }
            Err(error) => {
                if failing.replace(Instant::now() + REST).is_none() {
                    warn!(error, "the standby for reads fails; reading from the primary");
                }
                None
            }
        }
    }

    fn failing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While it fails, one request at a time finds out whether it still does.
    fn may_be_asked(&self, now: Instant) -> bool {
        let mut failing = self.failing();
        let may = failing.is_none_or(|until| now >= until);
        if may && failing.is_some() {
            *failing = Some(now + REST);
        }
        may
    }

    /// Waits until the standby has what the primary has shown by now, or says why it is not read.
    async fn catch_up(&self, now: Instant) -> Result<(), String> {
        let told = |error: Error| error.sentence();
        let (wanted, timeline, cluster) = self.primary.since(now).await.map_err(told)?;
        loop {
            let (replayed, its_timeline, its_cluster) =
                self.standby.since(Instant::now()).await.map_err(told)?;
            if its_cluster != cluster {
                return Err("it is of another cluster than PAYSTREAM_DATABASE_URL".to_owned());
            }
            if replayed >= wanted && its_timeline == timeline {
                return Ok(());
            }
            if now.elapsed() >= self.lag_max {
                return Err(format!(
                    "it is {} bytes behind, on timeline {its_timeline} of {timeline}",
                    wanted - replayed
                ));
            }
            sleep(LOOK).await;
        }
    }
}

/// A position that is asked for by one, and answers all who waited meanwhile.
#[derive(Clone)]
struct Sampled {
    pool: Pool,
    sql: &'static str,
    /// When it was asked for last, and what it was.
    last: Arc<tokio::sync::Mutex<Option<(Instant, Position)>>>,
}

impl Sampled {
    /// The position, as it was at this moment or later.
    async fn since(&self, moment: Instant) -> Result<Position, Error> {
        let mut last = self.last.lock().await;
        if let Some((_, position)) = last.filter(|(asked, _)| *asked >= moment) {
            return Ok(position);
        }
        let asked = Instant::now();
        let position = self.pool.one(sqlx::query_as(self.sql)).await?;
        *last = Some((asked, position));
        Ok(position)
    }
}

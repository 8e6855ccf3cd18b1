//! Watches a storm: which processes end by themselves, how long nothing is settled, and how far
//! all is. Never mends anything but that a process which ended by itself is started again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use crate::{bank::GAP_MIN, site::Site};

const SAMPLE_EVERY: Duration = Duration::from_millis(60);
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(1);
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Since when, and for how long, a partition stood still.
pub(crate) type Gap = (Instant, Duration);

/// How far the ledger came.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) settled: Mutex<i64>,
    gaps: Mutex<Vec<Gap>>,
}

impl Progress {
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the cursors again and again.
    pub(crate) async fn sample(&self, site: &Site) {
        let mut moved: BTreeMap<(i32, i32), (i64, Instant)> = BTreeMap::new();
        loop {
            sleep(SAMPLE_EVERY).await;
            let rows = sqlx::query_as::<_, (i32, i32, i64)>(
                "select generation, partition, last_sequence from partition_owners
                 where generation = (select generation from topology)
                 union all select 0, -1, count(*) from processed_transactions",
            );
            let rows = timeout(SAMPLE_TIMEOUT, rows.fetch_all(&site.stores.pool)).await;
            let Ok(Ok(rows)) = rows else { continue };
            let now = Instant::now();
            for (generation, partition, sequence) in rows {
                if partition < 0 {
                    *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = sequence;
                    continue;
                }
                let (last, since) = moved.entry((generation, partition)).or_insert((sequence, now));
                if *last == sequence {
                    continue;
                }
                if now - *since >= GAP_MIN {
                    let gap = (*since, now - *since);
                    self.gaps.lock().unwrap_or_else(PoisonError::into_inner).push(gap);
                }
                (*last, *since) = (sequence, now);
            }
        }
    }
}

/// Notes processes that end by themselves, for ever.
pub(crate) async fn watch_processes(site: &Site) {
    loop {
        sleep(WATCH_EVERY).await;
        for process in &site.processes {
            match process.ended_by_itself().await {
                Ok(None) => {}
                Ok(Some(how)) => site.trouble(how),
                Err(error) => site.trouble(format!("{error:#}")),
            }
        }
    }
}

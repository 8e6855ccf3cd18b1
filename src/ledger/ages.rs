//! What workers note of the streams, so that one that has just started knows how old
//! entries are. Every time here is PostgreSQL's. Never knows what is trimmed.

use std::time::Duration;

use tokio::time::timeout;

use super::{Error, Groups, QUERY_TIMEOUT};
use crate::domain::StreamId;

impl Groups {
    /// The newest id of each partition of a generation, as it was noted so long ago;
    /// the oldest note first.
    pub async fn newest_before(
        &self,
        generation: i32,
    ) -> Result<Vec<(Duration, Vec<StreamId>)>, Error> {
        let rows = sqlx::query_as(
            "select (extract(epoch from clock_timestamp() - noted_at) * 1000)::bigint, newest
             from stream_ages where generation = $1 and noted_at <= clock_timestamp()
             order by noted_at",
        );
        let rows: Vec<(i64, Vec<String>)> =
            timeout(QUERY_TIMEOUT, rows.bind(generation).fetch_all(&self.pool))
                .await
                .unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        let noted = |(ago, newest): (i64, Vec<String>)| {
            let newest = newest.iter().map(|id| id.parse()).collect::<Result<_, _>>();
            let newest = newest.map_err(|_| Error::Corrupt("stream id"))?;
            Ok((Duration::from_millis(u64::try_from(ago).unwrap_or(0)), newest))
        };
        rows.into_iter().map(noted).collect()
    }

    /// Notes the newest id of each partition, unless somebody has within `every`;
    /// forgets notes that are twice as old as `retention`.
    pub async fn note_newest(
        &self,
        generation: i32,
        newest: &[StreamId],
        every: Duration,
        retention: Duration,
    ) -> Result<(), Error> {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let note = sqlx::query(
            "with span as (select $3 * interval '1 ms' as every, $4 * interval '2 ms' as kept),
             gone as (delete from stream_ages using span
                 where noted_at < clock_timestamp() - kept or noted_at > clock_timestamp())
             insert into stream_ages (generation, newest)
             select $1, $2 from span where not exists (select 1 from stream_ages
                 where generation = $1
                     and noted_at between clock_timestamp() - every and clock_timestamp())
             on conflict do nothing",
        );
        let note =
            note.bind(generation).bind(newest.iter().map(StreamId::to_string).collect::<Vec<_>>());
        let note = note.bind(milliseconds(every)).bind(milliseconds(retention));
        let noted = timeout(QUERY_TIMEOUT, note.execute(&self.pool)).await;
        noted.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        Ok(())
    }
}

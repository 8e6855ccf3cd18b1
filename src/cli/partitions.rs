//! `paystream partitions`: who owns each partition, what waits in it, since when,
//! and how fast it is settled. Without PostgreSQL it shows the owners that Redis
//! knows and calls none of them absent. Never changes anything.

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    partitions_table::{self, Line, UNKNOWN},
    stores,
    watch::{Screen, WatchArgs, screen, watch},
};
use crate::{
    clock,
    config::StoreConfig,
    ledger::{CursorRow, Reader},
    operations::last_owners,
    stream::{Depth, Upkeep},
};

/// What looking at partitions needs.
#[derive(Args, Clone, Debug)]
pub struct PartitionsArgs {
    /// Redis, PostgreSQL and the topology.
    #[command(flatten)]
    pub store: StoreConfig,
    /// Once, or again and again; the rate is what was settled between two
    /// looks.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Shows the partitions, once or until Ctrl-C. Exits, when looked at once, with 1
/// when a partition has no living owner and with 2 when nobody knows.
///
/// # Errors
/// When Redis cannot be reached; `--watch` waits for it after the first look.
pub async fn run(args: PartitionsArgs) -> anyhow::Result<ExitCode> {
    args.watch.check()?;
    let (streams, ledger, ..) = stores::open_to_look(&args.store).await?;
    let upkeep = streams.upkeep().await.context("could not reach Redis")?;
    let stores = Stores { upkeep, reader: ledger.reader(1) };
    let mut before = stores.look().await?;
    sleep(args.watch.interval).await;
    if args.watch.watch {
        return watch(&args.watch, async || {
            let view = View::between(&before, stores.look().await?);
            let text = match args.watch.json {
                true => view.document().to_string(),
                false => view.page(screen()),
            };
            before = view.look;
            Ok(text)
        })
        .await;
    }
    let view = View::between(&before, stores.look().await?);
    let text = if args.watch.json { format!("{:#}", view.document()) } else { view.page(None) };
    writeln!(std::io::stdout(), "{text}").context("could not write the answer")?;
    Ok(ExitCode::from(match view.is_served() {
        Some(true) => 0,
        Some(false) => 1,
        None => 2,
    }))
}

/// Where it is looked.
struct Stores {
    upkeep: Upkeep,
    reader: Reader,
}

/// Everything at one moment.
struct Look {
    at: Instant,
    rows: Vec<Row>,
    /// Whether PostgreSQL answered.
    ledger_available: bool,
}

/// One partition at one moment.
struct Row {
    depth: Depth,
    /// Nothing while PostgreSQL does not answer,
    cursor: Option<CursorRow>,
    /// but whom Redis was last told to own it.
    told: Option<String>,
    as_of: DateTime<Utc>,
}

impl Stores {
    async fn look(&self) -> anyhow::Result<Look> {
        let cursors = match self.reader.cursors().await {
            Ok(cursors) => Some(cursors),
            Err(error) if error.is_outage() => None,
            Err(error) => return Err(error).context("could not read the ledger"),
        };
        let ledger_available = cursors.is_some();
        let depths = self.upkeep.depths().await.context("could not read the streams")?;
        let mut told = match ledger_available {
            true => Vec::new(),
            false => self.upkeep.owners_told().await.context("could not read the owners")?,
        }
        .into_iter();
        let at = Instant::now();
        let now = clock::system();
        let mut cursors: BTreeMap<i32, CursorRow> =
            cursors.into_iter().flatten().map(|cursor| (cursor.partition, cursor)).collect();
        let row = |depth: Depth| {
            let cursor = cursors.remove(&i32::from(depth.partition));
            let as_of = cursor.as_ref().map_or(now, |cursor| cursor.as_of);
            let row = Row { depth, told: told.next().flatten(), as_of, cursor };
            (row.cursor.is_some() || !ledger_available).then_some(row)
        };
        Ok(Look { at, rows: depths.into_iter().filter_map(row).collect(), ledger_available })
    }
}

/// A look, and what was settled per second since the one before.
struct View {
    look: Look,
    rates: Vec<Option<i64>>,
}

impl View {
    fn between(before: &Look, look: Look) -> Self {
        let before_at = before.at;
        let milliseconds = i64::try_from((look.at - before_at).as_millis()).unwrap_or(i64::MAX);
        let settled = |row: &Row| Some((row.depth.partition, row.cursor.as_ref()?.last_sequence));
        let before: BTreeMap<u16, i64> = before.rows.iter().filter_map(settled).collect();
        let rate = |row: &Row| {
            let now = row.cursor.as_ref()?.last_sequence;
            let then = before.get(&row.depth.partition).copied().unwrap_or(now);
            Some((now - then) * 1000 / milliseconds.max(1))
        };
        Self { rates: look.rows.iter().map(rate).collect(), look }
    }

    /// Whether every partition has a living owner; nothing while nobody knows.
    fn is_served(&self) -> Option<bool> {
        self.look.ledger_available.then(|| self.look.rows.iter().all(Row::is_owner_alive))
    }

    /// How many partitions each living owner has.
    fn workers(&self) -> BTreeMap<&str, usize> {
        let mut workers = BTreeMap::new();
        for row in self.look.rows.iter().filter(|row| row.is_owner_alive()) {
            *workers.entry(row.owner().unwrap_or_default()).or_default() += 1;
        }
        workers
    }

    fn document(&self) -> Value {
        let row = |(row, rate): (&Row, &Option<i64>)| {
            let Row { depth, cursor, told, .. } = row;
            let cursor = cursor.as_ref();
            json!({
                "partition": depth.partition,
                "owner": row.owner(),
                "owner_alive": cursor.map(CursorRow::is_owner_alive),
                "last_owner_in_redis": told,
                "epoch": cursor.map(|cursor| cursor.epoch),
                "depth": depth.length,
                "lag": depth.lag,
                "pending": depth.pending,
                "oldest_waiting_seconds": row.oldest_waiting_seconds(),
                "settled_per_second": rate,
                "last_sequence": cursor.map(|cursor| cursor.last_sequence),
                "moved_at": cursor.map(|cursor| cursor.moved_at),
                "draining_to": cursor.and_then(|cursor| cursor.draining_to.as_ref()),
            })
        };
        let partitions: Vec<Value> = self.look.rows.iter().zip(&self.rates).map(row).collect();
        json!({
            "workers": self.workers(),
            "ledger_available": self.look.ledger_available,
            "partitions": partitions,
        })
    }

    /// The table and its sum, as far as the screen has room for them.
    fn page(&self, screen: Option<Screen>) -> String {
        let line = |(row, rate): (&Row, &Option<i64>)| row.line(*rate);
        let lines = self.look.rows.iter().zip(&self.rates).map(line).collect();
        partitions_table::page(lines, &self.summary(), screen)
    }

    fn summary(&self) -> String {
        let rows = &self.look.rows;
        let lag: i64 = rows.iter().map(|row| row.depth.lag).sum();
        let pending: i64 = rows.iter().map(|row| row.depth.pending).sum();
        if !self.look.ledger_available {
            let told = rows.iter().filter_map(|row| row.told.as_deref());
            return format!(
                "{} partitions; PostgreSQL does not answer, so owners are unknown ({}); lag {lag}, \
                 pending {pending}",
                rows.len(),
                last_owners(told)
            );
        }
        let workers = self.workers();
        let shares: Vec<String> =
            workers.iter().map(|(worker, count)| format!("{worker} {count}")).collect();
        let shares =
            if shares.is_empty() { String::new() } else { format!(" ({})", shares.join(", ")) };
        let unserved = rows.iter().filter(|row| !row.is_owner_alive()).count();
        let rate: i64 = self.rates.iter().flatten().sum();
        format!(
            "{} partitions, {unserved} without a living owner; workers with partitions: \
             {}{shares}; lag {lag}, pending {pending}, {rate} settled/s",
            rows.len(),
            workers.len()
        )
    }
}

impl Row {
    fn owner(&self) -> Option<&str> {
        self.cursor.as_ref()?.owner.as_deref()
    }

    fn is_owner_alive(&self) -> bool {
        self.cursor.as_ref().is_some_and(CursorRow::is_owner_alive)
    }

    fn oldest_waiting_seconds(&self) -> Option<u64> {
        Some(self.depth.oldest_waiting?.age_seconds(self.as_of))
    }

    fn line(&self, rate: Option<i64>) -> Line {
        let Self { depth, cursor, told, .. } = self;
        let cursor = cursor.as_ref();
        let owner = match (self.owner(), told) {
            (Some(owner), _) if self.is_owner_alive() => owner.to_owned(),
            (Some(owner), _) => format!("{owner} (silent)"),
            (None, Some(told)) => format!("{told}?"),
            (None, None) => if cursor.is_some() { "NONE" } else { UNKNOWN }.to_owned(),
        };
        Line {
            partition: depth.partition,
            unserved: cursor.is_some() && !self.is_owner_alive(),
            owner,
            epoch: cursor.map(|cursor| cursor.epoch),
            depth: depth.length,
            lag: depth.lag,
            pending: depth.pending,
            oldest_seconds: self.oldest_waiting_seconds(),
            rate,
            moved_seconds: cursor.map(|cursor| u64::try_from(cursor.moved_seconds()).unwrap_or(0)),
            draining_to: cursor.and_then(|cursor| cursor.draining_to.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, TimeDelta, Utc};
    use tokio::time::Instant;

    use super::{Look, Row, View};
    use crate::{domain::StreamId, ledger::CursorRow, stream::Depth};

    fn look(at: Instant, settled: i64, owner: Option<&str>) -> Look {
        let as_of = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(100);
        let oldest_waiting = Some(StreamId { milliseconds: 25_000, number: 0 });
        let depth = Depth { partition: 7, length: 9, lag: 5, pending: 2, oldest_waiting };
        let cursor = CursorRow {
            head_sequence: 0,
            partition: 7,
            owner: owner.map(str::to_owned),
            epoch: 3,
            last_sequence: settled,
            draining_to: Some("next".to_owned()),
            moved_at: as_of - TimeDelta::seconds(61),
            owner_beat_at: None,
            owner_lease_ms: None,
            as_of,
        };
        let row = Row { depth, cursor: Some(cursor), told: None, as_of };
        Look { at, rows: vec![row], ledger_available: true }
    }

    #[test]
    fn a_rate_is_what_was_settled_between_two_looks() {
        let at = Instant::now();
        let before = look(at, 100, Some("one"));
        let view = View::between(&before, look(at + Duration::from_millis(500), 150, Some("one")));
        assert_eq!(view.rates, [Some(100)]);
        let document = view.document();
        let partition = &document["partitions"][0];
        assert_eq!(partition["settled_per_second"], 100);
        assert_eq!(partition["oldest_waiting_seconds"], 75);
        assert_eq!(partition["lag"], 5);
    }

    #[test]
    fn a_silent_owner_and_none_are_told_from_a_living_one() {
        let at = Instant::now();
        let view = View::between(&look(at, 0, None), look(at, 0, Some("one")));
        assert_eq!(view.is_served(), Some(false));
        let page = view.page(None);
        for cell in ["one (silent)", "1m 15s", "1m 1s ago", "next"] {
            assert!(page.contains(cell), "{cell} in {page}");
        }
        assert!(page.contains("1 partitions, 1 without a living owner"), "{page}");
        let page = View::between(&look(at, 0, None), look(at, 0, None)).page(None);
        assert!(page.contains("NONE"), "{page}");
    }

    #[test]
    fn without_the_ledger_owners_are_unknown_and_not_absent() {
        let at = Instant::now();
        let mut away = look(at, 0, None);
        away.ledger_available = false;
        (away.rows[0].cursor, away.rows[0].told) = (None, Some("one".to_owned()));
        let view = View::between(&look(at, 0, Some("one")), away);
        assert_eq!((view.is_served(), &view.rates[..]), (None, &[None][..]));
        let page = view.page(None);
        assert!(page.contains("| one?  |") && page.contains("owners are unknown"), "{page}");
        assert!(page.contains("last owners known to Redis: one 1"), "{page}");
        assert!(!page.contains("NONE") && !page.contains("without a living owner"), "{page}");
        let partition = &view.document()["partitions"][0];
        assert!(partition["owner"].is_null() && partition["owner_alive"].is_null(), "{partition}");
        assert_eq!(partition["last_owner_in_redis"], "one");
    }
}

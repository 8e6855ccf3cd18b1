//! `paystream partitions`: who owns each partition, what waits in it, since when,
//! and how fast it is settled. Never changes anything.

use std::{collections::BTreeMap, io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    groups::seconds,
    stores,
    watch::{WatchArgs, watch},
};
use crate::{
    config::StoreConfig,
    ledger::{CursorRow, Reader},
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

/// Shows the partitions, once or until Ctrl-C. Exits with 1 when, looked at
/// once, a partition has no living owner.
///
/// # Errors
/// When a store cannot be reached; `--watch` waits for it after the first look.
pub async fn run(args: PartitionsArgs) -> anyhow::Result<ExitCode> {
    args.watch.check()?;
    let (streams, ledger, _) = stores::open(&args.store).await?;
    let upkeep = streams.upkeep().await.context("could not reach Redis")?;
    let stores = Stores { upkeep, reader: ledger.reader(1) };
    let mut before = stores.look().await?;
    sleep(args.watch.interval).await;
    if args.watch.watch {
        return watch(&args.watch, async || {
            let view = View::between(&before, stores.look().await?);
            let text = if args.watch.json { view.document().to_string() } else { view.page() };
            before = view.look;
            Ok(text)
        })
        .await;
    }
    let view = View::between(&before, stores.look().await?);
    let text = if args.watch.json { format!("{:#}", view.document()) } else { view.page() };
    writeln!(std::io::stdout(), "{text}").context("could not write the answer")?;
    Ok(if view.is_served() { ExitCode::SUCCESS } else { ExitCode::from(1) })
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
}

/// One partition at one moment.
struct Row {
    depth: Depth,
    cursor: CursorRow,
}

impl Stores {
    async fn look(&self) -> anyhow::Result<Look> {
        let cursors = self.reader.cursors().await.context("could not read the ledger")?;
        let depths = self.upkeep.depths().await.context("could not read the streams")?;
        let at = Instant::now();
        let mut cursors: BTreeMap<i32, CursorRow> =
            cursors.into_iter().map(|cursor| (cursor.partition, cursor)).collect();
        let row = |depth: Depth| {
            Some(Row { depth, cursor: cursors.remove(&i32::from(depth.partition))? })
        };
        Ok(Look { at, rows: depths.into_iter().filter_map(row).collect() })
    }
}

/// A look, and what was settled per second since the one before.
struct View {
    look: Look,
    rates: Vec<i64>,
}

impl View {
    fn between(before: &Look, look: Look) -> Self {
        let before_at = before.at;
        let milliseconds = i64::try_from((look.at - before_at).as_millis()).unwrap_or(i64::MAX);
        let before: BTreeMap<u16, i64> =
            before.rows.iter().map(|row| (row.depth.partition, row.cursor.last_sequence)).collect();
        let rate = |row: &Row| {
            let now = row.cursor.last_sequence;
            let then = before.get(&row.depth.partition).copied().unwrap_or(now);
            (now - then) * 1000 / milliseconds.max(1)
        };
        Self { rates: look.rows.iter().map(rate).collect(), look }
    }

    /// Whether every partition has a living owner.
    fn is_served(&self) -> bool {
        self.look.rows.iter().all(|row| row.cursor.is_owner_alive())
    }

    /// How many partitions each living owner has.
    fn workers(&self) -> BTreeMap<&str, usize> {
        let mut workers = BTreeMap::new();
        for row in self.look.rows.iter().filter(|row| row.cursor.is_owner_alive()) {
            *workers.entry(row.cursor.owner.as_deref().unwrap_or_default()).or_default() += 1;
        }
        workers
    }

    fn document(&self) -> Value {
        let row = |(row, rate): (&Row, &i64)| {
            let Row { depth, cursor } = row;
            json!({
                "partition": depth.partition,
                "owner": cursor.owner,
                "owner_alive": cursor.is_owner_alive(),
                "epoch": cursor.epoch,
                "depth": depth.length,
                "lag": depth.lag,
                "pending": depth.pending,
                "oldest_waiting_seconds": row.oldest_waiting_seconds(),
                "settled_per_second": rate,
                "last_sequence": cursor.last_sequence,
                "moved_at": cursor.moved_at,
                "draining_to": cursor.draining_to,
            })
        };
        let partitions: Vec<Value> = self.look.rows.iter().zip(&self.rates).map(row).collect();
        json!({ "workers": self.workers(), "partitions": partitions })
    }

    fn page(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header([
            "partition",
            "owner",
            "epoch",
            "depth",
            "lag",
            "pending",
            "oldest waiting",
            "settled/s",
            "moved",
            "asked for by",
        ]);
        for (row, rate) in self.look.rows.iter().zip(&self.rates) {
            let Row { depth, cursor } = row;
            let owner = match &cursor.owner {
                Some(owner) if cursor.is_owner_alive() => owner.clone(),
                Some(owner) => format!("{owner} (silent)"),
                None => "NONE".to_owned(),
            };
            let moved = u64::try_from(cursor.moved_seconds()).unwrap_or(0);
            table.add_row([
                depth.partition.to_string(),
                owner,
                cursor.epoch.to_string(),
                depth.length.to_string(),
                depth.lag.to_string(),
                depth.pending.to_string(),
                row.oldest_waiting_seconds().map_or("-".to_owned(), seconds),
                rate.to_string(),
                format!("{} ago", seconds(moved)),
                cursor.draining_to.clone().unwrap_or("-".to_owned()),
            ]);
        }
        for column in table.column_iter_mut().skip(2).take(6) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n\n{}", self.summary())
    }

    fn summary(&self) -> String {
        let rows = &self.look.rows;
        let workers = self.workers();
        let shares: Vec<String> =
            workers.iter().map(|(worker, count)| format!("{worker} {count}")).collect();
        let shares =
            if shares.is_empty() { String::new() } else { format!(" ({})", shares.join(", ")) };
        let unserved = rows.iter().filter(|row| !row.cursor.is_owner_alive()).count();
        let lag: i64 = rows.iter().map(|row| row.depth.lag).sum();
        let pending: i64 = rows.iter().map(|row| row.depth.pending).sum();
        let rate: i64 = self.rates.iter().sum();
        format!(
            "{} partitions, {unserved} without a living owner; workers with partitions: \
             {}{shares}; lag {lag}, pending {pending}, {rate} settled/s",
            rows.len(),
            workers.len()
        )
    }
}

impl Row {
    fn oldest_waiting_seconds(&self) -> Option<u64> {
        Some(self.depth.oldest_waiting?.age_seconds(self.cursor.as_of))
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
        Look { at, rows: vec![Row { depth, cursor }] }
    }

    #[test]
    fn a_rate_is_what_was_settled_between_two_looks() {
        let at = Instant::now();
        let before = look(at, 100, Some("one"));
        let view = View::between(&before, look(at + Duration::from_millis(500), 150, Some("one")));
        assert_eq!(view.rates, [100]);
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
        assert!(!view.is_served());
        let page = view.page();
        for cell in ["one (silent)", "1m 15s", "1m 1s ago", "next"] {
            assert!(page.contains(cell), "{cell} in {page}");
        }
        assert!(page.contains("1 partitions, 1 without a living owner"), "{page}");
        let page = View::between(&look(at, 0, None), look(at, 0, None)).page();
        assert!(page.contains("NONE"), "{page}");
    }
}

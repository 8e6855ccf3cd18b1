//! `paystream partitions`: who owns each partition, what waits in it, since when,
//! and how fast it is settled. Without PostgreSQL it shows the owners that Redis
//! knows and calls none of them absent. Never changes anything.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Running, partitions_table, stores,
    watch::{Screen, Shown, WatchArgs, screen, show},
};
use crate::{
    clock,
    config::StoreConfig,
    operations::{Operations, PartitionLook, SystemSnapshot, last_owners},
};

#[derive(Args, Clone, Debug)]
pub struct PartitionsArgs {
    #[command(flatten)]
    pub store: StoreConfig,
    /// Once, or again and again; the rate is what was settled between two
    /// looks.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Shows the partitions, once or until Ctrl-C. Exits, when looked at once, with 1
/// when a partition has no living owner and with 2 when nobody knows, or a server of Redis is away.
pub(super) async fn run(args: PartitionsArgs, running: Running) -> anyhow::Result<ExitCode> {
    let (streams, ledger, topology, _) = stores::open_to_look(&args.store.or(running)).await?;
    streams.upkeep().await.context("could not reach Redis")?;
    let operations = Arc::new(Operations::new(&streams, &ledger, &topology, clock::system));
    let mut before = look(&operations).await?;
    sleep(args.watch.interval).await;
    show(&args.watch, async || {
        let view = View::between(&before, look(&operations).await?);
        let shown = Shown {
            document: args.watch.document(&view.document())?,
            page: view.page(if args.watch.watch { screen() } else { None }),
            status: match view.is_served() {
                Some(false) => 1,
                Some(true) if view.look.redis_trouble.is_none() => 0,
                Some(true) | None => 2,
            },
        };
        before = view.look;
        Ok(shown)
    })
    .await
}

async fn look(operations: &Arc<Operations>) -> anyhow::Result<Arc<SystemSnapshot>> {
    let snapshot = operations.snapshot(Duration::ZERO).await;
    match (&snapshot.redis_trouble, &snapshot.ledger_trouble) {
        (Some(trouble), _) if !snapshot.redis_available => {
            bail!("could not read the streams: {trouble}")
        }
        (_, Some(trouble)) => bail!("could not read the ledger: {trouble}"),
        (None, None) if !snapshot.redis_available => bail!("Redis does not answer"),
        (_, None) => Ok(snapshot),
    }
}

/// A look, and what was settled per second since the one before.
struct View {
    look: Arc<SystemSnapshot>,
    rates: Vec<Option<i64>>,
}

impl View {
    fn between(before: &SystemSnapshot, look: Arc<SystemSnapshot>) -> Self {
        let milliseconds = i64::try_from((look.at - before.at).as_millis()).unwrap_or(i64::MAX);
        let then = before.partitions.iter().map(|one| (one.partition, one.last_sequence));
        let then: BTreeMap<u16, Option<i64>> = then.collect();
        let rate = |one: &PartitionLook| {
            let now = one.last_sequence?;
            let then = then.get(&one.partition).copied().flatten().unwrap_or(now);
            Some((now - then) * 1000 / milliseconds.max(1))
        };
        Self { rates: look.partitions.iter().map(rate).collect(), look }
    }

    /// Each partition, and its rate.
    fn rows(&self) -> impl Iterator<Item = (&PartitionLook, Option<i64>)> {
        self.look.partitions.iter().zip(self.rates.iter().copied())
    }

    /// Whether every partition has a living owner; nothing while nobody knows.
    fn is_served(&self) -> Option<bool> {
        self.rows().map(|(one, _)| one.owner_alive).try_fold(true, |all, one| Some(all && one?))
    }

    /// How many partitions each living owner has.
    fn workers(&self) -> BTreeMap<&str, usize> {
        let mut workers = BTreeMap::new();
        for (one, _) in self.rows().filter(|(one, _)| one.owner_alive == Some(true)) {
            *workers.entry(one.owner.as_deref().unwrap_or_default()).or_default() += 1;
        }
        workers
    }

    /// How many partitions each server of a cluster has.
    fn servers(&self) -> String {
        let mut servers: BTreeMap<&str, usize> = BTreeMap::new();
        for server in self.rows().filter_map(|(one, _)| one.server.as_deref()) {
            *servers.entry(server).or_default() += 1;
        }
        let counts = servers.iter().map(|(server, count)| format!("{server} {count}"));
        let counts: Vec<String> = counts.collect();
        if counts.is_empty() { String::new() } else { format!("; servers: {}", counts.join(", ")) }
    }

    fn document(&self) -> Value {
        let row = |(one, rate): (&PartitionLook, Option<i64>)| {
            let mut row = json!(one);
            row["settled_per_second"] = json!(rate);
            row
        };
        json!({
            "workers": self.workers(),
            "ledger_available": self.look.ledger_available,
            "redis_trouble": self.look.redis_trouble,
            "partitions": self.rows().map(row).collect::<Vec<_>>(),
        })
    }

    /// The table and its sum, as far as the screen has room for them.
    fn page(&self, screen: Option<Screen>) -> String {
        let trouble = self.look.redis_trouble.as_ref();
        let trouble = trouble.map_or_else(String::new, |trouble| format!("\n{trouble}"));
        let summary = format!("{}{trouble}", self.summary());
        partitions_table::page(self.rows().collect(), &summary, screen)
    }

    fn summary(&self) -> String {
        let count = self.look.partitions.len();
        let sum = |read: fn(&PartitionLook) -> Option<i64>| {
            let sum: Option<i64> = self.rows().map(|(one, _)| read(one)).sum();
            sum.map_or_else(|| "unknown".to_owned(), |sum| sum.to_string())
        };
        let (lag, pending) = (sum(|one| one.lag), sum(|one| one.pending));
        if !self.look.ledger_available {
            let told = self.rows().filter_map(|(one, _)| one.owner_told.as_deref());
            return format!(
                "{count} partitions; PostgreSQL does not answer, so owners are unknown ({}); lag \
                 {lag}, pending {pending}",
                last_owners(told)
            );
        }
        let workers = self.workers();
        let shares: Vec<String> =
            workers.iter().map(|(worker, count)| format!("{worker} {count}")).collect();
        let shares =
            if shares.is_empty() { String::new() } else { format!(" ({})", shares.join(", ")) };
        let unserved = self.rows().filter(|(one, _)| one.owner_alive != Some(true)).count();
        let rate: i64 = self.rates.iter().flatten().sum();
        format!(
            "{count} partitions, {unserved} without a living owner; workers with partitions: \
             {}{shares}; lag {lag}, pending {pending}, {rate} settled/s{}",
            workers.len(),
            self.servers()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use chrono::DateTime;

    use super::{Arc, SystemSnapshot, View};
    use crate::operations::PartitionLook;

    fn look(at: Instant, settled: i64, owner: Option<&str>) -> SystemSnapshot {
        let one = PartitionLook {
            partition: 7,
            depth: Some(9),
            lag: Some(5),
            pending: Some(2),
            oldest_waiting_seconds: Some(75),
            owner: owner.map(str::to_owned),
            owner_alive: Some(false),
            epoch: Some(3),
            last_sequence: Some(settled),
            draining_to: Some("next".to_owned()),
            moved_seconds: Some(61),
            ..PartitionLook::default()
        };
        SystemSnapshot {
            at,
            redis_available: true,
            ledger_available: true,
            partitions: vec![one],
            ..SystemSnapshot::unknown(at, DateTime::UNIX_EPOCH)
        }
    }

    fn between(before: &SystemSnapshot, look: SystemSnapshot) -> View {
        View::between(before, Arc::new(look))
    }

    #[test]
    fn a_rate_is_what_was_settled_between_two_looks() {
        let at = Instant::now();
        let before = look(at, 100, Some("one"));
        let view = between(&before, look(at + Duration::from_millis(500), 150, Some("one")));
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
        let view = between(&look(at, 0, None), look(at, 0, Some("one")));
        assert_eq!(view.is_served(), Some(false));
        let page = view.page(None);
        for cell in ["one (silent)", "1m 15s", "1m 1s ago", "next"] {
            assert!(page.contains(cell), "{cell} in {page}");
        }
        assert!(page.contains("1 partitions, 1 without a living owner"), "{page}");
        let page = between(&look(at, 0, None), look(at, 0, None)).page(None);
        assert!(page.contains("NONE"), "{page}");
    }

    #[test]
    fn without_the_ledger_owners_are_unknown_and_not_absent() {
        let at = Instant::now();
        let mut away = look(at, 0, None);
        away.ledger_available = false;
        away.partitions[0] = PartitionLook {
            owner_told: Some("one".to_owned()),
            lag: Some(5),
            pending: Some(2),
            ..PartitionLook::default()
        };
        let view = between(&look(at, 0, Some("one")), away);
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

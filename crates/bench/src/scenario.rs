//! What is measured: under which load, with how many of everything. Never measures.

use std::time::Duration;

use crate::args::Suite;

/// More than anything here keeps up with.
pub(crate) const SATURATED: u32 = 150_000;
/// The same of payments in batches.
const SATURATED_BY_BATCHES: u32 = 300_000;

/// How payments come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// So many a second.
    Rate(u32),
    /// As many as are taken.
    Saturated,
    /// So many wait before a worker begins.
    Backlog(u32),
    /// None.
    Idle,
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Of a row, or of a curve that has several.
    pub(crate) name: &'static str,
    /// Where on its curve this is.
    pub(crate) at: Option<u32>,
    pub(crate) arrival: Arrival,
    pub(crate) seconds: u64,
    pub(crate) customers: u32,
    pub(crate) connections: u32,
    /// Payments of a request.
    pub(crate) batch: u32,
    pub(crate) one_customer_pays: bool,
    pub(crate) partitions: u16,
    pub(crate) workers: usize,
    /// Payments that the ledger has before.
    pub(crate) ledger_rows: u32,
    /// Before anything is measured: caches, connections and the memory of references fill.
    pub(crate) warm_up: Duration,
}

impl Scenario {
    const fn new(name: &'static str, arrival: Arrival) -> Self {
        Self {
            name,
            at: None,
            arrival,
            seconds: 10,
            customers: 500,
            connections: 64,
            batch: 1,
            one_customer_pays: false,
            partitions: 32,
            workers: 1,
            ledger_rows: 0,
            warm_up: Duration::from_secs(3),
        }
    }

    /// What is asked of the load generator a second.
    pub(crate) fn rate(&self) -> u32 {
        match self.arrival {
            Arrival::Rate(rate) => rate,
            Arrival::Saturated if self.batch > 1 => SATURATED_BY_BATCHES,
            Arrival::Saturated | Arrival::Backlog(_) | Arrival::Idle => SATURATED,
        }
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The same customers, paying one by one.
    pub(crate) fn single_posts(&self) -> Self {
        Self { batch: 1, connections: 64, ..self.clone() }
    }

    /// The same, only to see that it works.
    fn quickly(self) -> Self {
        let arrival = match self.arrival {
            Arrival::Backlog(_) => Arrival::Backlog(5_000),
            Arrival::Rate(rate) => Arrival::Rate(rate.min(500)),
            other @ (Arrival::Saturated | Arrival::Idle) => other,
        };
        let customers = self.customers.min(1_000);
        let (ledger_rows, warm_up) = (self.ledger_rows.min(1_000), Duration::from_secs(1));
        Self { arrival, seconds: 1, customers, ledger_rows, warm_up, ..self }
    }
}

/// What this suite measures, in its order.
pub(crate) fn all(suite: Suite, quick: bool, only: &[String]) -> Vec<Scenario> {
    let all = match suite {
        Suite::Table => table(),
        Suite::Growth => growth(),
    };
    let is_meant =
        |one: &Scenario| only.is_empty() || only.iter().any(|part| one.name.contains(part));
    let meant = all.into_iter().filter(is_meant);
    meant.map(|one| if quick { one.quickly() } else { one }).collect()
}

fn table() -> Vec<Scenario> {
    let rate = |name, rate| Scenario { seconds: 20, ..Scenario::new(name, Arrival::Rate(rate)) };
    let saturated = |name| Scenario::new(name, Arrival::Saturated);
    vec![
        rate("1,667/s", 1_667),
        rate("5,000/s", 5_000),
        rate("10,000/s", 10_000),
        saturated("single posts, 64 connections"),
        Scenario { connections: 256, ..saturated("single posts, 256 connections") },
        Scenario { customers: 10_000, ..saturated("10,000 customers, 64 connections") },
        Scenario { one_customer_pays: true, ..saturated("one customer pays all") },
        Scenario { batch: 1_000, connections: 8, ..saturated("batches of 1,000") },
        Scenario {
            customers: 100_000,
            batch: 1_000,
            connections: 8,
            ..Scenario::new("a backlog of 300,000, 100,000 customers", Arrival::Backlog(300_000))
        },
        Scenario { seconds: 20, ..Scenario::new("idle", Arrival::Idle) },
    ]
}

fn growth() -> Vec<Scenario> {
    let mut all = Vec::new();
    for rate in [100, 500, 1_667, 5_000, 10_000] {
        let arrival = Arrival::Rate(rate);
        all.push(Scenario { at: Some(rate), ..Scenario::new("payments a second", arrival) });
    }
    let brief = |name, at| Scenario { at: Some(at), ..Scenario::new(name, Arrival::Rate(1_667)) };
    for partitions in [8, 32, 256] {
        all.push(Scenario { partitions, ..brief("partitions", partitions.into()) });
    }
    for workers in [1, 2, 4] {
        let at = u32::try_from(workers).unwrap_or_default();
        all.push(Scenario { workers, ..brief("workers", at) });
    }
    for customers in [10, 1_000, 100_000] {
        all.push(Scenario { customers, ..brief("customers", customers) });
    }
    for ledger_rows in [1, 1_000_000, 10_000_000] {
        all.push(Scenario { ledger_rows, ..brief("payments in the ledger", ledger_rows) });
    }
    all
}

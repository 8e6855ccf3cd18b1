//! Opens both stores for an operator's command. Never for a topology that is
//! not the one in the settings.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::Running;
use crate::{
    clock,
    config::{LedgerConfig, StoreConfig},
    ledger::{Ledger, Topology},
    operations::{Operations, open_ledger, open_streams, open_topology, refuse_left},
    stream::Streams,
};

/// The configured ledger, or that of `running`.
pub(super) fn ledger_or(config: LedgerConfig, running: Running) -> anyhow::Result<Ledger> {
    open_ledger(&config.or(running.map(|(_, database_url)| database_url)))
}

/// The streams and the ledger, once both are known to belong together, and how
/// the streams are cut.
pub(super) async fn open(store: &StoreConfig) -> anyhow::Result<(Streams, Ledger, Topology)> {
    let (ledger, topology) = ledger_and_topology(store).await?;
    ensure!(topology.provisioned, "the streams have not been created: run `paystream migrate`");
    let streams = open_topology(store, &topology)?;
    // While it cannot be asked, nothing can be done with it.
    refuse_left(streams.were_moved().await.unwrap_or(false))?;
    Ok((streams, ledger, topology))
}

/// What changes something, on the configured stores or on those of `running`.
pub(super) async fn operations(store: StoreConfig, running: Running) -> anyhow::Result<Operations> {
    let (streams, ledger, topology) = open(&store.or(running)).await?;
    Ok(Operations::new(&streams, &ledger, &topology, clock::system))
}

/// What looks at both stores; also while the ledger is away.
pub(super) async fn operations_to_look(
    store: &StoreConfig,
    dedupe_window: Duration,
) -> anyhow::Result<Operations> {
    let (streams, ledger, topology, answers) = open_to_look(store).await?;
    let operations = Operations::new(&streams, &ledger, &topology, clock::system);
    operations.note_ledger(answers);
    Ok(operations.with_dedupe_window(dedupe_window))
}

/// As [`open`], and also while the ledger is away: then with the topology that
/// was noted in Redis, for looking only. The last says whether the ledger answers.
pub(super) async fn open_to_look(
    store: &StoreConfig,
) -> anyhow::Result<(Streams, Ledger, Topology, bool)> {
    let ledger = open_ledger(&store.ledger)?;
    let answers = !ledger.reach().await.is_err_and(|error| error.is_outage());
    if answers {
        let (streams, ledger, topology) = open(store).await?;
        return Ok((streams, ledger, topology, answers));
    }
    let noted = open_streams(store, 1, 1)?.noted_topology().await;
    let noted = noted.context("neither PostgreSQL nor Redis answers")?;
    let (generation, partitions) = noted.context(
        "PostgreSQL does not answer, and Redis does not know how the streams are cut: look again \
         when PostgreSQL is back",
    )?;
    let streams = open_streams(store, partitions, generation)?;
    Ok((streams, ledger, Topology::noted(generation, partitions), answers))
}

/// The ledger alone, and how the streams are cut.
pub(super) async fn ledger_and_topology(store: &StoreConfig) -> anyhow::Result<(Ledger, Topology)> {
    let ledger = open_ledger(&store.ledger)?;
    let schema = ledger.schema();
    schema.check().await.context("could not read the database")?;
    let topology = schema.topology(store.partitions, &store.key_prefix).await;
    Ok((ledger, topology.context("could not read the topology")?))
}

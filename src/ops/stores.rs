//! Opens both stores for an operator's command. Never for a topology that is
//! not the one in the settings.

use anyhow::{Context, ensure};

use crate::{
    config::StoreConfig,
    ledger::{Ledger, Topology},
    stream::Streams,
};

/// The streams and the ledger, once both are known to belong together, and how
/// the streams are cut.
pub(super) async fn open(store: &StoreConfig) -> anyhow::Result<(Streams, Ledger, Topology)> {
    let (ledger, topology) = open_ledger(store).await?;
    let Topology { partitions, generation, .. } = topology;
    let streams = Streams::new(store.redis_url()?, &store.key_prefix, partitions, generation)
        .context("PAYSTREAM_REDIS_URL is not one")?;
    ensure!(topology.provisioned, "the streams have not been created: run `paystream migrate`");
    Ok((streams, ledger, topology))
}

/// As [`open`], and also while the ledger is away: then with the topology that
/// was noted in Redis, for looking only.
pub(super) async fn open_to_look(
    store: &StoreConfig,
) -> anyhow::Result<(Streams, Ledger, Topology)> {
    let ledger =
        Ledger::new(store.ledger.database_url()?).context("PAYSTREAM_DATABASE_URL is not one")?;
    match ledger.schema().check().await {
        Err(error) if error.is_outage() => {}
        _ => return open(store).await,
    }
    let url = store.redis_url()?;
    let noted = Streams::noted_topology(url, &store.key_prefix).await;
    let noted = noted.context("neither PostgreSQL nor Redis answers")?;
    let (generation, partitions) = noted.context(
        "PostgreSQL does not answer, and Redis does not know how the streams are cut: look again \
         when PostgreSQL is back",
    )?;
    let streams = Streams::new(url, &store.key_prefix, partitions, generation)
        .context("PAYSTREAM_REDIS_URL is not one")?;
    Ok((streams, ledger, Topology::noted(generation, partitions)))
}

/// The ledger alone, and how the streams are cut.
pub(super) async fn open_ledger(store: &StoreConfig) -> anyhow::Result<(Ledger, Topology)> {
    let ledger =
        Ledger::new(store.ledger.database_url()?).context("PAYSTREAM_DATABASE_URL is not one")?;
    let schema = ledger.schema();
    schema.check().await.context("could not read the database")?;
    let topology = schema.topology(store.partitions, &store.key_prefix).await;
    Ok((ledger, topology.context("could not read the topology")?))
}

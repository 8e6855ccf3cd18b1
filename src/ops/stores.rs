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

/// The ledger alone, and how the streams are cut.
pub(super) async fn open_ledger(store: &StoreConfig) -> anyhow::Result<(Ledger, Topology)> {
    let ledger =
        Ledger::new(store.ledger.database_url()?).context("PAYSTREAM_DATABASE_URL is not one")?;
    let schema = ledger.schema();
    schema.check().await.context("could not read the database")?;
    let topology = schema.topology(store.partitions, &store.key_prefix).await;
    Ok((ledger, topology.context("could not read the topology")?))
}

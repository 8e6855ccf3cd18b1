//! Opens both stores for an operator's command. Never for a topology that is
//! not the one in the settings.

use anyhow::{Context, ensure};

use crate::{
    config::StoreConfig,
    ledger::{Ledger, Topology},
    stream::Streams,
};

/// The streams and the ledger, once both are known to belong together.
pub(super) async fn open(store: &StoreConfig) -> anyhow::Result<(Streams, Ledger)> {
    let ledger =
        Ledger::new(store.ledger.database_url()?).context("PAYSTREAM_DATABASE_URL is not one")?;
    let streams = Streams::new(store.redis_url()?, &store.key_prefix, store.partitions)
        .context("PAYSTREAM_REDIS_URL is not one")?;
    let schema = ledger.schema();
    schema.check().await.context("could not read the database")?;
    let topology = Topology { partitions: store.partitions, key_prefix: store.key_prefix.clone() };
    let provisioned =
        schema.check_topology(&topology).await.context("could not read the topology")?;
    ensure!(provisioned, "the streams have not been created: run `paystream migrate`");
    Ok((streams, ledger))
}

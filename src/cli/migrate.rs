//! `paystream migrate`: brings the schema to this release's, creates the
//! topology, and, once in a topology's life, the streams.

use anyhow::Context;
use clap::Args;
use tracing::info;

use crate::{
    config::StoreConfig,
    operations::{open_ledger, open_streams},
};

#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub store: StoreConfig,
}

/// Migrates; running it again changes nothing.
pub async fn run(store: &StoreConfig) -> anyhow::Result<()> {
    let ledger = open_ledger(&store.ledger)?;
    let schema = ledger.schema();
    schema.migrate().await.context("could not migrate the database")?;
    let currency = store.currency.as_deref();
    let in_cluster = open_streams(store, 1, 1)?.are_in_a_cluster();
    let topology =
        schema.establish(store.partitions, &store.key_prefix, currency, in_cluster).await;
    let topology = topology.context("could not set up the topology")?;
    if !topology.provisioned {
        let (partitions, generation) = (topology.partitions, topology.generation);
        let streams = open_streams(store, partitions, generation)?;
        streams.provision().await.context("could not create the streams")?;
        schema.set_provisioned().await.context("could not note that the streams exist")?;
        info!(partitions, "streams created");
    }
    info!("the database is up to date");
    Ok(())
}

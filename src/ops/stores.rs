//! Opens both stores for an operator's command. Never for a topology that is
//! not the one in the settings.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{
    clock,
    config::StoreConfig,
    control::Control,
    domain::Currency,
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

/// What looks at both stores; also while the ledger is away, over the topology that
/// was noted in Redis.
pub(super) async fn open_to_look(
    store: &StoreConfig,
    dedupe_window: Duration,
) -> anyhow::Result<Control> {
    let ledger =
        Ledger::new(store.ledger.database_url()?).context("PAYSTREAM_DATABASE_URL is not one")?;
    let is_away = ledger.reach().await.is_err_and(|error| error.is_outage());
    let (streams, topology) = match is_away {
        true => open_streams(store).await?,
        false => {
            let (streams, _, topology) = open(store).await?;
            (streams, topology)
        }
    };
    let control = Control::new(&streams, &ledger, &topology, clock::system);
    control.note_ledger(!is_away);
    Ok(control.with_dedupe_window(dedupe_window))
}

/// The streams alone, as they are noted in Redis to be cut.
async fn open_streams(store: &StoreConfig) -> anyhow::Result<(Streams, Topology)> {
    let url = store.redis_url()?;
    let noted = Streams::noted_topology(url, &store.key_prefix).await;
    let noted = noted.context("neither PostgreSQL nor Redis answers")?;
    let (generation, partitions) = noted.context(
        "PostgreSQL does not answer, and Redis does not know how the streams are cut: look again \
         when PostgreSQL is back",
    )?;
    let streams = Streams::new(url, &store.key_prefix, partitions, generation)
        .context("PAYSTREAM_REDIS_URL is not one")?;
    // While the ledger is away, no account can be opened in it.
    let currency = Currency::DEFAULT;
    let topology =
        Topology { generation, partitions, provisioned: true, resizing_to: None, currency };
    Ok((streams, topology))
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

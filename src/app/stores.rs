//! Opens Redis and PostgreSQL for a serving process. Never serves on a store that
//! could lose payments, or under another topology than the configured one.

use std::time::Duration;

use anyhow::{Context, bail};
use backon::{ExponentialBuilder, Retryable};
use tracing::warn;

use crate::{
    config::{LedgerConfig, StoreConfig},
    ledger::{self, Ledger, Topology},
    operations::{open_ledger, open_streams, open_topology, refuse_left},
    stream::{self, RedisVitals, Streams},
    telemetry::{Signals, StorePlaces},
};

/// How long a start waits for Redis and PostgreSQL.
const START_PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Stores {
    pub(super) streams: Streams,
    pub(super) ledger: Ledger,
    pub(super) topology: Topology,
    trace_key: Vec<u8>,
    pub(super) config: LedgerConfig,
}

impl Stores {
    /// From now on spans say where both are, and name references under the ledger's key.
    pub(super) fn are_told_to(&self, signals: &Signals) {
        signals.know_stores(StorePlaces {
            redis: self.streams.only_server(),
            postgresql: self.ledger.only_server(),
            database: self.ledger.database().map(str::to_owned),
        });
        signals.hide_references(&self.trace_key);
    }

    /// Waits until both stores answer, at most [`START_PATIENCE`], and refuses one that
    /// could lose payments, or whose user may not do what these roles of the database do.
    pub(super) async fn open(store: &StoreConfig, roles: &[&str]) -> anyhow::Result<Self> {
        let ledger = open_ledger(&store.ledger)?;
        // What Redis is allowed to be does not depend on the topology.
        let any = open_streams(store, 1, 1)?;
        let found = patiently("Redis", || any.unsafe_settings(), stream::Error::is_outage);
        let found = found.await?;
        if let Some(reason) = found.replica.or(found.evicts) {
            bail!("this Redis is not safe for payments: {reason}");
        }
        match found.loses {
            Some(reason) if store.allow_unsafe_redis => warn!(reason, "an unsafe Redis is allowed"),
            Some(reason) => bail!(
                "this Redis is not safe for payments: {reason}, or start with --allow-unsafe-redis and \
                 accept that loss"
            ),
            None => {}
        }
        let schema = ledger.schema();
        let is_outage = ledger::Error::is_outage;
        let found = patiently("PostgreSQL", || schema.unsafe_setting(), is_outage).await?;
        if let Some(reason) = found {
            bail!("this PostgreSQL is not safe for payments: {reason}");
        }
        patiently("PostgreSQL", || schema.check(), is_outage).await?;
        patiently("PostgreSQL", || schema.check_rights(roles), is_outage).await?;
        let superuser = patiently("PostgreSQL", || schema.superuser(), is_outage).await?;
        if let Some(name) = superuser {
            warn!(
                name,
                "this user of PostgreSQL may do everything: log in as a member of {}, so that \
                 whoever takes over this process may do no more than it does",
                roles.join(", ")
            );
        }
        let topology = || schema.topology(store.partitions, &store.key_prefix);
        let topology = patiently("PostgreSQL", topology, is_outage).await?;
        let topology = topology.in_currency(store.currency.as_deref())?;
        if !topology.provisioned {
            bail!("the streams have not been created: run `paystream migrate`");
        }
        let streams = open_topology(store, &topology)?;
        // Whoever served a Redis that was left would bring the partitions back there.
        let left = || streams.were_moved();
        refuse_left(patiently("Redis", left, stream::Error::is_outage).await?)?;
        let streams = streams.confirmed_by(schema.asking());
        let streams = match store.allow_unsafe_redis {
            true => streams,
            false => streams.insisting_on_safety(),
        };
        let (needed, vitals) = (u64::from(streams.replicas()), streams.vitals().await);
        let answered = vitals.iter().flatten().filter_map(|(_, vitals)| vitals.as_ref().ok());
        let there = answered.map(RedisVitals::replicas).min();
        let there = there.unwrap_or(needed);
        if there < needed {
            warn!(
                there,
                needed, "too few replicas follow Redis: payments are refused until they do"
            );
        }
        // Only for looking while the ledger is away.
        if let Err(error) = streams.note_topology(topology.generation).await {
            warn!(%error, "could not note the topology in Redis");
        }
        let trace_key = patiently("PostgreSQL", || schema.trace_key(), is_outage).await?;
        let config = store.ledger.clone();
        Ok(Self { streams, ledger, topology, trace_key, config })
    }

    /// How many servers of Redis take commands.
    pub(super) fn server_count(&self) -> u16 {
        u16::try_from(self.streams.server_count()).unwrap_or(u16::MAX)
    }
}

/// Whether a store was away, not one that does not do.
pub(super) fn is_outage(error: &anyhow::Error) -> bool {
    let is_away =
        |error: &stream::Error| error.is_outage() && !matches!(error, stream::Error::Unfit(_));
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(is_away)
            || cause.downcast_ref().is_some_and(ledger::Error::is_outage)
    })
}

/// Asks again while something is away, for as long as a start may wait.
pub(super) async fn patiently<T, E, F, A>(
    what: &str,
    ask: F,
    is_outage: fn(&E) -> bool,
) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
    F: FnMut() -> A,
    A: Future<Output = Result<T, E>>,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_total_delay(Some(START_PATIENCE))
        .without_max_times();
    let notify = |error: &E, _| warn!("waiting for {what}: {error}");
    let asking = ask.retry(pauses).when(is_outage).notify(notify);
    asking.await.with_context(|| format!("could not start with this {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_outage_is_known_behind_what_was_asked() {
        let ask = async || Err::<(), _>(ledger::Error::Fenced);
        let refused = patiently("PostgreSQL", ask, ledger::Error::is_outage).await;
        assert!(!is_outage(&refused.unwrap_err()));
        let away = anyhow::Error::new(stream::Error::Deadline(START_PATIENCE));
        assert!(is_outage(&away.context("could not start with this Redis")));
    }
}

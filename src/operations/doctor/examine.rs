//! Looks at everything with nothing but settings in hand: opens the stores as
//! far as they let themselves be opened, and looks at what is left. Never fails.

use super::{Checkup, KnownSettings, judge_ledger, look_at_redis, postgresql_away, unusable};
use crate::{
    clock::Clock,
    config::{ServeConfig, StoreConfig},
    ledger::{Error, Ledger, Topology},
    operations::{
        Operations,
        Severity::Critical,
        finding::{self as kind, Finding},
        open_ledger, open_streams,
    },
};

/// Looks at the settings and at everything behind them.
pub async fn examine(config: &ServeConfig, clock: Clock) -> Checkup {
    let known = KnownSettings::of(config);
    let mut findings = Vec::new();
    findings.extend(config.clone().check().err().map(|error| refused(&error)));
    let ledger =
        open_ledger(&config.store.ledger).map_err(|error| findings.push(refused(&error))).ok();
    // What Redis is does not depend on the topology.
    let streams = open_streams(&config.store, 1, 1);
    let streams = streams.map_err(|error| findings.push(refused(&error))).ok();
    if findings.is_empty() {
        findings.push(kind::SETTINGS.good());
    }
    let topology = match &ledger {
        Some(ledger) => topology(ledger, &config.store, &mut findings).await,
        None => None,
    };
    if let (Some(ledger), Some(topology), Some(_)) = (&ledger, &topology, &streams) {
        let Topology { partitions, generation, .. } = *topology;
        if let Ok(streams) = open_streams(&config.store, partitions, generation) {
            let operations = Operations::new(&streams, ledger, topology, clock);
            findings.extend(operations.look(known).await);
            return Checkup::of(findings, clock());
        }
    }
    if let Some(streams) = &streams {
        findings.extend(look_at_redis(streams, known, clock).await.0);
    }
    if let Some(store) = &ledger {
        let before = clock();
        findings.extend(match store.vitals().await {
            Ok(vitals) => judge_ledger(&vitals, (before, clock()), store.is_local()),
            Err(error) => vec![postgresql_away(&error)],
        });
    }
    Checkup::of(findings, clock())
}

fn refused(error: &anyhow::Error) -> Finding {
    kind::SETTINGS.found(Critical, format!("{error:#}"))
}

/// The topology as it was noted in Redis, for looking only.
async fn noted(store: &StoreConfig) -> Option<Topology> {
    let noted = open_streams(store, 1, 1).ok()?.noted_topology().await;
    let (generation, partitions) = noted.ok()??;
    Some(Topology::noted(generation, partitions))
}

/// The topology, if the ledger can be worked with; else tells why not.
async fn topology(
    ledger: &Ledger,
    store: &StoreConfig,
    findings: &mut Vec<Finding>,
) -> Option<Topology> {
    let schema = ledger.schema();
    match schema.check().await {
        Ok(()) => {}
        // Whether it is there at all is told by its vitals. What waits is looked at
        // all the same, if Redis knows how the streams are cut.
        Err(Error::Outage(_)) => return noted(store).await,
        Err(error) => {
            findings.push(unusable(&error));
            return None;
        }
    }
    let topology = schema.topology(store.partitions, &store.key_prefix).await;
    match topology.and_then(|topology| topology.in_currency(store.currency.as_deref())) {
        Ok(topology) if topology.provisioned => Some(topology),
        Ok(_) => {
            let sentence = "the streams have not been created in Redis yet";
            findings.push(kind::PROVISIONED.found(Critical, sentence));
            None
        }
        Err(Error::Schema(sentence)) => {
            findings.push(kind::TOPOLOGY.found(Critical, sentence));
            None
        }
        Err(_) => None,
    }
}

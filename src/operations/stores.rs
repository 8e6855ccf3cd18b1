//! Opens both stores as they are configured. Never one that is reached over a network in
//! plain text, unless that is allowed; never connects by itself.

use anyhow::{Context, ensure};

use crate::{
    config::{LedgerConfig, Pooler, StoreConfig, is_this_machine},
    ledger::{Cause, Ledger, Topology},
    stream::Streams,
};

pub fn open_ledger(config: &LedgerConfig) -> anyhow::Result<Ledger> {
    let ledger = opened(config, &config.database_url()?)
        .context("PAYSTREAM_DATABASE_URL is not a valid URL")?;
    let remedy = "add sslmode=verify-full to it";
    config.refuse_plaintext("PAYSTREAM_DATABASE_URL", ledger.plaintext_host(), remedy)?;
    Ok(ledger)
}

fn opened(config: &LedgerConfig, url: &str) -> Result<Ledger, Cause> {
    match config.database_pooler {
        Pooler::None => Ledger::new(url),
        Pooler::Transaction => Ledger::pooled(url),
    }
}

/// The standby that is read from, if there is one.
pub fn open_standby(config: &LedgerConfig, url: Option<&str>) -> anyhow::Result<Option<Ledger>> {
    let Some(url) = url else { return Ok(None) };
    let setting = "PAYSTREAM_DATABASE_READ_URL";
    let standby = opened(config, url).with_context(|| format!("{setting} is not a valid URL"))?;
    ensure!(!standby.is_several(), "{setting} names several servers: name the one to read from");
    config.refuse_plaintext(setting, standby.plaintext_host(), "add sslmode=verify-full to it")?;
    Ok(Some(standby))
}

/// The streams of this topology. Whether they were moved away is for the caller to ask, and to
/// [`refuse_left`].
pub fn open_topology(store: &StoreConfig, topology: &Topology) -> anyhow::Result<Streams> {
    let streams = open_streams(store, topology.partitions, topology.generation)?;
    topology.clone().on_redis(streams.are_in_a_cluster())?;
    Ok(streams)
}

/// Of a Redis that the streams were moved away from, nothing is served.
pub fn refuse_left(was_left: bool) -> anyhow::Result<()> {
    ensure!(
        !was_left,
        "the payments were moved from this Redis to another one: set PAYSTREAM_REDIS_URL to that"
    );
    Ok(())
}

pub fn open_streams(
    store: &StoreConfig,
    partitions: u16,
    generation: i32,
) -> anyhow::Result<Streams> {
    let streams = Streams::new(&store.redis_url()?, &store.key_prefix, partitions, generation)
        .context("PAYSTREAM_REDIS_URL is not a valid URL")?
        .replicated_to(store.replicas());
    let (authorities, certificate) = store.redis_certificates()?;
    let streams = match authorities.is_some() || certificate.is_some() {
        true => streams.with_certificates(authorities, certificate).context(
            "could not use PAYSTREAM_REDIS_CA_FILE, PAYSTREAM_REDIS_CERTIFICATE_FILE or \
             PAYSTREAM_REDIS_KEY_FILE",
        )?,
        false => streams,
    };
    let (ledger, remedy) = (&store.ledger, "begin it with rediss");
    for host in streams.plaintext_hosts() {
        ledger.refuse_plaintext("PAYSTREAM_REDIS_URL", Some(host), remedy)?;
    }
    // Sentinels name servers that no setting does.
    Ok(match ledger.allow_plaintext_stores {
        true => streams,
        false => streams.in_plaintext_to(is_this_machine),
    })
}

//! The cache of balances, for readers. Losing it loses nothing; never the source of truth.
//!
//! A reader that misses is handed a lease, reads the ledger, and fills the
//! cache only if its lease still stands. A batch removes value and lease before
//! it commits and keeps leases from being handed out until it has ended, so a
//! cached balance is never older than a payment that was reported applied, and
//! a slow reader never puts an old balance back. Value and lease name the server that
//! they were written under: a promoted replica may lack removals.

use std::time::Duration;

use redis::Value;
use tokio::time::timeout;

use super::{Error, Keys, scripts, shared::SharedConnection};
use crate::domain::CustomerId;

/// How long a reader may take from its lease to its fill.
const LEASE: Duration = Duration::from_secs(5);
/// How long the cache may take to answer, before the ledger is asked.
const PATIENCE: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    Hit(String),
    /// A miss: read the ledger, and fill with this lease.
    Lease(String),
    /// A miss: read the ledger and do not fill.
    Pass,
}

#[derive(Clone)]
pub struct Balances {
    pub(super) connection: SharedConnection,
    pub(super) keys: Keys,
    pub(super) time_to_live: Duration,
}

impl Balances {
    /// `token` is unique and becomes the lease if one is handed out.
    pub async fn get(&self, customer: &CustomerId, token: String) -> Result<Lookup, Error> {
        let looking = timeout(PATIENCE, self.look_up(customer, token));
        looking.await.unwrap_or(Err(Error::Deadline(PATIENCE)))
    }

    /// Fills the cache with a JSON object, if the lease still stands.
    pub async fn fill(&self, customer: &CustomerId, lease: &str, json: &str) -> Result<(), Error> {
        let filling = async {
            let slot = self.keys.slot(self.keys.partition_of(customer));
            let line = self.connection.line(slot).await?;
            let mut command = scripts::BALANCE_FILL.on(&[self.keys.balance(customer)]);
            command.arg(lease).arg(json).arg(self.time_to_live.as_millis().to_string());
            command.arg(&line.server.identity);
            let mut connection = line.connection.clone();
            let asking = scripts::BALANCE_FILL.ask::<Value>(&command, &mut connection);
            self.connection.ask(&line, asking).await.map(drop)
        };
        Ok(timeout(PATIENCE, filling).await.map_err(|_| Error::Deadline(PATIENCE))??)
    }

    /// Removes a cached balance and any lease to fill it, after a change in the ledger, so
    /// that no older balance is filled in. After an error the balance may be old until it
    /// expires.
    pub async fn forget(&self, customer: &CustomerId) -> Result<(), Error> {
        let mut command = redis::cmd("DEL");
        command.arg(self.keys.balance(customer));
        Ok(command.exec_async(&mut self.connection.clone()).await?)
    }

    async fn look_up(&self, customer: &CustomerId, token: String) -> Result<Lookup, Error> {
        let partition = self.keys.partition_of(customer);
        let keys = [self.keys.balance(customer), self.keys.settling(partition)];
        let line = self.connection.line(self.keys.slot(partition)).await?;
        let mut command = scripts::BALANCE_GET.on(&keys);
        command.arg(&token).arg(LEASE.as_millis().to_string()).arg(&line.server.identity);
        let mut connection = line.connection.clone();
        let asking = scripts::BALANCE_GET.ask::<Value>(&command, &mut connection);
        let reply = self.connection.ask(&line, asking).await?;
        if let Value::Int(granted) = reply {
            return Ok(if granted == 1 { Lookup::Lease(token) } else { Lookup::Pass });
        }
        Ok(Lookup::Hit(redis::from_redis_value(reply)?))
    }
}

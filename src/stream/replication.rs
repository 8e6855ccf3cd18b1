//! Confirms that replicas have what a server was told, where payments are answered for by more
//! than its own disk. Never answers for a server that another has replaced meanwhile.
//!
//! One `WAIT` covers everything that the server was told before it, whoever told it; so it is sent
//! over a connection of its own, for all appends that have been answered by then together. A
//! write goes before it: newer versions of Redis wait for the last write of the connection alone.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use redis::Pipeline;
use tokio::sync::Mutex;

use super::{
    Error, Streams,
    server::{self, Primary},
    shared::SharedConnection,
};

/// Servers, and former ones, whose rounds are remembered.
const SERVERS_MAX: usize = 64;

#[derive(Clone)]
pub(super) struct Replication {
    shared: SharedConnection,
    replicas: u32,
    /// How long they may take.
    patience: Duration,
    /// The last round of each server.
    rounds: Arc<std::sync::Mutex<HashMap<String, LastRound>>>,
}

type LastRound = Arc<Mutex<Option<Round>>>;

struct Round {
    began: Instant,
    /// The server, and how many replicas had everything in time.
    found: Result<(Primary, u32), Error>,
}

impl Replication {
    /// None where replicas do not count.
    pub(super) async fn connect(
        streams: &Streams,
        deadline: Duration,
    ) -> Result<Option<Self>, Error> {
        if streams.replicas == 0 {
            return Ok(None);
        }
        let shared = streams.shared_for(Some(deadline)).await?;
        let patience = shared.response_timeout() / 2;
        let replicas = streams.replicas;
        Ok(Some(Self { shared, replicas, patience, rounds: Arc::default() }))
    }

    /// Returns once enough replicas have what this server has answered by now. `key` is written.
    pub(super) async fn confirm(&self, key: &str, server: &Primary) -> Result<(), Error> {
        let answered = Instant::now();
        let last = self.last_of(server);
        let mut last = last.lock().await;
        // Whoever waited here is covered by a round that began meanwhile.
        let round = match last.take().filter(|round| round.began > answered) {
            Some(round) => round,
            None => Round { began: Instant::now(), found: self.ask(key).await },
        };
        let found = round.found.clone();
        *last = Some(round);
        match found? {
            (now, _) if now != *server => {
                // It may have become another without a broken connection.
                self.shared.leave(Instant::now());
                Err(server::away("another server has taken over").into())
            }
            (_, has) if has < self.replicas => {
                Err(Error::Unreplicated { has, wanted: self.replicas })
            }
            _ => Ok(()),
        }
    }

    fn last_of(&self, server: &Primary) -> LastRound {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if rounds.len() > SERVERS_MAX {
            rounds.clear();
        }
        Arc::clone(rounds.entry(server.identity.clone()).or_default())
    }

    async fn ask(&self, key: &str) -> Result<(Primary, u32), Error> {
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.cmd("SET").arg(key).arg("");
        pipeline.cmd("WAIT").arg(self.replicas);
        pipeline.arg(u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX));
        pipeline.cmd("INFO").arg(&server::SECTIONS);
        let asked = pipeline.query_async(&mut self.shared.clone()).await;
        let ((), has, info): ((), u32, String) = asked?;
        Ok((server::read_primary(&info)?, has))
    }
}

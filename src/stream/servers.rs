//! Which server of Redis takes commands now: as its address says, or as most of its Sentinels
//! know. Asks them at every new connection, and in between where [`Servers::follow`] runs or
//! a connection failed. Never sends a command of ours, and never sends one twice.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::info;

use super::{
    address::{Address, Kind, Node},
    connecting::connection_config,
    safety,
    scripts::Lua,
    server::{self, Primary},
};

/// How long a Sentinel may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer counts for as long; there is no other question meanwhile.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How often Sentinels are asked although nothing failed: a master that is cut off from them
/// may go on answering us.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// The servers that take commands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) node: Node,
}

/// How a connection begins.
pub(super) struct Opening {
    pub(super) name: String,
    pub(super) response_timeout: Duration,
    pub(super) insists_on_safety: bool,
    pub(super) scripts: &'static [&'static Lua],
}

#[derive(Clone)]
pub(super) struct Servers(Arc<Known>);

struct Known {
    address: Address,
    /// To which hosts connections without TLS are allowed.
    plaintext_to: fn(&str) -> bool,
    current: Mutex<Option<Arc<Layout>>>,
    /// What is known may be wrong.
    doubted: AtomicBool,
    /// Held while asking: when that was last, and whether it failed.
    asked: tokio::sync::Mutex<Option<(Instant, Option<RedisError>)>>,
}

impl Servers {
    pub(super) fn new(address: Address, plaintext_to: fn(&str) -> bool) -> Self {
        let layout = match address.kind {
            Kind::Single => address.nodes.first(),
            Kind::Sentinel { .. } => None,
        };
        let layout = layout.map(|node| Arc::new(Layout { node: node.clone() }));
        Self(Arc::new(Known {
            address,
            plaintext_to,
            current: Mutex::new(layout),
            doubted: AtomicBool::new(false),
            asked: tokio::sync::Mutex::new(None),
        }))
    }

    pub(super) fn address(&self) -> &Address {
        &self.0.address
    }

    fn is_single(&self) -> bool {
        matches!(self.0.address.kind, Kind::Single)
    }

    pub(super) fn current(&self) -> Option<Arc<Layout>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Something failed that another server may do.
    pub(super) fn doubt(&self) {
        self.0.doubted.store(!self.is_single(), Ordering::Relaxed);
    }

    /// The servers as they are known; asked for where nothing is known, or it is in doubt. While
    /// nobody answers, what was known last counts for connections that stand.
    pub(super) async fn layout(&self) -> RedisResult<Arc<Layout>> {
        match self.current() {
            Some(known) if !self.0.doubted.load(Ordering::Relaxed) => Ok(known),
            Some(known) => Ok(self.ask().await.unwrap_or(known)),
            None => self.ask().await,
        }
    }

    /// Asks which servers there are now.
    async fn ask(&self) -> RedisResult<Arc<Layout>> {
        let mut asked = self.0.asked.lock().await;
        let recent = asked.as_ref().filter(|(at, _)| at.elapsed() < ASK_PAUSE);
        if recent.is_none() {
            self.0.doubted.store(false, Ordering::Relaxed);
            let found = self.ask_most().await;
            let at = Instant::now();
            match found {
                Ok(layout) => {
                    *asked = Some((at, None));
                    self.learn(layout);
                }
                Err(error) => *asked = Some((at, Some(error))),
            }
        }
        let failed = asked.as_ref().and_then(|(_, error)| error.clone());
        failed.map_or_else(|| self.current().ok_or_else(unknown), Err)
    }

    fn learn(&self, layout: Layout) {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() == Some(&layout) {
            return;
        }
        if let Some(before) = &*current {
            info!(before = %before.node, now = %layout.node, "another server of Redis is the master");
        }
        *current = Some(Arc::new(layout));
    }

    /// What most of those say that know, or as many as answer in time: the newest of it, since
    /// one that is cut off from the others still says what it knew.
    async fn ask_most(&self) -> RedisResult<Layout> {
        let nodes = &self.0.address.nodes;
        let asking = nodes.iter().map(|node| timeout(ASK_TIMEOUT, self.ask_one(node)));
        let mut asking: FuturesUnordered<_> = asking.collect();
        let (mut newest, mut answers, mut failed) = (None::<(u64, Layout)>, 0, unknown());
        while answers <= nodes.len() / 2
            && let Some(answer) = asking.next().await
        {
            match answer {
                Ok(Ok(answer)) => {
                    answers += 1;
                    newest = newest.into_iter().chain([answer]).max_by_key(|(epoch, _)| *epoch);
                }
                Ok(Err(error)) => failed = error,
                Err(_) => {}
            }
        }
        newest.map(|(_, layout)| layout).ok_or(failed)
    }

    /// What one of them says, and how new that is.
    async fn ask_one(&self, node: &Node) -> RedisResult<(u64, Layout)> {
        let Kind::Sentinel { master, .. } = &self.0.address.kind else { return Err(unknown()) };
        let client = self.0.address.guide(node)?;
        let config = connection_config(ASK_TIMEOUT);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(master);
        let known: HashMap<String, String> = command.query_async(&mut connection).await?;
        let number = |name: &str| known.get(name).and_then(|text| text.parse::<u64>().ok());
        let port = number("port").and_then(|port| u16::try_from(port).ok());
        let (Some(host), Some(port)) = (known.get("ip").cloned(), port) else {
            return Err(unknown());
        };
        Ok((number("config-epoch").unwrap_or(0), Layout { node: Node { host, port } }))
    }

    /// Asks again and again, where there is somebody to ask. Runs for ever.
    pub(super) async fn follow(&self) {
        let mut looks = interval(FOLLOW_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_single() {
            looks.tick().await;
            // Whoever connects meets the failure, too.
            let _ = self.ask().await;
        }
        std::future::pending().await
    }

    /// A new connection to a server. Where Sentinels know it, most of them must name it now.
    pub(super) async fn open(
        &self,
        node: &Node,
        opening: &Opening,
    ) -> RedisResult<(MultiplexedConnection, RedisResult<Arc<Primary>>)> {
        let opened = self.try_open(node, opening).await;
        if opened.is_err() {
            self.doubt();
        }
        opened
    }

    async fn try_open(
        &self,
        node: &Node,
        opening: &Opening,
    ) -> RedisResult<(MultiplexedConnection, RedisResult<Arc<Primary>>)> {
        let address = &self.0.address;
        if !self.is_single() && self.ask().await?.node != *node {
            return Err(moved());
        }
        if address.is_plaintext() && !(self.0.plaintext_to)(&node.host) {
            return Err(server::unfit(format!(
                "{node} would be reached without TLS: begin PAYSTREAM_REDIS_URL with rediss, or \
                 start with --allow-plaintext-stores"
            )));
        }
        let config = connection_config(opening.response_timeout);
        let client = address.client(node)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("CLIENT").arg("SETNAME").arg(&opening.name).exec_async(&mut connection).await?;
        let server = server::primary(&mut connection).await.map(Arc::new);
        if !self.is_single() {
            server.as_ref().map_err(Clone::clone)?;
        }
        if opening.insists_on_safety {
            server.as_ref().map_err(Clone::clone)?;
            safety::insist_on_safety(&mut connection).await?;
        }
        for script in opening.scripts {
            script.load(&mut connection).await?;
        }
        Ok((connection, server))
    }
}

fn unknown() -> RedisError {
    server::away("no Sentinel says which server is the master")
}

/// The error of a connection to a server that another has replaced.
pub(super) fn moved() -> RedisError {
    server::away("another server has taken over")
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Servers").field("address", &self.0.address).finish()
    }
}

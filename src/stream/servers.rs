//! Which server of Redis takes which commands now: as its address says, as most of its Sentinels
//! know, or as most nodes of a cluster do. They are asked every second where
//! [`Servers::follow`] runs and after failures, Sentinels at every new connection. Never sends a
//! command of ours, and never sends one twice.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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
    connecting::{Reply, connection_config, is_over},
    guides,
    layout::{Layout, unknown},
    safety,
    scripts::Lua,
    server::{self, Primary},
};

/// How long a Sentinel may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer counts for as long; there is no other question meanwhile.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How often they are asked although nothing failed: a master that is cut off from them may go on
/// answering us.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// How a connection begins.
pub(super) struct Opening {
    pub(super) name: String,
    /// Of all keys of ours.
    pub(super) key_prefix: String,
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
    /// What is known, and how new that is.
    current: Mutex<Option<(u64, Arc<Layout>)>>,
    /// What is known may be wrong.
    doubted: AtomicBool,
    /// Held while asking: when that was last, and whether it failed.
    asked: tokio::sync::Mutex<Option<(Instant, Option<RedisError>)>>,
}

impl Servers {
    pub(super) fn new(address: Address, plaintext_to: fn(&str) -> bool) -> Self {
        let layout = match address.kind {
            Kind::Single => address.nodes.first(),
            Kind::Sentinel { .. } | Kind::Cluster => None,
        };
        let layout = layout.map(|node| (0, Arc::new(Layout::of_one(node.clone()))));
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

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.0.address.kind, Kind::Cluster)
    }

    pub(super) fn current(&self) -> Option<Arc<Layout>> {
        self.known().as_ref().map(|(_, layout)| Arc::clone(layout))
    }

    fn known(&self) -> MutexGuard<'_, Option<(u64, Arc<Layout>)>> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something failed that another server may do.
    pub(super) fn doubt(&self) {
        self.0.doubted.store(!self.is_single(), Ordering::Relaxed);
    }

    /// Doubts what is known after a reply that another server would not have given.
    pub(super) fn judge<R: Reply>(&self, reply: &RedisResult<R>) {
        let is_wrong = match reply {
            Err(error) => is_over(error) || error.is_cluster_error(),
            Ok(reply) => reply.is_of_another_server(),
        };
        if is_wrong {
            self.doubt();
        }
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
            let failed = found.map(|(epoch, layout)| self.learn(epoch, layout)).err();
            *asked = Some((at, failed));
        }
        let failed = asked.as_ref().and_then(|(_, error)| error.clone());
        failed.map_or_else(|| self.current().ok_or_else(unknown), Err)
    }

    fn learn(&self, epoch: u64, layout: Layout) {
        let mut known = self.known();
        if let Some((_, before)) = &*known
            && before.nodes != layout.nodes
        {
            info!(before = ?before.nodes, now = ?layout.nodes, "other servers of Redis take commands");
        }
        *known = Some((epoch, Arc::new(layout)));
    }

    /// What most of those say that know, or as many as answer in time: the newest of it, since
    /// one that is cut off from the others still says what it knew. Few of them are not believed
    /// where more was known.
    async fn ask_most(&self) -> RedisResult<(u64, Layout)> {
        let known = self.known().clone();
        let mut nodes: BTreeSet<&Node> = self.0.address.nodes.iter().collect();
        let in_cluster = known.as_ref().filter(|_| self.is_cluster());
        nodes.extend(in_cluster.iter().flat_map(|(_, layout)| &layout.nodes));
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
        let known = known.as_ref().map_or(0, |(epoch, _)| *epoch);
        let is_believed = |(epoch, _): &(u64, Layout)| answers > nodes.len() / 2 || *epoch >= known;
        newest.filter(is_believed).ok_or(failed)
    }

    /// What one of them says, and how new that is.
    async fn ask_one(&self, node: &Node) -> RedisResult<(u64, Layout)> {
        let client = self.0.address.guide(node)?;
        let config = connection_config(ASK_TIMEOUT);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        match &self.0.address.kind {
            Kind::Single => Err(unknown()),
            Kind::Sentinel { master, .. } => guides::ask_sentinel(&mut connection, master).await,
            Kind::Cluster => guides::ask_node(&mut connection, node).await,
        }
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
        let is_sentinel = matches!(address.kind, Kind::Sentinel { .. });
        if is_sentinel && !self.ask().await?.nodes.contains(node) {
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
        redis::cmd("CLIENT")
            .arg("SETNAME")
            .arg(format!("{}:{}", opening.key_prefix, opening.name))
            .exec_async(&mut connection)
            .await?;
        let server = server::primary(&mut connection, self.is_cluster()).await.map(Arc::new);
        if !self.is_single() {
            server.as_ref().map_err(Clone::clone)?;
        }
        if opening.insists_on_safety {
            server.as_ref().map_err(Clone::clone)?;
            safety::insist_on_safety(&mut connection, self.is_cluster()).await?;
        }
        for script in opening.scripts {
            script.load(&mut connection).await?;
        }
        Ok((connection, server))
    }
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

//! The stream: append, take, ack. The only room that knows Redis.
//!
//! # Redis Streams in brief
//!
//! A stream is an append-only list of entries with rising ids. A consumer
//! group remembers how far it has read, and for each entry it handed out
//! whether that entry was acknowledged; what was handed out and not
//! acknowledged is *pending* and is never handed out again by itself.
//!
//! # Keys
//!
//! For partition 7, under the default prefix:
//!
//! | key | holds |
//! |---|---|
//! | `paystream:{p07}:stream` | the payments, in order |
//! | `paystream:{p07}:seq` | the last sequence that was given out; `resize:` before it while closed, `resized:` for good, `lost:` until its owner has brought it back |
//! | `paystream:{p07}:lineage` | which servers gave out which sequences: one line each |
//! | `paystream:{p07}:lost` | sequences whose entries Redis has lost |
//! | `paystream:{p07}:backlog` | unsettled entries when an append last counted them, the sequence then, and the limit |
//! | `paystream:{p07}:shares` | how many entries each source has in each stretch of sequences, where there are sources |
//! | `paystream:{p07}:owner` | mirror of owner and epoch; the ledger holds the truth |
//! | `paystream:{p07}:dead` | notices of entries that became dead letters |
//! | `paystream:{p07}:refs` | the tables of references: when the newest ends, and which there are |
//! | `paystream:{p07}:refs:<table>:<hash>` | for some references of a table, what each was recently sent as |
//! | `paystream:{p07}:refs-beside`, `:refs-beside:<table>:<hash>` | the same of payments from an earlier topology whose reference stands for another payment |
//! | `paystream:{p07}:ref:<reference>`, `:beside:<reference>` | what releases before remembered, a key each; only read |
//! | `paystream:webhook:<source>:<id>` | which body came with the id of a webhook |
//! | `paystream:{p07}:replicated` | nothing: written before replicas are waited for |
//! | `paystream:{p07}:settling` | exists while a batch is being settled |
//! | `paystream:{p07}:balance:<customer>` | a cached balance, or the lease to fill it, behind the server it was written under |
//!
//! `paystream:topology` notes generation and number of partitions, for looking
//! while the ledger is away; `paystream:moved` the generation from which the streams are in another
//! Redis. After a change of the number of partitions they begin with `paystream:{g2p07}`
//! and so on. In a cluster a number follows, by which they are spread evenly: `paystream:{p07.3}`.
//!
//! Never decides what an entry means, never retries by itself (but for an
//! append, within its deadline), and never knows the ledger or HTTP.

mod keys;
mod error;
mod replies;
mod scripts;
mod connecting;
mod address;
mod server;
mod layout;
mod guides;
mod servers;
mod routing;
mod lines;
mod safety;
mod authority;
mod shared;
mod lineage;
mod wire;
mod references;
mod replication;
mod appended;
mod producer;
mod gathering;
mod finder;
mod consumer;
mod state;
mod balances;
mod upkeep;
mod positions;
mod other_groups;
mod gates;
mod left_behind;
mod inspector;
mod vitals;
mod capacity;
mod webhooks;
mod lifeline;
pub mod permissions;
#[doc(hidden)]
pub mod measured;

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use redis::{ClientTlsConfig, TlsCertificates, aio::MultiplexedConnection};
use tracing::warn;

pub use appended::{Appended, EntryPosition};
pub use balances::{Balances, Lookup};
pub use capacity::payments_held;
pub use consumer::{Consumer, Delivered, Taken, TakenFrom};
pub use error::Error;
pub use finder::{Finder, Heads, Unsettled, UnsettledEntry};
pub use gates::Gates;
pub use gathering::Gathering;
pub use inspector::{EntryBody, Inspector, Pending, PendingCount};
pub use left_behind::{LeftBehind, Past};
pub use lifeline::Lifeline;
pub use lineage::History;
pub use other_groups::{OtherGroups, StartsFrom};
pub use positions::GroupPosition;
pub use producer::{AppendLimits, Producer, ReceivedPayment};
pub use state::{Kept, PartitionState, Remains, Reopening};
pub use upkeep::{Contents, Depth, Presence, RedisInfo, Trim, Upkeep};
pub use vitals::RedisVitals;
pub use wire::{fields_of, read_fields};

use address::{Address, Kind};
use authority::Authority;
use connecting::{APPEND_TIMEOUT, RESPONSE_TIMEOUT};
use error::answered;
pub(crate) use keys::GROUP;
use keys::Keys;
use lines::Lines;
pub use safety::Unsafe;
use servers::{Opening, Servers};
use shared::SharedConnection;

/// Entries that one stream may hold, settled ones included, in multiples of the
/// backlog's limit. As `lua/append.lua` has it.
pub const KEPT_MAX: i64 = 8;
/// Where the streams are; hands out what may be done with them.
#[derive(Clone, Debug)]
pub struct Streams {
    servers: Servers,
    keys: Keys,
    /// Connections for payments refuse a server that does not keep its data.
    insists_on_safety: bool,
    /// How many replicas must have what is appended.
    replicas: u32,
    /// Says whether these streams are served.
    authority: Option<Authority>,
    generation: i32,
    response_timeout: Duration,
}

impl Streams {
    /// The streams of one generation of the topology. Reads the URL; does not
    /// connect.
    pub fn new(
        url: &str,
        key_prefix: &str,
        partitions: u16,
        generation: i32,
    ) -> Result<Self, Error> {
        let servers = Servers::new(Address::parse(url)?, |_| true);
        let keys = match servers.is_cluster() {
            true => Keys::spread(key_prefix, partitions, generation),
            false => Keys::new(key_prefix, partitions, generation),
        };
        let (insists_on_safety, replicas, authority) = (false, 0, None);
        let response_timeout = RESPONSE_TIMEOUT;
        Ok(Self {
            servers,
            keys,
            insists_on_safety,
            replicas,
            authority,
            generation,
            response_timeout,
        })
    }

    /// The same, where servers must have a certificate of these authorities, in PEM, and are shown
    /// this certificate with its key.
    pub fn with_certificates(
        self,
        root_cert: Option<Vec<u8>>,
        client: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, Error> {
        let client_tls =
            client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = TlsCertificates { client_tls, root_cert };
        let address = self.servers.address().clone().with_certificates(&certificates)?;
        Ok(Self { servers: Servers::new(address, |_| true), ..self })
    }

    /// The same, where servers at other hosts are reached with TLS only.
    pub fn in_plaintext_to(self, is_allowed: fn(&str) -> bool) -> Self {
        let servers = Servers::new(self.servers.address().clone(), is_allowed);
        Self { servers, ..self }
    }

    /// The same, where so many replicas must have a payment before it counts as appended.
    pub fn replicated_to(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// The same, where a server that has not answered within this counts as away.
    pub fn answering_within(self, response_timeout: Duration) -> Self {
        Self { response_timeout, ..self }
    }

    /// How many replicas must have a payment; none where the disk of the server is enough.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// The hosts of the address that are reached without TLS.
    pub fn plaintext_hosts(&self) -> impl Iterator<Item = &str> {
        let address = self.servers.address();
        let nodes = address.nodes.iter().filter(|_| address.is_plaintext());
        nodes.map(|node| node.host.as_str())
    }

    /// Host and port, where one server is named and no others can take its place.
    pub fn only_server(&self) -> Option<(String, u16)> {
        let address = self.servers.address();
        let node = address.nodes.first().filter(|_| matches!(address.kind, Kind::Single))?;
        Some((node.host.clone(), node.port))
    }

    /// Notices when another server takes over. Runs for ever.
    pub async fn follow(&self) {
        self.servers.follow().await;
    }

    /// The streams of another topology, on the same server.
    pub fn of_topology(&self, partitions: u16, generation: i32) -> Self {
        let keys = self.keys.of_topology(partitions, generation);
        Self { keys, generation, ..self.clone() }
    }

    pub fn key_prefix(&self) -> &str {
        self.keys.prefix()
    }

    /// The same, where every connection for payments is refused by a server
    /// whose settings do not keep what it acknowledges.
    pub fn insisting_on_safety(self) -> Self {
        Self { insists_on_safety: true, ..self }
    }

    /// The same, where before the first append to another server the ledger is
    /// asked which generation is served, and whether that is being changed.
    pub fn confirmed_by<A>(self, ask: A) -> Self
    where
        A: Fn() -> BoxFuture<'static, Option<(i32, bool)>> + Send + Sync + 'static,
    {
        Self { authority: Some(Authority::new(self.generation, Arc::new(ask))), ..self }
    }

    /// Whether the streams are spread over the servers of a cluster.
    pub fn are_in_a_cluster(&self) -> bool {
        self.servers.is_cluster()
    }

    /// How many servers take commands now; one where that is not known.
    pub fn server_count(&self) -> usize {
        self.servers.current().map_or(1, |layout| layout.nodes.len())
    }

    /// The server of a partition, where there are several and that is known.
    pub fn server_of(&self, partition: u16) -> Option<String> {
        let layout = self.servers.current().filter(|_| self.servers.is_cluster())?;
        Some(layout.nodes[layout.server_of(self.keys.slot(partition))?].to_string())
    }

    /// What is unsafe on any of the servers that answer. The others are asked when payments are
    /// given to them.
    pub async fn unsafe_settings(&self) -> Result<Unsafe, Error> {
        let in_cluster = self.servers.is_cluster();
        let ask = |mut connection| async move {
            safety::unsafe_settings(&mut connection, in_cluster).await
        };
        let found = self.ask_each("check", ask).await?.into_iter().map(|(server, found)| {
            found.inspect_err(|error| warn!(server, %error, "a server of Redis does not answer"))
        });
        let mut all = Unsafe::default();
        for found in answered(found)? {
            all.replica = all.replica.or(found.replica);
            all.evicts = all.evicts.or(found.evicts);
            all.loses = all.loses.or(found.loses);
        }
        Ok(all)
    }

    /// Whether a server takes a new connection and answers on it. One master of a cluster that is
    /// away must not keep a worker from what the others have.
    pub async fn reach(&self) -> Result<(), Error> {
        // Naming the connection is a question that is answered.
        Ok(self.lines("reach").await?.any().await?)
    }

    /// Creates every stream with its group at id 0. Only for a topology whose
    /// streams have never existed.
    pub async fn provision(&self) -> Result<(), Error> {
        let mut connection = self.connect("provision").await?;
        upkeep::create_groups(&self.keys, GROUP, &mut connection).await?;
        lineage::begin(&self.keys, &connection).await
    }

    pub async fn gates(&self) -> Result<Gates, Error> {
        Ok(Gates { connection: self.connect("resize").await?, keys: self.keys.clone() })
    }

    pub async fn producer(&self, limits: AppendLimits) -> Result<Producer, Error> {
        Producer::connect(self, limits).await
    }

    pub async fn finder(&self, dedupe_window: Duration) -> Result<Finder, Error> {
        let connection = self.shared().await?;
        Ok(Finder { connection, keys: self.keys.clone(), dedupe_window })
    }

    /// What takes and acknowledges, under the name of `worker`, for this
    /// incarnation of it.
    pub async fn consumer(&self, worker: &str, incarnation: &str) -> Result<Consumer, Error> {
        Consumer::connect(self, worker, incarnation).await
    }

    pub async fn balances(&self, time_to_live: Duration) -> Result<Balances, Error> {
        let connection = self.shared().await?;
        Ok(Balances { connection, keys: self.keys.clone(), time_to_live })
    }

    pub async fn upkeep(&self) -> Result<Upkeep, Error> {
        Ok(Upkeep { connection: self.shared().await?, keys: self.keys.clone() })
    }

    pub async fn inspector(&self) -> Result<Inspector, Error> {
        Ok(Inspector { connection: self.shared().await?, keys: self.keys.clone() })
    }

    pub async fn other_groups(&self) -> Result<OtherGroups, Error> {
        Ok(OtherGroups { connection: self.shared().await?, keys: self.keys.clone() })
    }

    /// Notes how the streams are cut, for operators who look while the ledger is away.
    /// The ledger holds the truth; nothing but looking uses this.
    pub async fn note_topology(&self, generation: i32) -> Result<(), Error> {
        let mut connection = self.lines("topology").await?;
        let note = format!("{generation} {}", self.keys.partitions);
        let mut set = redis::cmd("SET");
        set.arg(format!("{}:topology", self.keys.prefix())).arg(note);
        Ok(set.exec_async(&mut connection).await?)
    }

    /// Generation and number of partitions as they were noted last.
    pub async fn noted_topology(&self) -> Result<Option<(i32, u16)>, Error> {
        let mut connection = self.lines("topology").await?;
        let note: Option<String> = redis::cmd("GET")
            .arg(format!("{}:topology", self.keys.prefix()))
            .query_async(&mut connection)
            .await?;
        let numbers = note.as_deref().and_then(|note| note.split_once(' '));
        Ok(numbers.and_then(|(generation, partitions)| {
            Some((generation.parse().ok()?, partitions.parse().ok()?))
        }))
    }

    /// Whether this Redis was left: its streams are in another one.
    pub async fn were_moved(&self) -> Result<bool, Error> {
        let mut connection = self.lines("topology").await?;
        let mut get = redis::cmd("GET");
        let note: Option<String> = get.arg(self.keys.moved()).query_async(&mut connection).await?;
        let from = note.and_then(|note| note.parse::<i32>().ok()).filter(|from| *from > 0);
        Ok(from.is_some_and(|from| from <= self.generation))
    }

    /// Plain connections of its own: they never reconnect behind the back of their user.
    async fn lines(&self, name: &str) -> Result<Lines, Error> {
        Ok(Lines::new(&self.servers, self.opening(name)).await?)
    }

    /// What each server says over a connection of its own, or why it does not, by its name.
    async fn ask_each<T, A>(
        &self,
        name: &str,
        ask: impl Fn(MultiplexedConnection) -> A,
    ) -> Result<Vec<(String, Result<T, Error>)>, Error>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let (lines, ask) = (self.lines(name).await?, &ask);
        let asking = lines.by_name().map(|(server, line)| async move {
            let asked = async { ask(line.await?.connection.clone()).await };
            (server, asked.await)
        });
        Ok(join_all(asking).await)
    }

    /// Connections for what needs every server.
    async fn connect(&self, name: &str) -> Result<Lines, Error> {
        let lines = self.lines(name).await?;
        lines.each().await?;
        Ok(lines)
    }

    fn opening(&self, name: &str) -> Opening {
        Opening {
            name: name.to_owned(),
            key_prefix: self.keys.prefix().to_owned(),
            response_timeout: self.response_timeout,
            insists_on_safety: false,
            scripts: &[],
        }
    }

    async fn shared_for(
        &self,
        append_deadline: Option<Duration>,
    ) -> Result<SharedConnection, Error> {
        let response_timeout = append_deadline
            .map_or(self.response_timeout, |deadline| APPEND_TIMEOUT.min(deadline / 2));
        let opening = Opening {
            response_timeout,
            insists_on_safety: append_deadline.is_some() && self.insists_on_safety,
            ..self.opening("shared")
        };
        SharedConnection::connect(self.servers.clone(), opening).await
    }

    async fn shared(&self) -> Result<SharedConnection, Error> {
        self.shared_for(None).await
    }
}

//! A connection that many share and that comes back; to a cluster one to each server. It is given up after any
//! failure that may outlast one command: a break, a reply that does not come
//! (a half-open connection), or a server that has become a replica. Commands
//! that were under way then fail; none is sent twice. Silence counts also where
//! every caller stopped waiting before the reply was late.

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{join_all, select_ok, try_join_all};
use redis::{
    Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{
    Error,
    address::Node,
    connecting::{Reply, is_over},
    layout::{Layout, uncovered},
    routing::{self, Way},
    server::Primary,
    servers::{Opening, Servers},
};

/// Pause after a connection could not be made.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct SharedConnection(Arc<Shared>);

struct Shared {
    servers: Servers,
    opening: Opening,
    places: Mutex<HashMap<Node, Arc<Place>>>,
}

/// The connection to one server.
#[derive(Default)]
struct Place {
    /// The one in use. Never locked across an await.
    line: Mutex<Option<ServerLine>>,
    /// Held while connecting: when that failed last, and why.
    connecting: tokio::sync::Mutex<Option<(Instant, RedisError)>>,
}

#[derive(Clone)]
pub(super) struct ServerLine {
    pub(super) connection: MultiplexedConnection,
    pub(super) server: Arc<Primary>,
    node: Node,
    made_at: Instant,
    /// When the first of the unanswered commands was sent.
    unanswered: Arc<Mutex<Option<Instant>>>,
}

impl ServerLine {
    fn unanswered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedConnection {
    pub(super) async fn connect(servers: Servers, opening: Opening) -> Result<Self, Error> {
        let shared = Self(Arc::new(Shared { servers, opening, places: Mutex::default() }));
        shared.first(|_| ready(RedisResult::Ok(()))).await?;
        Ok(shared)
    }

    pub(super) fn response_timeout(&self) -> Duration {
        self.0.opening.response_timeout
    }

    pub(super) fn is_of_a_cluster(&self) -> bool {
        self.0.servers.is_cluster()
    }

    /// The connection to use now for keys in this slot; a new one if the last was given up.
    pub(super) async fn line(&self, slot: u16) -> RedisResult<ServerLine> {
        let layout = self.0.servers.layout().await?;
        let Some(server) = layout.server_of(slot) else {
            self.0.servers.doubt();
            return Err(uncovered());
        };
        self.line_to(&layout, server).await
    }

    /// What the first server answers that answers well, of all that are asked at once.
    pub(super) async fn first<T, E, A>(&self, ask: impl Fn(ServerLine) -> A) -> Result<T, E>
    where
        E: From<RedisError>,
        A: Future<Output = Result<T, E>>,
    {
        let layout = self.0.servers.layout().await?;
        let asking = (0..layout.nodes.len()).map(|server| {
            let line = self.line_to(&layout, server);
            Box::pin(async { ask(line.await?).await })
        });
        let asking: Vec<_> = asking.collect();
        if asking.is_empty() {
            return Err(uncovered().into());
        }
        Ok(select_ok(asking).await?.0)
    }

    /// Asks one server. In a cluster, where [`Self::first`] stops waiting for the slower ones, an
    /// answer that nobody has waited for is no sign of silence.
    pub(super) async fn probe(&self, line: ServerLine, command: &Cmd) -> RedisResult<Value> {
        if !self.is_of_a_cluster() {
            return self.send(line, command).await;
        }
        line.connection.clone().req_packed_command(command).await
    }

    /// Connections to all servers.
    pub(super) async fn all_lines(&self) -> RedisResult<Vec<ServerLine>> {
        let layout = self.0.servers.layout().await?;
        try_join_all((0..layout.nodes.len()).map(|server| self.line_to(&layout, server))).await
    }

    /// Connections to all servers that can be reached.
    async fn lines(&self) -> RedisResult<Vec<ServerLine>> {
        let layout = self.0.servers.layout().await?;
        let lines = (0..layout.nodes.len()).map(|server| self.line_to(&layout, server));
        Ok(join_all(lines).await.into_iter().flatten().collect())
    }

    /// Whether keys in this slot are at the server of this connection.
    pub(super) fn leads_to(&self, slot: u16, line: &ServerLine) -> bool {
        self.0.servers.current().is_some_and(|layout| {
            layout.server_of(slot).is_some_and(|server| layout.nodes[server] == line.node)
        })
    }

    async fn line_to(&self, layout: &Layout, server: usize) -> RedisResult<ServerLine> {
        let node = &layout.nodes[server];
        let place = self.place(layout, node);
        if let Some(line) = self.current(&place) {
            return Ok(line);
        }
        let mut failed = place.connecting.lock().await;
        if let Some(line) = self.current(&place) {
            return Ok(line);
        }
        // A caller that waited for a failed attempt does not make another.
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE) {
            return Err(error.clone());
        }
        match self.open(node).await {
            Ok(line) => {
                *failed = None;
                *lock(&place.line) = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn place(&self, layout: &Layout, node: &Node) -> Arc<Place> {
        let mut places = lock(&self.0.places);
        if let Some(place) = places.get(node) {
            return Arc::clone(place);
        }
        places.retain(|known, _| layout.nodes.contains(known));
        Arc::clone(places.entry(node.clone()).or_default())
    }

    async fn open(&self, node: &Node) -> RedisResult<ServerLine> {
        let made_at = Instant::now();
        let (connection, server) = self.0.servers.open(node, &self.0.opening).await?;
        let (server, node) = (server?, node.clone());
        Ok(ServerLine { connection, server, node, made_at, unanswered: Arc::default() })
    }

    fn current(&self, place: &Place) -> Option<ServerLine> {
        let mut current = lock(&place.line);
        let timeout = self.0.opening.response_timeout;
        let silent =
            |line: &mut ServerLine| line.unanswered().is_some_and(|sent| sent.elapsed() >= timeout);
        if current.take_if(silent).is_some() {
            self.0.servers.doubt();
        }
        current.clone()
    }

    /// Gives the connection up after a reply that shows it to be useless.
    fn judge<R: Reply>(&self, line: &ServerLine, reply: &RedisResult<R>) {
        self.0.servers.judge(reply);
        let useless = match reply {
            Err(error) => is_over(error),
            Ok(reply) => reply.is_read_only(),
        };
        let place = lock(&self.0.places).get(&line.node).cloned();
        let Some(place) = place.filter(|_| useless) else { return };
        let is_it = |now: &mut ServerLine| Arc::ptr_eq(&now.server, &line.server);
        let _given_up = lock(&place.line).take_if(is_it);
    }

    /// Gives up connections that were made before this.
    pub(super) fn leave(&self, before: Instant) {
        for place in lock(&self.0.places).values() {
            let _given_up = lock(&place.line).take_if(|line| line.made_at <= before);
        }
    }

    pub(super) async fn ask<R: Reply>(
        &self,
        line: &ServerLine,
        asking: impl Future<Output = RedisResult<R>>,
    ) -> RedisResult<R> {
        line.unanswered().get_or_insert_with(Instant::now);
        // A caller may stop waiting here.
        let reply = asking.await;
        *line.unanswered() = None;
        self.judge(line, &reply);
        reply
    }

    async fn send(&self, line: ServerLine, command: &Cmd) -> RedisResult<Value> {
        let mut connection = line.connection.clone();
        self.ask(&line, connection.req_packed_command(command)).await
    }

    async fn send_all(&self, line: ServerLine, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut connection = line.connection.clone();
        let asking = connection.req_packed_commands(pipeline, 0, pipeline.len());
        self.ask(&line, asking).await
    }
}

/// The value, also where whoever held it before panicked.
pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            if !self.is_of_a_cluster() {
                return self.send(self.line(0).await?, command).await;
            }
            match routing::way(command, &self.0.opening.key_prefix) {
                Way::Slot(slot) => self.send(self.line(slot).await?, command).await,
                Way::Any => self.first(|line| self.probe(line, command)).await,
                Way::Each => {
                    let lines = self.lines().await?.into_iter();
                    let sent = join_all(lines.map(|line| self.send(line, command))).await;
                    sent.into_iter().find(Result::is_ok).unwrap_or_else(|| Err(uncovered()))
                }
            }
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        _: usize,
        _: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            if !self.is_of_a_cluster() {
                return self.send_all(self.line(0).await?, pipeline).await;
            }
            let layout = self.0.servers.layout().await?;
            let parts = routing::parts(pipeline, &layout, &self.0.opening.key_prefix)?;
            let sent = parts.iter().map(|(server, part)| async {
                self.send_all(self.line_to(&layout, *server).await?, &part.pipeline).await
            });
            let replies = join_all(sent).await;
            routing::together(pipeline.len(), parts.values().zip(replies))
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

//! A connection that many share and that comes back. It is given up after any
//! failure that may outlast one command: a break, a reply that does not come
//! (a half-open connection), or a server that has become a replica. Commands
//! that were under way then fail; none is sent twice. Silence counts also where
//! every caller stopped waiting before the reply was late.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    Cmd, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};

use super::{
    Error,
    address::Node,
    connecting::RESPONSE_TIMEOUT,
    server::Primary,
    servers::{Opening, Servers},
};

/// How long an append waits for a reply, and never more than half of the time
/// that it may take in all: on a half-open connection there is time left for a
/// new one.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a connection could not be made.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct SharedConnection(Arc<Reconnecting>);

struct Reconnecting {
    servers: Servers,
    opening: Opening,
    /// The connection in use. Never locked across an await.
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
    /// A connection for payments has the deadline of an append, and refuses a server that
    /// does not keep what it acknowledges.
    pub(super) async fn connect(
        servers: Servers,
        name: String,
        append_deadline: Option<Duration>,
        insists_on_safety: bool,
    ) -> Result<Self, Error> {
        let response_timeout =
            append_deadline.map_or(RESPONSE_TIMEOUT, |deadline| APPEND_TIMEOUT.min(deadline / 2));
        let opening = Opening {
            name,
            response_timeout,
            insists_on_safety: append_deadline.is_some() && insists_on_safety,
            scripts: &[],
        };
        let place = Reconnecting {
            servers,
            opening,
            line: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(None),
        };
        let shared = Self(Arc::new(place));
        shared.line().await?;
        Ok(shared)
    }

    /// The connection to use now; a new one if the last was given up.
    pub(super) async fn line(&self) -> RedisResult<ServerLine> {
        let layout = self.0.servers.layout().await?;
        if let Some(line) = self.current(&layout.node) {
            return Ok(line);
        }
        let mut failed = self.0.connecting.lock().await;
        if let Some(line) = self.current(&layout.node) {
            return Ok(line);
        }
        // A caller that waited for a failed attempt does not make another.
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE) {
            return Err(error.clone());
        }
        match self.0.open(&layout.node).await {
            Ok(line) => {
                *failed = None;
                *self.0.line.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                *failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Gives the connection up after a reply that shows it to be useless.
    fn judge<R: Reply>(&self, line: &ServerLine, reply: &RedisResult<R>) {
        let useless = match reply {
            Err(error) => is_over(error),
            Ok(reply) => reply.is_read_only(),
        };
        if !useless {
            return;
        }
        self.0.servers.doubt();
        let mut current = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(&now.server, &line.server)) {
            *current = None;
        }
    }

    pub(super) fn response_timeout(&self) -> Duration {
        self.0.opening.response_timeout
    }

    /// Gives the connection up if it was made before this.
    pub(super) fn leave(&self, before: Instant) {
        let mut current = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let _given_up = current.take_if(|line| line.made_at <= before);
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

    fn current(&self, node: &Node) -> Option<ServerLine> {
        let mut current = self.0.line.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = self.0.opening.response_timeout;
        let useless = |line: &mut ServerLine| {
            line.node != *node || line.unanswered().is_some_and(|sent| sent.elapsed() >= timeout)
        };
        if current.take_if(useless).is_some() {
            self.0.servers.doubt();
        }
        current.clone()
    }
}

impl Reconnecting {
    async fn open(&self, node: &Node) -> RedisResult<ServerLine> {
        let made_at = Instant::now();
        let (connection, server) = self.servers.open(node, &self.opening).await?;
        let (server, node) = (server?, node.clone());
        Ok(ServerLine { connection, server, node, made_at, unanswered: Arc::default() })
    }
}

fn is_over(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// The reply to one or more commands.
pub(super) trait Reply {
    /// Whether a command was refused because the server is a replica now.
    fn is_read_only(&self) -> bool;
}

impl Reply for Value {
    fn is_read_only(&self) -> bool {
        matches!(self, Self::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
    }
}

impl Reply for Vec<Value> {
    fn is_read_only(&self) -> bool {
        self.iter().any(Reply::is_read_only)
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let line = self.line().await?;
            let mut connection = line.connection.clone();
            self.ask(&line, connection.req_packed_command(command)).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let line = self.line().await?;
            let mut connection = line.connection.clone();
            self.ask(&line, connection.req_packed_commands(pipeline, offset, count)).await
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

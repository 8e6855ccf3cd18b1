//! Plain connections: one to each server that is used, made when it is first used and never again.
//! They end at the first failure, for whoever must know that nothing came in between; and where
//! another server has taken a slot over.

use std::sync::Arc;

use futures_util::{
    FutureExt,
    future::{select_ok, try_join_all},
};
use redis::{
    Cmd, Pipeline, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::sync::OnceCell;

use super::{
    layout::{Layout, uncovered},
    routing::{self, Way},
    server::Primary,
    servers::{Opening, Servers, moved},
};

#[derive(Clone)]
pub(super) struct Lines {
    servers: Servers,
    opening: Arc<Opening>,
    layout: Arc<Layout>,
    lines: Arc<[OnceCell<Line>]>,
}

pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    pub(super) server: RedisResult<Arc<Primary>>,
}

impl Lines {
    pub(super) async fn new(servers: &Servers, opening: Opening) -> RedisResult<Self> {
        let layout = servers.layout().await?;
        let lines = layout.nodes.iter().map(|_| OnceCell::new()).collect();
        Ok(Self { servers: servers.clone(), opening: Arc::new(opening), layout, lines })
    }

    /// Others like these.
    pub(super) fn another(&self) -> Self {
        let lines = self.layout.nodes.iter().map(|_| OnceCell::new()).collect();
        Self { lines, ..self.clone() }
    }

    pub(super) fn is_of_a_cluster(&self) -> bool {
        self.servers.is_cluster()
    }

    /// The place of the server of a slot.
    pub(super) fn place_of(&self, slot: u16) -> RedisResult<usize> {
        let place = self.layout.server_of(slot).ok_or_else(uncovered)?;
        let now = self.servers.current();
        let stays = now.is_none_or(|now| {
            now.server_of(slot).map(|at| &now.nodes[at]) == Some(&self.layout.nodes[place])
        });
        if stays { Ok(place) } else { Err(moved()) }
    }

    pub(super) async fn at(&self, place: usize) -> RedisResult<&Line> {
        let open = || async {
            let node = &self.layout.nodes[place];
            let (connection, server) = self.servers.open(node, &self.opening).await?;
            Ok(Line { connection, server })
        };
        self.lines[place].get_or_try_init(open).await
    }

    /// Connections to all servers, each by its name.
    pub(super) fn by_name(
        &self,
    ) -> impl Iterator<Item = (String, impl Future<Output = RedisResult<&Line>>)> {
        let names = self.layout.nodes.iter().map(ToString::to_string);
        names.enumerate().map(|(place, name)| (name, self.at(place)))
    }

    /// The same, once all are made.
    pub(super) async fn each(&self) -> RedisResult<Vec<(String, &Line)>> {
        let made = self.by_name().map(|(name, line)| async { Ok((name, line.await?)) });
        try_join_all(made).await
    }

    /// Connects to whichever server answers first.
    pub(super) async fn any(&self) -> RedisResult<()> {
        let connecting = (0..self.lines.len()).map(|place| self.at(place).boxed());
        select_ok(connecting).await.map(drop)
    }

    /// Connections that have been made.
    pub(super) fn opened(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter_map(OnceCell::get)
    }

    /// The server of a slot.
    pub(super) async fn server(&self, slot: u16) -> RedisResult<Arc<Primary>> {
        self.at(self.place_of(slot)?).await?.server.clone()
    }

    async fn send(&self, place: usize, command: &Cmd) -> RedisResult<Value> {
        let mut connection = self.at(place).await?.connection.clone();
        let reply = connection.req_packed_command(command).await;
        self.servers.judge(&reply);
        reply
    }

    async fn send_all(&self, place: usize, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut connection = self.at(place).await?.connection.clone();
        let replies = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
        self.servers.judge(&replies);
        replies
    }
}

impl ConnectionLike for Lines {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            if !self.is_of_a_cluster() {
                return self.send(self.place_of(0)?, command).await;
            }
            match routing::way(command, &self.opening.key_prefix) {
                Way::Slot(slot) => self.send(self.place_of(slot)?, command).await,
                Way::Any => self.send(0, command).await,
                Way::Each => {
                    let sent = (0..self.lines.len()).map(|place| self.send(place, command));
                    Ok(try_join_all(sent).await?.pop().unwrap_or(Value::Nil))
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
                return self.send_all(self.place_of(0)?, pipeline).await;
            }
            let parts = routing::parts(pipeline, &self.layout, &self.opening.key_prefix)?;
            let sent = parts.iter().map(|(place, part)| self.send_all(*place, &part.pipeline));
            let replies = try_join_all(sent).await?.into_iter().map(Ok);
            routing::together(pipeline.len(), parts.values().zip(replies))
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

//! Which workers are connected. Each has a channel of its own (`SUBSCRIBE`), where nothing is ever
//! published: when its process dies, its connection ends and Redis counts no subscriber any more.
//! Never decides that a worker is dead.

use futures_util::StreamExt;
use redis::{
    RedisResult,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::time::timeout;

use super::{
    Error, Streams,
    address::Node,
    connecting::CONNECT_TIMEOUT,
    layout::{Layout, uncovered},
    servers::{Servers, moved},
};

/// A worker's own subscription, and the question who else has one.
pub struct Lifeline {
    subscription: PubSub,
    asking: MultiplexedConnection,
    servers: Servers,
    /// The slot at whose server both connections are, and that server.
    place: (u16, Node),
    channel: String,
    key_prefix: String,
}

impl Streams {
    /// Subscribes for this incarnation of a worker.
    pub async fn lifeline(&self, incarnation: &str) -> Result<Lifeline, Error> {
        let key_prefix = self.keys.prefix().to_owned();
        let channel = channel(&key_prefix, incarnation);
        // All workers meet at one server.
        let slot = self.keys.slot(0);
        let node = server_of(&*self.servers.layout().await?, slot)?;
        let (mut asking, _) = self.servers.open(&node, &self.opening("lifelines")).await?;
        // Whoever may not ask does not subscribe: others would see it come and go.
        let mut question = redis::cmd("PUBSUB");
        question.arg("NUMSUB").arg(&channel).exec_async(&mut asking).await?;
        let subscribing = async {
            let client = self.servers.address().client(&node)?;
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(&channel).await?;
            Ok::<_, Error>(subscription)
        };
        let subscribed = timeout(CONNECT_TIMEOUT, subscribing).await;
        let subscription = subscribed.unwrap_or(Err(Error::Deadline(CONNECT_TIMEOUT)))?;
        let servers = self.servers.clone();
        let place = (slot, node);
        Ok(Lifeline { subscription, asking, servers, place, channel, key_prefix })
    }
}

impl Lifeline {
    /// Waits until this worker's own subscription has ended.
    pub async fn ended(&mut self) {
        let mut messages = self.subscription.on_message();
        while messages.next().await.is_some() {}
    }

    /// Whether each of these incarnations is subscribed.
    ///
    /// # Errors
    /// [`Error::Shape`] where this worker itself is not, and an outage where another server has
    /// taken over: then this one knows nothing about others.
    pub async fn are_connected(&mut self, incarnations: &[String]) -> Result<Vec<bool>, Error> {
        let (slot, node) = &self.place;
        if self
            .servers
            .current()
            .is_some_and(|now| server_of(&now, *slot).ok().as_ref() != Some(node))
        {
            return Err(moved().into());
        }
        let mut question = redis::cmd("PUBSUB");
        question.arg("NUMSUB").arg(&self.channel);
        for incarnation in incarnations {
            question.arg(channel(&self.key_prefix, incarnation));
        }
        let counts: Vec<(String, u64)> = question.query_async(&mut self.asking).await?;
        let mut connected = counts.into_iter().map(|(_, subscribers)| subscribers > 0);
        match connected.next() {
            Some(true) => Ok(connected.collect()),
            Some(false) | None => Err(Error::Shape("lifelines")),
        }
    }
}

fn server_of(layout: &Layout, slot: u16) -> RedisResult<Node> {
    let place = layout.server_of(slot).and_then(|place| layout.nodes.get(place));
    place.cloned().ok_or_else(uncovered)
}

fn channel(key_prefix: &str, incarnation: &str) -> String {
    format!("{key_prefix}:worker:{incarnation}")
}

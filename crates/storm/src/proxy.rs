//! A stretch of network between one process and one store, which can be cut, made dumb, or slow.
//! Never looks into what it carries.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

const CHUNK: usize = 32 * 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Closes what stands, and what comes.
    Cut,
    /// Carries nothing; a connection that has lost something stays dumb for good.
    Dumb,
    /// Carries everything, this much later.
    Late(Duration),
}

/// A way from somebody to a store, which may have several servers.
pub(crate) struct Line {
    pub(crate) name: String,
    proxies: Vec<Proxy>,
}

impl Line {
    pub(crate) fn new(name: String, proxies: Vec<Proxy>) -> Self {
        Self { name, proxies }
    }

    pub(crate) fn set(&self, way: Way) {
        for proxy in &self.proxies {
            proxy.set(way);
        }
    }
}

/// Stands before a port of this machine. Dropped, it cuts everything.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: Arc<watch::Sender<Way>>,
    _listening: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn before(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("could not listen")?;
        let port = listener.local_addr()?.port();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let mut listening = JoinSet::new();
        let ways = Arc::clone(&way);
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                if *ways.borrow() != Way::Cut {
                    connections.spawn(connect(client, server, ways.subscribe()));
                }
            }
        });
        Ok(Self { port, way, _listening: listening })
    }

    fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn connect(client: TcpStream, server: u16, ways: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    for stream in [&client, &server] {
        let _as_fast_or_not = stream.set_nodelay(true);
    }
    let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
    tokio::select! {
        () = carry(from_client, to_server, ways.clone()) => {}
        () = carry(from_server, to_client, ways) => {}
    }
}

/// Carries one direction until it ends, or the network does.
async fn carry(
    mut from: ReadHalf<TcpStream>,
    mut to: WriteHalf<TcpStream>,
    mut ways: watch::Receiver<Way>,
) {
    let (mut chunk, mut dumb) = (vec![0; CHUNK], false);
    loop {
        let way = *ways.borrow_and_update();
        if way == Way::Cut {
            return;
        }
        tokio::select! {
            biased;
            changed = ways.changed() => if changed.is_err() { return },
            read = from.read(&mut chunk) => {
                let Some(count) = read.ok().filter(|count| *count > 0) else { return };
                dumb |= way == Way::Dumb;
                if dumb {
                    continue;
                }
                if let Way::Late(by) = way {
                    sleep(by).await;
                }
                if to.write_all(&chunk[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

//! A stretch of network between a process and Redis or PostgreSQL, which a test
//! can cut, silence, hold up, or let lose a reply. Proves nothing by itself.

use reqwest::Url;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::harness::{in_background, in_time};

/// Bytes that are carried at once.
const CHUNK: usize = 64 * 1024;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Carries everything.
    Open,
    /// Closes every connection, and new ones at once.
    Cut,
    /// Half-open: connections stand, and nothing arrives on either side. A
    /// connection that has lost something stays dumb for good.
    Dumb,
    /// Requests wait here until it is open again; replies pass.
    HoldsRequests,
    /// Once a request holds these bytes, its connection breaks in place of the
    /// reply.
    LosesReplyTo(&'static str),
}

/// Stands in front of one server. Dropped, it cuts everything.
pub struct Proxy {
    pub url: String,
    way: watch::Sender<Way>,
    server: watch::Sender<String>,
    lost: watch::Receiver<usize>,
    standing: watch::Receiver<usize>,
    _listening: JoinSet<()>,
}

impl Proxy {
    /// Before the server of this URL; open.
    pub async fn before(url: &str) -> Self {
        in_background(Self::start(url.to_owned())).await
    }

    async fn start(url: String) -> Self {
        let (server, servers) = watch::channel(address(&url));
        let mut url = Url::parse(&url).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (way, ways) = watch::channel(Way::Open);
        let (tell, lost) = watch::channel(0);
        let (count, standing) = watch::channel(0);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if *ways.borrow() != Way::Cut {
                    let server = servers.borrow().clone();
                    let carrying = carry(client, server, ways.clone(), tell.clone());
                    let count = count.clone();
                    connections.spawn(async move {
                        count.send_modify(|standing| *standing += 1);
                        carrying.await;
                        count.send_modify(|standing| *standing -= 1);
                    });
                }
            }
        });
        Self { url: url.to_string(), way, server, lost, standing, _listening: listening }
    }

    /// Closes every connection; new ones are carried.
    pub async fn break_all(&mut self) {
        self.set(Way::Cut);
        let none = self.standing.wait_for(|standing| *standing == 0);
        in_time("every connection is closed", none).await.unwrap();
        self.set(Way::Open);
    }

    /// New connections lead to the server of this URL; those that stand remain.
    pub fn lead_to(&self, url: &str) {
        self.server.send_replace(address(url));
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Waits until so many replies have been lost.
    pub async fn has_lost(&mut self, count: usize) {
        let lost = self.lost.wait_for(|lost| *lost >= count);
        in_time("replies are lost", lost).await.unwrap();
    }
}

fn address(url: &str) -> String {
    let url = Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
}

/// Carries one connection until either side closes it, or the network does.
async fn carry(
    mut client: TcpStream,
    server: String,
    mut ways: watch::Receiver<Way>,
    tell: watch::Sender<usize>,
) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut request, mut reply) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut dumb, mut loses) = (false, false);
    loop {
        let way = *ways.borrow_and_update();
        if way == Way::Cut {
            return;
        }
        let silent = dumb || way == Way::Dumb;
        tokio::select! {
            // What comes after a change goes the new way.
            biased;
            changed = ways.changed() => if changed.is_err() { return },
            read = client.read(&mut request), if way != Way::HoldsRequests => {
                let Some(sent) = read.ok().filter(|count| *count > 0).map(|n| &request[..n]) else {
                    return;
                };
                if silent {
                    dumb = true;
                } else {
                    if let Way::LosesReplyTo(bytes) = way {
                        loses |= sent.windows(bytes.len()).any(|part| part == bytes.as_bytes());
                    }
                    if server.write_all(sent).await.is_err() { return }
                }
            }
            read = server.read(&mut reply) => {
                let Some(sent) = read.ok().filter(|count| *count > 0).map(|n| &reply[..n]) else {
                    return;
                };
                if loses {
                    tell.send_modify(|lost| *lost += 1);
                    return;
                }
                if silent {
                    dumb = true;
                } else if client.write_all(sent).await.is_err() {
                    return;
                }
            }
        }
    }
}

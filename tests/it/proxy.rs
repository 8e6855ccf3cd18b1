//! A stretch of network between a process and Redis or PostgreSQL, which a test
//! can cut, silence, hold up, or let lose a reply. Proves nothing by itself.

use reqwest::Url;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::harness::in_time;

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
    lost: watch::Receiver<usize>,
    _listening: JoinSet<()>,
}

impl Proxy {
    /// Before the server of this URL; open.
    pub async fn before(url: &str) -> Self {
        let mut url = Url::parse(url).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let (way, ways) = watch::channel(Way::Open);
        let (tell, lost) = watch::channel(0);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if *ways.borrow() != Way::Cut {
                    connections.spawn(carry(client, server.clone(), ways.clone(), tell.clone()));
                }
            }
        });
        Self { url: url.to_string(), way, lost, _listening: listening }
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

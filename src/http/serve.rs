//! Listens and serves until told to stop; requests under way are finished.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Router, http::Request, routing::get};
use futures_util::future::try_join_all;
use hyper::{body::Incoming, server::conn::http1::Builder};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequest;
use tracing::{debug, info, warn};

use super::{
    connection::{BodyLeft, Connection, WRITE_TIMEOUT},
    health,
    peer::Peer,
    rate,
    routes::{Pages, router},
    slots::Slots,
    state::App,
    surface::Door,
    tls::{self, Tls},
};
use crate::{config::GatewayConfig, progress::Board};

/// How long a client may take to send its headers, or to send nothing.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Connections to the health endpoints of a worker.
const PROBES_MAX: usize = 64;
/// Connections of operators, where they have an address of their own; those of one
/// address: two leave room for others.
const OPERATIONS_MAX: usize = 256;
const OPERATIONS_OF_ONE_MAX: usize = 96;
/// Descriptors that are left for everything else: the stores, logs, files.
const DESCRIPTORS_KEPT: usize = 512;
/// Pause after a connection could not be taken, for instance for want of file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves at each address what its door says. No address takes the connections of another.
pub(crate) async fn serve(
    app: App,
    pages: Pages,
    listeners: Vec<(Door, TcpListener)>,
    tls: Option<Arc<Tls>>,
) -> anyhow::Result<()> {
    let stop = app.stop.clone();
    let sampling = stop.run_until_cancelled(sample(Arc::clone(&app)));
    let kept = if listeners.len() > 1 { OPERATIONS_MAX } else { 0 };
    let listening = listeners.into_iter().map(|(door, listener)| {
        let slots = match door {
            Door::All | Door::Public => slots(&app.gateway.config, kept),
            Door::Operations => Slots::new(OPERATIONS_MAX, OPERATIONS_OF_ONE_MAX),
        };
        let router = router(Arc::clone(&app), pages.clone(), door);
        listen(router, listener, door.name(), slots, tls.clone(), &stop)
    });
    let (served, _) = tokio::join!(try_join_all(listening), sampling);
    served.map(drop)
}

/// Serves the health endpoints of a worker that has no gateway.
pub(crate) async fn serve_health(
    board: Arc<Board>,
    address: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("could not listen on PAYSTREAM_HEALTH_BIND {address}"))?;
    let live = Arc::clone(&board);
    let stopping = stop.clone();
    let router = Router::new()
        .route("/livez", get(async move || health::live_answer(Some(&live))))
        .route("/readyz", get(async move || health::worker_ready(&board, &stopping)));
    listen(router, listener, "health", Slots::new(PROBES_MAX, PROBES_MAX), None, &stop).await
}

async fn listen(
    router: Router,
    listener: TcpListener,
    serves: &'static str,
    slots: Slots<IpAddr>,
    tls: Option<Arc<Tls>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("the listener has no address")?;
    info!(%address, serves, "listening");
    let mut http = Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        let (stream, peer): (TcpStream, SocketAddr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "could not take a connection");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = Peer::connected(peer.ip(), tls.is_some());
        let slot = match slots.take(peer.address) {
            Ok(slot) => slot,
            Err(full) => {
                // Closed at once: an answer would cost what there is too little of.
                debug!(?full, address = %peer.address, "a connection was refused");
                continue;
            }
        };
        // Answers are small and wait for nothing.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "could not set TCP_NODELAY");
        }
        let stream = Connection::new(stream, WRITE_TIMEOUT, Some(slot));
        let mut client =
            Client { peer, body_left: stream.body_left(), watcher: graceful.watcher() };
        let (http, router, stop) = (http.clone(), router.clone(), stop.clone());
        match tls.as_ref().map(|tls| TlsAcceptor::from(tls.current())) {
            None => connections.spawn(client.answer(http, router, stream)),
            Some(acceptor) => connections.spawn(async move {
                let shaking = time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
                match stop.run_until_cancelled(shaking).await {
                    Some(Ok(Ok(stream))) => {
                        let shown = stream.get_ref().1.peer_certificates();
                        client.peer.certificate = tls::thumbprint(shown);
                        client.answer(http, router, stream).await;
                    }
                    Some(Ok(Err(error))) => debug!(%error, "a TLS handshake failed"),
                    Some(Err(_)) => debug!("a TLS handshake took too long"),
                    None => {}
                }
            }),
        };
    }
    drop(listener);
    // Idle connections are closed, requests under way are answered.
    graceful.shutdown().await;
    info!(%address, "stopped listening");
    Ok(())
}

/// Whoever is at the other end of a connection.
struct Client {
    peer: Peer,
    body_left: BodyLeft,
    watcher: Watcher,
}

impl Client {
    /// Answers what comes over the connection, until it ends.
    async fn answer<S>(self, http: Builder, router: Router, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { peer, body_left, watcher } = self;
        let service = MapRequest::new(router, move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.map(|body| body_left.watched(body))
        });
        let service = TowerToHyperService::new(service);
        let answering = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
        if let Err(error) = answering.await {
            debug!(%error, "a connection ended early");
        }
    }
}

/// Slots for connections, as far as the process may have descriptors for them. One
/// address has its share of fewer slots, too, or it could take them all. `kept` are for
/// connections elsewhere.
fn slots(config: &GatewayConfig, kept: usize) -> Slots<IpAddr> {
    let wanted = config.connections_max;
    let of_one = config.connections_per_address_max.min(wanted);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    // Where there are very few of them, half of them.
    let most = limit.saturating_sub(DESCRIPTORS_KEPT + kept).max(limit / 2);
    if most >= wanted {
        return Slots::new(wanted, of_one);
    }
    warn!(limit, most, wanted, "too few descriptors for PAYSTREAM_CONNECTIONS_MAX; see ulimit -n");
    Slots::new(most, (of_one.saturating_mul(most) / wanted).max(1))
}

async fn sample(app: App) {
    let mut interval = time::interval(rate::SAMPLE_EVERY);
    loop {
        interval.tick().await;
        if let Ok(settled) = app.gateway.reader.settled().await {
            app.rate.sample(Instant::now(), settled);
        }
    }
}

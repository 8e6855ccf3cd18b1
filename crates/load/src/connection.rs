//! One keep-alive HTTP/1.1 connection to the service. Says what is known of a request that
//! failed: never sent, or of unknown outcome. Never retries and never follows redirects.

use std::{pin::Pin, time::Duration};

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue},
};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the service is and what every request to it carries.
#[derive(Debug, Clone)]
pub(super) struct Target {
    authority: String,
    prefix: String,
    headers: HeaderMap,
}

impl Target {
    pub(super) fn new(url: &str, token: Option<&SecretString>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("could not read --url")?;
        ensure!(uri.scheme_str() == Some("http"), "--url must begin with http://");
        let host = uri.host().context("--url names no host")?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));

        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(&authority).context("could not use --url")?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            let value = format!("Bearer {}", token.expose_secret());
            let mut value = HeaderValue::from_str(&value).context("could not use --token")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self { authority, prefix: uri.path().trim_end_matches('/').to_owned(), headers })
    }

    /// The address of `path` below the service's own.
    pub(super) fn uri(&self, path: &str) -> anyhow::Result<Uri> {
        format!("{}{path}", self.prefix).parse().context("could not form an address")
    }

    /// A request that carries everything it needs; the body is copied by reference only.
    pub(super) fn request(&self, method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().clone_from(&self.headers);
        request
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Empty unless it was asked for.
    pub(super) body: Vec<u8>,
}

/// What becomes of the body of an answer. It is always read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Keep,
    Discard,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection was closed before anything of the request was written.
    NotSent,
    /// Nobody knows whether the service acted on it.
    Unknown(String),
}

type Sender = http1::SendRequest<Full<Bytes>>;
type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// An open connection. It is driven by whoever waits for an answer, in the same task.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    /// Gone once the connection has ended.
    driver: Option<Pin<Box<Driver>>>,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let connect = TcpStream::connect(&target.authority);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected
                .with_context(|| format!("could not connect to http://{}", target.authority))?,
            Err(_) => bail!("could not connect to http://{} in time", target.authority),
        };
        stream.set_nodelay(true).context("could not set TCP_NODELAY")?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.context("could not speak HTTP")?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Ends when the service closes the connection. Safe to cancel.
    pub(super) async fn closed(&mut self) {
        drive(&mut self.driver).await;
    }

    /// Sends `request` and reads its answer. After a failure the connection is of no use.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        body: Body,
    ) -> Result<Answer, Failure> {
        let Self { sender, driver } = self;
        let mut answer = std::pin::pin!(answer(sender, request, body));
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer,
            () = drive(driver) => {}
        }
        // The connection ended; the answer may have come with its last bytes.
        answer.await
    }

    /// False once the service has closed the connection.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// Drives the connection until it ends, and drops it: only then does a request that it had
/// not yet begun to write come back. How it ended, the answer tells.
async fn drive(driver: &mut Option<Pin<Box<Driver>>>) {
    if let Some(open) = driver {
        let _ = open.as_mut().await;
    }
    *driver = None;
}

async fn answer(
    sender: &mut Sender,
    request: Request<Full<Bytes>>,
    body: Body,
) -> Result<Answer, Failure> {
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut refused) => {
            return Err(match refused.take_message() {
                Some(_) => Failure::NotSent,
                None => Failure::Unknown(refused.into_error().to_string()),
            });
        }
    };
    let status = response.status().as_u16();
    let body = read(response.into_body(), body).await;
    body.map(|body| Answer { status, body }).map_err(|error| Failure::Unknown(error.to_string()))
}

async fn read(mut incoming: Incoming, body: Body) -> Result<Vec<u8>, hyper::Error> {
    let mut kept = Vec::new();
    while let Some(frame) = incoming.frame().await {
        if let (Body::Keep, Ok(data)) = (body, frame?.into_data()) {
            kept.extend_from_slice(&data);
        }
    }
    Ok(kept)
}

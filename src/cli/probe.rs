//! `paystream probe`: asks a health endpoint, for containers that hold nothing
//! but this program.

use std::{
    io::{Write, stdout},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use paystream_load::ClientTls;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// How long the endpoint has to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Debug)]
pub struct ProbeArgs {
    /// Host and port. Asked over TLS with --ca-file.
    #[arg(default_value = "127.0.0.1:8081")]
    pub address: String,
    /// Path of the endpoint.
    #[arg(long, default_value = "/livez")]
    pub path: String,
    /// Name that the certificate must be for. Without it, the host.
    #[arg(long, requires = "ca_file")]
    pub server_name: Option<String>,
    #[command(flatten)]
    pub tls: ClientTls,
}

pub async fn run(args: &ProbeArgs) -> anyhow::Result<ExitCode> {
    ensure!(args.path.starts_with('/'), "--path must begin with a slash");
    let (status, body) = timeout(PATIENCE, ask(args))
        .await
        .with_context(|| format!("{} did not answer within {PATIENCE:?}", args.address))??;
    writeln!(stdout(), "{status} {body}")?;
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask(args: &ProbeArgs) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(&args.address)
        .await
        .with_context(|| format!("could not reach {}", args.address))?;
    if args.tls.ca_file.is_none() {
        return ask_on(stream, args).await;
    }
    let host = args.address.rsplit_once(':').map_or(&*args.address, |(host, _)| host);
    let name = args.server_name.as_deref().unwrap_or(host).trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned()).context("--server-name is not a name")?;
    let connector = TlsConnector::from(Arc::new(args.tls.config()?));
    let stream = connector.connect(name, stream).await;
    ask_on(stream.context("the TLS handshake failed")?, args).await
}

async fn ask_on<S>(stream: S, args: &ProbeArgs) -> anyhow::Result<(StatusCode, String)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(&args.path)
        .header(header::HOST, &args.address)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .context("the address is not one")?;
    let asking = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    let (answer, _) = tokio::join!(asking, connection);
    let (status, body) = answer?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

//! Asks a server over plain TCP whether it is ready.
//!
//! Only as much of each protocol as the question needs. Never changes anything
//! in the server, and never believes an answer of another server that happens
//! to have the port.

use std::io::{Error, ErrorKind, Result};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One question and its answer must fit in this.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// SQLSTATE `cannot_connect_now`: starting, recovering or stopping.
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// What a server said about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It serves.
    Ready,
    /// It lives and reads its data; wait.
    Loading,
    /// It does not answer, or another server does.
    Silent,
}

/// The language a server speaks.
#[derive(Clone)]
pub(super) enum Protocol {
    Redis { password: String },
    Postgres,
}

/// Asks the server with process id `pid` at `port`.
pub(super) async fn ask(protocol: &Protocol, port: u16, pid: u32) -> Answer {
    let answer = async {
        match protocol {
            Protocol::Redis { password } => ask_redis(port, password, pid).await,
            Protocol::Postgres => ask_postgres(port).await,
        }
    };
    match timeout(ASK_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Answer::Silent,
    }
}

async fn ask_redis(port: u16, password: &str, pid: u32) -> Result<Answer> {
    let info = redis_command(port, password, "INFO").await?;
    let says = |line: &str| info.lines().any(|one| one == line);
    if !says(&format!("process_id:{pid}")) {
        return Ok(Answer::Silent);
    }
    Ok(if says("loading:0") { Answer::Ready } else { Answer::Loading })
}

/// Sends one command and returns its reply, which must be a string or a number.
pub(super) async fn redis_command(port: u16, password: &str, command: &str) -> Result<String> {
    let mut redis = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
    redis.write_all(format!("AUTH {password}\r\n{command}\r\n").as_bytes()).await?;
    let mut line = String::new();
    redis.read_line(&mut line).await?;
    if line.trim() != "+OK" {
        return Err(Error::new(ErrorKind::PermissionDenied, line));
    }
    line.clear();
    redis.read_line(&mut line).await?;
    let Some(length) = line.strip_prefix('$') else { return Ok(line.trim().to_owned()) };
    let length = length.trim().parse().map_err(|_| Error::from(ErrorKind::InvalidData))?;
    let mut bytes = vec![0; length];
    redis.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Begins a session; the first byte of the answer tells all.
async fn ask_postgres(port: u16) -> Result<Answer> {
    let mut postgres = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let options = format!("user\0{0}\0database\0{0}\0\0", super::DATABASE);
    let length = u32::try_from(8 + options.len()).map_err(Error::other)?;
    let mut startup = length.to_be_bytes().to_vec();
    startup.extend(196_608_u32.to_be_bytes()); // protocol 3.0
    startup.extend(options.as_bytes());
    postgres.write_all(&startup).await?;
    let kind = postgres.read_u8().await?;
    // It asks for the password; whoever hangs up instead is not logged.
    postgres.shutdown().await?;
    let mut rest = Vec::new();
    postgres.read_to_end(&mut rest).await?;
    let starting = rest.windows(CANNOT_CONNECT_NOW.len()).any(|code| code == CANNOT_CONNECT_NOW);
    Ok(match kind {
        b'R' => Answer::Ready,
        b'E' if starting => Answer::Loading,
        _ => Answer::Silent,
    })
}

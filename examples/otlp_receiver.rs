//! Receives OTLP and shows it to Prometheus, for trying dashboards and alerts on
//! a machine without containers. It is a development aid. It gives the names and
//! labels that the OpenTelemetry collector and Tempo's metrics generator give;
//! it is neither, forwards nothing, and forgets everything when it ends.
//!
//! ```sh
//! cargo run --example otlp_receiver -- --grpc 127.0.0.1:4317 --metrics 127.0.0.1:8889
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 paystream dev
//! curl http://127.0.0.1:8889/metrics
//! ```
//!
//! The second address takes OTLP over HTTP, too.

#![allow(unreachable_pub, reason = "a program of one crate that nobody names")]

use std::net::SocketAddr;

use clap::Parser;

#[path = "../tests/it/otlp/mod.rs"]
#[allow(dead_code, reason = "the tests look at what is kept; this program shows it")]
mod otlp;

/// Receives OTLP and shows it to Prometheus.
#[derive(Parser)]
struct Arguments {
    /// Where to take OTLP over gRPC.
    #[arg(long, default_value = "127.0.0.1:4317")]
    grpc: SocketAddr,
    /// Where to serve `/metrics`, and to take OTLP over HTTP.
    #[arg(long, default_value = "127.0.0.1:8889")]
    metrics: SocketAddr,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it says where it listens")]
async fn main() -> std::io::Result<()> {
    let Arguments { grpc, metrics } = Arguments::parse();
    let sink = otlp::Sink::listen(grpc, metrics).await?;
    println!("OTLP over gRPC at {}, over HTTP and /metrics at {}", sink.url(), sink.http_url());
    tokio::signal::ctrl_c().await
}

//! paystream: payments over HTTP, through Redis Streams, into a ledger.
//!
//! A payment walks one way: it is **accepted** over HTTP, **appended** to the
//! stream of its customer's partition, **taken** by the worker that owns the
//! partition, **settled** and **posted** to the ledger exactly once and in
//! order, and **acknowledged**. The rooms in that order, and then what stands
//! around them:

pub mod domain;
pub mod callers;
pub mod http;
mod console;
pub mod monitor;
pub mod stream;
pub mod worker;
pub mod ledger;
pub mod operations;

pub mod config;
pub mod clock;
pub mod worker_name;
pub mod progress;
mod followed_files;
pub mod circuit_breaker;
pub mod telemetry;
pub mod cli;
pub mod app;

//! The promises, tried on real servers. One binary; each file says at its top
//! what it proves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails, and says where"
)]
#![allow(clippy::print_stdout, reason = "a seed is printed, so that a failure can be repeated")]
#![allow(clippy::too_many_lines, reason = "a table of cases is one function")]
#![allow(unreachable_pub, reason = "everything here is one crate that nobody names")]

/// A test for each row: its name, and what a function is called with.
macro_rules! cases {
    ($run:ident: $($name:ident($($with:expr),*);)+) => {
        $(#[tokio::test]
        async fn $name() {
            $run($($with),*).await;
        })+
    };
}

mod chromium;
mod circles;
mod harness;
mod load;
mod otlp;
mod prelude;
mod process;
mod proxy;

mod access;
mod acts;
mod audit;
mod audit_log;
mod doctor;
mod durability;
mod browser;
mod callers;
mod chain;
mod cluster;
mod console;
mod drift;
mod failover;
mod faults;
mod flow;
mod gathering;
mod gauges;
mod groups;
mod growth;
mod health;
mod held_money;
mod hostile;
mod hosts;
mod http;
mod idempotency;
mod kubernetes;
mod lag;
mod left_behind;
mod lifelines;
mod limits;
mod listeners;
mod lineage;
mod lookups;
mod losses;
mod metrics;
mod mending;
mod moving;
mod plaintext;
mod poison;
mod pooler;
mod references;
mod release;
mod parked;
mod partitions;
mod private;
mod network;
mod nginx;
mod observability;
mod openapi;
mod operators;
mod ownership;
mod resize;
mod roles;
mod rooms;
mod sources;
mod standby;
mod stuck;
mod takeover;
mod telemetry;
mod tls;
mod tls_stores;
mod traces;
mod runbook;
mod webhooks;
mod sampling;
mod sentinel;
mod sessions;

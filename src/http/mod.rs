//! Accept: a request becomes a payment and is appended. Also the queries, the
//! operators' API, health, and the description of all of it.
//!
//! Never posts to the ledger, never takes from the stream, and never knows the
//! worker: what a payment became is asked of the ledger, not told by whoever
//! settled it.

pub(crate) mod access;
mod admin;
mod batch;
mod connection;
mod customers;
mod description;
mod entrance;
mod guard;
mod health;
pub(crate) mod intake;
mod lookup;
#[doc(hidden)]
pub mod measured;
mod observe;
mod operator;
mod payments;
mod peer;
mod preferences;
mod problem;
mod quota;
mod rate;
mod routes;
mod security_log;
mod serve;
mod session_memory;
pub(crate) mod sessions;
mod shapes;
mod shares;
mod slots;
mod state;
mod stores;
mod surface;
mod tls;
mod views;
mod webhooks;

pub(crate) use intake::{Query, Segment};
pub(crate) use operator::Principal;
pub(crate) use peer::Peer;
pub use problem::CODES;
pub(crate) use problem::{Code, Problem};
pub(crate) use routes::Pages;
pub use routes::description;
pub(crate) use serve::{serve, serve_health};
pub(crate) use slots::{Full, Slot, Slots};
pub(crate) use state::{App, AppState, Gateway};
pub use surface::Door;
pub(crate) use surface::{ASSETS, CONSOLE, LIVE, SIGN_IN, Surface};
pub(crate) use tls::Tls;

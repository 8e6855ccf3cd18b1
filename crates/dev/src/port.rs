//! A port of this machine that no other private server chooses meanwhile.
//!
//! A server that was killed must find its port again. While it is down nobody
//! listens there, so a look at the port is not enough: another program of ours
//! would take it for its own server. A lock file says whose it is.
//!
//! Never keeps a foreign program away, and never listens itself but for a look.

use std::fs::{self, OpenOptions, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::place::Lock;

/// Ports are taken from here, below the ports that Linux and macOS give to
/// outgoing connections. From that range a client that keeps reconnecting to a
/// stopped server can be given the server's port as its own, connect to
/// itself, and so keep the server from coming back.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// Under the system's temporary directory, one file a port, shared by all users.
const LOCKS_FOLDER: &str = "paystream-ports";
const EVERYBODY: u32 = 0o777;

/// A port, ours while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: Lock,
}

impl Port {
    /// `wanted` if it is free, else the first free one after where `seed` points.
    pub fn choose(wanted: Option<u16>, seed: u64) -> Result<Port> {
        let folder = std::env::temp_dir().join(LOCKS_FOLDER);
        fs::create_dir_all(&folder)
            .with_context(|| format!("could not make the directory {}", folder.display()))?;
        // Refused where another user made it, who has opened it for us then.
        let _opened_or_not = fs::set_permissions(&folder, Permissions::from_mode(EVERYBODY));
        let count = u64::from(PORTS);
        let others = (0..count)
            .filter_map(|step| u16::try_from(seed.wrapping_add(step) % count).ok())
            .map(|offset| FIRST_PORT + offset);
        let port = wanted.into_iter().chain(others).find_map(|number| reserve(&folder, number));
        port.with_context(|| {
            let folder = folder.display();
            format!("no port between 20000 and 29999 is free, or {folder} is closed to us")
        })
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Nothing when somebody has it: by its lock, or by listening.
fn reserve(folder: &Path, number: u16) -> Option<Port> {
    let path = folder.join(number.to_string());
    let lock = OpenOptions::new().create(true).write(true).truncate(false).open(path).ok()?;
    lock.try_lock().ok()?;
    let port = Port { number, _lock: Lock(lock) };
    is_free(number).then_some(port)
}

/// Whether a server could listen on `port` of this machine now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

//! One server's own folder: its lock, its log, its port and process id of last time.
//!
//! Other accounts cannot look into the folder. Never starts or stops anything, and
//! never takes a lock that a living program holds.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

use super::port::Port;

/// A log longer than this is set aside at the next start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
const LOG_LINES_SHOWN: usize = 15;

const LOCK_ATTEMPTS: usize = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A server's folder, locked while this value lives.
#[derive(Debug)]
pub(super) struct ServerFolder {
    /// The directory that both servers share.
    pub(super) directory: PathBuf,
    /// This server's own folder.
    pub(super) folder: PathBuf,
    _lock: Lock,
}

/// A locked file. A drop unlocks rather than only closes it: a child that another thread
/// starts at this moment has the file open too, and would keep the lock.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!("could not unlock a file: {error}");
        }
    }
}

impl ServerFolder {
    /// Makes `directory/server` if it is missing, locks it, and closes it to others.
    pub(super) async fn take(directory: &Path, server: &str) -> Result<ServerFolder> {
        let folder = directory.join(server);
        let (directory, folder) = make(directory, &folder)
            .and_then(|()| Ok((fs::canonicalize(directory)?, fs::canonicalize(&folder)?)))
            .with_context(|| format!("could not make the directory {}", folder.display()))?;
        ensure!(
            fs::metadata(&folder)?.uid() == rustix::process::geteuid().as_raw(),
            "{} belongs to another account: remove it, or choose another directory",
            folder.display()
        );
        let lock = lock(&directory, &folder).await?;
        // Older versions let everybody in. Not before nobody else uses it: PostgreSQL
        // may need to enter under an account of its own.
        fs::set_permissions(&folder, Permissions::from_mode(0o700))
            .with_context(|| format!("could not close {} to others", folder.display()))?;
        Ok(ServerFolder { directory, folder, _lock: Lock(lock) })
    }

    /// A short name for the folder, the same in every run.
    pub(super) fn hash(&self) -> String {
        format!("{:016x}", self.seed())
    }

    /// A free port, kept from the other servers of ours: that of last time if
    /// it can be had.
    pub(super) fn choose_port(&self) -> Result<Port> {
        Port::choose(self.last("port"), self.seed())
    }

    /// A number of its own, the same in every run.
    pub(super) fn seed(&self) -> u64 {
        xxh3_64(self.folder.as_os_str().as_encoded_bytes())
    }

    /// The `port` or `pid` that [`ServerFolder::remember`] was last told.
    pub(super) fn last<T: FromStr>(&self, name: &str) -> Option<T> {
        fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }

    /// Keeps port and process id for the next start.
    pub(super) fn remember(&self, port: u16, pid: u32) -> Result<()> {
        fs::write(self.folder.join("port"), format!("{port}\n"))
            .and_then(|()| fs::write(self.folder.join("pid"), format!("{pid}\n")))
            .with_context(|| format!("could not write to {}", self.folder.display()))
    }

    /// Removes the folder and gives up its lock.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("could not remove {}", self.folder.display()))
    }

    /// Opens the server's log for another run.
    pub(super) fn open_log(&self) -> Result<Log> {
        let path = self.folder.join("log");
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::rename(&path, self.folder.join("log.old"))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        let start = file.metadata()?.len();
        Ok(Log { path, file, start })
    }
}

/// A server's log, of which we remember where this run began.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    start: u64,
}

impl Log {
    /// Another handle to write to, for a child.
    pub(super) fn writer(&self) -> Result<File> {
        self.file.try_clone().context("could not share the log")
    }

    /// What this run has written.
    pub(super) fn text(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.start))?;
            file.read_to_end(&mut bytes)
        });
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last lines of this run.
    pub(super) fn last_lines(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        match lines.as_slice() {
            [] => String::from("(its log is empty)"),
            lines => lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n"),
        }
    }
}

/// Nothing, where what was to be removed is not there.
pub(super) fn unless_missing(removed: std::io::Result<()>) -> std::io::Result<()> {
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Makes both directories where they are missing; other accounts cannot list them.
fn make(directory: &Path, folder: &Path) -> std::io::Result<()> {
    // As root, PostgreSQL's account has to walk through.
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(directory)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Tries for a moment: a child that a killed program was just starting holds
/// the program's files until it becomes another program.
async fn lock(directory: &Path, folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("could not open {}", path.display()))?;
    let mut attempts = 0;
    while let Err(error) = file.try_lock() {
        if let TryLockError::Error(error) = error {
            return Err(error).with_context(|| format!("could not lock {}", path.display()));
        }
        if attempts == LOCK_ATTEMPTS {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!(
                "{} is in use by another paystream (process {}): stop that one, \
                 or choose another directory",
                directory.display(),
                holder.trim()
            );
        }
        attempts += 1;
        sleep(LOCK_PAUSE).await;
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

//! Clocks of their own for the processes and servers of a storm, which can be wrong for a while: by
//! libfaketime, which reads each second from a file how wrong. What measures time, rather than tells
//! it, is never changed, nor is the machine's own clock.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use paystream_dev::Server;

/// Where packages put it: Debian below a folder of the architecture.
const HOMES: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// A lock protects what it knows: for whatever has several threads.
const THREADED: &str = "libfaketimeMT.so.1";
/// PostgreSQL's processes have one, and ask for the time in handlers of signals, too: with a lock,
/// one that was interrupted in it would wait for itself.
const ALONE: &str = "libfaketime.so.1";
/// Redis asks its own malloc before libfaketime is ready, and that asks for the time: both would
/// wait for ever. With the malloc of the C library nobody asks so early.
const MALLOC: &str = "libc.so.6";
/// After so long a changed clock is seen by everybody: libfaketime counts whole seconds.
pub(crate) const SEEN_WITHIN: Duration = Duration::from_millis(2_100);

pub(crate) struct Clocks {
    folder: PathBuf,
    /// Where the libraries are.
    home: Option<PathBuf>,
}

impl Clocks {
    /// Clocks whose files are in `folder`. There are some only where they are `wanted`, and
    /// libfaketime is installed.
    pub(crate) fn find(folder: &Path, wanted: bool) -> Result<Self> {
        let folder = folder.join("clocks");
        fs::create_dir_all(&folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        sweep();
        Ok(Self { folder, home: wanted.then(find_home).flatten() })
    }

    /// Whether anybody has one.
    pub(crate) fn exist(&self) -> bool {
        self.home.is_some()
    }

    /// What a process of this name has in its environment so that the clock is its own.
    pub(crate) fn environment(&self, name: &str) -> Result<Vec<(String, String)>> {
        let Some(home) = &self.home else { return Ok(Vec::new()) };
        self.set(name, 0)?;
        let is_postgres = name.starts_with("postgres");
        let library = home.join(if is_postgres { ALONE } else { THREADED });
        let variables = [
            ("LD_PRELOAD", format!("{} {MALLOC}", library.display())),
            ("FAKETIME_TIMESTAMP_FILE", self.file(name).display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Times of files are what they are.
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        Ok(variables.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// Starts a server again, with a clock of its own. Where there is none, it goes on.
    pub(crate) async fn give(&self, name: &str, server: &mut Server) -> Result<()> {
        if !self.exist() {
            return Ok(());
        }
        server.set_environment(self.environment(name)?);
        server.restart().await
    }

    /// From now on this one's clock is so many seconds ahead.
    pub(crate) fn set(&self, name: &str, seconds: i64) -> Result<()> {
        let (file, part) = (self.file(name), self.file(&format!("{name}.part")));
        // Nobody may read half of it.
        fs::write(&part, format!("{seconds:+}\n"))
            .and_then(|()| fs::rename(&part, &file))
            .with_context(|| format!("could not write {}", file.display()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Clocks {
    fn drop(&mut self) {
        sweep();
    }
}

/// The folder that has both libraries.
fn find_home() -> Option<PathBuf> {
    let below = |home: &Path| {
        let entries = fs::read_dir(home).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<PathBuf>>()
    };
    let homes = HOMES.map(PathBuf::from).into_iter();
    let mut folders = homes.flat_map(|home| [vec![home.clone()], below(&home)].concat());
    folders.find_map(|folder| {
        let folder = folder.join("faketime");
        let is_whole = [THREADED, ALONE].iter().all(|library| folder.join(library).is_file());
        is_whole.then_some(folder)
    })
}

/// Removes what libfaketime leaves in shared memory of processes that were killed: a later process
/// of the same number could not start with it.
fn sweep() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid =
            ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|it| name.strip_prefix(it));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _removed_or_gone = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_says_how_wrong_it_is_and_there_is_none_unless_wanted() {
        let folder = std::env::temp_dir().join(format!("paystream-clocks-{}", std::process::id()));
        let clocks = Clocks::find(&folder, false).unwrap();
        assert!(!clocks.exist() && clocks.environment("worker-1").unwrap().is_empty());
        for (seconds, text) in [(0, "+0\n"), (7_200, "+7200\n"), (-2, "-2\n")] {
            clocks.set("worker-1", seconds).unwrap();
            assert_eq!(fs::read_to_string(clocks.file("worker-1")).unwrap(), text);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

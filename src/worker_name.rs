//! The name of a worker that was given none: the host's name and an ordinal.
//!
//! The ordinal is the first that no other worker of this machine uses, so that
//! a worker that crashed and is started again has its old name and keeps its
//! partitions. Where no file can be locked (a container's read-only root), chance
//! takes the ordinal's place. Never asks another machine.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::Context;
use tracing::warn;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// Under the system's temporary directory, shared by all users.
const FOLDER: &str = "paystream-workers";
const EVERYBODY: u32 = 0o777;
/// Workers on one machine that may go without a name of their own.
const ORDINALS: u16 = 1024;

/// A name that no other process of this machine is given while this value lives.
#[derive(Debug)]
pub struct WorkerName {
    pub name: String,
    /// Nothing where chance made the name.
    _lock: Option<File>,
}

impl WorkerName {
    /// Takes the first free name among the workers of `ledger_url`; one that no
    /// other has where the temporary directory cannot be used.
    #[must_use]
    pub fn take(ledger_url: &str) -> Self {
        Self::take_at(&std::env::temp_dir().join(FOLDER), ledger_url)
    }

    fn take_at(folder: &Path, ledger_url: &str) -> Self {
        Self::lock_in(folder, ledger_url).unwrap_or_else(|error| {
            let name = format!("{}-{:016x}", host(), xxh3_64(Uuid::now_v7().as_bytes()));
            warn!(
                name,
                error = format!("{error:#}"),
                "this worker will have another name after a restart; set PAYSTREAM_WORKER_ID to \
                 keep one"
            );
            Self { name, _lock: None }
        })
    }

    fn lock_in(folder: &Path, ledger_url: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("could not make the directory {}", folder.display()))?;
        // Refused where another user made it, who has opened it for us then.
        let _opened_or_not = fs::set_permissions(folder, Permissions::from_mode(EVERYBODY));
        let host = host();
        for ordinal in 0..ORDINALS {
            let file = format!("{host}-{ordinal}-{:016x}", xxh3_64(ledger_url.as_bytes()));
            let path = folder.join(file);
            let lock = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
            // Another user's file, or another worker's lock: the next one then.
            let Ok(lock) = lock else { continue };
            if lock.try_lock().is_ok() {
                return Ok(Self { name: format!("{host}-{ordinal}"), _lock: Some(lock) });
            }
        }
        anyhow::bail!("all names in {} are taken or closed to us", folder.display())
    }
}

/// The host's name, of characters that a worker's name may have.
#[must_use]
pub fn host() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' })
        .take(48)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_name_and_one_that_comes_back_has_its_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let take = |url| WorkerName::take_at(folder.path(), url);
        let (first, second) = (take("postgres://a"), take("postgres://a"));
        assert!(first.name.ends_with("-0") && second.name.ends_with("-1"), "{first:?} {second:?}");
        assert!(take("postgres://b").name.ends_with("-0"), "another ledger's workers");
        let name = first.name.clone();
        drop(first);
        assert_eq!(take("postgres://a").name, name);
    }
    #[test]
    fn a_worker_has_a_name_of_its_own_where_nothing_can_be_written() {
        // A file stands where the directory would be made, so that root is
        // refused as well.
        let file = tempfile::NamedTempFile::new().unwrap();
        let take = || WorkerName::take_at(&file.path().join(FOLDER), "postgres://a").name;
        let (first, second) = (take(), take());
        assert!(first.starts_with(&host()), "{first}");
        assert_ne!(first, second);
    }
}

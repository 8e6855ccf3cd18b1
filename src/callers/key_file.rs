//! Follows a file of keys. Never goes on without keys: a file that cannot be used changes nothing.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{KeySet, Sources};
use crate::followed_files;

impl KeySet {
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&followed_files::text(path)?)
    }
}

impl Sources {
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let sources = Self::default();
        sources.replace(&followed_files::text(path)?)?;
        Ok(sources)
    }
}

/// Has `take` use this file whenever it changes, and at SIGHUP, until `stop`. What it refuses
/// changes nothing, and is logged as `what`.
pub async fn follow(
    path: PathBuf,
    what: &'static str,
    take: impl Fn(&str) -> Result<(), String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let file = path.display().to_string();
    followed_files::follow(vec![path], stop, |texts| {
        let Some(text) = texts.first() else { return };
        if let Err(error) = text.as_deref().map_err(Clone::clone).and_then(&take) {
            warn!(file, error, "{what} cannot be used; going on with the last one");
        }
    })
    .await
}

//! Follows the file of a key set. Never goes on without keys: a file that cannot be used changes
//! nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{KeySet, Tokens};
use crate::followed_files;

impl KeySet {
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&followed_files::text(path)?)
    }
}

/// Gives `tokens` the keys of this file whenever they change, until `stop`.
pub async fn follow(
    tokens: Arc<Tokens>,
    path: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let file = path.display().to_string();
    followed_files::follow(vec![path], stop, |texts| {
        let Some(text) = texts.first() else { return };
        match text.as_deref().map_err(Clone::clone).and_then(KeySet::parse) {
            Ok(keys) => {
                let (kids, ignored) = (keys.kids(), keys.ignored());
                info!(file, ?kids, ignored, "using the key set");
                tokens.replace(keys);
            }
            Err(error) => {
                warn!(file, error, "the key set cannot be used; going on with the last one")
            }
        }
    })
    .await
}

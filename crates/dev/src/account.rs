//! Which account a server runs as: ours, or an ordinary one when we are root.
//!
//! PostgreSQL refuses to run as root. Never asks for more rights than it has, and
//! never runs a server as `nobody`, whose files every other `nobody` may read.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::guardian::clean;

/// Made by PostgreSQL's packages.
const ORDINARY: &str = "postgres";

/// An account that is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SystemAccount {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl SystemAccount {
    /// The account to run PostgreSQL as; `None` means our own.
    pub(super) async fn ordinary() -> Result<Option<SystemAccount>> {
        if id("-u", None).await? != Some(0) {
            return Ok(None);
        }
        let ids = (id("-u", Some(ORDINARY)).await?, id("-g", Some(ORDINARY)).await?);
        let (Some(uid), Some(gid)) = ids else {
            bail!(
                "PostgreSQL does not run as root, and this machine has no account \
                 `{ORDINARY}`: start paystream as an ordinary user"
            )
        };
        Ok(Some(SystemAccount { uid, gid }))
    }

    /// The account that a file belongs to, unless that is root.
    pub(super) fn owner_of(path: &Path) -> Option<SystemAccount> {
        let file = std::fs::symlink_metadata(path).ok()?;
        (file.uid() != 0).then_some(SystemAccount { uid: file.uid(), gid: file.gid() })
    }

    /// Whether this account can walk down to `directory`.
    pub(super) async fn reaches(self, directory: &Path) -> Result<bool> {
        let mut command = Command::new("sh");
        clean(command.as_std_mut());
        command
            .args(["-c", r#"cd "$0""#])
            .arg(directory)
            .current_dir("/")
            .uid(self.uid)
            .gid(self.gid)
            .output()
            .await
            .map(|output| output.status.success())
            .context("could not change to the account that runs PostgreSQL")
    }

    /// Gives `path` to this account.
    pub(super) fn own(self, path: &Path) -> Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("could not give {} to another account", path.display()))
    }

    /// Lets this account walk through a folder of ours, but not list or change it.
    pub(super) fn enter(self, folder: &Path) -> Result<()> {
        chown(folder, None, Some(self.gid))
            .and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(0o710)))
            .with_context(|| format!("could not open {} to PostgreSQL", folder.display()))
    }
}

/// What `id -u name` prints; `None` when there is no such account.
async fn id(what: &str, name: Option<&str>) -> Result<Option<u32>> {
    let output =
        Command::new("id").arg(what).args(name).output().await.context("could not run `id`")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}

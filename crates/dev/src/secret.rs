//! Passwords of the private servers, and files that only their owner can read.
//!
//! Never logs a password, and never writes through a link that somebody else put
//! in the file's place.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result};

use super::account::SystemAccount;
use super::place::unless_missing;

/// Name of the file that holds a server's password.
pub(super) const PASSWORD: &str = "password";

/// A new random password: hexadecimal digits, so that it fits into a URL.
pub(super) fn fresh() -> Result<String> {
    let mut bytes = [0_u8; 24];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("could not read random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The password in `folder`; made when there is none.
pub(super) fn password_in(folder: &Path) -> Result<String> {
    if let Some(password) = read(folder)? {
        return Ok(password);
    }
    let password = fresh()?;
    write(&folder.join(PASSWORD), &password, None)?;
    Ok(password)
}

/// The password in `folder`, if there is one.
pub(super) fn read(folder: &Path) -> Result<Option<String>> {
    let path = folder.join(PASSWORD);
    match fs::read_to_string(&path) {
        Ok(password) => Ok(Some(password)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// Puts a file with mode 600 in place, as a whole; `owner` may be another account.
pub(super) fn write(path: &Path, text: &str, owner: Option<SystemAccount>) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = Path::new(&name);
    let written = || {
        unless_missing(fs::remove_file(fresh))?;
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(fresh)?;
        if let Some(owner) = owner {
            fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(fresh, path)
    };
    written().with_context(|| format!("could not write {}", path.display()))
}

//! `paystream keys` and `paystream token`: make the keys and the access tokens of callers, and
//! change one key for another. Never shows a private key.

use std::{
    fs,
    io::{ErrorKind, Write, stdout},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use humantime::{format_duration, parse_duration};
use serde_json::Value;
use uuid::Uuid;

use super::table::{Column, known, listing};
use crate::{
    callers::{Confirmation, Grant, Kept, KeySet, NAME, PublicKey, Scope, SigningKey, is_name},
    clock::Clock,
    domain::Source,
};

#[derive(Args, Clone, Debug)]
pub struct KeysFileArgs {
    /// File with the public keys, which gateways read.
    #[arg(long, env = "PAYSTREAM_JWT_KEYS_FILE")]
    keys_file: PathBuf,
}

#[derive(Subcommand, Clone, Debug)]
pub enum KeysCommand {
    /// Make a private key (Ed25519), and add its public key to the key set
    New {
        /// File of the private key, which must not exist.
        key: PathBuf,
        #[command(flatten)]
        set: KeysFileArgs,
    },
    /// Add a public key to the key set
    Add {
        /// PEM file of the public key (SPKI) or of its private key (PKCS #8).
        key: PathBuf,
        #[command(flatten)]
        set: KeysFileArgs,
    },
    /// List the public keys
    List {
        #[command(flatten)]
        set: KeysFileArgs,
        /// Print one JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Remove a public key: tokens made with its private key are refused
    Remove {
        /// Its `kid`.
        #[arg(allow_hyphen_values = true)]
        kid: String,
        #[command(flatten)]
        set: KeysFileArgs,
    },
}

pub fn run(command: KeysCommand) -> anyhow::Result<()> {
    let said = match command {
        KeysCommand::New { key, set } => {
            let new = SigningKey::generate().map_err(|error| anyhow!(error))?;
            write_new(&key, &new.to_pem())?;
            let added = add(&set.keys_file, &new.public());
            if added.is_err() {
                // So that the next attempt may use its name.
                let _ = fs::remove_file(&key);
            }
            added?
        }
        KeysCommand::Add { key, set } => {
            add(&set.keys_file, &read_key(&key, PublicKey::from_pem)?)?
        }
        KeysCommand::List { set, json } => list(&existing(&set.keys_file)?, json),
        KeysCommand::Remove { kid, set } => remove(&set.keys_file, &kid)?,
    };
    stdout().write_all(said.as_bytes()).context("could not write the answer")
}

fn add(path: &Path, key: &PublicKey) -> anyhow::Result<String> {
    let (path, _lock) = &locked(path)?;
    let mut set = read(path)?.unwrap_or_default();
    let kid = key.kid();
    ensure!(
        set.keys.iter().all(|other| other["kid"] != *kid),
        "{} has the key {kid} already",
        path.display()
    );
    set.keys.push(key.to_jwk());
    write(path, &set)?;
    Ok(format!("added key {kid} to {}; gateways use it within 2 s\n", path.display()))
}

fn remove(path: &Path, kid: &str) -> anyhow::Result<String> {
    let (path, _lock) = &locked(path)?;
    let mut set = existing(path)?;
    let before = set.keys.len();
    set.keys.retain(|key| key["kid"] != kid);
    ensure!(set.keys.len() < before, "{} has no key {kid}", path.display());
    write(path, &set)?;
    Ok(format!("removed key {kid} from {}; gateways refuse it within 2 s\n", path.display()))
}

fn list(set: &Kept, json: bool) -> String {
    let columns: [Column<'_, Value>; 3] = [
        ("kid", &|key| known(key["kid"].as_str())),
        ("kind", &|key| known(key["kty"].as_str())),
        ("algorithm", &|key| known(key["alg"].as_str())),
    ];
    listing(&set.keys, json, "no keys", &columns)
}

fn existing(path: &Path) -> anyhow::Result<Kept> {
    read(path)?.with_context(|| format!("there is no file {}", path.display()))
}

/// None if there is no file.
fn read(path: &Path) -> anyhow::Result<Option<Kept>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let set = Kept::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
            Ok(Some(set))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// At once, so that no gateway reads half of it; and only what gateways can use. Whoever could
/// read the file still can.
fn write(path: &Path, set: &Kept) -> anyhow::Result<()> {
    let text = format!("{:#}\n", serde_json::to_value(set)?);
    if let Err(error) = KeySet::parse(&text) {
        bail!("{} is left as it is, no gateway could use it: {error}", path.display());
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", Uuid::now_v7()));
    let replaced = replace(path, Path::new(&new), &text);
    if replaced.is_err() {
        // What is left of it is of no use.
        let _ = fs::remove_file(&new);
    }
    replaced.with_context(|| format!("could not replace {}", path.display()))
}

fn replace(path: &Path, new: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(new)?;
    match fs::metadata(path) {
        Ok(old) => {
            let (user, group) = (old.uid(), old.gid());
            if (user, group) != (file.metadata()?.uid(), file.metadata()?.gid()) {
                fchown(&file, Some(user), Some(group))?;
            }
            file.set_permissions(old.permissions())?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Public keys, for gateways of another user, too.
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        Err(error) => return Err(error),
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// The file itself where a link leads to it, and a lock that lets one command at a time change
/// what is in its directory.
fn locked(path: &Path) -> anyhow::Result<(PathBuf, fs::File)> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let lock = fs::File::open(directory).and_then(|lock| lock.lock().map(|()| lock));
    let lock = lock.with_context(|| format!("could not lock {}", directory.display()))?;
    Ok((path, lock))
}

/// For its owner's eyes only.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("could not write the private key {}", path.display()))
}

pub(super) fn private(path: &Path) -> anyhow::Result<SigningKey> {
    read_key(path, SigningKey::from_pem)
}

/// What a PEM file holds.
fn read_key<T>(path: &Path, from_pem: fn(&str) -> Result<T, String>) -> anyhow::Result<T> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("could not read {}", path.display()))?;
    from_pem(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// File of the private key: PKCS #8, PEM.
    #[arg(long)]
    key: PathBuf,
    /// Whose token it is; the audit log has this name.
    #[arg(long)]
    subject: String,
    /// Whose payments it sends and sees, such as a bank.
    #[arg(long, default_value = Source::DEFAULT)]
    source: String,
    /// What it opens; may be given more than once, or between commas.
    #[arg(long, required = true, value_delimiter = ',')]
    scope: Vec<Scope>,
    /// How long it is valid.
    #[arg(long, default_value = "15m", value_parser = parse_duration)]
    lifetime: Duration,
    /// Longest time for which gateways take one.
    #[arg(long, env = "PAYSTREAM_JWT_LIFETIME_MAX", default_value = "1h", value_parser = parse_duration)]
    lifetime_max: Duration,
    /// PEM file with the client certificate that it is bound to (RFC 8705): it is then good
    /// only over TLS with that certificate.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Who makes it, as gateways know it.
    #[arg(long, env = "PAYSTREAM_JWT_ISSUER")]
    issuer: String,
    /// For whom it is, as gateways know themselves.
    #[arg(long, env = "PAYSTREAM_JWT_AUDIENCE", default_value = "paystream")]
    audience: String,
}

/// Makes an access token and prints it, alone on its line.
pub fn token(args: &TokenArgs, clock: Clock) -> anyhow::Result<()> {
    // What no gateway takes.
    ensure!(is_name(&args.subject), "--subject must be {NAME}");
    Source::parse(&args.source).map_err(|invalid| anyhow!("--source {}", invalid.reason))?;
    ensure!(!args.issuer.is_empty(), "--issuer must not be empty");
    ensure!(args.lifetime >= Duration::from_secs(1), "--lifetime must be at least 1s");
    ensure!(
        args.lifetime <= args.lifetime_max,
        "--lifetime {} must be at most {}, or no gateway takes the token \
         (PAYSTREAM_JWT_LIFETIME_MAX)",
        format_duration(args.lifetime),
        format_duration(args.lifetime_max)
    );
    let certificate = args.certificate.as_deref();
    let cnf = certificate.map(|path| read_key(path, Confirmation::of_pem)).transpose()?;
    let scopes: Vec<&str> = args.scope.iter().map(|scope| scope.as_str()).collect();
    let iat = clock().timestamp();
    let lifetime = i64::try_from(args.lifetime.as_secs()).context("--lifetime is too long")?;
    let grant = Grant {
        iss: &args.issuer,
        aud: &args.audience,
        sub: &args.subject,
        client_id: &args.subject,
        source: &args.source,
        scope: &scopes.join(" "),
        iat,
        exp: iat.checked_add(lifetime).context("--lifetime is too long")?,
        jti: &Uuid::now_v7().to_string(),
        cnf,
    };
    let token = private(&args.key)?.mint(&grant).context("could not sign the token")?;
    writeln!(stdout(), "{token}").context("could not write the token")
}

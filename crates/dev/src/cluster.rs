//! A PostgreSQL cluster on disk: its programs, its account, its place, its first day.
//!
//! Never starts the server; never touches a cluster that another account made.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::account::SystemAccount;
use super::guardian::clean;
use super::place::{ServerFolder, unless_missing};
use super::ps::{self, Living};
use super::server::clear_leftovers;
use super::{DATABASE, postgres_server::USER, secret};

/// Where packages put PostgreSQL's server programs without linking them into
/// the PATH: Debian, PGDG's RPMs, Alpine, and Homebrew's two homes.
const PROGRAM_HOMES: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
];

/// What a standby calls itself.
const STANDBY: &str = "standby";

/// Homebrew's homes, which the PATH of an editor or a service may lack.
const MORE_PATHS: [&str; 2] = ["/opt/homebrew/bin", "/usr/local/bin"];

/// Who may connect, a standby included: with the password, from this machine.
const HOST_BASED_ACCESS: &str = "host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
";

/// A cluster that exists, or is about to.
#[derive(Debug)]
pub(super) struct Cluster {
    programs: PathBuf,
    /// The folder that holds `data`; ours alone.
    home: PathBuf,
    pub(super) data: PathBuf,
    /// Whom the server runs as; `None` means our own account.
    pub(super) account: Option<SystemAccount>,
    /// Its processes carry this in their titles.
    pub(super) title: String,
}

impl Cluster {
    /// Decides where the cluster of `place` is and what runs it.
    pub(super) async fn locate(place: &ServerFolder) -> Result<Cluster> {
        let mut account = SystemAccount::ordinary().await?;
        let title = format!("paystream-{}", place.hash());
        let mut home = place.folder.clone();
        let elsewhere = Path::new("/var/tmp").join(&title);
        if let Some(ordinary) = account {
            let one = SystemAccount::owner_of(&home.join("data")).unwrap_or(ordinary);
            one.enter(&home)?;
            account = Some(one);
        }
        if let Some(account) = account
            // Once there, always there: a ledger must not seem to vanish.
            && (elsewhere.join("data").exists() || !account.reaches(&home).await?)
        {
            make_private(&elsewhere, account)?;
            home = elsewhere;
        }
        let data = home.join("data");
        if account.is_some() && data.exists() {
            account = SystemAccount::owner_of(&data).or(account);
        }
        Ok(Cluster { programs: find_programs(&data).await?, home, data, account, title })
    }

    /// One of PostgreSQL's own programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Waits for what an earlier run left running, and for `postmaster.pid`.
    pub(super) async fn clear_leftovers(&self) -> Result<()> {
        let ours = format!("-D {}", self.data.display());
        let child = format!("postgres: {}: ", self.title);
        let is_ours = |one: &Living| one.command.contains(&ours) || one.command.contains(&child);
        clear_leftovers("PostgreSQL", "INT", &self.home, is_ours).await?;
        self.forget_stranger().await
    }

    /// Removes a stale `postmaster.pid` whose number somebody else has by now.
    ///
    /// PostgreSQL sees through every other stale file by itself. We hold the
    /// directory's lock and have just seen that no server of it lives.
    async fn forget_stranger(&self) -> Result<()> {
        let file = self.data.join("postmaster.pid");
        let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
        let pid: Option<u32> = text.lines().next().and_then(|line| line.trim().parse().ok());
        if ps::living().await?.iter().any(|one| Some(one.pid) == pid) {
            fs::remove_file(&file)
                .with_context(|| format!("could not remove {}", file.display()))?;
        }
        Ok(())
    }

    /// Makes the cluster and its database, unless they are there; returns the
    /// superuser's password.
    ///
    /// It gets its name only when it is complete, so a crash in between
    /// leaves nothing that looks like a ledger.
    pub(super) async fn initialise(&self) -> Result<String> {
        if self.data.join("PG_VERSION").exists() {
            // An older version trusted every user of the machine.
            return self.guard(&self.data, "").await;
        }
        let part = self.begin_part()?;
        let user = format!("--username={USER}");
        let arguments = ["--auth=reject", "--encoding=UTF8", "--locale=C", &user];
        self.run("initdb", &arguments, &part, "").await?;
        let password = self.guard(&part, &format!("create database {DATABASE}\n")).await?;
        fs::rename(&part, &self.data).context("could not put the new cluster in its place")?;
        Ok(password)
    }

    /// An empty folder for a cluster that is not complete yet.
    fn begin_part(&self) -> Result<PathBuf> {
        let part = self.home.join("data.part");
        remove_all(&part)?;
        DirBuilder::new()
            .mode(0o700)
            .create(&part)
            .with_context(|| format!("could not make {}", part.display()))?;
        if let Some(account) = self.account {
            account.own(&part)?;
        }
        Ok(part)
    }

    /// The superuser's password in `data`. Where there is none, does `first`, sets
    /// one, and shuts out whoever does not know it.
    async fn guard(&self, data: &Path, first: &str) -> Result<String> {
        if let Some(password) = secret::read(data)? {
            return Ok(password);
        }
        let password = secret::fresh()?;
        let encryption = "password_encryption=scram-sha-256";
        let arguments = ["--single", "-c", "exit_on_error=on", "-c", encryption];
        let statements = format!("{first}alter role {USER} password '{password}'\n");
        self.run("postgres", &arguments, data, &statements).await?;
        secret::write(&data.join("pg_hba.conf"), HOST_BASED_ACCESS, self.account)?;
        // Last: it says that the rest is done.
        secret::write(&data.join(secret::PASSWORD), &password, self.account)?;
        Ok(password)
    }

    /// The best compression of the WAL that this PostgreSQL was built with.
    pub(super) async fn compression(&self) -> &'static str {
        let arguments = ["-C", "wal_compression", "-c", "wal_compression=lz4"];
        let has_lz4 = self.run("postgres", &arguments, &self.data, "").await.is_ok();
        if has_lz4 { "lz4" } else { "on" }
    }

    /// Replaces what is in it by a copy of the cluster whose superuser logs in at `url`, which it
    /// will follow as `standby`. No server may run on it.
    pub(super) async fn copy(&self, url: &str) -> Result<()> {
        let part = self.begin_part()?;
        let source = format!("{url}?application_name={STANDBY}");
        let arguments =
            ["--checkpoint=fast", "--write-recovery-conf", "--no-sync", "--dbname", &source];
        self.run("pg_basebackup", &arguments, &part, "").await?;
        remove_all(&self.data)?;
        fs::rename(&part, &self.data).context("could not put the copy in its place")
    }

    /// Removes the cluster, and its home if that is not the place's folder.
    pub(super) fn remove(&self) -> Result<()> {
        remove_all(&self.data)?;
        remove_all(&self.home.join("data.part"))?;
        if self.home.starts_with("/var/tmp") {
            remove_all(&self.home)?;
        }
        Ok(())
    }

    /// Runs a program on `data` to its end, as the cluster's account.
    async fn run(&self, name: &str, arguments: &[&str], data: &Path, input: &str) -> Result<()> {
        let mut command = Command::new(self.program(name));
        clean(command.as_std_mut());
        command.args(arguments).arg("-D").arg(data).current_dir(&self.home);
        // Single-user mode takes the database's name last.
        command.args((arguments.first() == Some(&"--single")).then_some("postgres"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut child = command.spawn().with_context(|| format!("could not start {name}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            let written = stdin.write_all(input.as_bytes()).await;
            written.with_context(|| format!("{name} ended early"))?;
        }
        let output = child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name} failed:\n{}", said.trim());
        Ok(())
    }
}

/// Makes a folder below a directory that everybody may write to.
fn make_private(home: &Path, account: SystemAccount) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(home) {
        Ok(()) => account.own(home),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(home)?;
            ensure!(
                found.is_dir() && [0, account.uid].contains(&found.uid()),
                "{} belongs to another account: remove it, or choose another directory",
                home.display()
            );
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("could not make {}", home.display())),
    }
}

/// The first program of this name in the PATH.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = MORE_PATHS.iter().map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The folder of PostgreSQL's server programs; of the version that made
/// `data`, if that exists.
async fn find_programs(data: &Path) -> Result<PathBuf> {
    let found = program_folders();
    let Ok(wanted) = fs::read_to_string(data.join("PG_VERSION")) else {
        return found.into_iter().next().context(
            "could not find PostgreSQL's `initdb`: install PostgreSQL (scripts/install.sh does)",
        );
    };
    let wanted = wanted.trim();
    for folder in &found {
        let output = Command::new(folder.join("postgres")).arg("--version").output().await?;
        let version = String::from_utf8_lossy(&output.stdout).replace("postgres (PostgreSQL)", "");
        if version.trim().split(['.', ' ']).next() == Some(wanted) {
            return Ok(folder.clone());
        }
    }
    bail!(
        "{} was made by PostgreSQL {wanted}, which is not installed: install it, or remove the \
         directory",
        data.display()
    )
}

/// Every folder with an `initdb`: the PATH's first, then the newest.
fn program_folders() -> Vec<PathBuf> {
    // A link in the PATH (Debian, Homebrew) leads to the folder with the rest.
    let linked = find_program("initdb").and_then(|initdb| fs::canonicalize(initdb).ok());
    let first = linked.and_then(|initdb| initdb.parent().map(Path::to_owned));
    let mut rest: Vec<(u32, PathBuf)> = Vec::new();
    for (home, prefix, inner) in PROGRAM_HOMES {
        for entry in fs::read_dir(home).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(version) = name.strip_prefix(prefix) else { continue };
            // Homebrew's unversioned formula is the newest there is.
            let version = version.trim_start_matches('@').parse().unwrap_or(0);
            rest.push((version, entry.path().join(inner)));
        }
    }
    rest.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let complete =
        |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    first.into_iter().chain(rest.into_iter().map(|(_, folder)| folder)).filter(complete).collect()
}

fn remove_all(path: &Path) -> Result<()> {
    unless_missing(fs::remove_dir_all(path))
        .with_context(|| format!("could not remove {}", path.display()))
}

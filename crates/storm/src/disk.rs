//! Small disks of their own for the servers of a storm, which can be full for a while. Each is a
//! tmpfs over the server's directory, so only root gets them, and only on Linux. Never fills a disk
//! that it did not mount. What a storm leaves that is killed, the next one unmounts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::statvfs;

/// As large as a storm of some hours needs. It takes only the memory that is used.
const SIZE: u64 = 4 << 30;
/// Then comes the process.
const NAME: &str = "paystream-storm-";
/// What is used grows while it is asked for.
const ATTEMPTS: usize = 20;

/// The disks, or why there are none.
pub(crate) struct Disks(Result<Vec<Disk>, String>);

impl Disks {
    /// Mounts one for each of these directories, all or none.
    pub(crate) fn mount(directories: &[PathBuf]) -> Self {
        sweep();
        let mounted = directories.iter().map(|directory| Disk::mount(directory));
        Self(mounted.collect::<Result<_>>().map_err(|error| format!("{error:#}")))
    }

    pub(crate) fn exist(&self) -> bool {
        self.0.is_ok()
    }

    /// The one that has this; or why none has.
    pub(crate) fn of(&self, data: &Path) -> Result<&Disk, String> {
        let disks = self.0.as_ref().map_err(Clone::clone)?;
        let disk = disks.iter().find(|disk| data.starts_with(&disk.at));
        disk.ok_or_else(|| format!("{} is on no disk of its own", data.display()))
    }
}

/// One of them. Dropped, it is unmounted, whoever still uses it.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at).with_context(|| format!("could not make {}", at.display()))?;
        // PostgreSQL's account has to walk through.
        run("mount", &["-t", "tmpfs", "-o", &format!("size={SIZE},mode=711"), &own_name()], at)?;
        Ok(Self { at: at.to_owned() })
    }

    /// From now on nothing fits any more: it is as large as what it holds.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut filled = Ok(());
        for _ in 0..ATTEMPTS {
            let space = statvfs(&self.at)?;
            filled = self.resize((space.f_blocks - space.f_bfree) * space.f_frsize);
            if filled.is_ok() {
                break;
            }
        }
        filled
    }

    /// There is room again.
    pub(crate) fn make_room(&self) -> Result<()> {
        self.resize(SIZE)
    }

    fn resize(&self, size: u64) -> Result<()> {
        run("mount", &["-o", &format!("remount,size={size}")], &self.at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l"], &self.at) {
            eprintln!("paystream-storm: {error:#}");
        }
    }
}

/// What a tmpfs of this storm is called in the list of mounts.
fn own_name() -> String {
    format!("{NAME}{}", std::process::id())
}

/// Unmounts what storms left that were killed.
fn sweep() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (name, at) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let storm = name.strip_prefix(NAME);
        if storm.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _unmounted_or_gone = run("umount", &["-l"], Path::new(at));
        }
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) -> Result<()> {
    let output = Command::new(program).args(arguments).arg(at).output();
    let output = output.with_context(|| format!("could not run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.lines().next().unwrap_or(program));
    }
    Ok(())
}

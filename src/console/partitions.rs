//! Partitions and who owns them, live, so that a rebalance can be watched.

use askama::Template;
use axum::response::Response;

use super::{
    history::LiveFigures,
    list::Asked,
    shell::{Shell, Visit, page, write},
    words,
};
use crate::{
    http::Problem,
    ledger::WorkerRow,
    operations::{Act, PartitionLook, last_owners},
};

/// Rows of the table at once; tiles show all of them.
const ROWS: u16 = 64;
/// Colours of workers; more workers share them.
const COLOURS: usize = 8;

#[derive(Template)]
#[template(path = "console/partitions_live.html")]
struct PartitionsLive<'a> {
    look: &'a LiveFigures,
    /// The first row.
    from: u16,
}

#[derive(Template)]
#[template(path = "console/partitions.html")]
struct PartitionsPage {
    shell: Shell,
    from: u16,
    live: String,
}

pub(super) async fn show(visit: Visit, asked: Asked) -> Result<Response, Problem> {
    let mut shell = visit.shell("/console/partitions", "Partitions");
    // The live part has them.
    shell.look = None;
    let from = asked.parsed("from")?.unwrap_or(0);
    page(&PartitionsPage { shell, from, live: live(&visit.look, from)? })
}

pub(super) fn live(look: &LiveFigures, from: u16) -> Result<String, Problem> {
    write(&PartitionsLive { look, from })
}

impl PartitionsLive<'_> {
    fn rows(&self) -> impl Iterator<Item = &PartitionLook> {
        let all = self.look.snapshot.partitions.iter();
        all.skip(usize::from(self.from)).take(usize::from(ROWS))
    }

    fn after(&self) -> Option<u16> {
        let all = self.look.snapshot.partitions.len();
        self.from.checked_add(ROWS).filter(|after| usize::from(*after) < all)
    }

    /// Changes only when an owner or a server of Redis does, so that it can be read aloud.
    fn summary(&self) -> String {
        match self.look.redis_trouble() {
            Some(trouble) => format!("{trouble}. {}", self.owners()),
            None => self.owners(),
        }
    }

    fn owners(&self) -> String {
        let snapshot = &self.look.snapshot;
        let figures = &snapshot.figures;
        let (Some(unserved), Some(alive)) = (figures.partitions_unserved, figures.workers_alive)
        else {
            let told = snapshot.partitions.iter().filter_map(|one| one.owner_told.as_deref());
            return format!(
                "Owners are unknown while PostgreSQL does not answer; {}. Running workers wait for \
                 it and go on by themselves.",
                last_owners(told)
            );
        };
        let workers = match alive {
            1 => "1 worker running".to_owned(),
            alive => format!("{alive} workers running"),
        };
        match unserved {
            0 => format!("Every partition has a living owner; {workers}."),
            1 => format!("1 partition has no living owner; {workers}."),
            count => format!("{count} partitions have no living owner; {workers}."),
        }
    }

    fn colour(&self, name: &str) -> Option<String> {
        let workers = &self.look.snapshot.workers;
        let at = workers.iter().position(|worker| worker.worker_id == name)?;
        Some(format!("w{}", at % COLOURS))
    }

    /// A class: the colour of its owner, `nobody` living, or `unknown`.
    fn class(&self, one: &PartitionLook) -> String {
        let Some(alive) = one.owner_alive else { return "unknown".to_owned() };
        let owner = one.owner.as_deref().filter(|_| alive);
        owner.and_then(|owner| self.colour(owner)).unwrap_or_else(|| "nobody".to_owned())
    }
}

fn worker_state(worker: &WorkerRow) -> (&'static str, &'static str) {
    match (worker.is_alive(), worker.leaving) {
        (true, false) => ("alive", "good"),
        (true, true) => ("leaving", "warn"),
        (false, _) => ("silent", "bad"),
    }
}

/// Its owner; or the last one that Redis was told of, which may have let go since.
fn owner(one: &PartitionLook) -> String {
    match (&one.owner, one.owner_alive, &one.owner_told) {
        (Some(owner), ..) => owner.clone(),
        (None, Some(_), _) => words::NONE.to_owned(),
        (None, None, Some(told)) => format!("last known: {told}"),
        (None, None, None) => words::UNKNOWN.to_owned(),
    }
}

fn state(one: &PartitionLook) -> (String, &'static str) {
    match (&one.owner, one.owner_alive, &one.draining_to) {
        (_, None, _) => (words::UNKNOWN.to_owned(), "unknown"),
        (None, _, _) => ("nobody owns it".to_owned(), "bad"),
        (Some(_), Some(false), _) => ("its owner is silent".to_owned(), "bad"),
        (Some(_), Some(true), Some(next)) => (format!("on its way to {next}"), "warn"),
        (Some(_), Some(true), None) => ("served".to_owned(), "good"),
    }
}

fn oldest(one: &PartitionLook) -> String {
    match one.pending {
        None => words::UNKNOWN.to_owned(),
        Some(_) => words::or_dash(&one.oldest_waiting_seconds, |seconds| words::span(*seconds)),
    }
}

fn moved(one: &PartitionLook) -> String {
    match one.moved_seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
        None => words::UNKNOWN.to_owned(),
        Some(seconds) => format!("{} ago", words::span(seconds)),
    }
}

/// Where its owner is asked to hand it over.
fn hand_over(one: &PartitionLook) -> Option<String> {
    let act = Act::Release { partition: one.partition, force: false, wait: false };
    one.owner.as_ref().map(|_| words::act_path(&act))
}

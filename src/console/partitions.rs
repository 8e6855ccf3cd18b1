//! Partitions and who owns them, live, so that a rebalance can be watched.

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;
use serde::Deserialize;

use super::{
    history::Look,
    pages::{Shell, Visit, banners, page, write},
    words,
};
use crate::{
    http::{Problem, Query},
    operations::{Act, PartitionLook, last_owners},
};

/// Rows of the table at once; tiles show all of them.
const ROWS: u16 = 64;
/// Colours of workers; more workers share them.
const COLOURS: usize = 8;

/// Which rows.
#[derive(Deserialize)]
pub(super) struct PartitionsQuery {
    from: Option<u16>,
}

/// A worker in the legend.
struct WorkerView {
    name: String,
    colour: usize,
    state: &'static str,
    mood: &'static str,
    partitions: String,
    silent: String,
    since: String,
}

/// A partition, small.
struct Tile {
    partition: u16,
    /// A class: the colour of its owner, `nobody` living, or `unknown`.
    class: String,
    /// It is on its way to another.
    moving: bool,
    title: String,
}

/// A partition's row.
struct Row {
    partition: u16,
    class: String,
    owner: String,
    state: String,
    mood: &'static str,
    epoch: String,
    depth: String,
    lag: String,
    pending: String,
    oldest: String,
    moved: String,
    hand_over: Option<String>,
}

/// The live part of the page.
#[derive(Template)]
#[template(path = "console/partitions_live.html")]
struct LivePart {
    banners: Vec<String>,
    as_of: String,
    summary: String,
    ledger_available: bool,
    workers: Vec<WorkerView>,
    tiles: Vec<Tile>,
    rows: Vec<Row>,
    before: Option<u16>,
    after: Option<u16>,
}

#[derive(Template)]
#[template(path = "console/partitions.html")]
struct PartitionsPage {
    shell: Shell,
    from: u16,
    live: String,
}

/// The page.
pub(super) async fn show(
    visit: Visit,
    Query(query): Query<PartitionsQuery>,
) -> Result<Response, Problem> {
    let mut shell = visit.shell("/console/partitions", "Partitions");
    shell.banners.clear();
    let from = query.from.unwrap_or(0);
    page(&PartitionsPage { shell, from, live: live(&visit.look, from)? })
}

/// The live part.
pub(super) fn live(look: &Look, from: u16) -> Result<String, Problem> {
    let overview = &look.overview;
    let colours: BTreeMap<&str, usize> = overview
        .workers
        .iter()
        .enumerate()
        .map(|(at, worker)| (worker.worker.as_str(), at % COLOURS))
        .collect();
    let all = &overview.partitions;
    let shown = all.iter().skip(usize::from(from)).take(usize::from(ROWS));
    let after = from.checked_add(ROWS).filter(|after| usize::from(*after) < all.len());
    write(&LivePart {
        banners: banners(look),
        as_of: words::time(overview.as_of),
        summary: summary(look),
        ledger_available: overview.ledger_available,
        workers: workers(look, &colours),
        tiles: all.iter().map(|one| tile(one, &colours)).collect(),
        rows: shown.map(|one| row(one, &colours)).collect(),
        before: (from > 0).then(|| from.saturating_sub(ROWS)),
        after,
    })
}

/// Changes only when an owner does, so that it can be read aloud.
fn summary(look: &Look) -> String {
    let figures = &look.overview.figures;
    let (Some(unserved), Some(alive)) = (figures.partitions_unserved, figures.workers_alive) else {
        let told = look.overview.partitions.iter().filter_map(|one| one.owner_told.as_deref());
        return format!(
            "Owners are unknown while PostgreSQL does not answer; {}. Running workers wait for it \
             and go on by themselves.",
            last_owners(told)
        );
    };
    let workers =
        if alive == 1 { "1 worker lives".to_owned() } else { format!("{alive} workers live") };
    match unserved {
        0 => format!("Every partition has a living owner; {workers}."),
        1 => format!("1 partition has no living owner; {workers}."),
        count => format!("{count} partitions have no living owner; {workers}."),
    }
}

fn workers(look: &Look, colours: &BTreeMap<&str, usize>) -> Vec<WorkerView> {
    let view = |worker: &crate::operations::WorkerLook| {
        let (state, mood) = match (worker.alive, worker.leaving) {
            (true, false) => ("alive", "good"),
            (true, true) => ("leaving", "warn"),
            (false, _) => ("silent", "bad"),
        };
        WorkerView {
            name: worker.worker.clone(),
            colour: colours.get(worker.worker.as_str()).copied().unwrap_or(0),
            state,
            mood,
            partitions: words::number(worker.partitions),
            silent: words::span(u64::try_from(worker.silent_seconds).unwrap_or(0)),
            since: words::time(worker.started_at),
        }
    };
    look.overview.workers.iter().map(view).collect()
}

fn class(one: &PartitionLook, colours: &BTreeMap<&str, usize>) -> String {
    let Some(alive) = one.owner_alive else { return "unknown".to_owned() };
    let colour = one.owner.as_deref().filter(|_| alive).and_then(|owner| colours.get(owner));
    colour.map_or_else(|| "nobody".to_owned(), |colour| format!("w{colour}"))
}

/// Its owner; or the last one that Redis was told of, which may have let go since.
fn owner(one: &PartitionLook) -> String {
    match (&one.owner, one.owner_alive, &one.owner_told) {
        (Some(owner), ..) => owner.clone(),
        (None, Some(_), _) => "–".to_owned(),
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

fn tile(one: &PartitionLook, colours: &BTreeMap<&str, usize>) -> Tile {
    let (state, _) = state(one);
    Tile {
        partition: one.partition,
        class: class(one, colours),
        moving: one.draining_to.is_some(),
        title: format!("partition {}: {}, {state}", one.partition, owner(one)),
    }
}

fn row(one: &PartitionLook, colours: &BTreeMap<&str, usize>) -> Row {
    let (state, mood) = state(one);
    let oldest = match (one.pending, one.oldest_waiting_seconds) {
        (None, _) => words::UNKNOWN.to_owned(),
        (Some(_), None) => "–".to_owned(),
        (Some(_), Some(seconds)) => words::span(seconds),
    };
    let moved = one.moved_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Row {
        partition: one.partition,
        class: class(one, colours),
        owner: owner(one),
        state,
        mood,
        epoch: words::known(one.epoch),
        depth: words::known(one.depth),
        lag: words::known(one.lag),
        pending: words::known(one.pending),
        oldest,
        moved: moved
            .map_or_else(|| words::UNKNOWN.to_owned(), |s| format!("{} ago", words::span(s))),
        hand_over: one.owner.is_some().then(|| {
            let act = Act::Release { partition: one.partition, force: false, wait: false };
            words::act_path(&act)
        }),
    }
}

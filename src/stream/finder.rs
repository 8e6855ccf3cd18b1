//! Finds payments that are in the streams and may not be in the ledger yet.
//! Never changes anything.
//!
//! The search covers unsettled entries only; as a rule there are none, and Redis is
//! not asked further. Otherwise the first unsettled entries of each partition are
//! read once for all references. Where more wait, references are asked for by
//! their keys; entries older than those keys are read in pages. Where a server took
//! over whose clock is behind, entries wait before the ledger's cursor: there, what our
//! group has not acknowledged is read.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use redis::{Pipeline, Value};

use super::{
    Error, GROUP, GroupPosition, Keys, positions,
    references::{self, Name, Tables},
    replies::{self, Entry},
    shared::SharedConnection,
    wire,
};
use crate::domain::{Delivery, Reference, StreamId};

/// Entries that the first read asks for, all partitions together. Of each partition
/// it asks for no more than there are references, or this few:
const FIRST_READ_MAX: usize = 2_000;
const FIRST_READ_OF_ONE: usize = 16;
const KEYS_AT_ONCE: usize = 4_096;
/// Entries older than their keys that one search reads.
const OLD_READ_MAX: usize = 100_000;
const PAGE: usize = 1_000;
/// How far the clock of Redis may have been set back within the dedupe window.
const SET_BACK_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct UnsettledEntry {
    pub reference: Reference,
    pub partition: u16,
    pub stream_id: StreamId,
    /// None when this release cannot read the entry.
    pub delivery: Option<Delivery>,
}

/// The highest sequence given out on each partition, at one moment.
#[derive(Debug)]
pub struct Heads(Vec<Option<i64>>);

impl Heads {
    /// The entries beyond the ledger's cursors. `settled`: for each partition the highest
    /// settled sequence, and the entry up to which all is settled.
    pub fn beyond(&self, settled: &BTreeMap<u16, (i64, StreamId)>) -> Result<Unsettled, Error> {
        let mut ranges = Vec::new();
        for (partition, head) in (0..).zip(&self.0) {
            let (sequence, id) = settled.get(&partition).copied().unwrap_or_default();
            match head {
                None if sequence > 0 => {
                    let text = format!("the counter of partition {partition} is missing");
                    return Err(Error::StateLost(text));
                }
                Some(head) if *head > sequence => {
                    let from = after(id);
                    ranges.push(Range { partition, from, settled: sequence, handed_out: None });
                }
                Some(_) | None => {}
            }
        }
        Ok(Unsettled(ranges))
    }
}

/// Entries that may not be in the ledger yet.
#[derive(Debug)]
pub struct Unsettled(Vec<Range>);

impl Unsettled {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
struct Range {
    partition: u16,
    from: StreamId,
    /// No entry before it has a higher sequence.
    settled: i64,
    /// Up to this entry, only pending ones count.
    handed_out: Option<StreamId>,
}

#[derive(Clone)]
pub struct Finder {
    pub(super) connection: SharedConnection,
    pub(super) keys: Keys,
    pub(super) dedupe_window: Duration,
}

impl Finder {
    /// The highest sequences, by one command whatever the number of partitions; a cluster takes
    /// one for each.
    pub async fn heads(&self) -> Result<Heads, Error> {
        let mut connection = self.connection.clone();
        let counters = (0..self.keys.partitions).map(|p| self.keys.sequence(p));
        let counters: Vec<Option<String>> = if connection.is_of_a_cluster() {
            let mut pipeline = Pipeline::with_capacity(usize::from(self.keys.partitions));
            counters.for_each(|key| _ = pipeline.cmd("GET").arg(key));
            pipeline.query_async(&mut connection).await?
        } else {
            let keys: Vec<String> = counters.collect();
            redis::cmd("MGET").arg(keys).query_async(&mut connection).await?
        };
        // A closed partition's counter is "reason:number".
        let head = |counter: Option<String>| {
            let number = counter.as_deref().map(|text| text.rsplit(':').next().unwrap_or(text));
            number.map(|text| text.parse().map_err(|_| Error::Shape("a counter"))).transpose()
        };
        Ok(Heads(counters.into_iter().map(head).collect::<Result<_, _>>()?))
    }

    /// Entries that our group has not acknowledged, for when the ledger is unavailable.
    pub async fn unacknowledged(&self) -> Result<Unsettled, Error> {
        let positions = positions::ours(&self.keys, &mut self.connection.clone()).await?;
        let range = |GroupPosition { partition, oldest_waiting, last_id, .. }| {
            let (from, handed_out) = (oldest_waiting?, Some(last_id));
            Some(Range { partition, from, settled: i64::MAX, handed_out })
        };
        Ok(Unsettled(positions.into_iter().filter_map(range).collect()))
    }

    /// Unsettled entries of these references, those of each partition in their order.
    /// An entry that is settled and trimmed meanwhile is not found: whoever finds
    /// nothing asks the ledger again.
    pub async fn find(
        &self,
        references: &[Reference],
        unsettled: &Unsettled,
    ) -> Result<Vec<UnsettledEntry>, Error> {
        if references.is_empty() || unsettled.is_empty() {
            return Ok(Vec::new());
        }
        let unsettled = &self.whole(unsettled).await?;
        let mut search = Search::new(self, references);
        let rest = match unsettled.is_empty() {
            true => Vec::new(),
            false => search.read_first(&unsettled.0).await?,
        };
        if !rest.is_empty() {
            let now = search.ask_keys(references, &rest).await?;
            search.read_old(&rest, now).await?;
        }
        self.still_waiting(search.seen, unsettled).await
    }

    /// The same, where some wait before the ledger's cursor: a server whose clock is
    /// behind gave them ids that are lower than what another had given out.
    async fn whole(&self, unsettled: &Unsettled) -> Result<Unsettled, Error> {
        let mut pipeline = Pipeline::with_capacity(unsettled.0.len());
        for range in &unsettled.0 {
            let stream = self.keys.stream(range.partition);
            pipeline.cmd("XREVRANGE").arg(stream).arg(format!("({}", range.from)).arg("-");
            pipeline.arg("COUNT").arg(1);
        }
        let replies: Vec<Vec<Entry>> = pipeline.query_async(&mut self.connection.clone()).await?;
        let (mut whole, mut cut) = (Vec::new(), HashSet::new());
        for (range, reply) in unsettled.0.iter().zip(replies) {
            match replies::last_sequence(&reply) {
                Some(before) if before > range.settled => _ = cut.insert(range.partition),
                Some(_) | None => whole.push(*range),
            }
        }
        if !cut.is_empty() {
            let waiting = self.unacknowledged().await?.0.into_iter();
            whole.extend(waiting.filter(|range| cut.contains(&range.partition)));
        }
        Ok(Unsettled(whole))
    }

    /// Leaves out entries that were delivered and are no longer pending.
    async fn still_waiting(
        &self,
        seen: Vec<UnsettledEntry>,
        unsettled: &Unsettled,
    ) -> Result<Vec<UnsettledEntry>, Error> {
        let bounds = unsettled.0.iter().filter_map(|r| Some((r.partition, r.handed_out?)));
        let bounds: HashMap<u16, StreamId> = bounds.collect();
        let was_handed_out = |one: &UnsettledEntry| {
            bounds.get(&one.partition).is_some_and(|last| one.stream_id <= *last)
        };
        let (handed_out, waiting): (Vec<_>, Vec<_>) = seen.into_iter().partition(was_handed_out);
        if handed_out.is_empty() {
            return Ok(waiting);
        }
        let mut pipeline = Pipeline::with_capacity(handed_out.len());
        for one in &handed_out {
            let (stream, id) = (self.keys.stream(one.partition), one.stream_id);
            pipeline.cmd("XPENDING").arg(stream).arg(GROUP).arg(id).arg(id).arg(1);
        }
        let replies: Vec<Vec<Value>> = pipeline.query_async(&mut self.connection.clone()).await?;
        let pending = handed_out.into_iter().zip(replies).filter(|(_, rows)| !rows.is_empty());
        Ok(pending.map(|(one, _)| one).chain(waiting).collect())
    }
}

struct Search<'a> {
    finder: &'a Finder,
    wanted: HashSet<&'a str>,
    seen: Vec<UnsettledEntry>,
}

impl<'a> Search<'a> {
    fn new(finder: &'a Finder, references: &'a [Reference]) -> Self {
        let wanted = references.iter().map(Reference::as_str).collect();
        Self { finder, wanted, seen: Vec::new() }
    }

    /// Reads the first entries of each range; says which ranges go on, and where.
    async fn read_first(&mut self, ranges: &[Range]) -> Result<Vec<Range>, Error> {
        let most = self.wanted.len().max(FIRST_READ_OF_ONE);
        let each = (FIRST_READ_MAX / ranges.len()).clamp(1, most);
        let mut pipeline = Pipeline::with_capacity(2 * ranges.len());
        for range in ranges {
            let stream = self.finder.keys.stream(range.partition);
            pipeline.cmd("EXISTS").arg(&stream);
            pipeline.cmd("XRANGE").arg(stream).arg(range.from).arg("+");
            pipeline.arg("COUNT").arg(each);
        }
        let replies: Vec<Value> = self.ask(&pipeline).await?;
        let mut replies = replies.into_iter();
        let mut rest = Vec::new();
        for range in ranges {
            let (Some(exists), Some(page)) = (replies.next(), replies.next()) else {
                return Err(Error::Shape("unsettled entries"));
            };
            if exists == Value::Int(0) {
                let stream = self.finder.keys.stream(range.partition);
                return Err(Error::StateLost(format!("{stream} is missing")));
            }
            let page: Vec<Entry> = redis::from_redis_value(page)?;
            let last = page.last().filter(|_| page.len() == each).map(|entry| entry.id);
            rest.extend(last.map(|last| Range { from: after(last), ..*range }));
            self.take(range.partition, page);
        }
        Ok(rest)
    }

    /// Asks for the keys of references; says what time it was by Redis's clock when
    /// that began, in milliseconds.
    async fn ask_keys(&mut self, references: &[Reference], ranges: &[Range]) -> Result<u64, Error> {
        const SHAPE: Error = Error::Shape("a ref key");
        let time: (u64, u64) =
            redis::cmd("TIME").query_async(&mut self.finder.connection.clone()).await?;
        let mut found = self.ask_tables(references, ranges).await?;
        for references in references.chunks((KEYS_AT_ONCE / ranges.len()).max(1)) {
            let mut pipeline = Pipeline::with_capacity(ranges.len());
            for range in ranges {
                let keys =
                    references.iter().map(|r| self.finder.keys.old_reference(range.partition, r));
                pipeline.cmd("MGET").arg(keys.collect::<Vec<_>>());
            }
            let replies: Vec<Vec<Option<String>>> = self.ask(&pipeline).await?;
            for (range, remembered) in ranges.iter().zip(replies) {
                // A line for each status: `status digest sequence stream-id`.
                for line in remembered.iter().flatten().flat_map(|lines| lines.lines()) {
                    let id = line.rsplit(' ').next().unwrap_or(line);
                    found.push((range.partition, id.parse().map_err(|_| SHAPE)?));
                }
            }
        }
        let begin: HashMap<_, _> = ranges.iter().map(|r| (r.partition, r.from)).collect();
        found.retain(|(partition, id)| begin.get(partition).is_some_and(|from| id >= from));
        for found in found.chunks(KEYS_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(found.len());
            for (partition, id) in found {
                pipeline.cmd("XRANGE").arg(self.finder.keys.stream(*partition)).arg(id).arg(id);
            }
            let replies: Vec<Vec<Entry>> = self.ask(&pipeline).await?;
            for ((partition, _), page) in found.iter().zip(replies) {
                self.take(*partition, page);
            }
        }
        Ok(time.0.saturating_mul(1_000).saturating_add(time.1 / 1_000))
    }

    /// The partitions and entries of references as the tables have them.
    async fn ask_tables(
        &self,
        references: &[Reference],
        ranges: &[Range],
    ) -> Result<Vec<(u16, StreamId)>, Error> {
        let refs = ranges.iter().map(|range| self.finder.keys.references(range.partition));
        let refs: Vec<String> = refs.collect();
        let mut pipeline = Pipeline::with_capacity(refs.len());
        refs.iter().for_each(|refs| _ = pipeline.cmd("GET").arg(refs));
        let tables: Vec<Option<String>> = self.ask(&pipeline).await?;
        let tables = tables.into_iter().map(|text| Tables::parse(&text.unwrap_or_default()));
        let places: Vec<_> = ranges.iter().zip(&refs).zip(tables).collect();
        let each = places.iter().map(|(_, tables)| tables.count()).sum::<usize>().max(1);
        let mut found = Vec::new();
        for references in references.chunks((KEYS_AT_ONCE / each).max(1)) {
            let (mut pipeline, mut asked) = (Pipeline::new(), Vec::new());
            for name in references.iter().map(Name::of) {
                for ((range, refs), tables) in &places {
                    for hash in tables.hashes(refs, name) {
                        pipeline.cmd("HMGET").arg(hash);
                        name.fields().iter().for_each(|field| _ = pipeline.arg(field));
                        asked.push(range.partition);
                    }
                }
            }
            if asked.is_empty() {
                continue;
            }
            let replies: Vec<Vec<Option<Vec<u8>>>> = self.ask(&pipeline).await?;
            for (partition, values) in asked.into_iter().zip(replies) {
                for value in values.iter().flatten() {
                    let id = references::entry_in(value).ok_or(Error::Shape("a reference"))?;
                    found.push((partition, id));
                }
            }
        }
        Ok(found)
    }

    /// Looks for references that are not found yet among entries that are older
    /// than their keys.
    async fn read_old(&mut self, ranges: &[Range], now: u64) -> Result<(), Error> {
        let age = self.finder.dedupe_window.saturating_sub(SET_BACK_MAX).as_millis();
        let end = now.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX));
        for one in &self.seen {
            self.wanted.remove(one.reference.as_str());
        }
        let mut read = 0;
        for range in ranges {
            let mut from = range.from;
            while from.milliseconds <= end && !self.wanted.is_empty() {
                // From an id to the end of the millisecond that is `end`.
                let mut command = redis::cmd("XRANGE");
                command.arg(self.finder.keys.stream(range.partition)).arg(from);
                command.arg(end).arg("COUNT").arg(PAGE);
                let page: Vec<Entry> =
                    command.query_async(&mut self.finder.connection.clone()).await?;
                let Some(last) = page.last() else { break };
                from = after(last.id);
                read += page.len();
                if read > OLD_READ_MAX {
                    return Err(Error::SearchLimit(OLD_READ_MAX));
                }
                let known = self.seen.len();
                self.take(range.partition, page);
                for one in self.seen.iter().skip(known) {
                    self.wanted.remove(one.reference.as_str());
                }
            }
        }
        Ok(())
    }

    async fn ask<T: redis::FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, Error> {
        Ok(pipeline.query_async(&mut self.finder.connection.clone()).await?)
    }

    /// Keeps the entries of wanted references.
    fn take(&mut self, partition: u16, page: Vec<Entry>) {
        for Entry { id: stream_id, fields } in page {
            let Some(fields) = fields else { continue };
            let reference = wire::reference_of(&fields);
            let Some(reference) = reference.filter(|one| self.wanted.contains(&**one)) else {
                continue;
            };
            let Ok(reference) = Reference::parse(reference.into_owned()) else { continue };
            let delivery =
                wire::decode(&self.finder.keys, (partition, wire::SEQUENCE_MAX), stream_id, fields)
                    .ok();
            self.seen.push(UnsettledEntry { reference, partition, stream_id, delivery });
        }
    }
}

/// The next id.
fn after(id: StreamId) -> StreamId {
    match id.number.checked_add(1) {
        Some(number) => StreamId { number, ..id },
        None => StreamId { milliseconds: id.milliseconds + 1, number: 0 },
    }
}

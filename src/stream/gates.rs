//! A change of the number of partitions, or of the Redis that they are in: closes streams to appends,
//! creates new ones, and removes old ones. Never decides when, and never removes entries that a group has not
//! acknowledged.

use std::collections::BTreeSet;

use redis::Pipeline;

use super::{Error, GROUP, Keys, lineage, lines::Lines, positions, scripts, upkeep};

pub struct Gates {
    pub(super) connection: Lines,
    pub(super) keys: Keys,
}

impl Gates {
    /// Closes every partition to appends; returns the last sequence of each.
    pub async fn close(&mut self) -> Result<Vec<i64>, Error> {
        self.move_all("close").await
    }

    pub async fn open(&mut self) -> Result<(), Error> {
        self.move_all("open").await.map(|_| ())
    }

    /// Closes every partition for good. From the first on, nothing opens them.
    pub async fn seal(&mut self) -> Result<(), Error> {
        self.move_all("seal").await.map(|_| ())
    }

    /// In partition order: opening fails at the first sealed partition, before it has opened
    /// any.
    async fn move_all(&mut self, step: &str) -> Result<Vec<i64>, Error> {
        scripts::GATE.load(&mut self.connection).await?;
        let mut sequences = Vec::with_capacity(usize::from(self.keys.partitions));
        for partition in 0..self.keys.partitions {
            let mut command = scripts::GATE.on(&[self.keys.sequence(partition)]);
            sequences.push(command.arg(step).query_async(&mut self.connection).await?);
        }
        Ok(sequences)
    }

    pub async fn groups(&mut self) -> Result<BTreeSet<String>, Error> {
        let positions = positions::all(&self.keys, &mut self.connection).await?;
        Ok(positions.into_iter().map(|position| position.group).collect())
    }

    /// Creates the streams with these groups; their sequences begin after `sequence`. Can be
    /// repeated.
    pub async fn begin(&mut self, sequence: i64, groups: &BTreeSet<String>) -> Result<(), Error> {
        let ours = GROUP.to_owned();
        for group in groups.iter().chain([&ours]) {
            upkeep::create_groups(&self.keys, group, &mut self.connection).await?;
        }
        scripts::BEGIN.load(&mut self.connection).await?;
        for partition in 0..self.keys.partitions {
            let mut command = scripts::BEGIN.on(&[self.keys.sequence(partition)]);
            let () = command.arg(sequence).query_async(&mut self.connection).await?;
        }
        lineage::begin(&self.keys, &self.connection).await
    }

    /// Whether no stream has an entry.
    pub async fn are_empty(&mut self) -> Result<bool, Error> {
        let mut pipeline = Pipeline::new();
        for partition in 0..self.keys.partitions {
            pipeline.cmd("XLEN").arg(self.keys.stream(partition));
        }
        let lengths: Vec<u64> = pipeline.query_async(&mut self.connection).await?;
        Ok(lengths.iter().all(|length| *length == 0))
    }

    /// Notes that from this generation on the streams are in another Redis; 0 that they are here.
    pub async fn note_moved(&mut self, generation: i32) -> Result<(), Error> {
        let mut set = redis::cmd("SET");
        set.arg(self.keys.moved()).arg(generation);
        Ok(set.exec_async(&mut self.connection).await?)
    }

    /// What tells its servers from others.
    pub async fn runs(&self) -> Result<BTreeSet<String>, Error> {
        let mut runs = BTreeSet::new();
        for (_, line) in self.connection.each().await? {
            runs.insert(line.server.clone()?.run().to_owned());
        }
        Ok(runs)
    }

    /// Removes the streams that every group has acknowledged; returns the groups that have not.
    /// The gates stay closed.
    pub async fn remove(&mut self) -> Result<BTreeSet<String>, Error> {
        scripts::REMOVE.load(&mut self.connection).await?;
        let mut waiting = BTreeSet::new();
        for partition in 0..self.keys.partitions {
            let keys = [self.keys.stream(partition), self.keys.owner(partition)];
            let mut command = scripts::REMOVE.on(&keys);
            let names: Vec<String> = command.arg(GROUP).query_async(&mut self.connection).await?;
            waiting.extend(names);
        }
        Ok(waiting)
    }
}

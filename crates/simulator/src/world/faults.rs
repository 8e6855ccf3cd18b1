//! What breaks in a schedule, and when Redis may lose something. Never mends anything.

use super::*;

impl World {
    pub(super) fn break_something(&mut self) {
        let key = (
            self.scene.ledger.generation,
            self.scene.random.random_range(0..self.scene.ledger.partitions),
        );
        match self.below(16) {
            0..=3 => {
                let number = self.below(WORKERS);
                self.workers[number].crash();
                self.silent[number] = true;
            }
            4 => {
                let number = self.below(GATEWAYS);
                self.gateways[number].incarnation += 1;
                self.gateways[number].begin(&self.scene.ledger);
            }
            5 | 6 => {
                self.scene.redis.identity += 1;
                self.copy = self.scene.redis.clone();
            }
            7 => self.scene.redis.keys.values_mut().for_each(|keys| keys.references.clear()),
            8 => {
                let keys = self.scene.redis.at(key);
                if let Some(stream) = keys.stream.as_mut() {
                    stream.group = None;
                }
            }
            9 if self.goes_back => {
                if let Some(backup) = self.backup.clone() {
                    let incarnation = self.scene.ledger.incarnation + 1;
                    (self.scene.ledger, self.went_back) = (Ledger { incarnation, ..backup }, true);
                }
            }
            10..=15 if self.loses && self.is_calm() => self.lose(key),
            _ => {
                let number = self.below(WORKERS);
                self.workers[number].cut();
            }
        }
    }

    /// Whether a loss can be told exactly (docs/recovery.md, "Limit"): all that an earlier server gave
    /// out is settled, every gateway has compared what it knows, and what was lost before is noted.
    pub(super) fn is_calm(&mut self) -> bool {
        let Scene { redis, ledger, breakage, .. } = &mut self.scene;
        let (server, compares) = (redis.identity, *breakage != Some(Breakage::NoComparison));
        (0..ledger.partitions).all(|partition| {
            let keys = redis.at((ledger.generation, partition));
            let earlier = keys.lineage.last().map_or(0, |line| line.after);
            let has_compared = |one: &Gateway| one.has_compared(server, partition, keys);
            let has_noted = |worker: &Worker| worker.has_noted(partition, keys);
            earlier <= ledger.cursor(partition).sequence
                && (!compares || self.gateways.iter().all(has_compared))
                && self.workers.iter().any(has_noted)
        })
    }

    /// Redis loses what it has acknowledged.
    pub(super) fn lose(&mut self, key: (u32, u16)) {
        let kind = self.below(10);
        match kind {
            // A promoted replica, or an old file.
            0..=5 => {
                let (identity, clock) = (self.scene.redis.identity + 1, self.scene.redis.clock);
                self.scene.redis =
                    Redis { identity, clock, promoted: kind < 4, ..self.copy.clone() };
                if kind < 4 {
                    self.scene.redis.keys.values_mut().for_each(Keys::forget_reads);
                }
            }
            6 => self.scene.redis.keys.clear(),
            7 => self.scene.redis.at(key).stream = None,
            8 => self.scene.redis.at(key).counted = 0,
            _ => {
                if let Some(stream) = self.scene.redis.at(key).stream.as_mut() {
                    stream.entries.pop();
                }
            }
        }
        // Its replicas follow it.
        (self.copy, self.losses_made) = (self.scene.redis.clone(), true);
        self.gone.extend(self.given_by.iter().map(|(place, ..)| *place));
    }
}

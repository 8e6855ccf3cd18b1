//! The end of a schedule: whether all is at rest, and what does not hold.

use super::*;

impl World {
    pub(super) fn is_at_rest(&mut self) -> bool {
        self.backlogs().iter().all(|one| (one.lag, one.pending) == (0, 0))
            && self.scene.ledger.resizing_to.is_none()
    }

    pub(super) fn backlogs(&mut self) -> Vec<Backlog> {
        let generation = self.scene.ledger.generation;
        let backlog = |partition| {
            let position = self.scene.redis.at((generation, partition)).position(false);
            let (lag, pending) = position.map_or((1, 0), |one| (one.lag, one.pending));
            let (lag, pending) = (lag.unsigned_abs(), u64::try_from(pending).unwrap_or(0));
            Backlog { partition: u32::from(partition), lag, pending }
        };
        (0..self.scene.ledger.partitions).map(backlog).collect()
    }

    /// What does not hold.
    pub(super) fn judge(mut self) -> Vec<String> {
        let effects = self.scene.ledger.effects.iter().map(|effect| {
            let Payment { reference, customer, cents } = self.scene.payments[effect.payment];
            let place = Place { partition: u32::from(effect.partition), sequence: effect.sequence };
            let (reference, customer) = (reference.to_string(), customer.to_string());
            Effect { reference, customer, cents, place, version: effect.version }
        });
        let losses = self.scene.ledger.jumps.iter().flat_map(|(partition, jumps)| {
            let ranges = jumps.iter().filter_map(|jump| jump.lost);
            let partition = u32::from(*partition);
            ranges.map(move |(first, last)| Loss { partition, first, last })
        });
        let accounts = self.scene.ledger.accounts.iter();
        let account = |(customer, (cents, version)): (&u16, &(i64, i64))| Account {
            customer: customer.to_string(),
            cents: *cents,
            version: *version,
        };
        let mut records = Records {
            effects: effects.collect(),
            losses: losses.collect(),
            accounts: accounts.map(account).collect(),
            ..Records::default()
        };
        records.backlogs = self.backlogs();
        records.sent = std::mem::take(&mut self.sent);
        let mut wrong = std::mem::take(&mut self.alarms);
        if !self.losses_made && !self.went_back && !records.losses.is_empty() {
            wrong.push(format!("nothing was lost, and listed are {:?}", records.losses));
        }
        for violation in records.violations() {
            let of = records.sent.iter().filter(|sent| sent.reference == violation.of);
            let mut places = of.flat_map(|sent| &sent.answers).map(|answer| answer.place);
            // docs/recovery.md: what only a gateway knew that is gone ("Limit"), and numbers that
            // were given out twice, by which no entry can be told.
            let is_spared = |place: Place| {
                let mut given = self.given_by.iter().filter(|(given, ..)| *given == place);
                let is_dead = |(_, gateway, incarnation): &(Place, usize, u32)| {
                    self.gateways[*gateway].incarnation != *incarnation
                };
                self.gone.contains(&place) && (given.clone().count() > 1 || given.any(is_dead))
            };
            let of_payment = [Statement::OneEffect, Statement::Order];
            if !of_payment.contains(&violation.statement) || !places.any(is_spared) {
                wrong.push(violation.to_string());
            }
        }
        wrong
    }
}

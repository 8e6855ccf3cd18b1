//! Everything together under one schedule: clients, gateways, workers, a Redis that fails over or
//! goes back, a PostgreSQL that goes back, a resize. The seed decides who takes the next step and
//! what breaks when. Then all is left to come to rest, and the invariants are asked.

mod faults;
mod judge;

use std::collections::BTreeSet;

use paystream_invariants::{
    Account, Answer, Backlog, Effect, Loss, Place, Records, Sent, Statement,
};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

use crate::{
    Breakage,
    gateway::Gateway,
    ledger::{Ledger, Payment},
    redis::{Appended, Gate, Keys, Redis, Stream},
    worker::{Scene, Worker},
};

const GATEWAYS: usize = 2;
const WORKERS: usize = 3;
const CUSTOMERS: u16 = 5;
const PARTITIONS: u16 = 3;
const STEPS: usize = 350;
/// Steps in which everything must come to rest.
const REST_STEPS: usize = 40_000;

#[derive(Debug, Default)]
struct Client {
    /// Payments that are not answered yet, in their order.
    due: Vec<usize>,
    turn: u64,
}

/// A request that a gateway has under way.
struct Request {
    gateway: usize,
    incarnation: u32,
    client: usize,
    payments: Vec<usize>,
}

pub(crate) struct World {
    scene: Scene,
    /// What this schedule may break.
    loses: bool,
    goes_back: bool,
    resizes: bool,
    /// What a promotion, or an old file, would bring.
    copy: Redis,
    backup: Option<Ledger>,
    gateways: Vec<Gateway>,
    workers: Vec<Worker>,
    /// Workers without a heartbeat, alive or not.
    silent: [bool; WORKERS],
    clients: Vec<Client>,
    requests: Vec<Request>,
    sent: Vec<Sent>,
    /// Places that Redis may have lost, and who had given out which.
    gone: BTreeSet<Place>,
    given_by: Vec<(Place, usize, u32)>,
    alarms: Vec<String>,
    losses_made: bool,
    went_back: bool,
}

/// What a schedule showed to be wrong.
pub(crate) fn run(seed: u64, breakage: Option<Breakage>) -> Vec<String> {
    let mut world = World::new(seed, breakage);
    for _ in 0..STEPS {
        world.step(true);
    }
    world.rest();
    world.judge()
}

impl World {
    fn new(seed: u64, breakage: Option<Breakage>) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let (loses, goes_back) = (random.random_ratio(1, 2), random.random_ratio(1, 3));
        let mut world = Self {
            loses,
            goes_back,
            resizes: !loses && random.random_ratio(1, 2),
            scene: Scene {
                redis: Redis { identity: 1, ..Redis::default() },
                ledger: Ledger::new(PARTITIONS),
                payments: Vec::new(),
                random,
                breakage,
                rewound: Vec::new(),
                cut: Vec::new(),
            },
            copy: Redis::default(),
            backup: None,
            gateways: (0..GATEWAYS).map(|_| Gateway::default()).collect(),
            workers: (0..WORKERS).map(Worker::new).collect(),
            silent: [true; WORKERS],
            clients: (0..usize::from(CUSTOMERS) + 1).map(|_| Client::default()).collect(),
            requests: Vec::new(),
            sent: Vec::new(),
            gone: BTreeSet::new(),
            given_by: Vec::new(),
            alarms: Vec::new(),
            losses_made: false,
            went_back: false,
        };
        world.begin_streams(1, PARTITIONS, 0);
        world.copy = world.scene.redis.clone();
        world.gateways.iter_mut().for_each(|gateway| gateway.begin(&world.scene.ledger));
        world
    }

    /// `begin` in src/stream/gates.rs.
    fn begin_streams(&mut self, generation: u32, partitions: u16, sequence: i64) {
        let server = (self.scene.redis.identity, self.scene.redis.promoted);
        for partition in 0..partitions {
            let keys = self.scene.redis.at((generation, partition));
            keys.stream = Some(Stream::new());
            keys.counted = sequence;
            keys.compare((server.0, false), 0, None);
        }
    }

    fn chance(&mut self, of: u32) -> bool {
        self.scene.random.random_ratio(1, of)
    }

    fn below(&mut self, count: usize) -> usize {
        self.scene.random.random_range(0..count.max(1))
    }

    fn step(&mut self, breaks: bool) {
        self.scene.redis.clock += 1;
        match self.below(20) {
            0..=4 => self.pay(breaks),
            5..=9 => self.serve(breaks),
            10..=17 => self.work(),
            18 => self.own(breaks),
            _ if breaks && self.chance(2) => self.break_something(),
            _ => self.keep_house(),
        }
    }

    /// A client sends the next payments of its customer, or the same once more.
    fn pay(&mut self, pays: bool) {
        let client = self.below(self.clients.len());
        if self.clients[client].due.is_empty() {
            if !pays {
                return;
            }
            let size = if self.chance(4) { 3 } else { 1 };
            self.order(client, size);
        } else if self.requests.iter().any(|one| one.client == client) && !self.chance(8) {
            return;
        }
        let gateway = self.below(GATEWAYS);
        self.request(client, gateway);
    }

    /// New payments that a client has to make. Two clients share the last customer, and sometimes
    /// one takes a reference of another's.
    fn order(&mut self, client: usize, size: usize) {
        let customer = u16::try_from(client).unwrap_or(0).min(CUSTOMERS - 1);
        for _ in 0..size {
            let payment = self.scene.payments.len();
            let number = u32::try_from(payment).unwrap_or(0);
            let near = number.saturating_sub(self.scene.random.random_range(1..5));
            let mine = |one: &Payment| one.reference == near && one.customer == customer;
            let steals = size == 1 && self.chance(12) && !self.scene.payments.iter().any(mine);
            let reference = if steals { near } else { number };
            let cents = self.scene.random.random_range(1..1000);
            self.scene.payments.push(Payment { reference, customer, cents });
            let (reference, customer) = (reference.to_string(), customer.to_string());
            let client = u32::try_from(client).unwrap_or(0);
            self.sent.push(Sent { reference, client, customer, cents, answers: Vec::new() });
            self.clients[usize::try_from(client).unwrap_or(0)].due.push(payment);
        }
    }

    fn request(&mut self, client: usize, gateway: usize) {
        let incarnation = self.gateways[gateway].incarnation;
        let payments = self.clients[client].due.clone();
        self.requests.push(Request { gateway, incarnation, client, payments });
    }

    /// A gateway goes on with a request.
    fn serve(&mut self, breaks: bool) {
        let number = self.below(self.requests.len());
        let Some(request) = self.requests.get(number) else { return };
        let Request { gateway, client, incarnation, .. } = *request;
        if self.gateways[gateway].incarnation != incarnation {
            self.requests.swap_remove(number);
            return;
        }
        let mut payments: Vec<(u32, usize)> = request
            .payments
            .iter()
            .map(|one| (self.scene.payments[*one].reference, *one))
            .collect();
        let partition = self.scene.payments[payments[0].1].customer % self.partitions_of(gateway);
        let resends = self.scene.breakage == Some(Breakage::ResendPipeline) && payments.len() > 1;
        if resends && self.scene.random.random_ratio(1, 3) {
            // The connection broke within the pipeline, and the client library sends all again.
            payments.remove(0);
            let gateway = &mut self.gateways[gateway];
            gateway.append(&mut self.scene.redis, partition, &payments, self.scene.breakage);
            return;
        }
        let served = &mut self.gateways[gateway];
        let appended =
            served.append(&mut self.scene.redis, partition, &payments, self.scene.breakage);
        let Some(answers) = appended else { return };
        for answer in &answers {
            if let Appended::New(sequence) = answer {
                let place = Place { partition: u32::from(partition), sequence: *sequence };
                self.given_by.push((place, gateway, incarnation));
            }
        }
        if breaks && self.chance(6) {
            // The reply was lost on its way to the gateway, which asks again.
            return;
        }
        self.requests.swap_remove(number);
        if breaks && self.chance(8) {
            return;
        }
        for (answer, (_, payment)) in answers.into_iter().zip(payments) {
            let client = &mut self.clients[client];
            // Nobody waits any more for what comes late.
            if client.due.first() != Some(&payment) || answer == Appended::Refused {
                continue;
            }
            client.due.remove(0);
            client.turn += 1;
            if let Appended::New(sequence) | Appended::Duplicate(sequence) = answer {
                let place = Place { partition: u32::from(partition), sequence };
                self.sent[payment].answers.push(Answer { turn: client.turn, place });
            }
        }
    }

    fn partitions_of(&self, gateway: usize) -> u16 {
        // An earlier topology had the number that the first did, or the one before this.
        if self.gateways[gateway].generation == self.scene.ledger.generation {
            self.scene.ledger.partitions
        } else {
            PARTITIONS
        }
    }

    fn work(&mut self) {
        let number = self.below(WORKERS);
        let worker = &mut self.workers[number];
        if !worker.is_alive {
            return;
        }
        worker.step(&mut self.scene);
        let cut = std::mem::take(&mut self.scene.cut);
        let rewound = std::mem::take(&mut self.scene.rewound);
        cut.into_iter().for_each(|number| self.workers[number].cut());
        if !self.went_back {
            let alarm = |partition| {
                format!("the ledger of partition {partition} was taken to have gone back")
            };
            self.alarms.extend(rewound.into_iter().map(alarm));
        }
    }

    /// src/worker/owner.rs: partitions are acquired, handed over, or seen to be another topology's.
    fn own(&mut self, breaks: bool) {
        let number = self.below(WORKERS);
        if breaks && self.chance(6) {
            // No heartbeat: another may take over, though it may be alive.
            self.silent[number] ^= true;
        }
        let worker = &mut self.workers[number];
        if !worker.is_alive {
            worker.is_alive = true;
            self.silent[number] = false;
        }
        if worker.generation != self.scene.ledger.generation && worker.is_idle() {
            worker.crash();
            (worker.is_alive, worker.generation) = (true, self.scene.ledger.generation);
        }
        let partition = self.scene.random.random_range(0..self.scene.ledger.partitions);
        let silent = self.silent;
        if self.workers[number].held.contains_key(&partition) {
            if self.workers[number].is_idle()
                && self.scene.random.random_ratio(1, 4)
                && let Some(fence) = self.workers[number].drop_held(partition)
            {
                self.scene.ledger.release(partition, fence);
            }
        } else if self.workers[number].generation == self.scene.ledger.generation
            && let Some(grant) = self.scene.ledger.acquire(partition, number, |owner| silent[owner])
        {
            self.workers[number].adopt(partition, grant);
        }
    }

    /// Trimming, copies, and steps of a resize.
    fn keep_house(&mut self) {
        match self.below(6) {
            0 | 1 => {
                let partition = self.scene.random.random_range(0..self.scene.ledger.partitions);
                let reached = self.scene.ledger.cursor(partition).reached;
                let aged = self.scene.redis.clock.saturating_sub(60);
                let cursor =
                    (self.scene.breakage != Some(Breakage::TrimBeyondCursor)).then_some(reached);
                self.scene.redis.at((self.scene.ledger.generation, partition)).trim(aged, cursor);
            }
            2 => self.copy = self.scene.redis.clone(),
            3 if self.backup.is_none() || self.chance(3) => {
                self.backup = Some(self.scene.ledger.clone())
            }
            4 => {
                let number = self.below(GATEWAYS);
                if self.gateways[number].generation != self.scene.ledger.generation {
                    self.gateways[number].begin(&self.scene.ledger);
                }
            }
            _ if self.resizes || self.scene.ledger.resizing_to.is_some() => self.resize(),
            _ => {}
        }
    }

    /// src/operations/resize.rs, a part at a time.
    fn resize(&mut self) {
        let Ledger { generation, partitions, resizing_to, .. } = self.scene.ledger;
        let Some(to) = resizing_to else {
            if generation < 2 {
                self.scene.ledger.resizing_to = Some(self.scene.random.random_range(2..5));
            }
            return;
        };
        let believed = self.scene.breakage == Some(Breakage::LagBelieved);
        let (mut highest, mut waits) = (0, false);
        for partition in 0..partitions {
            let keys = self.scene.redis.at((generation, partition));
            if keys.gate == Gate::Open {
                keys.gate = Gate::Resizing;
            }
            let (position, given) = (keys.position(believed), keys.counted);
            waits |= position.is_none_or(|one| one.pending > 0 || one.lag > 0);
            waits |= keys.gate == Gate::Lost;
            waits |= !believed && self.scene.ledger.is_missing(partition, given);
            highest = highest.max(given).max(self.scene.ledger.cursor(partition).head);
        }
        if waits {
            return;
        }
        self.begin_streams(generation + 1, to, highest);
        for partition in 0..partitions {
            self.scene.redis.at((generation, partition)).gate = Gate::Resized;
        }
        if self.scene.ledger.switch(generation, to, highest) {
            self.backup = None;
        }
    }

    /// Nothing breaks any more; each client pays once more through each gateway.
    fn rest(&mut self) {
        (self.silent, self.resizes) = ([false; WORKERS], false);
        let mut asked = 0;
        for _ in 0..REST_STEPS {
            self.step(false);
            if !self.requests.is_empty() || self.clients.iter().any(|one| !one.due.is_empty()) {
                continue;
            }
            if asked == GATEWAYS && self.is_at_rest() {
                break;
            }
            if asked < GATEWAYS {
                for client in 0..self.clients.len() {
                    self.order(client, 1);
                    self.request(client, asked);
                }
                asked += 1;
            }
        }
        // Looks that come every two seconds find what is missing at the end of a stream.
        for _ in 0..500 {
            self.step(false);
        }
    }
}

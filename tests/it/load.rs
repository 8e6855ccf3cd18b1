//! A small client that pays at full speed and remembers every payment that was
//! accepted, so that a test can ask for each of them after a fault. Proves
//! nothing by itself.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::prelude::*;

/// Payments that may be under way at once.
const CONNECTIONS: usize = 16;
/// Customers that pay, seeded ones.
pub const CUSTOMERS: u32 = 40;

/// Payments that a load accepts before something happens, and after it.
const WARM: usize = 500;

/// A payment that was answered with 202, or with 200 as a replay.
#[derive(Debug)]
pub struct Accepted {
    reference: String,
    customer: String,
    amount: String,
    partition: i64,
    sequence: i64,
    stream_id: String,
}

/// A running load.
pub struct Load {
    tasks: JoinSet<Loaded>,
    accepted: watch::Receiver<usize>,
    stop: CancellationToken,
}

/// What a load came to, or one connection of it.
#[derive(Default)]
pub struct Loaded {
    pub accepted: Vec<Accepted>,
    /// Answers with 503.
    pub refused: usize,
    /// Connections that broke.
    pub broken: usize,
}

impl Load {
    /// Starts paying; `label` makes the references unique. A connection that
    /// breaks ends its payer, a 503 is sent again.
    pub fn start(api: &Api, label: &str) -> Self {
        Self::start_with(api, label, false)
    }

    /// The same over connections that the gateway may let go of between two
    /// requests: only one that cannot be made ends its payer.
    pub fn start_anew(api: &Api, label: &str) -> Self {
        Self::start_with(api, label, true)
    }

    fn start_with(api: &Api, label: &str, anew: bool) -> Self {
        let stop = CancellationToken::new();
        let (tell, accepted) = watch::channel(0);
        let tell = Arc::new(tell);
        let mut tasks = JoinSet::new();
        for number in 0..CONNECTIONS {
            let (api, label, tell, stop) =
                (api.clone(), label.to_owned(), Arc::clone(&tell), stop.clone());
            tasks.spawn(
                async move { Loaded::pay(&api, &label, (number, anew), &tell, &stop).await },
            );
        }
        Self { tasks, accepted, stop }
    }

    /// Starts paying, and waits until it is at full speed.
    pub async fn warm(api: &Api, label: &str) -> Self {
        let mut load = Self::start(api, label);
        load.goes_on().await;
        load
    }

    /// Waits until many more payments are accepted.
    pub async fn goes_on(&mut self) {
        self.reached(self.accepted() + WARM).await;
    }

    /// Waits until so many payments are accepted.
    pub async fn reached(&mut self, count: usize) {
        let reached = self.accepted.wait_for(|accepted| *accepted >= count);
        in_time("payments are accepted", reached).await.expect("payers go on");
    }

    /// How many payments are accepted by now.
    pub fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Lets every payer finish what it has under way.
    pub async fn finish(mut self) -> Loaded {
        self.stop.cancel();
        let mut loaded = Loaded::default();
        while let Some(payer) = self.tasks.join_next().await {
            let payer = payer.expect("payers do not fail");
            loaded.accepted.extend(payer.accepted);
            loaded.refused += payer.refused;
            loaded.broken += payer.broken;
        }
        loaded
    }
}

impl Loaded {
    async fn pay(
        api: &Api,
        label: &str,
        (number, anew): (usize, bool),
        tell: &watch::Sender<usize>,
        stop: &CancellationToken,
    ) -> Self {
        let mut payer = Self::default();
        for count in 0_usize.. {
            let reference = format!("{label}-{number}-{count}");
            let customer = format!("GIG{:05}", (count * 7 + number) % CUSTOMERS as usize + 1);
            let amount = format!("{}.{:02}", count % 900 + 1, number);
            let body = payment(&reference, &customer, &amount);
            // The same payment again until it is known to be taken.
            loop {
                let request = api.request(Method::POST, "/api/v1/payments").json(&body);
                let reply = match try_send(request).await {
                    Ok(reply) => reply,
                    Err(error) if anew && !error.is_connect() => continue,
                    Err(_) => {
                        payer.broken += 1;
                        return payer;
                    }
                };
                if reply.status == 503 {
                    assert!(reply.headers.contains_key("retry-after"), "{}", reply.text);
                    payer.refused += 1;
                    if stop.is_cancelled() {
                        return payer;
                    }
                    continue;
                }
                assert!(matches!(reply.status, 200 | 202), "{} {}", reply.status, reply.text);
                let taken = reply.json();
                payer.accepted.push(Accepted {
                    reference,
                    customer,
                    amount,
                    partition: taken["partition"].as_i64().unwrap(),
                    sequence: taken["sequence"].as_i64().unwrap(),
                    stream_id: taken["stream_id"].as_str().unwrap().to_owned(),
                });
                tell.send_modify(|accepted| *accepted += 1);
                break;
            }
            if stop.is_cancelled() {
                break;
            }
        }
        payer
    }
}

/// Fails unless the ledger has applied each of these payments once, as it was
/// sent, at the place that its 202 named.
pub async fn assert_applied(stores: &Stores, accepted: &[Accepted]) {
    let rows: Vec<(String, String)> = stores
        .rows(
            "select transaction_reference, concat(customer_id, ' ', amount, ' ', partition, '/',
                 sequence, ' ', stream_id, ' ', outcome) from processed_transactions",
        )
        .await;
    let mut ledger: HashMap<String, Vec<String>> = HashMap::new();
    for (reference, seen) in rows {
        ledger.entry(reference).or_default().push(seen);
    }
    for one in accepted {
        let wanted = format!(
            "{} {} {}/{} {} applied",
            one.customer, one.amount, one.partition, one.sequence, one.stream_id
        );
        let found = ledger.get(&one.reference).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(found, [wanted], "{} was accepted", one.reference);
    }
}

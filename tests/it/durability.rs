//! Proves what `PAYSTREAM_DURABILITY=replicated` promises: no 202 without replicas, an answer to
//! whoever sends again once they are back, and nothing lost with a server that was promoted.

use crate::{doctor::doctor_with, prelude::*, process::signal, sentinel::Group};

const REPLICATED: (&str, &str) = ("PAYSTREAM_DURABILITY", "replicated");

#[tokio::test]
async fn without_its_replica_nothing_is_answered_for_and_with_it_all_is_once() {
    let mut pair = Pair::on("durable", None).await;
    let settings = [REPLICATED, ("PAYSTREAM_APPEND_DEADLINE", "800ms")];
    let all = Process::serve("all", &pair.stores, &settings).await.account("ADA", "1000").await;
    pay(&all.api, "r1").await;
    // One that is there and says nothing is as good as none.
    signal(pair.replica.pid(), "STOP").await;
    eventually("the doctor misses it", async || {
        let said = doctor_with(&pair.stores, &[REPLICATED]).await;
        said.find("redis_replicas_few").map(drop)
    })
    .await;
    signal(pair.replica.pid(), "CONT").await;
    all.api.until_ready().await;
    pair.replica.kill().await.unwrap();
    // Whether it is new or was there before.
    for reference in ["r2", "r1"] {
        let reply = all.api.post_payment(&payment(reference, "ADA", "1")).await;
        reply.is_problem(503, "replication_unconfirmed");
    }
    let batch = json!([payment("r3", "ADA", "1"), payment("r4", "ADA", "1")]);
    all.api.post("/api/v1/payments/batch", &batch).await.is_problem(503, "replication_unconfirmed");
    assert_eq!(all.api.get("/readyz").await.status, 503);
    let said = doctor_with(&pair.stores, &[REPLICATED]).await;
    assert!(said.find("redis_replicas_few").is_some());
    // It is in the stream all the same, and a worker settles it.
    all.api.until_is("r2", "applied").await;
    pair.replica.restart().await.unwrap();
    pair.follow().await;
    all.api.until_ready().await;
    for reference in ["r1", "r2", "r3", "r4"] {
        let taken = async || {
            let reply = all.api.post_payment(&payment(reference, "ADA", "1")).await;
            matches!(reply.status, 200 | 202)
        };
        until("it is answered for", taken).await;
    }
    all.settled(&pair.stores).await;
    assert_eq!(all.api.balance("ADA").await["total_paid"], "4.00");
}

/// Clients that pay for a customer each, one payment after the other.
const CLIENTS: usize = 8;
/// Payments of each before the master is killed, and behind that.
const PAYMENTS: usize = 40;

#[tokio::test]
async fn a_promotion_under_load_loses_nothing_that_replicas_have_confirmed() {
    let mut group = Group::start("lossless").await;
    let settings = [REPLICATED, ("PAYSTREAM_REPLICAS_MIN", "2")];
    let gateway = Process::serve("gateway", &group.stores, &settings).await;
    // With one server gone, one replica is left.
    let after = Process::serve("gateway", &group.stores, &[REPLICATED]).await;
    let worker = Process::serve("worker", &group.stores, &[]).await;
    gateway.api.seed(u32::try_from(CLIENTS).unwrap()).await;
    let mut clients = JoinSet::new();
    let (tell, mut taken) = tokio::sync::mpsc::unbounded_channel();
    for client in 0..CLIENTS {
        let (first, then, tell) = (gateway.api.clone(), after.api.clone(), tell.clone());
        clients.spawn(async move {
            for number in 0..2 * PAYMENTS {
                let customer = format!("GIG{:05}", client + 1);
                let body = payment(&format!("{customer}-{number}"), &customer, "1");
                eventually("it is taken", async || {
                    let api = if number < PAYMENTS { &first } else { &then };
                    let reply = api.post_payment(&body).await;
                    let reply = match reply.status {
                        503 => then.post_payment(&body).await,
                        _ => reply,
                    };
                    matches!(reply.status, 200 | 202).then_some(())
                })
                .await;
                let _ = tell.send(());
            }
        });
    }
    for _ in 0..CLIENTS * PAYMENTS / 2 {
        taken.recv().await.unwrap();
    }
    group.servers[0].kill().await.unwrap();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    group.follow().await;
    after.api.until_settled().await;
    assert_eq!(group.stores.losses().await, [""; 0]);
    group.stores.audit().await;
    for client in 0..CLIENTS {
        let balance = after.api.balance(&format!("GIG{:05}", client + 1)).await;
        assert_eq!(balance["total_paid"], format!("{}.00", 2 * PAYMENTS), "{balance}");
    }
    drop(worker);
}

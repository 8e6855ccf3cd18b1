//! Proves that what lies in streams of earlier topologies is given to the current
//! ones to its end, in its order, and that none of it goes without a trace.

use paystream::stream::{AppendLimits, Appended, Producer, ReceivedPayment};

use crate::{
    prelude::*,
    resize::{arrival, limits},
};

/// What appends to the streams of an earlier topology again, as on a promoted replica
/// that lacks the end of its change.
async fn old(stores: &Stores, partitions: u16, generation: i32) -> Producer {
    let head = if generation == 1 { "{p*}".to_owned() } else { format!("{{g{generation}p*}}") };
    stores.delete_keys(&format!("{head}:seq")).await;
    stores.delete_keys(&format!("{head}:refs*")).await;
    let old = Streams::new(&stores.redis_url, &stores.key_prefix, partitions, generation).unwrap();
    old.provision().await.unwrap();
    old.producer(AppendLimits { backlog_max: 10_000, share_max: 10_000, ..limits() }).await.unwrap()
}

/// Appends a payment of 1 by ADA; says to which partition.
async fn append(producer: &Producer, reference: &str) -> u64 {
    match producer.append(&arrival(reference)).await {
        Ok(Appended::Accepted(place)) => place.partition.into(),
        other => panic!("{other:?}"),
    }
}

/// Everything, with an account, on the topology after one of 8 partitions.
async fn changed() -> (Stores, Process) {
    let stores = Stores::new().await;
    let process = Process::serve("all", &stores, &[]).await.account("ADA", "10000").await;
    stores.succeed(&resize(&["--partitions", "16"])).await;
    served(&process, 16).await;
    (stores, process)
}

#[tokio::test]
async fn one_whose_reference_stands_for_another_payment_becomes_a_conflict() {
    let (stores, process) = changed().await;
    process.api.pay("r1", "ADA", "7").await;
    process.api.until_settled().await;
    let old = old(&stores, PARTITIONS, 1).await;
    for name in ["r1", "r2"] {
        append(&old, name).await;
    }
    let said = stores.succeed(&resize(&["--partitions", "16"])).await;
    assert!(said.contains("2 payments"), "{said}");
    process.api.until_settled().await;
    let kept = "select count(*) from conflicts where transaction_reference = 'r1' and amount = 1";
    assert_eq!(stores.count(kept).await, 1);
    assert_eq!(process.api.balance("ADA").await["total_paid"], "8.00");
    assert_eq!(stores.keys("{p*}:stream").await.len(), 0);
}

#[tokio::test]
async fn deleted_entries_and_a_group_that_is_gone_stop_nothing() {
    let (stores, process) = changed().await;
    let old = old(&stores, PARTITIONS, 1).await;
    let stream = stores.key(append(&old, "r1").await, "stream");
    let to_16 = resize(&["--partitions", "16"]);
    let take = ["XREADGROUP", "GROUP", "ledger", "old", "STREAMS", &stream, ">"];
    let spoil = ["XADD", &stream, "*", "x", "y"];
    let take_away = async |entry: redis::Value| {
        let redis::Value::BulkString(id) = entry else { panic!("{entry:?}") };
        let id = String::from_utf8(id).unwrap();
        assert_eq!(stores.ask::<redis::Value>(&["XDEL", &stream, &id]).await, redis::Value::Int(1));
    };
    let gone = async || stores.keys("{p*}:stream").await.is_empty();

    // An entry that cannot be read was handed out, and is taken away.
    let bad = stores.ask(&spoil).await;
    append(&old, "r2").await;
    stores.tell(&take).await;
    let said = stores.succeed(&to_16).await;
    assert!(said.contains("1 payment ") && said.contains("cannot be read"), "{said}");
    assert!(!gone().await);
    take_away(bad).await;
    let said = stores.succeed(&to_16).await;
    assert!(said.contains("1 payment ") && gone().await, "{said}");

    // Nothing was handed out but what is deleted.
    let again = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    again.provision().await.unwrap();
    let bad = stores.ask(&spoil).await;
    stores.tell(&take).await;
    take_away(bad).await;
    let said = stores.succeed(&to_16).await;
    assert!(gone().await, "{said}");

    // The group is gone.
    again.provision().await.unwrap();
    append(&old, "r3").await;
    let bad = stores.ask(&spoil).await;
    append(&old, "r4").await;
    stores.tell(&["XGROUP", "DESTROY", &stream, "ledger"]).await;
    let said = stores.succeed(&to_16).await;
    assert!(said.contains("1 payment ") && said.contains("cannot be read"), "{said}");
    stores.tell(&["XGROUP", "DESTROY", &stream, "ledger"]).await;
    let said = stores.succeed(&to_16).await;
    assert!(said.contains("cannot be read") && !gone().await, "{said}");
    take_away(bad).await;
    let said = stores.succeed(&to_16).await;
    assert!(said.contains("1 payment ") && gone().await, "{said}");

    process.api.settles_at("ADA", "4.00").await;
    stores.audit().await;
}

#[tokio::test]
async fn those_of_the_oldest_topology_are_given_first() {
    let (stores, process) = changed().await;
    stores.succeed(&resize(&["--partitions", "4"])).await;
    served(&process, 4).await;
    append(&old(&stores, 16, 2).await, "last").await;
    let oldest = old(&stores, PARTITIONS, 1).await;
    let many: Vec<ReceivedPayment> = (0..1_001).map(|n| arrival(&format!("r{n}"))).collect();
    for appended in oldest.append_all(&many).await {
        assert!(matches!(appended, Ok(Appended::Accepted(_))), "{appended:?}");
    }
    let said = stores.succeed(&resize(&["--partitions", "4"])).await;
    assert!(said.contains("1002 payments"), "{said}");
    process.api.until_settled().await;
    let found = process.api.payment("last").await;
    assert_eq!(found["account_version"], 1_002, "{found}");
    stores.audit().await;
}

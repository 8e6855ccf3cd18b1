//! Proves that payments which come one by one are appended together, in the order in which they
//! came, and that one which is refused stops no other.

use std::sync::Arc;

use paystream::{
    domain::Source,
    stream::{AppendLimits, Appended, Error, Gathering, Producer, ReceivedPayment},
};

use crate::{
    prelude::*,
    references::MONTH,
    resize::{arrival, limits},
};

const LINGER: Duration = Duration::from_millis(100);

async fn producer() -> (RedisServer, Stores, Producer) {
    let (redis, stores) = Stores::on_own_redis("gathering").await;
    let streams = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    streams.provision().await.unwrap();
    let producer = streams
        .producer(AppendLimits { share_max: 65, dedupe_window: MONTH, ..limits() })
        .await
        .unwrap();
    (redis, stores, producer)
}

async fn together(
    producer: &Producer,
    arrivals: impl IntoIterator<Item = ReceivedPayment>,
) -> Vec<Result<Appended, Error>> {
    let gathering = Gathering::new(producer.clone(), LINGER);
    join_all(arrivals.into_iter().map(|one| gathering.append(Arc::new(one)))).await
}

fn of(source: &str, reference: &str) -> ReceivedPayment {
    let mut arrival = arrival(reference);
    let source = Source::parse(source).unwrap();
    arrival.payment.reference = Reference::of(&source, reference).unwrap();
    arrival
}

/// How often Redis has run a script.
async fn scripts_run(stores: &Stores) -> usize {
    let stats: String = stores.ask(&["INFO", "commandstats"]).await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn payments_that_come_together_are_appended_together_in_their_order() {
    let (_redis, stores, producer) = producer().await;
    together(&producer, [arrival("first")]).await;
    let before = scripts_run(&stores).await;
    let appended = together(&producer, (0..60).map(|n| arrival(&format!("r-{n}")))).await;
    assert_eq!(scripts_run(&stores).await - before, 1);
    let sequences = appended.iter().map(|one| match one {
        Ok(Appended::Accepted(place)) => place.sequence,
        other => panic!("{other:?}"),
    });
    assert!(sequences.eq(2..=61));
}

#[tokio::test]
async fn one_that_is_refused_stops_no_other() {
    let (_redis, stores, producer) = producer().await;
    let many: Vec<_> = (0..65).map(|n| of("bank-a", &format!("r-{n}"))).collect();
    for appended in producer.append_all(&many).await {
        assert!(matches!(appended, Ok(Appended::Accepted(_))), "{appended:?}");
    }
    let before = scripts_run(&stores).await;
    let [full, other, known, full_again] = <[_; 4]>::try_from(
        together(
            &producer,
            [of("bank-a", "new"), of("bank-b", "new"), many[0].clone(), of("bank-a", "newer")],
        )
        .await,
    )
    .unwrap();
    assert_eq!(scripts_run(&stores).await - before, 1);
    assert!(matches!(full, Err(Error::ShareFull(_))), "{full:?}");
    assert!(matches!(other, Ok(Appended::Accepted(_))), "{other:?}");
    assert!(matches!(known, Ok(Appended::Duplicate(_))), "{known:?}");
    assert!(matches!(full_again, Err(Error::ShareFull(_))), "{full_again:?}");
    // Redis has no memory for what is new, and still knows what is not.
    stores.tell(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let both = [of("bank-b", "newest"), many[0].clone()];
    let [new, known] = <[_; 2]>::try_from(together(&producer, both).await).unwrap();
    assert!(matches!(new, Err(Error::MemoryFull(_))), "{new:?}");
    assert!(matches!(known, Ok(Appended::Duplicate(_))), "{known:?}");
}

//! Proves that a stream remembers references for the dedupe window and no longer than half of it
//! more, at no more than 64 bytes each, whatever the rate, the clock, and the release that
//! remembered them.

use std::cell::Cell;

use paystream::{
    domain::{Amount, PaymentStatus},
    stream::{AppendLimits, Appended, EntryPosition, Producer, ReceivedPayment},
};
use sha2::{Digest as _, Sha256};

use crate::{
    doctor::{Said, doctor_with},
    prelude::*,
    resize::{arrival, limits},
};

/// Streams with a producer whose references are remembered for this long.
async fn streams() -> (Stores, Streams) {
    let stores = Stores::new().await;
    let streams = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    streams.provision().await.unwrap();
    (stores, streams)
}

async fn producer(streams: &Streams, window: Duration) -> Producer {
    let limits = AppendLimits {
        backlog_max: 1_000_000,
        share_max: 1_000_000,
        dedupe_window: window,
        ..limits()
    };
    streams.producer(limits).await.unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);
/// No table ends by its time while a test runs.
pub const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Appends payments of references `<label>-0` and so on.
async fn append(producer: &Producer, label: &str, count: usize) {
    let arrivals: Vec<_> = (0..count).map(|n| arrival(&format!("{label}-{n}"))).collect();
    for appended in producer.append_all(&arrivals).await {
        assert!(matches!(appended, Ok(Appended::Accepted(_))), "{appended:?}");
    }
}

async fn accepted(producer: &Producer, payment: &ReceivedPayment) -> EntryPosition {
    let appended = producer.append(payment).await.unwrap();
    let Appended::Accepted(place) = appended else { panic!("{appended:?}") };
    place
}

/// The partition of every payment here.
fn partition() -> u64 {
    partition_of(&CustomerId::parse("ADA").unwrap(), PARTITIONS).into()
}

/// What is told of the tables: of the newest its window, begin, end, first and full sequence;
/// then of each its number, hashes, and when it is forgotten.
async fn tables(stores: &Stores) -> Vec<Vec<i64>> {
    let text: String = stores.ask(&["GET", &stores.key(partition(), "refs")]).await;
    let numbers = |part: &str| part.split(',').map(|number| number.parse().unwrap()).collect();
    text.split(';').map(numbers).collect()
}

#[tokio::test]
async fn a_reference_takes_64_bytes_at_most_once_a_table_has_found_its_size() {
    let (stores, streams) = streams().await;
    let producer = producer(&streams, 15 * MINUTE).await;
    // A table of as many hashes as the script gives one for 60,000 references.
    let now = clock::system().timestamp_millis();
    let (end, forgotten) = (now + 450_000, now + 1_350_000);
    let told = format!("900000,{now},{end},0,108000;1,1500,{forgotten}");
    stores.tell(&["SET", &stores.key(partition(), "refs"), &told]).await;
    append(&producer, "019aa7d4-7b1e-7c3a-8f52-1d2e3f405162", 60_000).await;
    let keys = stores.keys("*:refs:*").await;
    let mut bytes = 0;
    let mut count = 0;
    for keys in keys.chunks(1_000) {
        let mut asked = redis::pipe();
        for key in keys {
            asked.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0).cmd("HLEN").arg(key);
        }
        let sizes: Vec<(i64, i64)> = asked.query_async(&mut stores.redis.clone()).await.unwrap();
        // What the tables of all keys and of expiring keys take for a key, too.
        bytes += sizes.iter().map(|(bytes, _)| bytes + 64).sum::<i64>();
        count += sizes.iter().map(|(_, count)| count).sum::<i64>();
    }
    assert_eq!(count, 60_000);
    assert!(bytes <= 64 * count, "{} bytes each", bytes / count);
    for key in &keys {
        let encoding: String = stores.ask(&["OBJECT", "ENCODING", key]).await;
        assert_eq!(encoding, "listpack", "{key}");
    }
}

#[tokio::test]
async fn a_reference_is_known_for_the_window_and_forgotten_within_half_of_it_more() {
    let (stores, streams) = streams().await;
    let producer = producer(&streams, Duration::from_secs(1)).await;
    let first = accepted(&producer, &arrival("once")).await.stream_id;
    let count = Cell::new(0);
    let again = eventually("it is forgotten", async || {
        // Others come meanwhile, and new tables with them.
        count.set(count.get() + 1);
        accepted(&producer, &arrival(&format!("other-{}", count.get()))).await;
        let known = tables(&stores).await;
        assert!(known.len() <= 1 + 4, "{known:?}");
        match producer.append(&arrival("once")).await.unwrap() {
            Appended::Accepted(place) => Some(place.stream_id),
            Appended::Duplicate(place) => {
                assert_eq!(place.stream_id, first);
                None
            }
            Appended::Conflict(place) => panic!("{place:?}"),
        }
    })
    .await;
    let after = again.milliseconds - first.milliseconds;
    assert!(after >= 1_000, "forgotten after {after} ms");
    until("all is forgotten", async || stores.keys("*:refs:*").await.is_empty()).await;
}

#[tokio::test]
async fn hashes_outlive_what_is_in_them_by_the_window_and_no_more_than_half_of_it_beside() {
    let (stores, streams) = streams().await;
    let producer = producer(&streams, MONTH).await;
    let place = accepted(&producer, &arrival("kept")).await;
    let [hash] = &*stores.keys("*:refs:*").await else { panic!("one reference, one hash") };
    let at = i64::try_from(place.stream_id.milliseconds).unwrap();
    let window = i64::try_from(MONTH.as_millis()).unwrap();
    let end: i64 = stores.ask(&["PEXPIRETIME", hash]).await;
    assert!((at + window..=at + window * 3 / 2).contains(&end), "{} ms", end - at);
}

#[tokio::test]
async fn each_status_of_a_reference_is_remembered_with_its_content_and_forgotten_alone() {
    let (_stores, streams) = streams().await;
    let producer = producer(&streams, MINUTE).await;
    let of = |status: PaymentStatus, amount: &str| {
        let mut payment = arrival("statuses");
        payment.payment.status = status;
        payment.payment.amount = Amount::parse(amount).unwrap();
        payment
    };
    let mut places = Vec::new();
    for status in [PaymentStatus::Pending, PaymentStatus::Failed, PaymentStatus::Complete] {
        places.push((status, accepted(&producer, &of(status, "1")).await));
    }
    let upkeep = streams.upkeep().await.unwrap();
    for (status, place) in &places {
        let same = producer.append(&of(*status, "1")).await.unwrap();
        assert_eq!(same, Appended::Duplicate(*place));
        let other = producer.append(&of(*status, "2")).await.unwrap();
        assert_eq!(other, Appended::Conflict(*place));
    }
    let (reference, failed) = (Reference::parse("statuses").unwrap(), places[1].1);
    let entry = failed.stream_id.to_string();
    upkeep.forget_reference(failed.partition, &reference, &entry).await.unwrap();
    let anew = accepted(&producer, &of(PaymentStatus::Failed, "2")).await;
    assert_eq!(anew.sequence, 4);
    upkeep.forget_reference(failed.partition, &reference, &entry).await.unwrap();
    for (status, place) in [(PaymentStatus::Failed, anew), places[0], places[2]] {
        let (same, other) = if status == PaymentStatus::Failed { ("2", "1") } else { ("1", "2") };
        let same = producer.append(&of(status, same)).await.unwrap();
        assert_eq!(same, Appended::Duplicate(place));
        let other = producer.append(&of(status, other)).await.unwrap();
        assert_eq!(other, Appended::Conflict(place));
    }
}

#[tokio::test]
async fn what_the_release_before_remembers_counts_until_it_is_forgotten() {
    let (stores, streams) = streams().await;
    let producer = producer(&streams, MINUTE).await;
    let payment = arrival("old");
    let key = stores.key(partition(), "ref:old");
    let line = format!("PENDING {0} 7 1-7\nCOMPLETE {1} 8 1-8\n", "0".repeat(32), {
        payment.payment.digest()
    });
    stores.tell(&["SET", &key, &line, "PX", "60000"]).await;
    let place = |sequence: i64| EntryPosition {
        partition: u16::try_from(partition()).unwrap(),
        sequence,
        stream_id: format!("1-{sequence}").parse().unwrap(),
    };
    assert_eq!(producer.append(&payment).await.unwrap(), Appended::Duplicate(place(8)));
    let mut pending = payment.clone();
    pending.payment.status = PaymentStatus::Pending;
    assert_eq!(producer.append(&pending).await.unwrap(), Appended::Conflict(place(7)));
    let mut failed = payment.clone();
    failed.payment.status = PaymentStatus::Failed;
    let known = accepted(&producer, &failed).await;
    assert_eq!(producer.append(&failed).await.unwrap(), Appended::Duplicate(known));
    // A dead letter is forgotten there, too.
    let upkeep = streams.upkeep().await.unwrap();
    let reference = Reference::parse("old").unwrap();
    upkeep.forget_reference(place(8).partition, &reference, "1-8").await.unwrap();
    let anew = accepted(&producer, &payment).await;
    assert_eq!(producer.append(&payment).await.unwrap(), Appended::Duplicate(anew));
    assert_eq!(producer.append(&pending).await.unwrap(), Appended::Conflict(place(7)));
    // Entries that are lost are accepted again.
    stores.tell(&["SET", &stores.key(partition(), "lost"), "7 7\n"]).await;
    accepted(&producer, &pending).await;
}

#[tokio::test]
async fn a_gateway_with_a_longer_window_and_a_clock_that_went_back_begin_a_table_at_once() {
    let (stores, streams) = streams().await;
    let (short, long) = (producer(&streams, MINUTE).await, producer(&streams, 60 * MINUTE).await);
    let first = accepted(&short, &arrival("first")).await;
    assert_eq!(tables(&stores).await[0][0], 60_000);
    let second = accepted(&long, &arrival("second")).await;
    let known = tables(&stores).await;
    assert_eq!((known.len(), known[0][0]), (3, 3_600_000), "{known:?}");
    // Whoever has the shorter one goes on with what is there.
    let third = accepted(&short, &arrival("third")).await;
    assert_eq!(tables(&stores).await, known);
    // As if the newest had begun in an hour, by a clock that has been set back since.
    let refs = stores.key(partition(), "refs");
    let told: String = stores.ask(&["GET", &refs]).await;
    let began = known[0][1].to_string();
    let later = (known[0][1] + 3_600_000).to_string();
    stores.tell(&["SET", &refs, &told.replacen(&began, &later, 1)]).await;
    let started = self::producer(&streams, MINUTE).await;
    let fourth = accepted(&started, &arrival("fourth")).await;
    assert_eq!(tables(&stores).await.len(), 4);
    for (name, place) in
        [("first", first), ("second", second), ("third", third), ("fourth", fourth)]
    {
        for producer in [&short, &long] {
            let again = producer.append(&arrival(name)).await.unwrap();
            assert_eq!(again, Appended::Duplicate(place), "{name}");
        }
    }
}

#[tokio::test]
async fn tables_grow_with_the_rate_and_are_as_they_were_after_a_restart() {
    let (mut redis, mut stores) = Stores::on_own_redis("redis-references").await;
    let streams = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    streams.provision().await.unwrap();
    let producer = producer(&streams, MONTH).await;
    for few in 0..200 {
        accepted(&producer, &arrival(&format!("few-{few}"))).await;
    }
    append(&producer, "many", 2_000).await;
    let before = tables(&stores).await;
    let hashes: Vec<i64> = before[1..].iter().map(|table| table[1]).collect();
    assert!(hashes.len() >= 3 && hashes.is_sorted_by(|a, b| a > b), "{before:?}");
    redis.restart().await.unwrap();
    stores.connect_again().await;
    let producer = self::producer(&streams, MONTH).await;
    let again: Vec<_> = ["few-0", "few-199", "many-0", "many-1999"].map(arrival).into();
    for appended in producer.append_all(&again).await {
        assert!(matches!(appended, Ok(Appended::Duplicate(_))), "{appended:?}");
    }
    assert_eq!(tables(&stores).await, before);
}

#[tokio::test]
async fn at_the_limit_of_memory_a_table_that_is_due_is_refused_with_the_payment() {
    let (_redis, stores) = Stores::on_own_redis("redis-references-full").await;
    let streams = Streams::new(&stores.redis_url, &stores.key_prefix, PARTITIONS, 1).unwrap();
    streams.provision().await.unwrap();
    let producer = producer(&streams, MINUTE).await;
    let place = accepted(&producer, &arrival("known")).await;
    let before = tables(&stores).await;
    let full = async |limit: &str| stores.tell(&["CONFIG", "SET", "maxmemory", limit]).await;
    // A longer window takes another table.
    let longer = self::producer(&streams, 2 * MINUTE).await;
    full("1").await;
    for producer in [&producer, &longer] {
        let refused = producer.append(&arrival("new")).await;
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(producer.append(&arrival("known")).await.unwrap(), Appended::Duplicate(place));
    }
    assert_eq!(tables(&stores).await, before);
    full("0").await;
    assert_eq!(accepted(&longer, &arrival("new")).await.sequence, 2, "nothing was half done");
}

#[tokio::test]
async fn the_name_of_a_reference_is_a_digest_of_its_source_and_itself() {
    let (stores, streams) = streams().await;
    let producer = producer(&streams, MONTH).await;
    accepted(&producer, &arrival("bank-a TX-1")).await;
    accepted(&producer, &arrival("TX-1")).await;
    let [hash] = &*stores.keys("*:refs:*").await else { panic!("two references, one hash") };
    let fields: Vec<Vec<u8>> = stores.ask(&["HKEYS", hash]).await;
    let mut names = [Sha256::digest("bank-a TX-1"), Sha256::digest("TX-1")];
    for (field, name) in fields.iter().zip(&mut names) {
        name[15] &= !3;
        assert_eq!(field[..], name[..16]);
    }
}

#[tokio::test]
async fn the_doctor_tells_what_rate_the_memory_suffices_for_and_when_more_come() {
    let (_redis, stores) = Stores::on_own_redis("redis-references-rate").await;
    let gateway = Process::serve("gateway", &stores, &[]).await.account("ADA", "1000").await;
    gateway.api.pay_each("paid", 0..600).await;
    let limit = async |bytes: &str| stores.tell(&["CONFIG", "SET", "maxmemory", bytes]).await;
    limit("2gb").await;
    let told = |said: &Said| {
        let mut all = said.findings.iter();
        let found = all.find(|one| one["code"] == "redis_rate_high").expect("it is looked at");
        found["sentence"].as_str().unwrap().to_owned()
    };
    let said = doctor(&stores).await;
    assert!(said.find("redis_rate_high").is_none(), "{}", told(&said));
    assert!(told(&said).contains("27962 payments a second"), "{}", told(&said));
    // One in a day.
    limit("8mb").await;
    let said = doctor_with(&stores, &[("PAYSTREAM_DEDUPE_WINDOW", "30d")]).await;
    assert!(said.find("redis_rate_high").is_some(), "{}", told(&said));
    limit("0").await;
    let said = doctor(&stores).await;
    assert!(told(&said).contains("no limit"), "{}", told(&said));
}

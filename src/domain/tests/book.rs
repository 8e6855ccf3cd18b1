//! The book against a model. However a stream of payments is cut into batches
//! and redelivered, the accounts and the outcomes are those of a naive model
//! that takes the events one by one, in whole hundredths, with plain vectors.
//! Never shares arithmetic, keys or lookups with what it tests.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use rust_decimal::Decimal;

use super::model::{ModelOutcome, ModelPayment, Plain, assert_sound, model, name, plain_accounts};
use crate::domain::{
    Account, Amount, Book, CustomerId, Delivery, Outcome, Payment, PaymentStatus, Reference,
    StreamId, UsedReference, partition_of,
};

const PARTITIONS: u16 = 4;
const STATUSES: [PaymentStatus; 3] =
    [PaymentStatus::Complete, PaymentStatus::Pending, PaymentStatus::Failed];
const CUSTOMERS: usize = 6;

/// A batch: how many entries are new, and which settled ones come once more.
#[derive(Clone, Debug)]
struct Cut {
    new: usize,
    again: Option<(Index, Index)>,
}

fn sent() -> impl Strategy<Value = ModelPayment> {
    let hundredths = prop_oneof![
        3 => 1..=60_000_i128,
        2 => prop::sample::select(vec![1, 100, 40_000, 100_000]),
        1 => Just(1_000_000_000_000),
    ];
    (
        0..12_usize,
        0..CUSTOMERS,
        prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)],
        hundredths,
        0..2_i64,
    )
        .prop_map(|(reference, customer, status, hundredths, second)| ModelPayment {
            reference,
            customer,
            status,
            hundredths,
            second,
        })
}

/// New payments, and earlier ones sent again: the same, or under another
/// status.
fn stream() -> impl Strategy<Value = Vec<ModelPayment>> {
    let step = prop_oneof![
        5 => sent().prop_map(|sent| (Some(sent), None)),
        2 => any::<Index>().prop_map(|earlier| (None, Some((earlier, None)))),
        1 => (any::<Index>(), 0..3_usize)
            .prop_map(|(earlier, status)| (None, Some((earlier, Some(status))))),
    ];
    (sent(), vec(step, 0..60)).prop_map(|(first, steps)| {
        let mut stream = vec![first];
        for step in steps {
            match step {
                (Some(sent), _) => stream.push(sent),
                (None, Some((earlier, status))) => {
                    let mut sent = earlier.get(&stream).clone();
                    sent.status = status.unwrap_or(sent.status);
                    stream.push(sent);
                }
                (None, None) => unreachable!(),
            }
        }
        stream
    })
}

fn cuts() -> impl Strategy<Value = Vec<Cut>> {
    let again = prop::option::of((any::<Index>(), any::<Index>()));
    let cut = |new, again| Cut { new, again };
    // The last always moves on, or an endless cycle of nothing could be drawn.
    let last = (1..30_usize, again.clone()).prop_map(move |(new, again)| cut(new, again));
    let others = vec((0..9_usize, again).prop_map(move |(new, again)| cut(new, again)), 0..20);
    (others, last).prop_map(|(cuts, last)| [cuts, vec![last]].concat())
}

/// The stream's entries, numbered in their partitions.
fn deliveries(stream: &[ModelPayment]) -> Vec<Delivery> {
    let mut sequences = [0; PARTITIONS as usize];
    let delivery = |(at, sent): (usize, &ModelPayment)| {
        let payment = Payment {
            reference: Reference::parse(format!("REF-{}", sent.reference)).unwrap(),
            customer: CustomerId::parse(name(sent.customer)).unwrap(),
            status: STATUSES[sent.status],
            amount: Amount::checked(Decimal::from_i128_with_scale(sent.hundredths, 2)).unwrap(),
            date: DateTime::from_timestamp(1_762_523_656 + sent.second, 0).unwrap(),
        };
        let partition = partition_of(&payment.customer, PARTITIONS);
        sequences[usize::from(partition)] += 1;
        Delivery {
            partition,
            sequence: sequences[usize::from(partition)],
            stream_id: StreamId { milliseconds: 7, number: at as u64 },
            received_at: DateTime::from_timestamp(1_762_523_700, 0).unwrap(),
            digest: payment.digest(),
            payment,
            trace: None,
            evidence: None,
        }
    };
    stream.iter().enumerate().map(delivery).collect()
}

fn hundredths(value: Decimal) -> i128 {
    let whole = value * Decimal::ONE_HUNDRED;
    assert!(whole.is_integer(), "{value} has more than two places");
    whole.trunc().to_string().parse().unwrap()
}

fn fate(outcome: Outcome) -> ModelOutcome {
    if let Outcome::Applied { applied, excess, after } = outcome {
        let (applied, excess) = (hundredths(applied), hundredths(excess));
        let left = hundredths(after.balance);
        return ModelOutcome::Applied { applied, excess, left, version: after.version };
    }
    if let Outcome::Recorded { after } = outcome {
        let after = after.map(|after| (hundredths(after.balance), after.version));
        return ModelOutcome::Recorded(after);
    }
    if let Outcome::Rejected { after, .. } = outcome {
        let left = hundredths(after.balance);
        return ModelOutcome::Rejected { left, version: after.version };
    }
    let others = [
        (Outcome::Suspense, ModelOutcome::Suspense),
        (Outcome::Conflict, ModelOutcome::Conflict),
        (Outcome::Duplicate, ModelOutcome::Duplicate),
        (Outcome::Redelivered, ModelOutcome::Redelivered),
    ];
    let found = others.into_iter().find(|(one, _)| *one == outcome);
    found.unwrap_or_else(|| panic!("the model does not know {outcome:?}")).1
}

/// The ledger as a worker meets it: what was committed after each batch.
#[derive(Clone, Debug, Default)]
struct Store {
    accounts: BTreeMap<CustomerId, Account>,
    known: BTreeMap<(Reference, &'static str), UsedReference>,
}

impl Store {
    fn seeded() -> Self {
        let account = |plain: Plain| Account {
            customer: CustomerId::parse(plain.name).unwrap(),
            asset_value: Decimal::from_i128_with_scale(plain.value, 2),
            total_paid: Decimal::from_i128_with_scale(plain.paid, 2),
            credit: Decimal::from_i128_with_scale(plain.credit, 2),
            payment_count: 0,
            version: 0,
            parked: false,
        };
        let accounts = plain_accounts().into_iter().map(account);
        Self { accounts: accounts.map(|a| (a.customer.clone(), a)).collect(), ..Self::default() }
    }

    /// A book that knows what this batch may touch, and no more.
    fn open(&self, batch: &[Delivery]) -> Book {
        let customers: BTreeSet<_> = batch.iter().map(|d| &d.payment.customer).collect();
        let references: BTreeSet<_> = batch.iter().map(|d| &d.payment.reference).collect();
        let accounts = self.accounts.values().filter(|a| customers.contains(&a.customer)).cloned();
        let known = self.known.iter().filter(|((reference, _), _)| references.contains(reference));
        let known = known.map(|((reference, status), known)| {
            ((reference.clone(), PaymentStatus::parse(status).unwrap()), *known)
        });
        Book::new(accounts, known.collect::<Vec<_>>())
    }

    /// Settles one batch as the worker and the ledger do: a reference that is
    /// there already, or an account that moved meanwhile, is an error.
    fn settle(&mut self, batch: &[Delivery]) -> Vec<ModelOutcome> {
        let mut book = self.open(batch);
        let fates: Vec<ModelOutcome> =
            batch.iter().map(|delivery| fate(book.decide(delivery))).collect();
        for (delivery, fate) in batch.iter().zip(&fates) {
            if fate.took_the_reference() {
                let Delivery { payment, digest, partition, sequence, .. } = delivery.clone();
                let key = (payment.reference, payment.status.as_str());
                let taken = self.known.insert(key, UsedReference { digest, partition, sequence });
                assert_eq!(taken, None, "a primary key is used twice");
            }
        }
        for (account, was) in book.touched() {
            let stored = self.accounts.insert(account.customer.clone(), account.clone()).unwrap();
            assert_eq!(stored.version, was, "an account moved meanwhile");
        }
        fates
    }

    fn plain(&self) -> Vec<Plain> {
        let plain = |account: &Account| Plain {
            name: account.customer.as_str().to_owned(),
            value: hundredths(account.asset_value),
            paid: hundredths(account.total_paid),
            credit: hundredths(account.credit),
            count: account.payment_count,
            version: account.version,
        };
        self.accounts.values().map(plain).collect()
    }
}

/// What a redelivery of a settled entry is answered with.
fn once_more(first: &ModelOutcome) -> ModelOutcome {
    if first.took_the_reference() { ModelOutcome::Redelivered } else { first.clone() }
}

/// Runs the whole stream through batches cut as told, each led by entries that
/// come once more. Gives what became of each entry when it first came.
fn run(store: &mut Store, entries: &[Delivery], cuts: &[Cut]) -> Vec<ModelOutcome> {
    let mut fates: Vec<ModelOutcome> = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while fates.len() < entries.len() {
        let Cut { new, again } = cuts.next().unwrap();
        let settled = fates.len();
        let new_end = (settled + new).min(entries.len());
        let repeated = match again {
            Some((from, to)) if settled > 0 => {
                let (from, to) = (from.index(settled), to.index(settled));
                from.min(to)..from.max(to) + 1
            }
            _ => 0..0,
        };
        let batch = [&entries[repeated.clone()], &entries[settled..new_end]].concat();
        let mut came = store.settle(&batch);
        let first = came.split_off(repeated.len());
        for (at, fate) in repeated.zip(came) {
            assert_eq!(fate, once_more(&fates[at]), "entry {at} came once more");
        }
        fates.extend(first);
    }
    fates
}

fn config() -> Config {
    Config { cases: 256, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_batch_cut_gives_what_one_by_one_gives(stream in stream(), cuts in cuts()) {
        let mut store = Store::seeded();
        let fates = run(&mut store, &deliveries(&stream), &cuts);
        let (accounts, expected) = model(&stream);
        prop_assert_eq!(&fates, &expected);
        prop_assert_eq!(store.plain(), accounts);
        assert_sound(&stream, &fates, &store.plain());
    }

    #[test]
    fn one_batch_gives_what_one_by_one_gives(stream in stream()) {
        let mut store = Store::seeded();
        let fates = store.settle(&deliveries(&stream));
        let (accounts, expected) = model(&stream);
        prop_assert_eq!(fates, expected);
        prop_assert_eq!(store.plain(), accounts);
    }

    #[test]
    fn redelivering_any_settled_prefix_changes_nothing(
        stream in stream(), cuts in cuts(), upto in any::<Index>(), again in cuts(),
    ) {
        let entries = deliveries(&stream);
        let mut store = Store::seeded();
        let fates = run(&mut store, &entries, &cuts);
        let before = store.plain();
        let prefix = &entries[..=upto.index(entries.len())];
        for batch in [prefix, &entries[..]].into_iter().chain(prefix.chunks(again[0].new + 1)) {
            let start = entries.iter().position(|entry| entry == &batch[0]).unwrap();
            let expected: Vec<ModelOutcome> =
                fates[start..start + batch.len()].iter().map(once_more).collect();
            prop_assert_eq!(store.settle(batch), expected);
            prop_assert_eq!(store.open(batch).touched().count(), 0);
        }
        prop_assert_eq!(store.plain(), before);
    }
}

/// The properties above mean little if the generator never comes to a case.
#[test]
fn the_generator_reaches_every_fate() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeSet::new();
    for _ in 0..64 {
        let stream = stream().new_tree(&mut runner).unwrap().current();
        for fate in model(&stream).1 {
            reached.insert(match fate {
                ModelOutcome::Applied { applied: 0, .. } => "applied to credit",
                ModelOutcome::Applied { excess: 0, .. } => "applied to balance",
                ModelOutcome::Applied { .. } => "applied to both",
                ModelOutcome::Recorded(Some(_)) => "recorded",
                ModelOutcome::Recorded(None) => "recorded without account",
                ModelOutcome::Rejected { .. } => "rejected",
                ModelOutcome::Suspense => "suspense",
                ModelOutcome::Conflict => "conflict",
                ModelOutcome::Duplicate => "duplicate",
                ModelOutcome::Redelivered => "redelivered",
            });
        }
    }
    // Redeliveries are the cuts' doing, not the stream's.
    assert_eq!(reached.len(), 9, "{reached:?}");
}

#[test]
fn a_credit_is_filled_to_the_last_hundredth_and_no_further() {
    let mut account = Account {
        customer: CustomerId::parse("GIG00001").unwrap(),
        asset_value: Decimal::ONE,
        total_paid: Decimal::ONE,
        credit: "9999999999999998.99".parse().unwrap(),
        payment_count: 0,
        version: 0,
        parked: false,
    };
    let applied = ModelOutcome::Applied { applied: 0, excess: 100, left: 0, version: 1 };
    assert_eq!(fate(account.apply(Amount::parse("1.00").unwrap())), applied);
    let rejected = ModelOutcome::Rejected { left: 0, version: 2 };
    assert_eq!(fate(account.apply(Amount::parse("0.01").unwrap())), rejected);
    assert_eq!(account.credit.to_string(), "9999999999999999.99");
    assert_eq!((account.payment_count, account.version), (1, 2));
}

#[test]
fn what_comes_for_a_parked_account_waits_and_is_still_recognised() {
    let store = Store::seeded();
    let mut accounts: Vec<Account> = store.accounts.into_values().collect();
    accounts[0].parked = true;
    let delivery = |sequence: i64, customer: &Account| {
        let payment = Payment {
            reference: Reference::parse(format!("r{sequence}")).unwrap(),
            customer: customer.customer.clone(),
            status: PaymentStatus::Complete,
            amount: Amount::parse("1.00").unwrap(),
            date: DateTime::UNIX_EPOCH,
        };
        let digest = payment.digest();
        let (partition, stream_id, received_at) = (0, StreamId::default(), DateTime::UNIX_EPOCH);
        Delivery {
            partition,
            sequence,
            stream_id,
            received_at,
            payment,
            digest,
            trace: None,
            evidence: None,
        }
    };
    let (waits, passes) = (delivery(1, &accounts[0]), delivery(2, &accounts[1]));
    let mut book = Book::new(accounts, []);
    assert_eq!(book.decide(&waits), Outcome::Parked);
    assert!(matches!(book.decide(&passes), Outcome::Applied { .. }));
    let again = Delivery { sequence: 3, ..waits.clone() };
    assert_eq!(book.decide(&again), Outcome::Duplicate);
    assert_eq!(book.decide(&waits), Outcome::Redelivered);
    assert_eq!(book.touched().count(), 1, "nothing moved on the parked account");
}

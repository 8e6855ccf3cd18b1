//! A naive model of the ledger: whole hundredths, plain vectors, one event
//! after the other. Never uses anything of the domain.

/// Asset value, total paid and credit at first, in hundredths. The third is
/// paid off, and its credit nearly fills its column; customers beyond these
/// are unknown.
pub(super) const ACCOUNTS: [(i128, i128, i128); 4] =
    [(100_000, 0, 0), (50_050, 0, 0), (1, 1, 999_999_999_999_999_000), (1_000_000_000_000, 0, 0)];
/// One payment as it is sent, in the small words of this test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelPayment {
    pub(super) reference: usize,
    pub(super) customer: usize,
    pub(super) status: usize,
    pub(super) hundredths: i128,
    pub(super) second: i64,
}

pub(super) fn name(customer: usize) -> String {
    format!("GIG{customer:05}")
}

/// What became of a payment, in whole hundredths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ModelOutcome {
    Applied { applied: i128, excess: i128, left: i128, version: i64 },
    Recorded(Option<(i128, i64)>),
    Rejected { left: i128, version: i64 },
    Suspense,
    Conflict,
    Duplicate,
    Redelivered,
}

impl ModelOutcome {
    /// Whether it used up its reference and status.
    pub(super) fn took_the_reference(&self) -> bool {
        !matches!(self, Self::Conflict | Self::Duplicate | Self::Redelivered)
    }
}

/// An account in whole hundredths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    pub(super) name: String,
    pub(super) value: i128,
    pub(super) paid: i128,
    pub(super) credit: i128,
    pub(super) count: i64,
    pub(super) version: i64,
}

pub(super) fn plain_accounts() -> Vec<Plain> {
    let account = |(customer, (value, paid, credit)): (usize, (i128, i128, i128))| Plain {
        name: name(customer),
        value,
        paid,
        credit,
        count: 0,
        version: 0,
    };
    ACCOUNTS.into_iter().enumerate().map(account).collect()
}

/// The model: every event once, one by one.
pub(super) fn model(stream: &[ModelPayment]) -> (Vec<Plain>, Vec<ModelOutcome>) {
    let mut accounts = plain_accounts();
    let mut fates: Vec<ModelOutcome> = Vec::new();
    for (at, sent) in stream.iter().enumerate() {
        let first = (0..at).find(|&earlier| {
            stream[earlier].reference == sent.reference
                && stream[earlier].status == sent.status
                && fates[earlier].took_the_reference()
        });
        let fate = match (first, accounts.get_mut(sent.customer)) {
            (Some(first), _) if stream[first] == *sent => ModelOutcome::Duplicate,
            (Some(_), _) => ModelOutcome::Conflict,
            (None, None) if sent.status == 0 => ModelOutcome::Suspense,
            (None, None) => ModelOutcome::Recorded(None),
            (None, Some(account)) => receive(account, sent),
        };
        fates.push(fate);
    }
    (accounts, fates)
}

fn receive(account: &mut Plain, sent: &ModelPayment) -> ModelOutcome {
    account.version += 1;
    let version = account.version;
    let left = account.value - account.paid;
    if sent.status != 0 {
        return ModelOutcome::Recorded(Some((left, version)));
    }
    let (applied, excess) =
        if sent.hundredths > left { (left, sent.hundredths - left) } else { (sent.hundredths, 0) };
    if account.credit + excess > 999_999_999_999_999_999 {
        return ModelOutcome::Rejected { left, version };
    }
    account.paid += applied;
    account.credit += excess;
    account.count += 1;
    ModelOutcome::Applied { applied, excess, left: left - applied, version }
}

/// What must be true of any statement, said without the model.
pub(super) fn assert_sound(stream: &[ModelPayment], fates: &[ModelOutcome], accounts: &[Plain]) {
    for (customer, account) in accounts.iter().enumerate() {
        let (mut paid, mut credit) = (ACCOUNTS[customer].1, ACCOUNTS[customer].2);
        let (mut versions, mut count) = (Vec::new(), 0);
        for (_, fate) in stream.iter().zip(fates).filter(|(sent, _)| sent.customer == customer) {
            match *fate {
                ModelOutcome::Applied { applied, excess, left, version } => {
                    assert!(applied >= 0 && excess >= 0 && applied + excess > 0);
                    (paid, credit, count) = (paid + applied, credit + excess, count + 1);
                    assert_eq!(left, account.value - paid);
                    versions.push(version);
                }
                ModelOutcome::Recorded(Some((_, version)))
                | ModelOutcome::Rejected { version, .. } => {
                    versions.push(version);
                }
                ModelOutcome::Recorded(None) | ModelOutcome::Suspense => {
                    panic!("{} is known", account.name)
                }
                ModelOutcome::Conflict | ModelOutcome::Duplicate | ModelOutcome::Redelivered => {}
            }
        }
        assert_eq!((paid, credit, count), (account.paid, account.credit, account.count));
        assert_eq!(versions, (1..=account.version).collect::<Vec<_>>());
        assert!((0..=account.value).contains(&account.paid));
    }
    let moved = |reference| {
        let of = stream.iter().zip(fates).filter(move |(sent, _)| sent.reference == reference);
        of.filter(|(_, fate)| matches!(fate, ModelOutcome::Applied { .. })).count()
    };
    assert!((0..12).all(|reference| moved(reference) <= 1), "a reference moved money twice");
}

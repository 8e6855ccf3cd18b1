//! The end of a storm: lets everything come to rest, does what an operator would have to do about
//! what was broken on purpose, and collects what the invariants are asked about. Never waits for a
//! number that paystream itself says.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Method;
use paystream_invariants::{Records, Violation};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    ledger,
    site::{Site, get},
    weather::{POISON, finish_resize},
};

/// How long all may take to come to rest.
const REST_TIMEOUT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(500);
/// Losses at the end of a stream are found by looks that come every two seconds.
const LOOKS: Duration = Duration::from_secs(6);
/// References of one look-up.
const LOOKUP_MAX: usize = 1_000;

/// Waits until nothing waits; whether that came.
pub(crate) async fn rest(site: &Site) -> Result<bool> {
    let end = Instant::now() + REST_TIMEOUT;
    finish_resize(site).await?;
    let mut is_at_rest = false;
    loop {
        let backlogs = ledger::backlogs(&site.stores).await?;
        let rests = backlogs.iter().all(|one| (one.lag, one.pending) == (0, 0));
        if rests && is_at_rest {
            site.note("at rest".to_owned());
            return Ok(true);
        }
        if Instant::now() > end {
            site.trouble(format!("it does not come to rest: {backlogs:?}"));
            return Ok(false);
        }
        is_at_rest = rests;
        sleep(if rests { LOOKS } else { PAUSE }).await;
    }
}

/// Everything that is on record, and what of it does not hold.
pub(crate) async fn judge(site: &Site) -> Result<(Records, Vec<Violation>)> {
    for strange in ledger::aside(&site.stores, POISON).await? {
        site.trouble(strange);
    }
    let mut records = ledger::records(&site.stores).await?;
    records.sent = site.records.hold().sent.values().cloned().collect();
    let violations = records.violations();
    look_up(site, &records).await?;
    // An operator has looked at what was broken on purpose.
    site.operate(&["losses", "accept", "--reason", "storm"]).await?;
    site.operate(&["dead-letters", "discard", "--all", "--yes", "--reason", "storm"]).await?;
    for command in ["audit", "doctor"] {
        let (status, said) = site.operate(&[command]).await?;
        if status != Some(0) {
            site.trouble(format!("`paystream {command}` ended with {status:?}:\n{said}"));
        }
    }
    Ok((records, violations))
}

/// What clients are told must be what the ledger has.
async fn look_up(site: &Site, records: &Records) -> Result<()> {
    let references: Vec<&str> =
        records.effects.iter().map(|effect| effect.reference.as_str()).collect();
    for (number, part) in references.chunks(LOOKUP_MAX).enumerate() {
        let body = json!({ "transaction_references": part });
        let path = "/api/v1/payments/lookup";
        let found = site.api.send(number, Method::POST, path, Some(&body)).await;
        let (status, found) = found.context("could not look payments up")?;
        let payments = found["payments"].as_array().filter(|payments| payments.len() == part.len());
        let Some(payments) = payments else {
            site.trouble(format!("a look-up of {} was answered {status}: {found}", part.len()));
            continue;
        };
        let wrong = |payment: &&serde_json::Value| payment["status"] != "applied";
        if let Some(payment) = payments.iter().find(wrong) {
            site.trouble(format!("a payment that was applied is shown as {payment}"));
        }
    }
    for account in &records.accounts {
        let path = format!("/api/v1/customers/{}/balance", account.customer);
        let balance = get(site, &path).await?;
        let cents = cents(&balance["total_paid"]) + cents(&balance["credit"]);
        if cents != account.cents {
            let (customer, wanted) = (&account.customer, account.cents);
            site.trouble(format!("{customer} has paid {wanted}, and is shown {balance}"));
        }
    }
    Ok(())
}

fn cents(amount: &serde_json::Value) -> i64 {
    let text = amount.as_str().unwrap_or_default();
    text.replace('.', "").parse().unwrap_or_default()
}

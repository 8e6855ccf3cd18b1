//! One run in its order: customers, sending, drain, audit, report. Ctrl-C ends the sending
//! and goes on; a second one ends the waiting. Never sends anything itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rust_decimal::Decimal;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    api::{Api, LOOKUP_MAX},
    args::LoadArgs,
    audit::{Audit, Auditor},
    cpu::Meter,
    drain,
    plan::{Plan, customer_id},
    progress::Progress,
    record::{Fate, RunFigures},
    report::{Report, SendingReport, options, per_second, problems, time},
    schedule::{Pacer, Schedule},
    send::Sender,
};

/// What each customer has paid in all.
type Paid = BTreeMap<String, Decimal>;

/// The first payment is due when every task is ready to send it.
const HEAD_START: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_millis(500);
/// An audit that is not clean is made again: a payment of unknown outcome may arrive late.
const AUDITS_MAX: u32 = 4;
const AUDIT_PAUSE: Duration = Duration::from_secs(2);

/// Ctrl-C, once and once more.
#[derive(Debug, Clone, Default)]
struct Interrupts {
    sending: CancellationToken,
    waiting: CancellationToken,
}

pub(super) async fn run(args: &LoadArgs) -> anyhow::Result<Report> {
    let interrupts = Interrupts::default();
    let mut listener = JoinSet::new();
    listener.spawn(listen(interrupts.clone()));

    let api = Api::new(&args.url, args.token.as_ref(), &args.tls)?;
    let operations = Api::new(
        args.operations_url.as_ref().unwrap_or(&args.url),
        args.operations_token.as_ref().or(args.token.as_ref()),
        &args.tls,
    )?;
    let mut progress = Progress::new(args.json);
    let run = Uuid::now_v7().as_u128();
    let plan = Plan::new(args, run_id(run), args.seed.unwrap_or(seed(run)))?;
    let customers = plan.customers_used(args.customers);

    let before = tokio::select! {
        before = paid_before(args, customers, (&api, &operations), &progress) => before?,
        () = interrupts.sending.cancelled() => bail!("interrupted before anything was sent"),
    };
    let mut meter = Meter::of(args);
    meter.as_mut().map_or(Ok(()), Meter::look)?;

    let payments = args.arrivals()?;
    let schedule = Schedule::new(Instant::now() + HEAD_START, args.rate, args.batch, payments);
    let sending = Arc::new(Sender::new(args, api.clone(), plan, Pacer::new(schedule))?);
    send(args, &sending, &interrupts, &mut progress).await?;
    let took = schedule.start.elapsed();
    let interrupted = interrupts.sending.is_cancelled();
    interrupts.sending.cancel();
    meter.as_mut().map_or(Ok(()), Meter::look)?;
    // Requests that were given up may still be noted, and change nothing any more.
    let figures = std::mem::replace(&mut *sending.figures(), RunFigures::new(0)?);

    let mut report = Report {
        run_id: sending.plan.run_id.clone(),
        seed: sending.plan.seed,
        options: options(args),
        interrupted,
        sending: SendingReport::of(&figures, sending.due(), args.connections, took),
        drain: None,
        applied_per_second: None,
        ledger_applied_per_second: None,
        audit: None,
        audit_error: None,
        cpu: None,
        problems: Vec::new(),
    };
    if let Some(before) = before {
        let waiting = &interrupts.waiting;
        let drain = drain::wait(&operations, args.drain_timeout, waiting, &mut progress).await;
        meter.as_mut().map_or(Ok(()), Meter::look)?;
        let is_drained = drain.drained;
        report.drain = Some(drain);
        let run = Audited { sending: &sending, fates: &figures.fates, customers, before };
        let audit = tokio::select! {
            audit = run.audit_until_clean(is_drained, &api, &mut progress) => audit,
            () = waiting.cancelled() => Err(anyhow::anyhow!("interrupted")),
        };
        conclude(&mut report, audit, figures.first_sent);
    }
    progress.finish();
    report.cpu = meter.and_then(|meter| meter.report(report.sending.accepted));
    report.problems = problems(&report);
    Ok(report)
}

async fn listen(interrupts: Interrupts) {
    while tokio::signal::ctrl_c().await.is_ok() {
        if interrupts.sending.is_cancelled() {
            interrupts.waiting.cancel();
        } else {
            interrupts.sending.cancel();
        }
    }
}

/// Unique among runs: the time in milliseconds, and some chance.
fn run_id(uuid: u128) -> String {
    let millis = uuid >> 80 & 0xff_ffff_ffff;
    let chance = uuid & 0xff;
    format!("{millis:010x}{chance:02x}")
}

fn seed(uuid: u128) -> u64 {
    u64::from(Uuid::from_u128(uuid).as_fields().0) ^ u64::try_from(uuid & 0xffff_ffff).unwrap_or(0)
}

/// What the customers have paid before the run; `None` when nobody will compare.
async fn paid_before(
    args: &LoadArgs,
    customers: u32,
    (api, operations): (&Api, &Api),
    progress: &Progress,
) -> anyhow::Result<Option<Paid>> {
    if args.no_wait && !args.seed_customers {
        return Ok(None);
    }
    let missing_of =
        |paid: &Paid| (0..customers).filter(|one| !paid.contains_key(&customer_id(*one))).count();
    let mut paid = api.paid().await?;
    let missing = missing_of(&paid);
    if missing > 0 {
        if !args.seed_customers {
            bail!(
                "{missing} of {customers} customers do not exist; seed them with \
                 POST /api/v1/admin/seed-customers or --seed-customers true"
            );
        }
        progress.say(&format!("{missing} of {customers} customers do not exist: seeding them"));
        operations.seed_customers(customers).await?;
        paid = api.paid().await?;
        let missing = missing_of(&paid);
        if missing > 0 {
            bail!("{missing} customers do not exist though they were seeded");
        }
    }
    Ok(Some(paid).filter(|_| !args.no_wait))
}

/// Sends all, as far as neither Ctrl-C nor the overrun ends it.
async fn send(
    args: &LoadArgs,
    sending: &Arc<Sender>,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut all = std::pin::pin!(Arc::clone(sending).run());
    let mut every = tokio::time::interval(TELL_EVERY);
    let last = sending.pacer.schedule.end() + args.overrun;
    loop {
        tokio::select! {
            ended = all.as_mut() => return ended,
            _ = every.tick() => {
                progress.tell(|| line(sending));
                if interrupts.waiting.is_cancelled() {
                    // Requests under way are given up; without an audit nobody asks for them.
                    return Ok(());
                }
                if interrupts.sending.is_cancelled() || Instant::now() > last {
                    sending.stop();
                }
            }
        }
    }
}

fn line(sending: &Sender) -> String {
    let elapsed = sending.pacer.schedule.start.elapsed();
    let figures = sending.figures();
    let (sent, accepted, errors) = (figures.counts.sent, figures.accepted(), figures.errors());
    let p99 = figures.accept_latency.value_at_quantile(0.99);
    drop(figures);
    let rate = per_second(sent, elapsed);
    format!(
        "sending {}s  sent {sent} of {}  accepted {accepted}  {rate}/s  errors {errors}  p99 {}",
        elapsed.as_secs(),
        sending.due(),
        time(p99)
    )
}

/// What an audit compares the service's answers with.
struct Audited<'a> {
    sending: &'a Sender,
    fates: &'a [Fate],
    customers: u32,
    before: Paid,
}

impl Audited<'_> {
    /// Audits, again while a later look may still change the verdict.
    async fn audit_until_clean(
        &self,
        is_drained: bool,
        api: &Api,
        progress: &mut Progress,
    ) -> anyhow::Result<Audit> {
        let has_unknown = self.fates.contains(&Fate::Unknown);
        let mut audits = 1;
        loop {
            let mut auditor = Auditor::new(self.customers)?;
            self.enter_all(&mut auditor, api, progress).await?;
            let audit = auditor.close(&self.before, &api.paid().await?);
            let may_change = is_drained && (has_unknown || audit.unsettled.count > 0);
            if audit.is_clean() || !may_change || audits == AUDITS_MAX {
                return Ok(audit);
            }
            progress.say("the audit is not clean; looking once more");
            audits += 1;
            tokio::time::sleep(AUDIT_PAUSE).await;
        }
    }

    async fn enter_all(
        &self,
        auditor: &mut Auditor,
        api: &Api,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let plan = &self.sending.plan;
        let mut wanted = (0..).zip(self.fates).filter(|(_, fate)| **fate >= Fate::Unknown);
        let mut entered = 0;
        loop {
            let chunk: Vec<(u64, &Fate)> = wanted.by_ref().take(LOOKUP_MAX).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            let references: Vec<String> =
                chunk.iter().map(|(index, _)| plan.reference(*index)).collect();
            for ((index, fate), found) in chunk.iter().zip(api.lookup(&references).await?) {
                let content = plan.content(*index);
                if **fate == Fate::Accepted {
                    auditor.follow(self.sending.request_of(*index), content, &found);
                }
                auditor.enter(**fate, content, &found).context("could not audit a payment")?;
            }
            entered += chunk.len();
            progress.tell(|| format!("auditing  {entered} references looked up"));
        }
    }
}

fn conclude(report: &mut Report, audit: anyhow::Result<Audit>, first_sent: Option<Instant>) {
    let audit = match audit {
        Ok(audit) => audit,
        Err(error) => {
            report.audit_error = Some(format!("{error:#}"));
            return;
        }
    };
    if let (Some(drain), Some(first)) = (&report.drain, first_sent)
        && drain.drained
    {
        report.applied_per_second = Some(per_second(audit.applied(), drain.ended - first));
    }
    let span = Duration::from_millis(audit.ledger_ms);
    report.ledger_applied_per_second = Some(per_second(audit.applied(), span));
    report.audit = Some(audit);
}

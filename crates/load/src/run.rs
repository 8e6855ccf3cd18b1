//! One run in its order: customers, sending, drain, audit, report. Ctrl-C ends the sending
//! and goes on; a second one ends the waiting. Never sends anything itself.

use std::{
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    api::{Api, LOOKUP_MAX},
    args::LoadArgs,
    audit::{Audit, Auditor, Balances},
    connection::Target,
    cpu::{Snapshot, Watched, used, used_here},
    drain,
    plan::{Content, Plan},
    progress::Progress,
    record::Fate,
    report::{Cpu, CpuOf, Options, Report, SendingReport, per_second, problems, time},
    schedule::{Pacer, Schedule},
    send::Sending,
};

/// The first payment is due a little after the connections are opened.
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

    let target = Target::new(&args.url, args.token.as_ref())?;
    let mut api = Api::new(target.clone());
    let mut progress = Progress::new(args.json);
    let run = Uuid::now_v7().as_u128();
    let plan = Arc::new(Plan::new(args, run_id(run), args.seed.unwrap_or(seed(run)))?);
    let customers = plan.customers_used(args.customers);

    let before = tokio::select! {
        before = balances_before(args, customers, &mut api, &progress) => before?,
        () = interrupts.sending.cancelled() => bail!("interrupted before anything was sent"),
    };
    let watched = watched(args);
    let mut snapshots = Vec::new();
    snapshot(&watched, &mut snapshots)?;

    let payments = args.arrivals()?;
    let schedule = Schedule::new(Instant::now() + HEAD_START, args.rate, args.batch, payments);
    let sending = Arc::new(Sending::new(args, target, Arc::clone(&plan), Pacer::new(schedule))?);
    send(args, &sending, &interrupts, &mut progress).await?;
    let took = schedule.start().elapsed();
    let interrupted = interrupts.sending.is_cancelled();
    interrupts.sending.cancel();
    snapshot(&watched, &mut snapshots)?;

    let mut report = Report {
        run_id: plan.run_id().to_owned(),
        seed: plan.seed(),
        options: Options::of(args),
        interrupted,
        sending: SendingReport::of(&sending, args.connections, took),
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
        let drain = drain::wait(&mut api, args.drain_timeout, waiting, &mut progress).await;
        snapshot(&watched, &mut snapshots)?;
        let is_drained = drain.drained;
        report.drain = Some(drain);
        let audit = tokio::select! {
            audit = audit_until_clean(is_drained, &before, &sending, &mut api, &mut progress) => audit,
            () = waiting.cancelled() => Err(anyhow::anyhow!("interrupted")),
        };
        conclude(&mut report, audit, &sending);
    }
    progress.finish();
    report.cpu = watched.and_then(|watched| cpu(&watched, &snapshots, report.sending.accepted));
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
async fn balances_before(
    args: &LoadArgs,
    customers: u32,
    api: &mut Api,
    progress: &Progress,
) -> anyhow::Result<Option<Balances>> {
    if args.no_wait && !args.seed_customers {
        return Ok(None);
    }
    let mut balances = Balances::of(customers, &api.customers().await?);
    if balances.missing() > 0 {
        let missing = balances.missing();
        if !args.seed_customers {
            bail!(
                "{missing} of {customers} customers do not exist; seed them with \
                 POST /api/v1/admin/seed-customers or --seed-customers true"
            );
        }
        progress.say(&format!("{missing} of {customers} customers do not exist: seeding them"));
        api.seed_customers(customers).await?;
        balances = Balances::of(customers, &api.customers().await?);
        if balances.missing() > 0 {
            bail!("{} customers do not exist though they were seeded", balances.missing());
        }
    }
    Ok(Some(balances).filter(|_| !args.no_wait))
}

/// Sends all, as far as neither Ctrl-C nor the overrun ends it.
async fn send(
    args: &LoadArgs,
    sending: &Arc<Sending>,
    interrupts: &Interrupts,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let mut all = std::pin::pin!(Arc::clone(sending).run());
    let mut every = tokio::time::interval(TELL_EVERY);
    let last = sending.pacer().schedule().end() + args.overrun;
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

fn line(sending: &Sending) -> String {
    let elapsed = sending.pacer().schedule().start().elapsed();
    let figures = sending.record().figures();
    let (sent, accepted, errors) = (figures.sent, figures.accepted(), figures.errors());
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

/// Audits, again while a later look may still change the verdict.
async fn audit_until_clean(
    is_drained: bool,
    before: &Balances,
    sending: &Sending,
    api: &mut Api,
    progress: &mut Progress,
) -> anyhow::Result<Audit> {
    let has_unknown = sending.record().fates.count(Fate::Unknown) > 0;
    let mut audits = 1;
    loop {
        let mut auditor = Auditor::new(before.customers())?;
        enter_all(&mut auditor, sending, api, progress).await?;
        let after = Balances::of(before.customers(), &api.customers().await?);
        let audit = auditor.close(before, &after);
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
    auditor: &mut Auditor,
    sending: &Sending,
    api: &mut Api,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let plan = sending.plan();
    let fates = sending.record().fates.iter();
    let mut wanted = fates.filter(|(_, fate)| *fate >= Fate::Unknown);
    let mut entered = 0;
    loop {
        let chunk: Vec<(u64, Fate)> = wanted.by_ref().take(LOOKUP_MAX).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        let references: Vec<String> =
            chunk.iter().map(|(index, _)| plan.reference(*index)).collect();
        for ((index, fate), found) in chunk.iter().zip(api.lookup(&references).await?) {
            let content: Content = plan.content(*index);
            if *fate == Fate::Accepted {
                auditor.follow(sending.request_of(*index), content, &found);
            }
            auditor.enter(*fate, content, &found).context("could not audit a payment")?;
        }
        entered += chunk.len();
        progress.tell(|| format!("auditing  {entered} references looked up"));
    }
}

fn conclude(report: &mut Report, audit: anyhow::Result<Audit>, sending: &Sending) {
    let audit = match audit {
        Ok(audit) => audit,
        Err(error) => {
            report.audit_error = Some(format!("{error:#}"));
            return;
        }
    };
    let first_sent = sending.record().figures().first_sent;
    if let (Some(drain), Some(first)) = (&report.drain, first_sent)
        && drain.drained
    {
        report.applied_per_second = Some(per_second(audit.applied(), drain.ended - first));
    }
    let span = Duration::from_millis(audit.ledger_ms);
    report.ledger_applied_per_second = Some(per_second(audit.applied(), span));
    report.audit = Some(audit);
}

fn watched(args: &LoadArgs) -> Option<Watched> {
    if !args.cpu_of.is_empty() {
        return Some(Watched::Pids(args.cpu_of.clone()));
    }
    (!args.cpu_of_names.is_empty()).then(|| Watched::Names(args.cpu_of_names.clone()))
}

fn snapshot(watched: &Option<Watched>, snapshots: &mut Vec<Snapshot>) -> anyhow::Result<()> {
    if watched.is_some() {
        snapshots.push(Snapshot::take()?);
    }
    Ok(())
}

fn cpu(watched: &Watched, snapshots: &[Snapshot], payments: u64) -> Option<Cpu> {
    let [before, sent, rest @ ..] = snapshots else { return None };
    let own_pid = process::id();
    let sending = used(watched, (before, sent), own_pid);
    let drained = rest.first().map(|end| used(watched, (before, end), own_pid));
    let of = |name: &str| {
        let drained = drained.as_ref().map(|all| all.get(name).copied().unwrap_or_default());
        CpuOf::new(name, sending.get(name).copied().unwrap_or_default(), drained, payments)
    };
    let names = drained.as_ref().unwrap_or(&sending).keys();
    let total = drained.as_ref().map(|all| all.values().sum());
    let own = rest.first().map(|end| used_here((before, end), own_pid));
    Some(Cpu {
        processes: names.map(|name| of(name)).collect(),
        total: CpuOf::new("total", sending.values().sum(), total, payments),
        load_generator: CpuOf::new(
            "load generator",
            used_here((before, sent), own_pid),
            own,
            payments,
        ),
    })
}

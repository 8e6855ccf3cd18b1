//! Hears what PostgreSQL says about a commit. Where the wait for a synchronous standby is
//! cancelled, `COMMIT` succeeds with a warning: the rows are here, and a promotion would lose
//! them. Never takes such a commit for a durable one.

use std::{cell::RefCell, fmt, future::poll_fn, pin::pin, sync::LazyLock};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    dispatcher::{get_default, with_default},
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use super::Error;

/// Where sqlx reports notices and warnings of the server. It has no other way to them.
const NOTICES: &str = "sqlx::postgres::notice";

thread_local! {
    /// What was heard while this thread last polled a commit.
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Who listens to everything else meanwhile.
    static OTHERS: RefCell<Option<Dispatch>> = const { RefCell::new(None) };
}

/// The second is used by nobody. While there is one subscriber only, `tracing` asks whoever listens
/// on the thread that first comes by whether a place in the code matters, and keeps the answer.
static LISTENERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [Dispatch::new(Listener), Dispatch::new(Listener)]);

/// Does something that commits, and hears what PostgreSQL says about it.
///
/// # Errors
/// [`Error::Unconfirmed`] where PostgreSQL warned: the fate is unknown, as after an outage. The
/// next transaction on the same rows waits for the standby again, and so for this one as well.
pub(super) async fn hearing<T, E>(doing: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    let mut doing = pin!(doing);
    let mut warning = None;
    let done = poll_fn(|context| {
        let others = get_default(Clone::clone);
        let others = OTHERS.replace(Some(others));
        let polled = with_default(&LISTENERS[0], || doing.as_mut().poll(context));
        OTHERS.set(others);
        let heard = HEARD.take();
        warning = warning.take().or(heard);
        polled
    })
    .await?;
    warning.map_or(Ok(done), |warning| Err(Error::Unconfirmed(warning)))
}

/// Hears warnings of the server, and passes on everything else, such as slow statements.
struct Listener;

fn is_warning(metadata: &Metadata<'_>) -> bool {
    metadata.target() == NOTICES && *metadata.level() <= Level::WARN
}

fn others<T>(tell: impl FnOnce(&Dispatch) -> T) -> Option<T> {
    OTHERS.with_borrow(|others| others.as_ref().map(tell))
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_warning(metadata) || others(|others| others.enabled(metadata)).unwrap_or(false)
    }

    /// What nobody else wants stays off.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_warning(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        if is_warning(event.metadata()) {
            event.record(&mut Message);
        } else {
            others(|others| others.event(event));
        }
    }

    // It enables no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            HEARD.set(Some(format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

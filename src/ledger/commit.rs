//! Commits, and hears what PostgreSQL says about one. Where the wait for a synchronous standby is
//! cancelled, `COMMIT` succeeds with a warning: the rows are here, and a promotion would lose
//! them. Never takes such a commit for a durable one.

use std::{cell::RefCell, fmt, future::poll_fn, pin::pin, sync::LazyLock};

use sqlx::{Postgres, Transaction};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    dispatcher::with_default,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

use super::Error;

/// Where sqlx reports notices and warnings of the server. It has no other way to them.
const NOTICES: &str = "sqlx::postgres::notice";

thread_local! {
    /// What was heard while this thread last polled a commit.
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The second is used by nobody. While there is one subscriber only, `tracing` asks whoever listens
/// on the thread that first comes by whether a place in the code matters, and keeps the answer.
static LISTENERS: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [Dispatch::new(Listener), Dispatch::new(Listener)]);

/// Commits a transaction.
///
/// # Errors
/// [`Error::Unconfirmed`] where PostgreSQL warned: the fate is unknown, as after an outage. The
/// next transaction on the same rows waits for the standby again, and so for this one as well.
pub(super) async fn commit(transaction: Transaction<'_, Postgres>) -> Result<(), Error> {
    let mut committing = pin!(transaction.commit());
    let mut warning = None;
    poll_fn(|context| {
        let polled = with_default(&LISTENERS[0], || committing.as_mut().poll(context));
        warning = warning.take().or_else(|| HEARD.take());
        polled
    })
    .await?;
    warning.map_or(Ok(()), |warning| Err(Error::Unconfirmed(warning)))
}

/// Hears warnings of the server, and nothing else.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == NOTICES && *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message);
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

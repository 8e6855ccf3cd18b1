//! A pool of connections that reports its use: connections, waiting queries, and their waits.
//! Never knows what a query is for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use sqlx::{
    FromRow, PgPool, Postgres,
    postgres::{PgArguments, PgRow},
    query::QueryAs,
};

use super::{
    Error,
    session::{Session, Terms, Transaction, needs_a_session},
};
use crate::telemetry::Signals;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    pub used: u32,
    pub idle: u32,
    pub max: u32,
    pub waiting: u32,
}

#[derive(Clone)]
pub struct Pool {
    pool: PgPool,
    terms: Terms,
    waiting: Arc<AtomicU32>,
    /// Its name in telemetry.
    told: Option<(&'static str, Signals)>,
}

impl Pool {
    pub(super) fn new(pool: PgPool, terms: Terms) -> Self {
        Self { pool, terms, waiting: Arc::default(), told: None }
    }

    /// The same, which reports under this name how long queries wait.
    pub(super) fn telling(self, name: &'static str, signals: Signals) -> Self {
        Self { told: Some((name, signals)), ..self }
    }

    pub(super) async fn acquire(&self) -> Result<Session, Error> {
        let asked = Instant::now();
        let waiting = Waiting::new(&self.waiting);
        // Making a connection takes 14 kB of a future. In a box they are not moved about with each
        // request that might ask something.
        let acquired = Box::pin(self.pool.acquire()).await;
        drop(waiting);
        if let Some((name, signals)) = &self.told {
            signals.waited_for_connection(name, asked.elapsed());
        }
        match acquired {
            // It also ends so where PostgreSQL cannot be reached; but then not all
            // connections are in use.
            Err(sqlx::Error::PoolTimedOut) if self.usage().used >= self.usage().max => {
                Err(Error::Busy)
            }
            acquired => Ok(Session::pooled(acquired?, self.terms.clone())),
        }
    }

    /// Asks something that changes nothing.
    pub async fn ask<T, E>(
        &self,
        asking: impl AsyncFnOnce(&mut Session) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        match self.terms {
            Terms::Session => self.acquire().await?.ask(asking).await,
            Terms::Transaction(_) => self.begin().await?.ask(asking).await,
        }
    }

    /// Makes one change, which commits by itself.
    pub(super) async fn change<T, E>(
        &self,
        changing: impl AsyncFnOnce(&mut Session) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        match self.terms {
            Terms::Session => self.acquire().await?.change(changing).await,
            Terms::Transaction(_) => self.begin().await?.change(changing).await,
        }
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static>, Error> {
        // Not tried when it was acquired, a connection may be one that a pooler has closed.
        let mut untried = match self.terms {
            Terms::Session => 0,
            Terms::Transaction(_) => self.pool.num_idle(),
        };
        loop {
            match self.acquire().await?.into_transaction().await {
                Err(error) if untried > 0 && error.is_broken() => untried -= 1,
                begun => return begun,
            }
        }
    }

    /// All rows of a query.
    pub async fn all<T>(
        &self,
        query: QueryAs<'_, Postgres, T, PgArguments>,
    ) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.ask(async |session| query.fetch_all(session).await).await
    }

    /// The row of a query, if it has one.
    pub async fn maybe<T>(
        &self,
        query: QueryAs<'_, Postgres, T, PgArguments>,
    ) -> Result<Option<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.ask(async |session| query.fetch_optional(session).await).await
    }

    /// The row of a query that has one.
    pub(super) async fn one<T>(
        &self,
        query: QueryAs<'_, Postgres, T, PgArguments>,
    ) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        self.ask(async |session| query.fetch_one(session).await).await
    }

    /// The connections themselves, for what needs sessions of PostgreSQL's own.
    ///
    /// # Errors
    /// Where they are a pooler's.
    pub(super) fn direct(&self) -> Result<&PgPool, Error> {
        match self.terms {
            Terms::Session => Ok(&self.pool),
            Terms::Transaction(_) => Err(needs_a_session()),
        }
    }

    pub(super) fn usage(&self) -> PoolUse {
        let size = self.pool.size();
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX).min(size);
        PoolUse {
            used: size - idle,
            idle,
            max: self.pool.options().get_max_connections(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// Counts a waiting query until it is dropped, whether it got a connection or gave up.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn one_that_gives_up_does_not_wait_any_more() {
        let count = AtomicU32::new(0);
        let waiting = async {
            let _waiting = Waiting::new(&count);
            std::future::pending::<()>().await;
        };
        let mut waiting = Box::pin(waiting);
        let polled = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        drop(waiting);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}

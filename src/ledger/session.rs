//! A session of PostgreSQL: the one way to ask, to change and to begin. Behind a connection pooler
//! in transaction mode, the server changes with each transaction. Then every statement is part of
//! one, which begins with the settings that it relies on, and no statement is kept prepared.
//! Never leaves anything in such a session for the next transaction.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream::{BoxStream, once},
};
use sqlx::{
    AssertSqlSafe, Connection, Either, Execute, Executor, PgConnection, Postgres, SqlSafeStr,
    SqlStr,
    pool::PoolConnection,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTransactionManager, PgTypeInfo},
};
use sqlx_core::transaction::TransactionManager;

use super::{Error, commit::hearing};

const BEGIN: &str = "begin";
/// Sees one moment, and can change nothing.
const SNAPSHOT: &str = "begin isolation level repeatable read, read only";

/// Where the settings of a statement are.
#[derive(Clone, Debug)]
pub(super) enum Terms {
    /// In the session, which is PostgreSQL's own.
    Session,
    /// In each transaction, as statements that set them: the session is a pooler's.
    Transaction(Arc<str>),
}

impl Terms {
    /// The same, with further settings of a transaction.
    pub(super) fn with(&self, settings: &[(&str, String)]) -> Self {
        let Self::Transaction(known) = self else { return Self::Session };
        let mut all = known.to_string();
        for (name, value) in settings {
            all.push_str(&format!("; set local {name} = '{value}'"));
        }
        Self::Transaction(all.into())
    }

    pub(super) fn are_of_a_pooler(&self) -> bool {
        matches!(self, Self::Transaction(_))
    }

    fn begin(&self, begin: &'static str) -> SqlStr {
        match self {
            Self::Session => SqlStr::from_static(begin),
            // One query, and so one round trip.
            Self::Transaction(settings) => {
                AssertSqlSafe(format!("{begin}{settings}")).into_sql_str()
            }
        }
    }
}

/// A connection, and where its settings are.
pub struct Session {
    held: Held,
    terms: Terms,
}

enum Held {
    Own(PgConnection),
    Pooled(PoolConnection<Postgres>),
}

impl Session {
    pub(super) fn own(connection: PgConnection, terms: Terms) -> Self {
        Self { held: Held::Own(connection), terms }
    }

    pub(super) fn pooled(connection: PoolConnection<Postgres>, terms: Terms) -> Self {
        Self { held: Held::Pooled(connection), terms }
    }

    /// Asks something that changes nothing.
    pub async fn ask<T, E>(
        &mut self,
        asking: impl AsyncFnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        match self.terms {
            Terms::Session => Ok(asking(self).await?),
            Terms::Transaction(_) => self.begin().await?.ask(asking).await,
        }
    }

    /// Makes one change, which commits by itself.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] where PostgreSQL warned, as at [`commit`].
    pub(super) async fn change<T, E>(
        &mut self,
        changing: impl AsyncFnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        match self.terms {
            Terms::Session => hearing(changing(self)).await,
            Terms::Transaction(_) => self.begin().await?.change(changing).await,
        }
    }

    /// Takes this lock, which the session holds for as long as it lives; false while another has
    /// it.
    ///
    /// # Errors
    /// Where the session is a pooler's, which would give the lock to anybody.
    pub(super) async fn lock(&mut self, lock: i64) -> Result<bool, Error> {
        if self.terms.are_of_a_pooler() {
            return Err(needs_a_session());
        }
        let locking = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(lock);
        Ok(locking.fetch_one(self).await?)
    }

    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        Transaction::begin(Of::Borrowed(self), BEGIN).await
    }

    /// Begins a transaction that sees one moment.
    pub(super) async fn snapshot(&mut self) -> Result<Transaction<'_>, Error> {
        Transaction::begin(Of::Borrowed(self), SNAPSHOT).await
    }

    pub(super) async fn into_transaction(self) -> Result<Transaction<'static>, Error> {
        Transaction::begin(Of::Whole(Box::new(self)), BEGIN).await
    }

    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self.held {
            Held::Own(connection) => connection.close().await,
            Held::Pooled(connection) => connection.close().await,
        }
    }

    /// The connection itself. What is asked there is asked outside of the terms.
    fn raw(&mut self) -> &mut PgConnection {
        match &mut self.held {
            Held::Own(connection) => connection,
            Held::Pooled(connection) => connection,
        }
    }

    /// Never uses this connection of a pool again. Any other is dropped by who was failed.
    fn spoil(&mut self) {
        if let Held::Pooled(connection) = &mut self.held {
            connection.close_on_drop();
        }
    }

    /// Refuses a statement that a pooler would send to any server.
    fn checked(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        let is_pooled = self.terms.are_of_a_pooler();
        let connection = self.raw();
        if is_pooled && !connection.is_in_transaction() {
            return Err(sqlx::Error::Configuration("a statement outside of a transaction".into()));
        }
        Ok(connection)
    }
}

/// Refuses what only a session of PostgreSQL's own can do.
pub(super) fn needs_a_session() -> Error {
    Error::Schema(
        "this command holds a lock of its session, which a pooler in transaction mode does not keep: \
         run it with the address of PostgreSQL itself and PAYSTREAM_DATABASE_POOLER=none"
            .to_owned(),
    )
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let is_kept = matches!(self.terms, Terms::Session);
        match self.checked() {
            Ok(connection) if is_kept => connection.fetch_many(query),
            Ok(connection) => connection.fetch_many(Unkept(query)),
            Err(error) => once(ready(Err(error))).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let is_kept = matches!(self.terms, Terms::Session);
        match self.checked() {
            Ok(connection) if is_kept => connection.fetch_optional(query),
            Ok(connection) => connection.fetch_optional(Unkept(query)),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw().prepare_with(sql, parameters)
    }

    fn describe<'e>(
        self,
        sql: SqlStr,
    ) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.raw().describe(sql)
    }
}

/// A query whose statement is prepared for this once, without a name: the next server that the
/// pooler chooses does not know it.
struct Unkept<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unkept<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

/// Commits a transaction.
///
/// # Errors
/// As [`hearing`].
pub(super) async fn commit(transaction: Transaction<'_>) -> Result<(), Error> {
    hearing(transaction.commit()).await
}

/// A transaction. Dropped, it is rolled back when its connection is used next, or is back in its
/// pool.
pub(super) struct Transaction<'c> {
    of: Of<'c>,
    stage: Stage,
}

enum Of<'c> {
    Borrowed(&'c mut Session),
    Whole(Box<Session>),
}

enum Stage {
    /// Whether the server has begun it is not known.
    Beginning,
    Open,
    Over,
}

impl<'c> Transaction<'c> {
    async fn begin(of: Of<'c>, begin: &'static str) -> Result<Self, Error> {
        let mut transaction = Self { of, stage: Stage::Beginning };
        let sql = transaction.terms.begin(begin);
        PgTransactionManager::begin(transaction.raw(), Some(sql)).await?;
        transaction.stage = Stage::Open;
        Ok(transaction)
    }

    /// Asks one thing, and ends.
    pub(super) async fn ask<T, E>(
        mut self,
        asking: impl AsyncFnOnce(&mut Session) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        let answer = asking(&mut self).await;
        self.end().await;
        Ok(answer?)
    }

    /// Makes one change, and commits.
    pub(super) async fn change<T, E>(
        mut self,
        changing: impl AsyncFnOnce(&mut Session) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        Error: From<E>,
    {
        match changing(&mut self).await {
            Ok(done) => commit(self).await.map(|()| done),
            Err(error) => {
                self.end().await;
                Err(error.into())
            }
        }
    }

    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        PgTransactionManager::commit(self.raw()).await?;
        self.stage = Stage::Over;
        Ok(())
    }

    pub(super) async fn rollback(mut self) -> Result<(), sqlx::Error> {
        PgTransactionManager::rollback(self.raw()).await?;
        self.stage = Stage::Over;
        Ok(())
    }

    /// Ends a transaction that shall change nothing. A pool does so by itself, while nobody waits;
    /// any other connection would hold its server until it is used next.
    async fn end(self) {
        if let Held::Own(_) = self.held {
            // The next statement tells when the connection is gone.
            drop(self.rollback().await);
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.of {
            Of::Borrowed(session) => session,
            Of::Whole(session) => session,
        }
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut self.of {
            Of::Borrowed(session) => session,
            Of::Whole(session) => session,
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        match self.stage {
            // Nobody would end it: what the connection is asked next would be part of it.
            Stage::Beginning => self.spoil(),
            Stage::Open => PgTransactionManager::start_rollback(self.raw()),
            Stage::Over => {}
        }
    }
}

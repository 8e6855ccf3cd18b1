//! Migrations, and the topology that every process must agree on.

use futures_util::future::BoxFuture;
use sqlx::{
    Row,
    migrate::{MigrateError, Migrator},
};

use tracing::info;

use super::{
    Error,
    address::Address,
    pool::Pool,
    reach,
    session::{Session, commit},
};
use crate::domain::{Currency, HASH_VERSION};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// No table of this name.
const MISSING: &str = "42P01";
/// This user lacks a right.
const FORBIDDEN: &str = "42501";

/// Payments whose references are not listed yet; an error where there is no ledger.
const UNLISTED: &str = "select coalesce(sum(applied + recorded + rejected), 0)::bigint
     from partition_totals where to_regclass('payment_months') is null";

/// Partitions of a topology for which no number was given.
const PARTITIONS: u16 = 32;

/// Earlier topologies whose streams are looked at.
const PAST_MAX: i64 = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Counts the times it was cut, from 1.
    pub generation: i32,
    pub partitions: u16,
    /// Whether the streams in Redis have ever been created.
    pub provisioned: bool,
    pub resizing_to: Option<u16>,
    pub currency: Currency,
    /// Whether the streams are in a Redis Cluster; none where that is not known yet.
    pub in_cluster: Option<bool>,
}

impl Topology {
    /// The topology as Redis has it noted, for looking while the ledger is away: no
    /// account can be opened in it then, whatever the currency.
    pub fn noted(generation: i32, partitions: u16) -> Self {
        Self {
            generation,
            partitions,
            provisioned: true,
            resizing_to: None,
            currency: Currency::DEFAULT,
            in_cluster: None,
        }
    }

    /// Says that a partition is not one of these.
    pub fn no_partition(&self, partition: u32) -> String {
        let last = self.partitions.saturating_sub(1);
        format!("there is no partition {partition}: the topology has partitions 0 to {last}")
    }

    /// The topology, which must be in this currency, if one is given.
    pub fn in_currency(self, wanted: Option<&str>) -> Result<Self, Error> {
        let ours = self.currency.as_str();
        match wanted.filter(|wanted| *wanted != ours) {
            Some(wanted) => Err(Error::Schema(format!(
                "PAYSTREAM_CURRENCY is {wanted}, but the accounts are kept in {ours}: set \
                 PAYSTREAM_CURRENCY={ours} or nothing"
            ))),
            None => Ok(self),
        }
    }

    /// The topology, whose streams must be in a Redis of this kind.
    pub fn on_redis(self, in_cluster: bool) -> Result<Self, Error> {
        let name = |in_cluster| if in_cluster { "a cluster" } else { "one server" };
        match self.in_cluster.filter(|known| *known != in_cluster) {
            Some(known) => Err(Error::Schema(format!(
                "PAYSTREAM_REDIS_URL is the address of {}, but the streams of this ledger are in {}: \
                 set the address of that, or move them with \
                 `paystream topology move --to-redis-url URL`",
                name(in_cluster),
                name(known)
            ))),
            None => Ok(self),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastTopology {
    pub generation: i32,
    pub partitions: u16,
    pub removed: bool,
}

pub struct Schema {
    pub(super) address: Address,
    pub(super) pool: Pool,
}

impl Schema {
    pub async fn migrate(&self) -> Result<(), Error> {
        // Connecting first tells an outage from a migration that is wrong.
        reach(&self.address).await?;
        let pool = self.pool.direct()?;
        let unlisted: i64 = sqlx::query_scalar(UNLISTED).fetch_one(pool).await.unwrap_or(0);
        if unlisted > 0 {
            info!(payments = unlisted, "listing the references that are used, which takes a while");
        }
        let migrated = MIGRATIONS.run(pool).await;
        migrated.map_err(|error| {
            let refused = source(&error)
                .and_then(sqlx::Error::as_database_error)
                .is_some_and(|error| error.code().as_deref() == Some(FORBIDDEN));
            let advice = if refused { ": log in as the owner of the database" } else { "" };
            Error::Schema(format!("could not migrate: {error}{advice}"))
        })?;
        Self::give_rights(&mut self.pool.acquire().await?).await?;
        let months = sqlx::query(
            "select make_payment_month(clock_timestamp() + ahead * interval '1 month')
             from generate_series(0, 2) ahead",
        );
        self.pool.change(async |session| months.execute(session).await).await.map(drop)
    }

    /// The reason why this PostgreSQL could lose commits, if there is one.
    pub async fn unsafe_setting(&self) -> Result<Option<String>, Error> {
        reach(&self.address).await?;
        let off = sqlx::query_as(
            "select name from unnest(array['fsync', 'full_page_writes']) as name
             where current_setting(name) = 'off' limit 1",
        );
        let off: Option<(String,)> = self.pool.maybe(off).await?;
        Ok(off.map(|(name,)| {
            format!(
                "{name} is off: a crash of its machine could lose or damage payments that were \
                 settled. Set it to on"
            )
        }))
    }

    /// Refuses a schema that is older or newer than this release.
    pub async fn check(&self) -> Result<(), Error> {
        reach(&self.address).await?;
        // A pooler may take the settings of a session and forget them.
        let applied = sqlx::query_as(
            "select max(version), current_setting('enable_seqscan') = 'off'
             from _sqlx_migrations where success",
        );
        let applied: Option<i64> = match self.pool.one(applied).await {
            Ok((_, false)) => return Err(Error::Pooler(None)),
            Ok((applied, true)) => applied,
            Err(error) if error.code().as_deref() == Some(MISSING) => None,
            Err(error) => return Err(error),
        };
        let wanted = MIGRATIONS.iter().map(|migration| migration.version).max();
        match applied.cmp(&wanted) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(Error::Schema(
                "the database schema is older than this release: run `paystream migrate`"
                    .to_owned(),
            )),
            std::cmp::Ordering::Greater => Err(Error::Schema(
                "the database schema is newer than this release: run the newer release".to_owned(),
            )),
        }
    }

    /// Creates the topology if there is none: with this number of partitions, or
    /// with `PARTITIONS`; in this currency, or in the default one; and on a Redis of this kind.
    pub async fn establish(
        &self,
        partitions: Option<u16>,
        key_prefix: &str,
        currency: Option<&str>,
        in_cluster: bool,
    ) -> Result<Topology, Error> {
        let created_in = currency.map_or(Ok(Currency::DEFAULT), Currency::parse);
        let created_in = created_in
            .map_err(|invalid| Error::Schema(format!("PAYSTREAM_CURRENCY {}", invalid.reason)))?;
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "insert into topology (partitions, hash_version, key_prefix, currency, in_cluster)
             values ($1, $2, $3, $4, $5)
             on conflict (singleton) do update set in_cluster = excluded.in_cluster
                 where topology.in_cluster is null",
        )
        .bind(i32::from(partitions.unwrap_or(PARTITIONS)))
        .bind(HASH_VERSION)
        .bind(key_prefix)
        .bind(created_in.as_str())
        .bind(in_cluster)
        .execute(&mut *transaction)
        .await?;
        // A topology that differs is refused before this commits.
        let topology = Self::read(&mut transaction, partitions, key_prefix).await?;
        let topology = topology.in_currency(currency)?.on_redis(in_cluster)?;
        add_partitions(&mut transaction, topology.partitions).await?;
        commit(transaction).await?;
        Ok(topology)
    }

    /// The topology, which must have this number of partitions, if one is given.
    pub async fn topology(
        &self,
        partitions: Option<u16>,
        key_prefix: &str,
    ) -> Result<Topology, Error> {
        reach(&self.address).await?;
        let reading =
            async |session: &mut Session| Self::read(session, partitions, key_prefix).await;
        self.pool.ask(reading).await
    }

    pub async fn generation(&self) -> Result<i32, Error> {
        let generation = sqlx::query_as("select generation from topology");
        self.pool.one(generation).await.map(|(generation,)| generation)
    }

    /// The secret under which traces name references, the same in every process.
    pub async fn trace_key(&self) -> Result<Vec<u8>, Error> {
        let key = sqlx::query_as("select trace_key from topology");
        self.pool.one(key).await.map(|(key,)| key)
    }

    /// Reads the current generation, and whether it is being changed; none while PostgreSQL is
    /// unavailable.
    pub fn asking(&self) -> impl Fn() -> BoxFuture<'static, Option<(i32, bool)>> + use<> {
        let pool = self.pool.clone();
        move || {
            let pool = pool.clone();
            Box::pin(async move {
                let topology = "select generation, resizing_to is not null from topology";
                pool.one(sqlx::query_as(topology)).await.ok()
            })
        }
    }

    /// Earlier topologies, the latest first; at most 8.
    pub async fn past(&self) -> Result<Vec<PastTopology>, Error> {
        let rows = sqlx::query(
            "select generation, partitions, removed_at is not null from past_topologies
             order by generation desc limit $1",
        );
        let rows = rows.bind(PAST_MAX);
        let rows = self.pool.ask(async |session| rows.fetch_all(session).await).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok(PastTopology {
                generation: row.try_get(0)?,
                partitions: count(row.try_get(1)?)?,
                removed: row.try_get(2)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Remembers that the streams in Redis exist from now on.
    pub async fn set_provisioned(&self) -> Result<(), Error> {
        let provisioned =
            sqlx::query("update topology set provisioned_at = now() where provisioned_at is null");
        self.pool.change(async |session| provisioned.execute(session).await).await.map(drop)
    }

    async fn read(
        connection: &mut Session,
        wanted: Option<u16>,
        key_prefix: &str,
    ) -> Result<Topology, Error> {
        let row = sqlx::query(
            "select partitions, hash_version, key_prefix, provisioned_at is not null, generation,
                 resizing_to, currency, in_cluster
             from topology",
        )
        .fetch_optional(connection)
        .await?;
        let Some(row) = row else {
            return Err(Error::Schema(
                "the topology has not been created: run `paystream migrate`".to_owned(),
            ));
        };
        let partitions = count(row.try_get(0)?)?;
        let hash_version: i16 = row.try_get(1)?;
        let stored_prefix: String = row.try_get(2)?;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != partitions) {
            return Err(Error::Schema(format!(
                "PAYSTREAM_PARTITIONS is {wanted}, but the topology has {partitions}: another count \
                 would change the order of payments. Set PAYSTREAM_PARTITIONS={partitions} or \
                 nothing, or change the topology with `paystream topology resize`"
            )));
        }
        if hash_version != HASH_VERSION {
            return Err(Error::Schema(format!(
                "the topology uses partition hash {hash_version}, this release {HASH_VERSION}: run \
                 the release that created it"
            )));
        }
        if stored_prefix != key_prefix {
            return Err(Error::Schema(format!(
                "PAYSTREAM_KEY_PREFIX is {key_prefix}, but the topology was created with \
                 {stored_prefix}: set PAYSTREAM_KEY_PREFIX={stored_prefix}"
            )));
        }
        Ok(Topology {
            generation: row.try_get(4)?,
            partitions,
            provisioned: row.try_get(3)?,
            resizing_to: row.try_get::<Option<i32>, _>(5)?.map(count).transpose()?,
            currency: Currency::parse(row.try_get(6)?).map_err(|_| Error::Corrupt("currency"))?,
            in_cluster: row.try_get(7)?,
        })
    }
}

/// The rows of so many partitions, as far as they are missing.
pub(super) async fn add_partitions(connection: &mut Session, partitions: u16) -> Result<(), Error> {
    for table in [
        "insert into partition_owners (partition)
         select generate_series(0, $1 - 1) on conflict do nothing",
        "insert into partition_totals (partition)
         select generate_series(0, $1 - 1) on conflict do nothing",
    ] {
        sqlx::query(table).bind(i32::from(partitions)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// What PostgreSQL said of a migration.
fn source(error: &MigrateError) -> Option<&sqlx::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

pub(super) fn count(partitions: i32) -> Result<u16, Error> {
    u16::try_from(partitions).map_err(|_| Error::Corrupt("number of partitions"))
}

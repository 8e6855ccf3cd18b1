//! Migrations, and the topology that every process must agree on.

use sqlx::{PgPool, Row, migrate::Migrator};

use super::Error;
use crate::domain::HASH_VERSION;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// How the stream is cut, as it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Number of partitions.
    pub partitions: u16,
    /// First part of every Redis key.
    pub key_prefix: String,
}

/// The schema of one database.
pub struct Schema {
    pool: PgPool,
}

impl Schema {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Brings the schema to this release's; does nothing when it is there.
    ///
    /// # Errors
    /// When a migration fails, or the database is newer than this release.
    pub async fn migrate(&self) -> Result<(), Error> {
        // Connecting first tells an outage from a migration that is wrong.
        sqlx::query("select 1").execute(&self.pool).await?;
        let migrated = MIGRATIONS.run(&self.pool).await;
        migrated.map_err(|error| Error::Schema(format!("could not migrate: {error}")))
    }

    /// Refuses a schema that is older or newer than this release.
    ///
    /// # Errors
    /// [`Error::Schema`] with what to do.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("select 1").execute(&self.pool).await?;
        let applied: Option<i64> =
            sqlx::query_scalar("select max(version) from _sqlx_migrations where success")
                .fetch_one(&self.pool)
                .await
                .unwrap_or(None);
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

    /// Creates the topology if there is none, and says whether the streams in
    /// Redis have ever been created.
    ///
    /// # Errors
    /// [`Error::Schema`] when it exists and differs from `wanted`.
    pub async fn establish(&self, wanted: &Topology) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "insert into topology (partitions, hash_version, key_prefix) values ($1, $2, $3)
             on conflict do nothing",
        )
        .bind(i32::from(wanted.partitions))
        .bind(HASH_VERSION)
        .bind(&wanted.key_prefix)
        .execute(&mut *transaction)
        .await?;
        for table in [
            "insert into partition_owners (partition)
             select generate_series(0, $1 - 1) on conflict do nothing",
            "insert into partition_totals (partition)
             select generate_series(0, $1 - 1) on conflict do nothing",
        ] {
            // A topology that differs is refused below, before this commits.
            sqlx::query(table)
                .bind(i32::from(wanted.partitions))
                .execute(&mut *transaction)
                .await?;
        }
        let provisioned = Self::compare(&mut transaction, wanted).await?;
        transaction.commit().await?;
        Ok(provisioned)
    }

    /// Says whether the streams in Redis have ever been created.
    ///
    /// # Errors
    /// [`Error::Schema`] when the topology is missing or differs from `wanted`.
    pub async fn check_topology(&self, wanted: &Topology) -> Result<bool, Error> {
        let mut connection = self.pool.acquire().await?;
        Self::compare(&mut connection, wanted).await
    }

    /// Remembers that the streams in Redis exist from now on.
    ///
    /// # Errors
    /// When PostgreSQL cannot be reached.
    pub async fn set_provisioned(&self) -> Result<(), Error> {
        sqlx::query("update topology set provisioned_at = now() where provisioned_at is null")
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn compare(
        connection: &mut sqlx::PgConnection,
        wanted: &Topology,
    ) -> Result<bool, Error> {
        let row = sqlx::query(
            "select partitions, hash_version, key_prefix, provisioned_at is not null from topology",
        )
        .fetch_optional(connection)
        .await?;
        let Some(row) = row else {
            return Err(Error::Schema(
                "the topology has not been created: run `paystream migrate`".to_owned(),
            ));
        };
        let partitions: i32 = row.try_get(0)?;
        let hash_version: i16 = row.try_get(1)?;
        let key_prefix: String = row.try_get(2)?;
        if partitions != i32::from(wanted.partitions) {
            return Err(Error::Schema(format!(
                "PAYSTREAM_PARTITIONS is {}, but the topology was created with {partitions}: another \
                 count would change the order of payments. Set PAYSTREAM_PARTITIONS={partitions}",
                wanted.partitions
            )));
        }
        if hash_version != HASH_VERSION {
            return Err(Error::Schema(format!(
                "the topology uses partition hash {hash_version}, this release {HASH_VERSION}: run \
                 the release that created it"
            )));
        }
        if key_prefix != wanted.key_prefix {
            return Err(Error::Schema(format!(
                "PAYSTREAM_KEY_PREFIX is {}, but the topology was created with {key_prefix}: set \
                 PAYSTREAM_KEY_PREFIX={key_prefix}",
                wanted.key_prefix
            )));
        }
        Ok(row.try_get(3)?)
    }
}

//! What each user of the database may do with which table. `paystream migrate` gives these
//! rights and takes back every other; a process that starts checks that it has its own. Makes a
//! role only where it is missing, never one that can log in, and never changes a password.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Error, Schema};

/// Roles of the database: who logs in as one of them, or as a member, may do what it may. The
/// owner of the tables is none of them: it migrates, and nothing else.
pub const ROLES: [&str; 4] =
    ["paystream_gateway", "paystream_worker", "paystream_operations", "paystream_auditor"];

/// Tables and views, and what each role may do with them, in the order of [`ROLES`]: read,
/// insert, update, delete, lock. Opening an account settles what the customer paid before, so the
/// gateway settles, too.
pub const RIGHTS: [(&str, [&str; 4]); 25] = [
    ("_sqlx_migrations", ["r", "r", "r", "r"]),
    ("topology", ["r", "r", "ru", "r"]),
    ("past_topologies", ["r", "r", "riu", "r"]),
    ("workers", ["r", "riud", "ru", "r"]),
    ("partition_owners", ["rl", "ru", "riu", "r"]),
    ("partition_totals", ["ru", "ru", "riu", "r"]),
    ("partition_moves", ["", "i", "r", "r"]),
    ("partition_trials", ["r", "riud", "r", "r"]),
    ("attempts", ["", "ri", "r", "r"]),
    ("sequence_jumps", ["r", "riu", "riu", "r"]),
    ("customer_accounts", ["riu", "ru", "ru", "r"]),
    // Only the claim of a reference is deleted; a trigger refuses everything else.
    ("processed_transactions", ["rid", "rid", "rid", "r"]),
    ("suspense", ["ru", "ri", "riu", "r"]),
    ("parked", ["r", "ri", "riu", "r"]),
    ("conflicts", ["ri", "ri", "riu", "r"]),
    ("duplicates", ["ri", "ri", "ri", "r"]),
    ("dead_letters", ["r", "ri", "ru", "r"]),
    ("payment_evidence", ["", "i", "ri", "r"]),
    ("consumer_groups", ["r", "r", "riud", "r"]),
    ("console_sessions", ["", "", "riud", "r"]),
    ("audit_log", ["i", "", "ri", "r"]),
    ("audit_log_head", ["", "", "r", "r"]),
    ("taken_payments", ["r", "r", "r", "r"]),
    ("found_payments", ["r", "", "r", "r"]),
    ("payment_outcomes", ["r", "r", "r", "r"]),
];

/// A letter of a right, as SQL has it.
const WORDS: [(char, &str); 5] =
    [('r', "select"), ('i', "insert"), ('u', "update"), ('d', "delete"), ('l', LOCK)];
/// Locking a row takes the right to update it, be it in one column: whoever may only lock can ask
/// the owner of a partition to release it, and cannot take one.
const LOCK: &str = "update (release_asked_at)";

/// Roles are of the whole server: another database may be migrated at the same time.
const MISSING_ROLES: &str = "
    do $$ declare
        role text;
    begin
        if (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) then
            foreach role in array array['paystream_gateway', 'paystream_worker',
                'paystream_operations', 'paystream_auditor'] loop
                begin
                    if not exists (select from pg_roles where rolname = role) then
                        execute format('create role %I nologin', role);
                    end if;
                exception when duplicate_object or unique_violation then null;
                end;
            end loop;
        end if;
    end $$";

/// Each right of these roles: a table, and the word.
fn rights(roles: &[&str]) -> Vec<(&'static str, &'static str)> {
    let mut rights = Vec::new();
    for (table, letters) in &RIGHTS {
        for (role, letters) in ROLES.iter().zip(letters) {
            let words = WORDS.iter().filter(|(letter, _)| letters.contains(*letter));
            let words = words.filter(|_| roles.contains(role)).map(|(_, word)| (*table, *word));
            rights.extend(words);
        }
    }
    rights
}

impl Schema {
    /// Gives each role that exists its rights in this database, and no other. Roles that are
    /// missing are made, if this user may.
    pub(super) async fn give_rights(connection: &mut PgConnection) -> Result<(), Error> {
        let failed =
            |error| Error::Schema(format!("could not give the roles their rights: {error}"));
        sqlx::raw_sql(MISSING_ROLES).execute(&mut *connection).await.map_err(failed)?;
        let present =
            sqlx::query_scalar("select rolname::text from pg_roles where rolname = any($1)");
        let present: Vec<String> =
            present.bind(&ROLES[..]).fetch_all(&mut *connection).await.map_err(failed)?;
        let schema = sqlx::query_scalar("select quote_ident(current_schema())");
        let schema: String = schema.fetch_one(&mut *connection).await.map_err(failed)?;
        let mut statements = vec![
            // Rights of one table cannot be changed twice at once.
            "select pg_advisory_xact_lock(hashtext('paystream_rights'))".to_owned(),
            format!("revoke create on schema {schema} from public"),
        ];
        for role in ROLES.iter().filter(|role| present.iter().any(|one| one == *role)) {
            statements.push(format!("grant usage on schema {schema} to {role}"));
            statements.push(format!("revoke all on all tables in schema {schema} from {role}"));
            for (table, word) in rights(&[role]) {
                statements.push(format!("grant {word} on {table} to {role}"));
            }
        }
        // Sent as one, they are one transaction: nobody is without a right meanwhile.
        let statements = AssertSqlSafe(statements.join(";\n"));
        sqlx::raw_sql(statements).execute(connection).await.map_err(failed)?;
        Ok(())
    }

    /// Lets somebody log in who has all roles, with this password of letters and digits. For
    /// servers that nobody else uses.
    pub async fn make_member(&self, user: &str, password: &str) -> Result<(), Error> {
        let is_there =
            sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)");
        let is_there: bool = is_there.bind(user).fetch_one(&self.pool).await?;
        let verb = if is_there { "alter" } else { "create" };
        let statements = format!(
            "{verb} role {user} login password '{password}'; grant {} to {user}",
            ROLES.join(", ")
        );
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&self.pool).await?;
        Ok(())
    }

    /// Refuses a user of the database who may not do what these roles do.
    pub async fn check_rights(&self, roles: &[&str]) -> Result<(), Error> {
        let (tables, words): (Vec<_>, Vec<_>) = rights(roles).into_iter().unzip();
        let missing: Option<(String, String)> = sqlx::query_as(
            "select current_user::text, word || ' on ' || name
             from unnest($1::text[], $2::text[]) needed (name, word)
             where not case when word like 'update (%'
                 then has_any_column_privilege(name, 'update')
                 else has_table_privilege(name, word) end
             limit 1",
        )
        .bind(tables)
        .bind(words)
        .fetch_optional(&self.pool)
        .await?;
        missing.map_or(Ok(()), |(user, what)| {
            let roles = roles.join(", ");
            Err(Error::Schema(format!(
                "the database user {user} may not {what}: log in as, or as a member of, {roles}, and \
                 run `paystream migrate` as the owner of the tables, which gives these roles their \
                 rights"
            )))
        })
    }

    /// The name of this user, if everything is allowed to it.
    pub async fn superuser(&self) -> Result<Option<String>, Error> {
        let name = "select rolname::text from pg_roles where rolname = current_user and rolsuper";
        Ok(sqlx::query_scalar(name).fetch_optional(&self.pool).await?)
    }
}

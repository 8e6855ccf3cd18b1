//! What each user of the database may do with which table. `paystream migrate` gives these
//! rights and takes back every other; a process that starts checks that it has its own. Makes a
//! role only where it is missing, never one that can log in, and never changes a password.

use sqlx::AssertSqlSafe;
use tracing::info;

use super::{Error, Schema, session::Session};

/// Roles of the database: who logs in as one of them, or as a member, may do what it may. The
/// owner of the tables is none of them: it migrates, and nothing else.
pub const ROLES: [&str; 4] =
    ["paystream_gateway", "paystream_worker", "paystream_operations", "paystream_auditor"];

/// Tables and views, and what each role may do with them, in the order of [`ROLES`]: read,
/// insert, update, delete, lock, note. Opening an account settles what the customer paid before, so the
/// gateway settles, too.
pub const RIGHTS: [(&str, [&str; 4]); 32] = [
    ("_sqlx_migrations", ["r", "r", "r", "r"]),
    ("topology", ["r", "r", "ru", "r"]),
    ("past_topologies", ["r", "r", "riu", "r"]),
    ("workers", ["r", "riud", "ru", "r"]),
    ("partition_owners", ["rl", "ru", "riu", "r"]),
    ("partition_totals", ["ru", "ru", "riu", "r"]),
    ("partition_moves", ["", "rid", "r", "r"]),
    ("partition_trials", ["r", "riud", "r", "r"]),
    ("attempts", ["", "rid", "r", "r"]),
    ("sequence_jumps", ["r", "riu", "riu", "r"]),
    ("customer_accounts", ["riu", "ru", "ru", "r"]),
    // Only a claim of the release before is deleted; a trigger refuses everything else.
    ("processed_transactions", ["rid", "rid", "rid", "r"]),
    ("payment_months", ["r", "r", "r", "r"]),
    ("used_references", ["r", "ri", "ri", "r"]),
    ("suspense", ["ru", "ri", "riu", "r"]),
    ("parked", ["r", "ri", "riu", "r"]),
    ("conflicts", ["ri", "ri", "riu", "r"]),
    ("duplicates", ["ri", "ri", "ri", "r"]),
    ("dead_letters", ["r", "ri", "ru", "r"]),
    ("payment_evidence", ["", "i", "ri", "r"]),
    ("consumer_groups", ["r", "r", "riud", "r"]),
    ("console_sessions", ["", "", "riud", "r"]),
    ("audit_log", ["n", "", "rn", "r"]),
    ("audit_log_head", ["", "", "r", "r"]),
    ("audit_log_anchor", ["", "", "r", "r"]),
    ("opening_balances", ["r", "r", "r", "r"]),
    ("archived_sequences", ["r", "r", "r", "r"]),
    ("kept_transactions", ["r", "r", "r", "r"]),
    ("taken_payments", ["r", "r", "r", "r"]),
    ("found_payments", ["r", "", "r", "r"]),
    ("payment_outcomes", ["r", "r", "r", "r"]),
    ("unsettled_outcomes", ["r", "r", "r", "r"]),
];

/// A letter of a right, as SQL has it.
const WORDS: [(char, &str); 6] =
    [('r', "select"), ('i', "insert"), ('u', "update"), ('d', "delete"), ('l', LOCK), ('n', NOTE)];
/// Locking a row takes the right to update it, be it in one column: whoever may only lock can ask
/// the owner of a partition to release it, and cannot take one.
const LOCK: &str = "update (release_asked_at)";
/// Whoever notes a change says nothing of the row's id, time, place or digest.
const NOTE: &str = "insert (actor, action, subject, reason, before, after)";

/// Roles are of the whole server: another database may be migrated at the same time.
const MISSING_ROLES: &str = "
    do $$ declare
        role text;
    begin
        if (select rolsuper or rolcreaterole from pg_roles where rolname = current_user) then
            foreach role in array string_to_array('{roles}', ' ') loop
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

/// Whether a user, an expression of SQL, lacks the right `word` on the table `name`.
const LACKS: &str = "not case when strpos(word, ' (') > 0
    then has_any_column_privilege({user}, name, split_part(word, ' (', 1))
    else has_table_privilege({user}, name, word) end";

/// A check of the doctor: rights that a role of this server has lost.
pub(super) fn missing_rights() -> String {
    let mut needed = Vec::new();
    for role in ROLES {
        let rights = rights(&[role]).into_iter();
        needed.extend(rights.map(|(table, word)| format!("('{role}', '{table}', '{word}')")));
    }
    format!(
        "select count(*) as level, min(format('%s may not %s on %s', role, word, name))
             || case when count(*) > 1 then format(', and %s rights more are missing', count(*) - 1)
                else '' end as sentence
         from (values {}) needed (role, name, word)
         where case when to_regrole(role) is null or to_regclass(name) is null then false
             else {} end
         having count(*) > 0",
        needed.join(", "),
        LACKS.replace("{user}", "role")
    )
}

impl Schema {
    /// Gives each role that exists its rights in this database, and no other. Roles that are
    /// missing are made, if this user may.
    pub(super) async fn give_rights(connection: &mut Session) -> Result<(), Error> {
        let failed =
            |error| Error::Schema(format!("could not give the roles their rights: {error}"));
        let missing = MISSING_ROLES.replace("{roles}", &ROLES.join(" "));
        sqlx::raw_sql(AssertSqlSafe(missing)).execute(&mut *connection).await.map_err(failed)?;
        let present = sqlx::query_scalar(
            "select rolname::text from pg_catalog.pg_roles where rolname operator(pg_catalog.=) any($1)",
        );
        let present: Vec<String> =
            present.bind(&ROLES[..]).fetch_all(&mut *connection).await.map_err(failed)?;
        let missing: Vec<_> =
            ROLES.iter().filter(|role| !present.iter().any(|one| one == *role)).collect();
        if !missing.is_empty() {
            info!(?missing, "roles that this user may not make: they have no rights");
        }
        let schema =
            sqlx::query_scalar("select pg_catalog.quote_ident(pg_catalog.current_schema())");
        let schema: String = schema.fetch_one(&mut *connection).await.map_err(failed)?;
        let tables: Vec<_> = RIGHTS.iter().map(|(table, _)| *table).collect();
        let tables = tables.join(", ");
        let mut statements = vec![
            // Rights of one table cannot be changed twice at once.
            "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('paystream_rights'))"
                .to_owned(),
            format!("revoke create on schema {schema} from public"),
            format!("revoke all on {tables} from public"),
        ];
        for role in present {
            statements.push(format!("grant usage on schema {schema} to {role}"));
            statements.push(format!("revoke all on {tables} from {role}"));
            for (table, word) in rights(&[&role]) {
                statements.push(format!("grant {word} on {table} to {role}"));
            }
        }
        // Sent as one, they are one transaction: nobody is without a right meanwhile.
        let statements = AssertSqlSafe(statements.join(";\n"));
        sqlx::raw_sql(statements).execute(&mut *connection).await.map_err(failed)?;
        let open = "select pg_catalog.has_schema_privilege('public', pg_catalog.current_schema(), 'create')";
        match sqlx::query_scalar(open).fetch_one(connection).await.map_err(failed)? {
            false => Ok(()),
            true => Err(Error::Schema(format!(
                "everybody may create functions and tables in the schema {schema}, where they could \
                 take the place of ours: run `revoke create on schema {schema} from public` as its \
                 owner, then `paystream migrate` again"
            ))),
        }
    }

    /// Lets somebody log in who has all roles, with this password of letters and digits. For
    /// servers that nobody else uses.
    pub async fn make_member(&self, user: &str, password: &str) -> Result<(), Error> {
        let is_there = sqlx::query_as("select exists (select from pg_roles where rolname = $1)");
        let (is_there,): (bool,) = self.pool.one(is_there.bind(user)).await?;
        let verb = if is_there { "alter" } else { "create" };
        let statements = format!(
            "{verb} role {user} login password '{password}'; grant {}, pg_monitor to {user}",
            ROLES.join(", ")
        );
        let making = sqlx::raw_sql(AssertSqlSafe(statements));
        self.pool.change(async |session| making.execute(session).await).await.map(drop)
    }

    /// Refuses a user of the database who may not do what these roles do.
    pub async fn check_rights(&self, roles: &[&str]) -> Result<(), Error> {
        let (tables, words): (Vec<_>, Vec<_>) = rights(roles).into_iter().unzip();
        let missing = format!(
            "select current_user::text, word || ' on ' || name
             from unnest($1::text[], $2::text[]) needed (name, word) where {} limit 1",
            LACKS.replace("{user}", "current_user")
        );
        let missing = sqlx::query_as(AssertSqlSafe(missing)).bind(tables).bind(words);
        let missing: Option<(String, String)> = self.pool.maybe(missing).await?;
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
        let name: Option<(String,)> = self.pool.maybe(sqlx::query_as(name)).await?;
        Ok(name.map(|(name,)| name))
    }
}

//! Where PostgreSQL is. A URL may name several servers, a primary and its standbys; the one that
//! takes writes is connected to, and a promotion is followed. Of two that both take writes, the
//! one on the higher timeline was promoted later. Never promotes one, and cannot stop an old
//! primary that others still use: that is the cluster manager's duty.

use std::{
    io,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sqlx::{
    Connection, FromRow, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
    raw_sql,
};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{
    error::Cause,
    pool::Pool,
    session::{Session, Terms},
};

/// Servers that a URL may name.
const SERVERS_MAX: usize = 8;
/// How long one of several servers may take to say whether it is the primary.
const SERVER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Between two looks whether the primary is still one.
const LOOK: Duration = Duration::from_secs(1);

/// The parameter of a URL that libpq has for this; what is wanted here is its only meaning.
const ATTRIBUTES: &str = "target_session_attrs";
const WRITES: [&str; 2] = ["read-write", "primary"];

/// How to connect to whichever server is the primary.
#[derive(Clone, Debug)]
pub(super) struct Address {
    options: PgConnectOptions,
    terms: Terms,
    servers: Arc<Servers>,
}

#[derive(Debug)]
struct Servers {
    /// Hosts or directories of sockets, with their ports.
    places: Vec<(String, u16)>,
    primary: Mutex<Primary>,
    /// Those that connect by themselves. As many as this process has for its life.
    pools: Mutex<Vec<PgPool>>,
}

#[derive(Clone, Copy, Debug)]
struct Primary {
    place: usize,
    /// The highest that was seen; 0 before.
    timeline: i64,
    /// What cluster it is of; none before.
    cluster: Option<i64>,
    since: Instant,
}

impl Address {
    /// Reads `postgres://user:password@one:5432,two:5432/database?...`.
    pub(super) fn parse(url: &str, terms: Terms) -> Result<Self, Cause> {
        let (url, wanted) = without_attributes(url);
        if wanted.as_deref().is_some_and(|wanted| !WRITES.contains(&wanted)) {
            return Err(invalid(format!("{ATTRIBUTES} must be {}", WRITES.join(" or "))));
        }
        let (before, hosts, behind) = around_hosts(&url);
        let each: Vec<PgConnectOptions> = hosts
            .split(',')
            .map(|host| PgConnectOptions::from_str(&[before, host, behind].concat()))
            .collect::<Result<_, _>>()
            .map_err(Cause)?;
        if each.len() > SERVERS_MAX {
            return Err(invalid(format!("it names more than {SERVERS_MAX} servers")));
        }
        let Some(options) = each.first().cloned() else {
            return Err(invalid("it names no server".to_owned()));
        };
        let is_socket =
            |one: &PgConnectOptions| one.get_socket().is_some() || one.get_host().starts_with('/');
        if each.len() > 1 && each.iter().any(is_socket) {
            return Err(invalid("a socket cannot be one of several servers".to_owned()));
        }
        let places = each.iter().map(|one| (one.get_host().to_owned(), one.get_port())).collect();
        let primary = Primary { place: 0, timeline: 0, cluster: None, since: Instant::now() };
        let servers = Servers { places, primary: Mutex::new(primary), pools: Mutex::default() };
        let options = match terms {
            Terms::Session => options,
            // A pooler refuses it.
            Terms::Transaction(_) => options.extra_float_digits(None),
        };
        Ok(Self { options, terms, servers: Arc::new(servers) })
    }

    /// The same servers, with other options of a connection.
    pub(super) fn with(&self, change: impl FnOnce(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { options: change(self.options.clone()), ..self.clone() }
    }

    /// The same servers, with these settings for every statement.
    pub(super) fn set<const N: usize>(&self, settings: [(&str, String); N]) -> Self {
        let terms = self.terms.with(&settings);
        Self { terms, ..self.set_of_session(settings) }
    }

    /// The same servers, with these settings of the session, where there is one. A transaction
    /// cannot have them.
    pub(super) fn set_of_session<const N: usize>(&self, settings: [(&str, String); N]) -> Self {
        match self.terms {
            Terms::Session => self.with(|options| options.options(settings)),
            Terms::Transaction(_) => self.clone(),
        }
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.servers.places.iter().map(|(host, _)| host.as_str())
    }

    /// Connects to the primary. The caller bounds how long that may take.
    ///
    /// # Errors
    /// Where several servers are named, an outage when none of them takes writes.
    pub(super) async fn connect(&self) -> Result<Session, sqlx::Error> {
        Ok(Session::own(self.connection().await?, self.terms.clone()))
    }

    /// Whether it is a pooler's.
    pub(super) fn is_pooled(&self) -> bool {
        self.terms.are_of_a_pooler()
    }

    async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        if self.servers.places.len() == 1 {
            return PgConnection::connect_with(&self.options).await;
        }
        let known = self.servers.primary();
        // The first that is named may be an old primary that came back.
        if known.timeline > 0
            && let Ok((found, connection)) = self.connect_to(known.place).await
            && found.timeline >= Some(known.timeline)
            && Some(found.cluster) == known.cluster
        {
            self.servers.follow(known.place, found);
            return Ok(connection);
        }
        self.find().await
    }

    /// Asks all servers at once which is the primary.
    async fn find(&self) -> Result<PgConnection, sqlx::Error> {
        let asking = (0..self.servers.places.len()).map(|place| self.connect_to(place));
        let answers = join_all(asking).await.into_iter().enumerate();
        let known = self.servers.primary();
        let mut cluster = known.cluster;
        let mut best: Option<(Found, usize, PgConnection)> = None;
        let (mut refused, mut sentences) = (None, Vec::new());
        for (place, answer) in answers {
            let name = self.servers.name(place);
            let (found, connection) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    sentences.push(format!("{name}: {error}"));
                    // Nothing that waiting mends, such as a wrong password.
                    refused = refused.or(Some(error).filter(|e| e.as_database_error().is_some()));
                    continue;
                }
            };
            if *cluster.get_or_insert(found.cluster) != found.cluster {
                return Err(outage(format!(
                    "{name} is of another cluster than the others: name a primary and its standbys"
                )));
            }
            if found.timeline.is_none() {
                sentences.push(format!("{name}: it is a standby, or comes back from a backup"));
            } else if best.as_ref().is_none_or(|(other, ..)| found.timeline > other.timeline) {
                best = Some((found, place, connection));
            }
        }
        let known = known.timeline;
        match best {
            Some((found, place, connection)) if found.timeline >= Some(known) => {
                self.servers.follow(place, found);
                Ok(connection)
            }
            Some((_, place, _)) => Err(outage(format!(
                "{} takes writes on an earlier timeline than {known}, which has been seen: it is an \
                 old primary. If it was restored on purpose, restart this process",
                self.servers.name(place)
            ))),
            None => {
                let sentence = format!("no primary: {}", sentences.join("; "));
                Err(refused.unwrap_or_else(|| outage(sentence)))
            }
        }
    }

    /// A connection to this server, and what it is.
    async fn connect_to(&self, place: usize) -> Result<(Found, PgConnection), sqlx::Error> {
        let options = self.servers.place(&self.options, place);
        let connecting = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            Ok((look(&mut connection).await?, connection))
        };
        let connected = timeout(SERVER_TIMEOUT, connecting).await;
        connected.unwrap_or_else(|_| Err(outage(format!("no answer in {SERVER_TIMEOUT:?}"))))
    }

    /// A pool of connections to the primary, which connects when it is used.
    pub(super) fn pool(&self, connections: u32, acquire_timeout: Duration) -> Pool {
        Pool::new(self.connections(connections, acquire_timeout), self.terms.clone())
    }

    fn connections(&self, connections: u32, acquire_timeout: Duration) -> PgPool {
        // What begins a transaction tries it anyway.
        let is_tried = !self.is_pooled();
        let options = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(acquire_timeout)
            .test_before_acquire(is_tried);
        if self.servers.places.len() == 1 {
            return options.connect_lazy_with(self.options.clone());
        }
        let servers = Arc::clone(&self.servers);
        let pool = options
            .after_connect(|connection, _| Box::pin(async move { takes_writes(connection).await }))
            .before_acquire(move |_, connection| {
                // One to a former primary is closed.
                let is_current = connection.age < servers.primary().since.elapsed();
                Box::pin(async move { Ok(is_current) })
            })
            .connect_lazy_with(self.servers.place(&self.options, self.servers.primary().place));
        self.servers.pools().push(pool.clone());
        pool
    }

    /// Looks for the primary until it is dropped, so that pools follow it. Where there is one
    /// server, there is nothing to follow.
    pub(super) async fn keep_following(&self) {
        if self.servers.places.len() == 1 {
            return std::future::pending().await;
        }
        loop {
            if let Ok(mut connection) = self.connection().await {
                let mut asked = Ok(Ok(()));
                while matches!(asked, Ok(Ok(_))) {
                    sleep(LOOK).await;
                    asked = timeout(SERVER_TIMEOUT, takes_writes(&mut connection)).await;
                }
            }
            sleep(LOOK).await;
        }
    }
}

impl Servers {
    fn primary(&self) -> Primary {
        *self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, Vec<PgPool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, place: usize) -> String {
        self.places.get(place).map(|(host, port)| format!("{host}:{port}")).unwrap_or_default()
    }

    fn place(&self, options: &PgConnectOptions, place: usize) -> PgConnectOptions {
        let Some((host, port)) = self.places.get(place) else { return options.clone() };
        options.clone().host(host).port(*port)
    }

    /// From here on this one is connected to first, by pools too.
    fn follow(&self, place: usize, found: Found) {
        let timeline = found.timeline.unwrap_or(0);
        let mut primary = self.primary.lock().unwrap_or_else(PoisonError::into_inner);
        primary.timeline = primary.timeline.max(timeline);
        primary.cluster = Some(found.cluster);
        if primary.place == place {
            return;
        }
        (primary.place, primary.since) = (place, Instant::now());
        drop(primary);
        warn!(server = self.name(place), timeline, "another server of PostgreSQL is the primary");
        for pool in self.pools().iter() {
            pool.set_connect_options(self.place(&pool.connect_options(), place));
        }
    }
}

/// What a server is.
#[derive(Clone, Copy, FromRow)]
struct Found {
    /// The one that it writes; none for a standby.
    timeline: Option<i64>,
    cluster: i64,
}

async fn look(connection: &mut PgConnection) -> Result<Found, sqlx::Error> {
    // Prepared by nobody: a pooler may send it to any server.
    let found = raw_sql(
        "select case when not pg_is_in_recovery() then
             ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint end as timeline,
             (select system_identifier from pg_control_system()) as cluster",
    );
    Found::from_row(&found.fetch_one(connection).await?)
}

/// An outage where it does not.
async fn takes_writes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let found = look(connection).await?;
    let standby = || outage("it is a standby, or comes back from a backup".to_owned());
    found.timeline.map(drop).ok_or_else(standby)
}

fn outage(sentence: String) -> sqlx::Error {
    sqlx::Error::Io(io::Error::other(sentence))
}

fn invalid(sentence: String) -> Cause {
    Cause(sqlx::Error::Configuration(sentence.into()))
}

/// The URL without the parameter that says what is wanted of a server, and its value.
fn without_attributes(url: &str) -> (String, Option<String>) {
    let Some((address, parameters)) = url.split_once('?') else { return (url.to_owned(), None) };
    let value = |one: &str| {
        one.split_once('=')
            .filter(|(name, _)| *name == ATTRIBUTES)
            .map(|(_, value)| value.to_owned())
    };
    let (ours, others): (Vec<&str>, Vec<&str>) =
        parameters.split('&').partition(|one| value(one).is_some());
    let parameters =
        if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    (format!("{address}{parameters}"), ours.first().and_then(|one| value(one)))
}

/// What is before the hosts of a URL, the hosts, and what is behind them.
fn around_hosts(url: &str) -> (&str, &str, &str) {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..].find(['/', '?', '#']).map_or(url.len(), |at| begin + at);
    let begin = url[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
    (&url[..begin], &url[begin..end], &url[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_name_several_servers() {
        let url = "postgres://ada:p%40ss@one:5433,[::1]:5434,three/ledger\
                   ?target_session_attrs=read-write&sslmode=require";
        let address = Address::parse(url, Terms::Session).unwrap();
        assert_eq!(address.hosts().collect::<Vec<_>>(), ["one", "[::1]", "three"]);
        assert_eq!(address.servers.place(&address.options, 1).get_port(), 5434);
        assert_eq!(address.servers.place(&address.options, 2).get_port(), 5432);
        assert_eq!(address.options.get_username(), "ada");
        assert_eq!(address.options.get_database(), Some("ledger"));
        let one =
            Address::parse("postgres:///ledger?host=/run/postgresql", Terms::Session).unwrap();
        assert_eq!(one.servers.places.len(), 1);
    }

    #[test]
    fn what_no_writer_can_use_is_refused() {
        let many = ["one"; SERVERS_MAX + 1].join(",");
        for (url, told) in [
            ("postgres://one,two/ledger?target_session_attrs=any", "must be read-write or primary"),
            (&format!("postgres://{many}/ledger"), "more than 8 servers"),
            ("postgres://one,two:port/ledger", "port"),
            ("postgres://one,%2Frun%2Fpostgresql/ledger", "a socket cannot be one of several"),
        ] {
            let refused = Address::parse(url, Terms::Session).unwrap_err().to_string();
            assert!(refused.contains(told), "{url}: {refused}");
        }
    }
}

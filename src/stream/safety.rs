//! Whether Redis keeps what it acknowledges. Changes none of its settings.

use redis::{RedisResult, aio::ConnectionLike};

use super::{Error, server};

/// Settings under which Redis keeps what it acknowledges. During a rewrite of
/// its file, `no-appendfsync-on-rewrite` would not sync at all.
const KEEPING: [(&str, &str); 3] =
    [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no"), ("appendonly", "yes")];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsafe {
    /// It is a replica, which takes nothing; nothing allows that.
    pub replica: Option<String>,
    /// Settings under which entries are evicted; nothing allows them.
    pub evicts: Option<String>,
    /// Settings under which a crash loses what was answered with 202;
    /// `--allow-unsafe-redis` allows them.
    pub loses: Option<String>,
}

pub(super) async fn unsafe_settings(connection: &mut impl ConnectionLike) -> Result<Unsafe, Error> {
    let mut found = Unsafe { replica: server::replica(connection).await?, ..Unsafe::default() };
    match setting(connection, "maxmemory-policy").await? {
        Some(policy) if policy == "noeviction" => {}
        Some(policy) => {
            found.evicts = Some(format!(
                "maxmemory-policy is {policy}: Redis would throw payments away when its memory is \
                 full. Set it to noeviction"
            ));
        }
        None => {
            found.loses = Some(
                "CONFIG GET is refused, so the persistence of this Redis cannot be checked \
                 safe. Allow it for this user"
                    .to_owned(),
            );
            return Ok(found);
        }
    }
    for (name, wanted) in KEEPING {
        let value = setting(connection, name).await?.unwrap_or_default();
        if value != wanted {
            found.loses = Some(format!(
                "{name} is {value}: a payment answered with 202 could be lost when Redis or its \
                 machine stops. Set it to {wanted}"
            ));
        }
    }
    Ok(found)
}

/// Refuses a server whose settings do not keep what it acknowledges.
pub(super) async fn insist_on_safety(connection: &mut impl ConnectionLike) -> RedisResult<()> {
    let found = unsafe_settings(connection).await;
    let found = found.map_err(|error| server::unfit(error.to_string()))?;
    found.replica.or(found.evicts).or(found.loses).map_or(Ok(()), |why| Err(server::unfit(why)))
}

/// One setting; nothing when this user may not ask.
pub(super) async fn setting(
    connection: &mut impl ConnectionLike,
    name: &str,
) -> Result<Option<String>, Error> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(name);
    match command.query_async::<Vec<String>>(connection).await {
        Ok(pair) => Ok(pair.into_iter().nth(1)),
        Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

//! Checks that Redis persists acknowledged writes. Never changes a setting.

use redis::{RedisResult, aio::ConnectionLike};

use super::{Error, server};

/// Settings under which Redis persists acknowledged writes. With `no-appendfsync-on-rewrite` it
/// would not sync while it rewrites its file.
const KEEPING: [(&str, &str); 3] =
    [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no"), ("appendonly", "yes")];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsafe {
    /// It is a replica, or no server of payments at all; never allowed.
    pub replica: Option<String>,
    /// Settings under which entries are evicted; never allowed.
    pub evicts: Option<String>,
    /// Settings under which a crash loses payments answered with 202; allowed by
    /// `--allow-unsafe-redis`.
    pub loses: Option<String>,
}

pub(super) async fn unsafe_settings(
    connection: &mut impl ConnectionLike,
    in_cluster: bool,
) -> Result<Unsafe, Error> {
    let replica = server::no_primary(connection, in_cluster).await?;
    let mut found = Unsafe { replica, ..Unsafe::default() };
    match setting(connection, "maxmemory-policy").await? {
        Some(policy) if policy == "noeviction" => {}
        Some(policy) => {
            found.evicts = Some(format!(
                "maxmemory-policy is {policy}: Redis would evict payments when its memory is \
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

/// Refuses a server that does not persist acknowledged writes.
pub(super) async fn insist_on_safety(
    connection: &mut impl ConnectionLike,
    in_cluster: bool,
) -> RedisResult<()> {
    let found = unsafe_settings(connection, in_cluster).await;
    let found = found.map_err(|error| server::unfit(error.to_string()))?;
    found.replica.or(found.evicts).or(found.loses).map_or(Ok(()), |why| Err(server::unfit(why)))
}

/// A setting; none when the ACL forbids reading it.
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

//! What Sentinels and nodes of a cluster say about which server takes which commands. Never decides
//! whom to believe.

use std::collections::HashMap;

use redis::{Pipeline, RedisResult, Value, aio::MultiplexedConnection};

use super::{
    address::Node,
    layout::{Layout, unknown},
    server,
};

/// What a Sentinel says of this master, and how new that is.
pub(super) async fn ask_sentinel(
    connection: &mut MultiplexedConnection,
    master: &str,
) -> RedisResult<(u64, Layout)> {
    let mut command = redis::cmd("SENTINEL");
    command.arg("MASTER").arg(master);
    let known: HashMap<String, String> = command.query_async(connection).await?;
    let number = |name: &str| known.get(name).and_then(|text| text.parse::<u64>().ok());
    let port = number("port").and_then(|port| u16::try_from(port).ok());
    let (Some(host), Some(port)) = (known.get("ip").cloned(), port) else {
        return Err(unknown());
    };
    Ok((number("config-epoch").unwrap_or(0), Layout::of_one(Node { host, port })))
}

/// What a node of a cluster says of all slots, and how new that is. One that counts itself out
/// knows less than any other.
pub(super) async fn ask_node(
    connection: &mut MultiplexedConnection,
    asked: &Node,
) -> RedisResult<(u64, Layout)> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let answer: RedisResult<(String, Vec<Vec<Value>>)> = pipeline.query_async(connection).await;
    let (info, slots) =
        answer.map_err(|error| match error.to_string().contains("cluster support disabled") {
            true => server::unfit(format!(
                "{asked} is no node of a cluster: begin PAYSTREAM_REDIS_URL with redis://"
            )),
            false => error,
        })?;
    let info = server::read_info(&info);
    let text = |name: &str| info.get(name).map_or("", String::as_str);
    let epoch = match text("cluster_state") {
        "ok" => text("cluster_current_epoch").parse::<u64>().unwrap_or(0).saturating_add(1),
        _ => 0,
    };
    let mut ranges = Vec::with_capacity(slots.len());
    for range in slots {
        let mut range = range.into_iter();
        let (Some(first), Some(last), Some(master)) = (range.next(), range.next(), range.next())
        else {
            return Err(unknown());
        };
        let (first, last) = (redis::from_redis_value(first)?, redis::from_redis_value(last)?);
        ranges.push((first, last, read_node(master, asked)?));
    }
    if ranges.is_empty() { Err(unknown()) } else { Ok((epoch, Layout::new(ranges))) }
}

/// A master's host, port, id, and more. A host that is not said is the one that was asked; `?`
/// stands for a name that is not known.
fn read_node(master: Value, asked: &Node) -> RedisResult<Node> {
    let Value::Array(fields) = master else { return Err(unknown()) };
    let mut fields = fields.into_iter();
    let (Some(host), Some(port)) = (fields.next(), fields.next()) else { return Err(unknown()) };
    let host: Option<String> = redis::from_redis_value(host)?;
    let port = redis::from_redis_value(port)?;
    let host = match host.as_deref() {
        None | Some("") => asked.host.clone(),
        Some("?") => {
            let more = fields.nth(1).map(redis::from_redis_value::<HashMap<String, String>>);
            more.transpose()?.and_then(|more| more.get("ip").cloned()).ok_or_else(unknown)?
        }
        Some(host) => host.to_owned(),
    };
    Ok(Node { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_without_a_name_is_found_all_the_same() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let asked = Node { host: "asked".to_owned(), port: 1 };
        let more = Value::Array(vec![text("ip"), text("10.0.0.1")]);
        for (host, wanted) in [
            (text("10.0.0.9"), "10.0.0.9"),
            (text("one.example"), "one.example"),
            (text(""), "asked"),
            (Value::Nil, "asked"),
            (text("?"), "10.0.0.1"),
        ] {
            let master = Value::Array(vec![host, Value::Int(7001), text("id"), more.clone()]);
            let node = read_node(master, &asked).unwrap();
            assert_eq!((node.host.as_str(), node.port), (wanted, 7001));
        }
    }
}

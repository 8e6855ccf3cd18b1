//! Which server a command goes to, by the first of its arguments that is a key of ours. A pipeline
//! is cut into those of the servers, and their replies are put together again. Never sends
//! anything.

use std::collections::BTreeMap;

use redis::{Arg, Cmd, Pipeline, RedisError, RedisResult, Value};

use super::{
    keys::slot_of,
    layout::{Layout, uncovered},
    server,
};

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the server of this slot.
    Slot(u16),
    /// To any.
    Any,
    /// To each, whose last reply counts.
    Each,
}

/// Keys come before whatever else a command has from its caller.
pub(super) fn way(command: &Cmd, key_prefix: &str) -> Way {
    let mut words = command
        .args_iter()
        .filter_map(|argument| if let Arg::Simple(word) = argument { Some(word) } else { None });
    if words.next() == Some(b"SCRIPT") {
        return Way::Each;
    }
    let is_key = |word: &[u8]| {
        word.strip_prefix(key_prefix.as_bytes()).is_some_and(|rest| rest.starts_with(b":"))
    };
    words.find(|word| is_key(word)).map_or(Way::Any, |key| Way::Slot(slot_of(key)))
}

/// The part of a pipeline that one server is sent, and where its replies belong.
#[derive(Default)]
pub(super) struct Part {
    pub(super) pipeline: Pipeline,
    places: Vec<usize>,
    /// The name of the server.
    server: String,
}

/// What names no key goes where the command before it went; scripts are loaded everywhere.
pub(super) fn parts(
    pipeline: &Pipeline,
    layout: &Layout,
    key_prefix: &str,
) -> RedisResult<BTreeMap<usize, Part>> {
    let ways =
        || pipeline.cmd_iter().map(|command| (command, way(command, key_prefix))).enumerate();
    let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
    for (_, (_, way)) in ways() {
        if let Way::Slot(slot) = way {
            let server = layout.server_of(slot).ok_or_else(uncovered)?;
            parts.entry(server).or_default().server = layout.nodes[server].to_string();
        }
    }
    if parts.is_empty() {
        parts.insert(0, Part::default());
    }
    let mut last = parts.keys().next().copied().unwrap_or(0);
    for (place, (command, way)) in ways() {
        if let Way::Slot(slot) = way {
            last = layout.server_of(slot).ok_or_else(uncovered)?;
        }
        for (_, part) in parts.iter_mut().filter(|(at, _)| way == Way::Each || **at == last) {
            part.pipeline.add_command(command.clone());
            part.places.push(place);
        }
    }
    Ok(parts)
}

/// The replies to a pipeline of so many commands. What a server failed to answer is an error for
/// each of its commands; the first failure counts where nobody answered.
pub(super) fn together<'a>(
    count: usize,
    replies: impl Iterator<Item = (&'a Part, RedisResult<Vec<Value>>)>,
) -> RedisResult<Vec<Value>> {
    let (mut all, mut failed, mut is_answered) = (vec![Value::Nil; count], None, false);
    for (part, replies) in replies {
        is_answered |= replies.is_ok();
        let replies = match replies {
            Ok(replies) => replies,
            Err(error) => {
                let reply = unanswered(&part.server, &error).ok_or_else(|| error.clone())?;
                failed.get_or_insert(error);
                vec![reply; part.places.len()]
            }
        };
        for (place, reply) in part.places.iter().zip(replies) {
            // A script that is loaded everywhere is loaded where somebody says so.
            if all[*place] == Value::Nil || !matches!(reply, Value::ServerError(_)) {
                all[*place] = reply;
            }
        }
    }
    failed.filter(|_| !is_answered).map_or(Ok(all), Err)
}

/// The reply to a command whose server did not give one: an error, never nothing.
fn unanswered(server: &str, error: &RedisError) -> Option<Value> {
    let away = server::away(&format!("{server}: {error}")).into_server_errors()?;
    away.first().map(|(_, error)| Value::ServerError(error.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{address::Node, keys::Keys};

    #[test]
    fn a_pipeline_is_cut_by_servers_and_put_together_again() {
        let keys = Keys::spread("paystream", 8, 1);
        let node = |port| Node { host: "here".to_owned(), port };
        let layout = Layout::new(vec![(0, 8191, node(1)), (8192, 16_383, node(2))]);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SCRIPT").arg("LOAD").arg("return 1");
        for partition in [7, 0, 1, 6] {
            pipeline.cmd("GET").arg(keys.stream(partition));
        }
        pipeline.cmd("PING");
        let parts = parts(&pipeline, &layout, "paystream").unwrap();
        let sizes: Vec<usize> = parts.values().map(|part| part.pipeline.len()).collect();
        assert_eq!(sizes, [3, 4]);
        let replies = parts.values().map(|part| {
            let number = |place: &usize| Value::Int(i64::try_from(*place).unwrap());
            let numbers = part.places.iter().map(number);
            (part, Ok(numbers.collect()))
        });
        let all = together(pipeline.len(), replies).unwrap();
        assert!(all.into_iter().eq((0..6).map(Value::Int)));

        let failed = || Err(server::away("timed out"));
        let replies = parts.values().zip([failed(), Ok(vec![Value::Int(1); 4])]);
        let all = together(pipeline.len(), replies).unwrap();
        let errors = all.iter().filter(|reply| matches!(reply, Value::ServerError(_)));
        assert_eq!(errors.count(), 2, "what one server did not answer is neither nothing nor lost");
        assert!(together(pipeline.len(), parts.values().map(|part| (part, failed()))).is_err());
    }
}

//! Redis replies, read by hand: the typed readers of the client clone every
//! entry, drop the order of fields and turn a deleted entry into an empty one.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a reply of any other kind is the same surprise"
)]

use std::{str, str::FromStr};

use redis::Value;

use super::{
    Error,
    wire::{self, Fields},
};
use crate::domain::StreamId;

pub(super) fn array(value: Value, what: &'static str) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        _ => Err(Error::Shape(what)),
    }
}

pub(super) fn text<'a>(value: &'a Value, what: &'static str) -> Result<&'a str, Error> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).map_err(|_| Error::Shape(what)),
        Value::SimpleString(text) => Ok(text),
        _ => Err(Error::Shape(what)),
    }
}

pub(super) fn parsed<T: FromStr>(value: &Value, what: &'static str) -> Result<T, Error> {
    text(value, what)?.parse().map_err(|_| Error::Shape(what))
}

pub(super) fn integer(value: &Value, what: &'static str) -> Result<i64, Error> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => parsed(value, what),
    }
}

/// `[[id, [name, value, …]], …]`. An entry that was deleted while it was
/// pending has no fields.
pub(super) fn entries(value: Value) -> Result<Vec<(StreamId, Option<Fields>)>, Error> {
    array(value, "entries")?.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Result<(StreamId, Option<Fields>), Error> {
    let mut pair = array(value, "an entry")?.into_iter();
    let (Some(id), Some(fields)) = (pair.next(), pair.next()) else {
        return Err(Error::Shape("an entry"));
    };
    let id = parsed(&id, "an entry id")?;
    if fields == Value::Nil {
        return Ok((id, None));
    }
    let mut cells = array(fields, "entry fields")?.into_iter();
    let mut fields = Fields::with_capacity(cells.len() / 2);
    while let (Some(name), Some(value)) = (cells.next(), cells.next()) {
        let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else {
            return Err(Error::Shape("entry fields"));
        };
        let name = String::from_utf8(name)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        fields.push((name, value));
    }
    Ok((id, Some(fields)))
}

/// The sequence of the last of these entries, if it has one.
pub(super) fn last_sequence(value: Value) -> Result<Option<i64>, Error> {
    let last = entries(value)?.pop().and_then(|(_, fields)| fields);
    Ok(last.as_ref().and_then(wire::sequence_of))
}

/// `[[stream, entries], …]`, as XREAD and XREADGROUP answer.
pub(super) fn streams(value: Value) -> Result<Vec<(String, Value)>, Error> {
    array(value, "streams")?
        .into_iter()
        .map(|stream| {
            let mut pair = array(stream, "a stream")?.into_iter();
            match (pair.next(), pair.next()) {
                (Some(name), Some(entries)) => {
                    Ok((text(&name, "a stream name")?.to_owned(), entries))
                }
                _ => Err(Error::Shape("a stream")),
            }
        })
        .collect()
}

/// A flat `[name, value, …]` list, as the XINFO commands answer.
pub(super) fn pick<'a>(pairs: &'a [Value], name: &str) -> Option<&'a Value> {
    pairs
        .chunks_exact(2)
        .find(|pair| text(&pair[0], "a name").is_ok_and(|found| found == name))
        .map(|pair| &pair[1])
}

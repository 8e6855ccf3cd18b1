//! Conversion of entries and their ids to and from Redis values. Never rejects a field that is
//! not UTF-8: another program may have written it.

use std::str;

use redis::{FromRedisValue, ParsingError, RedisWrite, ToRedisArgs, Value};

use super::wire::{self, Fields};
use crate::domain::StreamId;

impl ToRedisArgs for StreamId {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

impl FromRedisValue for StreamId {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let Value::BulkString(id) = value else { return Err("no entry id".into()) };
        str::from_utf8(&id)?.parse().map_err(|_| "no entry id".into())
    }
}

/// An entry; one that was deleted while it was pending has no fields.
pub(super) struct Entry {
    pub(super) id: StreamId,
    pub(super) fields: Option<Fields>,
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, cells): (StreamId, Option<Vec<Value>>) = FromRedisValue::from_redis_value(value)?;
        let Some(cells) = cells else { return Ok(Self { id, fields: None }) };
        let mut fields = Fields::with_capacity(cells.len() / 2);
        let mut cells = cells.into_iter();
        while let (Some(name), Some(value)) = (cells.next(), cells.next()) {
            let (Value::BulkString(name), Value::BulkString(value)) = (name, value) else {
                return Err("an entry has a field that is no text".into());
            };
            let name = String::from_utf8(name)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
            fields.push((name, value));
        }
        Ok(Self { id, fields: Some(fields) })
    }
}

pub(super) fn last_sequence(entries: &[Entry]) -> Option<i64> {
    wire::sequence_of(entries.last()?.fields.as_ref()?)
}

//! What the append script answers for each payment, and what that means after an attempt whose
//! outcome is not known. Never asks anything.

use std::collections::BTreeSet;

use super::Error;
use crate::domain::StreamId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPosition {
    pub partition: u16,
    pub sequence: i64,
    pub stream_id: StreamId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is on disk, and where replicas count they have it.
    Accepted(EntryPosition),
    /// The same payment was appended before; this is where.
    Duplicate(EntryPosition),
    /// Another payment has this reference; this is where.
    Conflict(EntryPosition),
}

/// After an attempt whose outcome is not known: what is a repetition now is
/// what that attempt appended, once.
pub(super) fn accept_our_own(appended: &mut [Result<Appended, Error>]) {
    let mut accepted = BTreeSet::new();
    for result in appended.iter_mut() {
        match result {
            Ok(Appended::Duplicate(place)) if accepted.insert(place.sequence) => {
                *result = Ok(Appended::Accepted(*place));
            }
            Ok(Appended::Accepted(place)) => {
                accepted.insert(place.sequence);
            }
            Ok(Appended::Duplicate(_) | Appended::Conflict(_)) | Err(_) => {}
        }
    }
}

/// One result for each payment: the script's list ends at the first refusal,
/// and what follows it was not tried.
pub fn read_appended(
    reply: Vec<String>,
    partition: u16,
    wanted: usize,
) -> Result<Vec<Result<Appended, Error>>, Error> {
    let mut results: Vec<_> = reply.iter().map(|answer| read_one(answer, partition)).collect();
    if results.len() < wanted {
        let Some(Err(refusal)) = results.last() else {
            return Err(Error::Shape("append"));
        };
        results.resize(wanted, Err(refusal.clone()));
    }
    Ok(results)
}

fn read_one(answer: &str, partition: u16) -> Result<Appended, Error> {
    const SHAPE: Error = Error::Shape("append");
    let mut words = answer.splitn(3, ' ');
    let (Some(found), Some(first), Some(rest)) = (words.next(), words.next(), words.next()) else {
        return Err(SHAPE);
    };
    if found == "refused" {
        return Err(Error::refused(first, rest, partition));
    }
    let sequence = first.parse().map_err(|_| SHAPE)?;
    let place = EntryPosition { partition, sequence, stream_id: rest.parse().map_err(|_| SHAPE)? };
    match found {
        "appended" => Ok(Appended::Accepted(place)),
        "duplicate" => Ok(Appended::Duplicate(place)),
        "conflict" => Ok(Appended::Conflict(place)),
        _ => Err(SHAPE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(answers: &[&str]) -> Vec<String> {
        answers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_follows_a_refusal_is_refused_like_it() {
        let reply = text(&["appended 7 1-0", "refused BACKPRESSURE {p03}:stream is full"]);
        let read = read_appended(reply, 3, 4).unwrap();
        assert!(matches!(read[0], Ok(Appended::Accepted(EntryPosition { sequence: 7, .. }))));
        for refused in &read[1..] {
            assert!(matches!(refused, Err(Error::BacklogFull(3))), "{refused:?}");
        }
        assert!(read_appended(text(&["appended 7 1-0"]), 3, 2).is_err(), "an answer is missing");
    }

    #[test]
    fn after_doubt_a_repetition_is_ours_once() {
        let reply =
            text(&["duplicate 7 1-0", "duplicate 7 1-0", "appended 8 1-1", "conflict 2 0-1"]);
        let mut read = read_appended(reply, 0, 4).unwrap();
        accept_our_own(&mut read);
        let found = read.iter().map(|result| match result.as_ref().unwrap() {
            Appended::Accepted(_) => "accepted",
            Appended::Duplicate(_) => "duplicate",
            Appended::Conflict(_) => "conflict",
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found, ["accepted", "duplicate", "accepted", "conflict"]);
    }
}

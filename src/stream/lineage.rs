//! Compares the sequences known to have been given out with the history of the server that
//! answers now: a promoted replica or a restored copy may lack entries that were acknowledged.
//! Never decides what to do about a loss.

use std::sync::Arc;

use redis::{Cmd, RedisError, RedisResult};

use super::{Error, Keys, lines::Lines, scripts, server::Primary, shared::ServerLine};

/// How far sequences jump after a failover to a replica.
pub(super) const HOLE: i64 = 1_000_000;
/// Servers whose last sequence is remembered for one partition.
const SERVERS_MAX: usize = 4;

/// Sequences of one partition that are known to have been given out.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownSequences {
    pub(super) sequence: i64,
    /// The highest of each lineage, until another has been compared with it.
    given_out: Vec<GivenOut>,
    /// Those that another server lacked: compared again with the next one, because the note of
    /// the loss may be lost as well.
    lacked: Vec<GivenOut>,
    /// The last compared server, and its lineage then.
    verified: Option<(Arc<Primary>, Newest)>,
}

#[derive(Clone, Debug)]
pub(super) struct Newest {
    first: i64,
    line: String,
}

/// The highest sequence that one server gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GivenOut {
    sequence: i64,
    /// The server and the first sequence of its lineage; none for what the ledger knows.
    by: Option<(Arc<Primary>, i64)>,
}

impl GivenOut {
    fn is_by(&self, server: Option<&Arc<Primary>>) -> bool {
        self.by.as_ref().map(|(by, _)| by) == server
    }

    fn is_of(&self, server: &Arc<Primary>, first: i64) -> bool {
        self.by.as_ref().is_some_and(|(by, its_first)| by == server && *its_first == first)
    }

    /// Of which `first` is lost: a later server, which may know of no lineage since, is asked
    /// from there on.
    fn lacked_from(&self, first: i64) -> Self {
        let by = self.by.as_ref().map(|(by, its_first)| (Arc::clone(by), first.min(*its_first)));
        Self { sequence: self.sequence, by }
    }
}

impl KnownSequences {
    /// This sequence was given out by this server, or by an unknown one.
    pub(super) fn raise(&mut self, sequence: i64, server: Option<&Arc<Primary>>) {
        self.sequence = self.sequence.max(sequence);
        let verified = self.verified.as_ref().filter(|(verified, _)| Some(verified) == server);
        let first = verified.map(|(_, newest)| newest.first);
        let same = |known: &&mut GivenOut| match (server, first) {
            (Some(server), Some(first)) => known.is_of(server, first),
            _ => known.is_by(server),
        };
        if let Some(known) = self.given_out.iter_mut().find(same) {
            known.sequence = known.sequence.max(sequence);
            return;
        }
        let first = first.unwrap_or(sequence);
        if self.given_out.len() == SERVERS_MAX {
            self.given_out.remove(0);
        }
        self.given_out.push(GivenOut { sequence, by: server.map(|by| (Arc::clone(by), first)) });
    }

    /// Whether all that is known was given out by this server, or compared with
    /// what it has.
    pub(super) fn is_verified(&self, server: &Arc<Primary>) -> bool {
        self.verified.as_ref().is_some_and(|(verified, newest)| {
            verified == server
                && self.given_out.iter().all(|known| known.is_of(server, newest.first))
        })
    }

    /// What was `asked` about has been compared with this server, whose lineage
    /// is this. What the server has counts as given out by it: it may lose that, too.
    pub(super) fn verified(&mut self, asked: &Self, server: &Arc<Primary>, compared: Compared) {
        let Compared { newest, lacked, kept, .. } = compared;
        self.lacked.retain(|known| !lacked.contains(known));
        self.lacked.extend(lacked);
        self.lacked.drain(..self.lacked.len().saturating_sub(SERVERS_MAX));
        self.given_out
            .retain(|known| known.is_of(server, newest.first) || !asked.given_out.contains(known));
        self.verified = Some((Arc::clone(server), newest));
        if let Some(sequence) = kept {
            self.raise(sequence, Some(server));
        }
    }

    /// The line of the lineage that was compared last; empty before.
    pub(super) fn line(&self) -> &str {
        self.verified.as_ref().map_or("", |(_, newest)| &newest.line)
    }

    /// This line is not the newest any more: what is known must be compared again.
    pub(super) fn outdated(&mut self, line: &str) {
        self.verified.take_if(|(_, newest)| newest.line == line);
    }
}

/// Whether Redis refused a script, before any change, because another lineage has begun.
pub(super) fn is_another(error: &RedisError) -> bool {
    error.code() == Some("LINEAGE")
}

pub(super) struct Compared {
    pub(super) newest: Newest,
    /// First and last sequence that were given out and are not there.
    pub(super) lost: Option<(i64, i64)>,
    lacked: Vec<GivenOut>,
    /// The highest sequence that others gave out and that is there.
    kept: Option<i64>,
}

/// Compares all that is known of a partition with the server of this connection. Losses are
/// noted there, so that those payments are accepted again.
pub(super) async fn compare(
    line: &mut ServerLine,
    (keys, partition): (&Keys, u16),
    known: &KnownSequences,
) -> RedisResult<Compared> {
    let server = Arc::clone(&line.server);
    let mut ask = async |given_out: Option<&GivenOut>| {
        let origin = given_out.and_then(|given_out| given_out.by.as_ref());
        let origin = origin.map_or(("-", 0), |(by, first)| (by.identity.as_str(), *first));
        let sequence = given_out.map_or(0, |given_out| given_out.sequence);
        let command = command(keys, partition, &server, (sequence, origin));
        let (first, lines, lost_first, lost_last): (i64, String, i64, i64) =
            scripts::LINEAGE.ask(&command, &mut line.connection).await?;
        let line = lines.lines().last().map(|line| format!("{line}\n")).unwrap_or_default();
        let lost = (lost_first > 0).then_some((lost_first, lost_last));
        let newest = Newest { first, line };
        Ok::<_, RedisError>(Compared { newest, lost, lacked: Vec::new(), kept: None })
    };
    let mut compared = ask(None).await?;
    let first = compared.newest.first;
    for given_out in known.given_out.iter().filter(|known| !known.is_of(&server, first)) {
        let found = ask(Some(given_out)).await?;
        match found.lost {
            Some((first, _)) => compared.lacked.push(given_out.lacked_from(first)),
            None if given_out.by.is_some() => {
                compared.kept = compared.kept.max(Some(given_out.sequence));
            }
            // The ledger has what it knows, and counts up to a jump what was never given out.
            None => {}
        }
        let lost = compared.lost.into_iter().chain(found.lost);
        compared.lost = lost.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    }
    for given_out in &known.lacked {
        ask(Some(given_out)).await?;
    }
    Ok(compared)
}

/// `known`: a sequence, the identity that gave it out or "-", and the first
/// sequence of that identity's lineage.
pub(super) fn command(
    keys: &Keys,
    partition: u16,
    server: &Primary,
    known: (i64, (&str, i64)),
) -> Cmd {
    let (sequence, (origin, origin_first)) = known;
    let keys = [
        keys.sequence(partition),
        keys.lineage(partition),
        keys.lost(partition),
        keys.stream(partition),
    ];
    let mut command = scripts::LINEAGE.on(&keys);
    command.arg(&server.identity).arg(i32::from(server.promoted)).arg(HOLE);
    command.arg(sequence).arg(origin).arg(origin_first);
    command
}

/// Notes on every partition which server its sequences begin with.
pub(super) async fn begin(keys: &Keys, lines: &Lines) -> Result<(), Error> {
    scripts::LINEAGE.load(&mut lines.clone()).await?;
    for partition in 0..keys.partitions {
        let server = lines.server(keys.slot(partition)).await?;
        let command = command(keys, partition, &server, (0, ("-", 0)));
        command.exec_async(&mut lines.clone()).await?;
    }
    Ok(())
}

/// Failovers of a partition's server, as noted in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Jumps of sequences at failovers: the last before and the first behind each.
    pub holes: Vec<(i64, i64)>,
    /// First and last sequences that were given out and lost.
    pub lost: Vec<(i64, i64)>,
}

impl History {
    /// Reads the lineage and the lost key.
    pub(super) fn read(lineage: Option<&str>, lost: Option<&str>) -> Self {
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<i64>().ok());
        let hole = |line: &str| {
            let mut words = line.split(' ').skip(1);
            let (after, first) = number(words.next()).zip(number(words.next()))?;
            (first > after + 1).then_some((after, first))
        };
        let range = |line: &str| {
            let mut words = line.split(' ');
            number(words.next()).zip(number(words.next()))
        };
        Self {
            holes: lineage.unwrap_or_default().lines().filter_map(hole).collect(),
            lost: lost.unwrap_or_default().lines().filter_map(range).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(identity: &str) -> Arc<Primary> {
        Arc::new(Primary { identity: identity.to_owned(), promoted: false })
    }

    fn newest(first: i64) -> Compared {
        let newest = Newest { first, line: format!("it 0 {first}\n") };
        Compared { newest, lost: None, lacked: Vec::new(), kept: None }
    }

    #[test]
    fn a_server_is_compared_once_with_each_other_that_gave_out_more() {
        let (old, new) = (server("old"), server("new"));
        let mut known = KnownSequences::default();
        known.raise(7, None);
        assert!(!known.is_verified(&old), "nothing was compared");
        known.verified(&known.clone(), &old, newest(1));
        assert!(known.is_verified(&old) && !known.is_verified(&new));
        known.raise(9, Some(&old));
        known.verified(&known.clone(), &new, newest(1_000_008));
        known.raise(1_000_008, Some(&new));
        assert!(known.is_verified(&new));
        known.raise(10, Some(&old));
        assert!(!known.is_verified(&new), "the old one was still there and went on");
        assert_eq!(known.sequence, 1_000_008);
    }

    #[test]
    fn another_lineage_of_the_same_server_is_compared_again() {
        let server = server("it");
        let mut known = KnownSequences::default();
        known.verified(&known.clone(), &server, newest(1));
        known.raise(7, Some(&server));
        known.outdated("another\n");
        assert!(known.is_verified(&server));
        known.outdated(&newest(1).newest.line);
        assert!(!known.is_verified(&server));
        let asked = known.clone();
        known.raise(8, Some(&server));
        known.verified(&asked, &server, newest(1_000_008));
        assert!(!known.is_verified(&server), "the eighth was not asked about");
        known.verified(&known.clone(), &server, newest(1_000_008));
        assert!(known.is_verified(&server));
    }

    #[test]
    fn what_a_server_has_is_compared_again_once_it_may_have_lost_it() {
        let (old, new) = (server("old"), server("new"));
        let mut known = KnownSequences::default();
        known.verified(&known.clone(), &old, newest(1));
        known.raise(7, Some(&old));
        let kept = Compared { kept: Some(7), ..newest(8) };
        known.verified(&known.clone(), &new, kept);
        assert!(known.is_verified(&new), "it has the seventh");
        let given_out = GivenOut { sequence: 7, by: Some((Arc::clone(&new), 8)) };
        assert_eq!(known.given_out, [given_out], "and may lose it by a flush");
        // Another lineage of the same server, as behind a flush.
        let lacked = vec![known.given_out[0].lacked_from(4)];
        known.verified(&known.clone(), &new, Compared { lacked, ..newest(1_000_008) });
        assert_eq!(known.given_out, []);
        assert_eq!(known.lacked, [GivenOut { sequence: 7, by: Some((new, 4)) }]);
    }

    #[test]
    fn a_history_is_read_as_the_scripts_write_it() {
        let lineage = "aa 0 1\nbb 3 1000004\ncc 1000009 1000010\n";
        let history = History::read(Some(lineage), Some("4 5\n4 9\n"));
        assert_eq!(history.holes, [(3, 1_000_004)]);
        assert_eq!(history.lost, [(4, 5), (4, 9)]);
        assert_eq!(History::read(None, None), History::default());
    }
}

//! Findings about a partition's sequences: their kinds, what of them is new, and the only
//! statement that records them. Never decides whether something was lost.

use sqlx::FromRow;

use super::{Error, session::Session};

/// How far sequences jump after a loss, so that none is given out twice even
/// if more was given out than anybody knows. A failover jumps as far.
pub(super) const JUMP: i64 = 1_000_000;

#[derive(Clone, Copy)]
pub(super) enum JumpKind {
    /// The partition's state in Redis was gone or had gone back.
    StateLost,
    /// The stream had no entries with these sequences.
    EntriesMissing,
    /// The ledger has lost commits, and the stream what they settled.
    LedgerLost,
    /// A promoted replica begins its sequences further on.
    Takeover,
    /// A server took over that lacked these, without a jump.
    Lacking,
    /// Numbers were given out again that are settled.
    Twice,
}

impl JumpKind {
    /// The stored kind, and the reason under which it is listed.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::StateLost => ("state_lost", "state_lost"),
            Self::EntriesMissing => ("entries_missing", "entries_missing"),
            Self::LedgerLost => ("ledger_lost", "ledger_lost"),
            Self::Takeover => ("takeover", "takeover"),
            Self::Lacking => ("lacking", "takeover"),
            Self::Twice => ("twice", "takeover"),
        }
    }

    /// The sentence of a finding that has no other. Migration 0017 knows these texts.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::StateLost | Self::LedgerLost => "",
            Self::EntriesMissing => "the stream had no entries with these sequences",
            Self::Takeover => {
                "another Redis took over; sequences go on behind all that may have been given out"
            }
            Self::Lacking => {
                "another Redis took over that lacked these, and may have given their numbers out \
                 again"
            }
            Self::Twice => {
                "another Redis answered that had gone back, and numbers from here on were given \
                 out twice: what the ledger does not have under them is lost"
            }
        }
    }
}

pub(super) struct JumpFinding {
    pub(super) kind: JumpKind,
    pub(super) after: i64,
    pub(super) resumes_at: i64,
    /// Sequences known to have been given out that were never settled.
    pub(super) lost: Option<(i64, i64)>,
    pub(super) open: bool,
}

#[derive(FromRow)]
pub(super) struct Jump {
    pub(super) after_sequence: i64,
    pub(super) resumes_at: i64,
    pub(super) lost_first: Option<i64>,
    pub(super) lost_last: Option<i64>,
    pub(super) kinds: Vec<String>,
}

impl Jump {
    /// The last sequence before it, and the first behind.
    pub(super) fn ends(&self) -> (i64, i64) {
        (self.after_sequence, self.resumes_at)
    }

    /// The same of what it left out and is not known to be lost.
    fn left_out(&self) -> (i64, i64) {
        (
            self.lost_last.map_or(self.after_sequence, |last| last.max(self.after_sequence)),
            self.resumes_at,
        )
    }

    /// Whether sequences go on so much further that nobody has reached that.
    fn goes_on_behind_all(&self) -> bool {
        [JumpKind::StateLost, JumpKind::Takeover, JumpKind::Twice].iter().any(|kind| self.is(*kind))
            && self.resumes_at - self.after_sequence >= JUMP
    }

    pub(super) fn is(&self, kind: JumpKind) -> bool {
        self.kinds.iter().any(|known| known == kind.names().0)
    }
}

/// One jump, with a range that is told to be lost in it, if that is new.
pub(super) fn of_takeover(
    jumps: &[Jump],
    settled: i64,
    (after, resumes_at): (i64, i64),
    told: Option<(i64, i64)>,
) -> Option<JumpFinding> {
    let begins_before = |jump: &&Jump| told.is_none_or(|(_, last)| jump.after_sequence < last);
    let mut noted = jumps.iter().filter(|jump| jump.resumes_at == resumes_at);
    // One that begins behind what is told says that this was settled.
    let noted = noted.clone().rfind(begins_before).or_else(|| noted.next());
    // What was settled before the takeover is in the ledger, whatever Redis lacks.
    let settled_before = if settled < resumes_at { settled } else { 0 };
    let after = noted.map_or(after.max(settled_before), |jump| jump.after_sequence);
    let known_to = noted.and_then(|jump| jump.lost_last).unwrap_or(after);
    let lost = told.filter(|(_, last)| *last > known_to);
    let lost = lost.map(|(first, last)| (first.max(after + 1), last));
    let after = lost.map_or(after, |(first, _)| first - 1);
    let open = lost.is_some();
    let finding = JumpFinding { kind: JumpKind::Takeover, after, resumes_at, lost, open };
    (noted.is_none() || open).then_some(finding)
}

/// What of a lost range was given out before a jump, behind which the ledger has come by now, and is
/// not listed: whoever knows of it told it late, and it was never settled.
pub(super) fn of_jump(
    jumps: &[Jump],
    settled: i64,
    (first, last): (i64, i64),
) -> Option<JumpFinding> {
    let jump = jumps.iter().find(|jump| {
        (jump.is(JumpKind::StateLost) || jump.is(JumpKind::Takeover))
            && (jump.after_sequence + 1..jump.resumes_at).contains(&last)
            && jump.resumes_at <= settled
    })?;
    let lost_first = first.max(jump.after_sequence + 1);
    let is_listed = |jump: &Jump| {
        jump.lost_first.is_some_and(|listed| listed <= lost_first)
            && jump.lost_last.is_some_and(|listed| last <= listed)
    };
    let (kind, lost) = (JumpKind::Lacking, Some((lost_first, last)));
    let (after, resumes_at) = (lost_first - 1, last + 1);
    let finding = JumpFinding { kind, after, resumes_at, lost, open: true };
    (!jumps.iter().any(is_listed)).then_some(finding)
}

/// A loss behind which sequences went on without a jump, unless it is on record: a copy
/// was put back, and some numbers were given out twice. What was settled before that is
/// not lost; with nothing lost, that is on record.
pub(super) fn of_range(
    jumps: &[Jump],
    settled_before: i64,
    (first, last): (i64, i64),
) -> Option<JumpFinding> {
    // On record as settled before it was taken for lost.
    let spared =
        jumps.iter().filter(|jump| jump.is(JumpKind::Lacking) && jump.after_sequence < first);
    let spared = spared.map(|jump| jump.lost_first.unwrap_or(jump.resumes_at)).max().unwrap_or(0);
    if spared > last {
        return None;
    }
    let lost_first = first.max(spared).max(settled_before.saturating_add(1));
    let lost = (lost_first <= last).then_some((lost_first, last));
    let from = lost.map_or(first, |(first, _)| first);
    let is_listed = |jump: &Jump| {
        jump.lost_first.is_some_and(|first| first <= from)
            && jump.lost_last.is_some_and(|listed| listed >= last)
    };
    let (after, resumes_at) = (first - 1, last.max(settled_before) + 1);
    let finding =
        JumpFinding { kind: JumpKind::Lacking, after, resumes_at, lost, open: lost.is_some() };
    (!jumps.iter().any(is_listed)).then_some(finding)
}

pub(super) async fn jumps(connection: &mut Session, partition: u16) -> Result<Vec<Jump>, Error> {
    let jumps = sqlx::query_as(
        "select after_sequence, resumes_at, lost_first, lost_last, kinds from sequence_jumps
         where partition = $1 order by after_sequence",
    );
    Ok(jumps.bind(i32::from(partition)).fetch_all(connection).await?)
}

/// What of a range that is told as lost may have been given out: sequences went past a jump inside
/// it, or the ledger itself told it, which counts up to where a jump will go on. A ledger that went
/// back may have forgotten the jump, which `holes` of Redis' lineage still have.
pub(super) fn given_out(
    jumps: &[Jump],
    holes: &[(i64, i64)],
    (first, last): (i64, i64),
) -> Vec<(i64, i64)> {
    let ends_there = |jump: &Jump| jump.resumes_at == last + 1 && jump.goes_on_behind_all();
    let goes_on_there = |(after, first): &(i64, i64)| *first == last + 1 && first - after >= JUMP;
    let is_bound = jumps.iter().any(ends_there) || holes.iter().any(goes_on_there);
    let last = if is_bound { last.saturating_add(1) - JUMP } else { last };
    let inside =
        jumps.iter().filter(|jump| first <= jump.after_sequence + 1 && jump.resumes_at <= last);
    unlisted(first, last, inside.map(Jump::left_out))
}

/// Which of these sequences no jump leaves out, as ranges in order: what one left out was
/// never given out, or is listed. Jumps by the last sequence before and the first behind.
pub(super) fn unlisted(
    mut first: i64,
    last: i64,
    jumps: impl Iterator<Item = (i64, i64)>,
) -> Vec<(i64, i64)> {
    let mut ranges = Vec::new();
    for (after_sequence, resumes_at) in jumps {
        ranges.push((first, last.min(after_sequence)));
        first = first.max(resumes_at);
    }
    ranges.push((first, last));
    ranges.retain(|(first, last)| first <= last);
    ranges
}

/// The only writer of findings. One that begins where another does is added to it; a
/// takeover that adds to a loss of another reason leaves it that.
pub(super) async fn record(
    connection: &mut Session,
    partition: u16,
    finding: &JumpFinding,
    detail: &str,
) -> Result<(), Error> {
    let JumpFinding { kind, after, resumes_at, lost, open } = finding;
    let (kind, reason) = kind.names();
    sqlx::query(
        "insert into sequence_jumps as known (partition, after_sequence, resumes_at, kinds, reason,
             lost_first, lost_last, detail, state)
         values ($1, $2, $3, array[$4], $5, $6, $7, $8,
             case when $9 then 'open' else 'accepted' end)
         on conflict (partition, after_sequence) do update
         set resumes_at = greatest(known.resumes_at, excluded.resumes_at),
             lost_first = least(known.lost_first, excluded.lost_first),
             lost_last = greatest(known.lost_last, excluded.lost_last),
             kinds = case when excluded.kinds <@ known.kinds then known.kinds
                 else known.kinds || excluded.kinds end,
             reason = case when $9 and (known.reason = 'resize' or excluded.reason <> 'takeover')
                 then excluded.reason else known.reason end,
             detail = case when strpos(known.detail, excluded.detail) > 0 then known.detail
                 else known.detail || '; then ' || excluded.detail end,
             state = case when $9 then 'open' else known.state end",
    )
    .bind(i32::from(partition))
    .bind(after)
    .bind(resumes_at)
    .bind(kind)
    .bind(reason)
    .bind(lost.map(|(first, _)| first))
    .bind(lost.map(|(_, last)| last))
    .bind(detail)
    .bind(open)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(kind: JumpKind, (after_sequence, resumes_at): (i64, i64), lost: i64) -> Jump {
        let kinds = vec![kind.names().0.to_owned()];
        let lost_last = (lost > after_sequence).then_some(lost);
        let lost_first = lost_last.map(|_| after_sequence + 1);
        Jump { after_sequence, resumes_at, lost_first, lost_last, kinds }
    }

    #[test]
    fn what_was_given_out_before_a_jump_is_lost_however_late_somebody_says_so() {
        let part = |jump: &Jump, settled, range| {
            of_jump(std::slice::from_ref(jump), settled, range).and_then(|found| found.lost)
        };
        // 3 was settled, and sequences went on at 1,004.
        let state_lost = jump(JumpKind::StateLost, (3, 1_004), 0);
        assert_eq!(part(&state_lost, 1_004, (2, 5)), Some((4, 5)));
        assert_eq!(part(&state_lost, 3, (2, 5)), None, "it is not late");
        assert_eq!(part(&state_lost, 1_004, (2, 3)), None, "settled");
        assert_eq!(part(&state_lost, 1_004, (2, 1_009)), None, "who knows how far that went");
        let takeover = jump(JumpKind::Takeover, (3, 1_004), 5);
        assert_eq!(part(&takeover, 1_004, (4, 7)), Some((4, 7)), "more than was known");
        assert_eq!(part(&takeover, 1_004, (4, 5)), None, "listed");
        // Numbers that are given out again may be settled.
        assert_eq!(part(&jump(JumpKind::Twice, (3, 1_004), 0), 1_004, (2, 5)), None);
    }

    #[test]
    fn what_the_ledger_counts_up_to_a_jump_was_not_given_out() {
        let jumps = [jump(JumpKind::StateLost, (3_002_069, 4_002_078), 0)];
        // 3,002,078 was the highest that anybody knew when it jumped.
        let holes = [(3_002_070, 4_002_078)];
        for (jumps, holes) in [(jumps.as_slice(), [].as_slice()), (&[], &holes)] {
            let of = |range| given_out(jumps, holes, range);
            assert_eq!(of((3_002_071, 4_002_077)), [(3_002_071, 3_002_078)]);
            assert_eq!(of((3_002_079, 4_002_077)), []);
        }
        // A server that knew of no jump gave these out.
        assert_eq!(given_out(&jumps, &[], (3_002_071, 3_002_090)), [(3_002_071, 3_002_090)]);
        let small = [jump(JumpKind::Lacking, (7, 10), 9)];
        assert_eq!(given_out(&small, &[], (8, 9)), [(8, 9)]);
    }
}

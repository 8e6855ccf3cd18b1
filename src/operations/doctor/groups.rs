//! Judges consumer groups of others on our streams: which of them trimming
//! waits for, and how much it keeps. Pure: groups go in, findings come out.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    domain::argument,
    operations::{
        Severity::Warning,
        finding::{self as kind, Finding, FindingKind},
        groups::Group,
        shapes::{numbered, span},
    },
};

/// A group that reads is behind for a moment.
const BEHIND: Duration = Duration::from_secs(60);
/// Groups that are told of one by one.
const NAMED_MAX: usize = 20;

/// Every group but ours.
pub(super) fn judge(groups: &[Group], now: DateTime<Utc>) -> Vec<Finding> {
    let others: Vec<&Group> = groups.iter().filter(|group| !group.is_ours()).collect();
    let mut findings = Vec::new();
    for group in others.iter().take(NAMED_MAX) {
        if group.registered {
            findings.extend(incomplete(group));
            findings.extend(pins(group, now));
        } else {
            findings.push(strange(group));
        }
    }
    if findings.is_empty() {
        let sentence = match others.len() {
            0 => "none but ours".to_owned(),
            1 => "1 other, registered and reading".to_owned(),
            many => format!("{many} others, registered and reading"),
        };
        findings.push(kind::GROUP_PINS.good().or(sentence));
    }
    findings
}

fn strange(group: &Group) -> Finding {
    let name = &group.name;
    let on: Vec<u16> = group.on.iter().copied().collect();
    let sentence = format!(
        "the group {name} is on {} without being registered, and trimming waits for it there",
        numbered(&on)
    );
    let advice = format!(
        "find its owner; then `paystream groups register {named} --note …`, or `paystream \
         groups retire {named}`",
        named = argument(name)
    );
    told(kind::GROUP_STRANGE, name, sentence, advice)
}

fn incomplete(group: &Group) -> Option<Finding> {
    let name = &group.name;
    let missing: Vec<u16> = group.missing_on.iter().copied().collect();
    let sentence = format!(
        "the group {name} is registered and missing on {}, which nothing is trimmed from",
        numbered(&missing)
    );
    let advice = format!(
        "`paystream groups register {} --note …` creates it where it is missing",
        argument(name)
    );
    (!missing.is_empty()).then(|| told(kind::GROUP_PARTLY, name, sentence, advice))
}

fn pins(group: &Group, now: DateTime<Utc>) -> Option<Finding> {
    let name = &group.name;
    let pins: Vec<u16> = group.pins_trimming_on.difference(&group.missing_on).copied().collect();
    // It cannot have read before there was one.
    let registered = (now - group.registered_at?).to_std().unwrap_or_default();
    let age = Duration::from_secs(group.kept_since?.age_seconds(now)).min(registered);
    let sentence = format!(
        "the group {name} has not read on for {}: {} settled entries wait for it, on {}, and are \
         not trimmed before it has read them",
        span(age),
        group.kept,
        numbered(&pins)
    );
    let advice = format!(
        "start its reader (its note: {}); if nobody needs it, `paystream groups retire {} --yes`",
        group.note.as_deref().unwrap_or_default(),
        argument(name)
    );
    (age > BEHIND && !pins.is_empty()).then(|| told(kind::GROUP_PINS, name, sentence, advice))
}

fn told(kind: FindingKind, name: &str, sentence: String, advice: String) -> Finding {
    kind.found(Warning, sentence).about(format!("group {name}")).advising(advice)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{
        domain::StreamId,
        ledger::GroupRow,
        operations::{Severity::Good, groups::groups},
        stream::{GROUP, GroupPosition},
    };

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000)
    }

    fn row() -> GroupRow {
        GroupRow {
            name: "reports".to_owned(),
            starts_from: "start".to_owned(),
            note: "ask Ada".to_owned(),
            registered_at: now() - TimeDelta::seconds(500),
        }
    }

    /// A group whose next entry is of this second.
    fn standing(partition: u16, group: &str, second: u64, lag: i64) -> GroupPosition {
        let id = StreamId { milliseconds: second * 1000, number: 0 };
        let oldest_waiting = (lag > 0).then_some(id);
        let group = group.to_owned();
        GroupPosition { partition, group, lag, oldest_waiting, floor: id, ..Default::default() }
    }

    fn found(registered: &[GroupRow], standings: &[GroupPosition]) -> Vec<Finding> {
        judge(&groups(registered.to_vec(), standings.to_vec(), 2, now()), now())
    }

    #[test]
    fn without_other_groups_nothing_pins() {
        let ours = [standing(0, GROUP, 900, 0), standing(1, GROUP, 900, 3)];
        let findings = found(&[], &ours);
        assert_eq!((findings.len(), findings[0].severity), (1, Good));
    }

    #[test]
    fn a_group_that_stopped_reading_is_told_with_what_it_keeps() {
        let standings = |second| {
            let ours = [standing(0, GROUP, 990, 0), standing(1, GROUP, 990, 0)];
            let others = [standing(0, "reports", second, 40), standing(1, "reports", 990, 0)];
            [ours, others].concat()
        };
        assert_eq!(found(&[row()], &standings(940))[0].severity, Good, "60 s are nothing");
        let findings = found(&[row()], &standings(939));
        assert_eq!((findings.len(), findings[0].code), (1, "group_pins_trimming"));
        let sentence = &findings[0].sentence;
        assert!(sentence.contains("1m 1s: 40 settled entries") && sentence.contains("partition 0"));
        assert!(findings[0].advice.contains("ask Ada"));
        let new = GroupRow { registered_at: now() - TimeDelta::seconds(60), ..row() };
        assert_eq!(found(&[new], &standings(1))[0].severity, Good, "it has just begun");
    }

    #[test]
    fn a_group_that_is_as_far_as_ours_pins_nothing() {
        let ours = [standing(0, GROUP, 100, 5), standing(1, GROUP, 100, 5)];
        let others = [standing(0, "reports", 100, 5), standing(1, "reports", 100, 5)];
        assert_eq!(found(&[row()], &[ours, others].concat())[0].severity, Good);
    }

    #[test]
    fn what_is_not_registered_or_not_everywhere_is_told() {
        let ours = [standing(0, GROUP, 990, 0), standing(1, GROUP, 990, 0)];
        let strange = [&ours[..], &[standing(1, "who", 990, 0)]].concat();
        let findings = found(&[], &strange);
        assert_eq!((findings.len(), findings[0].code), (1, "group_unregistered"));
        let findings = found(&[row()], &[&ours[..], &[standing(1, "reports", 990, 0)]].concat());
        assert_eq!((findings.len(), findings[0].code), (1, "group_incomplete"));
        assert!(findings[0].sentence.contains("missing on partition 0"));
        assert_eq!(found(&[row()], &ours)[0].code, "group_incomplete");
    }
}

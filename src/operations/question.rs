//! How each act is asked for, on a page and as a command: what will happen, and why it
//! can do no harm. Never decides whether it may be done.

/// How an act is asked for; `{}` is the name of what it is done to.
#[derive(Clone, Copy, Debug)]
pub struct ActQuestion {
    pub code: &'static str,
    /// The listing in which its case is found.
    pub listing: &'static str,
    pub(super) title: &'static str,
    pub(super) label: &'static str,
    /// What makes it, on a button.
    pub verb: &'static str,
    pub(super) command: &'static str,
    pub what: &'static str,
    pub because: &'static str,
    /// Whether it closes a case without settling it.
    pub grave: bool,
    /// What forcing it means, where it can be forced.
    pub force: Option<&'static str>,
    pub notice: &'static str,
}

pub(super) const REDRIVE: ActQuestion = ActQuestion {
    code: "redrive",
    listing: "dead-letters",
    title: "Redrive dead letter {}",
    label: "Redrive",
    verb: "Redrive",
    command: "paystream dead-letters redrive {} --reason \"…\"",
    what: "The payment is settled now, by the rules of today, in one transaction.",
    because: "it is settled once, in one transaction, or stays dead",
    grave: false,
    force: None,
    notice: "Redriven: the payment is settled, and the audit log says who did it and why.",
};

pub(super) const DISCARD: ActQuestion = ActQuestion {
    code: "discard",
    title: "Discard dead letter {}",
    label: "Discard; if money is missing, ask the bank to send it again",
    verb: "Discard",
    command: "paystream dead-letters discard {} --reason \"…\"",
    what: "The payment is noted as not to be settled. The entry and the reason are kept. If money \
           is missing, ask the bank to send the payment again.",
    because: "nothing is removed, no money moves, and it is found as discarded",
    grave: true,
    notice: "Discarded: it will not be settled, and the audit log says who did it and why.",
    ..REDRIVE
};

pub(super) const ASSIGN: ActQuestion = ActQuestion {
    code: "assign",
    listing: "suspense",
    title: "Assign {}",
    label: "Assign to the right customer",
    verb: "Assign",
    command: "paystream suspense assign {} --customer … --reason \"…\"",
    what: "The held payment is applied to the account of the customer that you name.",
    because: "it is applied once, in one transaction, or stays held",
    notice: "Assigned: the payment was applied to the customer's account.",
    ..REDRIVE
};

pub(super) const MARK_FOR_REFUND: ActQuestion = ActQuestion {
    code: "refund_mark",
    title: "Mark {} for refund",
    label: "Mark for refund",
    verb: "Mark for refund",
    command: "paystream suspense refund-mark {} --reason \"…\"",
    what: "The money is noted as to be sent back. It stays in suspense and is not applied any \
           more, even when the account is opened.",
    because: "no money moves in the ledger, and it cannot be applied any more",
    grave: true,
    notice: "Marked for refund: it stays in suspense and is not applied any more.",
    ..ASSIGN
};

pub(super) const RESOLVE: ActQuestion = ActQuestion {
    code: "resolve",
    listing: "conflicts",
    title: "Resolve conflict {}",
    label: "Ask the bank which payment is right, then resolve",
    verb: "Resolve",
    command: "paystream conflicts resolve {} --reason \"…\"",
    what: "The conflict is marked as resolved. Neither payment changes.",
    because: "it moves no money; the bank sends a payment again under a new reference",
    notice: "Resolved: the conflict is closed. No money moved.",
    ..REDRIVE
};

pub(super) const RELEASE: ActQuestion = ActQuestion {
    code: "release_partition",
    listing: "partitions",
    title: "Hand partition {} over",
    label: "Make the owner hand partition {} over",
    verb: "Hand over",
    command: "paystream release --partition {} --reason \"…\"",
    what: "The owner finishes the batch under way and gives the partition up; whoever should have \
           it acquires it under a new epoch.",
    because: "whoever takes the partition settles what is pending once, in order, and payments go on",
    force: Some(
        "do not wait for the owner: its epoch ends at once, and what it has under way is refused",
    ),
    notice: "The owner was asked to hand the partition over. Watch it move here.",
    ..REDRIVE
};

pub(super) const TAKE_AWAY: ActQuestion = ActQuestion {
    label: "Take partition {} from its silent owner now",
    command: "paystream release --partition {} --force --reason \"…\"",
    because: "the fence in PostgreSQL refuses whatever the old owner still commits",
    ..RELEASE
};

pub(super) const UNPARK: ActQuestion = ActQuestion {
    code: "unpark",
    listing: "parked",
    title: "Release what is parked of {}",
    label: "Release",
    verb: "Release",
    command: "paystream parked release {} --reason \"…\"",
    what: "What waits is settled now, in its order and in one transaction, and what comes is not \
           parked any more.",
    because: "each payment moves money at most once; the dead letter before them stays as it is",
    force: Some("settle them before the dead letter that they wait for"),
    notice: "Released: what waited was settled in its order, and what comes is not parked.",
    ..REDRIVE
};

pub(super) const ACCEPT_ALL: ActQuestion = ActQuestion {
    code: "accept_losses",
    listing: "losses",
    title: "Accept all open losses",
    label: "Accept",
    verb: "Accept",
    command: "paystream losses accept --reason \"…\"",
    what: "The losses are marked as accepted. Health and audit do not report them any more.",
    because: "no payment changes, and one that is sent again is taken",
    grave: true,
    notice: "Accepted: the losses are closed.",
    ..REDRIVE
};

pub(super) const ACCEPT_OF_ONE: ActQuestion = ActQuestion {
    title: "Accept the losses of partition {}",
    command: "paystream losses accept --partition {} --reason \"…\"",
    ..ACCEPT_ALL
};

pub(super) const REGISTER_GROUP: ActQuestion = ActQuestion {
    code: "register_group",
    listing: "groups",
    title: "Register group {}",
    label: "Register",
    verb: "Register",
    command: "paystream groups register {} --note \"…\"",
    what: "The group is created on every stream that lacks it, and trimming waits for it.",
    because: "nothing is removed, and a group that exists stays where it is",
    notice: "Registered: trimming waits for the group.",
    ..REDRIVE
};

pub(super) const RETIRE_GROUP: ActQuestion = ActQuestion {
    code: "retire_group",
    title: "Retire group {}",
    label: "Retire",
    verb: "Retire",
    command: "paystream groups retire {}",
    what: "The group is removed from every stream, and trimming goes on without it.",
    because: "payments are settled by a group of our own, which cannot be retired",
    grave: true,
    force: Some("although entries wait for it: it will not see them"),
    notice: "Retired: trimming does not wait for the group any more.",
    ..REGISTER_GROUP
};

pub(super) const RESIZE: ActQuestion = ActQuestion {
    code: "resize",
    listing: "partitions",
    title: "Change the number of partitions to {}",
    label: "Change the number of partitions to {}",
    verb: "Resize",
    command: "paystream topology resize --partitions {}",
    what: "No payment is accepted until everything accepted so far is settled; then the streams \
           are cut anew. Run again, it goes on where it stopped.",
    because: "no entry is moved, and each step can be done again",
    notice: "Resized: payments are accepted under the new number of partitions.",
    ..REDRIVE
};

pub(super) const ABORT_RESIZE: ActQuestion = ActQuestion {
    code: "abort_resize",
    title: "Give up the change of the number of partitions",
    label: "Give up",
    verb: "Give up",
    command: "paystream topology resize --abort",
    what: "Payments are accepted again under the number of partitions there was.",
    because: "a change that cannot be given up any more is refused",
    notice: "Given up: payments are accepted under the number of partitions there was.",
    ..RESIZE
};

/// Each act that the console and links name, once.
pub(super) const NAMED: [&ActQuestion; 10] = [
    &REDRIVE,
    &DISCARD,
    &ASSIGN,
    &MARK_FOR_REFUND,
    &RESOLVE,
    &RELEASE,
    &UNPARK,
    &ACCEPT_ALL,
    &REGISTER_GROUP,
    &RETIRE_GROUP,
];

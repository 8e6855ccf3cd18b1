//! The commands of Redis that each role needs, those of scripts and of start-up checks included,
//! and nothing else: what an ACL user of that role is allowed. Never asks Redis anything.

/// Roles, in the order of the columns of [`COMMANDS`].
pub const ROLES: [&str; 3] = ["gateway", "worker", "operations"];

/// A command, and whether each role needs it. Redis asks for the rights of commands that a
/// script calls, but cannot allow single scripts.
pub const COMMANDS: [(&str, [bool; 3]); 51] = {
    const W: [bool; 3] = [false, true, false];
    const O: [bool; 3] = [false, false, true];
    const GO: [bool; 3] = [true, false, true];
    const WO: [bool; 3] = [false, true, true];
    const ALL: [bool; 3] = [true; 3];
    [
        ("append", W),
        ("client|kill", W),
        ("client|list", W),
        ("client|setname", ALL),
        ("cluster|info", ALL),
        ("cluster|slots", ALL),
        ("config|get", ALL),
        ("del", ALL),
        ("evalsha", ALL),
        ("exists", ALL),
        ("get", ALL),
        ("getrange", ALL),
        ("hdel", GO),
        ("hget", ALL),
        ("hincrby", GO),
        ("hkeys", GO),
        ("hlen", GO),
        ("hmget", ALL),
        ("hset", ALL),
        ("incr", GO),
        ("info", ALL),
        ("memory|usage", ALL),
        ("mget", ALL),
        ("persist", W),
        ("pexpireat", GO),
        ("ping", ALL),
        ("pttl", O),
        ("pubsub|numsub", W),
        ("script|load", ALL),
        ("set", ALL),
        ("subscribe", W),
        ("time", ALL),
        ("wait", GO),
        ("xack", WO),
        ("xadd", ALL),
        ("xclaim", W),
        ("xgroup|create", WO),
        ("xgroup|delconsumer", WO),
        ("xgroup|destroy", O),
        ("xgroup|setid", WO),
        ("xinfo|consumers", W),
        ("xinfo|groups", ALL),
        ("xinfo|stream", ALL),
        ("xlen", ALL),
        ("xpending", ALL),
        ("xrange", ALL),
        ("xread", W),
        ("xreadgroup", W),
        ("xrevrange", ALL),
        ("xsetid", W),
        ("xtrim", W),
    ]
};

/// What a gateway may write, and with which commands: it takes no partition, settles nothing and
/// changes no entry. Everything else it only reads.
const WRITTEN_BY_GATEWAYS: [(&str, &[&str]); 5] = [
    ("evalsha", &["*"]),
    ("xadd", &["*:stream"]),
    (
        "set del incr",
        &[
            "*:seq",
            "*:replicated",
            "*:lost",
            "*:lineage",
            "*:backlog",
            "*:refs",
            "*:refs-beside",
            // As a gateway of the release before does, while it runs beside.
            "*:ref:*",
            "*:beside:*",
            "*:balance:*",
            "webhook:*",
            "topology",
        ],
    ),
    ("hset pexpireat", &["*:refs:*", "*:refs-beside:*"]),
    ("hincrby hdel", &["*:shares"]),
];

/// What comes after the name and the password of an ACL user that has these roles, for keys
/// under this prefix. Needs Redis 7.
pub fn rules(roles: &[&str], key_prefix: &str) -> String {
    let needed = COMMANDS.iter().filter(|(_, needs)| {
        ROLES.iter().zip(needs).any(|(role, needs)| *needs && roles.contains(role))
    });
    let needed = needed.map(|(command, _)| *command);
    if roles != ["gateway"] {
        let commands: Vec<String> = needed.map(|command| format!("+{command}")).collect();
        // Where workers say that they are connected.
        let channels = roles.contains(&"worker").then(|| format!("&{key_prefix}:worker:* "));
        let channels = channels.unwrap_or_default();
        return format!("~{key_prefix}:* resetchannels {channels}-@all {}", commands.join(" "));
    }
    let is_written = |command: &&str| {
        WRITTEN_BY_GATEWAYS.iter().any(|(written, _)| written.split(' ').any(|one| one == *command))
    };
    let reads: Vec<String> = needed
        .filter(|command| !is_written(command))
        .map(|command| format!("+{command}"))
        .collect();
    let mut rules = format!("%R~{key_prefix}:* resetchannels -@all {}", reads.join(" "));
    for (commands, keys) in WRITTEN_BY_GATEWAYS {
        let keys: Vec<String> = keys.iter().map(|key| format!("~{key_prefix}:{key}")).collect();
        let commands: Vec<String> = commands.split(' ').map(|one| format!("+{one}")).collect();
        rules += &format!(" ({} {})", keys.join(" "), commands.join(" "));
    }
    rules
}

//! The commands of Redis that each role needs, those of scripts and of start-up checks included,
//! and nothing else: what an ACL user of that role is allowed. Never asks Redis anything.

/// Roles, in the order of the columns of [`COMMANDS`].
pub const ROLES: [&str; 3] = ["gateway", "worker", "operations"];

/// A command, and whether each role needs it. Redis asks for the rights of commands that a
/// script calls, but cannot allow single scripts.
pub const COMMANDS: [(&str, [bool; 3]); 44] = {
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
        ("hmget", ALL),
        ("hset", W),
        ("incr", GO),
        ("info", ALL),
        ("memory|usage", ALL),
        ("mget", ALL),
        ("persist", W),
        ("ping", ALL),
        ("pttl", O),
        ("script|load", ALL),
        ("set", ALL),
        ("time", ALL),
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

/// What comes after the name and the password of an ACL user that has these roles, for keys
/// under this prefix.
pub fn rules(roles: &[&str], key_prefix: &str) -> String {
    let mut rules = format!("~{key_prefix}:* resetchannels -@all");
    for (command, needs) in &COMMANDS {
        if ROLES.iter().zip(needs).any(|(role, needs)| *needs && roles.contains(role)) {
            rules.push_str(" +");
            rules.push_str(command);
        }
    }
    rules
}

//! Proves that the house is built as ARCHITECTURE.md says: which room may name
//! which, which outside crate belongs to which room, and what every file keeps
//! to. Reads the sources; knows no code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::observability::read;

/// A room, and the rooms it may name. A room is a folder or a file of `src/`.
const MAY_NAME: &[(&str, &str)] = &[
    ("domain", ""),
    ("clock", ""),
    ("progress", ""),
    ("followed_files", ""),
    ("circuit_breaker", ""),
    ("worker_name", ""),
    ("config", ""),
    ("telemetry", "domain config"),
    ("stream", "domain config telemetry"),
    ("ledger", "domain config telemetry"),
    ("operations", "domain config telemetry clock stream ledger"),
    ("callers", "domain followed_files"),
    (
        "http",
        "callers domain config telemetry clock progress circuit_breaker followed_files stream ledger \
         operations",
    ),
    ("console", "domain ledger operations http"),
    ("worker", "domain config telemetry clock progress circuit_breaker stream ledger"),
    ("monitor", "telemetry progress circuit_breaker ledger operations"),
    ("cli", "callers domain config telemetry clock stream ledger operations"),
    (
        "app",
        "callers config telemetry clock progress circuit_breaker worker_name stream ledger operations \
         http console worker monitor cli",
    ),
    ("main", "app config cli telemetry"),
];

/// What settles and administers, which requests and pages may never hold.
const FAR: &str =
    "Consumer Writer LaneWriter Ownership OtherGroups GroupRegistrar AdminStore Inspector";
/// The halves of the stream and the ledger, and who may never hold them.
const NEVER: &[(&str, &str)] = &[
    ("http", FAR),
    ("console", FAR),
    (
        "worker",
        "Producer Reader Registrar Balances OtherGroups GroupRegistrar AdminStore Inspector",
    ),
];

/// An outside crate, and the only places that may name it.
const OUTSIDE: &[(&str, &[&str])] = &[
    // Operations reads what it shows; only the ledger writes.
    ("sqlx", &["src/ledger/", "src/operations/"]),
    ("sqlx_core", &["src/ledger/session.rs"]),
    ("redis", &["src/stream/"]),
    ("crc", &["src/stream/"]),
    ("axum", &["src/http/", "src/console/"]),
    ("askama", &["src/console/"]),
    ("tower", &["src/http/"]),
    // What clients and operators see has one shape, from the ledger to the API.
    ("utoipa", &["src/http/", "src/operations/", "src/ledger/"]),
    ("utoipa_axum", &["src/http/"]),
    ("utoipa_swagger_ui", &["src/http/"]),
    ("hyper", &["src/http/", "src/cli/probe.rs"]),
    ("hyper_util", &["src/http/", "src/cli/probe.rs"]),
    ("http_body_util", &["src/http/guard.rs", "src/cli/probe.rs"]),
    ("opentelemetry", &["src/telemetry/"]),
    ("opentelemetry_sdk", &["src/telemetry/"]),
    ("opentelemetry_otlp", &["src/telemetry/"]),
    ("tracing_opentelemetry", &["src/telemetry/"]),
    ("tracing_subscriber", &["src/telemetry/"]),
    ("indicatif", &["src/cli/"]),
    ("comfy_table", &["src/cli/"]),
    // The filter of a list is one struct, on the command line and in the API.
    ("clap", &["src/config/", "src/app/", "src/main.rs", "src/cli/", "src/operations/"]),
    ("jsonwebtoken", &["src/callers/"]),
    ("ring", &["src/callers/", "src/telemetry/signals.rs"]),
    ("sfv", &["src/callers/"]),
    ("tokio_rustls", &["src/http/tls.rs", "src/http/serve.rs", "src/cli/probe.rs"]),
    ("base64", &["src/callers/"]),
    ("pem", &["src/callers/"]),
    ("gethostname", &["src/worker_name.rs"]),
    ("procfs", &["src/monitor/process.rs"]),
    ("rustix", &["src/operations/doctor/", "src/http/serve.rs", "src/cli/mod.rs"]),
];

/// Longest file, in lines.
const LINES_MAX: usize = 460;

/// What knows nothing of the service: crates of their own, below every room.
const TOOLS: &[&str] = &[
    "crates/bench/src",
    "crates/dev/src",
    "crates/invariants/src",
    "crates/load/src",
    "crates/simulator/src",
    "crates/storm/src",
];

/// One source file.
pub(crate) struct File {
    path: PathBuf,
    /// From the root of the repository, with slashes.
    pub(crate) name: String,
    /// Its room: the folder or the file directly under `src/`.
    room: String,
    text: String,
    /// The text without comments and without the insides of strings.
    pub(crate) code: String,
}

pub(crate) fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    visit(root, &root.join("src"), &mut files);
    assert!(files.len() > 40, "the sources are found");
    files
}

/// Those of the tools too.
fn all_sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = sources();
    for folder in TOOLS {
        visit(root, &root.join(folder), &mut files);
    }
    files
}

fn visit(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let room = name.split('/').nth(1).unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            files.push(File { code: code(&text), path, name, room, text });
        }
    }
}

/// Blanks comments, strings and character literals; keeps lines.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let bytes: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['r', '#', '"', ..] => {
                let close = rest.windows(2).skip(3).position(|pair| pair == ['"', '#']);
                close.map_or(rest.len(), |close| close + 5)
            }
            ['"', ..] => {
                let mut end = 1;
                while end < rest.len() && rest[end] != '"' {
                    end += if rest[end] == '\\' { 2 } else { 1 };
                }
                (end + 1).min(rest.len())
            }
            ['\'', '\\', _, '\'', ..] => 4,
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if end == 0 {
            code.push(bytes[at]);
            at += 1;
        } else {
            code.extend(rest[..end].iter().filter(|c| **c == '\n'));
            code.push(' ');
            at += end;
        }
    }
    code
}

/// What stands before `#[cfg(test)] mod …`; tests may reach further.
fn without_tests(file: &File) -> &str {
    if file.name.contains("/tests") {
        return "";
    }
    file.code.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

pub(crate) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first names after each `path::`, grouped imports included.
fn named_after<'a>(code: &'a str, path: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(path) {
        if code[..at].ends_with(is_name) || code[..at].ends_with("::") {
            continue;
        }
        let rest = code[at + path.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => names.extend(first_names(group)),
            None => names.extend(rest.split(|c| !is_name(c)).next()),
        }
    }
    names
}

/// The first name of each item of a group, up to its closing brace.
fn first_names(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                names.extend(group[start..at].trim().split(|c| !is_name(c)).next());
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_reader_of_imports_sees_what_it_should() {
    let code = "use crate::{domain::{A, b::C}, stream::{self, D}, config};\nuse crate::http::E;\n\
                let x = crate::ledger::Error; mycrate::worker::F; use super::super::cli;";
    let wanted = ["domain", "stream", "config", "http", "ledger"];
    assert_eq!(named_after(code, "crate::"), wanted);
    assert_eq!(
        self::code("a // crate::x\n\"crate::y \\\" z\" b 'c' 'static r#\"q\"# d"),
        "a  \n  b   'static   d"
    );
}

fn allowed(room: &str) -> Vec<&'static str> {
    let found = MAY_NAME.iter().find(|(name, _)| *name == room);
    let (_, rooms) =
        found.unwrap_or_else(|| panic!("room {room} is not in the table: say what it may name"));
    rooms.split_whitespace().collect()
}

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in sources().iter().filter(|file| file.room != "lib") {
        let (room, allowed) = (file.room.as_str(), allowed(&file.room));
        seen.insert(room.to_owned());
        let code = without_tests(file);
        let mut names = named_after(code, "crate::");
        names.extend(named_after(code, "paystream::"));
        // `super` out of a room leads to the other rooms.
        let depth = file.name.matches('/').count() - usize::from(file.name.ends_with("/mod.rs"));
        names.extend(
            named_after(code, &"super::".repeat(depth.max(1)))
                .into_iter()
                .filter(|_| depth >= 1 && (depth > 1 || !file.name.contains("/mod.rs")))
                .filter(|name| MAY_NAME.iter().any(|(room, _)| room == name)),
        );
        for name in names {
            if name != room && name != "self" && !allowed.contains(&name) {
                wrong.push(format!("{} may not name {name}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (room, _) in MAY_NAME {
        assert!(seen.contains(*room), "the table lists {room}, which does not exist");
    }
}

#[test]
fn nobody_holds_the_other_half() {
    for file in sources() {
        for (room, names) in NEVER.iter().filter(|(room, _)| *room == file.room) {
            for word in without_tests(&file).split(|c| !is_name(c)) {
                let held = names.split(' ').any(|name| name == word);
                assert!(!held, "{}: {room} may not hold a {word}", file.name);
            }
        }
    }
}

#[test]
fn what_is_open_for_benchmarks_is_named_by_nobody_else() {
    let mut open = 0;
    for file in sources() {
        open += usize::from(file.name.ends_with("/measured.rs"));
        assert!(!file.code.contains("measured::"), "{} names what is measured", file.name);
    }
    assert!(open > 0);
}

#[test]
fn each_outside_crate_is_known_to_its_room_only() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (name, places) in OUTSIDE {
            let names = named_after(&file.code, &format!("{name}::")).len()
                + file.code.matches(&format!("use {name};")).count();
            if names > 0 && !places.iter().any(|place| file.name.starts_with(place)) {
                wrong.push(format!("{} may not name {name}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_outside_crate_has_a_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in TOOLS.iter().map(|tool| tool.trim_end_matches("src")).chain([""]) {
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
        let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
        let section = section.split("\n[").next().unwrap();
        let mut files = Vec::new();
        visit(root, &root.join(folder).join("src"), &mut files);
        let all: String = files.into_iter().map(|file| file.code).collect();
        for line in
            section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        {
            let name = line.split([' ', '=', '.']).next().unwrap().replace('-', "_");
            let used = all.split(|c| !is_name(c)).any(|word| word == name);
            assert!(used, "{name} is not used under {folder}src");
        }
    }
}

#[test]
fn the_domain_is_pure() {
    for file in sources().iter().filter(|file| file.room == "domain") {
        for word in file.code.split(|c| !is_name(c)) {
            let impure =
                "async await tokio serde Serialize Deserialize Instant SystemTime tracing f32 f64";
            assert!(!impure.split(' ').any(|one| one == word), "{} has {word}", file.name);
        }
        assert!(!file.code.contains("Utc::now"), "{} reads a clock", file.name);
    }
}

#[test]
fn money_is_never_a_float() {
    // Rates and ratios are looked at, not added up; tests and tools may draw.
    let exempt = ["src/http/admin/stats.rs", "src/telemetry/", "src/config/"];
    for file in sources().iter().filter(|file| !exempt.iter().any(|e| file.name.starts_with(e))) {
        for word in without_tests(file).split(|c| !is_name(c)) {
            assert!(!["f32", "f64"].contains(&word), "{} has {word}", file.name);
        }
    }
}

#[test]
fn statuses_of_failures_are_named_in_one_file() {
    let fine = ["OK", "ACCEPTED", "CREATED"];
    for file in sources().iter().filter(|file| ["http", "console"].contains(&&*file.room)) {
        // The health endpoints answer yes or no, not with a problem.
        let health = file.name.ends_with("http/health.rs");
        for name in named_after(&file.code, "StatusCode::") {
            let right = file.name.ends_with("http/problem.rs")
                || fine.contains(&name)
                || (health && name == "SERVICE_UNAVAILABLE");
            assert!(right, "{} names StatusCode::{name}", file.name);
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for file in all_sources() {
        assert!(file.text.starts_with("//! "), "{} opens without //!", file.name);
        let lines = file.text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.name);
        let most = match file.name.as_str() {
            "src/lib.rs" => 40,
            "src/main.rs" => 100,
            _ => LINES_MAX,
        };
        assert!(lines <= most, "{} has {lines} lines", file.name);
    }
}

#[test]
fn no_room_outgrows_its_budget() {
    let architecture = read("ARCHITECTURE.md");
    let mut lines = BTreeMap::new();
    for file in all_sources() {
        let crates = file.name.strip_prefix("crates/").and_then(|rest| rest.split('/').next());
        let room = crates.map_or(file.room, |tool| format!("crates/{tool}"));
        *lines.entry(room).or_insert(0) += file.text.lines().count();
    }
    for room in ["lib", "main"] {
        lines.remove(room);
    }
    for (room, lines) in lines {
        let begin = format!("| `{room}` | ");
        let row = architecture.lines().find_map(|line| line.strip_prefix(&begin));
        let row = row.unwrap_or_else(|| panic!("{room} has no budget in ARCHITECTURE.md"));
        let budget: usize = row.split(" |").next().unwrap().replace(',', "").parse().unwrap();
        assert!(lines <= budget, "{room} has {lines} lines; its budget is {budget}");
    }
}

#[test]
fn names_say_what_things_are() {
    let empty = ["util", "utils", "common", "manager", "helper", "helpers", "misc"];
    for file in all_sources() {
        let stem = file.path.file_stem().unwrap().to_str().unwrap();
        assert!(!empty.contains(&stem), "{} says nothing", file.name);
        for pair in file.code.split(|c| !is_name(c)).collect::<Vec<_>>().windows(2) {
            if ["struct", "enum", "trait", "mod", "fn", "type"].contains(&pair[0]) {
                let name = pair[1].to_lowercase();
                // redis calls one of its own types so; ours are not.
                assert!(!empty.iter().any(|empty| name.contains(empty)), "{}: {name}", file.name);
            }
        }
    }
}

#[test]
fn the_tests_neither_sleep_nor_skip() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files = Vec::new();
    visit(folder.parent().unwrap(), &folder, &mut files);
    for file in files {
        assert!(file.text.starts_with("//! "), "{} opens without //!", file.name);
        assert!(!file.code.contains("#[ignore"), "{} skips a test", file.name);
        let sleeps = named_after(&file.code, "sleep(").len();
        // One loop asks again, for all of them.
        assert_eq!(sleeps, usize::from(file.name.ends_with("it/harness.rs")), "{}", file.name);
    }
}

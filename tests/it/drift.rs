//! Proves that the documents say what the program does: every setting with its
//! default, every command, endpoint, problem code and bound that is documented
//! exists, and the reverse. Asks the real binary, its API description and the
//! sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use clap::Subcommand;

use crate::{
    observability::read,
    process::{paystream, run},
};

const DOCUMENTS: [&str; 21] = [
    "README.md",
    "ARCHITECTURE.md",
    "RUNBOOK.md",
    "SECURITY.md",
    "docs/access-tokens.md",
    "docs/attempts.md",
    "docs/benchmarks.md",
    "docs/signatures.md",
    "docs/compose.md",
    "docs/consumer-groups.md",
    "docs/decisions.md",
    "docs/kubernetes.md",
    "docs/limits.md",
    "docs/measurements.md",
    "docs/personal-data.md",
    "docs/recovery.md",
    "docs/roles.md",
    "docs/scaling.md",
    "docs/settings.md",
    "docs/storm.md",
    "docs/tracing.md",
];
/// Files that set settings; some of them may not be there.
const USERS_OF_SETTINGS: [&str; 6] =
    ["compose.yaml", ".env.example", "Dockerfile", "Makefile", ".ci/run", "scripts/install.sh"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between backticks, outside of blocks of code.
fn quoted(document: &str) -> Vec<&str> {
    let mut quoted = Vec::new();
    for (number, block) in document.split("```").enumerate() {
        if number % 2 == 0 {
            quoted.extend(block.split('`').skip(1).step_by(2));
        }
    }
    quoted
}

/// The part of a document under a heading.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let section = document.split(&format!("\n## {heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("there is no heading {heading}"));
    section.split("\n## ").next().unwrap()
}

/// The cells of every row of the tables in a text.
fn table(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter(|line| line.starts_with("| `") || line.starts_with("| "));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// Every name that begins so, in a text.
fn names<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.match_indices(prefix)
        .map(|(at, _)| {
            let rest = &text[at..];
            rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())].trim_end_matches('_')
        })
        .collect()
}

async fn help(arguments: &[&str]) -> String {
    let mut command = paystream();
    command.args(arguments).arg("--help");
    let ended = run(command).await;
    assert!(ended.status.success(), "{ended:?}");
    ended.stdout
}

/// The commands that a help text lists, if any.
fn listed(help: &str) -> Vec<String> {
    let Some(list) = help.split("Commands:\n").nth(1) else { return Vec::new() };
    let lines = list.split("\n\n").next().unwrap().lines();
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// Every command of the binary.
async fn commands() -> Vec<String> {
    let commands = listed(&help(&[]).await);
    assert!(commands.len() >= 6, "{commands:?}");
    commands
}

/// The help of every command and of the commands below it.
async fn helps() -> Vec<String> {
    let mut helps = Vec::new();
    for command in commands().await {
        let text = help(&[&command]).await;
        for below in listed(&text) {
            helps.push(help(&[&command, &below]).await);
        }
        helps.push(text);
    }
    helps
}

/// Every option of every command, and every setting with its row of docs/settings.md.
struct Options {
    names: BTreeSet<String>,
    settings: BTreeMap<String, Vec<String>>,
}

async fn options() -> Options {
    let mut options = Options { names: BTreeSet::new(), settings: BTreeMap::new() };
    for text in helps().await {
        let mut blocks: Vec<String> = Vec::new();
        for line in text.lines() {
            let indented = line.len() - line.trim_start().len();
            if indented <= 6 && line.trim_start().starts_with('-') {
                blocks.push(String::new());
            }
            if let Some(block) = blocks.last_mut() {
                block.push_str(line.trim());
                block.push(' ');
            }
        }
        for block in blocks {
            let name = block.split(' ').find(|word| word.starts_with("--")).unwrap();
            options.names.insert(name.trim_end_matches(',').to_owned());
            let between = |start: &str| {
                let rest = block.split(start).nth(1)?;
                Some(rest.split(']').next().unwrap().trim().to_owned())
            };
            if let Some(setting) = between("[env: ") {
                let name = setting.split('=').next().unwrap().to_owned();
                let default = between("[default: ").map(|default| format!("`{default}`"));
                let row = vec![format!("`{name}`"), default.unwrap_or_default(), meaning(&block)];
                // Where commands differ, `dev` and `serve` come first.
                options.settings.entry(name).or_insert(row);
            }
        }
    }
    assert!(options.settings.len() > 30, "settings are found");
    options
}

/// What a help text says of an option, behind its names and before its setting.
fn meaning(block: &str) -> String {
    let words = block.split(" Possible values:").next().unwrap();
    let words = words.split(" [env: ").next().unwrap().split_whitespace();
    let words: Vec<&str> = words.skip_while(|word| word.starts_with(['-', '<', '['])).collect();
    words.join(" ")
}

#[tokio::test]
async fn every_setting_is_documented_in_the_words_of_the_help() {
    let document = read("docs/settings.md");
    let documented: BTreeMap<String, Vec<String>> = table(&document)
        .into_iter()
        .filter(|row| row[0].starts_with("`PAYSTREAM_"))
        .map(|row| (row[0].replace('`', ""), row))
        .collect();
    let settings = options().await.settings;
    for (name, row) in &settings {
        let wanted = row.join(" | ");
        assert_eq!(documented.get(name), Some(row), "docs/settings.md must say:\n| {wanted} |");
    }
    for name in documented.keys() {
        assert!(settings.contains_key(name), "{name} in docs/settings.md is no setting");
    }
}

#[tokio::test]
async fn every_setting_that_is_named_exists() {
    let settings = options().await.settings;
    let mut seen = 0;
    for file in DOCUMENTS.iter().chain(&USERS_OF_SETTINGS) {
        if !root().join(file).exists() {
            assert!(!DOCUMENTS.contains(file), "{file} is missing");
            continue;
        }
        for name in names(&read(file), "PAYSTREAM_") {
            assert!(settings.contains_key(name), "{name} in {file} is no setting");
            seen += 1;
        }
    }
    assert!(seen > 30);
    // And in what the program itself says.
    for file in sources("src/") {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        for name in names(&text, "PAYSTREAM_").into_iter().filter(|name| *name != "PAYSTREAM") {
            let known = settings.contains_key(name) || name.starts_with("PAYSTREAM_TEST_");
            assert!(known, "{name} in {file} is no setting");
        }
    }
}

#[tokio::test]
async fn every_command_and_option_that_is_named_exists() {
    let (commands, options) = (commands().await, options().await);
    let mut named = BTreeSet::new();
    for document in DOCUMENTS {
        let text = read(document);
        for text in quoted(&text) {
            for part in text.split("paystream ").skip(1) {
                let name = part.split_whitespace().next().unwrap_or_default();
                if name.starts_with('<') || name.starts_with('-') {
                    continue;
                }
                assert!(commands.iter().any(|one| one == name), "`{text}` in {document}");
                named.insert(name.to_owned());
            }
            let ours = text.starts_with("--") || text.starts_with("paystream ");
            for word in text.split_whitespace().filter(|word| ours && word.starts_with("--")) {
                let option = word.split('=').next().unwrap();
                let known = options.names.contains(option) || option == "--help";
                assert!(known, "`{text}` in {document}: {option}");
            }
        }
    }
    assert!(named.len() >= 3, "{named:?}");
}

/// Placeholders of our sentences: what is formatted in, and words in capitals.
fn filled(word: &str) -> &str {
    let is_blank = |c: char| c.is_ascii_uppercase() || c == '…' || c == '"';
    if word.contains('{') || word == "%s" || word.chars().all(is_blank) { "1" } else { word }
}

#[test]
fn every_command_that_the_program_recommends_can_be_run() {
    let known =
        paystream::cli::OperatorCommand::augment_subcommands(clap::Command::new("paystream"));
    let mut seen = 0;
    for file in sources("src/") {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let text = code.map(|line| line.trim().trim_end_matches('\\')).collect::<Vec<_>>().concat();
        let text = text.replace("\\\"", "\"");
        for (_, part) in text.match_indices("`paystream ").map(|(at, _)| (at, &text[at + 1..])) {
            let command = part.split('`').next().unwrap();
            let words: Vec<&str> = command.split_whitespace().map(filled).collect();
            if ["serve", "dev"].contains(&words[1]) {
                continue;
            }
            seen += 1;
            if let Err(error) = known.clone().try_get_matches_from(&words) {
                let help = clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
                assert_eq!(error.kind(), help, "`{command}` in {file}: {error}");
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_endpoint_that_is_named_exists() {
    let description = serde_json::to_value(paystream::http::description()).unwrap();
    let paths: Vec<&String> = description["paths"].as_object().unwrap().keys().collect();
    let fits = |path: &str, known: &str| {
        let (mut given, mut wanted) = (path.split('/'), known.split('/'));
        loop {
            match (given.next(), wanted.next()) {
                (None, None) => return true,
                (Some(_), Some(part)) if part.starts_with('{') => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    };
    let mut seen = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for (at, _) in text.match_indices("/api/v1/") {
            let rest = &text[at..];
            let stop = |c: char| c.is_whitespace() || "`'\",;)?|".contains(c);
            let path = rest[..rest.find(stop).unwrap_or(rest.len())].trim_end_matches(['.', ':']);
            assert!(paths.iter().any(|known| fits(path, known)), "{path} in {document}");
            let before = text[..at].trim_end().rsplit([' ', '`']).next().unwrap_or_default();
            if ["GET", "POST", "PUT", "DELETE", "PATCH"].contains(&before) {
                let known = paths.iter().find(|known| fits(path, known)).unwrap();
                let methods = &description["paths"][known.as_str()];
                assert!(
                    methods.get(before.to_lowercase()).is_some(),
                    "{before} {path} in {document}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

#[test]
fn every_problem_code_is_documented_with_its_status() {
    let documented: BTreeMap<String, String> = table(section(&read("RUNBOOK.md"), "Problem codes"))
        .into_iter()
        .filter(|row| row[0].starts_with('`'))
        .map(|row| (row[0].replace('`', ""), row[1].clone()))
        .collect();
    let known: BTreeMap<String, String> = paystream::http::CODES
        .iter()
        .map(|(code, status, _)| ((*code).to_owned(), status.to_string()))
        .collect();
    assert_eq!(documented, known);
    // And in the prose: `503 some_code`, or a status followed by a code.
    for document in DOCUMENTS {
        let text = read(document);
        for (status, rest) in text.match_indices(" `").filter_map(|(at, _)| {
            let status = text[..at].rsplit([' ', '\n', '|']).next()?;
            let code = text[at + 2..].split('`').next()?;
            let is_code = code.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            (status.len() == 3 && status.parse::<u16>().is_ok() && is_code)
                .then_some((status, code))
        }) {
            let wanted = known.get(rest).map(String::as_str);
            assert_eq!(wanted, Some(status), "{status} `{rest}` in {document}");
        }
    }
}

/// Names of the files below a folder, from the root.
fn sources(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.trim_end_matches('/').to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                folders.push(name);
            } else if name.ends_with(".rs") || name.ends_with(".lua") {
                files.push(name);
            }
        }
    }
    files
}

#[test]
fn every_bound_is_in_the_table_of_limits() {
    let limits = table(&read("docs/limits.md"));
    let places: BTreeSet<&str> = limits.iter().flat_map(|row| quoted(&row[2])).collect();
    let bound = |line: &str| {
        let name = line.trim_start_matches("pub ").trim_start_matches("pub(super) ");
        let name = name.strip_prefix("const ")?.split(':').next()?;
        let bounds = ["_MAX", "TIMEOUT", "PATIENCE", "DEADLINE"];
        (bounds.iter().any(|end| name.ends_with(end)) || ["WAIT", "LEASE"].contains(&name))
            .then_some(name.to_owned())
    };
    let mut seen = 0;
    for file in sources("src/") {
        let mut serving =
            "http/ console/ stream/ worker/ ledger/ operations/ monitor/ app/".split(' ');
        let short = file.strip_prefix("src/").unwrap();
        if !serving.any(|place| short.starts_with(place)) || short.contains("/tests") {
            continue;
        }
        let text = fs::read_to_string(root().join(&file)).unwrap();
        for name in text.lines().filter_map(bound) {
            assert!(places.contains(short), "{name} of {short} is not in docs/limits.md");
            seen += 1;
        }
    }
    assert!(seen > 15);
}

#[test]
fn every_file_that_is_named_exists() {
    let files = sources("src/");
    let exists = |place: &str| {
        root().join(place).exists() || files.iter().any(|file| file.ends_with(&format!("/{place}")))
    };
    for document in DOCUMENTS {
        let text = read(document);
        let is_source = |place: &&str| place.ends_with(".rs") || place.ends_with(".lua");
        for place in quoted(&text).into_iter().filter(is_source) {
            assert!(exists(place), "`{place}` in {document} is no file");
        }
        let folder = root().join(document).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let inside = !target.is_empty() && !target.contains("://");
            assert!(!inside || folder.join(target).exists(), "{target} in {document}");
        }
    }
}

#[test]
fn every_attempt_names_a_test_that_tries_it() {
    let page = read("docs/attempts.md");
    let mut seen = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attempt"))
    {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        if tests == "the same" {
            continue;
        }
        for name in tests.split(", ") {
            let (module, test) = name.trim_matches('`').split_once("::").unwrap();
            // A table of unit tests, or one test.
            let unit = format!("src/{module}/{test}.rs");
            let found = match root().join(&unit).exists() {
                true => read(&unit).contains("#[test]"),
                false => read(&format!("tests/it/{module}.rs")).contains(&format!("fn {test}()")),
            };
            assert!(found, "{name} is no test: {row}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[tokio::test]
async fn every_breakage_of_the_storm_fits_the_sources() {
    let page = read("docs/storm.md");
    let mut seen = 0;
    for entry in fs::read_dir(root().join("crates/storm/breakages")).unwrap() {
        let patch = entry.unwrap().path();
        let mut check = tokio::process::Command::new("git");
        check.args(["apply", "--check"]).arg(&patch).current_dir(root());
        let checked = check.output().await.unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let name = patch.file_stem().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/storm.md");
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}

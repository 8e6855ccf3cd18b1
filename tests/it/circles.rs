//! Proves that no files of the service import each other in a circle, so that each can be
//! read after those that it names. Reads the sources; knows no code.

use std::collections::{BTreeMap, BTreeSet};

use crate::rooms::{is_name, sources};

/// A path from the root, or of names in a file.
type ModulePath = Vec<String>;

/// Something that a file imports.
struct Import {
    path: ModulePath,
    /// Only to pass it on.
    passes_on: bool,
    /// Not in a function or a module inside the file: others may name it by this file.
    is_outer: bool,
}

/// A file as others name it.
#[derive(Default)]
struct Module {
    imports: Vec<Import>,
    /// Paths in its code that begin with `crate` or `super`.
    inline: Vec<ModulePath>,
}

fn modules() -> BTreeMap<ModulePath, Module> {
    let mut modules = BTreeMap::new();
    for file in sources() {
        let name = file.name.trim_start_matches("src/").trim_end_matches(".rs");
        let name = name.trim_end_matches("/mod");
        if ["lib", "main"].contains(&name) || name.split('/').any(|part| part == "tests") {
            continue;
        }
        let mut tests = file.code.match_indices("#[cfg(test)]\n");
        let is_inline = |rest: &str| rest.lines().nth(1).is_some_and(|line| line.ends_with('{'));
        let end = tests.find(|(at, _)| is_inline(&file.code[*at..]));
        let code = &file.code[..end.map_or(file.code.len(), |(at, _)| at)];
        modules.insert(name.split('/').map(str::to_owned).collect(), read(code));
    }
    modules
}

fn read(code: &str) -> Module {
    let mut module = Module::default();
    for statement in code.split(';') {
        let Some(at) = statement.find("use ").filter(|at| !statement[..*at].ends_with(is_name))
        else {
            continue;
        };
        let passes_on = statement[..at].trim_end().ends_with([')', 'b']);
        let is_outer = !statement[..at].ends_with(' ') || passes_on;
        let mut paths = Vec::new();
        expand(&[], &statement[at + 4..], &mut paths);
        let import = |path| Import { path, passes_on, is_outer };
        module.imports.extend(paths.into_iter().map(import));
    }
    for begin in ["crate::", "super::"] {
        for (at, _) in code.match_indices(begin).filter(|(at, _)| !code[..*at].ends_with("::")) {
            let path = code[at..].split(|c| !is_name(c) && c != ':').next().unwrap();
            let path = names(path);
            // What comes before the braces of an import is read with it.
            if path.last().is_some_and(|last| !["crate", "super"].contains(&last.as_str())) {
                module.inline.push(path);
            }
        }
    }
    module
}

fn names(path: &str) -> ModulePath {
    let names = path.split("::").map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// The paths of an import, whatever is in braces.
fn expand(before: &[String], tree: &str, paths: &mut Vec<ModulePath>) {
    let (mut depth, mut begin) = (0, 0);
    for (at, c) in tree.char_indices().chain([(tree.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = tree[begin..at].trim();
                begin = at + 1;
                match item.split_once('{') {
                    Some((head, rest)) => {
                        let before = [before, &names(head)].concat();
                        expand(&before, rest.strip_suffix('}').unwrap_or(rest), paths);
                    }
                    None if item.is_empty() => {}
                    None => {
                        let item = item.split(" as ").next().unwrap();
                        paths.push([before, &names(item)].concat());
                    }
                }
            }
            _ => {}
        }
    }
}

/// The file that a path in the file `here` leads to, through what others pass on.
fn owner(
    modules: &BTreeMap<ModulePath, Module>,
    here: &ModulePath,
    path: &ModulePath,
    steps: u8,
) -> Option<ModulePath> {
    let mut rest = path.as_slice();
    let mut place = match rest.first()?.as_str() {
        "crate" => ModulePath::new(),
        "super" => here[..here.len() - 1].to_vec(),
        "self" => here.clone(),
        child => {
            let child = [here.as_slice(), &[child.to_owned()]].concat();
            modules.contains_key(&child).then(|| here.clone())?
        }
    };
    if ["crate", "super", "self"].contains(&rest[0].as_str()) {
        rest = &rest[1..];
    }
    while let Some(name) = rest.first() {
        if name == "super" {
            place.pop();
        } else {
            let inner = [place.as_slice(), std::slice::from_ref(name)].concat();
            if !modules.contains_key(&inner) {
                break;
            }
            place = inner;
        }
        rest = &rest[1..];
    }
    let module = modules.get(&place)?;
    let mut imports = module.imports.iter().filter(|one| one.is_outer && steps > 0);
    let passed_on = imports.find(|one| one.path.last() == rest.first());
    passed_on.and_then(|one| owner(modules, &place, &one.path, steps - 1)).or(Some(place))
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let mut edges: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
    for (here, module) in &modules {
        let imported = module.imports.iter().filter(|one| !one.passes_on);
        let paths = imported.map(|one| &one.path).chain(&module.inline);
        let owners = paths.filter_map(|path| owner(&modules, here, path, 6));
        edges.insert(here, owners.filter(|owner| owner != here).collect());
    }
    let reached = |from: &ModulePath| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            next.extend(edges[at].iter().filter(|to| reached.insert((*to).clone())));
        }
        reached
    };
    let reaches: BTreeMap<&ModulePath, BTreeSet<ModulePath>> =
        modules.keys().map(|file| (file, reached(file))).collect();
    assert!(reaches.values().any(|reach| reach.len() > 10), "imports are found");
    let mut wrong = Vec::new();
    for (file, named) in &edges {
        let back = named.iter().filter(|to| reaches[to].contains(*file));
        let back: Vec<String> = back.map(|to| to.join("::")).collect();
        if !back.is_empty() {
            wrong.push(format!("{} names {}", file.join("::"), back.join(" and ")));
        }
    }
    assert!(wrong.is_empty(), "files in a circle:\n{}", wrong.join("\n"));
}

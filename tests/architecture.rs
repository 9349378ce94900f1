//! The order of the modules, read off the source text: who imports whom, how long files are, who prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of modules. A module imports only from rows above its own.
const ROWS: &[&[&str]] = &[
    &["error", "files", "hub", "installed"],
    &["config", "ops"],
    &["data", "distributed", "models"],
    &["rewards", "losses", "ranking"],
    &["trainer", "eval"],
    &["run"],
    &["report", "jobs"],
    &["cli"],
];

/// Imports inside a row, each with its reason.
const WITHIN_A_ROW: &[(&str, &str, &str)] = &[
    ("files", "error", "a refused file operation is an error too"),
    ("hub", "error", "so is a refusal of the hub"),
    (
        "hub",
        "files",
        "what is read of a name is stored as an absolute path",
    ),
];

/// Imports that the rows would allow but the design does not.
const FORBIDDEN: &[(&str, &str, &str)] = &[(
    "models",
    "config",
    "models are described by their own folders, not by a run's configuration",
)];

/// Every import there is. A new one is a decision: it is made here.
const EDGES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("files", &["error"]),
    ("hub", &["error", "files"]),
    ("installed", &[]),
    ("config", &["error", "files", "hub", "installed"]),
    ("ops", &["error"]),
    ("data", &["error", "files", "ops"]),
    ("distributed", &["error", "ops"]),
    ("models", &["error", "files", "hub", "ops"]),
    ("rewards", &["error", "ops", "data", "models"]),
    ("losses", &["ops"]),
    (
        "trainer",
        &[
            "error",
            "config",
            "ops",
            "data",
            "distributed",
            "models",
            "rewards",
            "losses",
        ],
    ),
    ("ranking", &["error", "ops", "data"]),
    ("eval", &["ops", "rewards"]),
    (
        "run",
        &[
            "error", "files", "hub", "config", "ops", "data", "models", "trainer",
        ],
    ),
    ("report", &["error", "files", "data", "eval", "run"]),
    (
        "jobs",
        &[
            "error",
            "files",
            "hub",
            "installed",
            "config",
            "ops",
            "data",
            "distributed",
            "models",
            "rewards",
            "ranking",
            "trainer",
            "eval",
            "run",
        ],
    ),
    (
        "cli",
        &[
            "error",
            "files",
            "hub",
            "installed",
            "config",
            "ops",
            "data",
            "distributed",
            "models",
            "rewards",
            "losses",
            "ranking",
            "trainer",
            "eval",
            "run",
            "report",
            "jobs",
        ],
    ),
];

const LONGEST_FILE: usize = 600;

/// Macros that write to the terminal.
const PRINTING: &[&str] = &["println!", "print!", "eprintln!", "eprint!", "dbg!"];

fn row(module: &str) -> usize {
    let row = ROWS.iter().position(|row| row.contains(&module));
    row.unwrap_or_else(|| panic!("the module `{module}` has no row"))
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

/// All files of `src` with their paths below it.
fn source() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    rust_files(&root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
        (name.to_owned(), fs::read_to_string(&path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// The text without comments: whole lines of them, and what follows a statement.
fn code(text: &str) -> String {
    let line = |line: &str| {
        let end = line.find("// ").filter(|&at| !line[..at].contains('"'));
        line[..end.unwrap_or(line.len())].to_owned()
    };
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The top-level modules that follow `crate::`, alone or as a list in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let identifier = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let after = &text[at + "crate::".len()..];
        let Some(list) = after.strip_prefix('{') else {
            found.insert(identifier(after));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.insert(identifier(&list[start..at]));
                    start = at + 1;
                    if letter == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found.remove("");
    // The two names that lib.rs re-exports belong to `error`.
    if found.remove("Error") | found.remove("Result") {
        found.insert("error".to_owned());
    }
    found
}

/// The top-level module that a file belongs to; `None` for the roots of the library and the binaries.
fn module_of(file: &str) -> Option<&str> {
    match file {
        "lib.rs" | "main.rs" | "launch.rs" => None,
        _ => file.split('/').next()?.split('.').next(),
    }
}

fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in source() {
        let Some(module) = module_of(&file) else {
            continue;
        };
        let mut targets = imports(&code(&text));
        targets.remove(module);
        edges.entry(module.to_owned()).or_default().extend(targets);
    }
    edges
}

#[test]
fn modules_import_only_what_the_table_lists() {
    let listed: BTreeMap<String, BTreeSet<String>> = EDGES
        .iter()
        .map(|(module, targets)| {
            let targets = targets.iter().map(|&target| target.to_owned());
            ((*module).to_owned(), targets.collect())
        })
        .collect();
    let real = edges();
    for (module, targets) in &real {
        let known = listed.get(module).cloned().unwrap_or_default();
        let new: Vec<_> = targets.difference(&known).collect();
        assert!(
            new.is_empty(),
            "`{module}` has come to import {new:?}: if that is meant, list it in EDGES"
        );
        let gone: Vec<_> = known.difference(targets).collect();
        assert!(
            gone.is_empty(),
            "`{module}` no longer imports {gone:?}: remove it from EDGES"
        );
    }
    let unknown: Vec<_> = listed
        .keys()
        .filter(|module| !real.contains_key(*module))
        .collect();
    assert!(
        unknown.is_empty(),
        "EDGES lists {unknown:?}, which are not there"
    );
}

#[test]
fn the_table_keeps_the_order_of_the_rows() {
    for (module, targets) in EDGES {
        for target in *targets {
            let listed = WITHIN_A_ROW
                .iter()
                .any(|(from, to, _)| from == module && to == target);
            assert!(
                row(target) < row(module) || listed && row(target) == row(module),
                "`{module}` (row {}) imports `{target}` (row {})",
                row(module),
                row(target)
            );
            let forbidden = FORBIDDEN
                .iter()
                .find(|(from, to, _)| from == module && to == target);
            assert!(
                forbidden.is_none(),
                "`{module}` imports `{target}`: {forbidden:?}"
            );
        }
    }
}

#[test]
fn files_are_short() {
    for (file, text) in source() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "src/{file} has {lines} lines");
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for (file, text) in source() {
        assert!(text.starts_with("//! "), "src/{file} has no module header");
    }
}

#[test]
fn only_the_command_line_prints() {
    for (file, text) in source() {
        if file == "main.rs" || module_of(&file) == Some("cli") {
            continue;
        }
        let code = code(&text);
        let printing = PRINTING.iter().find(|printing| code.contains(**printing));
        assert!(printing.is_none(), "src/{file} calls {printing:?}");
    }
}

#[test]
fn jobs_know_no_command_line() {
    for (file, text) in source() {
        if module_of(&file) == Some("jobs") {
            let code = code(&text);
            for name in ["clap", "indicatif", "crate::cli"] {
                assert!(!code.contains(name), "src/{file} names `{name}`");
            }
        }
    }
}

/// The file that holds the module of a path below `src`, if it is one of `files`.
fn file_of(path: &[String], files: &BTreeSet<String>) -> Option<String> {
    // The longest beginning of the path that is a module: what follows are its items.
    (1..=path.len()).rev().find_map(|length| {
        let module = path[..length].join("/");
        [format!("{module}.rs"), format!("{module}/mod.rs")]
            .into_iter()
            .find(|file| files.contains(file))
    })
}

/// The path of the module that a file holds.
fn path_of(file: &str) -> Vec<String> {
    let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
    module.split('/').map(str::to_owned).collect()
}

/// The paths of the modules below a file's own that its code names, as `child::item` does without an import.
fn named_children(file: &str, text: &str) -> Vec<Vec<String>> {
    let code = code(text);
    let declared = code.lines().filter_map(|line| {
        let (before, name) = line.trim().rsplit_once("mod ")?;
        let is_declaration = before.is_empty() || before.starts_with("pub");
        name.strip_suffix(';').filter(|_| is_declaration)
    });
    let is_named = |child: &&str| {
        let path = format!("{child}::");
        code.match_indices(&path).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            before.is_none_or(|letter| !letter.is_alphanumeric() && !"_:".contains(letter))
        })
    };
    declared
        .filter(is_named)
        .map(|child| [path_of(file), vec![child.to_owned()]].concat())
        .collect()
}

/// Every path that a `use` statement of a file names, from the root of the crate.
fn used_paths(file: &str, text: &str) -> Vec<Vec<String>> {
    let code = code(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let begins = code[..at].trim_end_matches([' ', '\t']);
        if !(begins.is_empty()
            || begins.ends_with('\n')
            || begins.ends_with(')')
            || begins.ends_with("pub"))
        {
            continue;
        }
        let statement: String = code[at + 4..]
            .chars()
            .take_while(|&letter| letter != ';')
            .collect();
        expand(&statement, &[], &mut found);
    }
    found
        .into_iter()
        .filter_map(|path: Vec<String>| {
            let own = path_of(file);
            let mut parts = path.into_iter().peekable();
            let mut base = match parts.next()?.as_str() {
                "crate" => Vec::new(),
                "self" => own,
                "super" => own[..own.len() - 1].to_vec(),
                _ => return None,
            };
            while parts.peek().is_some_and(|part| part == "super") {
                parts.next();
                base.pop();
            }
            base.extend(parts);
            Some(base)
        })
        .collect()
}

/// Adds the paths of a tree of imports such as `a::{b, c::{self, d}}`.
fn expand(tree: &str, before: &[String], into: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or(tree);
        let parts = name.split("::").map(|part| part.trim().to_owned());
        let path: Vec<String> = before.iter().cloned().chain(parts).collect();
        into.push(path.into_iter().filter(|part| !part.is_empty()).collect());
        return;
    };
    let parts = tree[..open].split("::").map(|part| part.trim().to_owned());
    let prefix: Vec<String> = before
        .iter()
        .cloned()
        .chain(parts.filter(|part| !part.is_empty()))
        .collect();
    let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inside[start..at], &prefix, into);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inside[start..].trim().is_empty() {
        expand(&inside[start..], &prefix, into);
    }
}

/// Files among which an import leads back to where it began: each circle once, as the list of its files.
fn circles(modules: &[&str]) -> Vec<Vec<String>> {
    let source = source();
    let files: BTreeSet<String> = source.iter().map(|(file, _)| file.clone()).collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in &source {
        if !module_of(file).is_some_and(|module| modules.contains(&module)) {
            continue;
        }
        let own = edges.entry(file.clone()).or_default();
        for path in [used_paths(file, text), named_children(file, text)].concat() {
            let path: Vec<String> = path.into_iter().filter(|part| part != "self").collect();
            own.extend(file_of(&path, &files).filter(|target| target != file));
        }
    }
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for start in edges.keys() {
        // What is reached from here, and whether one of it leads back.
        let mut reached: BTreeMap<&String, &String> = BTreeMap::new();
        let mut open = vec![start];
        while let Some(file) = open.pop() {
            for target in edges.get(file).into_iter().flatten() {
                if target == start {
                    let mut circle = vec![file.clone()];
                    let mut at = file;
                    while at != start {
                        at = reached[at];
                        circle.push(at.clone());
                    }
                    circle.sort();
                    found.insert(circle);
                } else if !reached.contains_key(target) && edges.contains_key(target) {
                    reached.insert(target, file);
                    open.push(target);
                }
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn files_of_jobs_and_of_the_command_line_import_in_no_circle() {
    let circles = circles(&["jobs", "cli"]);
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn imports_are_found_in_every_spelling() {
    let text = "use crate::ops::{self, tape};\nuse crate::{Error, data::{photo, png}, models::clip};\n\
                fn f(x: &crate::run::Run) {} // crate::report";
    let found: Vec<String> = imports(&code(text)).into_iter().collect();
    assert_eq!(found, ["data", "error", "models", "ops", "run"]);
}

//! The help of every verb, as it is written: a change of the command line shows in `tests/help`. `PREFTUNE_WRITE=1 cargo test
//! help` writes the pages anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn preftune(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .args(arguments)
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that a page of help lists.
fn verbs(page: &str) -> Vec<String> {
    let commands = page.lines().skip_while(|line| *line != "Commands:").skip(1);
    commands
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

/// Every page, by the words that ask for it.
fn pages() -> Vec<(Vec<String>, String)> {
    let mut pages = Vec::new();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let page = preftune(&arguments);
        open.extend(
            verbs(&page)
                .into_iter()
                .map(|verb| [words.clone(), vec![verb]].concat()),
        );
        pages.push((words, page));
    }
    pages
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help")
}

#[test]
fn help_of_every_verb_is_as_it_was_last_read() {
    let write = std::env::var_os("PREFTUNE_WRITE").is_some();
    let mut names = BTreeSet::new();
    for (words, page) in pages() {
        let name = [vec!["preftune".to_owned()], words].concat().join("-") + ".txt";
        let path = folder().join(&name);
        if write {
            fs::create_dir_all(folder()).unwrap();
            fs::write(&path, &page).unwrap();
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            known, page,
            "tests/help/{name} is not what the program says: read the change and write it by `PREFTUNE_WRITE=1 cargo test help`"
        );
        names.insert(name);
    }
    let kept = fs::read_dir(folder()).unwrap();
    let kept: BTreeSet<String> = kept
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, names);
}

#[test]
fn every_verb_has_an_example_that_parses() {
    for (words, page) in pages() {
        if words.is_empty() || words == ["eval"] {
            continue;
        }
        let examples: Vec<&str> = page
            .lines()
            .skip_while(|line| !line.starts_with("Example"))
            .skip(1)
            .collect();
        let examples = examples.join("\n").replace("\n          ", " ");
        let name = words.join(" ");
        assert!(
            examples.contains(&format!("preftune {name} ")),
            "{name}: {page}"
        );
    }
}

#[test]
fn flags_stand_under_the_heading_that_is_theirs() {
    for (words, page) in pages() {
        let mut heading = "";
        for line in page.lines() {
            if !line.starts_with(' ') && line.ends_with(':') {
                heading = line;
            }
            let flag = line.split_whitespace().find(|word| word.starts_with("--"));
            if ["--device", "--quiet", "--json", "--seed"].contains(&flag.unwrap_or_default())
                && line.trim_start().starts_with('-')
            {
                assert_eq!(heading, "Options:", "{words:?}: {line}");
            }
        }
    }
}

#[test]
fn completions_and_manual_pages_name_every_verb() {
    let script = preftune(&["completions", "bash"]);
    let folder = tempfile::tempdir().unwrap();
    preftune(&["man", "--out", folder.path().to_str().unwrap()]);
    for verb in verbs(&preftune(&["--help"])) {
        assert!(
            script.contains(&format!("preftune__{verb}")) || script.contains(&verb),
            "{verb}"
        );
        let page = folder.path().join(format!("preftune-{verb}.1"));
        let page = fs::read_to_string(page).unwrap();
        assert!(page.contains(".SH OPTIONS"), "{verb}");
    }
}

#[test]
fn the_verb_of_rounds_has_its_earlier_name_too() {
    assert_eq!(
        preftune(&["iterate", "--help"]).replace("iterate", "rounds"),
        preftune(&["rounds", "--help"]).replace("iterate", "rounds")
    );
}

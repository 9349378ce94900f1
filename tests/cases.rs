//! Inputs that people have met, run as their `cmd` says: the folder `cases` of the shared data, each with its exit code and
//! the words that it must say.
//!
//! A row is `(case, exit code, words on stdout or stderr, words on neither)`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::command::{Folder, Ran};
use crate::support::shared;

type Case = (
    &'static str,
    i32,
    &'static [&'static str],
    &'static [&'static str],
);

/// What no command may ever say.
const NEVER: [&str; 3] = ["internal error", "panicked", "frame #"];

/// Links everything in `from` into `folder`.
fn link_all(from: &Path, folder: &Folder) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = folder.path(entry.file_name().to_str().unwrap());
        if !to.exists() {
            symlink(entry.path(), to).unwrap();
        }
    }
}

/// The arguments of a `cmd`: what follows the program's name up to a remark; a prompt is one argument.
fn arguments(cmd: &str) -> Vec<String> {
    let cmd = cmd.split("   #").next().unwrap_or_default();
    let words = cmd
        .split_whitespace()
        .skip_while(|word| *word != "preftune");
    let mut arguments: Vec<String> = Vec::new();
    let mut in_prompt = false;
    for word in words.skip(1) {
        let is_flag = word.starts_with("--");
        match arguments.last_mut() {
            Some(prompt) if in_prompt && !is_flag && !prompt.starts_with("--") => {
                prompt.push(' ');
                prompt.push_str(word);
            }
            _ => arguments.push(word.to_owned()),
        }
        in_prompt = in_prompt && !is_flag || word == "--prompt";
    }
    arguments
}

/// Runs a case of `group`, with more arguments.
fn ran(cases: &Path, group: &str, name: &str, more: &[&str]) -> Ran {
    let folder = Folder::new();
    link_all(cases, &folder);
    link_all(&cases.join(group), &folder);
    let cmd = fs::read_to_string(cases.join(group).join(name).join("cmd")).unwrap();
    let arguments = arguments(&cmd);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    folder.binary(&[&arguments, more].concat())
}

#[track_caller]
fn check(group: &str, table: &[Case]) {
    let Some(cases) = shared("cases") else {
        return;
    };
    let mut wrong = Vec::new();
    for (name, code, words, never) in table {
        let ran = ran(&cases, group, name, &[]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let lacks = words.iter().filter(|word| !said.contains(**word));
        let has = never
            .iter()
            .chain(&NEVER)
            .filter(|word| said.contains(**word));
        let lacks: Vec<_> = lacks.collect();
        let has: Vec<_> = has.collect();
        if ran.code != *code || !lacks.is_empty() || !has.is_empty() {
            wrong.push(format!(
                "{group}/{name}: code {} for {code}, lacks {lacks:?}, says {has:?}:\n{said}",
                ran.code
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn texts_of_all_layouts_are_read_or_refused_for_what_they_are() {
    check(
        "texts",
        &[
            (
                "01-hh-no-prompt-prefix",
                0,
                &[
                    "Assistant:\"",
                    "reward 1: \" Yes you should.",
                    "reward 0: \" Yes<",
                ],
                &["left out"],
            ),
            (
                "02-hh-identical",
                2,
                &[
                    "reward 1: \" Hello",
                    "1 row: the chosen and the rejected answer are identical (`02-hh-identical/data.jsonl`, line 1)",
                    "1 of 2 rows cannot be used",
                ],
                &[],
            ),
            (
                "05-h4-empty-rejected",
                2,
                &[
                    "3 of 4 rows cannot be used",
                    "1 row: the rejected answer is empty",
                    "1 row: the chosen and the rejected answer are identical",
                    "1 row: the chosen answer is empty",
                    "training: 1 examples",
                ],
                &[],
            ),
            (
                "07-openai-preference",
                0,
                &[
                    "user\\nWhy?",
                    "reward 1: \"Because",
                    "reward 0: \"No",
                    "`parallel_tool_calls`",
                ],
                &[],
            ),
            (
                "10-sharegpt-function-call",
                0,
                &["user\\nAdd", "add", "tool\\n3", "reward 1: \"Three"],
                &[],
            ),
            (
                "12-kto-llamafactory",
                0,
                &["user\\nHi", "reward 1: \"Hello"],
                &["not used"],
            ),
            (
                "13-kto-float-label",
                0,
                &["reward 1: \" Hello", "reward 0: \" Go"],
                &[],
            ),
            (
                "17-helpsteer3",
                0,
                &[
                    "user\\nWhy?",
                    "reward 1: \"Because",
                    "reward 0: \"No",
                    "not used: `domain`, `language`",
                ],
                &[],
            ),
            (
                "19-content-parts",
                0,
                &["user\\nWhy?", "reward 1: \"Because"],
                &[],
            ),
            (
                "20-null-toolcalls-empty",
                2,
                &["line 1: the rejected answer is empty"],
                &[],
            ),
            (
                "24-json-array-bom",
                0,
                &[
                    "Why is the sky blue?",
                    "reward 1: \" Because of Rayleigh scattering.",
                ],
                &[],
            ),
            (
                "40-argilla-7k",
                0,
                &[
                    "Why?",
                    "reward 1: \"Because",
                    "not used: `chosen_model`, `source`",
                ],
                &[],
            ),
            (
                "41-argilla-dash-rating",
                0,
                &["user\\nWhy?", "reward 1: \"Because", "not used: `source`"],
                &[],
            ),
            (
                "44-chosen-role-user",
                2,
                &[
                    "line 1: the rejected answer ends with a message of \"user\", not of the assistant",
                ],
                &[],
            ),
            (
                "47-csv",
                0,
                &["Hi", "reward 1: \"Hello", "reward 0: \"Go"],
                &[],
            ),
            (
                "48-dir-of-parquet",
                0,
                &["training: 2 examples", "2 rows of 2 files"],
                &[],
            ),
            (
                "512-parquet-empty-answer",
                2,
                &[
                    "the rejected answer is empty",
                    "row 2",
                    "1 of 2 rows cannot be used",
                ],
                &[],
            ),
            (
                "552-llamafactory-history",
                0,
                &[
                    "What colour is the sky?",
                    "Blue.",
                    "And why?",
                    "reward 1: \"Rayleigh",
                ],
                &["not used"],
            ),
            (
                "554-prompt-repeated",
                0,
                &["Be nice", "reward 1: \"Hello", "reward 0: \"Go"],
                &["reward 1: \"user"],
            ),
            (
                "556-messages-pairs",
                0,
                &["user\\nHi", "reward 1: \"Hello", "reward 0: \"Go"],
                &["prompt, 0 tokens"],
            ),
        ],
    );
}

#[test]
fn damaged_parquet_is_named() {
    let Some(cases) = shared("cases") else {
        return;
    };
    for case in ["in-parquet-001", "in-parquet-002", "in-parquet-003"] {
        let folder = Folder::new();
        link_all(&cases.join("hostile").join(case), &folder);
        let base = crate::support::golden("text/model");
        let base = format!("model.base={}", base.display());
        let ran = folder.binary(&["inspect", "t.toml", "--set", &base]);
        ran.refused("`data.parquet`");
    }
}

//! Rewards of answers and pairs of them, through the binary.

use std::process::Command;

use preftune::data::text::{Shape, read};
use serde_json::{Value, json};

#[test]
fn answers_are_scored_compared_and_paired() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, texts: [&str; 4]| {
        let lines = texts.iter().enumerate().map(|(place, text)| {
            let prompt = json!([{"role": "user", "content": format!("question {}", place / 2)}]);
            json!({"prompt": prompt, "text": text}).to_string() + "\n"
        });
        std::fs::write(at(name), lines.collect::<String>()).unwrap();
    };
    file(
        "before.jsonl",
        ["It is terrible.", "It is good.", "A table.", "A chair."],
    );
    file(
        "after.jsonl",
        [
            "It is wonderful!",
            "It is good.",
            "A table.",
            "A lovely chair.",
        ],
    );
    let run = |arguments: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preftune"));
        let output = command.args(arguments).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        (String::from_utf8(output.stdout).unwrap(), message)
    };
    let (before, after, out) = (at("before.jsonl"), at("after.jsonl"), at("pairs.jsonl"));
    let (shown, _) = run(&["score", "--answers", &before, &after, "--json"], 0);
    let report: Value = serde_json::from_str(&shown).unwrap();
    let second = &report["files"][1];
    assert!(
        second["difference"]["mean"].as_f64().unwrap() > 0.3,
        "{second}"
    );
    // Wins, losses and ties as halves: of the first prompt 2 + 1 + 0.5 of 4, of the second 2 + 2 * 0.5.
    let wins = second["win_rate"]["mean"].as_f64().unwrap();
    assert!(
        (wins - f64::midpoint(3.5 / 4.0, 0.75)).abs() < 1e-9,
        "{wins}"
    );

    run(&["label", "--answers", &before, "--out", &out], 0);
    let pairs = read(out.as_ref(), Shape::Pairs).unwrap();
    assert_eq!(pairs.len(), 1, "the second prompt's answers are alike");
    assert!(pairs[0].scores.unwrap()[0] > 0.0 && pairs[0].scores.unwrap()[1] < 0.0);

    let (_, message) = run(
        &[
            "label",
            "--answers",
            &before,
            "--out",
            &out,
            "--min-gap",
            "3",
        ],
        2,
    );
    assert!(
        message.contains("no two answers to a prompt differ"),
        "{message}"
    );
    std::fs::write(
        at("bad.jsonl"),
        "{\"prompt\": \"p\", \"text\": \"t\"}\n{\"prompt\": 3, \"text\": \"t\"}\n",
    )
    .unwrap();
    let (_, message) = run(&["score", "--answers", &at("bad.jsonl")], 2);
    assert!(message.contains("line 2"), "{message}");
    run(&["score", "--json"], 2);
}

//! Rewards of answers and pairs of them, through the binary.

use std::fs;

use preftune::data::text::{Shape, read};
use serde_json::{Value, json};

use crate::command::Folder;

/// Two answers to each of two questions.
fn answers(texts: [&str; 4]) -> Vec<Value> {
    let row = |(place, text): (usize, &&str)| {
        let prompt = json!([{"role": "user", "content": format!("question {}", place / 2)}]);
        json!({"prompt": prompt, "text": text})
    };
    texts.iter().enumerate().map(row).collect()
}

#[test]
fn answers_are_scored_compared_and_paired() {
    let folder = Folder::new();
    let before = ["It is terrible.", "It is good.", "A table.", "A chair."];
    let after = [
        "It is wonderful!",
        "It is good.",
        "A table.",
        "A lovely chair.",
    ];
    folder.lines("before.jsonl", &answers(before));
    folder.lines("after.jsonl", &answers(after));
    let run = |arguments: &str| folder.binary(&arguments.split(' ').collect::<Vec<_>>());

    let report = run("score --answers before.jsonl after.jsonl --reward sentiment --json").done();
    let second = report.json()["files"][1].clone();
    let difference = second["difference"]["mean"].as_f64().unwrap();
    assert!(difference > 0.3, "{second}");
    // Wins, losses and ties as halves: of the first prompt 2 + 1 + 0.5 of 4, of the second 2 + 2 * 0.5.
    let wins = second["win_rate"]["mean"].as_f64().unwrap();
    let expected = f64::midpoint(3.5 / 4.0, 0.75);
    assert!((wins - expected).abs() < 1e-9, "{wins}");

    run("label --answers before.jsonl --reward sentiment --out pairs.jsonl").done();
    let pairs = read(&folder.path("pairs.jsonl"), Shape::Pairs).unwrap();
    assert_eq!(pairs.len(), 1, "the second prompt's answers are alike");
    assert!(pairs[0].scores.unwrap()[0] > 0.0 && pairs[0].scores.unwrap()[1] < 0.0);
    // Training data are scored and labelled by it too.
    let scored = run("score --data pairs.jsonl --reward sentiment --json").done();
    assert_eq!(scored.json()["accuracy"], 1.0);

    run("label --answers before.jsonl --reward sentiment --out pairs.jsonl --min-gap 3")
        .refused("no two answers to a prompt differ");
    run("score --answers before.jsonl --json").refused("--reward");
    run("score --json").refused("required");
    let bad = "{\"prompt\": \"p\", \"text\": \"t\"}\n{\"prompt\": 3, \"text\": \"t\"}\n";
    fs::write(folder.path("bad.jsonl"), bad).unwrap();
    run("score --answers bad.jsonl --reward sentiment").refused("line 2");
}

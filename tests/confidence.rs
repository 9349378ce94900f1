//! `preftune eval confidence` through the binary, and its statistics.

use std::fs;
use std::process::{Command, Output};

use preftune::ranking::selective::{Score, compare};
use serde_json::Value;

fn score(name: &str, values: &[f64]) -> Score {
    Score {
        name: name.to_owned(),
        values: values.to_vec(),
    }
}

#[track_caller]
fn near(value: f64, expected: f64) {
    assert!(
        (value - expected).abs() < 1e-12,
        "{value} is not {expected}"
    );
}

#[test]
fn scores_are_measured_as_in_the_worked_example() {
    let correct = [true, false, true, true, false, true];
    let scores = [
        score("direct", &[0.9, 0.8, 0.8, 0.6, 0.4, 0.3]),
        score("even", &[0.5; 6]),
    ];
    let rows = compare(&scores, &correct, 400, 1).unwrap();
    near(rows[0].selective_auc, 0.738888888888889);
    near(rows[0].auroc.unwrap(), 0.5625);
    near(rows[0].accuracy_at_half, 2.0 / 3.0);
    // A score that says nothing has the accuracy of all at every coverage.
    near(rows[1].selective_auc, 4.0 / 6.0);
    near(rows[1].auroc.unwrap(), 0.5);
    near(rows[0].gains[0].gain, 0.738888888888889 - 4.0 / 6.0);
    near(rows[1].gains[0].gain, -rows[0].gains[0].gain);
    let [low, high] = rows[0].selective_auc_interval.unwrap();
    assert!(
        low < 0.739 && high > 0.739 && low >= 0.0 && high <= 1.0,
        "{low} {high}"
    );
    let again = compare(&scores, &correct, 400, 1).unwrap();
    assert_eq!(rows, again);
    assert!(compare(&scores, &correct[..5], 0, 1).is_err());
    let all_right = compare(&scores, &[true; 6], 10, 1).unwrap();
    assert_eq!(all_right[0].auroc, None);
    near(all_right[0].selective_auc, 1.0);
}

fn eval(files: &[(&str, &str)], flags: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    Command::new(env!("CARGO_BIN_EXE_preftune"))
        .current_dir(folder.path())
        .args(["eval", "confidence"])
        .args(flags)
        .output()
        .unwrap()
}

const ANSWERS: &str = "item,correct,direct,votes,note\n\
                       p,1,0.9,5,x\nq,0,0.9,2,y\nr,true,0.8,4,z\ns,false,0.9,1,w\n";
const GAMES: &str = "{\"left\":\"p\",\"right\":\"q\",\"winner\":\"left\",\"judge\":\"j\"}\n\
                     {\"left\":\"r\",\"right\":\"q\",\"winner\":\"left\",\"judge\":\"j\"}\n\
                     {\"left\":\"r\",\"right\":\"s\",\"winner\":\"left\",\"judge\":\"j\"}\n\
                     {\"left\":\"s\",\"right\":\"p\",\"winner\":\"right\",\"judge\":\"j\"}\n";

#[test]
fn relative_confidence_stands_beside_the_columns_of_the_table() {
    let files = [("a.csv", ANSWERS), ("g.jsonl", GAMES)];
    let flags = [
        "--answers",
        "a.csv",
        "--comparisons",
        "g.jsonl",
        "--bootstrap",
        "50",
    ];
    let output = eval(&files, &[&flags[..], &["--json"]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["direct", "votes", "bradley-terry", "elo"]);
    near(rows[1]["auroc"].as_f64().unwrap(), 1.0);
    near(rows[2]["auroc"].as_f64().unwrap(), 1.0);
    near(rows[0]["auroc"].as_f64().unwrap(), 0.25);
    assert_eq!(rows[2]["gains"][0]["over"], "direct");
    let output = eval(&files, &flags);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("bradley-terry less that of direct"), "{text}");
    assert!(text.contains("4 answers, 50.0 % right"), "{text}");
}

#[test]
fn bad_tables_are_refused_with_their_line() {
    let refused = |files: &[(&str, &str)], flags: &[&str], message: &str| {
        let output = eval(files, &[&["--answers", "a.csv"], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(message), "{message}: {stderr}");
    };
    let a = |text: &'static str| [("a.csv", text)];
    refused(&a("item,correct\np,1\n"), &[], "there are no scores");
    refused(
        &a("item,correct,s\np,1,x\n"),
        &["--scores", "s"],
        "line 2: `x` in column `s`",
    );
    refused(
        &a("item,correct,s\np,1,NaN\n"),
        &["--scores", "s"],
        "line 2: `NaN`",
    );
    refused(
        &a("item,correct,s\np,1,2\np,1,2\n"),
        &[],
        "line 3: `p` occurs twice",
    );
    refused(
        &a("item,correct,s\np,2,2\n"),
        &[],
        "line 2: `2` in column `correct`",
    );
    refused(&a("item,correct,s\n"), &[], "there are no answers");
    refused(
        &a("item,correct,s,s\np,1,2,3\n"),
        &[],
        "column `s` occurs twice",
    );
    refused(
        &a("item,correct,s\np,1\n"),
        &[],
        "2 fields in a table of 3 columns",
    );
    refused(
        &a(ANSWERS),
        &["--scores", "wit"],
        "no column `wit` among item, correct",
    );
    refused(&a(ANSWERS), &["--prior", "0"], "--prior");
    refused(
        &[("a.csv", "item,correct,s\nzz,1,2\n"), ("g.jsonl", GAMES)],
        &["--comparisons", "g.jsonl"],
        "`zz` is in none of the comparisons",
    );
}

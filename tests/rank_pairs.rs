//! Match-ups: their plan, judgements by an external command through the binary, continuing, bad judges.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use preftune::ranking::matchups::plan;
use serde_json::{Value, json};

#[test]
fn every_item_plays_the_asked_number_of_games_and_nobody_twice_the_same() {
    for (items, games) in [
        (2, 1),
        (4, 3),
        (6, 3),
        (10, 4),
        (50, 6),
        (200, 5),
        (7, 3),
        (51, 4),
        (9, 8),
    ] {
        let pairs = plan(items, games, 3);
        let mut played = vec![0; items];
        let mut met = HashSet::new();
        for &(left, right) in &pairs {
            assert_ne!(left, right);
            played[left] += 1;
            played[right] += 1;
            assert!(
                met.insert((left.min(right), left.max(right))),
                "{items} items, {games} games: {left} meets {right} twice"
            );
        }
        let most = games + items % 2;
        assert!(
            played.iter().all(|played| (games..=most).contains(played)),
            "{items} items, {games} games: {played:?}"
        );
    }
}

#[test]
fn more_games_than_opponents_repeat_the_round_robin() {
    let mut times: HashMap<(usize, usize), usize> = HashMap::new();
    for (left, right) in plan(4, 6, 0) {
        *times.entry((left.min(right), left.max(right))).or_default() += 1;
    }
    assert_eq!(times.len(), 6);
    assert!(times.values().all(|times| *times == 2), "{times:?}");
}

#[test]
fn a_plan_depends_on_its_seed_alone() {
    assert_eq!(plan(40, 4, 7), plan(40, 4, 7));
    assert_ne!(plan(40, 4, 7), plan(40, 4, 8));
    assert!(plan(1, 4, 7).is_empty());
}

/// Prefers the item with more skill, whatever the order.
const BY_SKILL: &str = r#"while read -r line; do
    one=${line#*\"skill\":}; one=${one%%[,\}]*}
    two=${line##*\"skill\":}; two=${two%%[,\}]*}
    if [ "$one" -gt "$two" ]; then echo '{"winner":"first"}'; else echo '{"winner":"second"}'; fi
done"#;
/// Prefers what it sees first.
const FIRST: &str = "while read -r line; do echo '{\"winner\":\"first\"}'; done";

struct Folder(tempfile::TempDir);

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Folder {
    fn new(items: &[Value]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let lines: Vec<String> = items.iter().map(Value::to_string).collect();
        fs::write(folder.path("items.jsonl"), lines.join("\n") + "\n").unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn rank(&self, flags: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .current_dir(self.0.path())
            .args(["rank", "--pairs", "items.jsonl"])
            .args(flags)
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn judged(&self, judge: &str, flags: &[&str]) -> Ran {
        let judge = [
            "--judge",
            judge,
            "--judgements",
            "kept.jsonl",
            "--judge-name",
            "sh",
            "--json",
        ];
        self.rank(&[&judge, flags].concat())
    }

    fn kept(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("kept.jsonl")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, code: i32, message: &str) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(self.stderr.contains(message), "{message}: {}", self.stderr);
    }
}

fn skills(count: usize) -> Vec<Value> {
    (0..count)
        .map(|skill| json!({"item": format!("item {skill}"), "skill": skill}))
        .collect()
}

#[test]
fn a_fair_judge_ranks_the_items_by_what_it_sees() {
    let folder = Folder::new(&skills(8));
    let ranking = folder
        .judged(BY_SKILL, &["--games", "4", "--workers", "2"])
        .json();
    assert_eq!(ranking["judgements"]["judgements"], 32);
    assert_eq!(ranking["judgements"]["both_orders"], 16);
    assert_eq!(ranking["judgements"]["flips"], 0);
    assert_eq!(ranking["judgements"]["first_wins"], 0.5);
    assert_eq!(ranking["comparisons"], 16);
    assert_eq!(ranking["standings"][0]["item"], "item 7");
    assert_eq!(ranking["standings"][7]["item"], "item 0");
}

#[test]
fn a_judge_that_takes_the_first_flips_always_and_ranks_nothing() {
    let folder = Folder::new(&skills(4));
    folder.judged(FIRST, &["--games", "3"]).refused(
        2,
        "every comparison is a tie: in 6 of 6 match-ups the judge's answer turned with the order",
    );
    folder
        .judged(FIRST, &["--games", "3"])
        .refused(2, "shown first won 100.0 %");
    let folder = Folder::new(&skills(4));
    let ranking = folder
        .judged(FIRST, &["--games", "2", "--one-order"])
        .json();
    assert_eq!(ranking["judgements"]["first_wins"], 1.0);
    assert_eq!(ranking["judgements"]["both_orders"], 0);
}

#[test]
fn a_second_call_continues_after_a_cut_line_and_asks_nothing_twice() {
    let folder = Folder::new(&skills(6));
    let whole = folder.judged(BY_SKILL, &["--games", "3"]).json();
    let lines = folder.kept();
    assert_eq!(lines.len(), 18);
    let cut = lines[..7].join("\n") + "\n" + &lines[7][..9];
    fs::write(folder.path("kept.jsonl"), cut).unwrap();
    let again = folder.judged(BY_SKILL, &["--games", "3"]).json();
    assert_eq!(again["standings"], whole["standings"]);
    assert_eq!(folder.kept().len(), 18);
    // All is there: not even a judge that cannot run is missed.
    let third = folder.judged("exit 3", &["--games", "3"]).json();
    assert_eq!(third["standings"], whole["standings"]);
    // More games keep what is known; another judge is another file.
    folder
        .rank(&["--judge", BY_SKILL, "--judgements", "kept.jsonl"])
        .refused(2, "holds judgements of `sh`");
}

#[test]
fn items_meet_within_their_group_and_the_group_is_kept() {
    let items: Vec<Value> = ["p", "q"]
        .iter()
        .flat_map(|prompt| {
            ["a", "b", "c"].iter().enumerate().map(
                move |(skill, system)| json!({"prompt": prompt, "system": system, "skill": skill}),
            )
        })
        .collect();
    let folder = Folder::new(&items);
    let ranking = folder
        .judged(BY_SKILL, &["--games", "2", "--bootstrap", "20"])
        .json();
    assert_eq!(ranking["comparisons"], 6);
    assert_eq!(ranking["bootstrap"]["groups"], 2);
    let planned = folder.rank(&["--games", "2"]);
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    let plan: Vec<Value> = planned
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(plan.len(), 12);
    assert!(
        plan.iter()
            .all(|row| row["group"] == "p" || row["group"] == "q"),
        "{plan:?}"
    );
}

#[test]
fn judges_that_fail_say_how_and_keep_what_was_judged() {
    let folder = Folder::new(&skills(4));
    let once = "read -r line; echo '{\"winner\":\"first\"}'; read -r line; ";
    for (judge, code, message) in [
        ("exit 3", 1, "ended without an answer: exit status: 3"),
        ("no-such-judge", 1, "ended without an answer"),
        (
            "while read -r line; do echo better; done",
            2,
            "not a JSON object",
        ),
        (
            "while read -r line; do echo '{}'; done",
            2,
            "`winner` is missing",
        ),
        (
            "while read -r line; do echo '{\"winner\":\"left\"}'; done",
            2,
            "`winner` is `left`, not `first`, `second` or `tie`",
        ),
        (
            "while read -r line; do echo '{\"winner\":\"tie\",\"id\":77}'; done",
            2,
            "answers question 77",
        ),
        (
            "while read -r line; do head -c 1100000 /dev/zero | tr '\\0' x; done",
            1,
            "more than 1048576 bytes",
        ),
    ] {
        folder.judged(judge, &[]).refused(code, message);
        folder.judged(judge, &[]).refused(code, "hint:");
    }
    folder
        .judged(&format!("{once} echo nonsense"), &[])
        .refused(2, "not a JSON object");
    assert_eq!(folder.kept().len(), 1);
    folder
        .judged("read -r line; exec sleep 30", &["--timeout", "1"])
        .refused(1, "no answer within 1 seconds");
}

/// A judge that answers once and is silent then, with a file that says when it is.
#[cfg(unix)]
#[test]
fn the_first_signal_ends_the_wait_for_a_silent_judge() {
    for name in ["-INT", "-TERM"] {
        let folder = Folder::new(&skills(4));
        let silent = "read -r line; echo '{\"winner\":\"first\"}'; read -r line; touch waits; exec sleep 600";
        let mut child = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .current_dir(folder.0.path())
            .args(["rank", "--pairs", "items.jsonl", "--judge", silent])
            .args(["--judgements", "kept.jsonl"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        while !folder.path("waits").exists() {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            std::thread::yield_now();
        }
        let sent = Command::new("kill")
            .args([name, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = if name == "-INT" { 130 } else { 75 };
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("kept.jsonl"), "{said}");
        assert_eq!(folder.kept().len(), 1);
    }
}

#[test]
fn kept_judgements_are_read_as_they_were_ranked() {
    // Of two of one skill the judge takes the second, whichever it is.
    let items = [("a", 1), ("b", 1), ("c", 2), ("d", 3)];
    let folder = Folder::new(&items.map(|(item, skill)| json!({"item": item, "skill": skill})));
    let judged = folder.judged(BY_SKILL, &["--games", "3"]).json();
    assert_eq!(folder.kept().len(), 12);
    assert_eq!(judged["judgements"]["flips"], 1);
    let input = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .current_dir(folder.0.path())
            .args(["rank", "--input", "kept.jsonl"])
            .args(flags)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |flags: &[&str]| -> Value {
        serde_json::from_str(&input(&[&["--json"], flags].concat())).unwrap()
    };
    let read = json(&[]);
    assert_eq!(read["comparisons"], 6);
    for name in ["comparisons", "tie_share", "standings"] {
        assert_eq!(read[name], judged[name], "{name}");
    }
    assert_eq!(read["reading"]["flips"], 1);
    let said = input(&[]);
    for words in [
        "both orders of a match-up are one comparison",
        "in 1 match-ups the winner turned with the order",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // Who names the columns takes each row for a comparison.
    let named = ["--left", "left", "--right", "right", "--winner", "winner"];
    assert_eq!(json(&named)["comparisons"], 12);
    // Another judge's word is not the other order of this one's.
    let [one, other] = ["x", "y"].map(|judge| {
        let [left, right] = if judge == "x" { ["a", "b"] } else { ["b", "a"] };
        json!({"left": left, "right": right, "winner": "left", "judge": judge}).to_string()
    });
    fs::write(folder.path("kept.jsonl"), format!("{one}\n{other}\n")).unwrap();
    assert_eq!(json(&[])["comparisons"], 2);
}

#[test]
fn bad_items_are_refused() {
    let refused = |items: &[Value], flags: &[&str], message: &str| {
        Folder::new(items).rank(flags).refused(2, message);
    };
    refused(&[json!({"item": "a"})], &[], "a match-up needs two");
    refused(
        &[json!({"text": "a"}), json!({"text": "b"})],
        &[],
        "no column that names an item",
    );
    refused(
        &[json!({"item": "a"}), json!({"item": "a"})],
        &[],
        "line 2: `a` is there already",
    );
    refused(
        &[json!({"item": "a"}), json!({"item": [1]})],
        &[],
        "line 2: `item` is neither text",
    );
    refused(&skills(3), &["--judge", "cat"], "--judgements");
    refused(&skills(3), &["--input", "x.csv"], "cannot be used with");
}

//! `preftune rank` through the binary: tables, JSON, guessed columns, bad input.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::shared;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Ranks a file with this text.
    fn rank(&self, name: &str, text: impl AsRef<[u8]>, flags: &[&str]) -> Ran {
        let path = self.file(name, text);
        rank(path.to_str().unwrap(), flags)
    }
}

fn rank(input: &str, flags: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .args(["rank", "--input", input])
        .args(flags)
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ran {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Wrong input: exit code 2 and this message.
    #[track_caller]
    fn refused(&self, message: &str) {
        println!("{}", self.stderr);
        assert_eq!(self.code, 2, "{}", self.stderr);
        assert!(self.stderr.contains(message), "{message}: {}", self.stderr);
        assert!(self.stdout.is_empty(), "{}", self.stdout);
        assert!(!self.stderr.contains("internal"), "{}", self.stderr);
    }
}

const CIRCLE: &str = "left,right,winner\np,q,left\nq,r,left\nr,p,left\np,q,tie\nr,q,right\n";

fn items(ranking: &Value) -> Vec<&str> {
    let standings = ranking["standings"].as_array().unwrap();
    standings
        .iter()
        .map(|row| row["item"].as_str().unwrap())
        .collect()
}

fn strengths(ranking: &Value) -> Vec<f64> {
    let standings = ranking["standings"].as_array().unwrap();
    standings
        .iter()
        .map(|row| row["strength"].as_f64().unwrap())
        .collect()
}

#[test]
fn columns_and_outcomes_of_known_data_sets_are_understood() {
    let folder = Folder::new();
    let expected = folder.rank("comparisons.csv", CIRCLE, &["--json"]).json();
    assert_eq!(items(&expected), ["q", "p", "r"]);
    for (name, text) in [
        (
            "fastchat.csv",
            "question_id,model_a,model_b,winner\n1,p,q,model_a\n2,q,r,model_a\n3,r,p,model_a\n4,p,q,tie (bothbad)\n5,r,q,model_b\n",
        ),
        (
            "evalica.csv",
            "\u{feff}Item X,Item Y,Winner\np,q,X\nq,r,x\nr,p,x\np,q,Draw\nr,q,y\n",
        ),
        (
            "names.csv",
            "model_x,model_y,winner\np,q,p\nq,r,q\nr,p,r\np,q,tie\nr,q,q\n",
        ),
        (
            "scores.tsv",
            "a\tb\toutcome\np\tq\t1\nq\tr\t1.0\nr\tp\t1\np\tq\t0.5\nr\tq\t0\n",
        ),
        (
            "lines.jsonl",
            "{\"left\":\"p\",\"right\":\"q\",\"outcome\":1}\n{\"left\":\"q\",\"right\":\"r\",\"outcome\":1.0}\n\n\
             {\"left\":\"r\",\"right\":\"p\",\"outcome\":\"left\"}\n{\"outcome\":0.5,\"left\":\"p\",\"right\":\"q\",\"note\":[1]}\n\
             {\"left\":\"r\",\"right\":\"q\",\"outcome\":0}",
        ),
    ] {
        let ranking = folder.rank(name, text, &["--json"]).json();
        assert_eq!(ranking["standings"], expected["standings"], "{name}");
    }
    let renamed = CIRCLE.replace("left,right,winner", "one,two,who");
    let flags = [
        "--json", "--left", "one", "--right", "two", "--winner", "who",
    ];
    let ranking = folder.rank("named.csv", renamed, &flags).json();
    assert_eq!(ranking["standings"], expected["standings"]);
}

#[test]
fn weights_count_as_games() {
    let folder = Folder::new();
    let repeated = folder.rank("r.csv", "winner,loser\na,b\na,b\na,b\nb,a\n", &["--json"]);
    let weighted = folder.rank(
        "w.csv",
        "winner,loser,weight\na,b,2.5\nb,a,1\na,b,0.5\n",
        &["--json"],
    );
    assert_eq!(repeated.json()["standings"], weighted.json()["standings"]);
}

#[test]
fn the_table_says_what_was_done() {
    let folder = Folder::new();
    let (head, rows) = CIRCLE.split_once('\n').unwrap();
    let text = format!("{head}\n{}", rows.repeat(5));
    let flags = ["--bootstrap", "50", "--seed", "4"];
    let ran = folder.rank("comparisons.csv", &text, &flags);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    println!("{}", ran.stdout);
    for text in [
        "item  rank  strength   elo",
        "P(best)",
        "25 comparisons of 3 items, 20.0 % ties; columns left, right, winner",
        "converged: yes",
        "bootstrap: 50 resamples of single rows",
        "cyclic triads: 1 of 1",
        "calibration",
    ] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    let again = folder.rank("comparisons.csv", &text, &flags);
    assert_eq!(again.stdout, ran.stdout);
}

#[test]
fn what_games_do_not_connect_is_a_warning_and_without_a_prior_an_error() {
    let folder = Folder::new();
    let islands = "winner,loser\na,b\nb,a\na,b\nc,d\nd,c\n";
    let ran = folder.rank("islands.csv", islands, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("2 groups of items never met"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("component 2 (2 items): c, d"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.lines().next().unwrap().ends_with("component"));
    let undefeated = "winner,loser\na,b\nb,c\nc,b\n";
    let ran = folder.rank("undefeated.csv", undefeated, &[]);
    assert!(
        ran.stderr
            .contains("2 components are not connected by wins both ways"),
        "{}",
        ran.stderr
    );
    for flags in [&["--prior", "0"][..], &["--method", "centrality"]] {
        let ran = folder.rank("undefeated.csv", undefeated, flags);
        ran.refused("2 components that are not connected by wins both ways");
        assert!(ran.stderr.contains("hint: "), "{}", ran.stderr);
    }
    let endless = "left,right,winner\na,b,left\na,b,left\na,b,tie\n";
    let ran = folder.rank(
        "endless.csv",
        endless,
        &["--ties", "davidson", "--prior", "0"],
    );
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("the Davidson fit did not converge"),
        "{}",
        ran.stderr
    );
}

#[test]
fn all_methods_agree_on_who_is_first() {
    let folder = Folder::new();
    let text = "winner,loser\na,b\na,b\nb,a\na,c\na,c\nc,a\nb,c\nb,c\nc,b\na,b\n";
    for method in [
        "bradley-terry",
        "elo",
        "true-skill",
        "centrality",
        "win-rate",
    ] {
        let ranking = folder
            .rank("games.csv", text, &["--json", "--method", method])
            .json();
        assert_eq!(items(&ranking), ["a", "b", "c"], "{method}");
        assert_eq!(ranking["method"]["name"], method);
    }
    let flags = ["--json", "--method", "elo", "--orders", "0", "--k", "400"];
    let six = "winner,loser\n0,1\n1,2\n0,2\n2,1\n0,1\n2,0\n";
    let ranking = folder.rank("six.csv", six, &flags).json();
    let elo = ranking["standings"][0]["elo"].as_f64().unwrap();
    assert!((elo - 1347.83502678287).abs() < 1e-9, "{elo}");
}

#[test]
fn an_anchor_moves_every_elo() {
    let folder = Folder::new();
    let text = "winner,loser\nx=1,b\nx=1,b\nb,x=1\n";
    let elo_of = |anchor: &str| {
        let ranking = folder
            .rank("g.csv", text, &["--json", "--anchor", anchor])
            .json();
        let row = &ranking["standings"];
        (
            row[0]["elo"].as_f64().unwrap(),
            row[1]["elo"].as_f64().unwrap(),
        )
    };
    let (first, second) = elo_of("b");
    assert!((second - 1000.0).abs() < 1e-9 && first > 1050.0);
    let (first, _) = elo_of("x=1");
    assert!((first - 1000.0).abs() < 1e-9);
    let (first, _) = elo_of("x=1=1200");
    assert!((first - 1200.0).abs() < 1e-9);
    folder
        .rank("g.csv", text, &["--anchor", "nobody"])
        .refused("there is no item `nobody`");
}

#[test]
fn strengths_are_scored_as_confidences() {
    let folder = Folder::new();
    let correct = folder.file("correct.csv", "item,correct\np,0\nq,true\nr,0\n");
    let flags = ["--json", "--correct", correct.to_str().unwrap()];
    let ranking = folder.rank("comparisons.csv", CIRCLE, &flags).json();
    assert_eq!(ranking["confidence"]["auroc"], 1.0);
    let auc = ranking["confidence"]["selective_auc"].as_f64().unwrap();
    assert!((auc - (1.0 + 0.5 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
    for (text, message) in [
        ("item,correct\np,1\nq,maybe\n", "line 3: `maybe`"),
        ("item,correct\np,1\np,1\n", "line 3: `p` occurs twice"),
        ("item,correct\nq,1\n", "no row for the item `p`"),
        ("item\na\n", "no column `correct`"),
    ] {
        fs::write(&correct, text).unwrap();
        folder
            .rank("comparisons.csv", CIRCLE, &flags)
            .refused(message);
    }
}

#[test]
fn bad_input_is_refused_with_its_line() {
    let folder = Folder::new();
    let head = "left,right,winner,weight\n";
    for (rows, message) in [
        (
            "a,b,left,1\na,b,maybe,1\n",
            "line 3: `maybe` in column `winner` is not an outcome",
        ),
        (
            "a,b,1,1\n",
            "line 2: `1` in column `winner` is not an outcome",
        ),
        (
            "a,b,,1\n",
            "line 2: `` in column `winner` is not an outcome",
        ),
        ("a,a,left,1\n", "line 2: `a` is compared with itself"),
        ("a,,left,1\n", "line 2: column `right` is empty"),
        (
            "a,b,left,NaN\n",
            "line 2: weight `NaN` is not a positive number",
        ),
        (
            "a,b,left,inf\n",
            "line 2: weight `inf` is not a positive number",
        ),
        (
            "a,b,left,0\n",
            "line 2: weight `0` is not a positive number",
        ),
        (
            "a,b,left,-1\n",
            "line 2: weight `-1` is not a positive number",
        ),
        (
            "a,b,left,x\n",
            "line 2: weight `x` is not a positive number",
        ),
        (
            "a,b,left,1\na,b,left\n",
            "line 3: 3 fields in a table of 4 columns",
        ),
        (
            "\"x\ny\",b,left,1\na,a,left,1\n",
            "line 4: `a` is compared with itself",
        ),
        (
            "right,b,right,1\n",
            "line 2: `right` in column `winner` is both",
        ),
        ("a,b,tie,1\nb,c,tie,1\n", "every comparison is a tie"),
        ("", "there are no comparisons in it"),
    ] {
        folder
            .rank("bad.csv", format!("{head}{rows}"), &[])
            .refused(message);
    }
    folder.rank("bad.csv", "", &[]).refused("the file is empty");
    folder
        .rank("bad.csv", b"left,right,winner\na,\xff\xfe,left\n", &[])
        .refused("line 2: field 2 is not UTF-8");
    folder
        .rank("bad.csv", "left,right,left,winner\n", &[])
        .refused("line 1: column `left` occurs twice");
    folder
        .rank("bad.csv", "one,two\na,b\n", &[])
        .refused("no pair of item columns among its columns: one, two");
    folder
        .rank("bad.csv", "left,right\na,b\n", &[])
        .refused("no column that says who won");
    folder
        .rank("bad.txt", CIRCLE, &[])
        .refused(".csv, .tsv and .jsonl");
    rank("/nowhere/comparisons.csv", &[]).refused("cannot read `/nowhere/comparisons.csv`");
    for (text, message) in [
        ("", "the file is empty"),
        ("{\"left\":\"a\"\n", "line 1: not a JSON object"),
        (
            "{\"winner\":\"a\",\"loser\":\"b\"}\n[1]\n",
            "line 2: not a JSON object",
        ),
        (
            "{\"winner\":\"a\",\"loser\":\"b\"}\n\n{\"winner\":\"a\"}\n",
            "line 3: `loser` is missing",
        ),
        (
            "{\"winner\":\"a\",\"loser\":null}\n",
            "line 1: `loser` is neither text nor a number: null",
        ),
    ] {
        folder.rank("bad.jsonl", text, &[]).refused(message);
    }
}

#[test]
fn bad_flags_are_refused_by_name() {
    let folder = Folder::new();
    for (flags, message) in [
        (&["--prior=-1"][..], "`--prior -1`"),
        (&["--prior", "NaN"], "`--prior NaN`"),
        (&["--virtual-games", "0"], "`--virtual-games 0`"),
        (&["--left", "left"], "give both or neither"),
        (&["--winner", "winer"], "did you mean `winner`?"),
        (&["--left", "left", "--right", "left"], "cannot hold both"),
        (
            &["--weight", "left"],
            "column `left` cannot hold items and something else",
        ),
        (&["--method", "elo", "--k", "0"], "`--k 0`"),
        (
            &["--method", "elo", "--bootstrap", "10"],
            "leave `--bootstrap` out",
        ),
        (
            &["--method", "true-skill", "--bootstrap", "10"],
            "TrueSkill is averaged over orders",
        ),
        (
            &["--method", "elo", "--ties", "davidson"],
            "needs `--method bradley-terry`",
        ),
        (
            &["--method", "win-rate", "--anchor", "a"],
            "no Elo to anchor",
        ),
        (&["--errors", "sandwich", "--ties", "davidson"], "sandwich"),
        (
            &["--prior", "1", "--virtual-games", "1"],
            "cannot be used with",
        ),
    ] {
        folder
            .rank("comparisons.csv", CIRCLE, flags)
            .refused(message);
    }
}

#[test]
fn language_models_get_intervals_by_prompt() {
    let Some(path) = shared("pairwise/llmfao.csv") else {
        return;
    };
    let path = path.to_str().unwrap().to_owned();
    let ranking = rank(&path, &["--json", "--bootstrap", "100"]).json();
    assert_eq!(items(&ranking)[0], "GPT 4");
    assert_eq!(ranking["columns"]["left"], "left");
    assert_eq!(ranking["bootstrap"]["groups"], 13);
    assert_eq!(ranking["components"].as_array().unwrap().len(), 1);
    let first = &ranking["standings"][0];
    assert!((first["strength"].as_f64().unwrap() - 0.9873560664542566).abs() < 1e-9);
    let (low, high) = (
        first["interval"][0].as_f64().unwrap(),
        first["interval"][1].as_f64().unwrap(),
    );
    assert!(low < 0.98 && high > 0.99, "{low} {high}");
    assert!(first["probability_best"].as_f64().unwrap() > 0.4);
    assert!(strengths(&ranking).is_sorted_by(|one, other| one >= other));
    let dropped = rank(&path, &["--json", "--ties", "drop"]).json();
    assert_eq!(items(&dropped)[1], "ReMM SLERP L2 13B");
    let table = rank(&path, &["--ties", "davidson", "--bootstrap", "20"]);
    assert!(
        table.stdout.contains("13 groups by `prompt`"),
        "{}",
        table.stdout
    );
    assert!(table.stdout.contains("nu 1.4784"), "{}", table.stdout);
}

/// Largest resident memory of a ranking of a file with so many rows, in MB.
#[cfg(target_os = "linux")]
fn peak(folder: &Folder, rows: u32) -> f64 {
    use std::fmt::Write as _;
    let mut text = "left,right,winner\n".to_owned();
    for row in 0..rows {
        let (left, right) = (row % 40, (row / 40 + row) % 40);
        let right = if left == right {
            (right + 1) % 40
        } else {
            right
        };
        let winner = if row % 3 == 0 { "left" } else { "right" };
        writeln!(text, "item number {left},item number {right},{winner}").unwrap();
    }
    let path = folder.file("long.csv", text);
    let mut child = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .args(["rank", "--json", "--input", path.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        peak = peak.max(kilobytes.unwrap_or_default() / 1024.0);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    peak
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_number_of_rows() {
    let folder = Folder::new();
    // Short runs end before everything that a ranking needs is in memory; from here on nothing is added.
    let (few, many) = (peak(&folder, 1_000_000), peak(&folder, 4_000_000));
    println!("1,000,000 rows (35 MB of text): {few:.1} MB; 4,000,000 rows (141 MB): {many:.1} MB");
    assert!(many < few + 16.0, "{few} MB, {many} MB");
}

//! `preftune rank` through the binary: tables, JSON, guessed columns, bad input.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{golden, shared};

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
    // A column of scores beside winners and losers is not who won.
    let scored = folder.rank(
        "s.csv",
        "winner,loser,score\na,b,0.2\na,b,0\na,b,1\nb,a,1\n",
        &["--json"],
    );
    assert_eq!(repeated.json()["standings"], scored.json()["standings"]);
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
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_file_of_bad_rows_is_refused_with_the_first_of_each_kind() {
    let folder = Folder::new();
    let head = "left,right,winner,weight\n";
    for (rows, message) in [
        (
            "a,b,left,1\na,b,maybe,1\n",
            "line 3: `maybe` in column `winner` is not an outcome",
        ),
        (
            "a,b,1,1\n",
            "column `winner` holds numbers (`1` in 1), and nothing says which item they mean",
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
            "values of column `winner` are names of items and words for a side",
        ),
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
            "line 3: column `loser` is empty",
        ),
        (
            "{\"winner\":\"a\",\"loser\":null}\n",
            "line 1: column `loser` is empty",
        ),
        (
            "{\"winner\":\"a\",\"loser\":[\"b\"]}\n",
            "line 1: `loser` is neither text nor a number",
        ),
        ("[{\"winner\":\"a\"", "not an array of JSON objects"),
    ] {
        folder.rank("bad.jsonl", text, &[]).refused(message);
    }
    for (bytes, message) in [
        (
            &b"PK\x03\x04games"[..],
            "a zip archive or an Excel workbook",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a git-lfs pointer",
        ),
        (b"\xff\xfel\x00", "text in UTF-16"),
        (b"\x1f\x8b\x08\x00damaged", "damaged or cut short"),
        (b"PAR1 and no more", "not a readable Parquet file"),
    ] {
        folder.rank("bad.csv", bytes, &[]).refused(message);
    }
}

#[test]
fn few_bad_rows_are_left_out_and_counted() {
    let folder = Folder::new();
    let good = "a,b,left\nb,a,left\na,b,left\na,c,left\nc,a,left\n".repeat(5);
    let whole = format!("left,right,winner\n{good}");
    let with_bad = format!("{whole}a,a,tie\nb,c,\n");
    let expected = folder.rank("whole.csv", &whole, &["--json"]).json();
    let ran = folder.rank("bad.csv", &with_bad, &["--json"]);
    let ranking = ran.json();
    assert_eq!(ranking["standings"], expected["standings"]);
    assert_eq!(ranking["comparisons"], 25);
    let dropped = &ranking["reading"]["dropped"];
    assert_eq!(dropped[0]["reason"], "an item against itself");
    assert_eq!(dropped[0]["rows"], 1);
    assert_eq!(
        dropped[0]["example"],
        "line 27: `a` is compared with itself"
    );
    assert_eq!(dropped[1]["reason"], "rows without an outcome");
    for text in ["2 of 27 rows", "line 27: `a` is compared", "line 28: ``"] {
        assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
    }
    let flags = ["--invalid", "error"];
    folder
        .rank("bad.csv", &with_bad, &flags)
        .refused("line 27: `a` is compared with itself");
    // One row in ten is too many, unless that is what is wanted.
    let many = format!("{with_bad}a,a,tie\n");
    let ran = folder.rank("many.csv", &many, &[]);
    ran.refused("3 of 28 rows cannot be used");
    assert!(
        ran.stderr.contains("an item against itself (2)"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--invalid drop"), "{}", ran.stderr);
    let dropped = folder.rank("many.csv", &many, &["--json", "--invalid", "drop"]);
    assert_eq!(dropped.json()["standings"], expected["standings"]);
}

#[test]
fn ties_alone_rank_all_items_alike() {
    let folder = Folder::new();
    let text = "model_a,model_b,winner\nx,y,tie\ny,z,tie\n";
    let ran = folder.rank("ties.csv", text, &["--json"]);
    assert!(
        strengths(&ran.json())
            .iter()
            .all(|strength| strength.abs() < 1e-9)
    );
    assert!(
        ran.stderr.contains("every comparison is a tie"),
        "{}",
        ran.stderr
    );
    for ties in ["drop", "davidson", "rao-kupper"] {
        folder
            .rank("ties.csv", text, &["--ties", ties])
            .refused("every comparison is a tie");
    }
}

/// How often each item won, by the win rates of two items.
fn first(ranking: &Value) -> &str {
    ranking["standings"][0]["item"].as_str().unwrap()
}

#[test]
fn numbers_are_read_one_way_and_the_way_is_said() {
    let folder = Folder::new();
    let text = "model_a,model_b,outcome\ngood,bad,0\ngood,bad,0\nbad,good,1\ngood,bad,1\n";
    let ran = folder.rank("open.csv", text, &[]);
    ran.refused("column `outcome` holds numbers (`0` in 2, `1` in 2), and nothing says which");
    for hint in [
        "`--winner-is score` (1: `model_a` won, 0: `model_b`)",
        "`--winner-is index` (0: `model_a` won, 1: `model_b`)",
    ] {
        assert!(ran.stderr.contains(hint), "{hint}: {}", ran.stderr);
    }
    let score = folder
        .rank("open.csv", text, &["--json", "--winner-is", "score"])
        .json();
    assert_eq!(first(&score), "bad");
    assert_eq!(score["reading"]["values"], "score");
    let index = folder
        .rank("open.csv", text, &["--json", "--winner-is", "index"])
        .json();
    assert_eq!(first(&index), "good");
    assert_eq!(index["reading"]["values"], "index");
    let outcomes = &index["reading"]["outcomes"];
    assert_eq!(outcomes[0]["value"], "0");
    assert_eq!(outcomes[0]["means"], "left");
    assert_eq!(outcomes[0]["rows"], 2);
    assert_eq!(index["reading"]["left_won"], 2);
    assert_eq!(index["reading"]["right_won"], 2);
    let said = folder
        .rank("open.csv", text, &["--winner-is", "index"])
        .stdout;
    assert!(
        said.contains("read: `outcome` is the number of the winner, from 0; `0`: `model_a` won (2), `1`: `model_b` won (2)"),
        "{said}"
    );
    // A half, a number below 0 or one above 1 settles it, and so do columns that are counted.
    for (text, best, values) in [
        ("left,right,score\na,b,1\na,b,0.5\n", "a", "score"),
        (
            "left,right,result\na,b,1\na,b,-1\na,b,1\nb,a,0\n",
            "a",
            "sign",
        ),
        ("left;right;score\na;b;0,5\na;b;1\n", "a", "score"),
        (
            "left,right,preference\na,b,1\na,b,2\na,b,1\n",
            "a",
            "number",
        ),
        ("model_0,model_1,label\na,b,0\na,b,0\na,b,1\n", "a", "index"),
        ("model_1,model_2,label\na,b,1\na,b,1\n", "a", "number"),
    ] {
        let ranking = folder.rank("n.csv", text, &["--json"]).json();
        assert_eq!(first(&ranking), best, "{text}");
        assert_eq!(ranking["reading"]["values"], values, "{text}");
    }
    let both = "left,right,outcome\na,b,0\na,b,1\na,b,2\n";
    folder.rank("n.csv", both, &[]).refused("`2` in 1");
    let tie = folder
        .rank("n.csv", both, &["--json", "--winner-is", "index"])
        .json();
    assert_eq!(tie["reading"]["ties"], 1);
}

#[test]
fn items_called_like_sides_are_told_apart_or_asked() {
    let folder = Folder::new();
    let text = "left,right,winner\nA,B,A\nB,A,A\nA,B,B\n";
    let ranking = folder.rank("names.csv", text, &["--json"]).json();
    assert_eq!(first(&ranking), "A");
    assert_eq!(ranking["reading"]["values"], "names");
    assert_eq!(ranking["reading"]["left_won"], 1);
    // Beside `model_a` and `model_b` the letter may as well be the side.
    let text = "model_a,model_b,winner\na,b,a\nb,a,a\na,b,b\n";
    let ran = folder.rank("open.csv", text, &[]);
    ran.refused("are names of items and words for a side");
    assert!(ran.stderr.contains("--winner-is names"), "{}", ran.stderr);
    let names = folder
        .rank("open.csv", text, &["--json", "--winner-is", "names"])
        .json();
    assert_eq!(first(&names), "a");
    let sides = folder
        .rank("open.csv", text, &["--json", "--winner-is", "sides"])
        .json();
    assert_eq!(first(&sides), "b");
    // Another row shows what the letters are.
    let third = format!("{text}a,c,c\n");
    let ranking = folder.rank("third.csv", third, &["--json"]).json();
    assert_eq!(ranking["reading"]["values"], "names");
    let third = format!("{text}c,d,a\nd,c,b\n");
    let ranking = folder.rank("third.csv", third, &["--json"]).json();
    assert_eq!(ranking["reading"]["values"], "sides");
    // Numbers that name items.
    let numbers = "left,right,winner\n1,2,1\n2,1,1\n3,1,3\n";
    let ranking = folder.rank("numbers.csv", numbers, &["--json"]).json();
    assert_eq!(ranking["reading"]["values"], "names");
    assert_eq!(items(&ranking), ["3", "1", "2"]);
}

#[test]
fn published_layouts_and_codes_are_read() {
    let folder = Folder::new();
    let plain = "left,right,winner\ngpt-4,llama,left\nllama,vicuna,right\nvicuna,gpt-4,tie\nllama,gpt-4,right\nllama,vicuna,left\n";
    let expected = folder.rank("plain.csv", plain, &["--json"]).json();
    for (name, text) in [
        (
            "kaggle.csv",
            "id,model_a,model_b,prompt,winner_model_a,winner_model_b,winner_tie\n0,gpt-4,llama,p,1,0,0\n\
             1,llama,vicuna,p,0,1,0\n2,vicuna,gpt-4,p,0,0,1\n3,llama,gpt-4,p,0,1,0\n4,llama,vicuna,p,1,0,0\n",
        ),
        (
            "semicolon.csv",
            "model_a;model_b;winner\ngpt-4;llama;model_a\nllama;vicuna;model_b\nvicuna;gpt-4;tie (bothbad)\n\
             llama;gpt-4;model_b\nllama;vicuna;model_a\n",
        ),
        (
            "tabs.txt",
            "Model A\tModel B\tWinner\ngpt-4\tllama\tA wins\nllama\tvicuna\tB wins\nvicuna\tgpt-4\tboth_bad\n\
             llama\tgpt-4\tB\nllama\tvicuna\tA\n",
        ),
        (
            "array.json",
            "\u{feff}[{\"modelA\":\"gpt-4\",\"modelB\":\"llama\",\"verdict\":\"[[A]]\"},\n\
             {\"modelA\":\"llama\",\"modelB\":\"vicuna\",\"verdict\":\"[[B]]\"},\n\
             {\"modelA\":\"vicuna\",\"modelB\":\"gpt-4\",\"verdict\":\"[[C]]\"},\n\
             {\"modelA\":\"llama\",\"modelB\":\"gpt-4\",\"verdict\":\"[[B]]\"},\n\
             {\"modelA\":\"llama\",\"modelB\":\"vicuna\",\"verdict\":\"[[A]]\"}]",
        ),
        (
            "lines.data",
            "{\"assistant_1\":\"gpt-4\",\"assistant_2\":\"llama\",\"choice\":\"assistant_1\"}\n\
             {\"assistant_1\":\"llama\",\"assistant_2\":\"vicuna\",\"choice\":\"assistant_2\"}\n\
             {\"assistant_1\":\"vicuna\",\"assistant_2\":\"gpt-4\",\"choice\":\"neither\"}\n\
             {\"assistant_1\":\"llama\",\"assistant_2\":\"gpt-4\",\"choice\":\"assistant_2\"}\n\
             {\"assistant_1\":\"llama\",\"assistant_2\":\"vicuna\",\"choice\":\"assistant_1\"}\n",
        ),
        (
            "chess.csv",
            "White,Black,Result\ngpt-4,llama,1-0\nllama,vicuna,0-1\nvicuna,gpt-4,1/2-1/2\nllama,gpt-4,0-1\nllama,vicuna,1-0\n",
        ),
        (
            "excel.csv",
            "sep=;\r\nmodel_a;model_b;winner;weight;;\r\ngpt-4;llama;model_a;1,0;;\r\nllama;vicuna;model_b;1;;\r\n\
             vicuna;gpt-4;tie;1,0;;\r\nllama;gpt-4;model_b;1,0;;\r\nllama;vicuna;model_a;1,0;;\r\n",
        ),
        (
            "football.csv",
            "HomeTeam,AwayTeam,Result\ngpt-4,llama,H\nllama,vicuna,A\nvicuna,gpt-4,D\nllama,gpt-4,A\nllama,vicuna,H\n",
        ),
        (
            "alpaca.csv",
            "instruction,generator_1,generator_2,preference\np,gpt-4,llama,1.0\np,llama,vicuna,2.0\n\
             p,vicuna,gpt-4,1.5\np,llama,gpt-4,2.0\np,llama,vicuna,1.0\n",
        ),
    ] {
        let ranking = folder.rank(name, text, &["--json"]).json();
        assert_eq!(ranking["standings"], expected["standings"], "{name}");
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, plain.as_bytes()).unwrap();
    let compressed = folder.rank("plain.csv.gz", encoder.finish().unwrap(), &["--json"]);
    assert_eq!(compressed.json()["standings"], expected["standings"]);
}

#[test]
fn strong_verdicts_count_three_games_and_shares_their_part() {
    let folder = Folder::new();
    let strong = "{\"model_a\":\"x\",\"model_b\":\"y\",\"winner\":\"A>>B\"}\n\
                  {\"model_a\":\"x\",\"model_b\":\"y\",\"winner\":\"A>B\"}\n\
                  {\"model_a\":\"x\",\"model_b\":\"y\",\"winner\":\"[[A=B]]\"}\n\
                  {\"model_a\":\"y\",\"model_b\":\"x\",\"winner\":\"B>>A\"}\n";
    let ranking = folder.rank("arena-hard.jsonl", strong, &["--json"]).json();
    let alike = "left,right,winner,weight\nx,y,left,7\nx,y,tie,1\n";
    let expected = folder.rank("alike.csv", alike, &["--json"]).json();
    assert_eq!(ranking["standings"], expected["standings"]);
    assert_eq!(ranking["comparisons"], 4);
    assert_eq!(ranking["reading"]["outcomes"][0]["games"], 3.0);
    let shares = "generator_1,generator_2,preference\nbase,mine,1.25\nbase,mine,1.9\nbase,mine,2.0\nbase,mine,\n";
    let flags = ["--json", "--method", "win-rate", "--invalid", "drop"];
    let ranking = folder.rank("alpaca.csv", shares, &flags).json();
    assert_eq!(first(&ranking), "mine");
    // AlpacaEval's win rate: the mean of the preferences less 1; one without a preference is left out.
    let expected = (0.25 + 0.9 + 1.0) / 3.0;
    assert!(
        (strengths(&ranking)[0] - expected).abs() < 1e-12,
        "{ranking}"
    );
    assert_eq!(ranking["reading"]["shares"], 2);
    let resampled = folder.rank(
        "alpaca.csv",
        shares,
        &["--json", "--bootstrap", "50", "--invalid", "drop"],
    );
    assert_eq!(resampled.json()["bootstrap"]["groups"], 3);
}

#[test]
fn one_odd_word_among_names_turns_nothing_round() {
    let folder = Folder::new();
    // Of items that are called like sides, swapped, names are what the column holds.
    let names = "left,right,winner\nB,A,A\nB,A,A\nB,A,A\nA,B,A\n";
    assert_eq!(
        first(&folder.rank("names.csv", names, &["--json"]).json()),
        "A"
    );
    let odd = format!("{names}A,b,B\n");
    folder.rank("odd.csv", &odd, &[]).refused("--winner-is");
    let asked = ["--json", "--winner-is", "names", "--invalid", "drop"];
    assert_eq!(first(&folder.rank("odd.csv", &odd, &asked).json()), "A");
}

#[test]
fn a_column_of_ties_counts_and_unused_columns_are_named() {
    let folder = Folder::new();
    for text in [
        "winner,loser,draw\nX,Y,1\nX,Y,0\nY,Z,1\n",
        "left,right,winner,is_tie\nX,Y,X,true\nX,Y,left,false\nY,Z,Y,yes\n",
    ] {
        let ranking = folder.rank("ties.csv", text, &["--json"]).json();
        assert_eq!(ranking["reading"]["ties"], 2, "{text}");
        assert_eq!(ranking["reading"]["left_won"], 1, "{text}");
        assert_eq!(ranking["reading"]["unused"], json!([]));
    }
    folder
        .rank("ties.csv", "winner,loser,tie\nX,Y,perhaps\n", &[])
        .refused("does not say whether the row is a tie");
    let counted = "winner,loser,count,remark,\nX,Y,100,a,\nY,X,1,b,\n";
    let ranking = folder.rank("counts.csv", counted, &["--json"]).json();
    assert_eq!(first(&ranking), "X");
    assert_eq!(ranking["columns"]["weight"], "count");
    assert_eq!(ranking["reading"]["unused"], json!(["remark"]));
    let table = folder.rank("counts.csv", counted, &[]);
    assert!(
        table.stdout.contains("columns that are not used: remark"),
        "{}",
        table.stdout
    );
}

#[test]
fn what_one_item_got_is_read_where_it_is_known_which() {
    let folder = Folder::new();
    // Of five games `p` won three.
    let games = "p,q,W\nq,p,L\np,r,Win\nr,p,D\nq,r,lost\n";
    for names in ["team,opponent,result", "Player,Opponent,Outcome"] {
        let ranking = folder
            .rank("t.csv", format!("{names}\n{games}"), &["--json"])
            .json();
        assert_eq!(items(&ranking), ["p", "r", "q"], "{names}");
        let reading = &ranking["reading"];
        let counts = ["left_won", "right_won", "ties"].map(|name| reading[name].as_u64());
        assert_eq!(counts, [Some(2), Some(2), Some(1)], "{names}");
    }
    let open = format!("player_a,player_b,result\n{games}");
    folder
        .rank("t.csv", &open, &[])
        .refused("where it is that of `player_a`, say so by `--winner-is result`");
    let ranking = folder
        .rank("t.csv", &open, &["--json", "--winner-is", "result"])
        .json();
    assert_eq!(items(&ranking), ["p", "r", "q"]);
    assert_eq!(ranking["reading"]["values"], "result");
    let turned = [
        "--json",
        "--winner-is",
        "result",
        "--left",
        "player_b",
        "--right",
        "player_a",
    ];
    let ranking = folder.rank("t.csv", &open, &turned).json();
    assert_eq!(items(&ranking), ["q", "r", "p"]);
}

#[test]
fn tables_that_say_no_winner_are_refused_with_what_to_add() {
    let folder = Folder::new();
    for (text, hint) in [
        (
            "home,away,home_goals,away_goals\np,q,1,0\n",
            "`home_goals` and `away_goals` look like the points of both: add a column `winner` that holds `home` or `away`",
        ),
        (
            "model_a,model_b,score_a,score_b\np,q,1,0\n",
            "`score_a` and `score_b` look like",
        ),
        (
            "p,q,p\nq,r,q\n",
            "where it is a row already, put a line of names before it",
        ),
        (
            "p,q,left\nq,r,left\n",
            "put a line of names before it: `left,right,winner`",
        ),
        (
            "{\"data\": [{\"left\": \"p\"}]}\n",
            "holds the rows in `data`",
        ),
        (
            "{\n\"data\": [\n{\"left\": \"p\"}]}\n",
            "write that list alone",
        ),
    ] {
        folder.rank("t.csv", text, &[]).refused(hint);
    }
}

#[test]
fn an_outcome_that_contradicts_winner_and_loser_is_refused() {
    let folder = Folder::new();
    for (rows, message) in [
        (
            "score\np,q,1\nq,r,0\n",
            "line 3: `0` in column `score` is not that `q` won against `r`",
        ),
        ("outcome\np,q,p\nq,r,r\n", "line 3: `r` in column `outcome`"),
        (
            "outcome\np,q,tie\nq,r,q\n",
            "line 2: `tie` in column `outcome`",
        ),
        ("result\np,q,W\nq,r,L\n", "line 3: `L` in column `result`"),
    ] {
        let text = format!("winner,loser,{rows}");
        folder.rank("t.csv", text, &[]).refused(message);
    }
    // What agrees, or counts something else, is no outcome that is read.
    for rows in [
        "score\np,q,1\nq,r,1.0\n",
        "score\np,q,3\nq,r,0\n",
        "outcome\np,q,p\nq,r,win\n",
    ] {
        let ranking = folder
            .rank("t.csv", format!("winner,loser,{rows}"), &["--json"])
            .json();
        assert_eq!(items(&ranking), ["p", "q", "r"], "{rows}");
        assert_eq!(ranking["reading"]["unused"].as_array().unwrap().len(), 1);
    }
    let lines = "{\"winner\":\"p\",\"loser\":\"q\",\"score\":[1]}\n";
    folder.rank("t.jsonl", lines, &["--json"]).json();
}

#[test]
fn games_of_arena_hard_are_two_comparisons_in_either_order() {
    let folder = Folder::new();
    // Of each question the baseline is A in the first game and B in the second.
    let game = |score: &str| json!({"score": score, "judgment": "...", "user_prompt": "..."});
    let row = |question: &str, model: &str, scores: [&str; 2]| json!({"question_id": question, "model": model, "judge": "gpt-4", "games": scores.map(game)});
    let lines = |rows: &[Value]| {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        lines.join("\n")
    };
    let rows = [
        row("p", "one", ["B>>A", "A>B"]),
        row("q", "one", ["A>B", "A=B"]),
        row("p", "two", ["A>>B", "B>>A"]),
        row("q", "two", ["B>A", "B>A"]),
    ];
    let ranking = folder.rank("arena.jsonl", lines(&rows), &["--json"]).json();
    let alike = "left,right,winner,weight\nbaseline,one,right,3\none,baseline,left,1\nbaseline,one,left,1\n\
                 one,baseline,tie,1\nbaseline,two,left,3\ntwo,baseline,right,3\nbaseline,two,right,1\ntwo,baseline,right,1\n";
    let expected = folder.rank("alike.csv", alike, &["--json"]).json();
    assert_eq!(ranking["standings"], expected["standings"]);
    assert_eq!(ranking["comparisons"], 8);
    assert_eq!(first(&ranking), "one");
    let stored = golden("text/games.parquet");
    let stored = rank(stored.to_str().unwrap(), &["--json"]).json();
    assert_eq!(stored["standings"], expected["standings"]);
    let layout = ranking["reading"]["layout"].as_str().unwrap();
    assert!(
        layout.contains("in the first `A` is the baseline"),
        "{layout}"
    );
    let table = folder.rank("arena.jsonl", lines(&rows), &[]);
    assert!(
        table
            .stdout
            .contains("each of a row's `games` is a comparison"),
        "{}",
        table.stdout
    );
    // Later files name the baseline; a game that the judge gave no verdict on is left out and counted.
    let mut named = rows.clone();
    for row in &mut named {
        row["baseline"] = json!("o3-mini");
        let question = row.as_object_mut().unwrap().remove("question_id");
        row["uid"] = question.unwrap();
    }
    named[1]["games"][1]["score"] = Value::Null;
    let ranking = folder
        .rank(
            "named.jsonl",
            lines(&named),
            &["--json", "--invalid", "drop", "--bootstrap", "20"],
        )
        .json();
    assert!(items(&ranking).contains(&"o3-mini"), "{ranking}");
    assert_eq!(ranking["comparisons"], 7);
    assert_eq!(
        ranking["reading"]["dropped"][0]["reason"],
        "rows without an outcome"
    );
    assert_eq!(ranking["bootstrap"]["groups"], 2);
}

#[test]
fn both_orders_of_mt_bench_count_where_they_agree() {
    let folder = Folder::new();
    let rows = [
        (81, "model_1", "model_1"),
        (82, "model_2", "model_1"),
        (83, "model_1", "tie"),
        (84, "model_1", "model_1"),
        (85, "tie", "tie"),
        (86, "model_2", "model_2"),
    ];
    let line = |(question, one, other): &(i32, &str, &str)| {
        json!({"question_id": question, "model_1": "alpaca", "model_2": "vicuna", "g1_winner": one,
            "g2_winner": other, "judge": ["gpt-4", "pair-v2"], "turn": 1, "g1_judgment": "[[A]]"})
        .to_string()
            + "\n"
    };
    let lines: String = rows.iter().map(line).collect();
    let ranking = folder
        .rank("mt.jsonl", &lines, &["--json", "--bootstrap", "20"])
        .json();
    let alike = "left,right,winner\nalpaca,vicuna,left\nalpaca,vicuna,tie\nalpaca,vicuna,tie\nalpaca,vicuna,left\n\
                 alpaca,vicuna,tie\nalpaca,vicuna,right\n";
    let expected = folder.rank("alike.csv", alike, &["--json"]).json();
    assert_eq!(strengths(&ranking), strengths(&expected));
    assert_eq!(first(&ranking), "alpaca");
    assert_eq!(ranking["reading"]["flips"], 2);
    assert_eq!(ranking["columns"]["other_order"], "g2_winner");
    assert_eq!(ranking["bootstrap"]["groups"], 6);
    let table = folder.rank("mt.jsonl", &lines, &[]);
    for words in [
        "`g1_winner` and `g2_winner` are the side that won in either order",
        "in 2 match-ups the winner turned with the order",
    ] {
        assert!(table.stdout.contains(words), "{words}: {}", table.stdout);
    }
    // The same as a table of text; an error of the judge in one order leaves the row out.
    let csv = "model_1,model_2,g1_winner,g2_winner\nalpaca,vicuna,model_1,model_1\nalpaca,vicuna,model_1,error\n";
    let ranking = folder
        .rank("mt.csv", csv, &["--json", "--invalid", "drop"])
        .json();
    assert_eq!(ranking["comparisons"], 1);
}

#[test]
fn strengths_of_helpsteer_say_who_won_and_count_only_where_that_is_asked() {
    let folder = Folder::new();
    let rows = [-3, -1, 2, 0, -2];
    let csv = |column: &str| {
        let rows = rows.map(|strength| format!("good,bad,{strength}\n"));
        format!("model_1,model_2,{column}\n{}", rows.concat())
    };
    let alike = |weights: [&str; 5]| {
        let sides = ["left", "left", "right", "tie", "left"];
        let rows = sides.iter().zip(weights);
        let rows: Vec<String> = rows
            .map(|(side, weight)| format!("good,bad,{side},{weight}"))
            .collect();
        let text = format!("left,right,winner,weight\n{}\n", rows.join("\n"));
        strengths(&folder.rank("alike.csv", text, &["--json"]).json())
    };
    for column in ["overall_preference", "preference_strength"] {
        let ranking = folder.rank("steer.csv", csv(column), &["--json"]).json();
        assert_eq!(first(&ranking), "good");
        assert_eq!(strengths(&ranking), alike(["1"; 5]));
        assert_eq!(ranking["reading"]["values"], "strength");
    }
    let table = folder
        .rank("steer.csv", csv("overall_preference"), &[])
        .stdout;
    let words = "below 0 where `model_1` won, above 0 where `model_2` did, by how much is not used";
    assert!(table.contains(words), "{table}");
    let games = folder.rank(
        "steer.csv",
        csv("overall_preference"),
        &["--json", "--winner-is", "games"],
    );
    assert_eq!(strengths(&games.json()), alike(["3", "1", "2", "1", "2"]));
    // Under any other name it is asked which side is below 0.
    folder
        .rank("steer.csv", csv("preference"), &[])
        .refused("numbers on both sides of 0, 3 of them beyond 1");
    let told = folder.rank(
        "steer.csv",
        csv("preference"),
        &["--json", "--winner-is", "strength"],
    );
    assert_eq!(strengths(&told.json()), alike(["1"; 5]));
}

#[test]
fn cases_of_real_files_are_read_as_their_authors_do() {
    let Some(cases) = shared("cases/ranking") else {
        return;
    };
    let case = |file: &str, flags: &[&str]| {
        rank(
            cases.join(file).to_str().unwrap(),
            &[&["--json"], flags].concat(),
        )
    };
    for file in [
        "103-arena-parquet/a.parquet",
        "104-kaggle-onehot/a.csv",
        "105-semicolon/a.csv",
    ] {
        let ranking = case(file, &[]).json();
        assert_eq!(ranking["comparisons"], 6, "{file}");
        assert_eq!(first(&ranking), "gpt-4", "{file}");
    }
    let alpaca = case("108-alpacaeval/a.csv", &["--method", "win-rate"]).json();
    assert_eq!(first(&alpaca), "mine");
    assert!((strengths(&alpaca)[0] - 2.0 / 3.0).abs() < 1e-12);
    case("110-score-index-01/a.csv", &[]).refused("nothing says which item they mean");
    assert_eq!(first(&case("111-names-a-b/a.csv", &[]).json()), "A");
    assert_eq!(case("115-all-ties/a.csv", &[]).code, 0);
    case("116-single-model-self/a.csv", &[]).refused("1 of 3 rows cannot be used");
    let ranking = case("116-single-model-self/a.csv", &["--invalid", "drop"]).json();
    assert_eq!(ranking["comparisons"], 2);
    assert_eq!(first(&case("120-arena-hard/a.jsonl", &[]).json()), "x");
}

#[test]
fn every_field_of_the_json_is_documented() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/OUTPUTS.md");
    let page = fs::read_to_string(page).unwrap();
    let part = page.split("## `rank --json`").nth(1).unwrap();
    let part = part.split("\n## ").next().unwrap();
    let ranking = Folder::new()
        .rank("c.csv", CIRCLE, &["--json", "--bootstrap", "20"])
        .json();
    let fields =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let inner = ["columns", "reading", "fit", "bootstrap", "calibration"];
    let all = inner.iter().flat_map(|key| fields(&ranking[key]));
    let rows = fields(&ranking["standings"][0]);
    for field in all.chain(rows).chain(fields(&ranking)) {
        assert!(
            part.contains(&format!("`{field}`")),
            "`{field}` is not in it"
        );
    }
}

#[test]
fn names_that_a_terminal_would_obey_are_shown_escaped() {
    let folder = Folder::new();
    let text = "left,right,winner\nm\u{1b}[31mA\u{1b}]0;PWNED\u{7},b,left\nb,m\u{1b}[31mA\u{1b}]0;PWNED\u{7},left\n\
                m\u{1b}[31mA\u{1b}]0;PWNED\u{7},\u{9b}2J\u{202e}c,right\n\"d\ne\",b,left\n";
    let ran = folder.rank("g.csv", text, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let shown = format!("{}{}", ran.stdout, ran.stderr);
    let raw = |letter: char| letter != '\n' && letter.is_control() || letter == '\u{202e}';
    assert!(!shown.contains(raw), "{shown:?}");
    assert!(
        ran.stdout.contains("m\\u001b[31mA\\u001b]0;PWNED\\u0007"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("d\\ne"), "{}", ran.stdout);
    // JSON means the same characters.
    let ranking = folder.rank("g.csv", text, &["--json"]).json();
    let names = items(&ranking);
    assert!(
        names.contains(&"\u{9b}2J\u{202e}c") && names.contains(&"d\ne"),
        "{names:?}"
    );
    // Cells of a message, and the file's own name.
    let bad = "left,right,winner\na,b,\u{1b}[2J\n";
    let ran = folder.rank("t\u{1b}[2J.csv", bad, &[]);
    ran.refused("`\\u001b[2J` in column `winner`");
    assert!(!ran.stderr.contains('\u{1b}'), "{:?}", ran.stderr);
    assert!(ran.stderr.contains("t\\u001b[2J.csv"), "{}", ran.stderr);
    // Keys of a configuration, and tensors of a file.
    let config = folder.file("c.toml", "[train]\n\"st\\u001b[2Jeps\" = 3\n");
    let header =
        r#"{"up\u001b[2J.lora_A.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut lora = (header.len() as u64).to_le_bytes().to_vec();
    lora.extend(header.as_bytes());
    lora.extend([0; 4]);
    let lora = folder.file("lora.safetensors", lora);
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/diffusion/sd1");
    let out = folder.0.path().join("out");
    for arguments in [
        &["check", config.to_str().unwrap()][..],
        &[
            "export",
            lora.to_str().unwrap(),
            "--base",
            base,
            "--out",
            out.to_str().unwrap(),
        ],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .args(arguments)
            .output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(said.contains("\\u001b[2J"), "{said:?}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
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

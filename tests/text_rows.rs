//! Rows as people have them: other names, other files, a few bad ones among many, the same prompt more than once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use preftune::data::groups::{Overlap, split};
use preftune::data::text::{Reading, Record, Shape, Text, read, read_with};
use preftune::models::lm::tokenizer::TextTokenizer;
use serde_json::{Map, Value, json};

use crate::command::{Folder, Ran, quoted};
use crate::support::golden;

fn one(row: &Value, shape: Shape) -> Result<Record, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    fs::write(&path, row.to_string() + "\n").unwrap();
    let read = read(&path, shape).map_err(|error| error.to_string())?;
    Ok(read.into_iter().next().unwrap())
}

#[track_caller]
fn refused(row: &Value, shape: Shape, message: &str) {
    let error = one(row, shape).unwrap_err();
    assert!(error.contains(message), "{message}: {error}");
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn config(folder: &Folder, data: &str, more: &str) {
    let base = quoted(&golden("text/model"));
    let text = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {base}\n[data]\ntrain = \"{data}\"\n{more}\n\
         [train]\nsteps = 1\nbatch = 2\n[validation]\nevery = 0\npatience = 0\n"
    );
    fs::write(folder.path("run.toml"), text).unwrap();
}

fn inspect(folder: &Folder, data: &str, more: &str) -> Ran {
    config(folder, data, more);
    folder.binary(&["inspect", "run.toml"])
}

#[test]
fn published_layouts_are_read() {
    let pairs = [
        // PKU-SafeRLHF.
        json!({"prompt": "p", "response_0": "b", "response_1": "a", "better_response_id": 1, "safer_response_id": 0}),
        // SHP.
        json!({"history": "p", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}),
        // HelpSteer3, with its prompt in words.
        json!({"context": "p", "response1": "b", "response2": "a", "overall_preference": 1}),
        json!({"query": "p", "response_a": "a", "response_b": "b", "winner": "model_a"}),
        json!({"question": "p", "chosen_response": "a", "rejected_response": "b"}),
    ];
    for row in pairs {
        let record = one(&row, Shape::Pairs).unwrap();
        assert_eq!(record.prompt, plain("p"), "{row}");
        assert_eq!(record.answers, [plain("a"), plain("b")], "{row}");
    }
    // A chat that ends with the better answer, beside the worse one.
    let row = json!({"messages": [user("p"), assistant("a")], "rejected_response": "b"});
    let record = one(&row, Shape::Pairs).unwrap();
    assert_eq!(record.prompt, Text::Chat(vec![user("p")]));
    assert_eq!(record.answers[0], Text::Chat(vec![assistant("a")]));
    // Chatbot Arena.
    let row = json!({"conversation_a": [user("p"), assistant("a")], "conversation_b": [user("p"), assistant("b")],
        "winner": "model_b"});
    let record = one(&row, Shape::Pairs).unwrap();
    assert_eq!(record.prompt, Text::Chat(vec![user("p")]));
    assert_eq!(record.answers[0], Text::Chat(vec![assistant("b")]));
    for (label, reward) in [
        (json!(1.0), 1.0),
        (json!("True"), 1.0),
        (json!("false"), 0.0),
        (json!(0), 0.0),
    ] {
        let row = json!({"messages": [user("p"), assistant("a")], "label": label});
        let record = one(&row, Shape::Marked).unwrap();
        assert_eq!(record.rewards, [reward]);
        assert_eq!(record.prompt, Text::Chat(vec![user("p")]));
    }
    refused(
        &json!({"prompt": "p", "completion": "a", "label": 0.5}),
        Shape::Marked,
        "`label` is 0.5, neither true nor false",
    );
    let calls = json!({"conversations": [{"from": "human", "value": "p"},
        {"from": "function_call", "value": "{\"name\": \"add\", \"arguments\": {\"a\": 1}}"},
        {"from": "observation", "value": "1"}, {"from": "gpt", "value": "a"}]});
    let record = one(&calls, Shape::Answers).unwrap();
    let Text::Chat(prompt) = record.prompt else {
        panic!("no chat");
    };
    assert_eq!(prompt[1]["tool_calls"][0]["function"]["name"], "add");
    assert_eq!(prompt[2], json!({"role": "tool", "content": "1"}));
}

#[test]
fn a_prompt_is_never_lost() {
    let both = |prompt: Value, before: &[Value]| {
        let whole = |answer: &str| [before, &[assistant(answer)]].concat();
        json!({"prompt": prompt, "chosen": whole("a"), "rejected": whole("b")})
    };
    let system = json!({"role": "system", "content": "s"});
    // Said again by the answers, with other spaces, without the system message, or with one that only they have.
    for (row, prompt) in [
        (both(json!([user("p ")]), &[user("p")]), vec![user("p ")]),
        (
            both(json!([system, user("p")]), &[user("p")]),
            vec![system.clone(), user("p")],
        ),
        (
            both(json!([user("p")]), &[system.clone(), user("p")]),
            vec![system.clone(), user("p")],
        ),
        (both(json!("p"), &[user("p")]), vec![user("p")]),
    ] {
        let record = one(&row, Shape::Pairs).unwrap();
        assert_eq!(record.prompt, Text::Chat(prompt), "{row}");
        assert_eq!(record.answers[0], Text::Chat(vec![assistant("a")]), "{row}");
    }
    refused(
        &both(json!([user("p")]), &[user("q")]),
        Shape::Pairs,
        "it is to another prompt",
    );
    refused(
        &both(json!("q"), &[user("p")]),
        Shape::Pairs,
        "`prompt` is not what the chats",
    );
    refused(
        &json!({"topic": "p", "chosen": "a", "rejected": "b"}),
        Shape::Pairs,
        "the prompt is empty",
    );
    refused(
        &json!({"prompt": " ", "completion": "a"}),
        Shape::Answers,
        "the prompt is empty",
    );
    // One system message, not two.
    let row = |system: &str| {
        json!({"system": system, "prompt": [{"role": "system", "content": "s"}, user("p")],
        "chosen": "a", "rejected": "b"})
    };
    let Text::Chat(prompt) = one(&row("s"), Shape::Pairs).unwrap().prompt else {
        panic!("no chat");
    };
    assert_eq!(prompt.len(), 2);
    refused(
        &row("t"),
        Shape::Pairs,
        "another thing than the system message",
    );
    let row = json!({"system_prompt": "s", "question": "p", "response": "a"});
    let [system, words] = ["s", "p"].map(str::to_owned);
    assert_eq!(
        one(&row, Shape::Answers).unwrap().prompt,
        Text::Instructed { system, words }
    );
}

#[test]
fn what_looks_like_an_answer_and_is_none_is_refused_for_what_it_is() {
    let pythons = "[{'role': 'user', 'content': 'q'}]";
    let row = json!({"prompt": pythons, "chosen": "a", "rejected": "b"});
    refused(
        &row,
        Shape::Pairs,
        "`prompt` is a list of messages as Python prints it",
    );
    let dialogues = |chosen: &str, rejected: &str| json!({"chosen": chosen, "rejected": rejected});
    refused(
        &dialogues(
            "\n\nHuman: x\n\nAssistant: a",
            "\n\nHuman: y\n\nAssistant: b",
        ),
        Shape::Pairs,
        "the dialogues differ before the assistant's first answer",
    );
    let asked = "\n\nHuman: x\n\nAssistant:";
    refused(
        &dialogues(&format!("{asked} a"), &format!("{asked} b\n\nHuman: bye")),
        Shape::Pairs,
        "go on with a turn of the user",
    );
    for name in ["ranking", "rank", "ratings", "reward"] {
        let row = json!({"prompt": "p", "responses": ["a", "b"], name: [1, 2]});
        refused(
            &row,
            Shape::Ranked,
            "has a number for each answer, and is not read",
        );
    }
}

#[test]
fn columns_get_our_names_and_unused_ones_are_named() {
    let folder = Folder::new();
    let rows: Vec<Value> = (0..4)
        .map(|row| json!({"topic": format!("p{row}"), "good": "a", "bad": "b", "votes": 3}))
        .collect();
    folder.lines("data.jsonl", &rows);
    let ours = "columns = { prompt = \"topic\", chosen = \"good\", rejected = \"bad\" }";
    let ran = inspect(&folder, "data.jsonl", ours).done();
    for words in ["p0", "reward 1: \"a", "columns that are not used: `votes`"] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let more = "columns = { promt = \"topic\" }";
    inspect(&folder, "data.jsonl", more).refused("`promt` is no column that is read; known are");
    let more = "columns = { prompt = \"subject\" }";
    inspect(&folder, "data.jsonl", more).refused("column `subject` is missing");
    // On the command line.
    config(&folder, "data.jsonl", "");
    let set = |name: &str, theirs: &str| format!("data.columns.{name}={theirs}");
    let sets = [
        set("prompt", "topic"),
        set("chosen", "good"),
        set("rejected", "bad"),
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    folder
        .binary(&[&["inspect", "run.toml"], sets.as_slice()].concat())
        .done();
}

#[test]
fn unused_columns_are_named_once_by_every_verb_that_reads_rows() {
    let folder = Folder::new();
    let row = |at: usize| json!({"prompt": format!("Why {at}?"), "chosen": "It is good.", "rejected": "It is bad.", "mood": "glad"});
    folder.lines("pairs.jsonl", &(0..4).map(row).collect::<Vec<_>>());
    let answer =
        |at: usize| json!({"prompt": "Why?", "text": format!("good {at}"), "mood": "glad"});
    folder.lines("answers.jsonl", &(0..4).map(answer).collect::<Vec<_>>());
    config(&folder, "pairs.jsonl", "");
    folder.binary(&["train", "run.toml", "--quiet"]).done();
    let model = golden("text/model");
    let model = model.to_str().unwrap();
    let says = |arguments: &str, file: &str, columns: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let ran = folder.binary(&arguments).done();
        let words = format!("`{file}`: columns that are not used: {columns}\n");
        assert_eq!(
            ran.stderr.matches(&words).count(),
            1,
            "{arguments:?}: {}",
            ran.stderr
        );
        let quiet = folder
            .binary(&[&arguments[..], &["--quiet"]].concat())
            .done();
        assert!(!quiet.stderr.contains("not used"), "{}", quiet.stderr);
    };
    says(
        &format!("generate --model {model} --prompts pairs.jsonl --max-tokens 1 --device cpu"),
        "pairs.jsonl",
        "`chosen`, `mood`, `rejected`",
    );
    says(
        "score --data pairs.jsonl --reward sentiment",
        "pairs.jsonl",
        "`mood`",
    );
    says(
        "score --answers answers.jsonl --reward sentiment",
        "answers.jsonl",
        "`mood`",
    );
    says(
        "label --data pairs.jsonl --reward sentiment --out labelled.jsonl",
        "pairs.jsonl",
        "`mood`",
    );
    says(
        "label --answers pairs.jsonl --reward sentiment --out labelled.jsonl",
        "pairs.jsonl",
        "`mood`",
    );
    says(
        "eval text run --data pairs.jsonl --device cpu",
        "pairs.jsonl",
        "`mood`",
    );
    // A second answer is none that is scored.
    let twice = json!({"prompt": "Why?", "completion": "It is good.", "response": "It is bad.", "text": "So."});
    folder.lines("twice.jsonl", &[twice]);
    says(
        "score --answers twice.jsonl --reward sentiment",
        "twice.jsonl",
        "`response`, `text`",
    );
    // Rows that say nothing are counted too.
    let compared = |strength: i32| json!({"context": [user("Why?")], "response1": "good", "response2": "bad", "overall_preference": strength});
    folder.lines("steer.jsonl", &[compared(-1), compared(0), compared(2)]);
    for kind in ["--data", "--answers"] {
        let ran = folder
            .binary(&["score", kind, "steer.jsonl", "--reward", "sentiment"])
            .done();
        let words = "left out, 1 row: a tie: neither answer is better (`steer.jsonl`, line 2)";
        assert!(ran.stderr.contains(words), "{kind}: {}", ran.stderr);
    }
}

#[test]
fn few_bad_rows_are_left_out_and_counted_and_many_refuse_the_file() {
    let folder = Folder::new();
    let good = |row: usize| json!({"prompt": format!("p{row}"), "chosen": "a", "rejected": "b"});
    let mut rows: Vec<Value> = (0..30).map(good).collect();
    rows[4]["rejected"] = json!("");
    rows[9] = json!({"prompt": "q", "chosen": "a", "rejected": "a"});
    folder.lines("data.jsonl", &rows);
    let ran = inspect(&folder, "data.jsonl", "").done();
    for words in [
        "training: 28 examples",
        "left out, 1 row: the rejected answer is empty (`data.jsonl`, line 5)",
        "left out, 1 row: the chosen and the rejected answer are identical (`data.jsonl`, line 10)",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    let ran = folder.binary(&["train", "run.toml"]).done();
    assert!(
        ran.stderr
            .contains("left out, 1 row: the rejected answer is empty"),
        "{}",
        ran.stderr
    );
    let left_out = folder.manifest("run")["left_out"].clone();
    assert_eq!(left_out.as_array().unwrap().len(), 2, "{left_out}");

    let ran = inspect(&folder, "data.jsonl", "invalid = \"error\"");
    ran.refused("2 of 30 rows cannot be used");
    for row in &mut rows[10..12] {
        row["chosen"] = json!(null);
    }
    folder.lines("data.jsonl", &rows);
    let ran = inspect(&folder, "data.jsonl", "");
    ran.refused("4 of 30 rows cannot be used, and a tenth is too many");
    assert!(
        ran.stderr
            .contains("2 rows: `chosen` is null (first: `data.jsonl`, line 11)"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stdout.contains("training: 26 examples"),
        "{}",
        ran.stdout
    );
    // What no parser can read has no rows.
    fs::write(folder.path("data.jsonl"), "{\"prompt\": \n").unwrap();
    inspect(&folder, "data.jsonl", "").refused("line 1: not a JSON object");
    // Ties are no faults.
    let tie = |row: usize| {
        json!({"prompt": format!("p{row}"), "response_1": "a", "response_2": "b",
        "preference_strength": row % 2})
    };
    folder.lines("data.jsonl", &(0..8).map(tie).collect::<Vec<_>>());
    let ran = inspect(&folder, "data.jsonl", "").done();
    assert!(
        ran.stdout.contains("left out, 4 rows: a tie"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_share_is_held_out_by_prompt() {
    let rows: Vec<String> = (0..60).map(|row| format!("p{}", row * row % 20)).collect();
    let key = |prompt: &String| vec![prompt.clone()];
    let sides = |rows: Vec<String>, seed| split(rows, |_| None, key, seed, 0.2);
    let (train, held_out) = sides(rows.clone(), 7);
    let overlap = Overlap::count(train.iter().cloned(), held_out.iter().cloned());
    assert_eq!(overlap.shared, 0);
    assert!(
        !held_out.is_empty() && held_out.len() <= 12,
        "{}",
        held_out.len()
    );
    assert_eq!(sides(rows.clone(), 7).1, held_out);
    assert_ne!(sides(rows.clone(), 8).1, held_out);
    // Whatever the order of the file.
    let set = |rows: &[String]| rows.iter().cloned().collect::<BTreeSet<_>>();
    let turned: Vec<String> = rows.into_iter().rev().collect();
    assert_eq!(set(&sides(turned, 7).1), set(&held_out));
    // What has one key in common with another is one group with all that has another in common with that.
    let chain: Vec<usize> = (0..9).collect();
    let links = |row: &usize| match row {
        0..6 => vec![format!("k{row}"), format!("k{}", row + 1)],
        row => vec![format!("own {row}")],
    };
    for seed in 0..5 {
        let (train, held_out) = split(chain.clone(), |_| None, links, seed, 0.3);
        let inside = |side: &[usize]| side.iter().filter(|row| **row < 6).count();
        assert!([0, 6].contains(&inside(&train)));
        assert!(!held_out.is_empty());
    }

    let folder = Folder::new();
    let row = |row: usize| json!({"prompt": format!("p{}", row % 5), "chosen": format!("a{row}"), "rejected": "b"});
    let rows: Vec<Value> = (0..20).map(row).collect();
    folder.lines("data.jsonl", &rows);
    let ran = inspect(&folder, "data.jsonl", "validation_share = 0.2").done();
    let words = "split: 4 prompts to learn from, 1 held out, none on both sides";
    assert!(ran.stdout.contains(words), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("held out: 4 examples"),
        "{}",
        ran.stdout
    );
    // A file of its own may share them.
    folder.lines("more.jsonl", &rows[..3]);
    let ran = inspect(&folder, "data.jsonl", "validation = \"more.jsonl\"").done();
    let words = "5 prompts to learn from, 3 held out, 3 on both sides";
    assert!(ran.stdout.contains(words), "{}", ran.stdout);
}

#[test]
fn files_of_all_kinds_give_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let rows = [
        json!({"prompt": "p, \"q\"\nr", "chosen": "a", "rejected": "b", "weight": 0.5}),
        json!({"prompt": "s", "chosen": "c", "rejected": "d", "weight": 2}),
    ];
    let array = Value::from(rows.to_vec()).to_string();
    let lines = rows.each_ref().map(Value::to_string).join("\n") + "\n";
    let cells = "\u{feff}prompt,chosen,rejected,weight\n\"p, \"\"q\"\"\nr\",a,b,0.5\ns,c,d,2\n";
    fs::write(path("a.json"), format!("\u{feff}{array}")).unwrap();
    fs::write(path("b.jsonl"), format!("\u{feff}{lines}")).unwrap();
    // Objects, one a line, under the name of an array, as some exports have them.
    fs::write(path("c.json"), &lines).unwrap();
    fs::write(path("d.csv"), cells).unwrap();
    fs::write(
        path("e.tsv"),
        cells
            .replace("p, ", "p; ")
            .replace(',', "\t")
            .replace("p; ", "p, "),
    )
    .unwrap();
    fs::write(
        path("f.csv"),
        cells
            .replace("p, ", "p| ")
            .replace(',', ";")
            .replace("p| ", "p, "),
    )
    .unwrap();
    for (name, text) in [("g.jsonl.gz", &lines), ("h.json.gz", &array)] {
        let mut writer = GzEncoder::new(fs::File::create(path(name)).unwrap(), Compression::fast());
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap();
    }
    let values = |records: Vec<Record>| -> Vec<(Text, Vec<Text>, f64)> {
        let value = |record: Record| (record.prompt, record.answers, record.weight);
        records.into_iter().map(value).collect()
    };
    let expected = values(read(&path("a.json"), Shape::Pairs).unwrap());
    assert_eq!(expected[0].0, plain("p, \"q\"\nr"));
    for name in [
        "b.jsonl",
        "c.json",
        "d.csv",
        "e.tsv",
        "f.csv",
        "g.jsonl.gz",
        "h.json.gz",
    ] {
        assert_eq!(
            values(read(&path(name), Shape::Pairs).unwrap()),
            expected,
            "{name}"
        );
    }
    // A folder is all of its files; those that are called tests are held out.
    fs::create_dir_all(path("shards/data")).unwrap();
    fs::copy(
        path("b.jsonl"),
        path("shards/data/train-00000-of-00001.jsonl"),
    )
    .unwrap();
    fs::copy(path("d.csv"), path("shards/data/test-00000-of-00001.csv")).unwrap();
    let reading = Reading::default();
    let shards = read_with(&path("shards"), Shape::Pairs, &reading).unwrap();
    assert_eq!((shards.notes.rows, shards.notes.files.len()), (4, 2));
    let held_out: Vec<_> = shards.rows.iter().map(|record| record.held_out).collect();
    assert_eq!(held_out, [Some(true), Some(true), None, None]);
    let names = BTreeMap::from([("rejected".to_owned(), "worse".to_owned())]);
    let reading = Reading {
        columns: Some(&names),
        ..Reading::default()
    };
    let shards = read_with(&path("shards"), Shape::Pairs, &reading).unwrap();
    assert_eq!(shards.notes.left_out.faults(), 4);
}

#[test]
fn what_spreadsheets_write_around_a_table_is_no_part_of_it() {
    let folder = Folder::new();
    let expected = json!([["Why?", "Because; yes", "No"], ["How?", "So", "Not"]]);
    for (name, text) in [
        (
            "told.csv",
            "sep=;\r\nprompt;chosen;rejected\r\nWhy?;\"Because; yes\";No\r\nHow?;So;Not\r\n",
        ),
        (
            "marked.csv",
            "\u{feff}sep=,\nprompt,chosen,rejected\nWhy?,Because; yes,No\nHow?,So,Not\n",
        ),
        (
            "tabs.tsv",
            "sep=\t\nprompt\tchosen\trejected\nWhy?\tBecause; yes\tNo\nHow?\tSo\tNot\n",
        ),
        (
            "empty.csv",
            "prompt,chosen,rejected,,\nWhy?,Because; yes,No,,\nHow?,So,Not,,\n",
        ),
    ] {
        fs::write(folder.path(name), text).unwrap();
        let records = read(&folder.path(name), Shape::Pairs).unwrap();
        let words = |text: &Text| text.words().unwrap().to_owned();
        let rows: Vec<_> = records
            .iter()
            .map(|one| {
                json!([
                    words(&one.prompt),
                    words(&one.answers[0]),
                    words(&one.answers[1])
                ])
            })
            .collect();
        assert_eq!(json!(rows), expected, "{name}");
        let lines: Vec<usize> = records.iter().map(|one| one.line).collect();
        let first = if text.contains("sep=") { 3 } else { 2 };
        assert_eq!(lines, [first, first + 1], "{name}");
    }
    // A row of another length is named by its line, whatever stands before the table and however its lines end.
    for (text, line) in [
        ("prompt,chosen,rejected\nWhy?,a,b\nWhy?,a\n", 3),
        (
            "sep=,\r\nprompt,chosen,rejected\r\nWhy?,a,b\r\nWhy?,a\r\n",
            4,
        ),
    ] {
        fs::write(folder.path("short.csv"), text).unwrap();
        let error = read(&folder.path("short.csv"), Shape::Pairs).unwrap_err();
        let named = format!("line {line}: 2 fields in a table of 3 columns");
        assert!(error.to_string().contains(&named), "{error}");
    }
    fs::write(folder.path("wide.csv"), b"\xff\xfep\0r\0").unwrap();
    let error = read(&folder.path("wide.csv"), Shape::Pairs).unwrap_err();
    assert!(error.to_string().contains("text in UTF-16"), "{error}");
}

#[test]
fn what_rows_say_against_themselves_or_lose_is_said() {
    let folder = Folder::new();
    let row = |chosen: f64, rejected: f64| {
        json!({"system": "Be brief.", "prompt": "Why?", "chosen": "So", "rejected": format!("No {rejected}"),
            "chosen_score": chosen, "rejected_score": rejected})
    };
    folder.lines(
        "pairs.jsonl",
        &[row(4.0, 1.0), row(1.0, 5.0), row(3.0, 3.0)],
    );
    let said = inspect(&folder, "pairs.jsonl", "").done().stdout;
    for words in [
        "in 1 pairs the chosen answer has the lower score of the two",
        "in 3 of them the system message, which has a column of its own",
    ] {
        assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
    }
    // Chatbot Arena's two kinds of ties.
    let arena = |winner: &str| {
        json!({"conversation_a": [user("Why?"), assistant("So")], "conversation_b": [user("Why?"), assistant("No")],
            "winner": winner})
    };
    for winner in ["both_bad", "tie (bothbad)", "tie"] {
        folder.lines("arena.jsonl", &[arena("model_a"), arena(winner)]);
        let said = inspect(&folder, "arena.jsonl", "").done().stdout;
        assert!(
            said.contains("1 row: a tie: neither answer is better"),
            "{winner}: {said}"
        );
    }
}

#[test]
fn files_that_are_none_are_named_for_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fails = |path: &Path, words: &str, hint: &str| {
        let error = read(path, Shape::Pairs).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(
            error.hint().unwrap_or_default().contains(hint),
            "{:?}",
            error.hint()
        );
        assert_eq!(error.exit_code(), 2, "{error}");
    };
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["a.jsonl", "a.json", "a.parquet", "a.csv"] {
        fs::write(path(name), pointer).unwrap();
        fails(&path(name), "git-lfs pointer", "git lfs pull");
    }
    fs::create_dir_all(path("cache/snapshots/0123")).unwrap();
    fails(&path("cache"), "no files of rows", "snapshots/0123");
    fails(Path::new("org/name"), "cannot read", "data set of the hub");
    // Damaged and endless compressed files.
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(&vec![b'x'; 40 << 20]).unwrap();
    let endless = writer.finish().unwrap();
    fs::write(path("endless.jsonl.gz"), &endless).unwrap();
    fails(
        &path("endless.jsonl.gz"),
        "line 1: longer than 32 MiB",
        "one object a line",
    );
    fs::write(path("cut.jsonl.gz"), &endless[..endless.len() / 2]).unwrap();
    let mut damaged = endless.clone();
    damaged[20..40].fill(0xff);
    fs::write(path("damaged.jsonl.gz"), damaged).unwrap();
    fails(
        &path("damaged.jsonl.gz"),
        "not a readable gzip file",
        "fetch it again",
    );
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(b"{\"prompt\": \"p\"}\n").unwrap();
    let whole = writer.finish().unwrap();
    fs::write(path("cut.jsonl.gz"), &whole[..whole.len() - 9]).unwrap();
    fails(
        &path("cut.jsonl.gz"),
        "not a readable gzip file",
        "fetch it again",
    );
    let long = format!("[{{\"prompt\": \"{}\"}}]", "x".repeat(40 << 20));
    fs::write(path("long.json"), long).unwrap();
    fails(&path("long.json"), "longer than 32 MiB", "");
    // An image in a cell is not printed.
    let row = json!({"prompt": 3, "chosen": {"bytes": "A".repeat(1000)}, "rejected": "b"});
    fs::write(path("b.jsonl"), row.to_string()).unwrap();
    let error = read(&path("b.jsonl"), Shape::Pairs)
        .unwrap_err()
        .to_string();
    assert!(
        error.len() < 400 && !error.contains(&"A".repeat(100)),
        "{error}"
    );
}

#[test]
fn all_turns_of_the_assistant_can_be_learnt_from() {
    let folder = Folder::new();
    let system = json!({"role": "system", "content": "s"});
    let chat = [system, user("a"), assistant("b"), user("c"), assistant("d")];
    folder.lines("data.jsonl", &[json!({"messages": chat})]);
    let objective = "[objective]\nkind = \"sft\"";
    let last = inspect(&folder, "data.jsonl", objective).done().stdout;
    assert!(
        last.contains("only the assistant's last turn is learnt from"),
        "{last}"
    );
    config(
        &folder,
        "data.jsonl",
        &format!("train_on = \"all\"\n{objective}"),
    );
    let ran = folder
        .binary(&["inspect", "run.toml", "--json"])
        .done()
        .json();
    let sequence = &ran["examples"][0]["sequences"][0];
    let tokenizer = TextTokenizer::open(&golden("text/model"), 4096).unwrap();
    let ids: Vec<i64> = serde_json::from_value(sequence["ids"].clone()).unwrap();
    let mask: Vec<u8> = serde_json::from_value(sequence["completion_mask"].clone()).unwrap();
    // What is scored is what the assistant is asked for in each of its turns, one after the other.
    let turn = |place: usize| {
        let turn = tokenizer.answered_chat(&chat[..place], &chat[place..=place], &Map::new());
        let turn = turn.unwrap();
        turn.ids[turn.prompt..].to_vec()
    };
    let scored = ids.iter().zip(&mask).filter(|(_, mask)| **mask == 1);
    let scored: Vec<i64> = scored.map(|(id, _)| *id).collect();
    assert_eq!(scored, [turn(2), turn(4)].concat());
    folder
        .binary(&["train", "run.toml", "--set", "train.batch=1"])
        .done();
}

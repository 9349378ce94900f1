//! Data that say two things, or another thing than they seem to: each is read for what it is, refused, or named.

use std::collections::BTreeMap;
use std::fs;

use preftune::data::left_out::LeftOut;
use preftune::data::listing::Listing;
use preftune::data::preferences::{Rows, read_pairs};
use preftune::data::text::{Read, Reading, Record, Shape, Text, prompts, read, read_with};
use preftune::models::lm::tokenizer::TextTokenizer;
use serde_json::{Map, Value, json};

use crate::command::{Folder, Ran, quoted};
use crate::support::golden;

fn records(rows: &[Value], shape: Shape) -> Read<Record> {
    let folder = Folder::new();
    folder.lines("data.jsonl", rows);
    read_with(&folder.path("data.jsonl"), shape, &Reading::default()).unwrap()
}

fn one(row: Value, shape: Shape) -> Result<Record, String> {
    let read = records(&[row], shape);
    match read.notes.left_out.reasons.first() {
        Some(reason) => Err(reason.reason.clone()),
        None => Ok(read.rows.into_iter().next().unwrap()),
    }
}

fn inspect(folder: &Folder, rows: &[Value], more: &str, flags: &[&str]) -> Ran {
    folder.lines("data.jsonl", rows);
    let base = quoted(&golden("text/model"));
    let text = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {base}\n[data]\ntrain = \"data.jsonl\"\n{more}\n\
         [train]\nsteps = 1\nbatch = 1\n[validation]\nevery = 0\npatience = 0\n"
    );
    fs::write(folder.path("run.toml"), text).unwrap();
    folder.binary(&[&["inspect", "run.toml"], flags].concat())
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

#[test]
fn turns_of_the_user_and_of_tools_within_an_answer_are_read_and_not_scored() {
    let folder = Folder::new();
    let prompt = [message("user", "q")];
    let answer = |one: &str, other: &str, between: &Value| {
        [
            message("assistant", one),
            between.clone(),
            message("assistant", other),
        ]
    };
    let tokenizer = TextTokenizer::open(&golden("text/model"), 4096).unwrap();
    for between in [message("user", "And?"), message("tool", "1")] {
        let chosen = answer("yes", "fine", &between);
        let pair =
            json!({"prompt": prompt, "chosen": chosen, "rejected": answer("no", "bad", &between)});
        let ran = inspect(&folder, std::slice::from_ref(&pair), "", &["--json"]).done();
        let sequence = &ran.json()["examples"][0]["sequences"][0];
        let ids: Vec<i64> = serde_json::from_value(sequence["ids"].clone()).unwrap();
        let mask: Vec<u8> = serde_json::from_value(sequence["completion_mask"].clone()).unwrap();
        let scored = ids.iter().zip(&mask).filter(|(_, mask)| **mask == 1);
        let scored: Vec<i64> = scored.map(|(id, _)| *id).collect();
        // What the assistant is asked for in each of its turns, one after the other.
        let all = [&prompt[..], &chosen].concat();
        let turn = |place: usize| {
            let turn = tokenizer.answered_chat(&all[..place], &all[place..=place], &Map::new());
            let turn = turn.unwrap();
            turn.ids[turn.prompt..].to_vec()
        };
        assert_eq!(scored, [turn(1), turn(3)].concat(), "{between}");
        let said = inspect(&folder, &[pair], "", &[]).done().stdout;
        let words = "in the answers of 1 examples the user or a tool takes a turn, which is read and not scored";
        assert!(said.contains(words), "{said}");
    }
    // Log-probs that others have summed are of whole answers.
    let between = message("user", "And?");
    let pair = json!({"prompt": prompt, "chosen": answer("yes", "fine", &between), "rejected": [message("assistant", "no")],
        "ref_chosen_logps": -3.0, "ref_rejected_logps": -2.0});
    inspect(&folder, &[pair], "", &[])
        .refused("of what the log-probs that the data bring along are is not known");
}

#[test]
fn prompts_that_another_template_has_made_are_counted_in_a_warning() {
    let folder = Folder::new();
    let row = |prompt: &str| json!({"prompt": prompt, "chosen": "yes", "rejected": "no"});
    let foreign = [
        ("[INST]", "<s>[INST] hi [/INST]"),
        (
            "<|im_start|>",
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "<start_of_turn>",
            "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            "<|start_header_id|>",
            "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant",
        ),
        (
            "### Instruction:",
            "### Instruction:\nhi\n\n### Response:\n",
        ),
        ("USER:", "A chat. USER: hi ASSISTANT:"),
    ];
    for (mark, prompt) in foreign {
        let rows = [
            row(prompt),
            row("hi"),
            row("What is an [INST] mark, and who is a USER:?"),
        ];
        let said = inspect(&folder, &rows, "", &["--rows", "0"]).done().stderr;
        let words = format!(
            "warning: 1 of 3 prompts have marks of another model's chat template (`{mark}`)"
        );
        assert_eq!(said.matches(&words).count(), 1, "{said}");
        assert_eq!(said.matches("warning").count(), 1, "{said}");
        // Words are words to who takes them as they are; tokens that the model has not are no tokens.
        let raw = inspect(&folder, &rows, "chat = \"raw\"", &["--rows", "0"])
            .done()
            .stderr;
        assert_eq!(raw.contains(&words), mark.starts_with('<'), "{mark}: {raw}");
    }
    let own = "<s>user\nHi</s>\n<s>assistant\n";
    let said = inspect(&folder, &[row(own)], "", &[]).done().stderr;
    assert!(!said.contains("another model"), "{said}");
    let chat = json!({"prompt": [message("user", "[INST] hi [/INST]")], "chosen": "yes", "rejected": "no"});
    let said = inspect(&folder, &[chat], "", &[]).done().stderr;
    assert!(said.contains("1 of 1 prompts have marks"), "{said}");
    let model = golden("text/model");
    let model = model.to_str().unwrap();
    let asked = [
        "generate",
        "--model",
        model,
        "--prompt",
        "[INST] hi [/INST]",
        "--max-tokens",
        "1",
        "--device",
        "cpu",
    ];
    let said = folder.binary(&asked).done().stderr;
    assert!(said.contains("1 of 1 prompts have marks"), "{said}");
}

#[test]
fn what_may_say_that_the_rejected_answer_is_better_is_refused_or_named() {
    let with = |name: &str, value: &Value| {
        let mut row = json!({"prompt": "p", "chosen": "a", "rejected": "b"});
        row[name] = value.clone();
        row
    };
    for shape in [Shape::Pairs, Shape::Answers] {
        for (name, value, problem) in [
            (
                "preference",
                json!("rejected"),
                "`preference` says that the rejected one is better",
            ),
            (
                "label",
                json!("Rejected"),
                "`label` says that the rejected one is better",
            ),
        ] {
            let error = one(with(name, &value), shape).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        for (name, value) in [
            ("swapped", json!(true)),
            ("label", json!(0)),
            ("preference", json!(2)),
            ("winner", json!("B")),
            ("score", json!(0.2)),
            ("outcome", json!("loss")),
        ] {
            let lines = records(&[with(name, &value)], shape).notes.lines();
            let words = format!("`{name}` may say which answer is better, and is not read");
            assert_eq!(
                lines.iter().filter(|line| line.contains(&words)).count(),
                1,
                "{lines:?}"
            );
        }
        for (name, value) in [
            ("preference", json!("chosen")),
            ("swapped", json!(false)),
            ("margin", json!(1)),
        ] {
            let lines = records(&[with(name, &value)], shape).notes.lines();
            assert!(lines.is_empty(), "{name}: {lines:?}");
        }
        let mut row = with("chosen_score", &json!(1.0));
        row["rejected_score"] = json!(2.0);
        for (row, words) in [
            (row, "in 1 pairs the chosen answer has the lower score"),
            (
                with("margin", &json!(-1)),
                "in 1 pairs the margin is below 0, as if the rejected answer were better",
            ),
            (
                with("chosen_prob", &json!(0.2)),
                "in 1 pairs the rejected answer is the likelier one to win",
            ),
        ] {
            let lines = records(&[row], shape).notes.lines();
            assert!(lines.iter().any(|line| line.contains(words)), "{lines:?}");
        }
    }
    // A label that is drawn for the worse answer has no margin.
    let folder = Folder::new();
    folder.lines(
        "pairs.jsonl",
        &[json!({"prompt": "p", "chosen": "good", "rejected": "bad"})],
    );
    let label =
        "label --data pairs.jsonl --reward sentiment --out out.jsonl --margin --labels sampled";
    folder
        .binary(&label.split(' ').collect::<Vec<_>>())
        .refused("`--margin` with `--labels sampled`");
}

#[test]
fn two_answers_are_a_pair_where_a_verdict_is_clear() {
    let row = |names: [&str; 2], verdict: &str, value: &Value| {
        let mut row = json!({"prompt": "p", verdict: value});
        row[names[0]] = json!("one");
        row[names[1]] = json!("two");
        row
    };
    let (first, second) = (["one", "two"].map(plain), ["two", "one"].map(plain));
    for (names, verdict, value, answers) in [
        (["response_1", "response_2"], "preference", json!(1), &first),
        (
            ["response_1", "response_2"],
            "preference",
            json!("2"),
            &second,
        ),
        (
            ["response_1", "response_2"],
            "preference",
            json!(2.0),
            &second,
        ),
        (
            ["response_a", "response_b"],
            "preference",
            json!("A"),
            &first,
        ),
        (
            ["response_A", "response_B"],
            "winner",
            json!("model_b"),
            &second,
        ),
        (
            ["output_1", "output_2"],
            "preferred",
            json!("output_2"),
            &second,
        ),
        (["answer_0", "answer_1"], "label", json!(0), &first),
        (["answer_0", "answer_1"], "better", json!(1), &second),
        (
            ["completion_a", "completion_b"],
            "choice",
            json!("first"),
            &first,
        ),
    ] {
        let row = row(names, verdict, &value);
        assert_eq!(
            one(row.clone(), Shape::Pairs).unwrap().answers,
            *answers,
            "{row}"
        );
        assert_eq!(
            one(row.clone(), Shape::Answers).unwrap().answers,
            answers[..1],
            "{row}"
        );
    }
    let tie = records(
        &[row(
            ["response_1", "response_2"],
            "preference",
            &json!("tie"),
        )],
        Shape::Pairs,
    );
    assert_eq!((tie.rows.len(), tie.notes.left_out.rows()), (0, 1));
    // Counted from 0 or from 1? And what is true?
    for (names, value) in [
        (["response_1", "response_2"], json!(0)),
        (["response_a", "response_b"], json!(1)),
        (["response_a", "response_b"], json!(true)),
        (["response_a", "response_b"], json!(0.7)),
    ] {
        let error = one(row(names, "preference", &value), Shape::Pairs).unwrap_err();
        let [first, second] = names;
        assert_eq!(
            error,
            format!("`preference` is {value}, neither `{first}` nor `{second}` nor a tie")
        );
    }
    let without = json!({"prompt": "p", "response_1": "one", "response_2": "two"});
    for shape in [Shape::Pairs, Shape::Answers] {
        let error = one(without.clone(), shape).unwrap_err();
        assert!(
            error.contains("no column that is read says which is better: add `preference`"),
            "{error}"
        );
    }
}

#[test]
fn objects_that_hold_the_rows_are_named_for_what_they_are() {
    let folder = Folder::new();
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b"});
    for (name, whole, words, hint) in [
        (
            "a.json",
            json!({"version": 1, "data": [row]}),
            "holds the rows in `data`",
            "jq -c '.data[]'",
        ),
        (
            "a.jsonl",
            json!({"train": [row]}),
            "holds the rows in `train`",
            "jq -c '.train[]'",
        ),
        (
            "a.json",
            json!({"rows": [{"row_idx": 0, "row": row}]}),
            "holds the rows in `rows`",
            "'.rows[].row'",
        ),
        (
            "a.json",
            json!({"prompt": {"0": "p"}, "chosen": {"0": "a"}}),
            "an object of columns",
            "orient=\"records\"",
        ),
        (
            "a.json",
            json!({"prompt": ["p"], "chosen": ["a"]}),
            "an object of columns",
            "orient=\"records\"",
        ),
    ] {
        fs::write(folder.path(name), whole.to_string()).unwrap();
        let error = read(&folder.path(name), Shape::Pairs).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
        assert_eq!(error.exit_code(), 2);
    }
    let pretty = serde_json::to_string_pretty(&json!({"data": [row]})).unwrap();
    fs::write(folder.path("a.json"), pretty).unwrap();
    let error = read(&folder.path("a.json"), Shape::Pairs).unwrap_err();
    assert!(
        error.hint().unwrap().contains("write that list alone"),
        "{:?}",
        error.hint()
    );
    // One row is a row, whatever lists it has.
    let chat = json!({"messages": [message("user", "p"), message("assistant", "a")]});
    fs::write(folder.path("a.json"), chat.to_string()).unwrap();
    assert_eq!(
        read(&folder.path("a.json"), Shape::Answers).unwrap().len(),
        1
    );
}

#[test]
fn marks_that_are_none_are_named_and_not_counted_for_a_side() {
    let folder = Folder::new();
    let kto = "[objective]\nkind = \"kto\"";
    let rows = |good: &Value, bad: &Value, bads: usize| {
        let row = |at: usize| {
            let label = if at < bads { bad } else { good };
            json!({"prompt": format!("p{at}"), "completion": "a", "label": label})
        };
        (0..30).map(row).collect::<Vec<_>>()
    };
    let marks =
        "neither true nor false: a mark is true or false, or 1 (desirable) or 0 (undesirable)";
    for (good, bad, bads) in [
        (json!(1), json!(2), 15),
        (json!(1), json!(2), 2),
        (json!("good"), json!("bad"), 15),
    ] {
        let ran = inspect(&folder, &rows(&good, &bad, bads), kto, &["--rows", "0"]);
        ran.refused(marks);
        assert!(!ran.stderr.contains("both sides"), "{}", ran.stderr);
    }
    let ran = inspect(
        &folder,
        &rows(&json!(1), &json!(1), 0),
        kto,
        &["--rows", "0"],
    );
    ran.refused("learns from both sides");
}

#[test]
fn generate_keeps_what_names_a_prompt_and_refuses_what_asks_nothing() {
    let folder = Folder::new();
    let model = golden("text/model");
    let generate = |more: &[&str]| {
        let asked = [
            "generate",
            "--model",
            model.to_str().unwrap(),
            "--device",
            "cpu",
        ];
        folder.binary(&[&asked, more].concat())
    };
    let prompt = json!({"id": "q7", "prompt": "Hi", "split": "test", "mood": "glad"});
    folder.lines("prompts.jsonl", &[prompt]);
    let ran = generate(&[
        "--prompts",
        "prompts.jsonl",
        "--max-tokens",
        "2",
        "--count",
        "2",
        "--out",
        "answers.jsonl",
    ])
    .done();
    let words = "`prompts.jsonl`: columns that are not used: `mood`\n";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
    let answers = folder.rows("answers.jsonl");
    assert_eq!(answers.len(), 2);
    for answer in answers {
        assert_eq!(
            (&answer["id"], &answer["split"]),
            (&json!("q7"), &json!("test"))
        );
    }
    let nothing = ["--prompt", " ", "--max-tokens", "2"];
    generate(&nothing).refused("prompt 1 is empty: the chat template has nothing to ask");
    generate(&[&nothing[..], &["--system", "S"]].concat()).refused("prompt 1 is empty");
    generate(&[&nothing[..], &["--raw"]].concat()).done();
    for (flag, value, words) in [
        ("--max-tokens", "0", "0 is not in 1.."),
        (
            "--temperature",
            "-1",
            "temperature is -1, but must be at least 0",
        ),
        (
            "--top-p",
            "-0.5",
            "top-p is -0.5, but must be above 0 and at most 1",
        ),
        ("--top-k", "-1", "top-k must be at least 1"),
    ] {
        generate(&["--prompt", "Hi", flag, value]).refused(words);
    }
}

#[test]
fn a_flag_that_another_leaves_without_use_is_refused_by_name() {
    let folder = Folder::new();
    let row = json!({"prompt": "p", "chosen": "good", "rejected": "bad"});
    folder.lines("d.jsonl", &[row]);
    let answers = "label --answers d.jsonl --reward sentiment --out out";
    let export = format!("export {} --out out", golden("text/model").display());
    let cases: [(&str, &[&str]); 7] = [
        (
            answers,
            &["--seed 3", "--lambda 0.5", "--token x", "--class dog"],
        ),
        (
            "label --data d.jsonl --reward sentiment --out out",
            &[
                "--min-gap 0.5",
                "--per-prompt 3",
                "--lambda 0.5",
                "--token x",
                "--class dog",
            ],
        ),
        (
            "label --images . --encoder x --prompt p --out out",
            &["--min-gap 0.5", "--per-prompt 3", "--margin"],
        ),
        (
            "score --data d.jsonl --reward sentiment",
            &["--out out", "--top 2 --out out", "--class dog"],
        ),
        (
            "eval text run --data d.jsonl",
            &[
                "--prompts p.jsonl",
                "--against run",
                "--set generate.samples=4",
                "--seed 3",
            ],
        ),
        (
            "rank --input d.jsonl",
            &[
                "--games 3",
                "--one-order",
                "--item x",
                "--judgements k.jsonl",
                "--workers 2",
            ],
        ),
        (&export, &["--name rex"]),
    ];
    for (asked, flags) in cases {
        for flag in flags {
            let words = format!("{asked} {flag}");
            let ran = folder.binary(&words.split(' ').collect::<Vec<_>>());
            ran.refused(flag.split(' ').next().unwrap());
            assert!(!folder.path("out").exists(), "{words}");
        }
    }
}

#[test]
fn margins_of_answers_are_those_of_the_same_data() {
    let folder = Folder::new();
    let row = json!({"prompt": "p", "responses": ["This is great, I love it", "A terrible thing"]});
    folder.lines("d.jsonl", &[row]);
    let label = |words: &str, out: &str| {
        let asked = format!("label {words} --reward sentiment --tau 0.5 --out {out}");
        folder.binary(&asked.split(' ').collect::<Vec<_>>()).done();
        folder.rows(out).remove(0)
    };
    let answers = label("--answers d.jsonl --margin", "answers.jsonl");
    let data = label("--data d.jsonl --margin", "data.jsonl");
    let of = |row: &Value, name: &str| row[name].as_f64().unwrap();
    let gap = of(&answers, "chosen_score") - of(&answers, "rejected_score");
    assert!(gap > 0.1, "{answers}");
    assert!((of(&answers, "margin") - gap / 0.5).abs() < 1e-12);
    assert!((of(&answers, "margin") - of(&data, "margin")).abs() < 1e-12);
    assert!(
        label("--answers d.jsonl", "none.jsonl")
            .get("margin")
            .is_none()
    );
}

#[test]
fn captions_of_a_whole_folder_that_are_not_used_are_named() {
    let folder = Folder::new();
    image::RgbImage::new(4, 4)
        .save(folder.path("0.png"))
        .unwrap();
    let notes = |instead: Option<&str>| {
        let listing = Listing::open(&folder.path("")).unwrap();
        listing.notes(instead).join("\n")
    };
    assert_eq!(notes(Some("all have one prompt")), "");
    folder.lines(
        "metadata.jsonl",
        &[json!({"file_name": "0.png", "text": "a dog"})],
    );
    let said = notes(Some("all have one prompt"));
    assert!(
        said.contains("are not used (`metadata.jsonl`): all have one prompt"),
        "{said}"
    );
    // Where captions are read there is nothing to be said.
    assert_eq!(notes(None), "");
}

#[test]
fn hints_name_keys_that_the_reader_has() {
    let folder = Folder::new();
    folder.lines("p.jsonl", &[json!({"ask": "Hi"})]);
    let path = folder.path("p.jsonl");
    let hint = |reading: &Reading| {
        let error = prompts(&path, reading).unwrap_err();
        error.hint().unwrap().to_owned()
    };
    assert!(!hint(&Reading::default()).contains("data.columns"));
    let names = BTreeMap::new();
    let none = Reading {
        columns: Some(&names),
        ..Reading::default()
    };
    assert!(hint(&none).contains("data.columns = { prompt = "));
    let names = BTreeMap::from([("prompt".to_owned(), "ask".to_owned())]);
    let named = Reading {
        columns: Some(&names),
        ..Reading::default()
    };
    assert_eq!(prompts(&path, &named).unwrap().rows[0].text, plain("Hi"));
}

#[test]
fn parquet_where_json_lines_are_meant_is_read_or_named() {
    let folder = Folder::new();
    let copy = |from: &str, to: &str| fs::copy(golden(from), folder.path(to)).unwrap();
    copy("text/pairs.parquet", "pairs.jsonl");
    let rows = read(&folder.path("pairs.jsonl"), Shape::Pairs).unwrap();
    let same = read(&golden("text/pairs.parquet"), Shape::Pairs).unwrap();
    assert!(!rows.is_empty());
    for (row, same) in rows.iter().zip(&same) {
        assert_eq!((&row.prompt, &row.answers), (&same.prompt, &same.answers));
    }
    copy("reward/embeddings.parquet", "e.parquet");
    let words = "a Parquet file, where";
    let error = read_pairs(
        &folder.path("e.parquet"),
        &Rows::numbered(2, 0),
        &mut LeftOut::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.hint().unwrap().contains("lines=True"));
    folder
        .binary(&["rank", "--pairs", "e.parquet"])
        .refused(words);
    let model = golden("text/model");
    let model = model.to_str().unwrap();
    folder
        .binary(&[
            "eval",
            "perplexity",
            "--model",
            model,
            "e.parquet",
            "--device",
            "cpu",
        ])
        .refused(words);
}

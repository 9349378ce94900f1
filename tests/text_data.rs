//! Text data: published shapes and their faults; chat templates and token ids as transformers makes them.

use std::fs;
use std::path::{Path, PathBuf};

use preftune::data::text::{Shape, Text, read};
use preftune::models::lm::chat::ChatTemplate;
use preftune::models::lm::tokenizer::{Sequence, TextTokenizer};
use serde_json::{Map, Value, json};

use crate::support::golden;

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| row.to_string() + "\n").collect()
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

fn plain(text: &str) -> Text {
    Text::Plain(text.to_owned())
}

#[test]
fn pairs_are_read_in_every_published_shape() {
    let folder = tempfile::tempdir().unwrap();
    let chat = Text::Chat;
    let cases = [
        (
            json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
            plain("p"),
            plain("a"),
            plain("b"),
        ),
        (
            json!({"question": "p", "chosen": "a", "rejected": "b", "system": "s"}),
            Text::Instructed {
                system: "s".to_owned(),
                words: "p".to_owned(),
            },
            plain("a"),
            plain("b"),
        ),
        (
            json!({"instruction": "p", "input": "q", "chosen": "a", "rejected": "b"}),
            plain("p\nq"),
            plain("a"),
            plain("b"),
        ),
        (
            json!({"instruction": "p", "chosen_response": "a", "rejected_response": "b"}),
            plain("p"),
            plain("a"),
            plain("b"),
        ),
        // The space before the difference belongs to the answers.
        (
            json!({"chosen": "It is é good", "rejected": "It is é bad"}),
            plain("It is é"),
            plain(" good"),
            plain(" bad"),
        ),
        (
            json!({"prompt": [user("p")], "chosen": [assistant("a")], "rejected": [assistant("b")]}),
            chat(vec![user("p")]),
            chat(vec![assistant("a")]),
            chat(vec![assistant("b")]),
        ),
        (
            json!({"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]}),
            chat(vec![user("p")]),
            chat(vec![assistant("a")]),
            chat(vec![assistant("b")]),
        ),
        (
            json!({"prompt": "p", "chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]}),
            chat(vec![user("p")]),
            chat(vec![assistant("a")]),
            chat(vec![assistant("b")]),
        ),
        (
            json!({"conversations": [{"from": "human", "value": "p"}], "chosen": {"from": "gpt", "value": "a"},
                   "rejected": {"from": "gpt", "value": "b"}}),
            chat(vec![user("p")]),
            chat(vec![assistant("a")]),
            chat(vec![assistant("b")]),
        ),
    ];
    for (row, prompt, chosen, rejected) in cases {
        for (name, text) in [
            ("data.jsonl", lines(std::slice::from_ref(&row))),
            ("data.json", json!([row]).to_string()),
        ] {
            let records = read(&file(&folder, name, &text), Shape::Pairs).unwrap();
            assert_eq!(records[0].prompt, prompt, "{row}");
            assert_eq!(
                records[0].answers,
                [chosen.clone(), rejected.clone()],
                "{row}"
            );
        }
    }
    let row = json!({"prompt": "p", "chosen": "a", "rejected": "b", "weight": 2, "chosen_prob": 0.75,
                     "score_chosen": 8, "score_rejected": 3.5, "split": "test"});
    let record = &read(&file(&folder, "data.jsonl", &lines(&[row])), Shape::Pairs).unwrap()[0];
    assert_eq!(record.wins, Some([0.75, 0.25]));
    assert_eq!(record.scores, Some([8.0, 3.5]));
    assert_eq!(
        (record.held_out, record.weight.to_bits()),
        (Some(true), 2f64.to_bits())
    );
}

#[test]
fn marks_answers_and_rankings_are_read_in_every_published_shape() {
    let folder = tempfile::tempdir().unwrap();
    let one = |row: Value, shape| {
        let records = read(&file(&folder, "data.jsonl", &lines(&[row])), shape).unwrap();
        records[0].clone()
    };
    let marked = one(
        json!({"prompt": "p", "completion": "a", "label": false}),
        Shape::Marked,
    );
    assert_eq!(marked.rewards, [0.0]);
    let marked = one(
        json!({"instruction": "p", "output": "a", "kto_tag": 1}),
        Shape::Marked,
    );
    assert_eq!((marked.prompt, marked.rewards), (plain("p"), vec![1.0]));
    let answer = one(
        json!({"messages": [user("p"), assistant("a")]}),
        Shape::Answers,
    );
    assert_eq!(answer.answers, [Text::Chat(vec![assistant("a")])]);
    let answer = one(
        json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
        Shape::Answers,
    );
    assert_eq!(answer.answers, [plain("a")]);
    assert_eq!(one(json!({"text": "a"}), Shape::Answers).prompt, plain(""));
    let ranked = one(
        json!({"prompt": "p", "responses": ["a", "b", "c"]}),
        Shape::Ranked,
    );
    assert_eq!(ranked.rewards, [2.0, 1.0, 0.0]);
    let ranked = one(
        json!({"prompt": "p", "responses": ["a", "b"], "scores": [0.5, 3]}),
        Shape::Ranked,
    );
    assert_eq!(ranked.rewards, [0.5, 3.0]);
    // Rank 1 is the best.
    let answers = json!([{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]);
    let ranked = one(json!({"prompt": "p", "answers": answers}), Shape::Ranked);
    assert_eq!(ranked.rewards, [0.0, 1.0]);
    let ranked = one(
        json!({"prefix": ["p", "q"], "suffix": ["a", "b"], "reward": [1, 2]}),
        Shape::Ranked,
    );
    assert_eq!(
        (ranked.prompt, ranked.rewards),
        (plain("pq"), vec![1.0, 2.0])
    );
}

#[test]
fn faults_name_the_file_and_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = json!({"prompt": "p", "chosen": "a", "rejected": "b"});
    let refused = |name: &str, text: &str, shape, message: &str| {
        let error = read(&file(&folder, name, text), shape).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(message) && text.contains(name),
            "{message}: {text}"
        );
        assert_eq!(error.exit_code(), 2);
    };
    let broken = lines(&vec![good.clone(); 6]) + "{\"prompt\": \n";
    refused(
        "a.jsonl",
        &broken,
        Shape::Pairs,
        "line 7: not a JSON object",
    );
    refused("a.json", "[{}, 3]", Shape::Pairs, "row 2: 3 is no object");
    refused("a.json", "{\n\"rows\": []}", Shape::Pairs, "not an array");
    refused("a.txt", "x", Shape::Pairs, "not a file of a known kind");
    refused("a.jsonl", "\n", Shape::Pairs, "no rows");
    let nan =
        "{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\", \"score_chosen\": NaN}\n";
    refused("a.jsonl", nan, Shape::Pairs, "line 1: not a JSON object");
}

/// Rows with a fault, and how it is named.
fn faults() -> Vec<(Shape, Value, &'static str)> {
    vec![
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a"}),
            "column `rejected` is missing",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": " "}),
            "the rejected answer is empty",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": "a"}),
            "are identical",
        ),
        (
            Shape::Pairs,
            json!({"chosen": "ab", "rejected": "abc"}),
            "the chosen answer is empty",
        ),
        (
            Shape::Pairs,
            json!({"chosen": [user("p"), assistant("")], "rejected": [user("p"), assistant("b")]}),
            "empty",
        ),
        (
            Shape::Pairs,
            json!({"prompt": 3, "chosen": "a", "rejected": "b"}),
            "`prompt` is neither text",
        ),
        (
            Shape::Pairs,
            json!({"prompt": [{"content": "p"}], "chosen": "a", "rejected": "b"}),
            "without a `role`",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "weight": -1}),
            "`weight` is -1",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "weight": "NaN"}),
            "not a finite number",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "chosen_prob": 2}),
            "must be 0 to 1",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 2}),
            "no `score_rejected`",
        ),
        (
            Shape::Pairs,
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "split": "dev"}),
            "`split` is",
        ),
        (
            Shape::Marked,
            json!({"prompt": "p", "completion": "a"}),
            "column `label` is missing",
        ),
        (
            Shape::Marked,
            json!({"prompt": "p", "completion": "a", "label": "yes"}),
            "neither true nor false",
        ),
        (
            Shape::Answers,
            json!({"messages": [assistant("a"), user("p")]}),
            "does not end with an assistant's",
        ),
        (
            Shape::Ranked,
            json!({"prompt": "p", "responses": ["a"]}),
            "has 1 answer",
        ),
        (
            Shape::Ranked,
            json!({"prompt": "p", "responses": ["a", "b"], "scores": [1]}),
            "but there are 1 rewards",
        ),
        (
            Shape::Ranked,
            json!({"prompt": "p", "responses": ["a", "b"], "scores": [1, 1]}),
            "have the same rank",
        ),
        (
            Shape::Ranked,
            json!({"prompt": "p", "responses": ["a", ""]}),
            "answer 2 is empty",
        ),
    ]
}

#[test]
fn every_fault_of_a_row_has_its_message() {
    let folder = tempfile::tempdir().unwrap();
    let good = json!({"prompt": "p", "chosen": "a", "rejected": "b"});
    for (shape, row, message) in faults() {
        let text = lines(&[good.clone(), row]);
        // The first row is for pairs alone.
        let (text, line) = match shape {
            Shape::Pairs => (text, "line 2"),
            _ => (text.lines().nth(1).unwrap().to_owned() + "\n", "line 1"),
        };
        let path = file(&folder, "b.jsonl", &text);
        let error = read(&path, shape).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(message) && text.contains(line),
            "{message}: {text}"
        );
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn chat_templates_render_as_in_transformers() {
    let text = fs::read_to_string(golden("text/templates.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    let tokens: Map<String, Value> = tokens.as_object().unwrap().clone();
    for case in &cases {
        let source = case["template"].as_str().unwrap().to_owned();
        let template = ChatTemplate::new(Path::new("t"), source, tokens.clone()).unwrap();
        let messages = case["messages"].as_array().unwrap();
        let variables = case["variables"].as_object().cloned().unwrap_or_default();
        let opens = case["add_generation_prompt"].as_bool().unwrap();
        let rendered = template.render(messages, &variables, opens);
        if let Some(expected) = case["text"].as_str() {
            assert_eq!(rendered.unwrap(), expected);
        } else {
            let error = rendered.unwrap_err().to_string();
            let expected = case["error"].as_str().unwrap();
            assert!(
                !expected.contains("alternate") || error.contains(expected),
                "{error}"
            );
        }
    }
    assert!(cases.len() > 60);
}

#[test]
fn templates_know_the_day_and_name_their_faults() {
    let render = |source: &str| {
        let template = ChatTemplate::new(Path::new("t"), source.to_owned(), Map::new())?;
        template.render(&[user("p")], &Map::new(), false)
    };
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.parse::<u32>().unwrap() > 2024, "{year}");
    for (source, message) in [
        ("\n{% if %}", "line 2"),
        ("{{ raise_exception('only \"user\"') }}", "only \"user\""),
        ("{{ messages.nothing.more }}", "has no attribute 'nothing'"),
    ] {
        let error = render(source).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

fn sequences(value: &Value) -> Vec<Sequence> {
    let sequence = |pair: &Value| Sequence {
        ids: pair[0]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_i64().unwrap())
            .collect(),
        prompt: pair[1].as_u64().unwrap() as usize,
        skipped: Vec::new(),
    };
    value.as_array().unwrap().iter().map(sequence).collect()
}

#[test]
fn prompts_and_answers_become_the_ids_of_transformers() {
    let tokenizer = TextTokenizer::open(&golden("text/model"), 4096)
        .unwrap()
        .with_words(Some(true));
    let text = fs::read_to_string(golden("text/curves.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for name in ["pairs", "chats", "tooled"] {
        let expected = &expected[name];
        let records = read(&golden(&format!("text/{name}.jsonl")), Shape::Pairs).unwrap();
        let encode = |side: usize| {
            let tokenizer = &tokenizer;
            records.iter().map(
                move |record| match (&record.prompt, &record.answers[side]) {
                    (Text::Plain(prompt), Text::Plain(answer)) => {
                        tokenizer.answered(prompt, answer).unwrap()
                    }
                    (Text::Chat(prompt), Text::Chat(answer)) => tokenizer
                        .answered_chat(prompt, answer, &record.variables)
                        .unwrap(),
                    other => panic!("{other:?}"),
                },
            )
        };
        let ids: Vec<Sequence> = encode(0).chain(encode(1)).collect();
        assert_eq!(ids, sequences(expected), "{name}");
    }
    // The end is added once, the beginning comes once.
    let ids = tokenizer.answered("a", "b</s>").unwrap().ids;
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1);
    assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab");
    let error = TextTokenizer::open(&golden("text/model"), 10)
        .unwrap()
        .encode("z", true)
        .unwrap_err();
    assert!(error.to_string().contains("10 token vectors"), "{error}");
}

#[test]
fn parquet_files_of_pyarrow_hold_the_same_records() {
    for name in ["pairs", "chats"] {
        let lines = read(&golden(&format!("text/{name}.jsonl")), Shape::Pairs).unwrap();
        let rows = read(&golden(&format!("text/{name}.parquet")), Shape::Pairs).unwrap();
        assert_eq!(lines.len(), rows.len());
        for (line, row) in lines.iter().zip(&rows) {
            assert_eq!((&line.prompt, &line.answers), (&row.prompt, &row.answers));
            assert_eq!(row.scores, (name == "pairs").then_some([1.5, 0.5]));
        }
    }
    let error = read(&golden("text/broken.parquet"), Shape::Pairs)
        .unwrap_err()
        .to_string();
    assert!(error.contains("row 1: `chosen_score` is NaN"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let error = read(&file(&folder, "a.parquet", "no"), Shape::Pairs).unwrap_err();
    assert!(
        error.to_string().contains("not a readable Parquet file"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
}

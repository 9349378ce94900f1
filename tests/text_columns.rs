//! Columns that data sets may have beside texts: ratings and orders of answers, what chat templates are given, log-probs
//! of the reference, token ids.

use std::fs;

use preftune::config::TextDataSection;
use preftune::data::text::{Record, Shape, Text, read, read_any};
use preftune::distributed::Peers;
use preftune::models::lm::LanguageModel;
use preftune::models::lm::tokenizer::TextTokenizer;
use preftune::trainer::text::{Examples, reference_logps};
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::support::golden;
use crate::text_train::Folder;

fn one(row: &Value, shape: Shape) -> Result<Vec<Record>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    fs::write(&path, row.to_string() + "\n").unwrap();
    read(&path, shape).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(row: &Value, shape: Shape, message: &str) {
    let error = one(row, shape).unwrap_err();
    assert!(
        error.contains(message) && error.contains("line 1"),
        "{message}: {error}"
    );
}

#[test]
fn answers_are_ranked_by_what_annotators_gave_and_by_the_order_that_is_named() {
    let rating = |rating: &str| json!({"Rating": rating, "Rationale": "so"});
    let completions = json!([
        {"model": "a", "response": "one", "overall_score": 6.5, "fine-grained_score": 1.0},
        {"model": "b", "response": "two", "fine-grained_score": 4.75},
        {"model": "c", "response": "three",
         "annotations": {"helpfulness": rating("5"), "honesty": rating("N/A"), "truthfulness": rating("4")}},
    ]);
    let row = json!({"source": "s", "instruction": "p", "models": ["a", "b", "c"], "completions": completions});
    for shape in [Shape::Ranked, Shape::Sampled] {
        let record = &one(&row, shape).unwrap()[0];
        assert_eq!(record.prompt, Text::Plain("p".to_owned()));
        assert_eq!(record.answers[2], Text::Plain("three".to_owned()));
        assert_eq!(record.rewards, [6.5, 4.75, 4.5]);
    }
    let mut unrated = row.clone();
    unrated["completions"][2] =
        json!({"response": "three", "annotations": {"honesty": rating("N/A")}});
    refused(&unrated, Shape::Ranked, "without `overall_score`");
    unrated["completions"][2] = json!({"overall_score": 3.0});
    refused(&unrated, Shape::Ranked, "an entry without `response`");
    // Published rows whose answers got the same rank nothing; the others are read.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let equal = json!({"instruction": "p", "completions": [
        {"response": "a", "overall_score": 3.0}, {"response": "b", "overall_score": 3.0}]});
    fs::write(&path, format!("{equal}\n{row}\n")).unwrap();
    let (shape, records) = read_any(&path).unwrap();
    assert_eq!(
        (shape, records.rows.len(), records.rows[0].line),
        (Shape::Ranked, 1, 2)
    );
    assert_eq!(read(&path, Shape::Sampled).unwrap().len(), 2);
    fs::write(&path, format!("{equal}\n")).unwrap();
    let error = read(&path, Shape::Ranked).unwrap_err().to_string();
    assert!(
        error.contains("no row in it has a better and a worse answer"),
        "{error}"
    );

    let ordered = |more: Value| {
        let mut row = json!({"prompt": "p", "responses": ["a", "b", "c"]});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    for (more, rewards) in [
        (json!({"order": "best_first"}), [2.0, 1.0, 0.0]),
        (json!({"order": "worst_first"}), [0.0, 1.0, 2.0]),
        (
            json!({"order": "worst_first", "scores": [-1, 0.5, 0.5]}),
            [-1.0, 0.5, 0.5],
        ),
    ] {
        assert_eq!(
            one(&ordered(more), Shape::Ranked).unwrap()[0].rewards,
            rewards
        );
    }
    refused(
        &ordered(json!({"order": "best"})),
        Shape::Ranked,
        "neither `best_first` nor `worst_first`",
    );
    let contrary = json!({"order": "best_first", "scores": [1, 2, 3]});
    refused(
        &ordered(contrary),
        Shape::Ranked,
        "not in the order that `order` names",
    );
}

#[test]
fn what_a_template_is_given_reaches_it() {
    let folder = Folder::new();
    let config = folder.config("look", "tooled", "kind = \"dpo\"");
    let shown = folder
        .binary(&["inspect", &config, "--rows", "3", "--json"])
        .done()
        .json();
    let text = fs::read_to_string(golden("text/curves.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (row, example) in shown["examples"].as_array().unwrap().iter().enumerate() {
        for side in 0..2 {
            assert_eq!(
                example["sequences"][side]["ids"],
                expected["tooled"][3 * side + row][0]
            );
        }
    }
    // Without them other tokens are learnt, at another loss.
    let batch = ["train.batch=3", "train.steps=1"];
    folder
        .train("with", "tooled", "kind = \"simpo\"", &batch)
        .done();
    let mut rows: Vec<Value> = fs::read_to_string(golden("text/tooled.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for row in &mut rows {
        row.as_object_mut().unwrap().remove("tools");
    }
    folder.lines("rows.jsonl", &rows);
    let more = [&batch[..], &["data.train=rows.jsonl"]].concat();
    folder
        .train("without", "tooled", "kind = \"simpo\"", &more)
        .done();
    assert_ne!(
        folder.steps("with")[0]["loss"],
        folder.steps("without")[0]["loss"]
    );

    // Labels keep them.
    let message = |text: &str| json!([{"role": "assistant", "content": text}]);
    let row = json!({"prompt": [{"role": "user", "content": "p"}], "responses": [message("awful"), message("great")],
                     "tools": rows[1]["prompt"], "chat_template_kwargs": {"enable_thinking": false}});
    folder.lines("listed.jsonl", std::slice::from_ref(&row));
    let arguments = [
        "label",
        "--reward",
        "sentiment",
        "--data",
        "listed.jsonl",
        "--out",
        "labelled.jsonl",
    ];
    folder.binary(&arguments).done();
    let labelled = &folder.rows("labelled.jsonl")[0];
    assert_eq!(labelled["chosen"], message("great"));
    for column in ["tools", "chat_template_kwargs"] {
        assert_eq!(labelled[column], row[column]);
    }

    let user = json!([{"role": "user", "content": "p"}]);
    let answer = |text: &str| json!([{"role": "assistant", "content": text}]);
    let row = |more: Value| {
        let mut row = json!({"prompt": user, "chosen": answer("a"), "rejected": answer("b")});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    for (more, message) in [
        (json!({"tools": "[{]"}), "`tools` is text, but not JSON"),
        (json!({"tools": [3]}), "`tools` is no list of objects"),
        (
            json!({"chat_template_kwargs": [1]}),
            "`chat_template_kwargs` is no object",
        ),
        (
            json!({"chat_template_kwargs": {"messages": []}}),
            "which the template is given already",
        ),
        (
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "tools": [{"name": "f"}]}),
            "are no chats",
        ),
    ] {
        refused(&row(more), Shape::Pairs, message);
    }
}

/// The pairs of `text/pairs.jsonl` with more columns each.
fn pairs(more: impl Fn(usize) -> Value) -> Vec<Value> {
    let text = fs::read_to_string(golden("text/pairs.jsonl")).unwrap();
    let row = |(place, line): (usize, &str)| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        let columns = more(place);
        row.as_object_mut()
            .unwrap()
            .extend(columns.as_object().unwrap().clone());
        row
    };
    text.lines().enumerate().map(row).collect()
}

const DPO: &str = "kind = \"dpo\"\nbeta = 0.3";

fn encoded(tokenizer: &TextTokenizer) -> Examples {
    let path = golden("text/pairs.jsonl");
    let records = read(&path, Shape::Pairs).unwrap();
    Examples::encode(&records, tokenizer, &TextDataSection::default()).unwrap()
}

#[test]
fn log_probs_of_the_reference_that_the_data_bring_take_its_place() {
    let model = LanguageModel::open(&golden("text/model"), Device::Cpu, Kind::Float, Kind::Float);
    let model = model.unwrap();
    let tokenizer = TextTokenizer::open(&golden("text/model"), model.config().vocab_size)
        .unwrap()
        .with_words(Some(true));
    let examples = encoded(&tokenizer).examples;
    let logps = reference_logps(&model, &examples, 4, &Peers::alone(), &mut |_, _| Ok(())).unwrap();
    let columns = |off: f64| {
        let logps = logps.clone();
        move |place: usize| json!({"ref_chosen_logps": f64::from(logps[2 * place]) - off, "ref_rejected_logps": logps[2 * place + 1]})
    };
    let folder = Folder::new();
    let trained = |run: &str, more: &[&str]| folder.train(run, "pairs", DPO, more);
    trained("plain", &[]).done();
    folder.lines("same.jsonl", &pairs(columns(0.0)));
    trained("same", &["data.train=same.jsonl"]).done();
    let losses = |run: &str| -> Vec<f64> {
        folder
            .steps(run)
            .iter()
            .map(|row| row["loss"].as_f64().unwrap())
            .collect()
    };
    for (own, computed) in losses("same").iter().zip(losses("plain")) {
        assert!((own - computed).abs() < 1e-6, "{own}, {computed}");
    }
    assert_eq!(
        folder.manifest("same")["reference"],
        "log-probs that the data bring along"
    );
    assert!(!folder.path("same/reference").exists());
    // Another reference: beta times 2 nats more for every chosen answer.
    folder.lines("other.jsonl", &pairs(columns(2.0)));
    trained("other", &["data.train=other.jsonl"]).done();
    let expected = (-0.6f64).exp().ln_1p();
    assert!(
        (losses("other")[0] - expected).abs() < 1e-5,
        "{:?}",
        losses("other")
    );

    let own = columns(0.0);
    folder.lines(
        "some.jsonl",
        &pairs(|place| if place == 2 { json!({}) } else { own(place) }),
    );
    trained("some", &["data.train=some.jsonl"]).refused("line 3: has no `ref_chosen_logps`");
    folder.lines("one.jsonl", &pairs(|_| json!({"ref_chosen_logps": -1})));
    trained("one", &["data.train=one.jsonl"]).refused("no `ref_rejected_logps`");
    folder.lines(
        "high.jsonl",
        &pairs(|_| json!({"ref_chosen_logps": -1, "ref_rejected_logps": 0.5})),
    );
    trained("high", &["data.train=high.jsonl"]).refused("no log-prob");
    for (run, objective, more, message) in [
        (
            "tokens",
            "kind = \"tdpo2\"",
            &[][..],
            "compares whole distributions of tokens",
        ),
        (
            "live",
            DPO,
            &["reference.mode=live"],
            "`reference.mode` names a reference",
        ),
    ] {
        let more = [more, &["data.train=same.jsonl"]].concat();
        folder
            .train(run, "pairs", objective, &more)
            .refused(message);
    }
    // Of an answer that is cut off they are not the log-probs.
    let config = folder.config("cut", "pairs", DPO);
    let cut = [
        "--set",
        "data.train=same.jsonl",
        "--set",
        "data.max_length=24",
        "--set",
        "data.overlong=truncate",
    ];
    let shown = folder
        .binary(&[&["inspect", &config, "--json"][..], &cut].concat())
        .done()
        .json();
    let dropped = &shown["train"]["dropped"];
    assert!(
        dropped[0]["reason"]
            .as_str()
            .unwrap()
            .contains("`ref_chosen_logps`"),
        "{shown}"
    );
}

#[test]
fn token_ids_are_trained_on_as_they_are() {
    let tokenizer = TextTokenizer::open(&golden("text/model"), 4096)
        .unwrap()
        .with_words(Some(true));
    let examples = encoded(&tokenizer).examples;
    let row = |place: usize| {
        let [chosen, rejected] = [0, 1].map(|side| &examples[place].sequences[side]);
        json!({"prompt_ids": chosen.ids[..chosen.prompt], "chosen_ids": chosen.ids[chosen.prompt..],
               "rejected_ids": rejected.ids[rejected.prompt..]})
    };
    let folder = Folder::new();
    folder.lines("ids.jsonl", &(0..4).map(row).collect::<Vec<_>>());
    folder.train("words", "pairs", DPO, &[]).done();
    folder
        .train("ids", "pairs", DPO, &["data.train=ids.jsonl"])
        .done();
    let loss = |run: &str| {
        folder
            .steps(run)
            .iter()
            .map(|row| row["loss"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(loss("ids"), loss("words"));

    let mut wrong: Vec<Value> = (0..4).map(row).collect();
    wrong[2]["rejected_ids"][1] = json!(4000);
    folder.lines("wrong.jsonl", &wrong);
    folder
        .train("wrong", "pairs", DPO, &["data.train=wrong.jsonl"])
        .refused("line 3: there is no token 4000");
    for (change, message) in [
        (
            json!({"prompt_ids": [1, 5], "chosen_ids": [5]}),
            "column `rejected_ids` is missing",
        ),
        (
            json!({"prompt_ids": [1], "chosen_ids": [5], "rejected_ids": [5]}),
            "are identical",
        ),
        (
            json!({"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [5]}),
            "the chosen answer is empty",
        ),
        (
            json!({"prompt_ids": [1], "chosen_ids": "5", "rejected_ids": [5]}),
            "no list of token ids",
        ),
        (
            json!({"prompt_ids": [1], "chosen_ids": [5.5], "rejected_ids": [5]}),
            "5.5, which is no token id",
        ),
    ] {
        refused(&change, Shape::Pairs, message);
    }
}

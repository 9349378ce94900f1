//! What a prompt's record has for the chat template, `tools` and `chat_template_kwargs`, wherever a model answers or judges.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use preftune::models::lm::LanguageModel;
use preftune::models::lm::generate::Sampling;
use preftune::models::lm::tokenizer::TextTokenizer;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use crate::command::Ran;
use crate::support::golden;
use crate::text_train::Folder;

const QUESTIONS: [&str; 4] = ["Will it rain?", "Add 2 and 3.", "Say it.", "Where?"];

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "Says the weather", "parameters": {}}}])
}

/// Rows with these columns beside the prompt.
fn rows(more: &Value) -> Vec<Value> {
    let row = |words: &&str| {
        let mut row = json!({"prompt": [{"role": "user", "content": words}]});
        let more = more.as_object().unwrap().clone();
        row.as_object_mut().unwrap().extend(more);
        row
    };
    QUESTIONS.iter().map(row).collect()
}

fn given() -> Value {
    json!({"tools": tools(), "chat_template_kwargs": {"enable_thinking": false}})
}

/// A reward model whose chat template is that of the language model, which reads tools.
fn judge(folder: &Folder) -> PathBuf {
    let copy = folder.path("judge");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(golden("reward/scalar")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let template = "chat_template.jinja";
    fs::copy(golden("text/model").join(template), copy.join(template)).unwrap();
    copy
}

/// What the golden model likes best to write.
fn greedy(rows: &[Value], max_tokens: usize) -> Vec<String> {
    let base = golden("text/model");
    let model = LanguageModel::open(&base, Device::Cpu, Kind::Float, Kind::Float).unwrap();
    let tokenizer = TextTokenizer::open(&base, model.config().vocab_size).unwrap();
    let prompts = rows.iter().map(|row| {
        let mut variables = Map::new();
        if let Some(tools) = row.get("tools") {
            variables.insert("tools".to_owned(), tools.clone());
        }
        let more = row.get("chat_template_kwargs").and_then(Value::as_object);
        variables.extend(more.cloned().unwrap_or_default());
        let messages = match &row["prompt"] {
            Value::Array(messages) => messages.clone(),
            words => vec![json!({"role": "user", "content": words})],
        };
        tokenizer.chat_prompt(&messages, &variables).unwrap()
    });
    let prompts: Vec<Vec<i64>> = prompts.collect();
    let sampling = Sampling {
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        max_tokens,
    };
    let mut stop = model.config().eos_token_ids.clone();
    stop.extend(tokenizer.eos());
    let seeds = vec![0; prompts.len()];
    let written = model.generate(&prompts, &seeds, &sampling, &stop).unwrap();
    let decode = |tokens: &[i64]| tokenizer.decode(tokens, true).unwrap();
    written.iter().map(|one| decode(&one.tokens)).collect()
}

/// Prompts of which one has nothing for the template, and one is in words and becomes a message.
fn asked() -> Vec<Value> {
    let mut asked = rows(&given());
    asked[1] = rows(&json!({}))[1].clone();
    asked[2]["prompt"] = json!(QUESTIONS[2]);
    asked
}

fn generate(folder: &Folder, prompts: &str, out: &str) -> Ran {
    let model = golden("text/model");
    let mut arguments = vec!["generate", "--model", model.to_str().unwrap()];
    arguments.extend(["--prompts", prompts, "--out", out, "--temperature", "0"]);
    arguments.extend(["--max-tokens", "12", "--device", "cpu", "--quiet"]);
    folder.binary(&arguments)
}

#[test]
fn generate_passes_them_on_and_writes_them_down() {
    let folder = Folder::new();
    let asked = asked();
    folder.lines("prompts.jsonl", &asked);
    generate(&folder, "prompts.jsonl", "answers.jsonl").done();
    let answers = folder.rows("answers.jsonl");
    let texts: Vec<&str> = answers
        .iter()
        .map(|row| row["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, greedy(&asked, 12));
    assert_ne!(texts, greedy(&rows(&json!({})), 12));
    for (answer, asked) in answers.iter().zip(&asked) {
        for column in ["tools", "chat_template_kwargs"] {
            assert_eq!(answer.get(column), asked.get(column));
        }
    }
    folder.lines("bad.jsonl", &[json!({"prompt": "p", "tools": [3]})]);
    generate(&folder, "bad.jsonl", "bad-answers.jsonl")
        .refused("`bad.jsonl`, line 1: `tools` is no list of objects");
}

#[test]
fn answers_are_scored_and_paired_with_them() {
    let folder = Folder::new();
    folder.lines("prompts.jsonl", &asked());
    generate(&folder, "prompts.jsonl", "answers.jsonl").done();
    let answers = folder.rows("answers.jsonl");
    // Rewards of the answers are those of records with the same columns.
    let reward = judge(&folder);
    let reward = reward.to_str().unwrap();
    let by_answers = [
        "score",
        "--answers",
        "answers.jsonl",
        "--reward",
        reward,
        "--json",
        "--device",
        "cpu",
    ];
    let mean = folder.binary(&by_answers).done().json()["files"][0]["reward"]["mean"].clone();
    let records = answers.iter().map(|answer| {
        let mut record = answer.clone();
        record["completion"] = json!([{"role": "assistant", "content": answer["text"]}]);
        record
    });
    let records: Vec<Value> = records.collect();
    let by_data = |records: &[Value]| {
        folder.lines("records.jsonl", records);
        let flags = [
            "score",
            "--data",
            "records.jsonl",
            "--reward",
            reward,
            "--json",
            "--device",
            "cpu",
        ];
        let scored = folder.binary(&flags).done().json();
        let rewards = scored["answers"].as_array().unwrap().iter();
        let rewards: Vec<f64> = rewards.map(|row| row["reward"].as_f64().unwrap()).collect();
        rewards.iter().sum::<f64>() / rewards.len() as f64
    };
    let mean = mean.as_f64().unwrap();
    assert!((mean - by_data(&records)).abs() < 1e-6);
    let mut without = records;
    for record in &mut without {
        record.as_object_mut().unwrap().remove("tools");
    }
    assert!((mean - by_data(&without)).abs() > 1e-4);

    // The pairs of answers keep them.
    let twice = [&answers[..], &answers].concat();
    let alike = twice.into_iter().enumerate().map(|(place, mut row)| {
        row["text"] = json!(["It is great.", "It is awful."][usize::from(place > 3)]);
        row
    });
    folder.lines("alike.jsonl", &alike.collect::<Vec<_>>());
    let label = [
        "label",
        "--answers",
        "alike.jsonl",
        "--reward",
        "sentiment",
        "--out",
        "pairs.jsonl",
    ];
    folder.binary(&label).done();
    let pairs = folder.rows("pairs.jsonl");
    assert_eq!(pairs.len(), 4);
    assert_eq!(
        (&pairs[0]["tools"], pairs[1].get("tools")),
        (&tools(), None)
    );

    folder.lines(
        "bad.jsonl",
        &[json!({"prompt": "p", "text": "t", "tools": tools()})],
    );
    folder
        .binary(&["score", "--answers", "bad.jsonl", "--reward", "sentiment"])
        .refused("`tools` is for the chat template, but prompt and answers are no chats");
}

#[test]
fn a_judge_on_standard_input_is_given_them() {
    let folder = Folder::new();
    let reward = judge(&folder);
    let reward = reward.to_str().unwrap();
    let words = [
        "Yes.",
        "No.",
        "It may rain in Rome.",
        "5",
        "I do not know.",
        "Ask again, please!",
        "why",
        "two and two",
    ];
    let answered = |words: &str, more: &Value| {
        let mut row = rows(more)[0].clone();
        row["response"] = json!([{"role": "assistant", "content": words}]);
        row
    };
    let rewards = |more: &Value| -> Vec<f64> {
        let records: Vec<Value> = words.iter().map(|words| answered(words, more)).collect();
        folder.lines("records.jsonl", &records);
        let flags = [
            "score",
            "--data",
            "records.jsonl",
            "--reward",
            reward,
            "--json",
            "--device",
            "cpu",
        ];
        let scored = folder.binary(&flags).done().json();
        let rewards = scored["answers"].as_array().unwrap().iter();
        rewards.map(|row| row["reward"].as_f64().unwrap()).collect()
    };
    let (with, without) = (rewards(&given()), rewards(&json!({})));
    let pairs = (0..words.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
    let differs = |&(one, other): &(usize, usize)| {
        (with[one] > with[other]) != (without[one] > without[other])
    };
    // Two answers whose order depends on what the template is given.
    let (one, other) = pairs.into_iter().find(differs).unwrap();
    let ask = |questions: &[Value]| {
        let mut judge = folder
            .command(&[
                "score", "--reward", reward, "--data", "-", "--device", "cpu",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = judge.stdin.take().unwrap();
        for question in questions {
            writeln!(stdin, "{question}").unwrap();
        }
        drop(stdin);
        Ran::of(judge.wait_with_output().unwrap())
    };
    let question = |more: &Value, others: &Value| json!({"id": 0, "first": answered(words[one], more), "second": answered(words[other], others)});
    for (more, rewards) in [(given(), &with), (json!({}), &without)] {
        let said = ask(&[question(&more, &more)]).done().json();
        let winner = if rewards[one] > rewards[other] {
            "first"
        } else {
            "second"
        };
        assert_eq!(said["winner"], winner);
    }
    ask(&[question(&given(), &json!({}))])
        .refused("line 1: the two answers have different `tools`");
    let plain = json!({"prompt": "p", "response": "r", "tools": tools()});
    ask(&[json!({"id": 0, "first": plain, "second": plain})]).refused("are no chats");
}

/// A judge that writes down what it is asked and finds shorter answers better.
const LOGGING: &str = "import json, sys\nlog = open('asked.jsonl', 'a')\nfor line in sys.stdin:\n    \
    log.write(line)\n    log.flush()\n    row = json.loads(line)\n    \
    print(json.dumps({'id': row['id'], 'reward': -len(row['response'])}), flush=True)\n";

#[test]
fn rounds_and_contests_of_models_pass_them_on() {
    let folder = Folder::new();
    fs::write(folder.path("judge.py"), LOGGING).unwrap();
    let asked = || {
        let rows = folder.rows("asked.jsonl");
        fs::remove_file(folder.path("asked.jsonl")).unwrap();
        rows
    };
    let mut with = rows(&given());
    with[3]["prompt"] = json!(QUESTIONS[3]);
    folder.lines("with.jsonl", &with);
    folder.lines("without.jsonl", &rows(&json!({})));
    let model = crate::command::quoted(&golden("text/model"));
    let scorer = "[generate]\nsamples = 4\ntemperature = 0.01\nmax_tokens = 8\n[scorer]\nkind = \"rewards\"\ncommand = \"python3 judge.py\"\n";
    let rounds = format!(
        "[run]\noutput = \"rounds\"\ndevice = \"cpu\"\n[model]\nbase = {model}\n[rounds]\ncount = 1\n\
         [data]\nprompts = \"with.jsonl\"\nvalidation_share = 0.0\n{scorer}\
         [objective]\nkind = \"pro\"\n[adapter]\ntargets = \"all-linear\"\n[train]\nsteps = 1\n"
    );
    fs::write(folder.path("rounds.toml"), rounds).unwrap();
    folder
        .configured("iterate", "rounds.toml", &["generate.temperature=1.5"])
        .done();
    for question in asked() {
        assert_eq!(question["tools"], tools());
        assert_eq!(
            question["chat_template_kwargs"],
            given()["chat_template_kwargs"]
        );
    }
    let records = folder.rows("rounds/round-1/records.jsonl");
    assert!(records.len() > 1);
    for record in &records {
        assert_eq!(record["tools"], tools());
        assert_eq!(record["prompt"][0]["role"], "user");
    }
    // At a low temperature the answers of the first policy are the likeliest ones.
    let likeliest = |name: &str| -> Vec<String> {
        let output = format!("run.output={name}");
        let prompts = format!("data.prompts={name}.jsonl");
        folder.configured(
            "iterate",
            "rounds.toml",
            &[&output, &prompts, "generate.temperature=0.000001"],
        );
        let _ = asked();
        let rows = folder.rows(&format!("{name}/round-0/validation.jsonl"));
        rows.iter()
            .map(|row| row["responses"][0].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(likeliest("with"), greedy(&with, 8));
    assert_eq!(likeliest("without"), greedy(&rows(&json!({})), 8));
    assert_ne!(greedy(&with, 8), greedy(&rows(&json!({})), 8));

    folder
        .train("run", "pairs", "kind = \"dpo\"", &["train.steps=1"])
        .done();
    fs::write(folder.path("scorer.toml"), scorer).unwrap();
    let contest = [
        "eval",
        "text",
        "run",
        "--scorer",
        "scorer.toml",
        "--prompts",
        "with.jsonl",
        "--against",
        golden("text/model").to_str().unwrap(),
        "--set",
        "generate.temperature=0.000001",
        "--device",
        "cpu",
        "--quiet",
    ]
    .map(str::to_owned);
    folder
        .binary(&contest.each_ref().map(String::as_str))
        .done();
    let questions = asked();
    assert!(
        questions
            .iter()
            .all(|question| question["tools"] == tools())
    );
    // The other model's answers are every second one.
    let others: Vec<&str> = questions
        .iter()
        .skip(1)
        .step_by(2)
        .map(|row| row["response"].as_str().unwrap())
        .collect();
    assert_eq!(others, greedy(&with, 8));
}

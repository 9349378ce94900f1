//! What one verb writes of texts, every other reads with the same meaning: prompts as words or messages, what their chat
//! template is given, answers; and words beside a chat template by one rule.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use preftune::models::lm::LmConfig;
use preftune::models::lm::tokenizer::TextTokenizer;
use serde_json::{Value, json};

use crate::command::{Folder, Ran, quoted};
use crate::support::golden;

/// The verbs that write texts, with the files.
const WRITERS: [(&str, &str); 7] = [
    ("generate --out", "answers.jsonl"),
    ("generate --json", "answers.json"),
    ("score --answers --out", "scored.jsonl"),
    ("score --answers --out --top 1", "best.jsonl"),
    ("label --answers", "pairs.jsonl"),
    ("label --data", "labelled.jsonl"),
    ("iterate", "rounds/round-1/records.jsonl"),
];

/// The verbs that read each of them, and what of it must be the same.
const READERS: [(&str, Reader); 6] = [
    ("inspect, train: token ids of prompts with answers", tokens),
    ("score --data: rewards", score_data),
    ("score --answers: rewards", score_answers),
    (
        "label --data and --answers: prompts, and rewards of the answers",
        label,
    ),
    ("rank --judge \"score --data -\": decisions", judge),
    ("generate --prompts: what is asked", generate),
];

type Reader = fn(&Shared, &str);

/// A row's prompt with its variables, as JSON, and the words of an answer.
type Key = (String, String);

struct Shared {
    folder: Folder,
    reward: PathBuf,
    model: PathBuf,
    /// Rewards and token ids, of rows in messages with `completion`.
    expected: HashMap<Key, (f64, Vec<i64>)>,
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "description": "Says", "parameters": {}}}])
}

fn prompts() -> Vec<Value> {
    vec![
        json!({"prompt": "Will it rain?"}),
        json!({"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Add 2 and 3."}]}),
        json!({"prompt": [{"role": "user", "content": "Say it."}], "tools": tools()}),
        json!({"prompt": [{"role": "user", "content": "Where?"}], "chat_template_kwargs": {"enable_thinking": false}}),
        json!({"prompt": "Sing.", "system": "Loudly."}),
    ]
}

/// A copy of a golden model with the chat template that reads tools.
fn with_template(folder: &Folder, of: &str, name: &str) -> PathBuf {
    let copy = folder.path(name);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(golden(of)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let template = "chat_template.jinja";
    fs::copy(golden("text/model").join(template), copy.join(template)).unwrap();
    copy
}

fn run(folder: &Folder, arguments: &str) -> Ran {
    folder
        .binary(&arguments.split(' ').collect::<Vec<_>>())
        .done()
}

fn words(answer: &Value) -> String {
    match answer {
        Value::Array(messages) => messages[0]["content"].as_str().unwrap().to_owned(),
        words => words.as_str().unwrap().to_owned(),
    }
}

/// The prompt's key, and the answers' words in their order.
fn read(row: &Value) -> (String, Vec<String>) {
    let prompt = json!([
        row["prompt"],
        row.get("tools"),
        row.get("chat_template_kwargs")
    ]);
    let answers = ["text", "completion", "chosen", "rejected"];
    let answers = answers.iter().filter_map(|name| row.get(*name)).map(words);
    (prompt.to_string(), answers.collect())
}

impl Shared {
    fn rows(&self, file: &str) -> Vec<Value> {
        if Path::new(file)
            .extension()
            .is_some_and(|ending| ending == "json")
        {
            let text = fs::read_to_string(self.folder.path(file)).unwrap();
            return serde_json::from_str(&text).unwrap();
        }
        self.folder.rows(file)
    }

    fn reward(&self, prompt: &str, answer: &str) -> f64 {
        let key = (prompt.to_owned(), answer.to_owned());
        self.expected
            .get(&key)
            .unwrap_or_else(|| panic!("{key:?}"))
            .0
    }

    /// Rewards of all answers of a file, row by row.
    fn rewards(&self, file: &str) -> Vec<f64> {
        let rows = self.rows(file);
        let of_row = |row: &Value| -> Vec<f64> {
            let (prompt, answers) = read(row);
            answers
                .iter()
                .map(|answer| self.reward(&prompt, answer))
                .collect()
        };
        rows.iter().flat_map(of_row).collect()
    }

    fn run(&self, arguments: &str) -> Ran {
        run(&self.folder, arguments)
    }

    fn score(&self, file: &str) -> Vec<f64> {
        let reward = self.reward.display();
        let report = self
            .run(&format!(
                "score --data {file} --reward {reward} --device cpu --json"
            ))
            .json();
        let answers = report["answers"].as_array().unwrap().iter();
        answers.map(|row| row["reward"].as_f64().unwrap()).collect()
    }

    fn ids(&self, file: &str) -> Vec<Vec<i64>> {
        let config = format!(
            "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = \"{file}\"\n[objective]\nkind = \"sft\"\n",
            quoted(&self.model)
        );
        fs::write(self.folder.path("sft.toml"), config).unwrap();
        let report = self.run("inspect sft.toml --rows 1000 --json").json();
        let ids = |example: &Value| {
            serde_json::from_value(example["sequences"][0]["ids"].clone()).unwrap()
        };
        report["examples"]
            .as_array()
            .unwrap()
            .iter()
            .map(ids)
            .collect()
    }
}

#[track_caller]
fn same(what: &str, actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (actual, expected) in actual.iter().zip(expected) {
        assert!(
            (actual - expected).abs() < 1e-5,
            "{what}: {actual}, not {expected}"
        );
    }
}

fn tokens(shared: &Shared, file: &str) {
    let ids = shared.ids(file);
    let rows = shared.rows(file);
    assert_eq!(ids.len(), rows.len());
    for (ids, row) in ids.iter().zip(&rows) {
        let (prompt, answers) = read(row);
        assert_eq!(*ids, shared.expected[&(prompt, answers[0].clone())].1);
    }
}

fn score_data(shared: &Shared, file: &str) {
    same("score --data", &shared.score(file), &shared.rewards(file));
}

fn score_answers(shared: &Shared, file: &str) {
    let reward = shared.reward.display();
    shared.run(&format!(
        "score --answers {file} --reward {reward} --device cpu --out again.jsonl"
    ));
    let rows = shared.rows("again.jsonl");
    let count: usize = shared.rows(file).iter().map(|row| read(row).1.len()).sum();
    assert_eq!(rows.len(), count);
    for row in &rows {
        let (prompt, answers) = read(row);
        let expected = shared.reward(&prompt, &answers[0]);
        same(
            "score --answers",
            &[row["reward"].as_f64().unwrap()],
            &[expected],
        );
    }
}

fn label(shared: &Shared, file: &str) {
    let reward = shared.reward.display();
    let pairs = shared.rows(file)[0].get("chosen").is_some();
    let mut flags = vec![format!("--answers {file} --min-gap 1e-9")];
    if pairs {
        flags.push(format!("--data {file}"));
    }
    for flags in flags {
        let arguments =
            format!("label {flags} --reward {reward} --device cpu --out relabelled.jsonl");
        let ran = shared
            .folder
            .binary(&arguments.split(' ').collect::<Vec<_>>());
        if file == "best.jsonl" {
            // One answer to each prompt makes no pair.
            ran.refused("no two answers to a prompt differ");
            continue;
        }
        ran.done();
        for row in shared.rows("relabelled.jsonl") {
            let (prompt, answers) = read(&row);
            let scores = ["chosen_score", "rejected_score"].map(|name| row[name].as_f64().unwrap());
            let expected: Vec<f64> = answers
                .iter()
                .map(|one| shared.reward(&prompt, one))
                .collect();
            same("label", &scores, &expected);
            assert!(scores[0] > scores[1]);
            assert!(row.get("margin").is_none(), "nobody asked for margins");
        }
    }
}

fn judge(shared: &Shared, file: &str) {
    let rows = shared.rows(file);
    let side = |row: &Value, name: &str| {
        let mut row = row.clone();
        if let Some(answer) = row.get(name).cloned() {
            for name in ["chosen", "rejected"] {
                row.as_object_mut().unwrap().remove(name);
            }
            row["completion"] = answer;
        }
        row
    };
    // Both sides of a pair; else two answers to the same prompt.
    let questions: Vec<(Value, Value)> = if rows[0].get("chosen").is_some() {
        rows.iter()
            .map(|row| (side(row, "chosen"), side(row, "rejected")))
            .collect()
    } else {
        let pairs = rows.iter().zip(rows.iter().skip(1));
        let alike = pairs.filter(|(one, other)| read(one).0 == read(other).0);
        alike
            .map(|(one, other)| (one.clone(), other.clone()))
            .collect()
    };
    let reward = shared.reward.to_str().unwrap();
    let mut judge = shared
        .folder
        .command(&[
            "score", "--reward", reward, "--data", "-", "--device", "cpu",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = judge.stdin.take().unwrap();
    for (first, second) in &questions {
        writeln!(
            stdin,
            "{}",
            json!({"id": 0, "first": first, "second": second})
        )
        .unwrap();
    }
    drop(stdin);
    let said = Ran::of(judge.wait_with_output().unwrap()).done();
    for ((first, second), said) in questions.iter().zip(said.stdout.lines()) {
        let of = |row: &Value| {
            let (prompt, answers) = read(row);
            shared.reward(&prompt, &answers[0])
        };
        let winner = match of(first).total_cmp(&of(second)) {
            std::cmp::Ordering::Greater => "first",
            std::cmp::Ordering::Less => "second",
            std::cmp::Ordering::Equal => "tie",
        };
        let said: Value = serde_json::from_str(said).unwrap();
        assert_eq!(said["winner"], winner);
    }
    assert_eq!(said.stdout.lines().count(), questions.len());
}

fn generate(shared: &Shared, file: &str) {
    let model = shared.model.display();
    shared.run(&format!("generate --model {model} --prompts {file} --max-tokens 1 --device cpu --quiet --out asked.jsonl"));
    let asked = shared.rows("asked.jsonl");
    let rows = shared.rows(file);
    assert_eq!(asked.len(), rows.len());
    for (asked, row) in asked.iter().zip(&rows) {
        assert_eq!(read(asked).0, read(row).0);
    }
}

/// Writes all files; what they should mean is in rows of messages.
fn shared() -> Shared {
    let folder = Folder::new();
    let reward = with_template(&folder, "reward/scalar", "judge");
    let model = golden("text/model");
    folder.lines("prompts.jsonl", &prompts());
    let (judge, shown) = (reward.display(), model.display());
    let sample = format!(
        "generate --model {shown} --prompts prompts.jsonl --count 4 --max-tokens 6 --device cpu --quiet"
    );
    run(&folder, &format!("{sample} --out answers.jsonl"));
    let json = run(&folder, &format!("{sample} --json")).stdout;
    fs::write(folder.path("answers.json"), json).unwrap();
    let by = format!("--reward {judge} --device cpu");
    run(
        &folder,
        &format!("score --answers answers.jsonl {by} --out scored.jsonl"),
    );
    run(
        &folder,
        &format!("score --answers answers.jsonl {by} --out best.jsonl --top 1"),
    );
    run(
        &folder,
        &format!("label --answers answers.jsonl {by} --min-gap 1e-9 --out pairs.jsonl"),
    );
    run(
        &folder,
        &format!("label --data pairs.jsonl {by} --out labelled.jsonl"),
    );
    let rounds = format!(
        "[run]\noutput = \"rounds\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[rounds]\ncount = 1\n[data]\nprompts = \"prompts.jsonl\"\n\
         validation_share = 0.0\n[generate]\nsamples = 4\nmax_tokens = 6\n[scorer]\nkind = \"length\"\ntarget = 9\n\
         [objective]\nkind = \"dpo\"\n[adapter]\ntargets = \"all-linear\"\n[train]\nsteps = 1\nbatch = 1\n",
        quoted(&model)
    );
    fs::write(folder.path("rounds.toml"), rounds).unwrap();
    run(&folder, "iterate rounds.toml --quiet");

    let mut shared = Shared {
        folder,
        reward: reward.clone(),
        model: model.clone(),
        expected: HashMap::new(),
    };
    // Every prompt with every answer in messages: what all verbs have read since before they wrote answers.
    let mut canonical: Vec<(Key, Value)> = Vec::new();
    for (_, file) in WRITERS {
        for row in shared.rows(file) {
            let (prompt, answers) = read(&row);
            for answer in answers {
                let mut own = json!({
                    "prompt": row["prompt"], "completion": [{"role": "assistant", "content": answer}],
                });
                for name in ["tools", "chat_template_kwargs"] {
                    if let Some(value) = row.get(name) {
                        own[name] = value.clone();
                    }
                }
                let key = (prompt.clone(), answer);
                if canonical.iter().all(|(known, _)| *known != key) {
                    canonical.push((key, own));
                }
            }
        }
    }
    let rows: Vec<Value> = canonical.iter().map(|(_, row)| row.clone()).collect();
    shared.folder.lines("canonical.jsonl", &rows);
    let (rewards, ids) = (
        shared.score("canonical.jsonl"),
        shared.ids("canonical.jsonl"),
    );
    let keys = canonical.into_iter().map(|(key, _)| key);
    shared.expected = keys.zip(rewards.into_iter().zip(ids)).collect();
    shared
}

#[test]
fn what_one_verb_writes_every_other_reads_with_the_same_meaning() {
    let shared = shared();
    // Prompts in words have become messages, and the five prompts are still apart.
    let asked: Vec<Value> = shared
        .rows("answers.jsonl")
        .iter()
        .map(|row| row["prompt"].clone())
        .collect();
    assert!(asked.iter().all(Value::is_array));
    for (writer, file) in WRITERS {
        for (reader, check) in READERS {
            println!("{writer} -> {reader}");
            check(&shared, file);
        }
    }
    // The best of each prompt's answers is among them the one with the highest reward.
    let best = shared.rows("best.jsonl");
    assert_eq!(best.len(), prompts().len());
    for row in &best {
        let (prompt, _) = read(row);
        let all = shared.rows("scored.jsonl");
        let own = all
            .iter()
            .filter(|other| read(other).0 == prompt && !words(&other["text"]).trim().is_empty());
        let highest = own
            .map(|other| other["reward"].as_f64().unwrap())
            .fold(f64::MIN, f64::max);
        same("best", &[row["reward"].as_f64().unwrap()], &[highest]);
    }
}

fn tokenizer(folder: &Path) -> TextTokenizer {
    TextTokenizer::open(folder, LmConfig::open(folder).unwrap().vocab_size).unwrap()
}

/// Pairs in words, and the same as messages.
fn pairs() -> [Vec<Value>; 2] {
    let texts = [
        ("Hi", "Hello", "Go"),
        ("Why?", "So it is.", "No"),
        ("Sing", "La la", "I will not"),
        ("Two", "and three", "none"),
    ];
    let plain = texts.map(|(prompt, chosen, rejected)| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}));
    let chats = texts.map(|(prompt, chosen, rejected)| {
        let message = |role: &str, words: &str| json!([{"role": role, "content": words}]);
        json!({"prompt": message("user", prompt), "chosen": message("assistant", chosen), "rejected": message("assistant", rejected)})
    });
    [plain.to_vec(), chats.to_vec()]
}

fn config(model: &Path, data: &str, more: &str) -> String {
    format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = \"{data}\"\n{more}\
         [train]\nsteps = 3\nbatch = 2\nlearning_rate = 1e-2\nlog_every = 1\n[validation]\nevery = 0\npatience = 0\n",
        quoted(model)
    )
}

#[test]
fn words_beside_a_chat_template_have_one_rule_for_all_verbs() {
    let folder = Folder::new();
    let model = golden("text/model");
    let [plain, chats] = pairs();
    folder.lines("plain.jsonl", &plain);
    folder.lines("chats.jsonl", &chats);
    fs::write(folder.path("plain.toml"), config(&model, "plain.jsonl", "")).unwrap();
    fs::write(folder.path("chats.toml"), config(&model, "chats.jsonl", "")).unwrap();
    let inspect = |config: &str, more: &[&str]| folder.aloud("inspect", config, more).done();
    let json = |name: &str, more: &str| {
        run(&folder, &format!("inspect {name} --json --rows 9{more}")).json()
    };

    // inspect and train: words are messages.
    let (words, messages) = (json("plain.toml", ""), json("chats.toml", ""));
    assert_eq!(words["examples"], messages["examples"]);
    assert_eq!(words["words"], json!({"template": 4}));
    assert_eq!(messages["words"], json!({}));
    assert!(
        inspect("plain.toml", &[])
            .stdout
            .contains("words: 4 prompts in words go through the model's chat template")
    );
    let curve = |config: &str, name: &str, more: &[&str]| -> Vec<f64> {
        let output = format!("run.output={name}");
        let ran = folder
            .aloud("train", config, &[&[output.as_str()], more].concat())
            .done();
        let said = ran.stderr.contains("words: 4 prompts in words");
        assert_eq!(said, config == "plain.toml", "{}", ran.stderr);
        folder
            .steps(name)
            .iter()
            .map(|row| row["loss"].as_f64().unwrap())
            .collect()
    };
    let by_template = curve("plain.toml", "by-template", &[]);
    assert_eq!(by_template, curve("chats.toml", "by-messages", &[]));

    // As they are where that is asked for.
    let raw = json("plain.toml", " --set data.chat=raw");
    assert_eq!(raw["words"], json!({"raw": 4}));
    let ids: Vec<i64> =
        serde_json::from_value(raw["examples"][0]["sequences"][0]["ids"].clone()).unwrap();
    assert_eq!(ids, tokenizer(&model).answered("Hi", "Hello").unwrap().ids);
    let as_they_are = curve("plain.toml", "as-they-are", &["data.chat=raw"]);
    assert_ne!(by_template, as_they_are);

    // A model is asked as it was tuned: the run, its weights, what is made of it, and a model tuned from it.
    let ask = |model: &str, more: &str| {
        let arguments = format!(
            "generate --model {model} --prompt Hi --temperature 0 --max-tokens 8 --device cpu --json{more}"
        );
        run(&folder, &arguments).json()[0].clone()
    };
    for model in ["as-they-are", "as-they-are/best"] {
        assert_eq!(ask(model, "")["prompt"], "Hi", "{model}");
        assert_eq!(ask(model, ""), ask(model, " --raw"));
        assert!(ask(model, " --chat template")["prompt"].is_array());
    }
    assert!(ask("by-template", "")["prompt"].is_array());
    run(&folder, "export as-they-are --out merged");
    assert_eq!(ask("merged", "")["text"], ask("as-they-are", "")["text"]);
    assert_eq!(ask("merged", "")["prompt"], "Hi");
    let again = json("plain.toml", " --set model.base=merged");
    assert_eq!(again["words"], json!({"raw": 4}));
    let again = json(
        "plain.toml",
        " --set model.base=merged --set data.chat=template",
    );
    assert_eq!(again["words"], json!({"template": 4}));

    // eval text judges both forms of the same pairs as the run was trained.
    let figures = |run_folder: &str, data: &str| {
        run(
            &folder,
            &format!("eval text {run_folder} --data {data} --json --device cpu --quiet"),
        )
        .json()["figures"]
            .clone()
    };
    assert_eq!(
        figures("by-template", "plain.jsonl"),
        figures("by-template", "chats.jsonl")
    );
    assert_ne!(
        figures("as-they-are", "plain.jsonl"),
        figures("as-they-are", "chats.jsonl")
    );
}

#[test]
fn a_system_column_is_a_message_of_its_own_where_words_become_messages() {
    let folder = Folder::new();
    let model = golden("text/model");
    let [mut plain, mut chats] = pairs();
    for (row, chat) in plain.iter_mut().zip(&mut chats) {
        row["system"] = json!("Be brief.");
        let message = json!({"role": "system", "content": "Be brief."});
        chat["prompt"].as_array_mut().unwrap().insert(0, message);
    }
    folder.lines("plain.jsonl", &plain);
    folder.lines("chats.jsonl", &chats);
    for data in ["plain", "chats"] {
        let text = config(&model, &format!("{data}.jsonl"), "");
        fs::write(folder.path(&format!("{data}.toml")), text).unwrap();
    }
    let json = |name: &str, more: &str| {
        run(&folder, &format!("inspect {name} --json --rows 9{more}")).json()
    };
    let words = json("plain.toml", "");
    assert_eq!(words["examples"], json("chats.toml", "")["examples"]);
    assert_eq!(words["words"], json!({"template": 4}));
    let said = run(&folder, "inspect plain.toml").done().stdout;
    let message =
        "in 4 of them the system message, which has a column of its own, becomes a message too";
    assert!(said.contains(message), "{said}");
    // Where words stay as they are, it stands before them.
    let raw = json("plain.toml", " --set data.chat=raw");
    let ids: Vec<i64> =
        serde_json::from_value(raw["examples"][0]["sequences"][0]["ids"].clone()).unwrap();
    let joined = tokenizer(&model).answered("Be brief.\n\nHi", "Hello");
    assert_eq!(ids, joined.unwrap().ids);

    // What verbs write of such rows says the same to those that read it.
    let texts = |data: &str| -> Vec<Value> {
        let asked = format!(
            "generate --model {} --prompts {data}.jsonl --temperature 0 --max-tokens 8 --device cpu --json",
            model.display()
        );
        let rows = run(&folder, &asked).json();
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["text"].clone())
            .collect()
    };
    assert_eq!(texts("plain"), texts("chats"));
    let more = "[reward_model]\ntask = \"bradley_terry\"\n";
    fs::write(
        folder.path("reward.toml"),
        config(&model, "plain.jsonl", more),
    )
    .unwrap();
    run(&folder, "train reward.toml").done();
    let score = |data: &str| {
        let asked = format!("score --reward run --data {data}.jsonl --device cpu --json");
        run(&folder, &asked).json()["answers"].clone()
    };
    assert_eq!(score("plain"), score("chats"));
    run(
        &folder,
        "label --data plain.jsonl --reward run --out labelled.jsonl --device cpu",
    )
    .done();
    for row in folder.rows("labelled.jsonl") {
        assert_eq!(row["system"], "Be brief.", "{row}");
        assert!(row["prompt"].is_string(), "{row}");
    }
}

#[test]
fn dialogues_in_plain_text_become_the_messages_of_their_turns() {
    let folder = Folder::new();
    let model = golden("text/model");
    let asked = "\n\nHuman: Hi\n\nAssistant: Hello. Why?\n\nHuman: Sing\n\nAssistant:";
    let plain: Vec<Value> = [("La", "No"), ("So", "None")]
        .map(|(one, other)| json!({"chosen": format!("{asked} {one}"), "rejected": format!("{asked} {other}")}))
        .to_vec();
    let message = |role: &str, words: &str| json!({"role": role, "content": words});
    let turns = [
        message("user", "Hi"),
        message("assistant", "Hello. Why?"),
        message("user", "Sing"),
    ];
    let chats: Vec<Value> = [("La", "No"), ("So", "None")]
        .map(|(one, other)| {
            json!({"prompt": turns, "chosen": [message("assistant", one)], "rejected": [message("assistant", other)]})
        })
        .to_vec();
    folder.lines("plain.jsonl", &plain);
    folder.lines("chats.jsonl", &chats);
    let inspect = |data: &str, more: &str| {
        let text = config(&model, &format!("{data}.jsonl"), "");
        fs::write(folder.path(&format!("{data}.toml")), text).unwrap();
        run(&folder, &format!("inspect {data}.toml --rows 9{more}"))
    };
    let examples = |data: &str| inspect(data, " --json").json()["examples"].clone();
    assert_eq!(examples("plain"), examples("chats"));
    let said = inspect("plain", "").done().stdout;
    assert!(
        said.contains("2 of them are dialogues of `Human:` and `Assistant:`"),
        "{said}"
    );
    // As they are where that is asked for.
    let raw = inspect("plain", " --set data.chat=raw --json").json();
    let ids: Vec<i64> =
        serde_json::from_value(raw["examples"][0]["sequences"][0]["ids"].clone()).unwrap();
    assert_eq!(ids, tokenizer(&model).answered(asked, " La").unwrap().ids);
}

#[test]
fn reward_models_read_words_as_they_were_trained() {
    let folder = Folder::new();
    let model = golden("text/model");
    let [plain, chats] = pairs();
    folder.lines("plain.jsonl", &plain);
    folder.lines("chats.jsonl", &chats);
    let more = "[reward_model]\ntask = \"bradley_terry\"\n";
    fs::write(
        folder.path("reward.toml"),
        config(&model, "plain.jsonl", more),
    )
    .unwrap();
    let train = |data: &str, name: &str, more: &[&str]| {
        let (data, output) = (format!("data.train={data}"), format!("run.output={name}"));
        let ran = folder
            .aloud(
                "train",
                "reward.toml",
                &[&[data.as_str(), output.as_str()], more].concat(),
            )
            .done();
        let loss = |row: &Value| row["loss"].as_f64().unwrap();
        (
            folder.steps(name).iter().map(loss).collect::<Vec<f64>>(),
            ran.stderr,
        )
    };
    let (words, said) = train("plain.jsonl", "template", &[]);
    assert!(
        said.contains("words: 4 prompts in words go through"),
        "{said}"
    );
    assert_eq!(words, train("chats.jsonl", "messages", &[]).0);
    assert_ne!(words, train("plain.jsonl", "raw", &["data.chat=raw"]).0);

    let score = |judge: &str, data: &str, more: &str| {
        run(
            &folder,
            &format!("score --reward {judge} --data {data} --device cpu --json{more}"),
        )
        .json()["answers"]
            .clone()
    };
    assert_eq!(
        score("template", "plain.jsonl", ""),
        score("template", "chats.jsonl", "")
    );
    assert_ne!(
        score("raw", "plain.jsonl", ""),
        score("raw", "chats.jsonl", "")
    );
    assert_eq!(
        score("raw", "plain.jsonl", ""),
        score("raw", "plain.jsonl", " --chat raw")
    );
    assert_eq!(
        score("raw", "plain.jsonl", " --chat template"),
        score("raw", "chats.jsonl", "")
    );
    // The same of answers, which are read by `score --answers`.
    let answers: Vec<Value> = plain
        .iter()
        .map(|row| json!({"prompt": row["prompt"], "text": row["chosen"]}))
        .collect();
    folder.lines("answers.jsonl", &answers);
    for (judge, more) in [("template", ""), ("raw", ""), ("raw", " --chat template")] {
        run(
            &folder,
            &format!(
                "score --reward {judge} --answers answers.jsonl --device cpu --out scored.jsonl{more}"
            ),
        );
        let scored = folder.rows("scored.jsonl");
        let by_data = score(judge, "plain.jsonl", more);
        for (place, row) in scored.iter().enumerate() {
            let (one, other) = (
                row["reward"].as_f64().unwrap(),
                by_data[2 * place]["reward"].as_f64().unwrap(),
            );
            assert!((one - other).abs() < 1e-5, "{judge}{more}");
        }
    }
}

#[test]
fn words_with_the_marks_of_the_template_stay_as_they_are() {
    let folder = Folder::new();
    let model = golden("text/model");
    let rendered = "<s>user\nHi</s>\n<s>assistant\n";
    let rows = [
        json!({"prompt": rendered, "chosen": "Hello", "rejected": "Go"}),
        json!({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}),
        json!({"prompt": "", "chosen": "Hello", "rejected": "Go"}),
    ];
    folder.lines("rows.jsonl", &rows[..2]);
    fs::write(folder.path("run.toml"), config(&model, "rows.jsonl", "")).unwrap();
    let report = run(&folder, "inspect run.toml --json --rows 9").json();
    assert_eq!(report["words"], json!({"rendered": 1, "template": 1}));
    let prompt = report["examples"][0]["sequences"][0]["prompt"]
        .as_str()
        .unwrap();
    assert_eq!(prompt.matches("assistant").count(), 1, "{prompt:?}");
    let asked = run(
        &folder,
        &format!(
            "generate --model {} --prompts rows.jsonl --max-tokens 1 --device cpu --json",
            model.display()
        ),
    );
    assert_eq!(asked.json()[0]["prompt"], rendered);
    assert!(asked.json()[1]["prompt"].is_array());
}

#[test]
fn rewards_of_single_answers_are_written_as_csv_too() {
    let folder = Folder::new();
    let rows = [
        json!({"prompt": "How?", "text": "It is good, \"really\"."}),
        json!({"prompt": "How?", "text": "It is bad."}),
    ];
    folder.lines("answers.jsonl", &rows);
    run(
        &folder,
        "score --answers answers.jsonl --reward sentiment --csv rewards.csv",
    );
    let text = fs::read_to_string(folder.path("rewards.csv")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0], "file,prompt,text,\"sentiment\"");
    assert!(
        lines[1].starts_with("\"answers.jsonl\",\"How?\",\"It is good, \"\"really\"\".\",0."),
        "{text}"
    );
    assert!(
        lines[2].starts_with("\"answers.jsonl\",\"How?\",\"It is bad.\",-0."),
        "{text}"
    );
    run(
        &folder,
        "score --data answers.jsonl --reward sentiment --csv rewards.csv",
    );
    let text = fs::read_to_string(folder.path("rewards.csv")).unwrap();
    assert!(
        text.starts_with("line,answer,\"sentiment\"\n1,1,0."),
        "{text}"
    );
    // What would be left unused is refused.
    for more in ["--transform par", "--lambda 0.5", "--dino x"] {
        let arguments = format!("score --answers answers.jsonl --reward sentiment {more}");
        let ran = folder.binary(&arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, 2, "{more}: {}", ran.stderr);
    }
}

#[test]
fn margins_are_written_and_learnt_where_they_are_asked_for() {
    let folder = Folder::new();
    let rows = [
        json!({"prompt": "How?", "responses": ["It is good.", "It is bad."], "scores": [1.0, 0.0]}),
        json!({"prompt": "And?", "responses": ["A lovely day.", "An awful day."], "scores": [1.0, 0.0]}),
    ];
    folder.lines("lists.jsonl", &rows);
    let label = |more: &str| {
        run(
            &folder,
            &format!("label --data lists.jsonl --reward sentiment --out pairs.jsonl{more}"),
        );
        folder.rows("pairs.jsonl")
    };
    assert!(label("").iter().all(|row| row.get("margin").is_none()));
    let train = |run: &str| {
        fs::write(
            folder.path("run.toml"),
            config(&golden("text/model"), "pairs.jsonl", ""),
        )
        .unwrap();
        folder
            .aloud("train", "run.toml", &[&format!("run.output={run}")])
            .done()
            .stderr
    };
    assert!(!train("without").contains("margin"));
    let pairs = label(" --margin");
    for row in &pairs {
        let scores = ["chosen_score", "rejected_score"].map(|name| row[name].as_f64().unwrap());
        assert!((row["margin"].as_f64().unwrap() - (scores[0] - scores[1])).abs() < 1e-9);
    }
    let said = train("with");
    assert!(said.contains("margins: 2 pairs bring a `margin`"), "{said}");
}

//! Reward models on a language model through the binary: against a torch loop around transformers' classifier, resuming,
//! HelpSteer2's files, scoring, labelling and judging texts, bad input.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use preftune::config::reward_from_table;
use preftune::data::preferences::Pair;
use preftune::data::text::{self, Shape, Text};
use preftune::models::heads::Head;
use preftune::models::lm::LanguageModel;
use preftune::models::lm::reward::{RewardModel, Trained, open_head};
use preftune::models::lm::tokenizer::TextTokenizer;
use preftune::models::lora::LoraSet;
use preftune::trainer::Task as _;
use preftune::trainer::reward::{Examples, Pairs, RewardTask, Source, Texts};
use serde_json::{Map, Value, json};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

use crate::command::{self, Ran, own_folder, quoted};
use crate::support::{assert_close, golden, golden_tensors};

own_folder!();

impl Folder {
    fn new() -> Self {
        Self(command::Folder::new())
    }

    /// Trains on golden data with these lines under `[reward_model]`.
    fn train(&self, run: &str, model: &str, data: &str, more: &[&str]) -> Ran {
        let config = format!(
            "[run]\noutput = \"{run}\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[reward_model]\n{model}\n\
             [data]\ntrain = {}\nchat = \"raw\"\n[adapter]\nkind = \"full\"\n\
             [train]\nsteps = 10\nbatch = 4\nlearning_rate = 2e-3\nschedule = \"constant\"\nlog_every = 1\n\
             [validation]\nevery = 0\npatience = 0\n[checkpoint]\nevery = 4\nkeep = 5\n",
            quoted(&golden("text/model")),
            quoted(&golden(&format!("{data}.jsonl"))),
        );
        let name = format!("{run}.toml");
        fs::write(self.path(&name), config).unwrap();
        self.configured("train", &name, more)
    }

    /// Rewards of words as they are, as the goldens have them.
    fn score(&self, reward: &str, data: &Path) -> Value {
        let data = data.to_str().unwrap();
        let arguments = [
            "score", "--reward", reward, "--data", data, "--json", "--device", "cpu", "--chat",
            "raw",
        ];
        self.binary(&arguments).done().json()
    }

    /// The golden adapter with a base that is there.
    fn adapter(&self) -> PathBuf {
        let folder = self.path("adapter");
        fs::create_dir_all(&folder).unwrap();
        let from = golden("reward/adapter");
        let name = "adapter_model.safetensors";
        fs::copy(from.join(name), folder.join(name)).unwrap();
        let settings = fs::read_to_string(from.join("adapter_config.json")).unwrap();
        let base = json!(golden("reward/scalar").to_str().unwrap()).to_string();
        let settings = settings.replace("\"BASE\"", &base);
        fs::write(folder.join("adapter_config.json"), settings).unwrap();
        folder
    }
}

fn curves() -> Value {
    let text = fs::read_to_string(golden("reward/curves.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn same_curve(what: &str, rows: &[Value], expected: &Value) {
    let expected = expected["rows"].as_array().unwrap();
    assert_eq!(rows.len(), expected.len(), "{what}");
    for (step, (row, expected)) in rows.iter().zip(expected).enumerate() {
        for name in ["loss", "gradient_norm"] {
            let (actual, value) = (
                row[name].as_f64().unwrap(),
                expected[name].as_f64().unwrap(),
            );
            println!("{what}, step {step}, {name}: {actual} {value}");
            assert!(
                (actual - value).abs() <= 2e-4 * value.abs().max(1.0),
                "{what}, step {step}, {name}: {actual}, not {value}"
            );
        }
    }
}

/// Rewards of pairs, all chosen then all rejected, as the golden file lists them.
fn rewards(scores: &Value, name: &str) -> Vec<f64> {
    let answers = scores["answers"].as_array().unwrap();
    let side = |which: u64| {
        let own = answers.iter().filter(move |row| row["answer"] == which);
        own.map(|row| row[name].as_f64().unwrap())
    };
    side(0).chain(side(1)).collect()
}

#[track_caller]
fn same_rewards(what: &str, actual: &[f64], expected: &Value, tolerance: f64) {
    let expected = expected.as_array().unwrap().iter();
    let expected: Vec<f64> = expected
        .map(|row| row.as_f64().or(row[0].as_f64()).unwrap())
        .collect();
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (actual, expected) in actual.iter().zip(expected) {
        assert!(
            (actual - expected).abs() <= tolerance,
            "{what}: {actual}, not {expected}"
        );
    }
}

#[test]
fn every_objective_trains_as_a_torch_loop_around_transformers_classifier_does() {
    let (folder, curves) = (Folder::new(), curves());
    let scalar = quoted(&golden("reward/scalar"));
    let margins = golden("reward/margins.jsonl");
    for task in [
        "bradley_terry",
        "margin_bradley_terry",
        "scaled_bradley_terry",
    ] {
        let model = format!("task = \"{task}\"\nstart_from = {scalar}");
        folder.train(task, &model, "reward/margins", &[]).done();
        same_curve(task, &folder.steps(task), &curves[task]);
        let after = rewards(&folder.score(task, &margins), "reward");
        same_rewards(task, &after, &curves[task]["after"], 2e-3);
    }
    let before = folder.score(golden("reward/scalar").to_str().unwrap(), &margins);
    same_rewards(
        "before",
        &rewards(&before, "reward"),
        &curves["bradley_terry"]["before"],
        1e-5,
    );

    let model = format!(
        "task = \"regression\"\nstart_from = {}",
        quoted(&golden("reward/rated"))
    );
    folder
        .train("regression", &model, "reward/rated", &[])
        .done();
    same_curve(
        "regression",
        &folder.steps("regression"),
        &curves["regression"],
    );

    let model = format!(
        "task = \"general_preference\"\nplanes = 2\ngate = true\nstart_from = {}",
        quoted(&golden("reward/general"))
    );
    folder
        .train("general", &model, "reward/margins", &[])
        .done();
    same_curve(
        "general",
        &folder.steps("general"),
        &curves["general_preference"],
    );
    let scores = rewards(&folder.score("general", &margins), "preference");
    // In units of tau, and antisymmetric.
    let chosen: Vec<f64> = scores[..4].iter().map(|score| score * 0.1).collect();
    same_rewards(
        "general",
        &chosen,
        &curves["general_preference"]["after"],
        2e-3,
    );
    assert!((scores[0] + scores[4]).abs() < 1e-5);
}

#[test]
fn centred_rewards_add_the_square_of_their_sum() {
    let folder = Folder::new();
    let model = format!(
        "task = \"bradley_terry\"\nstart_from = {}",
        quoted(&golden("reward/scalar"))
    );
    let centred = format!("{model}\ncenter_rewards_coefficient = 0.5");
    folder.train("plain", &model, "reward/margins", &[]).done();
    folder
        .train("centred", &centred, "reward/margins", &[])
        .done();
    let margins = golden("reward/margins.jsonl");
    let sums = |run: &str| -> Vec<f64> {
        let all = rewards(&folder.score(run, &margins), "reward");
        (0..4).map(|pair| all[pair] + all[pair + 4]).collect()
    };
    let before = sums(golden("reward/scalar").to_str().unwrap());
    let squares = |sums: &[f64]| sums.iter().map(|sum| sum * sum).sum::<f64>() / 4.0;
    let loss = |run: &str| folder.steps(run)[0]["loss"].as_f64().unwrap();
    // As TRL adds it: the mean over the pairs.
    let added = loss("centred") - loss("plain");
    assert!((added - 0.5 * squares(&before)).abs() < 1e-4, "{added}");
    assert!(squares(&sums("centred")) < squares(&sums("plain")));
    let general = "task = \"general_preference\"\ncenter_rewards_coefficient = 0.5";
    folder
        .train("none", general, "reward/margins", &[])
        .refused("is for pairs and a scalar reward");
}

#[test]
fn an_adapter_of_peft_goes_on_as_in_torch() {
    let (folder, curves) = (Folder::new(), curves());
    let adapter = folder.adapter();
    let before = folder.score(adapter.to_str().unwrap(), &golden("reward/margins.jsonl"));
    same_rewards(
        "before",
        &rewards(&before, "reward"),
        &curves["lora"]["before"],
        1e-5,
    );
    let model = format!(
        "task = \"bradley_terry\"\nstart_from = {}",
        quoted(&adapter)
    );
    for (run, more) in [
        ("lora", &["adapter.kind=lora"][..]),
        (
            "tape",
            &["adapter.kind=lora", "train.checkpoint_activations=true"],
        ),
        (
            "split",
            &["adapter.kind=lora", "train.batch=2", "train.accumulation=2"],
        ),
    ] {
        folder.train(run, &model, "reward/margins", more).done();
        same_curve(run, &folder.steps(run), &curves["lora"]);
    }
    let after = rewards(
        &folder.score("lora", &golden("reward/margins.jsonl")),
        "reward",
    );
    same_rewards("after", &after, &curves["lora"]["after"], 2e-3);
    let text = fs::read_to_string(folder.path("lora/best/adapter_config.json")).unwrap();
    let settings: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(settings["task_type"], "SEQ_CLS");
    assert_eq!(settings["modules_to_save"], json!(["score"]));
}

#[test]
fn gradients_of_the_first_step_are_those_of_torch() {
    let expected = golden_tensors("reward/gradients.safetensors");
    let folder = Folder::new();
    let open = |lora: bool| {
        let base = golden("reward/scalar");
        let body = LanguageModel::open_body(&base, Device::Cpu, Kind::Float, Kind::Float).unwrap();
        let tokenizer = TextTokenizer::open(&base, body.config().vocab_size).unwrap();
        let from = if lora { folder.adapter() } else { base.clone() };
        let head: Head = open_head(&from, Device::Cpu).unwrap();
        let trained = if lora {
            let lora = LoraSet::load(&body.adapters(), &from).unwrap();
            lora.set_trainable(true);
            Trained::Lora(lora, &base)
        } else {
            for (_, tensor) in body.parameters() {
                let _ = tensor.set_requires_grad(true);
            }
            Trained::Whole
        };
        let model = RewardModel::new(body, trained, head, &tokenizer).unwrap();
        (Rc::new(model), tokenizer)
    };
    let config = "[run]\noutput = \"x\"\n[model]\nbase = \"x\"\n[data]\ntrain = \"x\"\n[train]\nbatch = 4\n\
                  [reward_model]\ntask = \"bradley_terry\"\n";
    let config = reward_from_table(&config.parse().unwrap()).unwrap();
    let mut compared = 0;
    for lora in [false, true] {
        let (model, tokenizer) = open(lora);
        let records = text::read(&golden("reward/margins.jsonl"), Shape::Pairs).unwrap();
        let mut sequences = Vec::new();
        for record in &records {
            let Text::Plain(prompt) = &record.prompt else {
                panic!("plain");
            };
            for answer in &record.answers {
                let Text::Plain(answer) = answer else {
                    panic!("plain");
                };
                sequences.push(tokenizer.answered(prompt, answer).unwrap());
            }
        }
        let pairs: Vec<Pair> = (0..records.len())
            .map(|at| Pair {
                chosen: 2 * at,
                rejected: 2 * at + 1,
                prompt: None,
                strength: 1.0,
                weight: 1.0,
                user: None,
                held_out: None,
            })
            .collect();
        let source = Source::Texts(Texts {
            model: Rc::clone(&model),
            sequences,
        });
        let examples = Examples::Pairs(Pairs::new(&pairs, &[], Device::Cpu));
        let head = Rc::clone(model.head());
        let mut task = RewardTask::new(head, source, examples, None, &config).unwrap();
        task.accumulate(0, 0).unwrap();
        for (name, tensor) in model.parameters() {
            let theirs = match (name.as_str(), lora) {
                ("head.reward.0.weight", false) => "score.weight".to_owned(),
                ("head.reward.0.weight", true) => {
                    "base_model.model.score.modules_to_save.default.weight".to_owned()
                }
                (name, false) => name.to_owned(),
                (name, true) => format!(
                    "base_model.model.{}.default.weight",
                    name.trim_end_matches(".weight")
                ),
            };
            let theirs = expected.tensor(&theirs).unwrap();
            assert_close(&name, &tensor.grad(), &theirs, 2e-5);
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared} tensors");
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let folder = Folder::new();
    let model = "task = \"bradley_terry\"\nhidden = [6]";
    for run in ["whole", "parts"] {
        folder.train(run, model, "text/pairs", &[]).done();
    }
    // As a kill after the checkpoint of step 8 leaves it.
    fs::remove_dir_all(folder.path("parts/checkpoints/step-000010")).unwrap();
    fs::remove_dir_all(folder.path("parts/best")).unwrap();
    let manifest = folder.path("parts/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
    folder
        .train("parts", model, "text/pairs", &["--resume"])
        .done();
    for file in [
        "checkpoints/step-000010/weights.safetensors",
        "best/model.safetensors",
        "best/head/model.safetensors",
    ] {
        let read = |run: &str| fs::read(folder.path(run).join(file)).unwrap();
        assert_eq!(read("whole"), read("parts"), "{file}");
    }
}

#[test]
fn a_regression_on_helpsteers_files_becomes_a_scaled_reward_and_is_extrapolated() {
    let folder = Folder::new();
    let model = "task = \"regression\"\nattributes = [\"helpfulness\", \"verbosity\"]";
    let held = |name: &str| format!("data.validation={}", golden(name).display());
    let rated = held("reward/rated.jsonl");
    let validated = ["validation.every=5", "train.steps=20", rated.as_str()];
    folder
        .train("regression", model, "reward/rated", &validated)
        .done();
    let text = fs::read_to_string(folder.path("regression/best/config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        config["architectures"],
        json!(["LlamaForSequenceClassification"])
    );
    assert_eq!(
        config["id2label"],
        json!({"0": "helpfulness", "1": "verbosity"})
    );
    assert_eq!(config["pad_token_id"], 2);

    let model = "task = \"scaled_bradley_terry\"\nstart_from = \"regression/best\"\n\
                 start_output = \"helpfulness\"\nextrapolate = [1.5, 3.0]";
    let strengths = held("reward/strengths.jsonl");
    let more = [
        "validation.every=2",
        "train.steps=2",
        // Small steps, so that going on in their direction is still downhill.
        "train.learning_rate=1e-4",
        "train.batch=2",
        strengths.as_str(),
    ];
    let ran = folder
        .train("reward", model, "reward/strengths", &more)
        .done();
    let manifest = folder.manifest("reward");
    // Two pairs: strength 0 is none.
    assert_eq!(manifest["examples"], json!([2, 2]));
    // The training pairs are held out here, so that going on lowers their loss.
    assert_eq!(manifest["extrapolated"], 3.0, "{manifest} {}", ran.stdout);
    let score = folder.score("reward", &golden("reward/strengths.jsonl"));
    assert_eq!(score["accuracy"], manifest["best_metrics"][1][1]);
}

#[test]
fn texts_are_scored_transformed_labelled_and_judged() {
    let folder = Folder::new();
    let reward = golden("reward/scalar");
    let reward = reward.to_str().unwrap();
    let rows = [
        json!({"prompt": "Say hi", "responses": ["Hi!", "No", "Hello there"]}),
        json!({"prompt": "Two and two", "responses": [" make four", " make five"]}),
    ];
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(folder.path("lists.jsonl"), lines.join("\n")).unwrap();
    let scores = folder.score(reward, &folder.path("lists.jsonl"));
    let plain: Vec<f64> = scores["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["reward"].as_f64().unwrap())
        .collect();
    assert_eq!(plain.len(), 5);
    let common = [
        "--reward",
        reward,
        "--data",
        "lists.jsonl",
        "--device",
        "cpu",
        "--chat",
        "raw",
    ];
    let flags = [
        "score",
        "--transform",
        "log-sigmoid",
        "--reference",
        "fixed:0.1",
        "--json",
    ];
    let scores = folder.binary(&[&flags[..], &common].concat()).done().json();
    let first = scores["answers"][0]["transformed"].as_f64().unwrap();
    let expected = -(1.0 + (-(plain[0] - 0.1)).exp()).ln();
    assert!((first - expected).abs() < 1e-9, "{first} {expected}");

    let flags = ["label", "--out", "pairs.jsonl", "--tau", "0.5", "--margin"];
    folder.binary(&[&flags[..], &common].concat()).done();
    let pairs = text::read(&folder.path("pairs.jsonl"), Shape::Pairs).unwrap();
    assert_eq!(pairs.len(), 2);
    let best = (0..3)
        .max_by(|a, b| plain[*a].total_cmp(&plain[*b]))
        .unwrap();
    let best = rows[0]["responses"][best].as_str().unwrap();
    assert_eq!(pairs[0].answers[0], Text::Plain(best.to_owned()));
    let scores = pairs[0].scores.unwrap();
    assert!((pairs[0].strength - (scores[0] - scores[1]) / 0.5).abs() < 1e-9);

    let mut judge = folder
        .command(&[
            "score", "--reward", reward, "--data", "-", "--device", "cpu", "--chat", "raw",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let answer = |text: &str| json!({"prompt": "Two and two", "response": text});
    let question = json!({"id": 7, "first": answer(" make four"), "second": answer(" make five")});
    let mut stdin = judge.stdin.take().unwrap();
    writeln!(stdin, "{question}").unwrap();
    drop(stdin);
    let answered = Ran::of(judge.wait_with_output().unwrap()).done().json();
    let winner = if plain[3] > plain[4] {
        "first"
    } else {
        "second"
    };
    assert_eq!(answered, json!({"id": 7, "winner": winner}));
}

#[test]
fn a_language_model_judges_by_the_letter_that_it_would_reply() {
    let folder = Folder::new();
    let base = golden("text/model");
    let model = LanguageModel::open(&base, Device::Cpu, Kind::Float, Kind::Float).unwrap();
    let tokenizer = TextTokenizer::open(&base, model.config().vocab_size).unwrap();
    let letter = |letter: &str| tokenizer.encode(letter, false).unwrap()[0];
    let odds = |first: &str, second: &str| {
        let question = format!(
            "Which of two answers to a request is better?\n\nRequest:\nTwo and two\n\nAnswer A:\n{first}\n\nAnswer \
             B:\n{second}\n\nReply with the letter of the better answer alone."
        );
        let ids =
            tokenizer.chat_prompt(&[json!({"role": "user", "content": question})], &Map::new());
        let ids = Tensor::from_slice(&ids.unwrap()).unsqueeze(0);
        let logits = tch::no_grad(|| model.logits(&model.forward(&ids, None, None).select(1, -1)));
        let of = |reply: i64| logits.double_value(&[0, reply]);
        of(letter("A")) - of(letter("B"))
    };
    let answers = ["four", "five hundred and a half", "?"];
    let mut questions = Vec::new();
    let mut expected = Vec::new();
    for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 0)] {
        let answer = |place: usize| json!({"prompt": "Two and two", "response": answers[place]});
        let id = questions.len();
        questions.push(json!({"id": id, "first": answer(one), "second": answer(other)}));
        let winner = ["second", "first"][usize::from(odds(answers[one], answers[other]) > 0.0)];
        expected.push(json!({"id": id, "winner": winner}));
    }
    let ask = |model: &str| {
        let flags = ["score", "--reward", model, "--data", "-", "--device", "cpu"];
        let mut command = folder.command(&flags);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut judge = command.spawn().unwrap();
        let mut stdin = judge.stdin.take().unwrap();
        for question in &questions {
            writeln!(stdin, "{question}").unwrap();
        }
        drop(stdin);
        Ran::of(judge.wait_with_output().unwrap())
    };
    let answered = ask(base.to_str().unwrap()).done().stdout;
    let answered: Vec<Value> = answered
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answered, expected);
}

/// A copy of a golden reward model, in which files may be kept.
fn copied(folder: &Folder, model: &str) -> PathBuf {
    let copy = folder.path(model);
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(golden(&format!("reward/{model}"))).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            fs::create_dir_all(copy.join(entry.file_name())).unwrap();
            for inner in fs::read_dir(entry.path()).unwrap() {
                let inner = inner.unwrap();
                fs::copy(
                    inner.path(),
                    copy.join(entry.file_name()).join(inner.file_name()),
                )
                .unwrap();
            }
        } else {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    }
    copy
}

/// Runs a verb with reference values of the answers in `base.jsonl`, by the model in `scalar`.
fn with_references(folder: &Folder, verb: &[&str], reference: &str) -> Ran {
    let flags = [
        "--reward",
        "scalar",
        "--device",
        "cpu",
        "--transform",
        "log-sigmoid",
        "--chat",
        "raw",
    ];
    let more = ["--reference", reference, "--reference-data", "base.jsonl"];
    folder.binary(&[verb, &flags, &more].concat())
}

/// A number of each answer of `score --json`.
fn values(scores: &Value, name: &str) -> Vec<f64> {
    let answers = scores["answers"].as_array().unwrap().iter();
    answers.map(|row| row[name].as_f64().unwrap()).collect()
}

/// Answers of an untuned model, and one to each of its prompts to be judged.
fn write_references(folder: &Folder) -> Vec<Value> {
    let base = vec![
        json!({"prompt": "Say hi", "responses": ["Oh", "Hey", "Yes", "So"]}),
        json!({"prompt": "Two and two", "responses": [" are", " is"]}),
    ];
    folder.lines("base.jsonl", &base);
    let own = [
        json!({"prompt": "Two and two", "completion": " make four"}),
        json!({"prompt": "Say hi", "completion": "Hi!"}),
    ];
    folder.lines("own.jsonl", &own);
    base
}

const SCORE: [&str; 4] = ["score", "--data", "own.jsonl", "--json"];

#[test]
fn a_single_answer_is_compared_with_those_of_the_untuned_model() {
    let folder = Folder::new();
    copied(&folder, "scalar");
    let base = write_references(&folder);
    let scores = with_references(&folder, &SCORE, "mean").done().json();
    let plain = values(
        &folder.score("scalar", &folder.path("base.jsonl")),
        "reward",
    );
    // Fewer than eight answers: towards the mean of all of them.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let level = |values: &[f64]| {
        let share = values.len() as f64 / 8.0;
        share * mean(values) + (1.0 - share) * mean(&plain)
    };
    let levels = [level(&plain[4..]), level(&plain[..4])];
    let pairs = values(&scores, "reward")
        .into_iter()
        .zip(values(&scores, "transformed"));
    for ((reward, value), level) in pairs.zip(levels) {
        let expected = -(1.0 + (level - reward).exp()).ln();
        assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
    }

    folder.lines("base.jsonl", &base[..1]);
    with_references(&folder, &SCORE, "mean").refused("`base.jsonl` has no answer to this prompt");
    let flags = [
        "score",
        "--data",
        "own.jsonl",
        "--device",
        "cpu",
        "--transform",
        "log-sigmoid",
    ];
    let with = |more: &[&str]| folder.binary(&[&flags[..], more].concat());
    with(&["--reward", "scalar", "--reference", "canonical"])
        .refused("`--reference canonical` needs answers to texts");
    copied(&folder, "general");
    folder.lines("own.jsonl", &base);
    with(&["--reward", "general", "--reference-data", "base.jsonl"])
        .refused("a general preference model gives no rewards");
}

#[test]
fn rewards_of_reference_answers_are_computed_once() {
    let folder = Folder::new();
    let model = copied(&folder, "scalar");
    let base = write_references(&folder);
    let says = |verb: &[&str], reference: &str, message: &str| {
        let ran = with_references(&folder, verb, reference).done();
        assert!(ran.stderr.contains(message), "{}", ran.stderr);
    };
    says(&SCORE, "mean", "2 records, 2 scored, 0 kept");
    // Another choice takes the same rewards, `label` too; other answers do not.
    says(&SCORE, "quantile:0.5", "2 records, 0 scored, 2 kept");
    says(&SCORE, "canonical", "0 scored");
    let lists = [json!({"prompt": "Say hi", "responses": ["Hi!", "No", "Hello there"]})];
    folder.lines("lists.jsonl", &lists);
    let label = ["label", "--data", "lists.jsonl", "--out", "labelled.jsonl"];
    says(&label, "mean", "0 scored, 2 kept");
    let more = json!({"prompt": "Two and two", "responses": [" are", " was"]});
    folder.lines("base.jsonl", &[base[0].clone(), more]);
    says(&SCORE, "mean", "1 scored, 1 kept");
    // Another state of the model knows nothing of these.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    says(&SCORE, "mean", "2 scored, 0 kept");
    assert_eq!(fs::read_dir(model.join("references")).unwrap().count(), 2);
}

#[test]
fn labels_obey_their_flags() {
    let folder = Folder::new();
    let lists: Vec<Value> = (0..20)
        .map(|number| json!({"prompt": format!("Say {number}"), "responses": ["Hi!", "No", "Hello there"]}))
        .collect();
    folder.lines("lists.jsonl", &lists);
    let label = |model: &str, more: &[&str]| {
        let model = golden(&format!("reward/{model}"));
        let flags = [
            "label",
            "--reward",
            model.to_str().unwrap(),
            "--data",
            "lists.jsonl",
            "--device",
            "cpu",
            "--out",
            "pairs.jsonl",
            "--chat",
            "raw",
        ];
        folder.binary(&[&flags[..], more].concat())
    };
    label("scalar", &[]).done();
    assert_eq!(folder.rows("pairs.jsonl").len(), 20);
    let all = label("scalar", &["--pairs", "all", "--json"]).done().json();
    assert_eq!((&all["pairs"], &all["prompts"]), (&json!(60), &json!(20)));
    assert!(all["mean_probability"].as_f64().unwrap() > 0.5);
    let soft = folder.rows("pairs.jsonl");
    assert!(
        soft.iter()
            .all(|row| row["chosen_prob"].as_f64().unwrap() > 0.5)
    );
    let drawn = |seed: &str| {
        let flags = ["--pairs", "all", "--labels", "sampled", "--seed", seed];
        label("scalar", &flags).done();
        folder.rows("pairs.jsonl")
    };
    let (one, again, other) = (drawn("1"), drawn("1"), drawn("2"));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let turned = one
        .iter()
        .filter(|row| row["chosen_prob"].as_f64().unwrap() < 0.5)
        .count();
    assert!((5..=55).contains(&turned), "{turned} of 60 turned");
    for (soft, drawn) in soft.iter().zip(&one) {
        let same = soft["chosen"] == drawn["chosen"];
        let (chosen, rejected) = if same {
            ("chosen", "rejected")
        } else {
            ("rejected", "chosen")
        };
        assert_eq!(
            (&soft["chosen"], &soft["rejected"]),
            (&drawn[chosen], &drawn[rejected])
        );
    }
    label("scalar", &["--pairs", "turns"]).refused("`--pairs turns` is for photos");

    // A preference model's probability of a pair is its own, not that of two means.
    label("general", &["--pairs", "all"]).done();
    let pairs = folder.rows("pairs.jsonl");
    let two = json!({"prompt": "Say 0", "responses": [pairs[0]["chosen"], pairs[0]["rejected"]]});
    folder.lines("two.jsonl", &[two]);
    let scores = folder.score(
        golden("reward/general").to_str().unwrap(),
        &folder.path("two.jsonl"),
    );
    let odds = scores["answers"][0]["preference"].as_f64().unwrap();
    let probability = pairs[0]["chosen_prob"].as_f64().unwrap();
    assert!(
        (probability - 1.0 / (1.0 + (-odds).exp())).abs() < 1e-5,
        "{probability} {odds}"
    );
}

#[test]
fn wrong_input_is_named() {
    let folder = Folder::new();
    let bt = "task = \"bradley_terry\"";
    for (model, more, message) in [
        (
            bt,
            &["data.embeddings=e.safetensors"][..],
            "exclude each other",
        ),
        (
            "task = \"ideal_point\"",
            &[],
            "reads `data.embeddings`, not texts",
        ),
        (bt, &["validation.every=5"], "nothing is held out"),
        (bt, &["data.max_length=2"], "every row is held out"),
        (
            bt,
            &["data.max_length=1"],
            "`data.max_length` must be at least 2",
        ),
        (bt, &["model.base=nowhere"], "nowhere"),
        (
            "task = \"bradley_terry\"\nstart_from = \"x\"\nextrapolate = [2.0]",
            &["adapter.kind=lora", "validation.every=5"],
            "`adapter.kind = \"full\"`",
        ),
        (
            "task = \"regression\"",
            &[],
            "column `completion` is missing",
        ),
    ] {
        folder
            .train("bad", model, "text/pairs", more)
            .refused(message);
    }
    let base = golden("text/model");
    let start = format!("task = \"bradley_terry\"\nstart_from = {}", quoted(&base));
    folder
        .train("start", &start, "text/pairs", &[])
        .refused("without a reward head");
    let data = golden("text/pairs.jsonl");
    let (base, data) = (base.to_str().unwrap(), data.to_str().unwrap());
    folder
        .binary(&["score", "--reward", base, "--data", data])
        .refused("no reward model of texts");
    folder
        .binary(&["score", "--data", data])
        .refused("--reward");
    fs::write(
        folder.path("one.jsonl"),
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n",
    )
    .unwrap();
    let general = golden("reward/general");
    folder
        .binary(&[
            "score",
            "--reward",
            general.to_str().unwrap(),
            "--data",
            "one.jsonl",
        ])
        .refused("there is only one");
    let turns = json!({"prompt": "a\n<extra_id_1>Bot\nb", "response_1": "x", "response_2": "y", "preference_strength": 1});
    fs::write(folder.path("turns.jsonl"), turns.to_string()).unwrap();
    let train = format!("data.train={}", folder.path("turns.jsonl").display());
    folder
        .train("turns", bt, "text/pairs", &[&train])
        .refused("neither the user's nor the assistant's");
}

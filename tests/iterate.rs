//! Rounds of sampling, scoring and training through the binary: what they learn, going on after a kill, the judges, bad
//! input.

use std::fs;
use std::path::{Path, PathBuf};

use preftune::rewards::comparable::{Choice, of_answers};
use preftune::rewards::transform::{Reference, Transform};
use serde_json::{Value, json};

use crate::command::{self, Ran, own_folder, quoted};
use crate::support::golden;

own_folder!();

impl Folder {
    pub fn new() -> Self {
        let folder = Self(command::Folder::new());
        let prompts: String = ["Say", "Sing a", "The sky", "Water", "Two", "Hi", "So", "Go"]
            .iter()
            .map(|prompt| serde_json::json!({"prompt": prompt}).to_string() + "\n")
            .collect();
        fs::write(folder.path("prompts.jsonl"), prompts).unwrap();
        folder
    }

    pub fn config(&self, run: &str, scorer: &str, objective: &str) -> String {
        let name = format!("{run}.toml");
        let model = toml::Value::from(golden("text/model").to_str().unwrap()).to_string();
        let config = format!(
            "[run]\noutput = \"{run}\"\ndevice = \"cpu\"\n[model]\nbase = {model}\n\
             [data]\nprompts = \"prompts.jsonl\"\nvalidation_share = 0.3\n\
             [rounds]\ncount = 2\nepochs = 2\n[generate]\nsamples = 4\nmax_tokens = 6\nbatch = 8\nraw = true\n\
             [scorer]\n{scorer}\n[objective]\n{objective}\n[adapter]\ntargets = \"all-linear\"\n\
             [train]\nbatch = 2\nlearning_rate = 1e-2\n[checkpoint]\nevery = 1\n"
        );
        fs::write(self.path(&name), config).unwrap();
        name
    }

    pub fn iterate(&self, config: &str, more: &[&str]) -> Ran {
        self.configured("iterate", config, more)
    }
}

/// Leaves the first bytes of a file, as a kill does.
pub fn cut(folder: &Path, file: &str, bytes: usize) {
    let path = folder.join(file);
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..bytes.min(text.len())]).unwrap();
}

pub fn remove(path: PathBuf) {
    if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        fs::remove_file(path).unwrap();
    }
}

pub const LENGTH: &str = "kind = \"length\"\ntarget = 3";

#[test]
fn prompts_of_another_column_are_read_where_it_is_named() {
    let folder = Folder::new();
    let rows: Vec<Value> = ["Say", "Sing a", "The sky", "Water"]
        .iter()
        .map(|prompt| json!({"ask": prompt}))
        .collect();
    folder.lines("prompts.jsonl", &rows);
    let config = folder.config("run", LENGTH, "kind = \"dpo\"");
    let ran = folder.iterate(&config, &["rounds.count=1"]);
    ran.refused("data.columns = { prompt = \"question\" }");
    folder
        .iterate(&config, &["rounds.count=1", "data.columns.prompt=ask"])
        .done();
    let answers = folder.rows("run/round-1/answers.jsonl");
    assert!(!answers.is_empty());
}

#[test]
fn a_kill_at_any_time_changes_nothing() {
    let folder = Folder::new();
    let objective = "kind = \"sppo\"\nbeta = 0.1";
    let config = folder.config("whole", LENGTH, objective);
    let whole = folder.iterate(&config, &[]).done();
    assert!(whole.stdout.contains("win_rate"), "{}", whole.stdout);
    let metrics = folder.rows("whole/metrics.jsonl");
    assert_eq!(metrics.len(), 3);
    assert_eq!(metrics[0]["kl"], 0.0);
    assert_eq!(metrics[0]["win_rate"], 0.5);
    assert!(metrics[2]["kl"].as_f64().unwrap() > 0.0, "{metrics:?}");
    let files = [
        "round-1/answers.jsonl",
        "round-1/scores.jsonl",
        "round-1/records.jsonl",
        "round-2/records.jsonl",
        "round-2/model/model.safetensors",
        "round-2/validation.jsonl",
        "metrics.jsonl",
    ];
    // As kills leave it: in the middle of answers, of scores, of training, before the merged model, in the last phase.
    for (kill, phase) in ["answers", "scores", "train", "model", "judged"]
        .iter()
        .enumerate()
    {
        let name = format!("killed{kill}");
        let config = folder.config(&name, LENGTH, objective);
        folder.iterate(&config, &[]).done();
        let run = folder.path(&name);
        let round = run.join("round-1");
        remove(run.join("round-2"));
        remove(run.join("metrics.jsonl"));
        remove(round.join("metrics.json"));
        remove(round.join("validation.jsonl"));
        match *phase {
            "judged" => cut(&round, "judged.jsonl", 30),
            "model" => {
                remove(round.join("judged.jsonl"));
                remove(round.join("model"));
            }
            "train" => {
                remove(round.join("judged.jsonl"));
                remove(round.join("model"));
                let checkpoints = round.join("train/checkpoints");
                let mut steps: Vec<PathBuf> = fs::read_dir(&checkpoints)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .collect();
                steps.sort();
                remove(steps.pop().unwrap());
                let manifest = round.join("train/manifest.json");
                let text = fs::read_to_string(&manifest).unwrap();
                fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
            }
            phase => {
                for file in ["judged.jsonl", "records.jsonl", "model", "train"] {
                    remove(round.join(file));
                }
                if phase == "answers" {
                    remove(round.join("scores.jsonl"));
                    cut(&round, "answers.jsonl", 200);
                } else {
                    cut(&round, "scores.jsonl", 100);
                }
            }
        }
        folder.iterate(&config, &["--resume"]).done();
        for file in files {
            let read = |run: &str| fs::read(folder.path(run).join(file)).unwrap();
            assert_eq!(read("whole"), read(&name), "{phase}: {file}");
        }
    }
    // The folder stands for its last policy.
    let written = folder.binary(&[
        "generate",
        "--model",
        "whole",
        "--prompt",
        "Say",
        "--max-tokens",
        "4",
        "--device",
        "cpu",
    ]);
    written.done();
    // Finished rounds are not made again.
    let again = folder.iterate(&config, &["--resume"]).done();
    assert_eq!(again.stdout, whole.stdout);
    folder
        .iterate(&config, &[])
        .refused("holds a run of this configuration already");
    folder
        .iterate(&config, &["generate.samples=5", "--resume"])
        .refused("`generate.samples` is 4 there and 5 here");
}

#[test]
fn every_kind_of_objective_gets_its_records() {
    let folder = Folder::new();
    for (kind, keys) in [
        ("inpo", "chosen rejected"),
        ("gpo", "chosen_score rejected_score"),
        ("brain", "responses scores"),
        ("pro", "responses scores"),
        ("kto", "completion label"),
        ("sft", "completion"),
    ] {
        let config = folder.config(kind, LENGTH, &format!("kind = \"{kind}\""));
        folder.iterate(&config, &["train.steps=1"]).done();
        let records = folder.rows(&format!("{kind}/round-2/records.jsonl"));
        for key in keys.split(' ') {
            assert!(records[0].get(key).is_some(), "{kind}: {}", records[0]);
        }
        let text = fs::read_to_string(folder.path(&format!("{kind}/round-2/train/config.toml")));
        let both = ["inpo", "brain"].contains(&kind);
        // Two of them keep the first policy as a reference beside the policy of the round before.
        let reference = text.unwrap().contains("[reference]\nmodel = ");
        assert_eq!(reference, both, "{kind}");
    }
}

#[test]
fn prompts_in_words_are_learnt_from_as_they_were_asked() {
    let folder = Folder::new();
    for (raw, run) in [(true, "raw"), (false, "chat")] {
        let config = folder.config(run, LENGTH, "kind = \"dpo\"");
        let raw_or_not = format!("generate.raw={raw}");
        let more = ["rounds.count=1", "train.steps=1", &raw_or_not];
        folder.iterate(&config, &more).done();
        for record in folder.rows(&format!("{run}/round-1/records.jsonl")) {
            // The model has a chat template: it was asked by a message, and answers by one.
            let message = |column: &str, role: &str| record[column][0]["role"] == role;
            let chat = message("prompt", "user") && message("chosen", "assistant");
            assert_eq!(chat, !raw, "{record}");
            assert_eq!(record["prompt"].is_string(), raw, "{record}");
        }
    }
}

#[test]
fn commands_judge_by_rewards_and_by_preferences() {
    let folder = Folder::new();
    // More letters "e"; counts what it was asked.
    let judge = "import json, sys\nfor line in sys.stdin:\n    row = json.loads(line)\n    \
                 count = lambda key: row[key].count('e')\n    \
                 answer = {'reward': count('response')} if 'response' in row else \\\n        \
                 {'winner': ['tie', 'first', 'second'][(count('first') > count('second')) - (count('first') < count('second'))]}\n    \
                 print(json.dumps(answer | {'id': row['id']}), flush=True)\n";
    fs::write(folder.path("judge.py"), judge).unwrap();
    let scorer =
        |kind: &str| format!("kind = \"{kind}\"\ncommand = \"python3 judge.py\"\npatience = 30");
    let objective = "kind = \"dpo\"";
    let config = folder.config("rewards", &scorer("rewards"), objective);
    folder
        .iterate(&config, &["rounds.count=1", "generate.samples=8"])
        .done();
    let scores = folder.rows("rewards/round-1/scores.jsonl");
    assert_eq!(scores[0]["rewards"].as_array().unwrap().len(), 8);
    let config = folder.config("compared", &scorer("preferences"), objective);
    folder
        .iterate(&config, &["rounds.count=1", "generate.samples=8"])
        .done();
    let scores = folder.rows("compared/round-1/scores.jsonl");
    let rows = &scores[0]["preferences"];
    for one in 0..8 {
        for other in 0..8 {
            let sum = rows[one][other].as_f64().unwrap() + rows[other][one].as_f64().unwrap();
            assert!((sum - 1.0).abs() < 1e-12, "{rows}");
        }
    }
    let metrics = folder.rows("compared/metrics.jsonl");
    assert!(metrics[1].get("reward").is_none() && metrics[1]["win_rate"].is_f64());
    // The same answers by both: the chosen ones are as good.
    let letters = |run: &str| -> Vec<usize> {
        folder
            .rows(&format!("{run}/round-1/records.jsonl"))
            .iter()
            .map(|row| row["chosen"].as_str().unwrap().matches('e').count())
            .collect()
    };
    assert_eq!(letters("rewards"), letters("compared"));

    // One that goes by the place: every answer is as good as every other, and the message says why.
    let first = "kind = \"preferences\"\ncommand = \"while read line; do echo '{\\\"winner\\\": \\\"first\\\"}'; done\"";
    let config = folder.config("first", first, objective);
    let ran = folder.iterate(&config, &[]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("the judge's answer turned with the order in"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("(100.0 %)"), "{}", ran.stderr);

    let broken = "kind = \"rewards\"\ncommand = \"while read line; do echo '{}'; done\"";
    let config = folder.config("broken", broken, objective);
    folder.iterate(&config, &[]).refused("`reward` is missing");
}

#[cfg(unix)]
#[test]
fn the_first_signal_ends_the_wait_for_a_silent_scorer() {
    let folder = Folder::new();
    let silent =
        "kind = \"rewards\"\ncommand = \"read line; touch waits; exec sleep 600\"\npatience = 600";
    let config = folder.config("silent", silent, "kind = \"dpo\"");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_preftune"))
        .current_dir(folder.path("."))
        .args(["iterate", &config])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !folder.path("waits").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::yield_now();
    }
    let sent = std::process::Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("silent/round-0"), "{said}");
    let manifest = fs::read_to_string(folder.path("silent/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["status"], "interrupted");
}

#[test]
fn bad_rounds_are_refused() {
    let folder = Folder::new();
    let config = folder.config("bad", LENGTH, "kind = \"dpo\"");
    let refused = |more: &[&str], message: &str| folder.iterate(&config, more).refused(message);
    refused(
        &["generate.samples=1"],
        "`generate.samples` must be between 2",
    );
    refused(
        &["generate.temperature=0.0"],
        "`generate.temperature` must be above 0",
    );
    refused(
        &["scorer.kind=words"],
        "`scorer.good` and `scorer.bad` are missing",
    );
    refused(&["scorer.kind=preferences"], "`scorer.command` is missing");
    refused(&["rounds.counts=1"], "did you mean `rounds.count`");
    refused(&["objective.kind=dpoo"], "did you mean `dpo`");
    refused(&["data.prompts=nowhere.jsonl"], "nowhere.jsonl");
    refused(
        &["objective.kind=brain", "generate.top_p=0.9"],
        "`brain` weighs answers by their log-probs",
    );
    fs::write(folder.path("empty.jsonl"), "{\"prompt\": \"\"}\n").unwrap();
    refused(&["data.prompts=empty.jsonl"], "the prompt is empty");
    // Nothing to tell apart: every answer has the same reward.
    let config = folder.config(
        "same",
        "kind = \"words\"\ngood = [\"zzzzzz\"]",
        "kind = \"dpo\"",
    );
    let ran = folder.iterate(&config, &[]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("no prompt has answers that the scorer tells apart"),
        "{}",
        ran.stderr
    );
}

#[test]
fn reward_and_preference_models_judge() {
    let folder = Folder::new();
    let scorer = |model: &str| {
        let model = quoted(&golden(&format!("reward/{model}")));
        format!("kind = \"model\"\nmodel = {model}")
    };
    let config = folder.config("scalar", &scorer("scalar"), "kind = \"sppo\"\nbeta = 0.1");
    folder.iterate(&config, &["rounds.count=1"]).done();
    let answers = folder.rows("scalar/round-1/answers.jsonl");
    let scores = folder.rows("scalar/round-1/scores.jsonl");
    // As `score` finds them.
    let asked: Vec<Value> = answers
        .iter()
        .map(|row| {
            let line = row["line"].as_u64().unwrap() as usize;
            json!({"prompt": folder.rows("prompts.jsonl")[line - 1]["prompt"], "responses": row["responses"]})
        })
        .collect();
    folder.lines("asked.jsonl", &asked);
    let reward = golden("reward/scalar");
    let flags = ["--data", "asked.jsonl", "--json", "--device", "cpu"];
    let scored = folder
        .binary(&[&["score", "--reward", reward.to_str().unwrap()], &flags[..]].concat())
        .done()
        .json();
    let own = scores
        .iter()
        .flat_map(|row| row["rewards"].as_array().unwrap());
    for (own, by_score) in own.zip(scored["answers"].as_array().unwrap()) {
        let (own, by_score) = (own.as_f64().unwrap(), by_score["reward"].as_f64().unwrap());
        assert!((own - by_score).abs() < 1e-6, "{own}, not {by_score}");
    }
    assert!(folder.manifest("scalar")["inputs"]["scorer"].is_string());

    let config = folder.config("general", &scorer("general"), "kind = \"gpo\"");
    folder.iterate(&config, &["rounds.count=1"]).done();
    let rows = &folder.rows("general/round-1/scores.jsonl")[0]["preferences"];
    for one in 0..4 {
        for other in 0..4 {
            let sum = rows[one][other].as_f64().unwrap() + rows[other][one].as_f64().unwrap();
            assert!((sum - 1.0).abs() < 1e-6, "{rows}");
        }
    }
    let metrics = folder.rows("general/metrics.jsonl");
    assert!(metrics[1].get("reward").is_none() && metrics[1]["win_rate"].is_f64());

    let refused = |scorer: &str, message: &str| {
        let config = folder.config("refused", scorer, "kind = \"dpo\"");
        folder.iterate(&config, &[]).refused(message);
        let _ = fs::remove_dir_all(folder.path("refused"));
    };
    refused("kind = \"model\"", "`scorer.model` is missing");
    let named = |more: &str| format!("{}\n{more}", scorer("rated"));
    refused(
        &named("output = \"charm\""),
        "the scorer has no output `charm`",
    );
    refused(
        &named("transform = \"logsigmoid\""),
        "`scorer.transform = \"logsigmoid\"`",
    );
    let canonical = "transform = \"log-sigmoid\"\nreference = \"canonical\"";
    refused(
        &named(canonical),
        "rounds know no answers that are acceptable",
    );
    let general = format!("{}\ntransform = \"log-sigmoid\"", scorer("general"));
    refused(&general, "a general preference model gives none");
    refused(
        &format!("{LENGTH}\ntransform = \"and\""),
        "only `kind = \"model\"` gives them",
    );
    let none = format!(
        "kind = \"model\"\nmodel = {}",
        quoted(&golden("text/model"))
    );
    refused(&none, "no reward model of texts");
}

#[test]
fn rewards_are_compared_with_those_of_the_first_policys_answers() {
    let folder = Folder::new();
    let model = quoted(&golden("reward/rated"));
    let rewards = |file: &str, key: &str| -> Vec<(u64, Vec<Vec<f64>>)> {
        let rows = folder.rows(file);
        rows.iter()
            .map(|row| {
                let rewards = serde_json::from_value(row[key].clone()).unwrap();
                (row["line"].as_u64().unwrap(), rewards)
            })
            .collect()
    };
    let (tau, reference) = (0.5, Reference::Mean);
    for (choice, name) in [
        (Choice::One(Transform::LogSigmoid), "log-sigmoid"),
        (Choice::And, "and"),
    ] {
        let scorer = format!(
            "kind = \"model\"\nmodel = {model}\ntransform = \"{name}\"\nreference = \"mean\"\ntau = {tau}"
        );
        let config = folder.config(name, &scorer, "kind = \"brain\"");
        // Other prompts in the second round than in the first: the first policy answers these too.
        folder
            .iterate(&config, &["rounds.prompts=3", "train.steps=1"])
            .done();
        let mut known: std::collections::BTreeMap<u64, Vec<Vec<f64>>> =
            rewards(&format!("{name}/round-1/scores.jsonl"), "all")
                .into_iter()
                .collect();
        for round in 1..=2 {
            let round = format!("{name}/round-{round}");
            let extra = format!("{round}/reference_scores.jsonl");
            if folder.path(&extra).exists() {
                known.extend(rewards(&extra, "all"));
            }
            let own = rewards(&format!("{round}/scores.jsonl"), "all");
            let baseline: Vec<_> = own.iter().map(|(line, _)| known[line].clone()).collect();
            let own: Vec<_> = own.into_iter().map(|(_, rewards)| rewards).collect();
            let expected = of_answers(choice, reference, &own, Some(&baseline), tau).unwrap();
            let records = folder.rows(&format!("{round}/records.jsonl"));
            assert_eq!(records.len(), 3);
            for (record, expected) in records.iter().zip(&expected) {
                let scores = record["scores"].as_array().unwrap();
                for (score, expected) in scores.iter().zip(expected) {
                    assert!(*expected < 0.0 && (score.as_f64().unwrap() - expected).abs() < 1e-9);
                }
            }
        }
        assert!(
            folder
                .path(&format!("{name}/round-2/reference_scores.jsonl"))
                .exists()
        );
        assert!(
            !folder
                .path(&format!("{name}/round-1/reference_scores.jsonl"))
                .exists()
        );
        // What is learnt from changes; what is reported is the reward.
        let first = folder.rows(&format!("{name}/metrics.jsonl"));
        assert!(first[1]["reward"].is_f64());
    }
}

//! Text runs that are killed, and data and settings that cannot be learnt from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::Folder;
use crate::support::golden;

struct Work {
    folder: Folder,
    model: PathBuf,
}

impl Work {
    fn new() -> Self {
        Self {
            folder: Folder::new(),
            model: golden("text/model"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    fn config(&self, run: &str, data: &Path, more: &str) -> PathBuf {
        let path = self.path(&format!("{run}.toml"));
        let text = |path: &Path| json!(path.to_str().unwrap());
        let config = format!(
            "[run]\noutput = {}\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = {}\n{more}",
            text(&self.path(run)),
            text(&self.model),
            text(data)
        );
        fs::write(&path, config).unwrap();
        path
    }

    fn train(config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preftune"));
        command
            .args(["train", config.to_str().unwrap(), "--quiet", "--resume"])
            .stdout(Stdio::null());
        command
    }

    /// What training on these lines is refused with.
    fn refusal(&self, lines: &str, more: &str) -> String {
        let data = self.path("data.jsonl");
        fs::write(&data, lines).unwrap();
        let more = format!(
            "{more}\n[train]\nsteps = 1\nbatch = 1\n[validation]\nevery = 0\npatience = 0\n"
        );
        let Output { status, stderr, .. } = Self::train(&self.config("refused", &data, &more))
            .output()
            .unwrap();
        let message = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{message}");
        assert!(!self.path("refused").join("checkpoints").exists());
        message
    }
}

fn checkpoints(run: &Path) -> usize {
    fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count)
}

/// Steps of the rows of metrics.
fn steps(run: &Path) -> Vec<u64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let rows = rows.filter(|row| row["kind"] == "train");
    rows.map(|row| row["step"].as_u64().unwrap()).collect()
}

#[test]
fn ten_kills_leave_a_text_run_that_ends_as_an_undisturbed_one() {
    let work = Work::new();
    let data = golden("text/chats.jsonl");
    // Batches of one, so that the order of visits counts; AdamW's averages and the best weights have to come back too.
    let more = "validation_share = 0.3\n[adapter]\nkind = \"lora\"\n[objective]\nkind = \"dpo\"\n\
                [train]\nsteps = 150\nbatch = 1\naccumulation = 2\nlearning_rate = 2e-3\nlog_every = 5\n\
                [validation]\nevery = 10\npatience = 0\n[checkpoint]\nevery = 5\nkeep = 100\n";
    let whole = work.config("whole", &data, more);
    assert!(Work::train(&whole).status().unwrap().success());
    let parts = work.config("parts", &data, more);
    let run = work.path("parts");
    for kill in 0..10_u64 {
        let mut child = Work::train(&parts).stderr(Stdio::null()).spawn().unwrap();
        let before = checkpoints(&run);
        // The first kills fall into the start, the others between and into checkpoints.
        let mut waited = 0;
        while kill > 1 && checkpoints(&run) <= before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
            waited += 1;
            assert!(waited < 60_000, "no checkpoint came");
        }
        sleep(Duration::from_millis(if kill < 2 {
            40 * (kill + 1)
        } else {
            7 * kill % 23
        }));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
    }
    assert!(checkpoints(&run) < 30, "the run ended before the last kill");
    assert!(Work::train(&parts).status().unwrap().success());
    for file in [
        "checkpoints/step-000150/weights.safetensors",
        "best/adapter_model.safetensors",
    ] {
        let read = |run: &str| fs::read(work.path(run).join(file)).unwrap();
        assert!(read("whole") == read("parts"), "{file} differs");
    }
    assert_eq!(steps(&work.path("whole")), steps(&run));
}

#[test]
fn every_fault_of_text_data_is_named_with_its_line() {
    let work = Work::new();
    let good = "{\"prompt\": \"Say\", \"chosen\": \" yes\", \"rejected\": \" no\"}\n";
    let after = |line: &str| good.repeat(6) + line + "\n";
    let dpo = "[objective]\nkind = \"dpo\"";
    for (lines, more, wanted) in [
        (after("{\"prompt\": \"Say\", \"chosen\": \" a\""), dpo, &["line 7", "not a JSON object"][..]),
        (after("{\"prompt\": \"Say\", \"chosen\": \" a\"}"), dpo, &["line 7", "column `rejected` is missing"]),
        (
            after("{\"prompt\": \"Say\", \"chosen\": \" \", \"rejected\": \" b\"}"),
            dpo,
            &["line 7", "the chosen answer is empty"],
        ),
        (
            after("{\"prompt\": \"Say\", \"chosen\": \" a\", \"rejected\": \" a\"}"),
            dpo,
            &["line 7", "identical"],
        ),
        (
            after("{\"prompt\": \"Say\", \"chosen\": \" a\", \"rejected\": \" b\", \"chosen_score\": NaN, \"rejected_score\": 0}"),
            dpo,
            &["line 7", "NaN"],
        ),
        (
            "{\"prompt\": \"Say\", \"responses\": [\" a\", \" b\"]}\n{\"prompt\": \"Say\", \"responses\": [\" a\"]}\n".to_owned(),
            "[objective]\nkind = \"pro\"",
            &["line 2", "a ranking has two or more"],
        ),
        (
            format!("{{\"prompt\": \"{}\", \"chosen\": \" a\", \"rejected\": \" b\"}}\n", "long ".repeat(40)),
            "max_length = 64\n[objective]\nkind = \"dpo\"",
            &["line 1", "its prompt leaves no room for the answer"],
        ),
        (good.to_owned(), "[objective]\nkind = \"rdpo\"\nlabel_smoothing = 0.5", &["label_smoothing"]),
        (good.to_owned(), "[objective]\nkind = \"dpo\"\nbeta = nan", &["objective.beta"]),
    ] {
        let message = work.refusal(&lines, more);
        for part in wanted {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
}

/// A copy of the tiny model with changed files.
fn changed(work: &mut Work, change: impl Fn(&Path)) {
    let copy = work.path("model");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(golden("text/model")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    change(&copy);
    work.model = copy;
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn models_that_do_not_go_with_the_data_are_named() {
    let chat = "{\"prompt\": [{\"role\": \"user\", \"content\": \"Say\"}], \"chosen\": [{\"role\": \"assistant\", \
                \"content\": \"yes\"}], \"rejected\": [{\"role\": \"assistant\", \"content\": \"no\"}]}\n";
    let words = "{\"prompt\": \"Say\", \"chosen\": \" yes\", \"rejected\": \" no\"}\n";
    let template = |folder: &Path, text: Option<&str>| {
        let _ = fs::remove_file(folder.join("chat_template.jinja"));
        edit(&folder.join("tokenizer_config.json"), |settings| {
            settings.as_object_mut().unwrap().remove("chat_template");
            if let Some(text) = text {
                settings["chat_template"] = text.into();
            }
        });
    };
    let mut work = Work::new();
    changed(&mut work, |folder| template(folder, None));
    let message = work.refusal(chat, "");
    assert!(
        message.contains("the model has no chat template"),
        "{message}"
    );
    changed(&mut work, |folder| {
        template(folder, Some("{% for m in messages %}"));
    });
    assert!(work.refusal(chat, "").contains("the chat template, line 1"));
    changed(&mut work, |folder| {
        template(folder, Some("{{ raise_exception('no such role') }}"));
    });
    let message = work.refusal(chat, "");
    assert!(
        message.contains("no such role") && message.contains("line 1"),
        "{message}"
    );
    // A tokenizer with more tokens than the model has vectors.
    changed(&mut work, |folder| {
        edit(&folder.join("config.json"), |config| {
            config["vocab_size"] = 50.into();
        });
    });
    let message = work.refusal(words, "");
    assert!(
        message.contains("the model has 50 token vectors"),
        "{message}"
    );
    assert!(
        message.contains("take the tokenizer that belongs to the model"),
        "{message}"
    );
}

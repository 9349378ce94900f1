//! Tuning language models through the binary: curves against a torch loop, resuming, the reference, bad input.

use std::fs;
use std::path::PathBuf;

use preftune::config::TextDataSection;
use preftune::data::text::{self, Shape};
use preftune::distributed::Peers;
use preftune::eval::calibration::expected_calibration_error;
use preftune::models::lm::LanguageModel;
use preftune::models::lm::tokenizer::TextTokenizer;
use preftune::trainer::text::{Examples, reference_logps, token_logps};
use serde_json::Value;
use tch::{Device, Kind};

use crate::command::{self, Ran, own_folder, quoted};
use crate::support::golden;

own_folder!();

impl Folder {
    pub fn new() -> Self {
        Self(command::Folder::new())
    }

    pub fn config(&self, run: &str, data: &str, objective: &str) -> String {
        let name = format!("{run}.toml");
        let (model, data) = (golden("text/model"), golden(&format!("text/{data}.jsonl")));
        let config = format!(
            "[run]\noutput = \"{run}\"\ndevice = \"cpu\"\n[model]\nbase = {}\n[data]\ntrain = {}\nchat = \"raw\"\n\
             [adapter]\nkind = \"full\"\n[objective]\n{objective}\n\
             [train]\nsteps = 4\nbatch = 4\nlearning_rate = 2e-3\nlog_every = 1\n\
             [validation]\nevery = 0\npatience = 0\n[checkpoint]\nevery = 2\nkeep = 3\n",
            quoted(&model),
            quoted(&data)
        );
        fs::write(self.path(&name), config).unwrap();
        name
    }

    pub fn train(&self, run: &str, data: &str, objective: &str, more: &[&str]) -> Ran {
        let config = self.config(run, data, objective);
        self.configured("train", &config, more)
    }
}

const OBJECTIVES: [(&str, &str, &str); 9] = [
    ("dpo", "chats", "beta = 0.3"),
    ("ipo", "pairs", "tau = 0.5"),
    ("simpo", "pairs", "beta = 2.0\ngamma_beta_ratio = 0.25"),
    ("orpo", "pairs", "lambda = 0.1"),
    ("tdpo2", "pairs", "beta = 0.3\nalpha = 0.5"),
    ("sft", "pairs", ""),
    ("kto", "marked", "beta = 0.3"),
    ("brain", "sampled", "gamma = 0.7"),
    // A sum of two, on pairs that each ask for a margin.
    (
        "margins",
        "margins",
        "kind = [\"dpo\", \"sft\"]\nweights = [1.0, 0.2]\nbeta = 0.3",
    ),
];

#[track_caller]
fn assert_same(what: &str, rows: &[Value], expected: &[Value], tolerance: f64) {
    assert!(rows.len() >= expected.len(), "{what}: {} rows", rows.len());
    for (step, (row, expected)) in rows.iter().zip(expected).enumerate() {
        for (name, value) in expected.as_object().unwrap() {
            if name == "seconds" {
                continue;
            }
            let (Some(actual), Some(value)) = (row[name].as_f64(), value.as_f64()) else {
                continue;
            };
            let off = (actual - value).abs();
            assert!(
                off <= tolerance * value.abs().max(1.0),
                "{what}, step {step}, {name}: {actual}, not {value}"
            );
        }
    }
}

#[test]
fn every_kind_of_objective_trains_as_a_torch_loop_does() {
    let folder = Folder::new();
    let text = fs::read_to_string(golden("text/curves.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    for (kind, data, numbers) in OBJECTIVES {
        let objective = if numbers.starts_with("kind") {
            numbers.to_owned()
        } else {
            format!("kind = \"{kind}\"\n{numbers}")
        };
        let more: &[&str] = match kind {
            "kto" => &["train.batch=8"],
            "brain" => &["train.batch=3"],
            _ => &[],
        };
        folder.train(kind, data, &objective, more).done();
        let rows = folder.steps(kind);
        let expected = golden["curves"][kind].as_array().unwrap();
        assert!(
            expected[0]
                .as_object()
                .unwrap()
                .keys()
                .all(|name| rows[0][name].is_f64()),
            "{}",
            rows[0]
        );
        assert_same(kind, &rows, expected, 1e-4);
        // What was trained loads again.
        let best = folder.path(kind).join("best");
        LanguageModel::open(&best, Device::Cpu, Kind::Float, Kind::Float).unwrap();
    }
}

#[test]
fn the_reference_is_the_same_cached_live_and_with_adapters_off() {
    let folder = Folder::new();
    let objective = "kind = \"dpo\"\nbeta = 0.3";
    folder.train("cached", "pairs", objective, &[]).done();
    folder
        .train("live", "pairs", objective, &["reference.mode=live"])
        .done();
    folder
        .train(
            "split",
            "pairs",
            objective,
            &["train.batch=2", "train.accumulation=2", "data.bucket=false"],
        )
        .done();
    folder
        .train(
            "tape",
            "pairs",
            objective,
            &["train.checkpoint_activations=true"],
        )
        .done();
    let cached = folder.steps("cached");
    for run in ["live", "tape"] {
        assert_same(run, &folder.steps(run), &cached, 1e-4);
    }
    let loss = |run: &str| folder.steps(run)[3]["loss"].as_f64().unwrap();
    assert!((loss("split") - loss("cached")).abs() < 1e-4);
    assert!(folder.path("cached/reference").exists() && !folder.path("live/reference").exists());
    assert!(
        folder.manifest("live")["reference"]
            .as_str()
            .unwrap()
            .contains("frozen copy")
    );

    let lora = ["adapter.kind=lora", "train.learning_rate=0.02"];
    folder.train("lora", "pairs", objective, &lora).done();
    folder
        .train(
            "off",
            "pairs",
            objective,
            &[&lora[..], &["reference.mode=live"]].concat(),
        )
        .done();
    let rows = folder.steps("lora");
    assert_same("adapters off", &folder.steps("off"), &rows, 1e-4);
    assert!(
        rows[3]["rewards/margins"].as_f64().unwrap() > 0.05,
        "{}",
        rows[3]
    );
    // A shared cache is used: what it holds for other weights would be noticed before the first step.
    folder
        .train("first", "pairs", objective, &["reference.cache=shared"])
        .done();
    folder
        .train("second", "pairs", objective, &["reference.cache=shared"])
        .done();
    assert_eq!(fs::read_dir(folder.path("shared")).unwrap().count(), 1);
    let written = folder
        .binary(&[
            "generate",
            "--model",
            "lora",
            "--prompt",
            "Say hi",
            "--max-tokens",
            "5",
            "--json",
            "--device",
            "cpu",
        ])
        .done();
    let texts: Vec<Value> = serde_json::from_str(&written.stdout).unwrap();
    assert!(texts[0]["tokens"].as_u64().unwrap() <= 5);
}

#[test]
fn a_tuned_model_is_judged_on_pairs_beside_its_base() {
    let folder = Folder::new();
    let config = [
        "adapter.kind=lora",
        "train.learning_rate=0.02",
        "train.steps=8",
    ];
    folder
        .train("run", "pairs", "kind = \"dpo\"", &config)
        .done();
    let data = golden("text/pairs.jsonl");
    let data = data.to_str().unwrap();
    let judge = |more: &[&str]| {
        folder.binary(&[&["eval", "text", "run", "--device", "cpu", "--quiet"], more].concat())
    };
    let report = judge(&["--data", data, "--json"]).done().stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    let figure = |name: &str| {
        let figures = report["figures"].as_array().unwrap();
        let found = figures
            .iter()
            .find(|figure| figure["name"] == name)
            .unwrap();
        found["value"].as_f64().unwrap()
    };
    assert!(
        figure("accuracy") > 0.9 && figure("margin (nats)") > 0.5,
        "{report}"
    );
    assert!(figure("KL a token, chosen") > 0.0, "{report}");
    assert!(figure("calibration error") < 0.5, "{report}");
    let shown = judge(&["--data", data]).done().stdout;
    for part in ["4 pairs", "chosen more likely, base"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    judge(&[]).refused("no pairs to judge on");
    // Its own answers, by a scorer: nearer to the chosen answers' kind of length than the base's or not, a share of wins.
    let scorer = "[scorer]\nkind = \"length\"\ntarget = 4\n[generate]\nmax_tokens = 8\nraw = true\nvalidation_samples = 8\n";
    fs::write(folder.path("scorer.toml"), scorer).unwrap();
    let play = |more: &[&str]| {
        let arguments = ["--scorer", "scorer.toml", "--prompts", data, "--json"];
        let report = judge(&[&arguments[..], more].concat()).done().stdout;
        serde_json::from_str::<Value>(&report).unwrap()
    };
    let report = play(&[]);
    assert_eq!(report["protocol"]["prompts"], 4);
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 3);
    assert!(figures.iter().all(|figure| figure["interval"].is_array()));
    // Both are on the run's page, beside the untuned model.
    folder.binary(&["report", "run"]).done();
    let page = fs::read_to_string(folder.path("run/report.html")).unwrap();
    for part in [
        "Answers",
        "Pairs",
        "Win rate",
        "Chosen more likely",
        "KL a token, chosen",
        "95 % bootstrap interval over pairs",
        ">untuned</th>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    // Against itself, from the same seeds, every answer is met by itself.
    let report = play(&["--against", "run"]);
    assert_eq!(report["figures"][0]["value"], 0.5);
    // Judged by a reward model, and by a preference model, which gives no rewards.
    for (model, figures) in [("scalar", 3), ("general", 1)] {
        let model = quoted(&golden(&format!("reward/{model}")));
        let model = format!("scorer.model={model}");
        let report = play(&["--set", "scorer.kind=model", "--set", &model]);
        assert_eq!(report["figures"].as_array().unwrap().len(), figures);
        let wins = report["figures"][0]["value"].as_f64().unwrap();
        assert!(wins > 0.0 && wins < 1.0, "{report}");
    }
    judge(&[
        "--scorer",
        "scorer.toml",
        "--prompts",
        data,
        "--set",
        "scorer.kind=words",
    ])
    .refused("`scorer.good` and `scorer.bad` are missing");
}

#[test]
fn a_language_model_is_trained_from_new_weights() {
    let folder = Folder::new();
    let config = folder.config("lm", "pairs", "kind = \"sft\"");
    let pretrain = |more: &[&str]| {
        let arguments = ["pretrain", &config, "--quiet", "--set", "train.steps=40"];
        folder.binary(&[&arguments[..], more].concat())
    };
    pretrain(&[]).done();
    let rows = folder.steps("lm");
    let loss = |row: &Value| row["loss"].as_f64().unwrap();
    // Before the first step every token is about as likely.
    let model = LanguageModel::open(
        &folder.path("lm/best"),
        Device::Cpu,
        Kind::Float,
        Kind::Float,
    )
    .unwrap();
    let even = (model.config().vocab_size as f64).ln();
    assert!((loss(&rows[0]) - even).abs() < 0.2, "{}", rows[0]);
    assert!(loss(&rows[39]) < even - 1.0, "{}", rows[39]);
    pretrain(&["--set", "adapter.kind=lora", "--set", "run.output=other"])
        .refused("`model.from_scratch` trains all weights");
}

#[test]
fn calibration_errors_are_those_worked_by_hand() {
    // Bins 0.6: sure 0.6 twice, right once; 0.9: sure 0.9 and 0.95, right both.
    let error = expected_calibration_error(&[0.6, 0.4, 0.9, 0.95]);
    assert!((error - (0.2 + 0.15) / 4.0).abs() < 1e-12, "{error}");
    assert!(expected_calibration_error(&[0.5, 0.5]).abs() < 1e-12);
    assert!(expected_calibration_error(&[1.0, 1.0]).abs() < 1e-12);
    assert!(expected_calibration_error(&[]).abs() < 1e-12);
}

#[test]
fn all_other_objectives_start_from_their_value_at_ratio_0() {
    let folder = Folder::new();
    let rows: String = fs::read_to_string(golden("text/pairs.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            for (name, value) in [
                ("chosen_prob", 0.8),
                ("chosen_score", 1.0),
                ("rejected_score", -1.0),
            ] {
                row[name] = value.into();
            }
            row.to_string() + "\n"
        })
        .collect();
    fs::write(folder.path("numbers.jsonl"), rows).unwrap();
    let data = "data.train=numbers.jsonl";
    let ln2 = std::f64::consts::LN_2;
    for (kind, numbers, loss) in [
        ("cdpo", "label_smoothing = 0.2", ln2),
        ("robust", "", ln2),
        ("hinge", "", 1.0),
        ("fdpo_js", "", ln2),
        ("fdpo_forward_kl", "", ln2),
        ("tdpo1", "", ln2),
        ("dno", "", ln2),
        ("sppo", "beta = 0.5", 0.36),
        ("sppo_hard", "beta = 0.5", 1.0),
        ("inpo", "eta = 0.5", 1.0),
        ("gpo", "beta = 0.5", 4.0),
    ] {
        let objective = format!("kind = \"{kind}\"\n{numbers}");
        folder
            .train(kind, "pairs", &objective, &[data, "train.steps=1"])
            .done();
        let found = folder.steps(kind)[0]["loss"].as_f64().unwrap();
        assert!((found - loss).abs() < 1e-4, "{kind}: {found}, not {loss}");
    }
    folder
        .train("asft", "pairs", "kind = \"asft\"", &["train.steps=1"])
        .done();
    fs::write(folder.path("lists.jsonl"),
        "{\"prompt\": \"Say\", \"responses\": [\" a\", \" bc\", \" d\"]}\n{\"prompt\": \"Sing\", \"responses\": [\" la\", \" x\"]}\n").unwrap();
    folder
        .train(
            "pro",
            "pairs",
            "kind = \"pro\"",
            &["data.train=lists.jsonl", "train.batch=2"],
        )
        .done();
    let rows = folder.steps("pro");
    assert!(
        rows[3]["loss"].as_f64() < rows[0]["loss"].as_f64(),
        "{rows:?}"
    );
}

#[test]
fn a_resumed_text_run_is_the_uninterrupted_one() {
    let folder = Folder::new();
    let objective = "kind = \"dpo\"\nnll_weight = 0.1";
    let more = [
        "train.batch=1",
        "adapter.kind=lora",
        "validation.every=2",
        "data.validation_share=0.3",
        "run.seed=3",
    ];
    folder.train("whole", "pairs", objective, &more).done();
    folder.train("parts", "pairs", objective, &more).done();
    let parts = folder.path("parts");
    // As a kill after the checkpoint of step 2 leaves it.
    fs::remove_dir_all(parts.join("checkpoints/step-000004")).unwrap();
    let manifest = parts.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
    folder
        .train(
            "parts",
            "pairs",
            objective,
            &[&more[..], &["--resume"]].concat(),
        )
        .done();
    for file in [
        "checkpoints/step-000004/weights.safetensors",
        "best/adapter_model.safetensors",
    ] {
        let read = |run: &str| fs::read(folder.path(run).join(file)).unwrap();
        assert_eq!(read("whole"), read("parts"), "{file}");
    }
    assert_eq!(folder.steps("whole").len(), folder.steps("parts").len());
    folder
        .train("parts", "pairs", "kind = \"ipo\"", &more)
        .refused("another configuration");
}

#[test]
fn held_out_prompts_are_answered_before_and_after() {
    let folder = Folder::new();
    let more = [
        "train.batch=1",
        "validation.every=2",
        "data.validation_share=0.3",
    ];
    folder.train("run", "pairs", "kind = \"dpo\"", &more).done();
    let answers = |step: u64| folder.rows(&format!("run/samples/step-{step:06}/answers.jsonl"));
    let (before, after) = (answers(0), answers(4));
    assert!(!before.is_empty() && before.len() <= 3, "{before:?}");
    let prompts = |rows: &[serde_json::Value]| {
        rows.iter()
            .map(|row| row["prompt"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(prompts(&before), prompts(&after));
    // Greedily written, as `generate` writes: the untuned model's answers are those of the base.
    let first = before[0]["prompt"].as_str().unwrap();
    let asked = folder
        .binary(&[
            "generate",
            "--model",
            golden("text/model").to_str().unwrap(),
            "--prompt",
            first,
            "--temperature",
            "0",
            "--max-tokens",
            "48",
            "--device",
            "cpu",
            "--raw",
            "--json",
            "--quiet",
        ])
        .done();
    let asked: serde_json::Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!(asked[0]["text"], before[0]["text"]);
    folder
        .binary(&["report", "run", "--out", "report.html"])
        .done();
    let page = fs::read_to_string(folder.path("report.html")).unwrap();
    let best = folder.manifest("run")["best"][0].as_u64().unwrap();
    assert_eq!(
        page.contains(&format!("best weights (step {best})")),
        best > 0
    );
}

#[test]
fn every_example_is_visited_and_a_kind_that_a_batch_lacks_has_no_metric() {
    let folder = Folder::new();
    // Eight marked answers in batches of three: the last batch of an epoch has two.
    let more = ["train.batch=3", "train.steps=3", "run.seed=1"];
    folder
        .train("kto", "marked", "kind = \"kto\"", &more)
        .done();
    assert_eq!(folder.manifest("kto")["counts"]["examples"], 8);
    // A first batch of desirable answers alone.
    let all = fs::read_to_string(golden("text/marked.jsonl")).unwrap();
    let (good, bad): (Vec<&str>, Vec<&str>) = all.lines().partition(|line| line.contains("true"));
    let sorted = [good.clone(), bad.clone()].concat().join("\n");
    fs::write(folder.path("good-first.jsonl"), sorted).unwrap();
    let more = [
        "data.train=good-first.jsonl",
        "data.shuffle=false",
        "train.batch=2",
        "train.steps=1",
    ];
    let ran = folder
        .aloud(
            "train",
            &folder.config("good", "marked", "kind = \"kto\""),
            &more,
        )
        .done();
    let sides = format!(
        "sides: {} desirable and {} undesirable answers, 0 and 0 held out",
        good.len(),
        bad.len()
    );
    assert!(ran.stderr.contains(&sides), "{}", ran.stderr);
    let row = &folder.steps("good")[0];
    assert!(
        row["rewards/chosen"].is_f64() && row.get("rewards/rejected").is_none(),
        "{row}"
    );
    // A set of one side is refused, and so is a held-out set that cannot be compared with itself.
    for (name, rows, other) in [
        ("good", &good, "desirable, 0 undesirable"),
        ("bad", &bad, "undesirable"),
    ] {
        fs::write(folder.path("side.jsonl"), rows.join("\n")).unwrap();
        let ran = folder.train(
            &format!("only-{name}"),
            "marked",
            "kind = \"kto\"",
            &["data.train=side.jsonl", "train.batch=2"],
        );
        ran.refused("learns from both sides");
        assert!(
            ran.stderr.contains(other) && ran.stderr.contains(&rows.len().to_string()),
            "{}",
            ran.stderr
        );
    }
    fs::write(folder.path("one.jsonl"), good[0]).unwrap();
    let more = ["data.validation=one.jsonl", "validation.every=1"];
    folder
        .train("one", "marked", "kind = \"kto\"", &more)
        .refused("1 answer is held out");
    // Of three, in batches of two, none is left out of the figures.
    let three = [good[0], bad[0], good[1]].join("\n");
    fs::write(folder.path("three.jsonl"), three).unwrap();
    let more = [
        "data.validation=three.jsonl",
        "validation.every=1",
        "train.steps=1",
        "train.batch=2",
    ];
    let ran = folder
        .aloud(
            "train",
            &folder.config("three", "marked", "kind = \"kto\""),
            &more,
        )
        .done();
    assert!(
        ran.stderr.contains("warning: only 3 held out"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stdout.contains("validated on: 3 held out"),
        "{}",
        ran.stdout
    );
}

#[test]
fn the_learning_rate_follows_what_is_trained() {
    let folder = Folder::new();
    for (adapter, kind, rate) in [
        ("full", "dpo", "0.000001"),
        ("lora", "dpo", "0.00001"),
        ("full", "sft", "0.00002"),
        ("lora", "sft", "0.0002"),
    ] {
        let config = folder.config("rate", "pairs", &format!("kind = \"{kind}\""));
        let text = fs::read_to_string(folder.path(&config)).unwrap();
        fs::write(
            folder.path(&config),
            text.replace("learning_rate = 2e-3\n", ""),
        )
        .unwrap();
        let set = format!("adapter.kind={adapter}");
        let shown = folder.binary(&["check", &config, "--set", &set]).done();
        let line = format!("learning_rate = {rate}");
        assert!(shown.stdout.contains(&line), "{line}: {}", shown.stdout);
    }
}

#[test]
fn data_are_inspected_without_weights() {
    let folder = Folder::new();
    let config = folder.config("look", "chats", "kind = \"dpo\"");
    let shown = folder.binary(&["inspect", &config]).done().stdout;
    for part in [
        "line 1",
        "<s>assistant\\n",
        "tokens scored",
        "training: 4 examples",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = folder
        .binary(&["inspect", &config, "--json", "--set", "data.max_length=44"])
        .done()
        .stdout;
    let report: Value = serde_json::from_str(&shown).unwrap();
    let train = &report["train"];
    let dropped = train["dropped"].as_array().unwrap().len();
    assert!(
        dropped > 0 && dropped as u64 + train["examples"].as_u64().unwrap() == 4,
        "{report}"
    );
    assert!(train["length"]["max"].as_u64().unwrap() <= 44);
}

#[test]
fn bad_text_configurations_are_refused() {
    let folder = Folder::new();
    let refused = |objective: &str, more: &[&str], message: &str| {
        folder
            .train("bad", "pairs", objective, more)
            .refused(message);
    };
    refused("kind = \"dpoo\"", &[], "did you mean `dpo`");
    refused("kind = \"brain\"", &[], "column `scores` is missing");
    refused(
        "kind = [\"dpo\", \"kto\"]",
        &[],
        "do not learn from the same kind of data",
    );
    refused(
        "kind = [\"dpo\", \"sft\"]\nweights = [1.0]",
        &[],
        "has 1 numbers, `objective.kind` 2 names",
    );
    refused(
        "kind = [\"dpo\", \"sft\"]\ntau = 1.0",
        &[],
        "`dpo` and `sft` have no `objective.tau`",
    );
    refused(
        "kind = \"dpo\"\nlambda = 1.0",
        &[],
        "`dpo` has no `objective.lambda`",
    );
    refused(
        "kind = \"dpo\"\nbeta = 0.0",
        &[],
        "`objective.beta 0`: it must be above 0",
    );
    refused(
        "kind = \"sft\"\nnll_weight = 1.0",
        &[],
        "belongs to objectives of pairs",
    );
    refused(
        "kind = \"dpo\"\nbetta = 0.1",
        &[],
        "did you mean `objective.beta`",
    );
    refused("loss_type = \"ipo\"", &[], "did you mean `objective.kind`");
    refused("", &["validation.every=1"], "nothing is held out");
    refused("", &["train.batch=5"], "there are 4 examples");
    refused("", &["train.resolution=512"], "belongs to image runs");
    refused("kind = \"kto\"", &[], "column `completion` is missing");
    refused("kind = \"sppo\"", &[], "needs the column `chosen_prob`");
    refused(
        "",
        &["data.max_length=4"],
        "no record is left to learn from",
    );
    refused("", &["model.base=nowhere"], "nowhere");
    refused("", &["--paper"], "belongs to runs on a subject's photos");
    let check = folder.config("check", "pairs", "kind = \"ipo\"\nbeta = 1.0");
    folder
        .binary(&["check", &check])
        .refused("`ipo` has no `objective.beta`");
    for (name, kind) in [
        ("dpo", "dpo"),
        ("kto", "kto"),
        ("sft", "sft"),
        ("iterate", "sppo"),
        ("lm", "sft"),
    ] {
        let config =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("configs/text/{name}.toml"));
        let shown = folder
            .binary(&["check", config.to_str().unwrap()])
            .done()
            .stdout;
        assert!(shown.contains(&format!("kind = \"{kind}\"")), "{shown}");
    }
}

#[test]
fn a_prompt_that_answers_share_is_run_once_to_the_same_curve() {
    let folder = Folder::new();
    let say = |role: &str, text: &str| serde_json::json!([{"role": role, "content": text}]);
    let rows = (0..4).map(|row| {
        let prompt = format!("Tell me about number {row} and all of its neighbours");
        let record = serde_json::json!({
            "prompt": say("user", &prompt), "chosen": say("assistant", &"yes, ".repeat(row + 1)),
            "rejected": say("assistant", "no, never"),
        });
        record.to_string() + "\n"
    });
    fs::write(folder.path("long.jsonl"), rows.collect::<String>()).unwrap();
    let data = "data.train=long.jsonl";
    for kind in ["dpo", "tdpo2", "orpo"] {
        let objective = format!("kind = \"{kind}\"");
        let run = |name: &str| format!("{kind}-{name}");
        folder
            .train(&run("shared"), "pairs", &objective, &[data])
            .done();
        let tape = [
            data,
            "train.checkpoint_activations=true",
            "reference.mode=live",
        ];
        folder
            .train(&run("tape"), "pairs", &objective, &tape)
            .done();
        let shared = folder.steps(&run("shared"));
        let padding = shared[0]["padding_fraction"].as_f64().unwrap();
        assert!(padding > 0.0 && padding < 0.4, "{padding}");
        assert_same(kind, &folder.steps(&run("tape")), &shared, 1e-4);
    }
    // Against every answer alone.
    let model = LanguageModel::open(&golden("text/model"), Device::Cpu, Kind::Float, Kind::Float);
    let model = model.unwrap();
    let tokenizer = TextTokenizer::open(&golden("text/model"), model.config().vocab_size)
        .unwrap()
        .with_words(Some(true));
    let path = folder.path("long.jsonl");
    let records = text::read(&path, Shape::Pairs).unwrap();
    let section = TextDataSection::default();
    let examples = Examples::encode(&records, &tokenizer, &section)
        .unwrap()
        .examples;
    let shared =
        reference_logps(&model, &examples, 4, &Peers::alone(), &mut |_, _| Ok(())).unwrap();
    let sequences = examples.iter().flat_map(|example| &example.sequences);
    for (sequence, shared) in sequences.zip(shared) {
        let alone = token_logps(&model, &sequence.ids).unwrap();
        let alone: f64 = alone[sequence.prompt - 1..].iter().sum();
        assert!(
            (alone - f64::from(shared)).abs() < 1e-3,
            "{alone}, {shared}"
        );
    }
}

//! Names of keys, objectives and numbers as other tools have them: the hint is what is meant here, or none.

use std::fs;

use serde_json::json;

use crate::command::{Folder, quoted};
use crate::support::golden;

const CONFIG: &str = "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = \"MODEL\"\n[data]\ntrain = \"data.jsonl\"\n";

fn refusal(set: &str) -> String {
    let folder = Folder::new();
    fs::write(folder.path("run.toml"), CONFIG).unwrap();
    let ran = folder.binary(&["check", "run.toml", "--set", set]);
    assert_eq!(ran.code, 2, "{set}: {}", ran.stdout);
    ran.stderr
}

#[test]
fn keys_of_other_tools_are_known_by_what_they_mean() {
    for (key, ours) in [
        ("train.lr", "train.learning_rate"),
        ("train.per_device_train_batch_size", "train.batch"),
        ("train.num_train_epochs", "train.steps"),
        ("train.warmup_ratio", "train.warmup"),
        ("adapter.dim", "adapter.rank"),
        ("adapter.network_dim", "adapter.rank"),
        ("adapter.r", "adapter.rank"),
        ("adapter.lora_alpha", "adapter.alpha"),
        ("adapter.target_modules", "adapter.targets"),
        ("data.max_seq_length", "data.max_length"),
        ("data.cutoff_len", "data.max_length"),
        ("data.chat_template", "data.chat"),
        ("data.val_size", "data.validation_share"),
        ("objective.loss_type", "objective.kind"),
        ("objective.rpo_alpha", "objective.nll_weight"),
        ("model_name_or_path", "model.base"),
        ("output_dir", "run.output"),
        ("train.max_lenght", "data.max_length"),
        ("train.stepps", "train.steps"),
        ("objective.bta", "objective.beta"),
    ] {
        let said = refusal(&format!("{key}=3"));
        assert!(
            said.contains(&format!("did you mean `{ours}`?")),
            "{key}: {said}"
        );
    }
    for (key, sentence) in [
        ("train.snr_gamma", "no min-SNR weighting"),
        ("adapter.lora_dropout", "no dropout"),
        ("train.optim", "AdamW"),
        ("train.deepspeed", "one device"),
    ] {
        let said = refusal(&format!("{key}=3"));
        assert!(
            said.contains(sentence) && !said.contains("did you mean"),
            "{key}: {said}"
        );
    }
    // Nothing is like these, and an image run's key is none of a text run.
    for key in [
        "train.qux",
        "train.zq",
        "adapter.foo",
        "data.instance_prompt",
        "train.noise",
    ] {
        let said = refusal(&format!("{key}=3"));
        assert!(
            said.contains("unknown key") && !said.contains("did you mean"),
            "{key}: {said}"
        );
    }
}

#[test]
fn objectives_and_numbers_of_other_tools_are_known_by_what_they_are() {
    for (name, sentence) in [
        ("exo_pair", "an objective of other tools"),
        ("cpo", "an objective of other tools"),
        ("apo_zero", "an objective of other tools"),
        ("grpo", "preftune rounds"),
        ("reward_modeling", "[reward_model]"),
        ("rpo", "a subject's photos"),
        ("simop", "did you mean `simpo`?"),
        ("dop", "did you mean `dpo`?"),
        ("sppo_hrad", "did you mean `sppo_hard`?"),
        ("fdpo", "there are `fdpo_reverse_kl`"),
    ] {
        let said = refusal(&format!("objective.kind={name}"));
        assert!(said.contains(&format!("no objective `{name}`")), "{said}");
        assert!(said.contains(sentence), "{name}: {said}");
    }
    for name in ["quux", "xyz", "margin_of_error"] {
        let said = refusal(&format!("objective.kind={name}"));
        assert!(!said.contains("did you mean"), "{name}: {said}");
    }
    let folder = Folder::new();
    fs::write(folder.path("run.toml"), CONFIG).unwrap();
    for (kind, number, sentence) in [
        ("simpo", "gamma=1.4", "`gamma` divided by `beta`"),
        ("ipo", "beta=0.1", "called tau here"),
        ("orpo", "beta=0.1", "called lambda here"),
        ("dpo", "label_smoothing=0.1", "`cdpo` is `dpo` with it"),
        (
            "simpo",
            "tau=0.1",
            "it has `objective.beta`, `objective.gamma_beta_ratio`",
        ),
    ] {
        let (kind, number) = (
            format!("objective.kind={kind}"),
            format!("objective.{number}"),
        );
        let ran = folder.binary(&["check", "run.toml", "--set", &kind, "--set", &number]);
        ran.refused(sentence);
    }
}

#[test]
fn a_folder_that_is_no_model_is_named_for_what_it_is() {
    let folder = Folder::new();
    folder.lines(
        "data.jsonl",
        &[json!({"prompt": "Hi", "chosen": "Yes", "rejected": "No"})],
    );
    let model = golden("text/model");
    let config = CONFIG.replace("\"MODEL\"", &quoted(&model))
        + "[adapter]\ntargets = \"all-linear\"\n[train]\nsteps = 1\nbatch = 1\n[validation]\nevery = 0\npatience = 0\n";
    fs::write(folder.path("run.toml"), config).unwrap();
    folder.configured("train", "run.toml", &[]).done();
    let from = |base: &str| {
        folder.configured(
            "train",
            "run.toml",
            &[&format!("model.base={base}"), "run.output=other"],
        )
    };
    let ran = from("run/best");
    ran.refused("is a LoRA adapter of PEFT");
    assert!(
        ran.stderr.contains("preftune export run/best --out MODEL"),
        "{}",
        ran.stderr
    );
    from("run").refused("is a run of preftune; a language model is needed here");
    folder.binary(&["export", "run", "--out", "merged"]).done();
    from("merged").done();
}

#[test]
fn targets_of_dno_can_be_sharpened() {
    let folder = Folder::new();
    let row = json!({
        "policy_chosen": -10.0, "policy_rejected": -12.0, "reference_chosen": -11.0, "reference_rejected": -11.5,
        "win_chosen": 0.9, "win_rejected": 0.1,
    });
    folder.lines("rows.jsonl", &[row]);
    let loss = |more: &[&str]| {
        let ran = folder.binary(
            &[
                &[
                    "loss",
                    "--objective",
                    "dno",
                    "--input",
                    "rows.jsonl",
                    "--json",
                    "--eta",
                    "0.5",
                ],
                more,
            ]
            .concat(),
        );
        ran.done().json()["rows"][0]["loss"].as_f64().unwrap()
    };
    // h = (-10 + 11) - (-12 + 11.5) = 1.5; z = sigmoid(scale * 0.8).
    let expected = |scale: f64| {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (z, p) = (sigmoid(scale * 0.8), sigmoid(0.75));
        -(z * p.ln() + (1.0 - z) * (1.0 - p).ln())
    };
    assert!((loss(&[]) - expected(1.0)).abs() < 1e-9);
    assert!((loss(&["--target-scale", "5"]) - expected(5.0)).abs() < 1e-9);
}

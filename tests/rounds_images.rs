//! Rounds of a diffusion model on its own images through the binary: what they learn from, keep, go on from and refuse.

use std::fs;

use preftune::models::weights::Checkpoint;
use serde_json::{Value, json};

use crate::command::{Folder, Ran, quoted};
use crate::support::golden;
use crate::tiny_run::photo;

const SUBJECT: &str = "[subject]\nphotos = \"photos\"\nclass = \"dog\"\n[anchor]\nweight = 0.5\n";

/// Photos, prompts, and two rounds of a LoRA on the tiny SD 1, rewarded by `reward`.
fn folder(subject: &str, reward: &str) -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("photos")).unwrap();
    for number in 0..3 {
        let file = folder.path(&format!("photos/{number}.png"));
        photo(number).save(file).unwrap();
    }
    let prompts = if subject.is_empty() {
        ["a moon", "a green dog", "a beach", "a blue dog"]
    } else {
        [
            "a {token} {class} on the moon",
            "a green {token} {class}",
            "a {token} {class} at the beach",
            "a blue {token} {class}",
        ]
    };
    let list = |prompts: &[&str]| json!(prompts).to_string();
    let base = quoted(&golden("diffusion/sd1"));
    let text = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {base}\n{subject}\
         [images]\nprompts = {}\nper_prompt = 4\n[reward]\n{reward}\n[labels]\npairs = \"all\"\n\
         [adapter]\nrank = 4\nalpha = 4\n[denoising]\nscale = 200.0\n[rounds]\ncount = 2\n\
         [train]\nresolution = 16\nsteps = 4\nbatch = 2\nlearning_rate = 3e-3\n\
         [validation]\nprompts = {}\nimages_per_prompt = 2\nevery = 2\npatience = 0\nmin_gain = -1.0\n\
         [sampler]\nsteps = 2\nbatch = 4\n[checkpoint]\nevery = 1\n",
        list(&prompts[..2]),
        list(&prompts[2..]),
    );
    fs::write(folder.path("rounds.toml"), text).unwrap();
    folder
}

/// The same without a subject.
fn general() -> Folder {
    folder("", &harmonic())
}

fn harmonic() -> String {
    format!("encoder = {}", quoted(&golden("encoders/clip")))
}

/// A command that rewards the size of the file that it is asked about.
const SIZE: &str = "command = '''while read -r line; do image=$(echo \"$line\" | sed 's/.*\"image\":\"\\([^\"]*\\)\".*/\\1/'); \
                    echo \"{\\\"reward\\\": $(wc -c < \"$image\")}\"; done'''";

fn command(text: &str) -> String {
    format!("kind = \"command\"\npatience = 1\n{text}")
}

fn rounds(folder: &Folder, more: &[&str]) -> Ran {
    folder.aloud("rounds", "rounds.toml", more)
}

fn number(row: &Value, name: &str) -> f64 {
    row[name]
        .as_f64()
        .unwrap_or_else(|| panic!("{name}: {row}"))
}

fn figures(folder: &Folder, round: u64) -> Value {
    let text = fs::read_to_string(folder.path(&format!("run/round-{round}/metrics.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The hash of a run's best weights.
fn best(folder: &Folder, run: &str) -> String {
    let best = folder.path(run).join("best");
    let files = [
        "pytorch_lora_weights.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    let file = files
        .iter()
        .map(|name| best.join(name))
        .find(|file| file.exists());
    // The header has the step, the tensors follow it.
    Checkpoint::open_file(&file.unwrap())
        .unwrap()
        .sha256()
        .unwrap()
}

#[test]
fn rounds_draw_reward_and_learn_and_each_goes_on_from_the_best_of_the_last() {
    let folder = folder(SUBJECT, &harmonic());
    let ran = rounds(&folder, &[]).done();
    assert!(ran.stdout.contains("text_similarity"), "{}", ran.stdout);
    for round in 1..=2 {
        let scores = folder.rows(&format!("run/round-{round}/scores.jsonl"));
        assert_eq!(scores.len(), 8);
        let pairs = folder.rows(&format!("run/round-{round}/pairs.jsonl"));
        let counted = number(&figures(&folder, round)["after"]["metrics"], "pairs");
        assert_eq!(counted as usize, pairs.len());
        for pair in &pairs {
            let reward = |side: &str| {
                let file = pair[side].as_str().unwrap();
                assert!(folder.path("run").join(file).exists(), "{file}");
                let row = scores.iter().find(|row| row["image"] == file).unwrap();
                assert_eq!(row["prompt"], pair["prompt"]);
                number(row, "reward")
            };
            assert!(reward("chosen") > reward("rejected"), "{pair}");
            assert!(number(pair, "chosen_probs_win") > number(pair, "chosen_probs_lose"));
        }
        let first = &folder.steps(&format!("run/round-{round}/train"))[0];
        // The reference is the policy that drew, in the second round too.
        assert!(
            (number(first, "gradient_factor") - 0.5).abs() < 1e-4,
            "{first}"
        );
        assert!(number(first, "error/photos") > 0.0);
    }
    // The same held-out images, drawn by the same weights, have the same reward in both rounds.
    let (one, two) = (figures(&folder, 1), figures(&folder, 2));
    let reward = |figures: &Value| number(&figures["metrics"], "reward");
    let drift = reward(&one["after"]) - reward(&two["before"]);
    assert!(drift.abs() < 1e-6, "{drift}");
    let manifest = folder.manifest("run");
    assert_eq!(manifest["status"], "finished");
    assert_eq!(manifest["subject"]["class"], "dog");
    assert_eq!(manifest["counts"]["images"], 16);
    assert_eq!(manifest["counts"]["unet_forwards_images"], 64);
    assert_eq!(best(&folder, "run"), best(&folder, "run/round-2/train"));

    // What other verbs make of the run.
    let generate = [
        "generate", "--model", "run", "--prompt", "a dog", "--out", "out", "--width", "16",
        "--height", "16", "--steps", "2",
    ];
    folder.binary(&generate).done();
    let eval = [
        "eval",
        "subject",
        "run",
        "--images-per-prompt",
        "1",
        "--size",
        "16",
        "--device",
        "cpu",
    ];
    let judged = folder.binary(&eval).done();
    assert!(judged.stdout.contains("rounds of dpo"), "{}", judged.stdout);
    folder
        .binary(&["export", "run", "--out", "exported"])
        .done();
    folder
        .binary(&["report", "run", "--out", "report.html"])
        .done();
}

#[test]
fn rewards_are_those_of_score() {
    let folder = folder(SUBJECT, &harmonic());
    rounds(&folder, &["rounds.count=1"]).done();
    let row = &folder.rows("run/round-1/scores.jsonl")[5];
    let image = folder.path("run").join(row["image"].as_str().unwrap());
    fs::create_dir(folder.path("one")).unwrap();
    fs::copy(image, folder.path("one/image.png")).unwrap();
    let encoder = golden("encoders/clip");
    let prompt = row["prompt"].as_str().unwrap().replace("[V] ", "");
    let ran = folder.binary(&[
        "score",
        "--images",
        "one",
        "--references",
        "photos",
        "--prompt",
        &prompt,
        "--encoder",
        encoder.to_str().unwrap(),
        "--device",
        "cpu",
        "--json",
    ]);
    let text = ran.done().json().to_string();
    let shown = format!("{:.6}", number(row, "reward"));
    assert!(text.contains(&shown[..7]), "{shown}: {text}");
}

/// Removes what a kill in the second round would not have left.
fn cut(folder: &Folder, gone: &[&str]) {
    for name in gone {
        let path = folder.path("run").join(name);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    let manifest = folder.path("run/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
}

#[test]
fn a_kill_in_any_phase_changes_nothing() {
    let folder = folder(SUBJECT, &harmonic());
    rounds(&folder, &["rounds.replay=[0.5]"]).done();
    let (whole, metrics) = (best(&folder, "run"), figures(&folder, 2));
    let after_images = [
        "round-2/metrics.json",
        "round-2/train",
        "round-2/scores.jsonl",
    ];
    let phases: [&[&str]; 4] = [
        &["round-2"],
        // In the middle of a batch of images.
        &[
            "round-2/images/0005.png",
            after_images[0],
            after_images[1],
            after_images[2],
        ],
        &["round-2/metrics.json", "round-2/train"],
        &["round-2/metrics.json", "best"],
    ];
    for gone in phases {
        cut(&folder, gone);
        rounds(&folder, &["rounds.replay=[0.5]", "--resume"]).done();
        assert_eq!(best(&folder, "run"), whole, "{gone:?}");
        assert_eq!(
            figures(&folder, 2)["after"]["metrics"]["reward"],
            metrics["after"]["metrics"]["reward"]
        );
    }
    assert!(number(&metrics["after"]["metrics"], "replayed") > 0.0);
    // A finished run makes nothing again, and more rounds go on.
    let again = rounds(&folder, &["rounds.replay=[0.5]", "--resume"]).done();
    assert!(
        again.stderr.contains("nothing is left to do"),
        "{}",
        again.stderr
    );
}

#[test]
fn all_weights_go_on_from_a_run_and_are_compared_with_it() {
    let folder = folder(SUBJECT, &harmonic());
    let full = [
        "adapter.kind=\"full\"",
        "train.learning_rate=1e-4",
        "rounds.count=1",
    ];
    rounds(&folder, &full).done();
    fs::rename(folder.path("run"), folder.path("first")).unwrap();
    let started = [&full[..], &["adapter.start=\"first\""]].concat();
    rounds(&folder, &started).done();
    let rows = folder.rows("run/metrics.jsonl");
    let rounds_of: Vec<_> = rows.iter().map(|row| row["step"].as_u64()).collect();
    assert_eq!(rounds_of, [Some(0), Some(1)]);
    folder
        .binary(&["report", "run", "--out", "report.html"])
        .done();
    let page = fs::read_to_string(folder.path("report.html")).unwrap();
    assert!(page.contains("at the start"));
    let first = &folder.steps("run/round-1/train")[0];
    assert!(
        (number(first, "gradient_factor") - 0.5).abs() < 1e-4,
        "{first}"
    );
    let text = fs::read_to_string(folder.path("first/round-1/metrics.json")).unwrap();
    let before: Value = serde_json::from_str(&text).unwrap();
    let reward = |figures: &Value| number(&figures["metrics"], "reward");
    let drift = reward(&before["after"]) - reward(&figures(&folder, 1)["before"]);
    assert!(drift.abs() < 1e-6, "{drift}");
    let lora = ["adapter.start=\"first\"", "run.output=\"other\""];
    rounds(&folder, &lora).refused("a whole U-Net");
}

#[test]
fn a_command_rewards_images_of_general_prompts_and_its_failures_are_said() {
    let folder = folder("", &command(SIZE));
    rounds(&folder, &[]).done();
    let manifest = folder.manifest("run");
    assert!(manifest.get("subject").is_none());
    for row in folder.rows("run/round-1/scores.jsonl") {
        assert!(number(&row, "reward") > 100.0, "{row}");
    }
    assert!(!folder.path("run/asked.png").exists());
    let failing = [
        ("echo nonsense", "nonsense"),
        ("head -n 1 > /dev/null; exit 3", "ended without an answer"),
        ("sleep 5", "no answer within 1 seconds"),
        (
            "while read -r line; do echo '{\"reward\": \"NaN\"}'; done",
            "reward",
        ),
    ];
    for (text, message) in failing {
        let set = format!("reward.command={}", json!(text));
        let ran = rounds(&folder, &[&set, "run.output=\"bad\""]);
        assert_ne!(ran.code, 0, "{text}");
        assert!(ran.stderr.contains(message), "{text}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        // What was drawn is kept.
        assert!(folder.path("bad/round-1/images/0007.png").exists());
        fs::remove_dir_all(folder.path("bad")).unwrap();
    }
    let equal = "reward.command=\"while read -r line; do echo '{\\\"reward\\\": 1}'; done\"";
    let ran = rounds(&folder, &[equal, "run.output=\"bad\""]);
    assert!(
        ran.stderr
            .contains("in round 1 no prompt has images that the reward tells apart"),
        "{}",
        ran.stderr
    );
}

#[test]
fn images_of_the_class_word_are_better_the_less_they_have_gone_to_the_photos() {
    let folder = folder(SUBJECT, &harmonic());
    let set = [
        "images.class_alone=true",
        "validation.reward=\"specific\"",
        "rounds.count=1",
    ];
    rounds(&folder, &set).done();
    let metrics = figures(&folder, 1);
    // Without a start the first policy is the untuned model.
    let before = &metrics["before"]["metrics"];
    assert!(
        (number(before, "class_kept") - 1.0).abs() < 1e-6,
        "{before}"
    );
    assert!(number(before, "class_drift").abs() < 1e-6);
    let untuned = number(before, "pres");
    let rows = folder.rows("run/round-1/scores.jsonl");
    assert_eq!(rows.len(), 16);
    let mut of_class = 0;
    for row in &rows {
        let (image, text) = (
            number(row, "image_similarity"),
            number(row, "text_similarity"),
        );
        let wanted = if row["prompt"].as_str().unwrap().contains("[V]") {
            image
        } else {
            of_class += 1;
            let cosine = 2.0 * image - 1.0;
            (1.0 - (cosine - untuned) / (1.0 - untuned)).clamp(0.0, 1.0)
        };
        let reward = 1.0 / (0.5 / wanted.max(1e-8) + 0.5 / text.max(1e-8));
        assert!(
            (number(row, "reward") - reward).abs() < 1e-6,
            "{row} {reward}"
        );
    }
    assert_eq!(of_class, 8);
    for (set, message) in [
        ("validation.specificity=false", "images.class_alone"),
        ("subject.prompt=\"a dog\"", "{token}"),
    ] {
        rounds(&folder, &["images.class_alone=true", set]).refused(message);
    }
}

#[test]
fn another_encoder_than_the_rewards_decides_where_it_is_asked_to() {
    let folder = folder(SUBJECT, &harmonic());
    let other = format!("validation.encoder={}", quoted(&golden("encoders/align")));
    let set = ["rounds.count=1", "run.output=\"other\"", &other];
    rounds(&folder, &["rounds.count=1"]).done();
    rounds(&folder, &set).done();
    let rows = |run: &str| folder.rows(&format!("{run}/round-1/scores.jsonl"));
    assert_eq!(rows("run"), rows("other"));
    let before = |run: &str| {
        let text = fs::read_to_string(folder.path(&format!("{run}/round-1/metrics.json"))).unwrap();
        let figures: Value = serde_json::from_str(&text).unwrap();
        figures["before"]["metrics"].clone()
    };
    let (own, decided) = (before("run"), before("other"));
    assert!((number(&own, "reward") - number(&decided, "reward")).abs() > 1e-3);
    // Beside the untuned model, both have lost nothing yet.
    assert!((number(&decided, "class_kept") - 1.0).abs() < 1e-6);
    let inputs = folder.manifest("other")["inputs"].clone();
    assert!(inputs["validation encoder"].is_string(), "{inputs}");
    let general = general();
    rounds(&general, &[&other]).refused("`validation.encoder` needs a subject");
}

#[test]
fn a_reward_model_trained_on_the_pairs_of_a_round_drives_others() {
    let folder = folder("", &command(SIZE));
    rounds(&folder, &["rounds.count=1"]).done();
    let encoder = quoted(&golden("encoders/clip"));
    let head = format!(
        "[run]\noutput = \"head\"\ndevice = \"cpu\"\n[reward_model]\ntask = \"bradley_terry\"\n[data]\nimages = \"run\"\n\
         encoder = {encoder}\ntrain = \"run/round-1/pairs.jsonl\"\nvalidation_share = 0.0\n\
         [train]\nsteps = 4\n[validation]\nevery = 0\npatience = 0\n"
    );
    fs::write(folder.path("head.toml"), head).unwrap();
    folder.configured("train", "head.toml", &[]).done();
    let driven = [
        "reward.kind=\"model\"",
        &format!("reward.encoder={encoder}"),
        "reward.model=\"head\"",
        "run.output=\"driven\"",
        "rounds.count=1",
    ];
    rounds(&folder, &driven).done();
    let rows = folder.rows("driven/round-1/scores.jsonl");
    let scored = folder.binary(&[
        "score",
        "--images",
        "driven/round-1/images",
        "--encoder",
        golden("encoders/clip").to_str().unwrap(),
        "--reward",
        "head",
        "--device",
        "cpu",
        "--json",
    ]);
    let scored = scored.done().json();
    for (row, image) in rows.iter().zip(scored["images"].as_array().unwrap()) {
        let learnt = image.as_object().unwrap().iter();
        let (_, learnt) = learnt
            .clone()
            .find(|(name, _)| name.starts_with("learnt_"))
            .unwrap();
        assert!(
            (number(row, "reward") - learnt.as_f64().unwrap()).abs() < 1e-5,
            "{row} {image}"
        );
    }
    let none = [&driven[..], &["reward.output=\"beauty\""]].concat();
    rounds(&folder, &[&none[..], &["run.output=\"other\""]].concat()).refused("its outputs are");
}

#[test]
fn rounds_that_gain_nothing_end_and_keep_the_better_weights() {
    let folder = folder(SUBJECT, &harmonic());
    // No step can gain that much.
    let ran = rounds(&folder, &["validation.min_gain=1"]).done();
    assert!(
        ran.stderr.contains("round 1 gains nothing"),
        "{}",
        ran.stderr
    );
    let manifest = folder.manifest("run");
    assert_eq!(
        (&manifest["stopped_early"], &manifest["steps"]),
        (&json!(true), &json!(1))
    );
    assert!(!folder.path("run/round-2").exists());
    let again = rounds(&folder, &["validation.min_gain=1", "--resume"]).done();
    assert!(
        again.stderr.contains("nothing is left to do"),
        "{}",
        again.stderr
    );
}

#[test]
fn what_rounds_of_images_do_not_have_is_refused() {
    let subject = folder(SUBJECT, &harmonic());
    for (set, message) in [
        ("images.per_prompt=1", "between 2 and 1024"),
        ("labels.gold=true", "language model"),
        ("adapter.reference=\"start\"", "not of rounds"),
        ("objective.kind=\"kto\"", "does not learn from pairs"),
        ("validation.every=0", "above 0"),
        ("reward.tau=0", "above 0"),
        ("subject.photos=\"nowhere\"", "nowhere"),
        ("data.prompts=\"p.jsonl\"", "data"),
    ] {
        rounds(&subject, &[set]).refused(message);
    }
    let general = general();
    rounds(&general, &["images.prompts=[\"a {class}\"]"]).refused("there is none");
    rounds(&general, &["anchor.weight=1"]).refused("needs `subject.photos`");
    let pairs = subject.configured("train", "rounds.toml", &[]);
    pairs.refused("preftune rounds");
}

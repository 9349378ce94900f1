//! Models by their names on the hub: every layout of its cache, in every verb, and nothing that opens a connection.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::command::{Ran, quoted};
use crate::hub::Place;
use crate::hub_server::COMMIT;
use crate::support::golden;
use crate::tiny_run::{copy_folder, photo};

const ANSWER: [&str; 11] = [
    "generate",
    "--prompt",
    "the cat",
    "--temperature",
    "0",
    "--max-tokens",
    "8",
    "--raw",
    "--device",
    "cpu",
    "--model",
];

impl Place {
    fn answer(&self, model: &str) -> Ran {
        self.run(&[&ANSWER[..], &[model]].concat())
    }

    /// A run on texts; the name of its configuration.
    fn text_config(&self, base: &str, adapter: &str) -> String {
        let config = format!(
            "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = \"{base}\"\n[data]\ntrain = {}\nchat = \"raw\"\n\
             [adapter]\nkind = \"{adapter}\"\n[objective]\nkind = \"dpo\"\n\
             [train]\nsteps = 4\nbatch = 4\nlog_every = 1\n\
             [validation]\nevery = 0\npatience = 0\n[checkpoint]\nevery = 2\nkeep = 3\n",
            quoted(&golden("text/pairs.jsonl"))
        );
        fs::write(self.folder.path("run.toml"), config).unwrap();
        "run.toml".to_owned()
    }
}

#[test]
fn every_layout_of_the_cache_means_the_same_model() {
    let place = Place::new();
    let expected = place.answer(golden("text/model").to_str().unwrap()).done();
    place.fetch(&["org/lm"]).done();
    place.fetch(&["org/lm@refs/pr/1"]).done();
    place.hub.asked();
    let cached = place.cached("org/lm");
    let folders = [
        cached.clone(),
        cached.join("snapshots"),
        cached.join("blobs"),
        cached.join("snapshots").join(COMMIT),
    ];
    let folders = folders.map(|folder| folder.to_str().unwrap().to_owned());
    let names = [
        "org/lm",
        "org/lm/",
        "org/lm@main",
        "org/lm@refs/pr/1",
        &format!("org/lm@{COMMIT}"),
        &format!("org/lm@{}", &COMMIT[..10]),
        "hf/hub/models--org--lm",
    ];
    for model in folders.iter().map(String::as_str).chain(names) {
        let answer = place.answer(model).done();
        assert_eq!(answer.stdout, expected.stdout, "{model}");
    }
    // Without the branch's name, the only snapshot is meant.
    fs::remove_file(cached.join("refs/main")).unwrap();
    place.answer("org/lm").done();
    place
        .answer("org/lm@v9")
        .refused("has `org/lm`, but not its revision `v9`");
    // Of two it is named.
    fs::create_dir(cached.join("snapshots/fedcba9876543210")).unwrap();
    let ran = place.answer(cached.to_str().unwrap());
    ran.refused("is the cache folder of `org/lm` from the Hugging Face hub");
    // All of it without a word to the hub.
    assert_eq!(place.hub.asked().len(), 0);
}

#[test]
fn a_folder_that_is_there_wins_over_a_name() {
    let place = Place::new();
    place.fetch(&["org/lm"]).done();
    fs::create_dir_all(place.folder.path("org/lm")).unwrap();
    place.answer("org/lm").refused("is an empty folder");
}

#[test]
fn a_name_that_is_not_in_the_cache_is_never_fetched_unasked() {
    let place = Place::new();
    let text = place.text_config("org/lm", "lora");
    for verb in ["train", "plan", "inspect"] {
        let ran = place.run(&[verb, &text]);
        println!("$ preftune {verb} {text}\n{}", ran.stderr);
        ran.refused("`org/lm`: no such folder, and no model of that name in the cache of the Hugging Face hub");
        assert!(
            ran.stderr
                .contains("hint: `preftune fetch org/lm` downloads it; nothing is fetched unasked"),
            "{}",
            ran.stderr
        );
        let _ = fs::remove_dir_all(place.folder.path("run"));
    }
    place.run(&["check", &text]).done();
    place.answer("org/lm@v1").refused("no model of that name");
    let scored = [
        "score",
        "--references",
        "a",
        "--images",
        "b",
        "--prompt",
        "a dog",
        "--encoder",
        "org/clip",
    ];
    fs::create_dir(place.folder.path("a")).unwrap();
    photo(1).save(place.folder.path("a/1.png")).unwrap();
    fs::create_dir(place.folder.path("b")).unwrap();
    photo(2).save(place.folder.path("b/1.png")).unwrap();
    place.run(&scored).refused("no model of that name");
    let ran = place.answer("runwayml/stable-diffusion-v1-5");
    ran.refused("where it is now `stable-diffusion-v1-5/stable-diffusion-v1-5`");
    assert!(
        ran.stderr
            .contains("`preftune fetch stable-diffusion-v1-5/stable-diffusion-v1-5`")
    );
    // A path whose parent is there is a path.
    place.answer("a/lm").refused("no such file or folder");
    // An address is not a name.
    let ran = place.answer("https://huggingface.co/me/tiny");
    ran.refused("is an address, not a file or folder");
    ran.refused("give the model's name, `me/tiny`");
    assert_eq!(place.hub.asked().len(), 0);
    // The same once it is there.
    place.hub.put_folder("org/clip", &golden("encoders/clip"));
    place.fetch(&["org/clip"]).done();
    place.hub.asked();
    let json = place
        .run(&[&scored[..], &["--device", "cpu", "--json", "--quiet"]].concat())
        .done()
        .json();
    assert_eq!(json["encoders"]["encoder"]["name"], "org/clip");
    assert_eq!(place.hub.asked().len(), 0);
}

#[test]
fn a_run_knows_its_model_by_name_and_commit_wherever_the_cache_lies() {
    let place = Place::new();
    place.fetch(&["org/lm"]).done();
    let config = place.text_config("org/lm", "lora");
    place
        .run(&["train", &config, "--quiet", "--set", "train.steps=4"])
        .done();
    let pinned = format!("org/lm@{COMMIT}");
    assert_eq!(place.folder.manifest("run")["base_model"], pinned);
    let stored = fs::read_to_string(place.folder.path("run/config.toml")).unwrap();
    assert!(stored.contains(&format!("base = \"{pinned}\"")), "{stored}");
    let text = fs::read_to_string(place.folder.path("run/best/adapter_config.json")).unwrap();
    let adapter: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(adapter["base_model_name_or_path"], "org/lm");
    assert_eq!(adapter["revision"], COMMIT);
    let tuned = place.answer("run").done();
    assert_eq!(place.answer("run/best").done().stdout, tuned.stdout);
    // Where `main` has moved meanwhile, the earlier commit is named.
    let other = COMMIT.replace('0', "f");
    let cached = place.cached("org/lm");
    copy_folder(
        &place.snapshot("org/lm"),
        &cached.join("snapshots").join(&other),
    );
    fs::write(cached.join("refs/main"), &other).unwrap();
    let ran = place.run(&["train", &config, "--quiet", "--resume"]);
    ran.refused("holds a run with another configuration");
    let mend = format!("model.base={pinned}");
    assert!(
        ran.stderr.contains(&format!("`--set {mend}`")),
        "{}",
        ran.stderr
    );
    place
        .run(&["train", &config, "--quiet", "--resume", "--set", &mend])
        .done();
    fs::write(cached.join("refs/main"), COMMIT).unwrap();
    // An unfinished run is gone on with from another place of the cache.
    let manifest = place.folder.path("run/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"interrupted\"")).unwrap();
    fs::create_dir(place.folder.path("elsewhere")).unwrap();
    fs::rename(
        place.folder.path("hf/hub"),
        place.folder.path("elsewhere/hub"),
    )
    .unwrap();
    let ran = place.answer("run/best");
    ran.refused("the base model of `run/best` is not there");
    assert!(
        ran.stderr
            .contains(&format!("`preftune fetch {pinned}` downloads it")),
        "{}",
        ran.stderr
    );
    let moved = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        Ran::of(
            command
                .env("HF_HOME", place.folder.path("elsewhere"))
                .output()
                .unwrap(),
        )
    };
    moved(&["train", &config, "--quiet", "--resume"]).done();
    for model in ["run", "run/best"] {
        assert_eq!(
            moved(&[&ANSWER[..], &[model]].concat()).done().stdout,
            tuned.stdout
        );
    }
    // An export is as good by the name as by the folder.
    moved(&["export", "run/best", "--out", "merged"]).done();
    assert!(Path::new(&place.folder.path("merged/config.json")).is_file());
}

#[test]
fn a_run_on_a_subject_takes_its_model_and_its_encoder_by_name() {
    let place = Place::new();
    place.hub.put_folder("org/sd", &golden("diffusion/sd1"));
    place.hub.put_folder("org/clip", &golden("encoders/clip"));
    place.fetch(&["org/sd", "org/clip"]).done();
    place.hub.asked();
    fs::create_dir(place.folder.path("photos")).unwrap();
    for number in 0..3 {
        photo(number)
            .save(place.folder.path(&format!("photos/{number}.png")))
            .unwrap();
    }
    let config = "[run]\noutput = \"dog\"\ndevice = \"cpu\"\n[model]\nbase = \"org/sd\"\n[reward]\nencoder = \"org/clip\"\n\
                  [subject]\nphotos = \"photos\"\nclass = \"dog\"\n[adapter]\nrank = 2\n\
                  [negatives]\nper_prompt = 1\nprompts = [\"a {token} {class}\", \"a {token} {class} at sea\"]\n\
                  [sampler]\nsteps = 2\n[train]\nresolution = 16\nsteps = 2\nbatch = 1\n\
                  [validation]\nevery = 1\nprompts = [\"a {token} {class} in snow\"]\nimages_per_prompt = 1\n";
    fs::write(place.folder.path("dog.toml"), config).unwrap();
    place.run(&["check", "dog.toml"]).done();
    place.run(&["plan", "dog.toml"]).done();
    place.run(&["train", "dog.toml", "--quiet"]).done();
    let manifest = place.folder.manifest("dog");
    assert_eq!(manifest["base_model"], format!("org/sd@{COMMIT}"));
    assert_eq!(manifest["reward_encoder"][0], "org/clip");
    place
        .run(&[
            "generate", "--model", "dog", "--prompt", "a dog", "--steps", "1", "--device", "cpu",
            "--quiet", "--out", "out",
        ])
        .done();
    let lora = "dog/best/adapter_model.safetensors";
    let lora = if place.folder.path(lora).exists() {
        lora
    } else {
        "dog/best/pytorch_lora_weights.safetensors"
    };
    place.hub.put(
        "org/lora",
        [(
            "dog.safetensors".to_owned(),
            fs::read(place.folder.path(lora)).unwrap(),
        )]
        .into(),
    );
    place.fetch(&["org/lora"]).done();
    let laid = [
        "generate",
        "--model",
        "org/sd",
        "--lora",
        "org/lora/dog.safetensors",
        "--prompt",
        "a dog",
        "--steps",
        "1",
        "--device",
        "cpu",
    ];
    place
        .run(&[&laid[..], &["--quiet", "--out", "laid"]].concat())
        .done();
    place
        .run(&[
            "export", lora, "--base", "org/sd", "--format", "merged", "--out", "merged",
        ])
        .done();
}

#[test]
fn what_a_snapshot_lacks_is_named_with_the_mend() {
    let place = Place::new();
    place.fetch(&["org/lm"]).done();
    let mend =
        format!("the copy in the cache is not whole: `preftune fetch org/lm@{COMMIT}` mends it");
    // A setting that a model may lack would be passed over.
    for file in [
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ] {
        let link = place.snapshot("org/lm").join(file);
        fs::remove_file(link.canonicalize().unwrap()).unwrap();
        for model in ["org/lm", link.parent().unwrap().to_str().unwrap()] {
            let ran = place.answer(model);
            println!("{}", ran.stderr);
            ran.refused(&format!("{file}`: is a link to `../../blobs/"));
            assert!(ran.stderr.contains(&mend), "{}", ran.stderr);
        }
        place.fetch(&[&format!("org/lm@{COMMIT}")]).done();
        place.answer("org/lm").done();
    }
    // A file that was not fetched.
    for file in ["model.safetensors", "tokenizer.json"] {
        fs::remove_file(place.snapshot("org/lm").join(file)).unwrap();
        let ran = place.answer("org/lm");
        println!("{}", ran.stderr);
        assert_eq!(ran.code, 2);
        assert!(
            ran.stderr
                .contains(&format!("`preftune fetch org/lm@{COMMIT}` brings them")),
            "{}",
            ran.stderr
        );
        place.fetch(&["org/lm"]).done();
    }
    place.answer("org/lm").done();
}

#[test]
fn the_doctor_counts_the_models_of_the_cache() {
    let place = Place::new();
    place.fetch(&["org/lm"]).done();
    let json = place.run(&["doctor", "--json"]).json();
    let findings = json.as_array().unwrap();
    let models = findings
        .iter()
        .find(|one| one["name"] == "models of the hub")
        .unwrap();
    let expected = format!("1 in {}", place.folder.path("hf/hub").display());
    assert_eq!(models["found"], expected);
    assert_eq!(models["names"], json!(["org/lm"]));
}

#[test]
fn the_doctor_names_broken_models_and_keeps_a_long_list_short() {
    let place = Place::new();
    place.fetch(&["org/lm"]).done();
    let hub = place.folder.path("hf/hub");
    for number in 10..25 {
        let snapshot = hub.join(format!("models--org--m{number}/snapshots/{COMMIT}"));
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
    }
    fs::create_dir_all(hub.join("models--org--begun/refs")).unwrap();
    let ran = place.run(&["doctor"]).done();
    let lines: Vec<&str> = ran.stdout.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("models of the hub"))
        .unwrap();
    assert!(lines[at].contains("16 in "), "{}", ran.stdout);
    assert_eq!(lines[at + 1], "org/lm");
    assert_eq!(lines[at + 11], "and 7 more; `--json` has them all");
    // A file whose blob is gone.
    fs::remove_dir_all(place.cached("org/lm").join("blobs")).unwrap();
    let ran = place.run(&["doctor"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("15 in "), "{}", ran.stdout);
    let mend = format!("`preftune fetch org/lm@{COMMIT}` mends it");
    assert!(ran.stdout.contains(&mend), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("not in order: models of the hub"),
        "{}",
        ran.stderr
    );
    let json = place.run(&["doctor", "--json"]).stdout;
    assert!(
        json.contains("org/begun (not downloaded to its end)"),
        "{json}"
    );
    // A cache that is no folder.
    fs::remove_dir_all(&hub).unwrap();
    fs::write(&hub, "").unwrap();
    let ran = place.run(&["doctor"]);
    assert_eq!(ran.code, 1);
    let fault = format!(
        "{} is a file: `HF_HUB_CACHE` or `HF_HOME` must name a folder",
        hub.display()
    );
    assert!(ran.stdout.contains(&fault), "{}", ran.stdout);
}

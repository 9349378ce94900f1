//! Reward models through the binary: training on embeddings, resuming, starting from a head, new users, bad input.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use preftune::data::left_out::LeftOut;
use preftune::data::preferences::{Rows, read_pairs, read_ratings};
use preftune::models::heads::{Head, HeadKind, Network};
use preftune::models::weights::save;
use preftune::ops::random::{derive_seed, integers, randn};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::command::{self, Ran, own_folder};

const ITEMS: i64 = 60;
const WIDTH: i64 = 5;

own_folder!();

impl Folder {
    /// A folder with embeddings of items (and two prompts), of which the first coordinate is the planted reward.
    fn new() -> Self {
        let folder = Self(command::Folder::new());
        let tensors = [
            ("responses".to_owned(), embeddings()),
            (
                "prompts".to_owned(),
                Tensor::eye(2, (Kind::Float, Device::Cpu)),
            ),
        ];
        save(
            &folder.path("embeddings.safetensors"),
            &tensors,
            &BTreeMap::new(),
        )
        .unwrap();
        folder
    }

    /// Trains by a configuration with these lines under `[reward_model]`.
    fn train(&self, run: &str, model: &str, flags: &[&str]) -> Ran {
        let config = format!(
            "[run]\noutput = \"{run}\"\n[reward_model]\n{model}\n[data]\n\
             embeddings = \"embeddings.safetensors\"\ntrain = \"train.jsonl\"\nvalidation_share = 0.2\n\
             [train]\nsteps = 40\nbatch = 16\nlearning_rate = 0.05\n\
             [validation]\nevery = 10\npatience = 0\n[checkpoint]\nevery = 20\n"
        );
        fs::write(self.path(&format!("{run}.toml")), config).unwrap();
        let config = format!("{run}.toml");
        let command = ["train", &config, "--quiet", "--device", "cpu"];
        self.binary(&[&command[..], flags].concat())
    }

    fn head(&self, run: &str) -> Head {
        Head::open(&self.path(run).join("best"), Kind::Float, Device::Cpu).unwrap()
    }
}

fn embeddings() -> Tensor {
    randn(
        derive_seed(0, "embeddings", &[]),
        &[ITEMS, WIDTH],
        Device::Cpu,
    )
}

fn reward(item: i64) -> f64 {
    embeddings().double_value(&[item, 0])
}

/// Pairs of different items, the first of each preferred by `prefers`.
fn pairs(count: usize, prefers: impl Fn(i64, i64) -> bool) -> Vec<(i64, i64)> {
    let items = integers(derive_seed(0, "pairs", &[]), ITEMS as u64, 2 * count);
    let pairs = items.chunks(2).filter(|pair| pair[0] != pair[1]);
    pairs
        .map(|pair| {
            if prefers(pair[0], pair[1]) {
                (pair[0], pair[1])
            } else {
                (pair[1], pair[0])
            }
        })
        .collect()
}

fn by_reward() -> Vec<Value> {
    let pairs = pairs(150, |one, two| reward(one) > reward(two));
    pairs
        .into_iter()
        .map(|(chosen, rejected)| {
            let strength = 1.0 + (reward(chosen) - reward(rejected)).min(2.0).round();
            json!({"chosen": chosen, "rejected": rejected, "margin": strength, "prompt": chosen % 2})
        })
        .collect()
}

fn metric(manifest: &Value, name: &str) -> f64 {
    let metrics = manifest["best_metrics"].as_array().unwrap();
    let found = metrics.iter().find(|metric| metric[0] == name);
    found.unwrap()[1].as_f64().unwrap()
}

#[test]
fn every_task_on_pairs_learns_a_planted_reward() {
    let folder = Folder::new();
    folder.lines("train.jsonl", &by_reward());
    for (run, model) in [
        ("bt", "task = \"bradley_terry\""),
        ("margin", "task = \"margin_bradley_terry\""),
        ("scaled", "task = \"scaled_bradley_terry\"\nhidden = [8]"),
        (
            "gpm",
            "task = \"general_preference\"\nplanes = 2\ngate = true\nhidden = [8]",
        ),
        (
            "pal",
            "task = \"ideal_point\"\nwidth = 4\nprototypes = 2\nprototypes_from = \"prompt\"",
        ),
    ] {
        let ran = folder.train(run, model, &[]).done();
        assert!(
            ran.stdout.contains(&format!("best head: {run}/best")),
            "{}",
            ran.stdout
        );
        let manifest = folder.manifest(run);
        let accuracy = metric(&manifest, "accuracy");
        assert!(accuracy > 0.85, "{run}: {accuracy}");
        assert_eq!(manifest["status"], "finished");
        assert!(manifest["examples"][1].as_u64().unwrap() > 10);
        folder.head(run);
        let metrics = fs::read_to_string(folder.path(run).join("metrics.jsonl")).unwrap();
        assert!(
            metrics.contains("\"accuracy\"") && metrics.contains("\"margin\""),
            "{metrics}"
        );
    }
    let again = folder
        .train("bt", "task = \"bradley_terry\"", &["--resume"])
        .done();
    assert!(again.stdout.contains("accuracy"), "{}", again.stdout);
    folder
        .train("bt", "task = \"scaled_bradley_terry\"", &[])
        .refused("holds a run with another configuration");
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let folder = Folder::new();
    folder.lines("train.jsonl", &by_reward());
    let model = "task = \"bradley_terry\"\nhidden = [4]";
    folder.train("whole", model, &[]).done();
    folder.train("parts", model, &[]).done();
    // As a kill after the checkpoint of step 20 leaves it.
    let parts = folder.path("parts");
    fs::remove_dir_all(parts.join("checkpoints/step-000040")).unwrap();
    fs::remove_dir_all(parts.join("best")).unwrap();
    let manifest = folder.path("parts/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
    folder.train("parts", model, &["--resume"]).done();
    for file in [
        "checkpoints/step-000040/weights.safetensors",
        "best/model.safetensors",
    ] {
        let read = |run: &str| fs::read(folder.path(run).join(file)).unwrap();
        assert_eq!(read("whole"), read("parts"), "{file}");
    }
    // Other examples are another run.
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
    folder.lines("train.jsonl", &by_reward()[1..]);
    folder
        .train("parts", model, &["--resume"])
        .refused("other files as its training examples");
}

#[test]
fn a_reward_starts_from_a_regression_on_helpsteers_files_and_is_extrapolated() {
    let folder = Folder::new();
    let ratings: Vec<String> = (0..ITEMS)
        .map(|item| {
            let row = json!({
                "prompt": "p", "response": "r", "helpfulness": reward(item), "verbosity": 1.5
            });
            row.to_string()
        })
        .collect();
    let ratings = ratings.join("\n") + "\n";
    let mut file = GzEncoder::new(Vec::new(), Compression::fast());
    file.write_all(ratings.as_bytes()).unwrap();
    fs::write(folder.path("ratings.jsonl.gz"), file.finish().unwrap()).unwrap();
    let flags = [
        "--set",
        "data.train=ratings.jsonl.gz",
        "--set",
        "train.steps=120",
    ];
    let model = "task = \"regression\"\nattributes = [\"helpfulness\", \"verbosity\"]";
    folder.train("regression", model, &flags).done();
    let manifest = folder.manifest("regression");
    assert!(
        metric(&manifest, "correlation_helpfulness") > 0.95,
        "{manifest}"
    );
    assert!(metric(&manifest, "correlation_verbosity").abs() <= 1.0);

    folder.lines("train.jsonl", &by_reward());
    let model = "task = \"scaled_bradley_terry\"\nstart_from = \"regression/best\"\n\
                 start_output = \"helpfulness\"\nextrapolate = [1.5, 3.0]";
    let ran = folder
        .train("reward", model, &["--set", "train.steps=10"])
        .done();
    let manifest = folder.manifest("reward");
    // The untrained start ranks already, and more of the same direction lowers the loss of separable pairs.
    assert_eq!(manifest["extrapolated"], 3.0, "{manifest}");
    assert!(ran.stdout.contains("extrapolated by 3"), "{}", ran.stdout);
    assert!(metric(&manifest, "accuracy") > 0.85, "{manifest}");
    folder
        .train(
            "wrong",
            "start_from = \"regression/best\"\nstart_output = \"wit\"",
            &[],
        )
        .refused("no output `wit`");
}

/// Users of two kinds: some like a high first coordinate, the others a low one.
fn by_user(users: &[&str], count: usize) -> Vec<Value> {
    let of_user = |(index, user): (usize, &&str)| {
        let high = user.starts_with("high");
        let pairs = pairs(count, |one, two| (reward(one) > reward(two)) == high);
        let user = (*user).to_owned();
        let skipped = pairs.into_iter().skip(index % 3);
        skipped
            .map(move |(chosen, rejected)| {
                json!({"chosen": chosen, "rejected": rejected, "user": user})
            })
            .collect::<Vec<_>>()
    };
    users.iter().enumerate().flat_map(of_user).collect()
}

#[test]
fn users_who_disagree_are_told_apart_and_new_ones_join_one_side() {
    let folder = Folder::new();
    folder.lines(
        "train.jsonl",
        &by_user(&["high 1", "high 2", "low 1", "low 2"], 80),
    );
    let steps = ["--set", "train.steps=150"];
    let model = |count: u32| format!("task = \"ideal_point\"\nwidth = 4\nprototypes = {count}");
    folder.train("pal", &model(2), &steps).done();
    folder.train("one", &model(1), &steps).done();
    let accuracy = |run: &str| metric(&folder.manifest(run), "accuracy");
    assert!(accuracy("pal") > 0.85, "{}", accuracy("pal"));
    assert!(accuracy("one") < 0.65, "{}", accuracy("one"));

    folder.lines("train.jsonl", &by_user(&["high 3", "low 3"], 12));
    let new = "task = \"ideal_point\"\nstart_from = \"pal/best\"\nnew_users = true";
    folder.train("new", new, &[]).done();
    let head = folder.head("new");
    let HeadKind::IdealPoint(config) = &head.config().kind else {
        panic!("another head");
    };
    assert_eq!(
        config.users,
        ["high 1", "high 2", "low 1", "low 2", "high 3", "low 3"]
    );
    let Network::IdealPoint(points) = head.network() else {
        panic!("another head");
    };
    let weights = points.weights(&Tensor::arange(6, (Kind::Int64, Device::Cpu)));
    let first = |user: i64| weights.double_value(&[user, 0]) > 0.5;
    assert_eq!(first(0), first(1));
    assert_eq!(first(2), first(3));
    assert_ne!(first(0), first(2));
    assert_eq!((first(4), first(5)), (first(0), first(2)));
    folder.lines("train.jsonl", &by_user(&["high 1"], 12));
    folder
        .train("known", new, &[])
        .refused("knows the user `high 1` already");
}

#[test]
fn bad_reward_configurations_and_data_are_refused() {
    let folder = Folder::new();
    folder.lines("train.jsonl", &by_reward());
    let refused = |model: &str, flags: &[&str], message: &str| {
        folder.train("bad", model, flags).refused(message);
    };
    refused("task = \"bradly\"", &[], "reward_model.task");
    refused(
        "tak = \"regression\"",
        &[],
        "unknown key `reward_model.tak`; did you mean `reward_model.task`?",
    );
    refused("tau = 0.0", &[], "`reward_model.tau` must be above 0");
    refused(
        "extrapolate = [1.5]",
        &[],
        "needs `reward_model.start_from`",
    );
    refused("new_users = true", &[], "`reward_model.new_users` needs");
    refused(
        "",
        &["--set", "data.validation_share=0.0"],
        "nothing is held out",
    );
    refused(
        "",
        &["--photos", "x"],
        "`--photos` belongs to runs on a subject's photos",
    );
    refused("", &["--paper"], "belongs to runs on a subject's photos");
    refused(
        "",
        &["--set", "data.embeddings=none.safetensors"],
        "none.safetensors",
    );
    for (row, message) in [
        (json!({"chosen": 1}), "line 1: `rejected` is missing"),
        (
            json!({"chosen": 1, "rejected": 1}),
            "are one response, row 1",
        ),
        (
            json!({"chosen": 1, "rejected": ITEMS}),
            "not one of the 60 rows of `responses`",
        ),
        (
            json!({"chosen": 1, "rejected": "x"}),
            "not one of the 60 rows",
        ),
        (
            json!({"chosen": 1, "rejected": 2, "margin": -1}),
            "`margin` is -1",
        ),
        (
            json!({"chosen": 1, "rejected": 2, "prompt": 2}),
            "not one of the 2 rows of `prompts`",
        ),
        (
            json!({"chosen": 1, "rejected": 2, "split": "dev"}),
            "neither `train` nor `validation`",
        ),
    ] {
        folder.lines("train.jsonl", &[row]);
        refused("", &[], message);
    }
    folder.lines(
        "train.jsonl",
        &[
            json!({"chosen": 1, "rejected": 2}),
            json!({"chosen": 3, "rejected": 2}),
        ],
    );
    refused(
        "task = \"general_preference\"\ngate = true",
        &[],
        "this head reads prompts",
    );
    refused("task = \"regression\"", &[], "`helpfulness` is missing");
}

#[test]
fn the_configuration_is_checked_and_printed() {
    let folder = Folder::new();
    for name in [
        "bradley_terry",
        "general_preference",
        "pal",
        "helpsteer2_regression",
    ] {
        let config =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("configs/reward/{name}.toml"));
        let ran = folder.binary(&["check", config.to_str().unwrap()]).done();
        assert!(ran.stdout.contains("[reward_model]"), "{}", ran.stdout);
    }
}

#[test]
fn published_preferences_and_names_are_read_as_they_are() {
    let folder = Folder::new();
    folder.lines(
        "helpsteer.jsonl",
        &[
            json!({"split": "train", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": -3}),
            json!({"split": "train", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 0}),
            json!({"split": "validation", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1}),
        ],
    );
    let rows = Rows::numbered(6, 0);
    let pairs = read_pairs(
        &folder.path("helpsteer.jsonl"),
        &rows,
        &mut LeftOut::default(),
    )
    .unwrap();
    let read: Vec<_> = pairs
        .iter()
        .map(|pair| {
            (
                pair.chosen,
                pair.rejected,
                pair.strength as i64,
                pair.held_out,
            )
        })
        .collect();
    assert_eq!(read, [(0, 1, 3, Some(false)), (5, 4, 1, Some(true))]);
    assert!(
        read_pairs(
            &folder.path("helpsteer.jsonl"),
            &Rows::numbered(4, 0),
            &mut LeftOut::default()
        )
        .is_err()
    );

    fs::write(folder.path("ids.txt"), "ann\nbob\ncid\n").unwrap();
    let named = Rows::named(&folder.path("ids.txt"), 3, 0).unwrap();
    folder.lines(
        "named.jsonl",
        &[json!({"chosen": "cid", "rejected": "ann", "weight": 2})],
    );
    let pairs = read_pairs(&folder.path("named.jsonl"), &named, &mut LeftOut::default()).unwrap();
    assert_eq!(
        (pairs[0].chosen, pairs[0].rejected, pairs[0].weight as i64),
        (2, 0, 2)
    );
    assert!(Rows::named(&folder.path("ids.txt"), 4, 0).is_err());
    folder.lines(
        "unnamed.jsonl",
        &[json!({"chosen": "dan", "rejected": "ann"})],
    );
    let error = read_pairs(
        &folder.path("unnamed.jsonl"),
        &named,
        &mut LeftOut::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("`dan`"), "{error}");

    folder.lines(
        "ratings.jsonl",
        &[json!({"wit": 2}), json!({"row": "ann", "wit": 3.5})],
    );
    let ratings = read_ratings(&folder.path("ratings.jsonl"), &["wit".to_owned()], &named).unwrap();
    assert_eq!((ratings[0].row, ratings[1].row), (0, 0));
    assert!((ratings[1].values[0] - 3.5).abs() < 1e-12);
}

#[test]
fn ties_of_labelled_pairs_on_embeddings_are_counted_and_a_label_against_chosen_turns_the_pair() {
    let folder = Folder::new();
    let row = |label: Value| json!({"chosen": 0, "rejected": 1, "label": label, "weight": 0.5});
    folder.lines(
        "pairs.jsonl",
        &[
            row(json!(1)),
            row(json!(0.5)),
            row(json!(0)),
            row(json!(false)),
        ],
    );
    let mut left_out = LeftOut::default();
    let pairs = read_pairs(
        &folder.path("pairs.jsonl"),
        &Rows::numbered(2, 0),
        &mut left_out,
    )
    .unwrap();
    let chosen: Vec<usize> = pairs.iter().map(|pair| pair.chosen).collect();
    assert_eq!(chosen, [0, 1, 1]);
    assert!(pairs.iter().all(|pair| (pair.weight - 0.5).abs() < 1e-9));
    assert_eq!(left_out.reasons.len(), 1);
    assert_eq!(
        (left_out.reasons[0].rows, left_out.reasons[0].is_fault),
        (1, false)
    );
    for (name, rows, problem) in [
        ("ties.jsonl", vec![row(json!(0.5))], "no row in it prefers"),
        ("wide.jsonl", vec![row(json!(2))], "`label` is 2"),
    ] {
        folder.lines(name, &rows);
        let error = read_pairs(
            &folder.path(name),
            &Rows::numbered(2, 0),
            &mut LeftOut::default(),
        )
        .unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
}

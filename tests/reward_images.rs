//! Heads on an encoder's vectors of images through the binary, embeddings in Parquet, and their use in `score`.

use std::fs;

use image::{Rgb, RgbImage};
use preftune::data::embeddings::read;
use preftune::jobs::compare::items::Items;
use preftune::jobs::compare::outcome;
use preftune::jobs::compare::records::Choice;
use preftune::jobs::compare::session::Session;
use serde_json::{Value, json};

use crate::command::{self, Ran, own_folder};
use crate::support::{assert_close, golden};

own_folder!();

impl Folder {
    /// Sixteen images from dark to light, and pairs that prefer the lighter one.
    fn new() -> Self {
        let folder = Self(command::Folder::new());
        fs::create_dir(folder.path("images")).unwrap();
        for number in 0..16_u8 {
            let light = 16 * number;
            let image = RgbImage::from_fn(64, 64, |x, y| {
                Rgb([light, light.wrapping_add((x + y) as u8 / 8), light])
            });
            image
                .save(folder.path(&format!("images/{number:02}.png")))
                .unwrap();
        }
        let rows: Vec<Value> = (0..40_usize)
            .map(|at| {
                let (one, two) = (at * 7 % 16, (at * 5 + 3) % 16);
                let two = if one == two { (two + 1) % 16 } else { two };
                json!({
                    "image_0_uid": format!("{one:02}"), "image_1_uid": format!("{two:02}"),
                    "label_0": if one > two { 1.0 } else { 0.0 }, "caption": "a light",
                })
            })
            .collect();
        folder.lines("pairs.jsonl", &rows);
        folder
    }

    fn train(&self, run: &str, data: &str, more: &[&str]) -> Ran {
        let config = format!(
            "[run]\noutput = \"{run}\"\ndevice = \"cpu\"\n[reward_model]\ntask = \"bradley_terry\"\n\
             [data]\n{data}\ntrain = \"pairs.jsonl\"\nvalidation_share = 0.2\n\
             [train]\nsteps = 60\nbatch = 16\nlearning_rate = 0.05\n[validation]\nevery = 20\npatience = 0\n"
        );
        fs::write(self.path("run.toml"), config).unwrap();
        self.binary(&[&["train", "run.toml", "--quiet"], more].concat())
    }

    fn score(&self, reward: &str, encoder: &str) -> Ran {
        let encoder = golden(encoder);
        let flags = [
            "score",
            "--references",
            "images",
            "--images",
            "images",
            "--prompt",
            "a light",
        ];
        let more = [
            "--encoder",
            encoder.to_str().unwrap(),
            "--reward",
            reward,
            "--json",
            "--device",
            "cpu",
        ];
        self.binary(&[&flags[..], &more].concat())
    }
}

fn images() -> String {
    let encoder = toml::Value::from(golden("encoders/clip").to_str().unwrap());
    format!("images = \"images\"\nencoder = {encoder}")
}

#[test]
fn a_head_on_clips_vectors_learns_from_pairs_of_images_and_scores_them() {
    let folder = Folder::new();
    folder.train("light", &images(), &[]).done();
    let report = folder.score("light", "encoders/clip").done();
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let rewards: Vec<f64> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["learnt_reward"].as_f64().unwrap())
        .collect();
    // Random weights tell light from dark, and little more.
    let darkest = rewards[8..].iter().copied().fold(f64::INFINITY, f64::min);
    let lightest = rewards[..8]
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    assert!(darkest > lightest, "{rewards:?}");

    // The vectors are kept, and are embeddings like any others: the same head comes of them.
    let rows = folder.path("light/embeddings.safetensors");
    assert!(rows.exists());
    let manifest = folder.path("light/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
    fs::remove_dir_all(folder.path("light/checkpoints")).unwrap();
    let best = fs::read(folder.path("light/best/model.safetensors")).unwrap();
    folder.train("light", &images(), &["--resume"]).done();
    assert_eq!(
        best,
        fs::read(folder.path("light/best/model.safetensors")).unwrap()
    );

    // Another encoder's vectors mean nothing to it.
    folder
        .score("light", "encoders/align")
        .refused("reads vectors of width");
    folder
        .train("two", &(images() + "\nembeddings = \"e.safetensors\""), &[])
        .refused("exclude each other");
    folder
        .train("none", "images = \"images\"", &[])
        .refused("`data.images` needs `data.encoder`");
    folder.lines(
        "pairs.jsonl",
        &[json!({"chosen": "00.png", "rejected": "gone.png"})],
    );
    folder
        .train("gone", &images(), &[])
        .refused("no image \"gone.png\"");
}

#[test]
fn the_command_of_a_session_trains_a_reward_that_labels_the_images_by_what_was_said() {
    let folder = Folder::new();
    let captions: Vec<Value> = (0..16)
        .map(|number| json!({"file_name": format!("{number:02}.png"), "prompt": "a light"}))
        .collect();
    folder.lines("images/metadata.jsonl", &captions);
    let items = Items::open(&[folder.path("images")]).unwrap();
    let mut session = Session::open(items, &folder.path("kept"), "ann").unwrap();
    while let Some(pair) = session.next() {
        // By name the later one is the lighter one.
        let is_left = pair.left > pair.right;
        let choice = match session.ticket() % 11 {
            10 => Choice::Tie,
            _ if is_left => Choice::Left,
            _ => Choice::Right,
        };
        let ticket = session.ticket();
        session.answer(ticket, choice, 1.0).unwrap().unwrap();
    }
    let written = outcome::write(&session, &folder.path("kept/pairs.jsonl")).unwrap();
    drop(session);
    let command = shlex::split(&written.reward_command.unwrap()).unwrap();
    let clip = golden("encoders/clip");
    let clip = clip.to_str().unwrap();
    let root = env!("CARGO_MANIFEST_DIR");
    let words = command.iter().skip(1).map(|word| match word.as_str() {
        "data.encoder=CLIP" => format!("data.encoder={clip}"),
        word => word.replace("configs/", &format!("{root}/configs/")),
    });
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let more = [
        "--set",
        "run.output=learnt",
        "--set",
        "train.steps=60",
        "--set",
        "data.validation_share=0.0",
        "--set",
        "validation.every=0",
        "--set",
        "validation.patience=0",
    ];
    let trained = folder.binary(&[&words[..], &more].concat());
    let trained = trained.done();
    let ties = format!("{} rows: a tie", written.ties);
    assert!(
        written.ties > 1 && trained.stderr.contains(&ties),
        "{}",
        trained.stderr
    );

    let label = [
        "label",
        "--images",
        "images",
        "--encoder",
        clip,
        "--device",
        "cpu",
        "--out",
        "labels.jsonl",
    ];
    let by_reward = [&label[..], &["--reward", "learnt"]].concat();
    folder.binary(&by_reward).done();
    let rows = folder.rows("labels.jsonl");
    assert_eq!(rows.len(), 120, "all pairs of sixteen images");
    let lighter = rows
        .iter()
        .filter(|row| row["chosen"].as_str() > row["rejected"].as_str());
    let lighter = lighter.count();
    assert!(lighter > 90, "{lighter} of 120");
    for row in &rows {
        let gap = row["chosen_score"].as_f64().unwrap() - row["rejected_score"].as_f64().unwrap();
        let probability = 1.0 / (1.0 + (-gap).exp());
        assert!((row["chosen_prob"].as_f64().unwrap() - probability).abs() < 1e-9);
        assert!(row["reward"] == "learnt" && row["lambda"].is_null());
    }
    folder
        .binary(&[&by_reward[..], &["--lambda", "0.5"]].concat())
        .refused("judges each image alone");
}

#[test]
fn rows_of_images_that_cannot_be_read_are_left_out_and_counted() {
    let folder = Folder::new();
    let pair = |one: usize, other: usize| json!({"chosen": format!("{one:02}.png"), "rejected": format!("{other:02}.png")});
    let mut rows: Vec<Value> = (0..38).map(|at| pair(at % 14 + 1, at % 14)).collect();
    rows.extend([pair(15, 0), pair(1, 15)]);
    folder.lines("pairs.jsonl", &rows);
    let whole = fs::read(folder.path("images/15.png")).unwrap();
    fs::write(folder.path("images/15.png"), &whole[..whole.len() / 2]).unwrap();
    let aloud = |run: &str, more: &[&str]| {
        folder
            .train(run, &images(), &["--set", "train.steps=4"])
            .done();
        folder.binary(&[&["train", "run.toml", "--set", "train.steps=4"], more].concat())
    };
    let ran = aloud("one", &["--output", "again"]).done();
    let words = "left out, 2 rows: the image \"images/15.png\" cannot be read";
    assert_eq!(ran.stderr.matches(words).count(), 1, "{}", ran.stderr);
    // The same pairs without the two give the same head.
    let best = |run: &str| fs::read(folder.path(run).join("best/model.safetensors")).unwrap();
    folder.lines("pairs.jsonl", &rows[..38]);
    folder
        .train("without", &images(), &["--set", "train.steps=4"])
        .done();
    assert_eq!(best("again"), best("without"));
    // A tenth is too many, and one is where none may be dropped.
    folder.lines("pairs.jsonl", &rows);
    let error = ["--set", "data.invalid=error"];
    folder
        .train("error", &images(), &error)
        .refused("2 of 40 rows cannot be used");
    let many: Vec<Value> = (0..10).map(|at| pair(15, at)).chain(rows).collect();
    folder.lines("pairs.jsonl", &many);
    folder
        .train("many", &images(), &[])
        .refused("a tenth is too many to go on without them");
}

#[test]
fn ratings_of_images_with_faults_are_left_out_and_counted() {
    let folder = Folder::new();
    let rows = |faulty: usize| -> Vec<Value> {
        let rating = |at: usize| {
            let image = format!("{:02}.png", at % 15);
            match at {
                0 if faulty > 0 => json!({"image": "gone.png", "light": 1.0}),
                at if at < faulty => json!({"image": image, "light": "bright"}),
                _ => json!({"image": image, "light": at % 15}),
            }
        };
        (0..40).map(rating).collect()
    };
    let ratings = |run: &str, faulty: usize| {
        folder.lines("pairs.jsonl", &rows(faulty));
        folder.train(run, &images(), &["--set", "train.steps=2"]);
        let task = [
            "--set",
            "reward_model.task=regression",
            "--set",
            "train.steps=2",
        ];
        let more = ["--set", "reward_model.attributes=[\"light\"]"];
        folder.binary(&[&["train", "run.toml"], &task[..], &more].concat())
    };
    let ran = ratings("few", 2).done();
    for words in [
        "1 row: no image \"gone.png\"",
        "1 row: `light` is \"bright\"",
    ] {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    ratings("many", 4).refused("4 of 40 rows cannot be used");
}

/// Rewards by name of `score --json`.
fn column(report: &Value, name: &str) -> Vec<f64> {
    let rows = report["images"].as_array().unwrap();
    rows.iter().map(|row| row[name].as_f64().unwrap()).collect()
}

#[test]
fn pick_a_pics_tables_bring_their_images() {
    let folder = Folder::new();
    let encoder = toml::Value::from(golden("encoders/clip").to_str().unwrap());
    let table = |name: &str| {
        let path = toml::Value::from(golden(name).to_str().unwrap());
        vec!["--set".to_owned(), format!("data.train={path}")]
    };
    let train = |run: &str, name: &str| {
        let more = table(name);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        folder.train(run, &format!("encoder = {encoder}"), &more)
    };
    train("cells", "pick_a_pic/pick_a_pic.parquet").done();
    // The same pairs of the same images in files: the same vectors, in the same order.
    folder.train("files", &images(), &[]).done();
    for file in ["embeddings.safetensors", "best/model.safetensors"] {
        let tensors = |run: &str| {
            let path = folder.path(run).join(file);
            let mut tensors = tch::Tensor::read_safetensors(path).unwrap();
            tensors.sort_by(|one, other| one.0.cmp(&other.0));
            tensors
        };
        for (cells, files) in tensors("cells").into_iter().zip(tensors("files")) {
            assert_eq!((&cells.0, cells.1.size()), (&files.0, files.1.size()));
            assert_close(&cells.0, &cells.1, &files.1, 1e-5);
        }
    }
    let manifest = folder.manifest("cells");
    assert_eq!(manifest["status"], "finished");
    let ran = train("hub", "pick_a_pic/hub_images.parquet");
    ran.done();
    train("none", "text/pairs.parquet").refused("no image \"");
}

#[test]
fn a_preference_model_compares_the_images_of_each_prompt() {
    let folder = Folder::new();
    let task = "reward_model.task=general_preference";
    folder
        .train(
            "general",
            &images(),
            &["--set", task, "--set", "reward_model.gate=true"],
        )
        .done();
    let report: Value =
        serde_json::from_str(&folder.score("general", "encoders/clip").done().stdout).unwrap();
    let means = column(&report, "learnt_preference");
    let preferences = &report["preferences"][0];
    assert_eq!(preferences["files"].as_array().unwrap().len(), 16);
    let table: Vec<Vec<f64>> =
        serde_json::from_value(preferences["probabilities"].clone()).unwrap();
    for (one, row) in table.iter().enumerate() {
        let logit = |wins: &f64| (wins / (1.0 - wins)).ln();
        let mean = row.iter().map(logit).sum::<f64>() / 15.0;
        assert!(
            (mean - means[one]).abs() < 1e-3 * means[one].abs().max(1.0),
            "{mean} {}",
            means[one]
        );
        for (other, wins) in row.iter().enumerate() {
            assert!((wins + table[other][one] - 1.0).abs() < 1e-5);
        }
    }
    // The lighter half wins, as in the pairs.
    let half = |range: std::ops::Range<usize>| means[range].iter().sum::<f64>();
    assert!(half(8..16) > half(0..8), "{means:?}");
    // Each prompt's images are compared among themselves.
    let prompts = "light 0\n".repeat(15) + "light 1\n";
    fs::write(folder.path("prompts.txt"), prompts).unwrap();
    let encoder = golden("encoders/clip");
    let flags = [
        "score",
        "--references",
        "images",
        "--images",
        "images",
        "--prompts",
        "prompts.txt",
        "--encoder",
        encoder.to_str().unwrap(),
        "--reward",
        "general",
        "--device",
        "cpu",
    ];
    folder
        .binary(&flags)
        .refused("compares images, and `light 1` has only one");
}

#[test]
fn embeddings_are_read_from_parquet() {
    let file = golden("reward/embeddings.parquet");
    let all = read(&file).unwrap();
    assert_eq!((all.responses.width, all.responses.rows()), (3, 12));
    assert_eq!((all.prompts.width, all.prompts.rows()), (2, 2));
    assert_eq!(all.names[1], "item 1");
    assert!((all.responses.values[3] - 1.0).abs() < 1e-6);

    let folder = Folder::new();
    let rows: Vec<Value> = (0..30_usize)
        .map(|at| {
            let (one, two) = (at % 12, (at * 5 + 1) % 12);
            let (high, low) = if one == two {
                (one.max(1), 0)
            } else {
                (one.max(two), one.min(two))
            };
            json!({"chosen": format!("item {high}"), "rejected": format!("item {low}")})
        })
        .collect();
    folder.lines("pairs.jsonl", &rows);
    let path = toml::Value::from(file.to_str().unwrap());
    let ran = folder
        .train("parquet", &format!("embeddings = {path}"), &[])
        .done();
    assert!(
        ran.stdout.contains("accuracy                 1.0000"),
        "{}",
        ran.stdout
    );

    let broken = golden("reward/ragged.parquet");
    let path = toml::Value::from(broken.to_str().unwrap());
    folder
        .train("ragged", &format!("embeddings = {path}"), &[])
        .refused("row 2: `embedding` has 2 numbers, the first row has 3");
    let other = golden("text/pairs.parquet");
    let path = toml::Value::from(other.to_str().unwrap());
    folder
        .train("none", &format!("embeddings = {path}"), &[])
        .refused("no column `responses`");
}

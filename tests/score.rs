//! `preftune score` and `preftune label` through the binary: values, files, bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Rgb, RgbImage};
use preftune::data::png;
use preftune::rewards::harmonic::lambda_harmonic;
use serde_json::Value;

use crate::support::{golden, shared};

/// What the command did.
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Wrong input: exit code 2, the message, no trace of a panic.
    #[track_caller]
    fn refused(&self, message: &str) {
        println!("{}", self.stderr);
        assert_eq!(self.code, 2, "{}", self.stderr);
        assert!(self.stderr.contains(message), "{message}: {}", self.stderr);
        assert!(self.stdout.is_empty(), "{}", self.stdout);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Photos, generated images and a tiny CLIP with random weights.
struct World {
    root: tempfile::TempDir,
}

/// A scene whose colours and waves depend on its number.
fn scene(number: u32) -> RgbImage {
    RgbImage::from_fn(60, 48, |x, y| {
        let wave = |k: u32| {
            (127.0
                + 120.0
                    * (f64::from((x + 3 * number) * k) / 17.0 + f64::from(y * number) / 23.0).sin())
                as u8
        };
        Rgb([wave(1 + number % 3), wave(2), wave(3 + number % 2)])
    })
}

impl World {
    /// `photos` references and `images` generated images without prompts.
    fn new(photos: u32, images: u32) -> Self {
        let world = Self {
            root: tempfile::tempdir().unwrap(),
        };
        for (folder, count, offset) in [("photos", photos, 0), ("images", images, 40)] {
            fs::create_dir(world.path(folder)).unwrap();
            for number in 0..count {
                let path = world.path(&format!("{folder}/{number}.png"));
                scene(number + offset).save(path).unwrap();
            }
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Runs a verb on the two folders with more flags.
    fn run(&self, verb: &str, flags: &[&str]) -> Outcome {
        self.run_on_images(verb, &[&["--references", "photos"], flags].concat())
    }

    /// Runs a verb on the images alone with more flags.
    fn run_on_images(&self, verb: &str, flags: &[&str]) -> Outcome {
        let encoder = golden("encoders/clip");
        let folders = ["--images", "images", "--device", "cpu"];
        let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .current_dir(self.root.path())
            // Many of these run at once.
            .env("OMP_NUM_THREADS", "1")
            .arg(verb)
            .args(folders)
            .arg("--encoder")
            .arg(encoder)
            .args(flags)
            .output()
            .unwrap();
        Outcome {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn score(&self, flags: &[&str]) -> Outcome {
        self.run("score", &[flags, &["--json", "--quiet"]].concat())
    }

    fn label(&self, flags: &[&str]) -> Outcome {
        self.run(
            "label",
            &[&["--quiet", "--out", "labels.jsonl"], flags].concat(),
        )
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("labels.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn number(value: &Value, name: &str) -> f64 {
    value[name]
        .as_f64()
        .unwrap_or_else(|| panic!("no number `{name}` in {value}"))
}

/// The columns of a record's photo and of its image.
fn photo_and_image(record: &Value) -> (&'static str, &'static str) {
    match record["photo"].as_str() {
        Some("chosen") => ("chosen", "rejected"),
        Some("rejected") => ("rejected", "chosen"),
        other => panic!("{other:?}"),
    }
}

/// What a record says of its image.
fn of_image(record: &Value, what: &str) -> f64 {
    number(record, &format!("{}_{what}", photo_and_image(record).1))
}

fn column(report: &Value, name: &str) -> Vec<f64> {
    let images = report["images"].as_array().unwrap();
    images.iter().map(|image| number(image, name)).collect()
}

#[test]
fn score_reports_similarities_rewards_and_cosines_of_every_image() {
    let world = World::new(3, 4);
    let report = world
        .score(&["--prompt", "a [V] dog on the beach", "--lambda", "0,0.3,1"])
        .json();
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 4);
    for image in images {
        let (likeness, alignment) = (number(image, "image"), number(image, "text"));
        for lambda in [0.0, 0.3, 1.0] {
            let reward = number(image, &format!("reward_{lambda}"));
            assert!((reward - lambda_harmonic(likeness, alignment, lambda)).abs() < 1e-12);
        }
        assert!((number(image, "clip_i") - (2.0 * likeness - 1.0)).abs() < 1e-12);
        assert!((number(image, "clip_t") - (2.0 * alignment - 1.0)).abs() < 1e-12);
        assert_eq!(image["prompt"], "a [V] dog on the beach");
    }
    let mean = column(&report, "reward_0.3").iter().sum::<f64>() / 4.0;
    assert!((number(&report["mean"], "reward_0.3") - mean).abs() < 1e-12);
    assert!(number(&report["photos_among_themselves"], "clip_i") <= 1.0);
    // Photos are encoded once, however many images and prompts there are.
    assert_eq!(report["encoders"]["encoder"]["encoded_images"], 7);
}

#[test]
fn score_is_the_same_with_and_without_the_token_and_sees_it_where_it_is_named_otherwise() {
    let world = World::new(2, 2);
    let text = |flags: &[&str]| column(&world.score(flags).json(), "text");
    let plain = text(&["--prompt", "a dog on the beach"]);
    assert_eq!(text(&["--prompt", "a [V] dog on the beach"]), plain);
    assert_eq!(
        text(&["--prompt", "a sks dog on the beach", "--token", "sks"]),
        plain
    );
    assert_eq!(
        text(&[
            "--prompt",
            "a {token} {class} on the beach",
            "--class",
            "dog"
        ]),
        plain
    );
    assert_ne!(
        text(&["--prompt", "a [V] dog on the beach", "--token", "sks"]),
        plain
    );
}

#[test]
fn every_way_to_give_prompts_gives_the_same_scores() {
    let world = World::new(2, 3);
    let prompts = ["a red dog", "a [V] cat in the snow", "a photo, \"quoted\""];
    world.write("prompts.txt", &format!("# mine\n{}\n", prompts.join("\n")));
    let listed = world.score(&["--prompts", "prompts.txt"]).json();
    let expected = column(&listed, "text");
    // In the PNG files, as `preftune generate` writes them.
    for (index, prompt) in prompts.iter().enumerate() {
        let path = world.path(&format!("images/{index}.png"));
        let image = image::open(&path).unwrap().into_rgb8();
        png::write(&path, &image, &[("prompt", (*prompt).to_owned())]).unwrap();
    }
    assert_eq!(column(&world.score(&[]).json(), "text"), expected);
    // In a metadata file, which wins over the PNG text.
    let records: Vec<String> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| {
            let field = if index == 0 { "text" } else { "prompt" };
            serde_json::json!({"file_name": format!("{index}.png"), field: prompt}).to_string()
        })
        .collect();
    for index in 0..3 {
        scene(40 + index)
            .save(world.path(&format!("images/{index}.png")))
            .unwrap();
    }
    world.write("images/metadata.jsonl", &(records.join("\n\n") + "\n"));
    assert_eq!(column(&world.score(&[]).json(), "text"), expected);
    // One prompt for all.
    world.write("one.txt", "a red dog\n");
    let one = column(&world.score(&["--prompts", "one.txt"]).json(), "text");
    assert!((one[0] - expected[0]).abs() < 1e-6);
    assert!((one[1] - expected[1]).abs() > 1e-4);
}

#[test]
fn generated_images_are_listed_with_their_prompts_as_score_reads_them() {
    let world = World::new(2, 0);
    let model = golden("diffusion/sd1");
    let generate = |prompts: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preftune"));
        command
            .current_dir(world.path("."))
            .args([
                "generate", "--out", "images", "--steps", "1", "--device", "cpu",
            ])
            .args([
                "--width", "16", "--height", "16", "--seed", "7", "--quiet", "--model",
            ])
            .arg(&model);
        for prompt in prompts {
            command.args(["--prompt", prompt]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let listed = || {
        let text = fs::read_to_string(world.path("images/metadata.jsonl")).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.collect::<Vec<Value>>()
    };
    generate(&["a red dog", "12"]);
    let rows = listed();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1]["file_name"], "00001.png");
    assert_eq!(
        (&rows[0]["prompt"], &rows[1]["prompt"]),
        (&"a red dog".into(), &"12".into())
    );
    assert_eq!(
        (&rows[1]["seed"], &rows[1]["steps"]),
        (&7.into(), &1.into())
    );
    // Drawn anew: no row speaks of an image that is not there any more.
    let kept = serde_json::json!({"file_name": "mine.png", "prompt": "mine"});
    let text = fs::read_to_string(world.path("images/metadata.jsonl")).unwrap();
    world.write("images/metadata.jsonl", &format!("{kept}\n{text}"));
    scene(3).save(world.path("images/mine.png")).unwrap();
    generate(&["a blue cat"]);
    let prompts: Vec<Value> = listed().iter().map(|row| row["prompt"].clone()).collect();
    assert_eq!(prompts, ["mine", "12", "a blue cat"]);
    let scored = world.score(&[]).json();
    let scored = scored["images"].as_array().unwrap();
    let prompts: Vec<&Value> = scored.iter().map(|image| &image["prompt"]).collect();
    assert_eq!(prompts, ["a blue cat", "12", "mine"]);
}

#[test]
fn score_prints_a_table_and_writes_csv() {
    let world = World::new(2, 2);
    let outcome = world.run(
        "score",
        &[
            "--prompt",
            "a dog, \"big\"",
            "--csv",
            "scores.csv",
            "--quiet",
        ],
    );
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{}", outcome.stdout);
    assert!(lines[0].contains("reward_0.5") && lines[3].starts_with("mean"));
    let csv = fs::read_to_string(world.path("scores.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].starts_with("file,prompt,image,text,reward_0.3"),
        "{csv}"
    );
    assert!(lines[1].contains("\"a dog, \"\"big\"\"\""), "{csv}");
}

#[test]
fn dino_and_another_encoder_for_the_report_add_their_own_figures() {
    let world = World::new(2, 3);
    let (dino, other) = (golden("encoders/dino"), golden("encoders/align"));
    let plain = world.score(&["--prompt", "a dog"]).json();
    let flags = ["--prompt", "a dog", "--dino", dino.to_str().unwrap()];
    let flags = [&flags[..], &["--report-encoder", other.to_str().unwrap()]].concat();
    let report = world.score(&flags).json();
    // The reward stays with its encoder, the reported cosines move to the other one.
    assert_eq!(column(&report, "reward_0.5"), column(&plain, "reward_0.5"));
    assert_ne!(column(&report, "clip_i"), column(&plain, "clip_i"));
    assert_ne!(column(&report, "clip_t"), column(&plain, "clip_t"));
    assert!(
        column(&report, "dino")
            .iter()
            .all(|cosine| cosine.abs() <= 1.0)
    );
    assert!(number(&report["photos_among_themselves"], "dino") <= 1.0);
    let encoders = &report["encoders"];
    let hash = |name: &str| {
        encoders[name]["weights_sha256"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_ne!(hash("encoder"), hash("report_encoder"));
    assert_ne!(hash("encoder"), hash("dino"));
    // A dual encoder is no DINO.
    let clip = golden("encoders/clip");
    world
        .score(&["--prompt", "a dog", "--dino", clip.to_str().unwrap()])
        .refused("is a CLIP model");
}

#[test]
fn score_with_one_photo_has_no_figure_for_photos_among_themselves() {
    let world = World::new(1, 1);
    let report = world.score(&["--prompt", "a dog"]).json();
    assert_eq!(
        report["photos_among_themselves"].as_object().unwrap().len(),
        0
    );
}

#[test]
fn a_lambda_outside_its_range_is_refused() {
    let world = World::new(1, 1);
    for lambda in ["1.5", "0.5,-0.1", "-0.1,0.5", "NaN"] {
        world
            .score(&["--prompt", "a dog", "--lambda", lambda])
            .refused("outside 0 to 1");
    }
    for lambda in ["1.5", "-0.1", "NaN"] {
        world
            .label(&["--prompt", "a dog", "--lambda", lambda])
            .refused("outside 0 to 1");
    }
    world
        .score(&["--prompt", "a dog", "--lambda", "half"])
        .refused("half");
    for tau in ["0", "-1", "inf"] {
        world
            .label(&["--prompt", "a dog", "--tau", tau])
            .refused("--tau");
    }
}

/// What is done to the folders before the run.
type Break<'a> = Box<dyn Fn(&Path) + 'a>;

fn break_world(with: impl Fn(&Path)) -> World {
    let world = World::new(2, 2);
    with(world.root.path());
    world
}

#[test]
fn bad_folders_and_bad_photos_are_refused_by_name() {
    let photo = golden("photo/baseline.jpg");
    let bytes = fs::read(photo).unwrap();
    let huge = [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(),
        &20_000u32.to_be_bytes(),
        &20_000u32.to_be_bytes(),
        &[8, 2, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let cases: [(&str, Break<'_>); 8] = [
        (
            "`photos`",
            Box::new(|root| fs::remove_dir_all(root.join("photos")).unwrap()),
        ),
        (
            "no images",
            Box::new(|root| {
                fs::remove_dir_all(root.join("images")).unwrap();
                fs::create_dir(root.join("images")).unwrap();
            }),
        ),
        (
            "no images",
            Box::new(|root| {
                for number in 0..2 {
                    fs::rename(
                        root.join(format!("photos/{number}.png")),
                        root.join(format!("photos/{number}.txt")),
                    )
                    .unwrap();
                }
            }),
        ),
        (
            "truncated",
            Box::new(|root| fs::write(root.join("photos/0.png"), &bytes[..700]).unwrap()),
        ),
        (
            "photos/words.jpg",
            Box::new(|root| fs::write(root.join("photos/words.jpg"), "not pixels").unwrap()),
        ),
        (
            "an empty file",
            Box::new(|root| fs::write(root.join("images/0.png"), "").unwrap()),
        ),
        (
            "20000 x 20000",
            Box::new(|root| fs::write(root.join("images/1.png"), &huge).unwrap()),
        ),
        (
            "a file, where a folder",
            Box::new(|root| {
                fs::remove_dir_all(root.join("images")).unwrap();
                fs::write(root.join("images"), "").unwrap();
            }),
        ),
    ];
    for (message, with) in cases {
        let world = break_world(with);
        world.score(&["--prompt", "a dog"]).refused(message);
        world.label(&["--prompt", "a dog"]).refused(message);
        assert!(!world.path("labels.jsonl").exists());
    }
}

#[test]
fn prompts_that_do_not_fit_the_images_are_refused() {
    let world = World::new(2, 3);
    world
        .score(&[])
        .refused("prompt of this image is not known");
    world.write("two.txt", "a dog\na cat\n");
    world
        .score(&["--prompts", "two.txt"])
        .refused("2 prompts for 3 images");
    world.write("none.txt", "# nothing\n");
    world
        .score(&["--prompts", "none.txt"])
        .refused("no prompts");
    world
        .score(&["--prompts", "absent.txt"])
        .refused("absent.txt");
    world
        .score(&["--prompt", "a {class} at sea"])
        .refused("--class");
    world
        .score(&["--prompt", " [V] "])
        .refused("a prompt is empty");
    world
        .score(&["--prompt", "a dog", "--prompts", "two.txt"])
        .refused("cannot be used with");
    world.write("images/metadata.jsonl", "{\"file_name\": \"0.png\"}\n");
    world.score(&[]).refused("metadata.jsonl`, line 1");
    world.write(
        "images/metadata.jsonl",
        "{\"file_name\": \"0.png\", \"prompt\": \"a dog\"}\n{",
    );
    world.score(&[]).refused("metadata.jsonl`, line 2");
}

#[test]
fn an_encoder_that_is_none_is_refused() {
    let world = World::new(1, 1);
    let run = |encoder: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .current_dir(world.root.path())
            .args([
                "score",
                "--references",
                "photos",
                "--images",
                "images",
                "--prompt",
                "a dog",
            ])
            .args(["--device", "cpu", "--encoder", encoder])
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for encoder in ["absent", "photos"] {
        let (code, stderr) = run(encoder);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(encoder), "{stderr}");
    }
}

#[test]
fn label_writes_a_record_for_every_pair_of_photo_and_image() {
    let world = World::new(3, 4);
    let outcome = world.label(&["--prompt", "a [V] dog", "--tau", "0.02", "--json"]);
    let statistics = outcome.json();
    assert!(outcome.stderr.contains("coin flips"), "{}", outcome.stderr);
    let records = world.records();
    assert_eq!(records.len(), 12);
    let (mut total, mut images) = (0.0, 0);
    for record in &records {
        let gap = number(record, "chosen_score") - number(record, "rejected_score");
        let probability = 1.0 / (1.0 + (-gap / 0.02).exp());
        assert!((number(record, "chosen_prob") - probability).abs() < 1e-12);
        // The likelier one is preferred, be it the photo or the image.
        assert!(gap >= 0.0);
        let (photo, image) = photo_and_image(record);
        assert!(record[photo].as_str().unwrap().starts_with("photos"));
        assert!(record[image].as_str().unwrap().starts_with("images"));
        assert_eq!(record["encoder_sha256"].as_str().unwrap().len(), 64);
        assert_eq!(record["prompt"], "a [V] dog");
        total += if photo == "chosen" {
            probability
        } else {
            1.0 - probability
        };
        images += usize::from(image == "chosen");
    }
    assert!((1..12).contains(&images), "{images}");
    assert_eq!(statistics["pairs"], 12);
    assert!((number(&statistics, "mean_probability") - total / 12.0).abs() < 1e-12);
    // In turns, every image has one record.
    world.label(&["--prompt", "a [V] dog", "--pairs", "turns"]);
    let turns = world.records();
    let photos: Vec<&str> = turns
        .iter()
        .map(|record| record[photo_and_image(record).0].as_str().unwrap())
        .collect();
    assert_eq!(
        photos,
        [
            "photos/0.png",
            "photos/1.png",
            "photos/2.png",
            "photos/0.png"
        ]
    );
}

#[test]
fn label_rewards_are_those_of_score() {
    let world = World::new(3, 2);
    let flags = ["--prompt", "a [V] dog", "--lambda", "0.4"];
    let scores = column(&world.score(&flags).json(), "reward_0.4");
    world.label(&flags);
    for record in world.records() {
        let (_, image) = photo_and_image(&record);
        let index = usize::from(record[image] == "images/1.png");
        let score = number(&record, &format!("{image}_score"));
        assert!((score - scores[index]).abs() < 1e-12);
    }
    // At lambda 0 a photo's reward is its alignment with the prompt, as if it were an image.
    fs::remove_dir_all(world.path("images")).unwrap();
    fs::create_dir(world.path("images")).unwrap();
    for name in ["0.png", "1.png", "2.png"] {
        fs::copy(
            world.path("photos").join(name),
            world.path("images").join(name),
        )
        .unwrap();
    }
    world.label(&["--prompt", "a [V] dog"]);
    for record in world.records() {
        let same = Path::new(record["chosen"].as_str().unwrap()).file_name()
            == Path::new(record["rejected"].as_str().unwrap()).file_name();
        if same {
            assert!((number(&record, "chosen_prob") - 0.5).abs() < 1e-7);
        }
    }
}

#[test]
fn label_transforms_rewards_by_what_the_prompts_images_reach() {
    let world = World::new(3, 6);
    // Two prompts with three images each.
    world.write("prompts.txt", "a dog\na cat\na dog\na cat\na dog\na cat\n");
    let tau = 0.05;
    let flags = [
        "--prompts",
        "prompts.txt",
        "--lambda",
        "0.4",
        "--tau",
        "0.05",
    ];
    let with = |more: &[&str]| {
        let outcome = world.label(&[&flags[..], more].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        world.records()
    };
    let plain = with(&[]);
    assert!(plain[0].get("transform").is_none() && plain[0].get("chosen_value").is_none());
    let records = with(&["--transform", "log-sigmoid", "--reference", "mean"]);
    assert_eq!(records.len(), plain.len());
    // Images come in order, one record a photo.
    let rewards: Vec<f64> = plain
        .iter()
        .step_by(3)
        .map(|record| of_image(record, "score") / tau)
        .collect();
    let all = rewards.iter().sum::<f64>() / 6.0;
    for (index, (record, plain)) in records.iter().zip(&plain).enumerate() {
        let prompt = index / 3 % 2;
        let own = rewards.iter().skip(prompt).step_by(2).sum::<f64>() / 3.0;
        let reference = 3.0 / 8.0 * own + 5.0 / 8.0 * all;
        for side in ["chosen", "rejected"] {
            let reward = number(plain, &format!("{side}_score"));
            assert_eq!(
                record[format!("{side}_score")],
                plain[format!("{side}_score")]
            );
            let value = number(record, &format!("{side}_value"));
            let expected = -(reference - reward / tau).exp().ln_1p();
            assert!((value - expected).abs() < 1e-9, "{value} {expected}");
        }
        let gap = number(record, "chosen_value") - number(record, "rejected_value");
        assert!((number(record, "chosen_prob") - 1.0 / (1.0 + (-gap).exp())).abs() < 1e-12);
        assert_eq!(record["transform"], "log-sigmoid");
        assert_eq!(record["reference"], "mean");
    }
    // What only moves all rewards of a prompt leaves the probabilities alone.
    for (record, plain) in with(&["--transform", "clip:1000"]).iter().zip(&plain) {
        assert!((number(record, "chosen_prob") - number(plain, "chosen_prob")).abs() < 1e-9);
        assert_eq!(record["reference"], "quantile:0.85");
    }
    for kind in ["and", "par", "standardise"] {
        for record in with(&["--transform", kind, "--reference", "canonical"]) {
            assert!(number(&record, "chosen_value").is_finite());
            assert!(kind != "and" || number(&record, "chosen_value") < 0.0);
        }
    }
}

#[test]
fn label_refuses_transforms_that_do_not_exist_or_have_nothing_to_work_on() {
    let world = World::new(1, 2);
    let refused = |flags: &[&str], message: &str| {
        let flags = [&["--prompt", "a dog"], flags].concat();
        world.label(&flags).refused(message);
    };
    refused(&["--transform", "square"], "log-sigmoid");
    refused(&["--reference", "mean"], "--transform");
    refused(
        &["--transform", "par", "--reference", "quantile:2"],
        "between 0 and 1",
    );
    refused(&["--transform", "and"], "only one");
}

#[test]
fn sampled_labels_decide_which_is_chosen_and_repeat_with_their_seed() {
    let world = World::new(4, 8);
    let draw = |seed: &str| {
        let outcome = world.label(&["--prompt", "a dog", "--labels", "sampled", "--seed", seed]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let records = world.records();
        records
            .iter()
            .map(|record| record["photo"] == "chosen")
            .collect::<Vec<bool>>()
    };
    let first = draw("0");
    assert!(first.contains(&true) && first.contains(&false));
    // A draw may go against the odds, which are written down as they are.
    let against = world.records().into_iter();
    assert!(
        against
            .map(|record| number(&record, "chosen_prob"))
            .any(|odds| odds < 0.5)
    );
    assert_eq!(draw("0"), first);
    assert_ne!(draw("1"), first);
}

#[test]
fn label_warns_of_coin_flips_and_repeated_images() {
    let world = World::new(2, 2);
    fs::copy(world.path("images/0.png"), world.path("images/1.png")).unwrap();
    let outcome = world.label(&["--prompt", "a dog", "--tau", "1000"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("most labels are coin flips"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome
            .stderr
            .contains("`images/1.png` nearly repeats `images/0.png`"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stdout, "labels.jsonl\n");
}

#[test]
fn images_without_photos_are_scored_by_their_prompts() {
    let world = World::new(2, 3);
    let flags = ["--prompt", "a dog", "--json", "--quiet", "--logit"];
    let outcome = world.run_on_images("score", &flags);
    let report = outcome.json();
    assert!(outcome.stderr.contains("without `--references`"));
    let with_photos = world
        .score(&["--prompt", "a dog", "--lambda", "0", "--logit"])
        .json();
    for name in ["text", "clip_t", "reward_0", "logit"] {
        assert_eq!(column(&report, name), column(&with_photos, name), "{name}");
    }
    assert_eq!(column(&report, "reward_0"), column(&report, "text"));
    // `logit_scale` of the golden CLIP, one number in f16.
    let scale = {
        let file = golden("encoders/clip/model.safetensors");
        let file = preftune::models::weights::Checkpoint::open_file(&file).unwrap();
        file.tensor("logit_scale").unwrap().double_value(&[]).exp()
    };
    let scaled = column(&report, "clip_t").into_iter().map(|t| t * scale);
    let logits = column(&report, "logit");
    for (scaled, logit) in scaled.zip(logits) {
        assert!((scaled - logit).abs() < 1e-9);
    }
    for name in ["image", "clip_i", "reward_0.3"] {
        assert!(report["images"][0].get(name).is_none(), "{name}");
    }
    assert_eq!(report["lambda"], serde_json::json!([0.0]));
    assert_eq!(report["references"], serde_json::json!([]));
    assert_eq!(report["photos_among_themselves"], serde_json::json!({}));
    let flags = ["--prompt", "a dog", "--csv", "scores.csv", "--quiet"];
    let table = world.run_on_images("score", &flags);
    assert_eq!(table.code, 0, "{}", table.stderr);
    assert!(!table.stdout.contains("photos"), "{}", table.stdout);
    let csv = fs::read_to_string(world.path("scores.csv")).unwrap();
    assert!(
        csv.starts_with("file,prompt,text,reward_0,clip_t\n"),
        "{csv}"
    );
    let standardised = ["--transform", "standardise", "--prompt", "a dog", "--json"];
    let report = world.run_on_images("score", &standardised).json();
    assert_eq!(column(&report, "reward_0_transformed").len(), 3);
}

#[test]
fn what_needs_photos_is_refused_without_them() {
    let world = World::new(2, 2);
    let clip = golden("encoders/clip");
    let dino = clip.to_str().unwrap();
    let refused = |verb: &str, flags: &[&str], message: &str| {
        let more = ["--prompt", "a dog", "--quiet"];
        world
            .run_on_images(verb, &[&more, flags].concat())
            .refused(message);
    };
    refused("score", &["--lambda", "0.3"], "--references");
    refused("score", &["--dino", dino], "--references");
    refused("score", &["--transform", "and"], "there are none");
    let out = ["--out", "labels.jsonl"];
    let label = |flags: &[&str], message: &str| {
        refused("label", &[&out, flags].concat(), message);
    };
    label(&["--lambda", "0.3"], "there are none");
    label(&["--pairs", "turns"], "photos take turns");
    label(&["--transform", "and"], "there are none");
    let canonical = ["--transform", "log-sigmoid", "--reference", "canonical"];
    label(&canonical, "mean reward of photos");
    world.write("prompts.txt", "a dog\na cat\n");
    let outcome = world.run_on_images(
        "label",
        &["--prompts", "prompts.txt", "--out", "labels.jsonl"],
    );
    outcome.refused("no two images have the same prompt");
}

#[test]
fn images_without_photos_are_paired_with_each_other() {
    let world = World::new(2, 5);
    world.write("prompts.txt", "a dog\na cat\na dog\na dog\na bird\n");
    let flags = [
        "--prompts",
        "prompts.txt",
        "--out",
        "labels.jsonl",
        "--tau",
        "0.01",
        "--quiet",
    ];
    let outcome = world.run_on_images("label", &[&flags[..], &["--json"]].concat());
    let statistics = outcome.json();
    assert!(outcome.stderr.contains("2 of 3 prompts"));
    assert!(outcome.stderr.contains("better image"));
    let records = world.records();
    assert_eq!((records.len(), &statistics["pairs"]), (3, &3.into()));
    let scores = world
        .run_on_images("score", &["--prompts", "prompts.txt", "--json", "--quiet"])
        .json();
    let texts = column(&scores, "text");
    let of_file = |record: &Value, key: &str| {
        let name = record[key].as_str().unwrap();
        let number = name.trim_start_matches("images/").trim_end_matches(".png");
        texts[number.parse::<usize>().unwrap()]
    };
    for record in &records {
        assert_eq!(record["prompt"], "a dog");
        assert!(record.get("photo").is_none());
        for side in ["chosen", "rejected"] {
            let written = number(record, &format!("{side}_score"));
            assert_eq!(written.to_bits(), of_file(record, side).to_bits());
        }
        let gap = number(record, "chosen_score") - number(record, "rejected_score");
        assert!(gap >= 0.0);
        let probability = 1.0 / (1.0 + (-gap / 0.01).exp());
        assert!((number(record, "chosen_prob") - probability).abs() < 1e-12);
    }
    let best = world.run_on_images("label", &[&flags[..], &["--pairs", "best-worst"]].concat());
    assert_eq!(best.code, 0, "{}", best.stderr);
    let best = world.records();
    assert_eq!(best.len(), 1);
    let dogs = [0, 2, 3].map(|image| texts[image]);
    let end = |pick: fn(f64, f64) -> f64| dogs.into_iter().reduce(pick).unwrap();
    for (side, pick) in [
        ("chosen", f64::max as fn(f64, f64) -> f64),
        ("rejected", f64::min),
    ] {
        let written = number(&best[0], &format!("{side}_score"));
        assert_eq!(written.to_bits(), end(pick).to_bits());
    }
    // Runs on pairs of images read them.
    let mut images = preftune::data::image_preferences::Images::below(None);
    let pairs = images.read_pairs(&world.path("labels.jsonl")).unwrap();
    assert_eq!(pairs.len(), 1);
}

#[test]
fn a_single_photo_can_be_labelled_by_its_text_alone() {
    let world = World::new(1, 2);
    assert_eq!(world.label(&["--prompt", "a dog"]).code, 0);
    let outcome = world.label(&["--prompt", "a dog", "--lambda", "0.3"]);
    outcome.refused("only one");
}

#[test]
fn the_encoder_of_the_emoji_world_tells_a_cup_from_a_house() {
    let Some(root) = shared("emoji-world-poc") else {
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .arg("score")
        .arg("--references")
        .arg(root.join("subjects/cup"))
        .arg("--images")
        .arg(root.join("subjects/house"))
        .arg("--encoder")
        .arg(root.join("reward"))
        .args([
            "--prompt",
            "a [V] house",
            "--json",
            "--quiet",
            "--device",
            "cpu",
        ])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (house, cup) = (
        number(&report["mean"], "clip_i"),
        number(&report["photos_among_themselves"], "clip_i"),
    );
    println!("house {house:.3}, cup {cup:.3}");
    assert!(house < 0.4 && cup > 0.7);
}

#[test]
fn score_transforms_rewards_as_label_does() {
    let world = World::new(3, 6);
    world.write("prompts.txt", "a dog\na cat\na dog\na cat\na dog\na cat\n");
    let flags = [
        "--prompts",
        "prompts.txt",
        "--lambda",
        "0.4",
        "--tau",
        "0.05",
    ];
    for transform in ["log-sigmoid", "and", "par"] {
        let flags = [&flags[..], &["--transform", transform]].concat();
        assert_eq!(world.label(&flags).code, 0);
        // One record a photo, three in a row for an image.
        let records = world.records();
        let labelled = records.iter().step_by(3);
        let report = world.score(&flags).json();
        let name = if transform == "and" {
            "reward_and"
        } else {
            "reward_0.4_transformed"
        };
        for (value, record) in column(&report, name).iter().zip(labelled) {
            let expected = of_image(record, "value");
            assert!(
                (value - expected).abs() < 1e-9,
                "{transform}: {value} {expected}"
            );
        }
    }
}

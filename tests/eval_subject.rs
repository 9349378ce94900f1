//! `preftune eval subject`: its formulas on features made by hand, and the command on runs of a tiny model.

use std::path::Path;

use image::RgbImage;
use preftune::data::photo;
use preftune::eval::bootstrap::Bootstrap;
use preftune::eval::dreambench::{DualFeatures, ImageFeatures};
use preftune::eval::subject::{ClassScope, Judged, Scope, columns, estimate, minus, oracle, score};
use preftune::models::encoders::DualEncoder;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::support::golden;
use crate::tiny_run::{Outcome, World};

/// Unit vectors of the plane at angles in degrees, `[n, 2]` f64.
fn at(degrees: &[f64]) -> Tensor {
    let pair = |angle: &f64| [angle.to_radians().cos(), angle.to_radians().sin()];
    let values: Vec<f64> = degrees.iter().flat_map(pair).collect();
    Tensor::from_slice(&values).view([-1, 2])
}

fn dual(references: &[f64], images: &[f64], texts: &[f64]) -> DualFeatures {
    DualFeatures {
        images: ImageFeatures {
            references: at(references),
            images: at(images),
        },
        texts: at(texts),
    }
}

fn cos(degrees: f64) -> f64 {
    degrees.to_radians().cos()
}

#[track_caller]
fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-6, "{actual}, not {expected}");
}

#[track_caller]
fn rows_near(actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        near(*actual, *expected);
    }
}

#[test]
fn scores_are_those_of_images_and_then_means_over_them() {
    let reward = dual(&[0.0, 40.0], &[10.0, 30.0, 60.0, 90.0], &[20.0, 80.0]);
    let judge = dual(&[90.0], &[80.0, 70.0, 60.0, 50.0], &[90.0, 60.0]);
    let dino = ImageFeatures {
        references: at(&[0.0]),
        images: at(&[5.0, 15.0, 25.0, 35.0]),
    };
    let names = ["reward".to_owned(), "judge".to_owned()];
    let scope = Scope {
        dino: true,
        several: true,
        class: ClassScope::Nothing,
    };
    let named = columns(&names, &[0.3], scope);
    let names: Vec<String> = named
        .iter()
        .map(|column| format!("{}.{}", column.encoder, column.figure))
        .collect();
    let judged = Judged {
        duals: vec![reward, judge],
        dino: Some(dino),
    };
    let rows = score(2, &judged, None, None, &[0.3]);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].len(), names.len());
    assert_eq!(names[4], "reward.harmonic_0.3");
    assert_eq!(names[5], "reward.div");
    assert_eq!(names[12], "dino.dino");

    // Image 0 is 10 and 30 degrees from the photos and 10 from its prompt, image 1 is 30 and 10 from the photos.
    let likeness = f64::midpoint(cos(10.0), cos(30.0));
    let unit = |cosine: f64| f64::midpoint(cosine, 1.0);
    let harmonic = 1.0 / (0.3 / unit(likeness) + 0.7 / unit(cos(10.0)));
    let by_judge = [(10.0, 10.0), (20.0, 20.0)]
        .map(|(image, text)| 1.0 / (0.3 / unit(cos(image)) + 0.7 / unit(cos(text))));
    rows_near(
        &rows[0],
        &[
            likeness,
            cos(10.0),
            unit(likeness),
            unit(cos(10.0)),
            harmonic,
            1.0 - cos(20.0),
            f64::midpoint(cos(10.0), cos(20.0)),
            f64::midpoint(cos(10.0), cos(20.0)),
            unit(f64::midpoint(cos(10.0), cos(20.0))),
            unit(f64::midpoint(cos(10.0), cos(20.0))),
            f64::midpoint(by_judge[0], by_judge[1]),
            1.0 - cos(10.0),
            f64::midpoint(cos(5.0), cos(15.0)),
        ],
    );
    // The second prompt has the last two images.
    near(rows[1][1], f64::midpoint(cos(20.0), cos(10.0)));
    near(rows[1][12], f64::midpoint(cos(25.0), cos(35.0)));
}

#[test]
fn what_is_kept_of_the_class_is_a_prompts_own_figure() {
    let of = |images: &[f64], class: bool| Judged {
        duals: vec![dual(&[0.0], images, &[20.0, 80.0])],
        dino: class.then(|| ImageFeatures {
            references: at(&[0.0]),
            images: at(images),
        }),
    };
    let scope = Scope {
        dino: true,
        several: false,
        class: ClassScope::BesideUntuned,
    };
    let names: Vec<String> = columns(&["reward".to_owned()], &[], scope)
        .into_iter()
        .map(|column| format!("{}.{}", column.encoder, column.figure))
        .collect();
    let own = of(&[10.0, 30.0], true);
    let (class, untuned) = (of(&[40.0, 90.0], true), of(&[60.0, 80.0], false));
    let rows = score(2, &own, Some(&class), Some(&untuned), &[]);
    assert_eq!(rows[0].len(), names.len());
    let value = |row: usize, name: &str| rows[row][names.iter().position(|n| n == name).unwrap()];
    near(value(0, "reward.pres"), cos(40.0));
    near(value(0, "reward.class_clip_t"), cos(20.0));
    near(value(0, "reward.class_drift"), 1.0 - cos(20.0));
    let kept = 1.0 - (cos(40.0) - cos(60.0)) / (1.0 - cos(60.0));
    near(value(0, "reward.class_kept"), kept);
    near(value(0, "reward.hypervolume"), cos(10.0) * cos(10.0) * kept);
    // Further from the photos than before is all of the class.
    near(value(1, "reward.class_kept"), 1.0);
    near(value(1, "dino.pres"), 0.0);
    near(value(1, "dino.dino"), cos(30.0));
    // The untuned model beside itself.
    let rows = score(2, &own, Some(&class), Some(&class), &[]);
    assert!(
        (rows[0][6] - 0.0).abs() < 1e-12 && (rows[0][7] - 1.0).abs() < 1e-12,
        "{names:?}"
    );
}

#[test]
fn photos_have_a_likeness_to_each_other_and_no_prompt() {
    let two = dual(&[0.0, 60.0], &[0.0], &[0.0]);
    let one = dual(&[0.0], &[0.0], &[0.0]);
    let scope = Scope {
        dino: false,
        several: false,
        class: ClassScope::Nothing,
    };
    let columns = columns(&["reward".to_owned()], &[0.5], scope);
    let of = |dual: DualFeatures| {
        let judged = Judged {
            duals: vec![dual],
            dino: None,
        };
        oracle(&judged, &columns)
    };
    assert_eq!(of(one), [None; 5], "a single photo has no other");
    let found = of(two);
    near(found[0].unwrap(), 0.5);
    near(found[2].unwrap(), 0.75);
    assert_eq!([found[1], found[3], found[4]], [None; 3]);
}

#[test]
fn intervals_are_over_clusters_and_a_gain_is_surer_than_the_means() {
    let tuned: Vec<Vec<f64>> = (0..8).map(|n| vec![f64::from(n), 1.0]).collect();
    let base: Vec<Vec<f64>> = (0..8).map(|n| vec![f64::from(n) - 0.5, 2.0]).collect();
    let clusters = |rows: &[Vec<f64>]| -> Vec<Vec<Vec<f64>>> {
        rows.iter().map(|row| vec![row.clone()]).collect()
    };
    let bootstrap = Bootstrap::default();
    let found = estimate(&clusters(&tuned), &bootstrap);
    near(found[0].mean, 3.5);
    let (low, high) = found[0].interval.unwrap();
    assert!(low < 2.5 && high > 4.5, "{low} {high}");
    let gain = estimate(&clusters(&minus(&tuned, &base)), &bootstrap);
    assert_eq!(gain[0].interval, Some((0.5, 0.5)));
    near(gain[1].mean, -1.0);
    // Two rows of one cluster weigh as much as one of another.
    let uneven = [vec![vec![0.0], vec![0.0]], vec![vec![3.0]]];
    near(estimate(&uneven, &bootstrap)[0].mean, 1.5);
    assert_eq!(estimate(&uneven[..1], &bootstrap)[0].interval, None);
}

/// Keeps the last weights, which differ from the untuned ones, as the best.
const LAST: [&str; 2] = ["validation.every=0", "train.learning_rate=0.02"];

/// A trained run `run` with a file of test prompts.
fn trained(set: &[&str]) -> World {
    let world = World::new();
    world.write(
        "test.txt",
        "a {token} {class} in the snow\na red {token} {class}\na photo of a {class}\n",
    );
    world.train(set).succeeded();
    world
}

fn eval(world: &World, more: &[&str]) -> Outcome {
    let judge = golden("encoders/align");
    let arguments = [
        "eval",
        "subject",
        "run",
        "--prompts",
        "test.txt",
        "--judge",
        judge.to_str().unwrap(),
        "--images-per-prompt",
        "2",
        "--device",
        "cpu",
    ];
    world.run(&[&arguments, more].concat())
}

fn report(world: &World, more: &[&str]) -> Value {
    let outcome = eval(world, &[&["--json"], more].concat()).succeeded();
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn value(json: &Value, pointer: &str) -> f64 {
    let value = json.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {json}"))
}

fn images(folder: &Path) -> Vec<RgbImage> {
    let photos = photo::load_folder(folder).unwrap();
    photos.into_iter().map(|photo| photo.image).collect()
}

#[test]
fn figures_of_both_encoders_are_those_of_the_stored_images() {
    let world = trained(&LAST);
    let report = report(&world, &[]);
    let run = &report["runs"][0];
    let stored: Value = serde_json::from_str(&world.read("run/eval/metrics.json")).unwrap();
    assert_eq!(stored, *run);
    assert_eq!(run["protocol"]["name"], "subject");
    assert_eq!(run["bootstrap"]["over"], "prompts");
    // The sampler is the run's own.
    assert_eq!(run["protocol"]["sampler"], "dpm++");
    assert_eq!(run["protocol"]["steps"], 2);
    assert_eq!(run["step"], 6);

    let photos = images(&world.path("photos"));
    let texts = ["a dog in the snow", "a red dog", "a photo of a dog"].map(str::to_owned);
    for (role, encoder) in [("reward", "clip"), ("judge", "align")] {
        let encoder =
            DualEncoder::open(&golden("encoders").join(encoder), Device::Cpu, Kind::Float).unwrap();
        assert_eq!(
            run["encoders"][role]["weights_sha256"],
            encoder.weights_sha256()
        );
        let (photos, texts) = (
            encoder.encode_images(&photos).unwrap(),
            encoder.encode_texts(&texts).unwrap(),
        );
        let figures = |folder: &str| {
            let (mut likeness, mut alignment, mut reward) = (0.0, 0.0, 0.0);
            for row in 0..3 {
                let shown = images(&world.path(folder).join(format!("{row:03}")));
                assert_eq!(shown.len(), 2);
                for image in encoder.encode_images(&shown).unwrap().unbind(0) {
                    let cosine = photos.matmul(&image).mean(Kind::Double).double_value(&[]);
                    let text = texts.get(row).dot(&image).double_value(&[]);
                    likeness += cosine / 6.0;
                    alignment += text / 6.0;
                    reward += 1.0
                        / (0.7 / f64::midpoint(cosine, 1.0) + 0.3 / f64::midpoint(text, 1.0))
                        / 6.0;
                }
            }
            [likeness, alignment, reward]
        };
        let (tuned, base) = (figures("run/eval"), figures("run/eval/base"));
        for (index, name) in ["clip_i", "clip_t", "harmonic_0.7"].iter().enumerate() {
            near(value(run, &format!("/mean/{role}/{name}")), tuned[index]);
            near(
                value(run, &format!("/base/mean/{role}/{name}")),
                base[index],
            );
            near(
                value(run, &format!("/gain/mean/{role}/{name}")),
                tuned[index] - base[index],
            );
            let end = |end: &str| value(run, &format!("/interval/{end}/{role}/{name}"));
            assert!(end("low") <= tuned[index] && tuned[index] <= end("high"));
        }
        let among = photos.matmul(&photos.tr()).sum(Kind::Double) - 3.0;
        near(
            value(run, &format!("/oracle/{role}/clip_i")),
            among.double_value(&[]) / 6.0,
        );
        assert!(run["oracle"][role]["clip_t"].is_null());
    }
    let prompt = &run["prompts"][1];
    assert_eq!(prompt["prompt"], "a red [V] dog");
    let of_prompt = |row: usize| value(&run["prompts"][row], "/figures/judge/clip_t");
    near(
        value(run, "/mean/judge/clip_t"),
        (of_prompt(0) + of_prompt(1) + of_prompt(2)) / 3.0,
    );

    // 6 images of either model, with the token and without; photos and images once by either encoder.
    assert_eq!(report["counts"]["images_sampled"], 24);
    assert_eq!(report["counts"]["images_encoded"], 2 * (3 + 24));
    let kept = value(run, "/mean/judge/class_kept");
    assert!((0.0..=1.0).contains(&kept), "{kept}");
    near(value(run, "/base/mean/judge/class_kept"), 1.0);
    near(value(run, "/base/mean/judge/class_drift"), 0.0);
    let without = self::report(&world, &["--no-class"]);
    assert!(without["runs"][0]["mean"]["judge"]["pres"].is_null());
    assert_eq!(without["counts"]["images_sampled"], 0);
    assert_eq!(report["groups"], Value::Array(Vec::new()));
    let again = self::report(&world, &[]);
    assert_eq!(again["counts"]["images_sampled"], 0);
    assert_eq!(again["runs"], report["runs"]);

    let table = eval(&world, &[]).succeeded().stdout;
    let gain = value(run, "/gain/mean/judge/clip_i");
    for words in [
        "rpo, step 6",
        "judge",
        "r 0.5",
        "untuned",
        &format!("{gain:+.3} ["),
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
}

#[test]
fn checkpoint_of_the_best_step_draws_what_the_best_weights_draw() {
    for adapter in ["lora", "full"] {
        let adapter = format!("adapter.kind={adapter}");
        let own = [adapter.as_str(), "adapter.alpha=8", "checkpoint.keep=9"];
        let world = trained(&[own.as_slice(), &LAST].concat());
        let best = report(&world, &["--no-base"]);
        assert!(best["runs"][0]["gain"].is_null() && best["runs"][0]["base"].is_null());
        let steps = report(&world, &["--no-base", "--checkpoint", "2,4,6"]);
        for (index, step) in [2, 4, 6].into_iter().enumerate() {
            let run = &steps["runs"][index];
            assert_eq!(run["step"], step);
            let folder = format!("run/eval/step-{step:06}");
            let stored: Value =
                serde_json::from_str(&world.read(&format!("{folder}/metrics.json"))).unwrap();
            assert_eq!(stored, *run);
            let same = image::open(world.path(&folder).join("000/000.png")).unwrap()
                == image::open(world.path("run/eval/000/000.png")).unwrap();
            assert_eq!(same, step == 6, "{adapter}, step {step}");
        }
    }
}

#[test]
fn runs_of_other_seeds_are_one_group_and_other_recipes_are_not() {
    let world = trained(&[]);
    world
        .train(&["run.output=second", "run.seed=1"])
        .succeeded();
    world
        .train(&["run.output=other", "objective.beta=2.0"])
        .succeeded();
    let report = report(&world, &["second", "other"]);
    let groups = report["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0]["runs"], serde_json::json!(["run", "second"]));
    assert_eq!(groups[0]["bootstrap"]["over"], "prompts");
    let of = |run: usize| value(&report["runs"][run], "/mean/judge/clip_t");
    near(
        value(&groups[0], "/mean/judge/clip_t"),
        f64::midpoint(of(0), of(1)),
    );
    // One base model, one set of prompts: its images are sampled once.
    assert_eq!(report["counts"]["images_sampled"], 2 * (3 * 6 + 6));
    let table = eval(&world, &["second", "other"]).succeeded().stdout;
    assert!(table.contains("rpo: 2 runs of one subject"), "{table}");
}

#[test]
fn prompts_of_training_and_validation_are_named() {
    let world = trained(&[]);
    world.write(
        "test.txt",
        "a green {token} {class}\na {token} {class} on a roof\na blue {token} {class}\n",
    );
    let outcome = eval(&world, &[]).succeeded();
    assert!(
        outcome.stderr.contains("2 of 3 prompts were used"),
        "{}",
        outcome.stderr
    );
    let stored: Value = serde_json::from_str(&world.read("run/eval/metrics.json")).unwrap();
    assert_eq!(
        stored["seen_prompts"],
        serde_json::json!(["a green [V] dog", "a blue [V] dog"])
    );
}

#[test]
fn wrong_input_is_refused_before_anything_is_sampled() {
    let world = trained(&[]);
    eval(&world, &["--checkpoint", "3"]).failed(2, &["no checkpoint of step 3", "there are 4, 6"]);
    eval(&world, &["--checkpoint", "0"]).failed(2, &["step 0 is the untuned model"]);
    eval(&world, &["--judge", "nowhere"]).failed(2, &["no such encoder folder", "--judge"]);
    eval(&world, &["--lambda", "0.5,2"]).failed(2, &["lambda 2"]);
    eval(&world, &["--guidance", "0.5"]).failed(2, &["`--guidance` must be 1 or more"]);
    world
        .run(&["eval", "subject", "nowhere"])
        .failed(2, &["no such folder", "preftune train"]);
    assert!(!world.path("run/eval").exists());
}

#[test]
fn validation_logs_what_other_lambdas_would_have_decided_by() {
    let world = World::new();
    world.train(&[]).succeeded();
    world
        .train(&["run.output=likeness", "validation.lambda=0.7"])
        .succeeded();
    let of = |run: &str, name: &str| world.figures(run, "validation", name);
    assert_eq!(of("run", "reward"), of("run", "reward_0.5"));
    assert_eq!(of("likeness", "reward"), of("likeness", "reward_0.7"));
    // lambda decides nothing but which step is kept.
    assert_eq!(of("run", "reward_0.7"), of("likeness", "reward"));
    assert_ne!(of("run", "reward_0.3"), of("run", "reward_0.7"));
}

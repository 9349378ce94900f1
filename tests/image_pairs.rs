//! Diffusion models tuned to pairs of images through the binary: layouts of data, objectives, resume, refusals.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use serde_json::{Value, json};

use crate::command::{Folder, Ran, quoted};
use crate::support::golden;

/// Pairs of light and dark pictures, the lighter one preferred, in four layouts.
fn folder() -> Folder {
    let folder = Folder::new();
    for name in ["images", "sides/chosen", "sides/rejected"] {
        fs::create_dir_all(folder.path(name)).unwrap();
    }
    for number in 0..16_u8 {
        let light = 16 * number;
        let image = RgbImage::from_fn(20, 24, |x, y| {
            Rgb([light, light.wrapping_add((x * y) as u8 / 8), light])
        });
        let save = |name: String| image.save(folder.path(&name)).unwrap();
        save(format!("images/{number:02}.png"));
        let (side, name) = if number < 8 {
            ("rejected", number)
        } else {
            ("chosen", number - 8)
        };
        save(format!("sides/{side}/{name:02}.png"));
        if side == "chosen" {
            let text = folder.path(&format!("sides/chosen/{name:02}.txt"));
            fs::write(text, "a light\n").unwrap();
        }
    }
    let rows: Vec<Value> = (0..12_usize)
        .map(|at| {
            json!({
                "prompt": if at % 2 == 0 { "a light" } else { "a lamp" },
                "chosen": format!("{:02}.png", 15 - at % 8), "rejected": format!("{:02}.png", at % 8),
                "chosen_prob": 0.9, "chosen_score": 2.0, "rejected_score": 1.0,
                "split": if at < 9 { "train" } else { "validation" },
            })
        })
        .collect();
    folder.lines("pairs.jsonl", &rows);
    folder
}

fn config(folder: &Folder, pairs: &str, rest: &str) {
    let base = quoted(&golden("diffusion/sd1"));
    let text = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {base}\n[pairs]\n{pairs}\n\
         [adapter]\nrank = 4\nalpha = 4\n[train]\nresolution = 16\nsteps = 6\nbatch = 2\nlearning_rate = 1e-3\n\
         [validation]\nevery = 3\npatience = 0\n[sampler]\nsteps = 2\n[checkpoint]\nevery = 2\n{rest}"
    );
    fs::write(folder.path("pairs.toml"), text).unwrap();
}

const TABLE: &str = "train = \"pairs.jsonl\"\nimages = \"images\"";

fn train(folder: &Folder, more: &[&str]) -> Ran {
    folder.configured("train", "pairs.toml", more)
}

fn validations(folder: &Folder, run: &str) -> Vec<Value> {
    let rows = folder.rows(&format!("{run}/metrics.jsonl")).into_iter();
    rows.filter(|row| row["kind"] == "validation").collect()
}

#[test]
fn dpo_on_images_starts_at_the_reference_and_leaves_a_model_as_any_other() {
    let folder = folder();
    config(
        &folder,
        TABLE,
        "[preview]\nprompts = [\"a light\", \"a lamp\"]\n",
    );
    train(&folder, &["train.steps=30", "validation.every=30"]).done();
    let first = &folder.steps("run")[0];
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap();
    assert!(
        (number(first, "loss") - f64::ln(2.0)).abs() < 1e-4,
        "{first}"
    );
    assert!((number(first, "gradient_factor") - 0.5).abs() < 1e-4);
    let rows = validations(&folder, "run");
    let (before, after) = (&rows[0], &rows[1]);
    assert!(number(before, "rewards/margins").abs() < 1e-6, "{before}");
    assert!(number(after, "rewards/margins").abs() > 1e-3, "{after}");
    for place in 0..2 {
        let sample = format!("run/samples/step-000030/{place:03}.png");
        assert!(folder.path(&sample).exists());
    }
    let manifest = folder.manifest("run");
    assert_eq!(manifest["objective"], "dpo");
    // 9 training pairs; a step has 2 pairs, 2 images each, 2 models; of 3 held-out pairs with 4 draws the base model's errors
    // are kept.
    let forwards = manifest["counts"]["unet_forwards_training"].as_u64();
    assert_eq!(forwards, Some(30 * 8 + 2 * 24 + 24));
    assert_eq!(manifest["examples"]["held out"], 3);

    // The run is a model as any other.
    let out = [
        "--out", "out", "--steps", "2", "--width", "16", "--height", "16",
    ];
    let generate = [
        "generate", "--model", "run", "--prompt", "a light", "--device", "cpu",
    ];
    folder.binary(&[&generate[..], &out].concat()).done();
    folder
        .binary(&["export", "run", "--out", "exported"])
        .done();
    folder
        .binary(&["report", "run", "--out", "report.html"])
        .done();
}

#[test]
fn the_embedded_world_learns_which_pictures_are_preferred() {
    let folder = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sprites = root.join("assets/sprites");
    let sprites = ["--sprites", sprites.to_str().unwrap()];
    let scenes = ["world", "--out", "scenes", "--count", "60"];
    folder.binary(&[&scenes[..], &sprites].concat()).done();
    // The same scenes in a warmer light are preferred.
    let rows = folder.rows("scenes/metadata.jsonl").into_iter().map(|row| {
        let name = row["file_name"].as_str().unwrap();
        let mut image = image::open(folder.path(&format!("scenes/{name}")))
            .unwrap()
            .to_rgb8();
        for Rgb([red, _, blue]) in image.pixels_mut() {
            (*red, *blue) = (red.saturating_add(30), *blue / 4 * 3);
        }
        let warm = format!("warm_{name}");
        image.save(folder.path(&format!("scenes/{warm}"))).unwrap();
        json!({"prompt": row["text"], "chosen": warm, "rejected": name})
    });
    folder.lines("scenes/pairs.jsonl", &rows.collect::<Vec<_>>());
    let base = quoted(&root.join("assets/emoji-world"));
    let config = format!(
        "[run]\noutput = \"run\"\ndevice = \"cpu\"\n[model]\nbase = {base}\n[pairs]\ntrain = \"scenes\"\n\
         validation_share = 0.2\n[train]\nsteps = 24\nbatch = 4\nlearning_rate = 1e-4\n\
         [validation]\nevery = 24\npatience = 0\n"
    );
    fs::write(folder.path("pairs.toml"), config).unwrap();
    train(&folder, &[]).done();
    let rows = validations(&folder, "run");
    let number = |name: &str| rows[1][name].as_f64().unwrap();
    println!("{}", rows[1]);
    assert!(number("accuracy") > 0.9);
    assert!(number("loss") < 0.5);
    // The preferred pictures have become likelier, which DPO does not promise.
    assert!(number("rewards/chosen") > 0.0);
}

#[test]
fn every_objective_of_pairs_trains_on_errors_of_denoising() {
    let folder = folder();
    config(&folder, TABLE, "");
    let objectives = [
        "ipo",
        "ipo_sum",
        "cdpo",
        "rdpo",
        "hinge",
        "fdpo_forward_kl",
        "fdpo_js",
        "fdpo_alpha",
        "tdpo1",
        "tdpo2",
        "sppo",
        "sppo_hard",
        "dno",
        "dno_prct",
        "inpo",
        "inpo_expected",
        "gpo",
        "gpo_length_normalised",
        "asft",
        "orpo",
        "simpo",
    ];
    for name in objectives {
        let (kind, output) = (
            format!("objective.kind={name}"),
            format!("run.output={name}"),
        );
        train(
            &folder,
            &[&kind, &output, "train.steps=2", "validation.every=2"],
        )
        .done();
        for row in validations(&folder, name) {
            let loss = row["loss"].as_f64();
            assert!(loss.is_some_and(f64::is_finite), "{name}: {row}");
        }
        let references = ["asft", "orpo", "simpo"];
        let reference = &folder.manifest(name)["reference"];
        assert_eq!(reference == "none", references.contains(&name), "{name}");
    }
    // A divergence is there where it is asked for, and is 0 at the start.
    let start = &validations(&folder, "tdpo2")[0];
    assert!(start["kl"].as_f64().unwrap().abs() < 1e-6, "{start}");
    let kind = "objective.kind=[\"dpo\", \"simpo\"]";
    let more = [
        "objective.weights=[1.0, 0.5]",
        "objective.nll_weight=0.1",
        "run.output=sum",
    ];
    train(&folder, &[&[kind][..], &more].concat()).done();
    assert_eq!(folder.manifest("sum")["objective"], "dpo + 0.5 simpo");
}

#[test]
fn folders_and_pick_a_pic_tables_are_read() {
    let folder = folder();
    config(&folder, "train = \"sides\"\nvalidation_share = 0.3", "");
    train(&folder, &["run.output=sides_run"]).done();
    let examples = &folder.manifest("sides_run")["examples"];
    let count = |name: &str| examples[name].as_u64().unwrap();
    assert_eq!(count("training") + count("held out"), 8, "{examples}");

    // A folder of Parquet files with the images within, as the hub has them.
    fs::create_dir_all(folder.path("hub/data")).unwrap();
    let table = golden("pick_a_pic/pick_a_pic.parquet");
    for name in [
        "train-00000-of-00002",
        "train-00001-of-00002",
        "test-00000-of-00001",
    ] {
        let shard = folder.path(&format!("hub/data/{name}.parquet"));
        fs::copy(&table, shard).unwrap();
    }
    config(&folder, "train = \"hub\"\nvalidation_share = 0.2", "");
    train(&folder, &["run.output=hub_run"]).done();
    let examples = &folder.manifest("hub_run")["examples"];
    let count = |name: &str| examples[name].as_u64().unwrap();
    assert_eq!(count("training") + count("held out"), 80, "{examples}");
}

#[test]
fn an_interrupted_run_on_pairs_ends_as_an_undisturbed_one() {
    let folder = folder();
    for adapter in ["lora", "full"] {
        config(&folder, TABLE, "");
        let kind = format!("adapter.kind={adapter}");
        let more = [
            &kind,
            "pairs.empty_prompts=0.3",
            "train.ema=0.5",
            "train.accumulation=2",
        ];
        let [whole, part] = ["whole", "part"].map(|name| format!("{adapter}_{name}"));
        let output = format!("run.output={whole}");
        train(&folder, &[&more[..], &[&output]].concat()).done();
        // Killed after step 4: its later rows and its end are gone, the checkpoint of step 4 is there.
        let output = format!("run.output={part}");
        let more = [&more[..], &[&output]].concat();
        train(&folder, &more).done();
        let manifest = folder.path(&part).join("manifest.json");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
        let checkpoints = folder.path(&part).join("checkpoints");
        fs::remove_dir_all(checkpoints.join("step-000006")).unwrap();
        fs::remove_dir_all(folder.path(&part).join("best")).unwrap();
        train(&folder, &[&more[..], &["--resume"]].concat()).done();
        let losses = |run: &str| -> Vec<Value> {
            let rows = folder.steps(run).into_iter();
            rows.map(|row| row["loss"].clone()).collect()
        };
        assert_eq!(losses(&whole), losses(&part));
        let state = |run: &str| {
            fs::read(
                folder
                    .path(run)
                    .join("checkpoints/step-000006/weights.safetensors"),
            )
        };
        assert_eq!(state(&whole).unwrap(), state(&part).unwrap(), "{adapter}");
    }
}

#[test]
fn kills_change_nothing_of_a_run_on_pairs_that_goes_on_from_a_lora() {
    let folder = folder();
    config(&folder, TABLE, "[preview]\nprompts = [\"a light\"]\n");
    let start = format!(
        "adapter.start={}",
        quoted(&golden("lora/text_sd1.safetensors"))
    );
    let set = [start.as_str(), "validation.every=2", "checkpoint.every=1"];
    train(&folder, &[&set[..], &["run.output=whole"]].concat()).done();
    let steps = |run: &str| {
        let text = fs::read_to_string(folder.path(&format!("{run}/metrics.jsonl")));
        text.map_or(0, |text| text.matches("\"train\"").count())
    };
    for kill in 1..=3 {
        let mut arguments = vec!["train", "pairs.toml", "--quiet", "--resume"];
        arguments.extend(set.iter().flat_map(|value| ["--set", value]));
        let mut child = folder.command(&arguments).spawn().unwrap();
        let begin = Instant::now();
        while steps("run") < 2 * kill && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(120));
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    train(&folder, &[&set[..], &["--resume"]].concat()).done();
    let losses = |run: &str| -> Vec<Value> {
        folder
            .steps(run)
            .iter()
            .map(|row| row["loss"].clone())
            .collect()
    };
    assert_eq!(losses("run"), losses("whole"));
    assert_eq!(losses("run").len(), 6);
    assert_eq!(validations(&folder, "run").len(), 4);
    let best = |run: &str| {
        fs::read(folder.path(&format!("{run}/best/pytorch_lora_weights.safetensors"))).unwrap()
    };
    assert!(best("run") == best("whole"));
    assert_eq!(
        folder.manifest("run")["inputs"],
        folder.manifest("whole")["inputs"]
    );
    assert!(folder.manifest("run")["inputs"]["start LoRA"].is_string());
}

#[test]
fn a_run_on_pairs_is_not_resumed_on_others() {
    let folder = folder();
    config(&folder, TABLE, "");
    train(&folder, &[]).done();
    let manifest = folder.path("run/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"finished\"", "\"running\"")).unwrap();
    let file = |name: &str| fs::read(folder.path(name)).unwrap();
    let (image, pairs) = (file("images/03.png"), file("pairs.jsonl"));
    fs::copy(folder.path("images/04.png"), folder.path("images/03.png")).unwrap();
    train(&folder, &["--resume"]).refused("other files as its images");
    fs::write(folder.path("images/03.png"), image).unwrap();
    let other = String::from_utf8(pairs)
        .unwrap()
        .replace("a lamp", "a torch");
    fs::write(folder.path("pairs.jsonl"), other).unwrap();
    train(&folder, &["--resume"]).refused("other files as its");
}

#[test]
fn faults_of_pairs_are_named_before_a_model_is_loaded() {
    let folder = folder();
    config(&folder, TABLE, "");
    let refused = |more: &[&str], message: &str| {
        train(&folder, more).refused(message);
        assert!(!folder.path("run").exists(), "{message}");
    };
    refused(&["objective.kind=kto"], "`kto` does not learn from pairs");
    refused(&["objective.kind=dppo"], "did you mean `dpo`?");
    refused(&["objective.tau=0.1"], "`dpo` has no `objective.tau`");
    refused(&["denoising.scale=0"], "`denoising.scale` must be above 0");
    refused(
        &["pairs.empty_prompts=1"],
        "`pairs.empty_prompts` must be at least 0 and below 1",
    );
    refused(&["pairs.trian=x"], "did you mean `pairs.train`?");
    refused(&["pairs.train=none.jsonl"], "none.jsonl");
    refused(&["pairs.images=sides"], "no image \"15.png\" in `sides`");
    refused(
        &["pairs.train=images"],
        "it is to hold `pairs.jsonl`, Parquet files, or the folders `chosen` and `rejected`",
    );
    refused(&["--paper"], "belongs to runs on a subject's photos");

    let row = |change: Value| {
        let mut row = json!({"prompt": "a light", "chosen": "10.png", "rejected": "02.png"});
        for (key, value) in change.as_object().unwrap() {
            row[key] = value.clone();
        }
        let good = json!({"prompt": "a light", "chosen": "11.png", "rejected": "01.png", "chosen_prob": 0.7});
        folder.lines("broken.jsonl", &[good.clone(), good, row]);
    };
    let broken = "pairs.train=broken.jsonl";
    let all_train = ["validation.every=0", "validation.patience=0"];
    let refused = |change: Value, more: &[&str], message: &str| {
        row(change);
        train(&folder, &[&[broken][..], &all_train, more].concat()).refused(message);
    };
    refused(
        json!({"rejected": "10.png"}),
        &[],
        "`broken.jsonl`, line 3: the two images are one",
    );
    refused(
        json!({"weight": -1}),
        &[],
        "`weight` is -1, but must be at least 0",
    );
    refused(
        json!({"margin": "much"}),
        &[],
        "`margin` is \"much\", not a finite number",
    );
    refused(
        json!({"prompt": null}),
        &[],
        "`broken.jsonl`, line 3: no prompt",
    );
    refused(
        json!({}),
        &["objective.kind=sppo"],
        "`broken.jsonl`, line 3: no `chosen_prob`, which `sppo` needs",
    );
    refused(json!({"rejected": "99.png"}), &[], "no image \"99.png\"");
    fs::write(folder.path("images/20.png"), b"no picture").unwrap();
    refused(json!({"rejected": "20.png"}), &[], "20.png");

    // Nothing is held out.
    row(json!({}));
    train(&folder, &[broken]).refused("set `pairs.validation_share = 0.1`");
    // Two files of one picture teach nothing, and are left out aloud.
    fs::copy(folder.path("images/10.png"), folder.path("images/21.png")).unwrap();
    row(json!({"rejected": "21.png"}));
    let arguments = [
        "train",
        "pairs.toml",
        "--set",
        broken,
        "--set",
        all_train[0],
        "--set",
        all_train[1],
    ];
    let ran = folder
        .binary(&[&arguments[..], &["--set", "run.output=twice"]].concat())
        .done();
    assert!(
        ran.stderr
            .contains("1 pairs are left out: their two pictures are the same"),
        "{}",
        ran.stderr
    );
    fs::remove_file(folder.path("sides/rejected/03.png")).unwrap();
    train(&folder, &["pairs.train=sides"]).refused("there is no image \"03\"");
}

#[test]
fn pairs_are_inspected_without_a_model() {
    let folder = folder();
    config(&folder, TABLE, "");
    let base = ["model.base=nowhere", "train.resolution=24"];
    let sets = base.iter().flat_map(|value| ["--set", value]);
    let arguments: Vec<&str> = ["inspect", "pairs.toml"].into_iter().chain(sets).collect();
    let text = folder.binary(&arguments).done().stdout;
    for words in [
        "training: 9 pairs; held out: 3; 16 images under 2 prompts",
        "prompt: a light",
        "20 x 24: 16 images",
        "16 images are smaller than `train.resolution` = 24",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let report = folder
        .binary(&[&arguments[..], &["--json"]].concat())
        .done();
    let report = report.json();
    assert_eq!(report["pairs"][0]["wins"][0], 0.9);
    assert_eq!(report["small"], 16);
    fs::write(folder.path("images/15.png"), b"no picture").unwrap();
    folder.binary(&arguments).refused("15.png");
}

#[test]
fn planned_work_on_pairs_is_what_a_run_counts() {
    let folder = folder();
    config(&folder, TABLE, "[preview]\nprompts = [\"a light\"]\n");
    // Without a reference; with one; with one that divergences ask anew.
    for name in ["simpo", "dpo", "tdpo2"] {
        let sets = [
            format!("objective.kind={name}"),
            format!("run.output={name}"),
        ];
        train(&folder, &sets.each_ref().map(String::as_str)).done();
        let mut arguments = vec!["plan", "pairs.toml", "--json"];
        arguments.extend(sets.iter().flat_map(|value| ["--set", value]));
        let plan = folder.binary(&arguments).done().json();
        let manifest = folder.manifest(name);
        for count in ["unet_forwards_sampling", "unet_forwards_training"] {
            let planned = &plan["work"][count];
            assert_eq!(planned, &manifest["counts"][count], "{name}: {count}");
        }
        assert_eq!(plan["trained"], manifest["trainable_parameters"]);
        assert!(plan["seconds"]["validations"].as_f64().unwrap() > 0.0);
    }
}

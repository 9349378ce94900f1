//! `preftune report` through the binary: what a page says, that it fetches nothing and trusts no file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use image::{Rgb, RgbImage};
use preftune::data::png;
use preftune::models::weights::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::tiny_run::Outcome;

/// A folder with runs that the test writes.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn image(&self, name: &str, side: u32, colour: [u8; 3], text: &[(&str, String)]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = RgbImage::from_pixel(side, side, Rgb(colour));
        png::write(&path, &image, text).unwrap();
    }

    /// A finished image run: reward .6 at first, .8 at step 20 of 40, stopped early.
    fn run(&self, name: &str) {
        let mut rows = Vec::new();
        for step in (0..=40).step_by(10) {
            rows.push(json!({
                "kind": "validation", "step": step, "seconds": 1.0,
                "reward": if step == 20 { 0.8 } else { 0.6 },
                "image_similarity": 0.5 + f64::from(step) / 100.0, "text_similarity": 0.7,
            }));
            rows.push(json!({
                "kind": "train", "step": step + 1, "seconds": 1.0, "loss": 1.0 / f64::from(step + 1),
                "learning_rate": 1e-4,
            }));
            let [red, green] = [step as u8, 0];
            for (index, prompt) in [(0, "a [V] cup on the moon"), (1, "a red [V] cup")] {
                let text = [("prompt", prompt.to_owned()), ("seed", format!("7{index}"))];
                let file = format!("{name}/samples/step-{step:06}/{index:03}.png");
                self.image(&file, 16, [red, green, 90], &text);
            }
        }
        rows.push(json!({
            "kind": "alarm", "step": 30, "during": "validation", "message": "the model may be copying",
        }));
        self.rows(name, &rows);
        self.write(
            &format!("{name}/config.toml"),
            "[objective]\nkind = \"rpo\"\nbeta = 1.5\n[train]\nsteps = 100\n",
        );
        self.image("photos/one.png", 200, [200, 100, 50], &[]);
        self.manifest(name, |_| {});
    }

    fn rows(&self, name: &str, rows: &[Value]) {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        self.write(&format!("{name}/metrics.jsonl"), &(lines.join("\n") + "\n"));
    }

    fn manifest(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut manifest = json!({
            "preftune": "0.1.0", "status": "finished", "base_model": "models/small",
            "base_unet_sha256": "ab".repeat(32), "adapter": "lora", "rank": 4, "alpha": 8.0,
            "reward_encoder": ["clip", "cd".repeat(32)],
            "subject": {
                "name": "mug", "class": "cup", "token": "[V]", "photos": [self.path("photos/one.png")],
                "photos_sha256": sha256(&self.path("photos/one.png")),
            },
            "device": "Cpu", "precision": "fp32", "trainable_parameters": 1234567,
            "oracle_image_similarity": 0.95,
            "labels": {
                "pairs": 12, "coin_flips": 0.25,
                "histogram": [{"from": 0.0, "to": 0.1, "count": 9}, {"from": 0.1, "to": 0.2, "count": 3}],
            },
            "steps": 40, "best": [20, 0.8], "untuned_reward": 0.6, "stopped_early": true,
            "counts": {"reward_image_encodes": 55}, "seconds": {"load": 2.0, "train": 130.0},
            "a_new_field": 17,
        });
        change(&mut manifest);
        self.write(&format!("{name}/manifest.json"), &manifest.to_string());
    }

    fn report(&self, arguments: &[&str]) -> Outcome {
        let child = Command::new(env!("CARGO_BIN_EXE_preftune"))
            .current_dir(self.0.path())
            .arg("report")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Outcome::of(child.unwrap())
    }

    /// The page on these runs.
    fn page(&self, runs: &[&str]) -> String {
        let outcome = self.report(&[runs, &["--out", "page.html"]].concat());
        let printed = outcome.succeeded().stdout;
        assert!(printed.starts_with("report: page.html"), "{printed}");
        fs::read_to_string(self.path("page.html")).unwrap()
    }
}

/// Of a file, as a manifest has it; nothing where it is gone.
fn sha256(path: &Path) -> String {
    fs::read(path).map_or_else(|_| String::new(), |bytes| hex(&Sha256::digest(bytes)))
}

#[track_caller]
fn says(page: &str, words: &[&str]) {
    for word in words {
        assert!(page.contains(word), "the page does not say `{word}`");
    }
}

/// The text after `name="` of every such attribute.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let begin = format!(" {name}=\"");
    let rest = page.split(begin.as_str()).skip(1);
    rest.filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn alarms_that_say_the_same_of_other_figures_are_one_line() {
    let world = World::new();
    let alarm = |step: u64, share: f64| {
        let message = format!("the class word draws the subject ({share} % are gone)");
        json!({"kind": "alarm", "step": step, "during": "validation", "message": message})
    };
    let other = json!({"kind": "alarm", "step": 60, "during": "validation", "message": "prompts are alike"});
    world.rows(
        "mugs",
        &[alarm(40, 17.5), alarm(60, 20.0), other, alarm(80, 31.25)],
    );
    world.write("mugs/config.toml", "[objective]\nkind = \"rpo\"\n");
    world.manifest("mugs", |_| {});
    let page = world.page(&["mugs"]);
    let lines: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("<p>Alarm"))
        .collect();
    let expected = [
        "<p>Alarm at step 40 to 80 (validation), 3 times, the last: the class word draws the subject (31.25 % are gone)</p>",
        "<p>Alarm at step 60 (validation): prompts are alike</p>",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn page_says_what_was_tuned_what_was_gained_and_how_it_ended() {
    let world = World::new();
    world.run("mugs");
    let page = world.page(&["mugs"]);
    says(
        &page,
        &[
            "RPO tuned a LoRA on small to \u{201c}[V] cup\u{201d} from 1 photo.",
            "rose from 0.600 (untuned) to 0.800 at step 20, the best of 5 validations.",
            "Likeness to the photos went from 0.500 to 0.700 (the photos among themselves: 0.950)",
            "Patience ended it at step 40 of 100.",
            "the model may be copying",
            "LoRA, rank 4, alpha 8",
            "RPO, beta 1.5",
            "1,234,567",
            "2 min 10 s",
            "25 %",
            // What a later version adds to the manifest is shown too.
            "A new field",
            &"ab".repeat(32),
            &"cd".repeat(32),
        ],
    );
    // Two validation samples before, two after, and the photo.
    assert_eq!(attributes(&page, "src").len(), 5);
    says(
        &page,
        &["a [V] cup on the moon", "best, step 20", "seed 71"],
    );
    let metrics = attributes(&page, "data-metric");
    assert_eq!(metrics, ["reward", "image_similarity", "loss"]);
    says(
        &page,
        &["Constant: text similarity 0.7", "learning rate 0.0001"],
    );
    // Three curves and a histogram.
    assert_eq!(page.matches("<svg").count(), 4);
    says(&page, &["best: 20", "stopped early"]);
}

#[test]
fn page_fetches_nothing_and_runs_nothing() {
    let world = World::new();
    world.run("mugs");
    let page = world.page(&["mugs"]);
    for reference in [
        "http://", "https://", "<script", "@import", "url(", "<iframe", "<object",
    ] {
        assert!(!page.contains(reference), "{reference}");
    }
    for name in ["src", "href"] {
        for target in attributes(&page, name) {
            assert!(target.starts_with("data:"), "{target}");
        }
    }
    says(&page, &["prefers-color-scheme: dark", "default-src 'none'"]);
    // Colours are the page's: none is written into a drawing.
    let drawings = page
        .split("<svg")
        .skip(1)
        .map(|rest| rest.split("</svg>").next().unwrap());
    for drawing in drawings {
        assert!(!drawing.contains("=\"#"), "{drawing}");
    }
}

#[test]
fn text_from_files_is_escaped() {
    let world = World::new();
    let evil = "<img src=x onerror=\"alert('1')\">&amp;";
    let name = "<b>run&";
    world.run(name);
    world.manifest(name, |manifest| {
        for key in ["base_model", "device", "precision", "new"] {
            manifest[key] = json!(evil);
        }
        manifest["subject"]["token"] = json!(evil);
        manifest["labels"][evil] = json!(evil);
        manifest["seconds"][evil] = json!(5.0);
        manifest[evil] = json!(evil);
    });
    world.write(
        &format!("{name}/config.toml"),
        &format!("# {evil}\n[objective]\nkind = '''{evil}'''\n"),
    );
    world.rows(
        name,
        &[
            json!({"kind": evil, "step": 1, evil: 1.0}),
            json!({"kind": evil, "step": 2, evil: 2.0}),
            json!({"kind": "alarm", "step": 2, "during": evil, "message": evil}),
        ],
    );
    for step in [0, 20] {
        let text = [("prompt", evil.to_owned()), ("seed", evil.to_owned())];
        world.image(
            &format!("{name}/samples/step-{step:06}/000.png"),
            16,
            [1, 2, 3],
            &text,
        );
    }
    let figures = json!({
        "mean": {evil: 1.0}, evil: {evil: 2.0}, "protocol": {evil: evil}, "above_oracle": [evil],
        "encoders": {evil: {"name": evil}}, "prompts": [{"prompt": evil, "figures": {evil: 1.0}}],
    });
    world.write(&format!("{name}/eval/metrics.json"), &figures.to_string());
    world.write(
        &format!("{name}/eval/<i>/metrics.json"),
        &figures.to_string(),
    );
    let page = world.page(&[name, name]);
    for raw in [
        "<img src=x",
        "<Img src=x",
        "onerror=\"",
        "alert('1')",
        "<b>run",
        "<i>",
    ] {
        assert!(!page.contains(raw), "{raw}");
    }
    says(&page, &["&lt;img src=x", "&lt;b&gt;run&amp;"]);
}

#[test]
fn killed_run_has_a_page_that_says_so() {
    let world = World::new();
    world.run("mugs");
    world.manifest("mugs", |manifest| {
        manifest["status"] = json!("running");
        manifest["best"] = Value::Null;
        manifest["untuned_reward"] = Value::Null;
        manifest["steps"] = json!(0);
        manifest["stopped_early"] = json!(false);
        manifest["seconds"] = json!({});
    });
    let file = world.path("mugs/metrics.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    let page = world.page(&["mugs"]);
    says(
        &page,
        &[
            "it is at work or was killed at step 41 of 100",
            "The last line of metrics.jsonl is cut off",
            "0.800 at step 20, the best of 5 validations so far",
            "best so far, step 20",
        ],
    );
    assert!(!page.contains("the model may be copying"));

    // Killed before the first validation; then before the first row; then before the manifest.
    world.rows("mugs", &[json!({"kind": "train", "step": 1, "loss": 0.5})]);
    says(
        &world.page(&["mugs"]),
        &["no best weights yet", "at step 1 of 100"],
    );
    fs::remove_file(&file).unwrap();
    fs::remove_dir_all(world.path("mugs/samples")).unwrap();
    says(&world.page(&["mugs"]), &["before its first step"]);
    fs::remove_file(world.path("mugs/manifest.json")).unwrap();
    says(&world.page(&["mugs"]), &["The run has no manifest"]);
}

#[test]
fn run_that_never_beat_the_untuned_model_is_not_praised() {
    let world = World::new();
    world.run("mugs");
    world.manifest("mugs", |manifest| {
        manifest["best"] = json!([0, 0.9]);
        manifest["untuned_reward"] = json!(0.9);
    });
    let page = world.page(&["mugs"]);
    says(
        &page,
        &[
            "was 0.900 untuned, and none of 4 later validations reached that.",
            "step 40, not better",
        ],
    );
    assert!(!page.contains("rose from"));
}

#[test]
fn any_metrics_have_curves() {
    let world = World::new();
    let row = |step: u32| {
        let step_f = f64::from(step);
        json!({"kind": "train", "step": step, "loss": 2.0 / step_f + f64::from(step % 2), "rewards/margins": step_f, "note": "text"})
    };
    let rows: Vec<Value> = (1..=20_000).map(row).collect();
    world.rows("text", &rows);
    let page = world.page(&["text"]);
    assert_eq!(
        attributes(&page, "data-metric"),
        ["loss", "rewards&#x2f;margins"]
    );
    says(
        &page,
        &[
            "Margins (rewards)",
            "Training loss went from 3 to 0.0001.",
            "moving average",
        ],
    );
    assert!(page.len() < 100_000, "{} bytes", page.len());
}

#[test]
fn photos_that_are_gone_are_counted() {
    let world = World::new();
    world.run("mugs");
    fs::remove_file(world.path("photos/one.png")).unwrap();
    says(
        &world.page(&["mugs"]),
        &["1 of 1 photo not at the place any more"],
    );
}

#[test]
fn a_manifest_from_elsewhere_brings_no_file_of_this_machine_into_the_page() {
    let world = World::new();
    world.run("mugs");
    let with_photo = world.page(&["mugs"]).matches("data:image/").count();
    world.image("secret.png", 60, [1, 2, 3], &[]);
    world.manifest("mugs", |manifest| {
        manifest["subject"]["photos"] = json!([world.path("secret.png")]);
    });
    let page = world.page(&["mugs"]);
    says(&page, &["at their place are other files than those"]);
    assert_eq!(page.matches("data:image/").count(), with_photo - 1);
}

#[test]
fn large_images_are_made_smaller() {
    let world = World::new();
    world.run("mugs");
    for step in [0, 20] {
        let text = [("prompt", "p".to_owned()), ("seed", "1".to_owned())];
        world.image(
            &format!("mugs/samples/step-{step:06}/000.png"),
            900,
            [9, 8, 7],
            &text,
        );
    }
    let page = world.page(&["mugs"]);
    assert!(page.contains("data:image/jpeg") && page.contains("width=\"320\""));
    assert!(page.len() < 200_000, "{} bytes", page.len());
}

#[test]
fn figures_of_an_evaluation_are_shown_whatever_they_are() {
    let world = World::new();
    world.run("mugs");
    world.run("cups");
    let evaluation = |clip_i: f64| {
        json!({
            "mean": {"clip_i": clip_i, "dino": null, "judge": {"clip_i": 0.25}},
            "interval": {"low": {"clip_i": clip_i - 0.0625, "judge": {"clip_i": 0.125}},
                         "high": {"clip_i": clip_i + 0.0625, "judge": {"clip_i": 0.375}}},
            "base": {"mean": {"clip_i": 0.5}}, "oracle": {"clip_i": 0.8},
            "new": {"harmonic_0.3": {"mean": 0.4375, "interval": [0.375, 0.5]}},
            "above_oracle": [], "encoders": {"judge": {"name": "small"}}, "protocol": {"prompts": 25},
            "prompts": [{"prompt": "a [V] cup in the rain", "figures": {"clip_i": 0.1875}}],
        })
    };
    world.write("mugs/eval/metrics.json", &evaluation(0.75).to_string());
    world.write("cups/eval/metrics.json", &evaluation(0.625).to_string());
    let page = world.page(&["mugs", "cups"]);
    says(
        &page,
        &[
            "CLIP-I",
            ">Judge encoder</th>",
            "Reward, lambda 0.3",
            "<td>0.800</td>",
            "<td>0.500</td>",
            "0.750<span class=\"interval\">0.688 to 0.812</span>",
            "0.250<span class=\"interval\">0.125 to 0.375</span>",
            "0.438<span class=\"interval\">0.375 to 0.500</span>",
            // Gains over the untuned model, and of one run over the other.
            "<td>+0.250</td>",
            "<td>+0.125</td>",
            "<td>\u{2212}0.125</td>",
            "less mugs",
            "a [V] cup in the rain",
            "0.188",
        ],
    );
    assert!(!page.contains("DINO"));
    // What two runs share stands once.
    assert_eq!(page.matches("photos among themselves</th>").count(), 1);
    assert_eq!(page.matches(">untuned</th>").count(), 1);
    assert!(!page.contains("different protocols"));
    let other = world.path("cups/eval/metrics.json");
    let text = fs::read_to_string(&other)
        .unwrap()
        .replace("\"prompts\":25", "\"prompts\":3");
    fs::write(&other, text).unwrap();
    says(&world.page(&["mugs", "cups"]), &["different protocols"]);
}

#[test]
fn the_difference_of_two_runs_has_an_interval_over_their_prompts() {
    let world = World::new();
    let evaluation = |values: [f64; 3], prompts: [&str; 3]| {
        let row = |(prompt, value): (&str, f64)| json!({"prompt": prompt, "figures": {"judge": {"clip_i": value}}});
        let rows: Vec<Value> = prompts.into_iter().zip(values).map(row).collect();
        json!({
            "mean": {"judge": {"clip_i": values.iter().sum::<f64>() / 3.0}},
            "bootstrap": {"over": "prompts", "level": 0.95, "resamples": 500, "seed": 0},
            "prompts": rows,
        })
    };
    let prompts = ["at home", "in the rain", "on a hill"];
    world.run("mugs");
    world.run("cups");
    let mugs = evaluation([0.25, 0.5, 0.75], prompts);
    world.write("mugs/eval/metrics.json", &mugs.to_string());
    // Every prompt alike: paired, the difference is sure, however much the prompts differ.
    let cups = evaluation([0.375, 0.625, 0.875], prompts);
    world.write("cups/eval/metrics.json", &cups.to_string());
    let sure = "+0.125<span class=\"interval\">+0.125 to +0.125</span>";
    says(&world.page(&["mugs", "cups"]), &[sure]);
    let cups = evaluation(
        [0.375, 0.625, 0.875],
        ["at home", "in the rain", "elsewhere"],
    );
    world.write("cups/eval/metrics.json", &cups.to_string());
    let page = world.page(&["mugs", "cups"]);
    says(&page, &["<td>+0.125</td>"]);
    assert!(!page.contains(sure));
}

#[test]
fn several_runs_stand_beside_each_other() {
    let world = World::new();
    world.run("mugs");
    world.run("other/mugs");
    world.run("cups");
    world.write(
        "cups/config.toml",
        "[objective]\nkind = \"dreambooth\"\nbeta = 1.5\n[train]\nsteps = 100\n",
    );
    let page = world.page(&["mugs", "cups"]);
    says(
        &page,
        &[
            "<h1>mugs and cups</h1>",
            "Best reward on the same held-out prompts: mugs 0.800, cups 0.800.",
            "DreamBooth tuned",
            "Settings that differ",
            "objective.kind",
        ],
    );
    assert!(!page.contains("objective.beta"));
    // One panel a metric, a line for each run.
    assert_eq!(
        attributes(&page, "data-metric"),
        ["reward", "image_similarity", "loss"]
    );
    let reward = page.split("data-metric=\"reward\"").nth(1).unwrap();
    let reward = reward.split("</svg>").next().unwrap();
    assert!(reward.contains("var(--run-1)") && reward.contains("var(--run-2)"));
    // The same prompts and seeds: one grid, the untuned model once.
    assert_eq!(page.matches("<small>untuned</small>").count(), 2);
    says(
        &page,
        &[
            "<small>mugs: best, step 20</small>",
            "<small>cups: best, step 20</small>",
        ],
    );

    // Two folders of one name are told apart by their paths.
    says(
        &world.page(&["mugs", "other/mugs"]),
        &["<h1>mugs and other&#x2f;mugs</h1>"],
    );
}

#[test]
fn page_goes_into_the_folder_of_its_run() {
    let world = World::new();
    world.run("mugs");
    world.run("cups");
    let printed = world.report(&["mugs"]).succeeded().stdout;
    let file = Path::new("mugs").join("report.html");
    assert!(printed.contains(file.to_str().unwrap()), "{printed}");
    assert!(world.path("mugs/report.html").is_file());
    world.report(&["mugs", "cups"]).succeeded();
    assert!(world.path("report.html").is_file());
}

#[test]
fn what_is_no_run_is_refused() {
    let world = World::new();
    world.run("runs/mugs");
    world.write("empty/notes.txt", "");
    world
        .report(&["nowhere"])
        .failed(2, &["nowhere", "no such folder"]);
    world
        .report(&["empty"])
        .failed(2, &["empty", "not a run folder"]);
    world
        .report(&["runs"])
        .failed(2, &["preftune report runs/mugs"]);
    let mugs = |arguments: &[&str]| world.report(&[&["runs/mugs"], arguments].concat());
    mugs(&["--out", "nowhere/page.html"]).failed(2, &["no such folder for `--out`"]);
    mugs(&["runs"]).failed(2, &["not a run folder"]);

    let text = fs::read_to_string(world.path("runs/mugs/metrics.jsonl")).unwrap();
    world.write(
        "runs/mugs/metrics.jsonl",
        &text.replacen("\"kind\"", "kind", 2),
    );
    mugs(&[]).failed(2, &["metrics.jsonl", "line 1"]);
    world.write("runs/mugs/metrics.jsonl", &text);
    world.write("runs/mugs/eval/metrics.json", "{");
    mugs(&[]).failed(2, &["metrics.json", "not JSON"]);
    fs::remove_dir_all(world.path("runs/mugs/eval")).unwrap();
    world.write("runs/mugs/manifest.json", "{\"status\": ");
    mugs(&[]).failed(2, &["manifest.json", "not JSON"]);
    world.manifest("runs/mugs", |_| {});
    world.write("runs/mugs/config.toml", "steps = = 3");
    mugs(&[]).failed(2, &["config.toml"]);
    assert!(!world.path("runs/mugs/report.html").exists());
}

#[test]
fn a_ranking_is_drawn_as_bars_with_intervals() {
    let world = World::new();
    let games = "left,right,winner\na<b>,c,left\nc,d,left\nd,a<b>,left\na<b>,d,left\n";
    world.write("games.csv", games);
    let ranked = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .current_dir(world.0.path())
        .args(["rank", "--input", "games.csv", "--json"])
        .output()
        .unwrap();
    assert!(ranked.status.success());
    let text = String::from_utf8(ranked.stdout).unwrap();
    let ranking: Value = serde_json::from_str(&text).unwrap();
    world.write("ranking.json", &text);
    world.run("mugs");
    for paths in [&["ranking.json"][..], &["mugs", "ranking.json"]] {
        let page = world.page(paths);
        let first = &ranking["standings"][0];
        let number = |value: &Value| format!("{:.2}", value.as_f64().unwrap());
        let [low, high] = [0, 1].map(|end| number(&first["interval"][end]));
        let value = format!("{} [{low}, {high}]", number(&first["strength"]));
        says(
            &page,
            &[&value, "3 items, 4 comparisons (4 games)", "1. a&lt;b&gt;"],
        );
        assert_eq!(page.matches("class=\"ends\"").count(), 3);
        assert!(!page.contains("a<b>"), "escaped");
    }
    world.write("other.json", "{\"a\": 1}");
    let refused = world.report(&["other.json"]);
    assert!(
        refused.stderr.contains("not a ranking"),
        "{}",
        refused.stderr
    );
}

/// The numbers at the vertical axis of a metric's drawing.
fn words_of<'a>(page: &'a str, metric: &str) -> Vec<&'a str> {
    let begin = format!("data-metric=\"{metric}\"");
    let drawing = page.split(begin.as_str()).nth(1).unwrap();
    let drawing = drawing.split("</svg>").next().unwrap();
    let texts = drawing.split("<text").skip(1);
    texts
        .filter(|text| text.contains("text-anchor=\"end\""))
        .filter_map(|text| text.split_once('>')?.1.split("</text>").next())
        .map(str::trim)
        .collect()
}

#[test]
fn numbers_at_an_axis_have_the_digits_of_its_step() {
    for (from, by) in [
        (0.692, 1e-6),
        (0.692, 3e-9),
        (0.1, 0.07),
        (-3.0, 0.9),
        (5e5, 3.0),
        (1e-7, 2e-8),
        (123_456.0, 1e-3),
    ] {
        let world = World::new();
        let row =
            |step: u32| json!({"kind": "train", "step": step, "loss": from + by * f64::from(step)});
        world.rows("run", &(1..=20).map(row).collect::<Vec<_>>());
        let page = world.page(&["run"]);
        let words = words_of(&page, "loss");
        let numbers: Vec<&&str> = words.iter().filter(|word| !word.is_empty()).collect();
        println!("{from} {by}: {numbers:?}");
        assert!(numbers.len() > 2, "{numbers:?}");
        for (place, number) in numbers.iter().enumerate() {
            assert!(
                !numbers[..place].contains(number),
                "{from} by {by}: {numbers:?}"
            );
        }
    }
}

#[test]
fn what_rounds_to_the_same_did_not_change() {
    let world = World::new();
    world.run("mugs");
    world.manifest("mugs", |manifest| {
        manifest["best"] = json!([20, 0.692_31]);
        manifest["untuned_reward"] = json!(0.692_02);
    });
    let page = world.page(&["mugs"]);
    assert!(!page.contains("rose from"), "rose");
    says(
        &page,
        &["did not change: 0.692 untuned, and 0.692 at the best of 5 validations, at step 20."],
    );
    let rows = [1, 2]
        .map(|step| json!({"kind": "train", "step": step, "loss": 0.5 + f64::from(step) * 1e-9}));
    world.rows("text", &rows);
    says(
        &world.page(&["text"]),
        &["Training loss did not change from 0.5."],
    );
}

#[test]
fn a_curve_stands_once_and_its_twins_are_named() {
    let world = World::new();
    let rows: Vec<Value> = (0..5)
        .map(|step| {
            let loss = 1.0 / f64::from(step + 1);
            json!({"kind": "validation", "step": step, "loss": loss, "reward": -loss, "twin": loss, "other": step})
        })
        .collect();
    world.rows("run", &rows);
    let page = world.page(&["run"]);
    assert_eq!(attributes(&page, "data-metric").len(), 2);
    says(&page, &["Drawn once:", "twin is loss", "is minus loss"]);
}

#[test]
fn rounds_are_called_rounds_and_show_answers_before_and_after() {
    let world = World::new();
    let rows: Vec<Value> = (0..3)
        .map(|round| json!({"kind": "validation", "step": round, "reward": 0.1 * f64::from(round)}))
        .collect();
    world.rows("run", &rows);
    world.write(
        "run/config.toml",
        "[rounds]\ncount = 2\n[train]\nsteps = 50\n",
    );
    let manifest =
        json!({"status": "finished", "steps": 2, "best": [2, 0.2], "untuned_reward": 0.0});
    world.write("run/manifest.json", &manifest.to_string());
    for (round, answer) in [
        (0, "a dull <answer>"),
        (1, "half way"),
        (2, "a fine answer"),
    ] {
        let messages = json!([{"role": "user", "content": "What is a cup?"}]);
        let row = json!({"line": 3, "prompt": messages, "responses": [answer], "rewards": [0.1 * f64::from(round)], "wins": [1.0]});
        world.write(
            &format!("run/round-{round}/judged.jsonl"),
            &(row.to_string() + "\n{\"cut"),
        );
    }
    let page = world.page(&["run"]);
    says(
        &page,
        &[
            "rose from 0.000 (before the first round) to 0.200 at round 2",
            "All 2 rounds were made.",
            "<dt>best round</dt>",
            "Rounds</th>",
            "Answers before and after",
            "What is a cup?",
            "a dull &lt;answer&gt;",
            "before the first round, reward 0.000",
            "after round 2, reward 0.200",
            "a fine answer",
            "1 of 1 prompts, with the first answer",
        ],
    );
    assert!(
        !page.contains("half way") && !page.contains("step 2"),
        "{page}"
    );
    // Answers of `eval text`.
    world.rows("text", &[json!({"kind": "train", "step": 1, "loss": 0.5})]);
    let row = json!({"prompt": "Say hello.", "answers": ["Hello!"], "other": ["Hm."], "other_is": "base", "wins": [1.0], "rewards": [], "other_rewards": []});
    world.write("text/eval/answers/answers.jsonl", &row.to_string());
    says(
        &world.page(&["text"]),
        &[
            "Say hello.",
            "<small>untuned</small>",
            "Hm.",
            "<small>tuned</small>",
            "Hello!",
        ],
    );
}

#[test]
fn a_page_does_not_say_where_things_lie_on_this_machine() {
    let world = World::new();
    world.run("mugs");
    let home = world.0.path().display().to_string();
    world.manifest("mugs", |manifest| {
        manifest["base_model"] = json!(format!("{home}/models/small"));
        manifest["elsewhere"] = json!({"file": format!("{home}/secret/notes.txt")});
    });
    world.write(
        "mugs/config.toml",
        &format!(
            "[model]\nbase = \"{home}/models/small\" # mine\n[data]\nfiles = ['{home}/a b.txt']\n"
        ),
    );
    let alarm = format!("cannot read `{home}/photos/one.png`: it isn't \"there\"");
    world.rows(
        "mugs",
        &[json!({"kind": "alarm", "step": 1, "during": "train", "message": alarm})],
    );
    let page = world.page(&[&format!("{home}/mugs")]);
    assert!(!page.contains(&home), "{home}");
    let escaped = home.replace('/', "&#x2f;");
    assert!(!page.contains(&escaped), "{escaped}");
    says(
        &page,
        &[
            "\u{2026}&#x2f;models&#x2f;small",
            "\u{2026}&#x2f;secret&#x2f;notes.txt",
            "# mine",
            "a b.txt",
            "photos&#x2f;one.png",
        ],
    );
}

#[test]
fn drawings_stand_alone() {
    let world = World::new();
    world.run("mugs");
    world.run("cups");
    let name = format!(
        "a model of a very long name <{}>",
        "that goes on and on ".repeat(12)
    );
    world.write(
        "games.csv",
        &format!("left,right,winner\n{name},b,left\nb,{name},left\n{name},b,left\n"),
    );
    let ranked = Command::new(env!("CARGO_BIN_EXE_preftune"))
        .current_dir(world.0.path())
        .args([
            "rank",
            "--input",
            "games.csv",
            "--json",
            "--svg",
            "ranking.svg",
        ])
        .output()
        .unwrap();
    assert!(ranked.status.success());
    world.write("ranking.json", &String::from_utf8(ranked.stdout).unwrap());
    let printed = world
        .report(&["mugs", "cups", "ranking.json", "--svg", "drawings"])
        .succeeded()
        .stdout;
    assert!(printed.contains("drawings: 6 in drawings"), "{printed}");
    let mut names: Vec<String> = fs::read_dir(world.path("drawings"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "labels-cups.svg",
            "labels-mugs.svg",
            "ranking-ranking.json.svg",
            "training-loss.svg",
            "validation-image-similarity.svg",
            "validation-reward.svg",
        ]
    );
    let files = names
        .iter()
        .map(|name| world.path(&format!("drawings/{name}")));
    for file in files.chain([world.path("ranking.svg")]) {
        let svg = fs::read_to_string(&file).unwrap();
        assert!(
            svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<svg").count(), 1);
        assert!(svg.contains("prefers-color-scheme") && svg.contains("width=\"900\""));
        // Every colour that it uses is in it.
        for used in svg.split("var(").skip(1) {
            let name = used.split(')').next().unwrap();
            assert!(svg.contains(&format!("{name}:#")), "{name}");
        }
    }
    // Long names are whole, in as many lines as they need.
    let svg = fs::read_to_string(world.path("ranking.svg")).unwrap();
    assert_eq!(svg.matches("goes").count(), 12);
    let curve = fs::read_to_string(world.path("drawings/validation-reward.svg")).unwrap();
    for text in ["Validation: reward", "mugs", "cups", "var(--run-2)"] {
        assert!(curve.contains(text), "{text}");
    }
}

#[test]
fn tables_that_scroll_say_so() {
    let world = World::new();
    world.run("mugs");
    let page = world.page(&["mugs"]);
    says(
        &page,
        &["scroll it sideways", "animation-timeline: scroll("],
    );
}

//! `preftune quickstart`: RPO and DreamBooth on the small world that comes with the program, judged and reported. It runs the very
//! commands that a user would, and shows them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::Args;
use serde_json::Value;

use super::processes::require_one;
use super::shell::quote;
use crate::config;
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::installed::share;

#[derive(Args)]
pub(super) struct QuickstartArgs {
    /// The subject, one of the world's own: `apple`, `bus`, `cake`, `cat`, `dog`, `fish`, `house`, `monkey`.
    #[arg(long, value_name = "NAME", default_value = "dog")]
    subject: String,
    /// Folder for the runs and the report.
    #[arg(long, value_name = "FOLDER", default_value = "runs/quickstart")]
    output: PathBuf,
    /// Override a key of both runs, as in `--set train.steps=40`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn run(args: &QuickstartArgs) -> Result<()> {
    require_one("quickstart")?;
    let Some(share) = share() else {
        return Err(Error::config("the small world is not beside the program")
            .with_hint("install the whole package, or run this in the repository"));
    };
    let config = share.join("configs/image/quickstart.toml");
    // A wrong key is said once, before two runs start.
    config::load_any(&config, &args.overrides)?;
    let world = share.join("assets/emoji-world");
    let class = class_of(&world, &args.subject)?;
    let (rpo, dreambooth) = (args.output.join("rpo"), args.output.join("dreambooth"));
    let train = |output: &Path| {
        let place = |key: &str, path: &str| {
            let path = world.join(path);
            let value = Value::from(path.to_string_lossy());
            ["--set".to_owned(), format!("{key}={value}")]
        };
        let mut words = vec!["train".to_owned()];
        words.push(config.to_string_lossy().into());
        for (key, path) in [
            ("model.base", ""),
            ("reward.encoder", "reward"),
            ("negatives.prompts", "prompts/train.txt"),
            ("validation.prompts", "prompts/validation.txt"),
        ] {
            words.extend(place(key, path));
        }
        let photos = world.join("subjects").join(&args.subject);
        for (flag, value) in [
            ("--photos", &photos),
            ("--class", &PathBuf::from(&class)),
            ("--output", &output.to_owned()),
        ] {
            words.extend([flag.to_owned(), value.to_string_lossy().into()]);
        }
        for assignment in &args.overrides {
            words.extend(["--set".to_owned(), assignment.clone()]);
        }
        words.push("--resume".to_owned());
        words
    };
    eprintln!(
        "tuning to the subject {} (a {class}): RPO, and DreamBooth beside it",
        args.subject
    );
    // Two single-threaded processes side by side are faster than one with two threads.
    let alone = [
        "--quiet",
        "--set",
        "objective.kind=\"dreambooth\"",
        "--set",
        "validation.patience=0",
    ];
    let beside = [train(&dreambooth), alone.map(str::to_owned).to_vec()].concat();
    let mut beside = Beside(start(&beside, true, Stdio::null())?);
    finish(&mut start(&train(&rpo), true, Stdio::inherit())?)?;
    finish(&mut beside.0)?;
    drop(beside);

    let path = |path: &Path| path.to_string_lossy().into_owned();
    let report = args.output.join("report.html");
    let figures = args.output.join("eval.json");
    let judge = [
        "eval",
        "subject",
        &path(&rpo),
        &path(&dreambooth),
        "--prompts",
        &path(&world.join("prompts/test.txt")),
        "--judge",
        &path(&world.join("judge")),
        &format!("--json={}", path(&figures)),
    ]
    .map(str::to_owned);
    finish(&mut start(&judge, false, Stdio::inherit())?)?;
    let page = [
        "report",
        &path(&rpo),
        &path(&dreambooth),
        "--out",
        &path(&report),
    ];
    finish(&mut start(
        &page.map(str::to_owned),
        false,
        Stdio::inherit(),
    )?)?;
    summarize(&figures)?;
    println!(
        "\n{} has the curves, images and figures of both runs.\n\
         Your own photos, with Stable Diffusion 1.5 and a CLIP on a GPU of 8 GB (SDXL: rpo_sdxl_lora.toml):\n  \
         preftune train configs/image/rpo_sd15_lora.toml --set model.base=SD15 --set reward.encoder=CLIP \\\n      \
         --photos my-photos --class dog\n  \
         preftune eval subject runs/rpo_sd15_lora --judge ANOTHER-CLIP",
        report.display()
    );
    Ok(())
}

/// The run beside the other; it ends with it where that fails.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The class word of one of the world's subjects.
fn class_of(world: &Path, subject: &str) -> Result<String> {
    let file = world.join("subjects/subjects.json");
    let rows: Vec<Value> = serde_json::from_str(&read_text(&file)?)
        .map_err(|error| Error::data(&file, error.to_string()))?;
    let named = rows.iter().find(|row| row["name"] == subject);
    if let Some(class) = named.and_then(|row| row["class"].as_str()) {
        return Ok(class.to_owned());
    }
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    Err(
        Error::config(format!("`--subject {subject}`: there is no such subject"))
            .with_hint(format!("there are {}", names.join(", "))),
    )
}

/// Starts this program with other arguments, which it shows as a command.
fn start(words: &[String], single_threaded: bool, out: Stdio) -> Result<Child> {
    let shown: Vec<String> = words.iter().map(quote).collect();
    eprintln!("$ preftune {}", shown.join(" "));
    let program =
        std::env::current_exe().map_err(|source| Error::io("find", "this program", source))?;
    let mut command = Command::new(&program);
    command.args(words).stdin(Stdio::null()).stdout(out);
    if single_threaded {
        command.env("OMP_NUM_THREADS", "1");
    }
    command
        .spawn()
        .map_err(|source| Error::io("run", &program, source))
}

fn finish(child: &mut Child) -> Result<()> {
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::RunsFailed(format!("a command ended with {status}"))
            .with_hint("`preftune quickstart` again goes on where it was")),
        Err(source) => Err(Error::io("wait for", "a command", source)),
    }
}

/// A sentence for each run: figures by the encoder that did not give the reward.
fn summarize(figures: &Path) -> Result<()> {
    let report: Value = serde_json::from_str(&read_text(figures)?)
        .map_err(|error| Error::data(figures, error.to_string()))?;
    println!();
    for run in report["runs"].as_array().into_iter().flatten() {
        let (before, after) = (&run["base"]["mean"]["judge"], &run["mean"]["judge"]);
        let figures = [
            ("likeness (CLIP-I)", "clip_i"),
            ("alignment (CLIP-T)", "clip_t"),
            ("reward at lambda .5", "harmonic_0.5"),
        ]
        .map(|(name, key)| {
            let number = |value: &Value| value[key].as_f64().unwrap_or(f64::NAN);
            format!("{name} {:.3} -> {:.3}", number(before), number(after))
        });
        println!(
            "{}: {}; untuned -> tuned, by the independent encoder",
            run["objective"].as_str().unwrap_or_default(),
            figures.join(", ")
        );
    }
    Ok(())
}

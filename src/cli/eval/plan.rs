//! What is to be judged: every run with its photos, prompts and weights, checked before anything is computed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::DreambenchArgs;
use crate::config::ImageConfig;
use crate::data::dreambench::DreamBench;
use crate::data::prompts;
use crate::data::subject::Kind;
use crate::error::{Error, Result};
use crate::models::lora::peft;
use crate::models::weights::Checkpoint;
use crate::run::checkpoint::best_of;
use crate::run::folder::read_config;
use crate::run::manifest::Manifest;

/// One run to judge.
pub(super) struct Plan {
    /// The run folder.
    pub(super) run: PathBuf,
    /// Name in tables: the subject's, with the run's where the subject has several.
    pub(super) label: String,
    /// Folder for images and figures.
    pub(super) folder: PathBuf,
    pub(super) config: ImageConfig,
    pub(super) manifest: Manifest,
    /// SHA-256 of the tuned weights.
    pub(super) weights_sha256: String,
    /// Folder of the reward encoder.
    pub(super) reward: PathBuf,
    /// The prompts that are drawn.
    pub(super) prompts: Vec<String>,
    /// The prompts without the token.
    pub(super) texts: Vec<String>,
}

impl Plan {
    /// What makes two runs two of the same subject.
    pub(super) fn subject(&self) -> (&str, &str, &[PathBuf]) {
        let subject = &self.manifest.subject;
        (&subject.name, &subject.class, &subject.photos)
    }
}

/// All runs, in the order of the command line.
pub(super) fn plans(args: &DreambenchArgs) -> Result<Vec<Plan>> {
    let mut runs = Vec::new();
    let mut known = BTreeSet::new();
    for path in &args.runs {
        for run in runs_in(path)? {
            let place = run
                .canonicalize()
                .map_err(|source| Error::io("read", &run, source))?;
            if known.insert(place) {
                runs.push(run);
            }
        }
    }
    let file = args.prompts.as_deref().map(prompts::read).transpose()?;
    let mut plans = runs
        .iter()
        .map(|run| plan(args, run, file.as_deref()))
        .collect::<Result<Vec<Plan>>>()?;
    refuse_shared_folders(&plans)?;
    label(&mut plans);
    Ok(plans)
}

/// The run itself, or the runs one level below, by name.
fn runs_in(path: &Path) -> Result<Vec<PathBuf>> {
    let is_run = |path: &Path| path.join("manifest.json").is_file();
    if is_run(path) {
        return Ok(vec![path.to_owned()]);
    }
    if !path.is_dir() {
        return Err(Error::data(path, "no such folder")
            .with_hint("give the `run.output` of a `preftune train`"));
    }
    let mut runs = Vec::new();
    for entry in fs::read_dir(path).map_err(|source| Error::io("read", path, source))? {
        let path = entry
            .map_err(|source| Error::io("read", path, source))?
            .path();
        if is_run(&path) {
            runs.push(path);
        }
    }
    if runs.is_empty() {
        return Err(Error::data(
            path,
            "neither a run nor a folder of runs: no `manifest.json` in it or below it",
        )
        .with_hint("give the `run.output` of a `preftune train`"));
    }
    runs.sort();
    Ok(runs)
}

fn plan(args: &DreambenchArgs, run: &Path, file: Option<&[String]>) -> Result<Plan> {
    let manifest = Manifest::read(run)?;
    let config = read_config(run)?;
    let best = best_of(run)?;
    let weights = match best.join("unet") {
        unet if unet.exists() => {
            Checkpoint::open_component(&unet, "diffusion_pytorch_model", None)?
        }
        _ => Checkpoint::open_file(&best.join(peft::FILE_NAME))?,
    };
    if let Some(photo) = manifest.subject.photos.iter().find(|photo| !photo.exists()) {
        return Err(Error::data(
            photo,
            format!("this photo of the run `{}` is not there", run.display()),
        )
        .with_hint(
            "put it back where the run found it, or mend the paths in the run's `manifest.json`",
        ));
    }
    let subject = &manifest.subject;
    let templates = match file {
        Some(file) => file.to_vec(),
        None => test_prompts(args, run, &config, &subject.class)?,
    };
    let fill = |template: &String| prompts::fill(template, &subject.token, &subject.class);
    let prompts: Vec<String> = templates.iter().map(fill).collect();
    let texts: Vec<String> = prompts
        .iter()
        .map(|prompt| prompts::strip_token(prompt, &subject.token))
        .collect();
    if let Some(empty) = texts.iter().position(String::is_empty) {
        return Err(Error::config(format!(
            "the prompt `{}` says nothing but the token",
            prompts[empty]
        ))
        .with_hint("say what the image shows, as in `a {token} {class} on the beach`"));
    }
    let name = run
        .canonicalize()
        .ok()
        .and_then(|run| Some(run.file_name()?.to_owned()));
    Ok(Plan {
        run: run.to_owned(),
        label: subject.name.clone(),
        folder: match &args.out {
            Some(out) => out.join(name.unwrap_or_default()),
            None => run.join("eval"),
        },
        weights_sha256: weights.sha256(),
        reward: args
            .reward
            .clone()
            .unwrap_or_else(|| config.reward.encoder.clone()),
        config,
        manifest,
        prompts,
        texts,
    })
}

/// DreamBench's prompts for the kind of subject.
fn test_prompts(
    args: &DreambenchArgs,
    run: &Path,
    config: &ImageConfig,
    class: &str,
) -> Result<Vec<String>> {
    let Some(root) = args
        .dreambench
        .as_ref()
        .or(config.subject.dreambench.as_ref())
    else {
        return Err(
            Error::data(run, "the run does not say where DreamBench's prompts are").with_hint(
                "give `--dreambench FOLDER` (a clone of google/dreambooth) or `--prompts FILE`",
            ),
        );
    };
    let kind = match config.subject.live {
        Some(true) => Kind::Live,
        Some(false) => Kind::Object,
        None => Kind::of_class(class),
    };
    Ok(DreamBench::open(root)?.test_prompts(kind).to_vec())
}

fn refuse_shared_folders(plans: &[Plan]) -> Result<()> {
    let mut known: BTreeMap<&Path, &Path> = BTreeMap::new();
    for plan in plans {
        if let Some(other) = known.insert(&plan.folder, &plan.run) {
            return Err(Error::config(format!(
                "the runs `{}` and `{}` would both write to `{}`",
                other.display(),
                plan.run.display(),
                plan.folder.display()
            ))
            .with_hint("leave `--out` away: each run then keeps its images in its own folder"));
        }
    }
    Ok(())
}

/// Adds the run's folder where several runs have one name.
fn label(plans: &mut [Plan]) {
    let names: Vec<String> = plans.iter().map(|plan| plan.label.clone()).collect();
    for plan in plans {
        if names.iter().filter(|name| **name == plan.label).count() > 1 {
            plan.label = format!("{} ({})", plan.label, plan.run.display());
        }
    }
}

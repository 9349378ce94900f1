//! The plan of a judgement: every run with its photos, prompts and weights, checked before anything is computed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tch::{Device, Kind};

use crate::config::{ImageRoundsConfig, SamplerName, SubjectConfig};
use crate::data::prompts;
use crate::data::subject;
use crate::error::{Error, Result};
use crate::jobs::Display;
use crate::models::lora::peft;
use crate::models::weights::Checkpoint;
use crate::run::checkpoint::{best_of, weights_at};
use crate::run::folder::read_config;
use crate::run::manifest::{FINISHED, SubjectManifest, SubjectRecord};

/// Settings that the protocols of images share.
#[derive(Clone, Debug)]
pub struct ImageSettings {
    /// Run folders, or folders of runs.
    pub runs: Vec<PathBuf>,
    /// Folder of the reward encoder; each run's own where it is not given.
    pub reward: Option<PathBuf>,
    /// Folder of DINO; without it there are no figures of it.
    pub dino: Option<PathBuf>,
    /// Images for each prompt, at least 1.
    pub images_per_prompt: usize,
    /// Side of the images in pixels; the run's training resolution where it is not given, else the model's own.
    pub size: Option<u32>,
    /// Seed of images and intervals.
    pub seed: u64,
    /// Folder for images and figures; each run's `eval` where it is not given.
    pub out: Option<PathBuf>,
    /// Where models compute.
    pub device: Device,
    /// Type of the passes of the sampled models; encoders compute in f32.
    pub kind: Kind,
}

/// One model to judge: a run with the weights of one of its steps.
pub struct EvalPlan {
    /// The run folder.
    pub run: PathBuf,
    /// Name in tables: the subject's, with the run's where the subject has several.
    pub label: String,
    /// Folder for images and figures.
    pub folder: PathBuf,
    /// Folder for the base model's images.
    pub base_folder: PathBuf,
    /// The run's configuration.
    pub config: SubjectConfig,
    /// Of rounds, their own.
    pub rounds: Option<ImageRoundsConfig>,
    /// The run's manifest.
    pub manifest: SubjectManifest,
    /// The step whose weights are judged; `None` for the best ones.
    pub step: Option<u64>,
    /// SHA-256 of the tuned weights.
    pub weights_sha256: String,
    /// Folder of the reward encoder.
    pub reward: PathBuf,
    /// The prompts that are drawn.
    pub prompts: Vec<String>,
    /// The prompts without the token.
    pub texts: Vec<String>,
    /// How the images are drawn.
    pub drawing: Drawing,
}

/// How images are drawn.
pub struct Drawing {
    /// The sampler.
    pub sampler: SamplerName,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Images denoised together.
    pub batch: usize,
    /// Side of the images in pixels; the base model's own where it is not given.
    pub size: Option<i64>,
    /// Images for each prompt.
    pub per_prompt: usize,
    /// Seed of the images.
    pub seed: u64,
}

impl EvalPlan {
    /// The key by which two runs are of the same subject.
    pub fn subject(&self) -> (&str, &str, &[PathBuf]) {
        let subject = &self.manifest.subject;
        (&subject.name, &subject.class, &subject.photos)
    }

    /// The step that the judged weights are of.
    pub fn weights_step(&self) -> u64 {
        // Without validations the last weights are kept.
        let best = self.manifest.record.best.map(|(step, _)| step);
        self.step.or(best).unwrap_or(self.manifest.record.steps)
    }
}

/// The choices of a protocol for a run.
pub(super) trait Choice {
    /// Prompts with placeholders.
    fn templates(
        &self,
        run: &Path,
        config: &SubjectConfig,
        manifest: &SubjectManifest,
    ) -> Result<Vec<String>>;
    /// How images are drawn.
    fn drawing(&self, config: &SubjectConfig) -> Drawing;
    /// Steps whose weights are judged; the best ones where there are none.
    fn steps(&self) -> &[u64];
}

/// All models to judge, in the order of the settings.
pub(super) fn plans(settings: &ImageSettings, choice: &dyn Choice) -> Result<Vec<EvalPlan>> {
    if settings.images_per_prompt == 0 {
        return Err(Error::config("`--images-per-prompt` must be 1 or more"));
    }
    let mut runs = Vec::new();
    let mut known = BTreeSet::new();
    for path in &settings.runs {
        for run in runs_in(path)? {
            let place = run
                .canonicalize()
                .map_err(|source| Error::io("read", &run, source))?;
            if known.insert(place) {
                runs.push(run);
            }
        }
    }
    let steps: Vec<Option<u64>> = match choice.steps() {
        [] => vec![None],
        steps => steps.iter().copied().map(Some).collect(),
    };
    let mut plans = Vec::new();
    for run in &runs {
        for &step in &steps {
            plans.push(plan(settings, choice, run, step)?);
        }
    }
    refuse_shared_folders(&plans)?;
    label(&mut plans);
    Ok(plans)
}

/// The kind of a run's subject, which decides its prompts.
pub(super) fn subject_kind(config: &SubjectConfig, class: &str) -> subject::Kind {
    match config.subject.live {
        Some(true) => subject::Kind::Live,
        Some(false) => subject::Kind::Object,
        None => subject::Kind::of_class(class),
    }
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

fn plan(
    settings: &ImageSettings,
    choice: &dyn Choice,
    run: &Path,
    step: Option<u64>,
) -> Result<EvalPlan> {
    let manifest = SubjectManifest::read(run)?;
    let (config, rounds) = read_config(run)?;
    let weights = weights(run, step)?;
    if let Some(photo) = manifest.subject.photos.iter().find(|photo| !photo.exists()) {
        return Err(Error::data(
            photo,
            format!("this photo of the run `{}` is not there", run.display()),
        )
        .with_hint(
            "put it back where the run found it, or mend the paths in the run's `manifest.json`",
        ));
    }
    let SubjectRecord { token, class, .. } = &manifest.subject;
    let templates = choice.templates(run, &config, &manifest)?;
    let fill = |template: &String| prompts::fill(template, token, class);
    let prompts: Vec<String> = templates.iter().map(fill).collect();
    let texts: Vec<String> = prompts
        .iter()
        .map(|prompt| prompts::strip_token(prompt, token))
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
    let folder = match &settings.out {
        Some(out) => out.join(name.unwrap_or_default()),
        None => run.join("eval"),
    };
    Ok(EvalPlan {
        run: run.to_owned(),
        label: manifest.subject.name.clone(),
        base_folder: folder.join("base"),
        folder: match step {
            Some(step) => folder.join(format!("step-{step:06}")),
            None => folder,
        },
        step,
        weights_sha256: weights.sha256()?,
        reward: settings
            .reward
            .clone()
            .unwrap_or_else(|| config.reward.encoder.clone()),
        drawing: choice.drawing(&config),
        config,
        rounds,
        manifest,
        prompts,
        texts,
    })
}

/// The files of a run's weights: those of a step, or the best ones.
fn weights(run: &Path, step: Option<u64>) -> Result<Checkpoint> {
    if let Some(step) = step {
        return weights_at(run, step);
    }
    let best = best_of(run)?;
    match best.join("unet") {
        unet if unet.exists() => Checkpoint::open_component(&unet, "diffusion_pytorch_model", None),
        _ => Checkpoint::open_file(&best.join(peft::FILE_NAME)),
    }
}

fn refuse_shared_folders(plans: &[EvalPlan]) -> Result<()> {
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
fn label(plans: &mut [EvalPlan]) {
    let names: Vec<String> = plans.iter().map(|plan| plan.label.clone()).collect();
    for plan in plans {
        if names.iter().filter(|name| **name == plan.label).count() > 1 {
            plan.label = format!("{} ({})", plan.label, plan.run.display());
        }
    }
}

/// Says what makes means over these runs mean less.
pub(super) fn warn(plans: &[EvalPlan], display: &mut dyn Display) {
    let bases: BTreeSet<&str> = plans
        .iter()
        .map(|plan| plan.manifest.base_unet_sha256.as_str())
        .collect();
    if bases.len() > 1 {
        display.say(&format!(
            "warning: the runs have {} different base models: means mix them",
            bases.len()
        ));
    }
    for plan in plans {
        let status = &plan.manifest.record.status;
        if status != FINISHED {
            display.say(&format!(
                "warning: the run `{}` is {status}, not finished",
                plan.run.display()
            ));
        }
    }
}

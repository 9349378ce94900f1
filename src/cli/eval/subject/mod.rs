//! `preftune eval subject`: a run on prompts that it has not seen, beside its untuned base, by its own reward encoder
//! and by others.

mod estimates;
mod judged;
mod show;
mod summary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::estimates::Estimates;
pub(crate) use self::judged::SubjectArgs;
use self::judged::{JudgedModel, kind, roles, seen_prompts};
use self::show::Shown;
use self::summary::Group;
use super::common::{check_guidance, write_json};
use super::judges::{Encoded, Judges};
use super::plan::{self, Choice, Drawing, Plan, warn};
use super::sample::Sampling;
use crate::cli::progress::Progress;
use crate::config::SubjectConfig;
use crate::data::prompts;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::dreambench::DualFeatures;
use crate::eval::subject::{Column, columns, oracle, score};
use crate::jobs::Display as _;
use crate::rewards::harmonic::check_lambda;
use crate::run::evaluation::METRICS_FILE;
use crate::run::manifest::SubjectManifest;

/// The flags, and the prompts of `--prompts`.
struct Protocol<'a> {
    args: &'a SubjectArgs,
    file: Option<Vec<String>>,
    steps: Vec<u64>,
}

impl Choice for Protocol<'_> {
    fn templates(
        &self,
        _run: &Path,
        config: &SubjectConfig,
        manifest: &SubjectManifest,
    ) -> Result<Vec<String>> {
        let built_in = || prompts::test(kind(config, &manifest.subject.class)).iter();
        Ok(match &self.file {
            Some(file) => file.clone(),
            None => built_in().map(|&template| template.to_owned()).collect(),
        })
    }

    fn drawing(&self, config: &SubjectConfig) -> Drawing {
        let (args, own) = (self.args, &config.sampler);
        Drawing {
            sampler: args.sampler.unwrap_or(own.kind),
            steps: args.steps.map_or(own.steps, |steps| steps as usize),
            guidance: args.guidance.unwrap_or(own.guidance),
            batch: args.batch.map_or(own.batch, |batch| batch as usize),
            size: args.common.size.or(config.train.resolution).map(i64::from),
            per_prompt: args.common.images_per_prompt as usize,
            seed: args.common.seed,
        }
    }

    fn steps(&self) -> &[u64] {
        &self.steps
    }
}

pub(super) fn run(args: &SubjectArgs) -> Result<()> {
    let started = Instant::now();
    check_flags(args)?;
    // All that can be wrong is found before hours of sampling.
    let (device, kind) = args.common.device.resolve()?;
    let protocol = Protocol {
        args,
        file: args.prompts.as_deref().map(prompts::read).transpose()?,
        steps: BTreeSet::from_iter(args.checkpoint.clone())
            .into_iter()
            .collect(),
    };
    let plans = plan::plans(&args.common, &protocol)?;
    let reward = "give the reward encoder's folder with `--reward`";
    let judge = "`--judge` takes the folder of a CLIPModel or AlignModel";
    let own = plans.iter().map(|plan| (plan.reward.as_path(), reward));
    let others = args.judges.iter().map(|folder| (folder.as_path(), judge));
    let encoders: Vec<(&Path, &str)> = own.chain(others).collect();
    let mut judges = Judges::open(&encoders, args.common.dino.as_deref(), device)?;
    let mut progress = Progress::new(args.common.quiet);
    warn(&plans, &mut progress);

    let bootstrap = Bootstrap {
        seed: args.common.seed,
        ..Bootstrap::default()
    };
    let shown = Shown::new(args, columns_of(args), bootstrap);
    let mut sampling = Sampling::new(device, kind);
    let mut all: Vec<(Plan, JudgedModel)> = Vec::with_capacity(plans.len());
    let count = plans.len();
    for (number, plan) in plans.into_iter().enumerate() {
        if count > 1 {
            let number = number + 1;
            progress.say(&format!("{} ({number} of {count})", summary::title(&plan)));
        }
        let seen = seen_prompts(&plan);
        if !seen.is_empty() {
            progress.say(&format!(
                "warning: {} of {} prompts were used in training or validation: the figures flatter the model",
                seen.len(),
                plan.prompts.len()
            ));
        }
        let judged = judge_run(
            args,
            &bootstrap,
            &plan,
            &mut judges,
            &mut sampling,
            &mut progress,
        )?;
        let report = shown.run_report(&plan, &judged, &judges);
        write_json(&plan.folder.join(METRICS_FILE), &report)?;
        all.push((plan, judged));
    }

    let groups = Group::gather(&all, &bootstrap);
    let seconds = started.elapsed().as_secs_f64();
    let report = shown.report(&all, &groups, &judges, &sampling, seconds);
    let table = shown.people(&all, &groups, &judges);
    if args.common.json.write(&report)? {
        print!("{table}");
    }
    Ok(())
}

fn check_flags(args: &SubjectArgs) -> Result<()> {
    args.guidance.map_or(Ok(()), check_guidance)?;
    for &lambda in &args.lambda {
        check_lambda(lambda)?;
    }
    if args.checkpoint.contains(&0) {
        return Err(
            Error::config("step 0 is the untuned model, which is no checkpoint")
                .with_hint("leave it away: the untuned model is judged beside every run"),
        );
    }
    args.common.json.check()
}

fn columns_of(args: &SubjectArgs) -> Vec<Column> {
    columns(&roles(args), &args.lambda, args.common.dino.is_some())
}

/// Judges a model's images, and its base model's unless that is left out.
fn judge_run(
    args: &SubjectArgs,
    bootstrap: &Bootstrap,
    plan: &Plan,
    judges: &mut Judges,
    sampling: &mut Sampling,
    progress: &mut Progress,
) -> Result<JudgedModel> {
    let encoders: Vec<&Path> = std::iter::once(&plan.reward)
        .chain(&args.judges)
        .map(PathBuf::as_path)
        .collect();
    let photos = judges.photos(plan, &encoders)?;
    let texts = encoders
        .iter()
        .map(|encoder| judges.texts(encoder, &plan.texts))
        .collect::<Result<Vec<_>>>()?;
    let features = |images: &Encoded| {
        let dual = |(role, texts)| images.dual(role, &photos, texts);
        let duals: Vec<DualFeatures> = texts.iter().enumerate().map(dual).collect();
        (duals, images.by_dino(&photos))
    };
    let rows = |images: &Encoded| {
        let (duals, dino) = features(images);
        score(plan.prompts.len(), &duals, dino.as_ref(), &args.lambda)
    };
    let images = judges.tuned(plan, &encoders, sampling, progress)?;
    let base = if args.no_base {
        None
    } else {
        Some(judges.base(plan, &encoders, sampling, progress)?)
    };
    let (duals, dino) = features(&images);
    let tuned = rows(&images);
    let base_rows = base.as_deref().map(rows);
    Ok(JudgedModel {
        oracle: oracle(&duals, dino.as_ref(), &args.lambda),
        estimates: Estimates::of_prompts(&[(&tuned, base_rows.as_deref())], bootstrap),
        tuned,
        base: base_rows,
        base_folder: base.map(|images| images.folder.clone()),
        size: images.size,
    })
}

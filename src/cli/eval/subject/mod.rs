//! `preftune eval subject`: a run on prompts that it has not seen, beside its untuned base, by its own reward encoder
//! and by others.

mod show;
mod summary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use self::show::Shown;
use self::summary::{Estimates, Group};
use super::super::generate::SamplerArg;
use super::super::progress::Progress;
use super::judges::{Encoded, Judges};
use super::plan::{self, Choice, Drawing, Plan};
use super::sample::Sampling;
use super::{CommonArgs, check_guidance, warn, write_json};
use crate::config::{ImageConfig, PromptList};
use crate::data::prompts;
use crate::data::subject::Kind;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::dreambench::DualFeatures;
use crate::eval::subject::{Column, columns, oracle, score};
use crate::rewards::harmonic::check_lambda;
use crate::run::evaluation::METRICS_FILE;
use crate::run::manifest::{Manifest, SubjectManifest};

#[derive(Args)]
pub(super) struct SubjectArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// A file of prompts, one a line with `{token}` and `{class}`, that were used neither in training nor in
    /// validation; a built-in list where it is not given.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// An encoder of images and texts that the run was not tuned for; may be repeated.
    #[arg(long = "judge", value_name = "FOLDER")]
    judges: Vec<PathBuf>,
    /// Shares of likeness to the photos in the reward, between 0 and 1.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(default_value = "0.3,0.5,0.7", value_name = "NUMBERS")]
    lambda: Vec<f64>,
    /// Judge the weights of these checkpoints instead of the best ones.
    #[arg(long, value_delimiter = ',', value_name = "STEPS")]
    checkpoint: Vec<u64>,
    /// Leave the untuned base model out.
    #[arg(long)]
    no_base: bool,
    /// The sampler; the run's own where it is not given.
    #[arg(long, value_enum)]
    sampler: Option<SamplerArg>,
    /// Denoising steps; the run's own where they are not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    steps: Option<u64>,
    /// Classifier-free guidance, 1 is none; the run's own where it is not given.
    #[arg(long)]
    guidance: Option<f64>,
    /// Images denoised together; the run's own number where it is not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: Option<u64>,
}

/// What was found out about one model.
struct Judged {
    /// What the photos score among themselves, column by column.
    oracle: Vec<Option<f64>>,
    /// A row for each prompt.
    tuned: Vec<Vec<f64>>,
    base: Option<Vec<Vec<f64>>>,
    /// Where the base model's images are.
    base_folder: Option<PathBuf>,
    /// Means over the prompts with their intervals.
    estimates: Estimates,
    /// Width and height of the images.
    size: (u32, u32),
}

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
        config: &ImageConfig,
        manifest: &Manifest,
    ) -> Result<Vec<String>> {
        let built_in = || prompts::test(kind(config, &manifest.subject.class)).iter();
        Ok(match &self.file {
            Some(file) => file.clone(),
            None => built_in().map(|&template| template.to_owned()).collect(),
        })
    }

    fn drawing(&self, config: &ImageConfig) -> Drawing {
        let (args, own) = (self.args, &config.sampler);
        Drawing {
            sampler: args.sampler.unwrap_or_else(|| own.kind.into()),
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
    warn(&plans, &progress);

    let bootstrap = Bootstrap {
        seed: args.common.seed,
        ..Bootstrap::default()
    };
    let shown = Shown::new(args, columns_of(args), bootstrap);
    let mut sampling = Sampling::new(device, kind);
    let mut all: Vec<(Plan, Judged)> = Vec::with_capacity(plans.len());
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

    let groups = Group::of(&all, &bootstrap);
    let seconds = started.elapsed().as_secs_f64();
    let report = shown.report(&all, &groups, &judges, &sampling, seconds);
    let table = shown.people(&all, &groups, &judges);
    args.common.show(&report, &table)
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
    args.common.check_json()
}

/// Names of the encoders of images and texts: `reward`, `judge`, `judge_2` and so on.
fn roles(args: &SubjectArgs) -> Vec<String> {
    let judge = |number: usize| match number {
        1 => "judge".to_owned(),
        number => format!("judge_{number}"),
    };
    std::iter::once("reward".to_owned())
        .chain((1..=args.judges.len()).map(judge))
        .collect()
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
) -> Result<Judged> {
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
    Ok(Judged {
        oracle: oracle(&duals, dino.as_ref(), &args.lambda),
        estimates: Estimates::of_prompts(&[(&tuned, base_rows.as_deref())], bootstrap),
        tuned,
        base: base_rows,
        base_folder: base.map(|images| images.folder.clone()),
        size: images.size,
    })
}

fn kind(config: &ImageConfig, class: &str) -> Kind {
    match config.subject.live {
        Some(true) => Kind::Live,
        Some(false) => Kind::Object,
        None => Kind::of_class(class),
    }
}

/// The prompts that the run was trained or validated on too, as far as its lists can still be read.
fn seen_prompts(plan: &Plan) -> Vec<&String> {
    let SubjectManifest { token, class, .. } = &plan.manifest.subject;
    let config = &plan.config;
    let kind = kind(config, class);
    let templates = |list: Option<&PromptList>, built_in: &[&str]| match list {
        Some(PromptList::List(list)) => list.clone(),
        Some(PromptList::File(file)) => prompts::read(file).unwrap_or_default(),
        None => built_in.iter().map(|&text| text.to_owned()).collect(),
    };
    let training = templates(config.negatives.prompts.as_ref(), prompts::training(kind));
    let validation = templates(
        config.validation.prompts.as_ref(),
        prompts::validation(kind),
    );
    let fill = |template: &String| prompts::fill(template, token, class);
    let known: BTreeSet<String> = training.iter().chain(&validation).map(fill).collect();
    let drawn = plan.prompts.iter();
    drawn.filter(|prompt| known.contains(*prompt)).collect()
}

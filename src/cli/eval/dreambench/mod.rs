//! `preftune eval dreambench`: the paper's protocol.

mod judged;
mod show;

use std::path::Path;
use std::time::Instant;

pub(crate) use self::judged::DreambenchArgs;
use self::judged::JudgedRun;
use self::show::Totals;
use super::common::{check_guidance, write_json};
use super::judges::{Encoded, Judges};
use super::plan::{self, Choice, Drawing, Plan, warn};
use super::sample::Sampling;
use crate::cli::progress::Progress;
use crate::config::SubjectConfig;
use crate::data::dreambench::DreamBench;
use crate::data::prompts;
use crate::data::subject::Kind;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::dreambench::{Features, oracle, score};
use crate::jobs::Display as _;
use crate::run::evaluation::METRICS_FILE;
use crate::run::manifest::SubjectManifest;

/// The flags, and the prompts of `--prompts`.
struct Protocol<'a> {
    args: &'a DreambenchArgs,
    file: Option<Vec<String>>,
}

impl Choice for Protocol<'_> {
    fn templates(
        &self,
        run: &Path,
        config: &SubjectConfig,
        manifest: &SubjectManifest,
    ) -> Result<Vec<String>> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => test_prompts(self.args, run, config, &manifest.subject.class),
        }
    }

    fn drawing(&self, config: &SubjectConfig) -> Drawing {
        let DreambenchArgs { common, .. } = self.args;
        Drawing {
            sampler: self.args.sampler,
            steps: self.args.steps as usize,
            guidance: self.args.guidance,
            batch: self.args.batch as usize,
            size: common.size.or(config.train.resolution).map(i64::from),
            per_prompt: common.images_per_prompt as usize,
            seed: common.seed,
        }
    }

    fn steps(&self) -> &[u64] {
        &[]
    }
}

pub(super) fn run(args: &DreambenchArgs) -> Result<()> {
    let started = Instant::now();
    check_guidance(args.guidance)?;
    args.common.json.check()?;
    // All that can be wrong is found before hours of sampling.
    let (device, kind) = args.common.device.resolve()?;
    let file = args.prompts.as_deref().map(prompts::read).transpose()?;
    let plans = plan::plans(&args.common, &Protocol { args, file })?;
    let reward = "give the reward encoder's folder with `--reward`";
    let clip = "`--clip` takes the folder of a CLIPModel, such as openai/clip-vit-base-patch16";
    let mut encoders = vec![(args.clip.as_path(), clip)];
    encoders.extend(plans.iter().map(|plan| (plan.reward.as_path(), reward)));
    let mut judges = Judges::open(&encoders, args.common.dino.as_deref(), device)?;
    let mut progress = Progress::new(args.common.quiet);
    warn(&plans, &mut progress);

    let mut sampling = Sampling::new(device, kind);
    let mut all: Vec<(Plan, JudgedRun)> = Vec::with_capacity(plans.len());
    let count = plans.len();
    for (number, plan) in plans.into_iter().enumerate() {
        if count > 1 {
            progress.say(&format!("{} ({} of {count})", plan.label, number + 1));
        }
        let judged = judge(args, &plan, &mut judges, &mut sampling, &mut progress)?;
        let report = show::run_report(args, &plan, &judged, &judges);
        write_json(&plan.folder.join(METRICS_FILE), &report)?;
        all.push((plan, judged));
    }

    let bootstrap = Bootstrap {
        seed: args.common.seed,
        ..Bootstrap::default()
    };
    let summary = Totals::new(&all, &bootstrap);
    let report = show::report(
        args,
        &all,
        &summary,
        &judges,
        &sampling,
        &bootstrap,
        started.elapsed().as_secs_f64(),
    );
    let table = show::people(args, &all, &summary, &judges);
    if args.common.json.write(&report)? {
        print!("{table}");
    }
    Ok(())
}

/// Judges a run's images, and its base model's where that is asked for.
fn judge(
    args: &DreambenchArgs,
    plan: &Plan,
    judges: &mut Judges,
    sampling: &mut Sampling,
    progress: &mut Progress,
) -> Result<JudgedRun> {
    let encoders = [args.clip.as_path(), &plan.reward];
    let photos = judges.photos(plan, &encoders)?;
    let texts = [
        judges.texts(&args.clip, &plan.texts)?,
        judges.texts(&plan.reward, &plan.texts)?,
    ];
    let with_token = judges.texts(&args.clip, &plan.prompts)?;
    let scored = |images: &Encoded| {
        let [clip, reward] = [0, 1].map(|role| images.dual(role, &photos, &texts[role]));
        let dino = images.by_dino(&photos);
        let features = Features {
            clip: &clip,
            clip_texts_with_token: &with_token,
            dino: dino.as_ref(),
            reward: &reward,
        };
        (score(&plan.prompts, &features), oracle(&features))
    };
    let images = judges.tuned(plan, &encoders, sampling, progress)?;
    let (scores, oracle) = scored(&images);
    let base = if args.base {
        Some(judges.base(plan, &encoders, sampling, progress)?)
    } else {
        None
    };
    Ok(JudgedRun {
        oracle,
        scores,
        base: base.as_ref().map(|images| scored(images).0),
        base_folder: base.map(|images| images.folder.clone()),
        size: images.size,
    })
}

/// DreamBench's prompts for the kind of subject.
fn test_prompts(
    args: &DreambenchArgs,
    run: &Path,
    config: &SubjectConfig,
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

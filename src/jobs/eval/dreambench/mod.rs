//! The protocol of DreamBench's paper.

mod judged;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

pub use self::judged::JudgedRun;
pub use self::report::Totals;
use super::judges::{Counts, Encoded, Judges, Shown};
use super::plan::{Choice, Drawing, EvalPlan, ImageSettings, plans, subject_kind, warn};
use super::sample::{Sampling, check_guidance};
use crate::config::{SamplerName, SubjectConfig};
use crate::data::dreambench::DreamBench;
use crate::data::prompts;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::dreambench::{ClassImages, Features, oracle, score};
use crate::files::write_json;
use crate::jobs::Display;
use crate::run::evaluation::METRICS_FILE;
use crate::run::manifest::SubjectManifest;

/// Runs, their prompts, and who judges the images.
#[derive(Clone, Debug)]
pub struct DreambenchProtocol {
    /// Settings that the protocols of images share.
    pub images: ImageSettings,
    /// Folder of CLIP for CLIP-I and CLIP-T.
    pub clip: PathBuf,
    /// DreamBench clone for the 25 test prompts; the run's own where it is not given.
    pub dreambench: Option<PathBuf>,
    /// A file of prompts, one a line with `{token}` and `{class}`, instead of the 25.
    pub prompts: Option<PathBuf>,
    /// Judge images of the class word alone too: does it draw the subject by now?
    pub class_alone: bool,
    /// Judge the untuned base model too, from the same noise.
    pub base: bool,
    /// The sampler.
    pub sampler: SamplerName,
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Images denoised together, at least 1.
    pub batch: usize,
}

/// The judgement of all runs.
pub struct DreambenchJudgement {
    /// Every run.
    pub runs: Vec<JudgedRun>,
    /// Subjects of the set of which there is no run: means are not those of the whole set.
    pub missing: Vec<String>,
    /// Means over subjects.
    pub totals: Totals,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// The work that it took.
    pub counts: Counts,
    /// The time that it took.
    pub seconds: f64,
}

impl DreambenchJudgement {
    /// All of it, for programs.
    pub fn report(&self) -> Value {
        let Self {
            runs,
            missing,
            totals,
            bootstrap,
            counts,
            seconds,
        } = self;
        report::report((runs, missing), totals, bootstrap, *counts, *seconds)
    }
}

/// The settings, with the file of prompts read.
struct Chosen<'a> {
    protocol: &'a DreambenchProtocol,
    file: Option<Vec<String>>,
}

impl Choice for Chosen<'_> {
    fn templates(
        &self,
        run: &Path,
        config: &SubjectConfig,
        manifest: &SubjectManifest,
    ) -> Result<Vec<String>> {
        match &self.file {
            Some(file) => Ok(file.clone()),
            None => test_prompts(self.protocol, run, config, &manifest.subject.class),
        }
    }

    fn drawing(&self, config: &SubjectConfig) -> Drawing {
        let DreambenchProtocol { images, .. } = self.protocol;
        Drawing {
            sampler: self.protocol.sampler,
            steps: self.protocol.steps,
            guidance: self.protocol.guidance,
            batch: self.protocol.batch,
            size: images.size.or(config.train.resolution).map(i64::from),
            per_prompt: images.images_per_prompt,
            seed: images.seed,
        }
    }

    fn steps(&self) -> &[u64] {
        &[]
    }
}

/// The subjects of the set that the first run names, of which there is no run.
fn missing_subjects(plans: &[EvalPlan]) -> Result<Vec<String>> {
    let root = plans
        .first()
        .and_then(|plan| plan.config.subject.dreambench.as_ref());
    let Some(root) = root.filter(|root| root.exists()) else {
        return Ok(Vec::new());
    };
    let there: Vec<&str> = plans.iter().map(|plan| plan.subject().0).collect();
    let bench = DreamBench::open(root)?;
    let missing = bench.names().filter(|name| !there.contains(name));
    Ok(missing.map(str::to_owned).collect())
}

/// Judges every run, and keeps images and figures of each beside it.
///
/// # Errors
/// A setting out of its range; a run, an encoder or prompts that cannot be read.
pub fn judge(
    protocol: &DreambenchProtocol,
    display: &mut dyn Display,
) -> Result<DreambenchJudgement> {
    let started = Instant::now();
    check_guidance(protocol.guidance)?;
    // All that can be wrong is found before hours of sampling.
    let images = &protocol.images;
    let file = protocol.prompts.as_deref().map(prompts::read).transpose()?;
    let plans = plans(images, &Chosen { protocol, file })?;
    let reward = "give the reward encoder's folder with `--reward`";
    let clip = "`--clip` takes the folder of a CLIPModel, such as openai/clip-vit-base-patch16";
    let mut encoders = vec![(protocol.clip.as_path(), clip)];
    encoders.extend(plans.iter().map(|plan| (plan.reward.as_path(), reward)));
    let mut judges = Judges::open(&encoders, images.dino.as_deref(), images.device)?;
    judges.say_assumed(display);
    warn(&plans, display);

    let missing = missing_subjects(&plans)?;
    // A single run is asked for by itself.
    if plans.len() > 1 && !missing.is_empty() {
        display.say(&format!(
            "warning: {} subjects of the set are missing, and the means are over the others: {}",
            missing.len(),
            missing.join(", ")
        ));
    }
    let mut sampling = Sampling::new(images.device, images.kind);
    let mut runs: Vec<JudgedRun> = Vec::with_capacity(plans.len());
    let count = plans.len();
    for (number, plan) in plans.into_iter().enumerate() {
        if count > 1 {
            display.say(&format!("{} ({} of {count})", plan.label, number + 1));
        }
        let judged = judge_run(protocol, plan, &mut judges, &mut sampling, display)?;
        let file = judged.plan.folder.join(METRICS_FILE);
        write_json(&file, &report::run_report(&judged))?;
        runs.push(judged);
    }
    let bootstrap = Bootstrap {
        seed: images.seed,
        ..Bootstrap::default()
    };
    Ok(DreambenchJudgement {
        totals: Totals::new(&runs, &bootstrap),
        runs,
        missing,
        bootstrap,
        counts: judges.counts(&sampling),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Judges a run's images, and its base model's where that is asked for.
fn judge_run(
    protocol: &DreambenchProtocol,
    plan: EvalPlan,
    judges: &mut Judges,
    sampling: &mut Sampling,
    display: &mut dyn Display,
) -> Result<JudgedRun> {
    let encoders = [protocol.clip.as_path(), &plan.reward];
    let photos = judges.photos(&plan, &encoders)?;
    let texts = [
        judges.texts(&protocol.clip, &plan.texts)?,
        judges.texts(&plan.reward, &plan.texts)?,
    ];
    let with_token = judges.texts(&protocol.clip, &plan.prompts)?;
    let scored = |images: &Encoded, class: Option<&Encoded>, untuned: Option<&Encoded>| {
        let [clip, reward] = [0, 1].map(|role| images.dual(role, &photos, &texts[role]));
        let dino = images.by_dino(&photos);
        let [class, untuned] = [class, untuned].map(|images| {
            images.map(|images| {
                let clip = images.dual(0, &photos, &texts[0]).images;
                (clip, images.by_dino(&photos))
            })
        });
        let [class, untuned] = [&class, &untuned].map(|images| {
            images.as_ref().map(|(clip, dino)| ClassImages {
                clip,
                dino: dino.as_ref(),
            })
        });
        let features = Features {
            clip: &clip,
            clip_texts_with_token: &with_token,
            dino: dino.as_ref(),
            reward: &reward,
            class,
            untuned,
        };
        (score(&plan.prompts, &features), oracle(&features))
    };
    let images = judges.tuned(&plan, Shown::Subject, &encoders, sampling, display)?;
    let class = if protocol.class_alone {
        Some(judges.tuned(&plan, Shown::Class, &encoders, sampling, display)?)
    } else {
        None
    };
    let (mut base, mut untuned) = (None, None);
    if protocol.base {
        base = Some(judges.base(&plan, Shown::Subject, &encoders, sampling, display)?);
        if protocol.class_alone {
            untuned = Some(judges.base(&plan, Shown::Class, &encoders, sampling, display)?);
        }
    }
    let untuned = untuned.as_deref();
    let (scores, oracle) = scored(&images, class.as_ref(), untuned);
    let mut by_role = vec![("clip", judges.report(&protocol.clip))];
    by_role.extend(judges.dino_report().map(|report| ("dino", report)));
    by_role.push(("reward", judges.report(&plan.reward)));
    Ok(JudgedRun {
        encoders: by_role,
        oracle,
        scores,
        base: base
            .as_ref()
            .map(|images| scored(images, untuned, untuned).0),
        base_folder: base.map(|images| images.folder.clone()),
        size: images.size,
        plan,
    })
}

/// DreamBench's prompts for the kind of subject.
fn test_prompts(
    protocol: &DreambenchProtocol,
    run: &Path,
    config: &SubjectConfig,
    class: &str,
) -> Result<Vec<String>> {
    let Some(root) = protocol
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
    let kind = subject_kind(config, class);
    Ok(DreamBench::open(root)?.test_prompts(kind).to_vec())
}

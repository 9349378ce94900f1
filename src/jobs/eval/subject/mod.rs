//! A run on prompts that it has not seen, beside its untuned base, by its own reward encoder and by others.

mod estimates;
mod judged;
mod report;
mod summary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use self::estimates::Estimates;
pub use self::judged::JudgedModel;
use self::judged::{roles, seen_prompts};
pub use self::report::Outline;
pub use self::summary::Group;
use self::summary::title;
use super::judges::{Counts, Encoded, Judges, Shown};
use super::plan::{Choice, Drawing, EvalPlan, ImageSettings, plans, subject_kind, warn};
use super::sample::{Sampling, check_guidance};
use serde_json::Value;

use crate::config::{SamplerName, SubjectConfig};
use crate::data::prompts;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::subject::{ClassScope, DINO, Judged, Scope, columns, oracle, score};
use crate::files::write_json;
use crate::jobs::Display;
use crate::rewards::harmonic::check_lambda;
use crate::run::evaluation::METRICS_FILE;
use crate::run::manifest::SubjectManifest;

/// Runs, the prompts that they have not seen, and who judges the images.
#[derive(Clone, Debug)]
pub struct SubjectProtocol {
    /// Settings that the protocols of images share.
    pub images: ImageSettings,
    /// A file of prompts, one a line with `{token}` and `{class}`; a built-in list where it is not given.
    pub prompts: Option<PathBuf>,
    /// Folders of encoders of images and texts that the runs were not tuned for.
    pub judges: Vec<PathBuf>,
    /// Shares of likeness to the photos in the reward, between 0 and 1.
    pub lambda: Vec<f64>,
    /// Steps of checkpoints that are judged; the best weights where there are none.
    pub checkpoints: Vec<u64>,
    /// Judge the untuned base model too, from the same noise.
    pub base: bool,
    /// Judge images of the class word alone too: does it draw the subject by now?
    pub class_alone: bool,
    /// The sampler; the run's own where it is not given.
    pub sampler: Option<SamplerName>,
    /// Denoising steps; the run's own where they are not given.
    pub steps: Option<usize>,
    /// Classifier-free guidance, 1 is none; the run's own where it is not given.
    pub guidance: Option<f64>,
    /// Images denoised together, at least 1; the run's own number where it is not given.
    pub batch: Option<usize>,
}

/// The judgement of all models.
pub struct SubjectJudgement {
    /// The columns of all figures.
    pub outline: Outline,
    /// Every model, run by run.
    pub models: Vec<JudgedModel>,
    /// Models of one recipe, where there are several.
    pub groups: Vec<Group>,
    /// The work that it took.
    pub counts: Counts,
    /// The time that it took.
    pub seconds: f64,
}

impl SubjectJudgement {
    /// All of it, for programs.
    pub fn report(&self) -> Value {
        self.outline
            .report(&self.models, &self.groups, self.counts, self.seconds)
    }
}

/// The settings, with the file of prompts read.
struct Chosen<'a> {
    protocol: &'a SubjectProtocol,
    file: Option<Vec<String>>,
    steps: Vec<u64>,
}

impl Choice for Chosen<'_> {
    fn templates(
        &self,
        _run: &Path,
        config: &SubjectConfig,
        manifest: &SubjectManifest,
    ) -> Result<Vec<String>> {
        let built_in = || prompts::test(subject_kind(config, &manifest.subject.class)).iter();
        Ok(match &self.file {
            Some(file) => file.clone(),
            None => built_in().map(|&template| template.to_owned()).collect(),
        })
    }

    fn drawing(&self, config: &SubjectConfig) -> Drawing {
        let (protocol, own) = (self.protocol, &config.sampler);
        let images = &protocol.images;
        Drawing {
            sampler: protocol.sampler.unwrap_or(own.kind),
            steps: protocol.steps.unwrap_or(own.steps),
            guidance: protocol.guidance.unwrap_or(own.guidance),
            batch: protocol.batch.unwrap_or(own.batch),
            size: images.size.or(config.train.resolution).map(i64::from),
            per_prompt: images.images_per_prompt,
            seed: images.seed,
        }
    }

    fn steps(&self) -> &[u64] {
        &self.steps
    }
}

/// Judges every run, and keeps images and figures of each beside it.
///
/// # Errors
/// A setting out of its range; a run, an encoder or prompts that cannot be read.
pub fn judge(protocol: &SubjectProtocol, display: &mut dyn Display) -> Result<SubjectJudgement> {
    let started = Instant::now();
    check(protocol)?;
    // All that can be wrong is found before hours of sampling.
    let images = &protocol.images;
    let chosen = Chosen {
        protocol,
        file: protocol.prompts.as_deref().map(prompts::read).transpose()?,
        steps: BTreeSet::from_iter(protocol.checkpoints.clone())
            .into_iter()
            .collect(),
    };
    let plans = plans(images, &chosen)?;
    let reward = "give the reward encoder's folder with `--reward`";
    let judge = "`--judge` takes an encoder of images and texts: CLIP, OpenCLIP, SigLIP or ALIGN";
    let own = plans.iter().map(|plan| (plan.reward.as_path(), reward));
    let others = protocol
        .judges
        .iter()
        .map(|folder| (folder.as_path(), judge));
    let encoders: Vec<(&Path, &str)> = own.chain(others).collect();
    let mut judges = Judges::open(&encoders, images.dino.as_deref(), images.device)?;
    judges.say_assumed(display);
    warn(&plans, display);

    let bootstrap = Bootstrap {
        seed: images.seed,
        ..Bootstrap::default()
    };
    let scope = Scope {
        dino: images.dino.is_some(),
        several: images.images_per_prompt > 1,
        class: match (protocol.class_alone, protocol.base) {
            (false, _) => ClassScope::Nothing,
            (true, false) => ClassScope::Alone,
            (true, true) => ClassScope::BesideUntuned,
        },
    };
    let outline = Outline {
        columns: columns(&roles(protocol.judges.len()), &protocol.lambda, scope),
        lambda: protocol.lambda.clone(),
        bootstrap,
    };
    let mut sampling = Sampling::new(images.device, images.kind);
    let mut models: Vec<JudgedModel> = Vec::with_capacity(plans.len());
    let count = plans.len();
    for (number, plan) in plans.into_iter().enumerate() {
        if count > 1 {
            let number = number + 1;
            display.say(&format!("{} ({number} of {count})", title(&plan)));
        }
        let seen = seen_prompts(&plan);
        if !seen.is_empty() {
            display.say(&format!(
                "warning: {} of {} prompts were used in training or validation: the figures flatter the model",
                seen.len(),
                plan.prompts.len()
            ));
        }
        let judged = judge_run(
            protocol,
            &outline,
            plan,
            seen,
            &mut judges,
            &mut sampling,
            display,
        )?;
        let file = judged.plan.folder.join(METRICS_FILE);
        write_json(&file, &outline.model_report(&judged))?;
        models.push(judged);
    }
    Ok(SubjectJudgement {
        groups: Group::gather(&models, &bootstrap),
        outline,
        models,
        counts: judges.counts(&sampling),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Refuses settings out of their range.
fn check(protocol: &SubjectProtocol) -> Result<()> {
    protocol.guidance.map_or(Ok(()), check_guidance)?;
    for &lambda in &protocol.lambda {
        check_lambda(lambda)?;
    }
    if protocol.checkpoints.contains(&0) {
        return Err(
            Error::config("step 0 is the untuned model, which is no checkpoint")
                .with_hint("leave it away: the untuned model is judged beside every run"),
        );
    }
    Ok(())
}

/// Judges a model's images, and its base model's unless that is left out.
fn judge_run(
    protocol: &SubjectProtocol,
    outline: &Outline,
    plan: EvalPlan,
    seen_prompts: Vec<String>,
    judges: &mut Judges,
    sampling: &mut Sampling,
    display: &mut dyn Display,
) -> Result<JudgedModel> {
    let encoders: Vec<&Path> = std::iter::once(&plan.reward)
        .chain(&protocol.judges)
        .map(PathBuf::as_path)
        .collect();
    let photos = judges.photos(&plan, &encoders)?;
    let texts = encoders
        .iter()
        .map(|encoder| judges.texts(encoder, &plan.texts))
        .collect::<Result<Vec<_>>>()?;
    let judged = |images: &Encoded| {
        let dual = |(role, texts)| images.dual(role, &photos, texts);
        Judged {
            duals: texts.iter().enumerate().map(dual).collect(),
            dino: images.by_dino(&photos),
        }
    };
    let images = judges.tuned(&plan, Shown::Subject, &encoders, sampling, display)?;
    let class = if protocol.class_alone {
        Some(judges.tuned(&plan, Shown::Class, &encoders, sampling, display)?)
    } else {
        None
    };
    let (mut base, mut base_class) = (None, None);
    if protocol.base {
        base = Some(judges.base(&plan, Shown::Subject, &encoders, sampling, display)?);
        if protocol.class_alone {
            base_class = Some(judges.base(&plan, Shown::Class, &encoders, sampling, display)?);
        }
    }
    let own = judged(&images);
    let class = class.as_ref().map(judged);
    let untuned = base_class.as_deref().map(judged);
    let (prompts, lambdas) = (plan.prompts.len(), &protocol.lambda);
    let tuned = score(prompts, &own, class.as_ref(), untuned.as_ref(), lambdas);
    let base_rows = base.as_deref().map(|images| {
        let of_base = untuned.as_ref();
        score(prompts, &judged(images), of_base, of_base, lambdas)
    });
    let by_role = encoders.iter().map(|encoder| judges.report(encoder));
    let by_role = roles(protocol.judges.len()).into_iter().zip(by_role);
    let by_dino = judges.dino_report();
    let by_dino = by_dino.map(|report| (DINO.to_owned(), report));
    Ok(JudgedModel {
        title: title(&plan),
        seen_prompts,
        encoders: by_role.chain(by_dino).collect(),
        oracle: oracle(&own, &outline.columns),
        estimates: Estimates::of_prompts(&[(&tuned, base_rows.as_deref())], &outline.bootstrap),
        tuned,
        base: base_rows,
        base_folder: base.map(|images| images.folder.clone()),
        size: images.size,
        plan,
    })
}

//! Rounds of a diffusion model on its own images: draw, reward, learn from the pairs, each round against the policy that drew.
//! The weights of the best step are kept by the reward of held-out prompts, and rounds end when one gains nothing.

mod reward;
mod round;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use self::reward::Surroundings;
use self::round::{Gain, ImageRound};
use self::shared::Shared;
use super::{PolicyFigures, by_one_process, conclude, write_metrics};
use crate::config::{ImageRewardKind, ImageRoundsConfig, PromptList};
use crate::data::photo::Photo;
use crate::data::prompts;
use crate::data::quality;
use crate::data::subject::Kind;
use crate::error::{Error, Result};
use crate::files::{absolute, replace_folder};
use crate::hub::name_model;
use crate::jobs::inputs::files_sha256;
use crate::jobs::interrupt::Interrupt;
use crate::jobs::open::image::weights_of;
use crate::jobs::open::resolve;
use crate::jobs::pairs;
use crate::jobs::policy::diffusion::{START, VAE, start_sha256, vae_sha256};
use crate::jobs::prompts::SubjectPrompts;
use crate::jobs::stopwatch::Stopwatch;
use crate::jobs::{Display, Opened, RunOptions, open_folder};
use crate::models::weights::Checkpoint;
use crate::rewards::image::ImageReward;
use crate::run::folder::explain_loss;
use crate::run::image_rounds::ImageRoundsManifest;
use crate::run::manifest::{self, Record, SubjectRecord, check_inputs};
use crate::run::rounds;

/// Checks of a configuration that take the table of objectives.
pub(in crate::jobs) fn check(config: &ImageRoundsConfig) -> Result<()> {
    let none = Path::new("");
    pairs::data::objective(&config.round(None, none, none, 1)).map(drop)
}

/// Makes all rounds of a configuration that are not made yet: the figures of each policy, the first one's included.
///
/// # Errors
/// Prompts, photos or models that cannot be read, a reward that fails, a folder that holds another run, a round whose images are
/// all alike, that diverges or is interrupted.
pub fn train(
    config: &ImageRoundsConfig,
    options: RunOptions,
    display: &mut dyn Display,
    interrupt: &Interrupt,
) -> Result<Vec<PolicyFigures>> {
    let resume = by_one_process(options)?;
    check(config)?;
    let subject = config
        .has_subject()
        .then(|| SubjectPrompts::new(&config.subject))
        .transpose()?;
    let photos = subject.as_ref().map(|subject| subject.subject.load());
    let photos: Option<Rc<[Photo]>> = photos.transpose()?.map(Into::into);
    let train = training_prompts(config, subject.as_ref())?;
    let held_out = held_out_prompts(config, subject.as_ref())?;
    let (device, kind) = resolve(&config.run.device, config.run.precision)?;
    let output = &config.run.output;
    let goes_on = |record: &Record| Ok(record.steps < config.rounds.count && !record.stopped_early);
    let opened = open_folder::<ImageRoundsManifest>(config, output, resume, display, goes_on)?;
    let (_folder, earlier) = match opened {
        Opened::Finished(manifest) => return kept_figures(output, manifest.record.steps),
        Opened::Folder(folder, earlier) => (folder, earlier),
    };
    let run = output.as_path();
    say_inputs(config, photos.as_deref(), [&train, &held_out], display);
    let surroundings = Surroundings {
        config,
        run,
        device,
        kind,
        interrupt,
    };
    let (reward, measures) = surroundings.reward(photos.as_deref(), &held_out, display)?;
    display.say(&format!("reward: {}", reward.name()));
    let mut manifest = describe(config, subject.as_ref(), reward.as_ref())?;
    if let Some(measures) = measures
        .as_ref()
        .filter(|_| config.validation.encoder.is_some())
    {
        let hash = measures.encoder.weights_sha256().to_owned();
        let inputs = &mut manifest.record.inputs;
        inputs.insert("validation encoder".to_owned(), hash);
    }
    if let Some(earlier) = &earlier {
        check_inputs(&manifest.record.inputs, &earlier.record.inputs, run)?;
    }
    let mut watch = Stopwatch::resume(earlier.as_ref().map(|earlier| &earlier.record.seconds));
    manifest.record.begin(device, kind, &[]);
    manifest::write(&manifest, run)?;
    let photo_prompt = subject
        .as_ref()
        .map_or_else(String::new, |subject| subject.fill(&config.subject.prompt));
    let mut shared = Shared {
        config,
        device,
        kind,
        interrupt,
        display,
        reward: Rc::new(reward.into()),
        measures,
        photos,
        photo_prompt,
        train,
        held_out,
    };
    let outcome = explain_loss(make_rounds(&mut shared, run), run);
    watch.lap("rounds");
    manifest.record.seconds = watch.seconds();
    let made = outcome.map(|(measured, gained_nothing)| {
        manifest.record.stopped_early = gained_nothing;
        measured
    });
    conclude(&mut manifest.record, &made);
    if let Ok(measured) = &made {
        manifest.record.counts = sum_of_counts(measured);
    }
    let written = manifest::write(&manifest, run);
    let measured = made?;
    written?;
    Ok(measured)
}

/// Makes the rounds, until one gains nothing: the figures of all policies, and whether that was so.
fn make_rounds(shared: &mut Shared, run: &Path) -> Result<(Vec<PolicyFigures>, bool)> {
    let config = shared.config;
    let given = config.adapter.start.as_deref();
    let mut start: Option<PathBuf> = given.map(weights_of).transpose()?;
    let mut measured: Vec<PolicyFigures> = Vec::new();
    for number in 1..=config.rounds.count {
        let round = ImageRound {
            number,
            folder: rounds::folder(run, number),
        };
        let Gain {
            before,
            after,
            gained,
        } = round.make(shared, run, start.as_deref())?;
        if number == 1 {
            shared
                .display
                .say(&format!("policy 0: {}", in_words(&before)));
            measured.push(before);
        }
        shared
            .display
            .say(&format!("policy {number}: {}", in_words(&after)));
        measured.push(after);
        write_metrics(run, &measured)?;
        let best = round.best();
        if number == 1 || gained {
            keep(&best, run)?;
        }
        if !gained {
            shared.display.say(&format!(
                "round {number} gains nothing on the held-out prompts: its weights are not kept, and the rounds end"
            ));
            return Ok((measured, true));
        }
        start = Some(best);
    }
    Ok((measured, false))
}

/// Puts a round's best weights in the place of the run's, without a second copy where the disk allows that.
fn keep(best: &Path, run: &Path) -> Result<()> {
    replace_folder(&run.join("best"), |folder| link_all(best, folder))
}

fn link_all(from: &Path, to: &Path) -> Result<()> {
    let list = |source| Error::io("read", from, source);
    for entry in std::fs::read_dir(from).map_err(list)? {
        let path = entry.map_err(list)?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            std::fs::create_dir_all(&target)
                .map_err(|source| Error::io("create", &target, source))?;
            link_all(&path, &target)?;
        } else if std::fs::hard_link(&path, &target).is_err() {
            std::fs::copy(&path, &target).map_err(|source| Error::io("write", &target, source))?;
        }
    }
    Ok(())
}

/// The figures of all policies of finished rounds.
fn kept_figures(run: &Path, made: u64) -> Result<Vec<PolicyFigures>> {
    let mut measured = Vec::new();
    for number in 1..=made {
        let gain = round::kept(&rounds::folder(run, number))?;
        let gain = gain.ok_or_else(|| {
            let problem = format!("the figures of round {number} are gone");
            Error::data(run, problem)
                .with_hint("`--resume` in a copy without `manifest.json` makes them again")
        })?;
        if number == 1 {
            measured.push(gain.before);
        }
        measured.push(gain.after);
    }
    Ok(measured)
}

fn sum_of_counts(measured: &[PolicyFigures]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for figures in measured {
        for (name, value) in &figures.metrics {
            if name.starts_with("unet_forwards") || ["images", "pairs"].contains(&name.as_str()) {
                *counts.entry(name.clone()).or_default() += *value as u64;
            }
        }
    }
    counts
}

fn in_words(figures: &PolicyFigures) -> String {
    let figure = |name: &str| {
        let value = figures.metrics.get(name)?;
        Some(format!("{name} {value:.4}"))
    };
    let shown = [
        "reward",
        "image_similarity",
        "text_similarity",
        "class_kept",
        "best_step",
    ];
    let shown: Vec<String> = shown.into_iter().filter_map(figure).collect();
    shown.join("  ")
}

/// Prompts to learn from, filled where there is a subject; where that is asked for, with the class word alone too.
fn training_prompts(
    config: &ImageRoundsConfig,
    subject: Option<&SubjectPrompts>,
) -> Result<Vec<String>> {
    let mut texts = prompts_of(
        config.images.prompts.as_ref(),
        subject,
        "images.prompts",
        prompts::training,
    )?;
    if config.images.class_alone {
        let strip = |text: &String| prompts::strip_token(text, &config.subject.token);
        let stripped: Vec<String> = texts.iter().map(strip).collect();
        texts.extend(stripped);
        let mut seen = BTreeSet::new();
        texts.retain(|text| seen.insert(text.clone()));
    }
    Ok(texts)
}

/// Held-out prompts, filled where there is a subject.
fn held_out_prompts(
    config: &ImageRoundsConfig,
    subject: Option<&SubjectPrompts>,
) -> Result<Vec<String>> {
    prompts_of(
        config.validation.prompts.as_ref(),
        subject,
        "validation.prompts",
        prompts::validation,
    )
}

fn prompts_of(
    given: Option<&PromptList>,
    subject: Option<&SubjectPrompts>,
    key: &str,
    built_in: impl Fn(Kind) -> &'static [&'static str],
) -> Result<Vec<String>> {
    let texts = match (subject, given) {
        (Some(subject), given) => subject.prompts(given, built_in)?,
        (None, Some(PromptList::List(list))) => list.clone(),
        (None, Some(PromptList::File(file))) => prompts::read(file)?,
        (None, None) => Vec::new(),
    };
    let hole = |text: &&String| text.contains("{token}") || text.contains("{class}");
    if let Some(text) = texts.iter().find(hole) {
        return Err(Error::config(format!(
            "`{key}`: `{text}` names a subject, and there is none"
        ))
        .with_hint(
            "give `subject.photos` and `subject.class`, or prompts without `{token}` and `{class}`",
        ));
    }
    if texts.is_empty() {
        return Err(Error::config(format!("`{key}`: there is no prompt in it")));
    }
    Ok(texts)
}

fn say_inputs(
    config: &ImageRoundsConfig,
    photos: Option<&[Photo]>,
    [train, held_out]: [&[String]; 2],
    display: &mut dyn Display,
) {
    let each = config.images.per_prompt;
    display.say(&format!(
        "data: {each} images of each of {} prompts a round; {} held-out prompts",
        config
            .rounds
            .prompts
            .unwrap_or(train.len())
            .min(train.len()),
        held_out.len()
    ));
    let shared = train.iter().filter(|text| held_out.contains(text)).count();
    if shared > 0 {
        display.say(&format!(
            "warning: {shared} of the held-out prompts are learnt from too: their reward says less about others"
        ));
    }
    if let Some(photos) = photos {
        display.say(&format!("subject: {} photos", photos.len()));
        let side = config.train.resolution.unwrap_or(0);
        for warning in quality::sentences(&quality::inspect(photos, side), photos.len()) {
            display.say(&format!("warning: {warning}"));
        }
    }
}

/// The manifest before the first round.
fn describe(
    config: &ImageRoundsConfig,
    subject: Option<&SubjectPrompts>,
    reward: &dyn ImageReward,
) -> Result<ImageRoundsManifest> {
    let none = Path::new("");
    let objective = pairs::data::objective(&config.round(None, none, none, 1))?;
    let base = &config.model.base;
    let variant = config.model.variant.as_deref();
    let unet = Checkpoint::open_component(&base.join("unet"), "diffusion_pytorch_model", variant)?;
    let base_unet_sha256 = unet.sha256()?;
    let mut inputs = BTreeMap::from([("base U-Net".to_owned(), base_unet_sha256.clone())]);
    if let Some(start) = &config.adapter.start {
        inputs.insert(START.to_owned(), start_sha256(start)?);
    }
    inputs.extend(vae_sha256(&config.model)?.map(|hash| (VAE.to_owned(), hash)));
    inputs.extend(
        reward
            .sha256()
            .map(|hash| ("reward encoder".to_owned(), hash)),
    );
    let subject = subject.map(|subject| -> Result<SubjectRecord> {
        let photos = &subject.subject.photos;
        Ok(SubjectRecord {
            name: subject.subject.name.clone(),
            class: subject.subject.class.clone(),
            token: config.subject.token.clone(),
            photos: photos.iter().map(|photo| absolute(photo)).collect(),
            photos_sha256: files_sha256(photos)?,
        })
    });
    let subject = subject.transpose()?;
    if let Some(subject) = &subject {
        inputs.insert("photos".to_owned(), subject.photos_sha256.clone());
    }
    let encoder = &config.reward.encoder;
    Ok(ImageRoundsManifest {
        record: Record::of_inputs(inputs),
        base_model: absolute(base),
        vae: config.model.vae.as_deref().map(absolute),
        base_unet_sha256,
        adapter: config.adapter.kind,
        rank: config.adapter.rank,
        alpha: config.adapter.alpha,
        objective: objective.name(),
        numbers: objective.numbers(),
        reward: reward.name(),
        reward_encoder: reward
            .sha256()
            .filter(|_| config.reward.kind == ImageRewardKind::Harmonic)
            .map(|hash| (name_model(encoder), hash)),
        subject,
    })
}

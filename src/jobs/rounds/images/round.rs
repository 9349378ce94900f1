//! One round: images of the policy, their rewards, pairs, training, and what the new policy is worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::shared::Shared;
use crate::config::{ImageRoundsConfig, PromptList, SamplerSection};
use crate::distributed::Peers;
use crate::error::{Error, Result};
use crate::files::{read_text, read_text_if_there, write_atomically};
use crate::jobs::RunOptions;
use crate::jobs::open::image::put_tuned;
use crate::jobs::pairs::{self, AnchorPhotos, Beside, RoundReward};
use crate::jobs::policy::diffusion::sample_settings;
use crate::jobs::rounds::PolicyFigures;
use crate::jobs::rounds::draw_prompts;
use crate::jobs::rounds::records::{OWN, margins, pairs_of, replayed};
use crate::jobs::rounds::round::FIGURES;
use crate::jobs::sampled::{Sampling, all_stored};
use crate::models::diffusion::pipeline::{Kinds, Pipeline, Request};
use crate::ops::random::derive_seed;
use crate::rewards::pairs::Candidates;
use crate::rewards::pool::{Pool, Verdict};
use crate::run::data_manifest::DataManifest;
use crate::run::folder::require;
use crate::run::rows::Rows;
use crate::run::sampled::file;
use crate::trainer::event::Sample;

/// Images that are rewarded at a time.
const TOGETHER: usize = 32;
/// The folder of a round's images.
const IMAGES: &str = "images";

/// An image's reward, a row of `scores.jsonl`.
#[derive(Serialize, Deserialize)]
struct Scored {
    /// The image's file in the run's folder.
    image: String,
    prompt: String,
    seed: u64,
    reward: f64,
    /// What the reward is made of.
    #[serde(flatten)]
    columns: BTreeMap<String, f64>,
}

/// What a round was worth.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Gain {
    /// Figures of the policy that drew the images.
    pub(super) before: PolicyFigures,
    /// Those of the policy that the round made, with the round's counts.
    pub(super) after: PolicyFigures,
    /// `true` if the reward of the held-out prompts has risen.
    pub(super) gained: bool,
}

/// A round with its folder.
pub(super) struct ImageRound {
    pub(super) number: u64,
    pub(super) folder: PathBuf,
}

/// What a finished round was worth; `None` where it is not finished.
pub(super) fn kept(folder: &Path) -> Result<Option<Gain>> {
    let path = folder.join(FIGURES);
    let Some(text) = read_text_if_there(&path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| Error::data(&path, format!("not a round's figures: {error}")))
}

impl ImageRound {
    /// The round's best weights.
    pub(super) fn best(&self) -> PathBuf {
        self.folder.join("train").join("best")
    }

    /// Makes the round from the weights at `start`, or from the base model's: what is there already is not made again.
    pub(super) fn make(
        &self,
        shared: &mut Shared,
        run: &Path,
        start: Option<&Path>,
    ) -> Result<Gain> {
        if let Some(gain) = kept(&self.folder)? {
            return Ok(gain);
        }
        require(run)?;
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| Error::io("create", &self.folder, source))?;
        let config = shared.config;
        let seed = config.run.seed;
        let prompts = draw_prompts(&config.rounds, seed, &shared.train, self.number);
        let (samples, forwards) = self.images(shared, run, start, &prompts)?;
        let scored = self.scored(shared, &samples)?;
        let (records, used) = records_of(config, &scored);
        if records.is_empty() {
            let what = format!(
                "in round {} no prompt has images that the reward tells apart",
                self.number
            );
            return Err(Error::Diverged {
                step: self.number,
                what,
            }
            .with_hint(
                "more images (`images.per_prompt`), margins in `[labels]` that ask for less, or another reward",
            ));
        }
        let own: String = records
            .iter()
            .map(|record| record.to_string() + "\n")
            .collect();
        write_atomically(&self.folder.join(OWN), own.as_bytes())?;
        let again = replayed(&config.rounds, seed, run, self.number)?;
        let data = self.folder.join("pairs.jsonl");
        let all = own + &again.concat();
        write_atomically(&data, all.as_bytes())?;
        let count = records.len() + again.len();
        let manifest = self.train(shared, run, start, (&data, count))?;
        let counts = BTreeMap::from([
            ("images", samples.len() as f64),
            ("pairs", records.len() as f64),
            ("replayed", again.len() as f64),
            ("prompts_without_pair", (prompts.len() - used) as f64),
            ("unet_forwards_images", forwards as f64),
        ]);
        let gain = self.gain(config, &manifest, counts)?;
        let text = serde_json::to_string_pretty(&gain).unwrap_or_default();
        write_atomically(&self.folder.join(FIGURES), text.as_bytes())?;
        Ok(gain)
    }

    /// Images of the policy, as many as are asked for of each prompt, and the U-Net's forward passes that they take.
    fn images(
        &self,
        shared: &mut Shared,
        run: &Path,
        start: Option<&Path>,
        prompts: &[String],
    ) -> Result<(Vec<Sample>, u64)> {
        let config = shared.config;
        let each = config.images.per_prompt;
        let requests: Vec<Request> = (0..prompts.len() * each)
            .map(|index| Request {
                row: (index / each) as i64,
                seed: derive_seed(config.run.seed, "image", &[self.number, index as u64]) as u64,
            })
            .collect();
        let folder = self.folder.join(IMAGES);
        let sampler = &config.sampler;
        if let Some(samples) = all_stored(&folder, prompts, &requests)? {
            return Ok((samples, forwards(sampler, requests.len())));
        }
        let pipeline = open_policy(shared, start)?;
        if self.number == 1 {
            for warning in pipeline.prompt_notes(prompts)? {
                shared.display.say(&format!("warning: {warning}"));
            }
        }
        let settings = sample_settings(&config.train, &config.sampler, &pipeline)?;
        let (interrupt, number, round) = (shared.interrupt, self.number, &self.folder);
        let display = &mut *shared.display;
        let mut advance = |done, total| {
            display.advance("denoising steps of images", done, total);
            interrupt.check(number, round)
        };
        let sampling = Sampling {
            run,
            folder: &folder,
            pipeline: &pipeline,
            settings: &settings,
            peers: &Peers::alone(),
        };
        let samples = sampling.images(prompts, &requests, &mut advance)?;
        Ok((samples, forwards(sampler, requests.len())))
    }

    /// The rewards of images.
    fn scored(&self, shared: &mut Shared, samples: &[Sample]) -> Result<Vec<Scored>> {
        let path = self.folder.join("scores.jsonl");
        let (mut rows, mut all) = Rows::open::<Scored>(&path, TOGETHER, samples.len())?;
        let images = self.folder.join(IMAGES);
        for part in samples.chunks(TOGETHER).skip(all.len().div_ceil(TOGETHER)) {
            shared.interrupt.check(self.number, &self.folder)?;
            let pictures: Vec<RgbImage> = part.iter().map(|sample| sample.image.clone()).collect();
            let prompts: Vec<String> = part.iter().map(|sample| sample.prompt.clone()).collect();
            let mut reward = shared.reward.borrow_mut();
            let located = |error| match error {
                Error::Interrupted { .. } => Error::Interrupted {
                    step: self.number,
                    checkpoint: self.folder.clone(),
                },
                error => error,
            };
            let scores = reward.score(&pictures, &prompts).map_err(located)?;
            let names = reward.columns();
            let first = all.len();
            let new: Vec<Scored> = part
                .iter()
                .zip(scores)
                .enumerate()
                .map(|(place, (sample, score))| Scored {
                    image: self.name(&file(&images, first + place)),
                    prompt: sample.prompt.clone(),
                    seed: sample.seed,
                    reward: score.reward,
                    columns: names
                        .iter()
                        .map(ToString::to_string)
                        .zip(score.columns)
                        .collect(),
                })
                .collect();
            rows.add(&new)?;
            all.extend(new);
            let (done, total) = (all.len() as u64, samples.len() as u64);
            shared.display.advance("rewards", done, total);
        }
        Ok(all)
    }

    /// A file of the round as the run's folder names it.
    fn name(&self, file: &Path) -> String {
        let run = self.folder.parent().unwrap_or(&self.folder);
        let name = file.strip_prefix(run).unwrap_or(file);
        name.to_string_lossy().into_owned()
    }

    /// Trains on the pairs, and keeps the weights with the best reward of the held-out prompts.
    fn train(
        &self,
        shared: &mut Shared,
        run: &Path,
        start: Option<&Path>,
        (data, count): (&Path, usize),
    ) -> Result<DataManifest> {
        let config = shared.config;
        let batch = (config.train.batch * config.train.accumulation) as f64;
        let steps = (config.rounds.epochs * count as f64 / batch).ceil() as u64;
        let steps = steps.clamp(1, config.train.steps);
        let output = self.folder.join("train");
        let mut own = config.round(start, data, &output, steps);
        own.run.seed = derive_seed(config.run.seed, "round", &[self.number]) as u64;
        own.pairs.images = Some(run.to_owned());
        own.preview.prompts = Some(PromptList::List(shared.held_out.clone()));
        let anchor = shared
            .photos
            .as_ref()
            .filter(|_| config.anchor.weight > 0.0);
        let beside = Beside {
            noise_seed: config.run.seed,
            reward: Some(match &shared.measures {
                Some(measures) => RoundReward::Subject(Rc::clone(measures)),
                None => RoundReward::Any(Rc::clone(&shared.reward)),
            }),
            anchor: anchor.map(|photos| AnchorPhotos {
                photos: Rc::clone(photos),
                prompt: shared.photo_prompt.clone(),
                weight: config.anchor.weight,
            }),
        };
        let options = RunOptions {
            resume: true,
            ..RunOptions::default()
        };
        pairs::train_round(&own, beside, options, shared.display, shared.interrupt)
    }

    /// What the round's training says of the policies before and after it.
    fn gain(
        &self,
        config: &ImageRoundsConfig,
        manifest: &DataManifest,
        counts: BTreeMap<&str, f64>,
    ) -> Result<Gain> {
        let record = &manifest.record;
        let (step, reward) = record.best.unwrap_or_default();
        let path = self.folder.join("train").join("metrics.jsonl");
        let validations = validations(&path)?;
        let at = |step: u64| {
            validations.get(&step).cloned().ok_or_else(|| {
                Error::data(&path, format!("the validation of step {step} is missing"))
            })
        };
        let mut after = at(step)?;
        after.insert("best_step".to_owned(), step as f64);
        after.insert("steps".to_owned(), record.steps as f64);
        after.extend(
            counts
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
        let forwards = record.counts.iter();
        let forwards = forwards.filter(|(name, _)| name.starts_with("unet_forwards"));
        after.extend(forwards.map(|(name, &count)| (name.clone(), count as f64)));
        let before = record.untuned_reward.unwrap_or(f64::NEG_INFINITY);
        let figures = |metrics| PolicyFigures {
            metrics,
            ..PolicyFigures::default()
        };
        Ok(Gain {
            before: figures(at(0)?),
            after: figures(after),
            gained: reward - before > config.validation.min_gain,
        })
    }
}

/// The pairs of each prompt's images, and how many prompts have one.
fn records_of(config: &ImageRoundsConfig, scored: &[Scored]) -> (Vec<Value>, usize) {
    let (mut records, mut used) = (Vec::new(), 0);
    for of_prompt in scored.chunks(config.images.per_prompt) {
        let rewards = of_prompt.iter().map(|scored| scored.reward).collect();
        let pool = Pool::new(&Verdict::Rewards(rewards), config.reward.tau);
        let all = (0..of_prompt.len()).collect();
        let candidates = Candidates::new(pool, all, Vec::new(), None, margins(&config.labels));
        let pool = candidates.pool();
        let pairs = pairs_of(&config.labels, &candidates);
        used += usize::from(!pairs.is_empty());
        records.extend(pairs.into_iter().map(|(chosen, rejected)| {
            json!({
                "prompt": of_prompt[chosen].prompt,
                "chosen": of_prompt[chosen].image, "rejected": of_prompt[rejected].image,
                "chosen_probs_win": pool.wins[chosen], "chosen_probs_lose": pool.wins[rejected],
                "chosen_score": pool.log_odds[chosen], "rejected_score": pool.log_odds[rejected],
            })
        }));
    }
    (records, used)
}

/// The figures of a run's validations by their steps.
fn validations(path: &Path) -> Result<BTreeMap<u64, BTreeMap<String, f64>>> {
    let text = read_text(path)?;
    let mut all = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let row: Value = serde_json::from_str(line).map_err(|error| {
            Error::data_line(path, number + 1, format!("not a row of metrics: {error}"))
        })?;
        if row["kind"] != "validation" {
            continue;
        }
        let numbers = row.as_object().into_iter().flatten();
        let numbers = numbers.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        let mut numbers: BTreeMap<String, f64> = numbers.collect();
        numbers.remove("seconds");
        if let Some(step) = numbers.remove("step") {
            all.insert(step as u64, numbers);
        }
    }
    Ok(all)
}

/// Passes of the U-Net that images take: with guidance, two for each step of each.
fn forwards(sampler: &SamplerSection, images: usize) -> u64 {
    let passes = if sampler.guidance > 1.0 { 2 } else { 1 };
    passes * (sampler.steps * images) as u64
}

/// The base model with the weights at `start`.
fn open_policy(shared: &Shared, start: Option<&Path>) -> Result<Pipeline> {
    let model = &shared.config.model;
    let kinds = Kinds {
        compute: shared.kind,
        unet: shared.kind,
    };
    let (vae, variant) = (model.vae.as_deref(), model.variant.as_deref());
    let mut pipeline = Pipeline::open(&model.base, vae, variant, shared.device, kinds)?;
    if let Some(start) = start {
        put_tuned(&mut pipeline, start, &[])?;
    }
    Ok(pipeline)
}

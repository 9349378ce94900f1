//! Tuning a diffusion U-Net to pairs of images: Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908) and, on the same
//! errors of denoising, every other objective of pairs.
//!
//! A step of the reverse process is a Gaussian whose variance is fixed, so the log-prob that a model gives it is minus half
//! its weighted squared error, and the divergence of two models half the weighted squared distance of their predictions
//! (equations 13 and 14 there). With one timestep drawn for a pair, `-scale / 2` times the *mean* squared error is what
//! objectives get as the log-prob of an image, `scale` as its length. Diffusion-DPO's loss with its `beta` is then `dpo` with
//! `beta / scale`.

mod latents;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use image::RgbImage;
use tch::{Device, Kind, Tensor};

pub use self::latents::Latents;
use crate::config::{DenoisingSection, PairsConfig, ReferenceOf, ValidationBy};
use crate::distributed::Share;
use crate::error::{Error, Result};
use crate::losses::denoising_error;
use crate::models::diffusion::pipeline::Pipeline;
use crate::ops::halving::in_halves;
use crate::ops::random::{derive_seed, uniform};
use crate::ops::tape::Tape;
use crate::rewards::image::{ImageReward, ImageScore};
use crate::trainer::denoising::{Batch, Reference, Seen, base_prediction, noisy, timesteps};
use crate::trainer::event::{Event, Metrics, Observer, Sample, Validation, metric};
use crate::trainer::means::{Means, Metric};
use crate::trainer::objective::{ExampleLabels, Objective, Scores};
use crate::trainer::preview::Preview;
use crate::trainer::subject::Judge;
use crate::trainer::visits::epoch_order;
use crate::trainer::{Scalar, Task};

/// Relative difference of two errors that batches of other shapes and a number type can cause.
const ROUNDING: [(Kind, f64); 2] = [(Kind::Float, 1e-3), (Kind::BFloat16, 0.1)];

/// Growth of the error on preferred images beyond which only the margin is being learnt.
const WORSE: f64 = 1.05;

/// Two images of one prompt, rows of [`Latents`].
#[derive(Clone, Debug)]
pub struct Compared {
    /// The preferred image.
    pub chosen: i64,
    /// The other.
    pub rejected: i64,
    /// Their prompt.
    pub prompt: i64,
    /// The labels that the data have for them.
    pub labels: ExampleLabels,
}

/// The parts of a run on pairs.
pub struct PairsTaskParts {
    /// The model with the trained U-Net.
    pub pipeline: Pipeline,
    /// The base model, where the objective compares with it.
    pub reference: Option<Reference>,
    /// The minimised loss.
    pub objective: Objective,
    /// All images and prompts.
    pub latents: Latents,
    /// Pairs to learn from.
    pub train: Vec<Compared>,
    /// Held-out pairs.
    pub held_out: Vec<Compared>,
    /// Prompts whose images are sampled at every validation.
    pub preview: Option<Preview>,
    /// What rewards images of held-out prompts: their mean reward then decides, not the held-out pairs.
    pub driver: Option<Driver>,
    /// Photos that the model is held to.
    pub anchor: Option<Anchor>,
}

/// A reward that outlives a run.
pub type SharedReward = Rc<RefCell<Box<dyn ImageReward>>>;

/// What rewards the images of validations.
pub enum Driver {
    /// Any reward, of the preview's images.
    Reward(SharedReward),
    /// The reward of a subject, with all that runs on subjects measure; it samples its own prompts.
    Subject(Box<Judge>),
}

/// Photos whose denoising error is a part of the loss.
pub struct Anchor {
    /// Rows of [`Latents`].
    pub photos: Vec<i64>,
    /// Row of the prompt that they are learnt under.
    pub prompt: i64,
    /// Weight of their error.
    pub weight: f64,
}

/// The task of a run on pairs.
pub struct PairsTask {
    parts: PairsTaskParts,
    denoising: DenoisingSection,
    empty_prompts: f64,
    checkpoint_activations: bool,
    batch: usize,
    accumulation: u64,
    seed: u64,
    by: ValidationBy,
    /// `true` where training starts from the reference, and not from a LoRA on it.
    starts_as_it: bool,
    /// The base model's errors on the held-out pairs, by batch: they stay the same.
    held_out_base: BTreeMap<usize, Tensor>,
    share: Share,
    pairs: u64,
    forwards: u64,
}

/// Pairs of a batch, each with the counter of its draws.
struct Chosen<'a> {
    pairs: Vec<&'a Compared>,
    draws: Vec<u64>,
    timesteps: Vec<i64>,
    /// `true` where a pair's prompt is left out.
    silent: Vec<bool>,
    seed: u64,
}

/// The results of a batch.
struct Passed {
    scores: Scores,
    /// Errors of the base model, `[2b]`, where it was asked now.
    base: Option<Tensor>,
    metrics: Vec<Metric>,
}

impl PairsTask {
    /// A task of these parts.
    ///
    /// # Errors
    /// Fewer pairs than a batch.
    pub fn new(parts: PairsTaskParts, config: &PairsConfig) -> Result<Self> {
        let (count, batch) = (parts.train.len(), config.train.batch);
        if count < batch {
            return Err(Error::config(format!(
                "`train.batch` is {batch}, but there are {count} pairs to learn from"
            )));
        }
        Ok(Self {
            parts,
            denoising: config.denoising.clone(),
            empty_prompts: config.pairs.empty_prompts,
            checkpoint_activations: config.train.checkpoint_activations,
            batch,
            accumulation: config.train.accumulation as u64,
            seed: config.run.seed,
            by: config.validation.by,
            starts_as_it: config.adapter.start.is_none()
                || config.adapter.reference == ReferenceOf::Start,
            held_out_base: BTreeMap::new(),
            share: Share::whole(),
            pairs: 0,
            forwards: 0,
        })
    }

    /// The pairs of a micro-batch. Draws count with a pair's position in the whole run: a step sees the same noise however
    /// its pairs are spread over micro-batches.
    fn training_batch(&self, step: u64, micro: u64) -> Chosen<'_> {
        let begin = (step * self.accumulation + micro) * self.batch as u64;
        let own = self.share.examples(self.batch);
        let own = begin + own.start as u64..begin + own.end as u64;
        let draws: Vec<u64> = own.clone().collect();
        let order = epoch_order(self.seed, "pairs", self.parts.train.len(), own);
        let silent = |draw: &u64| {
            uniform(derive_seed(self.seed, "empty prompt", &[*draw])) < self.empty_prompts
        };
        let rows: Vec<[u64; 2]> = self.counters(&draws);
        Chosen {
            pairs: order
                .iter()
                .map(|&row| &self.parts.train[row as usize])
                .collect(),
            silent: draws.iter().map(silent).collect(),
            timesteps: timesteps(self.seed, &rows, self.parts.pipeline.schedule.steps()),
            draws,
            seed: self.seed,
        }
    }

    /// Held-out pairs, each at timesteps that lie evenly over the schedule; the same at every validation.
    fn held_out_batch(&self, rows: &[(usize, usize)]) -> Chosen<'_> {
        let count = self.denoising.validation_draws;
        let seed = derive_seed(self.seed, "held out", &[]) as u64;
        let steps = self.parts.pipeline.schedule.steps();
        let timestep = |&(row, draw): &(usize, usize)| {
            let within = uniform(derive_seed(seed, "timestep", &[row as u64, draw as u64]));
            let at = (draw as f64 + within) / count as f64 * steps as f64;
            (at as i64).min(steps as i64 - 1)
        };
        let of_pairs: Vec<i64> = rows.iter().map(timestep).collect();
        Chosen {
            pairs: rows
                .iter()
                .map(|&(row, _)| &self.parts.held_out[row])
                .collect(),
            draws: rows
                .iter()
                .map(|&(row, draw)| (row * count + draw) as u64)
                .collect(),
            silent: vec![false; rows.len()],
            timesteps: [&of_pairs[..], &of_pairs].concat(),
            seed,
        }
    }

    /// Counters of noise and timestep, chosen images first.
    fn counters(&self, draws: &[u64]) -> Vec<[u64; 2]> {
        let own = u64::from(!self.denoising.shared_noise);
        let side = |side: u64| draws.iter().map(move |&draw| [draw, side * own]);
        side(0).chain(side(1)).collect()
    }

    fn noisy(&self, chosen: &Chosen) -> Batch {
        let Latents {
            empty_prompt: empty,
            ..
        } = self.parts.latents;
        let ends = |pair: fn(&Compared) -> i64| chosen.pairs.iter().map(move |known| pair(known));
        let images: Vec<i64> = ends(|pair| pair.chosen)
            .chain(ends(|pair| pair.rejected))
            .collect();
        let prompts = chosen.pairs.iter().zip(&chosen.silent);
        let prompts: Vec<i64> = prompts
            .map(|(pair, &silent)| if silent { empty } else { pair.prompt })
            .collect();
        let prompts = [&prompts[..], &prompts].concat();
        let device = self.parts.pipeline.device();
        let side = |side: u64| chosen.draws.iter().map(move |&draw| [draw, side]);
        noisy(
            &self.parts.pipeline,
            chosen.seed,
            Seen {
                moments: &self.parts.latents.moments(&images, device),
                conditioning: self.parts.latents.conditioning(&prompts, device),
                posterior: &side(0).chain(side(1)).collect::<Vec<_>>(),
                noise: &self.counters(&chosen.draws),
                timesteps: &chosen.timesteps,
                noise_offset: 0.0,
            },
        )
    }

    /// Loss and metrics of some pairs; back-propagated with the loss divided by `divisor`, where there is one. `base` are
    /// the base model's errors, where they are known.
    fn pass(&self, chosen: &Chosen, base: Option<&Tensor>, divisor: Option<f64>) -> Passed {
        let PairsTaskParts {
            pipeline,
            reference,
            objective,
            ..
        } = &self.parts;
        let batch = self.noisy(chosen);
        let needed = reference.as_ref().filter(|_| base.is_none());
        let answer = needed.map(|reference| base_prediction(&pipeline.unet, reference, &batch));
        let asked = answer
            .as_ref()
            .map(|answer| denoising_error(answer, &batch.target));
        let tape = (self.checkpoint_activations && divisor.is_some()).then(Tape::new);
        let prediction = pipeline.unet.forward(
            &batch.noisy,
            &batch.timesteps,
            &batch.conditioning,
            tape.as_ref(),
        );
        let errors = denoising_error(&prediction, &batch.target); // [2b]
        let half = self.denoising.scale / 2.0;
        let logp = |errors: &Tensor| errors * -half;
        let frozen = asked.as_ref().or(base).map(logp);
        let scores = Scores {
            policy: logp(&errors),
            lengths: errors.detach().full_like(self.denoising.scale),
            // What training starts from is the last iterate too.
            previous: frozen.as_ref().map(Tensor::shallow_clone),
            reference: frozen,
            kl: answer
                .filter(|_| objective.needs_token_kl())
                .map(|answer| denoising_error(&prediction, &answer) * half),
            mismatched: None,
        };
        let labels: Vec<&ExampleLabels> = chosen.pairs.iter().map(|pair| &pair.labels).collect();
        let (loss, mut metrics) = objective.evaluate(&labels, &scores);
        metrics.extend(self.own_metrics(&scores, &errors));
        if let Some(divisor) = divisor {
            (loss / divisor).backward();
            if let Some(tape) = tape {
                tape.backward();
            }
        }
        Passed {
            scores,
            base: asked,
            metrics,
        }
    }

    /// Metrics of denoising: errors, and how much of a pair's gradient is left where the loss is that of DPO.
    fn own_metrics(&self, scores: &Scores, errors: &Tensor) -> Vec<Metric> {
        let count = errors.size()[0] as f64 / 2.0;
        let halves = errors.chunk(2, 0); // chosen and rejected, both [b]
        let mut metrics = vec![
            Metric::mean("error/chosen", &halves[0], count),
            Metric::mean("error/rejected", &halves[1], count),
        ];
        if scores.reference.is_some() {
            let left = (-self.margins(scores)).sigmoid();
            metrics.push(Metric::mean("gradient_factor", &left, count));
        }
        metrics
    }

    /// Rewards of the preferred images less those of the others, `[b]`.
    fn margins(&self, scores: &Scores) -> Tensor {
        let rewards = self.parts.objective.rewards(scores).detach();
        let halves = rewards.chunk(2, 0);
        &halves[0] - &halves[1]
    }

    /// Back-propagates the photos' error, divided by `divisor`, and returns its mean. Draws are those of the pairs.
    fn hold(&self, anchor: &Anchor, draws: &[u64], divisor: f64) -> Tensor {
        let (first, end) = draws
            .first()
            .zip(draws.last())
            .map_or((0, 0), |(a, b)| (*a, b + 1));
        let order = epoch_order(self.seed, "anchor", anchor.photos.len(), first..end);
        let photos: Vec<i64> = order
            .iter()
            .map(|&row| anchor.photos[row as usize])
            .collect();
        // Counters of its own: the two images of a pair have 0 and 1.
        let rows: Vec<[u64; 2]> = draws.iter().map(|&draw| [draw, 2]).collect();
        let pipeline = &self.parts.pipeline;
        let (latents, device) = (&self.parts.latents, pipeline.device());
        let batch = noisy(
            pipeline,
            self.seed,
            Seen {
                moments: &latents.moments(&photos, device),
                conditioning: latents.conditioning(&vec![anchor.prompt; photos.len()], device),
                posterior: &rows,
                noise: &rows,
                timesteps: &timesteps(self.seed, &rows, pipeline.schedule.steps()),
                noise_offset: 0.0,
            },
        );
        let tape = self.checkpoint_activations.then(Tape::new);
        let prediction = pipeline.unet.forward(
            &batch.noisy,
            &batch.timesteps,
            &batch.conditioning,
            tape.as_ref(),
        );
        let error = denoising_error(&prediction, &batch.target).mean(Kind::Float);
        (&error * (anchor.weight / divisor)).backward();
        if let Some(tape) = tape {
            tape.backward();
        }
        error.detach()
    }

    /// Refuses a reference that is not what training starts from, before a step is made.
    fn check_start(&self, scores: &Scores) -> Result<()> {
        let Some(reference) = scores.reference.as_ref().filter(|_| self.starts_as_it) else {
            return Ok(());
        };
        let off = (scores.policy.detach() - reference).abs() / reference.abs().clamp_min(1e-6);
        let off = off.max().double_value(&[]);
        let kind = self.parts.pipeline.kind();
        let allowed = ROUNDING.iter().find(|(known, _)| *known == kind);
        if off <= allowed.map_or(ROUNDING[0].1, |(_, allowed)| *allowed) {
            return Ok(());
        }
        Err(Error::Diverged {
            step: 0,
            what: format!(
                "before the first step the errors of model and reference differ by {off:.1e} of them"
            ),
        })
    }

    /// Figures of the held-out pairs.
    fn measure(&mut self, observer: &mut dyn Observer) -> Result<Metrics> {
        let draws = self.denoising.validation_draws;
        let all: Vec<(usize, usize)> = (0..self.parts.held_out.len())
            .flat_map(|row| (0..draws).map(move |draw| (row, draw)))
            .collect();
        let chunks: Vec<&[(usize, usize)]> = all.chunks(self.batch).collect();
        let own = self.share.peers().deal(chunks.len(), 1);
        let total = own.iter().map(|&number| chunks[number].len() as u64).sum();
        let (mut means, mut margins) = (Means::default(), vec![0.0; all.len()]);
        let mut done = 0;
        for number in own {
            let rows = chunks[number];
            if observer.interrupted() {
                return Err(Error::Interrupted {
                    step: 0,
                    checkpoint: std::path::PathBuf::new(),
                });
            }
            let known = self.held_out_base.get(&number);
            // Divergences take the base model's answers themselves, which would be too much to keep.
            let known = known.filter(|_| !self.parts.objective.needs_token_kl());
            let parts = in_halves(rows.len(), rows.len(), |range| {
                let known = known.map(|errors| {
                    let side =
                        |half: &Tensor| half.narrow(0, range.start as i64, range.len() as i64);
                    Tensor::cat(&errors.chunk(2, 0).iter().map(side).collect::<Vec<_>>(), 0)
                });
                let chosen = self.held_out_batch(&rows[range]);
                let passed = self.pass(&chosen, known.as_ref(), None);
                let own = self.margins(&passed.scores).to_kind(Kind::Double);
                Ok((passed, Vec::<f64>::try_from(own.to_device(Device::Cpu))?))
            })?;
            let (mut chosen, mut rejected): (Vec<Tensor>, Vec<Tensor>) = Default::default();
            let mut places = margins[number * self.batch..].iter_mut();
            for (passed, own) in parts {
                means.add(number, &passed.metrics)?;
                for (margin, place) in own.into_iter().zip(places.by_ref()) {
                    *place = margin;
                }
                if let Some(base) = passed.base {
                    let halves = base.chunk(2, 0);
                    chosen.push(halves[0].shallow_clone());
                    rejected.push(halves[1].shallow_clone());
                }
            }
            let asked = !chosen.is_empty();
            self.forwards += 2 * rows.len() as u64 * (1 + u64::from(asked));
            if asked && !self.held_out_base.contains_key(&number) {
                chosen.extend(rejected);
                self.held_out_base.insert(number, Tensor::cat(&chosen, 0));
            }
            done += rows.len() as u64;
            observer.event(&Event::Progress {
                phase: "validate",
                done,
                total,
            })?;
        }
        let peers = self.share.peers();
        let mut metrics = means.finish(peers)?;
        // Of every margin all but one process have zeros.
        let margins = peers.sums(&margins)?;
        // A pair is right where its margins over all draws sum to more than 0: a single draw is mostly noise.
        let right = margins
            .chunks(draws)
            .filter(|of_pair| of_pair.iter().sum::<f64>() > 0.0);
        let share = right.count() as f64 / self.parts.held_out.len().max(1) as f64;
        metrics.push(("accuracy".to_owned(), share));
        Ok(metrics)
    }
}

/// Mean reward of sampled images, and that of each; what it is made of goes to `metrics`.
fn reward_of(
    driver: &SharedReward,
    samples: &[Sample],
    metrics: &mut Metrics,
) -> Result<(f64, Vec<f64>)> {
    let images: Vec<RgbImage> = samples.iter().map(|sample| sample.image.clone()).collect();
    let prompts: Vec<String> = samples.iter().map(|sample| sample.prompt.clone()).collect();
    let mut driver = driver.borrow_mut();
    let scores = driver.score(&images, &prompts)?;
    let count = scores.len().max(1) as f64;
    let mean = |value: &dyn Fn(&ImageScore) -> f64| scores.iter().map(value).sum::<f64>() / count;
    let reward = mean(&|score| score.reward);
    metrics.push(("reward".to_owned(), reward));
    for (place, name) in driver.columns().iter().enumerate() {
        metrics.push(((*name).to_owned(), mean(&|score| score.columns[place])));
    }
    Ok((reward, scores.iter().map(|score| score.reward).collect()))
}

impl Task for PairsTask {
    fn accumulate(&mut self, step: u64, micro: u64) -> Result<Vec<Scalar>> {
        let chosen = self.training_batch(step, micro);
        let pairs = chosen.pairs.len();
        let draws = chosen.draws.clone();
        let weight = pairs as f64 / self.batch as f64;
        let passed = self.pass(&chosen, None, Some(self.accumulation as f64 / weight));
        if step == 0 && micro == self.share.micro_batches(self.accumulation).start {
            self.check_start(&passed.scores)?;
        }
        self.pairs += pairs as u64;
        self.forwards += 2 * pairs as u64 * (1 + u64::from(passed.base.is_some()));
        let scalar = |metric: Metric| (metric.name, metric.value);
        let mut scalars: Vec<(&'static str, Tensor)> =
            passed.metrics.into_iter().map(scalar).collect();
        if let Some(anchor) = &self.parts.anchor {
            let divisor = self.accumulation as f64 / weight;
            let error = self.hold(anchor, &draws, divisor);
            scalars.push(("error/photos", error));
            self.forwards += pairs as u64;
        }
        Ok(Scalar::all(weight, scalars))
    }

    fn take(&mut self, share: &Share) -> Result<()> {
        self.share = share.clone();
        Ok(())
    }

    fn validate(&mut self, step: u64, observer: &mut dyn Observer) -> Result<Validation> {
        let mut metrics = if self.parts.held_out.is_empty() {
            Metrics::new()
        } else {
            self.measure(observer)?
        };
        let loss = -metric(&metrics, "loss").unwrap_or(f64::NAN);
        let reward = match self.by {
            ValidationBy::Loss => loss,
            ValidationBy::Accuracy => metric(&metrics, "accuracy").unwrap_or(loss),
        };
        let preview = self.parts.preview.as_ref();
        let samples = preview.map(|preview| {
            preview.sample(&self.parts.pipeline, self.share.peers(), step, observer)
        });
        let samples = samples.transpose()?.unwrap_or_default();
        let (reward, rewards) = match &mut self.parts.driver {
            Some(Driver::Reward(driver)) => reward_of(driver, &samples, &mut metrics)?,
            Some(Driver::Subject(judge)) => {
                let (pipeline, peers) = (&self.parts.pipeline, self.share.peers());
                let mut validation = judge.validate(pipeline, peers, step, observer)?;
                metrics.append(&mut validation.metrics);
                return Ok(Validation {
                    metrics,
                    ..validation
                });
            }
            None => (reward, Vec::new()),
        };
        Ok(Validation {
            reward,
            rewards,
            metrics,
            samples,
            answers: Vec::new(),
        })
    }

    fn alarms(&self, validation: &Validation, untuned: &Metrics) -> Vec<String> {
        if let Some(Driver::Subject(judge)) = &self.parts.driver {
            return judge.alarms(validation, untuned);
        }
        let of = |metrics| metric(metrics, "error/chosen");
        let worse = of(&validation.metrics)
            .zip(of(untuned))
            .filter(|(now, before)| *now > before * WORSE);
        let alarm = |(now, before)| {
            format!(
                "the preferred images are denoised worse (error {now:.4}, {before:.4} untuned): only the margin is being \
                 learnt; try a lower `train.learning_rate`, a higher `objective.beta` or `objective.nll_weight`"
            )
        };
        worse.map(alarm).into_iter().collect()
    }

    fn counts(&self) -> Vec<(String, u64)> {
        [
            ("pairs", self.pairs),
            ("unet_forwards_training", self.forwards),
            (
                "unet_forwards_sampling",
                self.parts.pipeline.sample_forwards(),
            ),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .to_vec()
    }
}

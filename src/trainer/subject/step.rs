//! One forward and backward pass. Random choices (which images, timesteps, noise, sampled labels) come from
//! counters, so that a resumed run makes the same ones. The counter is a pair's position in the whole run: a step
//! sees the same noise however its pairs are spread over micro-batches.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::SubjectTask;
use super::bank::{Drawn, draw_images};
use crate::config::{Labels, ObjectiveKind};
use crate::losses::rpo::{PairErrors, rpo};
use crate::losses::{denoising_error, dreambooth::dreambooth};
use crate::models::diffusion::Conditioning;
use crate::ops::random::derive_seed;
use crate::ops::tape::Tape;
use crate::ops::transfer::upload_slice;
use crate::rewards::bradley_terry::sample;
use crate::trainer::denoising::{Batch, Reference, Seen, base_prediction, mean, noisy, timesteps};
use crate::trainer::profile::Profile;

impl SubjectTask {
    pub(super) fn training_step(&mut self, step: u64, micro: u64) -> Vec<(&'static str, Tensor)> {
        if let Some(profile) = &mut self.profile {
            profile.begin();
        }
        let photos = self.choose(0, self.photos.len(), step, micro);
        let generated = self
            .generated
            .as_ref()
            .map(|pool| self.choose(1, pool.len(), step, micro))
            .unwrap_or_default();
        let drawn = [&photos[..], &generated].concat();
        let [photos, generated] = [photos, generated].map(|side| images(&side));
        let batch = self.noisy_batch(&drawn);
        let pairs = photos.len() as i64;
        lap(&mut self.profile, "batch");

        let preserved = self.preserved_rows(&batch, pairs);
        let base = match (&self.bank, &self.reference) {
            (Some(bank), _) => Some(bank.errors(&drawn)),
            (None, Some(reference)) if self.objective.kind == ObjectiveKind::Rpo => {
                Some(self.base_errors(reference, &batch))
            }
            (None, _) => None,
        };
        lap(&mut self.profile, "reference forward");
        let of_base = if base.is_some() && self.bank.is_none() {
            2
        } else {
            1
        };
        let of_preserved = preserved.as_ref().map_or(0, |_| 2 * pairs as u64);
        self.training_forwards += of_base * drawn.len() as u64 + of_preserved;
        let weight = self.timestep_weight(&batch.timesteps.narrow(0, 0, pairs));
        let prior_weight =
            self.timestep_weight(&batch.timesteps.narrow(0, drawn.len() as i64 - pairs, pairs));
        let batch = match &preserved {
            Some(preserved) => batch.cat(preserved),
            None => batch,
        };
        let tape = self.checkpoint_activations.then(Tape::new);
        let prediction = self.pipeline.unet.forward(
            &batch.noisy,
            &batch.timesteps,
            &batch.conditioning,
            tape.as_ref(),
        );
        let errors = denoising_error(&prediction, &batch.target); // [b] to [3b]
        lap(&mut self.profile, "policy forward");
        let of_photos = errors.narrow(0, 0, pairs);
        let of_generated =
            (!generated.is_empty()).then(|| errors.narrow(0, pairs, generated.len() as i64));

        let weighted = |errors: &Tensor, weight: &Option<Tensor>| match weight {
            Some(weight) => errors * weight,
            None => errors.shallow_clone(),
        };
        let prior = of_generated
            .as_ref()
            .filter(|_| self.objective.prior_weight > 0.0)
            .map(|errors| weighted(errors, &prior_weight));
        let prior = prior
            .as_ref()
            .map(|errors| (errors, self.objective.prior_weight));
        let mut terms = vec![dreambooth(&weighted(&of_photos, &weight), prior)];
        let mut scalars = vec![("similarity_loss", mean(&of_photos))];
        if let Some((base, of_generated)) = base.zip(of_generated.as_ref()) {
            let errors = PairErrors {
                policy_reference: of_photos,
                policy_generated: of_generated.shallow_clone(),
                base_reference: base.narrow(0, 0, pairs),
                base_generated: base.narrow(0, pairs, pairs),
            };
            let label = self.label(&photos, &generated, step, micro);
            let parts = rpo(
                &errors,
                &label,
                self.objective.beta,
                self.objective.preference_weight,
            );
            terms.push(&parts.preference * self.objective.preference_weight);
            scalars.push(("preference_loss", mean(&parts.preference)));
            scalars.push(("margin", mean(&parts.margin)));
            scalars.push(("label", mean(&label)));
        }
        scalars.extend(of_generated.map(|errors| ("generated_error", mean(&errors))));
        if preserved.is_some() {
            let errors = errors.narrow(0, drawn.len() as i64, pairs);
            scalars.push(("preservation_error", mean(&errors)));
            terms.push(errors * self.objective.dop_weight);
        }
        let loss = terms.into_iter().reduce(|sum, term| sum + term);
        let loss = loss.expect("the photos' term").mean(Kind::Float);
        let share = pairs as f64 / self.batch as f64;
        (&loss / (self.accumulation as f64 / share)).backward();
        if let Some(tape) = tape {
            tape.backward();
        }
        lap(&mut self.profile, "loss and backward");
        scalars.insert(0, ("loss", loss.detach()));
        scalars
    }

    /// Differential output preservation: the photos of a batch, noised as they are there, under the class word alone, with the
    /// base model's predictions as targets. A caption without the token then goes on to mean what it meant, and no images of
    /// the class are needed.
    fn preserved_rows(&self, batch: &Batch, pairs: i64) -> Option<Batch> {
        let (class_alone, reference) = self.preserved.as_ref().zip(self.reference.as_ref())?;
        let mut rows = batch.first_under(pairs, class_alone);
        rows.target = base_prediction(&self.pipeline.unet, reference, &rows).to_kind(Kind::Float);
        Some(rows)
    }

    /// Weights of denoising errors at some timesteps, `[b]`; `None` where all weigh alike.
    fn timestep_weight(&self, timesteps: &Tensor) -> Option<Tensor> {
        let gamma = self.objective.min_snr;
        let schedule = &self.pipeline.schedule;
        (gamma > 0.0).then(|| schedule.min_snr_weight(timesteps, gamma))
    }

    /// Which images of a side a micro-batch takes.
    fn choose(&self, side: usize, count: usize, step: u64, micro: u64) -> Vec<Drawn> {
        let source = (self.seed, self.objective.noise_bank);
        draw_images(source, side, count, self.positions(step, micro)).collect()
    }

    /// Positions in the run of the pairs that this process takes of a micro-batch.
    fn positions(&self, step: u64, micro: u64) -> Range<u64> {
        let begin = (step * self.accumulation + micro) * self.batch as u64;
        let own = self.share.examples(self.batch);
        begin + own.start as u64..begin + own.end as u64
    }

    /// The images that were drawn, photos first, with noise.
    pub(super) fn noisy_batch(&self, drawn: &[Drawn]) -> Batch {
        let pools = [Some(&self.photos), self.generated.as_ref()];
        let parts = pools.into_iter().enumerate().filter_map(|(side, pool)| {
            let of_side = drawn.iter().filter(|drawn| drawn.side == side);
            let of_side = images(&of_side.copied().collect::<Vec<_>>());
            let pool = pool.filter(|_| !of_side.is_empty())?;
            Some((pool.latents(&of_side), pool.conditioning(&of_side)))
        });
        let (latents, told): (Vec<Tensor>, Vec<Conditioning>) = parts.unzip();
        let posterior = drawn.iter().map(|drawn| {
            let side = drawn.side as u64;
            // A place in a bank stands for other images too.
            let own = self.objective.noise_bank > 0;
            [
                drawn.draw,
                if own {
                    2 + 2 * drawn.image as u64 + side
                } else {
                    side
                },
            ]
        });
        let own = usize::from(!self.objective.shared_noise);
        let rows: Vec<[u64; 2]> = drawn
            .iter()
            .map(|drawn| [drawn.draw, (drawn.side * own) as u64])
            .collect();
        noisy(
            &self.pipeline,
            self.seed,
            Seen {
                moments: &Tensor::cat(&latents, 0),
                conditioning: Conditioning::cat(&told.iter().collect::<Vec<_>>()),
                posterior: &posterior.collect::<Vec<_>>(),
                noise: &rows,
                timesteps: &timesteps(self.seed, &rows, self.pipeline.schedule.steps()),
                noise_offset: self.objective.noise_offset,
            },
        )
    }

    /// Errors of the base model, `[2b]`.
    pub(super) fn base_errors(&self, reference: &Reference, batch: &Batch) -> Tensor {
        let prediction = base_prediction(&self.pipeline.unet, reference, batch);
        denoising_error(&prediction, &batch.target)
    }

    /// Labels of the pairs, `[b]`: the probabilities, or draws from them.
    fn label(&self, photos: &[i64], generated: &[i64], step: u64, micro: u64) -> Tensor {
        let values: Vec<f32> = photos
            .iter()
            .zip(generated)
            .enumerate()
            .map(|(row, (&photo, &image))| {
                let probability = self
                    .labels
                    .as_ref()
                    .map_or(0.5, |labels| labels.probability(photo, image));
                match self.objective.labels {
                    Labels::Soft => probability as f32,
                    Labels::Sampled => sample(
                        probability,
                        derive_seed(
                            self.seed,
                            "label",
                            &[self.positions(step, micro).start + row as u64],
                        ),
                    ) as f32,
                }
            })
            .collect();
        upload_slice(&values, self.photos.device())
    }
}

/// Gives the time since the last lap to a part of the step, where parts are timed.
fn lap(profile: &mut Option<Profile>, part: &'static str) {
    if let Some(profile) = profile {
        profile.lap(part);
    }
}

/// Which images were drawn.
fn images(drawn: &[Drawn]) -> Vec<i64> {
    drawn.iter().map(|drawn| drawn.image).collect()
}

//! The U-Net with its text encoder: a diffusion model of the autoencoder's latents, conditioned on captions.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor};

use super::{mean, scene_seed, slices, split, trainable};
use crate::config::PretrainConfig;
use crate::data::world::{Scene, Split, Variation, World};
use crate::error::{Error, Result};
use crate::losses::denoising_error;
use crate::models::diffusion::pipeline::{from_rgb, to_rgb};
use crate::models::diffusion::{Conditioning, NoiseSchedule, SamplingOptions, UNet, Vae, denoise};
use crate::models::prompt_encoder::TextPart;
use crate::ops::random::{derive_seed, integers, permutation, randn, uniform};
use crate::trainer::event::{Event, Metrics, Observer, Sample, Validation};
use crate::trainer::{Scalar, Task};

/// Images that a validation shows.
const SHOWN: u64 = 36;

/// Scenes as latents with their captions.
struct Latents {
    /// Mean and standard deviation, `[n, 2c, h, w]`.
    moments: Tensor,
    captions: Vec<String>,
}

/// Training of a U-Net with its text encoder.
pub struct UNetTask {
    unet: UNet,
    text: TextPart,
    schedule: NoiseSchedule,
    vae: Vae,
    world: World,
    config: PretrainConfig,
    sampling: SamplingOptions,
    device: Device,
    kind: Kind,
    training: Latents,
    validation: Latents,
    rows_seen: u64,
}

impl UNetTask {
    /// A new U-Net and text encoder of the template's architectures; scenes are drawn and encoded.
    ///
    /// # Errors
    /// Parts of the template or the autoencoder are missing or broken, parts do not fit each other, or a word of the
    /// world is not in the tokenizer.
    pub fn new(
        world: World,
        config: &PretrainConfig,
        sampling: SamplingOptions,
        device: Device,
        kind: Kind,
        observer: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let template = &config.part.template;
        let seed = config.run.seed;
        let (unet, text) = match &config.part.start {
            None => (
                UNet::fresh(&template.join("unet"), seed, device)?,
                TextPart::fresh(template, seed, device)?,
            ),
            Some(start) => {
                let unet = UNet::open(&start.join("unet"), None, device, Kind::Float)?;
                (unet, TextPart::open(template, start, device)?)
            }
        };
        text.check_words(&world.words())?;
        let schedule = NoiseSchedule::open(&template.join("scheduler"), device)?;
        let folder = config.part.vae.clone().unwrap_or_default();
        let vae = Vae::open(&folder, None, device)?;
        let mut encode = |purpose: &str, count: u64| -> Result<Latents> {
            let mut moments = Vec::new();
            let mut captions = Vec::new();
            for range in slices(count) {
                observer(range.end, count)?;
                let (images, texts) = split(world.scenes(
                    Split::Train,
                    Variation::Scene,
                    scene_seed(seed, purpose),
                    range,
                ));
                let posterior = vae.encode(&from_rgb(&images).to_device(device));
                let both = Tensor::cat(&[vae.scale(&posterior.mean), vae.scale(&posterior.std)], 1);
                moments.push(both.to_kind(Kind::BFloat16)); // the posterior's own noise is coarser
                captions.extend(texts);
            }
            Ok(Latents {
                moments: Tensor::cat(&moments, 0),
                captions,
            })
        };
        let training = encode("train", config.world.scenes)?;
        let validation = encode("validation", config.world.validation_scenes)?;
        Ok(Self {
            training,
            validation,
            unet,
            text,
            schedule,
            vae,
            world,
            config: config.clone(),
            sampling,
            device,
            kind,
            rows_seen: 0,
        })
    }

    /// The trained tensors, by name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = trainable("unet.", self.unet.parameters());
        parameters.extend(trainable("text_encoder.", &self.text.parameters()));
        parameters
    }

    /// Denoising errors `[b]` of rows of `latents` under `captions`; noise and timesteps come from `purpose` and
    /// `counter`.
    fn errors(
        &self,
        latents: &Latents,
        rows: &[i64],
        captions: &[String],
        purpose: &str,
        counter: u64,
    ) -> Result<Tensor> {
        let seed = |what: &str| {
            derive_seed(
                self.config.run.seed,
                &format!("{purpose}.{what}"),
                &[counter],
            )
        };
        let index = Tensor::from_slice(rows).to_device(self.device);
        let moments = latents.moments.index_select(0, &index).to_kind(Kind::Float);
        let halves = moments.chunk(2, 1);
        let shape = halves[0].size();
        let posterior = randn(seed("posterior"), &shape, self.device);
        let clean = &halves[0] + &halves[1] * posterior; // [b, c, h, w]
        let noise = randn(seed("noise"), &shape, self.device);
        let bound = self.schedule.steps() as u64;
        let timesteps = Tensor::from_slice(&integers(seed("time"), bound, rows.len()));
        let timesteps = timesteps.to_device(self.device);
        let noisy = self.schedule.add_noise(&clean, &noise, &timesteps);
        let target = self.schedule.target(&clean, &noise, &timesteps);
        let told = Conditioning::new(self.text.states(captions)?);
        let prediction = self
            .unet
            .forward(&noisy.to_kind(self.kind), &timesteps, &told, None);
        Ok(denoising_error(&prediction, &target))
    }

    /// Rows of a step: successive entries of one permutation after the other.
    fn rows(&self, step: u64) -> Vec<i64> {
        let count = self.training.captions.len();
        let batch = self.config.train.batch as u64;
        let order =
            |epoch: u64| permutation(derive_seed(self.config.run.seed, "order", &[epoch]), count);
        let first = step * batch;
        let mut epoch = first / count as u64;
        let mut current = order(epoch);
        (first..first + batch)
            .map(|position| {
                if position / count as u64 != epoch {
                    epoch = position / count as u64;
                    current = order(epoch);
                }
                current[(position % count as u64) as usize] as i64
            })
            .collect()
    }

    /// Images of captions of the world, each from its own noise.
    fn sample(
        &self,
        scenes: &[Scene],
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Sample>> {
        let size = self.training.moments.size();
        let empty = Conditioning::new(self.text.states(&[String::new()])?);
        let mut samples = Vec::with_capacity(scenes.len());
        for (number, chunk) in scenes.chunks(self.config.sampler.batch).enumerate() {
            if observer.interrupted() {
                // The loop writes the checkpoint and says where it lies.
                return Err(Error::Interrupted {
                    step,
                    checkpoint: PathBuf::new(),
                });
            }
            let prompts: Vec<String> = chunk
                .iter()
                .map(|scene| {
                    self.world
                        .caption(scene.class, Some(scene.background), scene.colour)
                })
                .collect();
            let told = Conditioning::new(self.text.states(&prompts)?);
            let first = number * self.config.sampler.batch;
            let seed =
                |row: usize| derive_seed(self.config.run.seed, "sample", &[(first + row) as u64]);
            let noise: Vec<Tensor> = (0..chunk.len())
                .map(|row| randn(seed(row), &[1, size[1] / 2, size[2], size[3]], self.device))
                .collect();
            let denoised = denoise(
                &self.unet,
                &self.schedule,
                &self.sampling,
                &Tensor::cat(&noise, 0),
                &told,
                Some(&empty),
                &mut |_| Ok(()),
            )?;
            let images = self.vae.decode(&self.vae.unscale(&denoised.latents));
            let images = images.to_device(Device::Cpu).unbind(0);
            for (row, (image, prompt)) in images.iter().zip(prompts).enumerate() {
                samples.push(Sample {
                    prompt,
                    seed: seed(row) as u64,
                    image: to_rgb(image),
                });
            }
            observer.event(&Event::Progress {
                phase: "validate",
                done: samples.len() as u64,
                total: scenes.len() as u64,
            })?;
        }
        Ok(samples)
    }
}

impl Task for UNetTask {
    fn accumulate(&mut self, step: u64, _micro: u64) -> Result<Vec<Scalar>> {
        let rows = self.rows(step);
        let dropout = self.config.objective.caption_dropout;
        let captions: Vec<String> = rows
            .iter()
            .enumerate()
            .map(|(position, &row)| {
                let counters = [step, position as u64];
                let drawn = uniform(derive_seed(self.config.run.seed, "dropout", &counters));
                if drawn < dropout {
                    String::new()
                } else {
                    self.training.captions[row as usize].clone()
                }
            })
            .collect();
        let errors = self.errors(&self.training, &rows, &captions, "train", step)?;
        self.rows_seen += rows.len() as u64;
        let loss = errors.mean(Kind::Float);
        loss.backward();
        Ok(Scalar::all(1.0, vec![("loss", mean(&errors))]))
    }

    /// Denoising error on other scenes at fixed noise; images of captions.
    fn validate(&mut self, step: u64, observer: &mut dyn Observer) -> Result<Validation> {
        let _no_grad = tch::no_grad_guard();
        let mut errors = Vec::new();
        for range in slices(self.config.world.validation_scenes) {
            let rows: Vec<i64> = range.clone().map(|row| row as i64).collect();
            let captions = &self.validation.captions[range.start as usize..range.end as usize];
            let counter = range.start;
            errors.push(self.errors(&self.validation, &rows, captions, "validation", counter)?);
        }
        let error = Tensor::cat(&errors, 0).mean(Kind::Double).double_value(&[]);
        let scenes = self.world.scenes(
            Split::Train,
            Variation::Scene,
            scene_seed(self.config.run.seed, "prompts"),
            0..SHOWN,
        );
        let samples = self.sample(&scenes, step, observer)?;
        let reward = -error;
        let metrics = vec![
            ("reward".to_owned(), reward),
            ("denoising_error".to_owned(), error),
        ];
        Ok(Validation {
            reward,
            rewards: Vec::new(),
            metrics,
            samples,
            answers: Vec::new(),
        })
    }

    fn alarms(&self, _validation: &Validation, _untuned: &Metrics) -> Vec<String> {
        Vec::new()
    }

    fn counts(&self) -> Vec<(String, u64)> {
        vec![("unet_forwards_training".to_owned(), self.rows_seen)]
    }
}

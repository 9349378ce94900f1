//! The autoencoder: reconstructions of scenes, a weak pull of the latents to the unit normal.

use tch::{Device, Kind, Tensor, no_grad};

use super::{mean, scene_seed, slices, split, trainable};
use crate::config::PretrainConfig;
use crate::data::world::{Split, Variation, World};
use crate::error::Result;
use crate::losses::autoencoder::reconstruction;
use crate::models::diffusion::Vae;
use crate::models::diffusion::pipeline::{from_rgb, to_rgb};
use crate::ops::random::{derive_seed, randn};
use crate::trainer::event::{Metrics, Observer, Sample, Validation};
use crate::trainer::{Scalar, Task};

/// Reconstructions that a validation shows.
const SHOWN: usize = 16;

/// Training of an autoencoder.
pub struct VaeTask {
    vae: Vae,
    world: World,
    config: PretrainConfig,
    device: Device,
    images_seen: u64,
}

impl VaeTask {
    /// A new autoencoder of the template's architecture.
    ///
    /// # Errors
    /// The template's configuration is missing or not implemented.
    pub fn new(world: World, config: &PretrainConfig, device: Device) -> Result<Self> {
        Ok(Self {
            vae: Vae::fresh(&config.part.template, config.run.seed, device)?,
            world,
            config: config.clone(),
            device,
            images_seen: 0,
        })
    }

    /// The trained tensors, by name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        trainable("vae.", self.vae.parameters())
    }
}

impl Task for VaeTask {
    fn accumulate(&mut self, step: u64, _micro: u64) -> Result<Vec<Scalar>> {
        let batch = self.config.train.batch as u64;
        let seed = self.config.run.seed;
        let scenes = self.world.scenes(
            Split::Train,
            Variation::Scene,
            scene_seed(seed, "train"),
            step * batch..(step + 1) * batch,
        );
        let images = from_rgb(&split(scenes).0).to_device(self.device); // [b, 3, h, w]
        let noise =
            |shape: &[i64]| randn(derive_seed(seed, "posterior", &[step]), shape, self.device);
        let (reconstructed, divergence) = self.vae.reconstruct(&images, noise);
        let objective = &self.config.objective;
        let errors = reconstruction(
            &reconstructed,
            &images,
            objective.squared_weight,
            objective.gradient_weight,
        );
        let loss = errors.mean(Kind::Float) + &divergence * objective.kl_weight;
        loss.backward();
        self.images_seen += batch;
        Ok(Scalar::all(
            1.0,
            vec![
                ("loss", loss.detach()),
                ("reconstruction_loss", mean(&errors)),
                ("kl", divergence.detach()),
            ],
        ))
    }

    /// Peak signal-to-noise ratio on scenes of drawings that are not trained on.
    fn validate(&mut self, _step: u64, _observer: &mut dyn Observer) -> Result<Validation> {
        let mut ratios = Vec::new();
        let mut samples = Vec::new();
        let seed = scene_seed(self.config.run.seed, "validation");
        for range in slices(self.config.world.validation_scenes) {
            let scenes = self
                .world
                .scenes(Split::HeldOut, Variation::Scene, seed, range.clone());
            let (images, captions) = split(scenes);
            let images = from_rgb(&images).to_device(self.device);
            let decoded = self
                .vae
                .decode(&self.vae.encode(&images).mean)
                .clamp(-1.0, 1.0);
            // Pixels span 2, so the peak's square is 4.
            let squares = (&decoded - &images).square().flatten(1, -1);
            let ratio = (squares.mean_dim(-1, false, Kind::Float) / 4.0).log10() * -10.0; // [b]
            ratios.push(ratio);
            for (row, caption) in captions.into_iter().enumerate() {
                if samples.len() < SHOWN {
                    let pair = [images.select(0, row as i64), decoded.select(0, row as i64)];
                    samples.push(Sample {
                        prompt: caption,
                        seed: range.start + row as u64,
                        image: to_rgb(&Tensor::cat(&pair, 2)), // original and reconstruction side by side
                    });
                }
            }
        }
        let reward = Tensor::cat(&ratios, 0).mean(Kind::Double).double_value(&[]);
        Ok(Validation {
            reward,
            rewards: Vec::new(),
            metrics: vec![("reward".to_owned(), reward), ("psnr".to_owned(), reward)],
            samples,
            answers: Vec::new(),
        })
    }

    fn alarms(&self, _validation: &Validation, _untuned: &Metrics) -> Vec<String> {
        Vec::new()
    }

    fn counts(&self) -> Vec<(String, u64)> {
        vec![("images".to_owned(), self.images_seen)]
    }
}

/// Gives each latent channel mean 0 and deviation 1 over `scenes` training scenes, in the autoencoder's own weights.
///
/// One `scaling_factor` cannot do it: raw channels differ in mean and by a factor of three in deviation.
pub fn normalize_latents(vae: &mut Vae, world: &World, seed: u64, scenes: u64, device: Device) {
    let seed = scene_seed(seed, "latents");
    let latents: Vec<Tensor> = slices(scenes)
        .map(|range| {
            let (images, _) = split(world.scenes(Split::Train, Variation::Scene, seed, range));
            vae.encode(&from_rgb(&images).to_device(device)).mean
        })
        .collect();
    no_grad(|| {
        let all = Tensor::cat(&latents, 0).transpose(0, 1).flatten(1, -1); // [latent_channels, n]
        let (mean, std) = (
            all.mean_dim(1, false, Kind::Float),
            all.std_dim(1, true, false),
        );
        vae.normalize_latents(&mean, &std);
    });
}

//! A whole Stable-Diffusion-family model: text to conditioning to latents to images.
//!
//! Every image has its own seed, from which its initial noise is drawn on the CPU: image i is the same whatever
//! the batch size and whatever is generated beside it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use image::RgbImage;
use tch::{Device, Kind, Tensor};

use super::{
    AddedConditioning, Conditioning, NoiseSchedule, Posterior, SamplerKind, SamplingOptions, UNet,
    Vae, VaeSource, denoise, from_bytes, to_bytes,
};
use crate::error::{Error, Result};
use crate::hub::refuse_broken_links;
use crate::models::json;
use crate::models::layers::Adapters;
use crate::models::prompt_encoder::{PromptEmbedding, PromptEncoder};
use crate::models::recognize::not_a;
use crate::models::single_file;
use crate::ops::halving::in_halves;
use crate::ops::random::randn;
use crate::ops::transfer::{upload, upload_slice};

/// How images are sampled.
#[derive(Clone, Copy, Debug)]
pub struct SampleSettings {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Its steps.
    pub steps: usize,
    /// Classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Pixels across.
    pub width: i64,
    /// Pixels down.
    pub height: i64,
    /// Images denoised together.
    pub batch: usize,
}

/// One image to sample.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Row of the conditioning.
    pub row: i64,
    /// Seed of its initial noise.
    pub seed: u64,
}

/// Where the kinds of a pipeline's parts differ.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    /// Activations of the U-Net and weights of the text encoder.
    pub compute: Kind,
    /// Stored weights of the U-Net: f32 where all of them are trained.
    pub unet: Kind,
}

/// The parts of a model folder.
pub struct Pipeline {
    /// The denoiser.
    pub unet: UNet,
    /// The autoencoder, in f32: SDXL's overflows in half precision, and it is a small share of the time.
    pub vae: Vae,
    /// The noise schedule.
    pub schedule: NoiseSchedule,
    prompts: PromptEncoder,
    folder: PathBuf,
    vae_source: VaeSource,
    device: Device,
    kind: Kind,
    sample_forwards: Cell<u64>,
    vae_encodes: Cell<u64>,
}

impl Pipeline {
    /// Loads a model folder in Hugging Face layout, or a whole model in one file; `vae` stands in the place of its
    /// autoencoder, as [`VaeSource::find`] takes it.
    ///
    /// # Errors
    /// A missing part, weights that do not fit their configuration, parts that do not fit each other.
    pub fn open(
        folder: &Path,
        vae: Option<&Path>,
        variant: Option<&str>,
        device: Device,
        kinds: Kinds,
    ) -> Result<Self> {
        check_pipeline(folder)?;
        let vae_source = VaeSource::find(folder, vae)?;
        let prompts = PromptEncoder::open(folder, variant, device, kinds.compute)?;
        let pipeline = Self {
            unet: UNet::open(&folder.join("unet"), variant, device, kinds.unet)?,
            vae: vae_source.open(variant, device)?,
            schedule: NoiseSchedule::of_pipeline(folder, prompts.is_xl(), device)?,
            prompts,
            folder: folder.to_owned(),
            vae_source,
            device,
            kind: kinds.compute,
            sample_forwards: Cell::new(0),
            vae_encodes: Cell::new(0),
        };
        pipeline.check_channels()?;
        let probe = pipeline.encode_prompts(&[String::new()], 64, 64)?;
        pipeline.unet.check_conditioning(folder, &probe)?;
        Ok(pipeline)
    }

    /// Checks that the U-Net reads and predicts what the autoencoder makes.
    fn check_channels(&self) -> Result<()> {
        let latents = self.vae.latent_channels();
        let config = self.unet.config();
        let (reads, predicts) = (config.in_channels, config.out_channels);
        if reads == latents && predicts == latents {
            return Ok(());
        }
        let hint = match reads {
            9 => {
                "it is an inpainting model; take the model for text to image that it was made from"
            }
            8 => {
                "it edits images (InstructPix2Pix); take the model for text to image that it was made from"
            }
            _ => "the autoencoder and the U-Net are of different models",
        };
        let message = format!(
            "the U-Net reads {reads} channels and predicts {predicts}, but the autoencoder's latents have {latents}"
        );
        Err(Error::weights(self.folder.join("unet/config.json"), message).with_hint(hint))
    }

    /// The model's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where its autoencoder comes from.
    pub fn vae_source(&self) -> &VaeSource {
        &self.vae_source
    }

    /// The layers of U-Net and text encoders that can carry a LoRA; the names of the latter begin with the encoder's folder.
    pub fn adapters(&self) -> Adapters {
        let mut adapters = self.prompts.adapters();
        let unet = self.unet.adapters().iter();
        adapters.extend(unet.map(|(name, layer)| (name.clone(), Rc::clone(layer))));
        adapters
    }

    /// Device of all parts.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Type of the U-Net's activations.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Height and width of the images that the model was made for, in pixels.
    pub fn native_size(&self) -> [i64; 2] {
        // diffusers' default where the configuration does not say.
        self.unet
            .config()
            .sample_size
            .unwrap_or([64, 64])
            .map(|side| side * self.vae.factor())
    }

    /// Rows that went through the U-Net while sampling, so far; guidance counts double.
    pub fn sample_forwards(&self) -> u64 {
        self.sample_forwards.get()
    }

    /// Images encoded by the autoencoder so far.
    pub fn vae_encodes(&self) -> u64 {
        self.vae_encodes.get()
    }

    /// Checks an image size against what the autoencoder and the U-Net can take.
    pub fn check_size(&self, width: i64, height: i64) -> Result<()> {
        let unit = self.vae.factor();
        if width < unit || height < unit || width % unit != 0 || height % unit != 0 {
            return Err(Error::config(format!(
                "image size {width}x{height} must be a multiple of {unit} both ways"
            )));
        }
        Ok(())
    }

    /// Conditioning of `prompts` for images of a size, `[n]` rows.
    pub fn encode_prompts(
        &self,
        prompts: &[String],
        width: i64,
        height: i64,
    ) -> Result<Conditioning> {
        Ok(self.condition(self.prompts.encode(prompts)?, width, height))
    }

    /// Conditioning of negative prompts: as prompts, but some models want zeros for an empty one.
    pub fn encode_negative(
        &self,
        prompts: &[String],
        width: i64,
        height: i64,
    ) -> Result<Conditioning> {
        Ok(self.condition(self.prompts.encode_negative(prompts)?, width, height))
    }

    /// Notes on the parts of these prompts that the text encoder does not read, a sentence each: words that it does not
    /// know, ends that it does not see.
    pub fn prompt_notes(&self, prompts: &[String]) -> Result<Vec<String>> {
        self.prompts.notes(prompts)
    }

    /// Which of some words the text encoder does not know.
    pub fn unknown_words(&self, words: &str) -> Result<Vec<String>> {
        self.prompts.unknown_words(words)
    }

    fn condition(&self, embedding: PromptEmbedding, width: i64, height: i64) -> Conditioning {
        let added = embedding.pooled.map(|text_embeds| {
            let rows = text_embeds.size()[0];
            // Original size, crop offset, target size: an uncropped image of just this size.
            let sizes = [height, width, 0, 0, height, width].map(|size| size as f32);
            let time_ids = upload_slice(&sizes, self.device).to_kind(self.kind);
            AddedConditioning {
                text_embeds,
                time_ids: time_ids.unsqueeze(0).repeat([rows, 1]),
            }
        });
        Conditioning {
            context: embedding.context,
            added,
        }
    }

    /// Initial unit-normal latents of one image, `[1, c, h, w]` f32.
    fn initial_latents(&self, seed: u64, settings: &SampleSettings) -> Tensor {
        let unit = self.vae.factor();
        let channels = self.unet.config().in_channels;
        let shape = [1, channels, settings.height / unit, settings.width / unit];
        randn(seed as i64, &shape, self.device)
    }

    /// Samples the images of `requests` in batches and hands each to `take` with its index, `[3, h, w]` in [-1, 1] on
    /// the CPU. `negative` has one row. `advance` is told after every denoising step how many of an image's steps are done, of
    /// how many for all images; its error ends the sampling.
    ///
    /// # Errors
    /// The errors of `take` and `advance`, or a size or number of steps that the model cannot take.
    pub fn sample(
        &self,
        conditioning: &Conditioning,
        negative: &Conditioning,
        requests: &[Request],
        settings: &SampleSettings,
        advance: &mut dyn FnMut(u64, u64) -> Result<()>,
        mut take: impl FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        self.check_size(settings.width, settings.height)?;
        let total = (requests.len() * settings.steps) as u64;
        in_halves(requests.len(), settings.batch, |range| {
            let (begin, batch) = (range.start, &requests[range]);
            let before = (begin * settings.steps) as u64;
            let noise: Vec<Tensor> = batch
                .iter()
                .map(|request| self.initial_latents(request.seed, settings))
                .collect();
            let rows: Vec<i64> = batch.iter().map(|request| request.row).collect();
            let text = conditioning.select(&upload_slice(&rows, self.device));
            let noise = Tensor::cat(&noise, 0);
            let mut step = |step| advance(before + (step * batch.len()) as u64, total);
            let images = self.sample_from(&noise, &text, negative, settings, &mut step)?;
            for (index, image) in images.unbind(0).into_iter().enumerate() {
                take(begin + index, image)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Samples from given unit-normal latents `[b, c, h, w]`; images `[b, 3, h, w]` in [-1, 1], f32 on the CPU. `advance` is
    /// told the number of denoising steps done.
    ///
    /// # Errors
    /// As [`Self::sample`]; the images are not finite.
    pub fn sample_from(
        &self,
        noise: &Tensor,
        conditioning: &Conditioning,
        negative: &Conditioning,
        settings: &SampleSettings,
        advance: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Tensor> {
        let SampleSettings {
            sampler,
            steps,
            guidance,
            ..
        } = *settings;
        let options = SamplingOptions {
            sampler,
            steps,
            guidance,
            kind: self.kind,
        };
        let denoised = denoise(
            &self.unet,
            &self.schedule,
            &options,
            noise,
            conditioning,
            Some(negative),
            advance,
        )?;
        self.sample_forwards
            .set(self.sample_forwards.get() + denoised.sample_forwards);
        let images: Vec<Tensor> = self
            .vae
            .unscale(&denoised.latents)
            .split(images_together(settings.width, settings.height), 0)
            .iter()
            .map(|latents| self.vae.decode(latents).to_device(Device::Cpu))
            .collect();
        let images = Tensor::cat(&images, 0);
        if images.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::not_finite(&self.folder, "images"));
        }
        Ok(images)
    }

    /// Latent posterior of images `[b, 3, h, w]` in [-1, 1], unscaled.
    pub fn encode_images(&self, images: &Tensor) -> Posterior {
        let posterior = self.vae.encode(&upload(images, self.device));
        self.vae_encodes
            .set(self.vae_encodes.get() + images.size()[0] as u64);
        posterior
    }
}

/// Refuses a path that is no model folder, or one of another family, before its parts are looked for.
fn check_pipeline(folder: &Path) -> Result<()> {
    if folder.is_file() {
        return single_file::check(folder);
    }
    refuse_broken_links(folder)?;
    let index = json::read_object_if_there(&folder.join("model_index.json"))?;
    let class = index.get("_class_name").and_then(serde_json::Value::as_str);
    let stable = class.is_none_or(|class| {
        class.starts_with("StableDiffusion") && !class.starts_with("StableDiffusion3")
    });
    // Without an index, a folder for each part makes a model.
    if folder.is_dir() && stable && (!index.is_empty() || folder.join("unet").is_dir()) {
        return Ok(());
    }
    Err(not_a(folder, "a Stable Diffusion folder"))
}

/// Images that the autoencoder should encode or decode at once: at full size its activations are hundreds of times an
/// image, and a batch that the U-Net takes easily would need more memory than anything else in a run.
pub fn images_together(width: i64, height: i64) -> i64 {
    (512 * 512 / (width * height).max(1)).max(1)
}

/// An image `[3, h, w]` in [-1, 1] as 8-bit RGB.
pub fn to_rgb(image: &Tensor) -> RgbImage {
    let size = image.size();
    let bytes = to_bytes(image).permute([1, 2, 0]).contiguous(); // [h, w, 3]
    let pixels = Vec::<u8>::try_from(bytes.view(-1)).unwrap_or_default();
    RgbImage::from_raw(size[2] as u32, size[1] as u32, pixels).unwrap_or_default()
}

/// 8-bit RGB images of one size as `[n, 3, h, w]` in [-1, 1].
pub fn from_rgb(images: &[RgbImage]) -> Tensor {
    let tensors: Vec<Tensor> = images
        .iter()
        .map(|image| {
            let (width, height) = (i64::from(image.width()), i64::from(image.height()));
            Tensor::from_slice(image.as_raw())
                .view([height, width, 3])
                .permute([2, 0, 1])
        })
        .collect();
    from_bytes(&Tensor::stack(&tensors, 0))
}

//! What rewards the images of rounds, and what the untuned model draws for the class word, beside which it is measured.

use std::path::Path;
use std::rc::Rc;

use image::RgbImage;
use tch::{Device, Kind, Tensor};

use crate::config::{ImageRewardKind, ImageRoundsConfig};
use crate::data::photo::Photo;
use crate::data::prompts::strip_token;
use crate::distributed::Peers;
use crate::error::Result;
use crate::jobs::Display;
use crate::jobs::interrupt::Interrupt;
use crate::jobs::judge::images::{CommandReward, HarmonicReward, HeadReward, MeasuredSubject};
use crate::jobs::pairs::SubjectMeasures;
use crate::jobs::policy::diffusion::sample_settings;
use crate::jobs::sampled::{Sampling, all_stored};
use crate::models::diffusion::pipeline::{Kinds, Pipeline};
use crate::models::encoders::DualEncoder;
use crate::rewards::harmonic::image_cosine;
use crate::rewards::image::ImageReward;
use crate::trainer::event::Sample;
use crate::trainer::preview::requests;

/// What the rewards of a run are opened with.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a ImageRoundsConfig,
    pub(super) run: &'a Path,
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) interrupt: &'a Interrupt,
}

/// A reward, and what a subject's images are measured by where its encoder measures them.
pub(super) type Rewarding = (Box<dyn ImageReward>, Option<Rc<SubjectMeasures>>);

impl Surroundings<'_> {
    /// The reward of the configuration; of a subject that its encoder measures, what validations are measured by too.
    ///
    /// # Errors
    /// An encoder or model that cannot be loaded, photos or prompts that it does not take, a command that does not start.
    pub(super) fn reward(
        &self,
        photos: Option<&[Photo]>,
        held_out: &[String],
        display: &mut dyn Display,
    ) -> Result<Rewarding> {
        let section = &self.config.reward;
        if section.kind == ImageRewardKind::Command {
            let reward = CommandReward::start(section, self.run, self.interrupt)?;
            return Ok((Box::new(reward), None));
        }
        let encoder = Rc::new(DualEncoder::open(
            &section.encoder,
            self.device,
            Kind::Float,
        )?);
        for note in encoder.assumed() {
            display.say(note);
        }
        if section.kind == ImageRewardKind::Model {
            let reward = HeadReward::open(section, encoder, self.device)?;
            return Ok((Box::new(reward), None));
        }
        let Some(photos) = photos else {
            let reward = HarmonicReward::new(encoder, section.lambda, None);
            return Ok((Box::new(reward), None));
        };
        let photos: Vec<RgbImage> = photos.iter().map(|photo| photo.image.clone()).collect();
        let untuned = self.untuned(held_out, display)?;
        let (features, of_class) = measured(&encoder, &photos, untuned.as_deref())?;
        let subject = MeasuredSubject {
            photos: features.shallow_clone(),
            token: self.config.subject.token.clone(),
            untuned_class: of_class.as_ref().map(|(cosine, _)| *cosine),
        };
        let reward = HarmonicReward::new(Rc::clone(&encoder), section.lambda, Some(subject));
        let (encoder, (photos, untuned)) = match &self.config.validation.encoder {
            None => (encoder, (features, of_class)),
            Some(folder) => {
                let own = Rc::new(DualEncoder::open(folder, self.device, Kind::Float)?);
                for note in own.assumed() {
                    display.say(note);
                }
                let measured = measured(&own, &photos, untuned.as_deref())?;
                (own, measured)
            }
        };
        let measures = SubjectMeasures {
            encoder,
            photos,
            untuned,
            config: self.config.as_subject(),
        };
        Ok((Box::new(reward), Some(Rc::new(measures))))
    }

    /// The untuned model's images of the held-out prompts with the class word alone; `None` where they are not asked for.
    fn untuned(
        &self,
        held_out: &[String],
        display: &mut dyn Display,
    ) -> Result<Option<Vec<RgbImage>>> {
        let config = self.config;
        let strip = |prompt: &String| strip_token(prompt, &config.subject.token);
        let stripped: Vec<String> = held_out.iter().map(strip).collect();
        if !config.validation.specificity || stripped == held_out {
            return Ok(None);
        }
        let each = config.validation.images_per_prompt;
        let requests = requests(stripped.len(), each, config.run.seed);
        let folder = self.run.join("untuned");
        let only_images = |samples: Vec<Sample>| samples.into_iter().map(|one| one.image).collect();
        if let Some(samples) = all_stored(&folder, &stripped, &requests)? {
            return Ok(Some(only_images(samples)));
        }
        let kinds = Kinds {
            compute: self.kind,
            unet: self.kind,
        };
        let model = &config.model;
        let (vae, variant) = (model.vae.as_deref(), model.variant.as_deref());
        let base = Pipeline::open(&model.base, vae, variant, self.device, kinds)?;
        let settings = sample_settings(&config.train, &config.sampler, &base)?;
        let mut advance = |done, total| {
            display.advance("denoising steps of the untuned model", done, total);
            self.interrupt.check(0, self.run)
        };
        let sampling = Sampling {
            run: self.run,
            folder: &folder,
            pipeline: &base,
            settings: &settings,
            peers: &Peers::alone(),
        };
        let samples = sampling.images(&stripped, &requests, &mut advance)?;
        Ok(Some(only_images(samples)))
    }
}

/// By one encoder: features of the photos, and of the untuned model's images their mean cosine with these, and their features.
fn measured(
    encoder: &DualEncoder,
    photos: &[RgbImage],
    untuned: Option<&[RgbImage]>,
) -> Result<(Tensor, Option<(f64, Tensor)>)> {
    let photos = encoder.encode_images(photos)?;
    let of_class = untuned.map(|images| -> Result<(f64, Tensor)> {
        let features = encoder.encode_images(images)?;
        let cosines = image_cosine(&features, &photos);
        let mean = cosines.iter().sum::<f64>() / cosines.len().max(1) as f64;
        Ok((mean, features))
    });
    let of_class = of_class.transpose()?;
    Ok((photos, of_class))
}

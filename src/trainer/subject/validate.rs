//! Validation: held-out prompts, always from the same noise (common random numbers), scored by the reward encoder.

use std::rc::Rc;

use image::RgbImage;
use tch::{Device, Kind, Tensor};

use crate::config::{SubjectConfig, ValidationReward};
use crate::data::prompts::strip_token;
use crate::distributed::Peers;
use crate::error::Result;
use crate::models::diffusion::pipeline::{Pipeline, SampleSettings};
use crate::models::encoders::DualEncoder;
use crate::rewards::harmonic::{
    LAMBDAS, image_cosine, lambda_harmonic, text_cosine, text_similarity, unit,
};
use crate::rewards::oracle::real_to_real;
use crate::rewards::specific::{class_kept, diversity, hypervolume, specific};
use crate::trainer::event::{Metrics, Observer, Sample, Validation, metric};
use crate::trainer::preview::Preview;

/// Cosine between images of different prompts that, beyond the untuned model's, counts as a loss of diversity: the
/// share of the way from the untuned model's value to 1.
const COLLAPSE_SHARE: f64 = 0.75;

/// Share of its class that a model must keep; below it, the class word has come to draw the subject. DreamBooth's tuned models
/// on the embedded world keep .62, with prior preservation .95.
const LEAST_KEPT: f64 = 0.8;

/// The held-out prompts with the class word alone.
struct ClassAlone {
    preview: Preview,
    /// The untuned model's: mean cosine with the photos, and features of its images, where they are known.
    untuned: Option<(f64, Option<Tensor>)>,
}

/// Samples and scores the held-out prompts of a subject.
pub struct Judge {
    pub(super) encoder: Rc<DualEncoder>,
    pub(super) oracle: Option<f64>,
    photo_features: Tensor,
    preview: Preview,
    /// Text features of the prompts without the token, one row an image.
    texts: Tensor,
    /// `None` where it is not measured, or no prompt holds the token.
    class_alone: Option<ClassAlone>,
    lambda: f64,
    reward: ValidationReward,
}

/// Figures of the images of the class word alone.
struct OfClass {
    metrics: Metrics,
    kept: f64,
}

impl Judge {
    /// Of prompts with the token; `photo_features` are `[r, d]`, rows of length 1.
    ///
    /// # Errors
    /// A prompt that an encoder does not take.
    pub fn new(
        pipeline: &Pipeline,
        encoder: Rc<DualEncoder>,
        photo_features: Tensor,
        prompts: Vec<String>,
        token: &str,
        config: &SubjectConfig,
        settings: SampleSettings,
    ) -> Result<Self> {
        let count = config.validation.images_per_prompt;
        let seed = config.run.seed;
        let preview = Preview::new(pipeline, prompts, count, seed, settings)?;
        let stripped: Vec<String> = preview
            .prompts
            .iter()
            .map(|prompt| strip_token(prompt, token))
            .collect();
        let rows: Vec<i64> = preview.requests.iter().map(|request| request.row).collect();
        let texts = encoder.encode_texts(&stripped)?;
        let measured = config.validation.specificity && stripped != preview.prompts;
        let class_alone = measured
            .then(|| Preview::new(pipeline, stripped, count, seed, settings))
            .transpose()?
            .map(|preview| ClassAlone {
                preview,
                untuned: None,
            });
        let texts = texts.index_select(0, &Tensor::from_slice(&rows).to_device(texts.device()));
        let oracle = real_to_real(&photo_features).map(unit);
        Ok(Self {
            encoder,
            oracle,
            photo_features,
            preview,
            texts,
            class_alone,
            lambda: config.validation.lambda,
            reward: config.validation.reward,
        })
    }

    /// Position of the first image of the class word alone among the images of a validation; `None` where there is none.
    pub(super) fn first_of_class(&self) -> Option<usize> {
        self.class_alone
            .as_ref()
            .map(|_| self.preview.requests.len())
    }

    /// Takes the untuned model's figures from a run's earlier part: the mean cosine of its images of the class word with the
    /// photos, and those images. `false` if not all of them are there.
    pub(super) fn remember_untuned(&mut self, cosine: f64, images: &[RgbImage]) -> Result<bool> {
        let Some(class_alone) = &mut self.class_alone else {
            return Ok(true);
        };
        let features = (images.len() == class_alone.preview.requests.len())
            .then(|| self.encoder.encode_images(images))
            .transpose()?;
        let all = features.is_some();
        class_alone.untuned = Some((cosine, features));
        Ok(all)
    }

    /// Has class and drift measured against the untuned model: the mean cosine of its images of the class word with the photos, and
    /// the features of those images, `[n, d]`. Without it, what is sampled at step 0 counts as the untuned model.
    pub fn measure_against(&mut self, cosine: f64, features: Tensor) {
        if let Some(class_alone) = &mut self.class_alone {
            class_alone.untuned = Some((cosine, Some(features)));
        }
    }

    pub(in crate::trainer) fn validate(
        &mut self,
        pipeline: &Pipeline,
        peers: &Peers,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Validation> {
        let mut samples = self.preview.sample(pipeline, peers, step, observer)?;
        let features = self.features(&samples)?;
        let clip_i = image_cosine(&features, &self.photo_features);
        let clip_t = text_cosine(&features, &self.texts);
        let [image, text] = [&clip_i, &clip_t]
            .map(|cosines| cosines.iter().copied().map(unit).collect::<Vec<f64>>());
        let of_class = self.validate_class((pipeline, peers), step, observer, &mut samples)?;
        let rewards_of = |reward: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            let pairs = image.iter().zip(&text);
            pairs.map(|(&image, &text)| reward(image, text)).collect()
        };
        let harmonic_at =
            |lambda: f64| rewards_of(&|image, text| lambda_harmonic(image, text, lambda));
        let kept = of_class.as_ref().map(|figures| figures.kept);
        let rewards = match (self.reward, kept) {
            (ValidationReward::Specific, Some(kept)) => {
                rewards_of(&|image, text| specific(image, text, kept, self.lambda))
            }
            _ => harmonic_at(self.lambda),
        };
        let reward = mean(&rewards);
        let likeness = self.likeness(&features);
        let mut metrics = vec![
            ("reward".to_owned(), reward),
            ("image_similarity".to_owned(), mean(&image)),
            ("text_similarity".to_owned(), mean(&text)),
        ];
        metrics.extend(likeness.map(|value| ("cross_prompt_cosine".to_owned(), value)));
        let each = self.preview.requests.len() / self.preview.prompts.len().max(1);
        if each > 1 {
            let by_prompt = diversity(&features, each as i64);
            metrics.push(("div".to_owned(), mean(&by_prompt)));
        }
        if let Some(of_class) = of_class {
            metrics.extend(of_class.metrics);
            let volume = hypervolume(mean(&clip_i), mean(&clip_t), of_class.kept);
            metrics.push(("hypervolume".to_owned(), volume));
        }
        // Which step another lambda would have kept can be read off the run afterwards.
        metrics
            .extend(LAMBDAS.map(|lambda| (format!("reward_{lambda}"), mean(&harmonic_at(lambda)))));
        Ok(Validation {
            reward,
            rewards,
            metrics,
            samples,
            answers: Vec::new(),
        })
    }

    fn features(&self, samples: &[Sample]) -> Result<Tensor> {
        let images: Vec<_> = samples.iter().map(|sample| sample.image.clone()).collect();
        self.encoder.encode_images(&images)
    }

    /// Samples the class word alone, adds the images to `samples`, and measures them.
    fn validate_class(
        &mut self,
        (pipeline, peers): (&Pipeline, &Peers),
        step: u64,
        observer: &mut dyn Observer,
        samples: &mut Vec<Sample>,
    ) -> Result<Option<OfClass>> {
        let Some(class_alone) = &self.class_alone else {
            return Ok(None);
        };
        let drawn = class_alone
            .preview
            .sample(pipeline, peers, step, observer)?;
        let features = self.features(&drawn)?;
        samples.extend(drawn);
        let cosine = mean(&image_cosine(&features, &self.photo_features));
        let text = mean(&text_similarity(&features, &self.texts));
        let untuned = class_alone.untuned.as_ref();
        let kept = class_kept(cosine, untuned.map_or(cosine, |(untuned, _)| *untuned));
        let drift = match untuned {
            None => Some(0.0),
            Some((_, before)) => before
                .as_ref()
                .map(|before| 1.0 - mean(&text_cosine(&features, before))),
        };
        let mut metrics = vec![
            ("class_image_similarity".to_owned(), unit(cosine)),
            ("class_text_similarity".to_owned(), text),
            ("pres".to_owned(), cosine),
            ("class_kept".to_owned(), kept),
        ];
        metrics.extend(drift.map(|drift| ("class_drift".to_owned(), drift)));
        let first = |class_alone: &&mut ClassAlone| step == 0 && class_alone.untuned.is_none();
        if let Some(class_alone) = self.class_alone.as_mut().filter(first) {
            class_alone.untuned = Some((cosine, Some(features)));
        }
        Ok(Some(OfClass { metrics, kept }))
    }

    /// Mean cosine between images of different prompts: near 1, the model draws one picture whatever is asked.
    fn likeness(&self, features: &Tensor) -> Option<f64> {
        let rows: Vec<i64> = self
            .preview
            .requests
            .iter()
            .map(|request| request.row)
            .collect();
        let rows = Tensor::from_slice(&rows);
        let apart = rows.unsqueeze(0).ne_tensor(&rows.unsqueeze(1)); // [n, n]
        let cosine = features
            .matmul(&features.tr())
            .to_device(Device::Cpu)
            .to_kind(Kind::Double); // [n, n]
        (self.preview.prompts.len() > 1).then(|| {
            cosine
                .masked_select(&apart)
                .mean(Kind::Double)
                .double_value(&[])
        })
    }

    pub(in crate::trainer) fn alarms(
        &self,
        validation: &Validation,
        untuned: &Metrics,
    ) -> Vec<String> {
        let mut alarms = Vec::new();
        let image = metric(&validation.metrics, "image_similarity");
        if let Some((oracle, image)) = self
            .oracle
            .zip(image)
            .filter(|(oracle, image)| image > oracle)
        {
            alarms.push(format!(
                "images are more like the photos ({image:.3}) than the photos are like each other ({oracle:.3}): \
                 the model may be copying them"
            ));
        }
        if let Some(kept) =
            metric(&validation.metrics, "class_kept").filter(|&kept| kept < LEAST_KEPT)
        {
            alarms.push(format!(
                "the class word draws the subject (of the way from the untuned model's images to the photos, {:.0} % are gone without \
                 the token): prior preservation, `objective.dop_weight` or `negatives.token = false` hold the class",
                100.0 * (1.0 - kept)
            ));
        }
        let cosines = metric(untuned, "cross_prompt_cosine")
            .zip(metric(&validation.metrics, "cross_prompt_cosine"));
        if let Some((before, now)) =
            cosines.filter(|(before, now)| *now > before + COLLAPSE_SHARE * (1.0 - before))
        {
            alarms.push(format!(
                "images of different prompts have become alike (cosine {now:.3}, {before:.3} before training): \
                 the model may be forgetting its prompts"
            ));
        }
        alarms
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

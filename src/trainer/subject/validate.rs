//! Validation: held-out prompts, always from the same noise (common random numbers), scored by the reward encoder.

use tch::{Device, Kind, Tensor};

use crate::config::SubjectConfig;
use crate::data::prompts::strip_token;
use crate::error::Result;
use crate::models::diffusion::pipeline::{Pipeline, SampleSettings};
use crate::models::encoders::DualEncoder;
use crate::rewards::harmonic::{LAMBDAS, image_similarity, lambda_harmonic, text_similarity, unit};
use crate::rewards::oracle::real_to_real;
use crate::trainer::event::{Metrics, Observer, Validation, metric};
use crate::trainer::preview::Preview;

/// Cosine between images of different prompts that, beyond the untuned model's, counts as a loss of diversity: the
/// share of the way from the untuned model's value to 1.
const COLLAPSE_SHARE: f64 = 0.75;

/// Samples and scores the held-out prompts.
pub(super) struct Judge {
    pub(super) encoder: DualEncoder,
    pub(super) oracle: Option<f64>,
    photo_features: Tensor,
    preview: Preview,
    /// Text features of the prompts without the token, one row an image.
    texts: Tensor,
    lambda: f64,
}

impl Judge {
    pub(super) fn new(
        pipeline: &Pipeline,
        encoder: DualEncoder,
        photo_features: Tensor,
        prompts: Vec<String>,
        token: &str,
        config: &SubjectConfig,
        settings: SampleSettings,
    ) -> Result<Self> {
        let count = config.validation.images_per_prompt;
        let preview = Preview::new(pipeline, prompts, count, config.run.seed, settings)?;
        let stripped: Vec<String> = preview
            .prompts
            .iter()
            .map(|prompt| strip_token(prompt, token))
            .collect();
        let rows: Vec<i64> = preview.requests.iter().map(|request| request.row).collect();
        let texts = encoder.encode_texts(&stripped)?;
        let texts = texts.index_select(0, &Tensor::from_slice(&rows).to_device(texts.device()));
        let oracle = real_to_real(&photo_features).map(unit);
        Ok(Self {
            encoder,
            oracle,
            photo_features,
            preview,
            texts,
            lambda: config.validation.lambda,
        })
    }

    pub(super) fn validate(
        &self,
        pipeline: &Pipeline,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Validation> {
        let samples = self.preview.sample(pipeline, step, observer)?;
        let images: Vec<_> = samples.iter().map(|sample| sample.image.clone()).collect();
        let features = self.encoder.encode_images(&images)?;
        let image = image_similarity(&features, &self.photo_features);
        let text = text_similarity(&features, &self.texts);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let reward_at = |lambda: f64| {
            let pairs = image.iter().zip(&text);
            let rewards = pairs.map(|(&image, &text)| lambda_harmonic(image, text, lambda));
            mean(&rewards.collect::<Vec<f64>>())
        };
        let reward = reward_at(self.lambda);
        let likeness = self.likeness(&features);
        let mut metrics = vec![
            ("reward".to_owned(), reward),
            ("image_similarity".to_owned(), mean(&image)),
            ("text_similarity".to_owned(), mean(&text)),
        ];
        metrics.extend(likeness.map(|value| ("cross_prompt_cosine".to_owned(), value)));
        // Which step another lambda would have kept can be read off the run afterwards.
        metrics.extend(LAMBDAS.map(|lambda| (format!("reward_{lambda}"), reward_at(lambda))));
        Ok(Validation {
            reward,
            metrics,
            samples,
            answers: Vec::new(),
        })
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

    pub(super) fn alarms(&self, validation: &Validation, untuned: &Metrics) -> Vec<String> {
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

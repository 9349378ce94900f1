//! Rewards of a subject's photos and of generated images, from which preference labels are made. `train` and `label` take
//! the same rule from here.

use tch::Tensor;

use super::comparable::{Baseline, Choice, Property, comparable};
use super::harmonic::{image_similarity, lambda_harmonic, text_similarity, unit};
use super::oracle::leave_one_out;
use super::transform::Reference;
use crate::error::{Error, Result};

/// Features by an encoder of images and texts, rows of length 1.
pub struct Features<'a> {
    /// Of the photos, `[r, d]`; of images that have no subject, `[0, d]`.
    pub photos: &'a Tensor,
    /// Of the generated images, `[n, d]`.
    pub images: &'a Tensor,
    /// Of the different prompts, `[t, d]`.
    pub texts: &'a Tensor,
    /// `[n]`: the prompt of each generated image.
    pub prompt_of: &'a [usize],
}

/// How likeness and alignment become one reward.
#[derive(Clone, Copy, Debug)]
pub struct Weighing {
    /// Share of likeness to the photos, 0 to 1.
    pub lambda: f64,
    /// Difference of rewards that counts as a clear preference, above 0.
    pub tau: f64,
    /// The transform of rewards before they are compared.
    pub transform: Option<(Choice, Reference)>,
}

impl Weighing {
    /// Refuses to weigh likeness to photos where it is not defined: to none, and of a single one to the others.
    ///
    /// # Errors
    /// There are fewer than two photos, and their likeness counts; or the reference value is made of photos, and there is
    /// none.
    pub fn check_photos(&self, count: usize) -> Result<()> {
        let together = matches!(self.transform, Some((Choice::And, _)));
        if count == 0 && matches!(self.transform, Some((_, Reference::Canonical))) {
            return Err(Error::config(
                "the reference `canonical` is the mean reward of photos, and there are none",
            )
            .with_hint("add photos, or use the reference `mean` or `quantile:0.85`"));
        }
        if count > 1 || self.lambda <= 0.0 && !together {
            return Ok(());
        }
        let (what, otherwise) = if together {
            (
                "transform `and`".to_owned(),
                "use the transform `log-sigmoid`",
            )
        } else {
            let what = format!("lambda {}", self.lambda);
            (what, "let the texts alone decide by lambda 0")
        };
        if count == 0 {
            return Err(Error::config(format!(
                "{what} counts likeness to photos, and there are none"
            ))
            .with_hint(format!("add photos, or {otherwise}")));
        }
        Err(Error::config(format!(
            "{what} compares the photos with each other, and there is only one"
        ))
        .with_hint(format!("add a photo, or {otherwise}")))
    }
}

/// Rewards of the photos under each prompt and of each image under its own.
pub struct PhotoRewards {
    /// The lambda-harmonic rewards.
    pub plain: Property,
    /// The same transformed, which has divided them by tau.
    pub transformed: Option<Property>,
}

impl PhotoRewards {
    /// Without photos the rewards are the images' alignment alone. A photo's own likeness is its mean cosine with the other photos: with itself among the references it would count a
    /// cosine of 1.
    ///
    /// # Errors
    /// As [`Weighing::check_photos`] and [`comparable`].
    pub fn new(features: &Features, weighing: &Weighing) -> Result<Self> {
        let Features {
            photos,
            images,
            texts,
            prompt_of,
        } = *features;
        let count = texts.size()[0];
        let photo_count = photos.size()[0] as usize;
        weighing.check_photos(photo_count)?;
        // Of a single photo, and of none, it counts for nothing, as was checked.
        let own = leave_one_out(photos).unwrap_or_else(|| vec![1.0; photo_count]);
        let own: Vec<f64> = own.into_iter().map(unit).collect();
        let rows: Vec<i64> = prompt_of.iter().map(|&row| row as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(texts.device());
        let own_texts = texts.index_select(0, &rows); // [n, d]
        let of_photos = (0..count).map(|text| text_similarity(photos, &texts.narrow(0, text, 1)));
        let likeness = Property {
            given: vec![own; count as usize],
            samples: if photo_count == 0 {
                vec![1.0; prompt_of.len()]
            } else {
                image_similarity(images, photos)
            },
        };
        let alignment = Property {
            given: of_photos.collect(),
            samples: text_similarity(images, &own_texts),
        };
        let both = |likeness: &[f64], alignment: &[f64]| -> Vec<f64> {
            let pairs = likeness.iter().zip(alignment);
            pairs
                .map(|(&image, &text)| lambda_harmonic(image, text, weighing.lambda))
                .collect()
        };
        let given = likeness.given.iter().zip(&alignment.given);
        let plain = Property {
            given: given.map(|(images, texts)| both(images, texts)).collect(),
            samples: both(&likeness.samples, &alignment.samples),
        };
        let transformed = weighing.transform.map(|(choice, reference)| {
            let properties = match choice {
                Choice::One(_) => vec![&plain],
                Choice::And => vec![&likeness, &alignment],
            };
            let samples = Baseline::Samples;
            comparable(
                choice,
                reference,
                samples,
                &properties,
                prompt_of,
                weighing.tau,
            )
        });
        Ok(Self {
            transformed: transformed.transpose()?,
            plain,
        })
    }

    /// Of images without photos whose rewards are known, `samples`; `prompt_of` is the prompt of each, one of `prompts`.
    ///
    /// # Errors
    /// As [`Weighing::check_photos`] and [`comparable`].
    pub fn known(
        samples: Vec<f64>,
        (prompt_of, prompts): (&[usize], usize),
        weighing: &Weighing,
    ) -> Result<Self> {
        weighing.check_photos(0)?;
        let plain = Property {
            given: vec![Vec::new(); prompts],
            samples,
        };
        let transformed = weighing.transform.map(|(choice, reference)| {
            let samples = Baseline::Samples;
            comparable(
                choice,
                reference,
                samples,
                &[&plain],
                prompt_of,
                weighing.tau,
            )
        });
        Ok(Self {
            transformed: transformed.transpose()?,
            plain,
        })
    }

    /// The values that are compared, and the difference that counts as a clear preference among them.
    pub fn compared(&self, weighing: &Weighing) -> (&Property, f64) {
        match &self.transformed {
            Some(transformed) => (transformed, 1.0),
            None => (&self.plain, weighing.tau),
        }
    }
}

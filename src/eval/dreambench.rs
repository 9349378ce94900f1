//! The protocol of DreamBench (Ruiz et al. 2023, arXiv 2208.12242) as RPO (arXiv 2407.12164) applies it: for each
//! prompt the mean over all pairs of a photo and an image, then the mean over prompts, then over subjects.
//!
//! DINO, CLIP-I and CLIP-T are raw cosines. CLIP-T is given twice: for the prompt without the subject's token, which
//! no encoder knows, and for the prompt as it was drawn, which is what published numbers are made of (the authors'
//! code means to remove the token, but its pattern never matches). Neither is clamped at 0 as torchmetrics does:
//! no working encoder comes near it.

use serde::Serialize;
use tch::Tensor;

use super::bootstrap::{self, Bootstrap};
use crate::rewards::harmonic::{LAMBDAS, image_cosine, lambda_harmonic, text_cosine, unit};
use crate::rewards::oracle::real_to_real;
use crate::rewards::specific::{class_kept, diversity, hypervolume};

/// The measured figures: of an image, a prompt, a subject or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Likeness to the photos by DINO, which tells apart two dogs of one breed; the encoder may be missing.
    pub dino: Option<f64>,
    /// Likeness to the photos by CLIP.
    pub clip_i: f64,
    /// Alignment with the prompt, the token removed, by CLIP.
    pub clip_t: f64,
    /// Alignment with the prompt as it was drawn, the token left in, by CLIP.
    pub clip_t_with_token: f64,
    /// The reward's image side, `(cosine + 1) / 2`, by the reward encoder.
    pub image_similarity: f64,
    /// The reward's text side, `(cosine + 1) / 2`, the token removed, by the reward encoder.
    pub text_similarity: f64,
    /// lambda-Harmonic reward at lambda 0.3: mean of the images' rewards.
    #[serde(rename = "harmonic_0.3")]
    pub harmonic_3: f64,
    /// At lambda 0.5.
    #[serde(rename = "harmonic_0.5")]
    pub harmonic_5: f64,
    /// At lambda 0.7.
    #[serde(rename = "harmonic_0.7")]
    pub harmonic_7: f64,
    /// Distance between images of one prompt, mean `1 - cosine` by CLIP; DreamBooth's DIV takes LPIPS. `None` of single images.
    pub div: Option<f64>,
    /// Likeness to the photos of images of the class word alone by DINO: DreamBooth's PRES. Lower is better.
    pub pres: Option<f64>,
    /// The same by CLIP.
    pub pres_clip: Option<f64>,
    /// The share of the class that is kept, by CLIP; see [`class_kept`].
    pub class_kept: Option<f64>,
    /// `clip_i * clip_t * class_kept`; see [`hypervolume`].
    pub hypervolume: Option<f64>,
}

type Read<'a> = &'a dyn Fn(&Figures) -> f64;

impl Figures {
    /// Figures of which each is `value` of the function that reads it; those that any of `all` lacks are left out.
    fn each(all: &[&Self], value: impl Fn(Read) -> f64) -> Self {
        let optional = |read: fn(&Self) -> Option<f64>| {
            let known = all.iter().all(|figures| read(figures).is_some());
            known.then(|| value(&|figures| read(figures).unwrap_or(f64::NAN)))
        };
        Self {
            dino: optional(|figures| figures.dino),
            div: optional(|figures| figures.div),
            pres: optional(|figures| figures.pres),
            pres_clip: optional(|figures| figures.pres_clip),
            class_kept: optional(|figures| figures.class_kept),
            hypervolume: optional(|figures| figures.hypervolume),
            clip_i: value(&|figures| figures.clip_i),
            clip_t: value(&|figures| figures.clip_t),
            clip_t_with_token: value(&|figures| figures.clip_t_with_token),
            image_similarity: value(&|figures| figures.image_similarity),
            text_similarity: value(&|figures| figures.text_similarity),
            harmonic_3: value(&|figures| figures.harmonic_3),
            harmonic_5: value(&|figures| figures.harmonic_5),
            harmonic_7: value(&|figures| figures.harmonic_7),
        }
    }

    /// Mean of at least one, figure by figure.
    fn mean(all: &[Self]) -> Self {
        let count = all.len() as f64;
        let known: Vec<&Self> = all.iter().collect();
        Self::each(&known, |read| all.iter().map(read).sum::<f64>() / count)
    }

    /// How much these are above `other`, figure by figure.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self::each(&[self, other], |read| read(self) - read(other))
    }
}

/// Features under an encoder of images alone; all rows have length 1.
pub struct ImageFeatures {
    /// The photos, `[r, d]`.
    pub references: Tensor,
    /// The images, prompt by prompt, `[p * n, d]`.
    pub images: Tensor,
}

/// Features under an encoder of images and texts; all rows have length 1.
pub struct DualFeatures {
    /// Photos and images.
    pub images: ImageFeatures,
    /// The prompts without the token, `[p, d]`.
    pub texts: Tensor,
}

/// Features of one subject under the encoders of the protocol.
pub struct Features<'a> {
    /// For CLIP-I and CLIP-T.
    pub clip: &'a DualFeatures,
    /// CLIP's features of the prompts as they were drawn, the token left in, `[p, d]`.
    pub clip_texts_with_token: &'a Tensor,
    /// For DINO.
    pub dino: Option<&'a ImageFeatures>,
    /// For the reward; may be the same as `clip`.
    pub reward: &'a DualFeatures,
    /// Images of the same prompts with the class word alone.
    pub class: Option<ClassImages<'a>>,
    /// Those of the untuned model, from the same noise.
    pub untuned: Option<ClassImages<'a>>,
}

/// Features of images of the class word alone.
#[derive(Clone, Copy)]
pub struct ClassImages<'a> {
    /// By CLIP.
    pub clip: &'a ImageFeatures,
    /// By DINO.
    pub dino: Option<&'a ImageFeatures>,
}

/// Figures of the images of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptScores {
    /// The prompt as it was drawn.
    pub prompt: String,
    /// Means over its images.
    pub figures: Figures,
}

/// Figures of one subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubjectScores {
    /// Means over the prompts.
    pub mean: Figures,
    /// The prompts.
    pub prompts: Vec<PromptScores>,
}

/// How alike the photos of a subject are among themselves: mean cosine over all pairs of different photos. `None`
/// of a single photo.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Oracle {
    /// By DINO.
    pub dino: Option<f64>,
    /// By CLIP.
    pub clip_i: Option<f64>,
    /// By the reward encoder, `(cosine + 1) / 2`.
    pub image_similarity: Option<f64>,
}

/// Scores the images of one subject: `features` of as many images for each of `prompts`, in their order.
///
/// # Panics
/// Where the features do not fit: no prompt, images that do not divide among the prompts, differing widths.
pub fn score(prompts: &[String], features: &Features) -> SubjectScores {
    let count = features.clip.images.images.size()[0] as usize;
    assert!(
        count > 0 && !prompts.is_empty() && count.is_multiple_of(prompts.len()),
        "{count} images do not divide among {} prompts",
        prompts.len()
    );
    let each = count / prompts.len();
    let images = image_figures(each, features);
    let groups = images.chunks(each);
    let prompts: Vec<PromptScores> = prompts
        .iter()
        .zip(groups)
        .map(|(prompt, images)| PromptScores {
            prompt: prompt.clone(),
            figures: Figures::mean(images),
        })
        .collect();
    let prompts = with_class(prompts, each, features);
    let means: Vec<Figures> = prompts.iter().map(|prompt| prompt.figures).collect();
    SubjectScores {
        mean: Figures::mean(&means),
        prompts,
    }
}

/// Adds the figures that are of a prompt's images together, and of the class word alone.
fn with_class(
    mut prompts: Vec<PromptScores>,
    each: usize,
    features: &Features,
) -> Vec<PromptScores> {
    let count = prompts.len();
    let likeness = |features: &ImageFeatures| {
        of_prompts(count, &image_cosine(&features.images, &features.references))
    };
    let div = (each > 1).then(|| diversity(&features.clip.images.images, each as i64));
    let pres = features.class.and_then(|class| class.dino.map(likeness));
    let pres_clip = features.class.map(|class| likeness(class.clip));
    let untuned = features.untuned.map(|untuned| likeness(untuned.clip));
    for (at, PromptScores { figures, .. }) in prompts.iter_mut().enumerate() {
        let of = |values: &Option<Vec<f64>>| values.as_ref().map(|values| values[at]);
        figures.div = of(&div);
        figures.pres = of(&pres);
        figures.pres_clip = of(&pres_clip);
        figures.class_kept = of(&pres_clip)
            .zip(of(&untuned))
            .map(|(now, untuned)| class_kept(now, untuned));
        figures.hypervolume = figures
            .class_kept
            .map(|kept| hypervolume(figures.clip_i, figures.clip_t, kept));
    }
    prompts
}

/// Figures of every image, with all photos; `each` images belong to a prompt.
fn image_figures(each: usize, features: &Features) -> Vec<Figures> {
    let Features {
        clip,
        clip_texts_with_token,
        dino,
        reward,
        ..
    } = features;
    let likeness = |features: &ImageFeatures| image_cosine(&features.images, &features.references);
    let alignment = |features: &DualFeatures, texts: &Tensor| {
        let texts = texts.repeat_interleave_self_int(each as i64, 0, None); // [p * n, d]
        text_cosine(&features.images.images, &texts)
    };
    let dino = dino.map(likeness);
    let clip_i = likeness(&clip.images);
    let clip_t = alignment(clip, &clip.texts);
    let clip_t_with_token = alignment(clip, clip_texts_with_token);
    let image_similarity = likeness(&reward.images);
    let text_similarity = alignment(reward, &reward.texts);
    (0..clip_i.len())
        .map(|index| {
            let (image, text) = (unit(image_similarity[index]), unit(text_similarity[index]));
            let [harmonic_3, harmonic_5, harmonic_7] =
                LAMBDAS.map(|lambda| lambda_harmonic(image, text, lambda));
            Figures {
                dino: dino.as_ref().map(|values| values[index]),
                clip_i: clip_i[index],
                clip_t: clip_t[index],
                clip_t_with_token: clip_t_with_token[index],
                image_similarity: image,
                text_similarity: text,
                harmonic_3,
                harmonic_5,
                harmonic_7,
                div: None,
                pres: None,
                pres_clip: None,
                class_kept: None,
                hypervolume: None,
            }
        })
        .collect()
}

/// The scores that the photos themselves would get.
pub fn oracle(features: &Features) -> Oracle {
    let among = |features: &ImageFeatures| real_to_real(&features.references);
    Oracle {
        dino: features.dino.and_then(among),
        clip_i: among(&features.clip.images),
        image_similarity: among(&features.reward.images).map(unit),
    }
}

impl Oracle {
    /// Means over the subjects that have more than one photo.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |read: &dyn Fn(&Self) -> Option<f64>| {
            let known: Vec<f64> = all.iter().filter_map(read).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        Self {
            dino: mean(&|oracle| oracle.dino),
            clip_i: mean(&|oracle| oracle.clip_i),
            image_similarity: mean(&|oracle| oracle.image_similarity),
        }
    }

    /// The likenesses by which images are closer to the photos than the photos are to each other: name, figure,
    /// oracle. Such a model draws its photos again instead of the subject.
    pub fn exceeded_by(&self, figures: &Figures) -> Vec<(&'static str, f64, f64)> {
        let pairs = [
            ("DINO", figures.dino, self.dino),
            ("CLIP-I", Some(figures.clip_i), self.clip_i),
        ];
        pairs
            .into_iter()
            .filter_map(|(name, figure, oracle)| Some((name, figure?, oracle?)))
            .filter(|(_, figure, oracle)| figure > oracle)
            .collect()
    }
}

/// Means over subjects, and how far they can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of subjects.
    pub subjects: usize,
    /// Means over subjects of the means over each subject's runs.
    pub mean: Figures,
    /// Interval of every mean; `None` of a single subject.
    pub interval: Option<Interval>,
}

/// Ends of intervals.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower ends.
    pub low: Figures,
    /// Upper ends.
    pub high: Figures,
}

/// Summarises figures: one entry for each subject, holding those of its runs (usually one).
///
/// All figures use the same resampled subjects.
///
/// # Panics
/// Without subjects, or with a subject without figures.
pub fn summarize(subjects: &[Vec<Figures>], bootstrap: &Bootstrap) -> Summary {
    let all: Vec<&Figures> = subjects.iter().flatten().collect();
    let clusters = |read: Read| -> Vec<Vec<f64>> {
        let runs = subjects.iter();
        runs.map(|runs| runs.iter().map(read).collect()).collect()
    };
    let end = |pick: fn((f64, f64)) -> f64| {
        Figures::each(&all, |read| {
            let interval = bootstrap.interval(&clusters(read));
            interval.map_or(f64::NAN, pick)
        })
    };
    Summary {
        subjects: subjects.len(),
        mean: Figures::each(&all, |read| bootstrap::mean(&clusters(read))),
        interval: (subjects.len() > 1).then(|| Interval {
            low: end(|ends| ends.0),
            high: end(|ends| ends.1),
        }),
    }
}

/// Means of the images of each prompt.
pub(super) fn of_prompts(prompts: usize, values: &[f64]) -> Vec<f64> {
    let each = values.len() / prompts;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / each as f64;
    values.chunks(each).map(mean).collect()
}

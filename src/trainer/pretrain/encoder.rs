//! An image-text encoder: scenes and their captions into one space, two scenes of one drawing close together.

use tch::{Device, Kind, Reduction, Tensor};

use super::{mean, scene_seed, trainable};
use crate::config::PretrainConfig;
use crate::data::world::{Scene, Split, Variation, World};
use crate::error::Result;
use crate::losses::contrastive::{image_text, supervised};
use crate::models::encoders::DualEncoder;
use crate::ops::random::{derive_seed, permutation, uniform};
use crate::rewards::zero_shot::ZeroShot;
use crate::trainer::event::{Metrics, Observer, Validation};
use crate::trainer::{Scalar, Task};

/// Temperature of the loss between images and captions. CLIP begins with it and learns it; here it stays. A learnt one
/// rises while nothing is known yet, which flattens the loss, and at a small model's learning rate it rises so fast
/// that nothing is learnt any more.
const TEXT_TEMPERATURE: f64 = 0.07;

/// Temperature of the loss between drawings.
const DRAWING_TEMPERATURE: f64 = 0.1;

/// Classes in a hard batch.
const HARD_CLASSES: usize = 4;

/// The share of a subject's scenes from which on its class counts as known.
const KNOWN: f64 = 0.7;

/// Training of an image-text encoder.
pub struct EncoderTask {
    encoder: DualEncoder,
    world: World,
    config: PretrainConfig,
    device: Device,
    kind: Kind,
    drawings: Vec<usize>,
    /// `a dog` for each class: what the classes are told apart by.
    class_captions: Vec<String>,
    scenes_seen: u64,
}

impl EncoderTask {
    /// A new encoder of the template's architecture, in f32; images pass through its tower as `kind`.
    ///
    /// # Errors
    /// The template's files are missing or describe another kind of model.
    pub fn new(world: World, config: &PretrainConfig, device: Device, kind: Kind) -> Result<Self> {
        Ok(Self {
            encoder: DualEncoder::fresh(&config.part.template, config.run.seed, device)?,
            drawings: world.sprites_of(Split::Train),
            class_captions: (0..world.classes().len())
                .map(|class| world.caption(class, None, None))
                .collect(),
            world,
            config: config.clone(),
            device,
            kind,
            scenes_seen: 0,
        })
    }

    /// The trained tensors, by name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        trainable("encoder.", &self.encoder.parameters())
    }

    /// The drawings of a batch, each of which gets two scenes: from all, or from a few classes alone, which teaches
    /// to tell the drawings of a class apart.
    fn choose(&self, step: u64) -> Vec<usize> {
        let seed = self.config.run.seed;
        let count = (self.config.train.batch / 2).max(1);
        let hard = uniform(derive_seed(seed, "hard", &[step])) < self.config.objective.hard_batches;
        let mut pool = self.drawings.clone();
        if hard {
            let order = permutation(
                derive_seed(seed, "classes", &[step]),
                self.world.classes().len(),
            );
            let classes = &order[..HARD_CLASSES.min(order.len())];
            pool.retain(|&sprite| classes.contains(&self.world.sprites()[sprite].class));
        }
        let order = permutation(derive_seed(seed, "drawings", &[step]), pool.len());
        order.into_iter().take(count).map(|at| pool[at]).collect()
    }

    fn features(&self, scenes: &[Scene]) -> Result<Tensor> {
        let images: Vec<_> = scenes.iter().map(|scene| scene.image.clone()).collect();
        self.encoder.encode_images(&images)
    }

    /// Scenes of given drawings, `count` of each.
    fn scenes_of(&self, sprites: &[usize], count: u64, purpose: &str) -> Vec<Scene> {
        let seed = scene_seed(self.config.run.seed, purpose);
        (0..sprites.len() as u64 * count)
            .map(|index| {
                let sprite = sprites[(index / count) as usize];
                self.world.scene_of(sprite, Variation::Scene, seed, index)
            })
            .collect()
    }
}

impl Task for EncoderTask {
    fn accumulate(&mut self, step: u64, _micro: u64) -> Result<Vec<Scalar>> {
        let drawings = self.choose(step);
        let seed = scene_seed(self.config.run.seed, "train");
        let mut images = Vec::with_capacity(2 * drawings.len());
        // Without names: a reward never sees a token either.
        let mut captions = Vec::with_capacity(2 * drawings.len() + self.class_captions.len());
        let mut classes = Vec::with_capacity(2 * drawings.len());
        let dye = |sprite: usize| derive_seed(seed, "dye", &[step, sprite as u64]);
        // No two scenes have one index: they would have one background and one colour too.
        let mut index = step * self.config.train.batch as u64;
        for _view in 0..2 {
            for &sprite in &drawings {
                let scene = if uniform(dye(sprite)) < self.config.objective.dyed {
                    let dye = dye(sprite) as u64;
                    self.world.dyed_scene_of(sprite, dye, seed, index)
                } else {
                    self.world.scene_of(sprite, Variation::Encoder, seed, index)
                };
                index += 1;
                images.push(scene.image);
                classes.push(scene.class as i64);
                captions.push(scene.plain_caption);
            }
        }
        self.scenes_seen += images.len() as u64;
        let pixels = self.encoder.pixels(&images)?.to_device(self.device); // [2n, 3, h, w]
        let pixels = pixels.to_kind(self.kind);
        let features = self.encoder.image_features(&pixels).to_kind(Kind::Float); // [2n, d]
        let same: Vec<bool> = captions
            .iter()
            .flat_map(|one| captions.iter().map(move |other| one == other))
            .collect();
        let count = captions.len() as i64;
        let same = Tensor::from_slice(&same)
            .view([count, count])
            .to_device(self.device);
        captions.extend_from_slice(&self.class_captions);
        let texts = self.encoder.text_features(&captions)?; // [2n + classes, d]
        let logits = features.matmul(&texts.tr()) / TEXT_TEMPERATURE;
        let of_texts = image_text(&logits.narrow(1, 0, count), &same);
        let classes = Tensor::from_slice(&classes).to_device(self.device);
        let of_classes = logits
            .slice(1, count, None, 1)
            .cross_entropy_loss::<Tensor>(&classes, None, Reduction::Mean, -100, 0.0);

        let identities: Vec<i64> = drawings.iter().map(|&sprite| sprite as i64).collect();
        let identities = Tensor::from_slice(&identities)
            .repeat([2])
            .to_device(self.device); // [2n]
        let of_drawings = supervised(&features, &identities, DRAWING_TEMPERATURE);
        let objective = &self.config.objective;
        let loss = (&of_texts + &of_drawings * objective.drawing_weight).mean(Kind::Float)
            + &of_classes * objective.class_weight;
        loss.backward();
        Ok(Scalar::all(
            1.0,
            vec![
                ("loss", loss.detach()),
                ("text_loss", mean(&of_texts)),
                ("drawing_loss", mean(&of_drawings)),
                ("class_loss", of_classes.detach()),
            ],
        ))
    }

    /// Recognition of held-out drawings, and whether features tell drawings of one class apart.
    fn validate(&mut self, _step: u64, _observer: &mut dyn Observer) -> Result<Validation> {
        let subjects = self.world.subjects();
        let count = (self.config.world.validation_scenes / subjects.len().max(1) as u64).max(2);
        let own: Vec<usize> = subjects.iter().map(|subject| subject.sprite).collect();
        // Another drawing of each subject's class, which was trained on.
        let others: Vec<usize> = subjects
            .iter()
            .filter_map(|subject| {
                let same = |&&sprite: &&usize| self.world.sprites()[sprite].class == subject.class;
                self.drawings.iter().find(same).copied()
            })
            .collect();
        let scenes = self.scenes_of(&own, count, "validation");
        let features = self.features(&scenes)?; // [subjects * count, d]
        let of_others = self.features(&self.scenes_of(&others, count, "others"))?;
        let recognised = ZeroShot::new(&self.world, &self.encoder)?.recognise(&features, &scenes);

        let share = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let by_subject: Vec<f64> = recognised.class.chunks(count as usize).map(share).collect();
        let known = by_subject
            .iter()
            .filter(|&&accuracy| accuracy >= KNOWN)
            .count();
        let (class, caption) = (share(&recognised.class), share(&recognised.caption));
        let reward = f64::midpoint(class, caption);
        let figures = [
            ("reward", reward),
            ("class_accuracy", class),
            ("subjects_known", known as f64),
            ("background_accuracy", share(&recognised.background)),
            ("caption_retrieval", caption),
        ];
        let mut metrics: Metrics = figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        metrics.extend(likeness(&features, &of_others, subjects.len() as i64));
        for (subject, accuracy) in subjects.iter().zip(by_subject) {
            metrics.push((format!("class_accuracy.{}", subject.name), accuracy));
        }
        Ok(Validation {
            reward,
            rewards: Vec::new(),
            metrics,
            samples: Vec::new(),
            answers: Vec::new(),
        })
    }

    fn alarms(&self, _validation: &Validation, _untuned: &Metrics) -> Vec<String> {
        Vec::new()
    }

    fn counts(&self) -> Vec<(String, u64)> {
        vec![("scenes".to_owned(), self.scenes_seen)]
    }
}

/// Mean cosines between scenes of one drawing, of two drawings of a class, of two classes. Both arguments hold as
/// many rows for each of `subjects`, one subject after the other.
fn likeness(own: &Tensor, others: &Tensor, subjects: i64) -> Metrics {
    let count = own.size()[0] / subjects;
    let blocks = |left: &Tensor, right: &Tensor| {
        // [subjects, subjects]: means of cosines by pair of subjects
        left.matmul(&right.tr())
            .view([subjects, count, subjects, count])
            .mean_dim([1, 3].as_slice(), false, Kind::Double)
    };
    let within = blocks(own, own);
    let (trace, all) = (within.trace(), within.sum(Kind::Double));
    let n = subjects as f64;
    // A scene's cosine with itself is no likeness.
    let same = (trace.double_value(&[]) / n * count as f64 - 1.0) / (count as f64 - 1.0);
    let style = blocks(own, others).trace().double_value(&[]) / n;
    let apart = (all - trace).double_value(&[]) / (n * (n - 1.0));
    vec![
        ("cosine_same_drawing".to_owned(), same),
        ("cosine_other_style".to_owned(), style),
        ("cosine_other_class".to_owned(), apart),
    ]
}

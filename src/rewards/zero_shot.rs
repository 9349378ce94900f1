//! Recognition of scenes of the emoji world by an image-text encoder: every caption that a scene could have is a
//! candidate (zero-shot classification; Radford et al. 2021, arXiv 2103.00020, section 3.1).

use tch::Tensor;

use crate::data::world::{Scene, World};
use crate::error::Result;
use crate::models::encoders::DualEncoder;

/// Features of all captions.
pub struct ZeroShot {
    /// `[classes, backgrounds, colours + 1, d]`; the last colour is none.
    texts: Tensor,
}

/// The recognised parts of each scene: 1 where a part was recognised, else 0.
#[derive(Default)]
pub struct Recognised {
    /// The class, with background and colour given.
    pub class: Vec<f64>,
    /// The background, with class and colour given.
    pub background: Vec<f64>,
    /// The whole caption among all captions.
    pub caption: Vec<f64>,
}

impl ZeroShot {
    /// Encodes all captions of the world.
    ///
    /// # Errors
    /// The tokenizer is not the encoder's.
    pub fn new(world: &World, encoder: &DualEncoder) -> Result<Self> {
        let (classes, backgrounds) = (world.classes().len(), world.backgrounds().len());
        let colours = world.colours().len() + 1;
        let mut captions = Vec::with_capacity(classes * backgrounds * colours);
        for class in 0..classes {
            for background in 0..backgrounds {
                for colour in 0..colours {
                    let colour = (colour + 1 < colours).then_some(colour);
                    captions.push(world.caption(class, Some(background), colour));
                }
            }
        }
        let shape = [classes, backgrounds, colours].map(|size| size as i64);
        let texts = encoder.encode_texts(&captions)?;
        Ok(Self {
            texts: texts.view([shape[0], shape[1], shape[2], -1]),
        })
    }

    /// `features` `[n, d]` of the images of `scenes`.
    pub fn recognise(&self, features: &Tensor, scenes: &[Scene]) -> Recognised {
        let size = self.texts.size();
        let none = size[2] - 1;
        let mut recognised = Recognised::default();
        let cosines = features.matmul(&self.texts.view([-1, size[3]]).tr()); // [n, captions]
        let cosines = cosines.view([-1, size[0], size[1], size[2]]);
        for (row, scene) in scenes.iter().enumerate() {
            let own = [
                scene.class as i64,
                scene.background as i64,
                scene.colour.map_or(none, |colour| colour as i64),
            ];
            let cosines = cosines.select(0, row as i64); // [classes, backgrounds, colours + 1]
            let of_colour = cosines.select(2, own[2]); // [classes, backgrounds]
            let best = |values: Tensor| values.argmax(None::<i64>, false).int64_value(&[]);
            let right = |guess: i64, truth: i64| f64::from(u8::from(guess == truth));
            recognised
                .class
                .push(right(best(of_colour.select(1, own[1])), own[0]));
            recognised
                .background
                .push(right(best(of_colour.select(0, own[0])), own[1]));
            let flat = (own[0] * size[1] + own[1]) * size[2] + own[2];
            recognised.caption.push(right(best(cosines), flat));
        }
        recognised
    }
}

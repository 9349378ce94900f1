//! What an image-text encoder takes scenes for: every caption that a scene could have is a candidate.

use tch::{Kind, Tensor};

use crate::data::world::{Scene, World};
use crate::error::Result;
use crate::models::encoders::DualEncoder;

/// Features of all captions.
pub(super) struct ZeroShot {
    /// `[classes, backgrounds, colours + 1, d]`; the last colour is none.
    texts: Tensor,
}

/// Shares of scenes that were recognised.
pub(super) struct Recognised {
    /// The class, with background and colour given; 0 or 1 by scene, f64 `[n]`.
    pub(super) class: Tensor,
    /// The background, with class and colour given.
    pub(super) background: Tensor,
    /// The whole caption among all captions.
    pub(super) caption: Tensor,
}

impl ZeroShot {
    pub(super) fn new(world: &World, encoder: &DualEncoder) -> Result<Self> {
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
    pub(super) fn recognise(&self, features: &Tensor, scenes: &[Scene]) -> Recognised {
        let size = self.texts.size();
        let none = size[2] - 1;
        let (mut class, mut background, mut caption) = (Vec::new(), Vec::new(), Vec::new());
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
            class.push(right(best(of_colour.select(1, own[1])), own[0]));
            background.push(right(best(of_colour.select(0, own[0])), own[1]));
            let flat = (own[0] * size[1] + own[1]) * size[2] + own[2];
            caption.push(right(best(cosines), flat));
        }
        Recognised {
            class: Tensor::from_slice(&class),
            background: Tensor::from_slice(&background),
            caption: Tensor::from_slice(&caption),
        }
    }
}

/// Mean of f64 values.
pub(super) fn share(values: &Tensor) -> f64 {
    values.mean(Kind::Double).double_value(&[])
}

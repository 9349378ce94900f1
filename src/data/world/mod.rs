//! The emoji world: 64 x 64 scenes of one sprite on one background with a caption, made on the fly. Small enough
//! for a text-to-image model to be trained on it in minutes, with subjects that such a model has never seen.
//!
//! A scene is a function of (seed, index) alone, whatever the thread or the machine.

mod background;
mod canvas;
mod caption;
mod compose;
mod sprite;

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use image::RgbImage;
use rayon::prelude::*;

use crate::error::Result;
use crate::ops::random::{Stream, derive_seed};

pub use background::Background;
pub use caption::TOKENS;
use caption::Wording;
use compose::{COLOURS, Look};
pub use sprite::{Sprite, Subject};

/// Pictures that are drawn of each background; scenes show a part of one, or its mirror image.
const DRAWN: usize = 96;
/// The seed of those pictures: they are the same in all worlds.
const DRAWN_SEED: u64 = 0;

/// Which sprites may appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// All but the held-out ones.
    Train,
    /// The held-out ones alone.
    HeldOut,
}

/// How much scenes of one sprite differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variation {
    /// The variation that a generator learns to draw.
    Scene,
    /// The variation that an encoder must see through: more of everything, and hue and aspect besides.
    Encoder,
}

impl Variation {
    fn look(self) -> &'static Look {
        match self {
            Self::Scene => &compose::SCENE,
            Self::Encoder => &compose::ENCODER,
        }
    }
}

/// An image and all there is to know of it.
pub struct Scene {
    /// 64 x 64 pixels.
    pub image: RgbImage,
    /// The caption; one of a drawing that has a name holds it half of the time.
    pub caption: String,
    /// The caption without the name.
    pub plain_caption: String,
    /// Which sprite it shows.
    pub sprite: usize,
    /// Which class that is.
    pub class: usize,
    /// Which background it has.
    pub background: usize,
    /// The colour that the sprite was given, if any; the caption then names it.
    pub colour: Option<usize>,
    /// `true` if the caption names the background.
    pub names_background: bool,
}

/// Sprites, backgrounds, colours and words.
pub struct World {
    classes: Vec<String>,
    sprites: Vec<Sprite>,
    subjects: Vec<Subject>,
    /// The training sprites of each class, and the held-out ones of each class that has some.
    by_class: [Vec<Vec<usize>>; 2],
    /// [`DRAWN`] pictures for each background, drawn when they are first needed.
    pictures: Vec<OnceLock<Vec<[u8; 3]>>>,
}

impl World {
    /// Reads a folder of sprites, `assets/sprites` in the repository.
    ///
    /// # Errors
    /// A missing, damaged or contradictory `index.json`, or a sprite that is missing, damaged or of another size.
    pub fn open(folder: &Path) -> Result<Self> {
        let collection = sprite::open(folder)?;
        let mut pictures = Vec::new();
        pictures.resize_with(background::ALL.len() * DRAWN, OnceLock::new);
        let by_class = [false, true].map(|held_out| {
            let sprites_of = |class| {
                let sprites = collection.sprites.iter().enumerate();
                sprites
                    .filter(|(_, sprite)| sprite.class == class && sprite.held_out == held_out)
                    .map(|(at, _)| at)
                    .collect::<Vec<usize>>()
            };
            let classes = (0..collection.classes.len()).map(sprites_of);
            classes.filter(|sprites| !sprites.is_empty()).collect()
        });
        Ok(Self {
            by_class,
            classes: collection.classes,
            sprites: collection.sprites,
            subjects: collection.subjects,
            pictures,
        })
    }

    /// The words for what sprites show.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The places where sprites stand.
    pub fn backgrounds(&self) -> &'static [Background] {
        &background::ALL
    }

    /// The colours that sprites are given.
    pub fn colours(&self) -> [&'static str; 5] {
        COLOURS.map(|(name, _)| name)
    }

    /// All drawings, held-out ones included.
    pub fn sprites(&self) -> &[Sprite] {
        &self.sprites
    }

    /// The held-out things that models are tuned to.
    pub fn subjects(&self) -> &[Subject] {
        &self.subjects
    }

    /// Every word of every caption and prompt, sorted. Captions are split at spaces.
    pub fn words(&self) -> Vec<String> {
        caption::words(&self.classes, &self.names())
    }

    /// The words that name one drawing each.
    pub fn names(&self) -> Vec<&str> {
        let names = self.sprites.iter().map(|sprite| sprite.called.as_deref());
        names.flatten().collect()
    }

    /// The sprites that may appear.
    pub fn sprites_of(&self, split: Split) -> Vec<usize> {
        self.by_class[usize::from(split == Split::HeldOut)].concat()
    }

    /// Scene number `index` of a seed. All classes of the split are equally likely, then all their sprites.
    pub fn scene(&self, split: Split, variation: Variation, seed: u64, index: u64) -> Scene {
        let mut stream = Stream::new(derive_seed(seed, "world sprite", &[index]));
        let sprite = self.pick(split, &mut stream);
        self.scene_of(sprite, variation, seed, index)
    }

    /// Scene number `index` of a seed with this sprite on it.
    pub fn scene_of(&self, sprite: usize, variation: Variation, seed: u64, index: u64) -> Scene {
        self.described(sprite, seed, index, |background, colour| {
            self.compose(sprite, background, colour, variation, seed, index)
        })
    }

    /// As [`World::scene_of`] with [`Variation::Encoder`], of the sprite in other colours: equal dyes are equal
    /// colours, so that a dyed sprite is as good as one more drawing. A colour that the caption names comes on top.
    pub fn dyed_scene_of(&self, sprite: usize, dye: u64, seed: u64, index: u64) -> Scene {
        let own = &self.sprites[sprite].pixels;
        let dyed = compose::dye(own, &mut Stream::new(derive_seed(dye, "world dye", &[])));
        self.described(sprite, seed, index, |background, colour| {
            let mut stream = Stream::new(derive_seed(seed, "world image", &[index]));
            let look = Variation::Encoder.look();
            self.draw(&dyed, background, colour, look, &mut stream)
        })
    }

    /// Scene number `index` of a seed with its caption and the image that `make` makes of background and colour.
    fn described(
        &self,
        sprite: usize,
        seed: u64,
        index: u64,
        make: impl FnOnce(usize, Option<usize>) -> RgbImage,
    ) -> Scene {
        let mut stream = Stream::new(derive_seed(seed, "world caption", &[index]));
        let background = stream.integer(background::ALL.len());
        let colour = stream.integer(COLOURS.len());
        let colour = stream.chance(0.2).then_some(colour);
        let names_background = stream.chance(0.88);
        let Sprite {
            class, ref called, ..
        } = self.sprites[sprite];
        let photo = stream.chance(0.3);
        let called = called.as_deref().filter(|_| stream.chance(0.5));
        let caption = |name| {
            let wording = Wording {
                photo,
                name,
                colour,
                background: names_background.then_some(background),
            };
            caption::caption(&self.classes[class], &wording)
        };
        Scene {
            image: make(background, colour),
            caption: caption(called),
            plain_caption: caption(None),
            sprite,
            class,
            background,
            colour,
            names_background,
        }
    }

    /// The scenes of a range of numbers, made on all threads.
    pub fn scenes(
        &self,
        split: Split,
        variation: Variation,
        seed: u64,
        range: Range<u64>,
    ) -> Vec<Scene> {
        range
            .into_par_iter()
            .map(|index| self.scene(split, variation, seed, index))
            .collect()
    }

    /// The image of a scene whose content is given; (seed, index) decide where the sprite lies, how large it is,
    /// and so on.
    pub fn compose(
        &self,
        sprite: usize,
        background: usize,
        colour: Option<usize>,
        variation: Variation,
        seed: u64,
        index: u64,
    ) -> RgbImage {
        let mut stream = Stream::new(derive_seed(seed, "world image", &[index]));
        let sprite = &self.sprites[sprite].pixels;
        self.draw(sprite, background, colour, variation.look(), &mut stream)
    }

    /// The plain caption of a class: `a red car in the snow`.
    pub fn caption(
        &self,
        class: usize,
        background: Option<usize>,
        colour: Option<usize>,
    ) -> String {
        let wording = Wording {
            photo: false,
            name: None,
            colour,
            background,
        };
        caption::caption(&self.classes[class], &wording)
    }

    /// The caption of a drawing by its name: `a besk car in the snow`; `None` of one without a name.
    pub fn named_caption(&self, sprite: usize, background: usize) -> Option<String> {
        let Sprite { class, called, .. } = &self.sprites[sprite];
        let wording = Wording {
            photo: false,
            name: Some(called.as_deref()?),
            colour: None,
            background: Some(background),
        };
        Some(caption::caption(&self.classes[*class], &wording))
    }

    /// Photos of a subject: large, upright, in its own colours, on five backgrounds in turn of which no test prompt
    /// speaks.
    pub fn references(&self, subject: &Subject, count: usize) -> Vec<RgbImage> {
        let own = &self.sprites[subject.sprite].pixels;
        let places: Vec<usize> = caption::PHOTO_BACKGROUNDS
            .iter()
            .filter_map(|name| background::ALL.iter().position(|place| place.name == *name))
            .collect();
        let photo = |index: usize| {
            let counters = [subject.sprite as u64, index as u64];
            let mut stream = Stream::new(derive_seed(DRAWN_SEED, "world photo", &counters));
            let place = places[index % places.len()];
            self.draw(own, place, None, &compose::PHOTO, &mut stream)
        };
        (0..count).map(photo).collect()
    }

    /// Prompt templates from which negatives are made, with `{token}` and `{class}`.
    pub fn training_prompts(&self) -> &'static [&'static str] {
        &caption::TRAINING_PROMPTS
    }

    /// Prompt templates by which training stops; none is a training prompt.
    pub fn validation_prompts(&self) -> &'static [&'static str] {
        &caption::VALIDATION_PROMPTS
    }

    /// Prompt templates by which a tuned model is judged. Their backgrounds and colours are in none of the other
    /// prompts and in no photo.
    pub fn test_prompts(&self) -> &'static [&'static str] {
        &caption::TEST_PROMPTS
    }

    fn pick(&self, split: Split, stream: &mut Stream) -> usize {
        let classes = &self.by_class[usize::from(split == Split::HeldOut)];
        let drawings = &classes[stream.integer(classes.len())];
        drawings[stream.integer(drawings.len())]
    }

    fn draw(
        &self,
        sprite: &sprite::Pixels,
        background: usize,
        colour: Option<usize>,
        look: &Look,
        stream: &mut Stream,
    ) -> RgbImage {
        let variant = stream.integer(DRAWN);
        let picture = self.pictures[background * DRAWN + variant].get_or_init(|| {
            let counters = [background as u64, variant as u64];
            background::ALL[background].draw(derive_seed(DRAWN_SEED, "world background", &counters))
        });
        match colour {
            Some(colour) => {
                compose::compose(&compose::recolour(sprite, colour), picture, look, stream)
            }
            None => compose::compose(sprite, picture, look, stream),
        }
    }
}

//! A sprite laid over a background: turned, scaled, flipped, shadowed, recoloured. Like `canvas`, only operations
//! that are rounded the same way on every machine.

use std::ops::Range;

use image::RgbImage;

use super::canvas::SIDE as CANVAS;
use super::sprite::{MARGIN, Pixels, SHADOW, TILE};
use crate::ops::random::Stream;

/// Pixels across and down of a scene.
pub(super) const SIDE: usize = 64;
/// Pixels of the longest side of a sprite inside its tile.
const SPRITE: f32 = 60.0;
/// How dark the middle of a shadow is.
const SHADE: f32 = 0.38;
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Colours by name, and what the middle tone of a recoloured sprite becomes.
pub(super) const COLOURS: [(&str, [f32; 3]); 5] = [
    ("red", [0.88, 0.12, 0.12]),
    ("green", [0.16, 0.68, 0.20]),
    ("blue", [0.13, 0.34, 0.92]),
    ("yellow", [0.98, 0.82, 0.10]),
    ("purple", [0.58, 0.16, 0.80]),
];

/// How much scenes differ from one another. Ranges are drawn from evenly.
pub(super) struct Look {
    /// Longest side of the sprite as a part of the scene's side.
    scale: (f32, f32),
    /// Greatest turn either way, in radians.
    turn: f32,
    /// Greatest stretch of one axis against the other.
    stretch: f32,
    /// `true` if half of the sprites look the other way.
    flip: bool,
    /// Greatest way from the middle, as a part of the room that the sprite leaves; above 1 it may be cut off.
    shift: f32,
    /// Greatest change of contrast, of brightness, of hue (radians; of the sprite alone).
    contrast: f32,
    brightness: f32,
    hue: f32,
}

pub(super) const SCENE: Look = Look {
    scale: (0.55, 0.85),
    turn: 0.175,
    stretch: 0.0,
    flip: true,
    shift: 0.8,
    contrast: 0.1,
    brightness: 0.05,
    hue: 0.0,
};

pub(super) const ENCODER: Look = Look {
    scale: (0.5, 0.9),
    turn: 0.2,
    stretch: 0.1,
    flip: true,
    shift: 0.9,
    contrast: 0.12,
    brightness: 0.06,
    hue: 0.1,
};

/// The look of a photo that someone takes: large, upright, in the middle.
pub(super) const PHOTO: Look = Look {
    scale: (0.7, 0.84),
    turn: 0.06,
    stretch: 0.0,
    flip: false,
    shift: 0.6,
    contrast: 0.06,
    brightness: 0.03,
    hue: 0.0,
};

/// Sine and cosine of a small angle: three terms of their series, exact to 1e-6 below 0.3. The libraries' own
/// differ in the last bit from machine to machine.
fn sine_cosine(angle: f32) -> (f32, f32) {
    let square = angle * angle;
    (
        angle * (1.0 - square / 6.0 * (1.0 - square / 20.0)),
        1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0)),
    )
}

/// Where a sprite lies: takes pixels of the scene back to those of its tile.
struct Placement {
    centre: (f32, f32),
    sine: f32,
    cosine: f32,
    /// Tile pixels per scene pixel along the sprite's own axes; negative across where it is flipped.
    step: (f32, f32),
}

impl Placement {
    fn draw(look: &Look, stream: &mut Stream) -> Self {
        let scale = stream.within(look.scale.0, look.scale.1);
        let (sine, cosine) = sine_cosine(stream.within(-look.turn, look.turn));
        let stretch = 1.0 + stream.within(-look.stretch, look.stretch);
        let side = SIDE as f32;
        let room = (1.0 - scale) * side / 2.0 * look.shift + look.stretch * side * 0.2;
        let centre = (
            side / 2.0 + stream.within(-room, room),
            side / 2.0 + stream.within(-room, room),
        );
        let step = SPRITE / (scale * side);
        let flipped = look.flip && stream.chance(0.5);
        Self {
            centre,
            sine,
            cosine,
            step: (if flipped { -step } else { step } / stretch, step * stretch),
        }
    }

    /// The columns and rows of the scene that a tile with `margin` around it can touch, once where it lies and once
    /// moved by `drop`.
    fn reach(&self, margin: f32, drop: (f32, f32)) -> (Range<usize>, Range<usize>) {
        let half = TILE as f32 / 2.0 + margin;
        let (across, down) = (half / self.step.0.abs(), half / self.step.1.abs());
        let (sine, cosine) = (self.sine.abs(), self.cosine.abs());
        let span = |middle: f32, reach: f32, drop: f32| {
            let start = (middle - reach + drop.min(0.0)).max(0.0) as usize;
            let end = ((middle + reach + drop.max(0.0)).max(0.0) as usize + 1).min(SIDE);
            start..end.max(start)
        };
        (
            span(self.centre.0, cosine * across + sine * down, drop.0),
            span(self.centre.1, sine * across + cosine * down, drop.1),
        )
    }

    /// Tile coordinates of the middle of a scene's pixel.
    fn tile_of(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = (x + 0.5 - self.centre.0, y + 0.5 - self.centre.1);
        let middle = TILE as f32 / 2.0;
        (
            (self.cosine * dx + self.sine * dy) * self.step.0 + middle,
            (self.cosine * dy - self.sine * dx) * self.step.1 + middle,
        )
    }
}

/// A scene of these sprite pixels on this background, drawn from `stream`.
pub(super) fn compose(
    sprite: &Pixels,
    background: &[[u8; 3]],
    look: &Look,
    stream: &mut Stream,
) -> RgbImage {
    let placement = Placement::draw(look, stream);
    let view = View::draw(stream);
    let drop = (stream.within(-2.0, 2.0), stream.within(1.5, 4.0));
    let contrast = 1.0 + stream.within(-look.contrast, look.contrast);
    let lift = 0.5 + stream.within(-look.brightness, look.brightness);
    let hue = (look.hue > 0.0).then(|| hue_turn(stream.within(-look.hue, look.hue)));
    let mut scene = view.pixels(background);
    // The shadow spreads beyond the tile, so its box holds the sprite's as well.
    let (columns, rows) = placement.reach(MARGIN, drop);
    for row in rows {
        for column in columns.clone() {
            let (x, y) = (column as f32, row as f32);
            let pixel = &mut scene[row * SIDE + column];
            let (u, v) = placement.tile_of(x - drop.0, y - drop.1);
            let dark = 1.0 - SHADE * sample(&sprite.shadow, SHADOW, u + MARGIN, v + MARGIN)[0];
            let (u, v) = placement.tile_of(x, y);
            let [red, green, blue, alpha] = sample(&sprite.colours, TILE, u, v);
            let mut ink = [red, green, blue];
            if let Some(matrix) = &hue {
                ink = matrix.map(|line| line[0] * red + line[1] * green + line[2] * blue);
            }
            for (value, ink) in pixel.iter_mut().zip(ink) {
                *value = ink + *value * dark * (1.0 - alpha);
            }
        }
    }
    let byte = |value: f32| (((value - 0.5) * contrast + lift).clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    let bytes = scene.as_flattened().iter().copied().map(byte).collect();
    RgbImage::from_raw(SIDE as u32, SIDE as u32, bytes).unwrap_or_default()
}

/// Which part of a background is seen, and from which side.
struct View {
    left: usize,
    top: usize,
    mirrored: bool,
}

impl View {
    fn draw(stream: &mut Stream) -> Self {
        let room = CANVAS - SIDE + 1;
        Self {
            left: stream.integer(room),
            top: stream.integer(room),
            mirrored: stream.chance(0.5),
        }
    }

    /// The pixels that are seen, row by row.
    fn pixels(&self, background: &[[u8; 3]]) -> Vec<[f32; 3]> {
        let unit = |pixel: [u8; 3]| pixel.map(|value| f32::from(value) * (1.0 / 255.0));
        let mut seen = Vec::with_capacity(SIDE * SIDE);
        for row in self.top..self.top + SIDE {
            let start = row * CANVAS + self.left;
            seen.extend(background[start..start + SIDE].iter().copied().map(unit));
        }
        if self.mirrored {
            seen.chunks_exact_mut(SIDE).for_each(<[_]>::reverse);
        }
        seen
    }
}

/// The value between the four pixels around (x, y), whose middles lie at halves; nothing outside.
fn sample<const N: usize>(pixels: &[[f32; N]], side: usize, x: f32, y: f32) -> [f32; N] {
    let (x, y) = (x - 0.5, y - 0.5);
    let most = (side - 1) as f32;
    if x < 0.0 || y < 0.0 || x >= most || y >= most {
        return [0.0; N];
    }
    let (column, row) = (x as usize, y as usize);
    let (u, v) = (x - column as f32, y - row as f32);
    let at = row * side + column;
    let (upper, lower) = (&pixels[at..at + 2], &pixels[at + side..at + side + 2]);
    let mut mixed = [0.0; N];
    for (channel, value) in mixed.iter_mut().enumerate() {
        let above = upper[0][channel] + (upper[1][channel] - upper[0][channel]) * u;
        let below = lower[0][channel] + (lower[1][channel] - lower[0][channel]) * u;
        *value = above + (below - above) * v;
    }
    mixed
}

/// The matrix that turns hues by an angle and keeps greys: a rotation about the grey axis.
fn hue_turn(angle: f32) -> [[f32; 3]; 3] {
    let (sine, cosine) = sine_cosine(angle);
    let (third, root) = ((1.0 - cosine) / 3.0, sine / 3.0_f32.sqrt());
    let (same, next, last) = (cosine + third, third - root, third + root);
    [[same, next, last], [last, same, next], [next, last, same]]
}

/// Steps of a whole turn of hue; each is small enough for [`sine_cosine`].
const HUES: usize = 24;

fn luminance(pixel: &[f32]) -> f32 {
    LUMA.iter().zip(pixel).map(|(a, b)| a * b).sum()
}

/// The sprite as another artist might have coloured it: any hue, more or less of it, lighter or darker, sometimes
/// dark where it was light.
pub(super) fn dye(sprite: &Pixels, stream: &mut Stream) -> Pixels {
    let step = hue_turn(std::f32::consts::TAU / HUES as f32);
    let product = |a: [[f32; 3]; 3]| {
        a.map(|line| [0, 1, 2].map(|column| (0..3).map(|k| line[k] * step[k][column]).sum::<f32>()))
    };
    let turn = (0..stream.integer(HUES)).fold(hue_turn(0.0), |turn, _| product(turn));
    let saturation = stream.within(0.0, 1.3);
    let bias = if stream.chance(0.5) {
        stream.within(0.35, 1.0)
    } else {
        1.0 / stream.within(0.35, 1.0)
    };
    let inverted = stream.chance(0.15);
    let colours = sprite
        .colours
        .iter()
        .map(|pixel| {
            let alpha = pixel[3];
            if alpha <= 0.0 {
                return *pixel;
            }
            let own = [0, 1, 2].map(|channel| (pixel[channel] / alpha).clamp(0.0, 1.0));
            let y = luminance(&own);
            let y = y / (y + bias * (1.0 - y)); // Schlick's bias curve
            let y = if inverted { 1.0 - y } else { y };
            let turned = turn.map(|line| line[0] * own[0] + line[1] * own[1] + line[2] * own[2]);
            let grey = luminance(&turned);
            let ink = turned.map(|value| (y + saturation * (value - grey)).clamp(0.0, 1.0) * alpha);
            [ink[0], ink[1], ink[2], alpha]
        })
        .collect();
    Pixels {
        colours,
        shadow: sprite.shadow.clone(),
    }
}

/// The sprite in another colour. Light stays light and dark stays dark; the sprite's mean luminance moves most of
/// the way to that of the colour, so that a white rabbit becomes red and not pink.
pub(super) fn recolour(sprite: &Pixels, colour: usize) -> Pixels {
    let ink = COLOURS[colour].1;
    let (mut light, mut area) = (0.0, 0.0);
    for pixel in &sprite.colours {
        light += luminance(&pixel[..3]);
        area += pixel[3];
    }
    // Schlick's bias curve y / (y + a (1 - y)) with the `a` that takes the mean to the target.
    let mean = (light / area.max(1.0)).clamp(0.05, 0.93);
    let own = luminance(&ink);
    let target = mean + 0.75 * (own - mean);
    let bias = mean * (1.0 - target) / (target * (1.0 - mean));
    let colours = sprite
        .colours
        .iter()
        .map(|pixel| {
            let alpha = pixel[3];
            if alpha <= 0.0 {
                return *pixel;
            }
            let y = (0.97 * luminance(&pixel[..3]) / alpha).clamp(0.0, 0.97);
            let y = y / (y + bias * (1.0 - y));
            let tone = if y <= own {
                ink.map(|value| value * y / own)
            } else {
                ink.map(|value| value + (1.0 - value) * (y - own) / (1.0 - own))
            };
            [tone[0] * alpha, tone[1] * alpha, tone[2] * alpha, alpha]
        })
        .collect();
    Pixels {
        colours,
        shadow: sprite.shadow.clone(),
    }
}

//! The canvas that backgrounds are drawn on: a square of colours, value noise, a few shapes. Only additions, products,
//! quotients and square roots, which IEEE 754 rounds the same way everywhere: a scene is equal on all machines.

use crate::ops::random::Stream;

/// Pixels across and down.
pub(super) const SIDE: usize = 72;

/// Red, green, blue in [0, 1].
pub(super) type Colour = [f32; 3];

/// The colour written as 0xRRGGBB.
pub(super) fn rgb(code: u32) -> Colour {
    [16, 8, 0].map(|shift| ((code >> shift) & 255) as f32 / 255.0)
}

/// From `a` (t = 0) to `b` (t = 1); t is clamped.
pub(super) fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    let t = t.clamp(0.0, 1.0);
    [0, 1, 2].map(|c| a[c] + (b[c] - a[c]) * t)
}

/// Darker (factor below 1) or lighter.
pub(super) fn shade(colour: Colour, factor: f32) -> Colour {
    colour.map(|c| c * factor)
}

/// A colour along a row of colours, t from 0 (first) to 1 (last).
pub(super) fn gradient(colours: &[Colour], t: f32) -> Colour {
    let last = colours.len() - 1;
    let at = t.clamp(0.0, 1.0) * last as f32;
    let below = (at as usize).min(last.saturating_sub(1));
    mix(
        colours[below],
        colours[(below + 1).min(last)],
        at - below as f32,
    )
}

/// A smooth wave of period 1 between 0 and 1.
pub(super) fn wave(t: f32) -> f32 {
    let ramp = (2.0 * (t - t.floor()) - 1.0).abs();
    ramp * ramp * (3.0 - 2.0 * ramp)
}

/// Value noise: random numbers at whole coordinates, smoothly joined (Perlin's smoothstep weights).
pub(super) struct Noise(u32);

impl Noise {
    pub(super) fn new(stream: &mut Stream) -> Self {
        Self(stream.integer(u32::MAX as usize) as u32)
    }

    /// The number at whole coordinates, in [0, 1).
    pub(super) fn cell(&self, x: i32, y: i32) -> f32 {
        let mut hash = self.0
            ^ (x as u32).wrapping_mul(0x9e37_79b1)
            ^ (y as u32).wrapping_mul(0x85eb_ca77).rotate_left(13);
        // The finaliser of MurmurHash3.
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^= hash >> 16;
        (hash >> 8) as f32 / (1u32 << 24) as f32
    }

    pub(super) fn at(&self, x: f32, y: f32) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (u, v) = (smooth(x - left), smooth(y - top));
        let (left, top) = (left as i32, top as i32);
        let row = |y| {
            let (a, b) = (self.cell(left, y), self.cell(left + 1, y));
            a + (b - a) * u
        };
        let (upper, lower) = (row(top), row(top + 1));
        upper + (lower - upper) * v
    }

    /// Three octaves, each half as strong and twice as fine, in [0, 1).
    pub(super) fn fractal(&self, x: f32, y: f32) -> f32 {
        (4.0 * self.at(x, y)
            + 2.0 * self.at(2.0 * x + 17.0, 2.0 * y + 5.0)
            + self.at(4.0 * x + 41.0, 4.0 * y + 23.0))
            / 7.0
    }
}

/// A picture while it is drawn, row by row from the top.
pub(super) struct Canvas(Vec<Colour>);

impl Canvas {
    /// The colour of each pixel from its coordinates.
    pub(super) fn new(mut colour: impl FnMut(f32, f32) -> Colour) -> Self {
        let at = |index: usize| ((index % SIDE) as f32, (index / SIDE) as f32);
        Self(
            (0..SIDE * SIDE)
                .map(|index| {
                    let (x, y) = at(index);
                    colour(x, y)
                })
                .collect(),
        )
    }

    /// Lays a colour with an opacity over every pixel for which there is one.
    pub(super) fn over(&mut self, mut layer: impl FnMut(f32, f32) -> Option<(Colour, f32)>) {
        for (index, pixel) in self.0.iter_mut().enumerate() {
            if let Some((colour, opacity)) = layer((index % SIDE) as f32, (index / SIDE) as f32) {
                *pixel = mix(*pixel, colour, opacity);
            }
        }
    }

    /// An ellipse with a soft edge; `axis` is the unit vector along which `long` is measured.
    pub(super) fn ellipse(
        &mut self,
        centre: (f32, f32),
        axis: (f32, f32),
        (long, short): (f32, f32),
        colour: Colour,
    ) {
        let reach = long.max(short) + 1.0;
        let rows = span(centre.1, reach);
        let columns = span(centre.0, reach);
        for y in rows {
            for x in columns.clone() {
                let (dx, dy) = (x as f32 - centre.0, y as f32 - centre.1);
                let u = (dx * axis.0 + dy * axis.1) / long;
                let v = (dy * axis.0 - dx * axis.1) / short;
                let distance = (u * u + v * v).sqrt();
                let opacity = (1.0 - distance) * long.min(short) + 0.5;
                let pixel = &mut self.0[y * SIDE + x];
                *pixel = mix(*pixel, colour, opacity);
            }
        }
    }

    /// A disc with a soft edge.
    pub(super) fn disc(&mut self, centre: (f32, f32), radius: f32, colour: Colour) {
        self.ellipse(centre, (1.0, 0.0), (radius, radius), colour);
    }

    /// A rectangle from its left upper corner.
    pub(super) fn rectangle(&mut self, corner: (f32, f32), size: (f32, f32), colour: Colour) {
        self.over(|x, y| {
            let inside = (corner.0..corner.0 + size.0).contains(&x)
                && (corner.1..corner.1 + size.1).contains(&y);
            inside.then_some((colour, 1.0))
        });
    }

    /// Small bright dots above the row `below`, as stars or snow.
    pub(super) fn dots(
        &mut self,
        stream: &mut Stream,
        count: usize,
        below: f32,
        radius: (f32, f32),
        colour: Colour,
    ) {
        for _ in 0..count {
            let centre = (stream.within(0.0, SIDE as f32), stream.within(0.0, below));
            self.disc(centre, stream.within(radius.0, radius.1), colour);
        }
    }

    /// 8-bit pixels.
    pub(super) fn finish(self) -> Vec<[u8; 3]> {
        let byte = |value: f32| (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
        self.0.into_iter().map(|pixel| pixel.map(byte)).collect()
    }
}

/// The whole coordinates within `reach` of `middle` that lie on the canvas.
fn span(middle: f32, reach: f32) -> std::ops::Range<usize> {
    let start = (middle - reach).max(0.0) as usize;
    let end = ((middle + reach).max(0.0) as usize + 1).min(SIDE);
    start..end.max(start)
}

//! The eighteen places in which a sprite may stand, each drawn anew from a seed.

use super::canvas::{Canvas, Colour, Noise, SIDE, gradient, mix, rgb, shade, wave};
use crate::ops::random::Stream;

/// A place and how captions speak of it.
pub struct Background {
    /// One word for it.
    pub name: &'static str,
    /// The end of a caption, as in `a dog in the snow`.
    pub phrase: &'static str,
    paint: fn(&mut Stream) -> Canvas,
}

impl Background {
    /// 8-bit pixels, [`SIDE`] across and down.
    pub(super) fn draw(&self, seed: i64) -> Vec<[u8; 3]> {
        (self.paint)(&mut Stream::new(seed)).finish()
    }
}

const fn place(
    name: &'static str,
    phrase: &'static str,
    paint: fn(&mut Stream) -> Canvas,
) -> Background {
    Background {
        name,
        phrase,
        paint,
    }
}

/// All places. Their order is part of what a seed means.
pub(super) const ALL: [Background; 18] = [
    place("grass", "on the grass", grass),
    place("beach", "on the beach", beach),
    place("snow", "in the snow", snow),
    place("brick", "by a brick wall", brick),
    place("night", "under the night sky", night),
    place("fabric", "on pink fabric", fabric),
    place("wood", "on a wooden floor", wood),
    place("water", "in the water", water),
    place("jungle", "in the jungle", jungle),
    place("cobblestone", "on a cobblestone street", cobblestone),
    place("city", "in the city", city),
    place("mountain", "in the mountains", mountain),
    place("rug", "on a purple rug", rug),
    place("tiles", "on a tiled floor", tiles),
    place("wheat", "in a wheat field", wheat),
    place("moon", "on the moon", moon),
    place("sunset", "at sunset", sunset),
    place("paper", "on white paper", paper),
];

const FULL: f32 = SIDE as f32;
const WHITE: Colour = [1.0, 1.0, 1.0];

fn grass(stream: &mut Stream) -> Canvas {
    let (soft, blades) = (Noise::new(stream), Noise::new(stream));
    Canvas::new(|x, y| {
        let ground = mix(
            rgb(0x1f_6b_1c),
            rgb(0x6f_b8_35),
            soft.fractal(x * 0.35, y * 0.1) * 1.4 - 0.2,
        );
        let blade = blades.at(x * 0.9, y * 0.22);
        mix(ground, rgb(0xa8_dc_58), (blade - 0.6) * 2.0)
    })
}

fn beach(stream: &mut Stream) -> Canvas {
    let horizon = stream.within(14.0, 22.0);
    let shore = horizon + stream.within(10.0, 15.0);
    let (edge, grain) = (Noise::new(stream), Noise::new(stream));
    Canvas::new(|x, y| {
        let water_line = shore + 5.0 * edge.at(x * 0.07, 0.0);
        if y < horizon {
            mix(rgb(0x7c_c8_f5), rgb(0xd4_ef_fc), y / horizon)
        } else if y < water_line - 2.5 {
            let depth = (y - horizon) / (water_line - horizon);
            let ripple = 0.08 * wave(y * 0.37 + edge.at(x * 0.1, y * 0.1));
            shade(mix(rgb(0x14_7f_b8), rgb(0x5b_c9_dd), depth), 0.96 + ripple)
        } else if y < water_line {
            WHITE
        } else {
            let tone = 0.9 + 0.12 * grain.fractal(x * 0.08, y * 0.16);
            let speck = 0.08 * (grain.cell(x as i32, y as i32) - 0.5);
            shade(rgb(0xee_d4_94), tone + speck)
        }
    })
}

fn snow(stream: &mut Stream) -> Canvas {
    let horizon = stream.within(18.0, 26.0);
    let hills = Noise::new(stream);
    let line = |x: f32| horizon + 6.0 * hills.at(x * 0.05, 3.0);
    let mut canvas = Canvas::new(|x, y| {
        if y < line(x) {
            mix(rgb(0x8f_b0_d2), rgb(0xcb_da_ea), y / horizon)
        } else {
            mix(
                rgb(0xcf_de_f0),
                WHITE,
                hills.fractal(x * 0.05, y * 0.12) * 1.6 - 0.1,
            )
        }
    });
    for _ in 0..4 + stream.integer(4) {
        let (middle, height) = (stream.within(0.0, FULL), stream.within(10.0, 16.0));
        let foot = line(middle) + 2.0;
        canvas.over(|x, y| {
            let down = y - (foot - height);
            // Three skirts, each wider at its foot.
            let half = 1.0 + (down % (height / 3.0)) * 0.5 + down * 0.18;
            let inside = (0.0..height).contains(&down) && (x - middle).abs() < half;
            let frosted = down % (height / 3.0) < 1.5;
            inside.then_some((if frosted { WHITE } else { rgb(0x2f_5d_50) }, 1.0))
        });
    }
    canvas.dots(stream, 45, FULL, (0.5, 1.3), WHITE);
    canvas
}

fn brick(stream: &mut Stream) -> Canvas {
    let (tone, grain) = (Noise::new(stream), Noise::new(stream));
    let (left, top) = (stream.within(0.0, 16.0), stream.within(0.0, 8.0));
    let (width, height) = (stream.within(15.0, 18.0), stream.within(7.0, 8.5));
    Canvas::new(|x, y| {
        let row = ((y + top) / height).floor();
        let along = (x + left) / width + 0.5 * (row - 2.0 * (row / 2.0).floor());
        let (across, down) = ((along - along.floor()) * width, (y + top) - row * height);
        let rough = 0.9 + 0.2 * grain.at(x * 0.8, y * 0.8);
        if across < 1.3 || down < 1.3 {
            shade(rgb(0xc9_bd_b0), rough)
        } else {
            let fired = tone.cell(along.floor() as i32, row as i32);
            shade(mix(rgb(0x87_33_24), rgb(0xc0_5f_42), fired), rough)
        }
    })
}

fn night(stream: &mut Stream) -> Canvas {
    let hills = Noise::new(stream);
    let height = stream.within(8.0, 16.0);
    let mut canvas = Canvas::new(|_, y| {
        gradient(
            &[rgb(0x05_08_24), rgb(0x12_1c_52), rgb(0x2c_3d_86)],
            y / FULL,
        )
    });
    canvas.dots(stream, 55, FULL - height, (0.4, 0.9), rgb(0xff_f6_d8));
    canvas.dots(stream, 6, FULL - height, (1.2, 1.7), WHITE);
    canvas.over(|x, y| {
        let ground = FULL - height - 9.0 * hills.fractal(x * 0.06, 0.0) + 4.0;
        (y > ground).then_some((rgb(0x05_0b_14), 1.0))
    });
    canvas
}

fn fabric(stream: &mut Stream) -> Canvas {
    let bend = Noise::new(stream);
    let slope = stream.within(-0.8, 0.8);
    let folds = stream.within(0.045, 0.07);
    let weave = Noise::new(stream);
    Canvas::new(|x, y| {
        let fold = wave((x + slope * y) * folds + 1.6 * bend.at(x * 0.03, y * 0.03));
        let thread = 0.04 * (weave.cell(x as i32, y as i32) - 0.5);
        shade(mix(rgb(0xdf_5f_93), rgb(0xff_a9_c8), fold), 1.0 + thread)
    })
}

fn wood(stream: &mut Stream) -> Canvas {
    let (tone, grain) = (Noise::new(stream), Noise::new(stream));
    let (height, top) = (stream.within(9.0, 13.0), stream.within(0.0, 12.0));
    Canvas::new(|x, y| {
        let plank = ((y + top) / height).floor();
        let row = plank as i32;
        // Planks end at places of their own.
        let along = (x + 40.0 * tone.cell(row, 7)) / 40.0;
        let board = tone.cell(row, along.floor() as i32 + 20);
        let gap = (y + top) - plank * height < 1.0 || (along - along.floor()) * 40.0 < 1.0;
        let vein = grain.fractal(x * 0.06 + 31.0 * board, y * 0.55);
        let colour = mix(
            rgb(0x8a_52_23),
            rgb(0xc9_8a_48),
            0.6 * board + 0.6 * vein - 0.1,
        );
        if gap {
            shade(rgb(0x4a_2a_10), 1.0)
        } else {
            colour
        }
    })
}

fn water(stream: &mut Stream) -> Canvas {
    let (deep, light) = (Noise::new(stream), Noise::new(stream));
    Canvas::new(|x, y| {
        let base = mix(
            rgb(0x07_6a_b5),
            rgb(0x2f_b0_e6),
            deep.fractal(x * 0.05, y * 0.09) * 1.4 - 0.2,
        );
        let bend = 3.0 * deep.at(x * 0.08, y * 0.08);
        let ridge = 1.0 - (2.0 * light.at(x * 0.09 + bend, y * 0.2 + bend) - 1.0).abs();
        mix(base, rgb(0xc9_f3_ff), (ridge - 0.86) * 6.0)
    })
}

fn jungle(stream: &mut Stream) -> Canvas {
    let dusk = Noise::new(stream);
    let mut canvas = Canvas::new(|x, y| {
        mix(
            rgb(0x05_1d_10),
            rgb(0x12_46_1f),
            dusk.fractal(x * 0.08, y * 0.08),
        )
    });
    let leaves = 46;
    for leaf in 0..leaves {
        let near = leaf as f32 / leaves as f32;
        let centre = (stream.within(0.0, FULL), stream.within(0.0, FULL));
        let (dx, dy) = (stream.within(-1.0, 1.0), stream.within(0.2, 1.0));
        let length = (dx * dx + dy * dy).sqrt();
        let axis = (dx / length, dy / length);
        let long = stream.within(6.0, 11.0);
        let green = mix(
            mix(rgb(0x0f_4a_24), rgb(0x23_7a_2e), near),
            rgb(0x6d_b5_3a),
            stream.within(0.0, 0.65) * near,
        );
        canvas.ellipse(centre, axis, (long, long * 0.36), green);
        canvas.ellipse(centre, axis, (long * 0.85, 0.5), shade(green, 1.35));
    }
    canvas
}

fn cobblestone(stream: &mut Stream) -> Canvas {
    let (jitter, tone) = (Noise::new(stream), Noise::new(stream));
    let size = stream.within(10.0, 12.5);
    let centre = |column: i32, row: i32| {
        let shift = if row & 1 == 0 { 0.0 } else { 0.5 };
        (
            (column as f32 + shift + 0.3 * jitter.cell(column, row)) * size,
            (row as f32 + 0.3 * jitter.cell(row + 91, column)) * size * 0.8,
        )
    };
    Canvas::new(|x, y| {
        let (column, row) = ((x / size) as i32, (y / (size * 0.8)) as i32);
        let (mut nearest, mut second, mut stone) = (f32::MAX, f32::MAX, (0, 0));
        for r in row - 2..=row + 2 {
            for c in column - 2..=column + 2 {
                let (cx, cy) = centre(c, r);
                let distance = ((x - cx) * (x - cx) + (y - cy) * (y - cy) * 1.4).sqrt();
                if distance < nearest {
                    (second, nearest, stone) = (nearest, distance, (c, r));
                } else if distance < second {
                    second = distance;
                }
            }
        }
        let grey = mix(
            rgb(0x6f_6c_72),
            rgb(0xb4_ad_a5),
            tone.cell(stone.0, stone.1),
        );
        let domed = shade(grey, 1.12 - 0.045 * nearest);
        mix(rgb(0x34_32_33), domed, (second - nearest - 0.8) * 0.8)
    })
}

fn city(stream: &mut Stream) -> Canvas {
    let street = stream.within(46.0, 52.0);
    let mut canvas = Canvas::new(|_, y| {
        if y < street {
            mix(rgb(0x84_b8_e6), rgb(0xe9_ee_ee), y / street)
        } else if y < street + 4.0 {
            rgb(0xa8_a8_a8)
        } else {
            rgb(0x50_52_58)
        }
    });
    let walls = [0x5d_6d_86, 0x7a_86_9c, 0x46_53_6b, 0x95_7f_78, 0x68_79_88];
    let lit = Noise::new(stream);
    let mut left = stream.within(-6.0, 0.0);
    while left < FULL {
        let width = stream.within(9.0, 15.0);
        let top = stream.within(6.0, 32.0);
        let wall = rgb(walls[stream.integer(walls.len())]);
        canvas.rectangle((left, top), (width - 1.0, street - top), wall);
        canvas.over(|x, y| {
            let (across, down) = (x - left - 1.5, y - top - 2.0);
            let inside = across >= 0.0 && x < left + width - 3.0 && down >= 0.0 && y < street - 3.0;
            let window = (across % 4.0) < 2.0 && (down % 5.0) < 3.0;
            let glow = lit.cell((across / 4.0) as i32 + left as i32 * 8, (down / 5.0) as i32) < 0.6;
            let colour = if glow {
                rgb(0xff_e5_8f)
            } else {
                shade(wall, 0.6)
            };
            (inside && window).then_some((colour, 1.0))
        });
        left += width;
    }
    let phase = stream.within(0.0, 14.0);
    canvas.over(|x, y| {
        let dash = (street + 11.0..street + 13.0).contains(&y) && (x + phase) % 14.0 < 8.0;
        dash.then_some((WHITE, 0.9))
    });
    canvas
}

fn mountain(stream: &mut Stream) -> Canvas {
    let (rough, meadow) = (Noise::new(stream), Noise::new(stream));
    let mut canvas = Canvas::new(|_, y| mix(rgb(0x5f_ad_ef), rgb(0xe2_f2_fc), y / 50.0));
    let first = stream.within(4.0, 18.0);
    for peak in 0..3 {
        let middle = first + 24.0 * ((peak * 2) % 3) as f32 + stream.within(-4.0, 4.0);
        let top = stream.within(6.0, 20.0) + 5.0 * peak as f32;
        let slope = stream.within(0.9, 1.3);
        let rock = mix(rgb(0x5c_66_80), rgb(0x8b_90_a3), stream.within(0.0, 1.0));
        canvas.over(|x, y| {
            let ragged = 5.0 * rough.fractal(x * 0.14, y * 0.1 + 9.0 * peak as f32) - 2.5;
            let below = y - top - (x - middle).abs() * slope - ragged;
            // The sun stands on the left.
            let lit: f32 = if x + ragged < middle { 1.12 } else { 0.82 };
            let snow = y - top < 11.0 + 3.0 * ragged;
            let colour = if snow { rgb(0xf2_f5_fa) } else { rock };
            (below > 0.0).then_some((shade(colour, lit.min(if snow { 1.02 } else { lit })), 1.0))
        });
    }
    let foot = stream.within(52.0, 58.0);
    canvas.over(|x, y| {
        let line = foot + 5.0 * meadow.at(x * 0.05, 0.0);
        let green = mix(
            rgb(0x2f_74_3d),
            rgb(0x6c_ab_4c),
            meadow.fractal(x * 0.2, y * 0.3),
        );
        (y > line).then_some((green, 1.0))
    });
    canvas
}

fn rug(stream: &mut Stream) -> Canvas {
    let weave = Noise::new(stream);
    let period = stream.within(18.0, 26.0);
    let (left, top) = (stream.within(0.0, 24.0), stream.within(0.0, 24.0));
    Canvas::new(|x, y| {
        let fold = |t: f32| (t / period - (t / period).floor() - 0.5).abs();
        let ring = fold(x + left) + fold(y + top);
        let colour = if (0.46..0.54).contains(&ring) {
            rgb(0xe2_b8_4c)
        } else if ring < 0.2 {
            rgb(0xb9_79_dd)
        } else if ring < 0.46 {
            rgb(0x6b_28_9a)
        } else {
            rgb(0x4c_17_78)
        };
        shade(colour, 0.94 + 0.12 * weave.cell(x as i32, y as i32 / 2))
    })
}

fn tiles(stream: &mut Stream) -> Canvas {
    let tone = Noise::new(stream);
    let size = stream.within(10.0, 14.0);
    let (left, top) = (stream.within(0.0, 14.0), stream.within(0.0, 14.0));
    Canvas::new(|x, y| {
        let (u, v) = ((x + left) / size, (y + top) / size);
        let (column, row) = (u as i32, v as i32);
        let sheen = 0.06 * tone.cell(column, row) + 0.05 * tone.at(x * 0.1, y * 0.1);
        if (column + row) % 2 == 0 {
            [0.08 + sheen; 3]
        } else {
            [0.9 + sheen; 3]
        }
    })
}

fn wheat(stream: &mut Stream) -> Canvas {
    let horizon = stream.within(10.0, 18.0);
    let (stalks, edge) = (Noise::new(stream), Noise::new(stream));
    let mut canvas = Canvas::new(|x, y| {
        if y < horizon + 3.0 * edge.at(x * 0.4, 0.0) {
            mix(rgb(0x9f_d3_f5), rgb(0xea_f5_f7), y / horizon)
        } else {
            let stalk = stalks.fractal(x * 0.55, y * 0.07);
            mix(rgb(0xa8_6d_17), rgb(0xf6_ce_5a), stalk * 1.5 - 0.2)
        }
    });
    for ear in 0..70 {
        // Nearer ears, lower down, cover farther ones.
        let down = horizon + (FULL - horizon) * ear as f32 / 70.0;
        let centre = (stream.within(0.0, FULL), down + stream.within(-2.0, 4.0));
        let lean = stream.within(-0.3, 0.3);
        let length = (1.0 + lean * lean).sqrt();
        let axis = (lean / length, 1.0 / length);
        let tone = stream.within(0.85, 1.1);
        canvas.ellipse(centre, axis, (4.2, 1.5), shade(rgb(0x99_5f_12), tone));
        canvas.ellipse(centre, axis, (3.4, 0.9), shade(rgb(0xfb_d8_70), tone));
    }
    canvas
}

fn moon(stream: &mut Stream) -> Canvas {
    let horizon = stream.within(22.0, 30.0);
    let dust = Noise::new(stream);
    let mut canvas = Canvas::new(|_, _| rgb(0x02_02_07));
    canvas.dots(stream, 30, horizon, (0.4, 0.8), WHITE);
    let earth = (stream.within(10.0, FULL - 10.0), stream.within(8.0, 14.0));
    canvas.disc(earth, 7.0, rgb(0x2b_77_d8));
    canvas.disc((earth.0 - 2.0, earth.1 - 1.0), 2.6, rgb(0x4f_a8_55));
    canvas.disc((earth.0 + 3.0, earth.1 + 2.5), 1.8, rgb(0xe8_f2_fb));
    canvas.over(|x, y| {
        let line = horizon + 3.0 * dust.at(x * 0.06, 0.0);
        let grey = 0.5 + 0.22 * dust.fractal(x * 0.12, y * 0.2);
        (y > line).then_some(([grey, grey, grey * 1.02], 1.0))
    });
    for crater in 0..9 {
        let down = horizon + 6.0 + (FULL - horizon - 6.0) * crater as f32 / 9.0;
        let centre = (stream.within(0.0, FULL), down + stream.within(0.0, 4.0));
        let long = stream.within(3.0, 5.0) + 0.06 * down;
        let across = (1.0, 0.0);
        canvas.ellipse(
            (centre.0, centre.1 + 0.8),
            across,
            (long, long * 0.45),
            rgb(0xc4_c4_c8),
        );
        canvas.ellipse(centre, across, (long * 0.9, long * 0.38), rgb(0x57_57_5d));
    }
    canvas
}

fn sunset(stream: &mut Stream) -> Canvas {
    let horizon = stream.within(40.0, 48.0);
    let sun = stream.within(18.0, FULL - 18.0);
    let waves = Noise::new(stream);
    let sky = [0x3d_1c_63, 0xa8_32_70, 0xf4_6b_45, 0xff_c0_4d].map(rgb);
    let mut canvas = Canvas::new(|_, y| gradient(&sky, y / horizon));
    canvas.disc((sun, horizon - 3.0), 10.0, rgb(0xff_ee_9a));
    canvas.over(|x, y| {
        if y < horizon {
            return None;
        }
        let sea = mix(
            rgb(0x8f_35_5c),
            rgb(0x27_12_3f),
            (y - horizon) / (FULL - horizon),
        );
        let width = 4.0 + 0.35 * (y - horizon) + 8.0 * waves.at(x * 0.05, y * 0.7);
        let glint = (x - sun).abs() < width && waves.at(x * 0.06 + 50.0, y * 0.6) > 0.45;
        Some((if glint { rgb(0xff_b8_5a) } else { sea }, 1.0))
    });
    canvas
}

fn paper(stream: &mut Stream) -> Canvas {
    let fibre = Noise::new(stream);
    let (gap, top) = (stream.within(7.0, 9.0), stream.within(0.0, 9.0));
    let margin = stream.within(8.0, 16.0);
    Canvas::new(|x, y| {
        let sheet = shade(
            [1.0, 1.0, 0.985],
            0.955 + 0.045 * fibre.fractal(x * 0.04, y * 0.04),
        );
        let ruled = (y + top) % gap < 1.0;
        if (x - margin).abs() < 0.6 {
            mix(sheet, rgb(0xf0_8a_8a), 0.8)
        } else if ruled {
            mix(sheet, rgb(0x9d_c0_e6), 0.7)
        } else {
            sheet
        }
    })
}

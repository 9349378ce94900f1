//! The number encodings of GGUF: plain ones, and blocks of a few bits a number with common scales, as the Python package
//! `gguf` decodes them bit for bit.

use half::{bf16, f16};

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy)]
pub(super) enum Encoding {
    F32,
    F16,
    Bf16,
    /// 32 numbers: a scale, 8 bits each.
    Q8_0,
    /// 32 numbers: a scale, 4 bits each around 8.
    Q4_0,
    /// 32 numbers: a scale and a least value, 4 bits each.
    Q4_1,
    /// 256 numbers: scale and least value of 6 bits for each 32, 4 bits each.
    Q4K,
    /// 256 numbers: a scale of 8 bits for each 16, 6 bits each around 32.
    Q6K,
}

/// The names that go with the numbers of the specification.
pub(super) fn name(kind: u32) -> String {
    let known = match kind {
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16..=23 | 29 => "an IQ type",
        34 | 35 => "a ternary type",
        _ => return format!("type {kind}"),
    };
    known.to_owned()
}

impl Encoding {
    pub(super) fn of(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Numbers and bytes of a block.
    pub(super) fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 2 + 32),
            Self::Q4_0 => (32, 2 + 16),
            Self::Q4_1 => (32, 2 + 2 + 16),
            Self::Q4K => (256, 2 + 2 + 12 + 128),
            Self::Q6K => (256, 128 + 64 + 16 + 2),
        }
    }

    /// The numbers in whole blocks of bytes.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let (values, size) = self.block();
        let mut numbers = Vec::with_capacity(bytes.len() / size as usize * values as usize);
        for block in bytes.chunks_exact(size as usize) {
            match self {
                Self::F32 => {
                    numbers.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
                }
                Self::F16 => numbers.push(half(block)),
                Self::Bf16 => numbers.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Self::Q8_0 => {
                    let scale = half(block);
                    numbers.extend(block[2..].iter().map(|&byte| f32::from(byte as i8) * scale));
                }
                Self::Q4_0 => {
                    let scale = half(block);
                    let quants = nibbles(&block[2..]);
                    numbers.extend(quants.map(|quant| scale * (f32::from(quant) - 8.0)));
                }
                Self::Q4_1 => {
                    let (scale, least) = (half(block), half(&block[2..]));
                    let quants = nibbles(&block[4..]);
                    numbers.extend(quants.map(|quant| scale * f32::from(quant) + least));
                }
                Self::Q4K => decode_q4_k(block, &mut numbers),
                Self::Q6K => decode_q6_k(block, &mut numbers),
            }
        }
        numbers
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The low halves of all bytes, then the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let low = bytes.iter().map(|byte| byte & 0xf);
    low.chain(bytes.iter().map(|byte| byte >> 4))
}

fn decode_q4_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (scale, least) = (half(block), half(&block[2..]));
    let (packed, quants) = block[4..].split_at(12);
    for (pair, quants) in quants.chunks_exact(32).enumerate() {
        for (index, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            // Of eight scales and eight least values the first four have their 6 bits in a byte of their own; the
            // others take 4 bits from the last four bytes, 2 from the top of these.
            let (own, own_least) = if index < 4 {
                (packed[index] & 0x3f, packed[index + 4] & 0x3f)
            } else {
                let low = packed[index + 4];
                (
                    low & 0xf | packed[index - 4] >> 2 & 0x30,
                    low >> 4 | packed[index] >> 2 & 0x30,
                )
            };
            let (own, own_least) = (scale * f32::from(own), least * f32::from(own_least));
            let quant = |byte: &u8| f32::from(byte >> shift & 0xf);
            numbers.extend(quants.iter().map(|byte| own * quant(byte) - own_least));
        }
    }
}

fn decode_q6_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    let scale = half(scale);
    for index in 0..256 {
        // Two halves of 128; in each, 64 bytes hold the low bits of 64 and of the next 64 numbers, and 32 bytes the
        // high bits of four times 32.
        let (part, within) = (index / 128, index % 128);
        let nibble = low[64 * part + within % 64] >> (within / 64 * 4) & 0xf;
        let top = high[32 * part + within % 32] >> (within / 32 * 2) & 3;
        let own = scale * f32::from(scales[index / 16] as i8);
        numbers.push(own * (f32::from(nibble | top << 4) - 32.0));
    }
}

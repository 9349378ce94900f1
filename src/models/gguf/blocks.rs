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
    /// 32 numbers: a scale, 5 bits each around 16.
    Q5_0,
    /// 32 numbers: a scale and a least value, 5 bits each.
    Q5_1,
    /// 256 numbers: scale and least value of 4 bits for each 16, 2 bits each.
    Q2K,
    /// 256 numbers: a scale of 6 bits for each 16, 3 bits each around 4.
    Q3K,
    /// 256 numbers: scale and least value of 6 bits for each 32, 4 bits each.
    Q4K,
    /// 256 numbers: scale and least value of 6 bits for each 32, 5 bits each.
    Q5K,
    /// 256 numbers: a scale of 8 bits for each 16, 6 bits each around 32.
    Q6K,
    /// 32 numbers: a scale, 4 bits each that name one of 16 levels.
    Iq4Nl,
    /// 256 numbers: a scale of 6 bits for each 32, 4 bits each that name one of 16 levels.
    Iq4Xs,
    /// 32 numbers: a power of two, 4 bits each that are a float of their own.
    Mxfp4,
}

/// Levels of the encodings IQ4.
const LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Twice the floats of 4 bits (E2M1) of the OCP Microscaling specification 1.0.
const FLOATS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The names that go with the numbers of the specification.
pub(super) fn name(kind: u32) -> String {
    let known = match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16..=19 | 21 | 22 | 29 => "an IQ type of less than 4 bits",
        40 => "NVFP4",
        34 | 35 => "a ternary type",
        _ => return format!("type {kind}"),
    };
    known.to_owned()
}

impl Encoding {
    pub(super) fn from_kind(kind: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            20 => Self::Iq4Nl,
            23 => Self::Iq4Xs,
            30 => Self::Bf16,
            39 => Self::Mxfp4,
            _ => return None,
        })
    }

    /// Numbers and bytes of a block.
    pub(super) fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 2 + 32),
            Self::Q4_0 | Self::Iq4Nl => (32, 2 + 16),
            Self::Q4_1 => (32, 2 + 2 + 16),
            Self::Q5_0 => (32, 2 + 4 + 16),
            Self::Q5_1 => (32, 2 + 2 + 4 + 16),
            Self::Mxfp4 => (32, 1 + 16),
            Self::Q2K => (256, 16 + 64 + 2 + 2),
            Self::Q3K => (256, 32 + 64 + 12 + 2),
            Self::Q4K => (256, 2 + 2 + 12 + 128),
            Self::Q5K => (256, 2 + 2 + 12 + 32 + 128),
            Self::Iq4Xs => (256, 2 + 2 + 4 + 128),
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
                Self::Q5_0 => {
                    let scale = half(block);
                    let quants = fives(&block[2..]);
                    numbers.extend(quants.map(|quant| scale * (f32::from(quant) - 16.0)));
                }
                Self::Q5_1 => {
                    let (scale, least) = (half(block), half(&block[2..]));
                    let quants = fives(&block[4..]);
                    numbers.extend(quants.map(|quant| scale * f32::from(quant) + least));
                }
                Self::Iq4Nl => {
                    let scale = half(block);
                    let quants = nibbles(&block[2..]);
                    let level = |quant| scale * f32::from(LEVELS[usize::from(quant)]);
                    numbers.extend(quants.map(level));
                }
                Self::Mxfp4 => {
                    let scale = half_power(block[0]);
                    let quants = nibbles(&block[1..]);
                    let float = |quant| scale * f32::from(FLOATS[usize::from(quant)]);
                    numbers.extend(quants.map(float));
                }
                Self::Q2K => decode_q2_k(block, &mut numbers),
                Self::Q3K => decode_q3_k(block, &mut numbers),
                Self::Q4K => decode_q4_k(block, &mut numbers),
                Self::Q5K => decode_q5_k(block, &mut numbers),
                Self::Iq4Xs => decode_iq4_xs(block, &mut numbers),
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

/// Numbers of 5 bits: the fifth of all in four bytes, then the other four as [`nibbles`].
fn fives(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let top = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let fifth = move |place: usize| ((top >> place & 1) << 4) as u8;
    nibbles(&bytes[4..20])
        .enumerate()
        .map(move |(place, low)| low | fifth(place))
}

/// Half of the power of two that a byte of exponent (E8M0) stands for.
fn half_power(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    f32::from_bits(if exponent < 2 {
        0x0020_0000 << exponent
    } else {
        (exponent - 1) << 23
    })
}

/// Scale and least value of one of eight times 32 numbers.
fn six_bits(packed: &[u8], index: usize) -> (u8, u8) {
    // The first four of each have their 6 bits in a byte of their own; the others take 4 bits from the last four bytes,
    // 2 from the top of these.
    if index < 4 {
        return (packed[index] & 0x3f, packed[index + 4] & 0x3f);
    }
    let low = packed[index + 4];
    (
        low & 0xf | packed[index - 4] >> 2 & 0x30,
        low >> 4 | packed[index] >> 2 & 0x30,
    )
}

/// The two bits of a number in 64 bytes: two halves of 128 numbers, 32 bytes each, four times two bits to a byte.
fn two_bits(quants: &[u8], index: usize) -> u8 {
    let (part, within) = (index / 128, index % 128);
    quants[32 * part + within % 32] >> (within / 32 * 2) & 3
}

fn decode_q2_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (scales, rest) = block.split_at(16);
    let (quants, rest) = rest.split_at(64);
    let (scale, least) = (half(rest), half(&rest[2..]));
    for index in 0..256 {
        let packed = scales[index / 16];
        let (own, own_least) = (
            scale * f32::from(packed & 0xf),
            least * f32::from(packed >> 4),
        );
        numbers.push(own * f32::from(two_bits(quants, index)) - own_least);
    }
}

fn decode_q3_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (high, rest) = block.split_at(32);
    let (quants, rest) = rest.split_at(64);
    let (packed, scale) = rest.split_at(12);
    let scale = half(scale);
    for index in 0..256 {
        // Of sixteen scales the low four bits in the halves of eight bytes, the high two in four more.
        let group = index / 16;
        let low = packed[group % 8] >> (group / 8 * 4) & 0xf;
        let top = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let own = scale * (f32::from(low | top << 4) - 32.0);
        // A set bit says that nothing is to be taken away.
        let bit = high[index % 32] >> (index / 32) & 1;
        let quant = f32::from(two_bits(quants, index)) - f32::from((bit ^ 1) << 2);
        numbers.push(own * quant);
    }
}

fn decode_q5_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (scale, least) = (half(block), half(&block[2..]));
    let (packed, rest) = block[4..].split_at(12);
    let (high, low) = rest.split_at(32);
    for index in 0..256 {
        let group = index / 32;
        let (own, own_least) = six_bits(packed, group);
        let (own, own_least) = (scale * f32::from(own), least * f32::from(own_least));
        let nibble = low[group / 2 * 32 + index % 32] >> (group % 2 * 4) & 0xf;
        let top = high[index % 32] >> group & 1;
        numbers.push(own * f32::from(nibble | top << 4) - own_least);
    }
}

fn decode_iq4_xs(block: &[u8], numbers: &mut Vec<f32>) {
    let scale = half(block);
    let tops = u16::from_le_bytes([block[2], block[3]]);
    let (lows, quants) = block[4..].split_at(4);
    for (group, quants) in quants.chunks_exact(16).enumerate() {
        let low = lows[group / 2] >> (group % 2 * 4) & 0xf;
        let top = (tops >> (2 * group) & 3) as u8;
        let own = scale * (f32::from(low | top << 4) - 32.0);
        let level = |quant| own * f32::from(LEVELS[usize::from(quant)]);
        numbers.extend(nibbles(quants).map(level));
    }
}

fn decode_q4_k(block: &[u8], numbers: &mut Vec<f32>) {
    let (scale, least) = (half(block), half(&block[2..]));
    let (packed, quants) = block[4..].split_at(12);
    for (pair, quants) in quants.chunks_exact(32).enumerate() {
        for (index, shift) in [(2 * pair, 0), (2 * pair + 1, 4)] {
            let (own, own_least) = six_bits(packed, index);
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

//! From rewards to preference labels by the model of Bradley and Terry (1952), and whether the labels say anything:
//! with rewards that hardly differ, a sampled label is a coin and the preference term is noise.

use tch::Tensor;

use super::harmonic::{exact, numbers};
use crate::ops::random::uniform;

/// Probability that the first of two candidates is preferred: `sigmoid((first - second) / tau)`.
///
/// `tau` > 0 is the difference of rewards that counts as a clear preference (odds of e to 1).
pub fn probability(first: f64, second: f64, tau: f64) -> f64 {
    1.0 / (1.0 + (-(first - second) / tau).exp())
}

/// A label drawn from its probability: 1 or 0. The seed comes from [`derive_seed`](crate::ops::random::derive_seed)
/// with the counters of the visit, so that a resumed run draws the same.
pub fn sample(probability: f64, seed: i64) -> f64 {
    f64::from(u8::from(uniform(seed) < probability))
}

/// Entropy of a label in bits: 1 is a fair coin, 0 a certainty.
pub fn entropy_bits(probability: f64) -> f64 {
    let term = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
    term(probability) + term(1.0 - probability)
}

/// How far from one half a probability is at most to count as a coin flip.
const COIN: f64 = 0.02;
/// Bars of the histogram.
const BARS: usize = 8;

/// Figures of a set of labels.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Statistics {
    /// Number of pairs.
    pub pairs: usize,
    /// Mean probability that the first is preferred: the reference photo, or of two images the better one.
    pub mean_probability: f64,
    /// Mean entropy of a label in bits.
    pub mean_entropy_bits: f64,
    /// Share of pairs whose probability is within .02 of one half.
    pub coin_flips: f64,
    /// Mean of reward(first) - reward(second).
    pub mean_gap: f64,
    /// Its standard deviation over the pairs.
    pub gap_deviation: f64,
    /// How often which gap occurs.
    pub histogram: Vec<Bar>,
}

/// One bar of a histogram, for values from `from` up to `to`, the last one inclusive.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Bar {
    /// Lower end.
    pub from: f64,
    /// Upper end.
    pub to: f64,
    /// Values in it.
    pub count: usize,
}

/// Statistics of pairs of rewards (photo and image, or the better and the worse image), at least one, at temperature `tau`.
pub fn statistics(rewards: &[(f64, f64)], tau: f64) -> Statistics {
    let count = rewards.len() as f64;
    let mean = |value: &dyn Fn(f64, f64) -> f64| {
        rewards
            .iter()
            .map(|&(one, two)| value(one, two))
            .sum::<f64>()
            / count
    };
    let mean_gap = mean(&|one, two| one - two);
    let coin = |one, two| f64::from(u8::from((probability(one, two, tau) - 0.5).abs() < COIN));
    let gaps: Vec<f64> = rewards.iter().map(|(one, two)| one - two).collect();
    Statistics {
        pairs: rewards.len(),
        mean_probability: mean(&|one, two| probability(one, two, tau)),
        mean_entropy_bits: mean(&|one, two| entropy_bits(probability(one, two, tau))),
        coin_flips: mean(&coin),
        mean_gap,
        gap_deviation: mean(&|one, two| (one - two - mean_gap).powi(2)).sqrt(),
        histogram: histogram(&gaps),
    }
}

/// Counts finite values in bars of equal width between the least and the greatest.
fn histogram(values: &[f64]) -> Vec<Bar> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let bars = if least < greatest { BARS } else { 1 };
    let width = (greatest - least) / bars as f64;
    let mut counts = vec![0; bars];
    for value in values {
        let bar = ((value - least) / width) as usize;
        counts[bar.min(bars - 1)] += 1;
    }
    let edge = |bar: usize| least + width * bar as f64;
    let bars = counts.into_iter().enumerate();
    bars.map(|(bar, count)| Bar {
        from: edge(bar),
        to: edge(bar + 1),
        count,
    })
    .collect()
}

/// Cosine above which two generated images are the same picture to the encoder.
pub const NEAR_DUPLICATE: f64 = 0.98;

/// For each image that nearly repeats an earlier one, its index and that of the most similar earlier image.
///
/// `features` `[n, d]`, normalised; a pair counts where its cosine is above `threshold`.
pub fn near_duplicates(features: &Tensor, threshold: f64) -> Vec<(usize, usize)> {
    let features = exact(features);
    let mut found = Vec::new();
    for index in 1..features.size()[0] {
        let earlier = features.narrow(0, 0, index).matmul(&features.get(index)); // [index]
        let nearest = numbers(&earlier)
            .into_iter()
            .enumerate()
            .max_by(|one, two| one.1.total_cmp(&two.1));
        if let Some((nearest, cosine)) = nearest
            && cosine > threshold
        {
            found.push((index as usize, nearest));
        }
    }
    found
}

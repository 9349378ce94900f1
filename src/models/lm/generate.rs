//! Text from a language model: greedy or sampled, many prompts at once with a cache of keys and values. A text depends
//! on its own seed, not on what else is in the batch.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::attention::Cache;
use super::{LanguageModel, check_ids};
use crate::error::{Error, Result};
use crate::ops::halving::in_halves;
use crate::ops::random;
use crate::ops::transfer::{upload, upload_slice};

/// How the next token is chosen. Applied in this order, as in transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Only so many of the likeliest tokens.
    pub top_k: Option<i64>,
    /// Only the fewest of the likeliest tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f64,
    /// Longest text, in tokens.
    pub max_tokens: usize,
}

impl Sampling {
    /// Refuses numbers that no token can be drawn by.
    ///
    /// # Errors
    /// With all of them.
    pub fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let given = self.temperature;
            problems.push(format!("temperature is {given}, but must be at least 0"));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let given = self.top_p;
            problems.push(format!(
                "top-p is {given}, but must be above 0 and at most 1"
            ));
        }
        if self.top_k.is_some_and(|count| count < 1) {
            problems.push("top-k must be at least 1".to_owned());
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Config { problems })
        }
    }

    /// The tokens that may come next, likeliest first, and their probabilities, which sum to 1: logits `[b, v]` to two
    /// `[b, k]`, f32 and integer. A temperature of 0 counts as 1.
    pub fn candidates(&self, logits: &Tensor) -> (Tensor, Tensor) {
        let temperature = if self.temperature > 0.0 {
            self.temperature
        } else {
            1.0
        };
        let logits = logits.to_kind(Kind::Float) / temperature;
        let (scores, ids) = match self.top_k {
            Some(count) => logits.topk(count.min(logits.size()[1]), 1, true, true),
            None => logits.sort(1, true),
        };
        let probabilities = scores.softmax(1, Kind::Float);
        let before = probabilities.cumsum(1, Kind::Float) - &probabilities;
        // Rounding may bring a sum of all to just below 1.
        let left_out = before.ge(if self.top_p < 1.0 { self.top_p } else { 2.0 });
        let scores = scores.masked_fill(&left_out, f64::NEG_INFINITY);
        (scores.softmax(1, Kind::Float), ids)
    }

    /// A token for each row of logits `[b, v]`, integer `[b]`; `targets` has a number in `[0, 1)` for each, f64 `[b]`.
    fn draw(&self, logits: &Tensor, targets: &Tensor) -> Tensor {
        if self.temperature == 0.0 {
            return logits.argmax(1, false);
        }
        let (probabilities, ids) = self.candidates(logits);
        let sums = probabilities.cumsum(1, Kind::Double); // [b, k]
        let below = sums
            .le_tensor(&targets.unsqueeze(1))
            .sum_dim_intlist(1, false, Kind::Int64);
        // A number that rounding puts above the last sum takes the last token that may come.
        let last = probabilities.gt(0.0).sum_dim_intlist(1, false, Kind::Int64) - 1;
        // Where logits are not finite there is no last one either.
        let place = below.minimum(&last).clamp_min(0).unsqueeze(1); // [b, 1]
        ids.gather(1, &place, false).squeeze_dim(1)
    }
}

/// Tokens for which random numbers go to the device at once.
const DRAWN_TOGETHER: usize = 64;

/// Stands for a token where the logits are not finite.
const NOT_FINITE: i64 = -1;

/// A text that a model wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens without the prompt's, the one that ended it included.
    pub tokens: Vec<i64>,
    /// `true` if it came to an end by itself.
    pub ended: bool,
}

impl LanguageModel {
    /// Continues each of `prompts`, lists of token ids of any lengths, until one of the tokens `stop` or the longest
    /// length. `seeds` has one for each prompt.
    ///
    /// # Errors
    /// Settings out of range, an empty prompt, an unknown token, more tokens than the model was made for or GPT-2 has
    /// positions, or logits that are not finite.
    pub fn generate(
        &self,
        prompts: &[Vec<i64>],
        seeds: &[u64],
        sampling: &Sampling,
        stop: &[i64],
    ) -> Result<Vec<Generated>> {
        sampling.check()?;
        for (index, prompt) in prompts.iter().enumerate() {
            self.check_prompt(index, prompt, sampling.max_tokens)?;
        }
        if sampling.max_tokens == 0 {
            return Ok(vec![Generated::default(); prompts.len()]);
        }
        let parts = in_halves(prompts.len(), prompts.len(), |range| {
            self.write(&prompts[range.clone()], &seeds[range], sampling, stop)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    fn check_prompt(&self, index: usize, prompt: &[i64], more: usize) -> Result<()> {
        let number = index + 1;
        if prompt.is_empty() {
            return Err(Error::config(format!("prompt {number} has no tokens"))
                .with_hint("begin it with the token that begins a text"));
        }
        check_ids(self.config(), prompt)?;
        let positions = self.config().max_position_embeddings;
        if self.config().rope.is_none() && (prompt.len() + more) as i64 > positions + 1 {
            return Err(Error::config(format!(
                "prompt {number} has {} tokens and {more} may follow, but the model has {positions} positions",
                prompt.len()
            ))
            .with_hint("shorten the prompt, or ask for fewer tokens"));
        }
        let longest = self.config().longest().tokens;
        if prompt.len() > longest {
            return Err(Error::config(format!(
                "prompt {number} has {} tokens, but the model was made for at most {longest}",
                prompt.len()
            ))
            .with_hint("shorten the prompt, or take a model for longer texts"));
        }
        Ok(())
    }

    fn write(
        &self,
        prompts: &[Vec<i64>],
        seeds: &[u64],
        sampling: &Sampling,
        stop: &[i64],
    ) -> Result<Vec<Generated>> {
        let mut texts = vec![Generated::default(); prompts.len()];
        let (mut ids, mut mask) = left_padded(prompts, self.device());
        let (rows, longest) = (ids.size()[0], ids.size()[1]);
        let capacity = longest + sampling.max_tokens as i64;
        let options = (self.compute, self.device());
        let mut cache = Cache::new(self.config(), rows, capacity, options);
        let mut live: Vec<usize> = (0..prompts.len()).collect();
        let mut uniform = Tensor::new();
        for step in 0..sampling.max_tokens {
            let place = step % DRAWN_TOGETHER;
            if place == 0 {
                let steps = step..sampling.max_tokens.min(step + DRAWN_TOGETHER);
                let seeds: Vec<u64> = live.iter().map(|&text| seeds[text]).collect();
                uniform = upload(&uniform_numbers(&seeds, steps), self.device()); // [steps, b]
            }
            let hidden = self.forward_cached(&ids, mask.as_ref(), &mut cache); // [b, t, d]
            let logits = self.logits(&hidden.select(1, -1)); // [b, v]
            // NaN and infinity come through a maximum.
            let top = logits.amax([1].as_slice(), false); // [b]
            // NaN and infinity times 0 are NaN.
            let broken = (top * 0.0).ne(0.0);
            let drawn = sampling.draw(&logits, &uniform.select(0, place as i64));
            let drawn = drawn.masked_fill(&broken, NOT_FINITE);
            // The one wait for a token.
            let tokens = Vec::<i64>::try_from(&drawn)?;
            if tokens.contains(&NOT_FINITE) {
                return Err(Error::not_finite(self.folder(), "log-probs"));
            }
            let mut going = Vec::new();
            for (row, (&text, &token)) in live.iter().zip(&tokens).enumerate() {
                texts[text].tokens.push(token);
                texts[text].ended = stop.contains(&token);
                if !texts[text].ended {
                    going.push(row);
                }
            }
            if going.is_empty() {
                break;
            }
            let mut next = drawn;
            if going.len() < live.len() {
                let index: Vec<i64> = going.iter().map(|&row| row as i64).collect();
                let index = upload_slice(&index, self.device());
                cache.keep(&index);
                mask = mask.map(|mask| mask.index_select(0, &index));
                uniform = uniform.index_select(1, &index);
                next = next.index_select(0, &index);
                live = going.iter().map(|&row| live[row]).collect();
            }
            ids = next.unsqueeze(1); // [b, 1]
            mask = mask.map(|mask| {
                let more = Tensor::ones([ids.size()[0], 1], (Kind::Bool, self.device()));
                Tensor::cat(&[mask, more], 1)
            });
        }
        Ok(texts)
    }
}

/// Numbers in `[0, 1)` for some tokens of texts, f64 `[steps, texts]`, each from its text's seed and its place.
fn uniform_numbers(seeds: &[u64], steps: Range<usize>) -> Tensor {
    let shape = [steps.len() as i64, seeds.len() as i64];
    let numbers = steps.flat_map(|step| {
        seeds
            .iter()
            .map(move |&seed| random::uniform(random::derive_seed(seed, "token", &[step as u64])))
    });
    Tensor::from_slice(&numbers.collect::<Vec<f64>>()).view(shape.as_slice())
}

/// Prompts as one `[b, t]`, the shorter ones padded on the left, and where their tokens are; `None` where all are of
/// one length.
fn left_padded(prompts: &[Vec<i64>], device: tch::Device) -> (Tensor, Option<Tensor>) {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut ids = Vec::with_capacity(prompts.len() * longest);
    let mut mask = Vec::with_capacity(prompts.len() * longest);
    for prompt in prompts {
        let padding = longest - prompt.len();
        ids.extend(std::iter::repeat_n(0, padding).chain(prompt.iter().copied()));
        mask.extend((0..longest).map(|column| column >= padding));
    }
    let shape = [prompts.len() as i64, longest as i64];
    let even = mask.iter().all(|&there| there);
    let mask = (!even).then(|| upload_slice(&mask, device).view(shape));
    (upload_slice(&ids, device).view(shape), mask)
}

//! The part of `preftune eval text` that has models write: answers of two models to the same prompts from the same seeds,
//! and what a scorer says of them.

use std::path::Path;

use tch::{Device, Kind};

use super::text::Figure;
use crate::cli::generate_text;
use crate::cli::progress::Progress;
use crate::cli::sample_text::Sampler;
use crate::cli::scorer::Scorer;
use crate::config::Scoring;
use crate::data::text::{self, Prompt};
use crate::error::Result;
use crate::ops::random::derive_seed;
use crate::rewards::pool::Verdict;

/// What two models are asked, and by what they are judged.
pub(super) struct Contest<'a> {
    pub(super) model: &'a Path,
    pub(super) other: &'a Path,
    /// What the other is beside the model: its base, or any other.
    pub(super) role: &'static str,
    pub(super) prompts: &'a Path,
    pub(super) scoring: &'a Scoring,
    pub(super) seed: u64,
    pub(super) device: (Device, Kind),
}

impl Contest<'_> {
    /// Win rate of the model over the other, and where the scorer gives rewards, those of both; with how many prompts.
    pub(super) fn figures(&self, progress: &mut Progress) -> Result<(Vec<Figure>, usize)> {
        let prompts = text::prompts(self.prompts)?;
        let own = self.answers(self.model, &prompts, "answers", progress)?;
        let others = self.answers(self.other, &prompts, "other's answers", progress)?;
        let mut scorer = Scorer::open(&self.scoring.scorer, self.device)?;
        let (mut wins, mut rewards) = (Vec::new(), [Vec::new(), Vec::new()]);
        for (place, prompt) in prompts.iter().enumerate() {
            let mut of_prompt = Vec::new();
            let mut rewards_of_prompt = [Vec::new(), Vec::new()];
            for (own, other) in own[place].iter().zip(&others[place]) {
                match scorer.score(prompt, &[own.clone(), other.clone()])? {
                    Verdict::Preferences(rows) => of_prompt.push(rows[0][1]),
                    Verdict::Rewards(values) => {
                        let order = values[0].total_cmp(&values[1]) as i8;
                        of_prompt.push(f64::midpoint(f64::from(order), 1.0));
                        for (side, value) in rewards_of_prompt.iter_mut().zip(values) {
                            side.push(value);
                        }
                    }
                }
            }
            wins.push(of_prompt);
            for (all, own) in rewards.iter_mut().zip(rewards_of_prompt) {
                all.push(own);
            }
            progress.advance("scores", place as u64 + 1, prompts.len() as u64);
        }
        let mut figures = vec![Figure::clustered("win rate", &wins)];
        if !scorer.compares() {
            figures.push(Figure::clustered("reward", &rewards[0]));
            figures.push(Figure::clustered("reward", &rewards[1]).of_model(self.role));
        }
        Ok((figures, prompts.len()))
    }

    fn answers(
        &self,
        model: &Path,
        prompts: &[Prompt],
        phase: &'static str,
        progress: &mut Progress,
    ) -> Result<Vec<Vec<String>>> {
        let (device, kind) = self.device;
        let section = &self.scoring.generate;
        let sampler = Sampler::new(generate_text::open(model, device, kind)?, section);
        let samples = section.validation_samples;
        let seed = |line: usize, sample: usize| {
            derive_seed(self.seed, "evaluation", &[line as u64, sample as u64]) as u64
        };
        let asked: Vec<(&Prompt, u64)> = prompts
            .iter()
            .flat_map(|prompt| (0..samples).map(move |sample| (prompt, seed(prompt.line, sample))))
            .collect();
        let mut answers = Vec::new();
        for part in asked.chunks(section.batch) {
            let written = sampler.answers(part)?;
            answers.extend(written.into_iter().map(|written| written.text));
            progress.advance(phase, answers.len() as u64, asked.len() as u64);
        }
        Ok(answers.chunks(samples).map(<[_]>::to_vec).collect())
    }
}

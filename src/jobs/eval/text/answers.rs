//! Answers of two models to the same prompts from the same seeds, and what a scorer says of them.

use std::path::Path;

use serde_json::json;
use tch::{Device, Kind};

use super::figure::{BASE, Figure};
use crate::config::Scoring;
use crate::data::text::{self, Prompt, Reading};
use crate::error::Result;
use crate::jobs::Display;
use crate::jobs::judge::scorer::{Flips, Scorer};
use crate::jobs::open::sampler::Sampler;
use crate::jobs::open::text::open as open_text;
use crate::ops::random::derive_seed;
use crate::rewards::pool::Verdict;

/// Two models, their prompts and their judge.
pub(super) struct Contest<'a> {
    pub(super) model: &'a Path,
    pub(super) other: &'a Path,
    /// The role of the other model: its base, or any other.
    pub(super) role: &'static str,
    pub(super) prompts: &'a Path,
    pub(super) scoring: &'a Scoring,
    pub(super) seed: u64,
    pub(super) device: (Device, Kind),
}

/// The outcome of a contest.
pub(super) struct Contested {
    /// Win rate of the model over the other, and where the scorer gives rewards, those of both.
    pub(super) figures: Vec<Figure>,
    /// How many prompts both answered.
    pub(super) prompts: usize,
    /// The answers and what the scorer gave for them, a line of JSON for each prompt.
    pub(super) answers: String,
    /// How far a scorer that compares went by the order.
    pub(super) flips: Option<Flips>,
}

impl Contest<'_> {
    /// Both write, the scorer judges.
    pub(super) fn figures(&self, display: &mut dyn Display) -> Result<Contested> {
        let read = text::prompts(self.prompts, &Reading::default())?;
        for line in read.notes.lines() {
            display.say(&line);
        }
        let prompts = read.rows;
        let raw = self.scoring.generate.raw.then_some(true);
        let (own, was_raw) = self.answers((self.model, raw), &prompts, "answers", display)?;
        // The model that it was tuned from is asked as it is.
        let of_base = (self.role == BASE).then_some(was_raw);
        let other = (self.other, raw.or(of_base));
        let (others, _) = self.answers(other, &prompts, "other's answers", display)?;
        let mut scorer = Scorer::open(&self.scoring.scorer, self.device)?;
        for warning in scorer.warnings() {
            display.warn(warning);
        }
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
            display.advance("scores", place as u64 + 1, prompts.len() as u64);
        }
        let rows = prompts.iter().enumerate().map(|(place, prompt)| {
            let of_prompt = |side: &[Vec<f64>]| side.get(place).cloned().unwrap_or_default();
            json!({
                "prompt": prompt.text.to_value(), "answers": own[place], "other": others[place],
                "other_is": self.role, "wins": wins[place], "rewards": of_prompt(&rewards[0]),
                "other_rewards": of_prompt(&rewards[1]),
            })
            .to_string()
                + "\n"
        });
        let rows: String = rows.collect();
        let mut figures = vec![Figure::clustered("win rate", &wins)];
        if !scorer.compares() {
            figures.push(Figure::clustered("reward", &rewards[0]));
            figures.push(Figure::clustered("reward", &rewards[1]).of_model(self.role));
        }
        Ok(Contested {
            figures,
            prompts: prompts.len(),
            answers: rows,
            flips: scorer.flips(),
        })
    }

    /// A model's answers, and whether it was asked in words as they are.
    fn answers(
        &self,
        (model, raw): (&Path, Option<bool>),
        prompts: &[Prompt],
        phase: &'static str,
        display: &mut dyn Display,
    ) -> Result<(Vec<Vec<String>>, bool)> {
        let (device, kind) = self.device;
        let section = &self.scoring.generate;
        let loaded = open_text(model, device, kind)?.with_words(raw);
        let was_raw = loaded.tokenizer.is_raw();
        let sampler = Sampler::new(loaded, section);
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
            display.advance(phase, answers.len() as u64, asked.len() as u64);
        }
        let answers = answers.chunks(samples).map(<[_]>::to_vec).collect();
        Ok((answers, was_raw))
    }
}

//! Scorers, which say which answers of a language model are good. A new kind of scorer is one variant here.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::config::{ScorerKind, ScorerSection};
use crate::data::text::{Prompt, Text, put_variables};
use crate::error::{Error, Result};
use crate::jobs::interrupt::Interrupt;
use crate::jobs::judge::command::Judge;
use crate::jobs::judge::texts::{Opinion, TextJudge};
use crate::ops::stable::sigmoid;
use crate::rewards::comparable::{Choice, configured};
use crate::rewards::pool::Verdict;
use crate::rewards::transform::Reference;

/// A scorer at work.
pub(crate) enum Scorer {
    /// Good words less bad words.
    Words { good: Vec<String>, bad: Vec<String> },
    /// Nearness to a length in characters.
    Length { target: f64 },
    /// A command that gives rewards.
    Rewards(Asked),
    /// A command that compares.
    Preferences(Asked),
    /// A reward model with the place of the output that is the reward, or a preference model.
    Model {
        judge: Box<TextJudge>,
        output: usize,
    },
}

/// The transform of rewards before answers are learnt from; `None` for nothing.
///
/// # Errors
/// A transform or a reference that does not exist, or that rounds cannot take.
pub(crate) fn transform(section: &ScorerSection) -> Result<Option<(Choice, Reference)>> {
    let asked = configured("scorer", section.transform.as_deref(), &section.reference)?;
    match asked {
        Some((Choice::And, _)) if section.kind != ScorerKind::Model => Err(Error::config(
            "`scorer.transform = \"and\"` takes several rewards of an answer, and only `kind = \"model\"` gives them",
        )),
        Some((_, Reference::Canonical)) => Err(Error::config(
            "`scorer.reference = \"canonical\"`: rounds know no answers that are acceptable",
        )
        .with_hint("use `mean`, `quantile:0.85`, `gaussian:0.85` or `fixed:VALUE`")),
        asked => Ok(asked),
    }
}

/// A command and how often it was asked.
pub(crate) struct Asked {
    judge: Judge,
    questions: u64,
    flips: Flips,
}

/// How often a judge's answer turned with the order in which two answers were shown.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Flips {
    /// Pairs that were asked for in both orders.
    pub pairs: u64,
    /// Of these, pairs in which the other answer won in the other order.
    pub flips: u64,
}

impl Flips {
    fn take(&mut self, forth: f64, back: f64) {
        self.pairs += 1;
        self.flips += u64::from((forth - 0.5) * (back - 0.5) > 0.0);
    }

    pub(crate) fn in_words(self) -> String {
        let share = 100.0 * self.flips as f64 / self.pairs.max(1) as f64;
        format!(
            "the judge's answer turned with the order in {} of {} pairs ({share:.1} %)",
            self.flips, self.pairs
        )
    }
}

impl Scorer {
    /// The scorer of a configuration; a model computes on `device`.
    pub(crate) fn open(section: &ScorerSection, (device, kind): (Device, Kind)) -> Result<Self> {
        let lower = |words: &[String]| words.iter().map(|word| word.to_lowercase()).collect();
        let start = || {
            let patience = Duration::from_secs(section.patience);
            Ok::<_, crate::error::Error>(Asked {
                judge: Judge::start(&section.command, patience)?,
                questions: 0,
                flips: Flips::default(),
            })
        };
        Ok(match section.kind {
            ScorerKind::Words => Self::Words {
                good: lower(&section.good),
                bad: lower(&section.bad),
            },
            ScorerKind::Length => Self::Length {
                target: section.target as f64,
            },
            ScorerKind::Rewards => Self::Rewards(start()?),
            ScorerKind::Preferences => Self::Preferences(start()?),
            ScorerKind::Model => {
                let judge = Box::new(TextJudge::open(&section.model, device, kind)?);
                if judge.compares() && section.transform.is_some() {
                    return Err(Error::config(
                        "`scorer.transform` takes rewards, and a general preference model gives none",
                    ));
                }
                let output = output(section, &judge.outputs)?;
                Self::Model { judge, output }
            }
        })
    }

    /// The same scorer, for whom nobody waits once `interrupt` is requested.
    pub(crate) fn until(self, interrupt: &Interrupt) -> Self {
        let until = |asked: Asked| Asked {
            judge: asked.judge.until(interrupt),
            ..asked
        };
        match self {
            Self::Rewards(asked) => Self::Rewards(until(asked)),
            Self::Preferences(asked) => Self::Preferences(until(asked)),
            scorer => scorer,
        }
    }

    /// Warnings, to be known before its numbers are believed.
    pub(crate) fn warnings(&self) -> &[String] {
        match self {
            Self::Model { judge, .. } => judge.warnings(),
            _ => &[],
        }
    }

    /// `true` if it compares answers and knows no rewards.
    pub(crate) fn compares(&self) -> bool {
        match self {
            Self::Preferences(_) => true,
            Self::Model { judge, .. } => judge.compares(),
            Self::Words { .. } | Self::Length { .. } | Self::Rewards(_) => false,
        }
    }

    /// How far a command that compares went by the order; none of what is not asked in both orders.
    pub(crate) fn flips(&self) -> Option<Flips> {
        match self {
            Self::Preferences(asked) if asked.flips.pairs > 0 => Some(asked.flips),
            _ => None,
        }
    }

    /// All rewards of each answer, `[answer][output]`, the one that [`Self::score`] gives first; only of what does not
    /// compare.
    pub(crate) fn rewards(&mut self, prompt: &Prompt, answers: &[String]) -> Result<Vec<Vec<f64>>> {
        if let Self::Model { judge, output } = self {
            let mut rewards = opinion(judge, prompt, answers)?.rewards();
            for rewards in &mut rewards {
                rewards.swap(0, *output);
            }
            return Ok(rewards);
        }
        match self.score(prompt, answers)? {
            Verdict::Rewards(rewards) => Ok(rewards.into_iter().map(|one| vec![one]).collect()),
            Verdict::Preferences(_) => {
                Err(Error::config("the scorer compares, and gives no rewards"))
            }
        }
    }

    /// Its verdict on the answers to a prompt. Pairs are asked for in both orders, equal answers are equally good.
    pub(crate) fn score(&mut self, prompt: &Prompt, answers: &[String]) -> Result<Verdict> {
        match self {
            Self::Words { good, bad } => {
                let count = |answer: &String| words(answer, good) - words(answer, bad);
                Ok(Verdict::Rewards(answers.iter().map(count).collect()))
            }
            Self::Length { target } => {
                let near = |answer: &String| -(answer.chars().count() as f64 / *target - 1.0).abs();
                Ok(Verdict::Rewards(answers.iter().map(near).collect()))
            }
            Self::Rewards(asked) => {
                let rewards = answers.iter().map(|answer| {
                    let id = asked.next();
                    let question = question(prompt, json!({"id": id, "response": answer}));
                    asked.judge.reward(id, &question)
                });
                Ok(Verdict::Rewards(rewards.collect::<Result<_>>()?))
            }
            Self::Preferences(asked) => {
                let count = answers.len();
                let mut rows = vec![vec![0.5; count]; count];
                for one in 0..count {
                    for other in one + 1..count {
                        if answers[one] == answers[other] {
                            continue;
                        }
                        let mut ask = |first: usize, second: usize| {
                            let id = asked.next();
                            let answers = (&answers[first], &answers[second]);
                            let answers =
                                json!({"id": id, "first": answers.0, "second": answers.1});
                            let question = question(prompt, answers);
                            asked.judge.preference(id, &question)
                        };
                        let (forth, back) = (ask(one, other)?, ask(other, one)?);
                        asked.flips.take(forth, back);
                        let wins = f64::midpoint(forth, 1.0 - back);
                        (rows[one][other], rows[other][one]) = (wins, 1.0 - wins);
                    }
                }
                Ok(Verdict::Preferences(rows))
            }
            Self::Model { judge, output } => Ok(match opinion(judge, prompt, answers)? {
                Opinion::Rewards(rewards) => {
                    Verdict::Rewards(rewards.iter().map(|all| all[*output]).collect())
                }
                Opinion::LogOdds(table) => {
                    let row = |row: &Vec<f64>| row.iter().copied().map(sigmoid).collect();
                    Verdict::Preferences(table.iter().map(row).collect())
                }
            }),
        }
    }
}

/// A model's opinion of answers in the form of their prompt.
fn opinion(judge: &TextJudge, prompt: &Prompt, answers: &[String]) -> Result<Opinion> {
    let answers: Vec<Text> = answers
        .iter()
        .map(|answer| prompt.text.answered_by(answer))
        .collect();
    judge.of_answers(&prompt.text, &prompt.variables, &answers)
}

/// The question to a command: answers with their prompt and what that has for the chat template.
fn question(prompt: &Prompt, mut answers: Value) -> Value {
    prompt.text.put(&mut answers);
    put_variables(&mut answers, &prompt.variables);
    answers
}

/// The place of the output that is the reward.
fn output(section: &ScorerSection, outputs: &[String]) -> Result<usize> {
    let Some(name) = &section.output else {
        return Ok(0);
    };
    let place = outputs.iter().position(|output| output == name);
    place.ok_or_else(|| {
        Error::config(format!("the scorer has no output `{name}`"))
            .with_hint(format!("it has: {}", outputs.join(", ")))
    })
}

impl Asked {
    fn next(&mut self) -> u64 {
        self.questions += 1;
        self.questions - 1
    }
}

/// How many of the words of a text are among these.
fn words(text: &str, among: &[String]) -> f64 {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '\'');
    words
        .filter(|word| among.contains(&word.to_lowercase()))
        .count() as f64
}

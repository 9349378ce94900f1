//! What says which answers of a language model are good. A new kind of scorer is one variant here.

use std::time::Duration;

use serde_json::{Value, json};

use super::judge::Judge;
use crate::config::{ScorerKind, ScorerSection};
use crate::data::text::Text;
use crate::error::Result;
use crate::rewards::pool::Verdict;

/// A scorer at work.
pub(super) enum Scorer {
    /// Good words less bad words.
    Words { good: Vec<String>, bad: Vec<String> },
    /// Nearness to a length in characters.
    Length { target: f64 },
    /// A command that gives rewards.
    Rewards(Asked),
    /// A command that compares.
    Preferences(Asked),
}

/// A command and how often it was asked.
pub(super) struct Asked {
    judge: Judge,
    questions: u64,
}

impl Scorer {
    /// The scorer of a configuration.
    pub(super) fn open(section: &ScorerSection) -> Result<Self> {
        let lower = |words: &[String]| words.iter().map(|word| word.to_lowercase()).collect();
        let start = || {
            let patience = Duration::from_secs(section.patience);
            Ok::<_, crate::error::Error>(Asked {
                judge: Judge::start(&section.command, patience)?,
                questions: 0,
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
        })
    }

    /// Whether it compares answers and knows no rewards.
    pub(super) fn compares(section: &ScorerSection) -> bool {
        section.kind == ScorerKind::Preferences
    }

    /// What it says of the answers to a prompt. Pairs are asked for in both orders, equal answers are equally good.
    pub(super) fn score(&mut self, prompt: &Text, answers: &[String]) -> Result<Verdict> {
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
                let prompt = shown(prompt);
                let rewards = answers.iter().map(|answer| {
                    let id = asked.next();
                    let question = json!({"id": id, "prompt": prompt, "response": answer});
                    asked.judge.reward(id, &question)
                });
                Ok(Verdict::Rewards(rewards.collect::<Result<_>>()?))
            }
            Self::Preferences(asked) => {
                let prompt = shown(prompt);
                let count = answers.len();
                let mut rows = vec![vec![0.5; count]; count];
                for one in 0..count {
                    for other in one + 1..count {
                        if answers[one] == answers[other] {
                            continue;
                        }
                        let mut ask = |first: usize, second: usize| {
                            let id = asked.next();
                            let question = json!({"id": id, "prompt": prompt, "first": answers[first],
                                "second": answers[second]});
                            asked.judge.preference(id, &question)
                        };
                        let wins = f64::midpoint(ask(one, other)?, 1.0 - ask(other, one)?);
                        (rows[one][other], rows[other][one]) = (wins, 1.0 - wins);
                    }
                }
                Ok(Verdict::Preferences(rows))
            }
        }
    }
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

/// A prompt as a command sees it: words, or messages.
fn shown(prompt: &Text) -> Value {
    prompt.column()
}

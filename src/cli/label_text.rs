//! `preftune label --data`: the best and the worst answer to each prompt by a reward model, as pairs to train on.

use std::path::Path;

use serde_json::json;

use super::text_rewards::TextJudge;
use super::transform::TransformArgs;
use crate::data::text::{self, Text};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::rewards::bradley_terry::probability;

/// What decides the pairs.
pub(super) struct Request<'a> {
    pub(super) data: &'a Path,
    pub(super) out: &'a Path,
    pub(super) transform: &'a TransformArgs,
    /// Difference of rewards that counts as 1.
    pub(super) tau: f64,
}

/// Writes a pair for each prompt with two answers or more that differ in their reward.
pub(super) fn run(request: &Request, judge: &TextJudge) -> Result<()> {
    let Request {
        data,
        out,
        transform,
        tau,
    } = *request;
    let (_, records) = text::read_any(data)?;
    let rewards = records
        .iter()
        .map(|record| judge.of_record(data, record))
        .collect::<Result<Vec<_>>>()?;
    let values = transform.of_answers(&rewards, tau)?;
    let mut lines = Vec::new();
    let mut pairs = 0;
    for (place, record) in records.iter().enumerate() {
        let value = |answer: usize| match &values {
            Some(values) => values[place][answer],
            None => rewards[place][answer][0] / tau,
        };
        let order = |one: &usize, other: &usize| value(*one).total_cmp(&value(*other));
        let answers = 0..record.answers.len();
        let (Some(best), Some(worst)) = (answers.clone().max_by(order), answers.min_by(order))
        else {
            continue;
        };
        // Of equal answers neither is to be preferred.
        if value(best) <= value(worst) {
            continue;
        }
        if matches!(record.prompt, Text::Ids(_)) {
            let problem = "token ids cannot be written down as prompt and answers";
            return Err(Error::data_line(data, record.line, problem));
        }
        let mut line = json!({
            "prompt": record.prompt.column(),
            "chosen": record.answers[best].column(),
            "rejected": record.answers[worst].column(),
            "chosen_score": rewards[place][best][0],
            "rejected_score": rewards[place][worst][0],
            "chosen_prob": probability(value(best), value(worst), 1.0),
            "margin": value(best) - value(worst),
        });
        let mut variables = record.variables.clone();
        if let Some(tools) = variables.remove("tools") {
            line["tools"] = tools;
        }
        if !variables.is_empty() {
            line["chat_template_kwargs"] = variables.into();
        }
        lines.extend_from_slice(line.to_string().as_bytes());
        lines.push(b'\n');
        pairs += 1;
    }
    if pairs == 0 {
        return Err(Error::data(
            data,
            "has no prompt with two answers whose rewards differ",
        ));
    }
    write_atomically(out, &lines)?;
    eprintln!("{pairs} pairs of {} prompts", records.len());
    println!("{}", out.display());
    Ok(())
}

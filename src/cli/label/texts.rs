//! `preftune label --data`: answers to each prompt in pairs by what a reward model says of them, to train on.

use std::path::Path;

use serde_json::json;

use crate::cli::label::choices::{LabelKind, Pairing};
use crate::cli::output::print_json;
use crate::cli::progress::{Progress, tell, warn_of};
use crate::cli::transform::TransformArgs;
use crate::data::text::{self, Record, Text, put_variables};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::jobs::judge::references::rewards_of_references;
use crate::jobs::judge::texts::{Opinion, TextJudge};
use crate::ops::random::derive_seed;
use crate::rewards::bradley_terry::{probability, sample, statistics};

/// The options of `label --data`.
pub(crate) struct Request<'a> {
    pub(crate) data: &'a Path,
    pub(crate) reward: &'a Path,
    pub(crate) out: &'a Path,
    pub(crate) transform: &'a TransformArgs,
    /// Difference of rewards that counts as 1.
    pub(crate) tau: f64,
    pub(crate) pairing: Pairing,
    pub(crate) labels: LabelKind,
    /// `true` if the difference is written as a margin that is learnt.
    pub(crate) margin: bool,
    pub(crate) seed: u64,
    pub(crate) as_json: bool,
    /// `true` if nothing is said of the file.
    pub(crate) quiet: bool,
}

impl Request<'_> {
    /// Refuses what does not go together.
    fn check(&self) -> Result<()> {
        if self.margin && self.labels == LabelKind::Sampled {
            let problem = "`--margin` with `--labels sampled`: a label that was drawn for the worse answer has no margin";
            return Err(Error::config(problem).with_hint("leave one of the two out"));
        }
        Ok(())
    }
}

/// Refuses a record that cannot be written down.
fn check_words(data: &Path, record: &Record) -> Result<()> {
    if matches!(record.prompt, Text::Ids(_)) {
        let problem = "token ids cannot be written down as prompt and answers";
        return Err(Error::data_line(data, record.line, problem));
    }
    Ok(())
}

/// Writes the pairs of each prompt's answers that the model tells apart.
pub(crate) fn run(request: &Request, judge: &TextJudge) -> Result<()> {
    request.check()?;
    let Request {
        data,
        out,
        transform,
        tau,
        ..
    } = *request;
    let (_, read) = text::read_any(data)?;
    tell(&read.notes, request.quiet);
    let records = read.rows;
    warn_of(&judge.warnings_on(records.iter().map(|record| &record.prompt)));
    let opinions = records
        .iter()
        .map(|record| judge.opinion(data, record))
        .collect::<Result<Vec<_>>>()?;
    // A preference model's own log-odds of a pair say more than two means of them.
    let log_odds: Vec<Option<Vec<Vec<f64>>>> = opinions
        .iter()
        .map(|opinion| match opinion {
            Opinion::LogOdds(table) => Some(table.clone()),
            Opinion::Rewards(_) => None,
        })
        .collect();
    let rewards: Vec<Vec<Vec<f64>>> = opinions.into_iter().map(Opinion::rewards).collect();
    let baseline = |path: &Path| {
        rewards_of_references(
            judge,
            request.reward,
            path,
            (data, &records),
            &mut Progress::new(false),
        )
    };
    let values = transform.of_answers(&rewards, tau, baseline)?;
    let (mut lines, mut gaps) = (Vec::new(), Vec::new());
    for (place, record) in records.iter().enumerate() {
        let value = |answer: usize| match &values {
            Some(values) => values[place][answer],
            None => rewards[place][answer][0] / tau,
        };
        check_words(data, record)?;
        let gap = |one: usize, other: usize| match (&values, &log_odds[place]) {
            (None, Some(table)) => table[one][other] / tau,
            _ => value(one) - value(other),
        };
        for (index, (mut chosen, mut rejected)) in
            pairs(request.pairing, record.answers.len(), &value)
                .into_iter()
                .enumerate()
        {
            if gap(chosen, rejected) < 0.0 {
                (chosen, rejected) = (rejected, chosen);
            }
            // Of equal answers neither is to be preferred.
            if gap(chosen, rejected) <= 0.0 {
                continue;
            }
            let probable = probability(gap(chosen, rejected), 0.0, 1.0);
            gaps.push((gap(chosen, rejected), 0.0));
            let counters = [record.line as u64, index as u64];
            let seed = derive_seed(request.seed, "label", &counters);
            if request.labels == LabelKind::Sampled && sample(probable, seed) < 0.5 {
                (chosen, rejected) = (rejected, chosen);
            }
            let gap = gap(chosen, rejected);
            let mut line = json!({
                "prompt": null,
                "chosen": record.answers[chosen].to_value(),
                "rejected": record.answers[rejected].to_value(),
                "chosen_score": rewards[place][chosen][0],
                "rejected_score": rewards[place][rejected][0],
                "chosen_prob": probability(gap, 0.0, 1.0),
            });
            record.prompt.put(&mut line);
            if request.margin {
                line["margin"] = json!(gap);
            }
            put_variables(&mut line, &record.variables);
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
        }
    }
    if gaps.is_empty() {
        return Err(Error::data(
            data,
            "has no prompt with two answers whose rewards differ",
        ));
    }
    write_atomically(out, &lines)?;
    if request.as_json {
        let mut report = json!(statistics(&gaps, 1.0));
        report["prompts"] = json!(records.len());
        report["out"] = json!(out.to_string_lossy());
        print_json(&report);
    } else {
        eprintln!("{} pairs of {} prompts", gaps.len(), records.len());
        println!("{}", out.display());
    }
    Ok(())
}

/// The pairs of a prompt's answers.
fn pairs(pairing: Pairing, count: usize, value: &dyn Fn(usize) -> f64) -> Vec<(usize, usize)> {
    if pairing == Pairing::All {
        let pairs = |one: usize| (one + 1..count).map(move |other| (one, other));
        return (0..count).flat_map(pairs).collect();
    }
    let order = |one: &usize, other: &usize| value(*one).total_cmp(&value(*other));
    let ends = (0..count).max_by(order).zip((0..count).min_by(order));
    ends.into_iter().collect()
}

//! One round: answers of the policy, what the scorer says of them, records, training, and what the new policy is worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::{self, Answers, OWN, asked, judged};
use super::shared::{PolicyFigures, Shared};
use crate::config::{AdapterKind, Overlong, TextDataSection};
use crate::data::text::{Prompt, Record, Shape};
use crate::error::{Error, Result};
use crate::eval::bootstrap::{Bootstrap, mean};
use crate::files::write_atomically;
use crate::jobs;
use crate::jobs::RunOptions;
use crate::jobs::judge::scorer::Scorer;
use crate::jobs::open::sampler::{Sampler, Written};
use crate::jobs::open::text::open as open_text;
use crate::models::lm::LanguageModel;
use crate::models::lm::words::note;
use crate::ops::random::derive_seed;
use crate::rewards::comparable::of_answers;
use crate::rewards::pool::Verdict;
use crate::run::rows::Rows;
use crate::trainer::text::{Examples, compare};

/// The records of the round with those of earlier ones that are learnt from again.
const WITH_REPLAY: &str = "with_replay.jsonl";

/// The scorer's verdict on answers.
#[derive(Serialize, Deserialize)]
struct Scored {
    line: usize,
    #[serde(flatten)]
    verdict: Verdict,
    /// `[answer][output]`, where rewards are transformed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    all: Vec<Vec<f64>>,
}

/// A policy's answers to a held-out prompt beside the first policy's.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct JudgedAnswers {
    line: usize,
    /// The prompt; null in files of earlier versions.
    #[serde(default)]
    prompt: Value,
    responses: Vec<String>,
    /// Of each answer; none where the scorer compares.
    rewards: Vec<f64>,
    /// Probability of each answer to beat the first policy's of the same seed.
    wins: Vec<f64>,
}

/// File of a policy's figures in its round's folder.
pub(super) const FIGURES: &str = "metrics.json";

/// A round and the policies before and after it.
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) folder: PathBuf,
    /// Folder of the policy that the round begins with.
    pub(crate) from: PathBuf,
    /// Folder of the policy that it makes.
    pub(crate) policy: PathBuf,
}

type Counts = BTreeMap<String, f64>;

impl Round {
    /// Makes the round's policy: what is there already is not made again. Returns counts of the round.
    pub(crate) fn improve(
        &mut self,
        shared: &mut Shared,
        run: &Path,
        prompts: &[Prompt],
    ) -> Result<Counts> {
        let samples = shared.config.generate.samples;
        let answers = self.answers(shared, "answers", &self.from, prompts, samples)?;
        let pools = prompts.iter().zip(&answers);
        let pools: Vec<Vec<String>> = pools
            .map(|(prompt, answers)| judged(prompt, answers))
            .collect();
        let scored = self.scored(shared, "scores", prompts, &pools)?;
        let verdicts = self.transformed(shared, prompts, scored)?;
        let records = records::own(shared, prompts, &answers, &verdicts)?;
        let (count, used) = (records.len(), records.iter().map(|(line, _)| line));
        let used = used.collect::<std::collections::BTreeSet<_>>().len();
        if records.is_empty() {
            let flips = shared.scorer.as_ref().and_then(Scorer::flips);
            let flips = flips.map_or_else(String::new, |flips| format!(": {}", flips.in_words()));
            return Err(Error::Diverged {
                step: self.number,
                what: format!("in round {} no prompt has answers that the scorer tells apart{flips}", self.number),
            }
            .with_hint("more or longer answers, a higher `generate.temperature`, margins in `[labels]` that ask for less, or another scorer"));
        }
        let mut data = self.folder.join(OWN);
        let mut text: String = records
            .iter()
            .map(|(_, record)| record.to_string() + "\n")
            .collect();
        write_atomically(&data, text.as_bytes())?;
        let replayed = records::replayed(
            &shared.config.rounds,
            shared.config.run.seed,
            run,
            self.number,
        )?;
        if !replayed.is_empty() {
            data = self.folder.join(WITH_REPLAY);
            text.extend(replayed.iter().map(String::as_str));
            write_atomically(&data, text.as_bytes())?;
        }
        self.train(shared, &data, count + replayed.len())?;
        Ok(BTreeMap::from([
            ("prompts".to_owned(), prompts.len() as f64),
            (
                "prompts_without_record".to_owned(),
                (prompts.len() - used) as f64,
            ),
            ("records".to_owned(), count as f64),
            ("replayed".to_owned(), replayed.len() as f64),
        ]))
    }

    /// Answers of the policy of a folder, as many as are asked for to each prompt.
    fn answers(
        &self,
        shared: &mut Shared,
        name: &str,
        policy: &Path,
        prompts: &[Prompt],
        samples: usize,
    ) -> Result<Vec<Answers>> {
        let section = &shared.config.generate;
        // The same prompts share a batch after a kill too: rounding depends on it.
        let at_once = (section.batch / samples).max(1);
        let path = self.folder.join(format!("{name}.jsonl"));
        let (mut file, mut all) = Rows::open::<Answers>(&path, at_once, prompts.len())?;
        if all.len() == prompts.len() {
            return Ok(all);
        }
        let sampler = open(shared, policy)?;
        for part in prompts[all.len()..].chunks(at_once) {
            self.check_interrupt(shared)?;
            let seed = |prompt: &Prompt, sample: usize| {
                // Held-out prompts have the same seeds in all rounds: policies differ, luck does not.
                let round = if name == "answers" { self.number } else { 0 };
                let counters = [round, prompt.line as u64, sample as u64];
                derive_seed(shared.config.run.seed, name, &counters) as u64
            };
            let asked: Vec<(&Prompt, u64)> = part
                .iter()
                .flat_map(|prompt| (0..samples).map(move |sample| (prompt, seed(prompt, sample))))
                .collect();
            let written: Vec<Vec<Written>> = asked
                .chunks(section.batch)
                .map(|asked| sampler.answers(asked))
                .collect::<Result<_>>()?;
            let written: Vec<Written> = written.into_iter().flatten().collect();
            let rows = part.iter().zip(written.chunks(samples));
            let rows: Vec<Answers> = rows
                .map(|(prompt, written)| Answers {
                    line: prompt.line,
                    responses: written.iter().map(|one| one.text.clone()).collect(),
                    ended: written.iter().map(|one| one.ended).collect(),
                })
                .collect();
            file.add(&rows)?;
            all.extend(rows);
            shared
                .display
                .advance("answers", all.len() as u64, prompts.len() as u64);
        }
        Ok(all)
    }

    /// The scorer's verdicts on the answers to each prompt.
    fn scored(
        &self,
        shared: &mut Shared,
        name: &str,
        prompts: &[Prompt],
        pools: &[Vec<String>],
    ) -> Result<Vec<Scored>> {
        let path = self.folder.join(format!("{name}.jsonl"));
        let (mut file, mut all) = Rows::open::<Scored>(&path, 1, pools.len())?;
        for (prompt, answers) in prompts.iter().zip(pools).skip(all.len()) {
            self.check_interrupt(shared)?;
            let scored = if shared.transform.is_some() {
                let all = scorer(shared)?.rewards(prompt, answers)?;
                Scored {
                    line: prompt.line,
                    verdict: Verdict::Rewards(all.iter().map(|rewards| rewards[0]).collect()),
                    all,
                }
            } else {
                Scored {
                    line: prompt.line,
                    verdict: scorer(shared)?.score(prompt, answers)?,
                    all: Vec::new(),
                }
            };
            file.add(&[&scored])?;
            all.push(scored);
            shared
                .display
                .advance("scores", all.len() as u64, prompts.len() as u64);
        }
        Ok(all)
    }

    /// The verdicts that are learnt from: rewards are compared with those of the first policy's answers where a transform
    /// is asked for.
    fn transformed(
        &self,
        shared: &mut Shared,
        prompts: &[Prompt],
        scored: Vec<Scored>,
    ) -> Result<Vec<Verdict>> {
        let Some((choice, reference)) = shared.transform else {
            return Ok(scored.into_iter().map(|scored| scored.verdict).collect());
        };
        let rewards: Vec<Vec<Vec<f64>>> = scored.into_iter().map(|scored| scored.all).collect();
        let samples = shared.config.generate.samples;
        if self.number == 1 {
            // These are the first policy's; after them may come one that the data brought along.
            let own = prompts.iter().zip(&rewards);
            shared.baseline = own
                .map(|(prompt, rewards)| (prompt.line, rewards[..samples].to_vec()))
                .collect();
        }
        let known = |prompt: &&Prompt| !shared.baseline.contains_key(&prompt.line);
        let new: Vec<Prompt> = prompts.iter().filter(known).cloned().collect();
        if !new.is_empty() {
            let first = &shared.config.model.base;
            let answers = self.answers(shared, "reference_answers", first, &new, samples)?;
            let pools: Vec<Vec<String>> = answers.into_iter().map(|own| own.responses).collect();
            let scored = self.scored(shared, "reference_scores", &new, &pools)?;
            let scored = scored.into_iter().map(|scored| (scored.line, scored.all));
            shared.baseline.extend(scored);
        }
        let baseline: Vec<Vec<Vec<f64>>> = prompts
            .iter()
            .map(|prompt| shared.baseline[&prompt.line].clone())
            .collect();
        let tau = shared.config.scorer.tau;
        let values = of_answers(choice, reference, &rewards, Some(&baseline), tau)?;
        Ok(values.into_iter().map(Verdict::Rewards).collect())
    }

    /// Trains on the records; what was trained becomes a model's folder.
    fn train(&self, shared: &mut Shared, records: &Path, count: usize) -> Result<()> {
        let config = shared.config;
        if self.policy.exists() && config.adapter.kind == AdapterKind::Lora {
            return Ok(());
        }
        let batch = (config.train.batch * config.train.accumulation) as f64;
        let steps = (config.rounds.epochs * count as f64 / batch).ceil() as u64;
        let first = (self.number > 1 && shared.objective.has_two_references())
            .then_some(config.model.base.as_path());
        let output = self.folder.join("train");
        let steps = steps.clamp(1, config.train.steps);
        let mut own = config.round(&self.from, first, records, &output, steps);
        own.run.seed = derive_seed(config.run.seed, "round", &[self.number]) as u64;
        let options = RunOptions {
            resume: true,
            ..RunOptions::default()
        };
        jobs::text::train(&own, options, shared.display, shared.interrupt)?;
        if config.adapter.kind == AdapterKind::Lora {
            let merged = open_text(&output, shared.device, shared.kind)?;
            let notes = note(shared.tokenizer.is_raw());
            merged.model.save(&self.policy, shared.kind, &notes)?;
        }
        Ok(())
    }

    /// Measures the round's policy beside the first one, whose answers are `first` (none yet in round 0).
    pub(crate) fn measure(
        &self,
        shared: &mut Shared,
        prompts: &[Prompt],
        first: &[JudgedAnswers],
        counts: Counts,
    ) -> Result<(PolicyFigures, Vec<JudgedAnswers>)> {
        let samples = shared.config.generate.validation_samples;
        let answers = self.answers(shared, "validation", &self.policy, prompts, samples)?;
        let path = self.folder.join("judged.jsonl");
        let (mut file, mut judged) = Rows::open::<JudgedAnswers>(&path, 1, prompts.len())?;
        for (place, (prompt, answers)) in
            prompts.iter().zip(&answers).enumerate().skip(judged.len())
        {
            self.check_interrupt(shared)?;
            let own = judge(shared, prompt, answers, first.get(place))?;
            file.add(&[&own])?;
            judged.push(own);
        }
        let path = self.folder.join(FIGURES);
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(measured) = serde_json::from_str(&text)
        {
            return Ok((measured, judged));
        }
        let mut measured = PolicyFigures {
            metrics: counts,
            ..PolicyFigures::default()
        };
        let clusters = |values: &dyn Fn(&JudgedAnswers) -> Vec<f64>| -> Vec<Vec<f64>> {
            judged.iter().map(values).collect()
        };
        let length = |judged: &JudgedAnswers| {
            let lengths = judged.responses.iter();
            lengths.map(|text| text.chars().count() as f64).collect()
        };
        let mut put = |name: &str, clusters: &[Vec<f64>]| {
            if clusters.iter().any(Vec::is_empty) {
                return;
            }
            measured.metrics.insert(name.to_owned(), mean(clusters));
            if let Some(interval) = Bootstrap::default().interval(clusters) {
                measured.intervals.insert(name.to_owned(), interval);
            }
        };
        put("reward", &clusters(&|judged| judged.rewards.clone()));
        put("win_rate", &clusters(&|judged| judged.wins.clone()));
        put("length", &clusters(&length));
        put("kl", &self.divergences(shared, prompts, &answers)?);
        let text = serde_json::to_string_pretty(&measured).unwrap_or_default();
        write_atomically(&path, text.as_bytes())?;
        Ok((measured, judged))
    }

    /// `KL(policy || first policy)` of each prompt's answers, in nats: summed over the tokens of sampled answers, each
    /// over the whole vocabulary, whose mean is that of the answers' distributions.
    fn divergences(
        &self,
        shared: &mut Shared,
        prompts: &[Prompt],
        answers: &[Answers],
    ) -> Result<Vec<Vec<f64>>> {
        if self.number == 0 {
            return Ok(answers
                .iter()
                .map(|answers| vec![0.0; answers.responses.len()])
                .collect());
        }
        let config = shared.config;
        let sampler = open(shared, &self.policy)?;
        let first =
            LanguageModel::open(&config.model.base, shared.device, shared.kind, shared.kind)?;
        let records: Vec<Record> = prompts
            .iter()
            .zip(answers)
            .map(|(prompt, answers)| sampled(shared, prompt, answers))
            .collect();
        let section = TextDataSection {
            max_length: usize::MAX,
            overlong: Overlong::Truncate,
            ..TextDataSection::default()
        };
        let loaded = sampler.loaded();
        let encoded = Examples::encode(&records, &loaded.tokenizer, &section)?;
        let mut advance = |done, total| {
            shared.display.advance("KL", done, total);
            Ok(())
        };
        let batch = config.generate.batch;
        let compared = compare(
            &first,
            &loaded.model,
            &encoded.examples,
            batch,
            &mut advance,
        )?;
        let samples = config.generate.validation_samples;
        let of_prompts = compared.chunks(samples);
        Ok(of_prompts
            .map(|answers| answers.iter().map(|answer| answer.kl).collect())
            .collect())
    }

    fn check_interrupt(&self, shared: &Shared) -> Result<()> {
        shared.interrupt.check(self.number, &self.folder)
    }
}

fn open(shared: &Shared, policy: &Path) -> Result<Sampler> {
    let loaded = open_text(policy, shared.device, shared.kind)?;
    let loaded = loaded.with_words(Some(shared.tokenizer.is_raw()));
    Ok(Sampler::new(loaded, &shared.config.generate))
}

/// The scorer, started where it is not.
fn scorer<'a>(shared: &'a mut Shared) -> Result<&'a mut Scorer> {
    if shared.scorer.is_none() {
        let scorer = Scorer::open(&shared.config.scorer, (shared.device, shared.kind))?;
        for warning in scorer.warnings() {
            shared.display.say(&format!("warning: {warning}"));
        }
        shared.scorer = Some(scorer.until(shared.interrupt));
    }
    let missing = || Error::config("the scorer could not be started");
    shared.scorer.as_mut().ok_or_else(missing)
}

fn judge(
    shared: &mut Shared,
    prompt: &Prompt,
    answers: &Answers,
    first: Option<&JudgedAnswers>,
) -> Result<JudgedAnswers> {
    let responses = answers.responses.clone();
    let (mut rewards, mut wins) = (Vec::new(), vec![0.5; responses.len()]);
    if scorer(shared)?.compares() {
        for (place, first) in first.iter().flat_map(|first| &first.responses).enumerate() {
            let pair = [responses[place].clone(), first.clone()];
            if let Verdict::Preferences(rows) = scorer(shared)?.score(prompt, &pair)? {
                wins[place] = rows[0][1];
            }
        }
    } else if let Verdict::Rewards(own) = scorer(shared)?.score(prompt, &responses)? {
        for (place, first) in first.iter().flat_map(|first| &first.rewards).enumerate() {
            wins[place] = match own[place].total_cmp(first) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
        rewards = own;
    }
    Ok(JudgedAnswers {
        line: answers.line,
        prompt: prompt.text.to_value(),
        responses,
        rewards,
        wins,
    })
}

/// A prompt with its answers as a record that is only measured.
fn sampled(shared: &Shared, prompt: &Prompt, answers: &Answers) -> Record {
    let asked = asked(shared, prompt);
    Record {
        line: prompt.line,
        file: shared.config.data.prompts.clone(),
        shape: Shape::Sampled,
        answers: answers
            .responses
            .iter()
            .map(|answer| asked.answered_by(answer))
            .collect(),
        rewards: vec![0.0; answers.responses.len()],
        weight: 1.0,
        strength: 1.0,
        wins: None,
        scores: None,
        margin: 0.0,
        proposal: Vec::new(),
        reference: None,
        variables: prompt.variables.clone(),
        held_out: None,
        prompt: asked,
    }
}

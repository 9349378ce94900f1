//! `preftune score --data`: rewards of texts, and how often pairs are judged as their data say.

use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::cli::output::print_json;
use crate::cli::progress::{Progress, tell, warn_of};
use crate::cli::table;
use crate::cli::transform::TransformArgs;
use crate::data::text::{self, Record, Shape, Text};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::jobs::judge::references::rewards_of_references;
use crate::jobs::judge::texts::TextJudge;

/// In which form rewards are shown.
pub(crate) struct Shown<'a> {
    pub(crate) as_json: bool,
    /// `true` if nothing is said of the file.
    pub(crate) quiet: bool,
    /// A file for them beside.
    pub(crate) csv: Option<&'a Path>,
}

/// One answer with its rewards.
struct Scored {
    line: usize,
    answer: usize,
    rewards: Vec<f64>,
}

/// Scores every answer of `data` by the model of the folder `reward`.
pub(crate) fn run(
    (judge, reward): (&TextJudge, &Path),
    data: &Path,
    shown: &Shown,
    transform: &TransformArgs,
    tau: f64,
) -> Result<()> {
    let (shape, mut read) = text::read_any(data)?;
    read.notes.judge(&["split"]);
    tell(&read.notes, shown.quiet);
    let records = read.rows;
    warn_of(&judge.warnings_on(records.iter().map(|record| &record.prompt)));
    let all = records
        .iter()
        .map(|record| judge.of_record(data, record))
        .collect::<Result<Vec<_>>>()?;
    let baseline = |path: &Path| {
        rewards_of_references(
            judge,
            reward,
            path,
            (data, &records),
            &mut Progress::new(false),
        )
    };
    let values = transform.of_answers(&all, tau, baseline)?;
    let mut outputs = judge.outputs.clone();
    outputs.extend(values.is_some().then(|| "transformed".to_owned()));
    let mut scored = Vec::new();
    let mut right = 0.0;
    for (place, (record, mut rewards)) in records.iter().zip(all).enumerate() {
        right += agreement(record, &rewards);
        let values = values.iter().flat_map(|values| &values[place]);
        for (rewards, value) in rewards.iter_mut().zip(values) {
            rewards.push(*value);
        }
        scored.extend(
            rewards
                .into_iter()
                .enumerate()
                .map(|(answer, rewards)| Scored {
                    line: record.line,
                    answer,
                    rewards,
                }),
        );
    }
    let accuracy = (shape == Shape::Pairs).then(|| right / records.len() as f64);
    if let Some(path) = shown.csv {
        write_atomically(path, csv(&outputs, &scored).as_bytes())?;
    }
    if shown.as_json {
        let text = report(&outputs, &scored, accuracy);
        print_json(&text);
    } else {
        print!("{}", people(&outputs, &scored));
        if let Some(accuracy) = accuracy {
            println!("accuracy on {} pairs: {accuracy:.4}", records.len());
        }
    }
    Ok(())
}

/// By how much the first of two answers is better, from their prompt and what its chat template is given beside it; 0 is a
/// tie.
pub(crate) type Prefers<'a> = dyn Fn(&Text, &Map<String, Value>, Text, Text) -> Result<f64> + 'a;

/// Answers questions on standard input as a judge of `preftune rank --pairs`: `{"id", "first", "second"}` a line, both of
/// them rows with the columns of a prompt and an answer, by `{"winner"}`.
///
pub(crate) fn answer(prefers: &Prefers) -> Result<()> {
    let path = Path::new("standard input");
    for (place, line) in io::stdin().lines().enumerate() {
        let fail = |problem: String| Error::data_line(path, place + 1, problem);
        let line = line.map_err(|source| Error::io("read", path, source))?;
        let question: Value = serde_json::from_str(&line)
            .map_err(|error| fail(format!("not a JSON object: {error}")))?;
        let read = |name: &str| {
            let row = question[name].as_object();
            let row = row.ok_or_else(|| fail(format!("`{name}` is missing or no object")))?;
            text::answer(row).map_err(|problem| fail(format!("`{name}`: {problem}")))
        };
        let (prompt, first, variables) = read("first")?;
        let (other, second, others) = read("second")?;
        if prompt != other {
            return Err(fail("the two answers are to different prompts".to_owned()));
        }
        if variables != others {
            let problem = "the two answers have different `tools` or `chat_template_kwargs`";
            return Err(fail(problem.to_owned()));
        }
        let preference = prefers(&prompt, &variables, first, second)?;
        let winner = if preference > 0.0 {
            "first"
        } else if preference < 0.0 {
            "second"
        } else {
            "tie"
        };
        println!("{}", json!({"id": question["id"], "winner": winner}));
    }
    Ok(())
}

/// 1 where the first answer has the higher reward of two, one half where neither has.
fn agreement(record: &Record, rewards: &[Vec<f64>]) -> f64 {
    match (rewards, record.answers.len()) {
        ([first, second], 2) if first[0] > second[0] => 1.0,
        ([first, second], 2) if first[0] < second[0] => 0.0,
        _ => 0.5,
    }
}

fn report(outputs: &[String], scored: &[Scored], accuracy: Option<f64>) -> Value {
    let rows = scored.iter().map(|one| {
        let mut row = Map::from_iter([
            ("line".to_owned(), json!(one.line)),
            ("answer".to_owned(), json!(one.answer)),
        ]);
        let pairs = outputs.iter().zip(&one.rewards);
        row.extend(pairs.map(|(name, reward)| (name.clone(), json!(reward))));
        Value::Object(row)
    });
    json!({"answers": rows.collect::<Vec<_>>(), "accuracy": accuracy})
}

fn csv(outputs: &[String], scored: &[Scored]) -> String {
    let names = outputs.iter().map(|name| table::quoted(name));
    let header = ["line", "answer"]
        .map(str::to_owned)
        .into_iter()
        .chain(names);
    let rows = scored.iter().map(|one| {
        let place = [one.line, one.answer + 1].map(|number| number.to_string());
        let rewards = one.rewards.iter().map(f64::to_string);
        place
            .into_iter()
            .chain(rewards)
            .collect::<Vec<_>>()
            .join(",")
            + "\n"
    });
    let header = header.collect::<Vec<_>>().join(",") + "\n";
    header + &rows.collect::<String>()
}

fn people(outputs: &[String], scored: &[Scored]) -> String {
    let header: Vec<String> = ["line", "answer"]
        .map(str::to_owned)
        .into_iter()
        .chain(outputs.iter().cloned())
        .collect();
    let rows = scored.iter().map(|one| {
        [one.line, one.answer + 1]
            .map(|number| number.to_string())
            .into_iter()
            .chain(one.rewards.iter().map(|reward| format!("{reward:.4}")))
            .collect()
    });
    table::render(&header, &rows.collect::<Vec<_>>())
}

//! Preference data of language models: pairs, marked or plain answers and ranked lists, from JSON lines, JSON arrays,
//! Parquet and CSV, in the column names that published data sets have, brought into one form. Every fault is named with
//! its file and line.

pub mod answers;
mod columns;
mod compared;
mod helpsteer;
mod lists;
mod message;
mod numbers;
mod parquet;
mod prompts;
mod rated;
mod rows;
mod split;
mod variables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use self::message::{Text, instructed};
pub(super) use self::numbers::{Numbers, number};
pub(super) use self::parquet::{
    columns, is_parquet, records as parquet_records, value as parquet_value,
};
pub use self::prompts::{Prompt, are_records, prompts, prompts_with_gold};
pub use self::rated::{Rated, read_rated};
pub use self::rows::files as files_of_rows;
pub(super) use self::rows::{Row, read as read_rows};
pub use self::split::dialogue;
pub use self::variables::put_variables;
use super::columns::{Columns, Usage};
use super::contradictions::may_contradict;
use super::left_out::{LeftOut, RowHint, shown};
use super::listing::some;
use crate::error::{Error, Result};

/// The kind of record that an objective learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A preferred and a rejected answer.
    Pairs,
    /// Single answers, each marked as desirable or not.
    Marked,
    /// Single answers to imitate; of pairs the preferred one.
    Answers,
    /// Two answers or more with their ranks or rewards.
    Ranked,
    /// Two answers or more that a model has sampled, with their rewards, which may all be equal.
    Sampled,
}

/// A prompt with the answers to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Line of the file, or row of an array, from 1.
    pub line: usize,
    /// The file.
    pub file: PathBuf,
    /// The shape that it was read as.
    pub shape: Shape,
    /// The prompt; empty where the data have answers alone.
    pub prompt: Text,
    /// Pairs: preferred, rejected. Others: in the order of the file.
    pub answers: Vec<Text>,
    /// Reward of each answer: 1 and 0 of marks, and of ranks without scores, `n - 1` for the best to 0 for the worst.
    pub rewards: Vec<f64>,
    /// How much the record counts; 1 where the data do not say.
    pub weight: f64,
    /// How much better the preferred answer of a pair is; 1 where the data do not say.
    pub strength: f64,
    /// Probabilities of both answers of a pair to win, where they are given.
    pub wins: Option<[f64; 2]>,
    /// Scores of both answers of a pair, where they are given.
    pub scores: Option<[f64; 2]>,
    /// By how much the preferred answer of a pair should win; 0 where the data do not say.
    pub margin: f64,
    /// Log-prob of each answer by the distribution that it was sampled from; empty where the data do not say.
    pub proposal: Vec<f64>,
    /// Summed log-probs of both answers of a pair by the reference, where they are given.
    pub reference: Option<[f64; 2]>,
    /// The variables that the chat template is given beside the messages: `tools`, and what `chat_template_kwargs`
    /// names.
    pub variables: Map<String, Value>,
    /// `true` if it is held out; `None` where the data do not say.
    pub held_out: Option<bool>,
}

impl Record {
    /// Where in the prompt the assistant first answers.
    fn first_turn(&self) -> Option<usize> {
        let (Text::Chat(prompt), [Text::Chat(_)]) = (&self.prompt, self.answers.as_slice()) else {
            return None;
        };
        let asked = prompt
            .iter()
            .position(|message| message["role"] == "user")?;
        let answers = |message: &Value| message["role"] == "assistant";
        Some(asked + prompt[asked..].iter().position(answers)?)
    }

    /// Makes the answer begin where the assistant first answers.
    fn answer_all_turns(&mut self) {
        let Some(first) = self.first_turn() else {
            return;
        };
        if let (Text::Chat(prompt), [Text::Chat(answer)]) =
            (&mut self.prompt, self.answers.as_mut_slice())
        {
            let turns = prompt.split_off(first);
            answer.splice(0..0, turns);
        }
    }

    /// The key that it shares with records that may not stand on the other side of a split: its prompt or, of text
    /// alone, the text.
    pub fn key(&self) -> String {
        let words = |text: &Text| text.to_value().to_string();
        match (self.prompt.asks_nothing(), self.answers.first()) {
            (true, Some(text)) => words(text),
            _ => words(&self.prompt),
        }
    }
}

/// How the rows of a file become records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// Names of columns in the file by ours.
    pub columns: Option<&'a BTreeMap<String, String>>,
    /// `true` if rows with faults are left out; else they refuse the file.
    pub drops_invalid: bool,
    /// Of single answers that are chats, whether all turns of the assistant are the answer; else its last one is.
    pub all_turns: bool,
}

/// The rows that were read of a file, with notes on it.
#[derive(Debug)]
pub struct Read<T> {
    /// In the order of the file.
    pub rows: Vec<T>,
    /// Notes on the file, for the user.
    pub notes: Notes,
}

/// Notes for the user on a file that was read.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The file or folder.
    pub path: PathBuf,
    /// How many rows it has.
    pub rows: usize,
    /// The files that it is, in the order in which they are read.
    pub files: Vec<PathBuf>,
    /// The rows that are left out.
    pub left_out: LeftOut,
    /// Columns that hold something and are read.
    pub used: Vec<String>,
    /// Columns that hold something and are not used.
    pub unused: Vec<String>,
    /// Those of them that may say which of two answers is better, in files that say so otherwise.
    pub doubtful: Vec<String>,
    /// Pairs whose chosen answer has the lower score.
    pub against_scores: usize,
    /// Pairs whose chosen answer is given less than half of the probability to win.
    pub against_odds: usize,
    /// Pairs with a margin below 0.
    pub against_margins: usize,
    /// Chats with turns of the assistant that are not learnt from, because only the last one is.
    pub unlearnt_turns: usize,
    /// Chats with turns of weight 0 in the answer.
    pub weightless_turns: usize,
    /// `true` if there are weights of rows that nothing goes by.
    pub unweighted: bool,
}

impl Notes {
    /// Refuses a file with too many faults; see [`LeftOut::check`].
    ///
    /// # Errors
    /// With all of them.
    pub fn check(&self, reading: &Reading) -> Result<()> {
        let faults = &self.left_out;
        let hint = match reading.columns {
            Some(_) => RowHint::Columns,
            None => RowHint::Rows,
        };
        faults.check(&self.path, self.rows, reading.drops_invalid, hint)
    }

    /// Names as not used the columns that are for learning, where rows are judged: numbers beside the texts, and these.
    pub fn judge(&mut self, others: &[&str]) {
        let is_idle = |name: &&String| {
            others.contains(&name.as_str()) || numbers::names().any(|number| number == *name)
        };
        let idle = self.used.iter().filter(is_idle).cloned();
        self.unused.extend(idle);
        self.unused.sort_unstable();
        self.unweighted = self.used.iter().any(|name| name == "weight");
    }

    /// One sentence for each thing that a user should know.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let path = self.path.display();
        if self.files.len() > 1 {
            lines.push(format!(
                "`{path}`: {} rows of {} files: {}",
                self.rows,
                self.files.len(),
                some(&self.files)
            ));
        }
        if !self.unused.is_empty() {
            let names: Vec<String> = self.unused.iter().map(|name| format!("`{name}`")).collect();
            lines.push(format!(
                "`{path}`: columns that are not used: {}",
                names.join(", ")
            ));
        }
        if self.unweighted {
            lines.push(format!(
                "`{path}`: `weight` is not used: every row counts once"
            ));
        }
        for name in &self.doubtful {
            lines.push(format!(
                "`{path}`: `{name}` may say which answer is better, and is not read: `chosen` and `rejected` are followed; \
                 exchange the two where it says otherwise"
            ));
        }
        if self.against_scores > 0 {
            let pairs = self.against_scores;
            lines.push(format!(
                "`{path}`: in {pairs} pairs the chosen answer has the lower score of the two; `chosen` and `rejected` are \
                 followed, not the scores"
            ));
        }
        if self.against_odds > 0 {
            let pairs = self.against_odds;
            lines.push(format!(
                "`{path}`: in {pairs} pairs the rejected answer is the likelier one to win; `chosen` and `rejected` are \
                 followed, except by objectives that learn from these probabilities"
            ));
        }
        if self.against_margins > 0 {
            let pairs = self.against_margins;
            lines.push(format!(
                "`{path}`: in {pairs} pairs the margin is below 0, as if the rejected answer were better: it is learnt as it \
                 stands; exchange the two, or leave the column out"
            ));
        }
        if self.unlearnt_turns > 0 {
            let chats = self.unlearnt_turns;
            lines.push(format!(
                "`{path}`: of {chats} chats only the assistant's last turn is learnt from; `data.train_on = \"all\"` takes all"
            ));
        }
        if self.weightless_turns > 0 {
            let chats = self.weightless_turns;
            lines.push(format!(
                "`{path}`: in {chats} chats turns of weight 0 are read and not learnt"
            ));
        }
        for reason in &self.left_out.reasons {
            lines.push(format!("left out, {reason}"));
        }
        lines
    }
}

/// Reads a file of records of one shape, of which every row must be sound: `.jsonl` (also `.gz`), `.json` with an array,
/// `.parquet`, `.csv`, `.tsv` or a folder of these.
///
/// # Errors
/// With the line or row: a missing column, an empty or repeated answer, a number out of its range.
pub fn read(path: &Path, shape: Shape) -> Result<Vec<Record>> {
    let reading = Reading::default();
    let read = read_with(path, shape, &reading)?;
    read.notes.check(&reading)?;
    not_empty(path, read.rows)
}

/// Why an answer of weight 0 is left out.
const UNLEARNT: &str = "what the assistant says last has weight 0, and is not to be learnt (`data.train_on = \"all\"` learns from \
                        its turns before, where these have weight 1)";

/// Reads a file of records of one shape; rows with faults are in the notes, which [`Notes::check`] judges.
///
/// # Errors
/// The file is not of its kind; `reading` names a column that there is not.
pub fn read_with(path: &Path, shape: Shape, reading: &Reading) -> Result<Read<Record>> {
    let (mut unlearnt, mut weightless) = (0, 0);
    let (mut against_scores, mut against_odds, mut against_margins) = (0, 0, 0);
    let of_pairs = [Shape::Pairs, Shape::Answers].contains(&shape);
    let mut read = read_rows_with(path, reading, |row| {
        let Some(mut record) = record(row, shape)? else {
            return Ok(None);
        };
        if shape == Shape::Answers && reading.all_turns {
            record.answer_all_turns();
        } else if shape == Shape::Answers {
            unlearnt += usize::from(record.first_turn().is_some());
        }
        if record.answers.iter().any(Text::is_unlearnt) {
            return Err(UNLEARNT.to_owned());
        }
        weightless += usize::from(record.answers.iter().any(Text::has_unlearnt));
        let against = |[chosen, rejected]: [f64; 2]| of_pairs && chosen < rejected;
        against_scores += usize::from(record.scores.is_some_and(against));
        against_odds += usize::from(record.wins.is_some_and(against));
        let below = record.margin < 0.0;
        against_margins += usize::from(of_pairs && below);
        Ok(Some(record))
    })?;
    read.notes.unlearnt_turns = unlearnt;
    read.notes.weightless_turns = weightless;
    read.notes.against_scores = against_scores;
    read.notes.against_odds = against_odds;
    read.notes.against_margins = against_margins;
    Ok(read)
}

fn read_rows_with<T>(
    path: &Path,
    reading: &Reading,
    of: impl FnMut(&Row) -> Result<Option<T>, String>,
) -> Result<Read<T>> {
    if let Some(names) = reading.columns {
        columns::check_names(names).map_err(Error::config)?;
    }
    taken(path, rows::read(path)?, reading, of)
}

/// The values that `of` makes of some rows; a row of which it makes nothing says nothing.
fn taken<T>(
    path: &Path,
    mut all: Vec<Row>,
    reading: &Reading,
    mut of: impl FnMut(&Row) -> Result<Option<T>, String>,
) -> Result<Read<T>> {
    if all.is_empty() {
        return Err(Error::data(path, "there are no rows in it"));
    }
    let mut notes = Notes {
        path: path.to_owned(),
        rows: all.len(),
        files: rows::files(path)?,
        ..Notes::default()
    };
    let are_pairs = all
        .first()
        .is_some_and(|row| columns::says_better(&row.columns));
    let (mut rows, mut usage) = (Vec::new(), Usage::default());
    for row in &mut all {
        let renamed = match reading.columns {
            Some(names) => row.columns.rename(names),
            None => Ok(()),
        };
        columns::unfold(&mut row.columns);
        let read = renamed.and_then(|()| of(row));
        match row.columns.fault().map_or(read, Err) {
            Ok(read) => {
                usage.add(&row.columns);
                if read.is_none() {
                    let left_out = &mut notes.left_out;
                    left_out.says_nothing(compared::TIE, row.place.clone());
                }
                rows.extend(read);
            }
            Err(problem) => notes.left_out.fault(&problem, row.place.clone()),
        }
    }
    notes.unused = usage.unused();
    notes.used = usage.used();
    // Of prompts alone nothing is better than another.
    if are_pairs && !notes.unused.iter().any(|name| columns::is_better(name)) {
        let doubtful = notes.unused.iter().filter(|name| may_contradict(name));
        notes.doubtful = doubtful.cloned().collect();
    }
    Ok(Read { rows, notes })
}

fn not_empty(path: &Path, records: Vec<Record>) -> Result<Vec<Record>> {
    if records.is_empty() {
        let problem = "no row in it has a better and a worse answer";
        return Err(Error::data(path, problem));
    }
    Ok(records)
}

/// The records that are held out, and how many are not; all of them where the data hold out none.
pub fn held_out_alone(mut records: Vec<Record>) -> (Vec<Record>, usize) {
    let is_held_out = |record: &Record| record.held_out == Some(true);
    if !records.iter().any(is_held_out) {
        return (records, 0);
    }
    let all = records.len();
    records.retain(is_held_out);
    let learnt = all - records.len();
    (records, learnt)
}

/// As [`read`], of the shape that the columns of the first row have: pairs, lists, else single answers; with notes.
///
/// # Errors
/// As [`read`].
pub fn read_any(path: &Path) -> Result<(Shape, Read<Record>)> {
    let rows = rows::read(path)?;
    let shape = rows.first().map_or(Shape::Answers, |row| {
        if columns::is_pair(&row.columns) {
            Shape::Pairs
        } else if lists::ANSWERS.iter().any(|name| row.columns.has(name)) {
            Shape::Ranked
        } else {
            Shape::Answers
        }
    });
    let reading = Reading::default();
    let mut read = taken(path, rows, &reading, |row| record(row, shape))?;
    read.notes.check(&reading)?;
    read.rows = not_empty(path, read.rows)?;
    Ok((shape, read))
}

/// Prompt and answer in the columns of one row, and what they give the chat template beside them.
///
/// # Errors
/// A sentence on what is missing, empty or not of its kind.
pub fn answer(row: &Map<String, Value>) -> Result<(Text, Text, Map<String, Value>), String> {
    let columns = &Columns::from(row.clone());
    let (prompt, answer) = columns::answer(columns)?;
    check_answers(std::slice::from_ref(&answer), Shape::Answers)?;
    let prompt = prompt.with_system(columns)?;
    let variables = of_chat(&prompt, columns)?;
    Ok((prompt, answer, variables))
}

/// The variables that a row gives the chat template, which only a chat goes through.
fn of_chat(prompt: &Text, columns: &Columns) -> Result<Map<String, Value>, String> {
    let variables = variables::variables(columns)?;
    match (prompt, variables.keys().next()) {
        (Text::Plain(_) | Text::Instructed { .. } | Text::Ids(_), Some(name)) => Err(format!(
            "`{name}` is for the chat template, but prompt and answers are no chats"
        )),
        _ => Ok(variables),
    }
}

/// The record of a row; `None` where no answer is better than another by what annotators gave them.
fn record(row: &Row, shape: Shape) -> Result<Option<Record>, String> {
    let columns = &row.columns;
    let pairs = shape == Shape::Pairs;
    let mut strength = None;
    let (prompt, answers, rewards) = match shape {
        Shape::Pairs => {
            let (prompt, chosen, rejected) = if compared::are(columns) {
                let Some(compared) = compared::pair(columns)? else {
                    return Ok(None);
                };
                strength = compared.strength;
                compared.pair
            } else {
                columns::pair(columns)?
            };
            (prompt, vec![chosen, rejected], vec![1.0, 0.0])
        }
        Shape::Marked => {
            let (prompt, completion) = columns::completion(columns)?;
            let desirable = columns::mark(columns)?;
            (
                prompt,
                vec![completion],
                vec![f64::from(u8::from(desirable))],
            )
        }
        Shape::Answers => {
            let (prompt, answer) = columns::answer(columns)?;
            (prompt, vec![answer], vec![1.0])
        }
        Shape::Ranked => match lists::ranked(columns)? {
            Some(listed) => listed,
            None => return Ok(None),
        },
        Shape::Sampled => lists::sampled(columns)?,
    };
    let prompt = prompt.with_system(columns)?;
    // Text alone has nothing before it.
    if prompt.asks_nothing() && !(shape == Shape::Answers && is_text_alone(columns)) {
        return Err("the prompt is empty".to_owned());
    }
    check_answers(&answers, shape)?;
    let variables = of_chat(&prompt, columns)?;
    let Numbers {
        weight,
        margin,
        wins,
        scores,
        proposal,
        reference,
    } = Numbers::read(columns, answers.len())?;
    Ok(Some(Record {
        line: row.place.number,
        file: row.place.file.clone(),
        shape,
        prompt,
        answers,
        rewards,
        weight,
        strength: strength.or(margin).unwrap_or(1.0),
        wins,
        scores,
        margin: margin.unwrap_or(0.0),
        proposal,
        reference: reference.filter(|_| pairs),
        variables,
        held_out: held_out(columns)?.or(row.held_out),
    }))
}

fn is_text_alone(columns: &Columns) -> bool {
    columns.has("text")
}

fn check_answers(answers: &[Text], shape: Shape) -> Result<(), String> {
    let name = |place: usize| match (shape, place) {
        (Shape::Pairs, 0) => "the chosen answer".to_owned(),
        (Shape::Pairs, _) => "the rejected answer".to_owned(),
        (Shape::Ranked | Shape::Sampled, place) => format!("answer {}", place + 1),
        _ => "the answer".to_owned(),
    };
    for (place, answer) in answers.iter().enumerate() {
        if answer.is_empty() {
            return Err(format!("{} is empty", name(place)));
        }
        let Text::Chat(messages) = answer else {
            continue;
        };
        let role = |message: Option<&Value>| message.map(|message| message["role"].clone());
        match (role(messages.first()), role(messages.last())) {
            (_, Some(last)) if last != "assistant" => {
                let name = name(place);
                return Err(format!(
                    "{name} ends with a message of {last}, not of the assistant"
                ));
            }
            (Some(first), _) if first == "user" || first == "system" => {
                let name = name(place);
                return Err(format!(
                    "{name} begins with a message of {first}: it is to another prompt"
                ));
            }
            _ => {}
        }
    }
    if shape == Shape::Pairs && answers[0] == answers[1] {
        return Err("the chosen and the rejected answer are identical".to_owned());
    }
    Ok(())
}

/// What a row says in these columns, which go along where it is written again.
fn kept(columns: &Columns, names: &[&str]) -> Map<String, Value> {
    let filled = names.iter().filter_map(|name| {
        let value = columns.filled(name)?;
        Some(((*name).to_owned(), value.clone()))
    });
    filled.collect()
}

pub(super) fn held_out(columns: &Columns) -> Result<Option<bool>, String> {
    match columns.filled("split") {
        None => Ok(None),
        Some(Value::String(split)) if split.starts_with("train") => Ok(Some(false)),
        Some(Value::String(split)) if split == "validation" || split.starts_with("test") => {
            Ok(Some(true))
        }
        Some(other) => Err(format!(
            "`split` is {}, neither `train` nor `validation` nor `test`",
            shown(other)
        )),
    }
}

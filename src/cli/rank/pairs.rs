//! `preftune rank --pairs`: plans who meets whom, prints the plan or has an external judge decide it, and keeps every
//! judgement so that a second call continues.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::progress::Progress;
use crate::cli::shell::listen;
use crate::data::json_lines::{JsonLines, text_of};
use crate::error::{Error, Result};
use crate::jobs::Display as _;
use crate::jobs::interrupt::Interrupt;
use crate::jobs::judge::command::Judge;
use crate::ranking::comparisons::Keep;
use crate::ranking::judgements::{self, Consistency, Judgement};
use crate::ranking::{Comparisons, Outcome, matchups};

/// Columns that name an item, the most telling first.
const ITEM: [&str; 5] = ["item", "id", "system", "model", "name"];
/// Columns of what was asked.
const GROUP: [&str; 5] = ["group", "question_id", "prompt_id", "question", "prompt"];

#[derive(Args)]
#[command(next_help_heading = "Match-ups")]
pub(crate) struct PairsArgs {
    /// Items to be matched, JSON lines with a name (`item`, `id`, `system`) and whatever the judge is to see. Items of
    /// one `group` (`question_id`, `prompt`) meet each other. Without `--judge` the plan is printed.
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pairs: Option<PathBuf>,
    /// Match-ups of each item in its group.
    #[arg(long, value_name = "N", default_value_t = 6, requires = "pairs", conflicts_with = "input", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    games: u64,
    /// Column of an item's name.
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "pairs",
        conflicts_with = "input"
    )]
    item: Option<String>,
    /// One judgement for a match-up, in an order drawn at random, instead of both orders.
    #[arg(long, requires = "pairs", conflicts_with = "input")]
    one_order: bool,
    /// Command that reads `{"id", "first", "second"}` a line and answers `{"winner": "first" | "second" | "tie"}`.
    #[arg(long, value_name = "COMMAND", requires_all = ["pairs", "judgements"], conflicts_with = "input")]
    judge: Option<String>,
    /// File that keeps the judgements; what is in it already is not asked again.
    #[arg(
        long,
        value_name = "FILE",
        requires = "pairs",
        conflicts_with = "input"
    )]
    judgements: Option<PathBuf>,
    /// Name of the judge in the file [default: the command].
    #[arg(
        long,
        value_name = "NAME",
        requires = "judge",
        conflicts_with = "input"
    )]
    judge_name: Option<String>,
    /// Judges that run at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "judge", conflicts_with = "input", value_parser = clap::value_parser!(u64).range(1..=256))]
    workers: u64,
    /// Seconds that a judge may take for an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "judge", conflicts_with = "input", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// An item to be matched.
struct Item {
    group: Option<String>,
    name: String,
    row: Map<String, Value>,
}

/// One judgement to be made: two items, the first shown first.
type Question = (usize, usize);

impl PairsArgs {
    /// The file of the items.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        self.pairs.as_ref()
    }

    /// All match-ups as judged, and how far the judge goes by the order; none where the plan was printed instead.
    pub(crate) fn compare(
        &self,
        group: Option<&str>,
        seed: u64,
        keep: Keep,
    ) -> Result<Option<(Comparisons, Consistency)>> {
        let Some(path) = &self.pairs else {
            return Ok(None);
        };
        let items = read_items(path, self.item.as_deref(), group)?;
        let questions = self.questions(&items, seed);
        let (Some(command), Some(kept)) = (&self.judge, &self.judgements) else {
            print_plan(&items, &questions);
            return Ok(None);
        };
        let name = self.judge_name.as_ref().unwrap_or(command);
        let known = continue_file(kept)?;
        if let Some(other) = known.iter().find(|judgement| judgement.judge != *name) {
            let problem = format!("holds judgements of `{}`, not of `{name}`", other.judge);
            return Err(Error::data(kept, problem)
                .with_hint("take another file, or give that name with `--judge-name`"));
        }
        let open = unanswered(&items, &questions, &known);
        let job = Job {
            items: &items,
            command,
            name,
            kept,
            patience: Duration::from_secs(self.timeout),
        };
        let made = job.run(&open, self.workers as usize)?;
        judgements::combine(kept, &[known, made].concat(), keep).map(Some)
    }

    fn questions(&self, items: &[Item], seed: u64) -> Vec<Question> {
        let mut groups: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for (place, item) in items.iter().enumerate() {
            groups.entry(item.group.as_deref()).or_default().push(place);
        }
        let mut questions = Vec::new();
        for (number, members) in groups.values().enumerate() {
            let seed = seed.wrapping_add(number as u64);
            for (left, right) in matchups::plan(members.len(), self.games as usize, seed) {
                let (left, right) = (members[left], members[right]);
                questions.push((left, right));
                if !self.one_order {
                    questions.push((right, left));
                }
            }
        }
        questions
    }
}

fn read_items(path: &Path, item: Option<&str>, group: Option<&str>) -> Result<Vec<Item>> {
    let mut items: Vec<Item> = Vec::new();
    let mut lines = HashMap::new();
    let mut columns: Option<(String, Option<String>)> = None;
    for row in JsonLines::open(path)? {
        let (line, row) = row?;
        let fail = |problem: String| Error::data_line(path, line, problem);
        if columns.is_none() {
            let guess = |named: Option<&str>, known: &[&str]| {
                let guessed = known.iter().copied().find(|name| row.contains_key(*name));
                named.or(guessed).map(str::to_owned)
            };
            let name = guess(item, &ITEM).ok_or_else(|| {
                fail(format!("no column that names an item: {}", ITEM.join(", ")))
                    .with_hint("name it with `--item COLUMN`")
            })?;
            // A column cannot name an item and its group.
            let group = guess(group, &GROUP).filter(|group| *group != name);
            columns = Some((name, group));
        }
        let Some((name, group)) = &columns else {
            continue;
        };
        let name = text_of(&row, name).map_err(fail)?;
        let group = group
            .as_ref()
            .map(|group| text_of(&row, group).map_err(fail))
            .transpose()?;
        if let Some(earlier) = lines.insert((group.clone(), name.clone()), line) {
            return Err(fail(format!(
                "`{name}` is there already, in line {earlier}"
            )));
        }
        items.push(Item { group, name, row });
    }
    if items.len() < 2 {
        return Err(Error::data(
            path,
            format!("{} items: a match-up needs two", items.len()),
        ));
    }
    Ok(items)
}

fn print_plan(items: &[Item], questions: &[Question]) {
    for &(first, second) in questions {
        let mut row = json!({"left": items[first].name, "right": items[second].name});
        if let Some(group) = &items[first].group {
            row["group"] = json!(group);
        }
        println!("{row}");
    }
}

/// Reads the judgements that are there. A line that a kill has cut is removed.
fn continue_file(path: &Path) -> Result<Vec<Judgement>> {
    let text = match std::fs::read(path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|source| Error::io("read", path, source))?,
    };
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    if whole < text.len() {
        let file = OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(whole as u64))
            .map_err(|source| Error::io("write", path, source))?;
    }
    judgements::read(path)
}

/// Questions that no judgement answers; two equal questions need two.
fn unanswered(items: &[Item], questions: &[Question], known: &[Judgement]) -> Vec<Question> {
    let mut answers: HashMap<_, usize> = HashMap::new();
    for judgement in known {
        *answers.entry(judgement.key()).or_default() += 1;
    }
    let open = questions.iter().filter(|&&(first, second)| {
        let key = (
            items[first].group.as_deref(),
            items[first].name.as_str(),
            items[second].name.as_str(),
        );
        match answers.get_mut(&key) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        }
    });
    open.copied().collect()
}

struct Job<'a> {
    items: &'a [Item],
    command: &'a str,
    name: &'a str,
    kept: &'a Path,
    patience: Duration,
}

/// State that the workers share.
struct Shared {
    next: AtomicUsize,
    stop: AtomicBool,
    kept: Mutex<Kept>,
}

struct Kept {
    file: File,
    made: Vec<Judgement>,
    display: Progress,
}

impl Job<'_> {
    fn run(&self, open: &[Question], workers: usize) -> Result<Vec<Judgement>> {
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let interrupt = listen()?;
        let file = OpenOptions::new().append(true).create(true).open(self.kept);
        let shared = Shared {
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            kept: Mutex::new(Kept {
                file: file.map_err(|source| Error::io("write", self.kept, source))?,
                made: Vec::new(),
                display: Progress::new(false),
            }),
        };
        let work = || {
            let outcome = self.work(open, &shared, &interrupt);
            if outcome.is_err() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            outcome
        };
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let workers = (0..workers.min(open.len())).map(|_| scope.spawn(work));
            let workers: Vec<_> = workers.collect();
            // A panic of a worker is one of the whole.
            workers
                .into_iter()
                .map(|worker| worker.join().expect("workers return errors"))
                .collect()
        });
        let kept = shared
            .kept
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let advice = |error: Error| match error.hint() {
            Some(_) => error,
            None => error.with_hint("judgements are kept: the same command continues"),
        };
        outcomes
            .into_iter()
            .collect::<Result<()>>()
            .map_err(advice)?;
        if kept.made.len() < open.len() {
            return Err(Error::Interrupted {
                step: kept.made.len() as u64,
                checkpoint: self.kept.to_owned(),
            });
        }
        Ok(kept.made)
    }

    fn work(&self, open: &[Question], shared: &Shared, interrupt: &Interrupt) -> Result<()> {
        let mut judge = Judge::start(self.command, self.patience)?.until(interrupt);
        while !interrupt.requested() && !shared.stop.load(Ordering::Relaxed) {
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(&(first, second)) = open.get(number) else {
                break;
            };
            let (first, second) = (&self.items[first], &self.items[second]);
            let id = number as u64;
            let question = json!({"id": id, "first": first.row, "second": second.row});
            let outcome = match judge.ask(id, &question) {
                // What is kept is said where all workers have ended.
                Err(Error::Interrupted { .. }) => break,
                outcome => outcome?,
            };
            self.keep(shared, first, second, outcome, open.len() as u64)?;
        }
        Ok(())
    }

    fn keep(
        &self,
        shared: &Shared,
        first: &Item,
        second: &Item,
        outcome: Outcome,
        total: u64,
    ) -> Result<()> {
        let judgement = Judgement {
            group: first.group.clone(),
            left: first.name.clone(),
            right: second.name.clone(),
            outcome,
            judge: self.name.to_owned(),
        };
        let mut kept = shared
            .kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.file
            .write_all(judgement.to_line().as_bytes())
            .map_err(|source| Error::io("write", self.kept, source))?;
        kept.made.push(judgement);
        let done = kept.made.len() as u64;
        kept.display.advance("judge", done, total);
        Ok(())
    }
}

//! Rankings that `preftune rank --json` printed: a bar for every item, with its interval.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plot;
use crate::error::{Error, Result};

/// Bars of one ranking at most; a page of a thousand would be read by nobody.
const MOST: usize = 100;
/// Width of the drawing, in its own units, of which its text is 13 high.
const WIDTH: f64 = 860.0;
/// Where bars begin and end: beside names that fit there, and below those that do not.
const BESIDE: f64 = 230.0;
const BELOW: f64 = 8.0;
const RIGHT: f64 = 700.0;
/// Height of a row, and of a line of words over its bar.
const STEP: f64 = 26.0;
const LINE: f64 = 18.0;
/// Width of a letter at most, on the average.
const LETTER: f64 = 7.2;

/// The parts of the file that are shown.
#[derive(Deserialize)]
struct File {
    standings: Vec<Standing>,
    comparisons: u64,
    #[serde(default)]
    components: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Standing {
    rank: usize,
    item: String,
    strength: f64,
    interval: Option<[f64; 2]>,
    games: f64,
}

/// A drawing with what is said beside it.
#[derive(Serialize)]
pub(super) struct Ranking {
    pub(super) title: String,
    notes: Vec<String>,
    /// The drawing as an `svg` element in the page's colours.
    pub(super) svg: String,
    #[serde(skip)]
    height: f64,
}

impl Ranking {
    /// The drawing as a file of its own.
    pub(super) fn alone(&self) -> String {
        plot::alone(&self.svg, (WIDTH, self.height), &self.title, &[])
    }
}

/// The drawing of a file.
///
/// # Errors
/// It cannot be read, or is not what `preftune rank --json` prints.
pub(super) fn read(path: &Path) -> Result<Ranking> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
    let value = serde_json::from_str(&text).map_err(|error| not_a_ranking(path, &error))?;
    of_json(path, value)
}

/// The drawing of what `preftune rank --json` prints; `path` names it.
///
/// # Errors
/// It is something else, or has no items.
pub(super) fn of_json(path: &Path, value: serde_json::Value) -> Result<Ranking> {
    let file: File = serde_json::from_value(value).map_err(|error| not_a_ranking(path, &error))?;
    if file.standings.is_empty() {
        return Err(Error::data(path, "a ranking of no items"));
    }
    Ok(draw(path, &file))
}

fn not_a_ranking(path: &Path, error: &serde_json::Error) -> Error {
    Error::data(path, format!("not a ranking: {error}"))
        .with_hint("give what `preftune rank --json` prints, or a run's folder")
}

fn draw(path: &Path, file: &File) -> Ranking {
    let shown = &file.standings[..file.standings.len().min(MOST)];
    let ends = shown.iter().flat_map(|row| {
        let [low, high] = row.interval.unwrap_or([row.strength; 2]);
        [low, high, row.strength, 0.0]
    });
    let (low, high) = ends.fold((0.0_f64, 0.0_f64), |(low, high), end| {
        (low.min(end), high.max(end))
    });
    let names: Vec<String> = shown
        .iter()
        .map(|row| format!("{}. {}", row.rank, row.item))
        .collect();
    let longest = names.iter().map(|name| name.chars().count()).max();
    let beside = longest.unwrap_or(0) as f64 * LETTER < BESIDE - 10.0;
    let left = if beside { BESIDE } else { BELOW };
    let unit = (RIGHT - left) / (high - low).max(f64::MIN_POSITIVE);
    let at = |strength: f64| (10.0 * (left + (strength - low) * unit)).round() / 10.0;
    let (mut body, mut height) = (String::new(), 0.0);
    for (row, name) in shown.iter().zip(&names) {
        let lines = if beside {
            body += &words(
                BESIDE - 10.0,
                height + 0.5 * STEP + 4.5,
                "end",
                "text",
                name,
            );
            0
        } else {
            let lines = wrapped(name, ((WIDTH - 2.0 * BELOW) / LETTER) as usize);
            for (number, line) in lines.iter().enumerate() {
                let base = height + LINE * (number as f64 + 1.0) - 3.0;
                body += &words(BELOW, base, "start", "text", line);
            }
            lines.len()
        };
        let middle = height + LINE * lines as f64 + 0.5 * STEP;
        let (zero, end) = (at(0.0), at(row.strength));
        let _ = write!(
            body,
            "<rect x=\"{}\" y=\"{}\" width=\"{:.1}\" height=\"14\" fill=\"var(--run-1)\" fill-opacity=\".55\"/>",
            zero.min(end),
            middle - 7.0,
            (end - zero).abs()
        );
        if let Some([low, high]) = row.interval.map(|ends| ends.map(at)) {
            let _ = write!(
                body,
                "<line class=\"ends\" x1=\"{low}\" x2=\"{high}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"var(--text)\" stroke-width=\"1.5\"/>"
            );
        }
        let value = match row.interval {
            Some([low, high]) => format!("{:.2} [{low:.2}, {high:.2}]", row.strength),
            None => format!("{:.2}", row.strength),
        };
        body += &words(RIGHT + 12.0, middle + 4.5, "start", "muted", &value);
        height = middle + 0.5 * STEP;
    }
    let games: f64 = file.standings.iter().map(|row| row.games).sum::<f64>() / 2.0;
    let mut notes = vec![format!(
        "{} items, {} comparisons ({} games). Bars are strengths in logits from their mean; lines are central 95 % \
         intervals.",
        file.standings.len(),
        file.comparisons,
        super::words::number(games)
    )];
    if file.components.len() > 1 {
        notes.push(format!(
            "The games do not connect all items ({} components): gaps between these are no facts.",
            file.components.len()
        ));
    }
    if shown.len() < file.standings.len() {
        notes.push(format!("The first {} are shown.", shown.len()));
    }
    let title = super::words::path(path);
    let svg = format!(
        "<svg class=\"ranking\" role=\"img\" aria-label=\"strengths of {}\" viewBox=\"0 0 {WIDTH} {height}\">\
         <g font-size=\"13\"><line x1=\"{zero}\" x2=\"{zero}\" y1=\"0\" y2=\"{height}\" stroke=\"var(--grid)\"/>{body}</g></svg>",
        plot::escaped(&title),
        zero = at(0.0),
    );
    Ranking {
        title,
        notes,
        svg,
        height,
    }
}

fn words(x: f64, y: f64, anchor: &str, colour: &str, text: &str) -> String {
    format!(
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"var(--{colour})\">{}</text>",
        plot::escaped(text)
    )
}

/// A name in lines of so many letters at most, whole words where they fit.
fn wrapped(name: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in name.split_inclusive(char::is_whitespace) {
        for part in word.chars().collect::<Vec<char>>().chunks(most) {
            let line = lines.last_mut().expect("there is a first line");
            if line.chars().count() + part.len() > most {
                lines.push(part.iter().collect());
            } else {
                line.extend(part);
            }
        }
    }
    lines
}

//! Rankings that `preftune rank --json` printed: a bar for every item, with its interval.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bars of one ranking at most; a page of a thousand would be read by nobody.
const MOST: usize = 100;
/// Where bars begin and end, in units of the drawing.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 700.0;
/// Height of a row.
const STEP: f64 = 26.0;

/// What of the file is shown.
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
    title: String,
    notes: Vec<String>,
    height: f64,
    /// Where strength 0 is.
    zero: f64,
    bars: Vec<Bar>,
}

#[derive(Serialize)]
struct Bar {
    name: String,
    /// Strength, and its interval where there is one.
    value: String,
    /// Middle of the row.
    y: f64,
    x: f64,
    width: f64,
    interval: Option<[f64; 2]>,
}

/// The drawing of a file.
///
/// # Errors
/// It cannot be read, or is not what `preftune rank --json` prints.
pub(super) fn read(path: &Path) -> Result<Ranking> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
    let file: File = serde_json::from_str(&text).map_err(|error| {
        Error::data(path, format!("not a ranking: {error}"))
            .with_hint("give what `preftune rank --json` prints, or a run's folder")
    })?;
    if file.standings.is_empty() {
        return Err(Error::data(path, "a ranking of no items"));
    }
    Ok(drawn(path, &file))
}

fn drawn(path: &Path, file: &File) -> Ranking {
    let shown = &file.standings[..file.standings.len().min(MOST)];
    let ends = shown.iter().flat_map(|row| {
        let [low, high] = row.interval.unwrap_or([row.strength; 2]);
        [low, high, row.strength, 0.0]
    });
    let (low, high) = ends.fold((0.0_f64, 0.0_f64), |(low, high), end| {
        (low.min(end), high.max(end))
    });
    let unit = (RIGHT - LEFT) / (high - low).max(f64::MIN_POSITIVE);
    let at = |strength: f64| (10.0 * (LEFT + (strength - low) * unit)).round() / 10.0;
    let bars = shown.iter().enumerate().map(|(place, row)| {
        let (zero, end) = (at(0.0), at(row.strength));
        Bar {
            name: format!("{}. {}", row.rank, row.item),
            value: match row.interval {
                Some([low, high]) => format!("{:.2} [{low:.2}, {high:.2}]", row.strength),
                None => format!("{:.2}", row.strength),
            },
            y: STEP * (place as f64 + 0.5),
            x: zero.min(end),
            width: (end - zero).abs(),
            interval: row.interval.map(|ends| ends.map(at)),
        }
    });
    let games: f64 = file.standings.iter().map(|row| row.games).sum::<f64>() / 2.0;
    let mut notes = vec![format!(
        "{} items, {} comparisons ({games} games). Bars are strengths in logits from their mean; lines are central 95 % \
         intervals.",
        file.standings.len(),
        file.comparisons
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
    Ranking {
        title: path.display().to_string(),
        notes,
        height: STEP * shown.len() as f64,
        zero: at(0.0),
        bars: bars.collect(),
    }
}

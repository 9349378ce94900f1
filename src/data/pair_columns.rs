//! The columns in which tables of image pairs say which images are compared and which of them is better.

use serde_json::Value;

use super::columns::Columns;
use super::contradictions::refuse_contradiction;
use super::left_out::shown;
use super::text::number;

/// Names of the preferred and of the other image.
const CHOSEN: [[&str; 2]; 5] = [
    ["chosen", "rejected"],
    ["chosen_file_name", "rejected_file_name"],
    ["chosen_image", "rejected_image"],
    ["image_chosen", "image_rejected"],
    ["chosen_path", "rejected_path"],
];
/// Names of two images of which `label_0` and `label_1` say which is better, as in Pick-a-Pic.
const NUMBERED: [[&str; 2]; 5] = [
    ["jpg_0", "jpg_1"],
    ["image_0_uid", "image_1_uid"],
    ["image_0", "image_1"],
    ["image_0_file_name", "image_1_file_name"],
    ["image_0_path", "image_1_path"],
];
/// Names of a list of images of which `human_preference` says which is better, as in HPD.
const LISTED: [&str; 2] = ["image_path", "file_path"];
/// Names of what both images are of.
const PROMPTS: [&str; 3] = ["prompt", "caption", "text"];
/// Letters of a file's name at most; more is no name.
const LONGEST_NAME: usize = 1000;

/// The two images that a row compares, the better one first.
pub(super) enum Compared {
    /// The columns of both images.
    Columns([&'static str; 2]),
    /// Files.
    Files(Vec<[String; 2]>),
}

/// A row's preference.
pub(super) struct Preference {
    pub(super) compared: Compared,
    /// `true` if the two images changed places: numbers of `chosen` and `rejected` are then those of the other.
    pub(super) turned: bool,
    /// Probabilities that the better and the other image win, where labels say so.
    pub(super) wins: Option<[f64; 2]>,
}

/// Why a row has none.
pub(super) enum Without {
    /// Something is wrong with it.
    Fault(String),
    /// It is in order, and prefers neither image.
    Undecided(&'static str),
}

impl From<String> for Without {
    fn from(problem: String) -> Self {
        Self::Fault(problem)
    }
}

const TIE: Without = Without::Undecided("a tie");
const UNLABELLED: Without = Without::Undecided("no label says which image is better");

/// Reads which image is better; `has` says which columns there are, those of pictures too.
pub(super) fn preference(
    columns: &Columns,
    has: impl Fn(&str) -> bool,
) -> Result<Preference, Without> {
    let both = |names: &&[&'static str; 2]| names.iter().all(|name| has(name));
    if let Some(&names) = CHOSEN.iter().find(both) {
        return labelled(columns, names);
    }
    if let Some(&names) = NUMBERED.iter().find(both) {
        return numbered(columns, names);
    }
    if let Some(name) = LISTED.iter().find(|name| has(name)) {
        return listed(columns, name);
    }
    let half = CHOSEN.iter().chain(&NUMBERED).find_map(|names| {
        let [one, other] = names.map(&has);
        (one != other).then(|| if one { names[1] } else { names[0] })
    });
    let missing = half.unwrap_or("chosen");
    let there: Vec<String> = columns.names().map(|name| format!("`{name}`")).collect();
    Err(Without::Fault(format!(
        "no image under `{missing}`; there are {}",
        there.join(", ")
    )))
}

/// Of a pair whose first image is preferred, unless `label` or `probability`, both of the first, say otherwise.
fn labelled(columns: &Columns, names: [&'static str; 2]) -> Result<Preference, Without> {
    refuse_contradiction(columns)?;
    let (label, probability) = (share(columns, "label")?, share(columns, "probability")?);
    let Some(first) = label.or(probability) else {
        return Ok(Preference {
            compared: Compared::Columns(names),
            turned: false,
            wins: None,
        });
    };
    if is_half(first) {
        return Err(TIE);
    }
    let odds = probability.unwrap_or(first);
    let turned = first < 0.5;
    let [one, other] = names;
    Ok(Preference {
        compared: Compared::Columns(if turned { [other, one] } else { names }),
        turned,
        wins: Some(if turned {
            [1.0 - odds, odds]
        } else {
            [odds, 1.0 - odds]
        }),
    })
}

/// Of Pick-a-Pic's columns: 1 and 0 for the better and the other image, .5 twice for a tie; -1, null or 0 twice where
/// nobody was asked.
fn numbered(columns: &Columns, names: [&'static str; 2]) -> Result<Preference, Without> {
    if truth(columns, "has_label")? == Some(false) {
        return Err(UNLABELLED);
    }
    if truth(columns, "are_different")? == Some(false) {
        return Err(Without::Undecided("its images are not different"));
    }
    if !columns.names().any(|name| name == "label_0") {
        return Err(Without::Fault("`label_0` is missing".to_owned()));
    }
    let labels = [number(columns, "label_0")?, number(columns, "label_1")?];
    if let Some(label) = labels.iter().flatten().find(|label| **label > 1.0) {
        return Err(Without::Fault(format!("a label is {label}, above 1")));
    }
    let (first, second) = match labels {
        [Some(first), Some(second)] if first >= 0.0 && second >= 0.0 => (first, second),
        [Some(first), None] if first >= 0.0 => (first, 1.0 - first),
        _ => return Err(UNLABELLED),
    };
    if first <= 0.0 && second <= 0.0 {
        return Err(UNLABELLED);
    }
    if (first - second).abs() < f64::EPSILON {
        return Err(TIE);
    }
    let [one, other] = names;
    Ok(Preference {
        compared: Compared::Columns(if first > second { names } else { [other, one] }),
        turned: false,
        wins: None,
    })
}

/// Of HPD's columns: files, and for each of them 1 or 0, or the place of the preferred one.
fn listed(columns: &Columns, name: &str) -> Result<Preference, Without> {
    let Some(Value::Array(files)) = columns.get(name) else {
        return Err(Without::Fault(format!("`{name}` is no list of files")));
    };
    let files = files.iter().map(|file| file_name(file, name));
    let files = files.collect::<Result<Vec<String>, String>>()?;
    let marks: Vec<f64> = match columns.filled("human_preference") {
        None => return Err(UNLABELLED),
        Some(Value::Array(marks)) => marks.iter().filter_map(Value::as_f64).collect(),
        Some(Value::Number(place)) => {
            let preferred = place.as_u64();
            let places = 0..files.len() as u64;
            places
                .map(|place| f64::from(u8::from(Some(place) == preferred)))
                .collect()
        }
        Some(other) => {
            let problem = format!("`human_preference` is {}, no list of marks", shown(other));
            return Err(Without::Fault(problem));
        }
    };
    if marks.len() != files.len() || files.len() < 2 {
        let (marks, files) = (marks.len(), files.len());
        let problem = format!("{marks} numbers in `human_preference` for {files} in `{name}`");
        return Err(Without::Fault(problem));
    }
    let highest = marks.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best = |place: &usize| marks[*place] >= highest;
    let mut preferred = (0..files.len()).filter(best);
    let (Some(chosen), None) = (preferred.next(), preferred.next()) else {
        return Err(TIE);
    };
    let others = (0..files.len()).filter(|&place| place != chosen);
    let pairs = others.map(|place| [files[chosen].clone(), files[place].clone()]);
    Ok(Preference {
        compared: Compared::Files(pairs.collect()),
        turned: false,
        wins: None,
    })
}

/// The prompt of both images; `None` where all columns of prompts are missing or blank.
pub(super) fn prompt(columns: &Columns) -> Result<Option<&str>, String> {
    for name in PROMPTS {
        match columns.filled(name) {
            None => {}
            Some(Value::String(text)) if text.trim().is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(text)),
            Some(other) => return Err(format!("`{name}` is {}, no text", shown(other))),
        }
    }
    Ok(None)
}

/// The name of a file in a cell: text, a number, or the `path` of the hub's images.
pub(super) fn file_name(value: &Value, column: &str) -> Result<String, String> {
    match value {
        Value::String(name) if name.len() > LONGEST_NAME => Err(format!(
            "`{column}` is {}, too long for the name of a file; images within rows are read from Parquet alone",
            shown(value)
        )),
        Value::String(name) if name.trim().is_empty() => Err(format!("`{column}` is empty")),
        Value::String(name) => Ok(name.trim().to_owned()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Err(format!("no image under `{column}`")),
        Value::Object(image) => match (image.get("bytes"), image.get("path")) {
            (None | Some(Value::Null), Some(Value::String(path))) => Ok(path.clone()),
            _ => Err(format!(
                "`{column}` is {}, not the name of a file; images within rows are read from Parquet alone",
                shown(value)
            )),
        },
        other => Err(format!(
            "`{column}` is {}, not the name of a file",
            shown(other)
        )),
    }
}

/// A number of 0 to 1; true and false are its ends.
fn share(columns: &Columns, name: &str) -> Result<Option<f64>, String> {
    if let Some(truth) = truth_of(columns.filled(name)) {
        return Ok(Some(f64::from(u8::from(truth))));
    }
    match number(columns, name)? {
        Some(share) if !(0.0..=1.0).contains(&share) => {
            Err(format!("`{name}` is {share}, but must be 0 to 1"))
        }
        share => Ok(share),
    }
}

fn truth(columns: &Columns, name: &str) -> Result<Option<bool>, String> {
    match (truth_of(columns.filled(name)), columns.filled(name)) {
        (Some(truth), _) => Ok(Some(truth)),
        (None, None) => Ok(None),
        (None, Some(other)) => Err(format!(
            "`{name}` is {}, neither true nor false",
            shown(other)
        )),
    }
}

fn truth_of(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn is_half(share: f64) -> bool {
    (share - 0.5).abs() < f64::EPSILON
}

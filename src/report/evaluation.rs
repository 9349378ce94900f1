//! Tables of what `preftune eval` found: a column for each model that was judged, a row for each figure.

use serde::Serialize;
use serde_json::Value;

use super::figures::{Figure, Set, TUNED, figures_of, sets};
use super::people;
use super::read::Run;
use super::words;
use crate::eval::bootstrap::Bootstrap;

/// The order in which sets are read: the untuned model, the runs, what they gained and how they differ; then the rest.
const ORDER: [&str; 4] = ["base", TUNED, "gain", LESS];
/// How the role of a difference between runs begins.
const LESS: &str = "less ";
/// Sets that runs of one subject and base model share.
const SHARED: [&str; 2] = ["oracle", "base"];
/// Texts from this length on are explanations, not settings.
const LONG: usize = 40;

/// The table of one evaluation, of all runs that have it.
#[derive(Serialize)]
pub(super) struct Table {
    title: String,
    protocol: String,
    notes: Vec<String>,
    warnings: Vec<String>,
    columns: Vec<Heading>,
    rows: Vec<Row>,
    prompts: Vec<Prompts>,
}

#[derive(Serialize)]
struct Heading {
    role: String,
    /// The run, where the column is one run's alone.
    run: Option<String>,
    /// `true` if its figures are differences.
    signed: bool,
}

#[derive(Serialize)]
struct Row {
    /// The keys that lead to the figure, such as the encoder that gave it, where their group begins here.
    group: String,
    title: String,
    note: String,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    interval: String,
}

/// Figures of one run, prompt by prompt.
#[derive(Serialize)]
struct Prompts {
    run: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// A table for each evaluation, in the order in which the runs name them.
pub(super) fn tables(runs: &[Run]) -> Vec<Table> {
    let mut names: Vec<&str> = Vec::new();
    for evaluation in runs.iter().flat_map(|run| &run.evaluations) {
        if !names.contains(&evaluation.name.as_str()) {
            names.push(&evaluation.name);
        }
    }
    names.into_iter().map(|name| table(runs, name)).collect()
}

fn table(runs: &[Run], name: &str) -> Table {
    let mut all: Vec<(usize, &Value)> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let found = run.evaluations.iter();
        let found = found.filter(|evaluation| evaluation.name == name);
        all.extend(found.map(|evaluation| (index, &evaluation.figures)));
    }
    let mut columns = columns(&all, runs);
    let first = all.first().map_or(&Value::Null, |(_, value)| value);
    let (protocol, mut notes) = protocol(&first["protocol"]);
    if !people::is_session(first) {
        notes.extend(add_people(&mut columns, runs));
    }
    let rows = rows(&columns, &first["encoders"]);
    if rows
        .iter()
        .flat_map(|row| &row.cells)
        .any(|cell| !cell.interval.is_empty())
    {
        notes.insert(
            0,
            format!("Below a figure: its {}.", interval(&first["bootstrap"])),
        );
    }
    notes.extend(encoders(&first["encoders"]));
    let prompts = all
        .iter()
        .filter_map(|(run, value)| prompts(&runs[*run].name, value));
    Table {
        title: words::sentence_case(name),
        protocol,
        notes,
        warnings: warnings(&all, runs),
        rows,
        prompts: prompts.collect(),
        columns: columns.into_iter().map(|(heading, _)| heading).collect(),
    }
}

/// The sets in the order in which they are read.
fn columns(all: &[(usize, &Value)], runs: &[Run]) -> Vec<(Heading, Set)> {
    let mut sets: Vec<Set> = all
        .iter()
        .flat_map(|(run, value)| sets(*run, value))
        .collect();
    sets.extend(differences(&sets, all, runs));
    let place = |set: &Set| ORDER.iter().position(|role| set.role.starts_with(role));
    sets.sort_by_key(|set| place(set).unwrap_or(ORDER.len()));
    let mut columns: Vec<(Heading, Set)> = Vec::new();
    for set in sets {
        let shared = SHARED.contains(&set.role.as_str());
        let same = |known: &Set| known.role == set.role && known.figures == set.figures;
        if let Some((heading, _)) = columns.iter_mut().find(|(_, known)| shared && same(known)) {
            heading.run = None;
            continue;
        }
        let role = match set.role.as_str() {
            "oracle" => "photos among themselves".to_owned(),
            "base" => "untuned".to_owned(),
            role => role.replace('_', " "),
        };
        let heading = Heading {
            role,
            run: (runs.len() > 1).then(|| runs[set.run].name.clone()),
            signed: set.role == "gain" || set.role.starts_with(LESS),
        };
        columns.push((heading, set));
    }
    columns
}

/// Puts what people said of runs into the columns of their tuned models, and says who said it.
fn add_people(columns: &mut [(Heading, Set)], runs: &[Run]) -> Vec<String> {
    let (win_rates, notes) = people::win_rates(runs);
    let mut added = false;
    for people::WinRate { run, figure } in win_rates {
        let mut own = columns.iter_mut().map(|(_, set)| set);
        if let Some(set) = own.find(|set| set.role == TUNED && set.run == run) {
            set.figures.push(figure);
            added = true;
        }
    }
    if added { notes } else { Vec::new() }
}

/// Differences that the files leave to be worked out: gains over the untuned model, and of each run over the first.
fn differences(sets: &[Set], all: &[(usize, &Value)], runs: &[Run]) -> Vec<Set> {
    let find = |role: &str, run: usize| sets.iter().find(|set| set.role == role && set.run == run);
    let mut found = Vec::new();
    for &(run, _) in all {
        if find("gain", run).is_none()
            && let (Some(tuned), Some(base)) = (find(TUNED, run), find("base", run))
        {
            found.push(tuned.minus(base, "gain".to_owned()));
        }
    }
    let Some(&(first, of_first)) = all.first() else {
        return found;
    };
    for &(run, value) in all.iter().skip(1) {
        if let (Some(tuned), Some(other)) = (find(TUNED, run), find(TUNED, first)) {
            let mut set = tuned.minus(other, format!("{LESS}{}", runs[first].name));
            add_intervals(&mut set, value, of_first);
            found.push(set);
        }
    }
    found
}

/// Intervals of the differences of `value` from `other`, where both were judged prompt by prompt on the same ones and
/// the file says how its own intervals were made: the differences at each prompt, resampled the same way.
fn add_intervals(set: &mut Set, value: &Value, other: &Value) {
    let drawn = &value["bootstrap"];
    let (Some("prompts"), Some(level), Some(resamples)) = (
        drawn["over"].as_str(),
        drawn["level"].as_f64(),
        drawn["resamples"].as_u64(),
    ) else {
        return;
    };
    let bootstrap = Bootstrap {
        resamples: resamples as usize,
        level,
        seed: drawn["seed"].as_u64().unwrap_or_default(),
        within: false,
    };
    let (Some(rows), Some(others)) = (value["prompts"].as_array(), other["prompts"].as_array())
    else {
        return;
    };
    let same = |(row, other): (&Value, &Value)| row["prompt"] == other["prompt"];
    if rows.len() != others.len() || !rows.iter().zip(others).all(same) {
        return;
    }
    let figures = |rows: &[Value]| -> Vec<Vec<Figure>> {
        let of_row = |row: &Value| figures_of(&row["figures"], &Value::Null);
        rows.iter().map(of_row).collect()
    };
    let (rows, others) = (figures(rows), figures(others));
    for figure in &mut set.figures {
        let find = |row: &[Figure]| {
            let found = row.iter().find(|found| found.key == figure.key);
            found.map(|found| found.value)
        };
        let differences: Option<Vec<Vec<f64>>> = rows
            .iter()
            .zip(&others)
            .map(|(row, other)| Some(vec![find(row)? - find(other)?]))
            .collect();
        figure.interval = differences.and_then(|differences| bootstrap.interval(&differences));
    }
}

fn rows(columns: &[(Heading, Set)], encoders: &Value) -> Vec<Row> {
    let mut keys: Vec<&str> = Vec::new();
    for figure in columns.iter().flat_map(|(_, set)| &set.figures) {
        if !keys.contains(&figure.key.as_str()) {
            keys.push(&figure.key);
        }
    }
    // Figures of one encoder stay together, in the order in which the file has them.
    let group = |key: &str| match people::title(key) {
        Some(_) => "people".to_owned(),
        None => key
            .rsplit_once('/')
            .map_or("", |(before, _)| before)
            .to_owned(),
    };
    let mut groups: Vec<String> = Vec::new();
    for key in &keys {
        if !groups.contains(&group(key)) {
            groups.push(group(key));
        }
    }
    keys.sort_by_key(|key| groups.iter().position(|known| *known == group(key)));
    let group_title = |group: &str| match encoders.get(group) {
        Some(_) => format!("{} encoder", words::sentence_case(group)),
        None => words::sentence_case(group),
    };
    // What is as in the row above is not said again.
    let changed = |now: &str, before: &mut String| {
        let changed = now != *before;
        now.clone_into(before);
        changed
    };
    let (mut last_group, mut last_note) = (String::new(), String::new());
    let row = |key: &str| {
        let (title, mut note) = match people::title(key) {
            Some(title) => (title, String::new()),
            None => words::metric(key.rsplit('/').next().unwrap_or(key)),
        };
        let mut group = group(key);
        if !changed(&group, &mut last_group) {
            group.clear();
        }
        if !changed(&note.clone(), &mut last_note) {
            note.clear();
        }
        let cells = columns
            .iter()
            .map(|(heading, set)| cell(set.figure(key), heading.signed));
        Row {
            group: group_title(&group),
            title,
            note,
            cells: cells.collect(),
        }
    };
    keys.into_iter().map(row).collect()
}

fn cell(figure: Option<&Figure>, signed: bool) -> Cell {
    let show = if signed {
        words::difference
    } else {
        words::score
    };
    let interval = figure.and_then(|figure| figure.interval);
    Cell {
        text: figure.map_or_else(|| "\u{2013}".to_owned(), |figure| show(figure.value)),
        interval: interval.map_or_else(String::new, |(low, high)| {
            format!("{} to {}", show(low), show(high))
        }),
    }
}

/// Settings in one line, and explanations.
fn protocol(protocol: &Value) -> (String, Vec<String>) {
    let (mut settings, mut notes) = (Vec::new(), Vec::new());
    for (key, value) in protocol.as_object().into_iter().flatten() {
        let text = match value {
            Value::Array(items) => items
                .iter()
                .filter_map(words::scalar)
                .collect::<Vec<_>>()
                .join("/"),
            value => words::scalar(value).unwrap_or_default(),
        };
        if text.len() > LONG {
            notes.push(format!("{}: {text}.", words::sentence_case(key)));
        } else if !text.is_empty() {
            settings.push(format!("{} {text}", key.replace('_', " ")));
        }
    }
    (settings.join(", "), notes)
}

/// The kind of the intervals, in words.
fn interval(bootstrap: &Value) -> String {
    match (bootstrap["level"].as_f64(), bootstrap["over"].as_str()) {
        (Some(level), Some(over)) => {
            format!(
                "{} % bootstrap interval over {over}",
                words::number(100.0 * level)
            )
        }
        _ => "interval".to_owned(),
    }
}

/// Which encoders judged.
fn encoders(encoders: &Value) -> Option<String> {
    let encoders = encoders.as_object().into_iter().flatten();
    let named = encoders
        .filter_map(|(role, encoder)| Some(format!("{role}: {}", encoder["name"].as_str()?)));
    let named: Vec<String> = named.collect();
    (!named.is_empty()).then(|| format!("Encoders: {}.", named.join(", ")))
}

fn warnings(all: &[(usize, &Value)], runs: &[Run]) -> Vec<String> {
    let mut warnings = Vec::new();
    if all
        .iter()
        .any(|(_, value)| value["protocol"] != all[0].1["protocol"])
    {
        warnings.push(
            "The runs were judged under different protocols: their figures do not compare."
                .to_owned(),
        );
    }
    for (run, value) in all {
        let name = &runs[*run].name;
        let texts = |key: &str| {
            value[key]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
        };
        let copied: Vec<String> = texts("above_oracle")
            .map(|key| words::metric(&key.replace('.', "/")).0)
            .collect();
        if !copied.is_empty() {
            warnings.push(format!(
                "{name}: by {} the images are more like the photos than the photos are like each other: the model may \
                 be copying them.",
                copied.join(" and ")
            ));
        }
        let seen = texts("seen_prompts").count();
        if seen > 0 {
            warnings.push(format!(
                "{name}: {} of the evaluation took part in the run.",
                words::count(seen, "prompt")
            ));
        }
    }
    warnings
}

fn prompts(run: &str, evaluation: &Value) -> Option<Prompts> {
    let rows = evaluation["prompts"].as_array()?;
    let figures = |row: &Value| figures_of(&row["figures"], &Value::Null);
    let first = figures(rows.first()?);
    let row = |row: &Value| {
        let found = figures(row);
        let cell = |wanted: &Figure| {
            cell(found.iter().find(|figure| figure.key == wanted.key), false).text
        };
        let prompt = row["prompt"].as_str().unwrap_or_default().to_owned();
        (prompt, first.iter().map(cell).collect())
    };
    Some(Prompts {
        run: run.to_owned(),
        columns: first
            .iter()
            .map(|figure| words::metric(&figure.key).0)
            .collect(),
        rows: rows.iter().map(row).collect(),
    })
}

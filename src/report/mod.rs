//! One self-contained HTML page on one or several runs and rankings, from their files alone: no script, nothing fetched.
//!
//! `read`, `curves`, `facts`, `figures`, `evaluation` and `labels` know no task; what only image runs have is in `image`.

mod answers;
mod curves;
mod evaluation;
mod facts;
mod figures;
mod image;
mod labels;
mod people;
mod picture;
mod plot;
mod ranking;
mod read;
mod verdict;
mod words;

use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment};
use serde::Serialize;
use serde_json::Value;

use self::read::Run;
pub(crate) use self::words::without_numbers;
use crate::error::{Error, Result};

const TEMPLATE: &str = include_str!("page.html");

/// The values that the template gets.
#[derive(Serialize)]
struct Page {
    title: String,
    /// Version of preftune that writes the page.
    version: &'static str,
    /// How several runs compare, where they do.
    comparison: Option<String>,
    verdicts: Vec<verdict::Verdict>,
    facts: Vec<facts::Row>,
    differing: Vec<facts::Row>,
    groups: Vec<curves::Group>,
    grids: Vec<image::Grid>,
    answers: Vec<answers::Answers>,
    tables: Vec<evaluation::Table>,
    rankings: Vec<ranking::Ranking>,
    labels: Vec<labels::Labels>,
    negatives: Vec<image::Negatives>,
    timings: Vec<facts::Timing>,
    configs: Vec<(String, String)>,
    hashes: Vec<facts::Row>,
}

/// The page on the runs in these folders, in their order, and on the rankings in these files.
///
/// # Errors
/// A folder that is no run's, a file that is no ranking, or a file in it that is not what its name says. Files that are
/// missing leave out what they would say; a last line of `metrics.jsonl` that a kill cut off is named on the page.
pub fn page(paths: &[PathBuf]) -> Result<String> {
    let page = Page::read(paths)?;
    let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
    render(&page).map_err(|error| Error::data(first, format!("cannot be put on a page: {error:#}")))
}

/// The drawings of the page, each as a file of its own: its name, and its text in SVG.
///
/// # Errors
/// As [`page`].
pub fn drawings(paths: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let page = Page::read(paths)?;
    let runs: Vec<(usize, &str)> = match page.verdicts.as_slice() {
        [_] => Vec::new(),
        several => several
            .iter()
            .map(|verdict| (verdict.colour, verdict.run.as_str()))
            .collect(),
    };
    let rankings = page.rankings.iter();
    let rankings = rankings.map(|ranking| (format!("ranking {}", ranking.title), ranking.alone()));
    let curves = page.groups.iter().flat_map(|group| group.alone(&runs));
    let labels = page.labels.iter().flat_map(labels::Labels::alone);
    let mut drawings: Vec<(String, String)> = Vec::new();
    for (name, svg) in rankings.chain(curves).chain(labels) {
        let name = words::file_name(&name);
        let taken = |name: &str| drawings.iter().any(|(known, _)| known == name);
        let mut numbered = (1..).map(|number| match number {
            1 => format!("{name}.svg"),
            number => format!("{name}-{number}.svg"),
        });
        let name = numbered.find(|name| !taken(name)).unwrap_or_default();
        drawings.push((name, svg));
    }
    Ok(drawings)
}

/// A ranking as a drawing that stands alone, in SVG, of what `preftune rank --json` prints; `path` names it.
///
/// # Errors
/// It is something else.
pub fn ranking(path: &Path, ranking: Value) -> Result<String> {
    Ok(ranking::of_json(path, ranking)?.alone())
}

impl Page {
    fn read(paths: &[PathBuf]) -> Result<Self> {
        let (files, folders): (Vec<&PathBuf>, Vec<&PathBuf>) =
            paths.iter().partition(|path| path.is_file());
        let rankings = files.iter().map(|path| ranking::read(path));
        let rankings = rankings.collect::<Result<Vec<_>>>()?;
        let mut runs = folders
            .iter()
            .map(|folder| Run::read(folder))
            .collect::<Result<Vec<Run>>>()?;
        read::name(&mut runs);
        let shown = files.iter().map(|path| words::path(path));
        let shown: Vec<String> = runs
            .iter()
            .map(|run| run.name.clone())
            .chain(shown)
            .collect();
        let names: Vec<&str> = shown.iter().map(String::as_str).collect();
        let verdicts = runs
            .iter()
            .enumerate()
            .map(|(index, run)| verdict::verdict(run, index));
        Ok(Self {
            title: words::list(&names),
            version: env!("CARGO_PKG_VERSION"),
            comparison: image::comparison(&runs),
            verdicts: verdicts.collect(),
            facts: facts::what_was_run(&runs),
            differing: facts::differing_settings(&runs),
            groups: curves::groups(&runs, &image::levels(&runs))?,
            grids: image::grids(&runs),
            answers: answers::answers(&runs)?,
            tables: evaluation::tables(&runs),
            rankings,
            labels: labels::labels(&runs)?,
            negatives: image::negatives(&runs),
            timings: facts::timings(&runs),
            configs: runs
                .iter()
                .filter(|run| !run.config_text.is_empty())
                .map(|run| (run.name.clone(), words::without_paths(&run.config_text)))
                .collect(),
            hashes: facts::hashes(&runs),
        })
    }
}

/// Fills the template; everything is escaped but drawings and data URIs, which are made here.
fn render(page: &Page) -> std::result::Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.render_str(TEMPLATE, page)
}

//! One self-contained HTML page on one or several runs and rankings, from their files alone: no script, nothing fetched.
//!
//! `read`, `curves`, `facts`, `figures`, `evaluation` and `labels` know no task; what only image runs have is in `image`.

mod curves;
mod evaluation;
mod facts;
mod figures;
mod image;
mod labels;
mod picture;
mod plot;
mod ranking;
mod read;
mod verdict;
mod words;

use std::path::{Path, PathBuf};

use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use self::read::Run;
use crate::error::{Error, Result};

const TEMPLATE: &str = include_str!("page.html");

/// What the template gets.
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
/// A folder that is no run's, a file that is no ranking, or a file in it that is not what its name says. Files that are missing leave out what
/// they would say; a last line of `metrics.jsonl` that a kill cut off is named on the page.
pub fn page(folders: &[PathBuf]) -> Result<String> {
    let (files, folders): (Vec<&PathBuf>, Vec<&PathBuf>) =
        folders.iter().partition(|path| path.is_file());
    let rankings = files.iter().map(|path| ranking::read(path));
    let rankings = rankings.collect::<Result<Vec<_>>>()?;
    let mut runs = folders
        .iter()
        .map(|folder| Run::read(folder))
        .collect::<Result<Vec<Run>>>()?;
    read::name(&mut runs);
    let shown = files.iter().map(|path| path.display().to_string());
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
    let page = Page {
        title: words::list(&names),
        version: env!("CARGO_PKG_VERSION"),
        comparison: image::comparison(&runs),
        verdicts: verdicts.collect(),
        facts: facts::what_was_run(&runs),
        differing: facts::differing_settings(&runs),
        groups: curves::groups(&runs, &image::levels(&runs))?,
        grids: image::grids(&runs),
        tables: evaluation::tables(&runs),
        rankings,
        labels: labels::labels(&runs)?,
        negatives: image::negatives(&runs),
        timings: facts::timings(&runs),
        configs: runs
            .iter()
            .filter(|run| !run.config_text.is_empty())
            .map(|run| (run.name.clone(), run.config_text.clone()))
            .collect(),
        hashes: facts::hashes(&runs),
    };
    let first = folders.first().or(files.first());
    let first = first.map_or(Path::new(""), |path| path.as_path());
    render(&page).map_err(|error| Error::data(first, format!("cannot be put on a page: {error:#}")))
}

/// Fills the template; everything is escaped but drawings and data URIs, which are made here.
fn render(page: &Page) -> std::result::Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.render_str(TEMPLATE, page)
}

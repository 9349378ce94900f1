//! One self-contained HTML page on one or several runs, from their files alone: no script, nothing fetched.
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
mod read;
mod verdict;
mod words;

use std::path::PathBuf;

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
    labels: Vec<labels::Labels>,
    negatives: Vec<image::Negatives>,
    timings: Vec<facts::Timing>,
    configs: Vec<(String, String)>,
    hashes: Vec<facts::Row>,
}

/// The page on the runs in these folders, in their order.
///
/// # Errors
/// A folder that is no run's, or a file in it that is not what its name says. Files that are missing leave out what
/// they would say; a last line of `metrics.jsonl` that a kill cut off is named on the page.
pub fn page(folders: &[PathBuf]) -> Result<String> {
    let mut runs = folders
        .iter()
        .map(|folder| Run::read(folder))
        .collect::<Result<Vec<Run>>>()?;
    read::name(&mut runs);
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
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
    render(&page)
        .map_err(|error| Error::data(&folders[0], format!("cannot be put on a page: {error:#}")))
}

/// Fills the template; everything is escaped but drawings and data URIs, which are made here.
fn render(page: &Page) -> std::result::Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.render_str(TEMPLATE, page)
}

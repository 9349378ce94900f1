//! `preftune report`: one page on one or several runs.

use std::path::PathBuf;

use clap::Args;

use crate::cli::output::check_folder_of;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::report;

/// The page's name where none is given.
const FILE_NAME: &str = "report.html";

#[derive(Args)]
pub(super) struct ReportArgs {
    /// Run folders; several are shown beside each other. Files are rankings, as `preftune rank --json` prints them.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; `report.html` in the run's folder where it is not given, in this folder for several.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write every drawing of the page as a file of its own into this folder.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
}

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let path = match (&args.out, args.runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) if !run.is_file() => run.join(FILE_NAME),
        (None, _) => PathBuf::from(FILE_NAME),
    };
    if let Some(out) = &args.out {
        check_folder_of(out, "--out")?;
    }
    let page = report::page(&args.runs)?;
    write_atomically(&path, page.as_bytes())?;
    println!(
        "report: {} ({} KiB)",
        path.display(),
        page.len().div_ceil(1024)
    );
    if let Some(folder) = &args.svg {
        let drawings = report::drawings(&args.runs)?;
        std::fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
        for (name, svg) in &drawings {
            write_atomically(&folder.join(name), svg.as_bytes())?;
        }
        println!("drawings: {} in {}", drawings.len(), folder.display());
    }
    Ok(())
}

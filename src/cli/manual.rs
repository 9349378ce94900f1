//! `preftune completions` and `preftune man`: the command line's own description for shells and for `man`.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::output::result;
use crate::error::{Error, Result};

#[derive(Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// Folder for the pages `preftune.1`, `preftune-train.1` and so on.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

pub(super) fn complete(args: &CompletionsArgs, mut program: Command) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "preftune", &mut script);
    result(format_args!("{}", String::from_utf8_lossy(&script)));
}

pub(super) fn write(args: &ManArgs, program: Command) -> Result<()> {
    std::fs::create_dir_all(&args.out).map_err(|source| Error::io("create", &args.out, source))?;
    clap_mangen::generate_to(program, &args.out)
        .map_err(|source| Error::io("write into", &args.out, source))?;
    println!("{}: pages of all verbs", args.out.display());
    Ok(())
}

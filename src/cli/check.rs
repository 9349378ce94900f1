//! `preftune check`: is this configuration complete and without contradiction?

use std::path::PathBuf;

use clap::Args;

use super::train_image;
use super::train_pairs_data;
use super::train_text_data;
use crate::config::{self, Config};
use crate::error::{Error, Result};

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Configuration file (TOML).
    config: PathBuf,
    /// Override a key, as in `--set train.steps=200`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

pub(super) fn run(args: &CheckArgs) -> Result<()> {
    let config = config::load_any(&args.config, &args.overrides)?;
    train_text_data::check(&config)?;
    train_image::check(&config)?;
    if let Config::Pairs(config) = &config {
        train_pairs_data::objective(config)?;
    }
    let text = toml::to_string_pretty(&config).map_err(|error| Error::config(error.to_string()))?;
    println!("{text}");
    Ok(())
}

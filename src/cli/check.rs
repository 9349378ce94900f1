//! `preftune check`: is this configuration complete and without contradiction?

use clap::Args;

use crate::cli::configuration::ConfigArgs;
use crate::config::{self, ConfigKind};
use crate::error::{Error, Result};
use crate::jobs;

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: Option<ConfigArgs>,
    /// Print the JSON Schema of the configurations of a kind of run, or without KIND of all kinds, for editors.
    #[arg(long, value_name = "KIND", num_args = 0..=1, exclusive = true)]
    #[expect(
        clippy::option_option,
        reason = "no flag, the flag alone, the flag with a kind"
    )]
    schema: Option<Option<ConfigKind>>,
}

pub(super) fn run(args: &CheckArgs) -> Result<()> {
    if let Some(kind) = args.schema {
        let schema = config::json_schema(kind)?;
        println!("{schema:#}");
        return Ok(());
    }
    let config = args.config.as_ref();
    let config = config.ok_or_else(|| Error::config("no configuration is given"))?;
    let config = config.load()?;
    jobs::check::check_config(&config)?;
    let text = toml::to_string_pretty(&config).map_err(|error| Error::config(error.to_string()))?;
    println!("{text}");
    Ok(())
}

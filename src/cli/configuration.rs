//! The configuration of a run on the command line: one file, its overrides, and flags that are short for keys.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PathBufValueParser, TypedValueParser as _};

use crate::config::{self, Config, ConfigKind};
use crate::error::{Error, Result};
use crate::files::utf8;
use crate::installed::find;

#[derive(Args)]
pub(super) struct ConfigArgs {
    /// Configuration file (TOML). Those that come with the program are found by their names, as `configs/text/dpo.toml`.
    #[arg(value_parser = PathBufValueParser::new().map(find))]
    pub(super) config: PathBuf,
    /// Override a key, as in `--set train.steps=200`; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
    /// Run folder; short for `--set run.output=...`.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; short for `--set run.device=...`.
    #[arg(long)]
    device: Option<String>,
    /// Runs on a subject: folder of its photos; short for `--set subject.photos=...`.
    #[arg(long, value_name = "FOLDER")]
    photos: Option<PathBuf>,
    /// Runs on a subject: the word for what it is, as `dog`; short for `--set subject.class=...`.
    #[arg(long, value_name = "WORD")]
    class: Option<String>,
    /// Runs on a subject: its name in DreamBench; short for `--set subject.name=...`.
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Runs on a subject: labels, noise and patience as the paper's official code has them. Everything else stays as
    /// configured.
    #[arg(long)]
    pub(super) paper: bool,
}

impl ConfigArgs {
    /// The checked configuration.
    ///
    /// # Errors
    /// As [`config::load_any`], or a flag that belongs to another kind of run.
    pub(super) fn load(&self) -> Result<Config> {
        self.load_with(&[])
    }

    /// As [`Self::load`], with keys that the verb sets.
    pub(super) fn load_with(&self, more: &[String]) -> Result<Config> {
        let overrides = [self.overrides()?, more.to_vec()].concat();
        let mut config = config::load_any(&self.config, &overrides)?;
        if let Config::Subject(config) = &mut config
            && self.paper
        {
            config.apply_paper();
        }
        Ok(config)
    }

    /// All overrides, those of short flags included.
    ///
    /// # Errors
    /// A file that cannot be read, or a flag that belongs to another kind of run.
    pub(super) fn overrides(&self) -> Result<Vec<String>> {
        let mut overrides = self.overrides.clone();
        let mut set = |key: &str, value: Option<String>| {
            overrides.extend(value.map(|value| format!("{key}={}", toml::Value::String(value))));
        };
        let text = |path: &Path| utf8(path).map(str::to_owned);
        set("run.output", self.output.as_deref().map(text).transpose()?);
        set("run.device", self.device.clone());
        set(
            "subject.photos",
            self.photos.as_deref().map(text).transpose()?,
        );
        set("subject.name", self.subject.clone());
        set("subject.class", self.class.clone());
        let flags = [
            ("--photos", self.photos.is_some()),
            ("--class", self.class.is_some()),
            ("--subject", self.subject.is_some()),
            ("--paper", self.paper),
        ];
        if let Some((flag, _)) = flags.iter().find(|(_, given)| *given) {
            let kind = config::kind_of(&self.config, &self.overrides)?;
            if kind != ConfigKind::Subject {
                return Err(Error::config(format!(
                    "`{flag}` belongs to runs on a subject's photos, and `{}` describes a run {}",
                    self.config.display(),
                    kind.name()
                )));
            }
        }
        Ok(overrides)
    }
}

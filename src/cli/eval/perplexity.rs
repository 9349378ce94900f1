//! `preftune eval perplexity`: how well a language model predicts given texts.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::device::DeviceArgs;
use crate::cli::model::named;
use crate::cli::progress::Progress;
use crate::cli::table;
use crate::error::Result;
use crate::jobs::eval::perplexity::{PerplexityProtocol, Predicted, judge};

#[derive(Args)]
pub(super) struct PerplexityArgs {
    /// A language model: folder in Hugging Face layout, GGUF file, adapter folder or run.
    #[arg(long)]
    #[arg(value_parser = named())]
    model: PathBuf,
    /// Files of text, each read as one.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Tokens in a pass: a longer text is cut into parts of so many, which do not see each other.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    window: u64,
    /// Print JSON, with ids and the log-prob of every token.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn run(args: &PerplexityArgs) -> Result<()> {
    let (device, kind) = args.device.resolve()?;
    let protocol = PerplexityProtocol {
        model: args.model.clone(),
        files: args.files.clone(),
        window: args.window as usize,
        device,
        kind,
    };
    let texts = judge(&protocol, &mut Progress::new(false))?;
    if args.json {
        let report = |text: &Predicted| {
            json!({
                "file": text.file, "predicted": text.logps.len(), "loss": text.loss(), "perplexity": text.perplexity(),
                "ids": text.ids, "logps": text.logps,
            })
        };
        let report: Value = texts.iter().map(report).collect();
        println!("{}", serde_json::to_string(&report).unwrap_or_default());
    } else {
        let row = |text: &Predicted| {
            vec![
                text.file.display().to_string(),
                text.logps.len().to_string(),
                format!("{:.4}", text.loss()),
                format!("{:.4}", text.perplexity()),
            ]
        };
        let rows: Vec<Vec<String>> = texts.iter().map(row).collect();
        let header = ["text", "tokens", "nats a token", "perplexity"].map(str::to_owned);
        print!("{}", table::render(&header, &rows));
    }
    Ok(())
}

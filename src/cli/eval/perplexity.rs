//! `preftune eval perplexity`: how well a language model predicts given texts.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::device::DeviceArgs;
use crate::cli::progress::warn;
use crate::cli::table;
use crate::error::{Error, Result};
use crate::jobs::open::text::{Loaded, open};
use crate::trainer::text::token_logps;

#[derive(Args)]
pub(super) struct PerplexityArgs {
    /// A language model: folder in Hugging Face layout, GGUF file, adapter folder or run.
    #[arg(long)]
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
    let Loaded {
        model, tokenizer, ..
    } = open(&args.model, device, kind)?;
    warn(&tokenizer);
    let (mut rows, mut reports, mut beyond) = (Vec::new(), Vec::new(), 0);
    for path in &args.files {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
        let ids = tokenizer.encode(&text, true)?;
        let mut logps: Vec<f64> = Vec::new();
        for part in ids.chunks(args.window as usize) {
            match tokenizer.fits(part.len()) {
                Ok(true) => {}
                Ok(false) => beyond = beyond.max(part.len()),
                Err(problem) => {
                    return Err(Error::data(path, format!("a part of it {problem}"))
                        .with_hint("give that number or a smaller one as `--window`"));
                }
            }
            // The first token of a part has nothing before it.
            if part.len() > 1 {
                logps.extend(token_logps(&model, part)?);
            }
        }
        if logps.is_empty() {
            return Err(Error::data(
                path,
                "has fewer than two tokens: nothing to predict",
            ));
        }
        let loss = -logps.iter().sum::<f64>() / logps.len() as f64;
        rows.push(vec![
            path.display().to_string(),
            logps.len().to_string(),
            format!("{loss:.4}"),
            format!("{:.4}", loss.exp()),
        ]);
        reports.push(json!({
            "file": path, "predicted": logps.len(), "loss": loss, "perplexity": loss.exp(), "ids": ids, "logps": logps,
        }));
    }
    if beyond > 0 {
        eprintln!(
            "warning: parts of {beyond} tokens are longer than the texts that the model was made for (`max_position_embeddings`): give a smaller `--window`"
        );
    }
    if args.json {
        println!(
            "{}",
            serde_json::to_string(&Value::Array(reports)).unwrap_or_default()
        );
    } else {
        let header = ["text", "tokens", "nats a token", "perplexity"].map(str::to_owned);
        print!("{}", table::render(&header, &rows));
    }
    Ok(())
}

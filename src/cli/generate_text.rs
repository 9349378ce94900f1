//! `preftune generate` with a language model: a folder in Hugging Face layout, a GGUF file, an
//! adapter folder, or a text run.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tch::{Device, Kind};

use super::iterate::last_policy;
use super::progress::Progress;
use super::sample_text::as_asked;
use crate::config::{self, Config};
use crate::data::text::answers::Answer;
use crate::data::text::{Prompt, Text};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::models::json::read_object;
use crate::models::lm::LanguageModel;
use crate::models::lm::generate::Sampling;
use crate::models::lm::gguf::is_gguf;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::models::lora::LoraSet;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::best_of;
use crate::run::data_manifest::DataManifest;
use crate::run::manifest;

/// PEFT's settings in an adapter folder.
const ADAPTER: &str = "adapter_config.json";

#[derive(Args)]
#[command(next_help_heading = "Language models")]
pub(super) struct TextArgs {
    /// Divides the logits; 0 always takes the likeliest token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Only so many of the likeliest tokens.
    #[arg(long)]
    top_k: Option<i64>,
    /// Only the fewest of the likeliest tokens whose probabilities sum to this; 1 keeps all.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Longest text, in tokens.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Message of the system before each prompt, for chat templates.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
}

/// What is asked for.
pub(super) struct Request<'a> {
    pub(super) model: &'a Path,
    pub(super) prompts: Vec<Prompt>,
    pub(super) count: u64,
    pub(super) seed: u64,
    pub(super) batch: usize,
    pub(super) json: bool,
    pub(super) out: Option<&'a Path>,
    pub(super) quiet: bool,
    pub(super) text: &'a TextArgs,
    pub(super) device: (Device, Kind),
}

/// Whether a path is a language model, an adapter of one, or a run that tuned one.
pub(super) fn is_text(path: &Path) -> bool {
    if is_gguf(path) {
        return true;
    }
    let diffusion = path.join("model_index.json").exists();
    let model = path.join("config.json").exists() || path.join(ADAPTER).exists();
    let run = path.join("config.toml");
    let text_run = || {
        let config = config::load_any(&run, &[]);
        matches!(config, Ok(Config::Text(_) | Config::Iterate(_)))
    };
    !diffusion && (model || run.exists() && text_run())
}

/// A language model with its tokenizer.
pub(super) struct Loaded {
    pub(super) model: LanguageModel,
    pub(super) tokenizer: TextTokenizer,
    /// Folder or file of the weights, without an adapter.
    pub(super) base: PathBuf,
}

/// Opens what [`is_text`] knows; adapters are merged into their base. Of rounds it is the last policy.
pub(super) fn open(path: &Path, device: Device, kind: Kind) -> Result<Loaded> {
    let run = path.join("config.toml");
    let weights = if !run.exists() {
        path.to_owned()
    } else if let Ok(Config::Iterate(config)) = config::load_any(&run, &[]) {
        last_policy(&config, path)?
    } else {
        best_of(path)?
    };
    let adapter = weights.join(ADAPTER).exists();
    let base = if adapter {
        base_of(path, &weights)?
    } else {
        weights.clone()
    };
    let model = LanguageModel::open(&base, device, kind, kind)?;
    if adapter {
        LoraSet::load(&model.adapters(), &weights)?.merge();
    }
    let tokenizer = TextTokenizer::open(&base, model.config().vocab_size)?;
    Ok(Loaded {
        model,
        tokenizer,
        base,
    })
}

/// Folder of the model that an adapter goes with.
fn base_of(path: &Path, adapter: &Path) -> Result<PathBuf> {
    let base = if path == adapter {
        let settings = read_object(&adapter.join(ADAPTER))?;
        PathBuf::from(
            settings["base_model_name_or_path"]
                .as_str()
                .unwrap_or_default(),
        )
    } else {
        manifest::read::<DataManifest>(path)?.base_model
    };
    if base.exists() {
        return Ok(base);
    }
    Err(Error::weights(
        &base,
        format!("the base model of `{}` is not there", path.display()),
    ))
}

/// Writes texts to standard output or to a file.
pub(super) fn run(request: &Request) -> Result<()> {
    let (device, kind) = request.device;
    let text = request.text;
    if let Some(out) = request.out
        && out.extension().is_none_or(|ending| ending != "jsonl")
    {
        let problem = format!("`--out {}` is not a `.jsonl` file", out.display());
        return Err(Error::config(problem).with_hint("answers of a language model go to one file"));
    }
    let Loaded {
        model, tokenizer, ..
    } = open(request.model, device, kind)?;
    let sampling = Sampling {
        temperature: text.temperature,
        top_k: text.top_k,
        top_p: text.top_p,
        max_tokens: text.max_tokens,
    };
    let mut stop = model.config().eos_token_ids.clone();
    stop.extend(tokenizer.eos());
    let chat = tokenizer.template().is_some() && !text.raw;
    if text.system.is_some() && !chat {
        return Err(Error::config(
            "`--system` needs a chat template, and the model has none",
        ));
    }
    // As the answers' file has them: messages, or words.
    let asked = request.prompts.iter().map(|prompt| {
        let mut asked = as_asked(&prompt.text, chat);
        if let (Text::Chat(messages), Some(system)) = (&mut asked, &text.system)
            && messages
                .first()
                .is_none_or(|first| first["role"] != "system")
        {
            messages.insert(0, json!({"role": "system", "content": system}));
        }
        asked
    });
    let asked: Vec<Text> = asked.collect();
    let encoded = asked.iter().zip(&request.prompts);
    let encoded = encoded.map(|(asked, prompt)| match asked {
        Text::Plain(words) => tokenizer.prompt(words),
        Text::Chat(messages) => tokenizer.chat_prompt(messages, &prompt.variables),
        Text::Ids(ids) => Ok(ids.clone()),
    });
    let encoded: Vec<Vec<i64>> = encoded.collect::<Result<_>>()?;
    // (prompt, its text's number); a text's seed does not depend on how many are asked for.
    let all: Vec<(usize, u64)> = (0..encoded.len())
        .flat_map(|row| (0..request.count).map(move |number| (row, number)))
        .collect();
    let mut written = Vec::new();
    let mut progress = Progress::new(request.quiet);
    for part in all.chunks(request.batch) {
        let prompts: Vec<Vec<i64>> = part.iter().map(|&(row, _)| encoded[row].clone()).collect();
        let seeds = part.iter().map(|&(row, number)| {
            derive_seed(request.seed.wrapping_add(number), "text", &[row as u64]) as u64
        });
        let seeds: Vec<u64> = seeds.collect();
        let texts = model.generate(&prompts, &seeds, &sampling, &stop)?;
        for (&(row, number), text) in part.iter().zip(texts) {
            let answer = Answer {
                prompt: asked[row].to_value(),
                text: tokenizer.decode(&text.tokens, true)?,
                seed: request.seed.wrapping_add(number),
                tokens: text.tokens.len(),
                ended: text.ended,
                variables: request.prompts[row].variables.clone(),
            };
            if request.out.is_none() && !request.json {
                if all.len() > 1 {
                    println!(
                        "--- {}",
                        request.prompts[row].text.words().unwrap_or_default()
                    );
                }
                println!("{}", answer.text);
            }
            written.push((row, answer));
        }
        progress.advance("generate", written.len() as u64, all.len() as u64);
    }
    if let Some(out) = request.out {
        let mut lines = Vec::new();
        for (_, answer) in &written {
            lines.extend((answer.to_row().to_string() + "\n").into_bytes());
        }
        write_atomically(out, &lines)?;
        println!("{}: {} answers", out.display(), written.len());
    } else if request.json {
        let texts = written.iter().map(|(row, answer)| {
            json!({
                "prompt": request.prompts[*row].text.to_value(), "seed": answer.seed, "text": answer.text,
                "tokens": answer.tokens, "ended": answer.ended,
            })
        });
        let texts = Value::Array(texts.collect());
        println!(
            "{}",
            serde_json::to_string_pretty(&texts).unwrap_or_default()
        );
    }
    Ok(())
}

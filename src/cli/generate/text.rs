//! `preftune generate` with a language model: a folder in Hugging Face layout, a GGUF file, an
//! adapter folder, or a text run.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};
use tch::{Device, Kind};

use crate::cli::chat::ChatArgs;
use crate::cli::output::print_json;
use crate::cli::progress::{Progress, warn, warn_of};
use crate::data::text::answers::Answer;
use crate::data::text::{Prompt, Text};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::jobs::Display as _;
use crate::jobs::open::text::{Loaded, open_at};
use crate::models::lm::generate::Sampling;
use crate::models::lm::tokenizer::TextTokenizer;
use crate::ops::random::derive_seed;
use crate::trainer::text::{Forms, as_asked};

#[derive(Args)]
#[command(next_help_heading = "Language models")]
pub(crate) struct TextArgs {
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
    #[arg(long, default_value_t = MAX_TOKENS, value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: u64,
    #[command(flatten)]
    chat: ChatArgs,
    /// Short for `--chat raw`.
    #[arg(long, conflicts_with = "chat")]
    raw: bool,
    /// Message of the system before each prompt, for chat templates.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
}

/// Longest text where none is asked for, in tokens.
const MAX_TOKENS: u64 = 256;

impl TextArgs {
    /// The flags that have another value than without them.
    pub(super) fn given(&self) -> [(&'static str, bool); 7] {
        [
            (
                "--temperature",
                self.temperature.to_bits() != 1f64.to_bits(),
            ),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.to_bits() != 1f64.to_bits()),
            ("--max-tokens", self.max_tokens != MAX_TOKENS),
            ("--chat", self.chat.raw().is_some()),
            ("--raw", self.raw),
            ("--system", self.system.is_some()),
        ]
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            max_tokens: self.max_tokens as usize,
        }
    }

    /// `true` if words stay as they are; `None` where that was not said.
    fn words(&self) -> Option<bool> {
        if self.raw {
            return Some(true);
        }
        self.chat.raw()
    }
}

/// The options of `generate` for texts.
pub(crate) struct Request<'a> {
    pub(crate) model: &'a Path,
    /// Of a run: the step whose checkpoint answers.
    pub(crate) checkpoint: Option<u64>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) count: u64,
    pub(crate) seed: u64,
    pub(crate) batch: usize,
    pub(crate) json: bool,
    pub(crate) out: Option<&'a Path>,
    pub(crate) quiet: bool,
    pub(crate) text: &'a TextArgs,
    pub(crate) device: (Device, Kind),
}

/// Writes texts to standard output or to a file.
pub(crate) fn run(request: &Request) -> Result<()> {
    let (device, kind) = request.device;
    let text = request.text;
    if let Some(out) = request.out
        && out.extension().is_none_or(|ending| ending != "jsonl")
    {
        let problem = format!("`--out {}` is not a `.jsonl` file", out.display());
        return Err(Error::config(problem).with_hint("answers of a language model go to one file"));
    }
    let sampling = text.sampling();
    sampling.check()?;
    let Loaded {
        model, tokenizer, ..
    } = open_at(request.model, request.checkpoint, device, kind)?.with_words(text.words());
    warn(&tokenizer);
    check_prompts(&request.prompts, &tokenizer)?;
    let mut stop = model.config().eos_token_ids.clone();
    stop.extend(tokenizer.eos());
    if text.system.is_some() && !tokenizer.chats() {
        return Err(Error::config(
            "`--system` needs a chat template, and the model has none or was tuned without it",
        )
        .with_hint("`--chat template` takes the model's, where it has one"));
    }
    // As the answers' file has them: messages, or words.
    let asked = request.prompts.iter().map(|prompt| {
        let mut asked = as_asked(&tokenizer, &prompt.text).into_owned();
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
        Text::Plain(words) | Text::Instructed { words, .. } => tokenizer.prompt(words),
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
                text: tokenizer.decode_answer(&encoded[row], &text.tokens)?,
                seed: request.seed.wrapping_add(number),
                tokens: text.tokens.len(),
                ended: text.ended,
                variables: request.prompts[row].variables.clone(),
                kept: request.prompts[row].kept.clone(),
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
        let texts = Value::Array(written.iter().map(|(_, answer)| answer.to_row()).collect());
        print_json(&texts);
    }
    Ok(())
}

/// Says which prompts another model's template has made, and refuses those that ask nothing of a chat template.
fn check_prompts(prompts: &[Prompt], tokenizer: &TextTokenizer) -> Result<()> {
    let mut forms = Forms::default();
    for prompt in prompts {
        forms.add(tokenizer, &prompt.text, &[]);
    }
    warn_of(&forms.warnings());
    let is_empty =
        |prompt: &&Prompt| matches!(&prompt.text, Text::Plain(words) if words.trim().is_empty());
    if let Some(prompt) = prompts.iter().find(is_empty)
        && tokenizer.chats()
    {
        let problem = format!(
            "prompt {} is empty: the chat template has nothing to ask",
            prompt.line
        );
        return Err(Error::config(problem).with_hint(
            "write a prompt; `--raw` has the model write from nothing, without its template",
        ));
    }
    Ok(())
}

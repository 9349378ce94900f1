//! `preftune eval`: tuned models against the protocols of their field.

mod common;
mod confidence;
mod dreambench;
mod perplexity;
mod subject;
mod text;
mod world;

use clap::{Args, Subcommand};

use self::dreambench::DreambenchArgs;
use self::subject::SubjectArgs;
use self::text::TextArgs;
use self::world::WorldArgs;
use crate::error::Result;

#[derive(Args)]
pub(super) struct EvalArgs {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Subcommand)]
enum Protocol {
    /// Judge a tuned model on held-out prompts beside its untuned base: likeness, alignment, reward, with intervals.
    ///
    /// By the encoder that gave the reward and by others that did not. Images are kept beside the run; interrupted,
    /// the same command samples what is missing.
    #[command(after_help = "Example:
  preftune eval subject runs/dog --judge ANOTHER-CLIP")]
    Subject(SubjectArgs),
    /// Judge subject-driven runs: likeness to the photos (DINO, CLIP-I), alignment with the prompts (CLIP-T), reward.
    ///
    /// Images are kept beside the run; interrupted, the same command samples what is missing.
    #[command(after_help = "Example:
  preftune eval dreambench runs/dreambench --clip CLIP-B16 --dino DINO-S16")]
    Dreambench(DreambenchArgs),
    /// Judge a model of the emoji world: whether an encoder recognises in its images what the captions ask for.
    #[command(after_help = "Example:
  preftune eval world --encoder assets/emoji-world/judge")]
    World(WorldArgs),
    /// Judge a tuned language model on pairs beside its base: which answers it prefers, by how much, how far it went.
    #[command(after_help = "Example:
  preftune eval text runs/dpo --data test.jsonl")]
    Text(TextArgs),
    /// Judge a language model on texts: how well it predicts each next token.
    #[command(after_help = "Example:
  preftune eval perplexity --model MODEL text.txt")]
    Perplexity(perplexity::PerplexityArgs),
    /// Judge confidences in answers: selective-classification AUC and AUROC, with intervals.
    #[command(after_help = "Example:
  preftune eval confidence --answers answers.csv --comparisons kept.jsonl")]
    Confidence(confidence::ConfidenceArgs),
}

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    match &args.protocol {
        Protocol::Subject(args) => subject::run(args),
        Protocol::Dreambench(args) => dreambench::run(args),
        Protocol::World(args) => world::run(args),
        Protocol::Text(args) => text::run(args),
        Protocol::Perplexity(args) => perplexity::run(args),
        Protocol::Confidence(args) => confidence::run(args),
    }
}

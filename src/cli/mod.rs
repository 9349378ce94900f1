//! The command line: clap types, one file per verb. The only place that prints: results on stdout, progress and
//! messages on stderr.

/// A line of a result; see [`output`].
macro_rules! println {
    () => { $crate::cli::output::result(format_args!("\n")) };
    ($($line:tt)*) => { $crate::cli::output::result(format_args!("{}\n", format_args!($($line)*))) };
}

/// Text of a result; see [`output`].
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::output::result(format_args!($($text)*)) };
}

/// A line for people; see [`output`].
macro_rules! eprintln {
    ($($line:tt)*) => { $crate::cli::output::message(format_args!("{}\n", format_args!($($line)*))) };
}

/// Text for people; see [`output`].
macro_rules! eprint {
    ($($text:tt)*) => { $crate::cli::output::message(format_args!($($text)*)) };
}

mod answers;
mod candidates;
mod check;
mod device;
mod eval;
mod export;
mod export_text;
mod generate;
mod generate_text;
mod inspect;
mod inspect_pairs;
mod interrupt;
mod iterate;
mod iterate_records;
mod iterate_round;
mod judge;
mod label;
mod label_text;
mod letter_judge;
mod loss;
mod loss_rows;
mod model;
mod output;
mod plan;
mod plan_image;
mod plan_image_time;
mod plan_image_work;
mod plan_text;
mod pretrain;
mod progress;
mod rank;
mod rank_pairs;
mod rank_table;
mod reference_rewards;
mod report;
mod sample_text;
mod score;
mod score_learnt;
mod score_text;
mod scorer;
mod stopwatch;
mod table;
mod text_rewards;
mod train;
mod train_image;
mod train_negatives;
mod train_pairs;
mod train_pairs_data;
mod train_reward;
mod train_reward_data;
mod train_reward_images;
mod train_reward_text;
mod train_text;
mod train_text_data;
mod train_words;
mod transform;
mod world;

use clap::{Parser, Subcommand};

use crate::error::Result;

/// Tunes generative models to preferences.
#[derive(Parser)]
#[command(
    name = "preftune",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Tune a model: subject-driven RPO or DreamBooth on a U-Net, a language model to preferences, or a reward model on
    /// embeddings.
    Train(train::TrainArgs),
    /// Tune a language model in rounds: sample answers, score them, train on them, again.
    Iterate(iterate::IterateArgs),
    /// Train from scratch: a part of a small text-to-image model on the emoji world, or a language model.
    Pretrain(pretrain::PretrainArgs),
    /// Sample images or texts from a model folder or a run.
    Generate(generate::GenerateArgs),
    /// Score generated images (likeness to photos, alignment with prompts, the reward of both) or answers of language models.
    Score(score::ScoreArgs),
    /// Turn rewards of images or answers into preference records and say whether they are worth anything.
    Label(label::LabelArgs),
    /// Judge tuned models by the protocols of their field.
    Eval(eval::EvalArgs),
    /// Write tuned weights in the forms that diffusers, ComfyUI, A1111 and transformers load.
    Export(export::ExportArgs),
    /// Check a configuration without loading weights or images.
    Check(check::CheckArgs),
    /// Say what an image run will take, before anything is loaded: weights, memory by part, work and time by phase.
    Plan(plan::PlanArgs),
    /// Show what a text run would learn from: tokens with their mask, lengths, what is left out and why.
    Inspect(inspect::InspectArgs),
    /// Value and gradient of a preference objective for each row of a table of log-probs.
    Loss(loss::LossArgs),
    /// Write one self-contained HTML page on one or several runs: curves, images before and after, figures.
    Report(report::ReportArgs),
    /// Rank items by side-by-side comparisons.
    Rank(Box<rank::RankArgs>),
    /// Write scenes of the emoji world: captioned images, photos of its subjects, its vocabulary.
    World(world::WorldArgs),
}

/// Runs the verb that was asked for.
pub fn run(cli: Cli) -> Result<()> {
    let outcome = match cli.verb {
        Verb::Train(args) => train::run(&args),
        Verb::Iterate(args) => iterate::run(&args),
        Verb::Pretrain(args) => pretrain::run(&args),
        Verb::Generate(args) => generate::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Plan(args) => plan::run(&args),
        Verb::Eval(args) => eval::run(&args),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Score(args) => score::run(&args),
        Verb::Label(args) => label::run(&args),
        Verb::Loss(args) => loss::run(&args),
        Verb::Report(args) => report::run(&args),
        Verb::Rank(args) => rank::run(&args),
        Verb::World(args) => world::run(&args),
    };
    outcome.and_then(|()| output::finish())
}

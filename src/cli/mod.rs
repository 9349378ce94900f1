//! The command line: clap types, one file or folder per verb. The only place that prints: results on stdout, progress and
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
mod chat;
mod check;
mod compare;
mod configuration;
mod device;
mod doctor;
mod eval;
mod export;
mod fetch;
mod generate;
mod inspect;
mod label;
mod learnt;
mod loss;
mod manual;
mod model;
mod output;
mod plan;
mod pretrain;
mod processes;
mod progress;
mod quickstart;
mod rank;
mod reading;
mod report;
mod rounds;
mod score;
mod setup;
mod shell;
mod subjects;
mod table;
mod train;
mod transform;
mod world;

use clap::{Command, CommandFactory as _, Parser, Subcommand};

use crate::error::Result;
use crate::hub::with_advice;

/// Tunes generative models to preferences.
#[derive(Parser)]
#[command(
    name = "preftune",
    version,
    max_term_width = 100,
    propagate_version = true,
    mut_subcommands = with_negative_numbers
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Tune a model to a configuration: a diffusion model to a subject or to pairs of images, a language model to preferences, or
    /// a reward model to examples.
    #[command(after_help = "Example:
  preftune train configs/image/rpo_sd15_lora.toml --set model.base=SD15 --set reward.encoder=CLIP --photos my-photos --class dog")]
    Train(Box<train::TrainArgs>),
    /// Tune a model in rounds: sample its answers or images, score them, train on them, again.
    #[command(
        visible_alias = "iterate",
        after_help = "Example:
  preftune rounds configs/text/iterate.toml --set model.base=MODEL --set data.prompts=prompts.jsonl"
    )]
    Rounds(Box<rounds::RoundsArgs>),
    /// Train from new weights: a part of a small text-to-image model on the emoji world, or a language model.
    #[command(after_help = "Example:
  preftune pretrain configs/world/vae.toml --output runs/vae")]
    Pretrain(Box<pretrain::PretrainArgs>),
    /// Sample images or texts from a model or a run.
    #[command(after_help = "Example:
  preftune generate --model runs/dog --prompt \"a [V] dog on the beach\" --count 8 --out out/")]
    Generate(Box<generate::GenerateArgs>),
    /// Score generated images (likeness to photos, alignment with prompts, the reward of both) or texts (a reward model).
    #[command(after_help = "Examples:
  preftune score --encoder CLIP --references my-photos --images out/ --prompt \"a dog on the beach\"
  preftune score --encoder PICKSCORE --images out/ --logit
  preftune score --answers answers.jsonl --reward runs/reward")]
    Score(Box<score::ScoreArgs>),
    /// Turn rewards of images or texts into preference records, and say whether they are worth anything.
    #[command(after_help = "Example:
  preftune label --answers answers.jsonl --reward runs/reward --per-prompt 2 --out pairs.jsonl")]
    Label(Box<label::LabelArgs>),
    /// Judge tuned models by the protocols of their field, and language models and confidences by theirs.
    #[command(after_help = "Example:
  preftune eval subject runs/dog --judge ANOTHER-CLIP")]
    Eval(Box<eval::EvalArgs>),
    /// Write tuned weights in the forms that diffusers, ComfyUI, A1111 and transformers load.
    #[command(after_help = "Example:
  preftune export runs/dog --format kohya --out dog-lora")]
    Export(export::ExportArgs),
    /// Check a configuration and print it with all its defaults. No weights or images are read.
    #[command(after_help = "Example:
  preftune check configs/text/dpo.toml --set train.steps=100")]
    Check(check::CheckArgs),
    /// Say what a run on a subject, on pairs of images or on texts will take before it is started: weights, memory by part,
    /// work and time by phase.
    #[command(after_help = "Example:
  preftune plan configs/image/rpo_sd15_lora.toml --set model.base=SD15 --set reward.encoder=CLIP --photos my-photos --class dog")]
    Plan(plan::PlanArgs),
    /// Show what a run on texts or on pairs of images would learn from: tokens with their mask, lengths, what is left out and
    /// why.
    #[command(after_help = "Example:
  preftune inspect configs/text/dpo.toml --set model.base=MODEL --set data.train=pairs.jsonl")]
    Inspect(inspect::InspectArgs),
    /// Compute value and gradient of a preference objective for each row of a table of log-probs.
    #[command(after_help = "Example:
  preftune loss --objective dpo --beta 0.1 --input logps.jsonl")]
    Loss(Box<loss::LossArgs>),
    /// Write one self-contained HTML page on one or several runs: curves, images before and after, figures.
    #[command(after_help = "Example:
  preftune report runs/rpo runs/dreambooth --out report.html")]
    Report(report::ReportArgs),
    /// Rank items by side-by-side comparisons, with intervals; or ask a judge for the comparisons.
    #[command(after_help = "Example:
  preftune rank --input games.csv --bootstrap 1000")]
    Rank(Box<rank::RankArgs>),
    /// Compare images or answers by hand, on a page in the browser that does not say whose they are; pairs to train on, and how far
    /// they can be believed.
    #[command(after_help = "Examples:
  preftune compare out/
  preftune compare runs/rpo runs/dreambooth --judge ann
  preftune compare before.jsonl after.jsonl")]
    Compare(compare::CompareArgs),
    /// Write scenes of the emoji world: captioned images, photos of its subjects, its prompts, its vocabulary.
    #[command(after_help = "Example:
  preftune world --out scenes --count 16 --grid scenes.png")]
    World(world::WorldArgs),
    /// Tune the small model that comes with the program to a subject, judge it, and write a report: minutes on a CPU.
    #[command(after_help = "Example:
  preftune quickstart --subject cake")]
    Quickstart(quickstart::QuickstartArgs),
    /// Say what the program finds on this machine: devices, libtorch, memory, disk, and which files it reads.
    #[command(after_help = "Example:
  preftune doctor --json")]
    Doctor(doctor::DoctorArgs),
    /// Download models from the Hugging Face hub into its cache on this machine: the files that are needed, with their hashes
    /// checked. Models of the cache are named as they are on the hub wherever a model is asked for.
    #[command(after_help = "Examples:
  preftune fetch HuggingFaceTB/SmolLM2-135M-Instruct
  preftune fetch stable-diffusion-v1-5/stable-diffusion-v1-5 --variant fp16
  preftune fetch org/name@revision --file model.gguf")]
    Fetch(fetch::FetchArgs),
    /// Download libtorch with pip, for all environments of this user. Shows the size and asks first.
    #[command(after_help = "Example:
  preftune setup --yes")]
    Setup(setup::SetupArgs),
    /// Print a script that completes verbs and flags in a shell.
    #[command(after_help = "Example:
  preftune completions bash > ~/.local/share/bash-completion/completions/preftune")]
    Completions(manual::CompletionsArgs),
    /// Write a manual page for each verb into a folder.
    #[command(after_help = "Example:
  preftune man --out ~/.local/share/man/man1")]
    Man(manual::ManArgs),
}

/// A verb whose flags take numbers below 0: what is wrong with `--temperature -1` is then said by its range, not that there is
/// no flag `-1`.
fn with_negative_numbers(verb: Command) -> Command {
    let verb = verb.mut_args(|arg| {
        let takes_values = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes_values)
    });
    verb.mut_subcommands(with_negative_numbers)
}

/// The outcome of a verb that may do without libtorch.
pub enum Alone {
    /// The verb needs libtorch.
    No,
    /// It is done, with this exit code.
    Done(u8),
}

impl Cli {
    /// Runs the verb if it needs no libtorch, or if there is none and it can say so better than others.
    pub fn run_alone(&self, has_libtorch: bool) -> Alone {
        let outcome = match &self.verb {
            Verb::Completions(args) => {
                manual::complete(args, Self::command());
                Ok(())
            }
            Verb::Man(args) => manual::write(args, Self::command()),
            Verb::Setup(args) => setup::run(args),
            Verb::Fetch(args) => fetch::run(args),
            Verb::Doctor(args) if !has_libtorch => doctor::run_without_libtorch(args),
            _ => return Alone::No,
        };
        match outcome.and_then(|()| output::finish()) {
            Ok(()) => Alone::Done(0),
            Err(error) => {
                eprint!("{}", error.describe());
                Alone::Done(error.exit_code())
            }
        }
    }
}

impl Cli {
    /// What helps this verb where memory runs out.
    pub fn memory_hint(&self) -> &'static str {
        match self.verb {
            Verb::Train(_) | Verb::Rounds(_) | Verb::Pretrain(_) | Verb::Quickstart(_) => {
                "lower `train.batch` (and raise `train.accumulation` by as much), `train.resolution` or `data.max_length`, \
                 or set `train.checkpoint_activations = true`; `preftune plan` says what a run takes"
            }
            Verb::Generate(_) => {
                "even a batch of one does not fit: use a smaller `--width` and `--height`, a smaller `--max-tokens`, \
                 `--precision bf16` or `--device cpu`"
            }
            _ => {
                "even a batch of one does not fit: use a smaller model, `--device cpu`, or `--precision bf16` where the \
                 verb has it; other programs may hold the GPU's memory"
            }
        }
    }
}

/// Runs the verb that was asked for.
pub fn run(cli: Cli) -> Result<()> {
    // The verbs that have the flag have it at several places among their arguments.
    if !std::env::args_os().any(|argument| argument == "--quiet") {
        reading::show();
    }
    let outcome = match cli.verb {
        Verb::Train(args) => train::run(&args),
        Verb::Rounds(args) => rounds::run(&args),
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
        Verb::Compare(args) => compare::run(&args),
        Verb::World(args) => world::run(&args),
        Verb::Quickstart(args) => quickstart::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        // The launcher has run these.
        Verb::Completions(_) | Verb::Man(_) | Verb::Setup(_) | Verb::Fetch(_) => Ok(()),
    };
    reading::clear();
    outcome.map_err(with_advice).and_then(|()| output::finish())
}

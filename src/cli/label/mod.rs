//! `preftune label`: rewards to Bradley-Terry preference records, and whether the labels say anything.

mod choices;
mod duels;
mod texts;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::answers::{self, AnswerArgs, PairArgs};
use crate::cli::candidates::{CandidateArgs, Candidates, Encoded, EncoderArgs};
use crate::cli::label::choices::{LabelKind, Pairing};
use crate::cli::label::duels::{among_images, photos_with_images};
use crate::cli::learnt::learnt;
use crate::cli::output::print_json;
use crate::cli::table;
use crate::cli::transform::TransformArgs;
use crate::data::placed::Placed;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::ops::random::derive_seed;
use crate::rewards::bradley_terry::{
    NEAR_DUPLICATE, Statistics, near_duplicates, probability, sample, statistics,
};
use crate::rewards::harmonic::check_lambda;
use crate::rewards::subject::{Features, PhotoRewards, Weighing};

#[derive(Args)]
pub(crate) struct LabelArgs {
    #[command(flatten)]
    candidates: CandidateArgs,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Share of likeness to the photos in the reward, between 0 and 1; at 0, and without photos, text alignment alone
    /// decides.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["data", "answers"])]
    lambda: f64,
    /// Difference of rewards that counts as a clear preference.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    tau: f64,
    #[command(flatten)]
    transform: TransformArgs,
    /// How `chosen` is decided.
    #[arg(long, value_enum, default_value = "soft")]
    labels: LabelKind,
    /// Which pairs are written: of a photo and an image, of two images of one prompt (without `--references`), or of two
    /// texts [default: `all`; of texts `best-worst`].
    #[arg(long, value_enum)]
    pairs: Option<Pairing>,
    /// Texts: also write the difference of values as `margin`. Objectives such as `dpo` then ask each pair to win by so much,
    /// and reward models with a margin take it as the pair's strength.
    #[arg(long, conflicts_with = "images")]
    margin: bool,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0, conflicts_with = "answers")]
    seed: u64,
    /// Records, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the statistics as JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    answers: AnswerArgs,
    #[command(flatten)]
    answer_pairs: PairArgs,
}

/// One line of the output, in the columns that runs on pairs read.
#[derive(Serialize)]
struct Record<'a> {
    prompt: &'a str,
    chosen: PathBuf,
    rejected: PathBuf,
    /// Reward of the preferred image.
    chosen_score: f64,
    rejected_score: f64,
    /// Probability that the preferred image is the better one; below one half only where a label was drawn.
    chosen_prob: f64,
    /// `chosen` or `rejected`: which of the two the photo is. Not of two images.
    #[serde(skip_serializing_if = "Option::is_none")]
    photo: Option<&'static str>,
    /// Share of likeness to the photos; not of a learnt reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    lambda: Option<f64>,
    tau: f64,
    encoder: &'a str,
    encoder_sha256: &'a str,
    /// The learnt reward that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<&'a Path>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    transformed: Option<Transformed<'a>>,
}

/// Fields that a transform adds to a record; `chosen_prob` is of the difference of these values.
#[derive(Serialize)]
struct Transformed<'a> {
    transform: &'a str,
    reference: &'a str,
    chosen_value: f64,
    rejected_value: f64,
}

/// Rewards of the photos for each different prompt and of each image for its own.
struct Rewards {
    photos: PhotoRewards,
    repeats: Vec<(usize, usize)>,
    encoder: String,
    encoder_sha256: String,
}

pub(crate) fn run(args: &LabelArgs) -> Result<()> {
    check_lambda(args.lambda)?;
    if !(args.tau.is_finite() && args.tau > 0.0) {
        return Err(Error::config(format!("--tau {} is not above 0", args.tau)));
    }
    if !args.answers.answers.is_empty() {
        refuse_flags_of_data(args)?;
        let (judge, _) = args.encoder.text_judge()?;
        let (answers, pairs) = (&args.answers, &args.answer_pairs);
        let how = (args.json, args.encoder.quiet());
        let gaps = (args.tau, args.margin);
        return answers::label(answers, pairs, &judge, gaps, &args.out, how);
    }
    if let Some(data) = &args.candidates.data {
        return texts(args, data);
    }
    images(args)
}

/// The part for images.
fn images(args: &LabelArgs) -> Result<()> {
    let reward = args.encoder.reward.as_deref();
    let pairing = args.pairs.unwrap_or(Pairing::All);
    let candidates = args.candidates.open()?;
    let with_photos = candidates.has_photos();
    if reward.is_none() {
        candidates.note_reward();
    }
    if reward.is_some() && (with_photos || args.lambda > 0.0) {
        return Err(Error::config(
            "a learnt reward judges each image alone: leave `--references` and `--lambda` out, or `--reward`",
        ));
    }
    check_pairing(pairing, with_photos)?;
    let weighing = Weighing {
        lambda: args.lambda,
        tau: args.tau,
        transform: args.transform.choice(),
    };
    weighing.check_photos(candidates.references.len())?;
    let rewards = rewards(args, &candidates, &weighing)?;
    let plain = &rewards.photos.plain;
    let (compared, tau) = rewards.photos.compared(&weighing);
    let duels = if with_photos {
        photos_with_images(pairing, &candidates, plain, compared)
    } else {
        among_images(pairing, &candidates, plain, compared)?
    };
    let values: Vec<(f64, f64)> = duels.iter().map(|duel| duel.values).collect();
    let statistics = statistics(&values, tau);
    show(&statistics, &rewards, &candidates);

    let names = args.transform.names();
    let files = candidates.references.iter().chain(&candidates.images);
    let place = Placed::new(&args.out, files.map(PathBuf::as_path));
    let mut lines = Vec::new();
    for (index, duel) in duels.iter().enumerate() {
        let probability = probability(duel.values.0, duel.values.1, tau);
        let first_wins = match args.labels {
            LabelKind::Soft => probability >= 0.5,
            LabelKind::Sampled => {
                let seed = derive_seed(args.seed, "label", &[index as u64]);
                sample(probability, seed) > 0.5
            }
        };
        // The better one first.
        let order = |(first, second): (f64, f64)| {
            if first_wins {
                (first, second)
            } else {
                (second, first)
            }
        };
        let (chosen, rejected) = if first_wins {
            duel.files
        } else {
            (duel.files.1, duel.files.0)
        };
        let (chosen_score, rejected_score) = order(duel.rewards);
        let (chosen_value, rejected_value) = order(duel.values);
        let photo = if first_wins { "chosen" } else { "rejected" };
        let record = Record {
            prompt: &candidates.prompts[duel.image],
            chosen: place.name(chosen),
            rejected: place.name(rejected),
            chosen_score,
            rejected_score,
            chosen_prob: order((probability, 1.0 - probability)).0,
            photo: with_photos.then_some(photo),
            lambda: reward.is_none().then_some(args.lambda),
            tau: args.tau,
            reward,
            encoder: &rewards.encoder,
            encoder_sha256: &rewards.encoder_sha256,
            transformed: names.as_ref().map(|(transform, reference)| Transformed {
                transform,
                reference,
                chosen_value,
                rejected_value,
            }),
        };
        serde_json::to_writer(&mut lines, &record).map_err(|error| {
            Error::data(rejected, format!("cannot be written as JSON: {error}"))
        })?;
        lines.push(b'\n');
    }
    write_atomically(&args.out, &lines)?;
    if let Some(above) = place.above() {
        eprintln!(
            "the images do not lie below the folder of `{}`: runs on these pairs need `pairs.images = \"{}\"`",
            args.out.display(),
            above.display()
        );
    }
    if args.json {
        let mut report = json!(statistics);
        report["near_duplicates"] = json!(rewards.repeats.len());
        report["out"] = json!(args.out.to_string_lossy());
        print_json(&report);
    } else {
        println!("{}", args.out.display());
    }
    Ok(())
}

/// Refuses pairings that need photos, or that photos cannot have.
fn check_pairing(pairing: Pairing, with_photos: bool) -> Result<()> {
    match pairing {
        Pairing::BestWorst if with_photos => Err(Error::config(
            "`--pairs best-worst` compares texts or images with each other: with photos take `all` or `turns`",
        )),
        Pairing::Turns if !with_photos => Err(Error::config(
            "`--pairs turns` lets photos take turns: without `--references` take `all` or `best-worst`",
        )),
        _ => Ok(()),
    }
}

/// Refuses what goes with `--data` where answers are labelled: it would be left unused.
fn refuse_flags_of_data(args: &LabelArgs) -> Result<()> {
    let flags = [
        ("--transform", args.transform.is_asked()),
        ("--pairs", args.pairs.is_some()),
        ("--labels sampled", args.labels == LabelKind::Sampled),
    ];
    match flags.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::config(format!(
            "`{flag}` goes with `--data`, not with `--answers`"
        ))),
    }
}

/// The part for texts.
fn texts(args: &LabelArgs, data: &Path) -> Result<()> {
    let pairing = args.pairs.unwrap_or(Pairing::BestWorst);
    if pairing == Pairing::Turns {
        return Err(Error::config(
            "`--pairs turns` is for photos: texts take `all` or `best-worst`",
        ));
    }
    let (judge, reward) = args.encoder.text_judge()?;
    let request = texts::Request {
        data,
        reward,
        out: &args.out,
        transform: &args.transform,
        tau: args.tau,
        pairing,
        labels: args.labels,
        margin: args.margin,
        seed: args.seed,
        as_json: args.json,
        quiet: args.encoder.quiet(),
    };
    texts::run(&request, &judge)
}

fn rewards(args: &LabelArgs, candidates: &Candidates, weighing: &Weighing) -> Result<Rewards> {
    let Encoded {
        encoder,
        photos,
        images,
        texts,
    } = Encoded::new(args.encoder.encoder(), &args.encoder, candidates)?;
    let repeats = near_duplicates(&images, NEAR_DUPLICATE);
    let (name, encoder_sha256) = (encoder.name(), encoder.weights_sha256().to_owned());
    if let Some(reward) = &args.encoder.reward {
        let learnt = learnt(reward, (&images, &texts), &encoder, candidates)?;
        let known = learnt.into_reward(reward)?;
        let prompts = (&*candidates.text_of, candidates.texts.len());
        return Ok(Rewards {
            photos: PhotoRewards::known(known, prompts, weighing)?,
            repeats,
            encoder: name,
            encoder_sha256,
        });
    }
    let features = Features {
        photos: &photos,
        images: &images,
        texts: &texts,
        prompt_of: &candidates.text_of,
    };
    Ok(Rewards {
        photos: PhotoRewards::new(&features, weighing)?,
        repeats,
        encoder: name,
        encoder_sha256,
    })
}

/// The statistics and what is wrong with the labels, on stderr.
fn show(statistics: &Statistics, rewards: &Rewards, candidates: &Candidates) {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let rows = [
        ("pairs", statistics.pairs.to_string()),
        (
            if candidates.has_photos() {
                "mean probability of the photo"
            } else {
                "mean probability of the better image"
            },
            format!("{:.4}", statistics.mean_probability),
        ),
        (
            "mean entropy of a label",
            format!("{:.4} bit", statistics.mean_entropy_bits),
        ),
        (
            "coin flips (within .02 of one half)",
            percent(statistics.coin_flips),
        ),
        ("mean gap of rewards", format!("{:.5}", statistics.mean_gap)),
        ("its deviation", format!("{:.5}", statistics.gap_deviation)),
        (
            "images that repeat another",
            rewards.repeats.len().to_string(),
        ),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    eprint!(
        "{}",
        table::render(&["labels".to_owned(), String::new()], &rows)
    );
    let bars = statistics.histogram.iter().map(|bar| {
        let range = format!("{:+.4} to {:+.4}", bar.from, bar.to);
        vec![range, bar.count.to_string()]
    });
    let header = ["gap of rewards".to_owned(), "pairs".to_owned()];
    eprint!("{}", table::render(&header, &bars.collect::<Vec<_>>()));
    if statistics.coin_flips > 0.9 {
        eprintln!(
            "warning: most labels are coin flips; a smaller `--tau` (the deviation of the gap, say) makes them preferences"
        );
    }
    for &(image, earlier) in rewards.repeats.iter().take(10) {
        eprintln!(
            "warning: `{}` nearly repeats `{}`",
            candidates.images[image].display(),
            candidates.images[earlier].display()
        );
    }
}

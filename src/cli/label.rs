//! `preftune label`: rewards to Bradley-Terry preference records, and whether the labels say anything.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use tch::Tensor;

use super::answers::{self, AnswerArgs, PairArgs};
use super::candidates::{CandidateArgs, Candidates, Encoded, EncoderArgs};
use super::label_text;
use super::table;
use super::transform::TransformArgs;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::ops::random::derive_seed;
use crate::rewards::bradley_terry::{
    NEAR_DUPLICATE, Statistics, near_duplicates, probability, sample, statistics,
};
use crate::rewards::comparable::Property;
use crate::rewards::harmonic::{
    check_lambda, image_similarity, lambda_harmonic, text_similarity, unit,
};
use crate::rewards::oracle::leave_one_out;

#[derive(Args)]
pub(super) struct LabelArgs {
    #[command(flatten)]
    candidates: CandidateArgs,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    answers: AnswerArgs,
    #[command(flatten)]
    answer_pairs: PairArgs,
    /// Share of likeness to the photos in the reward, between 0 and 1; at 0 text alignment alone decides.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    lambda: f64,
    /// Difference of rewards that counts as a clear preference.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    tau: f64,
    #[command(flatten)]
    transform: TransformArgs,
    /// What `label` is: the probability itself, or a draw from it. A draw decides which of two texts is `chosen`.
    #[arg(long, value_enum, default_value = "soft")]
    labels: LabelKind,
    /// Which pairs are written, of a photo and an image or of two texts [default: `all`; of texts `best-worst`].
    #[arg(long, value_enum)]
    pairs: Option<Pairing>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Records, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the statistics as JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LabelKind {
    Soft,
    Sampled,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Pairing {
    /// Every photo with every image; all answers to a prompt with each other.
    All,
    /// The best answer to a prompt with the worst; texts only.
    BestWorst,
    /// Every image once, with the photos taking turns; images only.
    Turns,
}

/// One line of the output.
#[derive(Serialize)]
struct Record<'a> {
    prompt: &'a str,
    chosen: &'a Path,
    rejected: &'a Path,
    chosen_reward: f64,
    rejected_reward: f64,
    probability: f64,
    label: f64,
    lambda: f64,
    tau: f64,
    encoder: &'a str,
    encoder_sha256: &'a str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    transformed: Option<Transformed<'a>>,
}

/// What a transform adds to a record; `probability` is of the difference of these values.
#[derive(Serialize)]
struct Transformed<'a> {
    transform: &'a str,
    reference: &'a str,
    chosen_value: f64,
    rejected_value: f64,
}

/// Rewards of the photos for each different prompt and of each image for its own.
struct Rewards {
    plain: Property,
    transformed: Option<Property>,
    repeats: Vec<(usize, usize)>,
    encoder: String,
    encoder_sha256: String,
}

pub(super) fn run(args: &LabelArgs) -> Result<()> {
    check_lambda(args.lambda)?;
    if !(args.tau.is_finite() && args.tau > 0.0) {
        return Err(Error::config(format!("--tau {} is not above 0", args.tau)));
    }
    if !args.answers.answers.is_empty() {
        let (judge, _) = args.encoder.text_judge()?;
        let (answers, pairs) = (&args.answers, &args.answer_pairs);
        return answers::label(answers, pairs, &judge, args.tau, &args.out, args.json);
    }
    if let Some(data) = &args.candidates.data {
        return texts(args, data);
    }
    if args.encoder.reward.is_some() {
        return Err(Error::config(
            "`--reward` labels texts: give them with `--data` or `--answers`; images are labelled by `--lambda`",
        ));
    }
    let pairing = args.pairs.unwrap_or(Pairing::All);
    if pairing == Pairing::BestWorst {
        return Err(Error::config(
            "`--pairs best-worst` is for texts: images take `all` or `turns`",
        ));
    }
    let candidates = args.candidates.open()?;
    let rewards = rewards(args, &candidates)?;
    let pairs = pairs(
        pairing,
        candidates.references.len(),
        candidates.images.len(),
    );
    let of_pairs = |property: &Property| -> Vec<(f64, f64)> {
        let of_pair = |&(photo, image): &(usize, usize)| {
            let of_photo = property.given[candidates.text_of[image]][photo];
            (of_photo, property.samples[image])
        };
        pairs.iter().map(of_pair).collect()
    };
    let plain = of_pairs(&rewards.plain);
    // A transform has divided by tau.
    let (values, tau) = match &rewards.transformed {
        Some(transformed) => (of_pairs(transformed), 1.0),
        None => (plain.clone(), args.tau),
    };
    let names = args.transform.names();
    let statistics = statistics(&values, tau);
    show(&statistics, &rewards, &candidates);

    let mut lines = Vec::new();
    for (index, &(photo, image)) in pairs.iter().enumerate() {
        let (chosen_reward, rejected_reward) = plain[index];
        let (chosen_value, rejected_value) = values[index];
        let probability = probability(chosen_value, rejected_value, tau);
        let label = match args.labels {
            LabelKind::Soft => probability,
            LabelKind::Sampled => sample(
                probability,
                derive_seed(args.seed, "label", &[index as u64]),
            ),
        };
        let record = Record {
            prompt: &candidates.prompts[image],
            chosen: &candidates.references[photo],
            rejected: &candidates.images[image],
            chosen_reward,
            rejected_reward,
            probability,
            label,
            lambda: args.lambda,
            tau: args.tau,
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
            Error::data(
                record.rejected,
                format!("cannot be written as JSON: {error}"),
            )
        })?;
        lines.push(b'\n');
    }
    write_atomically(&args.out, &lines)?;
    if args.json {
        let mut report = json!(statistics);
        report["near_duplicates"] = json!(rewards.repeats.len());
        report["out"] = json!(args.out.to_string_lossy());
        println!(
            "{}",
            serde_json::to_string_pretty(&report).unwrap_or_default()
        );
    } else {
        println!("{}", args.out.display());
    }
    Ok(())
}

/// The part for texts.
fn texts(args: &LabelArgs, data: &Path) -> Result<()> {
    let pairing = args.pairs.unwrap_or(Pairing::BestWorst);
    if pairing == Pairing::Turns {
        return Err(Error::config(
            "`--pairs turns` is for photos and images: texts take `all` or `best-worst`",
        ));
    }
    let (judge, reward) = args.encoder.text_judge()?;
    let request = label_text::Request {
        data,
        reward,
        out: &args.out,
        transform: &args.transform,
        tau: args.tau,
        pairing,
        labels: args.labels,
        seed: args.seed,
        as_json: args.json,
    };
    label_text::run(&request, &judge)
}

fn rewards(args: &LabelArgs, candidates: &Candidates) -> Result<Rewards> {
    let Encoded {
        encoder,
        photos,
        images: features,
        texts,
    } = Encoded::new(args.encoder.encoder(), &args.encoder, candidates)?;
    let own = texts.index_select(0, &candidates.text_rows(texts.device())); // [n, d]
    let count = candidates.texts.len();
    let likeness = Property {
        given: vec![likeness_of_photos(&photos, args)?; count],
        samples: image_similarity(&features, &photos),
    };
    let of_photos =
        (0..count as i64).map(|text| text_similarity(&photos, &texts.narrow(0, text, 1)));
    let alignment = Property {
        given: of_photos.collect(),
        samples: text_similarity(&features, &own),
    };
    let rows = likeness.given.iter().zip(&alignment.given);
    let plain = Property {
        given: rows
            .map(|(likeness, alignment)| harmonics(likeness, alignment, args.lambda))
            .collect(),
        samples: harmonics(&likeness.samples, &alignment.samples, args.lambda),
    };
    let parts = [&likeness, &alignment];
    Ok(Rewards {
        transformed: args
            .transform
            .apply(&plain, parts, args.tau, &candidates.text_of)?,
        plain,
        repeats: near_duplicates(&features, NEAR_DUPLICATE),
        encoder: encoder.name(),
        encoder_sha256: encoder.weights_sha256().to_owned(),
    })
}

/// A photo is compared with the others: with itself among them its likeness would be too good.
fn likeness_of_photos(photos: &Tensor, args: &LabelArgs) -> Result<Vec<f64>> {
    match leave_one_out(photos) {
        Some(cosines) => Ok(cosines.into_iter().map(unit).collect()),
        None if args.transform.takes_parts() => Err(Error::config(
            "--transform and compares the photos with each other, and there is only one",
        )
        .with_hint("add a photo, or use `--transform log-sigmoid`")),
        // At lambda 0 likeness does not count.
        None if args.lambda == 0.0 => Ok(vec![1.0]),
        None => Err(Error::config(format!(
            "--lambda {} compares the photos with each other, and there is only one",
            args.lambda
        ))
        .with_hint("add a photo, or use `--lambda 0`")),
    }
}

fn harmonics(images: &[f64], texts: &[f64], lambda: f64) -> Vec<f64> {
    let pairs = images.iter().zip(texts);
    pairs
        .map(|(&image, &text)| lambda_harmonic(image, text, lambda))
        .collect()
}

/// (photo, image) indices.
fn pairs(pairing: Pairing, photos: usize, images: usize) -> Vec<(usize, usize)> {
    match pairing {
        Pairing::Turns => (0..images).map(|image| (image % photos, image)).collect(),
        Pairing::All | Pairing::BestWorst => (0..images)
            .flat_map(|image| (0..photos).map(move |photo| (photo, image)))
            .collect(),
    }
}

/// The statistics and what is wrong with the labels, on stderr.
fn show(statistics: &Statistics, rewards: &Rewards, candidates: &Candidates) {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let rows = [
        ("pairs", statistics.pairs.to_string()),
        (
            "mean probability of the photo",
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

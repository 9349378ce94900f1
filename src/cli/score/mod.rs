//! `preftune score`: the rewards of texts (`texts.rs`); of images, how alike they are to the photos, where there are some,
//! how well they follow their prompts, and the reward made of both.

mod texts;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::answers::{self, AnswerArgs, ScoredArgs};
use crate::cli::candidates::{CandidateArgs, Candidates, Encoded, EncoderArgs};
use crate::cli::learnt::{self, Learnt};
use crate::cli::model::named;
use crate::cli::output::print_json;
use crate::cli::progress::warn;
use crate::cli::table::{self, quoted};
use crate::cli::transform::TransformArgs;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::jobs::judge::letters::LetterJudge;
use crate::jobs::judge::texts::weights_of;
use crate::jobs::open::encode::encode_files;
use crate::jobs::open::text::is_text;
use crate::models::encoders::ImageEncoder;
use crate::models::lm::reward::RewardModel;
use crate::rewards::comparable::Property;
use crate::rewards::harmonic::{check_lambda, image_cosine, lambda_harmonic, text_cosine, unit};
use crate::rewards::oracle::real_to_real;
use crate::rewards::subject::Weighing;

#[derive(Args)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    candidates: CandidateArgs,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Folder of an encoder of images alone, such as DINO, DINOv2 or DINOv3: adds the column `dino`.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["data", "answers"], requires = "references")]
    #[arg(value_parser = named())]
    dino: Option<PathBuf>,
    /// Folder of another encoder of images and texts for `clip_i` and `clip_t`: not the one that was tuned for.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["data", "answers"])]
    #[arg(value_parser = named())]
    report_encoder: Option<PathBuf>,
    /// Shares of likeness to the photos in the reward, between 0 and 1; without photos the share is 0.
    #[arg(
        long,
        value_delimiter = ',',
        allow_hyphen_values = true,
        requires = "references"
    )]
    #[arg(default_value = "0.3,0.5,0.7", value_name = "NUMBERS", conflicts_with_all = ["data", "answers"])]
    lambda: Vec<f64>,
    /// Also show the encoder's own logit of image and prompt, as the column `logit`: the cosine times the scale that it
    /// has learnt. This is the score of PickScore; that of HPSv2 is the cosine, `clip_t`.
    #[arg(long, conflicts_with_all = ["data", "answers"])]
    logit: bool,
    #[command(flatten)]
    transform: TransformArgs,
    /// Difference of rewards that counts as 1 to a transform.
    #[arg(long, default_value_t = 1.0, requires = "transform")]
    tau: f64,
    /// Print JSON.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Also write one line for each image or answer to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    #[command(flatten)]
    answers: AnswerArgs,
    #[command(flatten)]
    scored: ScoredArgs,
}

/// The meaning of the numbers, for the record.
const SCORES: &str = "image, text: (cosine + 1) / 2; reward_L: their harmonic mean with the share L of image, at 0 text alone; \
                      clip_i, clip_t, dino: cosines; logit: clip_t as the encoder scales it, PickScore's score";

impl ScoreArgs {
    /// The shares of likeness in the rewards: of images without photos to be like, none.
    fn lambdas(&self, candidates: &Candidates) -> Vec<f64> {
        if candidates.has_photos() {
            self.lambda.clone()
        } else {
            vec![0.0]
        }
    }

    /// Refuses a transform that takes photos where there are none.
    fn check_photos(&self, candidates: &Candidates) -> Result<()> {
        if candidates.has_photos() {
            return Ok(());
        }
        // As `label` does, of a share that leaves photos out.
        let transform = self.transform.choice();
        let (lambda, tau) = (0.0, self.tau);
        Weighing {
            lambda,
            tau,
            transform,
        }
        .check_photos(0)
    }
}

/// One quantity for all images, and for the photos among themselves where that means something.
struct Column {
    name: String,
    values: Vec<f64>,
    photos: Option<f64>,
}

impl Column {
    fn new(name: impl Into<String>, values: Vec<f64>, photos: Option<f64>) -> Self {
        Self {
            name: name.into(),
            values,
            photos,
        }
    }

    fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }
}

pub(crate) fn run(args: &ScoreArgs) -> Result<()> {
    if !(args.tau.is_finite() && args.tau > 0.0) {
        return Err(Error::config(format!("--tau {} is not above 0", args.tau)));
    }
    if !args.answers.answers.is_empty() {
        let (judge, _) = args.encoder.text_judge()?;
        if args.transform.is_asked() {
            return Err(Error::config(
                "`--transform` is for images and `--data`: answers are compared by their rewards as they are",
            ));
        }
        let csv = args.csv.as_deref();
        let how = (args.json, args.encoder.quiet());
        return answers::score(&args.answers, &args.scored, &judge, csv, how);
    }
    if let Some(data) = &args.candidates.data {
        if data.as_os_str() == "-" {
            return judge(args);
        }
        let (judge, reward) = args.encoder.text_judge()?;
        let shown = texts::Shown {
            as_json: args.json,
            quiet: args.encoder.quiet(),
            csv: args.csv.as_deref(),
        };
        return texts::run((&judge, reward), data, &shown, &args.transform, args.tau);
    }
    for &lambda in &args.lambda {
        check_lambda(lambda)?;
    }
    let candidates = args.candidates.open()?;
    candidates.note_reward();
    args.check_photos(&candidates)?;
    let (columns, encoders, preferences) = columns(args, &candidates)?;
    if let Some(path) = &args.csv {
        write_atomically(path, csv(&candidates, &columns).as_bytes())?;
    }
    if args.json {
        let mut report = report(args, &candidates, &columns, &encoders);
        if !preferences.is_empty() {
            report["preferences"] = json!(preferences);
        }
        print_json(&report);
    } else {
        print!("{}", people(&candidates, &columns));
    }
    Ok(())
}

/// Cosines of every image with the photos and with its prompt, by one encoder.
struct Cosines {
    /// `None` without photos.
    image: Option<Vec<f64>>,
    text: Vec<f64>,
    photos: Option<f64>,
    /// Logits of every image and its prompt.
    logit: Vec<f64>,
    encoder: Value,
    /// Judgements of the images by `--reward`.
    learnt: Learnt,
}

/// Answers questions on standard input: by the rewards of a model of texts, or by the letter that a language model would
/// reply with.
fn judge(args: &ScoreArgs) -> Result<()> {
    let path = args.encoder.reward.as_deref().unwrap_or(Path::new(""));
    if is_text(path) && !RewardModel::is_there(&weights_of(path)?) {
        let (device, kind) = args.encoder.resolve()?;
        let judge = LetterJudge::open(path, args.encoder.raw(), device, kind)?;
        warn(judge.tokenizer());
        // It is asked a question of its own: what the answers' template was given is not for its template.
        return texts::answer(&|prompt, _, first, second| judge.log_odds(prompt, &first, &second));
    }
    let (judge, _) = args.encoder.text_judge()?;
    texts::answer(&|prompt, variables, first, second| {
        let opinion = judge.of_answers(prompt, variables, &[first, second])?;
        let rewards = opinion.rewards();
        Ok(rewards[0][0] - rewards[1][0])
    })
}

fn cosines(
    folder: &Path,
    args: &ScoreArgs,
    candidates: &Candidates,
    learnt: bool,
) -> Result<Cosines> {
    let Encoded {
        encoder,
        photos,
        images: features,
        texts,
    } = Encoded::new(folder, &args.encoder, candidates)?;
    let own = texts.index_select(0, &candidates.text_rows(texts.device())); // [n, d]
    let text = text_cosine(&features, &own);
    Ok(Cosines {
        learnt: match args.encoder.reward.as_deref().filter(|_| learnt) {
            Some(reward) => learnt::learnt(reward, (&features, &texts), &encoder, candidates)?,
            None => Learnt::default(),
        },
        image: candidates
            .has_photos()
            .then(|| image_cosine(&features, &photos)),
        logit: if args.logit {
            encoder.logits(&text)?
        } else {
            Vec::new()
        },
        text,
        photos: real_to_real(&photos),
        encoder: json!({
            "name": encoder.name(),
            "weights_sha256": encoder.weights_sha256(),
            "encoded_images": encoder.image_encodes(),
        }),
    })
}

/// All columns, the encoders that made them, and what a preference model says of each prompt's images.
type Scores = (Vec<Column>, Map<String, Value>, Vec<Value>);

fn columns(args: &ScoreArgs, candidates: &Candidates) -> Result<Scores> {
    let mut encoders = Map::new();
    let mut reward = cosines(args.encoder.encoder(), args, candidates, true)?;
    let learnt = std::mem::take(&mut reward.learnt);
    let alignment: Vec<f64> = reward.text.iter().copied().map(unit).collect();
    let likeness = |values: &Vec<f64>| values.iter().copied().map(unit).collect();
    let similarity: Option<Vec<f64>> = reward.image.as_ref().map(likeness);
    let rewards = args.lambdas(candidates).into_iter().map(|lambda| {
        let values = alignment.iter().enumerate().map(|(index, &text)| {
            // Without photos the share of likeness is 0.
            let image = similarity.as_ref().map_or(text, |values| values[index]);
            lambda_harmonic(image, text, lambda)
        });
        Column::new(format!("reward_{lambda}"), values.collect(), None)
    });
    let mut rewards: Vec<Column> = rewards.collect();
    let parts = [similarity.as_ref().unwrap_or(&alignment), &alignment];
    rewards.extend(transformed(args, candidates, parts, &rewards)?);
    let photos = reward.photos.map(unit);
    let image = similarity.map(|values| Column::new("image", values, photos));
    let mut columns: Vec<Column> = image.into_iter().collect();
    columns.push(Column::new("text", alignment, None));
    columns.extend(rewards);
    let own = learnt.columns.into_iter();
    columns.extend(own.map(|(name, values)| Column::new(name, values, None)));
    encoders.insert("encoder".to_owned(), reward.encoder.clone());
    let logit = std::mem::take(&mut reward.logit);
    let reported = match &args.report_encoder {
        Some(folder) => {
            let reported = cosines(folder, args, candidates, false)?;
            encoders.insert("report_encoder".to_owned(), reported.encoder.clone());
            reported
        }
        None => reward,
    };
    let image = reported.image;
    columns.extend(image.map(|values| Column::new("clip_i", values, reported.photos)));
    columns.push(Column::new("clip_t", reported.text, None));
    if args.logit {
        columns.push(Column::new("logit", logit, None));
    }
    if let Some(folder) = &args.dino {
        let (device, kind) = args.encoder.resolve()?;
        let dino = ImageEncoder::open(folder, device, kind)?;
        let encode = |images: &[_]| dino.encode_images(images);
        let bar = args.encoder.bar(candidates.files());
        let encoded = |count| bar.inc(count);
        let photos = encode_files(&candidates.references, folder, &encoded, encode)?;
        let features = encode_files(&candidates.images, folder, &encoded, encode)?;
        bar.finish_and_clear();
        let values = image_cosine(&features, &photos);
        columns.push(Column::new("dino", values, real_to_real(&photos)));
        let about = json!({"name": dino.name(), "weights_sha256": dino.weights_sha256()});
        encoders.insert("dino".to_owned(), about);
    }
    Ok((columns, encoders, learnt.preferences))
}

/// The rewards as they are for each prompt under `--transform`; of likeness and alignment together a single column.
fn transformed(
    args: &ScoreArgs,
    candidates: &Candidates,
    parts: [&Vec<f64>; 2],
    rewards: &[Column],
) -> Result<Vec<Column>> {
    // Photos are not among what is compared here.
    let property = |values: &Vec<f64>| Property {
        given: vec![Vec::new(); candidates.texts.len()],
        samples: values.clone(),
    };
    let [likeness, alignment] = parts.map(property);
    let wanted = if args.transform.takes_parts() {
        1
    } else {
        rewards.len()
    };
    let mut columns = Vec::new();
    for reward in &rewards[..wanted] {
        let own = property(&reward.values);
        let parts = [&likeness, &alignment];
        let values = args
            .transform
            .apply(&own, parts, args.tau, &candidates.text_of)?;
        let name = if args.transform.takes_parts() {
            "reward_and".to_owned()
        } else {
            format!("{}_transformed", reward.name)
        };
        columns.extend(values.map(|values| Column::new(name, values.samples, None)));
    }
    Ok(columns)
}

fn report(
    args: &ScoreArgs,
    candidates: &Candidates,
    columns: &[Column],
    encoders: &Map<String, Value>,
) -> Value {
    let values = |value: &dyn Fn(&Column) -> Option<f64>| {
        let pairs = columns
            .iter()
            .filter_map(|column| Some((column.name.clone(), json!(value(column)?))));
        pairs.collect::<Map<String, Value>>()
    };
    let images = candidates.images.iter().enumerate().map(|(index, path)| {
        let mut row = Map::new();
        row.insert("file".to_owned(), json!(path.to_string_lossy()));
        row.insert("prompt".to_owned(), json!(candidates.prompts[index]));
        row.extend(values(&|column| Some(column.values[index])));
        Value::Object(row)
    });
    let images: Vec<Value> = images.collect();
    let references = candidates
        .references
        .iter()
        .map(|path| path.to_string_lossy());
    let references: Vec<_> = references.collect();
    json!({
        "encoders": encoders,
        "token": args.candidates.token(),
        "lambda": args.lambdas(candidates),
        "scores": SCORES,
        "references": references,
        "mean": values(&|column| Some(column.mean())),
        "photos_among_themselves": values(&|column| column.photos),
        "images": images,
    })
}

fn people(candidates: &Candidates, columns: &[Column]) -> String {
    let number = |value: f64| format!("{value:.4}");
    let row = |name: &str, value: &dyn Fn(&Column) -> String| {
        let cells = columns.iter().map(value);
        std::iter::once(name.to_owned())
            .chain(cells)
            .collect::<Vec<_>>()
    };
    let header = row("", &|column| column.name.clone());
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (index, path) in candidates.images.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        rows.push(row(&name, &|column| number(column.values[index])));
    }
    rows.push(row("mean", &|column| number(column.mean())));
    if candidates.has_photos() {
        rows.push(row("photos", &|column| {
            column.photos.map_or_else(|| "-".to_owned(), number)
        }));
    }
    table::render(&header, &rows)
}

fn csv(candidates: &Candidates, columns: &[Column]) -> String {
    let names = columns.iter().map(|column| column.name.as_str());
    let mut text = ["file", "prompt"]
        .into_iter()
        .chain(names)
        .collect::<Vec<_>>()
        .join(",")
        + "\n";
    for (index, path) in candidates.images.iter().enumerate() {
        let numbers = columns
            .iter()
            .map(|column| column.values[index].to_string());
        let texts = [path.to_string_lossy().as_ref(), &candidates.prompts[index]].map(quoted);
        let cells: Vec<String> = texts.into_iter().chain(numbers).collect();
        text += &(cells.join(",") + "\n");
    }
    text
}

//! The common options of verbs that judge images: the photos, the images with their prompts, the encoder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use tch::{Device, Kind, Tensor};

use crate::cli::chat::ChatArgs;
use crate::cli::model::named;
use crate::cli::progress::warn_of;
use crate::data::listing::Listing;
use crate::data::{captions, prompts};
use crate::error::{Error, Result};
use crate::jobs::judge::texts::TextJudge;
use crate::jobs::open::encode::{check_finite, encode_files};
use crate::models::device;
use crate::models::encoders::DualEncoder;

#[derive(Args)]
pub(super) struct CandidateArgs {
    /// Folder of photos of the subject. Without it images are judged by their prompts alone.
    #[arg(long, value_name = "FOLDER")]
    references: Option<PathBuf>,
    /// Folder of generated images.
    #[arg(long, value_name = "FOLDER", required_unless_present_any = ["data", "answers"])]
    images: Option<PathBuf>,
    /// Texts instead of images, judged by `--reward`: `.jsonl`, `.json` or `.parquet` with `prompt` and `completion`, or
    /// `chosen` and `rejected`, or `responses`. `score` takes `-` too: questions of `rank --pairs` on standard input, each answered as a
    /// judge does.
    #[arg(long, value_name = "FILE", requires = "reward")]
    #[arg(conflicts_with_all = ["references", "images", "encoder", "prompt", "prompts"])]
    pub(super) data: Option<PathBuf>,
    /// The prompt of all images. Without it and `--prompts`, each image says its own: in the folder's
    /// `metadata.jsonl` (`file_name`, `prompt`) or in the PNG text that `preftune generate` writes.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with one prompt for all images, or one a line for each image in the order of their names.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompts: Option<PathBuf>,
    /// The word that means the subject. It is removed before prompts are encoded, as no encoder knows it.
    #[arg(long, default_value = "[V]", value_name = "WORD", conflicts_with_all = ["data", "answers"])]
    token: String,
    /// The word for what the subject is, for prompts with `{class}`.
    #[arg(long, value_name = "WORD", conflicts_with_all = ["data", "answers"])]
    class: Option<String>,
}

#[derive(Args)]
pub(super) struct EncoderArgs {
    /// The encoder of images and texts that gives the reward: the folder of a `CLIPModel` (such as PickScore), `SiglipModel`
    /// or `AlignModel`, or a folder or file of OpenCLIP (such as HPSv2.1).
    #[arg(long, value_name = "PATH", required_unless_present_any = ["data", "answers"])]
    #[arg(value_parser = named())]
    encoder: Option<PathBuf>,
    /// A reward model that `preftune train` made. For `--data` and `--answers`, one of texts, or `sentiment`: VADER's score
    /// between -1 and 1. For images, a head on the encoder's vectors: `score` shows its outputs as columns, `label` goes by its reward.
    #[arg(long, value_name = "FOLDER")]
    #[arg(value_parser = named())]
    pub(super) reward: Option<PathBuf>,
    #[command(flatten)]
    chat: ChatArgs,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
    /// No progress bars.
    #[arg(long)]
    quiet: bool,
    /// Type in which the encoders compute.
    #[arg(long, value_enum, default_value = "fp32")]
    precision: Precision,
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    Fp32,
    Bf16,
}

impl EncoderArgs {
    /// Folder of the encoder; empty where texts are judged.
    pub(super) fn encoder(&self) -> &Path {
        self.encoder.as_deref().unwrap_or(Path::new(""))
    }

    /// The judge of texts, and where it was read from.
    pub(super) fn text_judge(&self) -> Result<(TextJudge, &Path)> {
        let reward = self.reward.as_deref();
        let reward = reward.ok_or_else(|| Error::config("texts need `--reward`"))?;
        let (device, kind) = self.resolve()?;
        let judge = TextJudge::open(reward, device, kind)?;
        let judge = judge.with_words(self.raw());
        warn_of(judge.warnings());
        Ok((judge, reward))
    }

    /// `true` if nothing is said but results.
    pub(super) fn quiet(&self) -> bool {
        self.quiet
    }

    /// `true` if a judge of texts takes words as they are; `None` where that was not said.
    pub(super) fn raw(&self) -> Option<bool> {
        self.chat.raw()
    }

    /// A bar on stderr for `total` images; hidden where stderr is no terminal.
    pub(super) fn bar(&self, total: usize) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("encoding {bar:30} {pos}/{len} images [{eta}]");
        ProgressBar::new(total as u64)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    pub(super) fn resolve(&self) -> Result<(Device, Kind)> {
        let kind = match self.precision {
            Precision::Fp32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        Ok((device::parse(&self.device)?, kind))
    }
}

/// Photos, images and prompts; nothing is decoded yet.
pub(super) struct Candidates {
    pub(super) references: Vec<PathBuf>,
    pub(super) images: Vec<PathBuf>,
    /// The prompt of each image, as it was written.
    pub(super) prompts: Vec<String>,
    /// The different prompts without the token, in the order of their first use.
    pub(super) texts: Vec<String>,
    /// For each image, the index of its prompt in `texts`.
    pub(super) text_of: Vec<usize>,
}

impl Candidates {
    /// Says what a reward is where there are no photos.
    pub(super) fn note_reward(&self) {
        if !self.has_photos() {
            eprintln!(
                "note: without `--references` there is no likeness to photos: the reward is the alignment of image and prompt, (cosine + 1) / 2"
            );
        }
    }

    /// How many files an encoder is given.
    pub(super) fn files(&self) -> usize {
        self.references.len() + self.images.len()
    }

    /// `true` if there are photos that images can be like.
    pub(super) fn has_photos(&self) -> bool {
        !self.references.is_empty()
    }

    /// `[n]`: for each image the row of its prompt among the encoded `texts`.
    pub(super) fn text_rows(&self, device: Device) -> Tensor {
        let rows: Vec<i64> = self.text_of.iter().map(|&row| row as i64).collect();
        Tensor::from_slice(&rows).to_device(device)
    }
}

/// A folder that clap has asked for, unless texts are judged.
fn folder(path: Option<&PathBuf>) -> &Path {
    path.map_or(Path::new(""), PathBuf::as_path)
}

impl CandidateArgs {
    /// Lists the folders and finds the prompt of every image.
    pub(super) fn open(&self) -> Result<Candidates> {
        let references = self.references.as_deref().map(Listing::open).transpose()?;
        let images = Listing::open(folder(self.images.as_ref()))?;
        let given = self.prompt.is_some() || self.prompts.is_some();
        let instead = given.then_some("`--prompt` or `--prompts` is");
        let of_photos = match &references {
            Some(references) => references.notes(None),
            None => Vec::new(),
        };
        for note in [of_photos, images.notes(instead)].concat() {
            eprintln!("note: {note}");
        }
        let references = references.map_or_else(Vec::new, |listing| listing.images);
        let images = images.images;
        let prompts = self.prompts_of(&images)?;
        let mut texts: Vec<String> = Vec::new();
        let mut text_of = Vec::with_capacity(images.len());
        let mut known = HashMap::new();
        for prompt in &prompts {
            let text = prompts::strip_token(prompt, &self.token);
            let index = *known.entry(text.clone()).or_insert(texts.len());
            if index == texts.len() {
                texts.push(text);
            }
            text_of.push(index);
        }
        Ok(Candidates {
            references,
            images,
            prompts,
            texts,
            text_of,
        })
    }

    /// The word that means the subject.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    fn prompts_of(&self, images: &[PathBuf]) -> Result<Vec<String>> {
        let templates = match (&self.prompt, &self.prompts) {
            (Some(prompt), _) => vec![prompt.clone()],
            (None, Some(file)) => prompts::read(file)?,
            (None, None) => {
                let captions = captions::own_prompts(folder(self.images.as_ref()), images)?;
                for note in captions.notes {
                    eprintln!("note: {note}");
                }
                captions.prompts
            }
        };
        if templates.len() != 1 && templates.len() != images.len() {
            let source = self
                .prompts
                .as_deref()
                .unwrap_or(folder(self.images.as_ref()));
            return Err(Error::data(
                source,
                format!("{} prompts for {} images", templates.len(), images.len()),
            )
            .with_hint(
                "give one prompt for all images, or one a line for each image in the order of their names",
            ));
        }
        let filled = templates.iter().map(|template| self.fill(template));
        let mut filled = filled.collect::<Result<Vec<String>>>()?;
        if filled.len() == 1 {
            filled = vec![filled.swap_remove(0); images.len()];
        }
        Ok(filled)
    }

    fn fill(&self, template: &str) -> Result<String> {
        if template.contains("{class}") && self.class.is_none() {
            return Err(Error::config(format!(
                "the prompt `{template}` needs a word for `{{class}}`"
            ))
            .with_hint("say what the subject is: `--class dog`"));
        }
        let class = self.class.as_deref().unwrap_or_default();
        let prompt = prompts::fill(template, &self.token, class);
        if prompts::strip_token(&prompt, &self.token).is_empty() {
            return Err(Error::config("a prompt is empty").with_hint(
                "say what the image shows, apart from the word that means the subject",
            ));
        }
        Ok(prompt)
    }
}

/// Everything that a verb judges, as normalised features.
pub(super) struct Encoded {
    pub(super) encoder: DualEncoder,
    /// Of the photos, `[r, d]`; `r` is 0 where there are none.
    pub(super) photos: Tensor,
    /// Of the images, `[n, d]`.
    pub(super) images: Tensor,
    /// Of the different prompts, `[t, d]`.
    pub(super) texts: Tensor,
}

impl Encoded {
    /// Opens the encoder of `folder` and encodes photos, images and prompts, each once.
    pub(super) fn new(folder: &Path, args: &EncoderArgs, candidates: &Candidates) -> Result<Self> {
        let (device, kind) = args.resolve()?;
        let encoder = DualEncoder::open(folder, device, kind)?;
        for note in encoder.assumed() {
            eprintln!("note: {note}");
        }
        for note in encoder.prompt_notes("the encoder", &candidates.texts)? {
            eprintln!("warning: {note}");
        }
        let encode = |images: &[RgbImage]| encoder.encode_images(images);
        let bar = args.bar(candidates.files());
        let encoded = |count| bar.inc(count);
        let photos = encode_files(&candidates.references, folder, &encoded, encode)?;
        let images = encode_files(&candidates.images, folder, &encoded, encode)?;
        bar.finish_and_clear();
        let texts = encoder.encode_texts(&candidates.texts)?;
        check_finite(&texts, folder, |row| {
            format!("prompt `{}`", candidates.texts[row])
        })?;
        Ok(Self {
            encoder,
            photos,
            images,
            texts,
        })
    }
}

//! What gives images their rewards: the lambda-Harmonic reward of an encoder, a reward model on its vectors, or a command.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use image::RgbImage;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::command::Judge;
use crate::config::ImageRewardSection;
use crate::data::png;
use crate::data::prompts::strip_token;
use crate::error::{Error, Result};
use crate::jobs::interrupt::Interrupt;
use crate::jobs::judge::texts::weights_of;
use crate::jobs::reward::images::ENCODER;
use crate::models::encoders::DualEncoder;
use crate::models::heads::{Head, HeadKind, Network};
use crate::rewards::harmonic::{image_cosine, lambda_harmonic, text_similarity, unit};
use crate::rewards::image::{ImageReward, ImageScore};
use crate::rewards::specific::class_kept;
use crate::run::manifest;

/// A subject as a reward measures it.
pub(crate) struct MeasuredSubject {
    /// Features of the photos, `[r, d]`.
    pub(crate) photos: Tensor,
    /// The token, which encoders do not know: texts are compared without it.
    pub(crate) token: String,
    /// Mean cosine with the photos of what the untuned model draws for the class word, where that is known: images of prompts
    /// without the token then get a better reward the less of the way from it to the photos they have gone.
    pub(crate) untuned_class: Option<f64>,
}

/// Likeness to photos and alignment with the prompt, by one encoder of images and texts.
pub(crate) struct HarmonicReward {
    encoder: Rc<DualEncoder>,
    lambda: f64,
    /// Without one the reward is alignment alone.
    subject: Option<MeasuredSubject>,
    /// Features of texts that were seen, `[1, d]` each.
    texts: HashMap<String, Tensor>,
}

impl HarmonicReward {
    pub(crate) fn new(
        encoder: Rc<DualEncoder>,
        lambda: f64,
        subject: Option<MeasuredSubject>,
    ) -> Self {
        Self {
            encoder,
            lambda,
            subject,
            texts: HashMap::new(),
        }
    }

    fn strip(&self, prompt: &str) -> String {
        match &self.subject {
            Some(subject) => strip_token(prompt, &subject.token),
            None => prompt.to_owned(),
        }
    }
}

impl ImageReward for HarmonicReward {
    fn name(&self) -> String {
        let encoder = self.encoder.name();
        match self.subject {
            Some(_) => format!(
                "lambda-Harmonic reward, lambda {}, by `{encoder}`",
                self.lambda
            ),
            None => format!("alignment with the prompt by `{encoder}`"),
        }
    }

    fn sha256(&self) -> Option<String> {
        Some(self.encoder.weights_sha256().to_owned())
    }

    fn columns(&self) -> &'static [&'static str] {
        if self.subject.is_some() {
            &["image_similarity", "text_similarity"]
        } else {
            &["text_similarity"]
        }
    }

    fn score(&mut self, images: &[RgbImage], prompts: &[String]) -> Result<Vec<ImageScore>> {
        let features = self.encoder.encode_images(images)?;
        let stripped: Vec<String> = prompts.iter().map(|prompt| self.strip(prompt)).collect();
        let mut new = stripped.clone();
        new.retain(|text| !self.texts.contains_key(text));
        new.sort();
        new.dedup();
        if !new.is_empty() {
            let encoded = self.encoder.encode_texts(&new)?;
            self.texts.extend(new.into_iter().zip(encoded.split(1, 0)));
        }
        let texts: Vec<&Tensor> = stripped.iter().map(|text| &self.texts[text]).collect();
        let alignment = text_similarity(&features, &Tensor::cat(&texts, 0));
        let Some(subject) = &self.subject else {
            let score = |&text: &f64| ImageScore {
                reward: text,
                columns: vec![text],
            };
            return Ok(alignment.iter().map(score).collect());
        };
        let cosines = image_cosine(&features, &subject.photos).into_iter();
        let words = prompts.iter().zip(&stripped);
        let rows = cosines.zip(alignment).zip(words);
        Ok(rows
            .map(|((cosine, text), (prompt, stripped))| {
                let wanted = match subject.untuned_class {
                    // Without the token a prompt is itself, but for runs of spaces.
                    Some(untuned) if *stripped == strip_token(prompt, "") => {
                        class_kept(cosine, untuned)
                    }
                    _ => unit(cosine),
                };
                ImageScore {
                    reward: lambda_harmonic(wanted, text, self.lambda),
                    columns: vec![unit(cosine), text],
                }
            })
            .collect())
    }
}

/// A head on an encoder's vectors of images; of a run the one that is in it.
///
/// # Errors
/// It cannot be read, reads vectors of another width, or was trained on those of another encoder.
pub(crate) fn open_head(reward: &Path, encoder: &DualEncoder, device: Device) -> Result<Head> {
    let head = Head::open(&weights_of(reward)?, Kind::Float, device)?;
    let width = head.config().input;
    if width != encoder.width() {
        let problem = format!(
            "reads vectors of width {width}, the encoder makes {}",
            encoder.width()
        );
        return Err(Error::weights(reward, problem));
    }
    let manifest = manifest::find::<Value>(reward)?.unwrap_or_default();
    let trained_on = manifest["inputs"][ENCODER].as_str();
    if trained_on.is_some_and(|hash| hash != encoder.weights_sha256()) {
        let problem = "was trained on the vectors of another encoder";
        return Err(Error::weights(reward, problem)
            .with_hint("give the encoder that `data.encoder` named when it was trained"));
    }
    Ok(head)
}

/// A reward model on an encoder's vectors of images; prompts do not count.
pub(crate) struct HeadReward {
    encoder: Rc<DualEncoder>,
    head: Head,
    /// Place and name of the output that is the reward.
    output: (i64, String),
    /// Of the head's files.
    sha256: String,
}

impl HeadReward {
    /// Opens the model of a configuration.
    ///
    /// # Errors
    /// As [`open_head`]; it has no such output, or gives no reward to a single image.
    pub(crate) fn open(
        section: &ImageRewardSection,
        encoder: Rc<DualEncoder>,
        device: Device,
    ) -> Result<Self> {
        let model = &section.model;
        let head = open_head(model, &encoder, device)?;
        let HeadKind::Scalar { outputs } = &head.config().kind else {
            let problem = "gives a single image no reward: it compares images, or knows users";
            return Err(Error::weights(model, problem)
                .with_hint("train one with `task = \"bradley_terry\"` or `\"regression\"`"));
        };
        let place = match &section.output {
            None => Some(0),
            Some(name) => outputs.iter().position(|output| output == name),
        };
        let Some(place) = place else {
            let problem = format!("`reward.output`: its outputs are {}", outputs.join(", "));
            return Err(Error::weights(model, problem));
        };
        let output = (place as i64, outputs[place].clone());
        Ok(Self {
            sha256: Head::sha256(&weights_of(model)?)?,
            encoder,
            head,
            output,
        })
    }
}

impl ImageReward for HeadReward {
    fn name(&self) -> String {
        let encoder = self.encoder.name();
        format!("`{}` of a reward model on `{encoder}`", self.output.1)
    }

    fn sha256(&self) -> Option<String> {
        Some(self.sha256.clone())
    }

    fn columns(&self) -> &'static [&'static str] {
        &[]
    }

    fn score(&mut self, images: &[RgbImage], _prompts: &[String]) -> Result<Vec<ImageScore>> {
        let features = self.encoder.encode_images(images)?;
        let Network::Scalar(network) = self.head.network() else {
            return Err(Error::config(
                "the reward model gives single images no reward",
            ));
        };
        let values = no_grad(|| network.forward(&features).select(1, self.output.0));
        let values = Vec::<f64>::try_from(values.to_kind(Kind::Double).contiguous())?;
        let score = |reward| ImageScore {
            reward,
            columns: Vec::new(),
        };
        Ok(values.into_iter().map(score).collect())
    }
}

/// A command that is asked about each image.
pub(crate) struct CommandReward {
    judge: Judge,
    command: String,
    /// Where the image lies that is asked about.
    folder: PathBuf,
    asked: u64,
}

impl CommandReward {
    /// Starts the command of a configuration; the image that it is asked about lies in `folder`.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(
        section: &ImageRewardSection,
        folder: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let patience = Duration::from_secs(section.patience);
        Ok(Self {
            judge: Judge::start(&section.command, patience)?.until(interrupt),
            command: section.command.clone(),
            folder: folder.to_owned(),
            asked: 0,
        })
    }
}

impl ImageReward for CommandReward {
    fn name(&self) -> String {
        format!("`{}`", self.command)
    }

    fn sha256(&self) -> Option<String> {
        None
    }

    fn columns(&self) -> &'static [&'static str] {
        &[]
    }

    fn score(&mut self, images: &[RgbImage], prompts: &[String]) -> Result<Vec<ImageScore>> {
        let file = self.folder.join("asked.png");
        let mut scores = Vec::with_capacity(images.len());
        for (image, prompt) in images.iter().zip(prompts) {
            png::write(&file, image, &[("prompt", prompt.clone())])?;
            self.asked += 1;
            let question = json!({"id": self.asked, "prompt": prompt, "image": file});
            scores.push(ImageScore {
                reward: self.judge.reward(self.asked, &question)?,
                columns: Vec::new(),
            });
        }
        std::fs::remove_file(&file)
            .or_else(|source| match source.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(source),
            })
            .map_err(|source| Error::io("remove", &file, source))?;
        Ok(scores)
    }
}

//! Judgements of images by a trained head, for `score` and `label`: rewards, or which of the images of one prompt is the better
//! one.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Kind, Tensor, no_grad};

use crate::cli::candidates::Candidates;
use crate::error::{Error, Result};
use crate::jobs::judge::images::open_head;
use crate::jobs::open::encode::check_finite;
use crate::models::encoders::DualEncoder;
use crate::models::heads::{GeneralPreference, HeadKind, Network};
use crate::rewards::general_preference::scores;

/// Judgements of a head.
#[derive(Default)]
pub(super) struct Learnt {
    /// A number for each image, by name.
    pub(super) columns: Vec<(String, Vec<f64>)>,
    /// Of a preference model: for each prompt its images and the probabilities that one beats the other.
    pub(super) preferences: Vec<Value>,
}

/// Judgements by the head of `reward` of images `[n, d]` and of the different prompts `[t, d]` as `encoder` sees them.
pub(super) fn learnt(
    reward: &Path,
    (images, prompts): (&Tensor, &Tensor),
    encoder: &DualEncoder,
    candidates: &Candidates,
) -> Result<Learnt> {
    let head = open_head(reward, encoder, images.device())?;
    match (&head.config().kind, head.network()) {
        (HeadKind::Scalar { outputs }, Network::Scalar(mlp)) => {
            let values = no_grad(|| mlp.forward(images).to_kind(Kind::Double)); // [n, outputs]
            let columns = outputs.iter().enumerate().map(|(index, name)| {
                let values = Vec::<f64>::try_from(values.select(1, index as i64).contiguous())?;
                Ok((format!("learnt_{name}"), values))
            });
            Ok(Learnt {
                columns: columns.collect::<Result<_>>()?,
                preferences: Vec::new(),
            })
        }
        (_, Network::GeneralPreference(head)) => {
            no_grad(|| preferences(reward, head, (images, prompts), candidates))
        }
        _ => Err(Error::weights(
            reward,
            "knows users, and gives an image no reward for everybody",
        )),
    }
}

impl Learnt {
    /// The one reward of each image.
    ///
    /// # Errors
    /// The head of `reward` compares images, or has several outputs.
    pub(super) fn into_reward(self, reward: &Path) -> Result<Vec<f64>> {
        let Self {
            mut columns,
            preferences,
        } = self;
        let what = match columns.len() {
            1 if preferences.is_empty() => return Ok(columns.remove(0).1),
            1 => "compares the images of a prompt and gives none a reward of its own",
            _ => "has several outputs",
        };
        Err(Error::weights(reward, what)
            .with_hint("label by a head of one output, as `task = \"bradley_terry\"` trains it"))
    }
}

/// Every image is embedded once; the scores of all pairs of a prompt's images are products of these.
fn preferences(
    reward: &Path,
    head: &GeneralPreference,
    (images, prompts): (&Tensor, &Tensor),
    candidates: &Candidates,
) -> Result<Learnt> {
    let embeddings = head.embed(images); // [n, 2k]
    check_finite(&embeddings, reward, |row| {
        format!("image `{}`", candidates.images[row].display())
    })?;
    let mut mean_log_odds = vec![0.0; candidates.images.len()];
    let mut preferences = Vec::new();
    for (prompt, text) in candidates.texts.iter().enumerate() {
        let own: Vec<usize> = (0..candidates.images.len())
            .filter(|&image| candidates.text_of[image] == prompt)
            .collect();
        if own.len() < 2 {
            let problem = format!("compares images, and `{text}` has only one");
            return Err(
                Error::weights(reward, problem).with_hint("give two images or more of each prompt")
            );
        }
        let rows: Vec<i64> = own.iter().map(|&image| image as i64).collect();
        let rows = Tensor::from_slice(&rows).to_device(images.device());
        let scales = head.scales(Some(&prompts.get(prompt as i64))); // [k]
        let table = scores(&embeddings.index_select(0, &rows), &scales) / head.config().tau; // [k, k]
        let table = table.to_kind(Kind::Double);
        let others = (own.len() - 1) as f64;
        let means = table.sum_dim_intlist(-1, false, Kind::Double) / others;
        for (&image, mean) in own.iter().zip(Vec::<f64>::try_from(means)?) {
            mean_log_odds[image] = mean;
        }
        let wins = table.sigmoid().flatten(0, -1);
        let wins = Vec::<f64>::try_from(wins)?;
        let files = own
            .iter()
            .map(|&image| candidates.images[image].to_string_lossy());
        preferences.push(json!({
            "prompt": text,
            "files": files.collect::<Vec<_>>(),
            "probabilities": wins.chunks(own.len()).collect::<Vec<_>>(),
        }));
    }
    Ok(Learnt {
        columns: vec![("learnt_preference".to_owned(), mean_log_odds)],
        preferences,
    })
}

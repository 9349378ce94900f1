//! The fields that encoders keep beside their model: weights, preprocessing, counts.

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use image::RgbImage;
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::hub::refuse_broken_links;
use crate::models::json;
use crate::models::preprocess::Preprocessor;
use crate::models::recognize::not_a;
use crate::models::weights::{Checkpoint, Loader};
use crate::ops::halving::in_halves;
use crate::ops::transfer::upload;

/// Images or texts that go through a model at once; bounds memory, not results.
pub(super) const SLICE: usize = 32;

/// The image sizes that a model takes.
#[derive(Clone, Copy)]
pub(super) enum Sides {
    Exactly(i64),
    AtLeast(i64),
}

/// Where weights come from.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    Stored,
    /// Drawn from a seed.
    Fresh(u64),
}

/// The fields that both kinds of encoder keep beside their model.
pub(super) struct Source {
    folder: PathBuf,
    pub(super) preprocessor: Preprocessor,
    pub(super) loader: Loader,
    pub(super) device: Device,
    kind: Kind,
    /// Images encoded so far.
    pub(super) images: Cell<u64>,
    sha256: OnceCell<String>,
}

impl Source {
    /// The weights of `folder` in transformers' layout.
    pub(super) fn open(
        folder: &Path,
        preprocessor: Preprocessor,
        (device, kind): (Device, Kind),
        origin: Origin,
    ) -> Result<Self> {
        let stored = || Checkpoint::open_component(folder, "model", None);
        Self::with(folder, preprocessor, (device, kind), origin, stored)
    }

    /// The weights that `stored` opens, where stored ones are asked for.
    pub(super) fn with(
        folder: &Path,
        preprocessor: Preprocessor,
        (device, kind): (Device, Kind),
        origin: Origin,
        stored: impl FnOnce() -> Result<Checkpoint>,
    ) -> Result<Self> {
        let loader = match origin {
            Origin::Stored => Loader::new(stored()?, device, kind),
            Origin::Fresh(seed) => Loader::fresh(&folder.join("config.json"), &[], seed, device),
        };
        Ok(Self {
            folder: folder.to_owned(),
            preprocessor,
            loader,
            device,
            kind,
            images: Cell::new(0),
            sha256: OnceCell::new(),
        })
    }

    /// `[n, width]` by a model that takes images of `sides`.
    pub(super) fn encode_images(
        &self,
        images: &[RgbImage],
        width: i64,
        sides: Sides,
        features: impl Fn(&Tensor) -> Tensor,
    ) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let mut rows = vec![Tensor::zeros([0, width], (Kind::Float, self.device))];
        rows.extend(in_halves(images.len(), SLICE, |range| {
            let slice = &images[range];
            let pixels = self.preprocessor.pixels(slice)?; // [n, 3, h, w]
            let shape = pixels.size();
            let (height, width) = (shape[2], shape[3]);
            let wanted = match sides {
                Sides::Exactly(side) if (height, width) != (side, side) => {
                    Some(format!("{side}x{side}"))
                }
                Sides::AtLeast(side) if height.min(width) < side => {
                    Some(format!("{side}x{side} or more"))
                }
                _ => None,
            };
            if let Some(wanted) = wanted {
                let message = format!(
                    "makes images of {width}x{height} pixels, but the model takes {wanted}"
                );
                return Err(Error::weights(self.preprocessor.path(), message));
            }
            let pixels = upload(&pixels, self.device).to_kind(self.kind);
            let row = unit(&features(&pixels)); // [n, d]
            self.images.set(self.images.get() + slice.len() as u64);
            Ok(row)
        })?);
        Ok(Tensor::cat(&rows, 0))
    }

    pub(super) fn weights_sha256(&self) -> &str {
        self.sha256
            // Weights that cannot be read any more have no hash, which equals that of no others.
            .get_or_init(|| self.loader.checkpoint().sha256().unwrap_or_default())
    }

    /// The folder's name; for a snapshot in Hugging Face's cache the repository's.
    pub(super) fn name(&self) -> String {
        let part = |path: Option<&Path>| {
            let name = path.and_then(Path::file_name).unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let repository = part(self.folder.ancestors().nth(2));
        match repository.strip_prefix("models--") {
            Some(repository) => repository.replace("--", "/"),
            None => part(Some(&self.folder)),
        }
    }
}

/// Rows of length 1 in f32, `[n, d]`.
pub(super) fn unit(features: &Tensor) -> Tensor {
    let features = features.to_kind(Kind::Float);
    let lengths = features.norm_scalaropt_dim(2, [-1], true); // [n, 1]
    features / lengths.clamp_min(f64::from(f32::MIN_POSITIVE))
}

/// The folder's `model_type`; `wanted` is what is needed there, in words.
pub(super) fn model_type(folder: &Path, wanted: &str) -> Result<String> {
    refuse_broken_links(folder)?;
    let path = folder.join("config.json");
    if !path.exists() {
        return Err(not_a(folder, wanted));
    }
    let object = json::read_object(&path)?;
    let name = object.get("model_type").and_then(serde_json::Value::as_str);
    name.map(str::to_owned).ok_or_else(|| not_a(folder, wanted))
}

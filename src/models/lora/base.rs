//! The weights of a pipeline's folder that a LoRA can change, and where it can sit, without loading a model.

use std::path::Path;
use std::rc::Rc;

use tch::Tensor;

use super::keys::{TEXT_ENCODERS, TEXT_MODEL, in_text_encoder, text_module};
use super::sites::{self, Sites};
use super::{LoraWeights, read};
use crate::error::{Error, Result};
use crate::models::single_file::is_there;
use crate::models::weights::Checkpoint;

/// U-Net and text encoders of a pipeline.
pub struct PipelineWeights {
    /// The U-Net's tensors.
    pub unet: Checkpoint,
    /// Those of the text encoders that are there, in the order of their folders.
    pub text_encoders: [Option<Checkpoint>; 2],
    /// The places of all of them; the names of those of text encoders begin with the encoder's folder.
    pub sites: Rc<Sites>,
}

impl PipelineWeights {
    /// Opens a folder in Hugging Face layout, or a model in one file; `variant` (`fp16`) is preferred among several weight
    /// files.
    ///
    /// # Errors
    /// No U-Net, or broken files.
    pub fn open(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let unet = folder.join("unet");
        let unet = Checkpoint::open_component(&unet, "diffusion_pytorch_model", variant)?;
        let mut all = sites::of_checkpoint(&unet);
        let mut text_encoders = [None, None];
        for (name, slot) in TEXT_ENCODERS.into_iter().zip(&mut text_encoders) {
            let part = folder.join(name);
            if !is_there(&part.join("config.json")) {
                continue;
            }
            let encoder = Checkpoint::open_component(&part, "model", variant)?;
            let layers = sites::of_checkpoint(&encoder).into_iter();
            let layers = layers.filter(|(path, _)| !path.contains("embedding"));
            all.extend(layers.map(|(path, site)| (text_module(name, &path), site)));
            *slot = Some(encoder);
        }
        Ok(Self {
            unet,
            text_encoders,
            sites: Rc::new(all),
        })
    }

    /// The weight of a module, `[out, in]` or `[out, in, k, k]`.
    ///
    /// # Errors
    /// There is none, or it is broken.
    pub fn weight(&self, module: &str) -> Result<Tensor> {
        let Some((number, path)) = in_text_encoder(module) else {
            return self.unet.tensor(&format!("{module}.weight"));
        };
        let encoder = self.text_encoders[number].as_ref().ok_or_else(|| {
            let message = format!("has no `{}`", TEXT_ENCODERS[number]);
            Error::weights(self.unet.path(), message)
        })?;
        let name = format!("{path}.weight");
        match name.strip_prefix(TEXT_MODEL) {
            Some(bare) if encoder.contains(bare) => encoder.tensor(bare),
            _ => encoder.tensor(&name),
        }
    }

    /// A plain LoRA of this model.
    ///
    /// # Errors
    /// As [`read::read_on`].
    pub fn read_lora(&self, path: &Path) -> Result<LoraWeights> {
        let weight = |module: &str| self.weight(module);
        read::read_on(path, Rc::clone(&self.sites), &weight)
    }
}

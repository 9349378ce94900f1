//! The inputs of a U-Net besides the noisy sample and its timestep.

use tch::{Device, Tensor};

use crate::ops::transfer::upload;

/// The second conditioning of Stable Diffusion XL.
pub struct AddedConditioning {
    /// Pooled, projected text vector, `[b, p]`.
    pub text_embeds: Tensor,
    /// Original height and width, crop top and left, target height and width in pixels, `[b, 6]`.
    pub time_ids: Tensor,
}

/// Text (and, for XL, sizes) by row of a batch.
pub struct Conditioning {
    /// Token states of the text encoder(s), `[b, t, d]`.
    pub context: Tensor,
    /// For XL only.
    pub added: Option<AddedConditioning>,
}

impl Conditioning {
    /// Text alone, `[b, t, d]`.
    pub fn new(context: Tensor) -> Self {
        Self {
            context,
            added: None,
        }
    }

    /// The same on a device.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        self.map(|tensor| upload(tensor, device))
    }

    /// Number of rows.
    pub fn rows(&self) -> i64 {
        self.context.size()[0]
    }

    fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            context: change(&self.context),
            added: self.added.as_ref().map(|added| AddedConditioning {
                text_embeds: change(&added.text_embeds),
                time_ids: change(&added.time_ids),
            }),
        }
    }

    /// The same storage under a second owner.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }

    /// Rows by index, `rows` `[n]`, any repeated.
    #[must_use]
    pub fn select(&self, rows: &Tensor) -> Self {
        self.map(|tensor| tensor.index_select(0, rows))
    }

    /// `count` rows from `start`, without a copy.
    #[must_use]
    pub fn narrow(&self, start: i64, count: i64) -> Self {
        self.map(|tensor| tensor.narrow(0, start, count))
    }

    /// Each row `count` times in succession: rows a, b become a, a, b, b.
    #[must_use]
    pub fn repeat_interleave(&self, count: i64) -> Self {
        self.map(|tensor| tensor.repeat_interleave_self_int(count, 0, None))
    }

    /// Rows of all parts, one after the other. All have the second conditioning or none has it.
    #[must_use]
    pub fn cat(parts: &[&Self]) -> Self {
        let join = |pick: &dyn Fn(&Self) -> Option<&Tensor>| {
            let tensors: Vec<&Tensor> = parts.iter().filter_map(|part| pick(part)).collect();
            (tensors.len() == parts.len() && !parts.is_empty()).then(|| Tensor::cat(&tensors, 0))
        };
        let text_embeds = join(&|part| part.added.as_ref().map(|added| &added.text_embeds));
        let time_ids = join(&|part| part.added.as_ref().map(|added| &added.time_ids));
        let contexts: Vec<&Tensor> = parts.iter().map(|part| &part.context).collect();
        Self {
            context: Tensor::cat(&contexts, 0),
            added: text_embeds
                .zip(time_ids)
                .map(|(text_embeds, time_ids)| AddedConditioning {
                    text_embeds,
                    time_ids,
                }),
        }
    }
}

//! CLIP's text transformer (Radford et al. 2021, arXiv 2103.00020), exact against transformers' `CLIPTextModel`
//! and `CLIPTextModelWithProjection`.

use tch::{Kind, Tensor};

use super::config::ClipTextConfig;
use crate::error::{Error, Result};
use crate::models::layers::{Embedding, LayerNorm, Linear};
use crate::models::transformer::{Block, CLIP_BLOCK, Visible};
use crate::models::weights::Loader;

/// The text transformer's outputs for `[n, t]` token ids.
pub struct ClipTextOutput {
    /// State of every token after the final layer norm: what SD 1.x and 2.x condition on. `[n, t, d]`.
    pub last_hidden_state: Tensor,
    /// State before the last block, not normalised: what SDXL conditions on. `[n, t, d]`.
    pub penultimate: Tensor,
    /// Normalised state of the end-of-text token. `[n, d]`.
    pub pooled: Tensor,
}

/// The text transformer.
pub struct ClipText {
    tokens: Embedding,
    positions: Tensor,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    config: ClipTextConfig,
}

impl ClipText {
    /// Takes the transformer's tensors with or without the prefix `text_model.`, and `text_projection`
    /// `[projection, d]` where the checkpoint has one.
    pub fn load(loader: &Loader, config: &ClipTextConfig) -> Result<Self> {
        let own = loader.pp("text_model");
        // transformers 5 saves a bare `CLIPTextModel` without the prefix that all older files have.
        let own = if own.contains("final_layer_norm.weight") {
            own
        } else if loader.contains("final_layer_norm.weight") {
            loader.clone()
        } else {
            return Err(Error::tensor(
                loader.checkpoint().path(),
                own.full_name("final_layer_norm.weight"),
                "missing, with and without the prefix `text_model.`: not a CLIP text encoder",
            ));
        };
        let width = config.hidden_size;
        let embeddings = own.pp("embeddings");
        let projection = if loader.contains("text_projection.weight") {
            let loader = loader.pp("text_projection");
            Some(Linear::load_no_bias(&loader, width, config.projection_dim)?)
        } else {
            None
        };
        Ok(Self {
            tokens: Embedding::load(&embeddings.pp("token_embedding"), config.vocab_size, width)?,
            positions: embeddings.tensor(
                "position_embedding.weight",
                &[config.max_position_embeddings, width],
            )?,
            blocks: Block::load_stack(
                &own.pp("encoder.layers"),
                &CLIP_BLOCK,
                config.block(),
                config.num_hidden_layers,
            )?,
            final_norm: LayerNorm::load(&own.pp("final_layer_norm"), width, config.layer_norm_eps)?,
            projection,
            config: config.clone(),
        })
    }

    /// Sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// `true` if the checkpoint had a text projection.
    pub fn has_projection(&self) -> bool {
        self.projection.is_some()
    }

    /// Runs integer ids `[n, t]`, `t` at most `max_position_embeddings`, each below `vocab_size`. Attention is
    /// causal and nothing else is masked: padding follows the end-of-text token and is not seen by it.
    pub fn forward(&self, ids: &Tensor) -> ClipTextOutput {
        let positions = self.positions.narrow(0, 0, ids.size()[1]); // [t, d]
        let mut states = self.tokens.forward(ids) + positions; // [n, t, d]
        let mut penultimate = states.shallow_clone();
        for block in &self.blocks {
            penultimate = states;
            states = block.forward(&penultimate, Visible::Causal);
        }
        let last_hidden_state = self.final_norm.forward(&states);
        let index = self.pooled_position(ids).view([-1, 1, 1]); // [n, 1, 1]
        let index = index.expand([-1, -1, self.config.hidden_size], false); // [n, 1, d]
        let pooled = last_hidden_state.gather(1, &index, false).squeeze_dim(1); // [n, d]
        ClipTextOutput {
            last_hidden_state,
            penultimate,
            pooled,
        }
    }

    /// The pooled state `[n, d]` through the text projection, `[n, projection]`; unchanged where there is none.
    pub fn project(&self, pooled: &Tensor) -> Tensor {
        match &self.projection {
            Some(projection) => projection.forward(pooled),
            None => pooled.shallow_clone(),
        }
    }

    /// Where the pooled state is taken, `[n]`: the first end-of-text token. Configurations from before transformers
    /// corrected `eos_token_id` carry a 2 that no tokenizer uses; there it is the largest id, as it always was.
    fn pooled_position(&self, ids: &Tensor) -> Tensor {
        if self.config.eos_token_id == 2 {
            ids.argmax(1, false)
        } else {
            let is_end = ids.eq(self.config.eos_token_id).to_kind(Kind::Int);
            is_end.argmax(1, false)
        }
    }
}

//! The conditional U-Net of Stable Diffusion 1.x, 2.x and XL (`UNet2DConditionModel`): one forward pass with a
//! timestep for each sample, activation checkpointing, LoRA-ready layers, and text keys and values that can be
//! computed once for all steps of a sampler. Checked against diffusers tensor by tensor.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor, no_grad};

use super::attention::{CrossAttentions, Projected, Text};
use super::blocks::{DownBlock, Inputs, MidBlock, UpBlock};
use super::conditioning::Conditioning;
use super::config::UNetConfig;
use super::embeddings::TimeEmbedding;
use crate::error::{Error, Result};
use crate::models::layers::{Adapters, Conv2d, ConvConfig, GroupNorm};
use crate::models::weights::{Checkpoint, Loader};
use crate::ops::tape::{Tape, checkpointed};

/// Keys and values of the text in every cross-attention: constant while weights and text are, as in sampling.
pub struct ContextCache(Rc<Vec<Projected>>);

/// See the module's documentation.
pub struct UNet {
    config: UNetConfig,
    time: TimeEmbedding,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    cross_attentions: CrossAttentions,
    parameters: Vec<(String, Tensor)>,
    adapters: Adapters,
}

impl UNet {
    /// Loads `config.json` and the weights in `folder` (a pipeline's `unet`), converted to `kind` on `device`.
    ///
    /// # Errors
    /// A configuration that is not implemented, missing or misshapen tensors, and tensors that the configuration
    /// has no use for.
    pub fn open(folder: &Path, variant: Option<&str>, device: Device, kind: Kind) -> Result<Self> {
        let config = UNetConfig::open(folder)?;
        let checkpoint = Checkpoint::open_component(folder, "diffusion_pytorch_model", variant)?;
        let unet = Self::load(&Loader::new(checkpoint, device, kind), config)?;
        Ok(unet)
    }

    /// The network that `config.json` in `folder` describes, with weights as training from scratch begins with them.
    ///
    /// # Errors
    /// A configuration that is missing or not implemented.
    pub fn fresh(folder: &Path, seed: u64, device: Device) -> Result<Self> {
        let config = UNetConfig::open(folder)?;
        Self::load(
            &Loader::fresh(&folder.join("config.json"), &[], seed, device),
            config,
        )
    }

    fn load(loader: &Loader, config: UNetConfig) -> Result<Self> {
        let all = RefCell::default();
        let levels = config.block_out_channels.len();
        let first = config.block_out_channels[0];
        let three = ConvConfig::new(3, 1);
        let groups = config.norm_num_groups;
        let time = TimeEmbedding::load(loader, &config)?;
        let conv_in = Conv2d::load(&loader.pp("conv_in"), config.in_channels, first, three)?;
        let down_blocks = (0..levels)
            .map(|level| DownBlock::load(loader, &config, &all, level))
            .collect::<Result<_>>()?;
        let mid_block = MidBlock::load(loader, &config, &all)?;
        let up_blocks = (0..levels)
            .map(|index| UpBlock::load(loader, &config, &all, index))
            .collect::<Result<_>>()?;
        let conv_norm_out =
            GroupNorm::load(&loader.pp("conv_norm_out"), groups, first, config.norm_eps)?;
        let conv_out = Conv2d::load(&loader.pp("conv_out"), first, config.out_channels, three)?;
        loader.refuse_unused()?;
        Ok(Self {
            config,
            time,
            conv_in,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out,
            conv_out,
            cross_attentions: all,
            parameters: loader.parameters(),
            adapters: loader.adapters(),
        })
    }

    /// The shape of the network.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// All tensors under their checkpoint names.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Layers that can carry a LoRA, by module path.
    pub fn adapters(&self) -> &Adapters {
        &self.adapters
    }

    /// Checks that `conditioning` has the widths and parts that the network reads; `folder` is named in the error.
    ///
    /// # Errors
    /// The text encoder belongs to another family, or XL's second conditioning is missing or not wanted.
    pub fn check_conditioning(&self, folder: &Path, conditioning: &Conditioning) -> Result<()> {
        match self.mismatch(conditioning) {
            Some(problem) => Err(Error::weights(folder, problem)
                .with_hint("the text encoder and the U-Net are of different models")),
            None => Ok(()),
        }
    }

    /// Why `conditioning` cannot be read, if it cannot.
    pub(super) fn mismatch(&self, conditioning: &Conditioning) -> Option<String> {
        let expected = self.config.cross_attention_dim[0];
        let size = conditioning.context.size();
        if size.len() != 3 || size[2] != expected {
            return Some(format!(
                "text of shape {size:?}, but the U-Net reads [b, t, {expected}]"
            ));
        }
        let wanted = self.config.added.map(|added| [added.pooled(), 6]);
        let given = conditioning.added.as_ref().map(|added| {
            let width = |tensor: &Tensor| tensor.size().last().copied().unwrap_or(0);
            [width(&added.text_embeds), width(&added.time_ids)]
        });
        let show = |widths: Option<[i64; 2]>| match widths {
            Some([pooled, sizes]) => {
                format!("a pooled text vector of width {pooled} and {sizes} sizes")
            }
            None => "no pooled text vector".to_owned(),
        };
        (wanted != given).then(|| format!("{}, but the U-Net reads {}", show(given), show(wanted)))
    }

    /// The prediction for `sample` `[b, in_channels, h, w]` at `timesteps` `[b]` (of any number type); same size
    /// and type as `sample`. `h` and `w` are free.
    ///
    /// Panics where [`UNet::check_conditioning`] would have refused; without XL's second conditioning, for
    /// instance, the prediction would be wrong and nothing would show it.
    ///
    /// With a `tape`, activations are recomputed in its backward pass. The text then counts as a constant: no
    /// gradient flows into `conditioning`.
    pub fn forward<'a>(
        &'a self,
        sample: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        tape: Option<&Tape<'a>>,
    ) -> Tensor {
        let tokens = conditioning.context.to_kind(sample.kind());
        self.run(sample, timesteps, conditioning, &Text::Tokens(tokens), tape)
    }

    /// Projects the text of `conditioning` for [`UNet::forward_cached`], for samples of type `kind`; no gradient.
    pub fn context_cache(&self, conditioning: &Conditioning, kind: Kind) -> ContextCache {
        let tokens = conditioning.context.to_kind(kind);
        let project = || {
            let all = self.cross_attentions.borrow();
            all.iter()
                .map(|attention| attention.project(&tokens))
                .collect()
        };
        ContextCache(Rc::new(no_grad(project)))
    }

    /// As [`UNet::forward`] without a gradient, with the text's keys and values taken from `cache`.
    pub fn forward_cached(
        &self,
        sample: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        cache: &ContextCache,
    ) -> Tensor {
        let text = Text::Projected(Rc::clone(&cache.0));
        no_grad(|| self.run(sample, timesteps, conditioning, &text, None))
    }

    fn run<'a>(
        &'a self,
        sample: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        text: &Text,
        tape: Option<&Tape<'a>>,
    ) -> Tensor {
        let mismatch = self.mismatch(conditioning);
        assert!(mismatch.is_none(), "{mismatch:?}");
        let (steps, told) = (timesteps.shallow_clone(), conditioning.shallow_clone());
        let kind = sample.kind();
        let embedding = checkpointed(tape, vec![], move |_| {
            self.time.forward(&steps, &told, kind)
        }); // [b, time_embed_dim]
        let inputs = Inputs {
            embedding: &embedding,
            text,
            tape,
        };
        let mut xs = checkpointed(tape, vec![sample.shallow_clone()], |xs| {
            self.conv_in.forward(&xs[0])
        }); // [b, c, h, w]
        let mut skips = vec![xs.shallow_clone()];
        for block in &self.down_blocks {
            xs = block.forward(xs, &inputs, &mut skips);
        }
        xs = self.mid_block.forward(xs, &inputs);
        for block in &self.up_blocks {
            xs = block.forward(xs, &inputs, &mut skips);
        }
        checkpointed(tape, vec![xs], |xs| {
            self.conv_out
                .forward(&self.conv_norm_out.forward(&xs[0]).silu()) // [b, out_channels, h, w]
        })
    }
}

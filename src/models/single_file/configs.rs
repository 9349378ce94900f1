//! The settings of a model in one file, as the published folders of its family have them, with the sizes that its tensors
//! have.

use serde_json::{Map, Value, json};

use super::{Autoencoder, Files, Layout, MODEL, SETTINGS, UNET, UNET_CONFIG, VAE_CONFIG};
use crate::error::{Error, Result};
use crate::models::lora::Family;
use crate::models::recognize::not_a;
use crate::models::weights::Checkpoint;

/// Spread of a bias above which a model of Stable Diffusion 2 predicts velocity. ComfyUI tells them apart by it too
/// (`comfy/supported_models.py`): the file says it nowhere else.
const SPREAD_OF_VELOCITY: f64 = 0.09;
const SPREAD: &str = "output_blocks.11.1.transformer_blocks.0.norm1.bias";

/// Width of a head of every transformer but the U-Net of Stable Diffusion 1.
const HEAD: i64 = 64;

/// The settings of an autoencoder in a file of its own, which says everything but what its latents are scaled by.
pub(super) fn of_autoencoder(file: &Checkpoint, vae: &Autoencoder) -> Result<Files> {
    if !file.contains(&format!("{}quant_conv.weight", vae.prefix)) {
        return Err(not_a(file.path(), MODEL));
    }
    let settings = Shapes { file }.vae(vae)?;
    Ok(Files::from([(VAE_CONFIG.to_owned(), settings)]))
}

/// All settings, by their path in diffusers' folder.
pub(super) fn files(file: &Checkpoint, layout: &Layout) -> Result<Files> {
    let mut files = Files::new();
    let mut add = |path: &str, value: Value| {
        if let Value::Object(object) = value {
            files.insert(path.to_owned(), object);
        }
    };
    let velocity = predicts_velocity(file, layout)?;
    let shape = Shapes { file };
    add(UNET_CONFIG, shape.unet(layout, velocity)?);
    if let Some(vae) = &layout.vae {
        let mut settings = shape.vae(vae)?;
        let (side, scale) = match layout.family {
            Family::Sd1 => (512, 0.18215),
            Family::Sd2 => (768, 0.18215),
            Family::Sdxl => (1024, 0.13025),
        };
        settings.insert("sample_size".to_owned(), side.into());
        settings.insert("scaling_factor".to_owned(), scale.into());
        settings.insert(
            "force_upcast".to_owned(),
            (layout.family == Family::Sdxl).into(),
        );
        add(VAE_CONFIG, Value::Object(settings));
    }
    add(
        "scheduler/scheduler_config.json",
        scheduler(file, layout, velocity),
    );
    add("model_index.json", index(layout.family));
    match layout.family {
        Family::Sd1 => {
            add("text_encoder/config.json", shape.text(layout.clip)?);
            add(
                "tokenizer/tokenizer_config.json",
                tokenizer("<|endoftext|>"),
            );
        }
        Family::Sd2 => {
            add(
                "text_encoder/config.json",
                shape.open_text(layout.open_clip, true)?,
            );
            add("tokenizer/tokenizer_config.json", tokenizer("!"));
        }
        Family::Sdxl => {
            add("text_encoder/config.json", shape.text(layout.clip)?);
            add(
                "tokenizer/tokenizer_config.json",
                tokenizer("<|endoftext|>"),
            );
            add(
                "text_encoder_2/config.json",
                shape.open_text(layout.open_clip, false)?,
            );
            add("tokenizer_2/tokenizer_config.json", tokenizer("!"));
        }
    }
    if let Some(text) = file.metadata().get(SETTINGS) {
        let written: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            Error::weights(
                file.path(),
                format!("its header's `{SETTINGS}` is not readable: {error}"),
            )
        })?;
        for (path, settings) in written {
            // Only in the place of what is there: a header adds no files.
            if let (Some(place), Value::Object(settings)) = (files.get_mut(&path), settings) {
                *place = settings
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .collect();
            }
        }
    }
    Ok(files)
}

/// `true` of a model that predicts velocity: by a mark among its tensors, by its header, else by its weights.
fn predicts_velocity(file: &Checkpoint, layout: &Layout) -> Result<bool> {
    if file.contains("v_pred") {
        return Ok(true);
    }
    let said = |key: &str| {
        file.metadata()
            .get(key)
            .map(|value| value.to_ascii_lowercase())
    };
    match said("modelspec.prediction_type").as_deref() {
        Some("v" | "v_prediction" | "v-prediction") => return Ok(true),
        Some("epsilon") => return Ok(false),
        _ => {}
    }
    if layout.family != Family::Sd2 {
        return Ok(false);
    }
    match said("modelspec.architecture").as_deref() {
        Some("stable-diffusion-v2-768-v") => return Ok(true),
        Some("stable-diffusion-v2-512") => return Ok(false),
        _ => {}
    }
    let name = format!("{UNET}{SPREAD}");
    if !file.contains(&name) {
        return Ok(false);
    }
    let bias = file.tensor(&name)?.to_kind(tch::Kind::Double);
    Ok(bias.std(false).double_value(&[]) > SPREAD_OF_VELOCITY)
}

fn scheduler(file: &Checkpoint, layout: &Layout, velocity: bool) -> Value {
    let class = match layout.family {
        Family::Sd1 => "PNDMScheduler",
        Family::Sd2 => "DDIMScheduler",
        Family::Sdxl => "EulerDiscreteScheduler",
    };
    let mut settings = json!({
        "_class_name": class, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "clip_sample": false, "prediction_type": if velocity { "v_prediction" } else { "epsilon" },
        "timestep_spacing": "leading",
    });
    if file.contains("ztsnr") {
        // Lin et al. 2023 (arXiv 2305.08891): such a model is sampled from its last timestep.
        settings["rescale_betas_zero_snr"] = true.into();
        settings["timestep_spacing"] = "trailing".into();
    }
    settings
}

fn index(family: Family) -> Value {
    let (class, scheduler) = match family {
        Family::Sd1 => ("StableDiffusionPipeline", "PNDMScheduler"),
        Family::Sd2 => ("StableDiffusionPipeline", "DDIMScheduler"),
        Family::Sdxl => ("StableDiffusionXLPipeline", "EulerDiscreteScheduler"),
    };
    let mut index = json!({
        "_class_name": class, "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    });
    if family == Family::Sdxl {
        index["text_encoder_2"] = json!(["transformers", "CLIPTextModelWithProjection"]);
        index["tokenizer_2"] = json!(["transformers", "CLIPTokenizer"]);
        index["force_zeros_for_empty_prompt"] = true.into();
    }
    index
}

fn tokenizer(pad: &str) -> Value {
    json!({
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad,
        "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": true,
    })
}

/// The sizes of a file's tensors.
struct Shapes<'f> {
    file: &'f Checkpoint,
}

impl Shapes<'_> {
    /// Size of a tensor along a dimension.
    fn size(&self, name: &str, dimension: usize) -> Result<i64> {
        let size = self.file.shape(name).and_then(|shape| shape.get(dimension));
        let missing = || Error::tensor(self.file.path(), name, "missing, or of another shape");
        size.copied().ok_or_else(missing)
    }

    /// Numbers from 0 on for which there is the tensor that `name` gives.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..1000)
            .take_while(|&number| self.file.contains(&name(number)))
            .count()
    }

    fn unet(&self, layout: &Layout, velocity: bool) -> Result<Value> {
        let at = |name: String| format!("{UNET}{name}");
        let stride = layout.stride;
        let levels = self.count(|level| {
            at(format!(
                "input_blocks.{}.0.in_layers.2.weight",
                stride * level + 1
            ))
        });
        let transformer =
            |level: usize, name: &str| at(format!("input_blocks.{}.1.{name}", stride * level + 1));
        let attends = |level: usize| self.file.contains(&transformer(level, "proj_in.weight"));
        let up_attends = |level: usize| {
            self.file.contains(&at(format!(
                "output_blocks.{}.1.proj_in.weight",
                stride * level
            )))
        };
        let mut channels = Vec::new();
        for level in 0..levels {
            let name = at(format!(
                "input_blocks.{}.0.in_layers.2.weight",
                stride * level + 1
            ));
            channels.push(self.size(&name, 0)?);
        }
        let depth = |level: usize| {
            let block =
                |number| transformer(level, &format!("transformer_blocks.{number}.norm1.weight"));
            self.count(block).max(1)
        };
        let attending: Vec<usize> = (0..levels).filter(|&level| attends(level)).collect();
        let Some(&first) = attending.first() else {
            let message = "has a U-Net that does not read texts";
            return Err(Error::weights(self.file.path(), message));
        };
        let text = self.size(
            &transformer(first, "transformer_blocks.0.attn2.to_k.weight"),
            1,
        )?;
        let linear = self
            .file
            .shape(&transformer(first, "proj_in.weight"))
            .map_or(0, <[i64]>::len)
            == 2;
        let kind = |attends: bool, side: &str| {
            if attends {
                format!("CrossAttn{side}Block2D")
            } else {
                format!("{side}Block2D")
            }
        };
        let heads: Vec<i64> = match layout.family {
            Family::Sd1 => vec![8; levels],
            _ => channels
                .iter()
                .map(|channels| (channels / HEAD).max(1))
                .collect(),
        };
        let side = match (layout.family, velocity) {
            (Family::Sd1, _) | (Family::Sd2, false) => 64,
            (Family::Sd2, true) => 96,
            (Family::Sdxl, _) => 128,
        };
        let layers = if levels > 1 {
            stride - 1
        } else {
            self.count(|layer| at(format!("input_blocks.{}.0.in_layers.2.weight", layer + 1)))
        };
        let mut config = json!({
            "_class_name": "UNet2DConditionModel", "sample_size": side, "in_channels": 4,
            "out_channels": self.size(&at("out.2.weight".to_owned()), 0)?, "block_out_channels": channels,
            "layers_per_block": layers, "cross_attention_dim": text, "attention_head_dim": heads,
            "down_block_types": (0..levels).map(|level| kind(attends(level), "Down")).collect::<Vec<_>>(),
            "up_block_types": (0..levels).map(|level| kind(up_attends(level), "Up")).collect::<Vec<_>>(),
            "transformer_layers_per_block": (0..levels).map(depth).collect::<Vec<_>>(),
            "use_linear_projection": linear, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5,
            "flip_sin_to_cos": true, "freq_shift": 0, "downsample_padding": 1, "center_input_sample": false,
            "mid_block_scale_factor": 1,
        });
        if layout.family == Family::Sdxl {
            config["addition_embed_type"] = "text_time".into();
            config["addition_time_embed_dim"] = 256.into();
            config["projection_class_embeddings_input_dim"] =
                self.size(&at("label_emb.0.0.weight".to_owned()), 1)?.into();
        }
        Ok(config)
    }

    /// Settings of an autoencoder, but for what its family decides.
    fn vae(&self, vae: &Autoencoder) -> Result<Map<String, Value>> {
        let &Autoencoder { prefix, levels } = vae;
        let convolution = |level: usize, block: usize| {
            format!("{prefix}encoder.down.{level}.block.{block}.conv1.weight")
        };
        let channels: Vec<i64> = (0..levels)
            .map(|level| self.size(&convolution(level, 0), 0))
            .collect::<Result<_>>()?;
        let settings = json!({
            "_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3,
            "latent_channels": self.size(&format!("{prefix}decoder.conv_in.weight"), 1)?, "block_out_channels": channels,
            "layers_per_block": self.count(|block| convolution(0, block)),
            "down_block_types": vec!["DownEncoderBlock2D"; levels], "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "norm_num_groups": 32,
        });
        match settings {
            Value::Object(settings) => Ok(settings),
            _ => Ok(Map::new()),
        }
    }

    /// Settings of CLIP's text encoder.
    fn text(&self, prefix: &str) -> Result<Value> {
        let root = if self
            .file
            .contains(&format!("{prefix}embeddings.token_embedding.weight"))
        {
            prefix.to_owned()
        } else {
            format!("{prefix}text_model.")
        };
        let layer = |layer: usize| format!("{root}encoder.layers.{layer}.mlp.fc1.weight");
        let table = format!("{root}embeddings.token_embedding.weight");
        let width = self.size(&table, 1)?;
        Ok(json!({
            "model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu",
            "hidden_size": width, "vocab_size": self.size(&table, 0)?,
            "intermediate_size": self.size(&layer(0), 0)?, "num_hidden_layers": self.count(layer),
            "max_position_embeddings": self.size(&format!("{root}embeddings.position_embedding.weight"), 0)?,
            "num_attention_heads": (width / HEAD).max(1), "projection_dim": width, "layer_norm_eps": 1e-5,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        }))
    }

    /// Settings of OpenCLIP's text encoder; Stable Diffusion 2 uses all but its last block.
    fn open_text(&self, prefix: &str, without_last: bool) -> Result<Value> {
        let layer = |layer: usize| format!("{prefix}transformer.resblocks.{layer}.mlp.c_fc.weight");
        let table = format!("{prefix}token_embedding.weight");
        let width = self.size(&table, 1)?;
        let layers = self.count(layer);
        let layers = if without_last { layers.min(23) } else { layers };
        let class = if without_last {
            "CLIPTextModel"
        } else {
            "CLIPTextModelWithProjection"
        };
        let projection = if without_last {
            512
        } else {
            self.size(&format!("{prefix}text_projection"), 1)?
        };
        Ok(json!({
            "model_type": "clip_text_model", "architectures": [class], "hidden_act": "gelu",
            "hidden_size": width, "vocab_size": self.size(&table, 0)?,
            "intermediate_size": self.size(&layer(0), 0)?, "num_hidden_layers": layers,
            "max_position_embeddings": self.size(&format!("{prefix}positional_embedding"), 0)?,
            "num_attention_heads": (width / HEAD).max(1), "projection_dim": projection, "layer_norm_eps": 1e-5,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        }))
    }
}

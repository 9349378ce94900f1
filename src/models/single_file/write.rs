//! The tensors of a model as one file has them, and the header that goes with them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use super::{SETTINGS, UNET, VAE_CONFIG, is_there, names, vocabulary};
use crate::error::{Error, Result};
use crate::models::diffusion::VaeSource;
use crate::models::json::read_object;
use crate::models::lora::Family;
use crate::models::lora::keys::Blocks;
use crate::models::tokenizer;
use crate::models::weights::Checkpoint;

/// Settings that go into the header beside the autoencoder's: what the tensors do not say.
const FILES: [&str; 5] = [
    "model_index.json",
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
];

/// Entries of a header, and empty tensors that mark what they say.
type Header = (BTreeMap<String, String>, Vec<(String, Tensor)>);

/// Blocks of OpenCLIP's text encoder in Stable Diffusion 2, whose last one it does not use.
const SD2_BLOCKS: usize = 24;

/// A model's folder or file, its autoencoder or the one in its place, and its family.
type Model<'a> = (&'a Path, &'a VaeSource, Family);

/// Changes a tensor of a text encoder: by the encoder's folder, the tensor's name, and the tensor of the base.
type ChangeText<'a> = &'a dyn Fn(&str, &str, Tensor) -> Result<Tensor>;

/// All tensors of the model in the folder of `model`, with the U-Net that comes with it, as a single file names them; `text`
/// changes those of text encoders. Floats are in the type `kind`.
///
/// # Errors
/// A part is missing or of another kind; the model's tokenizer is not CLIP's, which such files do not carry; values that
/// `kind` cannot hold.
pub(in crate::models) fn tensors(
    (base, vae, family): Model,
    unet: Vec<(String, Tensor)>,
    text: ChangeText,
    blocks: &Blocks,
    kind: Kind,
) -> Result<Vec<(String, Tensor)>> {
    let mut all = Vec::new();
    let mut add = |path: &Path, name: String, tensor: Tensor| {
        let tensor = if tensor.is_floating_point() {
            tensor.to_kind(kind)
        } else {
            tensor
        };
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            let message = format!("has values that {kind:?} cannot hold");
            return Err(Error::tensor(path, name, message)
                .with_hint("export with `--dtype f32` or `--dtype bf16`"));
        }
        all.push((name, tensor));
        Ok(())
    };
    let nameless = |path: &Path, name: &str| {
        let message = "has no name in a single file of Stable Diffusion 1, 2 or XL";
        Error::tensor(path, name, message)
    };
    let folder = base.join("unet");
    for (name, tensor) in unet {
        let (module, last) = name.rsplit_once('.').unwrap_or((name.as_str(), ""));
        let module = blocks.sgm(module).ok_or_else(|| nameless(&folder, &name))?;
        add(&folder, format!("{UNET}{module}.{last}"), tensor)?;
    }
    let vae = vae.weights(None)?;
    let levels = (0..64).take_while(|level| {
        vae.contains(&format!("decoder.up_blocks.{level}.resnets.0.conv1.weight"))
    });
    let levels = levels.count();
    for name in vae.names() {
        let new = names::vae_back(name, levels).ok_or_else(|| nameless(vae.path(), name))?;
        let mut tensor = vae.tensor(name)?;
        if new.contains(".mid.attn_1.") && tensor.dim() == 2 {
            tensor = tensor.unsqueeze(-1).unsqueeze(-1); // [c, c, 1, 1]
        }
        add(vae.path(), format!("first_stage_model.{new}"), tensor)?;
    }
    for (part, tokenizer, prefix, open_clip) in text_encoders(family) {
        check_tokenizer(&base.join(tokenizer))?;
        let encoder = Checkpoint::open_component(&base.join(part), "model", None)?;
        let read = |name: &str| text(part, name, encoder.tensor(name)?);
        let named = if open_clip {
            open_clip_tensors(&encoder, &read, family)?
        } else {
            let named = encoder
                .names()
                .filter_map(|name| Some((names::clip(name)?, name)));
            named
                .map(|(new, name)| Ok((new, read(name)?)))
                .collect::<Result<_>>()?
        };
        for (name, tensor) in named {
            add(encoder.path(), format!("{prefix}{name}"), tensor)?;
        }
    }
    Ok(all)
}

/// Folders of text encoders and tokenizers with the prefix that their tensors have in a file, and `true` for OpenCLIP's.
fn text_encoders(family: Family) -> Vec<(&'static str, &'static str, &'static str, bool)> {
    let first = ("text_encoder", "tokenizer");
    let clip = |prefix| (first.0, first.1, prefix, false);
    match family {
        Family::Sd1 => vec![clip("cond_stage_model.transformer.")],
        Family::Sd2 => vec![(first.0, first.1, "cond_stage_model.model.", true)],
        Family::Sdxl => {
            let second = (
                "text_encoder_2",
                "tokenizer_2",
                "conditioner.embedders.1.model.",
                true,
            );
            vec![clip("conditioner.embedders.0.transformer."), second]
        }
    }
}

/// Refuses a tokenizer that a reader of the file, which brings CLIP's, would not have.
fn check_tokenizer(folder: &Path) -> Result<()> {
    let own = tokenizer::load(folder)?.0.get_vocab(true);
    let (clip, _) = vocabulary();
    let same = own.len() == clip.len() && own.iter().all(|(token, id)| clip.get(token) == Some(id));
    if same {
        return Ok(());
    }
    let message = "is not CLIP's, and a single file carries no tokenizer: its reader would take others for these tokens";
    Err(Error::weights(folder, message)
        .with_hint("export the model as a folder: `--format diffusers` or `--format merged`"))
}

/// A text encoder as OpenCLIP has it: queries, keys and values in one matrix, the projection the other way round.
/// `tensor` reads one by its name in `encoder`.
fn open_clip_tensors(
    encoder: &Checkpoint,
    tensor: &dyn Fn(&str) -> Result<Tensor>,
    family: Family,
) -> Result<Vec<(String, Tensor)>> {
    // transformers writes a text encoder without the first part of its names since version 5.6.
    let bare = !encoder.names().any(|name| name.starts_with("text_model."));
    let root = if bare { "" } else { "text_model." };
    let read = |name: &str| tensor(&format!("{root}{name}"));
    let mut named = Vec::new();
    for name in encoder
        .names()
        .filter(|name| !name.ends_with("position_ids"))
    {
        let whole = if bare && !name.starts_with("text_projection") {
            format!("text_model.{name}")
        } else {
            name.to_owned()
        };
        if [".q_proj.", ".k_proj.", ".v_proj."]
            .iter()
            .any(|part| whole.contains(part))
        {
            continue;
        }
        let Some(new) = names::open_clip_back(&whole) else {
            let message = "has no name in OpenCLIP's text encoder";
            return Err(Error::tensor(encoder.path(), name, message));
        };
        let tensor = tensor(name)?;
        let transposed = new == "text_projection";
        named.push((new, if transposed { tensor.tr() } else { tensor }));
    }
    let mut layers = 0;
    while encoder.contains(&format!(
        "{root}encoder.layers.{layers}.self_attn.q_proj.weight"
    )) {
        for kind in ["weight", "bias"] {
            let part = |letter| {
                read(&format!(
                    "encoder.layers.{layers}.self_attn.{letter}_proj.{kind}"
                ))
            };
            let joined = Tensor::cat(&[part('q')?, part('k')?, part('v')?], 0); // [3 d, d] or [3 d]
            named.push((
                format!("transformer.resblocks.{layers}.attn.in_proj_{kind}"),
                joined,
            ));
        }
        layers += 1;
    }
    if family == Family::Sd2 && layers + 1 == SD2_BLOCKS {
        add_unused(&mut named, layers)?;
    }
    Ok(named)
}

/// Adds what Stable Diffusion 2 does not use, but what readers that build the whole of OpenCLIP's encoder ask for: a last
/// block, a projection and a temperature.
fn add_unused(named: &mut Vec<(String, Tensor)>, layers: usize) -> Result<()> {
    let (from, to) = (layers - 1, layers);
    let prefix = format!("transformer.resblocks.{from}.");
    let copied: Vec<(String, Tensor)> = named
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(&prefix)?;
            let name = format!("transformer.resblocks.{to}.{rest}");
            Some((name, tensor.shallow_clone()))
        })
        .collect();
    let width = named
        .iter()
        .find(|(name, _)| name == "ln_final.weight")
        .map_or(0, |(_, tensor)| tensor.size()[0]);
    let options = (Kind::Float, tch::Device::Cpu);
    named.extend(copied);
    named.push(("text_projection".to_owned(), Tensor::f_eye(width, options)?));
    let temperature = Tensor::f_full(Vec::<i64>::new(), 100f64.ln(), options)?;
    named.push(("logit_scale".to_owned(), temperature));
    Ok(())
}

/// The header's entry with the settings of a model, and empty tensors that mark what its weights do not say for
/// readers that look for them.
pub(in crate::models) fn settings((base, vae, family): Model) -> Result<Header> {
    let vae = Value::Object(vae.settings()?);
    let mut settings = Map::from_iter([(VAE_CONFIG.to_owned(), vae)]);
    for path in FILES {
        if is_there(&base.join(path)) {
            let object = read_object(&base.join(path))?;
            settings.insert(path.to_owned(), Value::Object(object));
        }
    }
    let scheduler = &settings["scheduler/scheduler_config.json"];
    let mut marks = Vec::new();
    // Those of Stable Diffusion 2 are told apart by their weights.
    if family != Family::Sd2 && scheduler["prediction_type"] == "v_prediction" {
        marks.push("v_pred");
        if scheduler["rescale_betas_zero_snr"] == true {
            marks.push("ztsnr");
        }
    }
    let empty = |name: &str| {
        let nothing = Tensor::f_zeros([0], (Kind::Float, tch::Device::Cpu))?;
        Ok((name.to_owned(), nothing))
    };
    let marks = marks.into_iter().map(empty).collect::<Result<_>>()?;
    let text = Value::Object(settings).to_string();
    Ok((BTreeMap::from([(SETTINGS.to_owned(), text)]), marks))
}

//! A tuned model as one file.

use std::path::Path;

use tch::{Kind, Tensor};

use super::{Base, Exported, Merger, Target, Tuned, UNET_STEM, check_name};
use crate::error::{Error, Result};
use crate::models::lora::KohyaMetadata;
use crate::models::lora::keys::Blocks;
use crate::models::single_file;
use crate::models::weights::{self, Checkpoint};

/// Writes the whole model as one file, as web interfaces load it: the tuned U-Net with everything else of `base`. Floats are
/// stored as f16 where nothing else is asked for. `vae` stands in the place of the autoencoder of `base`. `metadata` goes into the header, as in [`super::export_lora`].
///
/// # Errors
/// As [`super::export_lora`]; a tokenizer that is not CLIP's, which such a file does not carry.
pub fn export_single_file(
    tuned: &Tuned,
    base: &Path,
    vae: Option<&Path>,
    target: &Target,
    metadata: &KohyaMetadata,
) -> Result<Exported> {
    check_name(&metadata.name)?;
    let base = Base::open(base, vae)?;
    let vae = base.vae()?;
    let kind = target.kind.unwrap_or(Kind::Half);
    let (source, unet, merger) = match tuned {
        Tuned::Lora(lora) => {
            let merger = Merger::open(&base, lora)?;
            let unet = &base.weights.unet;
            let merged = |name: &str| Ok((name.to_owned(), merger.unet(name, unet.tensor(name)?)?));
            let merged = unet.names().map(merged).collect::<Result<Vec<_>>>()?;
            (&lora.path, merged, Some(merger))
        }
        Tuned::UNet(unet) => (unet, base.replaced(unet)?, None),
    };
    let text = |part: &str, name: &str, tensor: Tensor| match &merger {
        Some(merger) => merger.text(part, name, tensor),
        None => Ok(tensor),
    };
    let metadata = base.described(metadata);
    let blocks = Blocks::collect(&base.weights.sites);
    let model = (base.folder.as_path(), &vae, base.family);
    let mut tensors = single_file::tensors(model, unet, &text, &blocks, kind)?;
    let (settings, marks) = single_file::header(model)?;
    tensors.extend(marks);
    let mut header = metadata.model_spec(base.family, "");
    header.extend(metadata.extra);
    header.extend(settings);
    header.insert("format".to_owned(), "pt".to_owned());
    let name = format!("{}.safetensors", metadata.name);
    target.fill(source, &base.folder, |folder| {
        let path = folder.join(&name);
        weights::save(&path, &tensors, &header)?;
        check_single_file(&path, &tensors)
    })?;
    Ok(Exported {
        files: vec![target.folder.join(name)],
        checked: tensors.len(),
        widened: Vec::new(),
    })
}

/// Reads a written file as any user would, and every tensor as it was meant.
fn check_single_file(path: &Path, meant: &[(String, Tensor)]) -> Result<()> {
    let written = Checkpoint::open_file(path)?;
    for (name, tensor) in meant {
        if written.tensor(name)? != *tensor {
            return Err(Error::tensor(
                path,
                name,
                "does not read back as it was written",
            ));
        }
    }
    for part in ["unet", "vae", "text_encoder"] {
        Checkpoint::open_component(&path.join(part), UNET_STEM, None)?;
    }
    Ok(())
}

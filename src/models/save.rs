//! Writes safetensors files. Equal content gives equal bytes, metadata included, so that a file's hash names what is
//! in it (the crate's own writer puts metadata in the order of a hash map).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Map, json};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::files::replace_file;

/// Readers map the file and want every tensor at an address that its numbers can have.
const ALIGNMENT: usize = 8;

/// Writes tensors and header metadata to `path`: beside it first, synced, then renamed over it.
///
/// Tensors lie in the order of falling element size, then of their names, so that all of them are aligned. They are
/// copied from their device one at a time: saving needs no second copy of a model.
///
/// # Errors
/// The folder is missing, the disk is full, or a tensor's type has no safetensors name. The old file stays.
pub fn save(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut ordered: Vec<&(String, Tensor)> = tensors.iter().collect();
    ordered.sort_by_key(|(name, tensor)| {
        let size = tensor.kind().elt_size_in_bytes();
        (std::cmp::Reverse(size), name)
    });
    let header = header(path, &ordered, metadata)?;
    let io = |source| Error::io("write", path, source);
    replace_file(path, |partial| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(partial).map_err(io)?);
        let length = (header.len() as u64).to_le_bytes();
        file.write_all(&length).map_err(io)?;
        file.write_all(&header).map_err(io)?;
        for (_, tensor) in ordered {
            file.write_all(&bytes(tensor)).map_err(io)?;
        }
        file.flush().map_err(io)
    })
}

/// The JSON header, padded with spaces.
fn header(
    path: &Path,
    tensors: &[&(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut end = 0;
    for (name, tensor) in tensors {
        let kind = tensor.kind();
        let dtype = dtype(kind)
            .ok_or_else(|| Error::tensor(path, name, format!("cannot be stored as {kind:?}")))?;
        let begin = end;
        end += tensor.numel() * kind.elt_size_in_bytes();
        let entry = json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [begin, end]});
        entries.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(header)
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

fn dtype(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Double => "F64",
        Kind::Float => "F32",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Int64 => "I64",
        Kind::Int => "I32",
        Kind::Int16 => "I16",
        Kind::Int8 => "I8",
        Kind::Uint8 => "U8",
        Kind::Bool => "BOOL",
        _ => return None,
    })
}

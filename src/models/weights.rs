//! Safetensors in and out: finding a component's files in a Hugging Face folder, reading tensors from a memory
//! map one at a time, and writing files atomically. Pickles are refused, never opened.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

pub use super::loader::Loader;
pub use super::save::save;
use crate::error::{Error, Result};

/// Bytes of a file that are hashed before their pages are dropped.
const HASHED_AT_ONCE: usize = 16 << 20;

/// Where a tensor comes from.
enum Place {
    /// Bytes of a mapped safetensors file.
    Mapped {
        file: usize,
        begin: usize,
        end: usize,
        dtype: Dtype,
    },
    /// Another format's reader.
    Read(ReadTensor),
}

/// Reads one tensor of another format, to the CPU.
pub type ReadTensor = Box<dyn Fn() -> Result<Tensor>>;

struct Entry {
    place: Place,
    shape: Vec<i64>,
}

/// One or several memory-mapped safetensors files, read as one set of named tensors.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Mmap>,
    entries: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
}

impl Checkpoint {
    /// Opens the weights of one component folder of a Hugging Face repository.
    ///
    /// `stem` is `diffusion_pytorch_model` or `model`. Taken in this order: the asked `variant` (`fp16`), the plain
    /// file, any other variant; each as a single file or as shards with their index.
    ///
    /// # Errors
    /// No safetensors file in the folder (with a hint where a pickle lies there), a missing shard, or a broken file.
    pub fn open_component(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::weights(folder, "no such folder"));
        }
        let mut candidates: Vec<String> = Vec::new();
        let variants = variant.into_iter().map(str::to_owned);
        for variant in variants
            .chain([String::new()])
            .chain(["fp16", "bf16", "non_ema", "ema"].map(str::to_owned))
        {
            let dotted = if variant.is_empty() {
                String::new()
            } else {
                format!(".{variant}")
            };
            candidates.push(format!("{stem}{dotted}.safetensors"));
            candidates.push(format!("{stem}.safetensors.index{dotted}.json"));
            candidates.push(format!("{stem}.safetensors{dotted}.index.json"));
        }
        for name in candidates {
            let path = folder.join(&name);
            if !path.exists() {
                continue;
            }
            return if path.extension().is_some_and(|suffix| suffix == "json") {
                Self::open_shards(&path)
            } else {
                Self::open_file(&path)
            };
        }
        let pickle = std::fs::read_dir(folder)
            .map_err(|source| Error::io("read", folder, source))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| is_pickle(path));
        Err(match pickle {
            Some(path) => pickle_refused(&path),
            None => Error::weights(
                folder,
                format!("no `{stem}.safetensors` in it, nor a variant or shards of it"),
            ),
        })
    }

    /// Opens a single safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::open_files(path, &[path.to_owned()])
    }

    /// The tensors of a file of another format, which are read by what comes with each name and shape.
    pub fn of_other_format(
        path: &Path,
        tensors: Vec<(String, Vec<i64>, ReadTensor)>,
    ) -> Result<Self> {
        let entry = |(name, shape, read)| {
            let place = Place::Read(read);
            (name, Entry { place, shape })
        };
        Ok(Self {
            path: path.to_owned(),
            files: vec![map_file(path)?.0],
            entries: tensors.into_iter().map(entry).collect(),
            metadata: HashMap::new(),
        })
    }

    fn open_shards(index: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text =
            std::fs::read_to_string(index).map_err(|source| Error::io("read", index, source))?;
        let parsed: Index = serde_json::from_str(&text)
            .map_err(|error| Error::weights(index, format!("not a shard index: {error}")))?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut shards: Vec<PathBuf> = parsed
            .weight_map
            .values()
            .map(|name| folder.join(name))
            .collect();
        shards.sort();
        shards.dedup();
        let checkpoint = Self::open_files(index, &shards)?;
        match parsed
            .weight_map
            .keys()
            .find(|name| !checkpoint.entries.contains_key(*name))
        {
            Some(name) => Err(Error::tensor(
                index,
                name,
                "listed in the index but in none of the shards",
            )),
            None => Ok(checkpoint),
        }
    }

    fn open_files(path: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            metadata: HashMap::new(),
        };
        for file in files {
            checkpoint.map(file)?;
        }
        Ok(checkpoint)
    }

    fn map(&mut self, path: &Path) -> Result<()> {
        if is_pickle(path) {
            return Err(pickle_refused(path));
        }
        let (map, length) = map_file(path)?;
        if length < 8 {
            return Err(Error::weights(
                path,
                format!("not a safetensors file: only {length} bytes"),
            ));
        }
        let (header_length, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            Error::weights(
                path,
                format!("not a readable safetensors file of {length} bytes: {error}"),
            )
            .with_hint("the file is damaged or its download was cut short; fetch it again")
        })?;
        let data_begin = header_length + 8;
        let file_index = self.files.len();
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                place: Place::Mapped {
                    file: file_index,
                    begin: data_begin + info.data_offsets.0,
                    end: data_begin + info.data_offsets.1,
                    dtype: info.dtype,
                },
                shape: info.shape.iter().map(|&size| size as i64).collect(),
            };
            self.entries.insert(name, entry);
        }
        if let Some(pairs) = metadata.metadata() {
            self.metadata.extend(pairs.clone());
        }
        self.files.push(map);
        Ok(())
    }

    /// One with nothing in it, named `path` in errors.
    pub(super) fn without_tensors(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            metadata: HashMap::new(),
        }
    }

    /// The file, or the index of the shards.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether a tensor of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Shape of a tensor, without reading it.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The text pairs of the header (`__metadata__`).
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Gives every tensor the name that `rename` makes of its old one; `None` drops it.
    pub fn rename(&mut self, rename: impl Fn(&str) -> Option<String>) {
        let old = std::mem::take(&mut self.entries);
        self.entries = old
            .into_iter()
            .filter_map(|(name, entry)| rename(&name).map(|name| (name, entry)))
            .collect();
    }

    /// Reads a tensor to the CPU in its stored type. The mapped pages are given back to the system afterwards.
    ///
    /// # Errors
    /// The tensor is missing, of a type that is not a floating or integer one, or holds NaN or infinity.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| Error::tensor(&self.path, name, "missing"))?;
        let tensor = match &entry.place {
            Place::Read(read) => read()?,
            &Place::Mapped {
                file,
                begin,
                end,
                dtype,
            } => {
                let kind = kind_of(dtype).ok_or_else(|| {
                    let message = format!("is stored as {dtype:?}, which is not supported");
                    Error::tensor(&self.path, name, message)
                })?;
                let bytes = &self.files[file][begin..end];
                let tensor = Tensor::f_from_data_size(bytes, &entry.shape, kind)?;
                self.forget_pages(file, begin..end);
                tensor
            }
        };
        if tensor.is_floating_point() && !all_finite(&tensor) {
            return Err(
                Error::tensor(&self.path, name, "holds NaN or infinite values").with_hint(
                    "the weights are damaged or come from a diverged run; take another file",
                ),
            );
        }
        Ok(tensor)
    }

    /// Drops what was read of a file from memory.
    fn forget_pages(&self, file: usize, bytes: Range<usize>) {
        // Only a memory saving: where the system refuses, nothing is lost.
        #[expect(
            unsafe_code,
            reason = "a read-only file map refills dropped pages from the file"
        )]
        // SAFETY: the map is read-only and backed by the file, so dropped pages are read again when touched.
        let _ = unsafe {
            self.files[file].unchecked_advise_range(
                UncheckedAdvice::DontNeed,
                bytes.start,
                bytes.len(),
            )
        };
    }

    /// SHA-256 over the files' bytes, as hexadecimal; names the exact weights in records and manifests.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (file, bytes) in self.files.iter().enumerate() {
            for (number, part) in bytes.chunks(HASHED_AT_ONCE).enumerate() {
                hash.update(part);
                let begin = number * HASHED_AT_ONCE;
                self.forget_pages(file, begin..begin + part.len());
            }
        }
        hex(&hash.finalize())
    }
}

/// A file as memory, with its length.
fn map_file(path: &Path) -> Result<(Mmap, u64)> {
    let file = File::open(path).map_err(|source| Error::io("read", path, source))?;
    let length = file
        .metadata()
        .map_err(|source| Error::io("read", path, source))?
        .len();
    #[expect(
        unsafe_code,
        reason = "a memory map keeps resident memory at the size of the loaded weights"
    )]
    // SAFETY: the map is read-only and private to its owner; a file changed underneath yields wrong numbers,
    // which the finiteness check reports, not undefined Rust values (bytes have no invalid patterns).
    let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io("map", path, source))?;
    Ok((map, length))
}

/// Whether a file name is one that holds a Python pickle.
fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| {
        ["bin", "ckpt", "pt", "pth", "pkl"]
            .iter()
            .any(|pickle| suffix == *pickle)
    })
}

fn pickle_refused(path: &Path) -> Error {
    Error::weights(
        path,
        "is a Python pickle, which can run code when it is read; preftune does not open it",
    )
    .with_hint(
        "take the safetensors file of the same model, or convert it once in Python with \
         `save_pretrained(folder, safe_serialization=True)`",
    )
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

fn all_finite(tensor: &Tensor) -> bool {
    // One pass without a temporary: NaN and infinity survive a sum. Only a sum that overflows is looked at again.
    tensor.sum(Kind::Float).double_value(&[]).is_finite()
        || tensor.isfinite().all().int64_value(&[]) == 1
}

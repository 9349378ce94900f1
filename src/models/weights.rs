//! Safetensors in and out: finding a component's files in a Hugging Face folder, reading tensors one at a time, and writing
//! files atomically. Pickles are refused, never opened.
//!
//! Files are read, not mapped: a file that is cut under a map ends the process without a word (SIGBUS), and reading is as
//! fast where every byte is copied into a tensor anyway.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

pub use super::loader::Loader;
use super::recognize::refuse_stand_in;
pub use super::save::save;
use crate::error::{Error, Result};
use crate::files::{is_plain_name, open, read_text};

/// Bytes of a file that are read at a time: they stay in the processor's cache until they are copied.
const AT_ONCE: usize = 1 << 20;
/// Largest header that is read, that of the format's own library.
const MOST_HEADER: u64 = 100_000_000;

/// Where a tensor comes from.
enum Place {
    /// Bytes of a safetensors file.
    Stored {
        file: usize,
        begin: u64,
        bytes: usize,
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

/// An open file.
struct Stored {
    path: PathBuf,
    file: File,
    length: u64,
}

/// One or several safetensors files, read as one set of named tensors.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Stored>,
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
            Some(path) => refuse_stand_in(&path)
                .err()
                .unwrap_or_else(|| pickle_refused(&path)),
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

    /// The tensors of `files` of another format, named `path` in errors, which are read by what comes with each name and
    /// shape.
    pub fn of_other_format(
        path: &Path,
        files: &[PathBuf],
        tensors: Vec<(String, Vec<i64>, ReadTensor)>,
    ) -> Result<Self> {
        let entry = |(name, shape, read)| {
            let place = Place::Read(read);
            (name, Entry { place, shape })
        };
        Ok(Self {
            path: path.to_owned(),
            files: files
                .iter()
                .map(|file| Stored::open(file))
                .collect::<Result<_>>()?,
            entries: tensors.into_iter().map(entry).collect(),
            metadata: HashMap::new(),
        })
    }

    fn open_shards(index: &Path) -> Result<Self> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = read_text(index)?;
        let parsed: Index = serde_json::from_str(&text)
            .map_err(|error| Error::weights(index, format!("not a shard index: {error}")))?;
        let folder = index.parent().unwrap_or(Path::new("."));
        if let Some((tensor, name)) = parsed
            .weight_map
            .iter()
            .find(|(_, name)| !is_plain_name(name))
        {
            let message =
                format!("is said to be in `{name}`, which is no name of a file beside it");
            return Err(Error::tensor(index, tensor, message));
        }
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
            checkpoint.take(file)?;
        }
        Ok(checkpoint)
    }

    fn take(&mut self, path: &Path) -> Result<()> {
        if is_pickle(path) {
            refuse_stand_in(path)?;
            return Err(pickle_refused(path));
        }
        let stored = Stored::open(path)?;
        let length = stored.length;
        refuse_stand_in(path)?;
        if length < 8 {
            return Err(Error::weights(
                path,
                format!("not a safetensors file: only {length} bytes"),
            ));
        }
        let (data_begin, metadata) = stored.header()?;
        let file_index = self.files.len();
        for (name, info) in metadata.tensors() {
            let entry = Entry {
                place: Place::Stored {
                    file: file_index,
                    begin: data_begin + info.data_offsets.0 as u64,
                    bytes: info.data_offsets.1 - info.data_offsets.0,
                    dtype: info.dtype,
                },
                shape: info.shape.iter().map(|&size| size as i64).collect(),
            };
            self.entries.insert(name, entry);
        }
        if let Some(pairs) = metadata.metadata() {
            self.metadata.extend(pairs.clone());
        }
        self.files.push(stored);
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

    /// `true` if a tensor of this name is there.
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

    /// Reads a tensor to the CPU in its stored type.
    ///
    /// # Errors
    /// The tensor is missing, of a type that is not a floating or integer one, or holds NaN or infinity; the file has
    /// become shorter.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| Error::tensor(&self.path, name, "missing"))?;
        let tensor = match &entry.place {
            Place::Read(read) => read()?,
            &Place::Stored {
                file,
                begin,
                bytes,
                dtype,
            } => {
                let kind = kind_of(dtype).ok_or_else(|| {
                    let message = format!("is stored as {dtype:?}, which is not supported");
                    Error::tensor(&self.path, name, message)
                })?;
                self.files[file].tensor(begin, bytes, &entry.shape, kind)?
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

    /// SHA-256 over the files' bytes, as hexadecimal; names the exact weights in records and manifests.
    ///
    /// # Errors
    /// A file cannot be read, or has become shorter.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for file in &self.files {
            file.each_part(0, file.length, |_, part| {
                hash.update(part);
                Ok(())
            })?;
        }
        Ok(hex(&hash.finalize()))
    }
}

impl Stored {
    fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let length = file
            .metadata()
            .map_err(|source| Error::io("read", path, source))?
            .len();
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
        })
    }

    /// Where the data begin, and what the header says of them, checked against the file's length.
    fn header(&self) -> Result<(u64, Metadata)> {
        let damaged = |problem: &str| {
            let message = format!(
                "not a readable safetensors file of {} bytes: {problem}",
                self.length
            );
            Error::weights(&self.path, message)
                .with_hint("the file is damaged or its download was cut short; fetch it again")
        };
        let mut length = [0; 8];
        self.read(&mut length, 0)?;
        let length = u64::from_le_bytes(length);
        if length > MOST_HEADER {
            return Err(damaged("header too large"));
        }
        let begin = 8 + length;
        if begin > self.length {
            return Err(damaged("invalid header length"));
        }
        let mut header = vec![0; length as usize];
        self.read(&mut header, 8)?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(&format!("invalid header: {error}")))?;
        if begin.checked_add(metadata.data_len() as u64) != Some(self.length) {
            return Err(damaged("incomplete metadata, file not fully covered"));
        }
        Ok((begin, metadata))
    }

    fn tensor(&self, begin: u64, bytes: usize, shape: &[i64], kind: Kind) -> Result<Tensor> {
        if bytes <= AT_ONCE {
            let mut whole = vec![0; bytes];
            self.read(&mut whole, begin)?;
            return Ok(Tensor::f_from_data_size(&whole, shape, kind)?);
        }
        let width = kind.elt_size_in_bytes();
        let tensor = Tensor::f_empty([(bytes / width) as i64], (kind, Device::Cpu))?;
        self.each_part(begin, bytes as u64, |at, part| {
            let count = (part.len() / width) as i64;
            let part = Tensor::f_from_data_size(part, &[count], kind)?;
            let mut place = tensor.f_narrow(0, at as i64 / width as i64, count)?;
            Ok(place.f_copy_(&part)?)
        })?;
        Ok(tensor.f_view(shape)?)
    }

    /// Hands out `length` bytes from `begin` on in parts, each with its place after `begin`.
    fn each_part(
        &self,
        begin: u64,
        length: u64,
        mut take: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; AT_ONCE.min(length as usize)];
        let mut at = 0;
        while at < length {
            let count = (buffer.len() as u64).min(length - at) as usize;
            self.read(&mut buffer[..count], begin + at)?;
            take(at, &buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let message = "has become shorter since it was opened: something writes to it";
                Error::failed(&self.path, message).with_hint(
                    "begin again when the file is complete; a run goes on with `--resume`",
                )
            } else {
                Error::io("read", &self.path, source)
            }
        })
    }
}

/// `true` if a file name is one that holds a Python pickle.
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

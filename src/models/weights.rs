//! Weights in and out: finding a component's files in a Hugging Face folder, reading tensors one at a time, and writing
//! safetensors atomically. PyTorch's own files are read too, without running what they hold: see `pickle`.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

pub use super::loader::Loader;
use super::pickle::{self, is_pickle};
use super::reading::tell;
use super::recognize::refuse_stand_in;
pub use super::save::save;
use super::single_file;
use super::stored::{Cut, Place, Stored};
use crate::error::{Error, Result};
use crate::files::{is_plain_name, read_text};

/// Largest header that is read, that of the format's own library.
const MOST_HEADER: u64 = 100_000_000;

/// Where a tensor comes from.
enum Source {
    /// A file, by its number.
    Stored(usize, Place),
    /// Another format's reader, and about how many bytes it reads.
    Read(ReadTensor, u64),
}

/// Reads one tensor of another format, to the CPU.
pub type ReadTensor = Box<dyn Fn() -> Result<Tensor>>;

struct Entry {
    source: Source,
    shape: Vec<i64>,
}

impl Entry {
    /// Bytes in the file.
    fn bytes(&self) -> u64 {
        match &self.source {
            Source::Read(_, bytes) => *bytes,
            Source::Stored(_, place) => {
                let width = place
                    .kind
                    .as_ref()
                    .map_or(0, |kind| kind.elt_size_in_bytes());
                (place.span * width) as u64
            }
        }
    }
}

/// One or several files of weights, read as one set of named tensors.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Stored>,
    entries: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
    /// Bytes that are read, and those of all tensors, once one is.
    read: Cell<u64>,
    total: OnceCell<u64>,
}

impl Checkpoint {
    /// Opens the weights of one component folder of a Hugging Face repository, or of that part of a model in one file.
    ///
    /// `stem` is `diffusion_pytorch_model` or `model`. Taken in this order: the asked `variant` (`fp16`), the plain
    /// file, any other variant; each as a single file or as shards with their index; safetensors before PyTorch's own
    /// (`diffusion_pytorch_model.bin`, `pytorch_model.bin`).
    ///
    /// # Errors
    /// No such file in the folder, a missing shard, or a broken file.
    pub fn open_component(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Self> {
        if let Some(part) = single_file::component(folder)? {
            return Ok(part);
        }
        if !folder.is_dir() {
            return Err(Error::weights(folder, "no such folder"));
        }
        let pickle_stem = if stem == "model" {
            "pytorch_model"
        } else {
            stem
        };
        let names = names(stem, "safetensors", variant).into_iter().chain(names(
            pickle_stem,
            "bin",
            variant,
        ));
        for name in names {
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
        let message = format!(
            "no `{stem}.safetensors` or `{pickle_stem}.bin` in it, nor a variant or shards of them"
        );
        Err(Error::weights(folder, message))
    }

    /// Opens a single file: safetensors, or a state dict as PyTorch saves it. Its content decides, not its name.
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
        let files: Vec<Stored> = files
            .iter()
            .map(|file| Stored::open(file))
            .collect::<Result<_>>()?;
        let numbers = |shape: &[i64]| shape.iter().product::<i64>() as f64;
        let all: f64 = tensors.iter().map(|(_, shape, _)| numbers(shape)).sum();
        let bytes = files.iter().map(|file| file.length).sum::<u64>() as f64;
        let entry = |(name, shape, read): (String, Vec<i64>, ReadTensor)| {
            let share = numbers(&shape) / all.max(1.0);
            let source = Source::Read(read, (share * bytes) as u64);
            (name, Entry { source, shape })
        };
        let mut checkpoint = Self::without_tensors(path);
        checkpoint.files = files;
        checkpoint.entries = tensors.into_iter().map(entry).collect();
        Ok(checkpoint)
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
        let mut checkpoint = Self::without_tensors(path);
        for file in files {
            checkpoint.take(file)?;
        }
        Ok(checkpoint)
    }

    fn take(&mut self, path: &Path) -> Result<()> {
        let stored = Stored::open(path)?;
        let length = stored.length;
        refuse_stand_in(path)?;
        let mut head = vec![0; length.min(16) as usize];
        stored.read(&mut head, 0)?;
        if is_pickle(&head) {
            self.take_all(pickle::open(&stored)?);
        } else if length < 8 {
            return Err(Error::weights(
                path,
                format!("not a safetensors file: only {length} bytes"),
            ));
        } else {
            let (data_begin, metadata) = header(&stored)?;
            let found = metadata.tensors().into_iter().map(|(name, info)| {
                let shape = info.shape.iter().map(|&size| size as i64).collect();
                (name, shape, place(data_begin, info))
            });
            self.take_all(found.collect());
            if let Some(pairs) = metadata.metadata() {
                self.metadata.extend(pairs.clone());
            }
        }
        self.files.push(stored);
        Ok(())
    }

    /// Takes the tensors of the file that comes next.
    fn take_all(&mut self, found: Vec<pickle::Found>) {
        let file = self.files.len();
        let entry = |(name, shape, place)| {
            let source = Source::Stored(file, place);
            (name, Entry { source, shape })
        };
        self.entries.extend(found.into_iter().map(entry));
    }

    /// One with nothing in it, named `path` in errors.
    pub(super) fn without_tensors(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            metadata: HashMap::new(),
            read: Cell::new(0),
            total: OnceCell::new(),
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

    /// Puts tensors under the names, and in the forms, that `cut` gives for a name and a shape; none drops one.
    ///
    /// # Errors
    /// A tensor does not have the form that is cut from it.
    pub(super) fn regroup(
        &mut self,
        cut: impl Fn(&str, &[i64]) -> Vec<(String, Cut)>,
    ) -> Result<()> {
        for (name, entry) in std::mem::take(&mut self.entries) {
            let cuts = cut(&name, &entry.shape);
            let Source::Stored(file, place) = &entry.source else {
                continue;
            };
            for (new, cut) in cuts {
                let (place, shape) = place.cut(&entry.shape, cut).ok_or_else(|| {
                    let message =
                        format!("has shape {:?}, which is not that of its name", entry.shape);
                    Error::tensor(&self.path, &name, message)
                })?;
                let source = Source::Stored(*file, place);
                self.entries.insert(new, Entry { source, shape });
            }
        }
        Ok(())
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
        let tensor = match &entry.source {
            Source::Read(read, _) => read()?,
            Source::Stored(file, place) => self.files[*file].tensor(name, place, &entry.shape)?,
        };
        self.read.set(self.read.get() + entry.bytes());
        tell(&self.path, self.read.get(), self.total());
        if tensor.is_floating_point() && !all_finite(&tensor) {
            return Err(
                Error::tensor(&self.path, name, "holds NaN or infinite values").with_hint(
                    "the weights are damaged or come from a diverged run; take another file",
                ),
            );
        }
        Ok(tensor)
    }

    /// Bytes of all tensors.
    fn total(&self) -> u64 {
        let total = || self.entries.values().map(Entry::bytes).sum();
        *self.total.get_or_init(total)
    }

    /// SHA-256 over the files' bytes, as hexadecimal; names the exact weights in records and manifests.
    ///
    /// # Errors
    /// A file cannot be read, or has become shorter.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        let total = self.files.iter().map(|file| file.length).sum();
        let mut read = 0;
        for file in &self.files {
            file.each_part(0, file.length, |_, part| {
                hash.update(part);
                read += part.len() as u64;
                tell(&self.path, read, total);
                Ok(())
            })?;
        }
        Ok(hex(&hash.finalize()))
    }
}

impl Drop for Checkpoint {
    /// Whoever has read all that they need is done, be it not all that is there.
    fn drop(&mut self) {
        if self.read.get() > 0 {
            tell(&self.path, self.total(), self.total());
        }
    }
}

/// Names of a component's weights, the asked variant first.
fn names(stem: &str, ending: &str, variant: Option<&str>) -> Vec<String> {
    let variants = variant
        .into_iter()
        .chain(["", "fp16", "bf16", "non_ema", "ema"]);
    let of_variant = |variant: &str| {
        let dotted = if variant.is_empty() {
            String::new()
        } else {
            format!(".{variant}")
        };
        [
            format!("{stem}{dotted}.{ending}"),
            format!("{stem}.{ending}.index{dotted}.json"),
            format!("{stem}.{ending}{dotted}.index.json"),
            format!("{stem}{dotted}.{ending}.index.json"),
        ]
    };
    variants.flat_map(of_variant).collect()
}

/// Bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Where the data begin, and what the header says of them, checked against the file's length.
fn header(file: &Stored) -> Result<(u64, Metadata)> {
    let damaged = |problem: &str| {
        let message = format!(
            "not a readable safetensors file of {} bytes: {problem}",
            file.length
        );
        Error::weights(&file.path, message)
            .with_hint("the file is damaged or its download was cut short; fetch it again")
    };
    let mut length = [0; 8];
    file.read(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER {
        return Err(damaged("header too large"));
    }
    let begin = 8 + length;
    if begin > file.length {
        return Err(damaged("invalid header length"));
    }
    let mut header = vec![0; length as usize];
    file.read(&mut header, 8)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|error| damaged(&format!("invalid header: {error}")))?;
    if begin.checked_add(metadata.data_len() as u64) != Some(file.length) {
        return Err(damaged("incomplete metadata, file not fully covered"));
    }
    Ok((begin, metadata))
}

fn place(data_begin: u64, info: &TensorInfo) -> Place {
    let kind = kind_of(info.dtype).ok_or_else(|| format!("{:?}", info.dtype));
    let bytes = info.data_offsets.1 - info.data_offsets.0;
    Place {
        begin: data_begin + info.data_offsets.0 as u64,
        span: kind
            .as_ref()
            .map_or(0, |kind| bytes / kind.elt_size_in_bytes()),
        kind,
        strides: None,
        record: None,
    }
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

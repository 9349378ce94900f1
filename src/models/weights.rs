//! Safetensors in and out: finding a component's files in a Hugging Face folder, reading tensors from a memory
//! map one at a time, and writing files atomically. Pickles are refused, never opened.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use memmap2::{Mmap, UncheckedAdvice};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::layers::{Adaptable, Adapters};
pub use super::save::save;
use crate::error::{Error, Result};
use crate::ops::random::{derive_seed, rand, randn};

<<<<<<< HEAD
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

=======
/// Bytes of a file that are hashed before their pages are dropped.
const HASHED_AT_ONCE: usize = 16 << 20;

/// Where a tensor's bytes lie.
>>>>>>> speed2
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
<<<<<<< HEAD
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
                self.forget_pages(file, begin, end);
                tensor
            }
        };
=======
        let kind = kind_of(entry.dtype).ok_or_else(|| {
            Error::tensor(
                &self.path,
                name,
                format!("is stored as {:?}, which is not supported", entry.dtype),
            )
        })?;
        let bytes = &self.files[entry.file][entry.begin..entry.end];
        let tensor = Tensor::f_from_data_size(bytes, &entry.shape, kind)?;
        self.forget_pages(entry.file, entry.begin..entry.end);
>>>>>>> speed2
        if tensor.is_floating_point() && !all_finite(&tensor) {
            return Err(
                Error::tensor(&self.path, name, "holds NaN or infinite values").with_hint(
                    "the weights are damaged or come from a diverged run; take another file",
                ),
            );
        }
        Ok(tensor)
    }

<<<<<<< HEAD
    fn forget_pages(&self, file: usize, begin: usize, end: usize) {
=======
    /// Drops what was read of a file from memory.
    fn forget_pages(&self, file: usize, bytes: Range<usize>) {
>>>>>>> speed2
        // Only a memory saving: where the system refuses, nothing is lost.
        #[expect(
            unsafe_code,
            reason = "a read-only file map refills dropped pages from the file"
        )]
        // SAFETY: the map is read-only and backed by the file, so dropped pages are read again when touched.
        let _ = unsafe {
<<<<<<< HEAD
            let file = &self.files[file];
            file.unchecked_advise_range(UncheckedAdvice::DontNeed, begin, end - begin)
=======
            self.files[file].unchecked_advise_range(
                UncheckedAdvice::DontNeed,
                bytes.start,
                bytes.len(),
            )
>>>>>>> speed2
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

struct LoaderState {
    checkpoint: Checkpoint,
    fresh: Option<Fresh>,
    device: Device,
    kind: Kind,
    parameters: RefCell<Vec<(String, Tensor)>>,
    adapters: RefCell<Adapters>,
}

/// What a loader without a checkpoint makes tensors from.
struct Fresh {
    seed: u64,
    absent: &'static [&'static str],
}

/// The tensor `name` at the start of training, on the CPU: scales and variances 1, biases, means and other vectors 0,
/// embeddings normal with deviation 0.02, the rest uniform within `1 / sqrt(fan-in)` as torch's layers have it. The
/// two contrastive temperatures start at 0.07, as in CLIP (Radford et al. 2021, arXiv 2103.00020, section 2.5).
fn initial(name: &str, shape: &[i64], seed: u64) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let seed = derive_seed(seed, name, &[]);
    let last = name.rsplit('.').next().unwrap_or_default();
    match last {
        "temperature" => Tensor::full(shape, 0.07, options),
        "logit_scale" => Tensor::full(shape, -(0.07f64.ln()), options),
        _ if name.contains("embedding") && (shape.len() == 2 || last == "class_embedding") => {
            randn(seed, shape, Device::Cpu) * 0.02
        }
        // Language models have other names for them.
        _ if ["embed_tokens", "wte", "wpe"]
            .iter()
            .any(|part| name.contains(part)) =>
        {
            randn(seed, shape, Device::Cpu) * 0.02
        }
        _ if shape.len() >= 2 => {
            let fan_in: i64 = shape[1..].iter().product();
            (rand(seed, shape, Device::Cpu) * 2.0 - 1.0) / (fan_in as f64).sqrt()
        }
        "weight" | "running_var" => Tensor::ones(shape, options),
        _ => Tensor::zeros(shape, options),
    }
}

/// A place in a checkpoint from which layers take their tensors, with the device and type they get.
///
/// It remembers what was taken: [`Loader::parameters`] lists every tensor under its checkpoint name and
/// [`Loader::adapters`] every layer that can carry a LoRA, so that models need no traversal code.
#[derive(Clone)]
pub struct Loader {
    state: Rc<LoaderState>,
    prefix: String,
}

impl Loader {
    /// A loader at the root of `checkpoint`; tensors are converted to `kind` on `device`.
    pub fn new(checkpoint: Checkpoint, device: Device, kind: Kind) -> Self {
        Self::at_root(checkpoint, None, device, kind)
    }

    /// A loader that makes every tensor it is asked for, as training from scratch begins with it: f32, drawn from
    /// `seed` and the tensor's name. `config` is named in errors; `absent` are names that [`Self::contains`] denies.
    pub fn fresh(
        config: &Path,
        absent: &'static [&'static str],
        seed: u64,
        device: Device,
    ) -> Self {
        let nothing = Checkpoint {
            path: config.to_owned(),
            files: Vec::new(),
            entries: BTreeMap::new(),
            metadata: HashMap::new(),
        };
        Self::at_root(nothing, Some(Fresh { seed, absent }), device, Kind::Float)
    }

    fn at_root(checkpoint: Checkpoint, fresh: Option<Fresh>, device: Device, kind: Kind) -> Self {
        let state = LoaderState {
            checkpoint,
            fresh,
            device,
            kind,
            parameters: RefCell::default(),
            adapters: RefCell::default(),
        };
        Self {
            state: Rc::new(state),
            prefix: String::new(),
        }
    }

    /// The loader one level down ("push prefix"): names below are `name.` + theirs.
    #[must_use]
    pub fn pp(&self, name: impl Display) -> Self {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Self {
            state: Rc::clone(&self.state),
            prefix,
        }
    }

    /// The full name of `name` here.
    pub fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    /// Whether the checkpoint has `name` here.
    pub fn contains(&self, name: &str) -> bool {
        let name = self.full_name(name);
        match &self.state.fresh {
            Some(fresh) => !fresh.absent.contains(&name.as_str()),
            None => self.state.checkpoint.contains(&name),
        }
    }

    /// Takes the tensor `name`, which must hold as many values as `shape`; it is returned in that shape.
    ///
    /// Sizes of 1 may differ (a 1x1 convolution stored as a matrix, and the reverse).
    ///
    /// # Errors
    /// Missing, of another shape, or not finite; the error names file, tensor and both shapes.
    pub fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let name = self.full_name(name);
        let tensor = match &self.state.fresh {
            Some(fresh) => initial(&name, shape, fresh.seed).to_device(self.state.device),
            None => self.stored(&name, shape)?,
        };
        self.state
            .parameters
            .borrow_mut()
            .push((name, tensor.shallow_clone()));
        Ok(tensor)
    }

    fn stored(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let checkpoint = &self.state.checkpoint;
        let stored = checkpoint
            .shape(name)
            .ok_or_else(|| Error::tensor(checkpoint.path(), name, "missing"))?;
        let without_ones = |shape: &[i64]| {
            shape
                .iter()
                .copied()
                .filter(|&size| size != 1)
                .collect::<Vec<_>>()
        };
        if without_ones(stored) != without_ones(shape) {
            let message = format!("has shape {stored:?}, but the configuration asks for {shape:?}");
            return Err(Error::tensor(checkpoint.path(), name, message));
        }
        Ok(checkpoint
            .tensor(name)?
            .to_device(self.state.device)
            .to_kind(self.state.kind)
            .reshape(shape))
    }

    /// Announces a layer at this prefix that can carry a LoRA.
    pub fn register(&self, layer: &Rc<Adaptable>) {
        self.state
            .adapters
            .borrow_mut()
            .insert(self.prefix.clone(), Rc::clone(layer));
    }

    /// Every tensor taken so far, under its checkpoint name, in the order of taking.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.state
            .parameters
            .borrow()
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect()
    }

    /// Names of the tensors that nothing has taken, sorted.
    pub fn unused(&self) -> Vec<String> {
        let parameters = self.state.parameters.borrow();
        let taken: BTreeSet<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
        let names = self.state.checkpoint.names();
        names
            .filter(|name| !taken.contains(name))
            .map(str::to_owned)
            .collect()
    }

    /// Called when a model is complete: a tensor that nothing took means that the configuration describes
    /// another model than the weights.
    ///
    /// # Errors
    /// Names the first unused tensor and their number.
    pub fn refuse_unused(&self) -> Result<()> {
        let unused = self.unused();
        let Some(first) = unused.first() else {
            return Ok(());
        };
        let message = format!(
            "the configuration has no place for it ({} such tensors)",
            unused.len()
        );
        Err(Error::tensor(self.state.checkpoint.path(), first, message)
            .with_hint("config.json and the weights belong to different models"))
    }

    /// Every layer registered so far.
    pub fn adapters(&self) -> Adapters {
        self.state.adapters.borrow().clone()
    }

    /// The checkpoint that is read.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.state.checkpoint
    }

    /// Device of the tensors.
    pub fn device(&self) -> Device {
        self.state.device
    }
}

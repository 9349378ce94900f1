//! The place from which layers take their weights: out of a checkpoint, or new ones to train from scratch.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use super::layers::{Adaptable, Adapters};
use super::weights::Checkpoint;
use crate::error::{Error, Result};
use crate::ops::random::{derive_seed, rand, randn};
use crate::ops::transfer::upload;

struct LoaderState {
    checkpoint: Checkpoint,
    fresh: Option<Fresh>,
    device: Device,
    kind: Kind,
    parameters: RefCell<Vec<(String, Tensor)>>,
    adapters: RefCell<Adapters>,
}

/// The settings by which a loader without a checkpoint makes tensors.
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
        let nothing = Checkpoint::without_tensors(config);
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

    /// `true` if the checkpoint has `name` here.
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
            Some(fresh) => upload(&initial(&name, shape, fresh.seed), self.state.device),
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
        Ok(upload(&checkpoint.tensor(name)?, self.state.device)
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

//! LoRA on a model's layers (Hu et al. 2021, arXiv 2106.09685): attaching new adapters, taking them from a file,
//! switching them off, merging them. Files are in [`read`], [`peft`], [`adapter`] and [`kohya`], names in [`keys`];
//! adapters of other kinds, which are only laid over a model, in [`overlay`].

pub mod adapter;
pub mod base;
mod changes;
pub mod keys;
pub mod kohya;
pub mod overlay;
pub mod peft;
pub mod read;
mod settings;
pub mod sites;
mod store;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor, no_grad};

use super::layers::{Adaptable, Adapters, Lora};
use crate::error::{Error, Result};
use crate::ops::random;
pub use base::PipelineWeights;
pub use kohya::{Family, KohyaMetadata};
pub use overlay::Overlay;
pub use sites::{Site, Sites, Targets};

/// Size, strength, place and start of a new LoRA.
#[derive(Clone, Debug)]
pub struct LoraConfig {
    /// Inner dimension, at least 1.
    pub rank: i64,
    /// Strength: the update is multiplied by `alpha / rank`; above 0.
    pub alpha: f64,
    /// The layers that get one.
    pub targets: Targets,
    /// How A is drawn; B starts at 0, so that the model starts as its base.
    pub init: LoraInit,
}

/// Distribution of A at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoraInit {
    /// Uniform in `±1/sqrt(fan in)`: the default of PEFT and kohya (Kaiming uniform with `a = sqrt 5`).
    #[default]
    KaimingUniform,
    /// Normal with deviation `1/rank`: what the diffusers training scripts ask of PEFT.
    Gaussian,
}

/// A LoRA apart from any model: its matrices by module path, and the places where the model could carry one.
pub struct LoraWeights {
    /// The adapted modules. Tensors may be of any floating type; `down` and `up` have the form of their site.
    pub modules: BTreeMap<String, Lora>,
    /// All places of the model, adapted or not; the names of some file formats follow from them.
    pub sites: Rc<Sites>,
}

/// A LoRA attached to the layers of a model.
pub struct LoraSet {
    layers: BTreeMap<String, Rc<Adaptable>>,
    /// Layers of text encoders, which are neither trained nor switched off.
    frozen: BTreeMap<String, Rc<Adaptable>>,
    sites: Rc<Sites>,
    enabled: Rc<Cell<bool>>,
}

/// While it lives, a set is switched off.
pub struct Off<'a>(&'a LoraSet);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        self.0.enabled.set(true);
    }
}

impl LoraSet {
    /// Attaches a new trainable LoRA of type `kind` to the target layers among `adapters`.
    ///
    /// Each A comes from its own seed, made of `seed` and the module path, so that it does not depend on which
    /// other layers are adapted.
    ///
    /// # Errors
    /// A rank or alpha out of range, a target that matches no layer (the hint names near ones), or a layer that
    /// carries a LoRA already.
    pub fn attach(
        adapters: &Adapters,
        config: &LoraConfig,
        seed: u64,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        if config.rank < 1 {
            return Err(Error::config(format!(
                "LoRA rank is {}, but must be at least 1",
                config.rank
            )));
        }
        if !(config.alpha.is_finite() && config.alpha > 0.0) {
            return Err(Error::config(format!(
                "LoRA alpha is {}, but must be above 0",
                config.alpha
            )));
        }
        let sites = sites::of_layers(adapters);
        let mut modules = BTreeMap::new();
        for name in config.targets.choose(&sites)? {
            let site = &sites[&name];
            let lora = Lora {
                down: initial_down(config, site, seed, &name, device).to_kind(kind),
                up: Tensor::zeros(site.up_shape(config.rank), (kind, device)),
                scale: config.alpha / config.rank as f64,
            };
            modules.insert(name, lora);
        }
        let set = Self::from_modules(adapters, Rc::new(sites), modules)?;
        set.set_trainable(true);
        Ok(set)
    }

    /// Attaches the LoRA of a file, in any spelling that [`read::read`] knows, as frozen f32 tensors on the layers'
    /// device. Of a pipeline's `adapters` those of text encoders are found too.
    ///
    /// # Errors
    /// See [`read::read_on`]; also a layer that carries a LoRA already.
    pub fn load(adapters: &Adapters, path: &Path) -> Result<Self> {
        let weight = |module: &str| Ok(adapters[module].weight.shallow_clone());
        let read = read::read_on(path, Rc::new(sites::of_layers(adapters)), &weight)?;
        let modules = read.modules.into_iter().map(|(name, lora)| {
            let device = adapters[&name].weight.device();
            let place = |tensor: Tensor| tensor.detach().to_device(device).to_kind(Kind::Float);
            let lora = Lora {
                down: place(lora.down),
                up: place(lora.up),
                scale: lora.scale,
            };
            (name, lora)
        });
        Self::from_modules(adapters, read.sites, modules.collect())
    }

    fn from_modules(
        adapters: &Adapters,
        sites: Rc<Sites>,
        modules: BTreeMap<String, Lora>,
    ) -> Result<Self> {
        if let Some(name) = modules
            .keys()
            .find(|name| adapters[*name].lora.borrow().is_some())
        {
            let problem = format!("layer `{name}` carries a LoRA already");
            return Err(
                Error::config(problem).with_hint("merge the first LoRA before adding a second")
            );
        }
        let enabled = Rc::new(Cell::new(true));
        let mut layers = BTreeMap::new();
        for (name, lora) in modules {
            let layer = Rc::clone(&adapters[&name]);
            layer.lora.replace(Some(lora));
            layer.enabled.replace(Rc::clone(&enabled));
            layers.insert(name, layer);
        }
        Ok(Self {
            layers,
            frozen: BTreeMap::new(),
            sites,
            enabled,
        })
    }

    /// Attaches the LoRA of a file that training goes on from, as f32 tensors on the layers' device: the U-Net's matrices to
    /// be trained, those of text encoders frozen. `adapters` are those of a whole pipeline.
    ///
    /// # Errors
    /// As [`Self::load`]; the file adapts nothing of the U-Net.
    pub fn start(adapters: &Adapters, path: &Path) -> Result<Self> {
        let mut set = Self::load(adapters, path)?;
        let is_text = |(name, _): &(String, _)| keys::in_text_encoder(name).is_some();
        (set.frozen, set.layers) = set.layers.into_iter().partition(is_text);
        if set.layers.is_empty() {
            let message = "adapts no layer of the U-Net: there is nothing to go on from";
            return Err(Error::weights(path, message));
        }
        for layer in set.frozen.values() {
            layer.enabled.replace(Rc::new(Cell::new(true)));
        }
        set.set_trainable(true);
        Ok(set)
    }

    /// How many modules are trained, and how many of text encoders are not.
    pub fn counts(&self) -> (usize, usize) {
        (self.layers.len(), self.frozen.len())
    }

    /// A and B of every adapted layer under their PEFT names (`MODULE.lora_A.weight`, `MODULE.lora_B.weight`),
    /// sorted; the tensors share their memory with the layers.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = Vec::with_capacity(2 * self.layers.len());
        for (name, lora) in matrices(self.layers.iter()) {
            parameters.push((format!("{name}.lora_A.weight"), lora.down));
            parameters.push((format!("{name}.lora_B.weight"), lora.up));
        }
        parameters
    }

    /// Switches gradients of A and B on or off.
    pub fn set_trainable(&self, trainable: bool) {
        for (_, tensor) in self.parameters() {
            let _ = tensor.set_requires_grad(trainable);
        }
    }

    /// Switched off, the model computes what its base does.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.set(enabled);
    }

    /// Switches it off until the guard is dropped, also by a panic.
    pub fn off(&self) -> Off<'_> {
        self.enabled.set(false);
        Off(self)
    }

    /// The matrices as they are now, for writing; they share their memory with the layers.
    pub fn weights(&self) -> LoraWeights {
        LoraWeights {
            modules: matrices(self.layers.iter().chain(&self.frozen)),
            sites: Rc::clone(&self.sites),
        }
    }

    /// Writes the diffusers form, see [`LoraWeights::save_peft`].
    pub fn save_peft(
        &self,
        path: &Path,
        prefix: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        self.weights().save_peft(path, prefix, metadata)
    }

    /// Writes the form of the web interfaces, see [`LoraWeights::save_kohya`].
    pub fn save_kohya(
        &self,
        path: &Path,
        family: Family,
        kind: Kind,
        metadata: &KohyaMetadata,
    ) -> Result<Vec<String>> {
        self.weights().save_kohya(path, family, kind, metadata)
    }

    /// Adds the update to the layers' weights, in place, and takes the adapters off: the model computes the same
    /// with fewer operations.
    pub fn merge(self) {
        for layer in self.layers.values().chain(self.frozen.values()) {
            if let Some(lora) = layer.lora.take() {
                let mut weight = layer.weight.shallow_clone();
                let update = lora.update(&weight.size());
                no_grad(|| weight.copy_(&(weight.to_kind(Kind::Float) + update)));
            }
        }
    }
}

impl Lora {
    /// `scale * up @ down` in f32, in the shape of the layer's weight: `[out, in]` or `[out, in, k, k]`.
    pub fn update(&self, shape: &[i64]) -> Tensor {
        let matrix = |tensor: &Tensor| tensor.detach().to_kind(Kind::Float).flatten(1, -1);
        let update = matrix(&self.up).matmul(&matrix(&self.down)); // [out, in * k * k]
        (update * self.scale).reshape(shape)
    }
}

/// The matrices that layers carry; they share their memory with the layers.
fn matrices<'a>(
    layers: impl Iterator<Item = (&'a String, &'a Rc<Adaptable>)>,
) -> BTreeMap<String, Lora> {
    let lora = |(name, layer): (&String, &Rc<Adaptable>)| {
        let lora = layer.lora.borrow();
        let Lora { down, up, scale } = lora.as_ref()?;
        let lora = Lora {
            down: down.shallow_clone(),
            up: up.shallow_clone(),
            scale: *scale,
        };
        Some((name.clone(), lora))
    };
    layers.filter_map(lora).collect()
}

fn initial_down(
    config: &LoraConfig,
    site: &Site,
    seed: u64,
    module: &str,
    device: Device,
) -> Tensor {
    let seed = random::derive_seed(seed, &format!("lora {module}"), &[]);
    let shape = site.down_shape(config.rank);
    match config.init {
        LoraInit::KaimingUniform => {
            let fan_in: i64 = shape[1..].iter().product();
            (random::rand(seed, &shape, device) * 2.0 - 1.0) / (fan_in as f64).sqrt()
        }
        LoraInit::Gaussian => random::randn(seed, &shape, device) / config.rank as f64,
    }
}

//! Heads on embeddings that a frozen model has computed: scalar rewards and ratings, embeddings of general preferences,
//! ideal points of users. A head is a folder with `config.json` and `model.safetensors`.

pub mod general_preference;
pub mod ideal_point;
mod mlp;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

pub use self::general_preference::{Gate, GeneralPreference, GeneralPreferenceConfig};
pub use self::ideal_point::{IdealPoint, IdealPointConfig, Prototypes};
use self::mlp::Last;
pub use self::mlp::Mlp;
use super::json;
use super::weights::{Checkpoint, save};
use crate::error::{Error, Result};
use crate::files::{replace_folder, write_atomically};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// The configuration of a head: all that its `config.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadConfig {
    /// Width of a response's embedding.
    pub input: i64,
    /// Widths of the hidden layers between it and the outputs; none for a linear head.
    pub hidden: Vec<i64>,
    /// `true` if the last layer of a scalar head adds constants; those of transformers' classifiers do not.
    #[serde(default = "with_bias")]
    pub bias: bool,
    /// The meaning of the outputs.
    #[serde(flatten)]
    pub kind: HeadKind,
}

/// Heads of earlier versions have one and do not say so.
fn with_bias() -> bool {
    true
}

/// The meaning of a head's outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HeadKind {
    /// A number for each name: `reward`, or attributes that were rated.
    Scalar {
        /// Names of the outputs, in their order.
        outputs: Vec<String>,
    },
    /// Embeddings of general preferences.
    GeneralPreference(GeneralPreferenceConfig),
    /// Nearness to the ideal points of users.
    IdealPoint(IdealPointConfig),
}

/// A head with its weights.
pub struct Head {
    config: HeadConfig,
    network: Network,
}

/// The networks of a head, by what its outputs mean.
pub enum Network {
    /// `[n, input]` to `[n, outputs]`.
    Scalar(Mlp),
    /// See [`GeneralPreference`].
    GeneralPreference(GeneralPreference),
    /// See [`IdealPoint`].
    IdealPoint(IdealPoint),
}

/// How new weights are drawn and kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) device: Device,
}

impl Head {
    /// A head with weights drawn from `seed`, leaves of type `kind` that require a gradient.
    pub fn new(config: HeadConfig, seed: u64, kind: Kind, device: Device) -> Self {
        let start = Start { seed, kind, device };
        let network = match &config.kind {
            HeadKind::Scalar { outputs } => Network::Scalar(Mlp::new(
                "reward",
                config.input,
                &config.hidden,
                outputs.len() as i64,
                if config.bias {
                    Last::Near0
                } else {
                    Last::Near0Unbiased
                },
                start,
            )),
            HeadKind::GeneralPreference(own) => {
                Network::GeneralPreference(GeneralPreference::new(&config, own.clone(), start))
            }
            HeadKind::IdealPoint(own) => {
                Network::IdealPoint(IdealPoint::new(&config, own.clone(), start))
            }
        };
        Self { config, network }
    }

    /// Opens a head's folder.
    ///
    /// # Errors
    /// A file is missing or broken, a tensor is missing, has another shape, or belongs to no part of the head.
    pub fn open(folder: &Path, kind: Kind, device: Device) -> Result<Self> {
        let path = folder.join(CONFIG);
        let config: HeadConfig = json::parse(&path, json::read_object(&path)?)?;
        config.check(&path)?;
        let head = Self::new(config, 0, kind, device);
        let checkpoint = Checkpoint::open_file(&folder.join(WEIGHTS))?;
        let own = head.parameters();
        let known: BTreeSet<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(name) = checkpoint.names().find(|name| !known.contains(name)) {
            return Err(Error::tensor(
                checkpoint.path(),
                name,
                "belongs to no part of the head",
            ));
        }
        for (name, mut tensor) in own {
            let stored = checkpoint.tensor(&name)?;
            if stored.size() != tensor.size() {
                let problem = format!(
                    "has shape {:?}, `config.json` asks for {:?}",
                    stored.size(),
                    tensor.size()
                );
                return Err(Error::tensor(checkpoint.path(), &name, problem));
            }
            no_grad(|| tensor.copy_(&stored));
        }
        Ok(head)
    }

    /// Hash of the weights in a head's folder.
    ///
    /// # Errors
    /// There are none, or they are broken.
    pub fn sha256(folder: &Path) -> Result<String> {
        Checkpoint::open_file(&folder.join(WEIGHTS))?.sha256()
    }

    /// Writes the head's folder, whole or not at all.
    pub fn save(&self, folder: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        replace_folder(folder, |folder| self.fill(folder, metadata))
    }

    /// Writes the head's files into a folder that is there.
    pub fn fill(&self, folder: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.config).unwrap_or_default();
        write_atomically(&folder.join(CONFIG), text.as_bytes())?;
        save(&folder.join(WEIGHTS), &self.parameters(), metadata)
    }

    /// The head's configuration.
    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// `true` if it is one matrix, as the head of a classifier in transformers is.
    pub fn is_matrix(&self) -> bool {
        let scalar = matches!(self.config.kind, HeadKind::Scalar { .. });
        scalar && self.config.hidden.is_empty() && !self.config.bias
    }

    /// Its networks.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// All weights by name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        match &self.network {
            Network::Scalar(mlp) => mlp.parameters(),
            Network::GeneralPreference(head) => head.parameters(),
            Network::IdealPoint(head) => head.parameters(),
        }
    }

    /// Takes over the weights of another head where names and shapes agree: those of a regression head under a reward
    /// head. Of several outputs, the one called `output` is taken.
    ///
    /// # Errors
    /// The other head has another input or other hidden layers, or no such output.
    pub fn start_from(&mut self, other: &Self, output: Option<&str>) -> Result<()> {
        let (own, theirs) = (&self.config, &other.config);
        if own.input != theirs.input || own.hidden != theirs.hidden || own.bias != theirs.bias {
            return Err(Error::config(format!(
                "the head to start from reads {} numbers through hidden layers {:?}, this one {} through {:?}",
                theirs.input, theirs.hidden, own.input, own.hidden
            )));
        }
        let row = match (&theirs.kind, output) {
            (HeadKind::Scalar { outputs }, Some(name)) => Some(
                outputs
                    .iter()
                    .position(|known| known == name)
                    .ok_or_else(|| {
                        Error::config(format!(
                            "the head to start from has no output `{name}`, only {}",
                            outputs.join(", ")
                        ))
                    })?,
            ),
            _ => None,
        };
        let sources: BTreeMap<String, Tensor> = other.parameters().into_iter().collect();
        for (name, mut tensor) in self.parameters() {
            let Some(source) = sources.get(&name) else {
                return Err(Error::config(format!(
                    "the head to start from has no `{name}`"
                )));
            };
            let rows = source.size().first().copied().unwrap_or_default();
            let last = tensor.size().first() != Some(&rows);
            let source = match row {
                Some(row) if last => source.narrow(0, row as i64, 1),
                _ => source.shallow_clone(),
            };
            if source.size() != tensor.size() {
                return Err(Error::config(format!(
                    "`{name}` has shape {:?} in the head to start from, {:?} here",
                    source.size(),
                    tensor.size()
                )));
            }
            no_grad(|| tensor.copy_(&source));
        }
        Ok(())
    }

    /// The same head with users added, who have these mixture weights.
    ///
    /// # Errors
    /// It is no ideal-point head, or has another number of prototypes.
    pub fn with_users(&self, users: &[(String, Vec<f64>)]) -> Result<Self> {
        let mut config = self.config.clone();
        let HeadKind::IdealPoint(own) = &mut config.kind else {
            return Err(Error::config("only ideal-point heads know users"));
        };
        if let Some((name, weights)) = users
            .iter()
            .find(|(_, weights)| weights.len() as i64 != own.count)
        {
            return Err(Error::config(format!(
                "{} weights for `{name}`, the head has {} prototypes",
                weights.len(),
                own.count
            )));
        }
        own.users.extend(users.iter().map(|(name, _)| name.clone()));
        let logits: Vec<f64> = users
            .iter()
            .flat_map(|(_, weights)| weights)
            .map(|weight| weight.ln())
            .collect();
        let added = Tensor::from_slice(&logits).view([-1, own.count]);
        let parameters = self.parameters();
        let first = parameters
            .first()
            .map(|(_, tensor)| (tensor.kind(), tensor.device()));
        let (kind, device) = first.unwrap_or((Kind::Float, Device::Cpu));
        let head = Self::new(config, 0, kind, device);
        for ((name, mut tensor), (_, source)) in head.parameters().into_iter().zip(parameters) {
            let source = if name == "users" {
                Tensor::cat(&[source, added.to_kind(kind).to_device(device)], 0)
            } else {
                source
            };
            no_grad(|| tensor.copy_(&source));
        }
        Ok(head)
    }

    /// Goes on in the direction from `weak` to this head: `w = weak + factor (w - weak)` (ExPO, Zheng et al. 2024,
    /// arXiv 2404.16792). `factor` above 1 extrapolates.
    ///
    /// # Errors
    /// The two are not the same kind of head.
    pub fn extrapolate(&mut self, weak: &Self, factor: f64) -> Result<()> {
        if self.config != weak.config {
            return Err(Error::config(
                "extrapolation needs two heads of one configuration",
            ));
        }
        for ((_, mut tensor), (_, weak)) in self.parameters().into_iter().zip(weak.parameters()) {
            no_grad(|| {
                let moved = weak.lerp(&tensor, factor);
                tensor.copy_(&moved);
            });
        }
        Ok(())
    }
}

impl HeadConfig {
    /// Refuses what no network can be made of.
    pub fn check(&self, path: &Path) -> Result<()> {
        let sizes = |sizes: &[i64]| sizes.iter().all(|size| (1..=1 << 20).contains(size));
        let own = match &self.kind {
            HeadKind::Scalar { outputs } => !outputs.is_empty(),
            HeadKind::GeneralPreference(own) => {
                let gate = own.gate.map_or(1, |gate| gate.input);
                sizes(&[own.planes, gate]) && own.tau > 0.0
            }
            HeadKind::IdealPoint(own) => {
                let prompt = match own.prototypes {
                    Prototypes::Points => 1,
                    Prototypes::OfPrompt { input } => input,
                };
                sizes(&[own.width, own.count, prompt, own.users.len() as i64])
            }
        };
        if own && sizes(&self.hidden) && sizes(&[self.input]) {
            Ok(())
        } else {
            Err(Error::weights(
                path,
                "describes a head with a size that no head has",
            ))
        }
    }
}

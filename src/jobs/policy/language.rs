//! A language model to be tuned, with its reference.

use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::config::{AdapterKind, ReferenceMode, TextConfig};
use crate::error::Result;
use crate::files::absolute;
use crate::jobs::open::image::lora_config;
use crate::models::lm::LanguageModel;
use crate::models::lora::LoraSet;
use crate::ops::random::derive_seed;
use crate::run::checkpoint::{BestWeights, Notes};
use crate::trainer::objective::Objective;
use crate::trainer::text::{Example, Frozen, Live};

/// The trained model with what belongs to it.
pub(crate) struct TrainedLanguageModel {
    pub(crate) model: Rc<LanguageModel>,
    pub(crate) parameters: Vec<(String, Tensor)>,
    lora: Option<Rc<LoraSet>>,
    pub(crate) best: BestWeights,
}

/// The model with its trained tensors as f32 leaves; `notes` go with its weights.
pub(crate) fn open(
    config: &TextConfig,
    notes: &Notes,
    (device, kind): (Device, Kind),
) -> Result<TrainedLanguageModel> {
    let base = &config.model.base;
    match config.adapter.kind {
        AdapterKind::Lora => {
            let model = LanguageModel::open(base, device, kind, kind)?;
            let seed = derive_seed(config.run.seed, "lora", &[]) as u64;
            let lora = lora_config(&config.adapter);
            let lora = Rc::new(LoraSet::attach(
                &model.adapters(),
                &lora,
                seed,
                device,
                Kind::Float,
            )?);
            Ok(TrainedLanguageModel {
                model: Rc::new(model),
                parameters: lora.parameters(),
                best: BestWeights::Adapter(Rc::clone(&lora), absolute(base), notes.clone()),
                lora: Some(lora),
            })
        }
        AdapterKind::Full => {
            let model = if config.model.from_scratch {
                LanguageModel::fresh(base, config.run.seed, device, kind)?
            } else {
                LanguageModel::open(base, device, Kind::Float, kind)?
            };
            let model = Rc::new(model);
            let parameters = model.parameters().into_iter();
            Ok(TrainedLanguageModel {
                parameters: parameters
                    .map(|(name, tensor)| (name, tensor.set_requires_grad(true)))
                    .collect(),
                lora: None,
                best: BestWeights::LanguageModel(Rc::clone(&model), Kind::Float, notes.clone()),
                model,
            })
        }
    }
}

/// A model that is not trained.
pub(crate) fn frozen(folder: &Path, (device, kind): (Device, Kind)) -> Result<LanguageModel> {
    LanguageModel::open(folder, device, kind, kind)
}

/// `true` if the reference answers at every step.
pub(crate) fn is_live(config: &TextConfig, objective: &Objective) -> bool {
    config.reference.mode == ReferenceMode::Live || objective.needs_live_reference()
}

/// The reference that answers at every step; `None` where its log-probs are computed once.
pub(crate) fn live(
    config: &TextConfig,
    objective: &Objective,
    trained: &TrainedLanguageModel,
    on: (Device, Kind),
) -> Result<Option<Live>> {
    if !is_live(config, objective) {
        return Ok(None);
    }
    Ok(Some(match (&config.reference.model, &trained.lora) {
        (Some(folder), _) => Live::Frozen(Box::new(frozen(folder, on)?)),
        (None, Some(lora)) => Live::AdapterOff(Rc::clone(lora)),
        (None, None) => Live::Frozen(Box::new(frozen(&config.model.base, on)?)),
    }))
}

/// Examples with the reference's log-probs that they bring along, where they do.
pub(crate) fn frozen_set(examples: Vec<Example>, brings_reference: bool) -> Frozen {
    let mut set = Frozen::new(examples);
    if brings_reference {
        let given = set.examples.iter().filter_map(|example| example.reference);
        set.reference = given.flatten().map(|logp| logp as f32).collect();
    }
    set
}

//! The networks of the General Preference Model (Zhang et al. 2024, arXiv 2410.02197). What their outputs mean is in
//! [`rewards::general_preference`](crate::rewards::general_preference).

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::mlp::Last;
use super::{HeadConfig, Mlp, Start};
use crate::ops::stable::unit_rows;

/// The configuration of a general preference head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneralPreferenceConfig {
    /// Number of planes, half the width of an embedding.
    pub planes: i64,
    /// `true` if embeddings are brought to length 1, so that scores are bounded by the largest scale.
    pub unit: bool,
    /// Weights of the planes by the prompt; all 1 without.
    pub gate: Option<Gate>,
    /// Temperature with which it was trained.
    pub tau: f64,
}

/// Weights of the planes: `sum softmax(W prompt)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Width of a prompt's embedding.
    pub input: i64,
    /// Sum of the weights: the number of planes makes the even gate that of a head without; the authors' released
    /// models have 1.
    pub sum: f64,
}

/// Embeddings of responses and scales of prompts.
///
/// Other than in the authors' code the last layer has a bias, and starts from embeddings near `(0, 1)` in every plane,
/// with scores like differences of rewards. Without one a linear head is odd, so that opposite responses score 0 against
/// each other whatever their rewards; a language model's states have a mean that hides it, centred embeddings have not.
pub struct GeneralPreference {
    config: GeneralPreferenceConfig,
    value: Mlp,
    gate: Option<Mlp>,
}

impl GeneralPreference {
    pub(super) fn new(head: &HeadConfig, config: GeneralPreferenceConfig, start: Start) -> Self {
        let width = 2 * config.planes;
        let value = Mlp::new(
            "value",
            head.input,
            &head.hidden,
            width,
            Last::NearUp,
            start,
        );
        let even = Last::Near0Unbiased;
        let gate = config
            .gate
            .map(|gate| Mlp::new("gate", gate.input, &[], config.planes, even, start));
        Self {
            config,
            value,
            gate,
        }
    }

    /// Responses `[.., input]` to embeddings `[.., 2 planes]`.
    pub fn embed(&self, responses: &Tensor) -> Tensor {
        let embeddings = self.value.forward(responses);
        if self.config.unit {
            unit_rows(&embeddings)
        } else {
            embeddings
        }
    }

    /// Prompts `[.., gate input]` to the scales of the planes `[.., planes]`; ones `[planes]` without a gate.
    ///
    /// # Panics
    /// Where there is a gate and no prompts.
    pub fn scales(&self, prompts: Option<&Tensor>) -> Tensor {
        let Some((gate, config)) = self.gate.as_ref().zip(self.config.gate) else {
            return Tensor::ones([self.config.planes], self.options());
        };
        let logits = gate.forward(prompts.expect("a gate is given prompts"));
        logits.softmax(-1, logits.kind()) * config.sum
    }

    fn options(&self) -> (Kind, Device) {
        let parameters = self.value.parameters();
        let first = parameters
            .first()
            .map(|(_, tensor)| (tensor.kind(), tensor.device()));
        first.unwrap_or((Kind::Float, Device::Cpu))
    }

    /// The head's configuration.
    pub fn config(&self) -> &GeneralPreferenceConfig {
        &self.config
    }

    pub(super) fn parameters(&self) -> Vec<(String, Tensor)> {
        let gate = self.gate.iter().flat_map(Mlp::parameters);
        self.value.parameters().into_iter().chain(gate).collect()
    }
}

//! The networks of PAL (Chen et al. 2024, arXiv 2406.08469): a map of responses, prototypes, and the mixture weights of
//! users. What their outputs mean is in [`rewards::ideal_point`](crate::rewards::ideal_point).

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::mlp::Last;
use super::{HeadConfig, Mlp, Start};

/// The scale of cosines that training starts from, 1 / 0.07, and the largest one.
const SCALE: f64 = 1.0 / 0.07;
const LARGEST_SCALE: f64 = 100.0;
/// Deviation of users' logits at first: what tells the prototypes apart beside their own place.
const LOGITS: f64 = 0.1;

/// The configuration of an ideal-point head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdealPointConfig {
    /// Dimension of the space in which responses and ideal points lie.
    pub width: i64,
    /// Number of prototypes; 1 is a model of one user for all.
    pub count: i64,
    /// Where prototypes come from.
    pub prototypes: Prototypes,
    /// The users, in the order of their weights.
    pub users: Vec<String>,
}

/// Where prototypes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Prototypes {
    /// PAL-A: points like responses, mapped as they are; nearness is distance.
    Points,
    /// PAL-B: functions of the prompt; nearness is the cosine.
    OfPrompt {
        /// Width of a prompt's embedding.
        input: i64,
    },
}

/// Responses, prototypes and users.
pub struct IdealPoint {
    config: IdealPointConfig,
    items: Mlp,
    points: Points,
    users: Tensor,
}

enum Points {
    /// `[count, input]`, before the map.
    Fixed(Tensor),
    OfPrompt {
        networks: Vec<Mlp>,
        ln_scale: Tensor,
    },
}

impl IdealPoint {
    pub(super) fn new(head: &HeadConfig, config: IdealPointConfig, start: Start) -> Self {
        let items = Mlp::new(
            "items",
            head.input,
            &head.hidden,
            config.width,
            Last::Plain,
            start,
        );
        let points = match config.prototypes {
            Prototypes::Points => {
                let deviation = 1.0 / (head.input as f64).sqrt(); // rows of length 1
                Points::Fixed(start.draw("prototypes", &[config.count, head.input], deviation))
            }
            Prototypes::OfPrompt { input } => {
                let network = |index| {
                    let name = format!("prototypes.{index}");
                    Mlp::new(&name, input, &head.hidden, config.width, Last::Plain, start)
                };
                Points::OfPrompt {
                    networks: (0..config.count).map(network).collect(),
                    ln_scale: start.leaf(&Tensor::from(SCALE.ln()).to_device(start.device)),
                }
            }
        };
        let shape = [config.users.len() as i64, config.count];
        Self {
            users: start.draw("users", &shape, LOGITS),
            config,
            items,
            points,
        }
    }

    /// Responses `[n, input]` to the space of ideal points, `[n, width]`.
    pub fn items(&self, responses: &Tensor) -> Tensor {
        self.items.forward(responses)
    }

    /// Prototypes: `[1, count, width]` where they are points, else `[n, count, width]` for prompts `[n, input]`.
    ///
    /// # Panics
    /// Where prototypes come from prompts and there are none.
    pub fn prototypes(&self, prompts: Option<&Tensor>) -> Tensor {
        match &self.points {
            Points::Fixed(points) => self.items.forward(points).unsqueeze(0),
            Points::OfPrompt { networks, .. } => {
                let prompts = prompts.expect("prototypes of prompts are given prompts");
                let points = networks.iter().map(|network| network.forward(prompts));
                Tensor::stack(&points.collect::<Vec<_>>(), 1)
            }
        }
    }

    /// Ideal points `[n, width]` of users with mixture weights `[n, count]`.
    pub fn ideal(weights: &Tensor, prototypes: &Tensor) -> Tensor {
        (weights.unsqueeze(-1) * prototypes).sum_dim_intlist(1, false, weights.kind())
    }

    /// Mixture weights of users by number, `[n]` to `[n, count]`: positive, of sum 1.
    pub fn weights(&self, users: &Tensor) -> Tensor {
        self.users
            .index_select(0, users)
            .softmax(-1, self.users.kind())
    }

    /// The factor of cosines (PAL-B), a scalar; none where nearness is distance.
    pub fn scale(&self) -> Option<Tensor> {
        match &self.points {
            Points::Fixed(_) => None,
            Points::OfPrompt { ln_scale, .. } => Some(ln_scale.exp().clamp_max(LARGEST_SCALE)),
        }
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.users.device()
    }

    /// The head's configuration.
    pub fn config(&self) -> &IdealPointConfig {
        &self.config
    }

    pub(super) fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut parameters = self.items.parameters();
        match &self.points {
            Points::Fixed(points) => {
                parameters.push(("prototypes".to_owned(), points.shallow_clone()));
            }
            Points::OfPrompt { networks, ln_scale } => {
                parameters.extend(networks.iter().flat_map(Mlp::parameters));
                parameters.push(("ln_scale".to_owned(), ln_scale.shallow_clone()));
            }
        }
        parameters.push(("users".to_owned(), self.users.shallow_clone()));
        parameters
    }
}

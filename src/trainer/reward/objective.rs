//! From a head and examples to losses, and to the figures of a validation.

use tch::{Kind, Tensor};

use super::{Embeddings, Examples, Pairs, Ratings};
use crate::config::{IdealPointLoss, RewardModelSection, RewardTask};
use crate::losses::bradley_terry::{
    bradley_terry, centring, margin_bradley_terry, scaled_bradley_terry,
};
use crate::losses::general_preference::general_preference;
use crate::losses::ideal_point::hinge;
use crate::losses::regression::regression;
use crate::models::heads::{GeneralPreference, Head, IdealPoint, Network};
use crate::rewards::general_preference::score;
use crate::rewards::ideal_point::{distance, scaled_cosine, squared_distance};
use crate::trainer::event::Metrics;

/// The minimised loss.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    task: RewardTask,
    loss: IdealPointLoss,
    centring: f64,
}

/// A head's scores of pairs, `[b]`.
struct Compared {
    /// By how much the chosen response leads, in the unit of the loss: above 0 the head agrees with the preference.
    lead: Tensor,
    /// Sum of the two rewards, where there are rewards.
    total: Option<Tensor>,
}

impl From<&RewardModelSection> for Objective {
    fn from(section: &RewardModelSection) -> Self {
        Self {
            task: section.task,
            loss: section.loss,
            centring: section.center_rewards_coefficient,
        }
    }
}

impl Objective {
    /// Losses of examples with their weights, `[b]`, and what is worth watching.
    pub(super) fn loss(
        self,
        head: &Head,
        embeddings: &Embeddings,
        examples: &Examples,
    ) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let mean = |values: Tensor| values.to_kind(Kind::Float).detach().mean(Kind::Float);
        match examples {
            Examples::Pairs(pairs) => {
                let compared = self.compare(head, embeddings, pairs);
                let scalars = vec![
                    ("accuracy", mean(right(&compared.lead))),
                    ("margin", mean(compared.lead.shallow_clone())),
                ];
                (
                    self.of_pairs(head, &compared, pairs) * &pairs.weight,
                    scalars,
                )
            }
            Examples::Ratings(ratings) => {
                let predicted = predicted(head, embeddings, ratings);
                (regression(&predicted, &ratings.values), Vec::new())
            }
        }
    }

    /// How many sums [`Self::figures`] gives; `attributes` are the names of what was rated.
    pub(super) fn width(attributes: &[String]) -> i64 {
        match attributes.len() as i64 {
            0 => 3,
            count => 1 + 5 * count,
        }
    }

    /// Sums over some examples, `[k]` f64: of loss, accuracy and lead of pairs; of loss and of products of predictions and
    /// ratings.
    pub(super) fn figures(
        self,
        head: &Head,
        embeddings: &Embeddings,
        examples: &Examples,
    ) -> Tensor {
        let sum = |values: &Tensor| values.sum_dim_intlist(0, false, Kind::Double);
        match examples {
            Examples::Pairs(pairs) => {
                let compared = self.compare(head, embeddings, pairs);
                let loss = self.of_pairs(head, &compared, pairs) * &pairs.weight;
                let lead = compared.lead;
                sum(&Tensor::stack(&[loss, right(&lead), lead], 1)) // [3]
            }
            Examples::Ratings(ratings) => {
                let predicted = predicted(head, embeddings, ratings).to_kind(Kind::Double);
                let values = ratings.values.to_kind(Kind::Double);
                let loss = regression(&predicted, &values).unsqueeze(1);
                let columns = [
                    loss,
                    predicted.shallow_clone(),
                    values.shallow_clone(),
                    predicted.square(),
                    values.square(),
                    predicted * values,
                ];
                sum(&Tensor::cat(&columns, 1)) // [1 + 5 attributes]
            }
        }
    }

    /// Metrics from the figures of all parts of so many examples, `[n, k]`; `attributes` are the names of what was rated.
    pub(super) fn summary(attributes: &[String], parts: &Tensor, examples: i64) -> Metrics {
        let means = parts.sum_dim_intlist(0, false, Kind::Double) / examples as f64;
        let means = Vec::<f64>::try_from(means).expect("one dimension of f64");
        let mut metrics = vec![("loss".to_owned(), means[0])];
        if attributes.is_empty() {
            metrics.push(("accuracy".to_owned(), means[1]));
            metrics.push(("margin".to_owned(), means[2]));
        }
        let count = attributes.len();
        for (index, name) in attributes.iter().enumerate() {
            let mean = |what: usize| means[1 + what * count + index];
            let covariance = mean(4) - mean(0) * mean(1);
            let spread = (mean(2) - mean(0).powi(2)) * (mean(3) - mean(1).powi(2));
            // Constant predictions are correlated with nothing.
            let correlation = if spread > 0.0 {
                covariance / spread.sqrt()
            } else {
                0.0
            };
            metrics.push((format!("correlation_{name}"), correlation));
        }
        metrics
    }

    fn compare(self, head: &Head, embeddings: &Embeddings, pairs: &Pairs) -> Compared {
        let responses = |rows: &Tensor| embeddings.responses.index_select(0, rows);
        let (chosen, rejected) = (responses(&pairs.chosen), responses(&pairs.rejected));
        let rows = embeddings.prompts.as_ref().zip(pairs.prompts.as_ref());
        let prompts = rows.map(|(prompts, rows)| prompts.index_select(0, rows));
        let lead = match head.network() {
            Network::Scalar(mlp) => {
                let reward = |responses: &Tensor| mlp.forward(responses).select(1, 0); // [b]
                let (chosen, rejected) = (reward(&chosen), reward(&rejected));
                return Compared {
                    lead: &chosen - &rejected,
                    total: Some(chosen + rejected),
                };
            }
            Network::GeneralPreference(head) => {
                preference(head, &chosen, &rejected, prompts.as_ref())
            }
            Network::IdealPoint(head) => {
                self.nearness(head, &chosen, &rejected, prompts.as_ref(), &pairs.users)
            }
        };
        Compared { lead, total: None }
    }

    fn nearness(
        self,
        head: &IdealPoint,
        chosen: &Tensor,
        rejected: &Tensor,
        prompts: Option<&Tensor>,
        users: &Tensor,
    ) -> Tensor {
        let (chosen, rejected) = (head.items(chosen), head.items(rejected)); // [b, width]
        let ideal = IdealPoint::ideal(&head.weights(users), &head.prototypes(prompts));
        match (head.scale(), self.loss) {
            (Some(scale), _) => {
                scaled_cosine(&chosen, &ideal, &scale) - scaled_cosine(&rejected, &ideal, &scale)
            }
            (None, IdealPointLoss::Logistic) => {
                squared_distance(&rejected, &ideal) - squared_distance(&chosen, &ideal)
            }
            (None, IdealPointLoss::Hinge) => {
                distance(&rejected, &ideal) - distance(&chosen, &ideal)
            }
        }
    }

    fn of_pairs(self, head: &Head, compared: &Compared, pairs: &Pairs) -> Tensor {
        let Compared { lead, total } = compared;
        let loss = match (self.task, head.network()) {
            (RewardTask::MarginBradleyTerry, _) => margin_bradley_terry(lead, &pairs.strength),
            (RewardTask::ScaledBradleyTerry, _) => scaled_bradley_terry(lead, &pairs.strength),
            (RewardTask::GeneralPreference, Network::GeneralPreference(head)) => {
                general_preference(lead, head.config().tau)
            }
            (RewardTask::IdealPoint, _) if self.loss == IdealPointLoss::Hinge => hinge(lead),
            _ => bradley_terry(lead),
        };
        match total {
            Some(total) if self.centring > 0.0 => loss + centring(total) * self.centring,
            _ => loss,
        }
    }
}

fn preference(
    head: &GeneralPreference,
    chosen: &Tensor,
    rejected: &Tensor,
    prompts: Option<&Tensor>,
) -> Tensor {
    score(
        &head.embed(chosen),
        &head.embed(rejected),
        &head.scales(prompts),
    )
}

fn predicted(head: &Head, embeddings: &Embeddings, ratings: &Ratings) -> Tensor {
    let responses = embeddings.responses.index_select(0, &ratings.rows);
    match head.network() {
        Network::Scalar(mlp) => mlp.forward(&responses),
        // A task with ratings has a scalar head.
        Network::GeneralPreference(_) | Network::IdealPoint(_) => ratings.values.zeros_like(),
    }
}

/// 1 where the chosen response leads, one half where neither does, else 0.
fn right(lead: &Tensor) -> Tensor {
    (lead.sign() + 1.0) / 2.0
}

//! Users that a trained ideal-point model has not seen: their weights from their choices, everything else frozen.

use std::collections::BTreeMap;

use tch::{Device, Tensor, no_grad};

use super::{Embeddings, Pairs};
use crate::data::preferences::Pair;
use crate::error::Result;
use crate::models::heads::IdealPoint;
use crate::rewards::new_user::{Choices, NewUser, fit};

/// Fits every user in `pairs`, in the order of their names.
///
/// The prior is the mean of the weights that the model has learnt, worth as many choices as there are prototypes.
///
/// # Errors
/// A fit does not converge.
pub fn fit_users(
    head: &IdealPoint,
    embeddings: &Embeddings,
    pairs: &[Pair],
) -> Result<Vec<(String, NewUser)>> {
    let mut by_user: BTreeMap<&str, Vec<Pair>> = BTreeMap::new();
    for pair in pairs {
        let user = pair.user.as_deref().unwrap_or_default();
        by_user.entry(user).or_default().push(pair.clone());
    }
    let prior = prior(head);
    no_grad(|| {
        let users = by_user.into_iter().map(|(user, pairs)| {
            let choices = choices(head, embeddings, &pairs);
            Ok((user.to_owned(), fit(&choices, &prior)?))
        });
        users.collect()
    })
}

/// Mean weights of the known users.
fn prior(head: &IdealPoint) -> Vec<f64> {
    let config = head.config();
    let known = Tensor::arange(config.users.len() as i64, (tch::Kind::Int64, head.device()));
    let mean = head.weights(&known).mean_dim(0, false, tch::Kind::Double);
    let mean = Vec::<f64>::try_from(mean.detach().to_device(Device::Cpu));
    mean.expect("one dimension of f64")
        .into_iter()
        .map(|weight| weight * config.count as f64)
        .collect()
}

fn choices(head: &IdealPoint, embeddings: &Embeddings, pairs: &[Pair]) -> Choices {
    let pairs = Pairs::new(pairs, &[], embeddings.responses.device());
    let items = |rows: &Tensor| head.items(&embeddings.responses.index_select(0, rows));
    let (chosen, rejected) = (items(&pairs.chosen), items(&pairs.rejected));
    let rows = embeddings.prompts.as_ref().zip(pairs.prompts.as_ref());
    let prompts = rows.map(|(prompts, rows)| prompts.index_select(0, rows));
    let points = head.prototypes(prompts.as_ref()); // [1 or n, count, width]
    match head.scale() {
        Some(scale) => Choices::of_cosines(&chosen, &rejected, &points, &scale),
        None => Choices::of_distances(&chosen, &rejected, &points.squeeze_dim(0)),
    }
}

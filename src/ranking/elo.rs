//! Online Elo ratings (Elo 1978). They depend on the order of the games, so they are averaged over random orders
//! unless the order of the file is what is wanted.

use rayon::prelude::*;

use super::comparisons::Game;
use super::draws::Draws;
use crate::error::{Error, Result};

/// Where every rating starts.
const START: f64 = 1000.0;

/// Ratings over some orders of the games.
#[derive(Clone, Debug)]
pub struct Ratings {
    /// Mean rating of every item. `[items]`
    pub mean: Vec<f64>,
    /// Standard deviation over the orders; 0 for one order. `[items]`
    pub deviation: Vec<f64>,
}

/// Ratings after the games in this order, from 1000 each.
///
/// `k` is how far one game moves a rating at most; the weight of a game multiplies it.
pub fn online(items: usize, games: impl IntoIterator<Item = Game>, k: f64) -> Vec<f64> {
    let mut ratings = vec![START; items];
    for game in games {
        let (left, right) = (game.left as usize, game.right as usize);
        for _ in 0..game.times {
            let expected = 1.0 / (1.0 + 10_f64.powf((ratings[right] - ratings[left]) / 400.0));
            let moved = k * game.weight * (game.outcome.score() - expected);
            ratings[left] += moved;
            ratings[right] -= moved;
        }
    }
    ratings
}

/// Ratings averaged over `orders` random orders, on all cores; in the order given if `orders` is 0.
pub fn averaged(items: usize, games: &[Game], k: f64, orders: usize, seed: u64) -> Result<Ratings> {
    if !(k.is_finite() && k > 0.0) {
        return Err(Error::config(format!(
            "`--k {k}`: it must be a positive number"
        )));
    }
    if orders == 0 {
        return Ok(Ratings {
            mean: online(items, games.iter().copied(), k),
            deviation: vec![0.0; items],
        });
    }
    let ratings: Vec<Vec<f64>> = (0..orders)
        .into_par_iter()
        .map(|order| {
            let mut shuffled = games.to_vec();
            Draws::new(seed, order as u64).shuffle(&mut shuffled);
            online(items, shuffled, k)
        })
        .collect(); // [orders, items]
    let over_orders = |value: &dyn Fn(&[f64], usize) -> f64| -> Vec<f64> {
        let sum = |item| ratings.iter().map(|order| value(order, item)).sum::<f64>();
        (0..items).map(|item| sum(item) / orders as f64).collect()
    };
    let mean = over_orders(&|order, item| order[item]);
    let variance = over_orders(&|order, item| (order[item] - mean[item]).powi(2));
    let deviation = variance.into_iter().map(f64::sqrt).collect();
    Ok(Ratings { mean, deviation })
}

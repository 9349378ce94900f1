//! TrueSkill (Herbrich, Minka and Graepel 2006) by the crate `skillratings`, game after game. Like Elo it depends on the
//! order of the games, so it is averaged over random orders unless the order of the file is what is wanted.

use rayon::prelude::*;
use skillratings::Outcomes;
use skillratings::trueskill::{TrueSkillConfig, TrueSkillRating, trueskill};

use super::comparisons::{Game, Outcome};
use super::draws::Draws;
use super::elo::Ratings;
use crate::error::{Error, Result};

/// `ln(p / (1 - p))` is nearly this times the normal quantile of `p` (off by less than .01 in `p`).
const LOGITS: f64 = 1.702;

/// Means and deviations of skills after the games, averaged over `orders` random orders, on the scale of logits; in the
/// order given if `orders` is 0.
///
/// Skills start at 25 with deviation 25/3; a game has deviation 25/6, and a skill moves by 25/300 between games. What
/// share of games is tied is that of the games.
///
/// # Errors
/// A game has a weight: TrueSkill counts whole games.
pub fn averaged(items: usize, games: &[Game], orders: usize, seed: u64) -> Result<Ratings> {
    if games
        .iter()
        .any(|game| (game.weight - 1.0).abs() > f64::EPSILON)
    {
        return Err(Error::config(
            "`--method true-skill` counts whole games, and some have weights",
        ));
    }
    let times = |game: &Game| game.times as f64;
    let ties = games.iter().filter(|game| game.outcome == Outcome::Tie);
    let share = ties.map(times).sum::<f64>() / games.iter().map(times).sum::<f64>();
    let config = TrueSkillConfig {
        // At 1 every game is a tie, and the margin that makes one is infinite.
        draw_probability: share.min(0.99),
        ..TrueSkillConfig::default()
    };
    let unit = LOGITS / (std::f64::consts::SQRT_2 * config.beta);
    let ratings: Vec<Vec<TrueSkillRating>> = (0..orders.max(1))
        .into_par_iter()
        .map(|order| {
            let mut games = games.to_vec();
            if orders > 0 {
                Draws::new(seed, order as u64).shuffle(&mut games);
            }
            online(items, &games, &config)
        })
        .collect(); // [orders, items]
    let start = TrueSkillRating::default().rating;
    let over_orders = |value: &dyn Fn(&TrueSkillRating) -> f64| -> Vec<f64> {
        let sum = |item: usize| ratings.iter().map(|order| value(&order[item])).sum::<f64>();
        let count = ratings.len() as f64;
        (0..items).map(|item| unit * sum(item) / count).collect()
    };
    Ok(Ratings {
        mean: over_orders(&|rating| rating.rating - start),
        deviation: over_orders(&|rating| rating.uncertainty),
    })
}

fn online(items: usize, games: &[Game], config: &TrueSkillConfig) -> Vec<TrueSkillRating> {
    let mut ratings = vec![TrueSkillRating::default(); items];
    for game in games {
        let (left, right) = (game.left as usize, game.right as usize);
        let outcome = match game.outcome {
            Outcome::Left => Outcomes::WIN,
            Outcome::Right => Outcomes::LOSS,
            Outcome::Tie => Outcomes::DRAW,
        };
        for _ in 0..game.times {
            let (one, two) = trueskill(&ratings[left], &ratings[right], &outcome, config);
            (ratings[left], ratings[right]) = (one, two);
        }
    }
    ratings
}

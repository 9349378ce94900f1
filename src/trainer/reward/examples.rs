//! Preferences and ratings as tensors, looked up by rows.

use std::collections::HashMap;

use tch::{Device, Tensor};

use crate::data::preferences::{Pair, Rating};

/// Examples that a head is trained or judged on.
pub enum Examples {
    /// Preferences.
    Pairs(Pairs),
    /// Ratings.
    Ratings(Ratings),
}

/// Preferences, one a row of every tensor.
pub struct Pairs {
    /// Rows of the preferred responses, i64.
    pub chosen: Tensor,
    /// Rows of the others.
    pub rejected: Tensor,
    /// Rows of the prompts, where all are known.
    pub prompts: Option<Tensor>,
    /// Strengths, f32.
    pub strength: Tensor,
    /// Weights, f32.
    pub weight: Tensor,
    /// Numbers of the users, i64; 0 where there are none.
    pub users: Tensor,
}

/// Ratings, one a row of every tensor.
pub struct Ratings {
    /// Rows of the responses, i64.
    pub rows: Tensor,
    /// `[n, attributes]`, f32.
    pub values: Tensor,
    /// Names of the attributes.
    pub attributes: Vec<String>,
}

impl Pairs {
    /// Tensors of pairs. Users are numbered by their place in `users`; a pair without a user, or of one who is not
    /// there, gets number 0.
    pub fn new(pairs: &[Pair], users: &[String], device: Device) -> Self {
        let numbers: HashMap<&String, i64> = users
            .iter()
            .enumerate()
            .map(|(number, user)| (user, number as i64))
            .collect();
        let number = |pair: &Pair| {
            let user = pair.user.as_ref();
            user.and_then(|user| numbers.get(user).copied())
                .unwrap_or_default()
        };
        let integers = |value: &dyn Fn(&Pair) -> i64| {
            let values: Vec<i64> = pairs.iter().map(value).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        let floats = |value: &dyn Fn(&Pair) -> f64| {
            let values: Vec<f32> = pairs.iter().map(|pair| value(pair) as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        };
        Self {
            chosen: integers(&|pair| pair.chosen as i64),
            rejected: integers(&|pair| pair.rejected as i64),
            prompts: pairs
                .iter()
                .all(|pair| pair.prompt.is_some())
                .then(|| integers(&|pair| pair.prompt.unwrap_or_default() as i64)),
            strength: floats(&|pair| pair.strength),
            weight: floats(&|pair| pair.weight),
            users: integers(&number),
        }
    }

    fn rows(&self, rows: &Tensor) -> Self {
        let pick = |tensor: &Tensor| tensor.index_select(0, rows);
        Self {
            chosen: pick(&self.chosen),
            rejected: pick(&self.rejected),
            prompts: self.prompts.as_ref().map(pick),
            strength: pick(&self.strength),
            weight: pick(&self.weight),
            users: pick(&self.users),
        }
    }
}

impl Ratings {
    /// Tensors of ratings.
    pub fn new(ratings: &[Rating], attributes: &[String], device: Device) -> Self {
        let rows: Vec<i64> = ratings.iter().map(|rating| rating.row as i64).collect();
        let values = ratings
            .iter()
            .flat_map(|rating| rating.values.iter().map(|value| *value as f32));
        let values: Vec<f32> = values.collect();
        Self {
            rows: Tensor::from_slice(&rows).to_device(device),
            values: Tensor::from_slice(&values)
                .view([-1, attributes.len() as i64])
                .to_device(device),
            attributes: attributes.to_vec(),
        }
    }
}

impl Examples {
    /// How many there are.
    pub fn count(&self) -> i64 {
        match self {
            Self::Pairs(pairs) => pairs.chosen.size()[0],
            Self::Ratings(ratings) => ratings.rows.size()[0],
        }
    }

    /// Names of the rated attributes; none of pairs.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Pairs(_) => Vec::new(),
            Self::Ratings(ratings) => ratings.attributes.clone(),
        }
    }

    /// Some of them, `rows` `[b]`.
    pub(super) fn rows(&self, rows: &Tensor) -> Self {
        match self {
            Self::Pairs(pairs) => Self::Pairs(pairs.rows(rows)),
            Self::Ratings(ratings) => Self::Ratings(Ratings {
                rows: ratings.rows.index_select(0, rows),
                values: ratings.values.index_select(0, rows),
                attributes: ratings.attributes.clone(),
            }),
        }
    }
}

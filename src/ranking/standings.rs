//! From comparisons to the finished ranking: fit, uncertainty, and what the reader needs to judge both.

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::{self, Bootstrap};
use super::bradley_terry::{self, Fit, Prior};
use super::calibration::{Calibration, calibration};
use super::centrality::rank_centrality;
use super::columns::Columns;
use super::comparisons::{Comparisons, Game, Outcome};
use super::connectivity::components;
use super::counts::Counts;
use super::read::Reading;
use super::ties::Ties;
use super::transitivity::{Triads, triads};
use super::{elo, standard_errors, true_skill};
use crate::error::{Error, Result};
use crate::ops::stable::sigmoid;

/// Up to here standard errors are computed unasked; they need a dense inverse.
const DENSE_ITEMS: usize = 1000;
/// Standard normal quantile of 97.5 %.
pub(super) const TWO_SIDED_95: f64 = 1.959_963_984_540_054;

/// How strengths are found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// Model of Bradley and Terry, with a model of ties.
    BradleyTerry,
    /// Online Elo, averaged over random orders (in the order of the file if `orders` is 0).
    Elo {
        /// How far one game moves a rating at most.
        k: f64,
        /// Number of orders.
        orders: usize,
    },
    /// TrueSkill, averaged over random orders (in the order of the file if `orders` is 0).
    TrueSkill {
        /// Number of orders.
        orders: usize,
    },
    /// Logarithm of the stationary shares of [`rank_centrality`].
    Centrality,
    /// Mean share of games won, over opponents.
    WinRate,
}

/// Where intervals come from when there is no bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    /// Wald, for up to a thousand items.
    Default,
    /// Curvature.
    Wald,
    /// Curvature and spread of the scores.
    Sandwich,
    /// No intervals.
    None,
}

/// The options of a ranking.
#[derive(Clone, Debug)]
pub struct Options {
    /// How strengths are found.
    pub method: Method,
    /// The meaning of ties; methods other than Bradley-Terry know half a win and dropping.
    pub ties: Ties,
    /// Belief before any game (Bradley-Terry).
    pub prior: Prior,
    /// Intervals without a bootstrap (Bradley-Terry).
    pub errors: Errors,
    /// Number of resamples, 0 for none.
    pub bootstrap: usize,
    /// Seed of resamples and orders.
    pub seed: u64,
    /// An item and the Elo that it shall have.
    pub anchor: Option<(String, f64)>,
}

/// One row of the ranking.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// One more than the number of stronger items.
    pub rank: usize,
    /// Name.
    pub item: String,
    /// Logits with mean zero; for [`Method::WinRate`] the rate.
    pub strength: f64,
    /// Strength on the scale of Elo.
    pub elo: Option<f64>,
    /// Central 95 % of the strength.
    pub interval: Option<[f64; 2]>,
    /// Central 95 % of the rank, from the bootstrap.
    pub rank_interval: Option<[usize; 2]>,
    /// Share of resamples in which it is first.
    pub probability_best: Option<f64>,
    /// Share of resamples in which it is stronger than the next in this ranking.
    pub probability_above_next: Option<f64>,
    /// Mean expected score against each other item, a tie being half a win.
    pub win_probability: f64,
    /// Games it played (sum of weights).
    pub games: f64,
    /// Number of its strong component in [`Ranking::components`].
    pub component: usize,
}

/// How a Bradley-Terry fit went.
#[derive(Clone, Debug, Serialize)]
pub struct FitSummary {
    /// Always true: a fit that does not converge is an error.
    pub converged: bool,
    /// Newton steps.
    pub iterations: usize,
    /// Largest component of the gradient.
    pub gradient: f64,
    /// Log-likelihood of the games.
    pub log_likelihood: f64,
    /// Parameter of the tie model.
    pub nu: Option<f64>,
    /// Belief before any game.
    pub prior: Prior,
}

/// How the resampling went.
#[derive(Clone, Debug, Serialize)]
pub struct BootstrapSummary {
    /// Resamples asked for.
    pub resamples: usize,
    /// Resamples without a fit, left out.
    pub failed: usize,
    /// Groups that were drawn; none where rows were.
    pub groups: Option<usize>,
}

/// A finished ranking.
#[derive(Clone, Debug, Serialize)]
pub struct Ranking {
    /// How strengths were found.
    pub method: Method,
    /// The meaning of ties.
    pub ties: Ties,
    /// Which columns were read.
    pub columns: Columns,
    /// How the rows of a file were understood; none of judgements that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
    /// Rows read and used.
    pub comparisons: u64,
    /// Share of ties among games.
    pub tie_share: f64,
    /// The Bradley-Terry fit, where it is one.
    pub fit: Option<FitSummary>,
    /// The bootstrap, where there was one.
    pub bootstrap: Option<BootstrapSummary>,
    /// Strong components by name, the largest first: strengths across them are no facts.
    pub components: Vec<Vec<String>>,
    /// Number of parts between which there is no game at all.
    pub islands: usize,
    /// Cycles among majorities.
    pub triads: Triads,
    /// Share of cyclic triads.
    pub intransitivity: Option<f64>,
    /// Predicted against observed results; none for win rates, which predict nothing.
    pub calibration: Option<Calibration>,
    /// The items, best first.
    pub standings: Vec<Standing>,
}

/// Ranks the items; `done` is called after each resample of the bootstrap.
pub fn rank(
    comparisons: &Comparisons,
    options: &Options,
    done: impl Fn() + Sync,
) -> Result<Ranking> {
    options.check(comparisons)?;
    let all = comparisons.counts()?;
    let fitted = Fitted::new(comparisons, &all, options)?;
    let resampled = fitted.resampled(comparisons, &all, done)?;
    let parts = components(&fitted.counts);
    let triads = triads(&fitted.counts);
    let table = Table {
        items: &comparisons.items,
        strengths: &fitted.strengths,
        against_field: fitted.against_field(),
        intervals: fitted.intervals(resampled.as_ref())?,
        games: fitted.counts.games(),
        component: parts.strong_of(comparisons.items.len()),
        elo_shift: options.elo_shift(comparisons, &fitted.strengths)?,
    };
    let names = |part: &Vec<usize>| -> Vec<String> {
        let names = part.iter().map(|&item| comparisons.items[item].clone());
        names.collect()
    };
    Ok(Ranking {
        method: options.method,
        ties: options.ties,
        columns: comparisons.columns.clone(),
        reading: comparisons.reading.clone(),
        comparisons: comparisons.rows,
        tie_share: all.ties() / (all.ties() + all.decided()),
        fit: fitted.fit.as_ref().map(FitSummary::new),
        bootstrap: resampled.as_ref().map(|resampled| BootstrapSummary {
            resamples: resampled.resamples,
            failed: resampled.failed,
            groups: (comparisons.groups > 0).then_some(comparisons.groups),
        }),
        components: parts.strong.iter().map(names).collect(),
        islands: parts.weak.len(),
        triads,
        intransitivity: triads.intransitivity(),
        calibration: fitted.calibration(),
        standings: table.standings(resampled.as_ref()),
    })
}

/// Strengths and what they were fitted to.
struct Fitted<'a> {
    options: &'a Options,
    counts: Counts,
    fit: Option<Fit>,
    strengths: Vec<f64>,
    /// Deviations that the method itself gives.
    deviations: Option<Vec<f64>>,
}

impl<'a> Fitted<'a> {
    fn new(comparisons: &Comparisons, all: &Counts, options: &'a Options) -> Result<Self> {
        let counts = match options.ties {
            Ties::Drop => all.without_ties(),
            _ => all.clone(),
        };
        let fit = (options.method == Method::BradleyTerry)
            .then(|| bradley_terry::fit(&counts, options.ties, options.prior, None))
            .transpose()?;
        let (strengths, deviations) = match (&fit, options.method) {
            (Some(fit), _) => (centred(fit.theta.clone()), None),
            (None, Method::TrueSkill { orders }) => {
                let games = options.kept(&comparisons.games);
                let skills = true_skill::averaged(counts.items(), &games, orders, options.seed)?;
                (centred(skills.mean), Some(skills.deviation))
            }
            _ => (options.strengths(&counts, &comparisons.games)?, None),
        };
        Ok(Self {
            options,
            counts,
            fit,
            strengths,
            deviations,
        })
    }

    fn resampled(
        &self,
        comparisons: &Comparisons,
        all: &Counts,
        done: impl Fn() + Sync,
    ) -> Result<Option<Bootstrap>> {
        let options = self.options;
        if options.bootstrap == 0 {
            return Ok(None);
        }
        let refit = |counts: &Counts| match &self.fit {
            Some(fit) => bradley_terry::fit(counts, options.ties, options.prior, Some(fit))
                .map(|fit| centred(fit.theta)),
            None => options.strengths(counts, &[]),
        };
        bootstrap::bootstrap(
            comparisons,
            all,
            options.bootstrap,
            options.seed,
            refit,
            done,
        )
        .map(Some)
    }

    /// Expected score of item `i` against `j`, a tie being half a win.
    fn expected(&self, i: usize, j: usize) -> f64 {
        match &self.fit {
            Some(fit) => {
                let [win, _, tie] = fit.probabilities(i, j);
                win + 0.5 * tie
            }
            None => sigmoid(self.strengths[i] - self.strengths[j]),
        }
    }

    fn predicts(&self) -> bool {
        self.options.method != Method::WinRate
    }

    fn calibration(&self) -> Option<Calibration> {
        self.predicts()
            .then(|| calibration(&self.counts, |i, j| self.expected(i, j)))
    }

    /// Mean expected score against every other item.
    fn against_field(&self) -> Vec<f64> {
        let n = self.counts.items();
        if !self.predicts() {
            return self.strengths.clone();
        }
        let mean = |i| {
            let others = (0..n).filter(|&j| j != i);
            others.map(|j| self.expected(i, j)).sum::<f64>() / (n - 1) as f64
        };
        (0..n).into_par_iter().map(mean).collect()
    }

    fn intervals(&self, resampled: Option<&Bootstrap>) -> Result<Option<Vec<[f64; 2]>>> {
        let n = self.counts.items();
        if let Some(resampled) = resampled {
            let intervals = (0..n).into_par_iter().map(|item| resampled.interval(item));
            return Ok(Some(intervals.collect()));
        }
        let around = |(strength, error): (&f64, f64)| {
            [
                strength - TWO_SIDED_95 * error,
                strength + TWO_SIDED_95 * error,
            ]
        };
        let Some(fit) = &self.fit else {
            let own = self.deviations.clone();
            return Ok(own.map(|own| self.strengths.iter().zip(own).map(around).collect()));
        };
        let errors = match self.options.errors {
            Errors::Default if n > DENSE_ITEMS => return Ok(None),
            Errors::None => return Ok(None),
            Errors::Default | Errors::Wald => standard_errors::wald(&self.counts, fit)?,
            Errors::Sandwich => standard_errors::sandwich(&self.counts, fit)?,
        };
        Ok(Some(
            self.strengths.iter().zip(errors).map(around).collect(),
        ))
    }
}

impl Options {
    fn check(&self, comparisons: &Comparisons) -> Result<()> {
        let ordered = match self.method {
            Method::Elo { .. } => Some("Elo"),
            Method::TrueSkill { .. } => Some("TrueSkill"),
            _ => None,
        };
        let mut problems = Vec::new();
        if self.method != Method::BradleyTerry && self.ties.has_parameter() {
            problems.push("a model of ties needs `--method bradley-terry`".to_owned());
        }
        if let Some(name) = ordered.filter(|_| self.bootstrap > 0) {
            problems.push(format!(
                "{name} is averaged over orders and not resampled: leave `--bootstrap` out"
            ));
        }
        if self.method == Method::WinRate && self.anchor.is_some() {
            problems.push("win rates have no Elo to anchor".to_owned());
        }
        if self.ties != Ties::Half && comparisons.are_ties() {
            problems.push(
                "every comparison is a tie: only `--ties half` ranks them, all items alike"
                    .to_owned(),
            );
        }
        if let Some((name, elo)) = &self.anchor {
            if !comparisons.items.contains(name) {
                problems.push(format!("`--anchor`: there is no item `{name}`"));
            }
            if !elo.is_finite() {
                problems.push(format!("`--anchor`: an Elo of {elo}"));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Config { problems })
        }
    }

    /// The games without ties, where these are dropped.
    fn kept(&self, games: &[Game]) -> Vec<Game> {
        let keep = |game: &&Game| self.ties != Ties::Drop || game.outcome != Outcome::Tie;
        games.iter().filter(keep).copied().collect()
    }

    /// Strengths by a method other than Bradley-Terry and TrueSkill.
    fn strengths(&self, counts: &Counts, games: &[Game]) -> Result<Vec<f64>> {
        let dropped;
        let counts = match self.ties {
            Ties::Drop => {
                dropped = counts.without_ties();
                &dropped
            }
            _ => counts,
        };
        Ok(match self.method {
            Method::Elo { k, orders } => {
                let games = self.kept(games);
                let ratings = elo::averaged(counts.items(), &games, k, orders, self.seed)?;
                let logit = |rating: f64| (rating - 1000.0) * std::f64::consts::LN_10 / 400.0;
                ratings.mean.into_iter().map(logit).collect()
            }
            Method::Centrality => {
                let shares = rank_centrality(counts)?;
                centred(shares.into_iter().map(f64::ln).collect())
            }
            Method::WinRate | Method::BradleyTerry | Method::TrueSkill { .. } => {
                counts.average_win_rates()
            }
        })
    }

    /// The shift of every Elo; none where there is no such scale.
    fn elo_shift(&self, comparisons: &Comparisons, strengths: &[f64]) -> Result<Option<f64>> {
        if self.method == Method::WinRate {
            return Ok(None);
        }
        let Some((name, elo)) = &self.anchor else {
            return Ok(Some(0.0));
        };
        let item = comparisons.items.iter().position(|item| item == name);
        let item = item.ok_or_else(|| Error::config(format!("there is no item `{name}`")))?;
        Ok(Some(elo - bradley_terry::elo(strengths[item])))
    }
}

impl FitSummary {
    fn new(fit: &Fit) -> Self {
        Self {
            converged: true,
            iterations: fit.iterations,
            gradient: fit.gradient,
            log_likelihood: fit.log_likelihood,
            nu: fit.nu,
            prior: fit.prior,
        }
    }
}

struct Table<'a> {
    items: &'a [String],
    strengths: &'a [f64],
    against_field: Vec<f64>,
    intervals: Option<Vec<[f64; 2]>>,
    games: Vec<f64>,
    component: Vec<usize>,
    elo_shift: Option<f64>,
}

impl Table<'_> {
    fn standings(&self, resampled: Option<&Bootstrap>) -> Vec<Standing> {
        let ranks = bootstrap::ranks(self.strengths);
        let resampled_ranks = resampled.map(Bootstrap::ranks);
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by_key(|&item| (ranks[item], &self.items[item]));
        let row = |(place, &item): (usize, &usize)| Standing {
            rank: ranks[item],
            item: self.items[item].clone(),
            strength: self.strengths[item],
            elo: self
                .elo_shift
                .map(|shift| bradley_terry::elo(self.strengths[item]) + shift),
            interval: self.intervals.as_ref().map(|intervals| intervals[item]),
            rank_interval: resampled_ranks.as_ref().map(|ranks| ranks.interval(item)),
            probability_best: resampled_ranks.as_ref().map(|ranks| ranks.best(item)),
            probability_above_next: order
                .get(place + 1)
                .and_then(|&next| resampled.map(|resampled| resampled.above(item, next))),
            win_probability: self.against_field[item],
            games: self.games[item],
            component: self.component[item],
        };
        order
            .par_iter()
            .enumerate()
            .map(|(place, item)| row((place, item)))
            .collect()
    }
}

fn centred(strengths: Vec<f64>) -> Vec<f64> {
    let mean = strengths.iter().sum::<f64>() / strengths.len() as f64;
    strengths
        .into_iter()
        .map(|strength| strength - mean)
        .collect()
}

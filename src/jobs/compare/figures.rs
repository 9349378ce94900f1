//! What a session says: how far judges agree with themselves and with each other, which side they prefer, how often a run
//! wins, and which of a prompt's images is the best.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::items::{Content, Items};
use super::order::{counts, counts_of};
use super::records::Choice;
use super::said::{Game, Said, games};
use super::session::Session;
use crate::error::Result;
use crate::ops::statistics::quantile;
use crate::ranking::agreement::{nominal_alpha, wilson};
use crate::ranking::bradley_terry::{self, Prior};
use crate::ranking::counts::Counts;
use crate::ranking::{Ties, posterior, win_rate};

/// Share of true values inside the intervals.
pub const LEVEL: f64 = 0.95;

/// The figures of a session.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Of each judge.
    pub judges: Vec<OfJudge>,
    /// Krippendorff's alpha over the pairs that several judges saw; none where nothing could have disagreed.
    pub alpha: Option<f64>,
    /// Pairs that several judges saw.
    pub shared: usize,
    /// Of each source beside the first one; empty where there is but one.
    pub sources: Vec<OfSource>,
}

/// The figures of a judge.
#[derive(Clone, Debug, Serialize)]
pub struct OfJudge {
    /// Who.
    pub judge: String,
    /// Keys that were not taken back.
    pub keys: usize,
    /// Of these, ties, those of two bad ones included.
    pub ties: usize,
    /// Of these, ties of two bad ones.
    pub both_bad: usize,
    /// Pairs of which nothing was said.
    pub skipped: usize,
    /// Pairs that came again, with sides exchanged, and were decided again.
    pub repeats: usize,
    /// Of these, those that were decided as before.
    pub same: usize,
    /// Of these, those in which the other item won now.
    pub flips: usize,
    /// Share of `same`.
    pub self_agreement: Option<Share>,
    /// Share of the left one among pairs without ties; one half is without bias.
    pub left: Option<Share>,
    /// Seconds for a pair, the median.
    pub seconds: Option<f64>,
}

/// A share with the interval of 95 %.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// The share.
    pub share: f64,
    /// Its lower and upper end.
    pub interval: [f64; 2],
    /// How many it is of.
    pub of: usize,
}

/// How a source fares against the first one.
#[derive(Clone, Debug, Serialize)]
pub struct OfSource {
    /// The source.
    pub name: String,
    /// The one that it is compared with.
    pub against: String,
    /// Match-ups that it won, by the judges' first answers; of two judges each counts one half.
    pub wins: f64,
    /// Match-ups that neither won.
    pub ties: f64,
    /// Match-ups that it lost.
    pub losses: f64,
    /// Share of match-ups won, a tie being half a win.
    pub win_rate: Option<f64>,
    /// Its interval, which holds at whatever number of match-ups one stops.
    pub interval: [f64; 2],
    /// `true` if the interval leaves out one half.
    pub settled: bool,
}

/// The items of a prompt, or the sources, by how strong they are.
#[derive(Clone, Debug, Serialize)]
pub struct Ranking {
    /// The prompt; none where sources are ranked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The best one first.
    pub standings: Vec<Standing>,
}

/// One item's place.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// Its file, or the source.
    pub item: String,
    /// Strength in logits; the mean of all is zero.
    pub strength: f64,
    /// The interval of 95 %, of the posterior.
    pub interval: [f64; 2],
    /// Games it took part in.
    pub games: f64,
}

impl Figures {
    /// Of all that was said so far.
    pub fn of(session: &Session) -> Self {
        let said = session.said();
        let mut judges: Vec<&str> = vec![session.judge()];
        for one in said {
            if !judges.contains(&one.judge.as_str()) {
                judges.push(&one.judge);
            }
        }
        let items = session.items();
        let (alpha, shared) = alpha(items, said, &judges);
        let rest = 1..items.sources.len();
        Self {
            judges: judges.iter().map(|judge| of_judge(judge, said)).collect(),
            alpha,
            shared,
            sources: rest.map(|source| of_source(source, items, said)).collect(),
        }
    }

    /// `true` if every source is known to be better or worse than the first.
    pub fn settled(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(|source| source.settled)
    }
}

fn of_judge(judge: &str, said: &[Said]) -> OfJudge {
    let own: Vec<&Said> = said.iter().filter(|one| one.judge == judge).collect();
    let count = |choice: Choice| own.iter().filter(|one| one.choice == choice).count();
    let first: HashMap<_, &Said> = own
        .iter()
        .filter(|one| !one.pair.repeat)
        .map(|one| (one.pair.key(), *one))
        .collect();
    let (mut repeats, mut same, mut flips) = (0, 0, 0);
    for again in own
        .iter()
        .filter(|one| one.pair.repeat && one.outcome().is_some())
    {
        let Some(before) = first
            .get(&again.pair.key())
            .filter(|before| before.outcome().is_some())
        else {
            continue;
        };
        repeats += 1;
        same += usize::from(before.winner() == again.winner());
        flips += usize::from(
            before.winner().is_some()
                && again.winner().is_some()
                && before.winner() != again.winner(),
        );
    }
    let (left, right) = (count(Choice::Left), count(Choice::Right));
    let mut seconds: Vec<f64> = own.iter().map(|one| one.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    OfJudge {
        judge: judge.to_owned(),
        keys: own.len(),
        ties: count(Choice::Tie) + count(Choice::BothBad),
        both_bad: count(Choice::BothBad),
        skipped: count(Choice::Skip),
        repeats,
        same,
        flips,
        self_agreement: share(same, repeats),
        left: share(left, left + right),
        seconds: (!seconds.is_empty()).then(|| quantile(&seconds, 0.5)),
    }
}

fn share(part: usize, of: usize) -> Option<Share> {
    let interval = wilson(part, of)?;
    Some(Share {
        share: part as f64 / of as f64,
        interval,
        of,
    })
}

/// Of each pair what every judge said first: one item, the other one, or neither. Which of the two is called the first follows
/// from hashes: in the order of their names the better one may often be the later one, which would look as if all judges had
/// a habit.
fn alpha(items: &Items, said: &[Said], judges: &[&str]) -> (Option<f64>, usize) {
    let mut units: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for judge in judges {
        let own = said
            .iter()
            .filter(|one| one.judge == *judge && !one.pair.repeat);
        for one in own.filter(|one| one.outcome().is_some()) {
            let key = one.pair.key();
            let id = |item: usize| &items.items[item].id;
            let first = id(key.0).min(id(key.1));
            let value = match one.winner() {
                Some(winner) if id(winner) == first => 0,
                Some(_) => 1,
                None => 2,
            };
            units.entry(key).or_default().push(value);
        }
    }
    let units: Vec<Vec<usize>> = units.into_values().collect();
    let shared = units.iter().filter(|values| values.len() > 1).count();
    (nominal_alpha(&units), shared)
}

fn of_source(source: usize, items: &Items, said: &[Said]) -> OfSource {
    // Of each match-up with the first source the share that this one won, the mean over judges.
    let mut order = Vec::new();
    let mut scores: HashMap<(usize, usize), Vec<f64>> = HashMap::new();
    for one in said.iter().filter(|one| !one.pair.repeat) {
        let Some(outcome) = one.outcome() else {
            continue;
        };
        let sides = [one.pair.left, one.pair.right].map(|item| items.items[item].source);
        let score = match sides {
            [0, right] if right == source => 1.0 - outcome.score(),
            [left, 0] if left == source => outcome.score(),
            _ => continue,
        };
        let scores = scores.entry(one.pair.key()).or_default();
        if scores.is_empty() {
            order.push(one.pair.key());
        }
        scores.push(score);
    }
    let share = |value: f64| -> f64 {
        let shares = scores.values().map(|scores| {
            let equal = scores
                .iter()
                .filter(|score| score.total_cmp(&value).is_eq());
            equal.count() as f64 / scores.len() as f64
        });
        shares.sum()
    };
    let mean = |scores: &Vec<f64>| scores.iter().sum::<f64>() / scores.len() as f64;
    let values: Vec<f64> = order.iter().map(|key| mean(&scores[key])).collect();
    let interval = win_rate::interval(&values, LEVEL);
    OfSource {
        name: items.sources[source].clone(),
        against: items.sources[0].clone(),
        wins: share(1.0),
        ties: share(0.5),
        losses: share(0.0),
        win_rate: (!values.is_empty()).then(|| mean(&values)),
        interval,
        settled: interval[0] > 0.5 || interval[1] < 0.5,
    }
}

/// The ranking of each prompt's items, or of the sources, by all that was said; none of prompts without a game.
///
/// # Errors
/// Strengths cannot be fitted.
pub fn rankings(session: &Session) -> Result<Vec<Ranking>> {
    let items = session.items();
    let played = games(session.said().iter());
    if items.compares_sources() {
        if played.is_empty() {
            return Ok(Vec::new());
        }
        let source = |item: usize| items.items[item].source;
        let sides = |game: &'_ Game| (source(game.said.pair.left), source(game.said.pair.right));
        let between = played.iter().map(|game| {
            let (left, right) = sides(game);
            (game, left, right)
        });
        let standings = standings(&counts(items.sources.len(), between)?, &items.sources)?;
        return Ok(vec![Ranking {
            prompt: None,
            standings,
        }]);
    }
    let mut rankings = Vec::new();
    for group in &items.groups {
        let counts = counts_of(&played, &group.items)?;
        if counts.pairs().is_empty() {
            continue;
        }
        let name = |(place, &item): (usize, &usize)| match &items.items[item].content {
            Content::Image { .. } => items.items[item].path.to_string_lossy().into_owned(),
            Content::Answer(answer) => answer
                .words()
                .map_or_else(|| format!("answer {}", place + 1), str::to_owned),
        };
        let names: Vec<String> = group.items.iter().enumerate().map(name).collect();
        rankings.push(Ranking {
            prompt: Some(group.prompt.words().unwrap_or_default().to_owned()),
            standings: standings(&counts, &names)?,
        });
    }
    Ok(rankings)
}

fn standings(counts: &Counts, names: &[String]) -> Result<Vec<Standing>> {
    let fit = bradley_terry::fit(counts, Ties::Half, Prior::default(), None)?;
    let intervals = posterior::intervals(counts, &fit, LEVEL)?;
    let mean = fit.theta.iter().sum::<f64>() / fit.theta.len() as f64;
    let games = counts.games();
    let rows = fit.theta.iter().zip(intervals).zip(names).zip(games);
    let mut standings: Vec<Standing> = rows
        .map(|(((theta, interval), name), games)| Standing {
            item: name.clone(),
            strength: theta - mean,
            interval,
            games,
        })
        .collect();
    standings.sort_by(|one, other| other.strength.total_cmp(&one.strength));
    Ok(standings)
}

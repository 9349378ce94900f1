//! Which answers of a pool are learnt from beside each other. Plain numbers.

use super::pool::Pool;

/// How much better the preferred answer of a pair has to be. Numbers that are not given are not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Margins {
    /// The win probabilities differ by more than this.
    pub min_gap: f64,
    /// Least reward of the preferred answer.
    pub min_reward: Option<f64>,
    /// Least difference of the rewards.
    pub reward_gap: Option<f64>,
    /// The same where the preferred answer is the policy's own.
    pub own_reward_gap: Option<f64>,
}

/// An answer's place among the others of its pool, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentiles {
    /// Least share of the others than which a preferred answer is not worse.
    pub positive: f64,
    /// Largest share of the others than which a rejected answer is better.
    pub negative: f64,
}

/// Answers to one prompt that a record may have.
#[derive(Clone, Debug)]
pub struct Candidates {
    pool: Pool,
    /// Those that may be part of a record.
    among: Vec<usize>,
    /// Those that are never preferred.
    spoilt: Vec<usize>,
    /// The one that is not the policy's.
    gold: Option<usize>,
    margins: Margins,
}

impl Candidates {
    /// The answers `among` a pool. Those that are `spoilt` count as its worst whatever the judge says of them, `gold` is the
    /// one that the policy has not written.
    pub fn new(
        mut pool: Pool,
        among: Vec<usize>,
        spoilt: Vec<usize>,
        gold: Option<usize>,
        margins: Margins,
    ) -> Self {
        for numbers in [&mut pool.wins, &mut pool.rewards, &mut pool.log_odds] {
            let lowest = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            for &place in &spoilt {
                numbers[place] = lowest;
            }
        }
        Self {
            pool,
            among,
            spoilt,
            gold,
            margins,
        }
    }

    /// The numbers of all answers of the pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The answers that may be part of a record.
    pub fn among(&self) -> &[usize] {
        &self.among
    }

    /// The best and the worst answer, where they are far enough from each other. Of equals the first one is taken,
    /// whichever end is looked for.
    pub fn best_worst(&self) -> Option<(usize, usize)> {
        let better = |one: &usize, other: &usize| {
            let whole = |place: &usize| !self.spoilt.contains(place);
            let by_wins = self.pool.wins[*one].total_cmp(&self.pool.wins[*other]);
            whole(one).cmp(&whole(other)).then(by_wins)
        };
        let best = self.among.iter().copied().rev().max_by(better)?;
        let worst = self.among.iter().copied().min_by(better)?;
        self.fits(best, worst).then_some((best, worst))
    }

    /// All pairs that are far enough from each other, the better answer first.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let all = self
            .among
            .iter()
            .flat_map(|&one| self.among.iter().map(move |&other| (one, other)));
        all.filter(|&(one, other)| self.fits(one, other)).collect()
    }

    /// Those of [`Self::pairs`] whose answers have these places in the pool. A spoilt one is rejected at any.
    pub fn far_apart(&self, percentiles: Percentiles) -> Vec<(usize, usize)> {
        let mut pairs = self.pairs();
        pairs.retain(|&(chosen, rejected)| {
            let above = |other: f64| self.pool.wins[chosen] >= other;
            let below = |other: f64| self.pool.wins[rejected] > other;
            self.share_of_others(chosen, above) >= percentiles.positive
                && (self.spoilt.contains(&rejected)
                    || self.share_of_others(rejected, below) <= percentiles.negative)
        });
        pairs
    }

    fn share_of_others(&self, place: usize, holds: impl Fn(f64) -> bool) -> f64 {
        let others = self.among.iter().filter(|&&other| other != place);
        let wins: Vec<f64> = others.map(|&other| self.pool.wins[other]).collect();
        let count = wins.iter().filter(|&&wins| holds(wins)).count();
        count as f64 / wins.len() as f64
    }

    /// `true` if these two are far enough from each other. Nothing is asked of a rejected answer that is spoilt.
    fn fits(&self, chosen: usize, rejected: usize) -> bool {
        let Margins {
            min_gap,
            min_reward,
            reward_gap,
            own_reward_gap,
        } = self.margins;
        let spoilt = |place: usize| self.spoilt.contains(&place);
        let (rewards, wins) = (&self.pool.rewards, &self.pool.wins);
        if spoilt(chosen) || min_reward.is_some_and(|least| rewards[chosen] < least) {
            return false;
        }
        if spoilt(rejected) {
            return true;
        }
        let own = own_reward_gap.filter(|_| self.gold != Some(chosen));
        let gap = rewards[chosen] - rewards[rejected];
        wins[chosen] - wins[rejected] > min_gap
            && own.or(reward_gap).is_none_or(|least| gap >= least)
    }
}

//! All objectives of language models as a table: their names, the columns that they are functions of, their numbers with
//! ranges and defaults. `preftune loss` reads the columns from a file; training computes them.

use tch::Tensor;

use super::brain::{SampleLogps, brain};
use super::dno::{dno, dno_prct};
use super::dpo::{cdpo, dpo, hinge, rdpo};
use super::f_dpo::{Divergence, EXPONENT_CAP, f_dpo};
use super::gpo::{TARGET_CLAMP, gpo, gpo_length_normalised};
use super::inpo::{inpo, inpo_expected};
use super::ipo::ipo;
use super::kto::{kto, reference_point};
use super::odds::{asft, orpo};
use super::pair::{Pair, PairLogps, mean};
use super::pro::{Gaps, RankedLogps, pro, pro_sft};
use super::sft::sft;
use super::simpo::simpo;
use super::sppo::{sppo, sppo_hard};
use super::tdpo::{tdpo1, tdpo2};

/// The kind of number that a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A log-probability, at most 0.
    LogProbability,
    /// A number of tokens.
    Length,
    /// 0 to 1.
    Probability,
    /// A divergence, at least 0.
    Divergence,
    /// Any finite number.
    Score,
    /// True or false.
    Truth,
    /// Rewards of a list, not all the same.
    Ranking,
}

/// The quantity in a column. Training matches all of them, so that a new one does not compile before it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Of one side of a pair.
    Pair(PairQuantity, Side),
    /// Log-probs of the policy.
    Policy,
    /// Log-probs of the reference.
    Reference,
    /// Numbers of tokens.
    Length,
    /// Marks of desirable answers.
    Desirable,
    /// Log-ratios of prompts with other prompts' answers.
    Mismatched,
    /// Log-probs of a list under the reference.
    Prior,
    /// Log-probs of samples under the policy that wrote them.
    Proposal,
    /// Rewards of a list.
    Reward,
}

/// A quantity of both answers of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairQuantity {
    /// Log-probs of the policy.
    Policy,
    /// Log-probs of the reference.
    Reference,
    /// Log-probs of the previous iterate.
    Previous,
    /// Token divergences from the reference.
    TokenKl,
    /// Numbers of tokens.
    Length,
    /// Probabilities to win.
    Win,
    /// Scores.
    Score,
}

/// A side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The preferred answer.
    Chosen,
    /// The other one.
    Rejected,
}

impl Quantity {
    /// Its name in files and messages.
    pub const fn name(self) -> &'static str {
        use PairQuantity::{Length, Policy, Previous, Reference, Score, TokenKl, Win};
        use Side::{Chosen, Rejected};
        match self {
            Self::Pair(Policy, Chosen) => "policy_chosen",
            Self::Pair(Policy, Rejected) => "policy_rejected",
            Self::Pair(Reference, Chosen) => "reference_chosen",
            Self::Pair(Reference, Rejected) => "reference_rejected",
            Self::Pair(Previous, Chosen) => "previous_chosen",
            Self::Pair(Previous, Rejected) => "previous_rejected",
            Self::Pair(TokenKl, Chosen) => "token_kl_chosen",
            Self::Pair(TokenKl, Rejected) => "token_kl_rejected",
            Self::Pair(Length, Chosen) => "length_chosen",
            Self::Pair(Length, Rejected) => "length_rejected",
            Self::Pair(Win, Chosen) => "win_chosen",
            Self::Pair(Win, Rejected) => "win_rejected",
            Self::Pair(Score, Chosen) => "score_chosen",
            Self::Pair(Score, Rejected) => "score_rejected",
            Self::Policy => "policy",
            Self::Reference => "reference",
            Self::Length => "length",
            Self::Desirable => "desirable",
            Self::Mismatched => "mismatched",
            Self::Prior => "prior",
            Self::Proposal => "proposal",
            Self::Reward => "reward",
        }
    }
}

/// An input of an objective, one number for each response.
pub struct Column {
    /// The quantity that it holds.
    pub quantity: Quantity,
    /// Its name: `policy_chosen`, `length_rejected`.
    pub name: &'static str,
    /// The kind of its values.
    pub holds: Holds,
    /// `true` if it comes from the policy: the gradient for it is shown.
    pub policy: bool,
}

/// The flags that set an objective's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each is explained where the user sets it")]
pub enum Flag {
    Beta,
    Tau,
    Eta,
    Alpha,
    LabelSmoothing,
    Gamma,
    GammaBetaRatio,
    Lambda,
    SftWeight,
    ExponentCap,
    TargetClamp,
    LengthExponent,
    DesirableWeight,
    UndesirableWeight,
    TargetScale,
}

/// The range of a number of an objective.
#[derive(Clone, Copy)]
pub enum Range {
    /// Above 0.
    Positive,
    /// 0 or more.
    NotNegative,
    /// 0 to 1.
    Unit,
    /// 0 to below one half.
    Smoothing,
    /// 0 to the objective's first number.
    UpToFirst,
}

/// A number of an objective.
pub struct Scalar {
    /// Which one.
    pub flag: Flag,
    /// Its range.
    pub range: Range,
    /// Default, given the numbers before it.
    pub default: fn(&[f64]) -> f64,
}

/// An objective.
pub struct Objective {
    /// Its name in configurations and flags.
    pub name: &'static str,
    /// `true` if a cell is a list, one entry for each response to a prompt.
    pub lists: bool,
    /// Its inputs.
    pub columns: &'static [Column],
    /// Its numbers.
    pub scalars: &'static [Scalar],
    /// `true` if a pair can ask for a margin of its own, in units of the scaled margin `beta h`: the loss is then that
    /// of `beta h - margin` (DPO with an offset, Amini et al. 2024, arXiv 2402.10571, equation 8).
    pub margin: bool,
    /// Columns (`[b]`, or `[1, n]` of lists) and numbers, in the order above, to losses `[b]`.
    pub loss: fn(&[Tensor], &[f64]) -> Tensor,
}

impl Objective {
    /// Losses as [`Self::loss`], of pairs that ask for a margin each (`[b]`, see [`Self::margin`]): the chosen answer counts
    /// for less by what its margin is worth in log-probs.
    pub fn loss_beyond(&self, margins: &Tensor, columns: &[Tensor], numbers: &[f64]) -> Tensor {
        let place = |quantity| {
            let mut columns = self.columns.iter();
            columns.position(|known| known.quantity == quantity)
        };
        let mut columns: Vec<Tensor> = columns.iter().map(Tensor::shallow_clone).collect();
        // The first number scales log-ratios, or means over tokens.
        let mut less = margins / numbers[0];
        if let Some(length) = place(Quantity::Pair(PairQuantity::Length, Side::Chosen)) {
            less *= &columns[length];
        }
        if let Some(chosen) = place(Quantity::Pair(PairQuantity::Policy, Side::Chosen)) {
            columns[chosen] = &columns[chosen] - less;
        }
        (self.loss)(&columns, numbers)
    }
}

const fn policy(quantity: Quantity) -> Column {
    Column {
        quantity,
        name: quantity.name(),
        holds: Holds::LogProbability,
        policy: true,
    }
}

const fn given(quantity: Quantity, holds: Holds) -> Column {
    Column {
        quantity,
        name: quantity.name(),
        holds,
        policy: false,
    }
}

const fn frozen(quantity: Quantity) -> Column {
    given(quantity, Holds::LogProbability)
}

const fn divergence(quantity: Quantity) -> Column {
    Column {
        quantity,
        name: quantity.name(),
        holds: Holds::Divergence,
        policy: true,
    }
}

const fn scalar(flag: Flag, range: Range, default: fn(&[f64]) -> f64) -> Scalar {
    Scalar {
        flag,
        range,
        default,
    }
}

/// The columns of a pair with a reference and what follows them.
macro_rules! pair_and {
    ($($more:expr),*) => {
        &[
            policy(Quantity::Pair(PairQuantity::Policy, Side::Chosen)),
            policy(Quantity::Pair(PairQuantity::Policy, Side::Rejected)),
            frozen(Quantity::Pair(PairQuantity::Reference, Side::Chosen)),
            frozen(Quantity::Pair(PairQuantity::Reference, Side::Rejected)),
            $($more),*
        ]
    };
}

const PAIR: &[Column] = pair_and!();
const LENGTHS: &[Column] = pair_and!(
    given(
        Quantity::Pair(PairQuantity::Length, Side::Chosen),
        Holds::Length
    ),
    given(
        Quantity::Pair(PairQuantity::Length, Side::Rejected),
        Holds::Length
    )
);
const WINS: &[Column] = pair_and!(
    given(
        Quantity::Pair(PairQuantity::Win, Side::Chosen),
        Holds::Probability
    ),
    given(
        Quantity::Pair(PairQuantity::Win, Side::Rejected),
        Holds::Probability
    )
);
const SCORES: &[Column] = pair_and!(
    given(
        Quantity::Pair(PairQuantity::Score, Side::Chosen),
        Holds::Score
    ),
    given(
        Quantity::Pair(PairQuantity::Score, Side::Rejected),
        Holds::Score
    )
);
const SCORES_AND_LENGTHS: &[Column] = pair_and!(
    given(
        Quantity::Pair(PairQuantity::Score, Side::Chosen),
        Holds::Score
    ),
    given(
        Quantity::Pair(PairQuantity::Score, Side::Rejected),
        Holds::Score
    ),
    given(
        Quantity::Pair(PairQuantity::Length, Side::Chosen),
        Holds::Length
    ),
    given(
        Quantity::Pair(PairQuantity::Length, Side::Rejected),
        Holds::Length
    )
);
const DIVERGENCES: &[Column] = pair_and!(
    divergence(Quantity::Pair(PairQuantity::TokenKl, Side::Chosen)),
    divergence(Quantity::Pair(PairQuantity::TokenKl, Side::Rejected))
);
const PREVIOUS: &[Column] = pair_and!(
    frozen(Quantity::Pair(PairQuantity::Previous, Side::Chosen)),
    frozen(Quantity::Pair(PairQuantity::Previous, Side::Rejected))
);
const PREVIOUS_AND_WINS: &[Column] = pair_and!(
    frozen(Quantity::Pair(PairQuantity::Previous, Side::Chosen)),
    frozen(Quantity::Pair(PairQuantity::Previous, Side::Rejected)),
    given(
        Quantity::Pair(PairQuantity::Win, Side::Chosen),
        Holds::Probability
    ),
    given(
        Quantity::Pair(PairQuantity::Win, Side::Rejected),
        Holds::Probability
    )
);
const MEANS: &[Column] = &[
    policy(Quantity::Pair(PairQuantity::Policy, Side::Chosen)),
    policy(Quantity::Pair(PairQuantity::Policy, Side::Rejected)),
    given(
        Quantity::Pair(PairQuantity::Length, Side::Chosen),
        Holds::Length,
    ),
    given(
        Quantity::Pair(PairQuantity::Length, Side::Rejected),
        Holds::Length,
    ),
];
const KTO: &[Column] = &[
    policy(Quantity::Policy),
    frozen(Quantity::Reference),
    given(Quantity::Desirable, Holds::Truth),
    given(Quantity::Mismatched, Holds::Score),
];
const SFT: &[Column] = &[
    policy(Quantity::Policy),
    given(Quantity::Length, Holds::Length),
];
const PRO: &[Column] = &[
    policy(Quantity::Policy),
    given(Quantity::Length, Holds::Length),
    given(Quantity::Reward, Holds::Ranking),
];
const BRAIN: &[Column] = &[
    policy(Quantity::Policy),
    frozen(Quantity::Prior),
    frozen(Quantity::Proposal),
    given(Quantity::Reward, Holds::Score),
];

const BETA: Scalar = scalar(Flag::Beta, Range::Positive, |_| 0.1);
const BETA_OF_TARGETS: Scalar = scalar(Flag::Beta, Range::Positive, |_| 0.001);
const TAU: Scalar = scalar(Flag::Tau, Range::Positive, |_| 0.1);
const ETA: Scalar = scalar(Flag::Eta, Range::Positive, |_| 0.1);
const SMOOTHING: Scalar = scalar(Flag::LabelSmoothing, Range::Smoothing, |_| 0.1);
const CAP: Scalar = scalar(Flag::ExponentCap, Range::Positive, |_| EXPONENT_CAP);
const CLAMP: Scalar = scalar(Flag::TargetClamp, Range::Positive, |_| TARGET_CLAMP);
const ETA_OF_INPO: Scalar = scalar(Flag::Eta, Range::Positive, |_| 0.005);
const TAU_OF_INPO: Scalar = scalar(Flag::Tau, Range::UpToFirst, |before| before[0] / 3.0);

fn pair(columns: &[Tensor]) -> PairLogps {
    PairLogps {
        policy_chosen: columns[0].shallow_clone(),
        policy_rejected: columns[1].shallow_clone(),
        reference_chosen: columns[2].shallow_clone(),
        reference_rejected: columns[3].shallow_clone(),
    }
}

/// Two neighbouring columns.
fn both(columns: &[Tensor], first: usize) -> Pair {
    Pair {
        chosen: columns[first].shallow_clone(),
        rejected: columns[first + 1].shallow_clone(),
    }
}

fn means(columns: &[Tensor]) -> Pair {
    both(columns, 0).mean(&both(columns, 2))
}

const fn objective(
    name: &'static str,
    columns: &'static [Column],
    scalars: &'static [Scalar],
    loss: fn(&[Tensor], &[f64]) -> Tensor,
) -> Objective {
    Objective {
        name,
        lists: false,
        columns,
        scalars,
        margin: false,
        loss,
    }
}

const fn of_lists(
    name: &'static str,
    columns: &'static [Column],
    scalars: &'static [Scalar],
    loss: fn(&[Tensor], &[f64]) -> Tensor,
) -> Objective {
    Objective {
        name,
        lists: true,
        columns,
        scalars,
        margin: false,
        loss,
    }
}

/// One that takes margins of pairs.
const fn with_margin(mut objective: Objective) -> Objective {
    objective.margin = true;
    objective
}

/// All objectives, by their names.
pub const OBJECTIVES: &[Objective] = &[
    with_margin(objective("dpo", PAIR, &[BETA], |c, s| dpo(&pair(c), s[0]))),
    with_margin(objective("cdpo", PAIR, &[BETA, SMOOTHING], |c, s| {
        cdpo(&pair(c), s[0], s[1])
    })),
    with_margin(objective("rdpo", PAIR, &[BETA, SMOOTHING], |c, s| {
        rdpo(&pair(c), s[0], s[1])
    })),
    with_margin(objective("hinge", PAIR, &[BETA], |c, s| {
        hinge(&pair(c), s[0])
    })),
    objective("ipo", LENGTHS, &[TAU], |c, s| {
        ipo(&pair(c), Some(&both(c, 4)), s[0])
    }),
    objective("ipo_sum", PAIR, &[TAU], |c, s| ipo(&pair(c), None, s[0])),
    objective("fdpo_reverse_kl", PAIR, &[BETA, CAP], |c, s| {
        f_dpo(&pair(c), Divergence::ReverseKl, s[0], s[1])
    }),
    objective("fdpo_forward_kl", PAIR, &[BETA, CAP], |c, s| {
        f_dpo(&pair(c), Divergence::ForwardKl, s[0], s[1])
    }),
    objective("fdpo_js", PAIR, &[BETA, CAP], |c, s| {
        f_dpo(&pair(c), Divergence::JensenShannon, s[0], s[1])
    }),
    objective(
        "fdpo_alpha",
        PAIR,
        &[BETA, CAP, scalar(Flag::Alpha, Range::Unit, |_| 0.5)],
        |c, s| f_dpo(&pair(c), Divergence::Alpha(s[2]), s[0], s[1]),
    ),
    with_margin(objective("tdpo1", DIVERGENCES, &[BETA], |c, s| {
        tdpo1(&pair(c), &both(c, 4), s[0])
    })),
    with_margin(objective(
        "tdpo2",
        DIVERGENCES,
        &[BETA, scalar(Flag::Alpha, Range::NotNegative, |_| 0.5)],
        |c, s| tdpo2(&pair(c), &both(c, 4), s[0], s[1]),
    )),
    objective("sppo", WINS, &[BETA_OF_TARGETS], |c, s| {
        sppo(&pair(c), &both(c, 4), s[0])
    }),
    objective("sppo_hard", PAIR, &[BETA_OF_TARGETS], |c, s| {
        sppo_hard(&pair(c), s[0])
    }),
    objective(
        "dno",
        WINS,
        &[ETA, scalar(Flag::TargetScale, Range::Positive, |_| 1.0)],
        |c, s| dno(&pair(c), &both(c, 4), s[0], s[1]),
    ),
    with_margin(objective("dno_prct", PAIR, &[ETA], |c, s| {
        dno_prct(&pair(c), s[0])
    })),
    objective("inpo", PREVIOUS, &[ETA_OF_INPO, TAU_OF_INPO], |c, s| {
        inpo(&pair(c), &both(c, 4), s[0], s[1])
    }),
    objective(
        "inpo_expected",
        PREVIOUS_AND_WINS,
        &[ETA_OF_INPO, TAU_OF_INPO],
        |c, s| inpo_expected(&pair(c), &both(c, 4), &both(c, 6), s[0], s[1]),
    ),
    objective("gpo", SCORES, &[BETA_OF_TARGETS, CLAMP], |c, s| {
        gpo(&pair(c), &both(c, 4), s[0], s[1])
    }),
    objective(
        "gpo_length_normalised",
        SCORES_AND_LENGTHS,
        &[
            BETA_OF_TARGETS,
            CLAMP,
            scalar(Flag::LengthExponent, Range::Unit, |_| 1.0),
        ],
        |c, s| gpo_length_normalised(&pair(c), &both(c, 6), &both(c, 4), s[0], s[1], s[2]),
    ),
    objective(
        "asft",
        MEANS,
        &[
            scalar(Flag::Lambda, Range::NotNegative, |_| 1.0),
            scalar(Flag::SftWeight, Range::NotNegative, |_| 1.0),
        ],
        |c, s| asft(&means(c), s[0], s[1]),
    ),
    objective(
        "orpo",
        MEANS,
        &[scalar(Flag::Lambda, Range::NotNegative, |_| 0.1)],
        |c, s| orpo(&means(c), s[0]),
    ),
    with_margin(objective(
        "simpo",
        MEANS,
        &[
            scalar(Flag::Beta, Range::Positive, |_| 2.0),
            scalar(Flag::GammaBetaRatio, Range::NotNegative, |_| 0.25),
        ],
        |c, s| simpo(&means(c), s[0], s[1]),
    )),
    objective(
        "kto",
        KTO,
        &[
            BETA,
            scalar(Flag::DesirableWeight, Range::Positive, |_| 1.0),
            scalar(Flag::UndesirableWeight, Range::Positive, |_| 1.0),
        ],
        |c, s| {
            let point = reference_point(&c[3]);
            kto(&(&c[0] - &c[1]), &c[2].gt(0.5), &point, s[0], s[1], s[2])
        },
    ),
    objective("sft", SFT, &[], |c, _| sft(&mean(&c[0], &c[1]))),
    of_lists(
        "pro",
        PRO,
        &[scalar(Flag::SftWeight, Range::NotNegative, |_| 0.05)],
        |c, s| {
            let list = RankedLogps {
                policy: c[0].shallow_clone(),
                lengths: c[1].shallow_clone(),
                rewards: c[2].shallow_clone(),
            };
            pro(&list, Gaps::Rewards) + pro_sft(&list, s[0], false)
        },
    ),
    of_lists(
        "brain",
        BRAIN,
        &[scalar(Flag::Gamma, Range::Positive, |_| 1.0)],
        |c, s| {
            let samples = SampleLogps {
                policy: c[0].shallow_clone(),
                prior: c[1].shallow_clone(),
                proposal: c[2].shallow_clone(),
            };
            brain(&samples, &c[3], s[0])
        },
    ),
];

/// TRL's names of some of them.
pub const ALIASES: &[(&str, &str)] = &[("sigmoid", "dpo"), ("robust", "rdpo")];

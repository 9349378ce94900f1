//! Names that other tools and papers use, of objectives and of their numbers.

use super::objectives::Flag;

/// Objectives of other tools that are none of these, by their names there, and what to do instead.
pub(super) const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &[
            "exo_pair",
            "exo",
            "nca_pair",
            "nca",
            "bco_pair",
            "bco",
            "aot",
            "aot_unpaired",
            "aot_pair",
            "apo",
            "apo_zero",
            "apo_down",
            "cpo",
            "discopop",
            "sigmoid_norm",
            "chosen_nll",
            "gkd",
            "prm",
        ],
        "an objective of other tools, which preftune has not",
    ),
    (
        &[
            "ppo",
            "grpo",
            "rloo",
            "online_dpo",
            "xpo",
            "nash_md",
            "reinforce",
        ],
        "an objective on a policy's own answers: `preftune rounds` learns from those, by `sppo`, `inpo`, `gpo`, `dno`, `brain` or \
         any other of its objectives",
    ),
    (
        &["rm", "reward", "reward_modeling", "reward_model"],
        "a reward model: its configuration has a section `[reward_model]`, as configs/reward/language_model.toml has",
    ),
    (
        &["rpo", "dreambooth"],
        "an objective of runs on a subject's photos: configs/image has their configurations",
    ),
];

/// Numbers under names that papers or other tools use where an objective has none of that name.
pub(super) const OTHER_NAMES: &[(&str, Flag, &str)] = &[
    (
        "simpo",
        Flag::Gamma,
        "the paper's and TRL's `gamma` is `beta` times the margin: give `gamma` divided by `beta` as the gamma-beta-ratio",
    ),
    (
        "ipo",
        Flag::Beta,
        "TRL's `beta` of `ipo` is called tau here, as in the paper",
    ),
    ("ipo_sum", Flag::Beta, "it is called tau, as in the paper"),
    (
        "orpo",
        Flag::Beta,
        "TRL's `beta` of `orpo` is called lambda here, as in the paper",
    ),
    (
        "dno",
        Flag::Beta,
        "the paper's `beta` is called eta, as in its theory",
    ),
    (
        "dno_prct",
        Flag::Beta,
        "the paper's `beta` is called eta, as in its theory",
    ),
    (
        "dpo",
        Flag::LabelSmoothing,
        "`cdpo` is `dpo` with it (`rdpo` without its bias)",
    ),
    ("sppo", Flag::Eta, "the paper's `eta` is 1 / beta"),
];

//! Looking objectives up, and checking the numbers that a user gives them.

use super::elsewhere::{ELSEWHERE, OTHER_NAMES};
use super::objectives::{ALIASES, Flag, OBJECTIVES, Objective, Quantity, Range};

/// Every number that some objective has.
pub const FLAGS: [Flag; 15] = [
    Flag::Beta,
    Flag::Tau,
    Flag::Eta,
    Flag::Alpha,
    Flag::LabelSmoothing,
    Flag::Gamma,
    Flag::GammaBetaRatio,
    Flag::Lambda,
    Flag::SftWeight,
    Flag::ExponentCap,
    Flag::TargetClamp,
    Flag::LengthExponent,
    Flag::DesirableWeight,
    Flag::UndesirableWeight,
    Flag::TargetScale,
];

impl Objective {
    /// The objective of this name, TRL's names and other spellings of the hyphen included.
    ///
    /// # Errors
    /// There is none: what else the name is, or the one that was probably meant; nothing where no name is like it.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        let spelled = name.to_lowercase().replace('-', "_");
        let alias = ALIASES.iter().find(|(theirs, _)| *theirs == spelled);
        let ours = alias.map_or(spelled.as_str(), |(_, ours)| *ours);
        if let Some(found) = OBJECTIVES.iter().find(|known| known.name == ours) {
            return Ok(found);
        }
        let elsewhere = ELSEWHERE.iter().find(|(names, _)| names.contains(&ours));
        if let Some((_, sentence)) = elsewhere {
            return Err(format!("; `{name}` is {sentence}"));
        }
        let family = OBJECTIVES.iter().map(|known| known.name);
        let family: Vec<String> = family
            .filter(|known| {
                known
                    .strip_prefix(ours)
                    .is_some_and(|rest| rest.starts_with('_'))
            })
            .map(|known| format!("`{known}`"))
            .collect();
        if !family.is_empty() {
            return Err(format!("; there are {}", family.join(", ")));
        }
        let distance = |known: &Self| strsim::damerau_levenshtein(known.name, ours);
        let nearest = OBJECTIVES.iter().min_by_key(|known| distance(known));
        let near =
            nearest.filter(|known| distance(known) <= known.name.len().max(ours.len()) / 4 + 1);
        // Of three letters any two share some: `cpo` is no slip of the pen, but two letters in each other's place are one, and
        // a letter typed twice.
        let slip = |known: &Self| swapped(known.name, ours) || doubled(known.name, ours);
        let near = near.filter(|known| distance(known) == 1 && slip(known) || ours.len() > 4);
        Err(near.map_or_else(String::new, |known| {
            format!("; did you mean `{}`?", known.name)
        }))
    }

    /// A sentence on a number that it has not, and what it has.
    fn has_no(&self, flag: Flag, spell: impl Fn(Flag) -> String) -> String {
        let problem = format!("`{}` has no `{}`", self.name, spell(flag));
        let other = OTHER_NAMES
            .iter()
            .find(|(name, known, _)| *name == self.name && *known == flag);
        let own: Vec<String> = self
            .scalars
            .iter()
            .map(|own| format!("`{}`", spell(own.flag)))
            .collect();
        match (other, own.is_empty()) {
            (Some((.., sentence)), _) => {
                format!("{problem}: {sentence}; it has {}", own.join(", "))
            }
            (None, false) => format!("{problem}; it has {}", own.join(", ")),
            (None, true) => problem,
        }
    }

    /// `true` where it is a function of this quantity.
    pub fn reads(&self, quantity: Quantity) -> bool {
        self.columns.iter().any(|known| known.quantity == quantity)
    }

    /// `true` if it has this number.
    pub fn takes(&self, flag: Flag) -> bool {
        self.scalars.iter().any(|scalar| scalar.flag == flag)
    }

    /// Its numbers in their order: what was given, else its defaults. `spell` writes a number's name for a message.
    ///
    /// # Errors
    /// One sentence for every number that it has not or that is out of its range.
    pub fn numbers(
        &self,
        given: impl Fn(Flag) -> Option<f64>,
        spell: impl Fn(Flag) -> String,
    ) -> Result<Vec<f64>, Vec<String>> {
        let mut problems: Vec<String> = FLAGS
            .iter()
            .filter(|flag| given(**flag).is_some() && !self.takes(**flag))
            .map(|flag| self.has_no(*flag, &spell))
            .collect();
        let mut numbers = Vec::new();
        for scalar in self.scalars {
            let value = given(scalar.flag).unwrap_or_else(|| (scalar.default)(&numbers));
            if let Some(range) = scalar.range.violated(value, &numbers) {
                let name = spell(scalar.flag);
                problems.push(format!("`{name} {value}`: it must be {range}"));
            }
            numbers.push(value);
        }
        if problems.is_empty() {
            Ok(numbers)
        } else {
            Err(problems)
        }
    }
}

/// `true` where the second word is the first one with a letter typed twice.
fn doubled(word: &str, typed: &str) -> bool {
    let mut letters: Vec<char> = typed.chars().collect();
    letters.dedup();
    letters.into_iter().eq(word.chars())
}

/// `true` if two names are the same letters in another order.
fn swapped(one: &str, other: &str) -> bool {
    let sorted = |name: &str| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.sort_unstable();
        letters
    };
    sorted(one) == sorted(other)
}

impl Flag {
    /// As a flag of the command line spells it; a configuration has `_` for `-`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Beta => "beta",
            Self::Tau => "tau",
            Self::Eta => "eta",
            Self::Alpha => "alpha",
            Self::LabelSmoothing => "label-smoothing",
            Self::Gamma => "gamma",
            Self::GammaBetaRatio => "gamma-beta-ratio",
            Self::Lambda => "lambda",
            Self::SftWeight => "sft-weight",
            Self::ExponentCap => "exponent-cap",
            Self::TargetClamp => "target-clamp",
            Self::LengthExponent => "length-exponent",
            Self::DesirableWeight => "desirable-weight",
            Self::UndesirableWeight => "undesirable-weight",
            Self::TargetScale => "target-scale",
        }
    }
}

impl Range {
    /// The range that a value should lie in, in words, where it does not.
    fn violated(self, value: f64, before: &[f64]) -> Option<String> {
        let (holds, range) = match self {
            Self::Positive => (value > 0.0, "above 0".to_owned()),
            Self::NotNegative => (value >= 0.0, "at least 0".to_owned()),
            Self::Unit => ((0.0..=1.0).contains(&value), "0 to 1".to_owned()),
            Self::Smoothing => (
                (0.0..0.5).contains(&value),
                "at least 0 and below 0.5".to_owned(),
            ),
            Self::UpToFirst => {
                let first = before.first().copied().unwrap_or_default();
                ((0.0..=first).contains(&value), format!("0 to {first}"))
            }
        };
        (!holds || !value.is_finite()).then_some(range)
    }
}

//! Looking objectives up, and checking the numbers that a user gives them.

use super::objectives::{ALIASES, Flag, OBJECTIVES, Objective, Range};

/// Every number that some objective has.
pub const FLAGS: [Flag; 14] = [
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
];

impl Objective {
    /// The objective of this name, TRL's names and other spellings of the hyphen included.
    ///
    /// # Errors
    /// The name that was probably meant.
    pub fn find(name: &str) -> Result<&'static Self, &'static str> {
        let spelled = name.to_lowercase().replace('-', "_");
        let alias = ALIASES.iter().find(|(theirs, _)| *theirs == spelled);
        let ours = alias.map_or(spelled.as_str(), |(_, ours)| *ours);
        let likeness = |known: &Self| strsim::jaro_winkler(known.name, ours);
        let nearest = OBJECTIVES
            .iter()
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let found = OBJECTIVES.iter().find(|known| known.name == ours);
        found.ok_or_else(|| nearest.map_or("", |known| known.name))
    }

    /// Whether it is a function of this column.
    pub fn reads(&self, column: &str) -> bool {
        self.columns.iter().any(|known| known.name == column)
    }

    /// Whether it has this number.
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
            .map(|flag| format!("`{}` has no `{}`", self.name, spell(*flag)))
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
        }
    }
}

impl Range {
    /// What a value should have been, where it is not.
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

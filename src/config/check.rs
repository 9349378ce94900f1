//! Checks of a run's values, alone and together; every violation becomes one sentence.

use std::path::PathBuf;

use super::sections::{
    AdapterSection, ReferenceOf, SamplerSection, Targets, TrainSection, ValidationReward,
};
use super::subject::{ObjectiveKind, SubjectConfig, SubjectSection, TokenUse};

impl SubjectConfig {
    /// Adds one sentence for every value that is out of its range or contradicts another.
    pub(super) fn check(&self, problems: &mut Vec<String>) {
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        let path_given = |path: &PathBuf| !path.as_os_str().is_empty();
        require(
            path_given(&self.run.output),
            "`run.output` is missing: the folder of the run",
        );
        require(
            path_given(&self.model.base),
            "`model.base` is missing: a Stable-Diffusion-family model folder",
        );
        require(
            path_given(&self.reward.encoder),
            "`reward.encoder` is missing: an encoder of images and texts (CLIP, OpenCLIP, SigLIP or ALIGN)",
        );
        self.subject.check(&mut require);
        self.objective_violations(&mut require);
        self.training_violations(&mut require);
    }

    fn objective_violations(&self, require: &mut impl FnMut(bool, &str)) {
        let Self {
            adapter,
            objective,
            negatives,
            ..
        } = self;
        adapter.check(require);
        adapter.check_start(require);
        require(
            objective.beta.is_finite() && objective.beta >= 0.0,
            "`objective.beta` must be 0 or more",
        );
        let weight = objective.preference_weight;
        require(
            weight.is_finite() && weight >= 0.0,
            "`objective.preference_weight` must be 0 or more",
        );
        require(positive(objective.tau), "`objective.tau` must be above 0");
        require(
            unit(objective.lambda),
            "`objective.lambda` must be between 0 and 1",
        );
        let prior = objective.prior_weight;
        require(
            prior.is_finite() && prior >= 0.0,
            "`objective.prior_weight` must be 0 or more",
        );
        let rpo = objective.kind == ObjectiveKind::Rpo;
        require(
            !rpo || prior == 0.0 || negatives.token == TokenUse::Class,
            "`objective.prior_weight` with `rpo` needs `negatives.token = false`: learnt under the token, images of the class teach \
             that the token is any of them",
        );
        for (key, value) in [
            ("dop_weight", objective.dop_weight),
            ("min_snr", objective.min_snr),
            ("noise_offset", objective.noise_offset),
        ] {
            require(
                value.is_finite() && value >= 0.0,
                &format!("`objective.{key}` must be 0 or more"),
            );
        }
        require(
            rpo || objective.noise_bank == 0,
            "`objective.noise_bank` belongs to `objective.kind = \"rpo\"`: the other needs no base model",
        );
        require(
            objective.noise_bank == 0 || objective.dop_weight == 0.0,
            "`objective.dop_weight` asks the base model at every step: leave `objective.noise_bank` out",
        );
        require(
            rpo || negatives.token != TokenUse::Both,
            "`negatives.token = \"both\"` belongs to `objective.kind = \"rpo\"`: a prior is under the class word alone",
        );
        require(
            negatives.folder.is_none() || negatives.token != TokenUse::Both,
            "`negatives.token = \"both\"` and `negatives.folder` exclude each other: the folder's images have their prompts",
        );
        require(
            !rpo || negatives.prior_prompts.is_none(),
            "`negatives.prior_prompts` belongs to `objective.kind = \"dreambooth\"`: with `rpo` give `negatives.prompts`",
        );
        require(
            negatives.per_prompt > 0 || negatives.folder.is_some(),
            "`negatives.per_prompt` must be above 0",
        );
    }

    fn training_violations(&self, require: &mut impl FnMut(bool, &str)) {
        let Self {
            train,
            validation,
            sampler,
            ..
        } = self;
        resolution(train, require);
        train.check(require);
        require(
            validation.images_per_prompt > 0,
            "`validation.images_per_prompt` must be above 0",
        );
        require(
            unit(validation.lambda),
            "`validation.lambda` must be between 0 and 1",
        );
        require(
            validation.specificity || validation.reward == ValidationReward::Harmonic,
            "`validation.reward = \"specific\"` needs `validation.specificity = true`",
        );
        require(
            validation.every > 0 || validation.patience == 0,
            "`validation.patience` needs validations: set `validation.every` above 0",
        );
        require(
            validation.min_gain.is_finite(),
            "`validation.min_gain` must be a finite number",
        );
        let errors = validation.gain_errors;
        require(
            errors.is_finite() && errors >= 0.0,
            "`validation.gain_errors` must be 0 or more",
        );
        self::sampler(sampler, require);
        require(
            self.checkpoint.keep > 0,
            "`checkpoint.keep` must be above 0",
        );
    }
}

impl SubjectSection {
    /// Checks of a subject that there is.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        let subject = self;
        match (&subject.photos, &subject.dreambench) {
            (Some(_), Some(_)) => require(
                false,
                "`subject.photos` and `subject.dreambench` exclude each other",
            ),
            (None, None) => require(
                false,
                "`subject.photos` is missing: a folder of photos (or `subject.dreambench`)",
            ),
            (Some(_), None) => require(
                subject
                    .class
                    .as_ref()
                    .is_some_and(|class| !class.trim().is_empty()),
                "`subject.class` is missing: the word for what the subject is, such as `dog`",
            ),
            (None, Some(_)) => {
                require(
                    subject.name.is_some(),
                    "`subject.name` is missing: which DreamBench subject, such as `dog`",
                );
            }
        }
        require(
            !subject.token.trim().is_empty(),
            "`subject.token` is empty: the word that comes to mean the subject",
        );
        require(
            subject.prompt.contains("{class}"),
            "`subject.prompt` must contain `{class}`",
        );
        require(
            subject.prompt.contains("{token}"),
            "`subject.prompt` must contain `{token}`",
        );
    }
}

impl AdapterSection {
    /// Checks that there is what the objective compares with.
    pub(super) fn check_start(&self, require: &mut impl FnMut(bool, &str)) {
        require(
            self.start.is_some() || self.reference == ReferenceOf::Base,
            "`adapter.reference = \"start\"` needs `adapter.start`",
        );
    }

    /// Refuses a LoRA to go on from, for kinds of runs that train none of a U-Net.
    pub(super) fn refuse_start(&self, require: &mut impl FnMut(bool, &str)) {
        require(
            self.reference == ReferenceOf::Base,
            "`adapter.reference` is for models of images",
        );
        require(
            self.start.is_none(),
            "`adapter.start` is for models of images: merge an adapter of a language model into its base first with \
             `preftune export`",
        );
    }

    /// Checks for every kind of run.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(
            (1..=4096).contains(&self.rank),
            "`adapter.rank` must be between 1 and 4096",
        );
        require(positive(self.alpha), "`adapter.alpha` must be above 0");
        if let Targets::Suffixes(suffixes) = &self.targets {
            require(
                !suffixes.is_empty(),
                "`adapter.targets` must not be an empty list",
            );
        }
    }
}

/// Checks of the images' side.
pub(super) fn resolution(train: &TrainSection, require: &mut impl FnMut(bool, &str)) {
    if let Some(resolution) = train.resolution {
        require(
            (16..=4096).contains(&resolution),
            "`train.resolution` must be between 16 and 4096",
        );
        require(
            resolution % 8 == 0,
            "`train.resolution` must be a multiple of 8",
        );
    }
}

/// Checks of the sampler.
pub(super) fn sampler(sampler: &SamplerSection, require: &mut impl FnMut(bool, &str)) {
    require(
        (1..=1000).contains(&sampler.steps),
        "`sampler.steps` must be between 1 and 1000",
    );
    require(
        sampler.guidance.is_finite() && sampler.guidance >= 1.0,
        "`sampler.guidance` must be 1 or more",
    );
    require(sampler.batch > 0, "`sampler.batch` must be above 0");
}

impl TrainSection {
    /// Checks for every kind of run.
    pub(super) fn check(&self, require: &mut impl FnMut(bool, &str)) {
        require(self.steps > 0, "`train.steps` must be above 0");
        require(self.batch > 0, "`train.batch` must be above 0");
        require(
            self.accumulation > 0,
            "`train.accumulation` must be above 0",
        );
        require(
            positive(self.learning_rate),
            "`train.learning_rate` must be above 0",
        );
        require(
            (0.0..1.0).contains(&self.beta_1),
            "`train.beta_1` must be at least 0 and below 1",
        );
        require(
            (0.0..1.0).contains(&self.beta_2),
            "`train.beta_2` must be at least 0 and below 1",
        );
        require(positive(self.epsilon), "`train.epsilon` must be above 0");
        require(
            self.weight_decay.is_finite() && self.weight_decay >= 0.0,
            "`train.weight_decay` must be 0 or more",
        );
        require(
            self.clip_norm.is_finite() && self.clip_norm >= 0.0,
            "`train.clip_norm` must be 0 or more",
        );
        require(
            (0.0..1.0).contains(&self.ema),
            "`train.ema` must be at least 0 and below 1",
        );
        require(self.log_every > 0, "`train.log_every` must be above 0");
    }
}

pub(super) fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn unit(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

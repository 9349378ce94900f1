//! An estimate for a run on texts: counts and memory from the lengths of its examples, time from a small run on some of
//! them.

use std::fmt;
use std::time::Instant;

use serde::Serialize;
use tch::{Device, Kind};

use super::parts::{MemoryPart, Plan, Timed, Tuned, highest, memory_part, validations};
use crate::config::{AdapterKind, TextConfig};
use crate::distributed::Peers;
use crate::error::Result;
use crate::jobs::open::image::lora_config;
use crate::jobs::policy::language::{
    TrainedLanguageModel, frozen, frozen_set, is_live, live, open,
};
use crate::jobs::text::data::TextInputs;
use crate::models::lm::{LmConfig, LmCost, LmPass, Storage, needs_all_heads, sites};
use crate::run::checkpoint::Notes;
use crate::trainer::Task as _;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::{AdamW, AdamWConfig};
use crate::trainer::text::{
    Example, Frozen, ShownPrompts, Sizes, TextTask, TextTaskParts, head_rows, reference_logps,
    reference_passes, validation_passes,
};

/// Batches of the small run whose steps are timed, and of held-out examples.
const TIMED: [usize; 2] = [8, 4];

/// Seconds after which enough steps have been timed.
const LONG_ENOUGH: f64 = 5.0;

/// The work of a run; `examples` and `tokens` as its manifest counts them. Positions are tokens that pass through the
/// model, padding included and a prompt that answers share counted once.
#[derive(Clone, Debug, Serialize)]
pub struct TextWork {
    examples: u64,
    tokens: u64,
    /// In all steps.
    training_positions: u64,
    /// Before the first step, of frozen models: the reference, and the previous iterate where the objective has one.
    reference_positions: u64,
    validations: u64,
    /// In all validations.
    validation_positions: u64,
    /// The micro-batch that takes the most memory: rows, tokens of the longest, tokens that are scored.
    largest: [u64; 3],
}

impl fmt::Display for TextWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rows, length, scored] = self.largest;
        write!(
            f,
            "{} examples in all steps, {} tokens; positions with padding: {} training, {} reference, {} in {} validations; largest batch {rows} x {length}, {scored} scored",
            self.examples,
            self.tokens,
            self.training_positions,
            self.reference_positions,
            self.validation_positions,
            self.validations
        )
    }
}

/// By phase, as the manifest of a run has them; its `train` holds steps and validations.
#[derive(Serialize)]
pub struct TextSeconds {
    reference: f64,
    /// Steps alone.
    steps: f64,
    validations: f64,
    /// Of one step, in the mean.
    step: f64,
}

impl Timed for TextSeconds {
    fn phases(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("reference", self.reference),
            ("training steps", self.steps),
            ("validations", self.validations),
        ]
    }
}

/// Of the run of a configuration whose data are read, its time too where it is `timed`.
pub(crate) fn plan(
    config: &TextConfig,
    inputs: TextInputs,
    on: (Device, Kind),
    timed: bool,
) -> Result<Plan<TextWork, TextSeconds>> {
    let base = LmConfig::open(&config.model.base)?;
    let full = config.adapter.kind == AdapterKind::Full;
    let lora = lora_config(&config.adapter);
    let (places, mut chosen) = (sites(&base), Vec::new());
    if !full {
        chosen = lora.targets.choose(&places)?;
    }
    let adapted: u64 = chosen
        .iter()
        .map(|name| places[name].adapter_size(lora.rank))
        .sum();
    let cost = LmCost::new(&base, (!full).then_some((&chosen[..], lora.rank)));
    let sizes = Sizes::new(&inputs.objective, &inputs.train.examples, config, &base)?;
    let run = TextRun {
        config,
        base: &base,
        cost: &cost,
        frozen: Reference::new(config, &inputs),
        on,
    };
    let largest = run.largest(&inputs.objective, &sizes.passes);
    let frozen = [&inputs.train.examples, &inputs.held_out.examples]
        .map(|examples| reference_passes(examples, config.train.batch, &base));
    let work = run.work(&inputs, &sizes, &largest, &frozen);
    let memory = run.memory(&inputs, &largest, &frozen, adapted)?;
    let reference = f64::from(u8::from(run.frozen == Reference::Live));
    let flops = |pass| cost.step_flops(pass, reference, config.train.checkpoint_activations);
    let all: f64 = sizes.passes.iter().map(flops).sum();
    Ok(Plan {
        device: format!("{:?}", on.0),
        precision: format!("{:?}", on.1),
        parameters: cost.parameters(),
        trained: if full { cost.parameters() } else { adapted },
        step_flops: all / config.train.steps.max(1) as f64,
        memory,
        seconds: if timed {
            Some(run.seconds(inputs, &work)?)
        } else {
            None
        },
        work,
    })
}

/// Where the reference's log-probs come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reference {
    /// There is none, or the data bring them along.
    Given,
    /// A pass over all examples before the first step.
    Cached,
    /// Every step.
    Live,
}

impl Reference {
    fn new(config: &TextConfig, inputs: &TextInputs) -> Self {
        if !inputs.objective.needs_reference() || inputs.brings_reference {
            Self::Given
        } else if is_live(config, &inputs.objective) {
            Self::Live
        } else {
            Self::Cached
        }
    }
}

/// A run whose sizes are known.
struct TextRun<'a> {
    config: &'a TextConfig,
    base: &'a LmConfig,
    cost: &'a LmCost<'a>,
    frozen: Reference,
    on: (Device, Kind),
}

fn positions(passes: &[LmPass]) -> u64 {
    passes.iter().map(LmPass::positions).sum()
}

/// `true` if the objective asks for log-probs of the previous iterate of some examples.
fn needs_previous(objective: &Objective, examples: &[Example]) -> bool {
    objective.needs_previous(examples.iter().map(|example| &example.labels))
}

impl TextRun<'_> {
    /// `frozen` are the passes of a frozen model over the training and the held-out examples.
    fn work(
        &self,
        inputs: &TextInputs,
        sizes: &Sizes,
        largest: &LmPass,
        frozen: &[Vec<LmPass>; 2],
    ) -> TextWork {
        let (config, batch) = (self.config, self.config.train.batch);
        let held_out = &inputs.held_out.examples;
        let reference = |examples: &[Example], passes: &[LmPass]| {
            let times = u64::from(self.frozen == Reference::Cached)
                + u64::from(needs_previous(&inputs.objective, examples));
            times * positions(passes)
        };
        let validation = validation_passes(&inputs.objective, held_out, batch, self.base);
        let validations = validations(config.validation.every, config.train.steps);
        TextWork {
            examples: sizes.examples,
            tokens: sizes.tokens,
            training_positions: positions(&sizes.passes),
            reference_positions: reference(&inputs.train.examples, &frozen[0])
                + reference(held_out, &frozen[1]),
            validations,
            validation_positions: validations * positions(&validation),
            largest: [largest.rows, largest.length, largest.scored],
        }
    }

    fn storage(&self, objective: &Objective) -> Storage {
        let (device, kind) = self.on;
        let element = kind.elt_size_in_bytes() as f64;
        let full = self.config.adapter.kind == AdapterKind::Full;
        Storage {
            activation: element,
            cast: if full && kind != Kind::Float {
                element
            } else {
                0.0
            },
            checkpointed: self.config.train.checkpoint_activations,
            all_heads: [false, true].map(|masked| needs_all_heads(device, kind, masked)),
            head_rows: head_rows(self.base) as u64,
            token_kl: objective.needs_token_kl(),
        }
    }

    /// The pass that takes the most memory.
    fn largest(&self, objective: &Objective, passes: &[LmPass]) -> LmPass {
        let storage = self.storage(objective);
        let bytes = |pass: &&LmPass| self.cost.training_bytes(pass, &storage);
        let largest = passes
            .iter()
            .max_by(|one, other| bytes(one).total_cmp(&bytes(other)));
        largest.copied().unwrap_or_default()
    }

    fn memory(
        &self,
        inputs: &TextInputs,
        largest: &LmPass,
        frozen: &[Vec<LmPass>; 2],
        adapted: u64,
    ) -> Result<Vec<MemoryPart>> {
        let (config, cost) = (self.config, self.cost);
        let storage = self.storage(&inputs.objective);
        let weights = |model: &LmConfig| LmCost::new(model, None).parameters() as f64;
        let full = config.adapter.kind == AdapterKind::Full;
        // Another model as the reference is there for as long as it answers.
        let other = match &config.reference.model {
            Some(folder) if self.frozen != Reference::Given => {
                weights(&LmConfig::open(folder)?) * storage.activation
            }
            _ => 0.0,
        };
        let is_live = self.frozen == Reference::Live;
        let mut parts = Tuned {
            names: ["language model", "frozen copy of it"],
            weights: cost.parameters() as f64,
            adapted: adapted as f64,
            adapter: config.adapter.kind,
            frozen_copy: is_live && full && config.reference.model.is_none(),
            train: &config.train,
            element: storage.activation,
        }
        .parts();
        if is_live {
            parts.push(memory_part("reference model", other));
        }
        let before = if is_live { 0.0 } else { other };
        let training = cost.training_bytes(largest, &storage);
        let forward = frozen
            .iter()
            .flatten()
            .map(|pass| cost.forward_bytes(pass, &storage))
            .fold(0.0, f64::max);
        parts.extend(highest([
            ("activations and gradients of a training step", training),
            ("a pass without gradients, and its model", before + forward),
        ]));
        Ok(parts)
    }

    /// Opens the model, makes a small run of some of the examples, and multiplies.
    fn seconds(&self, inputs: TextInputs, work: &TextWork) -> Result<TextSeconds> {
        let (config, batch) = (self.config, self.config.train.batch);
        let [steps, validations] = TIMED;
        let TextInputs {
            objective,
            train,
            held_out,
            brings_reference,
            tokenizer,
            ..
        } = inputs;
        let trained = open(config, &Notes::new(), self.on)?;
        let train = some_of(train.examples, steps * batch);
        let held_out = some_of(held_out.examples, validations * batch);
        let mut sets = [train, held_out].map(|set| frozen_set(set, brings_reference));
        let reference = self.reference(&objective, &trained, &mut sets)?;
        let [train, held_out] = sets;
        let passes = Sizes::new(&objective, &train.examples, config, self.base)?.passes;
        let validation = validation_passes(&objective, &held_out.examples, batch, self.base);
        let live = match self.frozen {
            Reference::Live => live(config, &objective, &trained, self.on)?,
            _ => None,
        };
        let mut optimizer = AdamW::new(AdamWConfig::from(&config.train), trained.parameters);
        let parts = TextTaskParts {
            model: trained.model,
            objective,
            live,
            // Nothing is learnt that a check would have to keep from harm.
            starts_at_reference: false,
            kind: self.on.1,
            train,
            held_out,
            shown: ShownPrompts::new(Vec::new(), tokenizer, 0),
        };
        let mut task = TextTask::new(parts, config)?;
        let Rates { position, update } = self.steps(&mut task, &mut optimizer, &passes)?;
        let validation = if work.validations == 0 || validation.is_empty() {
            0.0
        } else {
            let seconds = self.timed(|| task.measure(&mut |_, _| Ok(())).map(drop))?;
            seconds / positions(&validation) as f64
        };
        let steps = work.training_positions as f64 * position + config.train.steps as f64 * update;
        Ok(TextSeconds {
            reference: work.reference_positions as f64 * reference,
            steps,
            validations: work.validation_positions as f64 * validation,
            step: steps / config.train.steps.max(1) as f64,
        })
    }

    /// Seconds of a call.
    fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        if let Device::Cuda(index) = self.on.0 {
            tch::Cuda::synchronize(index as i64);
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds a position of a frozen model's pass, whose log-probs go into `sets`.
    fn reference(
        &self,
        objective: &Objective,
        trained: &TrainedLanguageModel,
        sets: &mut [Frozen; 2],
    ) -> Result<f64> {
        let (config, batch) = (self.config, self.config.train.batch);
        let other = match &config.reference.model {
            Some(folder) if self.frozen == Reference::Cached => Some(frozen(folder, self.on)?),
            _ => None,
        };
        let (mut seconds, mut passed) = (0.0, 0);
        for set in sets {
            let previous = needs_previous(objective, &set.examples);
            if set.examples.is_empty() || (self.frozen != Reference::Cached && !previous) {
                continue;
            }
            let model = other.as_ref().unwrap_or(&trained.model);
            let mut logps = Vec::new();
            seconds += self.timed(|| {
                logps =
                    reference_logps(model, &set.examples, batch, &Peers::alone(), &mut |_, _| {
                        Ok(())
                    })?;
                Ok(())
            })?;
            passed += positions(&reference_passes(&set.examples, batch, self.base));
            if previous {
                set.previous.clone_from(&logps);
            }
            if self.frozen == Reference::Cached {
                set.reference = logps;
            }
        }
        Ok(seconds / passed.max(1) as f64)
    }

    /// Of micro-batches and updates after the first, with a learning rate of 0.
    fn steps(
        &self,
        task: &mut TextTask,
        optimizer: &mut AdamW,
        passes: &[LmPass],
    ) -> Result<Rates> {
        let train = &self.config.train;
        let clip = train.clip_norm;
        let accumulation = train.accumulation as u64;
        let (mut accumulating, mut updating) = (0.0, 0.0);
        let (mut passed, mut updates) = (0, 0.0);
        for (index, pass) in passes.iter().enumerate().take(1 + TIMED[0]) {
            let (step, micro) = (index as u64 / accumulation, index as u64 % accumulation);
            let own = self.timed(|| task.accumulate(step, micro).map(drop))?;
            let update = self.timed(|| optimizer.step(0.0, clip).map(drop))?;
            // The first one warms up; alone, it has to do.
            if index == 0 && passes.len() > 1 {
                continue;
            }
            accumulating += own;
            updating += update;
            passed += pass.positions();
            updates += 1.0;
            if accumulating + updating > LONG_ENOUGH {
                break;
            }
        }
        Ok(Rates {
            position: accumulating / passed.max(1) as f64,
            update: updating / f64::max(updates, 1.0),
        })
    }
}

/// Seconds of a position in a step's passes, and of an update.
struct Rates {
    position: f64,
    update: f64,
}

/// At most `count` examples, of all lengths alike.
fn some_of(mut examples: Vec<Example>, count: usize) -> Vec<Example> {
    if examples.len() <= count {
        return examples;
    }
    examples.sort_by_key(Example::longest);
    let all = examples.len();
    (0..count)
        .map(|index| examples[(2 * index + 1) * all / (2 * count)].clone())
        .collect()
}

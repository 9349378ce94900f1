//! The form of every plan: parts of the memory, and what lasts through a run.

use serde::Serialize;

use crate::config::{AdapterKind, FirstMoment, TrainSection};

/// libtorch and the program itself, without a model: measured on Linux; a CUDA context is about as large on the GPU.
const PROGRAM: f64 = 215e6;

/// A part of the memory.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryPart {
    /// In words.
    pub name: &'static str,
    /// Its size.
    pub bytes: f64,
}

pub(crate) fn memory_part(name: &'static str, bytes: f64) -> MemoryPart {
    MemoryPart { name, bytes }
}

/// The needs of a run.
#[derive(Serialize)]
pub struct Plan<W, S> {
    /// Device of the passes.
    pub device: String,
    /// Type of the passes.
    pub precision: String,
    /// Weights of the tuned model.
    pub parameters: u64,
    /// Numbers that are trained.
    pub trained: u64,
    /// Floating-point operations of a training step.
    pub step_flops: f64,
    /// Counts of work, as the run's manifest counts.
    pub work: W,
    /// The lasting parts, and the highest of the phases; their sum is the peak.
    pub memory: Vec<MemoryPart>,
    /// Seconds by phase; `None` where no time was measured.
    pub seconds: Option<S>,
}

/// Seconds of a run.
pub trait Timed {
    /// Seconds by phase, loading left out.
    fn phases(&self) -> Vec<(&'static str, f64)>;
}

/// A model that is trained, for the memory of what lasts through the run.
pub(crate) struct Tuned<'a> {
    /// The names of the model and of its frozen copy.
    pub(crate) names: [&'static str; 2],
    pub(crate) weights: f64,
    /// Numbers in the adapter that its section asks for.
    pub(crate) adapted: f64,
    pub(crate) adapter: AdapterKind,
    /// A copy of all weights stays beside it, frozen.
    pub(crate) frozen_copy: bool,
    pub(crate) train: &'a TrainSection,
    /// Bytes of a number in the precision of the run.
    pub(crate) element: f64,
}

impl Tuned<'_> {
    /// The program, weights and what the optimiser keeps; gradients of all weights come and go with activations.
    pub(crate) fn parts(&self) -> Vec<MemoryPart> {
        let moments = match self.train.first_moment {
            FirstMoment::Fp32 => 8.0,
            FirstMoment::Bf16 => 6.0,
        };
        let mut parts = vec![memory_part("program and libtorch", PROGRAM)];
        let [model, copy] = self.names;
        let trained = match self.adapter {
            AdapterKind::Full => {
                parts.push(memory_part(model, self.weights * 4.0));
                self.weights
            }
            AdapterKind::Lora => {
                parts.push(memory_part(model, self.weights * self.element));
                parts.push(memory_part("adapter", self.adapted * 4.0));
                parts.push(memory_part("gradients of the adapter", self.adapted * 4.0));
                self.adapted
            }
        };
        if self.frozen_copy {
            parts.push(memory_part(copy, self.weights * self.element));
        }
        parts.push(memory_part("moments of AdamW", trained * moments));
        if self.train.ema > 0.0 {
            parts.push(memory_part(
                "running average of what is trained",
                trained * 4.0,
            ));
        }
        parts
    }
}

/// Validations of a run: that of the untuned model, one every so many steps, and one after the last.
pub(crate) fn validations(every: u64, steps: u64) -> u64 {
    match every {
        0 => 0,
        every => 1 + steps.div_ceil(every),
    }
}

/// The highest of several phases: what one has freed, the next one uses.
pub(crate) fn highest<const N: usize>(phases: [(&'static str, f64); N]) -> Option<MemoryPart> {
    let highest = phases
        .into_iter()
        .max_by(|one, other| one.1.total_cmp(&other.1));
    highest.map(|(name, bytes)| memory_part(name, bytes))
}

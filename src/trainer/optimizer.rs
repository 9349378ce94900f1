//! AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) with its state in tensors, and clipping that stays on
//! the device. tch's optimisers expose no state, so a run could not be resumed with them.

use tch::{Kind, Tensor, no_grad};

use crate::config::{RewardTrainSection, TrainSection};
use crate::error::Result;

/// Constants of AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamWConfig {
    /// Averaging of the gradient.
    pub beta_1: f64,
    /// Averaging of the squared gradient.
    pub beta_2: f64,
    /// Constant beside the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl From<&TrainSection> for AdamWConfig {
    fn from(train: &TrainSection) -> Self {
        Self {
            beta_1: train.beta_1,
            beta_2: train.beta_2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
        }
    }
}

impl From<&RewardTrainSection> for AdamWConfig {
    fn from(train: &RewardTrainSection) -> Self {
        Self {
            beta_1: train.beta_1,
            beta_2: train.beta_2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
        }
    }
}

/// One trained tensor with its moments.
struct Slot {
    name: String,
    parameter: Tensor,
    average: Tensor,
    square_average: Tensor,
}

/// AdamW over a fixed list of f32 leaf tensors.
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    slots: Vec<Slot>,
}

impl AdamW {
    /// An optimiser with zero moments. The tensors are leaves that require a gradient.
    pub fn new(config: AdamWConfig, parameters: Vec<(String, Tensor)>) -> Self {
        let slots = parameters
            .into_iter()
            .map(|(name, parameter)| Slot {
                average: parameter.zeros_like().detach(),
                square_average: parameter.zeros_like().detach(),
                name,
                parameter,
            })
            .collect();
        Self {
            config,
            steps: 0,
            slots,
        }
    }

    /// Scales all gradients so that their joint Euclidean norm is at most `max_norm`, as
    /// `torch.nn.utils.clip_grad_norm_` does, and returns the norm before (a scalar f32 on the device: no sync).
    ///
    /// `max_norm` 0 only measures.
    pub fn clip_gradients(&self, max_norm: f64) -> Tensor {
        let gradients: Vec<Tensor> = self
            .slots
            .iter()
            .map(|slot| slot.parameter.grad())
            .filter(Tensor::defined)
            .collect();
        let squares: Vec<Tensor> = gradients
            .iter()
            .map(|gradient| gradient.norm().to_kind(Kind::Float))
            .collect();
        let norm = if squares.is_empty() {
            Tensor::zeros([], (Kind::Float, self.device()))
        } else {
            Tensor::stack(&squares, 0).norm()
        };
        if max_norm > 0.0 {
            let scale = (max_norm / (&norm + 1e-6)).clamp_max(1.0);
            for mut gradient in gradients {
                let _ = gradient.g_mul_(&scale);
            }
        }
        norm
    }

    fn device(&self) -> tch::Device {
        self.slots
            .first()
            .map_or(tch::Device::Cpu, |slot| slot.parameter.device())
    }

    /// One update at `learning_rate`; gradients are cleared. Tensors without a gradient stay as they are.
    pub fn step(&mut self, learning_rate: f64) {
        self.steps += 1;
        let AdamWConfig {
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
        } = self.config;
        let exponent = self.steps as f64;
        let correction_1 = 1.0 - beta_1.powf(exponent);
        let correction_2 = (1.0 - beta_2.powf(exponent)).sqrt();
        no_grad(|| {
            for slot in &mut self.slots {
                let mut gradient = slot.parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                let _ = slot
                    .parameter
                    .g_mul_scalar_(1.0 - learning_rate * weight_decay);
                let _ = slot.average.lerp_(&gradient, 1.0 - beta_1);
                let _ = slot.square_average.g_mul_scalar_(beta_2);
                let _ = slot
                    .square_average
                    .addcmul_(&(&gradient * (1.0 - beta_2)), &gradient);
                let denominator = slot
                    .square_average
                    .sqrt()
                    .g_div_scalar_(correction_2)
                    .g_add_scalar_(epsilon);
                let update = (&slot.average * (-learning_rate / correction_1)).g_div_(&denominator);
                let _ = slot.parameter.g_add_(&update);
                let _ = gradient.zero_();
            }
        });
    }

    /// Whether all trained tensors are finite; a device sync.
    pub fn is_finite(&self) -> bool {
        let finite: Vec<Tensor> = self
            .slots
            .iter()
            .map(|slot| slot.parameter.isfinite().all())
            .collect();
        finite.is_empty() || Tensor::stack(&finite, 0).all().int64_value(&[]) == 1
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The trained tensors by name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.slots
            .iter()
            .map(|slot| (slot.name.clone(), slot.parameter.shallow_clone()))
            .collect()
    }

    /// Both moments of every tensor, as `NAME.exp_avg` and `NAME.exp_avg_sq`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots
            .iter()
            .flat_map(|slot| {
                [
                    (
                        format!("{}.exp_avg", slot.name),
                        slot.average.shallow_clone(),
                    ),
                    (
                        format!("{}.exp_avg_sq", slot.name),
                        slot.square_average.shallow_clone(),
                    ),
                ]
            })
            .collect()
    }

    /// Copies parameters and moments in, each found by name through `take`, and sets the number of updates made.
    pub fn restore(&mut self, steps: u64, take: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        for slot in &mut self.slots {
            let names = [
                slot.name.clone(),
                format!("{}.exp_avg", slot.name),
                format!("{}.exp_avg_sq", slot.name),
            ];
            let targets = [
                &mut slot.parameter,
                &mut slot.average,
                &mut slot.square_average,
            ];
            for (name, target) in names.iter().zip(targets) {
                let source = take(name)?;
                no_grad(|| target.f_copy_(&source))?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

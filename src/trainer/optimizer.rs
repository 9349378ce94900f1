//! AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) with its state in tensors, and clipping that stays on
//! the device. tch's optimisers expose no state, so a run could not be resumed with them.

use tch::{Kind, Tensor, no_grad};

use crate::config::{FirstMoment, TrainSection};
use crate::distributed::Peers;
use crate::error::Result;
use crate::ops::fused_adamw::{Order, Update, fused_adamw, lerp, norms};

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
    /// Decay of the running average of the tensors (Polyak and Juditsky 1992); 0 keeps none.
    pub ema: f64,
    /// Type in which the average of the gradient is kept between updates.
    pub first_moment: FirstMoment,
}

impl From<&TrainSection> for AdamWConfig {
    fn from(train: &TrainSection) -> Self {
        Self {
            beta_1: train.beta_1,
            beta_2: train.beta_2,
            epsilon: train.epsilon,
            weight_decay: train.weight_decay,
            ema: train.ema,
            first_moment: train.first_moment,
        }
    }
}

/// One trained tensor with its moments.
struct Slot {
    name: String,
    parameter: Tensor,
    average: Tensor,
    square_average: Tensor,
    /// Running average of the tensor itself, where one is kept.
    ema: Option<Tensor>,
}

/// Elements of first moments that are widened at a time: 64 MB.
const WIDENED: usize = 16 << 20;

/// An update of tensors whose first moments are kept in bf16: the kernel gets them in f32, some at a time, and they are
/// rounded to the nearest afterwards, so that an update itself reads what was not yet rounded.
fn update_rounded(slots: &mut [Slot], steps: u64, divisor: &Tensor, update: Update) -> Result<()> {
    let mut rest = slots;
    while !rest.is_empty() {
        let mut elements = 0;
        let fits = |slot: &&Slot| {
            elements += slot.parameter.numel();
            elements <= WIDENED
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (group, others) = rest.split_at_mut(count);
        let wide: Vec<Tensor> = group
            .iter()
            .map(|slot| slot.average.to_kind(slot.parameter.kind()))
            .collect();
        let tensors: Vec<[&Tensor; 3]> = group
            .iter()
            .zip(&wide)
            .map(|(slot, average)| [&slot.parameter, average, &slot.square_average])
            .collect();
        fused_adamw(&tensors, steps, divisor, update)?;
        for (slot, average) in group.iter_mut().zip(&wide) {
            no_grad(|| slot.average.copy_(average));
        }
        rest = others;
    }
    Ok(())
}

/// AdamW over a fixed list of f32 leaf tensors.
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    slots: Vec<Slot>,
}

impl AdamW {
    /// An optimiser with zero moments. The tensors are leaves that require a gradient; those that never get one
    /// (running statistics of a batch norm) are only stored and averaged along.
    pub fn new(config: AdamWConfig, parameters: Vec<(String, Tensor)>) -> Self {
        let slots = parameters
            .into_iter()
            .map(|(name, parameter)| Slot {
                average: match config.first_moment {
                    FirstMoment::Fp32 => parameter.zeros_like().detach(),
                    FirstMoment::Bf16 => parameter.zeros_like().detach().to_kind(Kind::BFloat16),
                },
                square_average: parameter.zeros_like().detach(),
                ema: (config.ema > 0.0).then(|| parameter.detach().copy()),
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

    /// Adds the gradients up over all processes: the next update is then the same in all.
    ///
    /// # Errors
    /// Another process has ended or does not answer.
    pub fn sum_gradients(&self, peers: &Peers) -> Result<()> {
        let tensors = self.slots.iter().map(|slot| slot.parameter.shallow_clone());
        peers.sum_gradients(&tensors.collect::<Vec<_>>())
    }

    /// Takes over the first process' tensors, moments and number of updates.
    ///
    /// # Errors
    /// As [`Self::sum_gradients`].
    pub fn follow_first(&mut self, peers: &Peers) -> Result<()> {
        let state = self.parameters().into_iter().chain(self.state());
        let tensors: Vec<Tensor> = state.map(|(_, tensor)| tensor).collect();
        peers.broadcast(&tensors)?;
        self.steps = peers.first_says(self.steps)?;
        Ok(())
    }

    /// The joint Euclidean norm of all gradients: a scalar f32 on the device, no sync.
    fn gradient_norm(&self) -> Result<Tensor> {
        let gradients: Vec<Tensor> = self
            .slots
            .iter()
            .map(|slot| slot.parameter.grad())
            .filter(Tensor::defined)
            .collect();
        Ok(match norms(&gradients, Order::Euclidean)? {
            Some(norms) => norms.to_kind(Kind::Float).norm(),
            None => Tensor::zeros([], (Kind::Float, self.device())),
        })
    }

    /// Where the tensors are.
    pub fn device(&self) -> tch::Device {
        self.slots
            .first()
            .map_or(tch::Device::Cpu, |slot| slot.parameter.device())
    }

    /// One update at `learning_rate`. Gradients are scaled so that their joint norm is at most `max_norm`, as
    /// `torch.nn.utils.clip_grad_norm_` does (0 leaves them), and dropped afterwards; tensors without one stay as they
    /// are. Returns the norm before, a scalar f32 on the device: no sync.
    ///
    /// # Errors
    /// The error of libtorch; a gradient of another type than its tensor, for instance.
    pub fn step(&mut self, learning_rate: f64, max_norm: f64) -> Result<Tensor> {
        self.steps += 1;
        let norm = self.gradient_norm()?;
        let divisor = if max_norm > 0.0 {
            ((&norm + 1e-6) / max_norm).clamp_min(1.0)
        } else {
            norm.ones_like()
        };
        let update = Update {
            learning_rate,
            beta_1: self.config.beta_1,
            beta_2: self.config.beta_2,
            weight_decay: self.config.weight_decay,
            epsilon: self.config.epsilon,
        };
        match self.config.first_moment {
            FirstMoment::Fp32 => {
                let slots: Vec<[&Tensor; 3]> = self
                    .slots
                    .iter()
                    .map(|slot| [&slot.parameter, &slot.average, &slot.square_average])
                    .collect();
                fused_adamw(&slots, self.steps, &divisor, update)?;
            }
            FirstMoment::Bf16 => update_rounded(&mut self.slots, self.steps, &divisor, update)?,
        }
        let (exponent, ema) = (self.steps as f64, self.config.ema);
        // The first updates would otherwise be lost in the initial weights.
        let keep = ema.min((1.0 + exponent) / (10.0 + exponent));
        let averages = self
            .slots
            .iter()
            .filter_map(|slot| Some([slot.ema.as_ref()?, &slot.parameter]));
        lerp(&averages.collect::<Vec<_>>(), 1.0 - keep)?;
        Ok(norm)
    }

    /// Exchanges the trained tensors with their running averages, where those are kept; called twice, it changes
    /// nothing.
    pub fn swap_averages(&mut self) {
        no_grad(|| {
            for slot in &mut self.slots {
                if let Some(average) = &mut slot.ema {
                    let trained = slot.parameter.detach().copy();
                    slot.parameter.copy_(average);
                    average.copy_(&trained);
                }
            }
        });
    }

    /// `true` if all trained tensors are finite; a device sync.
    ///
    /// # Errors
    /// The error of libtorch.
    pub fn is_finite(&self) -> Result<bool> {
        let tensors: Vec<Tensor> = self
            .slots
            .iter()
            .map(|slot| slot.parameter.shallow_clone())
            .collect();
        // NaN and infinity come through a maximum.
        let largest = norms(&tensors, Order::Largest)?;
        Ok(largest.is_none_or(|norms| norms.isfinite().all().int64_value(&[]) == 1))
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

    /// Both moments of every tensor, as `NAME.exp_avg` and `NAME.exp_avg_sq`, and its running average, where one is
    /// kept, as `NAME.ema`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots
            .iter()
            .flat_map(|slot| {
                let named = |suffix, tensor: &Tensor| {
                    (format!("{}.{suffix}", slot.name), tensor.shallow_clone())
                };
                [
                    Some(named("exp_avg", &slot.average)),
                    Some(named("exp_avg_sq", &slot.square_average)),
                    slot.ema.as_ref().map(|average| named("ema", average)),
                ]
            })
            .flatten()
            .collect()
    }

    /// Copies parameters and moments in, each found by name through `take`, which is told the shape that is wanted, and sets
    /// the number of updates made.
    ///
    /// # Errors
    /// Whatever `take` returns.
    pub fn restore(
        &mut self,
        steps: u64,
        take: impl Fn(&str, &[i64]) -> Result<Tensor>,
    ) -> Result<()> {
        for slot in &mut self.slots {
            let targets = [
                (slot.name.clone(), Some(&mut slot.parameter)),
                (format!("{}.exp_avg", slot.name), Some(&mut slot.average)),
                (
                    format!("{}.exp_avg_sq", slot.name),
                    Some(&mut slot.square_average),
                ),
                (format!("{}.ema", slot.name), slot.ema.as_mut()),
            ];
            for (name, target) in targets {
                let Some(target) = target else { continue };
                let source = take(&name, &target.size())?;
                no_grad(|| target.f_copy_(&source))?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

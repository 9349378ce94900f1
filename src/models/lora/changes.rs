//! How a module of an adapter file changes a weight, for every kind of adapter that is read: LoRA and LoCon, LoHa
//! (Hyeon-Woo et al. 2021, arXiv 2108.06098), LoKr (Yeh et al. 2023, arXiv 2309.14859), whole differences, and DoRA on top of
//! any of them (Liu et al. 2024, arXiv 2402.09353). Weights are `[out, in]`, or `[out, in, k, k]` of convolutions.

use tch::{Kind, Tensor};

use super::keys::Part;
use super::read::{Found, module_of, strength};
use super::settings::Settings;
use super::sites::Site;
use crate::error::{Error, Result};
use crate::models::weights::Checkpoint;

/// A module of an adapter file.
pub(super) struct ModuleChange<'a> {
    pub(super) file: &'a Checkpoint,
    /// Its path in the model.
    pub(super) module: &'a str,
    pub(super) site: &'a Site,
    /// The names of its tensors.
    pub(super) found: &'a Found,
    pub(super) settings: &'a Settings,
}

/// A kind of difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Lora,
    Hada,
    Kronecker,
    Whole,
}

/// LyCORIS adds the smallest step of f32 to the norms that it divides by.
const NORM_EPSILON: f64 = f32::EPSILON as f64;

impl ModuleChange<'_> {
    /// The weight W' that the module makes of `weight`, in f32.
    ///
    /// # Errors
    /// Tensors are missing, too many, or of another shape than the module asks for.
    pub(super) fn merged(&self, weight: &Tensor) -> Result<Tensor> {
        let difference = match self.form()? {
            Form::Lora => {
                let (file, found) = (self.file, self.found);
                let lora = module_of(file, self.module, self.site, found, self.settings)?;
                lora.update(&self.site.weight_shape())
            }
            Form::Hada => self.hada()?,
            Form::Kronecker => self.kronecker()?,
            Form::Whole => self.whole()?,
        };
        let weight = weight.to_kind(Kind::Float);
        self.with_magnitude(weight.shallow_clone() + difference.to_device(weight.device()))
    }

    fn form(&self) -> Result<Form> {
        let mut forms = self.found.iter().filter_map(|(part, name)| {
            let form = match part {
                Part::Down | Part::Up | Part::Mid => Form::Lora,
                Part::Hada1A
                | Part::Hada1B
                | Part::HadaCore1
                | Part::Hada2A
                | Part::Hada2B
                | Part::HadaCore2 => Form::Hada,
                Part::Lokr1
                | Part::Lokr1A
                | Part::Lokr1B
                | Part::Lokr2
                | Part::Lokr2A
                | Part::Lokr2B
                | Part::LokrCore => Form::Kronecker,
                Part::Diff => Form::Whole,
                Part::Alpha | Part::Magnitude | Part::DoraScale | Part::Bias => return None,
            };
            Some((form, name))
        });
        let Some((form, first)) = forms.next() else {
            let message = format!(
                "has a strength or norms for `{}`, but no matrices",
                self.module
            );
            return Err(Error::weights(self.file.path(), message));
        };
        match forms.find(|(other, _)| *other != form) {
            Some((_, name)) => {
                let message = format!("is of another kind of adapter than `{first}`");
                Err(Error::tensor(self.file.path(), name, message))
            }
            None => Ok(form),
        }
    }

    /// A tensor in f32; `None` where the module has none of this role.
    fn optional(&self, part: Part) -> Result<Option<Tensor>> {
        let name = self.found.get(&part);
        name.map(|name| Ok(self.file.tensor(name)?.to_kind(Kind::Float)))
            .transpose()
    }

    /// A tensor in f32 that the module must have, as `what` names it.
    fn tensor(&self, part: Part, what: &str) -> Result<Tensor> {
        self.optional(part)?.ok_or_else(|| {
            let message = format!("has no `{what}` for `{}`", self.module);
            Error::weights(self.file.path(), message)
        })
    }

    /// The error of factors that do not make the module's weight.
    fn unfit(&self, what: &str) -> Error {
        let message = format!(
            "`{}`: the {what} do not make the weight {:?} of the model",
            self.module,
            self.site.weight_shape()
        );
        Error::weights(self.file.path(), message)
            .with_hint("it was made for a model of another size; take that as the base")
    }

    /// The first size of a tensor, which is the rank.
    fn rank(&self, tensor: &Tensor, what: &str) -> Result<i64> {
        let rank = tensor.size().first().copied().filter(|&rank| rank > 0);
        rank.ok_or_else(|| self.unfit(what))
    }

    /// The product of two factors `[a, r]` and `[r, ..]`, `[a, ..]` as a matrix; with a core `[r, r, k, k]` of factors
    /// `[r, a]` and `[r, b]`, `[a, b, k, k]`.
    fn product(
        &self,
        [left, right]: [&Tensor; 2],
        core: Option<&Tensor>,
        what: &str,
    ) -> Result<Tensor> {
        let product = match core {
            Some(core) if core.dim() == 4 && left.dim() == 2 && right.dim() == 2 => {
                let factors = [core, left, right];
                Tensor::f_einsum("ijkl,ip,jr->prkl", &factors, None::<i64>)
            }
            None if left.dim() >= 2 && right.dim() >= 2 => {
                left.flatten(1, -1).f_matmul(&right.flatten(1, -1))
            }
            _ => return Err(self.unfit(what)),
        };
        product.map_err(|_| self.unfit(what))
    }

    /// A matrix or kernel in the form of the weight.
    fn shaped(&self, tensor: &Tensor, what: &str) -> Result<Tensor> {
        let shape = self.site.weight_shape();
        let columns: i64 = shape[1..].iter().product();
        if tensor.size() == shape || tensor.size() == [shape[0], columns] {
            return Ok(tensor.reshape(shape));
        }
        Err(self.unfit(what))
    }

    /// `alpha / rank * (A_1 B_1) * (A_2 B_2)`, elementwise (arXiv 2108.06098, equation 2; with cores, proposition 2).
    fn hada(&self) -> Result<Tensor> {
        let what = "factors of its LoHa";
        let (left_1, right_1) = (
            self.tensor(Part::Hada1A, "hada_w1_a")?,
            self.tensor(Part::Hada1B, "hada_w1_b")?,
        );
        let (left_2, right_2) = (
            self.tensor(Part::Hada2A, "hada_w2_a")?,
            self.tensor(Part::Hada2B, "hada_w2_b")?,
        );
        let (core_1, core_2) = (
            self.optional(Part::HadaCore1)?,
            self.optional(Part::HadaCore2)?,
        );
        if core_1.is_some() != core_2.is_some() {
            return Err(self.unfit(what));
        }
        let rank = self.rank(&right_1, what)?;
        let first = self.product([&left_1, &right_1], core_1.as_ref(), what)?;
        let second = self.product([&left_2, &right_2], core_2.as_ref(), what)?;
        let (first, second) = (self.shaped(&first, what)?, self.shaped(&second, what)?);
        Ok(first * second * self.strength(Some(rank))?)
    }

    /// `alpha / rank * W_1 ⊗ W_2`, the strength only where one of the two is a product (arXiv 2309.14859, section 3.2; PEFT has it
    /// in any case).
    fn kronecker(&self) -> Result<Tensor> {
        let what = "factors of its LoKr";
        let mut rank = None;
        let mut half = |whole: Part, [a, b]: [Part; 2], core: Option<Part>, name: &str| {
            let core = core.map(|core| self.optional(core)).transpose()?.flatten();
            let factors = self.found.contains_key(&a) || self.found.contains_key(&b);
            match self.optional(whole)? {
                Some(_) if factors || core.is_some() => {
                    let message = format!("has `{name}` of `{}` whole and as factors", self.module);
                    Err(Error::weights(self.file.path(), message))
                }
                Some(whole) => Ok(whole),
                None => {
                    let left = self.tensor(a, &format!("{name}_a"))?;
                    let right = self.tensor(b, &format!("{name}_b"))?;
                    rank = Some(self.rank(&right, what)?);
                    self.product([&left, &right], core.as_ref(), what)
                }
            }
        };
        let first = half(Part::Lokr1, [Part::Lokr1A, Part::Lokr1B], None, "lokr_w1")?;
        let second = [Part::Lokr2A, Part::Lokr2B];
        let second = half(Part::Lokr2, second, Some(Part::LokrCore), "lokr_w2")?;
        if first.dim() != 2 || !matches!(second.dim(), 2 | 4) {
            return Err(self.unfit(what));
        }
        let first = if second.dim() == 4 {
            first.unsqueeze(-1).unsqueeze(-1)
        } else {
            first
        };
        // libtorch refuses factors that do not lie in order.
        let product = first.contiguous().f_kron(&second.contiguous())?;
        let product = self.shaped(&product, what)?;
        Ok(product * self.strength(rank)?)
    }

    /// The difference of the whole weight, as it is.
    fn whole(&self) -> Result<Tensor> {
        if let Some(name) = self.found.get(&Part::Alpha) {
            let message = "is a strength of a whole difference, which has none";
            return Err(Error::tensor(self.file.path(), name, message));
        }
        let difference = self.tensor(Part::Diff, "diff")?;
        self.shaped(&difference, "numbers of its difference")
    }

    fn strength(&self, rank: Option<i64>) -> Result<f64> {
        strength(self.file, self.module, self.found, self.settings, rank)
    }

    /// The merged weight with the norms that the file has for it: `m * V / |V|` (arXiv 2402.09353, equation 5), a norm for each
    /// output or, as LyCORIS also has it, for each input.
    fn with_magnitude(&self, merged: Tensor) -> Result<Tensor> {
        let (part, name) = match (
            self.found.get(&Part::Magnitude),
            self.found.get(&Part::DoraScale),
        ) {
            (None, None) if self.settings.is_dora() => {
                let message = format!("has no `lora_magnitude_vector` for `{}`", self.module);
                return Err(Error::weights(self.file.path(), message));
            }
            (None, None) => return Ok(merged),
            (Some(_), Some(name)) => {
                let message = "has the norms that another tensor has too";
                return Err(Error::tensor(self.file.path(), name, message));
            }
            (Some(name), None) => (Part::Magnitude, name),
            (None, Some(name)) => (Part::DoraScale, name),
        };
        let norms = self.file.tensor(name)?.to_kind(Kind::Float);
        let (size, shape) = (norms.size(), merged.size());
        let norms_of = |kept: usize| -> Vec<i64> {
            let one = |(place, &size): (usize, &i64)| if place == kept { size } else { 1 };
            shape.iter().enumerate().map(one).collect()
        };
        let fits = |kept: usize| norms.numel() as i64 == shape[kept];
        // PEFT's kernels have their outputs in the second place.
        let by_output = part == Part::Magnitude || size.first() == Some(&shape[0]);
        let (kept, epsilon) = match part {
            Part::Magnitude => (0, 0.0),
            _ if by_output => (0, NORM_EPSILON),
            _ => (1, NORM_EPSILON),
        };
        if !fits(kept) {
            let message = format!("has shape {size:?}, but `{}` is {shape:?}", self.module);
            return Err(Error::tensor(self.file.path(), name, message));
        }
        let others: Vec<i64> = (0..shape.len() as i64)
            .filter(|&place| place != kept as i64)
            .collect();
        let squares = merged
            .square()
            .sum_dim_intlist(&others[..], true, Kind::Float);
        let norms = norms.to_device(merged.device()).reshape(norms_of(kept));
        Ok(&merged * (norms / (squares.sqrt() + epsilon)))
    }
}

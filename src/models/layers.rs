//! The layers that all models share. Weights keep the type they were loaded in (the f32 master copy of a bf16
//! run, for instance) and are cast to the activations' type where they are used; the cast is part of the graph.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use tch::{Kind, Tensor};

use super::weights::Loader;
use crate::error::Result;

thread_local! {
    /// Weights in the activations' type, by where the weights lie, while [`keep_casts`] keeps them.
    static CASTS: RefCell<Option<HashMap<usize, Cast>>> = const { RefCell::new(None) };
}

struct Cast {
    /// Holds the memory, so that no other tensor comes to lie there.
    weight: Tensor,
    cast: Tensor,
}

/// While it lives, every weight of this thread is cast once, outside any graph.
pub struct KeptCasts {
    outermost: bool,
}

/// Keeps casts of weights: for passes without gradients between which no weight changes, such as the steps of a sampler.
pub fn keep_casts() -> KeptCasts {
    CASTS.with_borrow_mut(|casts| {
        let outermost = casts.is_none();
        casts.get_or_insert_default();
        KeptCasts { outermost }
    })
}

impl Drop for KeptCasts {
    fn drop(&mut self) {
        if self.outermost {
            CASTS.with_borrow_mut(|casts| *casts = None);
        }
    }
}

/// A weight in the activations' type.
fn cast(weight: &Tensor, kind: Kind) -> Tensor {
    if weight.kind() == kind {
        return weight.shallow_clone();
    }
    CASTS.with_borrow_mut(|casts| {
        let Some(casts) = casts else {
            return weight.to_kind(kind);
        };
        let place = weight.data_ptr() as usize;
        if let Some(known) = casts.get(&place)
            && known.cast.kind() == kind
            && known.weight.size() == weight.size()
        {
            return known.cast.shallow_clone();
        }
        let made = weight.detach().to_kind(kind);
        let known = Cast {
            weight: weight.detach(),
            cast: made.shallow_clone(),
        };
        casts.insert(place, known);
        made
    })
}

/// Low-rank update of one layer: `weight + scale * up @ down` (Hu et al. 2021, arXiv 2106.09685).
pub struct Lora {
    /// A: `[rank, in]`, or `[rank, in, 1, 1]` for a 1x1 convolution.
    pub down: Tensor,
    /// B: `[out, rank]`, or `[out, rank, 1, 1]`.
    pub up: Tensor,
    /// alpha / rank.
    pub scale: f64,
}

/// The part of a layer to which a LoRA attaches.
pub struct Adaptable {
    /// Input features or channels.
    pub input: i64,
    /// Output features or channels.
    pub output: i64,
    /// Kernel size of a convolution, `None` for a linear layer.
    pub kernel: Option<i64>,
    /// The layer's weight, for merging.
    pub weight: Tensor,
    /// The adapter, once attached.
    pub lora: RefCell<Option<Lora>>,
    /// Shared by all layers of a model: switched off, the model is its base again.
    pub enabled: RefCell<Rc<Cell<bool>>>,
}

impl Adaptable {
    fn new(input: i64, output: i64, kernel: Option<i64>, weight: &Tensor) -> Rc<Self> {
        Rc::new(Self {
            input,
            output,
            kernel,
            weight: weight.shallow_clone(),
            lora: RefCell::new(None),
            enabled: RefCell::new(Rc::new(Cell::new(true))),
        })
    }

    /// `output` with the adapter's `update`, scale included, where one is switched on.
    fn apply(&self, output: Tensor, update: impl FnOnce(&Lora) -> Tensor) -> Tensor {
        match &*self.lora.borrow() {
            Some(lora) if self.enabled.borrow().get() => output + update(lora),
            _ => output,
        }
    }
}

/// Layers that can carry a LoRA, by module path.
pub type Adapters = BTreeMap<String, Rc<Adaptable>>;

/// Affine map of the last dimension.
pub struct Linear {
    weight: Tensor,
    /// The weight is stored `[input, output]`.
    transposed: bool,
    bias: Option<Tensor>,
    adaptable: Rc<Adaptable>,
}

impl Linear {
    /// Takes `weight` `[output, input]` and `bias` `[output]`.
    pub fn load(loader: &Loader, input: i64, output: i64) -> Result<Self> {
        Self::load_with(loader, input, output, true)
    }

    /// Takes `weight` `[output, input]` alone.
    pub fn load_no_bias(loader: &Loader, input: i64, output: i64) -> Result<Self> {
        Self::load_with(loader, input, output, false)
    }

    /// Takes `weight` `[output, input]` and, if there is one, `bias` `[output]`.
    pub fn load_with(loader: &Loader, input: i64, output: i64, bias: bool) -> Result<Self> {
        let weight = loader.tensor("weight", &[output, input])?;
        let bias = if bias {
            Some(loader.tensor("bias", &[output])?)
        } else {
            None
        };
        Ok(Self::with_tensors(
            loader, input, output, weight, bias, false,
        ))
    }

    /// Takes `weight` `[input, output]`, the transpose of what others store, and `bias` `[output]`: GPT-2's layers.
    pub fn load_transposed(loader: &Loader, input: i64, output: i64) -> Result<Self> {
        let weight = loader.tensor("weight", &[input, output])?;
        let bias = loader.tensor("bias", &[output])?;
        Ok(Self::with_tensors(
            loader,
            input,
            output,
            weight,
            Some(bias),
            true,
        ))
    }

    fn with_tensors(
        loader: &Loader,
        input: i64,
        output: i64,
        weight: Tensor,
        bias: Option<Tensor>,
        transposed: bool,
    ) -> Self {
        // A transposed view shares the weight's memory, so that a LoRA is merged into it the same way.
        let adaptable = if transposed {
            Adaptable::new(input, output, None, &weight.tr())
        } else {
            Adaptable::new(input, output, None, &weight)
        };
        loader.register(&adaptable);
        Self {
            weight,
            transposed,
            bias,
            adaptable,
        }
    }

    /// `[.., input]` to `[.., output]`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let kind = xs.kind();
        let mut weight = cast(&self.weight, kind);
        if self.transposed {
            weight = weight.tr();
        }
        let ys = xs.linear(&weight, self.bias.as_ref().map(|bias| cast(bias, kind)));
        self.adaptable.apply(ys, |lora| {
            let none: Option<&Tensor> = None;
            // Scaled where there are few numbers.
            let down = xs.linear(&cast(&lora.down, kind), none) * lora.scale;
            down.linear(&cast(&lora.up, kind), none)
        })
    }
}

/// Two-dimensional convolution with a square kernel.
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    groups: i64,
    adaptable: Rc<Adaptable>,
}

/// Shape and stepping of a [`Conv2d`].
#[derive(Clone, Copy)]
pub struct ConvConfig {
    /// Kernel size, both ways.
    pub kernel: i64,
    /// Stride, both ways.
    pub stride: i64,
    /// Zero padding on each side.
    pub padding: i64,
    /// Groups; `input` for a depthwise convolution.
    pub groups: i64,
    /// `true` if there is a bias.
    pub bias: bool,
}

impl ConvConfig {
    /// Stride 1, one group, a bias.
    pub fn new(kernel: i64, padding: i64) -> Self {
        Self {
            kernel,
            stride: 1,
            padding,
            groups: 1,
            bias: true,
        }
    }
}

impl Conv2d {
    /// Takes `weight` `[output, input / groups, kernel, kernel]` and, if there is one, `bias` `[output]`.
    pub fn load(loader: &Loader, input: i64, output: i64, config: ConvConfig) -> Result<Self> {
        let ConvConfig {
            kernel,
            stride,
            padding,
            groups,
            bias,
        } = config;
        let weight = loader.tensor("weight", &[output, input / groups, kernel, kernel])?;
        let bias = if bias {
            Some(loader.tensor("bias", &[output])?)
        } else {
            None
        };
        let adaptable = Adaptable::new(input, output, Some(kernel), &weight);
        loader.register(&adaptable);
        Ok(Self {
            weight,
            bias,
            stride,
            padding,
            groups,
            adaptable,
        })
    }

    /// `[b, input, h, w]` to `[b, output, h', w']`.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let kind = xs.kind();
        let none: Option<&Tensor> = None;
        let bias = self.bias.as_ref().map(|bias| cast(bias, kind));
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let ys = xs.conv2d(
            &cast(&self.weight, kind),
            bias,
            stride,
            padding,
            [1, 1],
            self.groups,
        );
        self.adaptable.apply(ys, |lora| {
            let down = xs.conv2d(&cast(&lora.down, kind), none, stride, padding, [1, 1], 1);
            let down = down * lora.scale;
            down.conv2d(&cast(&lora.up, kind), none, [1, 1], [0, 0], [1, 1], 1)
        })
    }
}

/// Normalisation over groups of channels.
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    /// Takes `weight` and `bias`, both `[channels]`.
    pub fn load(loader: &Loader, groups: i64, channels: i64, eps: f64) -> Result<Self> {
        let weight = loader.tensor("weight", &[channels])?;
        let bias = loader.tensor("bias", &[channels])?;
        Ok(Self {
            weight,
            bias,
            groups,
            eps,
        })
    }

    /// `[b, channels, ..]`, shape kept.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let kind = xs.kind();
        xs.group_norm(
            self.groups,
            Some(cast(&self.weight, kind)),
            Some(cast(&self.bias, kind)),
            self.eps,
            true,
        )
    }
}

/// Normalisation over the last dimension.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Takes `weight` and `bias`, both `[width]`.
    pub fn load(loader: &Loader, width: i64, eps: f64) -> Result<Self> {
        let weight = loader.tensor("weight", &[width])?;
        let bias = loader.tensor("bias", &[width])?;
        Ok(Self { weight, bias, eps })
    }

    /// `[.., width]`, shape kept.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let kind = xs.kind();
        let width = self.weight.size()[0];
        xs.layer_norm(
            [width],
            Some(cast(&self.weight, kind)),
            Some(cast(&self.bias, kind)),
            self.eps,
            true,
        )
    }
}

/// Division by the root mean square of the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467), in f32.
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Takes `weight` `[width]`.
    pub fn load(loader: &Loader, width: i64, eps: f64) -> Result<Self> {
        let weight = loader.tensor("weight", &[width])?;
        Ok(Self { weight, eps })
    }

    /// `[.., width]`, shape kept.
    pub fn forward(&self, xs: &Tensor) -> Tensor {
        let weight = cast(&self.weight, xs.kind());
        xs.rms_norm(self.weight.size(), Some(weight), self.eps)
    }
}

/// Table of vectors.
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Takes `weight` `[count, width]`.
    pub fn load(loader: &Loader, count: i64, width: i64) -> Result<Self> {
        Ok(Self {
            weight: loader.tensor("weight", &[count, width])?,
        })
    }

    /// Integer `[..]` to `[.., width]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, -1, false, false)
    }

    /// `[.., width]` to `[.., count]`: the product with every vector of the table, a tied output layer.
    pub fn scores(&self, xs: &Tensor) -> Tensor {
        let none: Option<&Tensor> = None;
        xs.linear(&cast(&self.weight, xs.kind()), none)
    }
}

//! In which number type a LoRA's matrices are stored: the one that is asked for, or f32 of a module whose update that
//! one cannot hold.

use tch::{Kind, Tensor};

use super::Site;
use crate::models::layers::Lora;

/// Relative error of an update whose two factors are rounded to a type: half the last bit of each, and some room for
/// sums.
pub(in crate::models) fn rounding(kind: Kind) -> f64 {
    match kind {
        Kind::Half => 2e-3,
        Kind::BFloat16 => 1.6e-2,
        _ => 1e-5,
    }
}

impl Lora {
    /// `true` if the update is `meant`'s, but for the rounding of the type that it is stored in.
    pub(in crate::models) fn is_update_of(&self, meant: &Self, site: &Site) -> bool {
        let shape = site.weight_shape();
        let (actual, expected) = (self.update(&shape), meant.update(&shape));
        let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
        let allowed = rounding(self.up.kind()) * largest(&expected);
        // Not finite is not within it.
        largest(&(actual - &expected)) <= allowed
    }

    /// The same update with `scale`, the rest of its own in B, stored as `kind`; as f32, and true, where it is below what
    /// `kind` holds. Values beyond `kind` become infinite: who computes in it could not use them as f32 either.
    pub(super) fn stored(&self, scale: f64, kind: Kind, site: &Site) -> (Self, bool) {
        let up = self.up.detach().to_kind(Kind::Float) * (self.scale / scale);
        let down = self.down.detach();
        let as_kind = |kind| Self {
            down: down.to_kind(kind),
            up: up.to_kind(kind),
            scale,
        };
        let stored = as_kind(kind);
        let finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        let overflows = !finite(&stored.down) || !finite(&stored.up);
        if kind == Kind::Float || overflows || stored.is_update_of(self, site) {
            (stored, false)
        } else {
            (as_kind(Kind::Float), true)
        }
    }
}

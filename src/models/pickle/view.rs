//! A tensor as a pickle describes it: sizes and strides over a storage, checked against its length before anything is read.

use super::classes::Element;
use super::machine::{Fault, Storage, wrong};
use crate::models::stored::{Place, is_packed};

/// A tensor over a storage.
pub(super) struct View {
    pub(super) storage: Storage,
    pub(super) element: &'static Element,
    /// Numbers before its first one.
    pub(super) offset: u64,
    pub(super) sizes: Vec<i64>,
    /// Steps from one number to the next; none where they follow each other.
    pub(super) strides: Option<Vec<i64>>,
    /// Numbers from its first to its last.
    pub(super) span: u64,
}

impl View {
    /// Those of libtorch.
    pub(super) const MOST_DIMENSIONS: usize = 64;
    /// Numbers that a tensor may have which repeats those of a shorter storage: more would be a way to fill the memory.
    const MOST_REPEATED: u64 = 1 << 24;

    pub(super) fn new(
        storage: Storage,
        element: &'static Element,
        offset: i64,
        sizes: Vec<i64>,
        strides: Vec<i64>,
    ) -> Result<Self, Fault> {
        let does_not_fit = || {
            let message = format!(
                "has a tensor of sizes {sizes:?}, strides {strides:?} and offset {offset}, which reaches out of its storage \
                 of {} numbers",
                storage.length
            );
            Fault::Wrong(message)
        };
        if sizes.len() != strides.len() {
            return wrong("has a tensor with other numbers of sizes than of strides");
        }
        if offset < 0 || sizes.iter().chain(&strides).any(|&number| number < 0) {
            return Err(does_not_fit());
        }
        let bytes = storage.length.checked_mul(storage.element.width);
        let held = bytes.ok_or_else(does_not_fit)? / element.width;
        let mut count: u64 = 1;
        let mut last: u64 = offset as u64;
        for (&size, &stride) in sizes.iter().zip(&strides) {
            count = count.checked_mul(size as u64).ok_or_else(does_not_fit)?;
            let reach = (size.max(1) as u64 - 1).checked_mul(stride as u64);
            last = reach
                .and_then(|reach| last.checked_add(reach))
                .ok_or_else(does_not_fit)?;
        }
        if count == 0 {
            let (offset, strides, span) = (0, None, 0);
            return Ok(Self {
                storage,
                element,
                offset,
                sizes,
                strides,
                span,
            });
        }
        if last >= held || count > held.max(Self::MOST_REPEATED) {
            return Err(does_not_fit());
        }
        let follow = is_packed(&sizes, &strides);
        Ok(Self {
            storage,
            element,
            offset: offset as u64,
            span: last - offset as u64 + 1,
            sizes,
            strides: (!follow).then_some(strides),
        })
    }

    /// Where it lies in a file that has its storage from `begin` on.
    pub(super) fn place(&self, begin: u64) -> Place {
        Place {
            begin: begin + self.offset * self.element.width,
            span: self.span as usize,
            kind: self
                .element
                .kind
                .ok_or_else(|| self.element.name.to_owned()),
            strides: self.strides.clone(),
            record: None,
        }
    }
}

//! Activation checkpointing without a custom autograd function.
//!
//! A [`Tape`] runs each block without a graph and keeps only its inputs and outputs. After the loss has been
//! back-propagated to the last outputs, [`Tape::backward`] walks the blocks in reverse: it runs each again with
//! a graph and back-propagates `sum(output * upstream gradient)`, whose gradient is exactly that of the block.
//!
//! Every input of a block that needs a gradient must therefore be the output of another block of the same tape,
//! or a leaf. An input with a graph of its own (a time embedding computed outside, read by all blocks) would be
//! back-propagated once per block, through a graph that libtorch has freed after the first time: make its
//! computation a block too.

use std::cell::RefCell;

use tch::{Tensor, no_grad};

type Block<'a> = Box<dyn Fn(&[Tensor]) -> Tensor + 'a>;

struct Segment<'a> {
    inputs: Vec<Tensor>,
    output: Tensor,
    block: Block<'a>,
}

/// Records the blocks of one forward pass; see the module's documentation.
#[derive(Default)]
pub struct Tape<'a> {
    segments: RefCell<Vec<Segment<'a>>>,
}

impl<'a> Tape<'a> {
    /// An empty tape, for one forward and one backward pass.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `block` on `inputs` without a graph and remembers how to run it again.
    ///
    /// `inputs` must hold every tensor on which the block depends and through which a gradient may flow back to
    /// an earlier block; parameters need not be listed.
    pub fn run(&self, inputs: Vec<Tensor>, block: impl Fn(&[Tensor]) -> Tensor + 'a) -> Tensor {
        let output = no_grad(|| block(&inputs)).detach().set_requires_grad(true);
        self.segments.borrow_mut().push(Segment {
            inputs,
            output: output.shallow_clone(),
            block: Box::new(block),
        });
        output
    }

    /// Back-propagates through all recorded blocks, last first. Call it after `loss.backward()`.
    pub fn backward(self) {
        for segment in self.segments.into_inner().into_iter().rev() {
            let gradient = segment.output.grad();
            if !gradient.defined() {
                continue;
            }
            let output = (segment.block)(&segment.inputs);
            // Nothing trainable in the first blocks of a frozen base.
            if output.requires_grad() {
                (output * gradient).sum(None).backward();
            }
        }
    }
}

/// Runs `block` on `inputs`: recorded on `tape` where there is one, else directly.
pub fn checkpointed<'a>(
    tape: Option<&Tape<'a>>,
    inputs: Vec<Tensor>,
    block: impl Fn(&[Tensor]) -> Tensor + 'a,
) -> Tensor {
    match tape {
        Some(tape) => tape.run(inputs, block),
        None => block(&inputs),
    }
}

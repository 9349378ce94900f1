//! The cost of a pass of the U-Net, from its configuration alone: weights, operations, and the memory that a training
//! step's activations and gradients take at their highest. Mirrors the graph of `blocks.rs` and `attention.rs`.

use super::config::{BlockKind, UNetConfig};

/// The weights that are trained, as far as they change what the backward pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// All weights: every layer's input is kept.
    All,
    /// Adapters on the projections of the attentions: inputs of frozen linear layers are not kept.
    Attention,
    /// Adapters on every linear layer of the attention blocks.
    AllLinear,
}

/// Size of a pass.
#[derive(Clone, Copy, Debug)]
pub struct PassShape {
    /// Samples.
    pub samples: i64,
    /// Latent height and width.
    pub latent: [i64; 2],
    /// Tokens of the text.
    pub tokens: i64,
}

/// A part of the graph that activation checkpointing recomputes as one.
#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    /// Weights and biases.
    parameters: f64,
    /// Multiplications and additions of the forward pass.
    flops: f64,
    /// Elements that its backward pass reads, beside the inputs that earlier segments hand over.
    kept: f64,
    /// Elements of its output.
    output: f64,
    /// Elements of its largest tensor.
    largest: f64,
    /// The output is read again by the up path.
    skip: bool,
}

/// Costs of one forward pass, part by part.
pub struct UNetCost {
    segments: Vec<Segment>,
}

/// Adds up a segment while walking the graph.
struct Walk<'a> {
    config: &'a UNetConfig,
    trained: Trained,
    shape: PassShape,
    segments: Vec<Segment>,
    open: Segment,
}

impl Walk<'_> {
    fn close(&mut self, output: f64, skip: bool) {
        self.open.output = output;
        self.open.skip = skip;
        self.segments.push(std::mem::take(&mut self.open));
    }

    /// A tensor that the backward pass reads.
    fn keep(&mut self, elements: f64) {
        self.open.kept += elements;
        self.open.largest = self.open.largest.max(elements);
    }

    /// A tensor that only the forward pass and its gradient need.
    fn pass(&mut self, elements: f64) {
        self.open.largest = self.open.largest.max(elements);
    }

    fn keep_if(&mut self, kept: bool, elements: f64) {
        if kept {
            self.keep(elements);
        } else {
            self.pass(elements);
        }
    }

    fn norm(&mut self, channels: f64) {
        self.open.parameters += 2.0 * channels;
    }

    /// `positions` are those of the output.
    fn conv(&mut self, input: f64, output: f64, kernel: f64, positions: f64) {
        let weights = input * output * kernel * kernel;
        self.open.parameters += weights + output;
        self.open.flops += 2.0 * weights * positions;
    }

    fn linear(&mut self, input: f64, output: f64, bias: bool, rows: f64) {
        self.open.parameters += input * output + if bias { output } else { 0.0 };
        self.open.flops += 2.0 * input * output * rows;
    }

    fn samples(&self) -> f64 {
        self.shape.samples as f64
    }

    fn embed(&mut self, input: f64) {
        let width = self.config.time_embed_dim() as f64;
        self.linear(input, width, true, self.samples());
        self.linear(width, width, true, self.samples());
    }

    /// `positions` of all samples.
    fn resnet(&mut self, input: f64, output: f64, positions: f64) {
        self.norm(input);
        self.keep(input * positions); // norm1, read by SiLU
        self.keep(input * positions); // SiLU, read by conv1
        self.conv(input, output, 3.0, positions);
        self.linear(
            self.config.time_embed_dim() as f64,
            output,
            true,
            self.samples(),
        );
        self.pass(output * positions);
        self.keep(output * positions); // with the time, read by norm2
        self.norm(output);
        self.keep(output * positions);
        self.keep(output * positions);
        self.conv(output, output, 3.0, positions);
        if (input - output).abs() > 0.5 {
            self.conv(input, output, 1.0, positions);
        }
    }

    /// Scores and weighted sums of `queries` positions over `keys`, both of one sample.
    fn attend(&mut self, width: f64, queries: f64, keys: f64) {
        self.open.flops += 4.0 * self.samples() * width * queries * keys;
        let states = self.samples() * width;
        self.keep(states * queries); // queries
        self.keep(2.0 * states * keys); // keys and values
        self.keep(states * queries); // output, read by to_out too
    }

    fn transformer(&mut self, level: usize, positions: f64) {
        let width = self.config.block_out_channels[level] as f64;
        let context = self.config.cross_attention_dim[level] as f64;
        let (samples, tokens) = (self.samples(), self.shape.tokens as f64);
        let each = positions / samples;
        let map = width * positions;
        let linear = self.config.use_linear_projection;
        let adapted = self.trained != Trained::Attention;
        // The input of a convolution is kept whether its weight is trained or not.
        let project = |walk: &mut Self| {
            if linear {
                walk.linear(width, width, true, positions);
            } else {
                walk.conv(width, width, 1.0, positions);
            }
        };
        self.keep(map); // the residual layer's output, read by the norm
        self.norm(width);
        self.keep_if(!linear || adapted, map);
        project(self);
        for _ in 0..self.config.transformer_layers[level] {
            for (source, keys) in [(width, each), (context, tokens)] {
                self.keep(map); // read by the norm
                self.norm(width);
                self.keep(map); // read by the projections
                let rows = keys * samples;
                self.linear(width, width, false, positions);
                self.linear(source, width, false, rows);
                self.linear(source, width, false, rows);
                self.attend(width, each, keys);
                self.linear(width, width, true, positions);
            }
            self.keep(map);
            self.norm(width);
            self.keep_if(adapted, map);
            self.linear(width, 8.0 * width, true, positions);
            self.keep(8.0 * map); // both halves
            self.keep(4.0 * map); // GELU of the gate
            self.keep_if(adapted, 4.0 * map);
            self.linear(4.0 * width, width, true, positions);
        }
        self.keep_if(!linear || adapted, map);
        project(self);
    }

    /// A residual layer, and the transformer where the block has them: one segment.
    fn layer(&mut self, level: usize, kind: BlockKind, input: f64, positions: f64, skip: bool) {
        let output = self.config.block_out_channels[level] as f64;
        self.resnet(input, output, positions);
        if kind == BlockKind::CrossAttention {
            self.transformer(level, positions);
        }
        self.close(output * positions, skip);
    }
}

/// Size of a side after a convolution of stride 2.
fn halved(side: i64) -> i64 {
    (side + 1) / 2
}

impl UNetCost {
    /// Of a pass of the network that `config` describes.
    pub fn new(config: &UNetConfig, trained: Trained, shape: PassShape) -> Self {
        let mut walk = Walk {
            config,
            trained,
            shape,
            segments: Vec::new(),
            open: Segment::default(),
        };
        let channels: Vec<f64> = config
            .block_out_channels
            .iter()
            .map(|&n| n as f64)
            .collect();
        let last = channels.len() - 1;
        let positions = |side: [i64; 2]| (side[0] * side[1] * shape.samples) as f64;
        walk.embed(channels[0]);
        if let Some(added) = config.added {
            walk.embed(added.input as f64);
        }
        walk.conv(
            config.in_channels as f64,
            channels[0],
            3.0,
            positions(shape.latent),
        );
        walk.close(channels[0] * positions(shape.latent), true);

        // Outputs that the up path reads: channels and size.
        let mut skips = vec![(channels[0], shape.latent)];
        let mut side = shape.latent;
        for (level, &width) in channels.iter().enumerate() {
            let mut input = skips[skips.len() - 1].0;
            for _ in 0..config.layers_per_block[level] {
                walk.keep(input * positions(side)); // what came in, read by norm1
                walk.layer(
                    level,
                    config.down_blocks[level],
                    input,
                    positions(side),
                    true,
                );
                input = width;
                skips.push((input, side));
            }
            if level < last {
                walk.keep(input * positions(side));
                side = side.map(halved);
                walk.conv(input, input, 3.0, positions(side));
                walk.close(input * positions(side), true);
                skips.push((input, side));
            }
        }

        let middle = channels[last];
        walk.keep(middle * positions(side));
        walk.layer(
            last,
            BlockKind::CrossAttention,
            middle,
            positions(side),
            false,
        );
        walk.keep(middle * positions(side));
        walk.layer(last, BlockKind::Plain, middle, positions(side), false);

        let mut below = middle;
        for (index, &kind) in config.up_blocks.iter().enumerate() {
            let level = last - index;
            for _ in 0..=config.layers_per_block[level] {
                let (skip, _) = skips.pop().unwrap_or_default();
                let input = below + skip;
                walk.keep(input * positions(side)); // joined
                walk.layer(level, kind, input, positions(side), false);
                below = channels[level];
            }
            if let (true, Some(&(_, next))) = (level > 0, skips.last()) {
                side = next;
                walk.keep(below * positions(side)); // enlarged
                walk.conv(below, below, 3.0, positions(side));
                walk.close(below * positions(side), false);
            }
        }
        walk.keep(below * positions(side));
        walk.norm(below);
        walk.keep(below * positions(side));
        walk.keep(below * positions(side));
        walk.conv(below, config.out_channels as f64, 3.0, positions(side));
        walk.close(config.out_channels as f64 * positions(side), false);
        Self {
            segments: walk.segments,
        }
    }

    /// Weights and biases of the network.
    pub fn parameters(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.parameters)
            .sum::<f64>() as u64
    }

    /// Floating-point operations of a forward pass, two for each multiplication with an addition, in convolutions, linear
    /// layers and attention; a backward pass takes about twice as many where all weights are trained.
    pub fn flops(&self) -> f64 {
        self.segments.iter().map(|segment| segment.flops).sum()
    }

    /// Elements of the largest activations that are there at one time in a pass without a gradient: skip connections, and
    /// input, output and what lies between of the largest layer.
    pub fn forward_elements(&self) -> f64 {
        let skips: f64 = self
            .segments
            .iter()
            .filter(|segment| segment.skip)
            .map(|segment| segment.output)
            .sum();
        skips + 4.0 * self.largest()
    }

    fn largest(&self) -> f64 {
        self.segments
            .iter()
            .map(|segment| segment.largest)
            .fold(0.0, f64::max)
    }

    /// Bytes at the highest point of a forward and backward pass: activations of `activation` bytes an element, gradients
    /// of `gradient` bytes a weight (0 where weights are frozen) as they come in, and copies of the weights of `cast`
    /// bytes each that the backward pass reads (0 where they are stored in the activations' type).
    pub fn training_bytes(
        &self,
        activation: f64,
        gradient: f64,
        cast: f64,
        checkpointed: bool,
    ) -> f64 {
        let working = 2.0 * self.largest() * activation;
        let held = |segment: &Segment| {
            if checkpointed {
                // The output, and its gradient from where it is read until the segment is run again.
                segment.output * activation * if segment.skip { 2.0 } else { 1.0 }
            } else {
                segment.kept * activation + segment.parameters * cast
            }
        };
        let mut before: f64 = self.segments.iter().map(held).sum();
        let (mut gradients, mut peak) = (0.0, before + working);
        for segment in self.segments.iter().rev() {
            let again = if checkpointed {
                segment.kept * activation + segment.parameters * cast
            } else {
                0.0
            };
            gradients += segment.parameters * gradient;
            peak = f64::max(peak, before + again + gradients + working);
            before -= held(segment);
        }
        peak
    }
}

//! Declaring what a tower is made of while walking through its layers once.
//!
//! Owns the lists of projections and parameters that a
//! [`TowerTopology`] holds, so that a layer's shape and
//! names are written in one place. Knows no architecture and loads nothing.

use crate::parameter::Init;
use crate::site::{At, Projection, Role, Tower};
use crate::topology::{
    BlockInfo, Origin, ParameterInfo, ProjectionInfo, Shape, StreamInfo, TowerTopology, thirds,
};

/// The projections and parameters of one tower, in the order in which they are declared.
#[derive(Clone, Debug)]
pub struct Declared {
    tower: Tower,
    /// Projections, each one of a layer declared here.
    pub projections: Vec<ProjectionInfo>,
    /// Parameters and buffers.
    pub parameters: Vec<ParameterInfo>,
}

/// A layer with a weight, as [`Declared::layer`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Its depth.
    pub at: At,
    /// Which projection it is.
    pub projection: Projection,
    /// Input width; the vocabulary of an embedding.
    pub input: usize,
    /// Output width.
    pub output: usize,
    /// How it maps.
    pub shape: Shape,
    /// Whether it has a bias `[output]`.
    pub bias: bool,
}

impl Layer {
    /// A linear layer with a bias.
    pub fn linear(at: At, projection: Projection, input: usize, output: usize) -> Self {
        Self {
            at,
            projection,
            input,
            output,
            shape: Shape::Linear,
            bias: true,
        }
    }

    /// A table of embeddings.
    pub fn embedding(at: At, projection: Projection, vocabulary: usize, output: usize) -> Self {
        Self {
            shape: Shape::Embedding,
            ..Self::linear(at, projection, vocabulary, output).bare()
        }
    }

    /// A convolution without a bias, padded by half its kernel; one whose stride is its kernel
    /// cuts patches and is not padded.
    pub fn conv(
        at: At,
        projection: Projection,
        (input, output): (usize, usize),
        kernel: usize,
        stride: usize,
    ) -> Self {
        let padding = match kernel == stride {
            true => 0,
            false => kernel / 2,
        };
        Self {
            shape: Shape::Conv {
                kernel,
                stride,
                padding,
            },
            ..Self::linear(at, projection, input, output).bare()
        }
    }

    /// The same without a bias.
    #[must_use]
    pub fn bare(self) -> Self {
        Self {
            bias: false,
            ..self
        }
    }

    /// The shape of its weight.
    fn weight(&self) -> Vec<usize> {
        match self.shape {
            Shape::Linear => vec![self.output, self.input],
            Shape::Conv { kernel, .. } => vec![self.output, self.input, kernel, kernel],
            Shape::Embedding => vec![self.input, self.output],
        }
    }
}

impl Declared {
    /// Nothing yet, of `tower`.
    pub fn new(tower: Tower) -> Self {
        Self {
            tower,
            projections: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// The tower of these layers and `blocks`: it embeds into the first block's stream, ends in
    /// the last one's, has a stage at each third of its depth and takes `context` tokens.
    pub fn into_tower(self, blocks: Vec<BlockInfo>, context: usize) -> TowerTopology {
        let none = StreamInfo {
            width: 0,
            grid: None,
            map: false,
        };
        TowerTopology {
            embed: blocks.first().map_or(none, |b| b.stream),
            last: blocks.last().map_or(none, |b| b.stream),
            stages: thirds(blocks.len()),
            blocks,
            context,
            projections: self.projections,
            parameters: self.parameters,
        }
    }

    /// A parameter stored in the base as it is used.
    pub fn parameter(&mut self, name: &str, shape: &[usize], role: Role, used: &[At]) {
        self.parameter_from(Origin::Base, name, shape, role, used);
    }

    /// A parameter of any origin.
    pub fn parameter_from(
        &mut self,
        origin: Origin,
        name: &str,
        shape: &[usize],
        role: Role,
        used: &[At],
    ) {
        self.parameters.push(ParameterInfo {
            name: name.to_string(),
            shape: shape.to_vec(),
            role,
            tower: Some(self.tower),
            used: used.to_vec(),
            origin,
        });
    }

    /// `name.weight` and, where it has one, `name.bias`, as a projection; `used` are the depths
    /// that read it.
    pub fn layer(&mut self, name: &str, layer: Layer, used: &[At]) {
        self.layer_from(Origin::Base, name, layer, used);
    }

    /// A layer whose weight is of any origin.
    pub fn layer_from(&mut self, origin: Origin, name: &str, layer: Layer, used: &[At]) {
        self.projections.push(ProjectionInfo {
            tower: self.tower,
            at: layer.at,
            projection: layer.projection,
            input: layer.input,
            output: layer.output,
            shape: layer.shape,
            name: name.to_string(),
        });
        let weight = format!("{name}.weight");
        self.parameter_from(origin, &weight, &layer.weight(), Role::Weight, used);
        if layer.bias {
            self.parameter(&format!("{name}.bias"), &[layer.output], Role::Bias, used);
        }
    }

    /// The weight and bias `[width]` of a norm.
    pub fn norm(&mut self, name: &str, width: usize, used: &[At]) {
        for (part, role) in [("weight", Role::NormWeight), ("bias", Role::NormBias)] {
            self.parameter(&format!("{name}.{part}"), &[width], role, used);
        }
    }

    /// The weight, bias and running statistics `[width]` of a batch norm.
    pub fn batch_norm(&mut self, name: &str, width: usize, used: &[At]) {
        self.norm(name, width, used);
        for part in ["running_mean", "running_var"] {
            self.parameter(&format!("{name}.{part}"), &[width], Role::Statistics, used);
        }
    }

    /// A batch norm that is not in the base: ones and zeros.
    pub fn fresh_batch_norm(&mut self, name: &str, width: usize, used: &[At]) {
        for (part, role, init) in [
            ("weight", Role::NormWeight, Init::Ones),
            ("bias", Role::NormBias, Init::Zeros),
            ("running_mean", Role::Statistics, Init::Zeros),
            ("running_var", Role::Statistics, Init::Ones),
        ] {
            let name = format!("{name}.{part}");
            self.parameter_from(Origin::Fresh(init), &name, &[width], role, used);
        }
    }
}

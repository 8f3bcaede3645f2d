//! The toy's shape: streams, one projection a block, which is a branch on maps, and the parameters
//! that follow.

use twinspan_sdk::site::{At, Branch, Projection, Role, Tower};
use twinspan_sdk::topology::{
    BlockInfo, BranchInfo, Origin, ParameterInfo, ProjectionInfo, Shape, StreamInfo, Topology,
    TowerTopology,
};

pub const WORDS: usize = 5;
pub const VOCABULARY: usize = 7;

pub fn token_stream(width: usize, grid: (usize, usize)) -> StreamInfo {
    StreamInfo {
        width,
        grid: Some(grid),
        map: false,
    }
}

pub fn map_stream(width: usize, grid: (usize, usize)) -> StreamInfo {
    StreamInfo {
        width,
        grid: Some(grid),
        map: true,
    }
}

/// A topology with one block a stage in both towers.
pub fn topology(vision: &[StreamInfo], text_width: usize) -> Topology {
    let text = vec![
        StreamInfo {
            width: text_width,
            grid: None,
            map: false,
        };
        vision.len()
    ];
    Topology {
        vision: tower(Tower::Vision, vision),
        text: tower(Tower::Text, &text),
        joint: 4,
        contrast: Default::default(),
        shared: Vec::new(),
    }
}

fn tower(tower: Tower, streams: &[StreamInfo]) -> TowerTopology {
    let first = streams[0];
    let mut projections = vec![match tower {
        Tower::Vision => projection(
            tower,
            At::Embed,
            Projection::Patch,
            (3, first.width),
            conv(2, 2, 0),
        ),
        Tower::Text => {
            let ends = (VOCABULARY, first.width);
            projection(tower, At::Embed, Projection::Token, ends, Shape::Embedding)
        }
    }];
    let mut before = first;
    for (i, stream) in streams.iter().enumerate() {
        let ends = (before.width, stream.width);
        let at = At::Block(i);
        projections.push(match stream.map {
            true => {
                let stride = before.grid.unwrap().0.div_ceil(stream.grid.unwrap().0);
                projection(tower, at, Projection::Conv1, ends, conv(3, stride, 1))
            }
            false => projection(tower, at, Projection::Query, ends, Shape::Linear),
        });
        before = *stream;
    }
    let mut parameters = Vec::new();
    for p in &projections {
        let (weight, bias) = match p.shape {
            Shape::Linear => (vec![p.output, p.input], true),
            Shape::Conv { kernel, .. } => (vec![p.output, p.input, kernel, kernel], false),
            Shape::Embedding => (vec![p.input, p.output], false),
        };
        parameters.push(parameter(
            tower,
            &format!("{}.weight", p.name),
            weight,
            Role::Weight,
            p.at,
        ));
        if bias {
            parameters.push(parameter(
                tower,
                &format!("{}.bias", p.name),
                vec![p.output],
                Role::Bias,
                p.at,
            ));
        }
    }
    if !first.map {
        let width = vec![before.width];
        let name = |n: &str| format!("{tower}.{n}");
        parameters.push(parameter(
            tower,
            &name("norm.weight"),
            width.clone(),
            Role::NormWeight,
            At::Final,
        ));
        parameters.push(parameter(
            tower,
            &name("norm.bias"),
            width.clone(),
            Role::NormBias,
            At::Final,
        ));
        parameters.push(parameter(
            tower,
            &name("class"),
            width,
            Role::Class,
            At::Embed,
        ));
        if tower == Tower::Text {
            parameters.pop();
            let table = vec![WORDS, first.width];
            parameters.push(parameter(
                tower,
                &name("positions"),
                table,
                Role::Position,
                At::Embed,
            ));
        }
    }
    TowerTopology {
        embed: first,
        blocks: streams
            .iter()
            .map(|stream| BlockInfo {
                stream: *stream,
                heads: 0,
                branches: match stream.map {
                    true => vec![BranchInfo {
                        branch: Branch::Convolution,
                        width: stream.width,
                        consumers: vec![Projection::Conv1],
                    }],
                    false => Vec::new(),
                },
            })
            .collect(),
        stages: (0..streams.len()).collect(),
        last: before,
        context: WORDS,
        projections,
        parameters,
    }
}

fn conv(kernel: usize, stride: usize, padding: usize) -> Shape {
    Shape::Conv {
        kernel,
        stride,
        padding,
    }
}

fn projection(
    tower: Tower,
    at: At,
    projection: Projection,
    (input, output): (usize, usize),
    shape: Shape,
) -> ProjectionInfo {
    ProjectionInfo {
        tower,
        at,
        projection,
        input,
        output,
        shape,
        name: format!("{tower}.{at}.{projection}"),
    }
}

fn parameter(tower: Tower, name: &str, shape: Vec<usize>, role: Role, at: At) -> ParameterInfo {
    ParameterInfo {
        name: name.to_string(),
        shape,
        role,
        tower: Some(tower),
        used: vec![at],
        origin: Origin::Base,
    }
}

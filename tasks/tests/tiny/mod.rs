//! Backbones as a task sees them: topologies made by hand, of any size.

#![allow(dead_code)]

use twinspan_sdk::topology::{BlockInfo, StreamInfo, Topology, TowerTopology};

/// A square map: its channels and its side.
pub type Map = (usize, usize);

fn stream((width, side): Map) -> StreamInfo {
    StreamInfo {
        width,
        grid: Some((side, side)),
        map: true,
    }
}

fn tower(embed: StreamInfo, stages: &[StreamInfo], last: StreamInfo) -> TowerTopology {
    let block = |stream: &StreamInfo| BlockInfo {
        stream: *stream,
        heads: 0,
        branches: Vec::new(),
    };
    TowerTopology {
        embed,
        blocks: stages.iter().map(block).collect(),
        stages: (0..stages.len()).collect(),
        last,
        context: 77,
        projections: Vec::new(),
        parameters: Vec::new(),
    }
}

/// A backbone with two maps on the way and one at the end, words of width
/// `words` and a joint space of width `joint`. Every block ends a stage.
pub fn topology(first: Map, second: Map, last: Map, words: usize, joint: usize) -> Topology {
    let word = StreamInfo {
        width: words,
        grid: None,
        map: false,
    };
    let stages = [stream(first), stream(second), stream(last)];
    Topology {
        vision: tower(stream(first), &stages, stream(last)),
        text: tower(word, &[word; 3], word),
        joint,
        contrast: Default::default(),
        shared: Vec::new(),
    }
}

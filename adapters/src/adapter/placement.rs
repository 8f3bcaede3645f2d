//! The placements of a bottleneck, and what each has where the options leave it open.
//!
//! | placement | branches | a | d | s | dropout | start |
//! |---|---|---|---|---|---|---|
//! | `houlsby` | attention, MLP | GELU | width/16 | 1 | 0 | weights N(0, .02): near the identity |
//! | `pfeiffer` | MLP | ReLU | width/16 | 1 | 0 | weights N(0, .02): near the identity |
//! | `parallel` | MLP | ReLU | 64 | .1 | .1 | down uniform in ±√(1/in), up 0: the identity |
//!
//! Owns this table; how options stand over it is [`super`]'s.

use serde::{Deserialize, Serialize};
use twinspan_sdk::ops;
use twinspan_sdk::parameter::Init;
use twinspan_sdk::site::Branch;

use crate::bottleneck::{Nonlinearity, narrowed};

/// Where a bottleneck lies, after the paper that put it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Behind attention and MLP.
    #[default]
    Houlsby,
    /// Behind the MLP.
    Pfeiffer,
    /// Parallel to the MLP.
    Parallel,
}

/// A row of the table.
pub(super) struct Own {
    pub activation: Nonlinearity,
    pub width: usize,
    pub scale: f64,
    pub dropout: f64,
    pub down: Init,
    pub up: Init,
}

impl Placement {
    pub(super) fn branches(self) -> &'static [Branch] {
        match self {
            Placement::Houlsby => &[Branch::Attention, Branch::Mlp],
            Placement::Pfeiffer | Placement::Parallel => &[Branch::Mlp],
        }
    }

    /// Between so many channels.
    pub(super) fn own(self, input: usize, output: usize) -> Own {
        let series = Own {
            activation: ops::relu,
            width: narrowed(output, 16, 1),
            scale: 1.0,
            dropout: 0.0,
            down: Init::Normal(0.02),
            up: Init::Normal(0.02),
        };
        match self {
            Placement::Houlsby => Own {
                activation: ops::gelu,
                ..series
            },
            Placement::Pfeiffer => series,
            Placement::Parallel => Own {
                activation: ops::relu,
                width: 64,
                scale: 0.1,
                dropout: 0.1,
                down: Init::KaimingUniform { fan: input },
                up: Init::Zeros,
            },
        }
    }
}

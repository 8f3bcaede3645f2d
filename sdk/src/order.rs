//! The order of the towers: both towers' segments sorted by what reads what.
//!
//! Owns the graph of depths, bridges and reads, its topological order, and the error that names
//! the adapters on a cycle. Runs nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::hooks::{Reader, Reading};
use crate::site::{At, Tap, Tower};
use crate::topology::Topology;

/// One step of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The embedding of a tower.
    Embed(Tower),
    /// A tower's items become pairs: from here on it depends on the other tower.
    Expand(Tower),
    /// A block.
    Block(Tower, usize),
    /// A bridge, by its place in the hooks.
    Bridge(usize),
    /// The final features of a tower.
    Features(Tower),
    /// The pooled vectors of a tower.
    Pooled(Tower),
    /// The similarities of pooled vectors.
    Logits,
}

/// Bridges sort first, so that a bridge runs as soon as both sides are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Bridge(usize),
    Place(Tower, At),
}

/// The bridges of a model: (vision block, text block, owner), in the order of their hooks.
pub(crate) type Bridges = [(usize, usize, String)];

/// The steps that give what is wanted, and nothing more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    pub steps: Vec<Step>,
    needed: BTreeSet<Node>,
}

impl Order {
    /// Whether what is wanted depends on exactly this depth.
    pub fn has(&self, tower: Tower, at: At) -> bool {
        self.needed.contains(&Node::Place(tower, at))
    }

    /// Whether what is wanted depends on this depth; the final layers count for either of what
    /// they give.
    pub fn reaches(&self, tower: Tower, at: At) -> bool {
        match at {
            At::Final => [At::Final, At::Pooled]
                .iter()
                .any(|at| self.needed.contains(&Node::Place(tower, *at))),
            At::Logits => self
                .needed
                .contains(&Node::Place(Tower::Vision, At::Logits)),
            _ => self.needed.contains(&Node::Place(tower, at)),
        }
    }
}

/// A cycle in words: of each run through one tower the first place and the last.
fn around(mut places: Vec<(Tower, At)>) -> String {
    let n = places.len();
    let turn = (0..n).find(|i| places[*i].0 != places[(i + n - 1) % n].0);
    places.rotate_left(turn.unwrap_or(0));
    let mut out = String::new();
    for run in places.chunk_by(|a, b| a.0 == b.0) {
        let name = |(tower, at): &(Tower, At)| format!("{tower}.{at}");
        let shown = match run {
            [first, last] => format!("{} → {}", name(first), name(last)),
            [first, .., last] => format!("{} … {}", name(first), name(last)),
            all => all.iter().map(name).collect(),
        };
        out += &format!("{shown} → ");
    }
    let first = places.first().map(|(tower, at)| format!("{tower}.{at}"));
    out + &first.unwrap_or_default()
}

struct Graph<'a> {
    topology: &'a Topology,
    bridges: &'a Bridges,
    /// Predecessors of each node, with the adapter that makes the edge.
    edges: BTreeMap<Node, Vec<(Node, Option<String>)>>,
}

/// Sorts the towers' depths so that every read finds its stream.
///
/// # Errors
/// A read or wish is not in the backbone; the reads form a cycle.
pub(crate) fn order(topology: &Topology, bridges: &Bridges, readings: &[Reading]) -> Result<Order> {
    let mut graph = Graph {
        topology,
        bridges,
        edges: BTreeMap::new(),
    };
    graph.chain();
    let mut wanted = Vec::new();
    for reading in readings {
        graph.exists(reading)?;
        let from = graph.point(reading.tap.tower, reading.tap.at);
        let owner = || Some(reading.owner.clone());
        match reading.reader {
            Reader::Place(tower, at) => {
                graph.edge(from, Node::Place(tower, at), owner());
                // The final layers may serve pooling too.
                if at == At::Final {
                    graph.edge(from, Node::Place(tower, At::Pooled), owner());
                }
            }
            Reader::Bridge(v, t) => {
                let hung = bridges.iter().enumerate();
                for (k, _) in hung.filter(|(_, b)| (b.0, b.1, &b.2) == (v, t, &reading.owner)) {
                    graph.edge(from, Node::Bridge(k), owner());
                }
            }
            Reader::Head => wanted.push(from),
        }
    }
    let needed = graph.ancestors(wanted);
    let sorted = graph.sort(&needed)?;
    let steps = graph.steps(&sorted, readings);
    Ok(Order { steps, needed })
}

impl Graph<'_> {
    fn edge(&mut self, from: Node, to: Node, owner: Option<String>) {
        self.edges.entry(to).or_default().push((from, owner));
        self.edges.entry(from).or_default();
    }

    /// The node after which the stream at a depth is complete, bridges there included.
    fn point(&self, tower: Tower, at: At) -> Node {
        let At::Block(block) = at else {
            let tower = if at == At::Logits {
                Tower::Vision
            } else {
                tower
            };
            return Node::Place(tower, at);
        };
        match self.bridges_at(tower, block).last() {
            Some(k) => Node::Bridge(k),
            None => Node::Place(tower, at),
        }
    }

    fn bridges_at(&self, tower: Tower, block: usize) -> impl Iterator<Item = usize> + use<'_> {
        self.bridges.iter().enumerate().filter_map(move |(k, b)| {
            let here = if tower == Tower::Vision { b.0 } else { b.1 };
            (here == block).then_some(k)
        })
    }

    fn chain(&mut self) {
        for tower in Tower::BOTH {
            let blocks = self.topology.tower(tower).blocks.len();
            let mut before = Node::Place(tower, At::Embed);
            self.edges.entry(before).or_default();
            for block in 0..blocks {
                let here = Node::Place(tower, At::Block(block));
                self.edge(before, here, None);
                before = here;
                let bridges: Vec<usize> = self.bridges_at(tower, block).collect();
                for k in bridges {
                    let owner = Some(self.bridges[k].2.clone());
                    self.edge(before, Node::Bridge(k), owner);
                    before = Node::Bridge(k);
                }
            }
            for at in [At::Final, At::Pooled] {
                self.edge(before, Node::Place(tower, at), None);
            }
        }
        for tower in Tower::BOTH {
            let logits = Node::Place(Tower::Vision, At::Logits);
            self.edge(Node::Place(tower, At::Pooled), logits, None);
        }
    }

    fn exists(&self, reading: &Reading) -> Result<()> {
        let Tap { tower, at } = reading.tap;
        let blocks = self.topology.tower(tower).blocks.len();
        match at {
            At::Block(i) if i >= blocks => Err(Error::NoSuchTap {
                reader: reading.owner.clone(),
                tap: reading.tap,
                offered: format!(
                    "its {tower} tower has blocks 0 to {}",
                    blocks.saturating_sub(1)
                ),
            }),
            _ => Ok(()),
        }
    }

    fn ancestors(&self, wanted: Vec<Node>) -> BTreeSet<Node> {
        let mut needed = BTreeSet::new();
        let mut open = wanted;
        while let Some(node) = open.pop() {
            if needed.insert(node) {
                open.extend(self.edges.get(&node).into_iter().flatten().map(|(n, _)| *n));
            }
        }
        needed
    }

    fn sort(&self, needed: &BTreeSet<Node>) -> Result<Vec<Node>> {
        let mut sorted = Vec::new();
        let mut done: BTreeSet<Node> = BTreeSet::new();
        let mut left = needed.clone();
        let ready = |n: &Node, done: &BTreeSet<Node>| {
            self.edges[n]
                .iter()
                .all(|(before, _)| done.contains(before))
        };
        while let Some(next) = left.iter().copied().find(|n| ready(n, &done)) {
            left.remove(&next);
            done.insert(next);
            sorted.push(next);
        }
        match left.is_empty() {
            true => Ok(sorted),
            false => Err(self.cycle(&left)),
        }
    }

    /// Every node that is left waits for another that is left: following them closes a cycle.
    fn cycle(&self, left: &BTreeSet<Node>) -> Error {
        let mut path: Vec<(Node, Option<String>)> = Vec::new();
        let mut node = left.iter().next_back().copied();
        while let Some(here) = node {
            if let Some(start) = path.iter().position(|(n, _)| *n == here) {
                path.drain(..start);
                break;
            }
            let before = self.edges[&here].iter().find(|(n, _)| left.contains(n));
            path.push((here, before.and_then(|(_, owner)| owner.clone())));
            node = before.map(|(n, _)| *n);
        }
        let mut adapters: Vec<String> = Vec::new();
        for owner in path.iter().filter_map(|(_, owner)| owner.clone()) {
            if !adapters.contains(&owner) {
                adapters.push(owner);
            }
        }
        let places = path.iter().rev().filter_map(|(n, _)| match n {
            Node::Place(tower, at) => Some((*tower, *at)),
            Node::Bridge(_) => None,
        });
        Error::Cycle {
            adapters,
            cycle: around(places.collect()),
        }
    }

    fn steps(&self, sorted: &[Node], readings: &[Reading]) -> Vec<Step> {
        let crosses = |tower: Tower, at: At| {
            readings.iter().any(|r| {
                let here = |at| r.reader == Reader::Place(tower, at);
                r.reader.crosses(r.tap) && (here(at) || at == At::Pooled && here(At::Final))
            })
        };
        let mut expanded: BTreeSet<Tower> = BTreeSet::new();
        let mut steps = Vec::new();
        let mut expand = |tower: Tower, steps: &mut Vec<Step>| {
            if expanded.insert(tower) {
                steps.push(Step::Expand(tower));
            }
        };
        for node in sorted {
            match *node {
                Node::Bridge(k) => {
                    expand(Tower::Vision, &mut steps);
                    expand(Tower::Text, &mut steps);
                    steps.push(Step::Bridge(k));
                }
                Node::Place(tower, at) => {
                    if crosses(tower, at) {
                        expand(tower, &mut steps);
                    }
                    steps.push(match at {
                        At::Embed => Step::Embed(tower),
                        At::Block(i) => Step::Block(tower, i),
                        At::Final => Step::Features(tower),
                        At::Pooled => Step::Pooled(tower),
                        At::Logits => Step::Logits,
                    });
                }
            }
        }
        steps
    }
}

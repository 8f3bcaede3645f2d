//! From wishes to slots: which places of a backbone an adapter's [`Want`] matches.
//!
//! Owns the matching and what is offered when nothing matches. Installs nothing.

use std::ops::Range;

use crate::adapter::{
    BranchSlot, KeyValueSlot, LogitsSlot, ParameterSlot, PooledSlot, ProjectionSlot, Slot,
    StageSlot, StreamSlot, Want,
};
use crate::error::{Error, Result};
use crate::site::{At, Branch, Edge, Moment, Projection, Role, Sites, Tower};
use crate::topology::{ParameterInfo, Topology};

/// Refuses a choice of projections or branches that no wish of the adapter takes.
///
/// # Errors
/// The recipe names projections or branches for an adapter that acts on neither.
pub fn all_used(adapter: &str, wants: &[Want]) -> Result<()> {
    let projections = wants.iter().any(|w| matches!(w, Want::Projections { .. }));
    let branches = wants.iter().any(|w| matches!(w, Want::Branches { .. }));
    let acting = wants.iter().filter(|w| !matches!(w, Want::Look(_)));
    for want in acting {
        let (Want::Projections { sites, .. }
        | Want::Branches { sites, .. }
        | Want::Between { sites, .. }
        | Want::KeyValues { sites }
        | Want::Parameters { sites, .. }) = want
        else {
            continue;
        };
        let unused = match () {
            () if !projections && !sites.projections.is_empty() => "projections",
            () if !branches && !sites.branches.is_empty() => "branches",
            () => continue,
        };
        return Err(Error::Options {
            kind: "adapter",
            name: adapter.to_string(),
            message: format!("it acts on no {unused}: leave `sites.{unused}` out"),
        });
    }
    Ok(())
}

/// The names of the slots at which an adapter looks and does not act.
///
/// # Errors
/// As [`find`].
pub fn looked_at(topology: &Topology, adapter: &str, wants: &[Want]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for want in wants.iter().filter(|w| matches!(w, Want::Look(_))) {
        let slots = find(topology, adapter, want)?;
        names.extend(slots.iter().map(Slot::to_string));
    }
    Ok(names)
}

/// The slots of `topology` that match `want`, in the order of the towers' depths.
///
/// # Errors
/// Nothing matches, or a block or stage that is named does not exist.
pub fn find(topology: &Topology, adapter: &str, want: &Want) -> Result<Vec<Slot>> {
    let none = |asked: String, offered: String| Error::NoSuchSite {
        adapter: adapter.to_string(),
        asked,
        offered,
    };
    let (slots, asked, offered) = match want {
        Want::Projections { sites, default } => {
            blocks_exist(topology, adapter, sites)?;
            let chosen = chosen(&sites.projections, default);
            let mut all: Vec<Projection> = topology
                .projections()
                .filter(|p| sites.towers.is_empty() || sites.towers.contains(&p.tower))
                .map(|p| p.projection)
                .collect();
            all.sort();
            if let Some(strange) = sites.projections.iter().find(|p| !all.contains(p)) {
                return Err(none(format!("projection {strange}"), names(&all)));
            }
            let slots = projections(topology, sites, &chosen);
            (
                slots,
                format!("projections [{}] at {sites}", names(&chosen)),
                names(&all),
            )
        }
        Want::Branches { sites, default } => {
            blocks_exist(topology, adapter, sites)?;
            let chosen = chosen(&sites.branches, default);
            let (slots, all) = branches(topology, sites, &chosen);
            if let Some(strange) = sites.branches.iter().find(|b| !all.contains(b)) {
                return Err(none(format!("branch {strange}"), names(&all)));
            }
            (
                slots,
                format!("branches [{}] at {sites}", names(&chosen)),
                names(&all),
            )
        }
        Want::Streams { tower, moments } => {
            let blocks = topology.tower(*tower).blocks.len();
            let mut slots = Vec::new();
            for moment in moments {
                slots.push(stream(topology, *tower, *moment).ok_or_else(|| {
                    none(
                        format!("the {tower} stream {moment}"),
                        format!("its embedding and blocks 0 to {}", blocks.saturating_sub(1)),
                    )
                })?);
            }
            (
                slots,
                format!("the {tower} stream"),
                format!("{blocks} blocks"),
            )
        }
        Want::Between {
            sites,
            default,
            edge,
        } => {
            blocks_exist(topology, adapter, sites)?;
            let slots = between(topology, sites, default, *edge);
            let blocks = |t: Tower| topology.tower(t).blocks.len();
            (
                slots,
                format!("streams at {sites}"),
                format!(
                    "{} blocks of vision, {} of text",
                    blocks(Tower::Vision),
                    blocks(Tower::Text)
                ),
            )
        }
        Want::KeyValues { sites } => {
            blocks_exist(topology, adapter, sites)?;
            let slots = key_values(topology, sites);
            (
                slots,
                format!("keys and values at {sites}"),
                "attentions of the blocks".into(),
            )
        }
        Want::Stages { stages } => {
            let all = stages_of(topology);
            if let Some(n) = stages.iter().find(|n| **n == 0 || **n > all.len()) {
                return Err(none(
                    format!("stage {n}"),
                    format!("stages 1 to {}", all.len()),
                ));
            }
            let offered = format!("{} stages", all.len());
            let wanted = |s: &StageSlot| stages.is_empty() || stages.contains(&s.stage);
            let slots = all.into_iter().filter(wanted).map(Slot::Stage).collect();
            (slots, "stages".into(), offered)
        }
        Want::Look(at) => return find(topology, adapter, at),
        Want::Pooled { towers } => {
            let slots = Tower::BOTH
                .into_iter()
                .filter(|t| towers.is_empty() || towers.contains(t))
                .map(|tower| {
                    Slot::Pooled(PooledSlot {
                        tower,
                        width: topology.joint,
                    })
                })
                .collect();
            (slots, "pooled vectors".into(), "both towers".into())
        }
        Want::Logits => {
            let width = topology.joint;
            let slots = vec![Slot::Logits(LogitsSlot { width })];
            (slots, "logits".into(), "logits".into())
        }
        Want::Parameters { roles, sites } => {
            blocks_exist(topology, adapter, sites)?;
            let mut all: Vec<Role> = topology.parameters().map(|p| p.role).collect();
            all.retain(|r| *r != Role::Statistics);
            all.sort();
            all.dedup();
            let slots = parameters(topology, roles, sites);
            (
                slots,
                format!("roles [{}] at {sites}", names(roles)),
                names(&all),
            )
        }
    };
    match slots.is_empty() {
        true => Err(none(asked, offered)),
        false => Ok(slots),
    }
}

fn chosen<T: Copy>(asked: &[T], default: &[T]) -> Vec<T> {
    match asked.is_empty() {
        true => default.to_vec(),
        false => asked.to_vec(),
    }
}

fn names<T: ToString>(items: &[T]) -> String {
    let mut out: Vec<String> = Vec::new();
    for item in items {
        let name = item.to_string();
        if !out.contains(&name) {
            out.push(name);
        }
    }
    out.join(", ")
}

fn blocks_exist(topology: &Topology, adapter: &str, sites: &Sites) -> Result<()> {
    let towers = match sites.towers.is_empty() {
        true => Tower::BOTH.to_vec(),
        false => sites.towers.clone(),
    };
    let depth = |t: &Tower| topology.tower(*t).blocks.len();
    let deepest = towers.iter().map(depth).max().unwrap_or(0);
    match sites.blocks.iter().find(|b| **b >= deepest) {
        None => Ok(()),
        Some(b) => Err(Error::NoSuchSite {
            adapter: adapter.to_string(),
            asked: format!("block {b}"),
            offered: towers
                .iter()
                .map(|t| format!("blocks 0 to {} of {t}", depth(t).saturating_sub(1)))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

fn projections(topology: &Topology, sites: &Sites, chosen: &[Projection]) -> Vec<Slot> {
    topology
        .projections()
        .filter(|p| {
            let blocks = topology.tower(p.tower).blocks.len();
            sites.covers(p.tower, p.at, blocks) && chosen.contains(&p.projection)
        })
        .map(|p| {
            Slot::Projection(ProjectionSlot {
                tower: p.tower,
                at: p.at,
                projection: p.projection,
                name: p.name.clone(),
                input: p.input,
                output: p.output,
                shape: p.shape,
            })
        })
        .collect()
}

fn branches(topology: &Topology, sites: &Sites, chosen: &[Branch]) -> (Vec<Slot>, Vec<Branch>) {
    let mut all = Vec::new();
    let mut slots = Vec::new();
    for tower in Tower::BOTH {
        let mut before = topology.tower(tower).embed;
        let blocks = topology.tower(tower).blocks.len();
        for (block, info) in topology.tower(tower).blocks.iter().enumerate() {
            for branch in &info.branches {
                if sites.towers.is_empty() || sites.towers.contains(&tower) {
                    all.push(branch.branch);
                }
                if sites.covers(tower, At::Block(block), blocks) && chosen.contains(&branch.branch)
                {
                    slots.push(Slot::Branch(BranchSlot {
                        tower,
                        block,
                        branch: branch.branch,
                        width: branch.width,
                        stream: info.stream,
                        before,
                    }));
                }
            }
            before = info.stream;
        }
    }
    (slots, all)
}

fn stream(topology: &Topology, tower: Tower, moment: Moment) -> Option<Slot> {
    let this = topology.tower(tower);
    let stream = match moment {
        Moment::Embed(_) => this.embed,
        Moment::Before(0) => this.blocks.first().map(|_| this.embed)?,
        Moment::Before(i) => this.blocks.get(i).and(this.blocks.get(i - 1))?.stream,
        Moment::After(i) => this.blocks.get(i)?.stream,
    };
    Some(Slot::Stream(StreamSlot {
        tower,
        moment,
        stream,
    }))
}

fn between(topology: &Topology, sites: &Sites, default: &Range<usize>, edge: Edge) -> Vec<Slot> {
    let named = !sites.blocks.is_empty() || sites.last > 0;
    let chosen = Tower::BOTH.into_iter().flat_map(|tower| {
        let blocks = topology.tower(tower).blocks.len();
        let covered = move |i: &usize| {
            sites.covers(tower, At::Block(*i), blocks) && (named || default.contains(i))
        };
        (0..blocks).filter(covered).map(move |i| (tower, i))
    });
    chosen
        .filter_map(|(tower, i)| stream(topology, tower, edge.of(i)))
        .collect()
}

fn key_values(topology: &Topology, sites: &Sites) -> Vec<Slot> {
    let mut slots = Vec::new();
    for tower in Tower::BOTH {
        let blocks = topology.tower(tower).blocks.len();
        for (block, info) in topology.tower(tower).blocks.iter().enumerate() {
            if info.heads > 0 && sites.covers(tower, At::Block(block), blocks) {
                slots.push(Slot::KeyValue(KeyValueSlot {
                    tower,
                    block,
                    width: info.stream.width,
                    heads: info.heads,
                }));
            }
        }
    }
    slots
}

/// The stages at which both towers meet: as many as the tower with fewer has.
pub fn stages_of(topology: &Topology) -> Vec<StageSlot> {
    let (v, t) = (&topology.vision, &topology.text);
    let stages = v.stages.len().min(t.stages.len());
    let middle = stages
        .checked_sub(1)
        .and_then(|last| v.blocks.get(*v.stages.get(last / 2)?))
        .and_then(|b| b.stream.grid);
    v.stages
        .iter()
        .zip(&t.stages)
        .enumerate()
        .filter_map(|(i, (vb, tb))| {
            Some(StageSlot {
                stage: i + 1,
                stages,
                vision: (*vb, v.blocks.get(*vb)?.stream),
                text: (*tb, t.blocks.get(*tb)?.stream),
                middle,
            })
        })
        .collect()
}

fn parameters(topology: &Topology, roles: &[Role], sites: &Sites) -> Vec<Slot> {
    let wanted = |p: &&ParameterInfo| {
        let role = p.role != Role::Statistics && (roles.is_empty() || roles.contains(&p.role));
        let place = match p.tower {
            None => *sites == Sites::default(),
            Some(tower) => {
                let blocks = topology.tower(tower).blocks.len();
                p.used.iter().any(|at| sites.covers(tower, *at, blocks))
            }
        };
        role && place
    };
    topology
        .parameters()
        .filter(wanted)
        .map(|p| {
            Slot::Parameter(ParameterSlot {
                name: p.name.clone(),
                shape: p.shape.clone(),
                role: p.role,
                tower: p.tower,
                value: None,
            })
        })
        .collect()
}

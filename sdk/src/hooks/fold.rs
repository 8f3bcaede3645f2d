//! Folding: hooks become part of the weight that they act around.
//!
//! Owns the arithmetic of one projection and who is to blame where it fails. Which weights there
//! are and what is made of them is [`Tuned::merge`](crate::tuned::Tuned::merge)'s business.
//!
//! ```text
//! W' = out(diag(s(W + ΣΔW)) (W + ΣΔW)) ∘ in ∘ norm
//! ```

use std::fmt::Display;

use candle_core::Tensor;

use super::{
    Folded, Hooks, Hung, Operator, PlaceHooks, ProjectionHooks, TowerHooks, Transform, acting,
    scale_rows, turned,
};
use crate::error::{Error, Refusal, Result};
use crate::ops;
use crate::pass::Pass;
use crate::site::{At, Branch, Tower};
use crate::topology::{ProjectionInfo, Topology, TowerTopology};

/// A projection with its hooks folded in.
pub(crate) struct Folding {
    pub folded: Folded,
    /// The labels of the adapters that it now holds, in the order of the recipe.
    pub adapters: Vec<String>,
    /// Those of them that made a bias where the projection has none.
    pub shifting: Vec<String>,
}

/// An error on the way, and the adapter that is to blame for it, if one is.
pub(super) struct Refused {
    owner: Option<usize>,
    error: Error,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { owner: None, error }
    }
}

impl From<candle_core::Error> for Refused {
    fn from(error: candle_core::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

impl Refused {
    fn because(owner: usize, why: &'static str) -> Self {
        Self::by(owner)(Error::CannotFold { why })
    }

    fn by(owner: usize) -> impl Fn(Error) -> Self {
        move |error| Self {
            owner: Some(owner),
            error,
        }
    }
}

impl ProjectionHooks {
    /// The weight, as it is stored, and the bias that give without the hooks that hang here what
    /// `operator` gives with them. A table takes what would be its bias into every row.
    ///
    /// # Errors
    /// [`Error::CannotFold`] with the reason.
    pub fn fold(&self, operator: &(impl Operator + ?Sized), pass: &Pass) -> Result<Folded> {
        Ok(self.fold_behind(&[], operator, pass)?.0)
    }

    /// [`fold`](Self::fold), with the hooks on the norm that the projection reads folded in too;
    /// and who made a bias where there was none.
    fn fold_behind(
        &self,
        norm: &[Hung<dyn Transform>],
        operator: &(impl Operator + ?Sized),
        pass: &Pass,
    ) -> std::result::Result<(Folded, Vec<usize>), Refused> {
        if let Some(hung) = acting(&self.bypass).next() {
            let why = "a path around a projection is not part of its weight";
            return Err(Refused::because(hung.owner, why));
        }
        if let Some(hung) = acting(&self.input).next().filter(|_| operator.is_table()) {
            let why = "ids have no channels to scale or shift";
            return Err(Refused::because(hung.owner, why));
        }
        let mut weight = turned(operator, self.updated(operator, pass)?)?;
        if let Some(rows) = self.rows.as_ref().filter(|rows| rows.acts()) {
            let factor = rows
                .factor(&weight, pass)
                .map_err(Refused::by(rows.owner))?;
            weight = scale_rows(&weight, &factor)?;
        }
        let mut folded = Folded {
            weight,
            bias: operator.bias(pass)?,
        };
        let bare = folded.bias.is_none();
        let mut shifting = Vec::new();
        let mut note = |hung: &Hung<dyn Transform>, before: &Option<_>, after: &Option<_>| {
            if bare && before.is_none() && after.is_some() {
                shifting.push(hung.owner);
            }
        };
        for hung in acting(norm).chain(acting(&self.input)).rev() {
            let after = hung.hook.fold_input(folded.clone(), pass);
            let after = hung.folded(&folded, after.map_err(Refused::by(hung.owner))?)?;
            note(hung, &folded.bias, &after.bias);
            folded = after;
        }
        for hung in acting(&self.output) {
            let after = hung.hook.fold_output(folded.clone(), pass);
            let after = hung.folded(&folded, after.map_err(Refused::by(hung.owner))?)?;
            note(hung, &folded.bias, &after.bias);
            folded = after;
        }
        folded.weight = turned(operator, folded.weight)?.contiguous()?;
        if operator.is_table()
            && let Some(bias) = folded.bias.take()
        {
            folded.weight = ops::add(&folded.weight, &bias)?;
        }
        Ok((folded, shifting))
    }

    /// The weight, as it is stored, with every update.
    pub(super) fn updated(
        &self,
        operator: &(impl Operator + ?Sized),
        pass: &Pass,
    ) -> std::result::Result<Tensor, Refused> {
        let mut weight = operator.weight(pass)?;
        for hung in acting(&self.updates) {
            let delta = hung.hook.delta(pass).map_err(Refused::by(hung.owner))?;
            weight = hung.plus(&weight, delta)?;
        }
        Ok(weight)
    }

    /// The adapters whose hooks act here.
    fn owners(&self) -> Vec<usize> {
        let transforms = acting(&self.input).chain(acting(&self.output));
        let mut owners: Vec<usize> = transforms.map(|h| h.owner).collect();
        owners.extend(acting(&self.updates).map(|h| h.owner));
        owners.extend(acting(self.rows.as_slice()).map(|h| h.owner));
        owners.extend(acting(&self.bypass).map(|h| h.owner));
        owners
    }
}

impl TowerHooks {
    /// The hooks on the norm that a projection reads.
    fn norm_of(&self, topology: &TowerTopology, info: &ProjectionInfo) -> &[Hung<dyn Transform>] {
        let At::Block(block) = info.at else {
            return &[];
        };
        let branches = topology.blocks.get(block).map(|b| b.branches.as_slice());
        let mut branches = branches.unwrap_or_default().iter();
        match branches.find(|b| b.consumers.contains(&info.projection)) {
            Some(read) => &self.place(info.at).norms[read.branch as usize],
            None => &[],
        }
    }

    /// Each place with its name.
    fn places(&self) -> impl Iterator<Item = (At, &PlaceHooks)> {
        let blocks = self.blocks.iter().enumerate();
        let blocks = blocks.map(|(i, place)| (At::Block(i), place));
        let ends = [(At::Embed, &self.embed), (At::Final, &self.last)];
        blocks.chain(ends)
    }
}

impl Hooks {
    /// Projection `info` with every hook that acts on it or on the norm it reads; none where no
    /// hook does.
    ///
    /// # Errors
    /// [`Error::CannotMerge`] names the adapter and the reason.
    pub(crate) fn fold(
        &self,
        topology: &Topology,
        info: &ProjectionInfo,
        operator: &dyn Operator,
        pass: &Pass,
    ) -> Result<Option<Folding>> {
        let tower = self.tower(info.tower);
        let hooks = tower.place(info.at).projection(info.projection);
        let norm = tower.norm_of(topology.tower(info.tower), info);
        let mut owners = hooks.owners();
        owners.extend(acting(norm).map(|h| h.owner));
        if owners.is_empty() {
            return Ok(None);
        }
        let folded = hooks.fold_behind(norm, operator, pass);
        let (folded, shifting) = folded.map_err(|refused| self.blamed(refused, &info.name))?;
        Ok(Some(Folding {
            folded,
            adapters: self.named(owners),
            shifting: self.named(shifting),
        }))
    }

    /// The labels of adapters, each once.
    fn named(&self, mut owners: Vec<usize>) -> Vec<String> {
        owners.sort_unstable();
        owners.dedup();
        owners.iter().map(|owner| self.label(*owner)).collect()
    }

    fn label(&self, owner: usize) -> String {
        self.labels.get(owner).cloned().unwrap_or_default()
    }

    fn blamed(&self, refused: Refused, place: &str) -> Error {
        let (owner, why) = match (refused.owner, refused.error) {
            (Some(owner), Error::CannotFold { why }) => (owner, why),
            (Some(owner), Error::NotYetRead { .. }) => (owner, "it depends on what it reads"),
            (_, error) => return error,
        };
        Error::CannotMerge {
            refusals: vec![self.refusal(owner, place, why)],
        }
    }

    fn refusal(&self, owner: usize, place: impl Display, why: impl Into<String>) -> Refusal {
        Refusal {
            adapter: self.label(owner),
            place: place.to_string(),
            why: why.into(),
        }
    }

    /// What acts beside the weights and cannot become part of one, wherever it hangs; and hooks
    /// on a norm that something reads which takes no fold.
    pub(crate) fn beside_weights(&self, topology: &Topology) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for tower in [Tower::Vision, Tower::Text] {
            self.beside_in(tower, topology.tower(tower), &mut refusals);
        }
        for bridge in self.bridges.iter().filter(|b| b.hung.acts()) {
            let place = format!("vision.{}", At::Block(bridge.vision));
            let why = "it moves the streams of both towers by each other";
            refusals.push(self.refusal(bridge.hung.owner, place, why));
        }
        self.beside(
            &self.logits,
            "logits",
            "it changes similarities",
            &mut refusals,
        );
        refusals
    }

    fn beside_in(&self, tower: Tower, topology: &TowerTopology, refusals: &mut Vec<Refusal>) {
        let hooks = self.tower(tower);
        for (at, place) in hooks.places() {
            let here = format!("{tower}.{at}");
            for branch in Branch::ALL {
                let why = "it changes what a branch gives, which is more than one weight's product";
                self.beside(&place.branches[*branch as usize], &here, why, refusals);
                if let Some(why) = unread(topology, at, *branch) {
                    self.beside(&place.norms[*branch as usize], &here, &why, refusals);
                }
            }
            let why = "it puts keys and values into an attention";
            self.beside(&place.key_values, &here, why, refusals);
        }
        let between = hooks.before.iter().chain(&hooks.after);
        for streams in hooks.embedding.iter().chain(between) {
            let why = "it changes the stream between the layers";
            self.beside(streams, &format!("the {tower} stream"), why, refusals);
        }
        let pooled = format!("{tower}.{}", At::Pooled);
        self.beside(
            &hooks.pooled,
            &pooled,
            "it changes the pooled vector",
            refusals,
        );
    }

    fn beside<T: ?Sized>(
        &self,
        hooks: &[Hung<T>],
        place: &str,
        why: &str,
        refusals: &mut Vec<Refusal>,
    ) {
        refusals.extend(acting(hooks).map(|hung| self.refusal(hung.owner, place, why)));
    }
}

/// Why nothing on the norm of a branch folds: not everything that reads it is a projection here.
fn unread(topology: &TowerTopology, at: At, branch: Branch) -> Option<String> {
    let At::Block(block) = at else {
        return None;
    };
    let mut branches = topology.blocks.get(block)?.branches.iter();
    let info = branches.find(|b| b.branch == branch)?;
    if info.consumers.is_empty() {
        return Some(format!(
            "it acts on the norm of the {branch} branch, which more than projections read"
        ));
    }
    let is_here = |consumer| {
        let mut projections = topology.projections.iter();
        projections.any(|p| p.at == at && p.projection == consumer)
    };
    let lost = info.consumers.iter().find(|c| !is_here(**c))?;
    Some(format!(
        "it acts on the norm of the {branch} branch, and {lost}, which reads it, is no projection there"
    ))
}

//! Hooks: how adapters change what flows, by what they change.
//!
//! Owns the traits of all hook shapes and the table they hang in, resolved when a model is built:
//! a forward pass indexes it and looks up no name. Each hook knows which adapter hung it and how
//! much of its change counts; by what name an adapter is enabled or scaled is [`crate::tuned`]'s
//! business, and which hooks run when is [`Tuned::forward`](crate::tuned::Tuned::forward)'s and
//! the blocks'. How hooks become part of a weight is in `fold`.
//!
//! | shape | trait | acts on |
//! |---|---|---|
//! | projection | [`Transform`] (input, output), [`Update`], [`Reparametrise`], [`Bypass`] | one linear, conv or embedding |
//! | norm | [`Transform`] | the normed input of a branch |
//! | branch | [`BranchHook`] | a branch's output, before the residual sum |
//! | stream | [`StreamHook`] | the stream within the embedding and between blocks |
//! | keys and values | [`KeyValueHook`] | an attention's memory |
//! | bridge | [`Bridge`] | both streams at the end of a stage |
//! | pooled | [`PooledHook`] | the pooled vector |
//! | logits | [`LogitsHook`] | similarities of pooled vectors |

mod fold;

pub(crate) use fold::Folding;

use candle_core::Tensor;

use crate::adapter::{
    BranchSlot, KeyValueSlot, PooledSlot, ProjectionSlot, Slot, StageSlot, StreamSlot,
};
use crate::error::{Error, Result};
use crate::ops;
use crate::parameter::Parameter;
use crate::pass::{ByItem, CarryKey, Pass, Repeat, TapKey};
use crate::site::{At, Branch, Moment, Projection, Tap, Tower};
use crate::stream::Stream;
use crate::topology::{StreamInfo, Topology};
use crate::tuned::HEAD;

/// Along which dimension channels lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channels {
    /// The last: tokens `[.., D]`.
    Last,
    /// The second: maps `[B, C, H, W]`.
    Map,
}

impl Channels {
    /// `[D]` shaped so that it broadcasts over a tensor of this layout.
    ///
    /// # Errors
    /// `values` is not a vector.
    pub fn shape(self, values: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Channels::Last => values.clone(),
            Channels::Map => values.reshape((values.dim(0)?, 1, 1))?,
        })
    }
}

/// A weight `[out, ..]` with its bias `[out]`: what folding changes.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The weight, `[out, in]` or `[out, in, k, k]`. Hooks see an embedding transposed, as
    /// `[out, in]` too.
    pub weight: Tensor,
    /// The bias.
    pub bias: Option<Tensor>,
}

/// A change of a projection's input or output, or of a norm's output.
pub trait Transform: Send + Sync {
    /// `x` changed, of the same shape.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor>;

    /// The weight that reads the untransformed input and gives what `folded` gives on the
    /// transformed one; the reason in words where there is none.
    ///
    /// # Errors
    /// [`Error::CannotFold`] with the reason.
    fn fold_input(&self, _folded: Folded, _pass: &Pass) -> Result<Folded> {
        Err(Error::CannotFold {
            why: "this change of an input is not linear",
        })
    }

    /// The weight whose output is the transformed output of `folded`.
    ///
    /// # Errors
    /// [`Error::CannotFold`] with the reason.
    fn fold_output(&self, _folded: Folded, _pass: &Pass) -> Result<Folded> {
        Err(Error::CannotFold {
            why: "this change of an output is not linear",
        })
    }
}

/// An update of a weight: W + ΔW.
pub trait Update: Send + Sync {
    /// ΔW x without making ΔW; `x` as the projection reads it (ids for an embedding).
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor>;

    /// ΔW, in the shape of the weight as it is stored (`[in, out]` for an embedding).
    ///
    /// # Errors
    /// An operation failed.
    fn delta(&self, pass: &Pass) -> Result<Tensor>;
}

/// A reparametrisation by rows: W' = diag(s(W + ΔW)) (W + ΔW), as in DoRA. At most one a site.
pub trait Reparametrise: Send + Sync {
    /// The factor of each output row, `[out]`, from the updated weight `[out, ..]`; an embedding
    /// comes transposed, as `[out, in]`.
    ///
    /// # Errors
    /// An operation failed.
    fn rows(&self, updated: &Tensor, pass: &Pass) -> Result<Tensor>;
}

/// A path around a projection, added to its output; it may read the other tower.
pub trait Bypass: Send + Sync {
    /// What is added, from the projection's own input (before its input hooks).
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor>;
}

/// What a branch hook sees.
#[derive(Clone, Copy, Debug)]
pub struct BranchView<'a> {
    /// The block's stream, for its spans and grid; `data` is `input`.
    pub stream: &'a Stream,
    /// The branch's input, not normed.
    pub input: &'a Tensor,
    /// The branch's input, normed.
    pub normed: &'a Tensor,
}

/// Whether a branch hook acts before or after the layer scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scale {
    /// Before it.
    #[default]
    Before,
    /// After it.
    After,
}

/// A change of a branch's output before the residual sum: in series (`f(y)`) or in parallel
/// (`y + f(input)`).
pub trait BranchHook: Send + Sync {
    /// Where it acts.
    fn scale(&self) -> Scale {
        Scale::Before
    }

    /// The branch's new output from its `output`.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor>;
}

/// A change of the stream: tokens put in, replaced, taken out; or a look at it (LST).
pub trait StreamHook: Send + Sync {
    /// Whether the new stream has the tokens of the old, each changed: a part of such a change
    /// makes sense, and the adapter can be scaled. Half of a prompt does not.
    fn keeps_tokens(&self) -> bool {
        false
    }

    /// The new stream.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream>;
}

/// More keys and values for an attention, in front of its own (prefix tuning).
pub trait KeyValueHook: Send + Sync {
    /// The keys and values for `[B, N, D]` ones: any number of them in front or in their place.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, key: Tensor, value: Tensor, pass: &mut Pass) -> Result<(Tensor, Tensor)>;
}

/// A bridge between both streams at the end of a stage.
pub trait Bridge: Send + Sync {
    /// Both streams changed, vision first.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, vision: Stream, text: Stream, pass: &mut Pass) -> Result<(Stream, Stream)>;
}

/// A change of a pooled vector `[B, E]` (CLIP-Adapter).
pub trait PooledHook: Send + Sync {
    /// The new vector.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(&self, pooled: &Tensor, pass: &mut Pass) -> Result<Tensor>;
}

/// A change of the similarities `[pictures, sentences]` (Tip-Adapter).
pub trait LogitsHook: Send + Sync {
    /// The new logits; `vision` and `text` are the pooled vectors they come from, of length 1:
    /// by item, or by pair for a tower that reads the other.
    ///
    /// # Errors
    /// An operation failed.
    fn forward(
        &self,
        logits: &Tensor,
        vision: &Tensor,
        text: &Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor>;
}

/// x ⊙ scale + shift by channel: IA3, SSF. The [`Transform`] most methods need.
#[derive(Clone, Debug)]
pub struct Affine {
    /// `[D]`.
    pub scale: Option<Parameter>,
    /// `[D]`.
    pub shift: Option<Parameter>,
    /// Where channels lie.
    pub channels: Channels,
}

impl Transform for Affine {
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let mut y = x.clone();
        if let Some(scale) = &self.scale {
            y = ops::mul(&y, &self.channels.shape(&scale.tensor(pass)?)?)?;
        }
        if let Some(shift) = &self.shift {
            y = ops::add(&y, &self.channels.shape(&shift.tensor(pass)?)?)?;
        }
        Ok(y)
    }

    fn fold_input(&self, folded: Folded, pass: &Pass) -> Result<Folded> {
        let w = folded.weight;
        let mut bias = folded.bias;
        if let Some(shift) = &self.shift {
            // A padded convolution sees no shift in its border, so a shift folds only without it.
            if w.rank() != 2 {
                return Err(Error::CannotFold {
                    why: "a shift before a convolution does not reach its padding",
                });
            }
            let shift = shift.tensor(pass)?;
            let moved = w.matmul(&shift.unsqueeze(1)?)?.squeeze(1)?;
            bias = Some(match bias {
                Some(b) => (b + moved)?,
                None => moved,
            });
        }
        let weight = match &self.scale {
            Some(scale) => {
                let scale = scale.tensor(pass)?;
                let mut shape = vec![1; w.rank()];
                shape[1] = scale.dim(0)?;
                w.broadcast_mul(&scale.reshape(shape)?)?
            }
            None => w,
        };
        Ok(Folded { weight, bias })
    }

    fn fold_output(&self, folded: Folded, pass: &Pass) -> Result<Folded> {
        let Folded {
            mut weight,
            mut bias,
        } = folded;
        if let Some(scale) = &self.scale {
            let scale = scale.tensor(pass)?;
            weight = scale_rows(&weight, &scale)?;
            bias = bias.map(|b| b * &scale).transpose()?;
        }
        if let Some(shift) = &self.shift {
            let shift = shift.tensor(pass)?;
            bias = Some(match bias {
                Some(b) => (b + shift)?,
                None => shift,
            });
        }
        Ok(Folded { weight, bias })
    }
}

/// Row `i` of `weight` times element `i` of `rows`.
fn scale_rows(weight: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; weight.rank()];
    shape[0] = rows.dim(0)?;
    Ok(weight.broadcast_mul(&rows.reshape(shape)?)?)
}

/// A weight that hooks act around: linear, convolution or embedding.
pub trait Operator {
    /// W x, without the bias.
    ///
    /// # Errors
    /// The shapes do not fit.
    fn product(&self, x: &Tensor, pass: &Pass) -> Result<Tensor>;

    /// W x + b; in one go where that is faster.
    ///
    /// # Errors
    /// The shapes do not fit.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor>;

    /// W as it is stored: `[out, ..]`, or `[in, out]` for a table.
    ///
    /// # Errors
    /// The weight cannot be converted.
    fn weight(&self, pass: &Pass) -> Result<Tensor>;

    /// Whether W is a table `[in, out]` whose rows are picked by id.
    fn is_table(&self) -> bool {
        false
    }

    /// b, `[out]`.
    ///
    /// # Errors
    /// The bias cannot be converted.
    fn bias(&self, pass: &Pass) -> Result<Option<Tensor>>;

    /// Where the output's channels lie.
    fn channels(&self) -> Channels;
}

/// A hook, the adapter that hung it, and how much of its change counts: 1 all of it, 0 nothing.
pub(crate) struct Hung<T: ?Sized> {
    hook: Box<T>,
    owner: usize,
    strength: f64,
}

impl<T: ?Sized> Hung<T> {
    fn new(hook: Box<T>, owner: usize) -> Self {
        Self {
            hook,
            owner,
            strength: 1.0,
        }
    }

    fn acts(&self) -> bool {
        self.strength != 0.0
    }

    /// The part of the change from `before` to `after` that counts.
    fn part(&self, before: &Tensor, after: Tensor) -> Result<Tensor> {
        part(before, after, self.strength)
    }

    /// `y` and the part of `added` that counts.
    fn plus(&self, y: &Tensor, added: Tensor) -> Result<Tensor> {
        let added = match self.strength == 1.0 {
            true => added,
            false => (added * self.strength)?,
        };
        Ok(ops::add(y, &added)?)
    }

    /// [`part`](Self::part) of a weight and its bias.
    fn folded(&self, before: &Folded, after: Folded) -> Result<Folded> {
        if self.strength == 1.0 {
            return Ok(after);
        }
        let bias = match (&before.bias, after.bias) {
            (None, None) => None,
            (Some(b), Some(a)) => Some(self.part(b, a)?),
            (Some(b), None) => Some(self.part(b, b.zeros_like()?)?),
            (None, Some(a)) => Some(self.part(&a.zeros_like()?, a)?),
        };
        Ok(Folded {
            weight: self.part(&before.weight, after.weight)?,
            bias,
        })
    }
}

impl Hung<dyn Reparametrise> {
    fn factor(&self, updated: &Tensor, pass: &Pass) -> Result<Tensor> {
        let factor = self.hook.rows(updated, pass)?;
        self.part(&factor.ones_like()?, factor)
    }
}

/// before + strength · (after − before).
pub(crate) fn part(before: &Tensor, after: Tensor, strength: f64) -> Result<Tensor> {
    if strength == 1.0 {
        return Ok(after);
    }
    let change = ops::add(&after, &before.neg()?)?;
    Ok(ops::add(before, &(change * strength)?)?)
}

/// Those of `hooks` whose changes count.
fn acting<T: ?Sized>(hooks: &[Hung<T>]) -> impl DoubleEndedIterator<Item = &Hung<T>> {
    hooks.iter().filter(|h| h.acts())
}

fn weigh<T: ?Sized>(hooks: &mut [Hung<T>], owner: usize, strength: f64) {
    for hook in hooks.iter_mut().filter(|h| h.owner == owner) {
        hook.strength = strength;
    }
}

/// The hooks of one projection, in their fixed order: input, weight + updates, rows, output,
/// bypass.
#[derive(Default)]
pub struct ProjectionHooks {
    input: Vec<Hung<dyn Transform>>,
    updates: Vec<Hung<dyn Update>>,
    rows: Option<Hung<dyn Reparametrise>>,
    output: Vec<Hung<dyn Transform>>,
    bypass: Vec<Hung<dyn Bypass>>,
}

impl ProjectionHooks {
    /// Whether nothing hangs here.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty()
            && self.updates.is_empty()
            && self.rows.is_none()
            && self.output.is_empty()
            && self.bypass.is_empty()
    }

    /// `operator` on `x`, with every hook.
    ///
    /// # Errors
    /// An operation failed.
    pub fn forward(
        &self,
        operator: &(impl Operator + ?Sized),
        x: &Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        if self.is_empty() {
            return operator.forward(x, pass);
        }
        let mut read = x.clone();
        for hung in acting(&self.input) {
            let after = hung.hook.forward(&read, pass)?;
            read = hung.part(&read, after)?;
        }
        let mut y = match self.rows.as_ref().filter(|rows| rows.acts()) {
            None => {
                let y = operator.forward(&read, pass)?;
                self.with_updates(y, &read, pass)?
            }
            Some(rows) => {
                let updated = turned(operator, self.updated(operator, pass)?)?;
                let factor = rows.factor(&updated, pass)?;
                let y = operator.product(&read, pass)?;
                let mut y = self.with_updates(y, &read, pass)?;
                let channels = operator.channels();
                y = ops::mul(&y, &channels.shape(&factor)?)?;
                match operator.bias(pass)? {
                    Some(bias) => ops::add(&y, &channels.shape(&bias)?)?,
                    None => y,
                }
            }
        };
        for hung in acting(&self.output) {
            let after = hung.hook.forward(&y, pass)?;
            y = hung.part(&y, after)?;
        }
        for hung in acting(&self.bypass) {
            y = hung.plus(&y, hung.hook.forward(x, pass)?)?;
        }
        Ok(y)
    }

    fn with_updates(&self, mut y: Tensor, read: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        for hung in acting(&self.updates) {
            y = hung.plus(&y, hung.hook.forward(read, pass)?)?;
        }
        Ok(y)
    }

    fn weigh(&mut self, owner: usize, strength: f64) {
        weigh(&mut self.input, owner, strength);
        weigh(&mut self.updates, owner, strength);
        weigh(self.rows.as_mut_slice(), owner, strength);
        weigh(&mut self.output, owner, strength);
        weigh(&mut self.bypass, owner, strength);
    }
}

/// A table turned from `[in, out]` to `[out, in]` or back; any other weight as it is.
fn turned(operator: &(impl Operator + ?Sized), weight: Tensor) -> Result<Tensor> {
    match operator.is_table() {
        true => Ok(weight.t()?),
        false => Ok(weight),
    }
}

/// The hooks of one depth of a tower.
pub struct PlaceHooks {
    projections: Vec<ProjectionHooks>,
    norms: Vec<Vec<Hung<dyn Transform>>>,
    branches: Vec<Vec<Hung<dyn BranchHook>>>,
    key_values: Vec<Hung<dyn KeyValueHook>>,
}

impl Default for PlaceHooks {
    fn default() -> Self {
        Self {
            projections: Projection::ALL
                .iter()
                .map(|_| ProjectionHooks::default())
                .collect(),
            norms: Branch::ALL.iter().map(|_| Vec::new()).collect(),
            branches: Branch::ALL.iter().map(|_| Vec::new()).collect(),
            key_values: Vec::new(),
        }
    }
}

impl PlaceHooks {
    /// The hooks of a projection.
    pub fn projection(&self, projection: Projection) -> &ProjectionHooks {
        &self.projections[projection as usize]
    }

    /// The normed input of `branch`, with the hooks on its norm.
    ///
    /// # Errors
    /// An operation failed.
    pub fn normed(&self, branch: Branch, mut normed: Tensor, pass: &mut Pass) -> Result<Tensor> {
        for hung in acting(&self.norms[branch as usize]) {
            let after = hung.hook.forward(&normed, pass)?;
            normed = hung.part(&normed, after)?;
        }
        Ok(normed)
    }

    /// The output of `branch` with its hooks, those of one side of the layer scale.
    ///
    /// # Errors
    /// An operation failed.
    pub fn branch(
        &self,
        branch: Branch,
        scale: Scale,
        view: BranchView,
        mut output: Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        for hung in acting(&self.branches[branch as usize]) {
            if hung.hook.scale() == scale {
                let after = hung.hook.forward(view, &output, pass)?;
                output = hung.part(&output, after)?;
            }
        }
        Ok(output)
    }

    /// Keys and values with their hooks.
    ///
    /// # Errors
    /// An operation failed.
    pub fn key_value(
        &self,
        mut key: Tensor,
        mut value: Tensor,
        pass: &mut Pass,
    ) -> Result<(Tensor, Tensor)> {
        for hung in acting(&self.key_values) {
            (key, value) = hung.hook.forward(key, value, pass)?;
        }
        Ok((key, value))
    }

    fn weigh(&mut self, owner: usize, strength: f64) {
        for hooks in &mut self.projections {
            hooks.weigh(owner, strength);
        }
        for hooks in &mut self.norms {
            weigh(hooks, owner, strength);
        }
        for hooks in &mut self.branches {
            weigh(hooks, owner, strength);
        }
        weigh(&mut self.key_values, owner, strength);
    }
}

/// The hooks of one tower.
#[derive(Default)]
pub struct TowerHooks {
    embed: PlaceHooks,
    blocks: Vec<PlaceHooks>,
    last: PlaceHooks,
    embedding: [Vec<Hung<dyn StreamHook>>; 3],
    before: Vec<Vec<Hung<dyn StreamHook>>>,
    after: Vec<Vec<Hung<dyn StreamHook>>>,
    pooled: Vec<Hung<dyn PooledHook>>,
}

impl TowerHooks {
    fn new(blocks: usize) -> Self {
        Self {
            blocks: (0..blocks).map(|_| PlaceHooks::default()).collect(),
            before: (0..blocks).map(|_| Vec::new()).collect(),
            after: (0..blocks).map(|_| Vec::new()).collect(),
            ..Self::default()
        }
    }

    /// The hooks at a depth; those of the final layers for [`At::Final`] and behind.
    pub fn place(&self, at: At) -> &PlaceHooks {
        match at {
            At::Embed => &self.embed,
            At::Block(i) => &self.blocks[i],
            At::Final | At::Pooled | At::Logits => &self.last,
        }
    }

    fn place_mut(&mut self, at: At) -> &mut PlaceHooks {
        match at {
            At::Embed => &mut self.embed,
            At::Block(i) => &mut self.blocks[i],
            At::Final | At::Pooled | At::Logits => &mut self.last,
        }
    }

    fn places_mut(&mut self) -> impl Iterator<Item = &mut PlaceHooks> {
        let ends = [&mut self.embed, &mut self.last];
        self.blocks.iter_mut().chain(ends)
    }

    fn streams_mut(&mut self) -> impl Iterator<Item = &mut Vec<Hung<dyn StreamHook>>> {
        let between = self.before.iter_mut().chain(&mut self.after);
        self.embedding.iter_mut().chain(between)
    }

    fn weigh(&mut self, owner: usize, strength: f64) {
        for place in self.places_mut() {
            place.weigh(owner, strength);
        }
        for hooks in self.streams_mut() {
            weigh(hooks, owner, strength);
        }
        weigh(&mut self.pooled, owner, strength);
    }

    /// Why a part of what `owner` changes here makes no sense, if it does not.
    fn indivisible(&self, owner: usize) -> Option<&'static str> {
        let between = self.before.iter().chain(&self.after);
        let mut streams = self.embedding.iter().chain(between).flatten();
        let prompts = |h: &Hung<dyn StreamHook>| h.owner == owner && !h.hook.keeps_tokens();
        let mut places = self.blocks.iter().chain([&self.embed, &self.last]);
        let prefixes = |p: &PlaceHooks| p.key_values.iter().any(|h| h.owner == owner);
        match (streams.any(prompts), places.any(prefixes)) {
            (true, _) => Some("it puts tokens into a stream or takes them out"),
            (_, true) => Some("it puts keys and values into an attention"),
            _ => None,
        }
    }

    fn moment_mut(&mut self, at: Moment) -> &mut Vec<Hung<dyn StreamHook>> {
        match at {
            Moment::Embed(step) => &mut self.embedding[step as usize],
            Moment::Before(i) => &mut self.before[i],
            Moment::After(i) => &mut self.after[i],
        }
    }

    pub(crate) fn stream(&self, at: Moment, mut stream: Stream, pass: &mut Pass) -> Result<Stream> {
        let hooks = match at {
            Moment::Embed(step) => &self.embedding[step as usize],
            Moment::Before(i) => &self.before[i],
            Moment::After(i) => &self.after[i],
        };
        for hung in acting(hooks) {
            if hung.strength == 1.0 {
                stream = hung.hook.forward(stream, pass)?;
                continue;
            }
            let after = hung.hook.forward(stream.clone(), pass)?;
            stream = after.with(hung.part(&stream.data, after.data.clone())?);
        }
        Ok(stream)
    }

    pub(crate) fn pooled(&self, mut pooled: Tensor, pass: &mut Pass) -> Result<Tensor> {
        for hung in acting(&self.pooled) {
            let after = hung.hook.forward(&pooled, pass)?;
            pooled = hung.part(&pooled, after)?;
        }
        Ok(pooled)
    }
}

/// A bridge and the blocks after which it lies.
pub(crate) struct HungBridge {
    pub vision: usize,
    pub text: usize,
    pub owner: String,
    hung: Hung<dyn Bridge>,
}

impl HungBridge {
    pub fn forward(
        &self,
        vision: Stream,
        text: Stream,
        pass: &mut Pass,
    ) -> Result<(Stream, Stream)> {
        if self.hung.strength == 1.0 {
            return self.hung.hook.forward(vision, text, pass);
        }
        let (v, t) = self.hung.hook.forward(vision.clone(), text.clone(), pass)?;
        Ok((
            v.with(self.hung.part(&vision.data, v.data.clone())?),
            t.with(self.hung.part(&text.data, t.data.clone())?),
        ))
    }
}

/// Who reads a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A hook at this depth.
    Place(Tower, At),
    /// A bridge after these blocks, vision first.
    Bridge(usize, usize),
    /// The task's head or a user, when both towers are done.
    Head,
}

impl Reader {
    /// The reader in a slot; none in an existing parameter, which has no forward.
    pub fn of(slot: &Slot) -> Option<Self> {
        match slot {
            Slot::Stage(s) => Some(Reader::Bridge(s.vision.0, s.text.0)),
            Slot::Logits(_) => Some(Reader::Place(Tower::Vision, At::Logits)),
            _ => slot.place().map(|(tower, at)| Reader::Place(tower, at)),
        }
    }

    /// Whether it looks from one tower into the other at `tap`. Logits see items of both.
    pub fn crosses(self, tap: Tap) -> bool {
        matches!(self, Reader::Place(tower, at) if tower != tap.tower && at != At::Logits)
    }

    /// Whether it reads the tower that it acts in.
    pub fn stays(self, tap: Tap) -> bool {
        matches!(self, Reader::Place(tower, at) if tower == tap.tower && at != At::Logits)
    }
}

/// A stream that hooks read, and who reads it where.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub tap: Tap,
    pub owner: String,
    pub reader: Reader,
}

impl Reading {
    /// What a task or a user looks at when both towers are done.
    pub fn of_head(tap: Tap) -> Self {
        Self {
            tap,
            owner: HEAD.to_string(),
            reader: Reader::Head,
        }
    }
}

/// All hooks of a model, and what they read.
#[derive(Default)]
pub struct Hooks {
    pub(crate) vision: TowerHooks,
    pub(crate) text: TowerHooks,
    pub(crate) bridges: Vec<HungBridge>,
    logits: Vec<Hung<dyn LogitsHook>>,
    pub(crate) readings: Vec<Reading>,
    /// The labels of the adapters that have begun so far; the last one is hanging its hooks.
    labels: Vec<String>,
    pub(crate) acts: Vec<(String, Option<(Tower, At)>)>,
    /// Carries that have a row for each item of a tower, and how they become pairs.
    pub(crate) along: Vec<(Tower, usize, Repeat)>,
    declared: Vec<(Reader, Tap)>,
    streams: Vec<(Tap, StreamInfo)>,
    clash: Option<Error>,
    carries: usize,
}

impl Hooks {
    /// No hooks, for towers of so many blocks.
    pub fn new(vision: usize, text: usize) -> Self {
        Self {
            vision: TowerHooks::new(vision),
            text: TowerHooks::new(text),
            ..Self::default()
        }
    }

    /// The hooks of a tower.
    pub fn tower(&self, tower: Tower) -> &TowerHooks {
        match tower {
            Tower::Vision => &self.vision,
            Tower::Text => &self.text,
        }
    }

    fn tower_mut(&mut self, tower: Tower) -> &mut TowerHooks {
        match tower {
            Tower::Vision => &mut self.vision,
            Tower::Text => &mut self.text,
        }
    }

    pub(crate) fn begin(
        &mut self,
        owner: &str,
        declared: &[(&Slot, Vec<Tap>)],
        topology: &Topology,
    ) {
        self.labels.push(owner.to_string());
        self.streams = declared
            .iter()
            .flat_map(|(_, taps)| taps)
            .filter_map(|tap| Some((*tap, topology.stream(tap.tower, tap.at)?)))
            .collect();
        self.declared = declared
            .iter()
            .filter_map(|(slot, taps)| Some((Reader::of(slot)?, taps)))
            .flat_map(|(reader, taps)| taps.iter().map(move |tap| (reader, *tap)))
            .collect();
    }

    pub(crate) fn end(&mut self) -> Result<()> {
        match self.clash.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Lets so much of what adapter `owner`, counted from 0, changes count.
    pub(crate) fn weigh(&mut self, owner: usize, strength: f64) {
        self.vision.weigh(owner, strength);
        self.text.weigh(owner, strength);
        weigh(&mut self.logits, owner, strength);
        for bridge in self.bridges.iter_mut().filter(|b| b.hung.owner == owner) {
            bridge.hung.strength = strength;
        }
    }

    /// Why a part of what adapter `owner` changes makes no sense, if it does not.
    pub(crate) fn indivisible(&self, owner: usize) -> Option<&'static str> {
        let vision = self.vision.indivisible(owner);
        vision.or_else(|| self.text.indivisible(owner))
    }

    /// The similarities with their hooks.
    pub(crate) fn similarities(
        &self,
        mut logits: Tensor,
        vision: &Tensor,
        text: &Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        for hung in acting(&self.logits) {
            let after = hung.hook.forward(&logits, vision, text, pass)?;
            logits = hung.part(&logits, after)?;
        }
        Ok(logits)
    }

    fn hung<T: ?Sized>(&self, hook: Box<T>) -> Hung<T> {
        Hung::new(hook, self.labels.len().saturating_sub(1))
    }

    /// The label of the adapter that is hanging its hooks.
    fn owner(&self) -> String {
        self.labels.last().cloned().unwrap_or_default()
    }

    fn act(&mut self, place: Option<(Tower, At)>) {
        self.acts.push((self.owner(), place));
    }

    fn projection(&mut self, slot: &ProjectionSlot) -> &mut ProjectionHooks {
        self.act(Some((slot.tower, slot.at)));
        let place = self.tower_mut(slot.tower).place_mut(slot.at);
        &mut place.projections[slot.projection as usize]
    }

    /// A change of a projection's input.
    pub fn input(&mut self, slot: &ProjectionSlot, hook: impl Transform + 'static) {
        let hung = self.hung(Box::new(hook) as Box<dyn Transform>);
        self.projection(slot).input.push(hung);
    }

    /// An update of a projection's weight.
    pub fn update(&mut self, slot: &ProjectionSlot, hook: impl Update + 'static) {
        let hung = self.hung(Box::new(hook) as Box<dyn Update>);
        self.projection(slot).updates.push(hung);
    }

    /// A reparametrisation of a projection; a second one at the same site is an error of the
    /// plan.
    pub fn reparametrise(&mut self, slot: &ProjectionSlot, hook: impl Reparametrise + 'static) {
        let owner = self.owner();
        let hung = self.hung(Box::new(hook) as Box<dyn Reparametrise>);
        let here = self.projection(slot);
        if here.rows.is_none() {
            here.rows = Some(hung);
        } else {
            // The first of several is the one to name.
            let site = slot.name.clone();
            let clash = Error::SecondReparametrisation {
                adapter: owner,
                site,
            };
            self.clash.get_or_insert(clash);
        }
    }

    /// A change of a projection's output.
    pub fn output(&mut self, slot: &ProjectionSlot, hook: impl Transform + 'static) {
        let hung = self.hung(Box::new(hook) as Box<dyn Transform>);
        self.projection(slot).output.push(hung);
    }

    /// A path around a projection.
    pub fn bypass(&mut self, slot: &ProjectionSlot, hook: impl Bypass + 'static) {
        let hung = self.hung(Box::new(hook) as Box<dyn Bypass>);
        self.projection(slot).bypass.push(hung);
    }

    /// A change of a branch's normed input.
    pub fn norm(&mut self, slot: &BranchSlot, hook: impl Transform + 'static) {
        self.act(Some((slot.tower, At::Block(slot.block))));
        let hung = self.hung(Box::new(hook) as Box<dyn Transform>);
        let place = self.tower_mut(slot.tower).place_mut(At::Block(slot.block));
        place.norms[slot.branch as usize].push(hung);
    }

    /// A change of a branch's output.
    pub fn branch(&mut self, slot: &BranchSlot, hook: impl BranchHook + 'static) {
        self.act(Some((slot.tower, At::Block(slot.block))));
        let hung = self.hung(Box::new(hook) as Box<dyn BranchHook>);
        let place = self.tower_mut(slot.tower).place_mut(At::Block(slot.block));
        place.branches[slot.branch as usize].push(hung);
    }

    /// A change of the stream.
    pub fn stream(&mut self, slot: &StreamSlot, hook: impl StreamHook + 'static) {
        self.act(Some((slot.tower, slot.moment.at())));
        let hung = self.hung(Box::new(hook) as Box<dyn StreamHook>);
        self.tower_mut(slot.tower)
            .moment_mut(slot.moment)
            .push(hung);
    }

    /// A change of keys and values.
    pub fn key_value(&mut self, slot: &KeyValueSlot, hook: impl KeyValueHook + 'static) {
        self.act(Some((slot.tower, At::Block(slot.block))));
        let hung = self.hung(Box::new(hook) as Box<dyn KeyValueHook>);
        let place = self.tower_mut(slot.tower).place_mut(At::Block(slot.block));
        place.key_values.push(hung);
    }

    /// A bridge.
    pub fn bridge(&mut self, slot: &StageSlot, hook: impl Bridge + 'static) {
        self.act(Some((Tower::Vision, At::Block(slot.vision.0))));
        self.act(Some((Tower::Text, At::Block(slot.text.0))));
        let hung = self.hung(Box::new(hook) as Box<dyn Bridge>);
        self.bridges.push(HungBridge {
            vision: slot.vision.0,
            text: slot.text.0,
            owner: self.owner(),
            hung,
        });
    }

    /// A change of a pooled vector.
    pub fn pooled(&mut self, slot: &PooledSlot, hook: impl PooledHook + 'static) {
        self.act(Some((slot.tower, At::Pooled)));
        let hung = self.hung(Box::new(hook) as Box<dyn PooledHook>);
        self.tower_mut(slot.tower).pooled.push(hung);
    }

    /// A change of the logits of the joint space.
    pub fn logits(&mut self, hook: impl LogitsHook + 'static) {
        self.act(Some((Tower::Vision, At::Logits)));
        let hung = self.hung(Box::new(hook) as Box<dyn LogitsHook>);
        self.logits.push(hung);
    }

    /// A place for a `T` that hooks of this adapter hand on to each other within a pass. What has
    /// a row for each item of a tower belongs in [`carry_along`](Self::carry_along).
    pub fn carry<T: Send + 'static>(&mut self) -> CarryKey<T> {
        self.carries += 1;
        CarryKey::new(self.carries - 1)
    }

    /// A carry with a row for each item of `tower`: where the tower's items become pairs, so do
    /// the rows of what is carried (LST's side stream beside a bridge).
    pub fn carry_along<T: ByItem>(&mut self, tower: Tower) -> CarryKey<T> {
        let key = self.carry();
        let repeat: Repeat = Pass::repeat_carried::<T>;
        self.along.push((tower, self.carries - 1, repeat));
        key
    }

    /// The shape of the stream at `tap`, which this adapter reads in one of its slots.
    ///
    /// # Errors
    /// The adapter's `reads` does not declare it, or it is no stream (logits).
    pub fn stream_at(&self, tap: Tap) -> Result<StreamInfo> {
        let found = self.streams.iter().find(|(read, _)| *read == tap);
        found
            .map(|(_, stream)| *stream)
            .ok_or_else(|| Error::UndeclaredRead {
                adapter: self.owner(),
                tap,
            })
    }

    /// Where the hook in `slot` finds the stream at `tap`.
    ///
    /// # Errors
    /// The adapter's `reads` does not declare it for this slot.
    pub fn tap(&mut self, slot: &Slot, tap: Tap) -> Result<TapKey> {
        let declared = |r: &Reader| self.declared.contains(&(*r, tap));
        let Some(reader) = Reader::of(slot).filter(declared) else {
            return Err(Error::UndeclaredRead {
                adapter: self.owner(),
                tap,
            });
        };
        self.readings.push(Reading {
            tap,
            owner: self.owner(),
            reader,
        });
        Ok(TapKey(self.readings.len() - 1))
    }
}

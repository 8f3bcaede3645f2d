//! A tuned model: a shared base, an overlay, hooks and a head; and the one function that walks
//! both towers.
//!
//! Owns assembly (plan and model come out of the same code, so a plan's counts are the model's)
//! and [`Tuned::forward`]. Which steps lead to what is asked for is in `route`, what of each
//! adapter counts in `strength`, how adapters become weights in `merge`. Knows no plugin; trains
//! and saves nothing itself.

mod merge;
mod route;
mod strength;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::adapter::{Adapter, Installed, Slot, Source, Training, Want};
use crate::backbone::{Backbone, Encoder, Encoders, Weights, value_in};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::frozen::Frozen;
use crate::hooks::{Hooks, Reader, Reading};
use crate::ops;
use crate::order::{self, Order, Step};
use crate::parameter::{Buffer, Overlay, Params};
use crate::pass::Pass;
use crate::recipe::{BatchNormChoice, Recipe};
use crate::site::{At, EmbedStep, Moment, Projection, Role, Tap, Tower};
use crate::slots;
use crate::stream::Stream;
use crate::task::{Batch, Head};
use crate::tokenizer::Tokenizer;
use crate::topology::{Origin, Shape, Topology};

pub use merge::{Bias, Merged};
pub use route::{Inputs, Route};

use route::Way;
use strength::Strength;

/// The owner of the head's parameters, in names and groups.
pub const HEAD: &str = "head";

/// A frozen dual encoder with what is trained beside it.
pub struct Tuned {
    /// What the backbone is made of.
    pub topology: Topology,
    /// The frozen weights.
    pub base: Base,
    /// What trains, and what belongs to it.
    pub overlay: Overlay,
    backbone: Arc<dyn Backbone>,
    encoders: Encoders,
    hooks: Hooks,
    head: Box<dyn Head>,
    lives: Vec<Installed>,
    /// The label of each adapter, and how much of it counts.
    strengths: Vec<(String, Strength)>,
    /// What the task reads, and whether by pair.
    reads: (Vec<Tap>, bool),
    /// The way to what the task reads.
    way: Way,
    seed: u64,
    dtype: DType,
    device: Device,
}

/// What a model is computed in and where.
#[derive(Clone, Debug)]
pub struct Compute {
    /// f32, or f64 for checks.
    pub dtype: DType,
    /// Where.
    pub device: Device,
}

impl Default for Compute {
    /// f32 on the CPU.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            device: Device::Cpu,
        }
    }
}

/// Everything about a model but its encoders: all that a plan needs.
pub(crate) struct Assembly {
    pub topology: Topology,
    pub overlay: Overlay,
    pub hooks: Hooks,
    pub head: Box<dyn Head>,
    pub lives: Vec<Installed>,
    pub order: Order,
    /// What the task reads.
    pub reads: Vec<Tap>,
    /// The slots of each adapter.
    pub slots: Vec<Vec<Slot>>,
    /// What an adapter would train or act on but the task cannot reach.
    pub left_out: Vec<String>,
}

/// The overlay a recipe would make: names and shapes. Its values are zeros that those of one shape
/// share: not to be written. Reads no weights.
///
/// # Errors
/// The recipe does not fit its backbone.
pub fn planned_overlay(recipe: &Recipe) -> Result<Overlay> {
    Ok(assemble(recipe, None, &Compute::default())?.overlay)
}

/// Installs a recipe's adapters and head. Without a base nothing is read and nothing is drawn:
/// that is planning.
pub(crate) fn assemble(
    recipe: &Recipe,
    base: Option<&Base>,
    compute: &Compute,
) -> Result<Assembly> {
    let topology = recipe.backbone.plugin.topology()?;
    let labels = recipe.labels();
    let task_reads = recipe.task.plugin.reads(&topology)?;
    let mut found = Vec::new();
    for (label, adapter) in labels.iter().zip(&recipe.adapters) {
        found.push(find_slots(&topology, label, adapter.plugin.as_ref())?);
    }

    // What the task depends on follows from slots and reads alone, before anything is made.
    let (bridges, readings) = declared(&labels, recipe, &found);
    let mut all = readings;
    all.extend(task_reads.iter().map(|tap| Reading::of_head(*tap)));
    let reach = order::order(&topology, &bridges, &all)?;
    let mut left_out = Vec::new();
    for ((label, adapter), slots) in labels.iter().zip(&recipe.adapters).zip(&mut found) {
        let lost = leave_out(&topology, &reach, adapter.plugin.as_ref(), slots);
        if slots.is_empty() && !lost.is_empty() {
            return Err(Error::Unread {
                adapter: label.clone(),
                place: lost.join(", "),
                task: recipe.task.name.to_string(),
            });
        }
        left_out.extend(lost);
    }

    let mut overlay = Overlay::default();
    let planning = base.is_none();
    let seed = recipe.train.seed;
    existing(&topology, recipe, base, compute, &mut overlay)?;
    let mut hooks = Hooks::new(topology.vision.blocks.len(), topology.text.blocks.len());
    let mut lives = Vec::new();
    for ((label, adapter), slots) in labels.iter().zip(&recipe.adapters).zip(&mut found) {
        if let Some(base) = base {
            fill_values(&topology, base, slots)?;
        }
        let plugin = adapter.plugin.as_ref();
        let declared: Vec<_> = slots.iter().map(|s| (s, plugin.reads(s))).collect();
        hooks.begin(label, &declared, &topology);
        let mut params = Params::new(
            &mut overlay,
            label,
            seed,
            planning,
            compute.dtype,
            &compute.device,
        );
        lives.push(plugin.install(slots, &mut params, &mut hooks)?);
        hooks.end()?;
    }
    let mut params = Params::new(
        &mut overlay,
        HEAD,
        seed,
        planning,
        compute.dtype,
        &compute.device,
    );
    let head = recipe.task.plugin.head(&topology, &mut params)?;

    let order = route::order(&topology, &hooks, |_| true, &task_reads)?;
    let unread = |place: &&(String, Option<(Tower, At)>)| {
        place.1.is_some_and(|(tower, at)| !order.reaches(tower, at))
    };
    if let Some((adapter, Some((tower, at)))) = hooks.acts.iter().find(unread) {
        return Err(Error::Unread {
            adapter: adapter.clone(),
            place: format!("{tower}.{at}"),
            task: recipe.task.name.to_string(),
        });
    }
    if !recipe.task.plugin.per_pair() {
        items_stay_items(recipe, &task_reads, &order, &hooks)?;
    }
    Ok(Assembly {
        topology,
        overlay,
        hooks,
        head,
        lives,
        order,
        reads: task_reads,
        slots: found,
        left_out,
    })
}

fn find_slots(topology: &Topology, label: &str, adapter: &dyn Adapter) -> Result<Vec<Slot>> {
    let wants = adapter.wants();
    slots::all_used(label, &wants)?;
    let mut all = Vec::new();
    for want in &wants {
        all.extend(slots::find(topology, label, want)?);
    }
    Ok(all)
}

fn declared(
    labels: &[String],
    recipe: &Recipe,
    found: &[Vec<Slot>],
) -> (Vec<(usize, usize, String)>, Vec<Reading>) {
    let mut bridges = Vec::new();
    let mut readings = Vec::new();
    for ((label, adapter), slots) in labels.iter().zip(&recipe.adapters).zip(found) {
        for slot in slots {
            let Some(reader) = Reader::of(slot) else {
                continue;
            };
            if let Reader::Bridge(vision, text) = reader {
                bridges.push((vision, text, label.clone()));
            }
            readings.extend(adapter.plugin.reads(slot).into_iter().map(|tap| Reading {
                tap,
                owner: label.clone(),
                reader,
            }));
        }
    }
    (bridges, readings)
}

/// Drops what no loss can reach and what an adapter can do without, and gives its names: existing
/// parameters, and projections at the end of a tower. A projection that the recipe names stays,
/// and is an error later, unless the task reaches one of that name elsewhere in the tower: the
/// query of a pool goes where those of the blocks are reached.
fn leave_out(
    topology: &Topology,
    reach: &Order,
    adapter: &dyn Adapter,
    slots: &mut Vec<Slot>,
) -> Vec<String> {
    let wants = adapter.wants();
    let reached = slots.iter().filter_map(Slot::projection);
    let reached: Vec<_> = reached
        .filter(|s| reach.reaches(s.tower, s.at))
        .map(|s| (s.tower, s.projection))
        .collect();
    let stays = |slot: &Slot| match slot {
        Slot::Parameter(s) => parameter_reached(topology, reach, &s.name),
        Slot::Projection(s) => {
            let at_end = matches!(s.at, At::Final | At::Pooled);
            let served = reached.contains(&(s.tower, s.projection));
            reach.reaches(s.tower, s.at) || !at_end || (is_named(&wants, s.projection) && !served)
        }
        _ => true,
    };
    let (kept, lost): (Vec<Slot>, Vec<Slot>) = slots.drain(..).partition(stays);
    *slots = kept;
    lost.iter().map(Slot::to_string).collect()
}

fn parameter_reached(topology: &Topology, reach: &Order, name: &str) -> bool {
    let Some(info) = topology.parameters().find(|p| p.name == name) else {
        return false;
    };
    let tower = info.tower.unwrap_or(Tower::Vision);
    info.used.iter().any(|at| match at {
        // Final stands for the projected features alone here: pooling has its own.
        At::Final => reach.has(tower, At::Final),
        at => reach.reaches(tower, *at),
    })
}

/// Whether a recipe names a projection for the adapter that has these wishes.
fn is_named(wants: &[Want], projection: Projection) -> bool {
    wants.iter().any(|want| {
        matches!(want, Want::Projections { sites, .. } if sites.projections.contains(&projection))
    })
}

/// Refuses a task that reads items of a tower that an adapter makes depend on the pair. Logits
/// are similarities of items either way.
fn items_stay_items(recipe: &Recipe, reads: &[Tap], order: &Order, hooks: &Hooks) -> Result<()> {
    let place = |step: Step| order.steps.iter().position(|s| *s == step);
    for tap in reads.iter().filter(|t| t.at != At::Logits) {
        let expanded = place(Step::Expand(tap.tower));
        let read = route::step_of(hooks, |_| true, *tap);
        if expanded.is_none() || place(read) < expanded {
            continue;
        }
        return Err(Error::ItemsArePairs {
            task: recipe.task.name.to_string(),
            tap: *tap,
            adapters: route::crossing(hooks, |_| true),
        });
    }
    Ok(())
}

/// What the overlay holds of the backbone itself: statistics that train, and parameters that are
/// not in the base.
fn existing(
    topology: &Topology,
    recipe: &Recipe,
    base: Option<&Base>,
    compute: &Compute,
    overlay: &mut Overlay,
) -> Result<()> {
    let Compute { dtype, device } = compute;
    for info in topology.parameters() {
        let statistics = info.role == Role::Statistics;
        let trains = statistics && recipe.weights.batch_norm == BatchNormChoice::Train;
        let value = match (&info.origin, base) {
            (Origin::Fresh(init), Some(_)) => {
                init.tensor(recipe.train.seed, &info.name, &info.shape, *dtype, device)?
            }
            (_, Some(base)) if trains => {
                value_in(base, info)?.to_dtype(*dtype)?.to_device(device)?
            }
            (Origin::Fresh(_), None) => Tensor::zeros(info.shape.as_slice(), *dtype, device)?,
            (_, None) if trains => Tensor::zeros(info.shape.as_slice(), *dtype, device)?,
            _ => continue,
        };
        let buffer = Buffer::new(&value)?;
        match trains {
            true => overlay.buffers.insert(info.name.clone(), buffer),
            false => overlay.constants.insert(info.name.clone(), buffer),
        };
    }
    Ok(())
}

fn fill_values(topology: &Topology, base: &Base, slots: &mut [Slot]) -> Result<()> {
    for slot in slots {
        if let Slot::Parameter(parameter) = slot {
            let info = topology.parameters().find(|p| p.name == parameter.name);
            if let Some(info) = info.filter(|i| !matches!(i.origin, Origin::Fresh(_))) {
                parameter.value = Some(value_in(base, info)?);
            }
        }
    }
    Ok(())
}

impl Tuned {
    /// A new model from a recipe and its base.
    ///
    /// # Errors
    /// The recipe does not fit the backbone, or the base lacks a weight.
    pub fn new(recipe: &Recipe, base: Base, compute: Compute) -> Result<Self> {
        let assembly = assemble(recipe, Some(&base), &compute)?;
        let weights = Weights::new(
            &base,
            &assembly.overlay,
            &assembly.topology,
            compute.dtype,
            &compute.device,
        );
        let encoders = recipe.backbone.plugin.load(&weights)?;
        let per_pair = recipe.task.plugin.per_pair();
        let way = Way::of(
            &assembly.topology,
            &assembly.hooks,
            |_| true,
            &assembly.reads,
        )?;
        let labels = recipe.labels().into_iter();
        Ok(Self {
            backbone: recipe.backbone.plugin.clone(),
            topology: assembly.topology,
            base,
            overlay: assembly.overlay,
            encoders,
            hooks: assembly.hooks,
            head: assembly.head,
            lives: assembly.lives,
            strengths: labels.map(|label| (label, Strength::default())).collect(),
            reads: (assembly.reads, per_pair),
            way,
            seed: recipe.train.seed,
            dtype: compute.dtype,
            device: compute.device,
        })
    }

    /// Brings the frozen weights into the form and the place in which a forward pass reads them,
    /// on all processors, so that the first pass takes no longer than the second. Without it each
    /// weight is read when a pass comes to it. Tables of words stay where they are: a pass reads
    /// few of their rows.
    ///
    /// # Errors
    /// A weight cannot be converted, or brought to the device.
    pub fn warm(&self) -> Result<()> {
        let shapes: BTreeMap<String, Shape> = self
            .topology
            .projections()
            .map(|p| (format!("{}.weight", p.name), p.shape))
            .collect();
        let frozen: Vec<(&str, &Frozen)> = self
            .topology
            .parameters()
            .filter(|p| p.origin == Origin::Base && !self.overlay.trained.contains_key(&p.name))
            .filter_map(|p| Some((p.name.as_str(), self.base.get(&p.name)?)))
            .collect();
        frozen.into_par_iter().try_for_each(|(name, weight)| {
            match shapes.get(name) {
                Some(Shape::Embedding) => {}
                Some(Shape::Linear) if self.device.is_cpu() && self.dtype == DType::F32 => {
                    weight.warm()?
                }
                // Products in other types convert it anew each time, which takes less memory.
                Some(Shape::Linear) if self.device.is_cpu() => {}
                _ => drop(weight.tensor(self.dtype, &self.device)?),
            }
            Ok(())
        })
    }

    /// Lets every adapter start from weights, tokenizer and data. Called once for a new model,
    /// not for one that is loaded.
    ///
    /// # Errors
    /// What an adapter starts from is not there.
    pub fn prepare(
        &mut self,
        tokenizer: Option<&dyn Tokenizer>,
        training: Option<Training>,
    ) -> Result<()> {
        let mut lives = std::mem::take(&mut self.lives);
        let source = Source {
            base: &self.base,
            model: self,
            tokenizer,
            training,
        };
        let prepared = lives.iter_mut().try_for_each(|life| life.prepare(&source));
        self.lives = lives;
        prepared
    }

    /// An existing parameter as the model has it before its hooks: trained, kept or frozen.
    ///
    /// # Errors
    /// The topology or the base lacks it.
    pub fn value(&self, name: &str) -> Result<Tensor> {
        let Compute { dtype, device } = self.compute();
        let weights = Weights::new(&self.base, &self.overlay, &self.topology, dtype, &device);
        weights.parameter(name)?.tensor(&Pass::predict())
    }

    /// The lives of the adapters, in the order of the recipe.
    pub fn lives(&mut self) -> &mut [Installed] {
        &mut self.lives
    }

    /// The element type and device it computes in.
    pub fn compute(&self) -> Compute {
        Compute {
            dtype: self.dtype,
            device: self.device.clone(),
        }
    }

    /// The hooks.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// The head.
    pub fn head(&self) -> &dyn Head {
        self.head.as_ref()
    }

    /// The steps of a forward pass, in order.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        self.way.steps()
    }

    /// Logits of a batch: the towers' features through the head.
    ///
    /// # Errors
    /// The batch does not fit the backbone, or an operation failed.
    pub fn logits(&self, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
        let features = self.forward(batch, pass)?;
        self.head.forward(&features, pass)
    }

    /// What the task reads of a batch, and what its head makes of it, in prediction: what
    /// [`Scores::add`](crate::task::Scores::add) takes.
    ///
    /// # Errors
    /// The batch does not fit the backbone, or an operation failed.
    pub fn predict(&self, batch: &Batch) -> Result<(Vec<Stream>, Tensor)> {
        let mut pass = Pass::predict();
        let features = self.forward(batch, &mut pass)?;
        let logits = self.head.forward(&features, &mut pass)?;
        Ok((features, logits))
    }

    /// The loss of a batch, penalties of adapters included.
    ///
    /// # Errors
    /// The batch has no target, or an operation failed.
    pub fn loss(&self, batch: &Batch, pass: &mut Pass) -> Result<Tensor> {
        let logits = self.logits(batch, pass)?;
        let mut loss = self.head.loss(&logits, batch)?;
        let acting = self.strengths.iter().map(|(_, s)| s.value() != 0.0);
        for (life, _) in self.lives.iter().zip(acting).filter(|(_, acts)| *acts) {
            if let Some(penalty) = life.penalty(pass)? {
                loss = ops::add(&loss, &penalty)?;
            }
        }
        Ok(loss)
    }

    /// What the task reads: by pair, unless the task reads items.
    ///
    /// # Errors
    /// The batch does not fit the backbone, or an operation failed.
    pub fn forward(&self, batch: &Batch, pass: &mut Pass) -> Result<Vec<Stream>> {
        self.walk(&self.way, self.reads.1, &batch.into(), pass)
    }

    /// Walks both towers along `way`, in the order of the plan, and gives what lies at its end.
    ///
    /// This is the one place that walks the towers. A tower runs on its own items until its first
    /// look at the other; from there on it runs on pairs, and a batch norm that trains sees pairs.
    fn walk(
        &self,
        way: &Way,
        per_pair: bool,
        inputs: &Inputs,
        pass: &mut Pass,
    ) -> Result<Vec<Stream>> {
        let mut walk = Walk::new(inputs, self.dtype)?;
        let mut found = vec![None; way.taps.len()];
        pass.begin();
        for stop in &way.stops {
            self.step(stop.step, &mut walk, pass)?;
            for key in &stop.kept {
                let reading = &self.hooks.readings[key.0];
                let by_pair = match reading.reader {
                    Reader::Place(..) | Reader::Head => reading.reader.crosses(reading.tap),
                    Reader::Bridge(..) => true,
                };
                pass.record(*key, walk.stream(reading.tap, by_pair)?);
            }
            for i in &stop.given {
                found[*i] = Some(walk.stream(way.taps[*i], per_pair)?);
            }
        }
        let found = found.into_iter();
        found
            .map(|stream| stream.ok_or(Error::NotYetRead { tap: 0 }))
            .collect()
    }

    fn step(&self, step: Step, walk: &mut Walk, pass: &mut Pass) -> Result<()> {
        match step {
            Step::Embed(tower) => {
                let hooks = self.hooks.tower(tower);
                let encoder = self.encoder(tower);
                let place = hooks.place(At::Embed);
                let mut stream = encoder.tokens(walk.input(tower)?, place, pass)?;
                stream = hooks.stream(Moment::Embed(EmbedStep::Tokens), stream, pass)?;
                stream = encoder.positions(stream, pass)?;
                stream = hooks.stream(Moment::Embed(EmbedStep::Positions), stream, pass)?;
                stream = encoder.norm(stream, pass)?;
                stream = hooks.stream(Moment::Embed(EmbedStep::Norm), stream, pass)?;
                walk.streams[tower as usize] = Some(stream);
            }
            Step::Expand(tower) => {
                if let Some(rows) = walk.expand(tower)? {
                    self.repeat_kept(tower, &rows, pass)?;
                }
            }
            Step::Block(tower, i) => {
                let hooks = self.hooks.tower(tower);
                let mut stream = walk.take(tower)?;
                stream = hooks.stream(Moment::Before(i), stream, pass)?;
                let place = hooks.place(At::Block(i));
                stream = self.encoder(tower).block(i, stream, place, pass)?;
                stream = hooks.stream(Moment::After(i), stream, pass)?;
                walk.streams[tower as usize] = Some(stream);
            }
            Step::Bridge(k) => {
                let (vision, text) = (walk.take(Tower::Vision)?, walk.take(Tower::Text)?);
                let bridge = &self.hooks.bridges[k];
                let (vision, text) = bridge.forward(vision, text, pass)?;
                walk.streams = [Some(vision), Some(text)];
            }
            Step::Features(tower) => {
                let stream = walk.take(tower)?;
                let place = self.hooks.tower(tower).place(At::Final);
                let features = self.encoder(tower).features(&stream, place, pass)?;
                walk.streams[tower as usize] = Some(stream);
                walk.features[tower as usize] = Some(features);
            }
            Step::Pooled(tower) => {
                let stream = walk.take(tower)?;
                let hooks = self.hooks.tower(tower);
                let place = hooks.place(At::Pooled);
                let pooled = self.encoder(tower).pooled(&stream, place, pass)?;
                walk.streams[tower as usize] = Some(stream);
                let pooled = hooks.pooled(pooled, pass)?;
                walk.pooled[tower as usize] = Some(Stream::pooled(pooled));
            }
            Step::Logits => {
                let [Some(vision), Some(text)] = &walk.pooled else {
                    return Err(Error::NotYetRead { tap: 0 });
                };
                let scale = self.encoders.logit_scale.tensor(pass)?.exp()?;
                let (v, t) = (ops::unit(&vision.data)?, ops::unit(&text.data)?);
                let mut logits = ops::mul(&walk.similarities(&v, &t)?, &scale)?;
                if let Some(bias) = &self.encoders.logit_bias {
                    logits = ops::add(&logits, &bias.tensor(pass)?)?;
                }
                let logits = self.hooks.similarities(logits, &v, &t, pass)?;
                walk.logits = Some(Stream::pooled(logits));
            }
        }
        Ok(())
    }

    /// What was kept of a tower's items before they became pairs, for hooks of the same tower.
    fn repeat_kept(&self, tower: Tower, rows: &[u32], pass: &mut Pass) -> Result<()> {
        for (i, stream) in pass.recorded_mut() {
            let reading = &self.hooks.readings[i];
            if reading.tap.tower == tower && reading.reader.stays(reading.tap) {
                *stream = stream.select(rows)?;
            }
        }
        for (along, index, repeat) in &self.hooks.along {
            if *along == tower {
                repeat(pass, *index, rows)?;
            }
        }
        Ok(())
    }

    fn encoder(&self, tower: Tower) -> &dyn Encoder {
        match tower {
            Tower::Vision => self.encoders.vision.as_ref(),
            Tower::Text => self.encoders.text.as_ref(),
        }
    }
}

/// Where a forward pass stands, by tower.
struct Walk {
    inputs: [Option<Tensor>; 2],
    streams: [Option<Stream>; 2],
    features: [Option<Stream>; 2],
    pooled: [Option<Stream>; 2],
    logits: Option<Stream>,
    /// The item of each pair; none where items are pairs already.
    rows: [Option<Vec<u32>>; 2],
    /// Whether the tower depends on the pair, and no longer on its item alone.
    paired: [bool; 2],
    /// Pictures and sentences.
    items: (usize, usize),
    pairs: Vec<(u32, u32)>,
}

impl Walk {
    fn new(given: &Inputs, dtype: DType) -> Result<Self> {
        let rows_of = |x: &Option<Tensor>| x.as_ref().map_or(Ok(0), |x| x.dim(0));
        let (images, sentences) = (rows_of(&given.images)?, rows_of(&given.tokens)?);
        let outside = |p: &&(u32, u32)| p.0 as usize >= images || p.1 as usize >= sentences;
        if let Some(pair) = given.pairs.iter().find(outside) {
            return Err(Error::Shape {
                what: format!("a batch with the pair {pair:?}"),
                expected: vec![images, sentences],
                got: vec![pair.0 as usize, pair.1 as usize],
            });
        }
        let pictures = given.images.as_ref().map(|x| x.to_dtype(dtype));
        Ok(Self {
            inputs: [pictures.transpose()?, given.tokens.clone()],
            streams: [None, None],
            features: [None, None],
            pooled: [None, None],
            logits: None,
            rows: [
                rows(images, given.pairs.iter().map(|p| p.0)),
                rows(sentences, given.pairs.iter().map(|p| p.1)),
            ],
            paired: [false; 2],
            items: (images, sentences),
            pairs: given.pairs.clone(),
        })
    }

    fn input(&self, tower: Tower) -> Result<&Tensor> {
        let input = self.inputs[tower as usize].as_ref();
        input.ok_or(Error::NothingGiven { tower })
    }

    fn take(&mut self, tower: Tower) -> Result<Stream> {
        self.streams[tower as usize]
            .take()
            .ok_or(Error::NotYetRead { tap: 0 })
    }

    /// Makes a tower's items pairs; gives the item of each, if that changes anything.
    fn expand(&mut self, tower: Tower) -> Result<Option<Vec<u32>>> {
        self.paired[tower as usize] = true;
        let Some(rows) = self.rows[tower as usize].take() else {
            return Ok(None);
        };
        match &mut self.streams[tower as usize] {
            Some(stream) => *stream = stream.select(&rows)?,
            None => {
                let repeated = ops::select(self.input(tower)?, &rows)?;
                self.inputs[tower as usize] = Some(repeated);
            }
        }
        Ok(Some(rows))
    }

    /// Products of all pictures' and all sentences' vectors, `[pictures, sentences]`. Where a
    /// tower depends on the pair, they are computed by pair and put in their places.
    fn similarities(&self, vision: &Tensor, text: &Tensor) -> Result<Tensor> {
        if self.paired == [false, false] {
            return Ok(ops::linear(vision, text, None)?);
        }
        let by_pair = |tower: Tower, x: &Tensor| match &self.rows[tower as usize] {
            Some(rows) => ops::select(x, rows),
            None => Ok(x.clone()),
        };
        let vision = by_pair(Tower::Vision, vision)?;
        let products = ops::mul(&vision, &by_pair(Tower::Text, text)?)?.sum(1)?;
        let (pictures, sentences) = self.items;
        let mut places = vec![None; pictures * sentences];
        for (i, (picture, sentence)) in self.pairs.iter().enumerate() {
            places[*picture as usize * sentences + *sentence as usize] = Some(i as u32);
        }
        let missing = places.iter().position(Option::is_none);
        if let Some(first) = missing {
            return Err(Error::PairMissing {
                picture: first / sentences,
                sentence: first % sentences,
            });
        }
        let order: Vec<u32> = places.into_iter().flatten().collect();
        Ok(ops::select(&products, &order)?.reshape((pictures, sentences))?)
    }

    fn stream(&self, tap: Tap, by_pair: bool) -> Result<Stream> {
        let tower = tap.tower as usize;
        let found = match tap.at {
            At::Embed | At::Block(_) => &self.streams[tower],
            At::Final => &self.features[tower],
            At::Pooled => &self.pooled[tower],
            At::Logits => &self.logits,
        };
        let stream = found.clone().ok_or(Error::NotYetRead { tap: 0 })?;
        match &self.rows[tower] {
            Some(rows) if by_pair && tap.at != At::Logits => Ok(stream.select(rows)?),
            _ => Ok(stream),
        }
    }
}

/// The item of each pair, unless pair `i` is item `i` throughout.
fn rows(items: usize, of_pairs: impl Iterator<Item = u32>) -> Option<Vec<u32>> {
    let rows: Vec<u32> = of_pairs.collect();
    let same = rows.len() == items && rows.iter().enumerate().all(|(i, r)| i == *r as usize);
    (!same).then_some(rows)
}

//! Trains the pocket encoder from nothing and writes what `twinspan-backbones` embeds: pictures
//! and captions of made-up scenes, contrastive losses, no masks.
//!
//! ```text
//! cargo run --release -p twinspan-examples --example pretrain_pocket
//! ```
//!
//! Owns the contrastive task, which is one more plugin, made here; training is the SDK's, with
//! every existing parameter unfrozen. The same seed gives the same file on the same kind of machine,
//! whatever the number of threads.
//!
//! What is contrasted is twice the same: which caption of a batch belongs to which picture. Once
//! by one vector of each (CLIP, arXiv 2103.00020), which retrieval needs; and once by the parts of
//! the caption that name a thing, each compared, softly, with the patch that is nearest to it (as
//! words are in FILIP, Yao et al., arXiv 2111.07783), from which patches learn to say what stands
//! there.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use candle_core::{D, DType, Device, Tensor};
use clap::Parser;
use serde::{Deserialize, Serialize};
use twinspan::adapters::unfreeze::{Group, Unfreeze};
use twinspan::backbones::pocket::Pocket;
use twinspan::backbones::tokenizer::ClipTokenizer;
use twinspan::scenes::{SIDE, Scene};
use twinspan::sdk::adapter::{Adapter, Slot, Want};
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::base::Base;
use twinspan::sdk::file::write_whole;
use twinspan::sdk::hooks::BranchView;
use twinspan::sdk::parameter::{Init, Overlay, Parameter, Params};
use twinspan::sdk::pass::Pass;
use twinspan::sdk::plugin::{Opt, Plugin};
use twinspan::sdk::preparation::Preparation;
use twinspan::sdk::recipe::{OptimizerChoice, Recipe, ScheduleChoice, TrainOptions, WeightsChoice};
use twinspan::sdk::registry::Configured;
use twinspan::sdk::site::{At, Branch, Sites, Tap, Tower};
use twinspan::sdk::stream::Stream;
use twinspan::sdk::task::{Batch, DataSource, Dataset, Head, Kit, Report, Scores, Task};
use twinspan::sdk::testkit::{By, Scripted};
use twinspan::sdk::topology::Topology;
use twinspan::sdk::train::{Observer, StepReport, train};
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::{Error, Result, random, weights};

/// As in the program: training asks for the same large tensors at every step.
#[global_allocator]
static MEMORY: twinspan::sdk::ops::Recycler = twinspan::sdk::ops::Recycler::new();

/// Train the pocket encoder on made-up scenes and write its weights and merges
#[derive(Parser)]
struct Arguments {
    /// Seed of scenes, captions, starts and order
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Optimiser steps
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Scenes in a batch: each caption is told from so many
    #[arg(long, default_value_t = 96)]
    batch: usize,
    /// The highest learning rate
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    /// The folder that gets weights.safetensors and merges.txt
    #[arg(long, default_value = "backbones/src/pocket")]
    out: PathBuf,
}

/// Scenes that captions are retrieved among, none of which was trained on.
const HELD_OUT: usize = 500;
/// Steps between two writings of the weights.
const KEPT_EVERY: usize = 100;
/// Held-out scenes are those from this number on.
const FIRST_HELD_OUT: u64 = 1 << 32;

/// Which caption belongs to which picture.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Contrastive {}

impl Plugin for Contrastive {
    const NAME: &'static str = "contrastive";
    const ABOUT: &'static str = "tells the captions of a batch apart, whole and part by part";
    const OPTIONS: &'static [Opt] = &[];
}

impl Task for Contrastive {
    fn reads(&self, _topology: &Topology) -> Result<Vec<Tap>> {
        Ok(vec![
            Tap::vision(At::Logits),
            Tap::vision(At::Final),
            Tap::text(At::Pooled),
        ])
    }

    fn per_pair(&self) -> bool {
        false
    }

    fn head(&self, _topology: &Topology, params: &mut Params) -> Result<Box<dyn Head>> {
        let start = Init::Constant(SHARPNESS.ln());
        let sharpness = params.trained("sharpness", &[1], start)?;
        Ok(Box::new(Similarities { sharpness }))
    }

    fn words(&self) -> usize {
        Pocket::CONTEXT
    }

    fn open(&self, _source: &DataSource, _kit: Kit) -> Result<Arc<dyn Dataset>> {
        Err(Error::wrong_use("scenes are drawn, not read"))
    }
}

/// What similarities of parts and patches are multiplied by at the start; trained, as CLIP's
/// logit scale is.
const SHARPNESS: f64 = 16.0;

/// Similarities of pictures with captions and with the parts of captions.
struct Similarities {
    /// `[1]`, the logarithm.
    sharpness: Parameter,
}

impl Head for Similarities {
    /// `[I, I + F]`: each picture with the I captions, then with their F parts.
    fn forward(&self, features: &[Stream], pass: &mut Pass) -> Result<Tensor> {
        let [logits, patches, sentences] = features else {
            return Err(Error::plugin("three features are read"));
        };
        let (logits, patches, sentences) = (&logits.data, &patches.data, &sentences.data);
        let (pictures, places, width) = patches.dims3()?;
        let parts = sentences.dim(0)?.saturating_sub(pictures);
        let whole = logits.narrow(1, 0, pictures)?;
        let patches = unit(&patches.reshape((pictures * places, width))?)?;
        let sentences = unit(&sentences.narrow(0, pictures, parts)?)?;
        let near = sentences.matmul(&patches.t()?)?;
        let near = near.broadcast_mul(&self.sharpness.tensor(pass)?.exp()?)?;
        // The largest, softly: log Σ exp over the patches of a picture.
        let nearest = log_sum_exp(&near.reshape((parts, pictures, places))?)?;
        Ok(Tensor::cat(&[&whole, &nearest.t()?], 1)?)
    }

    /// The mean of both ways of contrast; the target is `[F, I]`, for each caption the weights of
    /// the mean over its parts.
    fn loss(&self, logits: &Tensor, batch: &Batch) -> Result<Tensor> {
        let Some(parts) = &batch.target else {
            return Err(Error::plugin("the batch does not say whose the parts are"));
        };
        let (count, captions) = parts.dims2()?;
        let whole = logits.narrow(1, 0, captions)?.contiguous()?;
        let by_parts = logits.narrow(1, captions, count)?.contiguous()?;
        let by_parts = by_parts.matmul(parts)?;
        Ok(((contrast(&whole)? + contrast(&by_parts)?)? * 0.5)?)
    }
}

/// `[N, E]`, each row of length 1.
fn unit(rows: &Tensor) -> Result<Tensor> {
    let length = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    Ok(rows.broadcast_div(&length)?)
}

/// Over the last axis.
fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let highest = x.detach().max_keepdim(D::Minus1)?;
    let sum = x.broadcast_sub(&highest)?.exp()?.sum_keepdim(D::Minus1)?;
    Ok((sum.log()? + highest)?.squeeze(D::Minus1)?)
}

/// The mean of both cross-entropies of `[I, I]`: captions of a picture, pictures of a caption.
fn contrast(logits: &Tensor) -> Result<Tensor> {
    let own = Tensor::eye(logits.dim(0)?, logits.dtype(), logits.device())?;
    let cross_entropy = |logits: &Tensor| -> Result<Tensor> {
        let right = (logits * &own)?.sum(D::Minus1)?;
        Ok((log_sum_exp(logits)? - right)?.mean_all()?)
    };
    let both = (cross_entropy(logits)? + cross_entropy(&logits.t()?.contiguous()?)?)?;
    Ok((both * 0.5)?)
}

/// Scenes and their captions, drawn when they are asked for.
struct Scenes {
    seed: u64,
    steps: usize,
    batch: usize,
    tokenizer: ClipTokenizer,
    preparation: Preparation,
}

impl Scenes {
    /// Pictures, their captions, and behind those the parts of captions that name a thing.
    fn batch(&self, first: u64, indices: &[usize]) -> Result<Batch> {
        let (mut pixels, mut ids, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        let mut owners: Vec<f32> = Vec::new();
        let plane = (SIDE * SIDE) as usize;
        for (place, &index) in indices.iter().enumerate() {
            let scene = Scene::of(self.seed, first + index as u64, SIDE, THINGS);
            let picture = scene.picture().into_raw();
            let start = pixels.len();
            pixels.resize(start + 3 * plane, 0f32);
            for (i, value) in picture.into_iter().enumerate() {
                let (mean, std) = (self.preparation.mean[i % 3], self.preparation.std[i % 3]);
                pixels[start + i % 3 * plane + i / 3] = (f32::from(value) / 255.0 - mean) / std;
            }
            let caption = scene.caption(0);
            ids.extend(self.tokenizer.encode(&caption, Pocket::CONTEXT).ids);
            let names = |part: &&str| part.starts_with("a ") && !part.ends_with(" ground");
            let own: Vec<&str> = caption.split(", ").filter(names).collect();
            for part in &own {
                parts.extend(self.tokenizer.encode(part, Pocket::CONTEXT).ids);
                let mut weights = vec![0.0; indices.len()];
                weights[place] = 1.0 / own.len() as f32;
                owners.extend(weights);
            }
        }
        let (items, side) = (indices.len(), SIDE as usize);
        let images = Tensor::from_vec(pixels, (items, 3, side, side), &Device::Cpu)?;
        let count = owners.len() / items.max(1);
        ids.extend(parts);
        let tokens = Tensor::from_vec(ids, (items + count, Pocket::CONTEXT), &Device::Cpu)?;
        let longest = self.longest(&tokens)?;
        Ok(Batch {
            images,
            tokens: tokens.narrow(1, 0, longest)?.contiguous()?,
            pairs: (0..items as u32).map(|i| (i, i)).collect(),
            target: Some(Tensor::from_vec(owners, (count, items), &Device::Cpu)?),
            examples: indices.to_vec(),
        })
    }

    /// Nothing is gained by computing what every caption pads.
    fn longest(&self, tokens: &Tensor) -> Result<usize> {
        let rows = tokens.to_vec2::<u32>()?;
        let length = |row: &Vec<u32>| row.iter().position(|id| *id == self.tokenizer.end());
        let longest = rows.iter().filter_map(length).max();
        Ok(longest.map_or(Pocket::CONTEXT, |last| last + 1))
    }
}

impl Dataset for Scenes {
    fn splits(&self) -> BTreeMap<String, usize> {
        [("train".into(), self.steps * self.batch)].into()
    }

    fn len(&self, _split: &str) -> Result<usize> {
        Ok(self.steps * self.batch)
    }

    fn train(&self, _split: &str, indices: &[usize], _seed: u64) -> Result<Batch> {
        self.batch(0, indices)
    }

    fn evaluate(&self, _split: &str, indices: &[usize]) -> Result<Batch> {
        self.batch(FIRST_HELD_OUT, indices)
    }

    fn scores(&self, _split: &str) -> Result<Box<dyn Scores + '_>> {
        Ok(Box::new(Unscored))
    }
}

/// Retrieval is over all held-out scenes together, not batch by batch: see [`retrieval`].
struct Unscored;

impl Scores for Unscored {
    fn add(&mut self, _batch: &Batch, _features: &[Stream], _logits: &Tensor) -> Result<()> {
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        Ok(Report::default())
    }
}

/// Percent of held-out pictures whose own caption is the most similar of all, and of captions
/// whose own picture is.
fn retrieval(model: &Tuned, scenes: &Scenes) -> Result<(f64, f64)> {
    let all: Vec<usize> = (0..HELD_OUT).collect();
    let batch = scenes.evaluate("", &all)?;
    let logits = model.logits(&batch, &mut Pass::predict())?;
    let logits = logits.narrow(1, 0, HELD_OUT)?;
    let right = |logits: &Tensor| -> Result<f64> {
        let best: Vec<u32> = logits.contiguous()?.argmax(D::Minus1)?.to_vec1()?;
        let own = best.iter().enumerate().filter(|(i, b)| *i == **b as usize);
        Ok(100.0 * own.count() as f64 / HELD_OUT as f64)
    };
    Ok((right(&logits)?, right(&logits.t()?)?))
}

/// Merges (Sennrich et al., arXiv 1508.07909) of the words of captions and sentences, the most
/// frequent pair first, as merges.txt has them.
fn merges(seed: u64, most: usize) -> String {
    let mut words: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    for number in 0..2000 {
        let scene = Scene::new(seed, number, SIDE);
        let said = scene.sayings().into_iter().map(|(_, s)| s.text());
        for text in said.chain([scene.caption(0)]) {
            for word in text.replace(',', " ,").split(' ') {
                let mut parts: Vec<String> = word.chars().map(String::from).collect();
                if let Some(last) = parts.last_mut() {
                    last.push_str("</w>");
                }
                *words.entry(parts).or_default() += 1;
            }
        }
    }
    let mut lines = String::from("#version: 0.2\n");
    for _ in 0..most {
        let mut pairs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (parts, count) in &words {
            for pair in parts.windows(2) {
                *pairs.entry((&pair[0], &pair[1])).or_default() += count;
            }
        }
        // Of equals the first in the alphabet.
        let Some((pair, _)) = pairs.iter().rev().max_by_key(|(_, count)| **count) else {
            break;
        };
        let (left, right) = (pair.0.to_string(), pair.1.to_string());
        lines += &format!("{left} {right}\n");
        let joined = words.iter().map(|(parts, count)| {
            let mut whole: Vec<String> = Vec::new();
            let mut held = false;
            for part in parts {
                match whole.last_mut() {
                    Some(last) if held && *last == left && *part == right => {
                        last.push_str(part);
                        held = false;
                    }
                    _ => {
                        whole.push(part.clone());
                        held = true;
                    }
                }
            }
            (whole, *count)
        });
        words = joined.collect();
    }
    lines
}

/// A line now and then, and what was learned so far on disk.
struct Lines<'a> {
    started: Instant,
    loss: f64,
    /// The same values that are trained.
    overlay: Overlay,
    out: &'a Path,
    merges: &'a str,
}

impl Lines<'_> {
    /// Writes weights, rounded to f16, and merges; gives the weights and the bytes of their file.
    fn write(&self) -> Result<(BTreeMap<String, Tensor>, usize)> {
        let mut rounded = BTreeMap::new();
        for (name, tensor) in self.overlay.tensors() {
            // The head was for training only.
            if !name.starts_with("head.") {
                rounded.insert(name, tensor.to_dtype(DType::F16)?);
            }
        }
        let bytes = safetensors::serialize(&rounded, None).map_err(Error::plugin)?;
        write_whole(&self.out.join("weights.safetensors"), |file| {
            file.write_all(&bytes)
        })?;
        write_whole(&self.out.join("merges.txt"), |file| {
            file.write_all(self.merges.as_bytes())
        })?;
        Ok((rounded, bytes.len()))
    }
}

impl Observer for Lines<'_> {
    fn step(&mut self, report: &StepReport) -> Result<()> {
        self.loss = match self.loss.is_nan() {
            true => report.loss,
            false => 0.95 * self.loss + 0.05 * report.loss,
        };
        let done = report.step + 1;
        if done.is_multiple_of(25) || done == report.steps {
            let spent = self.started.elapsed().as_secs_f64();
            let left = spent * (report.steps - done) as f64 / done as f64;
            let loss = self.loss;
            eprintln!(
                "step {done}/{}  loss {loss:.3}  {left:.0} s left",
                report.steps
            );
        }
        if done.is_multiple_of(KEPT_EVERY) {
            self.write()?;
        }
        Ok(())
    }
}

/// Things of a scene: fewer than in data sets, so that captions are shorter.
const THINGS: RangeInclusive<usize> = 1..=3;

/// The first steps, as a part of all, each of which is taken without attention between patches.
const ALONE: f64 = 0.15;

/// Shuts the attention of the vision tower's blocks, all of them together: in the first `alone`
/// steps always, then in each with a chance of one half. So a patch's vector says what stands there
/// before it says what stands elsewhere; a tower that mixes its patches from the start learns
/// captions as well, and nothing of where. (Stochastic depth, Huang et al., arXiv 1603.09382, by
/// step in place of block.)
fn local_first(alone: u64) -> Configured<dyn Adapter> {
    let attention = Want::Branches {
        sites: Sites {
            towers: vec![Tower::Vision],
            ..Default::default()
        },
        default: &[Branch::Attention],
    };
    Scripted::new("local-first", vec![attention], move |slots, _, hooks| {
        let passes = Arc::new(AtomicU64::new(0));
        for slot in slots.iter().filter_map(Slot::branch) {
            let (passes, first) = (passes.clone(), slot.block == 0);
            hooks.branch(
                slot,
                By(move |_: BranchView, output: &Tensor, _: &mut Pass| {
                    let pass = passes.fetch_add(u64::from(first), Ordering::Relaxed);
                    let pass = if first { pass } else { pass - 1 };
                    match pass < alone || random::mix(alone, pass).is_multiple_of(2) {
                        // candle gives no gradient to what it multiplies by the number 0.
                        true => Ok(output.broadcast_mul(&output.zeros_like()?)?),
                        false => Ok(output.clone()),
                    }
                }),
            );
        }
        Ok(())
    })
    .configured()
}

fn run(arguments: &Arguments) -> Result<()> {
    let recipe = |weights: &str, adapters| -> Result<Recipe> {
        Ok(Recipe {
            backbone: Configured::<dyn Backbone>::of(Pocket {})?,
            weights: WeightsChoice {
                weights: weights.into(),
                ..Default::default()
            },
            adapters,
            task: Configured::<dyn Task>::of(Contrastive {})?,
            train: TrainOptions {
                steps: arguments.steps,
                batch: arguments.batch,
                seed: arguments.seed,
                optimizer: OptimizerChoice::Adamw,
                rate: arguments.rate,
                weight_decay: 0.02,
                betas: (0.9, 0.98),
                clip: 1.0,
                schedule: ScheduleChoice::Cosine {
                    warmup: 0.04,
                    floor: 0.01,
                },
                ..Default::default()
            },
        })
    };
    let everything = Configured::<dyn Adapter>::of(Unfreeze {
        roles: vec![Group::All],
        ..Default::default()
    })?;
    let start = recipe(
        &format!("random:{}", arguments.seed),
        vec![
            everything,
            local_first((ALONE * arguments.steps as f64) as u64),
        ],
    )?;

    let words = merges(arguments.seed, Pocket::VOCABULARY - 514);
    let scenes = Scenes {
        seed: arguments.seed,
        steps: arguments.steps,
        batch: arguments.batch,
        tokenizer: ClipTokenizer::of_merges(&words).map_err(Error::plugin)?,
        preparation: Pocket {}.preparation(),
    };
    let mut model = Tuned::new(&start, weights::open(&start)?, Compute::default())?;
    let mut lines = Lines {
        started: Instant::now(),
        loss: f64::NAN,
        overlay: model.overlay.clone(),
        out: &arguments.out,
        merges: &words,
    };
    train(&mut model, &scenes, &start.train, &mut lines)?;

    let (rounded, bytes) = lines.write()?;
    // What is stated is what the rounded weights give.
    let mut kept = BTreeMap::new();
    for (name, tensor) in rounded {
        kept.insert(name, tensor.to_dtype(DType::F32)?);
    }
    let frozen = recipe("random:0", Vec::new())?;
    let model = Tuned::new(&frozen, Base::from_tensors(kept), Compute::default())?;
    let (captions, pictures) = retrieval(&model, &scenes)?;
    println!(
        "{}: {} bytes; among {HELD_OUT} held-out scenes the right caption is first for {captions:.1}% of pictures, the right picture for {pictures:.1}% of captions; {:.0} s",
        arguments.out.display(),
        bytes,
        lines.started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    unsafe { twinspan::sdk::ops::sleep_soon() };
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(said) => {
            eprintln!("pretrain_pocket: {said}");
            ExitCode::FAILURE
        }
    }
}

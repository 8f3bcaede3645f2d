//! What the tests of methods beside the weights share: laws, models on the sdk's toy, hooks by
//! hand, and refusals.

// Every test file uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use twinspan_sdk::adapter::{Adapter, Want};
use twinspan_sdk::backbone::Backbone;
use twinspan_sdk::hooks::StreamHook;
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::plugin::Plugin;
use twinspan_sdk::registry::Configured;
use twinspan_sdk::site::{Moment, Tap, Tower};
use twinspan_sdk::stream::{Form, Span, SpanKind, Stream};
use twinspan_sdk::task::Batch;
use twinspan_sdk::testkit::laws::{Law, Outcome, of_adapter, table};
use twinspan_sdk::testkit::{By, Scripted, Toy, ToyTask, Words, batch, recipe, tuned};
use twinspan_sdk::tuned::Tuned;
use twinspan_sdk::{Error, Result};

pub fn of<P: Plugin + Adapter>(plugin: P) -> Configured<dyn Adapter> {
    Configured::<dyn Adapter>::of(plugin).unwrap()
}

/// No law is broken on the toy, and none skipped but those that `skipped` names.
pub fn keeps_laws<P: Plugin + Adapter>(plugin: P, skipped: &[Law]) {
    let toy = Configured::<dyn Backbone>::of(Toy::default()).unwrap();
    let verdicts = of_adapter(&of(plugin), &toy);
    for verdict in &verdicts {
        let held = match verdict.outcome {
            Outcome::Held => !skipped.contains(&verdict.law),
            Outcome::Skipped(_) => skipped.contains(&verdict.law),
            Outcome::Broken(_) => false,
        };
        assert!(held, "{}", table(&verdicts));
    }
}

/// A model on the toy, whose head looks at everything, away from its start.
pub fn model(adapters: Vec<Configured<dyn Adapter>>) -> Tuned {
    let mut model = fresh(adapters).unwrap();
    model.prepare(Some(&Words), None).unwrap();
    for (name, trained) in &model.overlay.trained {
        let moved = trained.var.as_detached_tensor() + random(name, trained.var.dims());
        trained.var.set(&moved.unwrap()).unwrap();
    }
    model
}

/// A model on the toy, at its start but for what is prepared.
pub fn fresh(adapters: Vec<Configured<dyn Adapter>>) -> Result<Tuned> {
    tuned(&recipe(ToyTask::default(), adapters)?)
}

/// What refuses an adapter on the toy.
pub fn refusal<P: Plugin + Adapter>(plugin: P) -> String {
    let recipe = recipe(ToyTask::default(), vec![of(plugin)]).unwrap();
    plan(&recipe).err().map(text).unwrap_or_default()
}

fn text(error: Error) -> String {
    error.to_string()
}

/// Normal values, the same for the same name.
pub fn random(name: &str, shape: &[usize]) -> Tensor {
    let init = Init::Normal(0.3);
    init.tensor(5, name, shape, DType::F64, &Device::Cpu)
        .unwrap()
}

/// What an adapter trains, by name.
pub fn trained(model: &Tuned) -> BTreeMap<String, Tensor> {
    let all = model.overlay.trained.iter();
    all.map(|(name, t)| (name.clone(), t.var.as_detached_tensor()))
        .collect()
}

/// Two pictures and three sentences, each with each.
pub fn pairs() -> Batch {
    let all: Vec<(u32, u32)> = (0..2).flat_map(|p| (0..3).map(move |s| (p, s))).collect();
    batch(2, 3, &all, 3).unwrap()
}

/// An adapter that hangs `hooks` into streams by hand.
pub fn by_hand<F>(tower: Tower, hooks: Vec<(Moment, F)>) -> Configured<dyn Adapter>
where
    F: Fn(Stream, &mut Pass) -> Result<Stream> + Clone + Send + Sync + 'static,
{
    let moments = hooks.iter().map(|(moment, _)| *moment).collect();
    let want = Want::Streams { tower, moments };
    let hand = Scripted::new("hand", vec![want], move |slots, _, table| {
        for slot in slots.iter().filter_map(|s| s.stream()) {
            for (_, hook) in hooks.iter().filter(|(m, _)| *m == slot.moment) {
                let by: Box<dyn StreamHook> = Box::new(By(hook.clone()));
                table.stream(slot, Boxed(by));
            }
        }
        Ok(())
    });
    hand.configured()
}

struct Boxed(Box<dyn StreamHook>);

impl StreamHook for Boxed {
    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        self.0.forward(stream, pass)
    }
}

/// Gives `model` the values of another head.
pub fn same_head(model: &Tuned, of: &Tuned) {
    for (name, value) in trained(of) {
        if let Some(own) = model.overlay.trained.get(&name) {
            own.var.set(&value).unwrap();
        }
    }
}

/// What the head makes of both models differs by this much at most.
pub fn apart(a: &Tuned, b: &Tuned, batch: &Batch) -> f64 {
    same_head(a, b);
    let logits = |m: &Tuned| m.logits(batch, &mut Pass::predict()).unwrap();
    difference(&logits(a), &logits(b))
}

pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    off.max(0).unwrap().to_scalar().unwrap()
}

/// The stream at a tap.
pub fn stream(model: &Tuned, tap: Tap, batch: &Batch) -> Stream {
    let route = model.route(&[tap]).unwrap();
    let found = route.walk(&batch.into(), &mut Pass::predict()).unwrap();
    found.into_iter().next().unwrap()
}

/// Kinds and lengths of a stream's spans.
pub fn spans(stream: &Stream) -> Vec<(SpanKind, usize)> {
    match &stream.form {
        Form::Tokens { spans, .. } => spans
            .iter()
            .map(|Span { kind, len }| (kind.clone(), *len))
            .collect(),
        _ => Vec::new(),
    }
}

pub fn prompts(owner: &str) -> SpanKind {
    SpanKind::Prompt(owner.to_string())
}

/// Tokens one behind the other.
pub fn join(parts: &[&Tensor]) -> Tensor {
    Tensor::cat(parts, 1).unwrap()
}

/// Tokens `[1, n, D]` for `batch` items.
pub fn repeat(tokens: &Tensor, batch: usize) -> Tensor {
    tokens.repeat((batch, 1, 1)).unwrap()
}

/// Sentences with `context` behind their start tokens: as many words more.
pub fn spliced(stream: Stream, context: &Tensor) -> Stream {
    let x = &stream.data;
    let (batch, words, _) = x.dims3().unwrap();
    let context = repeat(context, batch);
    let n = context.dim(1).unwrap();
    let (start, rest) = (x.narrow(1, 0, 1), x.narrow(1, 1, words - 1));
    let data = join(&[&start.unwrap(), &context, &rest.unwrap()]);
    let Form::Tokens {
        padding: Some(padding),
        end,
        ..
    } = stream.form
    else {
        panic!("sentences are padded");
    };
    let shown = Tensor::zeros((batch, n), padding.dtype(), padding.device()).unwrap();
    let padding = Tensor::cat(&[&shown, &padding], 1).unwrap();
    let ends = end.iter().map(|e| e + n as u32).collect();
    Stream::words(data, Some(padding), ends).unwrap()
}

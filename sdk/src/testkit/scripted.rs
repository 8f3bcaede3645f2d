//! Adapters and hooks made of closures, to probe a backbone or the walk over the towers.
//!
//! Real adapters are serde structs ([`crate::adapter`]); these have no options and no name in
//! the registry.

use std::sync::Arc;

use candle_core::Tensor;

use crate::adapter::{Adapter, Idle, Installed, Slot, Want};
use crate::error::Result;
use crate::hooks::{
    BranchHook, BranchView, Bridge, Bypass, Hooks, KeyValueHook, LogitsHook, PooledHook,
    StreamHook, Transform,
};
use crate::parameter::Params;
use crate::pass::Pass;
use crate::plugin::Capabilities;
use crate::registry::Configured;
use crate::site::Tap;
use crate::stream::Stream;

type Reads = dyn Fn(&Slot) -> Vec<Tap> + Send + Sync;
type Install = dyn Fn(&[Slot], &mut Params, &mut Hooks) -> Result<Installed> + Send + Sync;

/// An adapter made of closures.
pub struct Scripted {
    name: &'static str,
    capabilities: Capabilities,
    wants: Vec<Want>,
    reads: Box<Reads>,
    install: Box<Install>,
}

impl Scripted {
    /// An adapter that wants `wants`, reads nothing and installs by `install`.
    pub fn new(
        name: &'static str,
        wants: Vec<Want>,
        install: impl Fn(&[Slot], &mut Params, &mut Hooks) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::living(name, wants, move |slots, params, hooks| {
            install(slots, params, hooks)?;
            Ok(Box::new(Idle))
        })
    }

    /// The same, where `install` gives the adapter's life.
    pub fn living(
        name: &'static str,
        wants: Vec<Want>,
        install: impl Fn(&[Slot], &mut Params, &mut Hooks) -> Result<Installed> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            capabilities: Capabilities::default(),
            wants,
            reads: Box::new(|_| Vec::new()),
            install: Box::new(install),
        }
    }

    /// The same, reading what `reads` says of each slot.
    pub fn reading(mut self, reads: impl Fn(&Slot) -> Vec<Tap> + Send + Sync + 'static) -> Self {
        self.reads = Box::new(reads);
        self
    }

    /// The same, promising what laws are chosen by.
    pub fn promising(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Ready for a recipe made in code.
    pub fn configured(self) -> Configured<dyn Adapter> {
        Configured {
            name: self.name,
            plugin: Arc::new(self),
            options: toml::Table::new(),
        }
    }
}

impl Adapter for Scripted {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn wants(&self) -> Vec<Want> {
        self.wants.clone()
    }

    fn reads(&self, slot: &Slot) -> Vec<Tap> {
        (self.reads)(slot)
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        (self.install)(slots, params, hooks)
    }
}

/// A hook made of a closure of its shape's signature.
pub struct By<F>(pub F);

impl<F> Transform for By<F>
where
    F: Fn(&Tensor, &mut Pass) -> Result<Tensor> + Send + Sync,
{
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        (self.0)(x, pass)
    }
}

impl<F> Bypass for By<F>
where
    F: Fn(&Tensor, &mut Pass) -> Result<Tensor> + Send + Sync,
{
    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        (self.0)(x, pass)
    }
}

impl<F> PooledHook for By<F>
where
    F: Fn(&Tensor, &mut Pass) -> Result<Tensor> + Send + Sync,
{
    fn forward(&self, pooled: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        (self.0)(pooled, pass)
    }
}

impl<F> BranchHook for By<F>
where
    F: Fn(BranchView, &Tensor, &mut Pass) -> Result<Tensor> + Send + Sync,
{
    fn forward(&self, view: BranchView, output: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        (self.0)(view, output, pass)
    }
}

impl<F> StreamHook for By<F>
where
    F: Fn(Stream, &mut Pass) -> Result<Stream> + Send + Sync,
{
    fn forward(&self, stream: Stream, pass: &mut Pass) -> Result<Stream> {
        (self.0)(stream, pass)
    }
}

impl<F> KeyValueHook for By<F>
where
    F: Fn(Tensor, Tensor, &mut Pass) -> Result<(Tensor, Tensor)> + Send + Sync,
{
    fn forward(&self, key: Tensor, value: Tensor, pass: &mut Pass) -> Result<(Tensor, Tensor)> {
        (self.0)(key, value, pass)
    }
}

impl<F> Bridge for By<F>
where
    F: Fn(Stream, Stream, &mut Pass) -> Result<(Stream, Stream)> + Send + Sync,
{
    fn forward(&self, vision: Stream, text: Stream, pass: &mut Pass) -> Result<(Stream, Stream)> {
        (self.0)(vision, text, pass)
    }
}

impl<F> LogitsHook for By<F>
where
    F: Fn(&Tensor, &Tensor, &Tensor, &mut Pass) -> Result<Tensor> + Send + Sync,
{
    fn forward(
        &self,
        logits: &Tensor,
        vision: &Tensor,
        text: &Tensor,
        pass: &mut Pass,
    ) -> Result<Tensor> {
        (self.0)(logits, vision, text, pass)
    }
}

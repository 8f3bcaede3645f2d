//! The parts of foreign layouts that several families share.
//!
//! Owns the names of transformer blocks in OpenAI's and open_clip's state dicts, in transformers
//! and in timm. Which tensors a family has beside them is in its `key_maps.rs`.

use twinspan_sdk::key_map::Entry;
use twinspan_sdk::site::Tower;

/// Parts of an embedding, a convolution or a projection without a bias.
pub(crate) const WEIGHT: &[&str] = &["weight"];
/// Parts of a norm or a linear layer.
pub(crate) const BOTH: &[&str] = &["weight", "bias"];
/// Parts of a batch norm.
pub(crate) const STATISTICS: &[&str] = &["weight", "bias", "running_mean", "running_var"];

/// Entries of a key map under construction.
#[derive(Default)]
pub(crate) struct Entries(Vec<Entry>);

impl From<Entries> for Vec<Entry> {
    fn from(entries: Entries) -> Self {
        entries.0
    }
}

impl Entries {
    pub fn whole(&mut self, canonical: &str, external: &str) {
        self.0.push(Entry::whole(canonical, external));
    }

    pub fn transposed(&mut self, canonical: &str, external: &str) {
        self.0.push(Entry::whole(canonical, external).transposed());
    }

    /// The tensor `external`, with `ones` dimensions of one in front.
    pub fn leading(&mut self, canonical: &str, external: &str, ones: usize) {
        self.0.push(Entry::whole(canonical, external).leading(ones));
    }

    /// The same layer in both, part by part.
    pub fn layer(&mut self, canonical: &str, external: &str, parts: &[&str]) {
        for part in parts {
            self.whole(
                &format!("{canonical}.{part}"),
                &format!("{external}.{part}"),
            );
        }
    }

    /// Layers, named together, of `width` rows each, one below the other in `EXTERNALweight` and
    /// `EXTERNALbias`.
    pub fn fused(&mut self, canonical: &str, layers: &[&str], external: &str, width: usize) {
        for (i, layer) in layers.iter().enumerate() {
            for part in BOTH {
                let whole = Entry::whole(
                    format!("{canonical}.{layer}.{part}"),
                    format!("{external}{part}"),
                );
                self.0.push(whole.rows(i * width..(i + 1) * width));
            }
        }
    }

    /// The blocks of a tower in OpenAI's and open_clip's names, behind `transformer`.
    pub fn openai_blocks(&mut self, tower: Tower, layers: usize, width: usize, transformer: &str) {
        let blocks = format!("{transformer}.resblocks");
        let names = ["attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"];
        self.fused_blocks(tower, layers, width, &blocks, "attn.in_proj_", names);
    }

    /// The blocks of a tower in timm's names, behind `trunk`, its dot included.
    pub fn timm_blocks(&mut self, tower: Tower, layers: usize, width: usize, trunk: &str) {
        let blocks = format!("{trunk}blocks");
        let names = ["attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2"];
        self.fused_blocks(tower, layers, width, &blocks, "attn.qkv.", names);
    }

    /// Blocks whose query, key and value are one below the other in `fused`; the other layers in
    /// the order of the array below.
    fn fused_blocks(
        &mut self,
        tower: Tower,
        layers: usize,
        width: usize,
        blocks: &str,
        fused: &str,
        [output, first, second, up, down]: [&str; 5],
    ) {
        for i in 0..layers {
            let here = format!("{tower}.blocks.{i}");
            let there = format!("{blocks}.{i}");
            let fused = format!("{there}.{fused}");
            self.fused(
                &format!("{here}.attention"),
                &QUERY_KEY_VALUE,
                &fused,
                width,
            );
            let names = [
                ("attention.output", output),
                ("attention.norm", first),
                ("mlp.norm", second),
                ("mlp.up", up),
                ("mlp.down", down),
            ];
            self.layers(&here, &there, names);
        }
    }

    /// The blocks of a tower in the names of transformers, behind `model`.
    pub fn transformers_blocks(&mut self, tower: Tower, layers: usize, model: &str) {
        for i in 0..layers {
            self.layers(
                &format!("{tower}.blocks.{i}"),
                &format!("{model}encoder.layers.{i}"),
                [
                    ("attention.norm", "layer_norm1"),
                    ("attention.query", "self_attn.q_proj"),
                    ("attention.key", "self_attn.k_proj"),
                    ("attention.value", "self_attn.v_proj"),
                    ("attention.output", "self_attn.out_proj"),
                    ("mlp.norm", "layer_norm2"),
                    ("mlp.up", "mlp.fc1"),
                    ("mlp.down", "mlp.fc2"),
                ],
            );
        }
    }

    /// The layer scales of a tower's blocks, `EXTERNAL.I.FIRST` behind the attention and
    /// `EXTERNAL.I.SECOND` behind the MLP.
    pub fn layer_scales(
        &mut self,
        tower: Tower,
        layers: usize,
        external: &str,
        [first, second]: [&str; 2],
    ) {
        for i in 0..layers {
            let here = format!("{tower}.blocks.{i}");
            self.whole(
                &format!("{here}.attention.scale"),
                &format!("{external}.{i}.{first}"),
            );
            self.whole(
                &format!("{here}.mlp.scale"),
                &format!("{external}.{i}.{second}"),
            );
        }
    }

    /// Layers behind `here` and `there`, by both names.
    pub fn layers<const N: usize>(&mut self, here: &str, there: &str, names: [(&str, &str); N]) {
        for (canonical, external) in names {
            self.layer(
                &format!("{here}.{canonical}"),
                &format!("{there}.{external}"),
                BOTH,
            );
        }
    }
}

/// The parts of a fused projection, in their order.
pub(crate) const QUERY_KEY_VALUE: [&str; 3] = ["query", "key", "value"];

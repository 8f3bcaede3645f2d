//! The names of what ETRIS trains, in its checkpoints and here.
//!
//! Torch keeps an attention's query, key and value in one matrix; here they are three.

use twinspan_sdk::checkpoint::Checkpoint;
use twinspan_sdk::key_map::Entry;

use super::sizes::{Sizes, Vision};

const LAYER: &[&str] = &["weight", "bias"];
const NORM: &[&str] = &["weight", "bias"];
const BATCH_NORM: &[&str] = &["weight", "bias", "running_mean", "running_var"];
const FUSED: [&str; 3] = ["query", "key", "value"];

/// The entries for bridge, neck, decoder and projector.
pub fn of(checkpoint: &Checkpoint, sizes: &Sizes) -> Vec<Entry> {
    let mut names = Names {
        checkpoint,
        entries: Vec::new(),
    };
    names.bridger(sizes);
    names.neck();
    names.decoder(sizes);
    names.projector();
    names.entries
}

struct Names<'a> {
    checkpoint: &'a Checkpoint,
    entries: Vec<Entry>,
}

impl Names<'_> {
    fn bridger(&mut self, sizes: &Sizes) {
        let resnet = matches!(sizes.vision, Vision::Resnet { .. });
        for i in 0..sizes.stages {
            for zoom in ["zoom_in", "zoom_out"] {
                let (here, there) = (format!("bridger.{zoom}.{i}"), format!("bridger.{zoom}.{i}"));
                match resnet {
                    true => self.parts(&format!("{here}.conv"), &there, &["weight"]),
                    false => self.conv_block(&here, &there),
                }
            }
            self.parts(
                &format!("bridger.linear_in.{i}"),
                &format!("bridger.linear1.{i}"),
                LAYER,
            );
            self.parts(
                &format!("bridger.linear_out.{i}"),
                &format!("bridger.linear2.{i}"),
                LAYER,
            );
            if i > 0 {
                let before = i - 1;
                self.parts(
                    &format!("bridger.norm_vision.{i}"),
                    &format!("bridger.ln_v.{before}"),
                    NORM,
                );
                self.parts(
                    &format!("bridger.norm_text.{i}"),
                    &format!("bridger.ln_t.{before}"),
                    NORM,
                );
            }
            for (here, there) in [("fusion_vision", "fusion_v"), ("fusion_text", "fusion_t")] {
                let (here, there) = (
                    format!("bridger.{here}.{i}"),
                    format!("bridger.{there}.{i}"),
                );
                self.attention(&format!("{here}.cross"), &format!("{there}.multihead_attn"));
                if resnet {
                    self.attention(&format!("{here}.self"), &format!("{there}.self_attn"));
                    for (ours, theirs) in [
                        ("self_norm", "norm1"),
                        ("cross_norm", "norm2"),
                        ("ffn_norm", "norm3"),
                        ("ffn_in", "linear1"),
                        ("ffn_out", "linear2"),
                    ] {
                        self.parts(
                            &format!("{here}.{ours}"),
                            &format!("{there}.{theirs}"),
                            LAYER,
                        );
                    }
                }
            }
        }
    }

    fn neck(&mut self) {
        for i in 0..3 {
            let level = i + 3;
            self.conv_block(
                &format!("head.neck.maps.{i}"),
                &format!("neck.f{level}_proj"),
            );
            self.attention(
                &format!("head.neck.gates.{i}"),
                &format!("neck.fusion{level}.multihead_attn"),
            );
        }
        self.parts("head.neck.sentence", "neck.txt_proj", LAYER);
        self.conv_block("head.neck.merge", "neck.aggr");
        self.conv_block("head.neck.place.0", "neck.coordconv.0.conv1");
        self.conv_block("head.neck.place.1", "neck.coordconv.1");
    }

    fn decoder(&mut self, sizes: &Sizes) {
        for i in 0..sizes.decoder_layers {
            let (here, there) = (
                format!("head.decoder.layers.{i}"),
                format!("decoder.layers.{i}"),
            );
            self.attention(
                &format!("{here}.self_attention"),
                &format!("{there}.self_attn"),
            );
            self.attention(
                &format!("{here}.cross_attention"),
                &format!("{there}.multihead_attn"),
            );
            for (ours, theirs) in [
                ("self_attention.norm_in", "norm1"),
                ("self_attention.norm_out", "self_attn_norm"),
                ("cross_attention.norm_in", "norm2"),
                ("cross_attention.norm_out", "cross_attn_norm"),
                ("feed_forward.norm_in", "norm3"),
                ("feed_forward.up", "ffn.0"),
                ("feed_forward.norm", "ffn.3"),
                ("feed_forward.down", "ffn.4"),
            ] {
                self.parts(
                    &format!("{here}.{ours}"),
                    &format!("{there}.{theirs}"),
                    LAYER,
                );
            }
        }
        self.parts("head.decoder.norm", "decoder.norm", NORM);
    }

    fn projector(&mut self) {
        self.conv_block("head.projector.refine.0", "proj.vis.1");
        self.conv_block("head.projector.refine.1", "proj.vis.3");
        self.parts("head.projector.output", "proj.vis.4", LAYER);
        self.parts("head.projector.kernel", "proj.txt", LAYER);
    }

    fn parts(&mut self, here: &str, there: &str, parts: &[&str]) {
        for part in parts {
            self.entries.push(Entry::whole(
                format!("{here}.{part}"),
                format!("{there}.{part}"),
            ));
        }
    }

    /// A convolution and its batch norm: `.0` and `.1` of a torch sequence.
    fn conv_block(&mut self, here: &str, there: &str) {
        self.parts(&format!("{here}.conv"), &format!("{there}.0"), &["weight"]);
        self.parts(&format!("{here}.norm"), &format!("{there}.1"), BATCH_NORM);
    }

    /// Torch fuses the in-projections, unless memory and queries differ in width.
    fn attention(&mut self, here: &str, there: &str) {
        let bias = format!("{there}.in_proj_bias");
        let width = self
            .checkpoint
            .get(&bias)
            .and_then(|b| b.shape().dims().first().map(|n| n / 3))
            .unwrap_or(0);
        let fused = format!("{there}.in_proj_weight");
        let is_fused = self.checkpoint.get(&fused).is_some();
        for (i, name) in FUSED.into_iter().enumerate() {
            let rows = i * width..(i + 1) * width;
            let weight = format!("{here}.{name}.weight");
            self.entries.push(match is_fused {
                true => Entry::whole(weight, &fused).rows(rows.clone()),
                false => Entry::whole(weight, format!("{there}.{}_proj_weight", &name[..1])),
            });
            let own_bias = format!("{here}.{name}.bias");
            self.entries.push(Entry::whole(own_bias, &bias).rows(rows));
        }
        self.parts(
            &format!("{here}.output"),
            &format!("{there}.out_proj"),
            LAYER,
        );
    }
}

//! ETRIS's released code and this one give the same numbers: features, logits, running
//! statistics, losses and every gradient, on a ViT and on a ResNet.
//!
//! Tolerances are the issue's: 1e-4 of a tensor's largest value in f32, 1e-6 in f64 (the goldens
//! are stored as f32); gradients and losses in f64 only, where no ReLU changes sides by rounding.

mod golden;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use golden::{Golden, noise, relative};
use twinspan::etris::Etris;
use twinspan::sdk::base::Base;
use twinspan::sdk::key_map::KeyMap;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::recipe::{Recipe, TrainOptions};
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};

const MODELS: [&str; 2] = ["etris_vit", "etris_rn"];

fn compute(dtype: DType) -> Compute {
    Compute {
        dtype,
        device: Device::Cpu,
    }
}

/// The model without dropout, as the goldens were computed in training.
fn without_dropout(etris: &Etris, dtype: DType) -> Tuned {
    let mut table = etris.recipe.to_table().unwrap();
    table["adapter"][0]["dropout"] = 0.0.into();
    table["task"]["dropout"] = 0.0.into();
    let recipe = Recipe::from_table(table, "test").unwrap();
    let mut tuned = Tuned::new(&recipe, etris.base.clone(), compute(dtype)).unwrap();
    tuned.overlay.restore(&etris.overlay).unwrap();
    tuned
}

#[test]
fn evaluation_equals_the_released_code() {
    for name in MODELS {
        let golden = Golden::open(name);
        let etris = golden.read();
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-6)] {
            let tuned = etris.model(compute(dtype)).unwrap();
            let pass = &mut Pass::predict();
            let features = tuned.forward(&golden.batch(dtype), pass).unwrap();
            let mut got: BTreeMap<&str, Tensor> = BTreeMap::new();
            for (key, stream) in ["eval.vision.0", "eval.vision.1", "eval.vision.2"]
                .into_iter()
                .zip(&features)
            {
                got.insert(key, stream.grid().unwrap());
            }
            got.insert("eval.words", features[3].data.clone());
            got.insert("eval.state", features[4].data.clone());
            for (part, tensor) in tuned.head().trace(&features, pass).unwrap() {
                let key = ["eval.neck", "eval.decoder", "eval.logits"];
                let key = key.into_iter().find(|k| k.ends_with(part)).unwrap();
                got.insert(key, tensor);
            }
            let expected = golden.tensors.keys().filter(|k| k.starts_with("eval."));
            for key in expected {
                let off = relative(&got[key.as_str()], &golden.tensors[key]);
                println!("{name} {dtype:?} {key}: {off:.1e}");
                assert!(off < tolerance, "{name} {dtype:?} {key}: {off:.1e}");
            }
        }
    }
}

#[test]
fn a_training_forward_equals_the_released_code() {
    for name in MODELS {
        let golden = Golden::open(name);
        let etris = golden.read();
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-6)] {
            let tuned = without_dropout(&etris, dtype);
            let mut pass = Pass::train(0);
            let logits = tuned.logits(&golden.batch(dtype), &mut pass).unwrap();
            pass.commit().unwrap();
            let off = relative(&logits, &golden.tensors["train.logits"]);
            assert!(off < tolerance, "{name} {dtype:?} logits: {off:.1e}");
            let buffers: BTreeMap<String, Tensor> = tuned
                .overlay
                .buffers
                .iter()
                .map(|(n, b)| (n.clone(), b.tensor()))
                .collect();
            let buffers = foreign(&etris, buffers);
            let mut compared = 0;
            for (key, expected) in &golden.tensors {
                let Some(buffer) = key.strip_prefix("train.buffers.") else {
                    continue;
                };
                let off = relative(&buffers[buffer], expected);
                assert!(off < tolerance, "{name} {dtype:?} {buffer}: {off:.1e}");
                compared += 1;
            }
            assert_eq!(compared, buffers.len(), "{name}: every buffer is compared");
        }
    }
}

#[test]
fn losses_and_gradients_equal_the_released_code() {
    for name in MODELS {
        let golden = Golden::open(name);
        let etris = golden.read();
        let batch = golden.batch(DType::F64);

        let tuned = without_dropout(&etris, DType::F64);
        let before = values(&tuned.base);
        let mut store = tuned
            .loss(&batch, &mut Pass::train(0))
            .unwrap()
            .backward()
            .unwrap();
        assert_eq!(
            store.get_ids().count(),
            tuned.overlay.trained.len(),
            "{name}: only what trains has a gradient"
        );
        let gradients = tuned
            .overlay
            .trained
            .iter()
            .map(|(n, t)| (n.clone(), store.remove(&t.var).expect(n)))
            .collect();
        let gradients = foreign(&etris, gradients);
        assert_eq!(gradients.len(), golden.gradients.len());
        for (key, expected) in &golden.gradients {
            let got: Vec<f64> = gradients[key].flatten_all().unwrap().to_vec1().unwrap();
            let norm = got.iter().map(|g| g * g).sum::<f64>().sqrt();
            let probe_name = format!("probe.{key}");
            let probe: f64 = got
                .iter()
                .enumerate()
                .map(|(i, g)| g * noise(&probe_name, i))
                .sum();
            // A gradient of zero (a batch norm cancels it) has no norm to compare with.
            let scale = if expected.norm < 1e-9 {
                1.0
            } else {
                expected.norm
            };
            let off = (norm - expected.norm)
                .abs()
                .max((probe - expected.probe).abs())
                / scale;
            assert!(off < 1e-5, "{name} {key}: {off:.1e}");
        }

        let mut tuned = without_dropout(&etris, DType::F64);
        let options = TrainOptions::default();
        let mut trainer = Trainer::new(&mut tuned, &options, golden.losses.len()).unwrap();
        for expected in &golden.losses {
            let loss = trainer.step(std::slice::from_ref(&batch)).unwrap().loss;
            let off = (loss - expected).abs() / expected;
            assert!(off < 1e-6, "{name}: loss {loss}, expected {expected}");
        }
        assert_eq!(values(&tuned.base), before, "{name}: the base is as it was");
    }
}

/// Tensors under the released names, attentions fused again.
fn foreign(etris: &Etris, tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let mut names = KeyMap {
        entries: etris.names.entries.clone(),
        ..etris.names.clone()
    };
    names.entries.retain(|e| tensors.contains_key(&e.canonical));
    names.write(tensors).unwrap()
}

fn values(base: &Base) -> Vec<Vec<u64>> {
    let bits = |name| -> Vec<u64> {
        let weight = base.get(name).unwrap();
        let weight = weight.tensor(DType::F64, &Device::Cpu).unwrap();
        let values: Vec<f64> = weight.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f64::to_bits).collect()
    };
    base.names().map(bits).collect()
}

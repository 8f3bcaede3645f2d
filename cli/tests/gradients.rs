//! Training reaches what shall train and nothing else, for every kind of tower and every choice
//! of adapters: one gradient for each trained parameter, none for any other, a base that is the
//! same bit by bit.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use twinspan as _;
use twinspan::sdk::base::Base;
use twinspan::sdk::pass::Pass;
use twinspan::sdk::random;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Batch;
use twinspan::sdk::train::Trainer;
use twinspan::sdk::tuned::{Compute, Tuned};
use twinspan::sdk::weights;

const SIDE: usize = 64;
const WORDS: usize = 8;

const TEXT: &str = "text = { layers = 3, width = 16, heads = 2, context = 8, vocabulary = 514 }";
const VIT: &str =
    r#"vision = { kind = "vit", layers = 3, width = 16, heads = 2, patch = 16, image_size = 64 }"#;
const RESNET: &str = r#"vision = { kind = "resnet", layers = [1, 1, 2, 1], width = 4, head_width = 32, image_size = 64 }"#;

const BRIDGER: &str = "[[adapter]]\nuse = \"bridger\"\ndim = 8\nheads = 2\n";
const LORA: &str = "[[adapter]]\nuse = \"lora\"\nrank = 2\n";

fn unfreeze(role: &str) -> String {
    format!("[[adapter]]\nuse = \"unfreeze\"\nroles = [\"{role}\"]\n")
}

/// Every adapter of the list, on each tower, with batch norms frozen and not.
fn recipes() -> Vec<String> {
    let adapters = [
        String::new(),
        BRIDGER.into(),
        LORA.into(),
        unfreeze("bias"),
        unfreeze("norm"),
        unfreeze("position"),
        unfreeze("all"),
        format!("{BRIDGER}{LORA}{}", unfreeze("position")),
    ];
    let towers = [
        (VIT, false, "frozen"),
        (VIT, false, "train"),
        (RESNET, false, "frozen"),
        (RESNET, false, "train"),
        (RESNET, true, "frozen"),
        (RESNET, true, "train"),
    ];
    let mut recipes = Vec::new();
    for (vision, connect, batch_norm) in towers {
        for adapters in &adapters {
            recipes.push(format!(
                r#"
[backbone]
use = "clip"
weights = "random:1"
connect = {connect}
batch_norm = "{batch_norm}"
[backbone.model]
embed_dim = 16
{vision}
{TEXT}
{adapters}
[task]
use = "referring-segmentation"
words = {WORDS}
width = 16
layers = 1
heads = 2
ffn = 16
"#
            ));
        }
    }
    recipes
}

/// Two pictures, three sentences, four pairs.
fn batch() -> Batch {
    let noise = |n: usize| (0..n).map(|i| random::normal(7, i as u64) as f32).collect();
    let images: Vec<f32> = noise(2 * 3 * SIDE * SIDE);
    let ids: Vec<u32> = (0..3 * WORDS as u32)
        .map(|i| match i % WORDS as u32 {
            0 => 512,
            5 => 513,
            6.. => 0,
            word => 3 * i + word,
        })
        .collect();
    let truth: Vec<f32> = (0..4 * SIDE * SIDE).map(|i| ((i / 9) % 2) as f32).collect();
    let cpu = &Device::Cpu;
    Batch {
        images: Tensor::from_vec(images, (2, 3, SIDE, SIDE), cpu).unwrap(),
        tokens: Tensor::from_vec(ids, (3, WORDS), cpu).unwrap(),
        pairs: vec![(0, 0), (0, 1), (1, 1), (1, 2)],
        target: Some(Tensor::from_vec(truth, (4, 1, SIDE, SIDE), cpu).unwrap()),
        examples: vec![0, 0, 1, 1],
    }
}

fn bits(base: &Base) -> Vec<(String, Vec<u32>)> {
    let values = |name: &str| -> Vec<u32> {
        let tensor = base.get(name).unwrap().tensor(DType::F32, &Device::Cpu);
        let flat = tensor.unwrap().flatten_all().unwrap();
        let values: Vec<f32> = flat.to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    base.names().map(|n| (n.to_string(), values(n))).collect()
}

#[test]
fn gradients_reach_what_trains_and_nothing_else() {
    let batch = batch();
    for text in recipes() {
        let recipe = Recipe::parse(&text, "test").unwrap();
        let mut tuned =
            Tuned::new(&recipe, weights::open(&recipe).unwrap(), Compute::default()).unwrap();
        let before = bits(&tuned.base);
        let starts: Vec<Tensor> = tuned
            .overlay
            .trained
            .values()
            .map(|trained| trained.var.copy().unwrap())
            .collect();

        let loss = tuned.loss(&batch, &mut Pass::train(1)).unwrap();
        let store = loss.backward().unwrap();
        let got: BTreeSet<_> = store.get_ids().map(|id| format!("{id:?}")).collect();
        let trained = tuned.overlay.trained.iter();
        let named: Vec<_> = trained
            .map(|(name, trained)| (format!("{:?}", trained.var.id()), name))
            .collect();
        for (id, name) in &named {
            assert!(got.contains(id), "`{name}` has no gradient in{text}");
        }
        assert_eq!(
            got.len(),
            named.len(),
            "more than trains has a gradient in{text}"
        );
        drop((store, loss));

        let mut trainer = Trainer::new(&mut tuned, &recipe.train, 1).unwrap();
        trainer.step(std::slice::from_ref(&batch)).unwrap();
        assert!(bits(&tuned.base) == before, "the base changed in{text}");
        let moved = tuned
            .overlay
            .trained
            .values()
            .zip(&starts)
            .any(|(now, start)| {
                let moved = (now.var.as_tensor() - start).unwrap().abs().unwrap();
                moved.max_all().unwrap().to_scalar::<f32>().unwrap() > 0.0
            });
        assert!(moved, "nothing moved in{text}");
    }
}

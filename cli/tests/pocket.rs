//! What the built-in encoder knows, measured anew: the numbers that the README states.

use candle_core::{D, Tensor};
use image::RgbImage;
use twinspan::Encoder;
use twinspan::scenes::language::Kind;
use twinspan::scenes::{SIDE, Scene};

/// The seed that it was trained with, and the first of the scenes that it was not trained on:
/// `examples/pretrain_pocket`.
const SEED: u64 = 7;
const FIRST_HELD_OUT: u64 = 1 << 32;

fn unit(rows: &Tensor) -> Tensor {
    let length = rows.sqr().unwrap().sum_keepdim(D::Minus1).unwrap();
    rows.broadcast_div(&length.sqrt().unwrap()).unwrap()
}

/// Percent of rows whose largest value stands at the row's own number.
fn own_is_first(similarities: &Tensor) -> f64 {
    let best = similarities.contiguous().unwrap().argmax(D::Minus1);
    let best: Vec<u32> = best.unwrap().to_vec1().unwrap();
    let own = best.iter().zip(0u32..).filter(|(best, own)| *best == own);
    100.0 * own.count() as f64 / best.len() as f64
}

#[test]
fn captions_and_pictures_find_each_other() {
    let encoder = Encoder::open("pocket").unwrap();
    let (mut pictures, mut captions) = (Vec::new(), Vec::new());
    for part in 0..10 {
        let first = FIRST_HELD_OUT + 50 * part;
        let scenes = (first..first + 50).map(|number| Scene::of(SEED, number, SIDE, 1..=3));
        let scenes: Vec<Scene> = scenes.collect();
        let drawn: Vec<RgbImage> = scenes.iter().map(Scene::picture).collect();
        let said: Vec<String> = scenes.iter().map(|scene| scene.caption(0)).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        pictures.push(encoder.encode_image(&drawn).unwrap());
        captions.push(encoder.encode_text(&said).unwrap());
    }
    let pictures = unit(&Tensor::cat(&pictures, 0).unwrap());
    let captions = unit(&Tensor::cat(&captions, 0).unwrap());
    let similarities = pictures.matmul(&captions.t().unwrap()).unwrap();
    let caption = own_is_first(&similarities);
    let picture = own_is_first(&similarities.t().unwrap());
    println!("of 500: the right caption first {caption:.1}%, the right picture {picture:.1}%");
    // The README has 73.4 and 72.4; rounding elsewhere may turn a few near ties.
    assert!(caption > 72.4 && picture > 71.4, "{caption} and {picture}");
}

/// The mean similarity of a thing's patches with a sentence that names its attributes is the
/// highest of all things in the scene. Retrieval does not need this: a tower may put what stands in
/// one patch into all of them and still find captions, and then there is nothing to segment by.
#[test]
fn patches_say_what_stands_there() {
    let encoder = Encoder::open("pocket").unwrap();
    let (mut right, mut all, mut chance) = (0, 0, 0.0);
    for number in 0..100 {
        let scene = Scene::new(SEED, FIRST_HELD_OUT + number, SIDE);
        let mut sayings = scene.sayings();
        sayings.retain(|(_, saying)| saying.kind() == Kind::Attribute);
        if sayings.is_empty() {
            continue;
        }
        let said: Vec<String> = sayings.iter().map(|(_, s)| s.text()).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        let sentences = unit(&encoder.encode_text(&said).unwrap());
        let patches = encoder.encode_patches(&[scene.picture()]).unwrap();
        let (_, width, rows, columns) = patches.dims4().unwrap();
        let patches = patches.reshape((width, rows * columns)).unwrap();
        let patches = unit(&patches.t().unwrap());
        let near = sentences.matmul(&patches.t().unwrap()).unwrap();
        let near: Vec<Vec<f32>> = near.to_vec2().unwrap();

        let side = SIDE as usize;
        let patch_of = |pixel: usize| {
            let (y, x) = (pixel / side, pixel % side);
            (y * rows / side) * columns + x * columns / side
        };
        let masks = scene.masks();
        for ((thing, _), near) in sayings.iter().zip(near) {
            let means = masks.iter().map(|mask| {
                let inside = (0..mask.len()).filter(|pixel| mask[*pixel]);
                let near: Vec<f32> = inside.map(|pixel| near[patch_of(pixel)]).collect();
                near.iter().sum::<f32>() / near.len() as f32
            });
            let best = means.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            right += u32::from(best.is_some_and(|(best, _)| best == *thing));
            all += 1;
            chance += 1.0 / masks.len() as f64;
        }
    }
    let (found, chance) = (
        100.0 * f64::from(right) / f64::from(all),
        100.0 * chance / f64::from(all),
    );
    println!("of {all} sentences {found:.1}% find their thing, by chance {chance:.1}%");
    // The README has 87.2; as above.
    assert!(found > 86.2, "{found} where chance is {chance}");
}

//! Made-up pictures: coloured shapes on a shaded ground, each with a sentence that names it alone.
//!
//! Owns the drawing and the data file of the demonstration. Everything is a function of the seed.

use std::path::Path;

use image::{Rgb, RgbImage};
use twinspan_sdk::{Error, Result, random};
use twinspan_tasks::jsonl::{Record, Region, write};
use twinspan_tasks::picture::{save_mask, save_picture};

const COLOURS: [(&str, [u8; 3]); 4] = [
    ("red", [208, 52, 58]),
    ("green", [64, 158, 82]),
    ("blue", [58, 98, 190]),
    ("yellow", [226, 186, 64]),
];
const SHAPES: [&str; 3] = ["square", "disc", "triangle"];

/// Shapes stand in the cells of a board of this side.
const BOARD: u32 = 2;

/// One shape of a scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// What only this shape of the scene is called: "the red disc".
    pub sentence: String,
    kind: usize,
    colour: [u8; 3],
    centre: (f64, f64),
    radius: f64,
}

/// A scene: its shapes, and the noise of its ground.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Side in pixels.
    pub size: u32,
    /// The shapes; no two have one sentence.
    pub things: Vec<Thing>,
    key: u64,
}

impl Scene {
    /// Scene `number` of a seed.
    pub fn new(seed: u64, number: u64, size: u32) -> Self {
        let key = random::mix(random::key(seed, "scenes"), number);
        let draw = |i: u64| random::uniform(key, i);
        let cell = f64::from(size) / f64::from(BOARD);
        let kinds = random::permutation(random::mix(key, 1), COLOURS.len() * SHAPES.len());
        let things = (0..BOARD * BOARD)
            .zip(kinds)
            .map(|(place, kind)| {
                let at = |side: u32, i: u64| {
                    cell * (f64::from(side) + 0.5 + 0.16 * (2.0 * draw(i) - 1.0))
                };
                let i = 8 * u64::from(place) + 64;
                let (name, colour) = COLOURS[kind % COLOURS.len()];
                let shape = kind / COLOURS.len();
                Thing {
                    sentence: format!("the {name} {}", SHAPES[shape]),
                    kind: shape,
                    colour,
                    centre: (at(place % BOARD, i), at(place / BOARD, i + 1)),
                    radius: cell * (0.24 + 0.08 * draw(i + 2)),
                }
            })
            .collect();
        Self { size, things, key }
    }

    /// The picture.
    pub fn picture(&self) -> RgbImage {
        let slope = random::uniform(self.key, 2) * 40.0;
        RgbImage::from_fn(self.size, self.size, |x, y| {
            let draw = random::uniform(self.key, 1000 + u64::from(y * self.size + x));
            // A few levels only: finer noise doubles the size of every file and teaches nothing.
            let noise = (draw * 5.0).floor() * 5.0;
            let ground = 96.0 + slope * f64::from(x + y) / f64::from(self.size) + noise;
            let thing = self.things.iter().find(|t| t.covers(x, y));
            match thing {
                Some(t) => Rgb(t
                    .colour
                    .map(|c| (f64::from(c) + noise - 10.0).clamp(0.0, 255.0) as u8)),
                None => Rgb([ground as u8; 3]),
            }
        })
    }

    /// Where `thing` is, row by row.
    pub fn mask(&self, thing: &Thing) -> Vec<bool> {
        let pixels = (0..self.size).flat_map(|y| (0..self.size).map(move |x| (x, y)));
        pixels.map(|(x, y)| thing.covers(x, y)).collect()
    }
}

impl Thing {
    fn covers(&self, x: u32, y: u32) -> bool {
        let (dx, dy) = (f64::from(x) - self.centre.0, f64::from(y) - self.centre.1);
        let r = self.radius;
        match self.kind {
            0 => dx.abs() <= 0.85 * r && dy.abs() <= 0.85 * r,
            1 => dx * dx + dy * dy <= r * r,
            _ => dy <= 0.7 * r && dx.abs() <= 0.55 * (dy + 0.9 * r),
        }
    }
}

/// Writes `train` and `held-out` scenes as PNG files and a JSONL file into `folder`.
///
/// # Errors
/// The folder cannot be written.
pub fn write_data(folder: &Path, seed: u64, train: u64, held_out: u64, size: u32) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::plugin(format!("{}: {e}", folder.display())))?;
    let mut records = Vec::new();
    for number in 0..train + held_out {
        let scene = Scene::new(seed, number, size);
        let image = folder.join(format!("{number:03}.png"));
        save_picture(&image, &scene.picture()).map_err(Error::plugin)?;
        for (i, thing) in scene.things.iter().enumerate() {
            let mask = folder.join(format!("{number:03}.{i}.mask.png"));
            save_mask(&mask, size, size, &scene.mask(thing)).map_err(Error::plugin)?;
            records.push(Record {
                image: image.clone(),
                region: Region::Mask(mask),
                sentences: vec![thing.sentence.clone().into()],
                split: if number < train { "train" } else { "held-out" }.into(),
            });
        }
    }
    write(folder.join("scenes.jsonl"), &records).map_err(Error::plugin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sentence_names_one_visible_shape() {
        for number in 0..50 {
            let scene = Scene::new(3, number, 96);
            let mut taken = vec![false; 96 * 96];
            for thing in &scene.things {
                let named = scene.things.iter().filter(|t| t.sentence == thing.sentence);
                assert_eq!(named.count(), 1);
                let mask = scene.mask(thing);
                assert!(mask.iter().filter(|m| **m).count() > 96);
                for (taken, here) in taken.iter_mut().zip(mask) {
                    assert!(!(*taken && here), "two shapes overlap");
                    *taken |= here;
                }
            }
        }
    }

    #[test]
    fn a_scene_is_a_function_of_its_seed() {
        assert_eq!(Scene::new(1, 2, 64), Scene::new(1, 2, 64));
        assert_ne!(
            Scene::new(1, 2, 64).picture(),
            Scene::new(2, 2, 64).picture()
        );
    }
}

//! Small pictures with a coloured square or disc on grey, sentences that say which, and a recipe
//! that trains on them in seconds.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::json;

/// Words that the byte vocabulary reads; nothing is downloaded for it.
pub const RECIPE: &str = r#"
[backbone]
use = "clip"
weights = "random:1"
[backbone.model]
embed_dim = 16
vision = { kind = "vit", layers = 3, width = 32, heads = 2, patch = 8, image_size = 64 }
text = { layers = 3, width = 32, heads = 2, context = 32, vocabulary = 514 }

[[adapter]]
use = "bridger"
dim = 16
heads = 2

[[adapter]]
use = "lora"
rank = 2

[task]
use = "referring-segmentation"
words = 24
width = 32
layers = 1
heads = 2
ffn = 32
threshold = 0.2

[train]
steps = 3
batch = 2
rate = 1e-3
"#;

/// Whether a pixel lies in the object of picture `number`: a square or a disc.
fn inside(number: usize, x: u32, y: u32) -> bool {
    let (dx, dy) = (
        x as i64 - 20 - 4 * number as i64,
        y as i64 - 40 + 5 * number as i64,
    );
    match number.is_multiple_of(2) {
        true => dx.abs().max(dy.abs()) <= 9,
        false => dx * dx + dy * dy <= 100,
    }
}

/// Picture `number`, of a size of its own, and its mask.
pub fn picture(number: usize) -> (RgbImage, GrayImage) {
    let (width, height) = (64 - 4 * number as u32, 56 + 2 * number as u32);
    let colour = [Rgb([220, 40, 40]), Rgb([40, 60, 220])][number % 2];
    let picture = RgbImage::from_fn(width, height, |x, y| match inside(number, x, y) {
        true => colour,
        false => Rgb([120 + (x % 16) as u8, 120, 110 + (y % 16) as u8]),
    });
    let mask = GrayImage::from_fn(width, height, |x, y| {
        Luma([255 * u8::from(inside(number, x, y))])
    });
    (picture, mask)
}

/// Writes four pictures with masks or polygons, two of each split, and gives the data file.
pub fn data(folder: &Path) -> PathBuf {
    let mut lines = Vec::new();
    for number in 0..4 {
        let (picture, mask) = picture(number);
        let name = format!("{number}.png");
        picture.save(folder.join(&name)).unwrap();
        let split = if number < 2 { "train" } else { "val" };
        let sentences = ["the thing", "a coloured shape", "形 left"];
        let mut line = json!({
            "image": name,
            "sentences": sentences[..2 + number % 2],
            "split": split,
        });
        match number {
            // Any polygon is a mask; this one is the square of picture 2.
            2 => line["polygons"] = json!([[19, 21, 38, 21, 38, 40, 19, 40]]),
            _ => {
                let name = format!("{number}.mask.png");
                mask.save(folder.join(&name)).unwrap();
                line["mask"] = name.into();
            }
        }
        lines.push(line.to_string());
    }
    let file = folder.join("data.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    file
}

/// Writes text as a file of `folder` and gives its path.
pub fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// The names in a folder, hidden ones too, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

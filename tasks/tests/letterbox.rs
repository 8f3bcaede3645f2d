//! Parity of the letterbox with the reference implementation, on the data that
//! `data/README.md` describes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use image::RgbImage;
use safetensors::SafeTensors;
use serde::Deserialize;
use twinspan_tasks::letterbox::{Letterbox, Normalisation, upsample_bicubic_aligned};
use twinspan_tasks::mask::Mask;
use twinspan_tasks::metrics::{THRESHOLD, above, iou, overlap};
use twinspan_tasks::picture;

#[derive(Deserialize)]
struct Case {
    size: (usize, usize),
    input_size: usize,
    forward: [[f64; 3]; 2],
    inverse: [[f64; 3]; 2],
    iou: f64,
    intersection: u64,
    union: u64,
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/letterbox")).join(name)
}

fn cases() -> BTreeMap<String, (Case, Letterbox)> {
    let text = std::fs::read_to_string(data("cases.json")).unwrap();
    let cases: BTreeMap<String, Case> = serde_json::from_str(&text).unwrap();
    let made = cases.into_iter().map(|(name, case)| {
        let (height, width) = case.size;
        let letterbox = Letterbox::new(case.input_size, width, height).unwrap();
        (name, (case, letterbox))
    });
    made.collect()
}

fn floats(tensors: &SafeTensors, name: &str) -> Option<Vec<f32>> {
    let tensor = tensors.tensor(name).ok()?;
    let values = tensor.data().as_chunks().0;
    Some(values.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// How many bytes differ; none by more than one.
fn differing(ours: &[u8], theirs: &[u8], name: &str) -> usize {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let differences = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    differences
        .inspect(|&by| assert!(by <= 1, "{name} differs by {by}"))
        .filter(|&by| by > 0)
        .count()
}

fn farthest(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn the_maps_are_the_reference_s() {
    for (name, (case, letterbox)) in cases() {
        // The reference's were solved from points in f32.
        for (ours, theirs) in [
            (letterbox.forward, case.forward),
            (letterbox.inverse, case.inverse),
        ] {
            for (a, b) in ours.as_flattened().iter().zip(theirs.as_flattened()) {
                assert!((a - b).abs() < 1e-5, "{name}: {a} and {b}");
            }
        }
    }
}

#[test]
fn pictures_and_masks_are_the_reference_s_to_a_grey_level() {
    for (name, (_, letterbox)) in cases() {
        let open = |part: &str| picture::open(data(&format!("{name}.{part}.png"))).unwrap();
        let image = open("image");
        let ours = letterbox
            .bytes(&image, Normalisation::CLIP.border())
            .unwrap();
        let theirs = open("letterboxed").into_raw();
        let count = differing(&ours, &theirs, &name);
        println!("{name}: {count} of {} bytes differ by one", ours.len());
        // Only sums that round from almost exactly a half may fall otherwise.
        assert!(count <= ours.len() / 1000, "{name}: {count} bytes differ");

        let mask = Mask::open(data(&format!("{name}.mask.png")), image.dimensions()).unwrap();
        let ours = letterbox.mask(&mask.values).unwrap();
        let theirs = image::open(data(&format!("{name}.mask_letterboxed.png")));
        let theirs = theirs.unwrap().into_luma8().into_raw();
        let count = differing(&ours, &theirs, &name);
        println!(
            "{name}: {count} of {} mask values differ by one",
            ours.len()
        );
        assert!(
            count <= ours.len() / 1000,
            "{name}: {count} mask values differ"
        );
    }
}

#[test]
fn answers_come_back_as_the_reference_s() {
    let bytes = std::fs::read(data("answers.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, (case, letterbox)) in cases() {
        let logits = floats(&tensors, &format!("{name}.logits")).unwrap();
        let low: Vec<f32> = logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
        let n = case.input_size;
        let wide = upsample_bicubic_aligned(&low, (24, 24), (n, n)).unwrap();
        let ours = letterbox.back(&wide).unwrap();
        if let Some(theirs) = floats(&tensors, &format!("{name}.probability")) {
            let by = farthest(&ours, &theirs);
            println!("{name}: probabilities differ by at most {by:e}");
            // The maps differ by 1e-8 of a pixel's coordinate and sums are in
            // f32; the steepest answer climbs by less than 1 a pixel.
            assert!(by < 1e-5, "{name}: {by}");
        }
        let answer = above(&ours, THRESHOLD);
        let (height, width) = case.size;
        let size = (width as u32, height as u32);
        let open = |part: &str| Mask::open(data(&format!("{name}.{part}.png")), size).unwrap();
        let theirs = open("prediction").inside();
        let flipped = answer.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        let (intersection, union) = overlap(&answer, &open("mask").inside()).unwrap();
        let ours = iou(intersection, union);
        println!(
            "{name}: {flipped} pixels flipped, IoU {ours} and {}",
            case.iou
        );
        assert!(flipped <= answer.len() / 1000, "{name}: {flipped} flipped");
        assert!((ours - case.iou).abs() < 1e-3, "{name}: {ours}");
        assert!(intersection.abs_diff(case.intersection) <= 3, "{name}");
        assert!(union.abs_diff(case.union) <= 3, "{name}");
    }
}

#[test]
fn all_golden_tensors_agree() {
    let shared = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/goldens/preprocess/preprocess.safetensors"
    );
    let Ok(bytes) = std::fs::read(shared) else {
        println!("skipped: there is no {shared}");
        return;
    };
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (name, (case, letterbox)) in cases() {
        let raw = |part: &str| {
            tensors
                .tensor(&format!("{name}.{part}"))
                .unwrap()
                .data()
                .to_vec()
        };
        let (height, width) = case.size;
        let image = RgbImage::from_raw(width as u32, height as u32, raw("image")).unwrap();
        let ours = letterbox.picture(&image, &Normalisation::CLIP).unwrap();
        let theirs = floats(&tensors, &format!("{name}.normalised")).unwrap();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        let off = ours
            .iter()
            .zip(&theirs)
            .filter(|pair| !close(*pair))
            .count();
        println!("{name}: {off} of {} normalised values differ", ours.len());
        // One grey level is 1/255 over the smallest deviation.
        assert!(farthest(&ours, &theirs) < 0.0152, "{name}");
        assert!(off <= ours.len() / 1000, "{name}: {off} values differ");

        let logits = floats(&tensors, &format!("{name}.logits")).unwrap();
        let low: Vec<f32> = logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
        let n = case.input_size;
        let wide = upsample_bicubic_aligned(&low, (24, 24), (n, n)).unwrap();
        let theirs = floats(&tensors, &format!("{name}.probability")).unwrap();
        let by = farthest(&letterbox.back(&wide).unwrap(), &theirs);
        println!("{name}: probabilities differ by at most {by:e}");
        assert!(by < 1e-5, "{name}: {by}");
    }
}

#[test]
fn every_size_goes_there_and_back() {
    for (width, height) in [(1, 1), (1, 500), (12_000, 40), (40, 12_000), (7, 3)] {
        let start = Instant::now();
        let letterbox = Letterbox::new(64, width, height).unwrap();
        let picture = RgbImage::new(width as u32, height as u32);
        let planes = letterbox.picture(&picture, &Normalisation::CLIP).unwrap();
        assert_eq!(planes.len(), 3 * 64 * 64);
        assert!(planes.iter().all(|value| value.is_finite()));
        let mask = letterbox.mask(&vec![255; width * height]).unwrap();
        assert!(mask.iter().any(|&value| value > 0), "{width} x {height}");
        let back = letterbox.back(&[1.0; 64 * 64]).unwrap();
        assert_eq!(back.len(), width * height);
        assert!(back.iter().all(|value| value.is_finite()));
        println!("{width} x {height}: {:?}", start.elapsed());
    }
}

/// Run in release: `cargo test --release -p twinspan-tasks -- --ignored --nocapture`.
#[test]
#[ignore = "measures time and takes a gigabyte"]
fn a_picture_of_twelve_thousand_pixels_a_side_is_fast() {
    let letterbox = Letterbox::new(416, 12_000, 12_000).unwrap();
    let picture = RgbImage::from_pixel(12_000, 12_000, image::Rgb([9, 8, 7]));
    let start = Instant::now();
    letterbox.picture(&picture, &Normalisation::CLIP).unwrap();
    println!("there: {:?}", start.elapsed());
    for _ in 0..3 {
        let start = Instant::now();
        letterbox.back(&[0.5; 416 * 416]).unwrap();
        println!("back: {:?}", start.elapsed());
    }
}
